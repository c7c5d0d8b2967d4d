"""The analysis as a function of a batch, for `datasets.Dataset.map` and Ray Data's `map_batches`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .analysis import TASKS, analysis_pipeline


class AnalyzeBatch:
    """
    Adds a column `faces` to a batch of photos, the JSON text of each photo's [`Faces`].

    ```python
    >>> dataset.map(AnalyzeBatch(), batched=True, batch_size=16)
    >>> ray.data.read_images("photos").map_batches(AnalyzeBatch, batch_size=16, concurrency=4)
    ```

    The pipeline is built at the first batch, in the process that does the work, so that the function is small and can
    be sent to others. A photo that cannot be used gives `{"error": ...}`.

    Args:
        column: Name of the column of photos, in any form that pipelines take.
        tasks, models: As of [`analyze`].
        label_maps: Whether the JSON has label maps, as PNG in base64.
        options: Of the pipeline's constructor: `detector`, `batch_size`, `device` and others.
    """

    def __init__(
        self,
        column: str = "image",
        tasks: Sequence[str] = TASKS,
        models: Mapping[str, str] | None = None,
        label_maps: bool = False,
        **options: Any,
    ):
        self.column, self.tasks, self.models = column, tuple(tasks), dict(models or {})
        self.label_maps, self.options = label_maps, options
        self._pipeline: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pipeline": None}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if self._pipeline is None:
            self._pipeline = analysis_pipeline(self.tasks, self.models, **self.options)
        photos = list(batch[self.column])
        try:
            found = [faces.to_json(self.label_maps) for faces in self._pipeline(photos)]
        except ValueError:
            # One of them is to blame; the others are done alone.
            found = [self._one(photo) for photo in photos]
        # Ray wants arrays, `datasets` takes them.
        return {**batch, "faces": np.array(found, dtype=object)}

    def _one(self, photo: Any) -> str:
        try:
            return self._pipeline(photo).to_json(self.label_maps)
        except ValueError as error:
            return json.dumps({"error": str(error)})


__all__ = ["AnalyzeBatch"]
