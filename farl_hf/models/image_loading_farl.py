"""
Photos in every form that people have them in, to one: upright RGB. Detectors and crops both start here, so that
coordinates found in a photo fit the pixels that are cut out of it.
"""

import base64
import io
import os
from typing import TypeAlias, TypeGuard

import numpy as np
import torch
from huggingface_hub import get_session
from PIL import Image, ImageOps

ImageLike: TypeAlias = Image.Image | np.ndarray | torch.Tensor | str | os.PathLike

# Pillow's single-channel modes with more than eight bits, which its own `convert("RGB")` would cut off at 255.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Floats may pass [0, 1] by this much, which is rounding and no other range.
_FLOAT_TOLERANCE = 0.01
_SECONDS_FOR_URL = 60


def to_rgb_tensor(image: ImageLike, index: int = 0) -> torch.Tensor:
    """
    (3, height, width) float32 in [0, 1].

    Args:
        image: One of

            - a path, a URL (`http://`, `https://`) or a `data:` URI of an image file,
            - a PIL image of any mode; both are turned upright by their EXIF tag, and transparency is dropped,
            - an array or tensor (height, width), or with 1, 3 or 4 channels (the fourth is dropped), which come last or
              first; where both would fit, last in arrays and first in tensors. Tensors stay on their device and keep
              their gradient.

            Floats lie in [0, 1]. Integers of 8 and 16 bits span their type's range; of wider ones the largest value
            tells whether they hold 8, 16 or all their bits. PIL's mode `"F"` holds [0, 1], or [0, 255] as Pillow's own
            conversions do, by its largest value.
        index: Position among the images of a call, for errors.

    Raises:
        ValueError: If the image cannot be read, or its kind, shape, type or range is another, or it is smaller than 2 x
            2 pixels. The message names the image.
    """
    if isinstance(image, str | os.PathLike):
        image = _open(image, index)
    if isinstance(image, Image.Image):
        pixels = torch.from_numpy(_pil_array(_upright(image, index), index))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)
    elif isinstance(image, np.ndarray | torch.Tensor):
        pixels = _channels_first(image, index)
    else:
        raise ValueError(f"Image {index} is a {type(image).__name__}: give a PIL image, a path, an array or a tensor.")
    if min(pixels.shape[-2:]) < 2:
        raise ValueError(f"Image {index} is {pixels.shape[-1]} x {pixels.shape[-2]} pixels: it needs at least 2 x 2.")
    return _to_unit_range(pixels, index).float().expand(3, -1, -1)


def to_rgb_image(image: ImageLike, index: int = 0) -> Image.Image:
    """The same as [`to_rgb_tensor`], rounded to a PIL image of mode `"RGB"`: what detectors and drawings work on."""
    if isinstance(image, str | os.PathLike):
        image = _open(image, index)
    if isinstance(image, Image.Image) and image.mode not in _DEEP_MODES:
        return _to_mode_rgb(_upright(image, index), index)
    if _is_rgb_bytes(image):
        return Image.fromarray(np.ascontiguousarray(image[..., :3]))  # what the way by floats comes to, sooner
    pixels = to_rgb_tensor(image, index).detach()
    return Image.fromarray((pixels * 255).round().clamp(0, 255).byte().movedim(0, -1).cpu().numpy())


def _is_rgb_bytes(image: ImageLike) -> TypeGuard[np.ndarray]:
    """Whether an array is (height, width, 3 or 4) uint8 and not too small."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        return False
    return image.shape[2] in (3, 4) and min(image.shape[:2]) >= 2


def _open(source: str | os.PathLike, index: int) -> Image.Image:
    name = os.fspath(source)
    shown = name if len(name) < 200 else f"{name[:60]}..."
    try:
        if isinstance(name, str) and name.startswith(("http://", "https://")):
            answer = get_session().get(name, follow_redirects=True, timeout=_SECONDS_FOR_URL)
            answer.raise_for_status()
            return Image.open(io.BytesIO(answer.content))
        if isinstance(name, str) and name.startswith("data:"):
            return Image.open(io.BytesIO(base64.b64decode(name.partition(",")[2])))
        return Image.open(name)
    except Exception as error:  # a file, a server and Pillow's decoders can raise anything
        raise ValueError(f"Image {index} ({shown}) cannot be read: {error}") from error


def _upright(image: Image.Image, index: int) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # a damaged file can raise anything
        name = getattr(image, "filename", "") or "a PIL image"
        raise ValueError(f"Image {index} ({name}) cannot be read: {error}") from error
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block can raise anything, and is no reason to lose a photo
        return image


def _to_mode_rgb(image: Image.Image, index: int) -> Image.Image:
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"Image {index} has Pillow's mode {image.mode!r}, which has no way to RGB: {error}") from error


def _pil_array(image: Image.Image, index: int) -> np.ndarray:
    """(height, width, 3) uint8, or (height, width) of more bits."""
    if image.mode not in _DEEP_MODES:
        return np.array(_to_mode_rgb(image, index))
    pixels = _native(np.asarray(image))
    if image.mode == "F" and 1 + _FLOAT_TOLERANCE < pixels.max() <= 255:
        return pixels / 255
    return pixels


def _native(array: np.ndarray) -> np.ndarray:
    """A copy in this machine's byte order, which PyTorch insists on; arrays of PIL images are read-only."""
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _channels_first(image: np.ndarray | torch.Tensor, index: int) -> torch.Tensor:
    """(1 or 3, height, width) of the image's own type."""
    shape = tuple(image.shape)
    if image.ndim == 2:
        image = image[None]
    else:
        axes = (0, 2) if isinstance(image, torch.Tensor) else (2, 0)
        channel_axis = next((axis for axis in axes if image.ndim == 3 and shape[axis] in (1, 3, 4)), None)
        if channel_axis is None:
            raise ValueError(
                f"Image {index} has shape {shape}: arrays are (height, width, 3), tensors (3, height, width)."
            )
        if channel_axis == 2:
            image = image.permute(2, 0, 1) if isinstance(image, torch.Tensor) else image.transpose(2, 0, 1)
        image = image[:3]
    if isinstance(image, np.ndarray):
        try:
            return torch.from_numpy(_native(image))
        except TypeError:
            raise _wrong_type(index, image.dtype) from None
    return image


def _to_unit_range(pixels: torch.Tensor, index: int) -> torch.Tensor:
    """Checks the range that the type stands for, and scales integers to [0, 1]."""
    if pixels.dtype == torch.bool or pixels.is_complex():
        raise _wrong_type(index, pixels.dtype)
    if pixels.is_floating_point():
        low, high = (float(value) for value in pixels.detach().aminmax())
        if not (low >= -_FLOAT_TOLERANCE and high <= 1 + _FLOAT_TOLERANCE):
            problem = "values that are not finite" if not np.isfinite([low, high]).all() else f"{low:g} to {high:g}"
            raise ValueError(
                f"Image {index} has floats, {problem}: they lie in [0, 1]; divide levels up to 255 by 255."
            )
        return pixels
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255)
    bits = torch.iinfo(pixels.dtype)
    levels = pixels.double()
    low, high = (float(value) for value in levels.aminmax())
    if low < 0:
        raise ValueError(f"Image {index} has negative integers ({low:g} to {high:g}): give levels from 0.")
    if bits.bits > 16:
        return levels / next(top for top in (255, 65535, bits.max) if high <= top)
    return levels / bits.max


def _wrong_type(index: int, dtype: np.dtype | torch.dtype) -> ValueError:
    return ValueError(f"Image {index} is of type {dtype}: give integers, or floats in [0, 1].")


__all__ = ["ImageLike", "to_rgb_image", "to_rgb_tensor"]
