"""Drawing: colours that colour-blind people tell apart, landmark lines, legends, many faces."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from farl_hf import Faces
from farl_hf.datasets.flips import flip_permutation
from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_LABELS
from farl_hf.inference.drawing import LANDMARK_LINES, PALETTE, colour_labels, draw_faces, line_width, palette

# How people without red or green cones see linear RGB (Machado et al., "A Physiologically-based Model for Simulation of
# Color Vision Deficiency", 2009, severity 1).
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
SIDES = ("right", "left")
# Classes that touch each other on most faces.
NEIGHBOURS = [
    *(("skin", name) for name in ("neck", "nose", "upper lip", "lower lip", "hair", "eyeglasses", "hat", "earring")),
    *(("skin", f"{side} {part}") for side in SIDES for part in ("ear", "eyebrow", "eye")),
    *(("hair", name) for name in ("neck", "hat", "earring", "eyeglasses", "right ear", "left ear", "clothes")),
    *((f"{side} eye", name) for side in SIDES for name in (f"{side} eyebrow", "eyeglasses")),
    *((f"{side} ear", name) for side in SIDES for name in ("earring", "hat", "eyeglasses", "neck")),
    ("neck", "clothes"),
    ("neck", "necklace"),
    ("clothes", "necklace"),
    ("nose", "upper lip"),
    ("nose", "eyeglasses"),
    ("upper lip", "inner mouth"),
    ("inner mouth", "lower lip"),
    ("upper lip", "lower lip"),
]


def oklab(linear: np.ndarray) -> np.ndarray:
    """Ottosson, "A perceptual color space for image processing", 2020."""
    to_lms = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    to_lab = [
        [0.2104543, 0.7936178, -0.0040720],
        [1.9779985, -2.4285922, 0.4505937],
        [0.0259040, 0.7827718, -0.8086758],
    ]
    return np.cbrt(np.clip(linear, 0, 1) @ np.array(to_lms).T) @ np.array(to_lab).T


def distance(a: str, b: str, vision: str) -> float:
    colours = np.array([PALETTE[a], PALETTE[b]]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return float(np.linalg.norm(np.diff(oklab(linear @ VISION[vision].T), axis=0)))


@pytest.mark.parametrize("vision", VISION)
def test_classes_are_told_apart(vision):
    # 0.02 is the least difference that is seen side by side.
    assert min(distance(a, b, vision) for a, b in NEIGHBOURS) > 0.17
    assert min(distance(a, b, vision) for a, b in combinations(LAPA_LABELS, 2)) > 0.13
    assert min(distance(a, b, vision) for a, b in combinations(CELEBAMASK_HQ_LABELS, 2)) > 0.085


def test_palettes_cover_both_sets_and_any_names():
    assert set(LAPA_LABELS) | set(CELEBAMASK_HQ_LABELS) == set(PALETTE)
    others = palette([f"class {i}" for i in range(12)])
    assert len(np.unique(others, axis=0)) == 12 and others.dtype == np.uint8
    picture = colour_labels(np.array([[0, 6]], dtype=np.uint8), LAPA_LABELS)
    assert picture.getpixel((1, 0)) == PALETTE["nose"]
    with pytest.raises(ValueError, match="class 11"):
        colour_labels(np.array([[11]], dtype=np.uint8), LAPA_LABELS)


@pytest.mark.parametrize("layout", LANDMARK_LINES)
def test_landmark_lines_are_mirror_symmetric(layout):
    mirror = flip_permutation(layout)
    edges = {frozenset(pair) for line in LANDMARK_LINES[layout] for pair in zip(line, list(line)[1:], strict=False)}
    assert edges == {frozenset(mirror[i] for i in edge) for edge in edges}
    drawn = {index for line in LANDMARK_LINES[layout] for index in line}
    # Pupils and AFLW's chin are dots.
    assert set(range(layout)) - drawn == {68: set(), 98: {96, 97}, 106: {74, 83, 104, 105}, 19: {18}}[layout]


def some_faces(count: int, size: tuple[int, int] = (240, 320)) -> Faces:
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (size[1] - 60, size[0] - 60), (count, 2)).round()
    landmarks = corners[:, None] + rng.uniform(0, 50, (count, 68, 2))
    maps = [np.full((20, 20), 6, dtype=np.uint8)] * count
    boxes = np.concatenate([corners, corners + 50], axis=1)
    return Faces(
        size,
        boxes,
        landmarks[:, :5],
        np.full(count, 0.9),
        label_maps=maps,
        label_boxes=np.concatenate([corners, corners + 20], axis=1),
        label_names=LAPA_LABELS,
        landmarks=landmarks,
        attributes=np.full((count, 1), 0.9),
        attribute_names=["Wearing_Hat"],
    )


def test_only_what_is_asked_for_is_drawn():
    faces, photo = some_faces(1), Image.new("RGB", (320, 240), (10, 20, 30))
    nothing = {"boxes": False, "labels": False, "landmarks": False, "words": False}
    assert np.array_equal(draw_faces(photo, faces, **nothing), photo)
    for name in nothing:
        assert not np.array_equal(draw_faces(photo, faces, **(nothing | {name: True})), photo), name
    coloured = draw_faces(photo, faces, **(nothing | {"labels": True}), opacity=1.0)
    x, y = faces.label_boxes[0, :2].tolist()
    assert coloured.getpixel((x + 10, y + 10)) == PALETTE["nose"]
    assert photo.getpixel((x + 10, y + 10)) == (10, 20, 30), "the photo itself is left alone"


def test_many_faces_none_and_legends():
    photo = np.zeros((240, 320, 3), dtype=np.uint8)
    assert draw_faces(photo, some_faces(60)).size == (320, 240)
    assert np.array_equal(draw_faces(photo, Faces.empty((240, 320)), legend=True), photo)
    with_legend = draw_faces(photo, some_faces(1), legend=True)
    assert with_legend.height == 240 and with_legend.width > 340
    with pytest.raises(ValueError, match="another"):
        draw_faces(photo, Faces.empty((10, 10)))


def test_lines_follow_the_photos_size():
    assert [line_width(size) for size in ((1, 1), (300, 900), (3000, 4000))] == [1, 1, 10]
    # Faces without finite points or boxes are passed over.
    faces = Faces((50, 50), [[np.nan] * 4], np.full((1, 5, 2), np.nan), [0.5])
    assert draw_faces(np.zeros((50, 50, 3), np.uint8), faces).getbbox() is None
