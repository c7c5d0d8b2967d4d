"""`analyze`: from photos and films to faces in one line."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .default_models import default_model
from .films import FilmReader, is_film
from .pipelines import (
    FaceAlignmentPipeline,
    FaceAnalysisPipeline,
    FaceAttributesPipeline,
    FaceParsingPipeline,
    open_pipeline,
)
from .tracking import FaceTracker

PIPELINES = {
    "parsing": FaceParsingPipeline,
    "alignment": FaceAlignmentPipeline,
    "attributes": FaceAttributesPipeline,
}
TASKS = tuple(PIPELINES)
_OF_THE_PIPELINE = ("detector", "points_from", "batch_size", "convention", "aligned", "device")


def analyze(images: Any, tasks: Sequence[str] = TASKS, models: Mapping[str, str] | None = None, **options: Any) -> Any:
    """
    Everything about the faces of photos, with the package's own small weights unless others are named.

    ```python
    >>> faces = farl_hf.analyze("photo.jpg")
    >>> faces.draw("photo.jpg").save("drawn.jpg")
    >>> for faces in farl_hf.analyze("film.mp4"):  # frame by frame, followed and steadied by a `FaceTracker`
    ...     print(faces.track_ids)
    ```

    Args:
        images: A photo, or many, in any form that pipelines take, see [`FacePipeline.__call__`], or the path of a film
            (`pip install 'farl_hf[video]'`).
        tasks: Which of `"parsing"`, `"alignment"` and `"attributes"`.
        models: Task -> folder or Hub name of the model to use for it.
        options: Of [`FaceAnalysisPipeline`] and of its calls.

    Returns:
        A [`Faces`], or a list or generator of one per photo, a generator of one per frame.

    Raises:
        ValueError: If a task is unknown or a photo cannot be read.
        FileNotFoundError: If the package was installed without its weights.
    """
    built = {key: options.pop(key) for key in _OF_THE_PIPELINE if key in options}
    if isinstance(images, str | os.PathLike) and is_film(images):
        images, options = FilmReader(images), {"tracker": FaceTracker(), **options}
    return _kept_pipeline(tuple(tasks), tuple((models or {}).items()), tuple(built.items()))(images, **options)


def analysis_pipeline(
    tasks: Sequence[str] = TASKS, models: Mapping[str, str] | None = None, **options: Any
) -> FaceAnalysisPipeline:
    """The pipeline that does the tasks, see [`analyze`]; `options` are those of its constructor."""
    models = dict(models or {})
    unknown = [task for task in (*tasks, *models) if task not in TASKS]
    if unknown or not tasks:
        raise ValueError(f"Unknown tasks {', '.join(unknown) or '(none)'}: choose among {', '.join(TASKS)}.")
    folders = {task: models.get(task) or default_model(f"face-{task}") for task in TASKS if task in tasks}
    first = next(iter(folders))
    opened = open_pipeline(PIPELINES[first], folders.pop(first), device=options.get("device"))
    return FaceAnalysisPipeline(
        opened.model, image_processor=opened.image_processor, task=FaceAnalysisPipeline.task_name, **folders, **options
    )


@lru_cache(maxsize=2)
def _kept_pipeline(tasks: tuple, models: tuple, options: tuple) -> FaceAnalysisPipeline:
    """So that a second call does not read the weights again."""
    return analysis_pipeline(tasks, dict(models), **dict(options))


__all__ = ["TASKS", "analysis_pipeline", "analyze"]
