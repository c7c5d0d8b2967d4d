"""Generated faces as files: what the package's readers read back, and what a kill leaves."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_cases import make_sample, make_samples

from farl_hf.datasets.aflw19 import load_aflw19
from farl_hf.datasets.celeba import load_celeba
from farl_hf.datasets.celebamask_hq import load_celebamask_hq
from farl_hf.datasets.ibug300w import load_ibug300w
from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.datasets.lapa import load_lapa
from farl_hf.datasets.wflw import load_wflw
from farl_hf.synthetic import SyntheticFaceConfig, writers

SMALL = SyntheticFaceConfig(image_size=64, num_faces=(1, 2))
COUNTS = {"train": 2, "val": 1, "test": 2}


@pytest.fixture(autouse=True)
def no_rendering(monkeypatch):
    monkeypatch.setattr(writers, "render_faces", make_samples)


def seeds(split: str, counts: dict[str, int] = COUNTS, seed: int = 3) -> range:
    first = (seed + list(counts).index(split)) * 1_000_000
    return range(first, first + counts[split])


def files_of(folder: Path) -> dict[str, str]:
    """Path -> digest of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same_picture(image: Image.Image, seed: int) -> None:
    assert np.abs(np.asarray(image).astype(int) - make_sample(seed, SMALL).image).mean() < 6  # JPEG


# ------------------------------------------------------------------------------------------------------------- layouts


def test_webdataset(tmp_path):
    shards = writers.write_webdataset(tmp_path, 5, samples_per_shard=3, config=SMALL, seed=3)
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    with tarfile.open(shards[1]) as archive:
        assert archive.getnames() == [f"00001000{i}.{kind}" for i in range(2) for kind in ("jpg", "txt", "json")]
        description = json.loads(archive.extractfile("000010001.json").read())
        text = archive.extractfile("000010001.txt").read().decode()
        image = Image.open(io.BytesIO(archive.extractfile("000010001.jpg").read()))
    sample = make_sample(3_000_004, SMALL)
    assert description["status"] == "success" and description["key"] == "000010001"
    assert description["captions"] == sample.captions and text == description["caption"] == sample.captions[0]
    assert description["attributes"] == sample.faces[-1].attributes
    assert len(description["faces"]) == len(sample.faces)
    assert np.abs(np.array(description["faces"][-1]["points"]) - sample.faces[-1].landmarks[5]).max() < 0.01
    assert (description["width"], description["height"]) == image.size == (64, 64)
    assert_same_picture(image, 3_000_004)


def test_lapa(tmp_path):
    writers.write_lapa(tmp_path, COUNTS, SMALL, seed=3)
    for split in COUNTS:
        rows = load_lapa(tmp_path, split)
        for row, seed in zip(rows, seeds(split), strict=True):
            sample = make_sample(seed, SMALL)
            assert np.array_equal(np.asarray(row["labels"]), sample.lapa_labels)
            assert np.abs(np.array(row["landmarks"]) - sample.faces[-1].landmarks[106]).max() < 1e-5
            assert_same_picture(row["image"], seed)


def test_celebamask_hq(tmp_path):
    writers.write_celebamask_hq(tmp_path, COUNTS, SMALL, seed=3)
    for split in COUNTS:
        rows = load_celebamask_hq(tmp_path, split)
        for row, seed in zip(rows, seeds(split), strict=True):
            assert np.array_equal(np.asarray(row["labels"]), make_sample(seed, SMALL).celebamask_hq_labels)
            assert_same_picture(row["image"], seed)


def test_ibug300w(tmp_path):
    counts = {"train": 2, "valid_common": 2, "valid_challenge": 1}
    writers.write_ibug300w(tmp_path, counts, SMALL, seed=3)
    splits = {"train": "train", "valid_common": "test_common", "valid_challenge": "test_challenging"}
    for ours, official in splits.items():
        for row, seed in zip(load_ibug300w(tmp_path, official), seeds(ours, counts), strict=True):
            check_hrnet_row(row, seed, 68)
    assert len(load_ibug300w(tmp_path, "test")) == 3


def test_wflw(tmp_path):
    counts = {"train": 2, "test": 1}
    writers.write_wflw(tmp_path, counts, SMALL, seed=3)
    for split in counts:
        for row, seed in zip(load_wflw(tmp_path, split), seeds(split, counts), strict=True):
            check_hrnet_row(row, seed, 98)


def check_hrnet_row(row: dict, seed: int, points: int) -> None:
    expected = make_sample(seed, SMALL).faces[-1].landmarks[points]
    assert np.abs(np.array(row["landmarks"]) - expected).max() < 1e-4
    x1, y1, x2, y2 = row["box"]
    assert x2 - x1 == pytest.approx(y2 - y1, abs=1e-3) == pytest.approx(np.ptp(expected, axis=0).max(), abs=1e-3)
    assert (expected >= np.array([x1, y1]) - 1e-3).all() and (expected <= np.array([x2, y2]) + 1e-3).all()
    assert_same_picture(row["image"], seed)


def test_aflw19(tmp_path):
    writers.write_aflw19(tmp_path, 20, 4, SMALL, seed=3)
    rows = [*load_aflw19(tmp_path, "train"), *load_aflw19(tmp_path, "test")]
    assert len(rows) == 24 and len(load_aflw19(tmp_path, "test")) == 4
    for row in rows:
        index = int(Path(row["file"]).stem.removeprefix("image"))
        face = make_sample(3_000_000 + index, SMALL).faces[-1]
        assert np.abs(np.array(row["landmarks"]) - face.landmarks[19]).max() < 1e-3
        low, high = face.landmarks[19].min(axis=0), face.landmarks[19].max(axis=0)
        assert row["box"] == pytest.approx([*low, *high], abs=1e-3)
    frontal = [row for row in load_aflw19(tmp_path, "test") if row["subsets"]]
    for row in frontal:
        assert make_sample(3_000_000 + int(Path(row["file"]).stem[5:]), SMALL).faces[-1].visibility[19].all()


def test_celeba(tmp_path):
    defined = writers.write_celeba(tmp_path, COUNTS, SMALL, seed=3)
    assert defined == [name for name in CELEBA_ATTRIBUTES if name in ("Male", "Eyeglasses", "Smiling")]
    for split in COUNTS:
        for row, seed in zip(load_celeba(tmp_path, split), seeds(split), strict=True):
            face = make_sample(seed, SMALL).faces[-1]
            assert {name: row["attributes"][name] for name in defined} == face.attributes
            assert not any(value for name, value in row["attributes"].items() if name not in defined)
            assert np.abs(np.array(row["face_points"]) - face.landmarks[5]).max() <= 0.5
            assert_same_picture(row["image"], seed)


# -------------------------------------------------------------------------------------------------------------- resume


class Killed(BaseException):
    pass


def write_everything(folder: Path, num_workers: int = 1) -> None:
    counts = {"train": 20, "val": 2, "test": 3}
    writers.write_webdataset(folder / "shards", 25, 4, SMALL, num_workers=num_workers)
    writers.write_lapa(folder, counts, SMALL, num_workers=num_workers)
    writers.write_celebamask_hq(folder, counts, SMALL, num_workers=num_workers)
    writers.write_ibug300w(folder, {"train": 20, "valid_common": 3, "valid_challenge": 2}, SMALL)
    writers.write_wflw(folder, {"train": 20, "test": 5}, SMALL)
    writers.write_aflw19(folder, 20, 5, SMALL)
    writers.write_celeba(folder, counts, SMALL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "render_faces", make_samples)
        write_everything(folder)
    return folder


def test_killed_again_and_again_it_ends_as_if_never_killed(uninterrupted, tmp_path, monkeypatch):
    """Every 23rd to 61st replacement of a file is the last of its run; a cut-off line of the journal counts as none."""
    replace, rng = writers.os.replace, np.random.default_rng(0)
    state = {"left": 0}

    def dying(source, target):
        state["left"] -= 1
        if state["left"] < 0:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(writers.os, "replace", dying)
    for _run in range(100):
        state["left"] = int(rng.integers(23, 61))
        try:
            write_everything(tmp_path)
            break
        except Killed:
            journals = sorted(tmp_path.rglob(".synthesize.jsonl"), key=lambda path: path.stat().st_mtime)
            content = journals[-1].read_bytes()
            if content.count(b"\n") > 1 and rng.random() < 0.5:
                journals[-1].write_bytes(content[: -int(rng.integers(1, 9))])
            # What a reader finds is whole.
            for path in tmp_path.rglob("*.jpg"):
                Image.open(path).load()
    assert 5 < _run < 99
    leftovers = {name for name in files_of(tmp_path) if name.endswith(".part")}
    finished = {name: digest for name, digest in files_of(tmp_path).items() if name not in leftovers}
    assert finished == files_of(uninterrupted) and not leftovers


def test_what_is_done_is_not_drawn_again(tmp_path, monkeypatch):
    writers.write_lapa(tmp_path, COUNTS, SMALL)
    writers.write_webdataset(tmp_path / "shards", 5, 2, SMALL)
    before = files_of(tmp_path)
    monkeypatch.setattr(writers, "render_faces", lambda *_: pytest.fail("drawn again"))
    writers.write_lapa(tmp_path, COUNTS, SMALL)
    writers.write_webdataset(tmp_path / "shards", 5, 2, SMALL)
    assert files_of(tmp_path) == before


def test_other_faces_do_not_mix(tmp_path):
    writers.write_lapa(tmp_path, COUNTS, SMALL)
    with pytest.raises(ValueError, match=r"LaPa holds faces of other settings \(seed, image_size\)"):
        writers.write_lapa(tmp_path, COUNTS, SyntheticFaceConfig(image_size=96, num_faces=(1, 2)), seed=1)
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba/list_attr_celeba.txt").write_text("somebody's own")
    with pytest.raises(ValueError, match="celeba is not empty"):
        writers.write_celeba(tmp_path, COUNTS, SMALL)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="Unknown split 'valid': choose among train, val, test"):
        writers.write_lapa(tmp_path, {"valid": 1})
    with pytest.raises(ValueError, match="0 to a million pictures"):
        writers.write_lapa(tmp_path, {"train": -1})
    with pytest.raises(ValueError, match="1 or more altogether"):
        writers.write_webdataset(tmp_path, 0)
    with pytest.raises(ValueError, match="samples_per_shard is 0"):
        writers.write_webdataset(tmp_path, 1, samples_per_shard=0)
    with pytest.raises(ValueError, match="num_workers is 0"):
        writers.write_wflw(tmp_path, {"train": 1}, SMALL, num_workers=0)
