#!/usr/bin/env python
"""
What pre-training learns from each of its losses in the same time: a table of model_cards/results.md.

    python scripts/learning.py --output_dir learning          # 9 trainings of 600 steps' time, 0.9 s each on one core
    python scripts/learning.py --output_dir learning --quick  # minutes; proves that it runs, learns little

Pre-trains the preset tiny from random weights with both losses, with the contrastive one alone and with masked images
alone, with three seeds, and tests each on held-out faces: zero-shot attributes, caption retrieval, a linear probe. Give
the same command again to go on.
"""

import argparse
import sys
from dataclasses import replace

from experiments.learning import ARMS, LearningSizes, learning_table, run_learning


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="for shards, models, learning.json and learning.md")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), help="default: all")
    parser.add_argument("--steps", type=int, help="optimizer steps with both losses; one alone has as much time")
    parser.add_argument("--seeds", type=int, help="trainings of each arm")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--faces", type=int, help="generated pictures to pre-train on")
    parser.add_argument("--quick", action="store_true", help="400 faces, 20 steps, one seed")
    options = parser.parse_args(arguments)
    sizes = LearningSizes()
    if options.quick:
        sizes = LearningSizes(faces=400, steps=20, batch_size=32, probe_faces=200, test_faces=100, seeds=1)
    given = {name: getattr(options, name) for name in ("steps", "seeds", "batch_size", "faces")}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    print(learning_table(run_learning(options.output_dir, sizes, options.arms)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
