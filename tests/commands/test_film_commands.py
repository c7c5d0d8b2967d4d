"""The commands on films: frames as JSON lines, a film with the faces drawn, broken films, going on, steadiness."""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from film_cases import moving_square, write_film, write_film_with_tone
from inference_cases import FixedDetector, astronaut, save_tiny_model
from PIL import Image

from farl_hf.commands.main import main
from farl_hf.inference.films import FilmReader, FilmWriter

pytest.importorskip("av")
TASKS = ("parsing", "alignment", "attributes")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [part for task in TASKS for part in (f"--{task}", save_tiny_model(folder / task, task, convention="facer"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A film with a face, one without, two that are broken, a photo, and a text."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "more").mkdir()
    photo = astronaut().resize((192, 192))
    photo.save(folder / "photo.jpg")
    with FilmWriter(folder / "face.mp4", (192, 192), 10) as writer:
        for i in range(5):
            writer.write(i / 10, lambda i=i: photo.transform(photo.size, Image.Transform.AFFINE, (1, 0, i, 0, 1, 0)))
    write_film(folder / "more/nobody.mp4", 3)
    whole = (folder / "face.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mkv").write_text("no film")
    (folder / "notes.txt").write_text("no picture")
    return folder


def entries(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_analyze_a_folder_of_photos_and_films(folder, models, tmp_path, capsys):
    arguments = ["analyze", str(folder), *models, "--output", str(tmp_path), "--quiet"]
    assert main(arguments) == 1, "files were skipped"
    said = capsys.readouterr().err
    assert "1 faces in 1 photos, 2 films" in said and "half.mp4: no film" in said and "text.mkv: no film" in said
    by_name = {Path(entry["file"]).name: entry for entry in entries(tmp_path / "results.jsonl")}
    assert len(by_name) == 6 and "error" in by_name["notes.txt"]
    film = by_name["face.mp4"]
    assert (film["frames"], film["tracks"], film["fps"], film["image_size"]) == (5, 1, 10, [192, 192])
    assert (by_name["nobody.mp4"]["frames"], by_name["nobody.mp4"]["tracks"]) == (3, 0)
    lines = entries(tmp_path / "films/face.mp4.jsonl")
    assert [line["frame"] for line in lines] == list(range(5)) and lines[3]["time"] == pytest.approx(0.3)
    for line in lines:
        (face,) = line["faces"]
        assert face["track_id"] == 0 and np.shape(face["landmarks"]) == (68, 2) and len(face["attributes"]) == 40
        labels = Image.open(io.BytesIO(base64.b64decode(face["labels"]["png"])))
        x1, y1, x2, y2 = face["labels"]["box"]
        assert labels.size == (x2 - x1, y2 - y1)
    lefts = [line["faces"][0]["box"][0] for line in lines]
    assert lefts[0] > lefts[4], "the photo is pushed to the left"
    drawn, plain = FilmReader(tmp_path / "films/face.mp4.mp4"), FilmReader(folder / "face.mp4")
    assert drawn.size == (192, 192) and drawn.num_frames == 5
    changed = np.abs(np.asarray(next(iter(drawn))["image"], int) - np.asarray(next(iter(plain))["image"], int)) > 60
    assert changed.mean() > 0.01
    assert len(entries(tmp_path / "films/more/nobody.mp4.jsonl")) == 3
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "films/half.mp4.jsonl").exists()
    # Once more: nothing is left to do. Not steadied: other settings.
    assert main(arguments) == 1 and "6 of 6 files are done" in capsys.readouterr().err
    assert main([*arguments, "--no-smooth"]) == 2 and "(no_smooth)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ("parse", "align", "attributes", "detect", "zeroshot"))
def test_every_command_takes_films(command, folder, models, tmp_path):
    model = {"parse": 1, "align": 3, "attributes": 5}
    options = ["--model", models[model[command]]] if command in model else []
    if command == "zeroshot":
        from farl_hf.weights import pretrained

        options = ["--labels", "a smiling face", "a serious face", "--model", pretrained("farl-tiny")]
    assert main([command, str(folder / "face.mp4"), *options, "--output", str(tmp_path), "--quiet"]) == 0
    lines = entries(tmp_path / "films/face.mp4.jsonl")
    found = {"parse": "labels", "align": "landmarks", "detect": "points"}.get(command, "attributes")
    assert len(lines) == 5 and all(line["faces"][0]["track_id"] == 0 and found in line["faces"][0] for line in lines)
    assert FilmReader(tmp_path / "films/face.mp4.mp4").num_frames == 5


def test_films_keep_their_sound(tmp_path):
    import av

    film = write_film_with_tone(tmp_path / "film.mp4", "aac", seconds=0.4)
    assert main(["detect", str(film), "--output", str(tmp_path / "out"), "--quiet"]) == 0
    with av.open(str(tmp_path / "out/films/film.mp4.mp4")) as container:
        assert container.streams.audio[0].codec.canonical_name == "aac"
        assert container.streams.audio[0].frames > 10


def test_no_smooth(folder, tmp_path):
    boxes = {}
    for flags in ((), ("--no-smooth",)):
        output = tmp_path / f"out{len(flags)}"
        assert main(["detect", str(folder / "face.mp4"), "--output", str(output), "--write", "json", *flags]) == 0
        boxes[flags] = [line["faces"][0]["box"] for line in entries(output / "films/face.mp4.jsonl")]
        assert not list(output.rglob("*.mp4"))
    assert boxes[()][0] == boxes[("--no-smooth",)][0] and boxes[()][3] != boxes[("--no-smooth",)][3]


def test_a_network_that_fails_is_one_error(folder, tmp_path, monkeypatch, capsys):
    from farl_hf.inference import detection

    def fail(*_):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(detection.YuNetDetector, "detect", fail)
    assert main(["detect", str(folder / "face.mp4"), "--output", str(tmp_path), "--quiet"]) == 1
    assert "RuntimeError: out of memory" in capsys.readouterr().err
    assert [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        "faces.csv",
        "results.jsonl",
        "settings.json",
    ]


def test_ctrl_c_leaves_whole_files(folder, tmp_path, monkeypatch):
    from farl_hf.inference import films

    with_frames = films.with_frames

    def stopped(*args):
        for number, pair in enumerate(with_frames(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield pair

    arguments = ["detect", str(folder / "face.mp4"), "--output", str(tmp_path), "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(films, "with_frames", stopped)
        assert main(arguments) == 130
    assert not entries(tmp_path / "results.jsonl") and not list((tmp_path / "films").iterdir())
    assert main(arguments) == 0 and len(entries(tmp_path / "films/face.mp4.jsonl")) == 5


def resident() -> float:
    """Megabytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("command", "num_frames", "size"),
    (("detect", 100, (240, 320)), pytest.param("align", 10_000, (64, 96), marks=pytest.mark.slow)),
)
def test_memory_does_not_grow_with_the_film(command, num_frames, size, models, tmp_path, monkeypatch):
    """Read, analysed, drawn and written; resident memory after the first quarter and at the end."""
    from farl_hf.inference import detection, films

    with FilmWriter(tmp_path / "long.mp4", size, 25) as writer:
        for i in range(num_frames):
            writer.write(i / 25, lambda i=i: moving_square(i, size))
    detector = FixedDetector((0.2, 0.1, 0.8, 0.9), points=True)
    monkeypatch.setattr(detection, "YuNetDetector", lambda *_: detector)
    measured, with_frames = [], films.with_frames

    def measuring(*args):
        for number, pair in enumerate(with_frames(*args)):
            if number in (num_frames // 4, num_frames - 1):
                measured.append(resident())
            yield pair

    monkeypatch.setattr(films, "with_frames", measuring)
    options = ["--model", models[3]] if command == "align" else []
    arguments = [command, str(tmp_path / "long.mp4"), *options, "--output", str(tmp_path / "out"), "--quiet"]
    assert main([*arguments, "--write", "json", "pictures"]) == 0
    assert len(entries(tmp_path / "out/films/long.mp4.jsonl")) == num_frames
    grown = measured[1] - measured[0]
    print(f"{grown:.1f} MB more")
    # 75 frames kept would be 17 MB.
    assert grown < (8 if num_frames < 1000 else 20)
