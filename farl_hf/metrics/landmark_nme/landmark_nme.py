"""Normalised mean error of landmarks as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

from farl_hf.metrics.landmarks import LandmarkNME as Accumulator


class LandmarkNME(evaluate.Metric):
    """Inputs are landmarks in pixels; `compute(dataset="wflw")`, with `boxes` (images, 4) on AFLW-19."""

    def _info(self) -> evaluate.MetricInfo:
        points = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
        return evaluate.MetricInfo(
            description="Mean landmark distance over an inter-ocular or similar length; AUC and failure rate.",
            citation="arXiv:2112.03109",
            inputs_description="predictions, references: (points, 2) pixels; dataset: ibug300w, wflw or aflw19.",
            features=datasets.Features({"predictions": points, "references": points}),
        )

    def _compute(self, predictions: list, references: list, dataset: str, boxes: list | None = None) -> dict:
        metric = Accumulator(dataset)
        metric.update(np.asarray(predictions), np.asarray(references), None if boxes is None else np.asarray(boxes))
        return metric.compute()
