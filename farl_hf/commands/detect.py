"""`farl detect PATH...`: photos -> boxes and five points of their faces."""

import argparse
from typing import Any

from .photos import NOTES, add_photo_arguments, one_by_one, run_on_photos

NAME, SUMMARY = "detect", "photos, films -> boxes and five points of their faces"
DESCRIPTION = f"""\
Find the faces of photos and films: boxes, five points (eyes, nose tip, mouth corners) and scores.

{NOTES}"""
EXAMPLES = """\
examples:
  farl detect photo.jpg
  farl detect photos --write json --threshold 0.9
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_photo_arguments(parser, (), ("json", "csv", "pictures"))


def run(arguments: argparse.Namespace) -> int:
    def find() -> Any:
        from ..inference.detection import YuNetDetector

        detector = YuNetDetector(arguments.detector, arguments.threshold)
        return one_by_one(lambda photo: detector.detect(photo).largest(arguments.max_faces))

    settings = {key: getattr(arguments, key) for key in ("detector", "threshold", "max_faces", "no_smooth")}
    return run_on_photos(arguments, NAME, find, settings)
