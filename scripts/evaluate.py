#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = ["farl_hf[detection]"]
#
# [tool.uv.sources]
# farl_hf = { path = ".." }
# ///
"""
Score a fine-tuned or converted model on a benchmark, beside the authors' numbers.

    python scripts/evaluate.py --model farl-lapa --dataset lapa --data_dir data --output result.json

Own data (--dataset own) are scored as what the model was fine-tuned for; see scripts/finetune.py --help for their form.

    python scripts/evaluate.py --model hair --dataset own --data_dir data
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from farl_hf.finetuning.benchmarks import BENCHMARKS
from farl_hf.finetuning.evaluation import PRECISIONS, open_evaluation
from farl_hf.finetuning.report import markdown_table, write_pictures, write_report
from farl_hf.inference.detection import YuNetDetector


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a task model or adapter")
    parser.add_argument("--dataset", required=True, choices=(*BENCHMARKS, "own"))
    parser.add_argument("--data_dir", required=True, help="folder of the data set in its official layout, or own data")
    parser.add_argument("--columns", type=json.loads, help='of own data, as JSON: {"image": "photo", "labels": "mask"}')
    parser.add_argument("--colours", nargs="+", help="of own masks in RGB: a colour per class, e.g. 000000 ff0000")
    parser.add_argument("--split", default="test", help="split or subset (default: %(default)s)")
    parser.add_argument("--convention", choices=("farl", "facer"), help="inference path; default: the model's own")
    parser.add_argument(
        "--faces",
        choices=("annotated", "detected"),
        default="annotated",
        help="how faces are found: by the set's landmarks or boxes, as in the paper (default), or by YuNet",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16: autocast; int8: needs torchao")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--device", help="default: the GPU, if there is one")
    parser.add_argument("--skip_bad", action="store_true", help="leave out and count what cannot be read or found")
    parser.add_argument("--jpeg_round_trip", action="store_true", help="compress once more, as the original's data")
    parser.add_argument("--output", type=Path, help="JSON file; table and pictures are put beside it")
    return parser


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # OpenCV's threads do not survive the fork of a data loader's worker.
    detected = options.faces == "detected"
    try:
        evaluation = open_evaluation(
            options.model,
            options.dataset,
            options.data_dir,
            options.split,
            convention=options.convention,
            detector=YuNetDetector() if detected else None,
            precision=options.precision,
            device=options.device,
            skip_bad=options.skip_bad,
            jpeg_round_trip=options.jpeg_round_trip,
            columns=options.columns,
            colours=options.colours,
        )
        result = evaluation.run(options.batch_size, 0 if detected else options.num_workers, options.skip_bad)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown_table(result))
    if options.output is not None:
        table = write_report(result, options.output)
        pictures = write_pictures(evaluation, result, options.output)
        print(f"\nWritten: {', '.join(map(str, [options.output, table, *pictures]))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
