"""The check of one accelerator, on CPU with tiny sizes."""

import json

import gpu_check
import pytest


@pytest.mark.slow
def test_runs_on_cpu_and_writes_its_files(tmp_path, capsys):
    assert gpu_check.main(["--device", "cpu", "--quick", "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["what"]: row for row in report["rows"]}
    assert report["device"] == "cpu" and rows["parsing 96 px, batch 2"]["images_per_second"] > 0
    assert rows["pre-training step, batch 4, eager"]["samples_per_second"] > 0
    exact = [row["difference"] for row in report["rows"] if "difference" in row and row["precision"] == "fp32"]
    assert len(exact) == 2 and max(exact) < 1e-4
    table = (tmp_path / "report.md").read_text()
    assert table.count("\n") == len(report["rows"]) + 4 and "alignment 96 px, batch 1" in table
    if not gpu_check.torch.cuda.is_available():
        assert gpu_check.main(["--output", str(tmp_path / "none")]) == 2 and "no CUDA device" in capsys.readouterr().err
