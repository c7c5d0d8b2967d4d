"""The training of the small weights from nothing, at a size that shows only that it runs and goes on."""

import csv
import json
import subprocess
import sys

import pytest
from transformers import AutoModelForKeypointDetection

import farl_hf
from farl_hf.weights import WEIGHTS_VARIABLE

pytest.importorskip("anny")


@pytest.mark.slow
def test_from_nothing_to_a_family(tmp_path, monkeypatch):
    command = [sys.executable, "scripts/train_farl_tiny.py", "--quick", "--output", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {"nme", "f1", "attribute_auc", "zero_shot_auc"} <= scores.keys()
    card = (tmp_path / "farl-tiny.md").read_text()
    assert "pre-training 0.1 min" in card and "16 faces of the held-out style" in card
    assert (tmp_path / "farl-tiny-worst.jpg").stat().st_size > 10_000
    with (tmp_path / "run/curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["stage"] for row in rows} == {"pre-training", "joint, 64 px", "joint, 96 px", "joint, 112 px"}
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "family"))
    model = AutoModelForKeypointDetection.from_pretrained(farl_hf.pretrained("farl-tiny-alignment"))
    assert model.config.image_size == 112

    # Everything is there: the same command only packs and scores again, to the same result.
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    with (tmp_path / "run/curve.csv").open() as file:
        assert list(csv.DictReader(file)) == rows
