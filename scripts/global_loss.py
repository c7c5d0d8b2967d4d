#!/usr/bin/env python
"""
Time and memory of the contrastive loss over a large global batch, forward and backward, on CPU processes that exchange
their features as GPUs do.

    python scripts/global_loss.py --batch 32768 --processes 2          # two processes, 16,384 rows each
    python scripts/global_loss.py --batch 8192 --whole                 # all logits at once, for comparison
"""

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path

import torch
from torch import multiprocessing, nn

from farl_hf.pretraining import contrastive


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32768, help="global batch (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that share it (default: %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="of the features (default: %(default)s, ViT-B's)")
    parser.add_argument("--whole", action="store_true", help="all logits of a process at once, not blocks of rows")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    if options.batch % options.processes:
        parser.error(f"--batch {options.batch} is no multiple of --processes {options.processes}.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(measure, (options, queue), nprocs=options.processes)
    figures = {"batch": options.batch, "processes": options.processes, "width": options.width, **queue.get()}
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


def measure(rank: int, options: argparse.Namespace, queue: "multiprocessing.SimpleQueue") -> None:
    """One process; the first one reports."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=options.processes)
    if options.whole:
        contrastive._LOGITS_AT_ONCE = 1 << 62
    generator = torch.Generator().manual_seed(rank)
    rows = options.batch // options.processes
    images, texts = (
        nn.functional.normalize(torch.randn(rows, options.width, generator=generator), dim=1) for _ in range(2)
    )
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    began = time.perf_counter()
    _, loss, _ = contrastive.FeatureGradients.of_loss(images, texts, torch.tensor(2.6593))
    seconds, peak = time.perf_counter() - began, _resident("VmHWM") - before
    if rank == 0:
        queue.put({"loss": round(float(loss), 4), "seconds": round(seconds, 1), "peak_mb": round(peak)})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _resident(name: str) -> float:
    """A figure of this process's memory, in MB. Linux alone tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
