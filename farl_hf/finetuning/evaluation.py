"""Scores of a model on a data set, in the images' own pixels, with memory independent of the set's size."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..inference.detection import FaceDetector
from ..inference.optimization import quantize_for_inference
from ..models.image_processing_farl import FaRLFaceImageProcessor
from ..weights import model_folder
from .benchmarks import BENCHMARKS, Benchmark, own_benchmark
from .faces import EvaluationFaces, FaceRows
from .lora import load_task_model
from .tasks import task_of_model

# Name of the scores over all rows.
ALL = "all"
PRECISIONS = ("fp32", "bf16", "int8")


@torch.no_grad()
def score_model(
    model: nn.Module,
    faces: FaceRows,
    batch_size: int = 8,
    num_workers: int = 0,
    skip_bad: bool = False,
    progress: bool = True,
    autocast: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """
    Predicts every row and scores the predictions. In a distributed run each process takes its share of the rows, and
    all get the whole result. The model is left in evaluation mode.

    Args:
        model: Task model; its device is used.
        faces: The rows.
        batch_size: Faces per forward pass.
        num_workers: Processes that read images.
        skip_bad: Leave out rows that cannot be read, and count them.
        progress: Show a progress bar.
        autocast: Makes the context of the forward passes, for mixed precision.

    Returns:
        `metrics`: scores (fractions) by subset, those over everything under `all`; `num_samples`, `num_skipped` and
        the first `error`; `images_per_second` of one process, reading included; `image_scores`: (headline, row) of
        every image.

    Raises:
        ValueError: If a row cannot be read, or none can.
    """
    state = PartialState()
    task, processor = faces.task, faces.processor
    share = range(state.process_index, len(faces), state.num_processes)
    loader = DataLoader(
        torch.utils.data.Subset(EvaluationFaces(faces, skip_bad), share),
        batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    device = next(model.parameters()).device
    metrics, image_scores, errors = {ALL: task.new_metric()}, [], []
    model.eval()
    start = time.perf_counter()
    for rows in tqdm(loader, desc="Evaluation", disable=not (progress and state.is_main_process)):
        errors += [str(row) for row in rows if isinstance(row, ValueError)]
        rows = [row for row in rows if not isinstance(row, ValueError)]
        if not rows:
            continue
        pixel_values = torch.stack([row["pixel_values"] for row in rows]).to(device)
        if autocast is None:
            outputs = model(pixel_values=pixel_values)
        else:
            with autocast():
                outputs = model(pixel_values=pixel_values)
        # Every row is an image of its own here.
        transforms = [replace(row["transform"], image_index=i) for i, row in enumerate(rows)]
        for row, prediction in zip(rows, task.predict(outputs, processor, transforms), strict=True):
            for subset in (ALL, *row["subsets"]):
                metric = metrics.setdefault(subset, task.new_metric())
                task.update_metric(metric, prediction, row["target"], row["box"])
            image_scores.append((task.image_score(prediction, row["target"], row["box"]), row["index"]))
    seconds = time.perf_counter() - start
    images_per_second = len(image_scores) / max(seconds, 1e-9)
    parts = gather_object([(metrics, image_scores, errors)]) if state.num_processes > 1 else []
    if parts:
        metrics, image_scores, errors = _merge(parts)
    if not image_scores:
        raise ValueError(f"No sample could be read. The first error: {errors[0]}")
    return {
        "metrics": {subset: metric.compute() for subset, metric in metrics.items()},
        "num_samples": len(image_scores),
        "num_skipped": len(errors),
        "error": errors[0] if errors else None,
        "images_per_second": images_per_second,
        "image_scores": sorted(image_scores),
    }


def _merge(parts: list[tuple[dict[str, Any], list, list]]) -> tuple[dict[str, Any], list, list]:
    (metrics, image_scores, errors), *others = parts
    for other_metrics, other_scores, other_errors in others:
        for subset, metric in other_metrics.items():
            if subset in metrics:
                metrics[subset].merge(metric)
            else:
                metrics[subset] = metric
        image_scores, errors = image_scores + other_scores, errors + other_errors
    return metrics, image_scores, errors


@dataclass(frozen=True)
class Evaluation:
    """
    A fine-tuned model and the rows that it is scored on; made by [`open_evaluation`].

    Attributes:
        model: Task model, on its device.
        faces: The rows.
        dataset, split: Their names.
        precision: Of the forward passes, see [`open_evaluation`].
    """

    model: nn.Module
    faces: FaceRows
    dataset: str
    split: str
    precision: str = "fp32"

    def run(
        self, batch_size: int = 8, num_workers: int = 0, skip_bad: bool = False, progress: bool = True
    ) -> dict[str, Any]:
        """
        Scores every row.

        Returns:
            See [`score_model`], whose arguments these are; also `dataset`, `split`, `precision`, `convention`, and
            `localisation`: how faces were found.
        """
        autocast = None
        if self.precision == "bf16":
            autocast = partial(torch.autocast, next(self.model.parameters()).device.type, torch.bfloat16)
        return {
            "dataset": self.dataset,
            "split": self.split,
            "precision": self.precision,
            "convention": self.faces.processor.convention,
            "localisation": self.faces.localisation,
            **score_model(self.model, self.faces, batch_size, num_workers, skip_bad, progress, autocast),
        }


def open_evaluation(
    model: str | Path | nn.Module,
    dataset: str | Benchmark,
    data_dir: str | Path | datasets.Dataset,
    split: str = "test",
    processor: FaRLFaceImageProcessor | None = None,
    convention: str | None = None,
    detector: FaceDetector | None = None,
    precision: str = "fp32",
    device: str | None = None,
    skip_bad: bool = False,
    jpeg_round_trip: bool = False,
    columns: Mapping[str, str] | None = None,
    colours: Sequence[str] | None = None,
) -> Evaluation:
    """
    Opens a model and a benchmark: `open_evaluation("farl-lapa", "lapa", "data").run()`.

    Args:
        model: A folder that [`finetune`] saved or `farl convert` wrote, or a task model.
        dataset: Name of a benchmark, `"own"` for own data of the model's own task and crop, or a [`Benchmark`].
        data_dir: Where the data set is, or its rows.
        split: Of the data set.
        processor: Of the model; by default the folder's own.
        convention: `"farl"` or `"facer"`: the coordinate convention and decoding in the place of the processor's own.
        detector: Finds the faces in the place of the set's own landmarks or boxes, which the paper uses. Where it
            finds several, the one nearest to the annotated face is taken; where it finds none, the row is bad.
        precision: `"fp32"`, `"bf16"` (autocast), or `"int8"` ([`quantize_for_inference`]).
        device: By default the model's own, or a GPU if there is one for a folder.
        skip_bad: Leave out rows of the data set's files that cannot be read.
        jpeg_round_trip: Compress images once more, as the original's data.
        columns: Of own data: our column names -> the data set's.
        colours: Of own label maps in RGB, see [`ParsingTask`].

    Raises:
        FileNotFoundError: If the model or a file of the data set is missing.
        ValueError: If the data set is unknown or empty, or the model is in memory and has no processor.
    """
    benchmark: Any = None if dataset == "own" else get_benchmark(dataset)
    if isinstance(model, nn.Module):
        model = model if device is None else model.to(device)
    else:
        processor = processor or FaRLFaceImageProcessor.from_pretrained(model_folder(model))
        model = load_task_model(model).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if processor is None:
        raise ValueError("A model in memory needs its processor: give `processor`.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}.")
    if dataset == "own":
        benchmark = own_benchmark(task_of_model(model, colours), processor.align, columns)
    if precision == "int8":
        model = quantize_for_inference(model)
    task = benchmark.task
    if convention is not None:
        processor = FaRLFaceImageProcessor.from_dict({**processor.to_dict(), "convention": convention})
        task = task.for_convention(convention)
    rows = data_dir if isinstance(data_dir, datasets.Dataset) else benchmark.load(data_dir, split, skip_bad=skip_bad)
    faces = FaceRows(rows, task, processor, jpeg_round_trip, detector)
    return Evaluation(model, faces, benchmark.name, split, precision)


def get_benchmark(dataset: str | Benchmark) -> Benchmark:
    """A benchmark by name, or itself."""
    if isinstance(dataset, Benchmark):
        return dataset
    if dataset not in BENCHMARKS:
        raise ValueError(f"Unknown data set {dataset!r}: choose one of {', '.join(BENCHMARKS)}, or give a Benchmark.")
    return BENCHMARKS[dataset]
