"""Face parsing F1 (`face_parsing/scorer.py` of the FaRL repository)."""

from collections.abc import Sequence

import numpy as np


class FaceParsingF1:
    """
    F1 per class from one confusion matrix over all pixels of all images, and its mean over the foreground.

    ```python
    >>> metric = FaceParsingF1(LAPA_LABELS)
    >>> metric.update(predicted_labels, true_labels)  # for each image or batch
    >>> metric.compute()["fg_mean"]
    ```

    Args:
        names: Class names in the order of their ids. The class named `background` is left out of the mean.
        ignore_index: Label id of pixels that do not count, or `None`.
    """

    def __init__(self, names: Sequence[str], ignore_index: int | None = 255):
        self.names = list(names)
        self.ignore_index = ignore_index
        # Rows: true class, columns: predicted class.
        self.confusion = np.zeros((len(self.names), len(self.names)), dtype=np.int64)

    def update(self, predictions: np.ndarray, references: np.ndarray) -> None:
        """
        Counts the pixels of one image or batch.

        Args:
            predictions, references: Integer class ids of equal shape.

        Raises:
            ValueError: If shapes differ or an id is out of range.
        """
        predictions, references = np.asarray(predictions).ravel(), np.asarray(references).ravel()
        if predictions.shape != references.shape:
            raise ValueError(f"There are {predictions.size} predicted and {references.size} true pixels.")
        if self.ignore_index is not None:
            kept = references != self.ignore_index
            predictions, references = predictions[kept], references[kept]
        count = len(self.names)
        for what, ids in (("Predictions", predictions), ("References", references)):
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < count:
                raise ValueError(f"{what} hold ids from {ids.min()} to {ids.max()}, but there are {count} classes.")
        pairs = references.astype(np.int64) * count + predictions
        self.confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)

    def merge(self, other: "FaceParsingF1") -> None:
        """Adds the counts of another process."""
        self.confusion += other.confusion

    def compute(self) -> dict[str, float]:
        """
        F1 in [0, 1] per class name, and `fg_mean`, the unweighted mean over all classes but `background`. A class that
        occurs neither in predictions nor in references has F1 NaN, as 0/0, and is left out of the mean; the original,
        whose sets hold every class, would give NaN.
        """
        hits = np.diag(self.confusion).astype(np.float64)
        total = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        f1 = np.divide(2 * hits, total, out=np.full(len(hits), np.nan), where=total > 0)
        scores = {name: float(value) for name, value in zip(self.names, f1, strict=True)}
        foreground = [value for name, value in scores.items() if name != "background" and not np.isnan(value)]
        return {**scores, "fg_mean": float(np.mean(foreground)) if foreground else float("nan")}
