#!/usr/bin/env python
"""
Proportions of generated faces beside those of real ones: the calibration table of their data card.

    python scripts/synthetic_proportions.py               # 1,000 faces, about a minute
    python scripts/synthetic_proportions.py --num 200 --yaw 10 20
"""

import argparse
import sys

from experiments.proportions import measure_proportions, proportions_table

from farl_hf.synthetic import SyntheticFaceConfig


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000, help="faces to measure (default: %(default)s)")
    parser.add_argument(
        "--yaw",
        type=float,
        nargs=2,
        default=(16.0, 45.0),
        metavar=("SPREAD", "LIMIT"),
        help="standard deviation and largest of the heads' turns, in degrees (default: 16 45)",
    )
    options = parser.parse_args(arguments)
    config = SyntheticFaceConfig(image_size=64, yaw=tuple(options.yaw), pitch=(8, 25))
    print(proportions_table(measure_proportions(config, options.num)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
