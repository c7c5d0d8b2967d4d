#!/usr/bin/env python
"""
Contact sheets of the generated faces: the pictures of their data card.

    python scripts/synthetic_sheets.py model_cards/images                    # all of them, about a minute
    python scripts/synthetic_sheets.py /tmp/sheets --sheets effects poses
"""

import argparse
import sys

from experiments.sheets import SHEETS, write_sheets


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where to write synthetic-NAME.jpg")
    parser.add_argument("--sheets", nargs="+", choices=tuple(SHEETS), default=tuple(SHEETS), help="default: all")
    options = parser.parse_args(arguments)
    for path in write_sheets(options.folder, options.sheets):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
