"""The commands on photos: results, going on after a stop, shards, broken and odd files, Ctrl-C, errors in one line."""

import csv
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from inference_cases import save_tiny_model, three_photos
from PIL import Image

from farl_hf.commands import photos as photo_commands
from farl_hf.commands.main import main
from farl_hf.datasets.labels import LAPA_LABELS
from farl_hf.inference.photo_files import find_files, open_photo, written_whole

TASKS = ("parsing", "alignment", "attributes")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [part for task in TASKS for part in (f"--{task}", save_tiny_model(folder / task, task))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, photo in zip(("none.png", "one.jpg", "more/several.webp"), three_photos(), strict=True):
        photo.save(folder / name, quality=95)
    (folder / "notes.jpg").write_text("no picture")
    (folder / ".hidden.jpg").write_text("not looked at")
    return folder


def lines(path: Path) -> dict[str, dict]:
    return {Path(entry["file"]).name: entry for entry in map(json.loads, path.read_text().splitlines())}


def test_analyze(folder, models, tmp_path, capsys):
    arguments = ["analyze", str(folder), *models, "--output", str(tmp_path), "--quiet"]
    assert main(arguments) == 1, "a file was skipped"
    assert "4 faces in 3 photos" in (said := capsys.readouterr().err) and "notes.jpg: " in said
    entries = lines(tmp_path / "results.jsonl")
    assert {name: len(entry.get("faces", ())) for name, entry in entries.items()} == {
        "none.png": 0,
        "one.jpg": 1,
        "several.webp": 3,
        "notes.jpg": 0,
    }
    assert "error" in entries["notes.jpg"]
    rows = list(csv.DictReader((tmp_path / "faces.csv").open()))
    assert len(rows) == 4 and 0 <= float(rows[0]["Smiling"]) <= 1 and float(rows[0]["score"]) > 0.7
    labels = Image.open(tmp_path / "labels/more/several.webp.png")
    assert labels.mode == "P" and labels.size == (900, 400) and np.asarray(labels).max() < len(LAPA_LABELS)
    assert Image.open(tmp_path / "pictures/one.jpg.jpg").height == 512
    points = (tmp_path / "landmarks/one.jpg.0.pts").read_text().split()
    assert points[:4] == ["version:", "1", "n_points:", "68"] and len(points) == 6 + 2 * 68
    x, y = entries["one.jpg"]["faces"][0]["landmarks"][0]
    assert float(points[5]) == pytest.approx(x + 1, abs=1e-2) and float(points[6]) == pytest.approx(y + 1, abs=1e-2)
    # Once more: nothing is left to do. With other settings: refused.
    before = (tmp_path / "results.jsonl").read_bytes()
    assert main(arguments) == 1
    assert "4 of 4 files are done" in capsys.readouterr().err and (tmp_path / "results.jsonl").read_bytes() == before
    assert main([*arguments, "--threshold", "0.99"]) == 2
    assert "other settings (threshold)" in capsys.readouterr().err
    assert main([*arguments, "--threshold", "0.99", "--overwrite"]) == 1
    assert "0 faces in 3 photos" in capsys.readouterr().err


def test_shards_and_going_on(folder, tmp_path, capsys):
    def detect(*more: str) -> int:
        return main(["detect", str(folder), "--output", str(tmp_path), "--write", "json", "csv", "--quiet", *more])

    assert detect("--shard", "1/2") + detect("--shard", "2/2") == 1
    parts = sorted(tmp_path.glob("results-*.jsonl"))
    assert [path.name for path in parts] == ["results-00001-of-00002.jsonl", "results-00002-of-00002.jsonl"]
    assert sorted(name for path in parts for name in lines(path)) == [
        "none.png",
        "notes.jpg",
        "one.jpg",
        "several.webp",
    ]
    # A kill in the middle of a line: that photo is done again, the others are not.
    whole = parts[0].read_bytes()
    parts[0].write_bytes(whole[:-7])
    detect("--shard", "1/2")
    assert parts[0].read_bytes() == whole
    for wrong in ("3/2", "0/2", "x", "1/"):
        assert detect("--shard", wrong) == 2
    assert "--shard 1/: write I/N" in capsys.readouterr().err


def test_files_are_found_once_and_in_order(tmp_path, monkeypatch):
    for name in ("a/1.jpg", "a/b/2.jpg", "c/1.jpg", "out/labels/1.png", "a/.git/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = find_files(["a", "a/**/*.jpg", "c"], leave_out=Path("out"))
    assert [str(file) for file, _ in found] == ["a/1.jpg", "a/b/2.jpg", "c/1.jpg"]
    names = [name for _, name in found]
    assert names[:2] == [Path("1.jpg"), Path("b/2.jpg")] and len(set(names)) == 3
    assert not any("out" in str(file) for file, _ in find_files(["."], leave_out=Path("out")))
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        find_files(["nothing-here*"])


def test_what_a_command_wrote_is_no_photo(tmp_path, monkeypatch):
    """Drawn pictures and label maps would be searched for faces again by the next command in the same folder."""
    for name in ("1.jpg", "results/settings.json", "results/results-1-of-2.jsonl", "results/pictures/1.jpg.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/settings.json").touch()
    monkeypatch.chdir(tmp_path)
    for paths in (["."], ["**/*.jpg"], [tmp_path], [f"{tmp_path}/**/1*"]):
        assert [file.name for file, _ in find_files(paths) if file.suffix == ".jpg"] == ["1.jpg"]
    assert [file.name for file, _ in find_files(["."])] == ["1.jpg", "settings.json"]
    # Named by itself it is searched.
    for paths in (["results/pictures"], ["results/pictures/1.jpg.jpg"], ["results/pictures/*"]):
        assert [file.name for file, _ in find_files(paths)] == ["1.jpg.jpg"]


def test_files_are_written_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.txt") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_photo_that_breaks_the_network_is_one_error(folder, tmp_path, monkeypatch):
    def find(photos):
        for photo in photos:
            if photo.size == (900, 400):
                raise RuntimeError("out of\nmemory")
            yield type("NoFaces", (), {"to_dict": lambda self, label_maps: {"image_size": [1, 1], "faces": []}})()

    arguments = main_arguments(folder, tmp_path)
    assert photo_commands.run_on_photos(arguments, "test", lambda: find, {}) == 1
    entries = lines(tmp_path / "results.jsonl")
    assert entries["several.webp"]["error"] == "RuntimeError: out of memory"
    assert "error" not in entries["one.jpg"] and "error" not in entries["none.png"] and len(entries) == 4


def main_arguments(folder: Path, output: Path):
    from farl_hf.commands.main import build_parser

    return build_parser().parse_args(["detect", str(folder), "--output", str(output), "--write", "json", "--quiet"])


# ------------------------------------------------------------------------------------------------ broken and odd files


def png_of_size(width: int, height: int) -> bytes:
    """A small file that says it is a large picture, and would be: zeros compress well."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (width + 1)
    data = b"".join(packer.compress(row) for _ in range(min(height, 3000))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def odd_files(count: int, seed: int = 0) -> dict[bytes, bytes]:
    """Name -> content. The first good ones are named so."""
    rng = random.Random(seed)
    photo = three_photos()[1].resize((96, 96))
    gradient = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(48, 48)
    not_finite = gradient.copy()
    not_finite[5, 5] = np.nan
    good = {form: encoded(photo, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}
    files = {f"good.{form.lower()}".encode(): data for form, data in good.items()}
    files |= {
        b"good-cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        b"good-16-bit.png": encoded(Image.fromarray((gradient * 65535).astype(np.uint16)), "PNG"),
        b"good-float.tiff": encoded(Image.fromarray(gradient), "TIFF"),
        b"good-animated.gif": encoded(photo, "GIF", save_all=True, append_images=[photo.rotate(90)] * 3),
        b"good-palette.png": encoded(photo.convert("P"), "PNG"),
        b"good-alpha.webp": encoded(photo.convert("RGBA"), "WEBP"),
        b"good-wrong-suffix.txt": good["PNG"],
        b"good-\xff\xfe name.jpg": good["JPEG"],
        "good-ünïcödé 顔.png".encode(): good["PNG"],
        b"empty.jpg": b"",
        b"zeros.png": bytes(10_000),
        b"one-pixel.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        b"not-finite.tiff": encoded(Image.fromarray(not_finite), "TIFF"),
        b"text.png": b"no picture at all",
        b"script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"bomb.png": png_of_size(30_000, 30_000),
        b"half-a-bomb.png": png_of_size(12_000, 12_000),
    }
    number = 0
    while len(files) < count:
        form = rng.choice([*good])
        data = bytearray(good[form])
        if number % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif number % 3 == 1:
            for _ in range(rng.randint(1, 40)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            start = rng.randrange(len(data))
            data[start : start + rng.randint(1, 200)] = rng.randbytes(rng.randint(0, 200))
        files[f"broken-{number}.{form.lower()}".encode()] = bytes(data)
        number += 1
    return files


@pytest.mark.parametrize("count", (40, pytest.param(300, marks=pytest.mark.slow)))
def test_broken_and_odd_files(count, models, tmp_path):
    files = odd_files(count)
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, data in files.items():
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(data)
    arguments = [
        "analyze",
        str(folder),
        *models,
        "--output",
        str(output),
        "--quiet",
        "--write",
        "json",
        "csv",
        "labels",
    ]
    assert main(arguments) == 1
    entries = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    names = [os.fsencode(Path(entry["file"]).name) for entry in entries]
    assert sorted(names) == sorted(files), "one entry each"
    failed = {name: entry["error"] for name, entry in zip(names, entries, strict=True) if "error" in entry}
    assert not [name for name in failed if name.startswith(b"good")], failed
    bad = ("empty.jpg", "zeros.png", "not-finite.tiff", "text.png", "script.jpg", "bomb.png", "half-a-bomb.png")
    assert {name.encode() for name in bad} <= set(failed)
    assert all(error and "\n" not in error for error in failed.values())
    assert b"pixels" in failed[b"half-a-bomb.png"].encode()
    faces = {name: entry["faces"] for name, entry in zip(names, entries, strict=True) if "faces" in entry}
    assert len(faces[b"good.png"]) == len(faces[b"good-\xff\xfe name.jpg"]) == 1
    for path in output.rglob("*.png"):
        Image.open(path).load()


def test_larger_photos_are_a_matter_of_choice(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("L", (200, 100)), "PNG"))
    assert open_photo(tmp_path / "a.png", 20_000).size == (200, 100)
    with pytest.raises(ValueError, match=r"200 x 100 pixels, more than 19,999"):
        open_photo(tmp_path / "a.png", 19_999)


def test_ctrl_c_leaves_whole_files(folder, models, tmp_path):
    """In a process of its own, once a few photos are done."""
    photos, output = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    for i in range(60):
        os.link(folder / "one.jpg", photos / f"{i:03d}.jpg") if i else (photos / "000.jpg").write_bytes(
            (folder / "one.jpg").read_bytes()
        )
    command = [sys.executable, "-m", "farl_hf", "analyze", str(photos), *models, "--output", str(output)]
    # Tests that run in the background of a shell are told to ignore Ctrl-C, and so would be what they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(output.glob("pictures/*.jpg"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    entries = (output / "results.jsonl").read_text().splitlines()
    assert 0 < len(list(map(json.loads, entries))) < 60
    assert not list(output.rglob("*.part"))
    for path in output.rglob("*.jpg"):
        Image.open(path).load()
    assert len(list(csv.DictReader((output / "faces.csv").open()))) == len(entries)


# -------------------------------------------------------------------------------------------------- errors, info, env


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["detect", "no-such-photo.jpg"], "no-such-photo.jpg names no file or folder"),
        (["detect", ".", "--threshold", "7"], "threshold is 7.0"),
        (["zeroshot", ".", "--labels", "one"], "--labels: give two or more"),
        (["zeroshot", ".", "--labels", "a", "b", "--prompt", "x"], "mark the place"),
        (["info", "no-such-folder"], "no config.json"),
        (["parse", ".", "--model", "."], "config.json"),
    ),
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("a.png")
    if arguments[0] not in ("info",):
        arguments = [*arguments, "--quiet"]
    assert main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]


def test_info(models, capsys):
    assert main(["info", models[1], "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["task"].startswith("face parsing") and facts["classes"] == LAPA_LABELS and facts["image size"] == 32
    assert facts["parameters"] > 10_000 and "align lapa" in facts["crop"]
    assert main(["info", models[3]]) == 0
    assert "landmarks    68" in capsys.readouterr().out


def test_env(capsys):
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said and "yunet" in said and "own weights" in said


def test_help_needs_no_torch():
    code = "import sys; from farl_hf.commands.main import build_parser; build_parser().format_help()"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
