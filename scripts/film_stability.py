#!/usr/bin/env python
"""
How steady films are: jitter, lag and flicker with the filters of `FaceTracker` off and on, on generated films.

    python scripts/film_stability.py --output film_stability          # a few minutes on one core
    python scripts/film_stability.py --output stability --parsing farl-lapa --alignment farl-ibug300w
"""

import argparse
import sys
from pathlib import Path

from experiments.film_stability import run_film_stability, stability_table


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("film_stability"), help="folder (default: %(default)s)")
    parser.add_argument("--people", type=int, default=3, help="films of each kind (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=50, help="of a film, at 25 per second (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of the frames in pixels (default: %(default)s)")
    parser.add_argument("--parsing", metavar="MODEL", help="with LaPa's 11 classes (default: our small weights)")
    parser.add_argument("--alignment", metavar="MODEL", help="of 68 landmarks (default: our small weights)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    models = {task: model for task in ("parsing", "alignment") if (model := getattr(options, task))}
    result = run_film_stability(options.output, options.people, options.frames, options.size, models, options.quiet)
    print(stability_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
