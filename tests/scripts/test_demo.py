"""The README's demonstration, in its quick form."""

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
    alignment, parsing = results["scores"]["alignment"], results["scores"]["parsing"]
    # Landmarks clearly better than the mean shape, parsing over an F1 of 60, in the quick form.
    assert alignment["farl-tiny"] < 0.8 * alignment["without looking"] < alignment["random weights"]
    assert parsing["farl-tiny"] > 0.6 and parsing["farl-tiny, LoRA"] > 0.6
    assert max(parsing["without looking"], parsing["random weights"]) < 0.5
    report = (output / "report.html").read_text()
    for picture in ("photo.png", "losses.png", "photo-parsing.png", "photo-alignment.png"):
        assert (output / picture).stat().st_size > 10_000 and picture in report
    assert type(AutoModel.from_pretrained(output / "farl-pretrained")) is farl_hf.FaRLModel
    AutoModelForSemanticSegmentation.from_pretrained(output / "parsing-farl-tiny")
    AutoModelForKeypointDetection.from_pretrained(output / "alignment-farl-tiny")

    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0 and second.stdout.count("done before") == 11
    assert json.loads((output / "results.json").read_text()) == results

    other = subprocess.run([*command, "--photo", "other.jpg"], capture_output=True, text=True)
    assert other.returncode != 0 and "other settings" in other.stderr
