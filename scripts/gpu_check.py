#!/usr/bin/env python
"""
Measure one accelerator: agreement with the CPU in every precision, samples/s of pre-training and its share of the peak,
parsing and alignment against the plain reference, memory.

    python scripts/gpu_check.py --output gpu_check                       # gpu_check.json and gpu_check.md
    python scripts/gpu_check.py --device cpu --quick                     # tiny sizes: proves that it runs
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from benchmarks.network_suites import QUICK, Scale, seeded_dense_model
from benchmarks.pretraining_suites import example_batch, seeded_pretraining_model
from benchmarks.reference import PlainDenseModel
from torch import nn

from farl_hf import FaRLForFaceAlignment, FaRLForFaceParsing
from farl_hf.inference.optimization import optimize_for_inference
from farl_hf.pretraining.objective import PretrainingObjective, backward
from farl_hf.pretraining.throughput import peak_flops, training_flops

Row = dict[str, Any]
TASKS = {"parsing": (FaRLForFaceParsing, "logits"), "alignment": (FaRLForFaceAlignment, "heatmaps")}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models, few repeats")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_check"), help="files without ending (default: gpu_check)"
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device is visible; --device cpu --quick proves that the script runs.", file=sys.stderr)
        return 2
    scale = QUICK if options.quick else Scale()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rows: list[Row] = []
    for part in (agreement, dense_speed, pretraining_speed):
        for row in part(device, scale, options.quick):
            print(", ".join(f"{key} {_shown(value)}" for key, value in row.items()), flush=True)
            rows.append(row)
    report = {"device": name, "torch": torch.__version__, "quick": options.quick, "rows": rows}
    options.output.with_suffix(".json").write_text(json.dumps(report, indent=1))
    options.output.with_suffix(".md").write_text(_markdown(report))
    # Rounding is judged in fp32 only: what bf16 and fp16 cost is a figure to read, not to pass.
    bad = [row for row in rows if row.get("precision") == "fp32" and row.get("difference", 0) > 1e-3]
    for row in bad:
        print(f"error: {row['what']} differs from the CPU by {row['difference']:.2g} in fp32.", file=sys.stderr)
    return 1 if bad else 0


@torch.no_grad()
def agreement(device: torch.device, scale: Scale, quick: bool) -> Iterator[Row]:
    """Outputs on the device against those of the CPU in fp32, relative to their largest value."""
    for task, (model_class, output) in TASKS.items():
        model = seeded_dense_model(model_class, scale)
        torch.manual_seed(1)
        pixel_values = torch.randn(1, 3, scale.dense_size, scale.dense_size)
        expected = model(pixel_values=pixel_values)[output]
        precisions = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        if device.type == "cpu":
            del precisions["fp16"]
        for precision, dtype in precisions.items():
            moved = seeded_dense_model(model_class, scale).to(device, dtype)
            found = moved(pixel_values=pixel_values.to(device, dtype))[output].float().cpu()
            difference = ((found - expected).abs().max() / expected.abs().max()).item()
            yield {"what": f"{task} on the device against the CPU", "precision": precision, "difference": difference}


@torch.no_grad()
def dense_speed(device: torch.device, scale: Scale, quick: bool) -> Iterator[Row]:
    """Images/s and memory of the optimised networks and of the plain reference."""
    for task, (model_class, _) in TASKS.items():
        model = seeded_dense_model(model_class, scale).to(device)
        plain = PlainDenseModel(model).eval()
        fast = optimize_for_inference(model)
        for batch in (1, 2) if quick else (1, 4, 16, 64):
            pixel_values = torch.randn(batch, 3, scale.dense_size, scale.dense_size, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                ours, memory = _measure(partial(fast, pixel_values=pixel_values), device, quick)
                reference, _ = _measure(partial(plain, pixel_values), device, quick)
            yield {
                "what": f"{task} {scale.dense_size} px, batch {batch}",
                "images_per_second": batch / ours,
                "ratio_to_reference": reference / ours,
                "memory_gib": memory,
            }


def pretraining_speed(device: torch.device, scale: Scale, quick: bool) -> Iterator[Row]:
    """Samples/s of whole steps, each flag on and off."""
    precisions = ["no"] if device.type == "cpu" else ["bf16"]
    batch = 4 if quick else 256
    flags = [("eager", {}), ("compiled", {"compile": True}), ("activation checkpointing", {"checkpointing": True})]
    for precision in precisions:
        for name, flag in flags:
            if quick and flag.get("compile"):
                continue
            step, flops = _pretraining_step(device, scale, precision, batch, **flag)
            seconds, memory = _measure(step, device, quick)
            row: Row = {
                "what": f"pre-training step, batch {batch}, {name}",
                "precision": precision if precision != "no" else "fp32",
                "samples_per_second": batch / seconds,
                "memory_gib": memory,
            }
            peak = peak_flops(device, precision)
            if peak is not None:
                row["share_of_peak"] = flops * batch / seconds / peak
            yield row


def _pretraining_step(
    device: torch.device, scale: Scale, precision: str, batch: int, compile: bool = False, checkpointing: bool = False
) -> tuple[Callable[[], Any], float]:
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    model: nn.Module = seeded_pretraining_model(scale).train()
    content = {name: value.to(device) for name, value in example_batch(model, batch).items()}
    if checkpointing:
        model.gradient_checkpointing_enable()
    if compile:
        model.vision_model.compile()
        model.text_model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device.type == "cuda")
    objective, optimizer = accelerator.prepare(PretrainingObjective(model), optimizer)

    def step() -> None:
        optimizer.zero_grad()
        backward(accelerator, objective, [content])
        optimizer.step()

    return step, training_flops(model.config, content["input_ids"].shape[1])


def _measure(function: Callable[[], Any], device: torch.device, quick: bool) -> tuple[float, float | None]:
    """Median seconds, and peak memory in GiB on CUDA."""
    times = []
    for repeat in range(3 if quick else 13):
        if repeat == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return sorted(times[1:])[(len(times) - 1) // 2], memory


def _markdown(report: Row) -> str:
    columns = ["what", *sorted({key for row in report["rows"] for key in row} - {"what"})]
    lines = [f"{report['device']}, torch {report['torch']}.", "", "| " + " | ".join(columns) + " |"]
    lines.append("| " + " | ".join("---" for _ in columns) + " |")
    for row in report["rows"]:
        lines.append("| " + " | ".join(_shown(row.get(column)) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
