"""F1 of face parsing as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

from farl_hf.metrics.parsing import FaceParsingF1 as Accumulator


class FaceParsingF1(evaluate.Metric):
    """Inputs are label maps; `compute(names=...)` takes the class names in the order of their ids."""

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description="F1 per class over all pixels of a data set, and its mean over the foreground.",
            citation="arXiv:2112.03109",
            inputs_description="predictions, references: (height, width) class ids; names: class names.",
            features=datasets.Features({"predictions": label_map, "references": label_map}),
        )

    def _compute(self, predictions: list, references: list, names: list[str]) -> dict[str, float]:
        metric = Accumulator(names)
        for predicted, true in zip(predictions, references, strict=True):
            metric.update(np.asarray(predicted), np.asarray(true))
        return metric.compute()
