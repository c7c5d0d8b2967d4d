#!/usr/bin/env python
"""
Speed and memory, side by side in one run with what people use otherwise.

    python scripts/benchmark.py parsing alignment --threads 2
    python scripts/benchmark.py all --json benchmark.json --markdown benchmark.md

Suites: parsing and alignment (against the original's networks, written plainly), clip (against CLIPModel and
open_clip), pretrain (against open_clip), flags (of a pre-training step, on against off), data (readers against
webdataset and datasets, training faces against torchvision and OpenCV), pipeline (around the network), memory,
synthetic (generated faces of one call against one by one), small (training steps of the small presets against a
plain convolutional network). The two sides compute the same, which is checked first where it can be, and take turns;
times are medians, ratio is reference over ours.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from benchmarks.finetuning_suites import small_step_cases, training_face_cases
from benchmarks.measuring import Case, describe_machine, markdown_table, peak_memory, run_cases, write_json
from benchmarks.network_suites import QUICK, Scale, clip_cases, dense_cases, memory_cases, pipeline_cases
from benchmarks.pretraining_suites import data_cases, flag_cases, pretrain_cases
from benchmarks.synthetic_suite import synthetic_cases
from transformers.utils import logging

SUITES = ("parsing", "alignment", "clip", "pipeline", "memory", "data", "pretrain", "flags", "synthetic", "small")


def cases_of(suite: str, quick: bool) -> Iterator[Case]:
    """The comparisons of a suite."""
    scale = QUICK if quick else Scale()
    if suite in ("parsing", "alignment"):
        return dense_cases(suite, scale)
    if suite == "data":
        readers = data_cases((128,), 200) if quick else data_cases()
        return chain(readers, training_face_cases(96, 4) if quick else training_face_cases())
    if suite == "synthetic":
        return synthetic_cases((64,), 2) if quick else synthetic_cases()
    if suite == "small":
        return small_step_cases(32, 2) if quick else small_step_cases()
    cases = {"clip": clip_cases, "pretrain": pretrain_cases, "flags": flag_cases}
    return {**cases, "pipeline": pipeline_cases, "memory": memory_cases}[suite](scale)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=["all"], help=f"{', '.join(SUITES)}, or all (default)")
    parser.add_argument("--quick", action="store_true", help="tiny models: proves that it runs, says nothing of speed")
    parser.add_argument("--case", default="", help="only cases whose name holds this text")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each case (default: %(default)s)")
    parser.add_argument(
        "--cpu_time", action="store_true", help="count CPU time, not the clock's: for a busy machine, with --threads 1"
    )
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--memory_of", nargs=3, metavar=("SUITE", "CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        suite, name, side = options.memory_of
        case = next(case for case in cases_of(suite, options.quick) if case.name == name)
        print(json.dumps(peak_memory(case, side)))
        return 0
    suites = SUITES if "all" in options.suites else options.suites
    if unknown := [suite for suite in suites if suite not in SUITES]:
        parser.error(f"unknown suite {unknown[0]!r}: choose from {', '.join(SUITES)}, or all")
    script = [__file__, *(["--quick"] if options.quick else [])]
    script += ["--threads", str(options.threads)] if options.threads else []
    cases = [case for suite in suites for case in cases_of(suite, options.quick) if options.case in case.name]
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu_time needs --threads 1: the time of several threads would be added up.")
    rows = run_cases(cases, options.repeats, script, time.process_time if options.cpu_time else time.perf_counter)
    machine = describe_machine()
    print(markdown_table(rows, machine))
    if options.json:
        write_json(rows, machine, options.json)
    if options.markdown:
        options.markdown.write_text(markdown_table(rows, machine) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
