"""Tiny task models in folders, and photos with none, one and several faces, for the tests of inference."""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from farl_hf import (
    FaRLConfig,
    FaRLFaceImageProcessor,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
)
from farl_hf.datasets.labels import CELEBA_ATTRIBUTES, LAPA_LABELS

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 99}
_PROCESSORS = {
    "parsing": {"align": "lapa", "warp_factor": 0.8},
    "alignment": {"align": "box", "target_face_scale": 0.8},
    "attributes": {"align": "celeba", "convention": "facer"},
}
_MODELS = {
    "parsing": (FaRLForFaceParsing, {"id2label": dict(enumerate(LAPA_LABELS))}),
    "alignment": (FaRLForFaceAlignment, {"num_landmarks": 68, "heatmap_size": 16}),
    "attributes": (
        FaRLForImageClassification,
        {"id2label": dict(enumerate(CELEBA_ATTRIBUTES)), "problem_type": "multi_label_classification"},
    ),
}


def save_tiny_model(folder: Path, task: str, **processor: object) -> str:
    """A model of random weights for `"parsing"`, `"alignment"` or `"attributes"` and its processor."""
    torch.manual_seed(0)
    model_class, options = _MODELS[task]
    config = FaRLConfig(text_config=dict(TEXT), vision_config=dict(VISION), head_channels=16, **options)
    model_class(config).eval().save_pretrained(folder)
    FaRLFaceImageProcessor(**{"size": 32, **_PROCESSORS[task], **processor}).save_pretrained(folder)
    return str(folder)


def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())


def photo_without_faces() -> Image.Image:
    return Image.fromarray(skimage.data.coffee())


def photo_with_faces(count: int = 3) -> Image.Image:
    """The astronaut's face several times, in several sizes and tilts, before a plain wall."""
    face = astronaut().crop((110, 0, 360, 250))
    wall = Image.new("RGB", (300 * count, 400), (120, 130, 140))
    for i in range(count):
        size, degrees = 260 - 30 * (i % 3), (0, 35, -70, 180)[i % 4]
        mask = Image.new("L", face.size, 255).rotate(degrees).resize((size, size))
        wall.paste(face.rotate(degrees, Image.Resampling.BICUBIC).resize((size, size)), (300 * i + 10, 50), mask)
    return wall


def three_photos() -> list[Image.Image]:
    """None, one and three faces."""
    return [photo_without_faces(), astronaut(), photo_with_faces()]


class FixedDetector:
    """Finds the same boxes in every photo, as shares of its size; with points unless told otherwise."""

    def __init__(self, *shares: tuple[float, float, float, float], points: bool = False):
        self.shares, self.points, self.calls = np.array(shares, dtype=float).reshape(-1, 4), points, 0

    def detect(self, image: Image.Image):
        from farl_hf import Faces

        self.calls += 1
        boxes = self.shares * np.tile(image.size, 2)
        template = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]])
        points = boxes[:, None, :2] + template * (boxes[:, None, 2:] - boxes[:, None, :2])
        scores = np.linspace(0.95, 0.75, len(boxes))
        return Faces((image.height, image.width), boxes, points if self.points else None, scores)
