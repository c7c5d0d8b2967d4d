"""The README's demonstration, in its quick form (about 2 minutes)."""

import json
import subprocess
import sys

import pytest
from transformers import AutoModel, AutoModelForKeypointDetection, AutoModelForSemanticSegmentation

import farl_hf


@pytest.mark.slow
def test_quick_demo_and_a_second_run_that_skips_everything(tmp_path):
    output = tmp_path / "demo_output"
    command = [sys.executable, "scripts/demo.py", "--quick", "--output", str(output)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    results = json.loads((output / "results.json").read_text())
    assert len(results["finetuning"]) == 8 and results["lora"]["f1"] == pytest.approx(results["lora"]["f1_reloaded"])
    report = (output / "report.html").read_text()
    assert "generated faces" in report and "convert ep64" in report
    for picture in ("losses.png", "predictions.png", "real_photo.png"):
        assert (output / picture).stat().st_size > 10_000 and picture in report
    assert type(AutoModel.from_pretrained(output / "farl-tiny")) is farl_hf.FaRLModel
    AutoModelForSemanticSegmentation.from_pretrained(output / "parsing-96-pre-trained")
    AutoModelForKeypointDetection.from_pretrained(output / "alignment-96-pre-trained")

    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0 and second.stdout.count("done before") == 13
    assert json.loads((output / "results.json").read_text()) == results
