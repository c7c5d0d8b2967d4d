"""`farl attributes PATH...`: photos -> attributes of faces."""

import argparse

from .photos import NOTES, add_photo_arguments, run_on_photos, task_finder

NAME, SUMMARY = "attributes", "photos, films -> attributes of faces"
DESCRIPTION = f"""\
Find the faces of photos and films, and how probable each attribute of them is.

{NOTES}"""
EXAMPLES = """\
examples:
  farl attributes photos --model farl-celeba --write csv
  farl attributes film.mp4
  farl attributes photos --shard 3/10 --output attributes
"""
TASKS = ("attributes",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_photo_arguments(parser, TASKS, ("json", "csv", "pictures"))


def run(arguments: argparse.Namespace) -> int:
    return run_on_photos(arguments, NAME, *task_finder(arguments, TASKS))
