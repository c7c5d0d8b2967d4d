#!/usr/bin/env python
"""
Size, speed and score of a task model in every format: the original's layers, PyTorch, its optimised copy, ONNX of both,
and 8-bit ONNX.

    farl synthesize data --layout lapa --num 300
    python scripts/formats.py --model farl-lapa --dataset lapa --data_dir data
    python scripts/formats.py --model "$(python -c 'import farl_hf; print(farl_hf.pretrained("farl-tiny-parsing"))')" \\
        --dataset lapa --data_dir data --limit 100 --markdown formats.md

8-bit ranges are measured on training faces. Times are of one face at a time on one thread, the median of rounds in
which every format has its turn, in CPU seconds; "times" is how many times as fast as the first row. Scores are of the
test split, faces found by the set's own annotation; the difference is the largest of the logits (of landmarks: of the
coordinates) over the largest, on one test face.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from benchmarks.reference import PlainDenseModel
from torch import nn
from tqdm import tqdm
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from farl_hf import FaRLForFaceAlignment, FaRLForFaceParsing, optimize_for_inference
from farl_hf.finetuning import BENCHMARKS, open_evaluation
from farl_hf.finetuning.faces import EvaluationFaces
from farl_hf.inference.export import export_int8_onnx, export_onnx, exportable
from farl_hf.models.dense_head_farl import resize_bilinear
from farl_hf.models.geometry_farl import landmarks_from_heatmaps
from farl_hf.models.modeling_farl import FaRLFaceAlignmentOutput

FORMATS = (
    "the original's layers",
    "PyTorch",
    "PyTorch, optimised",
    "ONNX",
    "ONNX, optimised",
    "ONNX, int8",
)


class Answering(nn.Module):
    """A function of `pixel_values` in the form of a task model, for evaluation: it answers like the model itself."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], model: nn.Module):
        super().__init__()
        self.function = function
        (self.name,) = exportable(model)[0].output_names
        self.output = {FaRLForFaceAlignment: FaRLFaceAlignmentOutput, FaRLForFaceParsing: SemanticSegmenterOutput}.get(
            type(model), ImageClassifierOutput
        )
        # Evaluation asks a model's parameters for the device.
        self.nothing = nn.Parameter(torch.zeros(0))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return self.output(**{self.name: self.function(pixel_values)})


def onnx_function(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0])


def plain_function(model: FaRLForFaceParsing | FaRLForFaceAlignment) -> Callable[[torch.Tensor], torch.Tensor]:
    plain = PlainDenseModel(model).eval()
    if isinstance(model, FaRLForFaceAlignment):
        return lambda pixel_values: landmarks_from_heatmaps(plain(pixel_values).sigmoid())
    side = model.config.output_size or model.config.image_size
    return lambda pixel_values: resize_bilinear(plain(pixel_values), (side, side))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a task model")
    parser.add_argument("--dataset", required=True, choices=tuple(BENCHMARKS))
    parser.add_argument("--data_dir", required=True, help="folder of the data set in its official layout")
    parser.add_argument("--limit", type=int, help="only so many faces of the test split; 0 for no scores")
    parser.add_argument("--calibration", type=int, default=32, help="training faces for 8-bit ranges")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, metavar="FORMAT", help=f"only these of: {'; '.join(FORMATS)}"
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each format (default: %(default)s)")
    parser.add_argument("--files", type=Path, help="keep exported files here; those that are here are not made again")
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


@dataclass(frozen=True)
class Row:
    """
    A format.

    Attributes:
        name: Of the format.
        megabytes: Of its file; `None` where it is none.
        milliseconds: For one face.
        speedup: How many times as fast as the first format.
        score: The task's headline, in percent, if faces were scored.
        difference: Largest of the logits or landmarks from the model's, relative to the largest.
    """

    name: str
    megabytes: float | None
    milliseconds: float
    speedup: float
    score: float | None
    difference: float


def measure(options: argparse.Namespace) -> list[Row]:
    """Every format's row."""
    # Landmarks are decoded in the crop, as exported models do.
    source = {"dataset": options.dataset, "data_dir": options.data_dir, "convention": "farl", "device": "cpu"}
    evaluation = open_evaluation(options.model, split="test", **source)
    faces = EvaluationFaces(evaluation.faces)
    test_crop = faces[0]["pixel_values"][None]
    if options.limit is not None:
        evaluation.faces.rows = evaluation.faces.rows.select(range(min(options.limit, len(evaluation.faces))))
    model, task = evaluation.model.float().eval(), evaluation.faces.task
    fast = optimize_for_inference(model)

    def export_int8(path: Path) -> Path:
        train = EvaluationFaces(open_evaluation(options.model, split="train", **source).faces)
        crops = torch.stack([train[i]["pixel_values"] for i in range(min(options.calibration, len(train)))])
        return export_int8_onnx(model, path, crops)

    exports: dict[str, tuple[str, Callable[[Path], Path]]] = {
        "ONNX": ("plain.onnx", lambda path: export_onnx(model, path)),
        "ONNX, optimised": ("fast.onnx", lambda path: export_onnx(fast, path)),
        "ONNX, int8": ("int8.onnx", export_int8),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.files or Path(scratch)
        paths = {name: (folder / file, export) for name, (file, export) in exports.items()}
        files = {
            name: path if path.is_file() else export(path)
            for name, (path, export) in paths.items()
            if not options.formats or name in options.formats
        }
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
        sizes["PyTorch"] = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6
        models: dict[str, nn.Module] = {}
        if isinstance(model, (FaRLForFaceParsing, FaRLForFaceAlignment)):
            models[FORMATS[0]] = Answering(plain_function(model), model)
        models |= {"PyTorch": model, "PyTorch, optimised": fast}
        models |= {name: Answering(onnx_function(path), model) for name, path in files.items()}
    if options.formats:
        models = {name: models[name] for name in FORMATS if name in options.formats and name in models}
    times, answers = measure_times(models, test_crop, options.rounds)
    expected = (
        answers["PyTorch"] if "PyTorch" in answers else measure_times({"PyTorch": model}, test_crop, 0)[1]["PyTorch"]
    )
    slowest = next(iter(times.values()))
    rows = []
    for name, other in models.items():
        score = None
        if len(evaluation.faces):
            result = type(evaluation)(other, evaluation.faces, options.dataset, "test").run(batch_size=1)
            score = 100 * result["metrics"]["all"][task.headline]
        difference = float((answers[name] - expected).abs().max() / expected.abs().max())
        rows.append(Row(name, sizes.get(name), 1000 * times[name], slowest / times[name], score, difference))
    return rows


@torch.inference_mode()
def measure_times(
    models: dict[str, nn.Module], pixel_values: torch.Tensor, rounds: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Median CPU seconds of each model, and its logits or landmarks; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    answers = {}
    for _ in tqdm(range(rounds + 1), desc="timing", unit="round"):
        for name, model in models.items():
            start = time.process_time()
            outputs = model(pixel_values=pixel_values)
            seconds[name].append(time.process_time() - start)
            answers[name] = outputs["landmarks" if "landmarks" in outputs else "logits"]
    return {name: float(np.median(values[1:] or values)) for name, values in seconds.items()}, answers


def markdown(rows: list[Row]) -> str:
    lines = ["| format | MB | ms per face | times | score, percent | difference |", "| --- " * 6 + "|"]
    for row in rows:
        size = "-" if row.megabytes is None else f"{row.megabytes:.1f}"
        score = "-" if row.score is None else f"{row.score:.3f}"
        times = f"{row.milliseconds:,.1f} | {row.speedup:.2f}"
        lines.append(f"| {row.name} | {size} | {times} | {score} | {row.difference:.1e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
