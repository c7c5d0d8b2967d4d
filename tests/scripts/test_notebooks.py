"""Notebooks: stripped of outputs, and every cell runs, at tiny size."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "scripts/notebooks").glob("*.ipynb"))
# In the place of the cell tagged "parameters".
TINY = {
    "finetune_own_data": "NUM_FACES, EPOCHS, IMAGE_SIZE = 12, 1, 64",
    "pretrain": "NUM_FACES, STEPS, BATCH, IMAGE_SIZE = 16, 2, 4, 64",
    "publish": 'REPO_ID = "me/farl-tiny-parsing"',
}


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped(path):
    assert path.stat().st_size < 20_000
    cells = read(path)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert cells[0]["cell_type"] == "markdown" and "pip" in "".join(code[0]["source"])
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        # Plain Python, so that this test runs what a reader runs.
        assert not any(line.startswith(("!", "%")) for line in cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_installs_its_checkout(path, tmp_path, monkeypatch):
    """The first cell, where the package is missing: from the checkout around the notebook, or from the place named."""
    code = compile(
        "".join(next(cell["source"] for cell in read(path) if cell["cell_type"] == "code")), path.name, "exec"
    )
    requirements = []
    monkeypatch.delenv("FARL_SOURCE", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.check_call", lambda command: requirements.append(Requirement(command[5])))
    for folder, source in ((path.parent, None), (tmp_path, str(ROOT)), (tmp_path, "git+https://host/owner/farl_hf")):
        if source:
            monkeypatch.setenv("FARL_SOURCE", source)
        with contextlib.chdir(folder):
            exec(code, {})
    assert [found.url for found in requirements] == [ROOT.as_uri()] * 2 + ["git+https://host/owner/farl_hf"]
    used = "\n".join("".join(cell["source"]) for cell in read(path))
    extra = "synthetic" if "farl_hf.synthetic" in used else "detection"
    assert all(found.name == "farl_hf" and found.extras == {extra} for found in requirements)
    monkeypatch.delenv("FARL_SOURCE")
    with contextlib.chdir(tmp_path), pytest.raises(FileNotFoundError, match="FARL_SOURCE"):
        exec(code, {})


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    script = tmp_path / f"{path.stem}.py"
    parts = []
    for cell in read(path):
        if cell["cell_type"] == "code":
            tagged = "parameters" in cell["metadata"].get("tags", ())
            parts.append(TINY[path.stem] if tagged else "".join(cell["source"]))
    script.write_text("\n\n".join(parts))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
