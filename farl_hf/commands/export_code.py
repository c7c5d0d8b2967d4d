"""`farl export-code FOLDER`: model code beside weights, for people without this package."""

import argparse

NAME, SUMMARY = "export-code", "make a saved folder loadable with trust_remote_code=True where farl_hf is not installed"
DESCRIPTION = "Copy the model code into FOLDER and name it in its configs."
EXAMPLES = "example:\n  farl export-code farl-base\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder written by save_pretrained or `farl convert`")


def run(arguments: argparse.Namespace) -> int:
    from ..hub.remote_code import export_remote_code

    for path in export_remote_code(arguments.folder):
        print(path)
    return 0
