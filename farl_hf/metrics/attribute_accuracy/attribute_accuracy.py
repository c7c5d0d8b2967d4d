"""Accuracy of binary face attributes as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.metrics.attributes import AttributeAccuracy as Accumulator


class AttributeAccuracy(evaluate.Metric):
    """Inputs are logits and 0/1 (or CelebA's -1/1) answers per attribute."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float32")),
            "references": datasets.Sequence(datasets.Value("int8")),
        }
        return evaluate.MetricInfo(
            description="Accuracy per attribute and its mean.",
            citation="arXiv:2112.03109",
            inputs_description="predictions: logits; references: 1 for yes, 0 or -1 for no; names: attribute names.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list, references: list, names: list[str] | None = None) -> dict[str, float]:
        metric = Accumulator(names or CELEBA_ATTRIBUTES)
        metric.update(np.asarray(predictions), np.asarray(references))
        return metric.compute()
