"""`farl index`, `farl search` and `farl zeroshot`: by description, near duplicates, going on, bad files, mistakes."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from inference_cases import FixedDetector, astronaut, three_photos
from PIL import Image, ImageEnhance

from farl_hf import Faces
from farl_hf.commands.main import main
from farl_hf.inference import detection, search
from farl_hf.inference.encoding import FaceEncoder
from farl_hf.inference.search import INDEX_NAME, FaceIndex


def pattern(seed: int) -> Image.Image:
    """A smooth picture that is like no other one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((120, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Patterns with two faces each, where the detector says so, and files that are no photos."""
    monkeypatch.setattr(
        detection, "YuNetDetector", lambda *_: FixedDetector((0.1, 0.1, 0.5, 0.5), (0.4, 0.3, 0.9, 0.9), points=True)
    )
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(5):
        pattern(i).save(folder / f"{i}.png")
    pattern(5).save(os.path.join(os.fsencode(folder / "more"), b"\xff5.png"))
    (folder / "broken.jpg").write_text("no photo")
    (folder / "film.mp4").write_text("not looked at")
    return folder


def index_of(folder: Path) -> FaceIndex:
    return FaceIndex.load(folder / INDEX_NAME)


def test_index_and_search(folder, capsys):
    assert main(["index", str(folder), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "12 faces in 6 photos" in said and "skipped broken.jpg: " in said and "film.mp4" not in said
    index, encoder = index_of(folder), FaceEncoder(device="cpu")
    assert set(index.photos) == {*(f"{i}.png" for i in range(5)), os.fsdecode(b"more/\xff5.png"), "broken.jpg"}
    photo = Image.open(folder / "2.png").convert("RGB")
    faces = detection.YuNetDetector().detect(photo)
    assert np.allclose(index.photos["2.png"].embeddings, encoder.embed_faces(photo, faces), atol=2e-3)
    assert np.allclose(index.photos["2.png"].boxes, faces.boxes)

    description = "a smiling man with glasses"
    assert main(["search", str(folder), description, "--json"]) == 0
    output = capsys.readouterr()
    found = [json.loads(line) for line in output.out.splitlines()]
    text = encoder.embed_texts(["a photo of a smiling man with glasses"])[0]
    best = {name: float(max(p.embeddings @ text, default=-9)) for name, p in index.photos.items()}
    assert [face["name"] for face in found] == sorted(best, key=best.get, reverse=True)[:6]
    for face in found:
        scores = index.photos[face["name"]].embeddings.astype(np.float32) @ text
        assert face["face"] == scores.argmax() and face["score"] == pytest.approx(scores.max(), abs=2e-3)
    assert "not by identity" in output.err
    main(["search", str(folder), description, "--json", "--top", "2"])
    assert capsys.readouterr().out == "".join(output.out.splitlines(keepends=True)[:2])


def test_going_on(folder, capsys, monkeypatch):
    """After Ctrl-C, with new, changed and removed photos."""
    whole = search.index_photos

    def stopped(*args):
        for number, pair in enumerate(whole(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield pair

    monkeypatch.setattr(search, "index_photos", stopped)
    assert main(["index", str(folder), "--quiet"]) == 130
    assert len(index_of(folder).photos) == 3 and not list(folder.rglob("*.part"))
    monkeypatch.setattr(search, "index_photos", whole)
    capsys.readouterr()
    main(["index", str(folder), "--quiet"])
    assert "3 of 7 files are done already" in capsys.readouterr().err
    first = index_of(folder)
    main(["index", str(folder), "--quiet"])
    assert "7 of 7 files are done already" in capsys.readouterr().err
    (folder / "0.png").unlink()
    pattern(9).save(folder / "1.png")
    os.utime(folder / "1.png", ns=(1, 1))
    pattern(8).save(folder / "new.png")
    main(["index", str(folder), "--quiet"])
    assert "5 of 7 files are done already" in capsys.readouterr().err
    second = index_of(folder)
    assert "0.png" not in second.photos and "new.png" in second.photos
    assert not np.array_equal(first.photos["1.png"].embeddings, second.photos["1.png"].embeddings)
    for name in ("2.png", os.fsdecode(b"more/\xff5.png")):
        assert np.array_equal(first.photos[name].embeddings, second.photos[name].embeddings)


def test_near_duplicates(folder, capsys, tmp_path):
    small = pattern(1).resize((90, 90), Image.Resampling.LANCZOS)
    ImageEnhance.Brightness(small).enhance(0.8).save(folder / "more/copy.jpg", quality=40)
    main(["index", str(folder), "--quiet"])
    capsys.readouterr()
    sheet = tmp_path / "sheet.png"
    assert main(["search", str(folder), "--duplicates", "--json", "--sheet", str(sheet)]) == 0
    groups: dict[int, set] = {}
    for line in capsys.readouterr().out.splitlines():
        face = json.loads(line)
        groups.setdefault(face["group"], set()).add((face["name"], face["face"]))
    assert sorted(map(sorted, groups.values())) == [[("1.png", i), ("more/copy.jpg", i)] for i in range(2)], (
        "no two others"
    )
    assert Image.open(sheet).size == (2 * 160, 2 * 190)
    assert main(["search", str(folder), "a face", "--top", "7", "--sheet", str(sheet)]) == 0
    assert Image.open(sheet).size == (5 * 160, 2 * 190)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and "face 0 at" in "".join(lines)


def test_faces_of_one_photo_are_no_duplicates(folder, capsys):
    main(["index", str(folder), "--quiet"])
    index = index_of(folder)
    thumbnails = index.photos["1.png"].thumbnails
    thumbnails[1] = thumbnails[0]
    assert index.duplicates() == []


def test_another_model_is_noticed(folder, capsys):
    main(["index", str(folder), "--quiet"])
    index = index_of(folder)
    index.probe = -index.probe
    index.save(folder / INDEX_NAME)
    for arguments in (["search", str(folder), "a face"], ["index", str(folder)]):
        assert main(arguments) == 2
        assert "made with another model" in capsys.readouterr().err
    assert main(["index", str(folder), "--overwrite", "--quiet"]) == 1
    assert np.allclose(index_of(folder).probe, -index.probe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["search", "."], "Give a TEXT to search for, or --duplicates"),
        (["search", ".", "a face", "--duplicates"], "Give a TEXT"),
        (["search", ".", "a face"], "make the index by `farl index` first"),
        (["search", ".", "a face", "--index", "bad"], "bad is no index of faces"),
        (["search", ".", "a face", "--top", "0"], "--top is at least 1"),
        (["search", ".", "a face", "--prompt", "x"], "mark the place"),
        (["index", "none"], "none is no folder"),
    ),
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad").write_bytes(b"not safetensors")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_empty_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detection, "YuNetDetector", lambda *_: FixedDetector())
    pattern(0).save(tmp_path / "0.png")
    assert main(["index", str(tmp_path), "--quiet"]) == 0
    assert main(["search", str(tmp_path), "a face"]) == main(["search", str(tmp_path), "--duplicates"]) == 0
    assert capsys.readouterr().out == ""


def test_both_say_that_they_are_not_for_identity(capsys):
    for command in ("index", "search"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "identity" in capsys.readouterr().out


def test_real_faces_are_found_again_by_their_pictures(tmp_path, capsys):
    """The real detector: a photo, a part of it that was made brighter and compressed, and one with other faces."""
    astronaut().save(tmp_path / "a.png")
    data = io.BytesIO()
    ImageEnhance.Brightness(astronaut().crop((60, 0, 480, 420)).resize((300, 300))).enhance(1.15).save(
        data, "JPEG", quality=60
    )
    (tmp_path / "b.jpg").write_bytes(data.getvalue())
    astronaut().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    assert main(["index", str(tmp_path), "--quiet"]) == 0
    capsys.readouterr()
    main(["search", str(tmp_path), "--duplicates", "--json"])
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["a.png", "b.jpg"]


# --------------------------------------------------------------------------------------------------------- zeroshot


def test_zeroshot(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    photos = dict(zip(("none.png", "one.png", "three.png"), three_photos(), strict=True))
    for name, photo in photos.items():
        photo.save(folder / name)
    labels = ["a smiling face", "a serious face", "a hat"]
    assert main(["zeroshot", str(folder), "--labels", *labels, "--output", str(output), "--quiet"]) == 0
    entries = {Path(e["file"]).name: e for e in map(json.loads, (output / "results.jsonl").read_text().splitlines())}
    assert [len(entries[name]["faces"]) for name in photos] == [0, 1, 3]
    (face,) = entries["one.png"]["faces"]
    assert list(face["attributes"]) == labels and sum(face["attributes"].values()) == pytest.approx(1, abs=1e-4)
    assert "embedding" not in face
    encoder = FaceEncoder(device="cpu")
    faces = Faces((512, 512), np.array([face["box"]]), np.array([face["points"]]))
    by_hand = encoder.describe(photos["one.png"], faces, labels).attributes[0]
    assert np.allclose(list(face["attributes"].values()), by_hand, atol=1e-3)
    rows = list(csv.DictReader((output / "faces.csv").open()))
    assert len(rows) == 4 and float(rows[0]["a hat"]) == pytest.approx(face["attributes"]["a hat"])
    assert len(list((output / "pictures").iterdir())) == 3
