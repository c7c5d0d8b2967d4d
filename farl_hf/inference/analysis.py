"""`analyze`: from photos to faces in one line."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .default_models import default_model
from .pipelines import (
    FaceAlignmentPipeline,
    FaceAnalysisPipeline,
    FaceAttributesPipeline,
    FaceParsingPipeline,
    open_pipeline,
)

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
    ```

    Args:
        images: A photo, or many, in any form that pipelines take, see [`FacePipeline.__call__`].
        tasks: Which of `"parsing"`, `"alignment"` and `"attributes"`.
        models: Task -> folder or Hub name of the model to use for it.
        options: Of [`FaceAnalysisPipeline`] and of its calls.

    Returns:
        A [`Faces`], or a list or generator of one per photo.

    Raises:
        ValueError: If a task is unknown or a photo cannot be read.
        FileNotFoundError: If the package was installed without its weights.
    """
    built = {key: options.pop(key) for key in _OF_THE_PIPELINE if key in options}
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
