"""The README: every Python block runs, printed outputs are what it prints, commands and links exist."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from film_cases import write_film
from PIL import Image

import farl_hf
from farl_hf.commands.main import build_parser
from farl_hf.finetuning.lora import TASK_CONFIG_FOLDER, add_adapter
from farl_hf.models.tokenization import build_processor
from farl_hf.weights import WEIGHTS_VARIABLE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WEIGHTS = ROOT / "farl_hf/weights/family.json"


def blocks(language: str) -> list[tuple[int, str, str | None, bool]]:
    """
    Fenced blocks of a language: line number, text, the output printed in a block `text` right below (or `None`), and
    whether a comment `<!-- slow -->` stands right above.
    """
    found = []
    pattern = rf"(<!-- slow -->\n+)?^```{language}\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    for match in re.finditer(pattern, README, re.MULTILINE | re.DOTALL):
        line = README.count("\n", 0, match.start(2)) + 1
        found.append((line, match[2], match[3], bool(match[1])))
    return found


PYTHON, SHELL = blocks("python"), blocks("bash")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with small stand-ins for the files that blocks name."""
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    farl_hf.FaRLForPreTraining(farl_hf.FaRLConfig.from_preset("tiny")).save_pretrained(folder / "farl-base")
    build_processor(96).save_pretrained(folder / "farl-base")
    small = {"image_size": 64, "head_channels": 32, "neck_channels": 32}
    labels = {"id2label": {0: "background", 1: "skin", 2: "hair"}}
    for name, model_class, options in (
        ("farl-lapa", farl_hf.FaRLForFaceParsing, labels),
        ("farl-wflw", farl_hf.FaRLForFaceAlignment, {"num_landmarks": 98}),
        ("farl-ibug300w", farl_hf.FaRLForFaceAlignment, {"num_landmarks": 68}),
        ("farl-celeba", farl_hf.FaRLForImageClassification, labels),
    ):
        config = farl_hf.FaRLConfig.from_preset("tiny", **small, **options)
        model_class(config).save_pretrained(folder / name)
        farl_hf.FaRLFaceImageProcessor(align="lapa", size=64, warp_factor=0.0).save_pretrained(folder / name)
    model = farl_hf.FaRLForFaceAlignment.from_pretrained(folder / "farl-base", num_landmarks=98, **small)
    add_adapter(model, ("pyramid", "heatmap_head"), rank=2).save_pretrained(folder / "wflw-lora")
    model.config.save_pretrained(folder / "wflw-lora" / TASK_CONFIG_FOLDER)
    noise = np.random.default_rng(0).integers(0, 256, (260, 240, 3), dtype=np.uint8)
    for name in ("face.jpg", "photo.jpg", "group.jpg", "empty.jpg"):
        Image.fromarray(noise).save(folder / name)
    write_film(folder / "film.mp4", num_frames=3)
    return folder


def run(code: str, line: int, folder: Path) -> str:
    """What a block prints, run by itself in the workplace."""
    if re.search(r"farl_hf\.(pretrained|analyze)|AnalyzeBatch|boxes=", code) and not (
        WEIGHTS.is_file() or WEIGHTS_VARIABLE in os.environ
    ):
        pytest.skip("needs the package's weights")
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile("\n" * (line - 1) + code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def cases(slow: bool) -> list:
    return [pytest.param(*block[:3], id=f"line {block[0]}") for block in PYTHON if block[3] == slow]


@pytest.mark.parametrize("line, code, expected", cases(slow=False))
def test_python_block(line, code, expected, workplace):
    printed = run(code, line, workplace)
    assert expected is None or printed == expected


@pytest.mark.slow
@pytest.mark.parametrize("line, code, expected", cases(slow=True))
def test_slow_python_block(line, code, expected, workplace):
    printed = run(code, line, workplace)
    assert expected is None or printed == expected


def commands() -> list[tuple[int, list[str]]]:
    """Commands of all shell blocks, continued lines joined, without comments."""
    found = []
    for line, text, *_ in SHELL:
        for command in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(command, comments=True):
                found.append((line, words))
    return found


def test_farl_commands_parse(capsys):
    parsed = 0
    for line, words in commands():
        if words[0] == "farl" and words[1:2] not in ([], ["COMMAND"]):
            try:
                build_parser().parse_args(words[1:])
            except SystemExit as error:
                raise AssertionError(f"README line {line}: {' '.join(words)}: {capsys.readouterr().err}") from error
            parsed += 1
    assert parsed >= 3


def test_scripts_and_files_of_commands_exist():
    for line, words in commands():
        for word in words:
            if word.startswith(("scripts/", "tests/")):
                assert (ROOT / word).exists(), f"README line {line} names {word}"


@pytest.mark.slow
def test_flags_of_scripts_exist():
    helps = {}
    for line, words in commands():
        script = next((word for word in words if re.fullmatch(r"scripts/\w+\.py", word)), None)
        if script is None:
            continue
        if script not in helps:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
            done = subprocess.run(
                [sys.executable, script, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-1000:]
            helps[script] = done.stdout
        for word in words[words.index(script) + 1 :]:
            if word.startswith("--"):
                assert re.search(rf"{word.split('=')[0]}\b", helps[script]), f"README line {line}: {script} {word}"


def test_links_and_headings():
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_expressions_after_the_import():
    """Names that the text puts in backquotes with the package's name are there after `import farl_hf`."""
    for expression in sorted(set(re.findall(r"`(farl_hf(?:\.\w+)+)(?![\w*.])", README))):
        value = farl_hf
        for name in expression.split(".")[1:]:
            assert hasattr(value, name), expression
            value = getattr(value, name)


def test_citation():
    import yaml

    (block,) = blocks("yaml")
    citation = yaml.safe_load(block[1])
    assert citation["version"] == farl_hf.__version__ and len(citation["references"][0]["authors"]) == 10


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the package's weights")
def test_front_page():
    picture = ROOT / "model_cards/front_page.jpg"
    assert picture.stat().st_size < 200_000
    assert "](model_cards/front_page.jpg)" in README
