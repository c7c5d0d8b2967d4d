"""`farl search FOLDER TEXT`: photos that a description fits, near duplicates of pictures."""

import argparse
import json
import sys
from pathlib import Path

NAME, SUMMARY = "search", "an indexed folder -> the photos that a description fits, or near duplicates"
DESCRIPTION = """\
Look through the faces that `farl index FOLDER` has found: for those that TEXT describes best (one line per photo: the
cosine between text and face, the photo, the face's number and box), or with --duplicates for groups of photos that are
one picture at other sizes, compressions or brightness.

This is not a search by identity: descriptions tell of hair, glasses, expressions, not of who somebody is, and two
photos of one person are no duplicates.
"""
EXAMPLES = """\
examples:
  farl search photos "a smiling man with glasses"
  farl search photos "a woman with long black hair" --top 30 --sheet found.jpg
  farl search photos --duplicates
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder that was indexed")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="description, such as 'a smiling man with glasses'")
    parser.add_argument("--duplicates", action="store_true", help="near duplicates in place of a description")
    parser.add_argument("--top", type=int, default=10, metavar="NUM", help="most photos (default: %(default)s)")
    parser.add_argument("--least", type=float, default=0.95, help="likeness of duplicates (default: %(default)s)")
    parser.add_argument("--prompt", default="a photo of {}", help="what TEXT is put into (default: %(default)s)")
    parser.add_argument("--sheet", metavar="FILE", type=Path, help="write a picture of what was found")
    parser.add_argument("--json", action="store_true", help="JSON lines")
    parser.add_argument("--index", metavar="FILE", type=Path, help="(default: FOLDER/.farl-index.safetensors)")
    parser.add_argument("--model", metavar="MODEL", help="dual encoder (default: the one of the index)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.text is None) != arguments.duplicates:
        raise ValueError("Give a TEXT to search for, or --duplicates.")
    if "{}" not in arguments.prompt:
        raise ValueError(f"--prompt {arguments.prompt!r}: mark the place of the text by {{}}.")
    if arguments.top < 1 or not 0 < arguments.least <= 1:
        raise ValueError("--top is at least 1, --least between 0 and 1.")
    from ..inference.encoding import FaceEncoder
    from ..inference.search import INDEX_NAME, FaceIndex, contact_sheet

    index = FaceIndex.load(arguments.index or arguments.folder / INDEX_NAME)
    if arguments.duplicates:
        groups = index.duplicates(arguments.least)
        rows = groups
    else:
        encoder = FaceEncoder(arguments.model or index.model or None, arguments.device)
        found = index.search(encoder, arguments.text, arguments.top, arguments.prompt)
        groups = [found]
        rows = [found[start : start + 5] for start in range(0, len(found), 5)]
    for number, group in enumerate(groups):
        if arguments.duplicates and not arguments.json:
            print(f"group {number + 1}")
        for face in group:
            if arguments.json:
                extra = {"group": number} if arguments.duplicates else {}
                print(json.dumps({**extra, **face._asdict()}))
            else:
                left, top, right, bottom = (round(value) for value in face.box)
                name = face.name.encode("utf-8", "backslashreplace").decode()
                print(f"{face.score:.3f}  {name}  face {face.face} at {left},{top},{right},{bottom}")
    if arguments.sheet is not None:
        sheet = contact_sheet(arguments.folder, rows)
        sheet.save(arguments.sheet)
        print(f"{arguments.sheet}: {sheet.width} x {sheet.height} pixels", file=sys.stderr)
    what = f"{len(groups)} groups of near duplicates" if arguments.duplicates else f"{len(groups[0])} photos"
    print(f"{what} of {len(index)} faces; by the picture, not by identity", file=sys.stderr)
    return 0
