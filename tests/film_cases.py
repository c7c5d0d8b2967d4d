"""Films for tests: a pattern that moves, written to a file, and one with a tone."""

from fractions import Fraction
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


def write_film_with_tone(path: Path, codec: str, onset: float = 0.5, seconds: float = 1.0, rate: int = 48000) -> Path:
    """The square at 25 frames per second, silence, and from `onset` on a tone in a codec."""
    import av

    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    wave[: round(onset * rate)] = 0
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("mpeg4", rate=25), container.add_stream(codec, rate=rate)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        sound.layout = "mono"
        for i in range(round(25 * seconds)):
            frame = av.VideoFrame.from_image(moving_square(i))
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(pictures.encode(frame))
        heard = av.AudioFrame.from_ndarray((wave[None] * 32767).astype(np.int16), format="s16", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(sound.format, sound.layout, rate, sound.codec_context.frame_size or 1024)
        for part in (*resampler.resample(heard), *resampler.resample(None), None):
            container.mux(sound.encode(part))
        container.mux(pictures.encode(None))
    return path
