"""Films for tests: a pattern that moves, written to a file."""

from pathlib import Path

import numpy as np
from PIL import Image

from farl_hf.inference.films import FilmWriter


def moving_square(number: int, size: tuple[int, int] = (64, 96)) -> Image.Image:
    """Frame `number`, (height, width) pixels: red above, dark below, a white square that goes to the right."""
    pixels = np.full((*size, 3), 40, dtype=np.uint8)
    pixels[: size[0] // 4] = (200, 30, 30)
    left = (3 * number) % (size[1] - 16)
    pixels[24:40, left : left + 16] = 240
    return Image.fromarray(pixels)


def write_film(path: Path, num_frames: int = 12, fps: float = 25.0, size: tuple[int, int] = (64, 96)) -> Path:
    with FilmWriter(path, size, fps) as writer:
        for i in range(num_frames):
            writer.write(i / fps, lambda i=i: moving_square(i, size))
    return path
