"""Faces in photos: the protocol that this package expects of a detector, and OpenCV's YuNet behind it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image

YUNET_REPOSITORY, YUNET_FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
# Of the released file (232,589 bytes; MIT), as its users on GitHub pin it.
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# Path of a local copy of the file.
YUNET_VARIABLE = "FARL_YUNET"


@dataclass(frozen=True)
class DetectedFaces:
    """
    The faces of one photo, the most certain first. Coordinates are (x, y) in pixel indices of the photo, the centre of
    the first pixel at (0, 0).

    Attributes:
        boxes: (faces, 4) float32: left, top, right, bottom.
        points: (faces, 5, 2) float32: eyes, nose tip, mouth corners, the image's left side first.
        scores: (faces,) float32 in [0, 1].
    """

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class FaceDetector(Protocol):
    """Whatever finds faces."""

    def detect(self, image: Image.Image) -> DetectedFaces:
        """The faces of an RGB photo, possibly none."""
        ...


class YuNetDetector:
    """
    YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023) in `cv2.FaceDetectorYN`. Needs the extra
    `detection`.

    Args:
        path: The ONNX file; by default that of the environment variable `FARL_YUNET`, else the Hub's
            `opencv/face_detection_yunet`, fetched once.
        threshold: Least score of a face.
        largest_side: Larger photos are searched at this size: where faces are small in a large photo, raise it.

    Raises:
        ImportError: If OpenCV is not installed.
        FileNotFoundError: If the given file is missing.
        ValueError: If the downloaded file is not the released one, or OpenCV cannot read a file.
    """

    def __init__(self, path: str | Path | None = None, threshold: float = 0.7, largest_side: int = 640):
        try:
            import cv2
        except ImportError:
            raise ImportError("Detecting faces needs OpenCV: pip install 'farl_hf[detection]'.") from None
        path = path or os.environ.get(YUNET_VARIABLE) or _download_yunet()
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is missing: it should be YuNet's {YUNET_FILE}.")
        try:
            self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score_threshold=threshold)
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot read {path} as YuNet's model: {error}") from error
        self._resize = cv2.resize
        self.largest_side = largest_side

    def detect(self, image: Image.Image) -> DetectedFaces:
        """See [`FaceDetector`]."""
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        faces = self._search(pixels, self.largest_side)
        # A face that fills the picture is larger than what YuNet has seen, and is found twice or not at all.
        if not len(faces) or ((faces[:, 2] - faces[:, 0]).max() > 0.6 * image.width):
            smaller = self._search(pixels, self.largest_side // 2)
            faces = smaller if len(smaller) else faces
        faces = faces[np.argsort(-faces[:, 14])]
        return DetectedFaces(faces[:, :4], faces[:, 4:14].reshape(-1, 5, 2), faces[:, 14])

    def _search(self, pixels: np.ndarray, side: int) -> np.ndarray:
        """Rows of box, five points and score in the photo's pixels: (faces, 15) float32."""
        height, width = pixels.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self._detector.setInputSize(size)
        faces = self._detector.detect(self._resize(pixels, size) if scale < 1 else pixels)[1]
        if faces is None:
            return np.zeros((0, 15), dtype=np.float32)
        faces = faces.astype(np.float32)
        faces[:, 2:4] += faces[:, :2]
        # Pixel centres sit half a pixel from the edges that the scale is about.
        faces[:, :14] = (faces[:, :14] + 0.5) * np.tile(np.divide((width, height), size), 7) - 0.5
        return faces


def _download_yunet() -> str:
    path = hf_hub_download(YUNET_REPOSITORY, YUNET_FILE)
    if hashlib.sha256(Path(path).read_bytes()).hexdigest() != YUNET_SHA256:
        raise ValueError(f"{path} is not the YuNet that this package knows: delete it, or name a file by `path`.")
    return path
