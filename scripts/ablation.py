#!/usr/bin/env python
"""
What each effect of the generated faces is worth: the table of their data card.

    python scripts/ablation.py --output_dir ablation                               # all: 12 minutes of a CPU core
    python scripts/ablation.py --output_dir ablation --effects shadows hair_shapes # some
    python scripts/ablation.py --output_dir ablation --quick                       # proves that it runs, learns little

The same small net learns from pictures that lack one effect, and is tested on pictures of the held-out style. Give the
same command again to go on: faces that are drawn and nets that are trained are kept in the folder.
"""

import argparse
import sys
from dataclasses import replace

from experiments.ablation import AblationSizes, ablation_table, run_ablation

from farl_hf.synthetic import EFFECTS


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", required=True, help="for faces, scores of each net, ablation.json and ablation.md"
    )
    parser.add_argument("--effects", nargs="+", choices=EFFECTS, default=EFFECTS, metavar="EFFECT", help="default: all")
    sizes = AblationSizes()
    for name, meaning in (
        ("faces", "training pictures of each row"),
        ("test_faces", "held-out pictures"),
        ("steps", "optimizer steps of each net"),
        ("batch_size", "faces of a step"),
        ("seeds", "nets of each row"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{meaning} (default: {getattr(sizes, name)})")
    parser.add_argument("--quick", action="store_true", help="96 faces, 10 steps, one net a row")
    options = parser.parse_args(arguments)
    if options.quick:
        sizes = AblationSizes(faces=96, test_faces=32, steps=10, batch_size=16, seeds=1)
    given = {name: getattr(options, name) for name in vars(sizes) if getattr(options, name) is not None}
    print(ablation_table(run_ablation(options.output_dir, replace(sizes, **given), options.effects)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
