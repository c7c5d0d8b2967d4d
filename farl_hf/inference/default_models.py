"""Which of the package's own weights a task is done with where no model is named."""

import logging

from ..weights import pretrained

logger = logging.getLogger(__name__)

# Task -> the package's own weights.
DEFAULT_MODELS: dict[str, str] = {
    "face-parsing": "farl-tiny-parsing",
    "face-alignment": "farl-tiny-alignment",
    "face-attributes": "farl-tiny-attributes",
    "face-analysis": "farl-tiny-parsing",
    "zero-shot": "farl-tiny",
}
_told: list[bool] = []


def default_model(task: str) -> str:
    """
    Folder of the package's own small weights for a task. The first call says, as a warning, that larger ones exist.

    Args:
        task: A key of [`DEFAULT_MODELS`].

    Raises:
        FileNotFoundError: If the package was installed without its weights.
    """
    name = DEFAULT_MODELS[task]
    try:
        folder = pretrained(name)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"No model is named, and the package's own weights {name} are missing ({error}). Name a folder or Hub "
            "model; `farl convert` makes folders of the official ones."
        ) from error
    if not _told:
        _told.append(True)
        logger.warning(
            "No model is named: using %s, small weights trained on generated faces only. `farl convert lapa FOLDER` "
            "(or ibug300w, wflw, celeba, ep64) gets the larger official ones; then name the folder.",
            name,
        )
    return folder


class DefaultModel(dict):
    """What Transformers' registry keeps as a task's default; the weights are looked for when they are needed."""

    def __init__(self, task: str):
        super().__init__(model=None)
        self.task = task

    def __getitem__(self, key: str) -> tuple[str, str]:
        return default_model(self.task), "main"


__all__ = ["DEFAULT_MODELS", "DefaultModel", "default_model"]
