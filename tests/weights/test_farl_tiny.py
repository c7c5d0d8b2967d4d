"""The shipped weights: their folders open everywhere, and see on a real photo what a person sees."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForKeypointDetection,
    AutoModelForSemanticSegmentation,
    AutoProcessor,
)

import farl_hf
from farl_hf.hub.remote_code import export_remote_code
from farl_hf.inference.export import export_onnx, onnx_difference

KINDS = {
    "farl-tiny": AutoModel,
    "farl-tiny-parsing": AutoModelForSemanticSegmentation,
    "farl-tiny-parsing-celebamask-hq": AutoModelForSemanticSegmentation,
    "farl-tiny-alignment": AutoModelForKeypointDetection,
    "farl-tiny-alignment-wflw": AutoModelForKeypointDetection,
    "farl-tiny-attributes": AutoModelForImageClassification,
}
# `skimage.data.astronaut()` (public domain), marked by hand at tenfold enlargement: jaw from the image's left, brows,
# nose, eyes, mouth, inner mouth, as in 300W. Pixel indices; a careful second look differs by about a pixel.
ASTRONAUT = np.fromstring(
    """
    181 101  180 112  181 124  182 136  185 149  190 160  198 168.5  208 175.5  222 178
    235 176.5  246 170  255 161  261.5 151  265 140  267.5 128  269 116  269.5 104
    190 90.3  194.5 88.8  199 88.5  205.5 89.7  212.5 92
    238 93  243.5 92.4  249.5 92  255.5 92.3  261.5 95.5
    224.5 102  224 110.5  223.5 118.5  223 127  213.5 130.5  218 132  223.5 133.3  229 132.5  234 131.5
    191.5 101  197 97.5  206.5 97.3  213.5 102.5  207 104  198 103.3
    235.5 104.5  242.5 99.5  251.5 99.5  258.5 104  252 106  243 106
    202.5 138.8  209.5 138.8  217 139  223 139.8  228.5 139.2  237 139.5  245 140
    238.5 149.5  231 154  223 155  215 154  208 149.5
    204 139.5  214.5 141.8  222.5 143  230.5 142.3  243.5 141  231.5 148.5  223 149.3  213.5 148.3
    """,
    dtype=np.float32,
    sep=" ",
).reshape(68, 2)
INTER_OCULAR = float(np.linalg.norm(ASTRONAUT[36] - ASTRONAUT[45]))
FIVE_POINTS = np.stack(
    [ASTRONAUT[36:42].mean(0), ASTRONAUT[42:48].mean(0), ASTRONAUT[30], ASTRONAUT[48], ASTRONAUT[54]]
)


@pytest.fixture(scope="module")
def photo():
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="module")
def crop(photo):
    """The face for the dual encoder, as the parsers cut it."""
    processor = AutoImageProcessor.from_pretrained(farl_hf.pretrained("farl-tiny-parsing"))
    return processor(photo, face_points=FIVE_POINTS[None] + 0.5)["pixel_values"]


def parse(photo, name):
    """Class names -> (row, column) of the mean pixel and the count, of the classes that are there."""
    folder = farl_hf.pretrained(name)
    model, processor = (
        AutoModelForSemanticSegmentation.from_pretrained(folder),
        AutoImageProcessor.from_pretrained(folder),
    )
    inputs = processor(photo, face_points=FIVE_POINTS[None] + 0.5)
    with torch.no_grad():
        outputs = model(inputs["pixel_values"])
    (labels,) = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
    labels = labels.numpy()
    found = {}
    for i, label in model.config.id2label.items():
        ys, xs = np.nonzero(labels == i)
        if len(ys):
            found[label] = (np.array([xs.mean(), ys.mean()]), len(ys))
    return found


def test_the_whole_family_is_there_and_small():
    folder = Path(farl_hf.weights.__file__).parent
    assert sum(path.stat().st_size for path in folder.rglob("*.*")) < 12_000_000
    for name in KINDS:
        found = Path(farl_hf.pretrained(name))
        assert (found / "README.md").is_file()
        assert (found / "model.safetensors").is_file()


@pytest.mark.parametrize("name", KINDS)
def test_auto_classes(name):
    folder = farl_hf.pretrained(name)
    model = KINDS[name].from_pretrained(folder)
    assert model.dtype == torch.float32
    assert AutoConfig.from_pretrained(folder).image_size == 112
    processor = (
        AutoProcessor.from_pretrained(folder) if name == "farl-tiny" else AutoImageProcessor.from_pretrained(folder)
    )
    assert processor is not None
    half = KINDS[name].from_pretrained(folder, dtype=torch.bfloat16).eval()
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))

    def answer(m, x):
        with torch.no_grad():
            if name == "farl-tiny":
                return m.get_image_features(x).pooler_output.float()
            outputs = m(x)
            return (outputs.landmarks if "alignment" in name else outputs.logits).float()

    exact, rounded = answer(model, pixels), answer(half, pixels.bfloat16())
    assert (exact - rounded).norm() < 0.1 * exact.norm()


def test_remote_code(tmp_path):
    folder = shutil.copytree(farl_hf.pretrained("farl-tiny-alignment"), tmp_path / "model")
    export_remote_code(folder)
    code = (
        "import sys; sys.modules['farl_hf'] = None\n"
        "import torch\n"
        "from transformers import AutoModelForKeypointDetection\n"
        f"m = AutoModelForKeypointDetection.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "print(tuple(m(torch.zeros(1, 3, 112, 112)).landmarks.shape))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 68, 2)"


def test_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    model = AutoModelForKeypointDetection.from_pretrained(farl_hf.pretrained("farl-tiny-alignment"))
    path = export_onnx(model, tmp_path / "model.onnx")
    assert onnx_difference(model, path, batch=2) < 1e-4


def test_landmarks_of_the_astronaut(photo):
    folder = farl_hf.pretrained("farl-tiny-alignment")
    model, processor = AutoModelForKeypointDetection.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    inputs = processor(photo, face_points=FIVE_POINTS[None] + 0.5)
    with torch.no_grad():
        (landmarks,) = processor.post_process_landmarks(model(inputs["pixel_values"]), inputs["face_transforms"])
    error = np.linalg.norm(landmarks[0].numpy() - ASTRONAUT, axis=-1).mean() / INTER_OCULAR
    # Measured: 3.7 %.
    assert error < 0.06


@pytest.mark.parametrize("name", ["farl-tiny-parsing", "farl-tiny-parsing-celebamask-hq"])
def test_parts_of_the_astronaut(photo, name):
    found = parse(photo, name)
    # Left and right are the subject's: the right eye is on the left of the photo.
    places = {
        "right eyebrow": ASTRONAUT[17:22],
        "left eyebrow": ASTRONAUT[22:27],
        "right eye": ASTRONAUT[36:42],
        "left eye": ASTRONAUT[42:48],
        "nose": ASTRONAUT[27:36],
        "upper lip": ASTRONAUT[50:53],
        "lower lip": ASTRONAUT[56:59],
    }
    for part, points in places.items():
        assert part in found, f"no {part}"
        assert np.linalg.norm(found[part][0] - points.mean(axis=0)) < 0.12 * INTER_OCULAR, part
        assert found[part][1] > 30, part
    assert np.linalg.norm(found["skin"][0] - ASTRONAUT[30]) < 0.4 * INTER_OCULAR
    # Hair all around and above the eyes on average, and much of it.
    assert found["hair"][0][1] < ASTRONAUT[36:48].mean(0)[1]
    assert found["hair"][1] > 3_000


@pytest.mark.parametrize(
    "likely, unlikely", [("a woman", "a man"), ("a smiling woman", "a serious woman")], ids=["woman", "smiling"]
)
def test_zero_shot_on_the_astronaut(crop, likely, unlikely):
    folder = farl_hf.pretrained("farl-tiny")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=[likely, unlikely], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=crop, **inputs).logits_per_image[0]
    assert logits[0] > logits[1]
