"""`farl space OUTPUT`: the page as a Hugging Face Space."""

import argparse

from .serve import TASKS, add_model_arguments

NAME, SUMMARY = "space", "write the files of a Hugging Face Space that serves the page"
DESCRIPTION = """\
Write everything that a Hugging Face Space with the page of `farl serve` needs: app.py, requirements.txt, README.md with
the Space's metadata, this package, and the models that are folders here. Nothing is uploaded."""
EXAMPLES = """\
examples:
  farl space my-space
  farl space my-space --parsing farl-lapa me/farl-celebamask_hq --title "Parts of faces"
  python my-space/app.py                                      # try it here
  hf upload me/my-space my-space --repo-type space            # after `hf auth login`
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT", help="new folder, or one that was written before")
    add_model_arguments(parser)
    parser.add_argument("--title", default="Faces of a photo", help="(default: %(default)s)")
    parser.add_argument("--license", default="mit", help="of the whole, by its Hub name (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from ..hub.space import write_space

    models = {task: getattr(arguments, task) for task in TASKS if getattr(arguments, task)}
    for path in write_space(arguments.output, models, arguments.title, arguments.license):
        print(path)
    return 0
