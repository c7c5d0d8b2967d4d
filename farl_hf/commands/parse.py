"""`farl parse PATH...`: photos -> label maps of the parts of faces."""

import argparse

from .photos import NOTES, add_photo_arguments, run_on_photos, task_finder

NAME, SUMMARY = "parse", "photos, films -> label maps of the parts of faces"
DESCRIPTION = f"""\
Find the faces of photos and films, and label every pixel of them: skin, brows, eyes, nose, lips, hair.

{NOTES}"""
EXAMPLES = """\
examples:
  farl parse photo.jpg
  farl parse film.mp4 --output parsed
  farl parse photos --model farl-celebamask_hq --output maps --write labels
"""
TASKS = ("parsing",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_photo_arguments(parser, TASKS, ("json", "csv", "pictures", "labels"))


def run(arguments: argparse.Namespace) -> int:
    return run_on_photos(arguments, NAME, *task_finder(arguments, TASKS))
