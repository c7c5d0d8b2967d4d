"""`farl index FOLDER`: what `farl search` looks through."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

NAME, SUMMARY = "index", "a folder of photos -> an index of its faces for farl search"
DESCRIPTION = """\
Find the faces of all photos in FOLDER (and below) and keep their embeddings, boxes and small grey pictures in one
safetensors file, FOLDER/.farl-index.safetensors, for `farl search`. Files that cannot be read are skipped and reported.
A run that was stopped goes on when the command is given again; photos that are new or changed are added, those that are
gone are dropped.

The index finds pictures by description and near duplicates of pictures. It is not for identity: who somebody is, or
whether two pictures show the same person, it does not tell.
"""
EXAMPLES = """\
examples:
  farl index photos
  farl index photos --model farl-base --index faces.safetensors
"""
# Photos between two times that the index is written.
_SAVE_EVERY = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of photos")
    parser.add_argument("--index", metavar="FILE", type=Path, help="(default: FOLDER/.farl-index.safetensors)")
    parser.add_argument("--model", metavar="MODEL", help="dual encoder, folder or Hub name (default: our small one)")
    parser.add_argument("--detector", metavar="FILE", help="another YuNet ONNX file")
    parser.add_argument("--threshold", type=float, default=0.7, help="least score of a face (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--max-pixels", type=int, default=89_478_485, metavar="NUM", help="larger photos are skipped")
    parser.add_argument("--overwrite", action="store_true", help="start anew, as with another model")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..inference.detection import YuNetDetector
    from ..inference.encoding import FaceEncoder
    from ..inference.films import is_film
    from ..inference.photo_files import find_files
    from ..inference.search import INDEX_NAME, FaceIndex, index_photos, photo_stamp

    folder: Path = arguments.folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder.")
    path = arguments.index or folder / INDEX_NAME
    encoder = FaceEncoder(arguments.model, arguments.device)
    if path.exists() and not arguments.overwrite:
        index = FaceIndex.load(path)
        index.check_encoder(encoder)
    else:
        index = FaceIndex.new(arguments.model or "", encoder)
    files = [(file, name) for file, name in find_files([folder]) if not is_film(file) and file != path]
    names = {os.fspath(name) for _, name in files}
    index.photos = {name: photo for name, photo in index.photos.items() if name in names}

    def is_known(file: Path, name: Path) -> bool:
        known = index.photos.get(os.fspath(name))
        return known is not None and known.stamp == photo_stamp(file)

    todo = [pair for pair in files if not is_known(*pair)]
    if len(todo) < len(files):
        print(f"{len(files) - len(todo)} of {len(files)} files are done already", file=sys.stderr)
    detector = YuNetDetector(arguments.detector, arguments.threshold)
    found: Any = index_photos(todo, detector.detect, encoder, arguments.max_pixels)
    try:
        quiet = True if arguments.quiet else None
        for number, (name, photo) in enumerate(tqdm(found, total=len(todo), unit="photo", disable=quiet), 1):
            index.photos[name] = photo
            if number % _SAVE_EVERY == 0:
                index.save(path)
    finally:
        index.save(path)
    errors = [(name, photo.error) for name, photo in index.photos.items() if photo.error]
    print(f"{path}: {len(index)} faces in {len(index.photos) - len(errors)} photos", file=sys.stderr)
    for name, error in errors[:10]:
        print(f"skipped {name.encode('utf-8', 'backslashreplace').decode()}: {error}", file=sys.stderr)
    if len(errors) > 10:
        print(f"... and {len(errors) - 10} more", file=sys.stderr)
    return 1 if errors else 0
