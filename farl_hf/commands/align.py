"""`farl align PATH...`: photos -> landmarks, head pose, open eyes and mouths."""

import argparse

from .photos import NOTES, add_photo_arguments, run_on_photos, task_finder

NAME, SUMMARY = "align", "photos, films -> landmarks, head pose, open eyes and mouths"
DESCRIPTION = f"""\
Find the faces of photos and films, and their landmarks, and from these the head's pose and how open eyes and mouth are.

{NOTES}"""
EXAMPLES = """\
examples:
  farl align photo.jpg
  farl align film.mp4 --no-smooth
  farl align 'photos/**/*.png' --model farl-wflw --write pts json
"""
TASKS = ("alignment",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_photo_arguments(parser, TASKS, ("json", "csv", "pictures", "pts"))


def run(arguments: argparse.Namespace) -> int:
    return run_on_photos(arguments, NAME, *task_finder(arguments, TASKS))
