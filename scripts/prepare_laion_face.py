#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = ["farl_hf"]
#
# [tool.uv.sources]
# farl_hf = { path = ".." }
# ///
"""
Make image-text shards for pre-training.

    filter   rows of LAION-Face (or any other ids) out of metadata parquet files; prints the img2dataset command
    pack     a folder or a data set of the `datasets` library into tar shards
    verify   counts, unreadable images and duplicates of shards, as a report
    codes    visual codes made beforehand, for --image_codebook stored

LAION-400M was withdrawn in December 2023 and its metadata links are dead; Re-LAION is its cleaned re-release. Ask for
access there, or use any other set with the columns URL, TEXT and SAMPLE_ID, and keep to its terms and to the law on
pictures of people. Many addresses have died since; missing images are normal.

    prepare_laion_face.py filter part-00000.parquet --ids laion_face_ids.pth --part 0 --output laion_face_00000.parquet
    prepare_laion_face.py pack photos/ --output shards/
    prepare_laion_face.py verify 'shards/*.tar' --report report.json
    prepare_laion_face.py codes 'shards/*.tar' --image_codebook dalle
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from farl_hf.pretraining import preparation
from farl_hf.pretraining.image_codebook import load_image_codebook


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    filtering = commands.add_parser("filter", help="rows with wanted ids")
    filtering.add_argument("metadata", help="parquet file with URL, TEXT and SAMPLE_ID")
    filtering.add_argument(
        "--ids", required=True, help="laion_face_ids.pth, a parquet file, or text with one id a line"
    )
    filtering.add_argument("--part", type=int, help="part of the .pth file, 0 to 31")
    filtering.add_argument("--detections", help="sample2detect_PART.pth, for crops around faces")
    filtering.add_argument("--output", required=True, help="parquet file to write")
    filtering.add_argument("--images", default="laion_face", help="folder in the img2dataset command")

    pack = commands.add_parser("pack", help="images and captions into tar shards")
    pack.add_argument("source", help="folder of images with .txt captions, or a name for datasets.load_dataset")
    pack.add_argument("--output", required=True, help="folder to write")
    pack.add_argument("--split", default="train", help="split of the data set (default: %(default)s)")
    pack.add_argument("--image_column", default="image", help="(default: %(default)s)")
    pack.add_argument("--caption_column", default="text", help="(default: %(default)s)")
    pack.add_argument("--samples_per_shard", type=int, default=1000, help="(default: %(default)s)")
    pack.add_argument("--seed", type=int, default=0, help="of the order (default: %(default)s)")
    pack.add_argument("--keep_order", action="store_true", help="do not shuffle; needs the memory of one shard only")

    verify = commands.add_parser("verify", help="report on shards; exit code 1 if anything is wrong")
    verify.add_argument("shards", nargs="+", help="paths, folders, globs, braces, hf:// or https:// addresses")
    verify.add_argument("--report", help="JSON file to write")

    codes = commands.add_parser("codes", help="visual codes beside local shards")
    codes.add_argument("shards", nargs="+", help="paths, folders, globs or braces")
    codes.add_argument("--image_codebook", default="dalle", help="dalle, random-projection, a folder or Hub id")
    codes.add_argument("--vocab_size", type=int, default=8192, help="codes of the model (default: %(default)s)")
    codes.add_argument("--image_size", type=int, default=224, help="pixels (default: %(default)s)")
    codes.add_argument("--patch_size", type=int, default=16, help="pixels (default: %(default)s)")
    codes.add_argument("--device", default="cpu", help="(default: %(default)s)")
    return parser


def main() -> int:
    arguments = build_parser().parse_args()
    try:
        return {"filter": filter_rows, "pack": pack, "verify": verify, "codes": make_codes}[arguments.command](
            arguments
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def filter_rows(arguments: argparse.Namespace) -> int:
    ids = preparation.read_ids(arguments.ids, arguments.part)
    read, kept = preparation.filter_metadata(arguments.metadata, ids, arguments.output, arguments.detections)
    print(f"{arguments.output}: {kept} of {read} rows. Fetch the images with:")
    print(preparation.img2dataset_command(arguments.output, arguments.images))
    return 0


def pack(arguments: argparse.Namespace) -> int:
    if Path(arguments.source).is_dir():
        samples = preparation.samples_from_folder(arguments.source)
    else:
        samples = preparation.samples_from_dataset(
            arguments.source, arguments.split, arguments.image_column, arguments.caption_column
        )
    seed = None if arguments.keep_order else arguments.seed
    packed, faults = preparation.write_shards(samples, arguments.output, arguments.samples_per_shard, seed)
    print(f"{arguments.output}: {packed} samples packed, left out: {faults or 'none'}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    report = preparation.verify_shards(arguments.shards)
    if arguments.report:
        Path(arguments.report).write_text(json.dumps(dataclasses.asdict(report), indent=1))
    print(f"{sum(report.shards.values())} good samples in {len(report.shards)} shards")
    for kind, count in {**report.faults, "duplicate": report.duplicates}.items():
        if count:
            print(f"{count} {kind}, e.g. {report.examples[kind][0]}")
    return 1 if report.faults or report.duplicates else 0


def make_codes(arguments: argparse.Namespace) -> int:
    codebook = load_image_codebook(
        arguments.image_codebook, arguments.vocab_size, arguments.image_size, arguments.patch_size
    ).to(arguments.device)
    counts = preparation.write_codes(arguments.shards, codebook, arguments.image_size, arguments.device)
    print(f"codes of {sum(counts.values())} samples beside {len(counts)} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
