"""`farl space`: a folder that runs as it is."""

import configparser
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from inference_cases import astronaut, save_tiny_model

from farl_hf.commands.main import main
from farl_hf.hub.space import REQUIREMENTS

pytest.importorskip("gradio")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space")
    model = save_tiny_model(folder / "my-alignment", "alignment")
    output = folder / "out"
    assert main(["space", str(output), "--alignment", model, "--title", "Points of faces"]) == 0
    return output


def test_files(space):
    assert {path.name for path in space.iterdir()} == {"app.py", "requirements.txt", "README.md", "farl_hf", "models"}
    _, head, text = (space / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["title"] == "Points of faces" and metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["sdk_version"]) and len(metadata["short_description"]) <= 60
    assert metadata["license"] == "mit" and "personal data" in text
    assert 'MODELS = {"alignment": ["models/my-alignment"]}' in (space / "app.py").read_text()
    assert not list(space.rglob("__pycache__")) and (space / "farl_hf/inference/page/index.html").is_file()
    compile((space / "app.py").read_text(), "app.py", "exec")


def test_requirements_are_those_of_the_package(space):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = (setup["options"]["install_requires"], *setup["options.extras_require"].values())
    allowed = {line for text in texts for line in text.split("\n")}
    assert set((space / "requirements.txt").read_text().split("\n")) - {""} == set(REQUIREMENTS)
    assert set(REQUIREMENTS) <= allowed


def test_other_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("mine")
    assert main(["space", str(tmp_path)]) == 2 and "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    (tmp_path / "empty").mkdir()
    assert main(["space", str(tmp_path / "new"), "--parsing", str(tmp_path / "empty")]) == 2


@pytest.mark.slow
def test_app_runs(space, tmp_path):
    """By itself: the package is the Space's own copy."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "7993"}
    process = subprocess.Popen(
        [sys.executable, str(space / "app.py")], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    try:
        address = process.stdout.readline().strip()
        assert address == "http://127.0.0.1:7993/"
        with urllib.request.urlopen(f"{address}api/tasks") as answer:
            assert json.load(answer)["tasks"]["alignment"] == ["my-alignment"]
        astronaut().save(tmp_path / "photo.jpg")
        request = urllib.request.Request(
            f"{address}api/analyze?task=alignment", (tmp_path / "photo.jpg").read_bytes(), method="POST"
        )
        with urllib.request.urlopen(request) as answer:
            (face,) = json.load(answer)["faces"]
        assert len(face["landmarks"]) == 68
    finally:
        process.terminate()
        process.wait(timeout=30)
