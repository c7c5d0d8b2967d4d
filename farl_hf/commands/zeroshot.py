"""`farl zeroshot PATH... --labels LABEL...`: faces of photos judged by your own words."""

import argparse
from typing import Any

from .photos import NOTES, add_photo_arguments, one_by_one, run_on_photos

NAME, SUMMARY = "zeroshot", "photos, films -> how well your own descriptions fit each face"
DESCRIPTION = f"""\
Find the faces of photos and films, and judge each by descriptions of your own, against each other: shares that
add up to one.

{NOTES}"""
EXAMPLES = """\
examples:
  farl zeroshot photo.jpg --labels "a smiling face" "a serious face"
  farl zeroshot photos --model farl-base --labels glasses "no glasses" --prompt "a photo of a person with {}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_photo_arguments(parser, (), ("json", "csv", "pictures"))
    parser.add_argument("--model", metavar="MODEL", help="dual encoder, folder or Hub name (default: our small one)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--labels", nargs="+", required=True, metavar="LABEL", help="two descriptions or more")
    parser.add_argument("--prompt", default="a photo of {}", help="what a label is put into (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    if len(arguments.labels) < 2:
        raise ValueError("--labels: give two or more, each is judged against the others.")
    if "{}" not in arguments.prompt:
        raise ValueError(f"--prompt {arguments.prompt!r}: mark the place of the label by {{}}.")

    def find() -> Any:
        from ..inference.detection import YuNetDetector
        from ..inference.encoding import FaceEncoder
        from ..weights import model_folder

        detector = YuNetDetector(arguments.detector, arguments.threshold)
        encoder = FaceEncoder(arguments.model and model_folder(arguments.model), arguments.device)

        def describe(photo: Any) -> Any:
            faces = detector.detect(photo).largest(arguments.max_faces)
            described = encoder.describe(photo, faces, arguments.labels, arguments.prompt)
            return described.replace(embeddings=None)

        return one_by_one(describe)

    names = ("model", "labels", "prompt", "detector", "threshold", "max_faces", "no_smooth")
    return run_on_photos(arguments, NAME, find, {name: getattr(arguments, name) for name in names})
