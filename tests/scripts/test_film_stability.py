"""What the measures of steadiness measure, on made-up answers; the command runs."""

import json

import numpy as np
import pytest
from experiments import film_stability
from experiments.film_stability import error, flicker, jitter, lag, mean_f1
from script_cases import load_script

TIMES = np.arange(100) / 25
TRUTH = np.zeros((100, 68, 2)) + np.linspace(0, 60, 68)[:, None] * [1, 0]
EYES = 60 * 9 / 67  # points 36 and 45


def test_jitter_and_error_are_in_eye_distances():
    noise = np.random.default_rng(0).normal(0, 1, TRUTH.shape)
    assert jitter(TRUTH + noise + 5, TRUTH) == pytest.approx(100 * np.sqrt(2) / EYES, rel=0.03)
    assert jitter(TRUTH + 5, TRUTH) < 1e-9
    assert error(TRUTH + np.array([3, 4]), TRUTH) == pytest.approx(100 * 5 / EYES)


@pytest.mark.parametrize("delay", (0.0, 0.05, 0.12))
def test_lag_is_the_delay(delay):
    """Of a moving face, whatever the network's constant and proportional errors."""
    path = TRUTH + np.stack([20 * np.sin(3 * TIMES), 10 * np.cos(2 * TIMES)], axis=1)[:, None]
    moved = TRUTH + np.stack([20 * np.sin(3 * (TIMES - delay)), 10 * np.cos(2 * (TIMES - delay))], axis=1)[:, None]
    assert lag(0.8 * moved + 7, path) == pytest.approx(1000 * delay, abs=4)


def test_flicker_leaves_out_what_truly_changes():
    truth = [np.ones((10, 10), int) for _ in range(3)]
    truth[1][:5] = 2
    truth[2][:5] = 2
    for labels in truth:
        labels[9] = 0
    found = [labels.copy() for labels in truth]
    assert flicker(found, truth) == 0
    found[2][6] = 3
    # The first pair has 40 pixels that stay, the second 90.
    assert flicker(found, truth) == pytest.approx(100 * 10 / 130)


def test_mean_f1_leaves_background_out():
    truth = [np.array([[0, 0, 1, 1], [2, 2, 2, 2]])]
    assert mean_f1(truth, truth) == 100
    assert mean_f1([np.array([[1, 1, 1, 1], [0, 0, 0, 0]])], truth) == pytest.approx(100 * (2 / 3) / 2)


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    pytest.importorskip("anny")
    monkeypatch.setattr(film_stability, "SETTLING", 1)
    # Three frames are too short to have one.
    monkeypatch.setattr(film_stability, "lag", lambda *_: 0.0)
    options = ["--output", str(tmp_path), "--people", "1", "--frames", "3", "--size", "64", "--quiet"]
    assert load_script("film_stability").main(options) == 0
    table = capsys.readouterr().out
    assert "| still | jitter of landmarks" in table and "| talking | mean F1" in table and "nan" not in table
    means = json.loads((tmp_path / "film_stability.json").read_text())["means"]
    assert set(means) == set(film_stability.MOTIONS) and all(
        set(both) == {"off", "on"} for names in means.values() for both in names.values()
    )
