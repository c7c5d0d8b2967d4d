"""Generated faces: pictures of one call against the same pictures one by one."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from farl_hf.synthetic import SyntheticFaceConfig, render_face_sample, render_faces

from .measuring import Case


def synthetic_cases(sizes: tuple[int, ...] = (64, 224), count: int = 16) -> Iterator[Case]:
    """All effects on; the time of a row divided by `count` is that of a picture."""
    for size in sizes:
        yield Case(
            "synthetic", f"{count} faces of {size} px, one call against one by one", partial(_faces, size, count), 0
        )


def _faces(size: int, count: int, side: str) -> Callable[[], torch.Tensor]:
    config, seeds = SyntheticFaceConfig(image_size=size), range(100, 100 + count)

    def draw() -> torch.Tensor:
        samples = render_faces(seeds, config) if side == "ours" else [render_face_sample(i, config) for i in seeds]
        return torch.from_numpy(np.stack([sample.image for sample in samples]))

    return draw
