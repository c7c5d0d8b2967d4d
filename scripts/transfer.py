#!/usr/bin/env python
"""
What pre-training is good for, on generated faces: a table of model_cards/results.md.

    python scripts/learning.py --output_dir learning
    python scripts/transfer.py --learned learning --output_dir transfer

216 short runs: parsing, alignment and attributes, from 1, 10 and 100 percent of the labels, in full, frozen and LoRA
tuning, from random weights, from those that each loss alone and both taught, and from those that another task taught,
with three seeds; some 50 s each on one core. Give the same command again to go on.
"""

import argparse
import sys
from dataclasses import replace

from experiments.transfer import TASKS, TransferSizes, run_transfer, transfer_table
from transformers.utils import logging


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learned", required=True, help="folder that scripts/learning.py made")
    parser.add_argument("--output_dir", required=True, help="for data, runs, transfer.json and transfer.md")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), help="default: all; only then all starts")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, help="runs of each combination, at most as many as were learned")
    parser.add_argument("--quick", action="store_true", help="200 faces, 5 steps: proves that it runs")
    options = parser.parse_args(arguments)
    # Reports of heads that are new are expected throughout.
    logging.set_verbosity_error()
    sizes = TransferSizes(train_faces=200, test_faces=20, steps=5, seeds=1) if options.quick else TransferSizes()
    given = {name: getattr(options, name) for name in ("steps", "seeds")}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    results = run_transfer(options.learned, options.output_dir, sizes, options.tasks)
    print(transfer_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
