#!/usr/bin/env python
"""
Everything that wants an accelerator, once: the original network's numbers in fp32 and the rounding of bf16 and fp16,
the fast tests that name a device, samples/s of pre-training and their share of the peak, parsing and alignment against
the plain reference, memory, faces/s of the generator.

    python scripts/gpu_check.py --output gpu_check                       # gpu_check.json and gpu_check.md
    python scripts/gpu_check.py --device cpu --quick                     # tiny sizes: proves that it runs
    python scripts/gpu_check.py --parts golden pretraining               # only these

Each part runs in a process of its own. A part that fails, is killed or takes too long is named in the table and on the
screen with what it said last; the others go on, and the exit code is 1.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from accelerate import Accelerator
from benchmarks.network_suites import QUICK, Scale, seeded_dense_model
from benchmarks.pretraining_suites import example_batch, seeded_pretraining_model
from benchmarks.reference import PlainDenseModel
from torch import nn

from farl_hf import FaRLForFaceAlignment, FaRLForFaceParsing, FaRLModel
from farl_hf.conversion.checkpoints import convert_checkpoint
from farl_hf.inference.optimization import optimize_for_inference
from farl_hf.pretraining.objective import PretrainingObjective, backward
from farl_hf.pretraining.throughput import peak_flops, training_flops

Row = dict[str, Any]
REPOSITORY = Path(__file__).resolve().parents[1]
TASKS = {"parsing": (FaRLForFaceParsing, "logits"), "alignment": (FaRLForFaceAlignment, "heatmaps")}
# Largest relative difference of an fp32 output. What bf16 and fp16 cost is a figure to read, not to pass.
_FP32_TOLERANCE = 1e-3
_MINUTES_PER_PART = 30


@dataclass(frozen=True)
class Setup:
    """Where, and how large: `quick` has tiny models and few repeats."""

    device: torch.device
    quick: bool

    @property
    def scale(self) -> Scale:
        return QUICK if self.quick else Scale()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models, few repeats")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_check"), help="files without ending (default: gpu_check)"
    )
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # run the part here, and write its rows
    options = parser.parse_args(arguments)
    setup = Setup(torch.device(options.device), options.quick)
    if setup.device.type == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device is visible; --device cpu --quick proves that the script runs.", file=sys.stderr)
        return 2
    if options.rows:
        rows = []
        for row in PARTS[options.parts[0]](setup):
            print(", ".join(f"{key} {_shown(value)}" for key, value in row.items()), flush=True)
            rows.append(row)
        options.rows.write_text(json.dumps(rows))
        return 0
    rows, failed = [], {}
    for part in options.parts:
        print(f"{part} ...", flush=True)
        command = [sys.executable, __file__, "--device", options.device, "--parts", part]
        found, error = run_part([*command, *(["--quick"] if options.quick else [])])
        rows += found
        if error is not None:
            failed[part] = error
    for row in rows:
        if row.get("precision") == "fp32" and row.get("difference", 0) > _FP32_TOLERANCE:
            failed[row["what"]] = f"differs by {row['difference']:.2g} in fp32, more than {_FP32_TOLERANCE}"
    name = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else setup.device.type
    report = {"device": name, "torch": torch.__version__, "quick": options.quick, "rows": rows, "failed": failed}
    options.output.with_suffix(".json").write_text(json.dumps(report, indent=1))
    options.output.with_suffix(".md").write_text(_markdown(report))
    for part, error in failed.items():
        print(f"error: {part}: {error}", file=sys.stderr)
    return 1 if failed else 0


def run_part(command: list[str], minutes: float = _MINUTES_PER_PART) -> tuple[list[Row], str | None]:
    """
    Runs a part with its output on this screen.

    Args:
        command: That runs it; `--rows FILE` is appended.
        minutes: After which it is ended.

    Returns:
        Its rows, and what went wrong or `None`: the exit code or the signal, and the last line it wrote to stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder, "rows.json"), Path(folder, "stderr")
        with open(log, "w") as errors:
            try:
                code = subprocess.run([*command, "--rows", str(rows)], stderr=errors, timeout=60 * minutes).returncode
            except subprocess.TimeoutExpired:
                return [], f"took more than {minutes:g} minutes"
        if code == 0 and rows.exists():
            return json.loads(rows.read_text()), None
        said = log.read_text().strip()
        print(said, file=sys.stderr)
        how = f"exit code {code}"
        if code < 0:
            how = signal.Signals(-code).name
            if code == -signal.SIGKILL:
                how += ", most likely for want of memory"
        return [], f"{how}; last said: {said.splitlines()[-1] if said else 'nothing'}"


# ------------------------------------------------------------------------------------------------------------ numbers


@torch.no_grad()
def golden(setup: Setup) -> Iterator[Row]:
    """The original network's numbers for the same seeded weights, full size; with `quick`, the dual encoder's."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    cases = importlib.import_module("golden_cases")
    expected = torch.from_numpy(cases.numbers("clip")["image_embeds"])
    pixel_values = cases.stack(
        len(expected), lambda i: cases.seedgen.normal(f"clip/pixel_values/{i}", (3, 224, 224), 11)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save({"state_dict": cases.state_dict("backbone")}, folder / "clip.pth")
        with redirect_stdout(sys.stderr):
            convert_checkpoint(folder / "clip.pth", folder / "clip")
        model = FaRLModel.from_pretrained(folder / "clip").eval()
        yield from _roundings("image features", model.get_image_features, model, pixel_values, expected, setup)
        del model
        if setup.quick:
            return
        for spec, task, output, wanted in (
            ("parsing_lapa", "parsing", "logits", "head"),
            ("align_ibug300w", "alignment", "heatmaps", "head_slice"),
        ):
            cases.write_trainer_state(folder / f"{spec}.pth", spec)
            with redirect_stdout(sys.stderr):
                convert_checkpoint(folder / f"{spec}.pth", folder / spec)
            model = TASKS[task][0].from_pretrained(folder / spec).eval()
            images = cases.stack(2, lambda i: cases.seedgen.unit_image(f"ds/{i}", 448, 31))
            expected = torch.from_numpy(cases.numbers(spec)[wanted])
            if task == "parsing":
                expected = nn.functional.interpolate(expected, size=(512, 512), mode="bilinear")

            def network(pixel_values, model=model, output=output, task=task):
                found = model(pixel_values=pixel_values)[output]
                return found if task == "parsing" else found[:, :, ::8, ::8]

            yield from _roundings(task, network, model, cases.normalise(images), expected, setup)


@torch.no_grad()
def agreement(setup: Setup) -> Iterator[Row]:
    """Outputs on the device against those of the CPU in fp32."""
    for task, (model_class, output) in TASKS.items():
        model = seeded_dense_model(model_class, setup.scale)
        torch.manual_seed(1)
        pixel_values = torch.randn(1, 3, setup.scale.dense_size, setup.scale.dense_size)
        expected = model(pixel_values=pixel_values)[output]

        def network(pixel_values, model=model, output=output):
            return model(pixel_values=pixel_values)[output]

        yield from _roundings(f"{task} against the CPU", network, model, pixel_values, expected, setup)


def _roundings(
    what: str,
    network: Callable[..., Any],
    model: nn.Module,
    pixel_values: torch.Tensor,
    expected: torch.Tensor,
    setup: Setup,
) -> Iterator[Row]:
    """Differences in each precision, relative to the largest expected value; weights are rounded too."""
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        stored = {name: value.clone() for name, value in model.state_dict().items()} if dtype != torch.float32 else None
        model.to(setup.device, dtype)
        found = network(pixel_values=pixel_values.to(setup.device, dtype))
        found = getattr(found, "pooler_output", found).float().cpu()
        if what == "image features":
            found = nn.functional.normalize(found, dim=-1)
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        yield {"what": what, "precision": precision, "difference": difference}
        if stored is not None:
            model.to(torch.float32).load_state_dict(stored)


def tests(setup: Setup) -> Iterator[Row]:
    """The fast tests that name a device, on this one; with `quick`, those of one file."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        where = ["tests/test_accelerator.py"] if setup.quick else []
        options = ["-m", "accelerator and not slow", "-q", f"--junitxml={results}"]
        environment = {**os.environ, "TRANSFORMERS_TEST_DEVICE": setup.device.type, "PYTHONPATH": _python_path()}
        code = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *where], cwd=REPOSITORY, env=environment, stdout=sys.stderr
        ).returncode
        if code != 0:
            raise SystemExit(f"pytest ended with exit code {code}, see above.")
        suite = next(ElementTree.parse(results).iter("testsuite"))
        yield {
            "what": "fast tests that name a device",
            "passed": int(suite.get("tests")) - int(suite.get("skipped")),
            "skipped": int(suite.get("skipped")),
        }


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


# -------------------------------------------------------------------------------------------------------------- speed


@torch.no_grad()
def dense_speed(setup: Setup) -> Iterator[Row]:
    """Images/s and memory of the optimised networks and of the plain reference."""
    scale, device = setup.scale, setup.device
    for task, (model_class, _) in TASKS.items():
        model = seeded_dense_model(model_class, scale).to(device)
        plain = PlainDenseModel(model).eval()
        fast = optimize_for_inference(model)
        for batch in (1, 2) if setup.quick else (1, 4, 16, 64):
            pixel_values = torch.randn(batch, 3, scale.dense_size, scale.dense_size, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                ours, memory = _measure(partial(fast, pixel_values=pixel_values), setup)
                reference, reference_memory = _measure(partial(plain, pixel_values), setup)
            yield {
                "what": f"{task} {scale.dense_size} px, batch {batch}",
                "precision": "bf16" if device.type == "cuda" else "fp32",
                "images_per_second": batch / ours,
                "ratio_to_reference": reference / ours,
                "memory_gib": memory,
                "reference_memory_gib": reference_memory,
            }


def pretraining_speed(setup: Setup) -> Iterator[Row]:
    """Samples/s of whole steps: eager, compiled, with recomputed activations."""
    batch = 4 if setup.quick else 256 if setup.device.type == "cuda" else 8
    precision = "bf16" if setup.device.type == "cuda" else "no"
    for name, flag in (
        ("eager", {}),
        ("compiled", {"compile": True}),
        ("activation checkpointing", {"checkpointing": True}),
    ):
        step, flops = _pretraining_step(setup, precision, batch, **flag)
        seconds, memory = _measure(step, setup)
        row: Row = {
            "what": f"pre-training step, batch {batch}, {name}",
            "precision": precision if precision != "no" else "fp32",
            "samples_per_second": batch / seconds,
            "memory_gib": memory,
        }
        peak = peak_flops(setup.device, precision)
        if peak is not None:
            row["share_of_peak"] = flops * batch / seconds / peak
        yield row


def _pretraining_step(
    setup: Setup, precision: str, batch: int, compile: bool = False, checkpointing: bool = False
) -> tuple[Callable[[], Any], float]:
    accelerator = Accelerator(cpu=setup.device.type == "cpu", mixed_precision=precision)
    model: nn.Module = seeded_pretraining_model(setup.scale).train()
    content = {name: value.to(setup.device) for name, value in example_batch(model, batch).items()}
    if checkpointing:
        model.gradient_checkpointing_enable()
    if compile:
        # Tiny sizes prove that the graphs are captured; a C++ compiler would take minutes over them.
        backend = "aot_eager" if setup.quick else "inductor"
        model.vision_model.compile(backend=backend)
        model.text_model.compile(backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=setup.device.type == "cuda")
    objective, optimizer = accelerator.prepare(PretrainingObjective(model), optimizer)

    def step() -> None:
        optimizer.zero_grad()
        backward(accelerator, objective, [content])
        optimizer.step()

    return step, training_flops(model.config, content["input_ids"].shape[1])


def generator_speed(setup: Setup) -> Iterator[Row]:
    """Faces/s of the generator, one process. It takes a CUDA device by itself."""
    from farl_hf.synthetic import SyntheticFaceConfig, render_face_sample

    for size in (64,) if setup.quick else (64, 224, 512):
        seeds = iter(range(1_000_000))
        config = SyntheticFaceConfig(image_size=size)
        seconds, _ = _measure(lambda seeds=seeds, config=config: render_face_sample(next(seeds), config), setup)
        yield {"what": f"generated faces of {size} px", "images_per_second": 1 / seconds}


def _measure(function: Callable[[], Any], setup: Setup) -> tuple[float, float | None]:
    """Median seconds, and peak memory in GiB on CUDA."""
    times, device = [], setup.device
    for repeat in range(3 if setup.quick or device.type == "cpu" else 13):
        if repeat == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return sorted(times[1:])[(len(times) - 1) // 2], memory


PARTS: dict[str, Callable[[Setup], Iterator[Row]]] = {
    "golden": golden,
    "agreement": agreement,
    "tests": tests,
    "dense": dense_speed,
    "pretraining": pretraining_speed,
    "generator": generator_speed,
}


def _markdown(report: Row) -> str:
    columns = ["what", *sorted({key for row in report["rows"] for key in row} - {"what"})]
    lines = [f"{report['device']}, torch {report['torch']}.", "", "| " + " | ".join(columns) + " |"]
    lines.append("| " + " | ".join("---" for _ in columns) + " |")
    for row in report["rows"]:
        lines.append("| " + " | ".join(_shown(row.get(column)) for column in columns) + " |")
    lines += [f"\nFailed: {part}: {error}" for part, error in report["failed"].items()]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
