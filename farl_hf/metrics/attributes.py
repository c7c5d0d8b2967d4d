"""Accuracy of binary face attributes."""

from collections.abc import Sequence

import numpy as np


class AttributeAccuracy:
    """
    Share of right answers per attribute, and their mean, as reported on CelebA.

    Args:
        names: Attribute names in the order of the columns.
        threshold: Predictions are positive from here on: 0 for logits, 0.5 for probabilities.
    """

    def __init__(self, names: Sequence[str], threshold: float = 0.0):
        self.names, self.threshold = list(names), threshold
        self.right = np.zeros(len(self.names), dtype=np.int64)
        self.count = 0

    def update(self, predictions: np.ndarray, references: np.ndarray) -> None:
        """
        Adds images: `predictions` (images, attributes) logits or probabilities, `references` of the same shape with 1
        for yes and 0, or CelebA's -1, for no. Raises a `ValueError` for other shapes or values.
        """
        predictions, references = np.asarray(predictions), np.asarray(references)
        if predictions.shape != references.shape or predictions.shape[1:] != (len(self.names),):
            raise ValueError(
                f"Shapes {predictions.shape} and {references.shape} are not (images, {len(self.names)} attributes)."
            )
        if not np.isin(references, (-1, 0, 1)).all():
            raise ValueError("References must be 1 for yes, and 0 or -1 for no.")
        self.right += ((predictions >= self.threshold) == (references > 0)).sum(axis=0)
        self.count += len(references)

    def merge(self, other: "AttributeAccuracy") -> None:
        """Adds the counts of another process."""
        self.right += other.right
        self.count += other.count

    def compute(self) -> dict[str, float]:
        """Accuracy in [0, 1] per attribute, and `mean`."""
        if self.count == 0:
            raise ValueError("No image was added to the metric.")
        accuracy = self.right / self.count
        return {**dict(zip(self.names, accuracy.tolist(), strict=True)), "mean": float(accuracy.mean())}
