"""Damaged input of every kind: counted, named, and nothing good lost with it."""

import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from pretraining_cases import SAMPLE_FAULTS, damage, drawing, encode, sample_members, served, write_tar

from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining import shards as shards_module
from farl_hf.pretraining.faults import FAULTS, ShardError
from farl_hf.pretraining.image_views import ImageViews
from farl_hf.pretraining.probe import ZeroShotProbe
from farl_hf.pretraining.samples import codes_path
from farl_hf.pretraining.shards import count_samples, expand_shards, read_shard
from farl_hf.pretraining.stream import ImageTextLoader, ImageTextStream

TOKENIZER = build_clip_tokenizer()


def read(paths, **settings) -> tuple[list[int], dict[str, int], list]:
    """The numbers of the good samples, the faults by kind, and where they were."""
    views = ImageViews(32, face_crop_scale=settings.pop("face_crop_scale", None))
    stream = ImageTextStream([str(path) for path in paths], TOKENIZER, views, 4, num_epochs=1, **settings)
    reader, numbers = ImageTextLoader(stream), []
    for batch in reader:
        texts = TOKENIZER.batch_decode(batch["input_ids"], skip_special_tokens=True)
        numbers += [int(text.split(":")[0].removeprefix("number").replace(" ", "")) for text in texts]
    return sorted(numbers), dict(reader.faults), reader.records


def write_numbered(path: Path, count: int = 8, **changed: dict[str, bytes]) -> dict[str, int]:
    """A tar of samples 0, 1, ...; `changed` replaces the members of some (`s3={...}`). Returns where members begin."""
    samples = {f"{n:04d}": changed.get(f"s{n}", sample_members(n)) for n in range(count)}
    write_tar(path, samples)
    with tarfile.open(path) as tar:
        return {member.name: member.offset for member in tar.getmembers()}


def overwrite(path: Path, start: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)


def test_zeros_inside_a_tar_cost_what_they_cover(tmp_path):
    path = tmp_path / "a.tar"
    offsets = write_numbered(path)
    overwrite(path, offsets["0003.jpg"], bytes(1024))  # a header and the begin of an image
    numbers, faults, records = read([path])
    assert numbers == [0, 1, 2, 4, 5, 6, 7] and faults == {"damaged_shard": 1, "missing_image": 1}
    assert {(record.kind, record.key) for record in records} == {("damaged_shard", None), ("missing_image", "0003")}
    # Whole samples, up to the next header: those are gone, and the damage is counted.
    write_numbered(path)
    overwrite(path, offsets["0002.jpg"], bytes(offsets["0004.jpg"] - offsets["0002.jpg"]))
    numbers, faults, _ = read([path])
    assert numbers == [0, 1, 4, 5, 6, 7] and faults == {"damaged_shard": 1}


def test_appended_tars_are_read_to_the_end(tmp_path):
    write_numbered(tmp_path / "a.tar", 3)
    write_tar(tmp_path / "b.tar", {"x": sample_members(7)})
    both = tmp_path / "both.tar"
    both.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    assert read([both])[:2] == ([0, 1, 2, 7], {}) and count_samples(str(both)) == 4


def test_one_key_twice_is_two_samples(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in (1, 2):
            for extension, content in sample_members(number).items():
                info = tarfile.TarInfo(f"same.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert read([path])[:2] == ([1, 2], {})


def test_macos_attributes_are_no_samples(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(3):
            for extension, content in sample_members(number).items():
                for name, data in ((f"x/._{number}.{extension}", b"attributes"), (f"x/{number}.{extension}", content)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    assert read([path])[:2] == ([0, 1, 2], {}) and count_samples(str(path)) == 3


@pytest.mark.parametrize("size", [b"\x80\0\0\0" + struct.pack(">Q", 1 << 62), b"\xff" * 12, b"377777777777"])
def test_sizes_that_cannot_be(tmp_path, size):
    path = tmp_path / "a.tar"
    offsets = write_numbered(path)
    start = offsets["0003.json"]
    header = bytearray(path.read_bytes()[start : start + 512])
    header[124:136], header[148:156] = size, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    overwrite(path, start, bytes(header))
    numbers, faults, _ = read([path])
    assert numbers == list(range(8)) and faults == {"damaged_shard": 1}


def test_deep_json_and_numbers_that_overflow(tmp_path):
    deep = {**sample_members(1), "json": b"[" * 100_000}
    huge = {**sample_members(2), "json": b'{"faces": [[[1e400, 1, 9, 9]]]}'.replace(b"1e400", b"1" + b"0" * 400)}
    zero = {**sample_members(3), "json": b'{"faces": [[[1, 1, 9, 9]]], "original_width": "x"}'}
    write_numbered(tmp_path / "a.tar", 5, s1=deep, s2=huge, s3=zero)
    assert read([tmp_path / "a.tar"], face_crop_scale=(1.0, 2.0))[:2] == ([0, 4], {"bad_metadata": 3})


def test_captions_that_are_no_text_and_half_images(tmp_path):
    buffer = io.BytesIO()
    drawing(3)[0].save(buffer, "JPEG", quality=98)  # enough bytes that zeros make whole blocks of the rest
    jpeg = buffer.getvalue()
    half = (jpeg.index(b"\xff\xda") + len(jpeg)) // 2  # of the scan
    changed = {
        "s1": {**sample_members(1), "txt": b"number 1: caf\xe9"},
        "s2": {**sample_members(2), "json": json.dumps({"captions": ["number 2: \ud800"]}).encode()},
        "s3": {**sample_members(3), "jpg": jpeg[:half] + bytes(len(jpeg) - half)},
    }
    write_numbered(tmp_path / "a.tar", 5, **changed)
    assert read([tmp_path / "a.tar"])[:2] == ([0, 4], {"undecodable_caption": 2, "truncated_image": 1})


def test_parquet_strings_that_are_not_utf8(tmp_path):
    texts = pyarrow.array([b"number 0: a", b"number 1: \xff", b"number 2: c"]).view(pyarrow.string())
    images = [encode(drawing(n)[0]) for n in range(3)]
    pyarrow.parquet.write_table(pyarrow.table({"jpg": images, "txt": texts}), tmp_path / "a.parquet")
    assert read([tmp_path / "a.parquet"])[:2] == ([0, 2], {"undecodable_caption": 1})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", None])
def test_stored_codes_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "a.tar"
    write_numbered(path, 3)
    if content is None:
        np.savez(tmp_path / "whole.npz", keys=["0000"], codes=np.zeros((2, 16), int), boxes=np.zeros((1, 4)))
        content = (tmp_path / "whole.npz").read_bytes()
    Path(codes_path(str(path))).write_bytes(content)
    _, faults, records = read([path], stored_codes=True)
    assert faults == {"unreadable_codes": 1, "missing_codes": 3} and records[0].shard == str(path)


def test_a_folder_named_as_a_shard(tmp_path):
    write_numbered(tmp_path / "a.tar", 2)
    (tmp_path / "b.tar").mkdir()
    for pattern in (str(tmp_path), f"{tmp_path}/*.tar", f"{tmp_path}/{{a,b}}.tar"):
        paths = expand_shards(pattern)
        assert read(paths)[:2] == ([0, 1], {"missing_shard": 1}) and count_samples(paths[1]) == 0


def test_a_corrupt_probe_image_is_left_out(tmp_path, caplog):
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
        for number in range(2):
            drawing(number)[0].save(tmp_path / name / f"{number}.jpg")
    (tmp_path / "red" / "1.jpg").write_bytes(b"no image")
    assert len(ZeroShotProbe(tmp_path, "{}", TOKENIZER, 32).images) == 3 and "red/1.jpg" in caplog.text


@pytest.mark.parametrize("cuts", [2, 9])
def test_a_connection_that_breaks_midway(tmp_path, monkeypatch, cuts):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(shards_module, "_SECONDS_BETWEEN", 0.01)
    write_numbered(tmp_path / "a.tar")
    with served(tmp_path, cuts) as address:
        if cuts == 2:
            assert [sample.key for sample in read_shard(f"{address}/a.tar")] == [f"{n:04d}" for n in range(8)]
        else:
            with pytest.raises(ShardError, match=r"a\.tar"):
                list(read_shard(f"{address}/a.tar"))


def test_every_kind_is_counted_and_named(tmp_path):
    """Five percent and more are bad, of fifteen kinds with those of shards; each is named, every good sample used."""
    count = 40
    good = set(range(5 * count))
    bad = {13 * n + 43: kind for n, kind in enumerate([*SAMPLE_FAULTS, "undecodable_caption"])}
    paths = [tmp_path / f"{shard}.tar" for shard in range(5)]
    for shard, path in enumerate(paths):
        samples = {}
        for number in range(shard * count, (shard + 1) * count):
            members, kind = sample_members(number), bad.get(number)
            if kind == "undecodable_caption":
                members["txt"] = b"\xff\xfe"
            elif kind is not None:
                members = damage(kind, members)
            samples[f"{number:04d}"] = members
        write_tar(path, samples)
        keys = [key for key in samples if key != "0110"]
        codes, boxes = np.zeros((len(keys), 16), int), np.ones((len(keys), 4)) * [0, 0, 1, 1]
        np.savez(codes_path(str(path)), keys=np.array(keys), codes=codes, boxes=boxes)
    starts = {}
    for path in paths:
        with tarfile.open(path) as tar:
            starts.update({member.name: member.offset for member in tar.getmembers()})
    overwrite(paths[3], starts["0130.jpg"], bytes(512))
    paths[4].write_bytes(paths[4].read_bytes()[: starts["0180.jpg"] + 100])
    Path(codes_path(str(paths[0]))).write_bytes(b"PK")
    paths += [tmp_path / "8.tar", tmp_path / "9.tar"]
    paths[5].write_bytes(b"<html>" * 500)
    good -= {*bad, *range(count), 110, 130, *range(180, 200)}

    numbers, faults, records = read(paths, stored_codes=True, open_shards=3, shuffle_block=16)
    assert numbers == sorted(good)
    assert faults == {**dict.fromkeys(FAULTS, 1), "missing_codes": count + 1, "missing_image": 2}
    named = {(record.kind, record.key) for record in records}
    assert named >= {(kind, f"{number:04d}") for number, kind in bad.items()} | {("missing_codes", "0110")}
    shards = {record.kind: Path(record.shard).name for record in records if record.key is None}
    assert shards == {
        "unreadable_codes": "0.tar",
        "damaged_shard": "3.tar",
        "truncated_shard": "4.tar",
        "unreadable_shard": "8.tar",
        "missing_shard": "9.tar",
    }
