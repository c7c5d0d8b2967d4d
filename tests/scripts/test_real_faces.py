"""The score on real frames, on frames of three coloured dots and with a model that finds these."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from experiments import real_faces
from PIL import Image

SIZE, DOTS = 96, {"red": (40.0, 70.0), "green": (30.0, 30.0), "blue": (62.0, 34.0)}
# Points 36 and 45, by which errors are divided, are a green and a blue one.
COLOURS = np.repeat([0, 1, 2], [36, 9, 23])


def find_dots(model, crops, flip=False):
    weights = crops - crops.amin(dim=(2, 3), keepdim=True)
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    at = (torch.arange(crops.shape[-1]) + 0.5) / crops.shape[-1]
    centres = torch.stack([weights.sum(dim=2) @ at, weights.sum(dim=3) @ at], dim=-1)
    return centres[:, torch.from_numpy(COLOURS)]


def frames(folder, right, down=0.0):
    """Frames whose annotations lie so many pixels beside the dots."""
    (folder / "data" / "test").mkdir(parents=True)
    y, x = np.mgrid[:100, :110]
    image = np.stack([np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) for cx, cy in DOTS.values()], axis=-1)
    Image.fromarray((255 * image).astype(np.uint8)).save(folder / "data" / "test" / "a.png")
    points = np.array(list(DOTS.values()))[COLOURS] + [right, down]
    with (folder / "data" / "test_frames_keypoints.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["", *range(136)], ["a.png", *points.reshape(-1)]])
    return folder


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (2.0, 0.0), (-1.0, 1.5)])
def test_annotations_beside_what_they_mark_are_told_from_errors(tmp_path, monkeypatch, right, down):
    monkeypatch.setattr(real_faces, "predict_landmarks", find_dots)
    model = SimpleNamespace(config=SimpleNamespace(image_size=SIZE))
    scores = real_faces.score_keypoints(model, frames(tmp_path, right, down), face_scale=1.0)
    span = np.hypot(32, 4) / 100  # in percent
    assert scores["aligned"] == pytest.approx(np.hypot(right, down) / span, abs=0.3)
    assert scores["shift"] == pytest.approx(right / span, abs=0.2)
    assert scores["unshifted"] == pytest.approx(abs(down) / span, abs=0.3)
    assert scores["frames"] == 1
