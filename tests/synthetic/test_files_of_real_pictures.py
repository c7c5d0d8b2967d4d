"""Writers and the renderer together: any number of processes, everything there is to label, photos as backgrounds."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_LABELS
from farl_hf.datasets.lapa import load_lapa
from farl_hf.synthetic import SyntheticFaceConfig, SyntheticFaces, render_faces, write_lapa

SMALL = SyntheticFaceConfig(image_size=48)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_processes_write_what_one_does(tmp_path):
    # More than one chunk of 16: fewer pictures are drawn in this process alone.
    counts = {"train": 17, "val": 1, "test": 1}
    for workers in (1, 2):
        write_lapa(tmp_path / str(workers), counts, SMALL, seed=5, num_workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    rows, faces = load_lapa(tmp_path / "2", "train"), SyntheticFaces(17, SMALL, seed=5)
    for i in (0, 16):
        assert np.array_equal(np.asarray(rows[i]["labels"]), faces[i].lapa_labels)
        assert np.abs(np.array(rows[i]["landmarks"]) - faces[i].faces[-1].landmarks[106]).max() < 1e-5


def missing_classes(count: int) -> set[str]:
    """Classes that occur in none of the pictures."""
    sample_ids = {"lapa": set(), "celebamask_hq": set()}
    for start in range(0, count, 50):
        for sample in render_faces(range(start, start + 50), SyntheticFaceConfig(image_size=64)):
            sample_ids["lapa"] |= set(np.unique(sample.lapa_labels).tolist())
            sample_ids["celebamask_hq"] |= set(np.unique(sample.celebamask_hq_labels).tolist())
    names = {"lapa": LAPA_LABELS, "celebamask_hq": CELEBAMASK_HQ_LABELS}
    return {f"{s}: {name}" for s, ids in sample_ids.items() for i, name in enumerate(names[s]) if i not in ids}


def test_no_class_is_missing():
    assert not missing_classes(100)


@pytest.mark.slow
def test_no_class_is_missing_at_another_thousand():
    assert not missing_classes(1000)


def test_photos_are_backgrounds_and_broken_files_are_skipped(tmp_path):
    Image.new("RGB", (90, 70), (0, 255, 0)).save(tmp_path / "green.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture at all")
    (tmp_path / "notes.txt").write_text("no picture either")
    quiet = {"blur": 0, "noise": 0, "grey": 0, "jpeg": 0, "occluder": 0}
    config = SyntheticFaceConfig(image_size=48, backgrounds=tmp_path, face_size=(0.3, 0.4), **quiet)
    with pytest.warns(UserWarning, match=r"Skipped the background .*broken.jpg"):
        samples = render_faces(range(12), config)
    # The picture's upper corners are background.
    green = [sample for sample in samples if (sample.image[:3, :3] == [0, 255, 0]).all()]
    assert 2 <= len(green) <= 10
    assert all(sample.metadata["background"] == "photo" for sample in green)
    with pytest.raises(ValueError, match="is not a folder"):
        SyntheticFaceConfig(backgrounds=tmp_path / "green.png")


@pytest.mark.slow
def test_killed_command_leaves_no_process_and_goes_on(tmp_path):
    def command(folder: str) -> list[str]:
        words = ["--layout", "lapa", "--num", "150", "--num-val", "1", "--num-test", "1", "--image-size", "48"]
        return [sys.executable, "-m", "farl_hf", "synthesize", str(tmp_path / folder), *words, "--num-workers", "2"]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
    journal = tmp_path / "killed/LaPa/.synthesize.jsonl"
    deadline = time.monotonic() + 300
    while not (journal.exists() and journal.read_text().count("\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    done = journal.read_text().count("\n")
    assert 20 < done < 153
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(children) >= 2 and not any(Path(f"/proc/{child}").exists() for child in children)
    again = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    assert f"{done - 1}/152" in again.stderr
    leftovers = {name for name in digests(tmp_path / "killed") if name.endswith(".part")}
    assert len(leftovers) <= 1
    assert {k: v for k, v in digests(tmp_path / "killed").items() if k not in leftovers} == digests(tmp_path / "whole")
