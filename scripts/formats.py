#!/usr/bin/env python
"""
Size, speed and score of a task model in every format: PyTorch, its optimised copy, ONNX of both, and 8-bit ONNX.

    farl synthesize data --layout lapa --num 300
    python scripts/formats.py --model farl-lapa --dataset lapa --data_dir data
    python scripts/formats.py --model "$(python -c 'import farl_hf; print(farl_hf.pretrained("farl-tiny-parsing"))')" \\
        --dataset lapa --data_dir data --limit 100 --markdown formats.md

8-bit ranges are measured on training faces. Times are CPU seconds of one face at a time on one thread, the median of
rounds in which every format has its turn. Scores are of the test split, faces found by the set's own annotation.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from farl_hf import FaRLForFaceAlignment, FaRLForFaceParsing, optimize_for_inference
from farl_hf.finetuning import BENCHMARKS, open_evaluation
from farl_hf.finetuning.faces import EvaluationFaces
from farl_hf.inference.export import export_int8_onnx, export_onnx
from farl_hf.models.modeling_farl import FaRLFaceAlignmentOutput


class OnnxModel(nn.Module):
    """An exported task model that answers like the model itself."""

    def __init__(self, path: Path, model: nn.Module):
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.output = {FaRLForFaceAlignment: FaRLFaceAlignmentOutput, FaRLForFaceParsing: SemanticSegmenterOutput}.get(
            type(model), ImageClassifierOutput
        )
        # Evaluation asks a model's parameters for the device.
        self.nothing = nn.Parameter(torch.zeros(0))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        answer = torch.from_numpy(self.session.run(None, {"pixel_values": pixel_values.numpy()})[0])
        return self.output(**{self.session.get_outputs()[0].name: answer})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a task model")
    parser.add_argument("--dataset", required=True, choices=tuple(BENCHMARKS))
    parser.add_argument("--data_dir", required=True, help="folder of the data set in its official layout")
    parser.add_argument("--limit", type=int, help="only so many faces of the test split")
    parser.add_argument("--calibration", type=int, default=32, help="training faces for 8-bit ranges")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each format (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        table = markdown(measure(options))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n")
    return 0


def measure(options: argparse.Namespace) -> list[tuple[str, float | None, float, float]]:
    """(format, megabytes or `None` where it is no file, milliseconds, headline in percent) of every format."""
    # Landmarks are decoded in the crop, as exported models do.
    source = {"dataset": options.dataset, "data_dir": options.data_dir, "convention": "farl", "device": "cpu"}
    evaluation = open_evaluation(options.model, split="test", **source)
    if options.limit:
        evaluation.faces.rows = evaluation.faces.rows.select(range(min(options.limit, len(evaluation.faces))))
    model, task = evaluation.model.float().eval(), evaluation.faces.task
    train = EvaluationFaces(open_evaluation(options.model, split="train", **source).faces)
    crops = torch.stack([train[i]["pixel_values"] for i in range(min(options.calibration, len(train)))])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fast = optimize_for_inference(model)
        files = {
            "ONNX": export_onnx(model, folder / "plain.onnx"),
            "ONNX, optimised": export_onnx(fast, folder / "fast.onnx"),
            "ONNX, int8": export_int8_onnx(model, folder / "int8.onnx", crops),
        }
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        sizes: dict[str, float | None] = {"PyTorch": size / 1e6, "PyTorch, optimised": None}
        sizes |= {name: path.stat().st_size / 1e6 for name, path in files.items()}
        models: dict[str, nn.Module] = {"PyTorch": model, "PyTorch, optimised": fast}
        models |= {name: OnnxModel(path, model) for name, path in files.items()}
    times = measure_times(models, crops[:1], options.rounds)
    rows = []
    for name, other in models.items():
        result = type(evaluation)(other, evaluation.faces, options.dataset, "test").run(batch_size=1)
        rows.append((name, sizes[name], 1000 * times[name], 100 * result["metrics"]["all"][task.headline]))
    return rows


@torch.inference_mode()
def measure_times(models: dict[str, nn.Module], pixel_values: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each model; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            model(pixel_values=pixel_values)
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def markdown(rows: list[tuple[str, float | None, float, float]]) -> str:
    lines = ["| format | MB | ms per face | score, percent |", "| --- | --- | --- | --- |"]
    for name, size, milliseconds, score in rows:
        lines.append(f"| {name} | {'-' if size is None else f'{size:.1f}'} | {milliseconds:.1f} | {score:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
