"""Decoding an image straight to the model's size, and to the codebook's where that differs."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .faults import SampleFault

# Anything else behind the ending .jpg is no image of ours, and some of Pillow's other formats run programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO")
_SMALLEST_SIDE = 8
# Pillow's own limit, above which it suspects a decompression bomb.
_MOST_PIXELS = 89_478_485
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageViews:
    """
    Makes the square views of an image. Everything random comes from the generator that is passed in.

    Attributes:
        image_size: Side of the model's view in pixels; bicubic.
        codebook_size: Side of the codebook's view of the same crop; Lanczos, as in BEiT. `None` for no such view.
        crop_scale: Range of the crop's share of the image's area, in [0, 1]; `(1, 1)` with `crop_ratio` `(1, 1)` is the
            largest square at a random place.
        crop_ratio: Range of the crop's width over height.
        flip: Mirror every second image. Captions say "left" and "right", so this is off in the recipes.
        face_crop_scale: Crop a square around one random face instead, of a side in this range times the longer side of
            its box. Images without detections get the plain crop.
    """

    image_size: int = 224
    codebook_size: int | None = None
    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    face_crop_scale: tuple[float, float] | None = None

    def __call__(
        self, data: bytes, rng: random.Random, metadata: dict[str, Any], relative_box: Box | None = None
    ) -> list[np.ndarray]:
        """
        Args:
            data: An encoded image.
            rng: Of the crop and the flip.
            metadata: With `faces`, a list of LAION-Face's `(box, five points, score)` in pixels, and `original_width`
                if the image was resized since.
            relative_box: Left, top, right and bottom of a fixed crop as shares of width and height; then nothing is
                random.

        Returns:
            The model's view (image_size, image_size, 3) and the codebook's if there is one, uint8 RGB.

        Raises:
            SampleFault: If the image cannot be used.
        """
        image, orientation = open_image(data)
        width, height = image.size
        if orientation >= 5:
            width, height = height, width
        if relative_box is None:
            box = self._random_box(width, height, rng, metadata)
            mirrored = self.flip and rng.random() < 0.5
        else:
            box = (relative_box[0] * width, relative_box[1] * height, relative_box[2] * width, relative_box[3] * height)
            mirrored = False
        image = _decode(image, orientation, largest_reduction=min(box[2] - box[0], box[3] - box[1]) / self.image_size)
        factor_x, factor_y = image.width / width, image.height / height
        box = (
            max(0.0, box[0] * factor_x),
            max(0.0, box[1] * factor_y),
            min(image.width, box[2] * factor_x),
            min(image.height, box[3] * factor_y),
        )
        sizes = [(self.image_size, Image.Resampling.BICUBIC)]
        if self.codebook_size is not None:
            sizes.append((self.codebook_size, Image.Resampling.LANCZOS))
        views = []
        for size, resampling in sizes:
            view = np.asarray(image.resize((size, size), resampling, box=box))
            views.append(view[:, ::-1] if mirrored else view)
        return views

    def _random_box(self, width: int, height: int, rng: random.Random, metadata: dict[str, Any]) -> Box:
        faces = metadata.get("faces")
        if self.face_crop_scale is not None and faces:
            return self._face_box(width, height, rng, faces, metadata.get("original_width") or width)
        for _ in range(10):
            area = width * height * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(math.log(self.crop_ratio[0]), math.log(self.crop_ratio[1])))
            crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if crop_width <= width and crop_height <= height:
                break
        else:  # the image is longer than any allowed ratio: as much of it as the nearest ratio allows
            ratio = min(max(width / height, self.crop_ratio[0]), self.crop_ratio[1])
            crop_width, crop_height = min(width, height * ratio), min(height, width / ratio)
        left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
        return left, top, left + crop_width, top + crop_height

    def _face_box(self, width: int, height: int, rng: random.Random, faces: list, detected_width: float) -> Box:
        try:
            left, top, right, bottom = (float(value) * width / detected_width for value in rng.choice(faces)[0])
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:  # ArithmeticError: 1e400 as an integer
            raise SampleFault("bad_metadata") from error
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise SampleFault("bad_metadata")
        assert self.face_crop_scale is not None
        side = min(max(right - left, bottom - top, _SMALLEST_SIDE) * rng.uniform(*self.face_crop_scale), width, height)
        left = min(max((left + right - side) / 2, 0), width - side)
        top = min(max((top + bottom - side) / 2, 0), height - side)
        return left, top, left + side, top + side


def open_image(data: bytes) -> tuple[Image.Image, int]:
    """The image, undecoded, and its EXIF orientation (1 to 8; from 5 on width and height change places)."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise SampleFault("bad_image_size") from error
    except Exception as error:  # Pillow's readers raise many classes on broken headers
        raise SampleFault("not_an_image") from error
    if min(image.size) < _SMALLEST_SIDE or image.width * image.height > _MOST_PIXELS:
        raise SampleFault("bad_image_size")
    # libjpeg reads zeros as grey without a word, as a download leaves them that reserved the file and broke off.
    if image.format in ("JPEG", "MPO") and data.endswith(bytes(64)) and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise SampleFault("truncated_image")
    orientation = 1
    if "exif" in image.info:
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # an unreadable EXIF block does not spoil the image
            orientation = 1
    return image, orientation if orientation in _UPRIGHT else 1


def _decode(image: Image.Image, orientation: int, largest_reduction: float) -> Image.Image:
    """
    Decodes to upright RGB. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is no more than
    `largest_reduction`, which skips most of the work on large photos.
    """
    try:
        if image.format == "JPEG" and largest_reduction >= 2:
            reduction = max(factor for factor in (2, 4, 8) if factor <= largest_reduction)
            image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        if image.mode != "RGB":
            image = image.convert("RGB")
    except OSError as error:
        raise SampleFault("truncated_image" if "truncated" in str(error) else "corrupt_image") from error
    except Exception as error:  # as above
        raise SampleFault("corrupt_image") from error
    return image.transpose(_UPRIGHT[orientation]) if orientation != 1 else image
