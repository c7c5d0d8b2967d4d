"""The detector around OpenCV's YuNet; its model file is not here, so OpenCV's part is played by a stand-in."""

import cv2
import numpy as np
import pytest
from PIL import Image

from farl_hf import detection
from farl_hf.inference.detection import YuNetDetector


class StandIn:
    """Finds one face at fixed shares of the picture, as `cv2.FaceDetectorYN` would, in the pixels it is given."""

    def __init__(self, face: np.ndarray, smallest: int = 0):
        self.face, self.smallest, self.sizes = face, smallest, []

    def setInputSize(self, size):
        self.sizes.append(size)

    def detect(self, pixels):
        height, width = pixels.shape[:2]
        assert (width, height) == self.sizes[-1] and pixels.dtype == np.uint8
        if max(width, height) < self.smallest:
            return 0, None
        scale = np.tile([width, height], 7)
        # Edges of pixels are at 0 and 1 of the shares; OpenCV counts their centres as 0.
        row = self.face[:14] * scale - 0.5
        row[2:4] = self.face[2:4] * (width, height)
        low = np.append(row, 0.75)
        return 1, np.stack([low, np.append(row, self.face[14])]).astype(np.float32)


FACE = np.array([0.25, 0.5, 0.25, 0.25, 0.3, 0.55, 0.4, 0.55, 0.35, 0.6, 0.3, 0.7, 0.4, 0.7, 0.9])


def detector_of(stand_in, monkeypatch, tmp_path) -> YuNetDetector:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"stand-in")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args, **options: stand_in)
    return YuNetDetector(path)


@pytest.mark.parametrize("size", ((300, 200), (2000, 1500)))
def test_faces_are_in_the_photos_pixels(size, monkeypatch, tmp_path):
    detector = detector_of(StandIn(FACE), monkeypatch, tmp_path)
    faces = detector.detect(Image.new("RGB", size))
    width, height = size
    assert len(faces) == 2 and faces.scores.tolist() == pytest.approx([0.9, 0.75])
    expected = np.array([0.25 * width, 0.5 * height, 0.5 * width, 0.75 * height]) - 0.5
    assert np.abs(faces.boxes[0] - expected).max() < 1e-2 * max(size) / 100
    assert np.abs(faces.points[0, 2] - (np.array([0.35 * width, 0.6 * height]) - 0.5)).max() < 0.05
    assert faces.points.shape == (2, 5, 2)


def test_large_faces_are_searched_at_half_the_size(monkeypatch, tmp_path):
    large = FACE.copy()
    large[2] = 0.7
    stand_in = StandIn(large)
    detector_of(stand_in, monkeypatch, tmp_path).detect(Image.new("RGB", (1280, 1280)))
    assert stand_in.sizes == [(640, 640), (320, 320)]
    nothing = StandIn(FACE, smallest=10_000)
    assert len(detector_of(nothing, monkeypatch, tmp_path).detect(Image.new("RGB", (64, 64)))) == 0


def test_wrong_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        YuNetDetector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"bad\.onnx"):
        YuNetDetector(tmp_path / "bad.onnx")
    # A download that is not the released file.
    monkeypatch.delenv(detection.YUNET_VARIABLE, raising=False)
    monkeypatch.setattr(detection, "hf_hub_download", lambda repository, name: str(tmp_path / "bad.onnx"))
    with pytest.raises(ValueError, match="is not the YuNet"):
        YuNetDetector()
    monkeypatch.setenv(detection.YUNET_VARIABLE, str(tmp_path / "local.onnx"))
    with pytest.raises(FileNotFoundError, match=r"local\.onnx"):
        YuNetDetector()
