"""Filtering of metadata, packing, verification, stored codes."""

import json
import runpy
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from pretraining_cases import damage, drawing, encode, sample_members, write_faulty_shards, write_shards, write_tar

from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining import preparation
from farl_hf.pretraining.image_codebook import RandomProjectionCodebook
from farl_hf.pretraining.image_views import ImageViews
from farl_hf.pretraining.objective import scaled_pixels
from farl_hf.pretraining.shards import RawSample, count_samples, read_shard
from farl_hf.pretraining.stream import ImageTextLoader, ImageTextStream

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_laion_face.py"


def call_script(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return exit_info.value.code


@pytest.fixture
def metadata(tmp_path) -> Path:
    rows = {
        "SAMPLE_ID": [10.0, 11.0, 12.0, 13.0],  # LAION-400M stores them as doubles
        "URL": [f"https://host/{i}.jpg" for i in range(4)],
        "TEXT": list("abcd"),
        "NSFW": ["UNLIKELY"] * 4,
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "part.parquet")
    return tmp_path / "part.parquet"


def test_ids_of_all_formats(tmp_path):
    torch.save([torch.tensor([1, 2]), [3]], tmp_path / "ids.pth")
    assert preparation.read_ids(tmp_path / "ids.pth") == {1, 2, 3}
    assert preparation.read_ids(tmp_path / "ids.pth", part=1) == {3}
    with pytest.raises(ValueError, match="no part 7"):
        preparation.read_ids(tmp_path / "ids.pth", part=7)
    (tmp_path / "ids.txt").write_text("4\n5\n")
    assert preparation.read_ids(tmp_path / "ids.txt") == {4, 5}
    pyarrow.parquet.write_table(pyarrow.table({"SAMPLE_ID": [6]}), tmp_path / "ids.parquet")
    assert preparation.read_ids(tmp_path / "ids.parquet") == {6}
    torch.save(Path("code"), tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="plain lists"):
        preparation.read_ids(tmp_path / "evil.pth")


def test_filter_and_command(tmp_path, metadata, monkeypatch, capsys):
    torch.save({0: [11, 13, 99]}, tmp_path / "ids.pth")
    torch.save({13: [((1.0, 2.0, 3.0, 4.0), torch.zeros(5, 2), 0.9)]}, tmp_path / "detections.pth")
    output = str(tmp_path / "kept.parquet")
    arguments = ["filter", str(metadata), "--ids", str(tmp_path / "ids.pth"), "--part", "0", "--output", output]
    assert call_script(monkeypatch, *arguments, "--detections", str(tmp_path / "detections.pth")) == 0
    printed = capsys.readouterr().out
    assert "2 of 4 rows" in printed and "--resize_mode no" in printed and "--url_col URL" in printed
    rows = pyarrow.parquet.read_table(output).to_pylist()
    assert [row["TEXT"] for row in rows] == ["b", "d"]
    assert json.loads(rows[0]["faces"]) == [] and json.loads(rows[1]["faces"])[0][0] == [1, 2, 3, 4]
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), metadata)
    assert call_script(monkeypatch, *arguments) == 2
    assert "no column URL" in capsys.readouterr().err


def test_pack_a_folder_and_verify(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(7):
        image, caption = drawing(number)
        (folder / "sub" / f"{number}.jpg").write_bytes(encode(image))
        (folder / "sub" / f"{number}.txt").write_text(f"{caption}\nanother caption")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "broken.txt").write_text("text")
    (folder / "silent.png").write_bytes(encode(drawing(9)[0], "PNG"))
    output = str(tmp_path / "shards")
    assert call_script(monkeypatch, "pack", str(folder), "--output", output, "--samples_per_shard", "3") == 0
    assert "7 samples packed" in capsys.readouterr().out
    paths = sorted(str(path) for path in Path(output).glob("*.tar"))
    assert [count_samples(path) for path in paths] == [3, 3, 1]
    samples = [sample for path in paths for sample in read_shard(path)]
    sources = [json.loads(sample.metadata)["source"] for sample in samples]
    assert sorted(sources) == [f"sub/{number}" for number in range(7)] and sources != sorted(sources)
    assert all(json.loads(sample.metadata)["captions"][1] == "another caption" for sample in samples)
    assert call_script(monkeypatch, "verify", output, "--report", str(tmp_path / "report.json")) == 0
    assert json.loads((tmp_path / "report.json").read_text())["shards"] == dict(zip(paths, (3, 3, 1), strict=True))


def test_pack_a_dataset(tmp_path):
    rows = {"image": [{"bytes": encode(drawing(i)[0]), "path": None} for i in range(3)], "text": ["a", "b", ""]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data.parquet")
    samples = preparation.samples_from_dataset(str(tmp_path), "train")
    assert preparation.write_shards(samples, tmp_path / "shards", seed=None) == (2, {"empty_caption": 1})
    assert [sample.captions for sample in read_shard(str(tmp_path / "shards" / "00000.tar"))] == [[b"a"], [b"b"]]


def test_verify_finds_every_fault_and_duplicate(tmp_path, monkeypatch, capsys):
    paths, good, faults = write_faulty_shards(tmp_path, num_shards=2, samples_per_shard=20, num_faults=8)
    write_tar(tmp_path / "double.tar", {"x": sample_members(0), "y": sample_members(0)})
    report = preparation.verify_shards([*paths, str(tmp_path / "double.tar")])
    assert report.faults == faults
    assert sum(report.shards.values()) == len(good) + 2
    assert report.duplicates == (2 if 0 in good else 1) and len(report.examples["duplicate"]) == report.duplicates
    assert call_script(monkeypatch, "verify", *paths) == 1
    assert "truncated_shard" in capsys.readouterr().out


def test_metadata_of_the_wrong_type_is_a_fault():
    members = damage("bad_metadata", sample_members(0))
    for metadata in (members["json"], b"[1]"):
        assert preparation.sample_fault(RawSample("a", members["jpg"], ["text"], metadata)) == "bad_metadata"


def test_stored_codes_are_those_of_training(tmp_path):
    path = write_shards(tmp_path, num_shards=1, samples_per_shard=5)[0]
    codebook = RandomProjectionCodebook(64, 32, 8)
    assert preparation.write_codes(path, codebook, image_size=32, batch_size=2) == {path: 5}
    stream = ImageTextStream([path], build_clip_tokenizer(), ImageViews(32), 5, num_epochs=1, stored_codes=True)
    (batch,) = ImageTextLoader(stream)
    assert torch.equal(codebook(scaled_pixels(batch["pixels"])), batch["mim_targets"])
