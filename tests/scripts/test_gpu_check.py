"""The check of one accelerator, on CPU with tiny sizes."""

import json
import sys

import gpu_check
import pytest


@pytest.mark.slow
def test_runs_on_cpu_and_writes_its_files(tmp_path, capsys):
    assert gpu_check.main(["--device", "cpu", "--quick", "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["what"]: row for row in report["rows"]}
    assert report["device"] == "cpu" and report["failed"] == {}
    assert rows["parsing 96 px, batch 2"]["images_per_second"] > 0
    for flag in ("eager", "compiled", "activation checkpointing"):
        assert rows[f"pre-training step, batch 4, {flag}"]["samples_per_second"] > 0
    assert (
        rows["fast tests that name a device"]["passed"] >= 6
        and rows["generated faces of 64 px"]["images_per_second"] > 0
    )
    differences: dict[str, dict[str, float]] = {}
    for row in report["rows"]:
        if "difference" in row:
            differences.setdefault(row["what"], {})[row["precision"]] = row["difference"]
    assert differences.keys() == {"image features", "parsing against the CPU", "alignment against the CPU"}
    for found in differences.values():
        assert found["fp32"] < 1e-4 < found["fp16"] < found["bf16"] < 0.1
    table = (tmp_path / "report.md").read_text()
    assert table.count("\n") == len(report["rows"]) + 4 and "alignment 96 px, batch 1" in table


def test_parts_that_fail_are_named(tmp_path, capfd, monkeypatch):
    """Also one that the kernel kills, which says nothing itself."""
    endings = {
        "import sys; sys.exit('no such kernel')": "exit code 1; last said: no such kernel",
        "import os; os.kill(os.getpid(), 9)": "SIGKILL, most likely for want of memory; last said: nothing",
        "pass": "exit code 0; last said: nothing",
    }
    for code, expected in endings.items():
        assert gpu_check.run_part([sys.executable, "-c", code]) == ([], expected)
    rows, error = gpu_check.run_part([sys.executable, "-c", "import time; time.sleep(9)"], minutes=0.001)
    assert rows == [] and error == "took more than 0.001 minutes"

    wrong = {"what": "image features", "precision": "fp32", "difference": 0.5}
    answers = {
        "golden": ([wrong], None),
        "tests": ([], "exit code 1; last said: 2 failed"),
        "generator": ([{"what": "x"}], None),
    }
    monkeypatch.setattr(gpu_check, "run_part", lambda command: answers[command[command.index("--parts") + 1]])
    arguments = ["--device", "cpu", "--quick", "--parts", *answers, "--output", str(tmp_path / "report")]
    assert gpu_check.main(arguments) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"] == [wrong, {"what": "x"}] and report["failed"].keys() == {"tests", "image features"}
    assert "Failed: tests: exit code 1; last said: 2 failed" in (tmp_path / "report.md").read_text()
    assert "error: image features: differs by 0.5 in fp32" in capfd.readouterr().err


@pytest.mark.skipif(gpu_check.torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(capsys):
    assert gpu_check.main([]) == 2 and "no CUDA device" in capsys.readouterr().err
