"""Proportions of faces: the same for a face however it lies in the picture."""

import numpy as np
import pytest
from experiments import proportions
from experiments.proportions import PROPORTIONS, eye_frame, proportions_table
from script_cases import load_script
from synthetic_cases import make_samples


def test_eye_frame_ignores_place_size_and_roll():
    points = np.random.default_rng(0).normal(size=(68, 2))
    points[36], points[45] = (-0.5, 0), (0.5, 0)
    assert np.allclose(eye_frame(points), points)
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.allclose(eye_frame(37 * points @ turn.T + [80, 90]), points)


def test_measures():
    points = np.zeros((68, 2))
    points[17:27, 1], points[8, 1], points[30] = -0.2, 1.3, (0.1, 0.4)
    points[48], points[54] = (-0.3, 0.8), (0.3, 0.8)
    values = {name: measure(points) for name, (measure, _) in PROPORTIONS.items()}
    assert values["brow above eye (17-26)"] == pytest.approx(0.2)
    assert values["chin below eyes (8)"] == 1.3 and values["nose tip below eyes (30)"] == 0.4
    assert values["mouth width (48-54)"] == pytest.approx(0.6) and values["sideways nose tip (30)"] == 0.1


def test_command(monkeypatch, capsys):
    monkeypatch.setattr(proportions, "render_faces", make_samples)
    assert load_script("synthetic_proportions").main(["--num", "20"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(PROPORTIONS) and "| 0.29 (0.25 to 0.34) |" in table[2]
    row = proportions_table({"chin below eyes (8)": np.linspace(1, 2, 101)}).splitlines()[-1]
    assert row == "| chin below eyes (8) | 1.30 (1.04 to 1.57) | 1.50 (1.05 to 1.95) |"
