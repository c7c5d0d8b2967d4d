"""`farl analyze PATH...`: photos -> everything about their faces."""

import argparse

from .photos import NOTES, add_photo_arguments, run_on_photos, task_finder

NAME, SUMMARY = "analyze", "photos, films -> everything about their faces"
DESCRIPTION = f"""\
Find the faces of photos and films, and their parts, landmarks, pose and attributes.

{NOTES}"""
EXAMPLES = """\
examples:
  farl analyze photo.jpg
  farl analyze photos-and-films --output results
  farl analyze photos --parsing farl-lapa --alignment farl-wflw --attributes farl-celeba
"""
TASKS = ("parsing", "alignment", "attributes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_photo_arguments(parser, TASKS, ("json", "csv", "pictures", "labels", "pts"))


def run(arguments: argparse.Namespace) -> int:
    return run_on_photos(arguments, NAME, *task_finder(arguments, TASKS))
