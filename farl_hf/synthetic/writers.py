"""
Generated faces as files: image-caption shards, and folders in the official layouts of the benchmarks.

Pictures are drawn in `num_workers` processes and written in order by this one, so files are the same for any number of
processes. Every file appears whole or not at all. A folder keeps a journal of the samples that are done; the same call
after a kill goes on where it stopped, another call into the same folder is refused.
"""

import csv
import io
import json
import multiprocessing
import os
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..datasets.labels import CELEBA_ATTRIBUTES
from .config import SyntheticFaceConfig
from .faces import VERSION, SyntheticFace, SyntheticFaceSample, render_faces

# File name endings of CelebAMask-HQ's annotations by class id (`datasets/celebamask_hq.py` of the FaRL repository).
CELEBAMASK_HQ_SUFFIXES = (  # noqa: SIM905
    "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat ear_r neck_l"
).split()
# The HRNet files of 300W count from one and a half pixels further; the FaRL repository subtracts 2 when it reads them.
IBUG300W_SHIFT = 2.0
# Pictures that a process draws at a time.
_CHUNK = 16
_SET_SIZE = 1_000_000


@dataclass
class _Encoded:
    """A sample as files (path below the folder -> content) and what the layout's lists tell about it, as JSON."""

    files: dict[str, bytes]
    record: dict = field(default_factory=dict)


# From (sample, split, index in the split, index in all) to files and record.
_Encode = Callable[[SyntheticFaceSample, str, int, int], _Encoded]


def write_webdataset(
    folder: str | Path,
    num_samples: int,
    samples_per_shard: int = 1000,
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> list[Path]:
    """
    Tar shards as img2dataset writes them, `00000.tar` and on: one `.jpg`, `.txt` (the first caption) and `.json` per
    sample. The JSON has img2dataset's `key, caption, status, width, height`, all `captions`, the `attributes` of the
    front-most face, and `faces` with `box`, five `points` (pixels), `pose` (degrees) and `attributes` each.

    Args:
        folder: Where to write.
        num_samples: Pictures altogether, at most a million.
        samples_per_shard: Pictures of a shard; the last one may have fewer. At most 10,000.
        config: What to draw.
        seed: Of the set; sets with different seeds share no picture.
        num_workers: Processes that draw. More than one start afresh, so the calling script needs the usual
            `if __name__ == "__main__":`.

    Returns:
        The paths of the shards.

    Raises:
        ValueError: If a number is out of its range, or the folder holds other faces.
    """
    if not 1 <= samples_per_shard <= 10_000:
        raise ValueError(f"samples_per_shard is {samples_per_shard}: 1 to 10,000.")
    folder = Path(folder)
    journal = _Journal(folder, "webdataset", {"all": num_samples}, config, seed, samples_per_shard=samples_per_shard)
    count = -(-num_samples // samples_per_shard)
    shards = [folder / f"{shard:05d}.tar" for shard in range(count)]
    start = len(journal.records) * samples_per_shard
    encode = partial(_encode_webdataset, samples_per_shard)
    samples = _encoded_samples(encode, {"all": num_samples}, start, config, seed, num_workers, "shards")
    for shard in range(len(journal.records), count):
        temporary = _temporary(shards[shard])
        with tarfile.open(temporary, mode="w") as archive:
            for _ in range(min(samples_per_shard, num_samples - shard * samples_per_shard)):
                for name, content in next(samples).files.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        os.replace(temporary, shards[shard])
        journal.add({"shard": shards[shard].name})
    return shards


def _encode_webdataset(
    samples_per_shard: int, sample: SyntheticFaceSample, split: str, index: int, overall: int
) -> _Encoded:
    shard, i = divmod(index, samples_per_shard)
    key, (height, width) = f"{shard:05d}{i:04d}", sample.image.shape[:2]
    description = {
        "key": key,
        "caption": sample.captions[0],
        "captions": sample.captions,
        "status": "success",
        "width": width,
        "height": height,
        "attributes": _attributes(sample.faces[-1]),
        "faces": [
            {
                "box": _numbers(face.box, 2),
                "points": np.round(face.landmarks[5].astype(float), 2).tolist(),
                "pose": _numbers(face.pose, 2),
                "attributes": _attributes(face),
            }
            for face in sample.faces
        ],
    }
    contents = {
        "jpg": _jpeg(sample.image),
        "txt": sample.captions[0].encode(),
        "json": json.dumps(description).encode(),
    }
    return _Encoded({f"{key}.{kind}": content for kind, content in contents.items()})


def write_lapa(
    folder: str | Path,
    counts: Mapping[str, int],
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> None:
    """
    `LaPa/{train,val,test}/{images,labels,landmarks}`: maps of the 11 classes and 106 landmarks of the front-most face.

    Args:
        folder: Where to make `LaPa`.
        counts: Pictures of each split, at most a million; no picture is in two splits.
        config, seed, num_workers: As for `write_webdataset`. Splits after the first have the seeds `seed + 1` and on.

    Raises:
        ValueError: If a split is unknown, a number is out of its range, or the folder holds other faces.
    """
    _check_splits(counts, ("train", "val", "test"))
    _write_layout(Path(folder) / "LaPa", "lapa", _encode_lapa, counts, config, seed, num_workers)


def _encode_lapa(sample: SyntheticFaceSample, split: str, index: int, overall: int) -> _Encoded:
    rows = [f"{x:.6f} {y:.6f}" for x, y in sample.faces[-1].landmarks[106]]
    return _Encoded(
        {
            f"{split}/images/{index:06d}.jpg": _jpeg(sample.image),
            f"{split}/labels/{index:06d}.png": _png(sample.lapa_labels),
            f"{split}/landmarks/{index:06d}.txt": ("\n".join(["106", *rows]) + "\n").encode(),
        }
    )


def write_celebamask_hq(
    folder: str | Path,
    counts: Mapping[str, int],
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> None:
    """
    `CelebAMask-HQ` with `CelebA-HQ-img`, `CelebAMask-HQ-mask-anno`, the mapping to CelebA and its partition; arguments
    and errors as of `write_lapa`.
    """
    splits = ("train", "val", "test")
    _check_splits(counts, splits)
    root = Path(folder) / "CelebAMask-HQ"
    records = _write_layout(root, "celebamask_hq", _encode_celebamask_hq, counts, config, seed, num_workers)
    mapping, partition = ["idx orig_idx orig_file"], []
    for index, record in enumerate(records):
        mapping.append(f"{index} {index} {index + 1:06d}.jpg")
        partition.append(f"{index + 1:06d}.jpg {splits.index(record['split'])}")
    _write_lines(root / "CelebA-HQ-to-CelebA-mapping.txt", mapping)
    _write_lines(root / "list_eval_partition.txt", partition)


def _encode_celebamask_hq(sample: SyntheticFaceSample, split: str, index: int, overall: int) -> _Encoded:
    files = {f"CelebA-HQ-img/{overall}.jpg": _jpeg(sample.image)}
    for class_id, suffix in enumerate(CELEBAMASK_HQ_SUFFIXES, start=1):
        mask = sample.celebamask_hq_labels == class_id
        if mask.any():
            name = f"CelebAMask-HQ-mask-anno/{overall // 2000}/{overall:05d}_{suffix}.png"
            files[name] = _png((mask * 255).astype(np.uint8))
    return _Encoded(files, {"split": split})


def write_ibug300w(
    folder: str | Path,
    counts: Mapping[str, int],
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> None:
    """
    `IBUG300W` with `face_landmarks_300w_{train,valid_common,valid_challenge}.csv`, the splits' names; 68 landmarks of
    the front-most face. Arguments and errors as of `write_lapa`.
    """
    _check_splits(counts, tuple(_IBUG300W_FOLDERS))
    root = Path(folder) / "IBUG300W"
    records = _write_layout(root, "ibug300w", _encode_ibug300w, counts, config, seed, num_workers)
    for split in counts:
        rows = [record["row"] for record in records if record["split"] == split]
        _write_hrnet_csv(root / f"face_landmarks_300w_{split}.csv", 68, rows)


_IBUG300W_FOLDERS = {"train": "helen/trainset", "valid_common": "helen/testset", "valid_challenge": "ibug"}


def _encode_ibug300w(sample: SyntheticFaceSample, split: str, index: int, overall: int) -> _Encoded:
    name, points = f"{_IBUG300W_FOLDERS[split]}/image_{index:04d}_1.jpg", sample.faces[-1].landmarks[68]
    return _Encoded({name: _jpeg(sample.image)}, {"split": split, "row": _hrnet_row(name, points, IBUG300W_SHIFT)})


def write_wflw(
    folder: str | Path,
    counts: Mapping[str, int],
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> None:
    """
    `WFLW` with `WFLW_images` and `face_landmarks_wflw_{split}.csv` for every key of `counts`, `train` and `test` among
    others; 98 landmarks of the front-most face. Arguments and errors as of `write_lapa`.
    """
    root = Path(folder) / "WFLW"
    records = _write_layout(root, "wflw", _encode_wflw, counts, config, seed, num_workers)
    for split in counts:
        rows = [record["row"] for record in records if record["split"] == split]
        _write_hrnet_csv(root / f"face_landmarks_wflw_{split}.csv", 98, rows)


def _encode_wflw(sample: SyntheticFaceSample, split: str, index: int, overall: int) -> _Encoded:
    name = f"{split}_{index:05d}.jpg"
    row = _hrnet_row(name, sample.faces[-1].landmarks[98], shift=0.0)
    return _Encoded({f"WFLW_images/{name}": _jpeg(sample.image)}, {"split": split, "row": row})


def write_aflw19(
    folder: str | Path,
    num_train: int,
    num_test: int,
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> None:
    """
    `AFLW-19` with `data/flickr` and `AFLWinfo_release.mat`, whose permutation `ra` has the training images first; 19
    landmarks of the front-most face, with their visibility. Other arguments and errors as of `write_lapa`.
    """
    from scipy.io import savemat

    root, count = Path(folder) / "AFLW-19", num_train + num_test
    records = _write_layout(root, "aflw19", _encode_aflw19, {"all": count}, config, seed, num_workers)
    points = np.array([record["points"] for record in records])
    content = {
        "bbox": np.stack([extreme(points[:, :, i], axis=1) for i in range(2) for extreme in (np.min, np.max)], axis=1),
        "data": np.concatenate([points[:, :, 0], points[:, :, 1]], axis=1),
        "mask_new": np.array([record["visible"] for record in records], dtype=np.uint8),
        "nameList": np.array([record["name"] for record in records], dtype=object)[:, None],
        "ra": (np.random.default_rng(seed).permutation(count) + 1)[None].astype(np.uint32),
    }
    buffer = io.BytesIO()
    savemat(buffer, content)
    # The file's first 116 bytes are free text, in which scipy puts the time.
    head = b"MATLAB 5.0 MAT-file, generated faces".ljust(116)
    _write_whole(root / "AFLWinfo_release.mat", head + buffer.getvalue()[116:])


def _encode_aflw19(sample: SyntheticFaceSample, split: str, index: int, overall: int) -> _Encoded:
    name, face = f"0/image{index:05d}.jpg", sample.faces[-1]
    record = {
        "name": name,
        "points": face.landmarks[19].astype(float).tolist(),
        "visible": face.visibility[19].astype(int).tolist(),
    }
    return _Encoded({f"data/flickr/{name}": _jpeg(sample.image)}, record)


def write_celeba(
    folder: str | Path,
    counts: Mapping[str, int],
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    num_workers: int = 1,
) -> list[str]:
    """
    `celeba` with `img_align_celeba`, `list_attr_celeba.txt`, `list_landmarks_align_celeba.txt` and
    `list_eval_partition.txt`, of the front-most face. Arguments and errors as of `write_lapa`.

    Returns:
        The attributes that the generator defines; the others of the 40 are -1 throughout.
    """
    splits = ("train", "val", "test")
    _check_splits(counts, splits)
    root = Path(folder) / "celeba"
    records = _write_layout(root, "celeba", _encode_celeba, counts, config, seed, num_workers)
    attributes, landmarks, partition = [], [], []
    for record in records:
        signs = ["1" if record["attributes"].get(attribute) else "-1" for attribute in CELEBA_ATTRIBUTES]
        attributes.append(" ".join([record["name"], *signs]))
        landmarks.append(" ".join([record["name"], *map(str, record["points"])]))
        partition.append(f"{record['name']} {splits.index(record['split'])}")
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    header = [str(len(records)), " ".join(CELEBA_ATTRIBUTES)]
    _write_lines(root / "list_attr_celeba.txt", [*header, *attributes])
    _write_lines(root / "list_landmarks_align_celeba.txt", [header[0], points, *landmarks])
    _write_lines(root / "list_eval_partition.txt", partition)
    return [name for name in CELEBA_ATTRIBUTES if any(name in record["attributes"] for record in records)]


def _encode_celeba(sample: SyntheticFaceSample, split: str, index: int, overall: int) -> _Encoded:
    name, face = f"{overall + 1:06d}.jpg", sample.faces[-1]
    record = {
        "name": name,
        "split": split,
        "points": [round(value) for value in face.landmarks[5].flatten().tolist()],
        "attributes": _attributes(face),
    }
    return _Encoded({f"img_align_celeba/{name}": _jpeg(sample.image)}, record)


# ----------------------------------------------------------------------------------------------- journal and processes


class _Journal:
    """
    `.synthesize.jsonl` of a folder: what is drawn there, then one line for each sample (or shard) that is done. A line
    that a kill has cut off counts as not written.
    """

    def __init__(
        self,
        folder: Path,
        layout: str,
        counts: Mapping[str, int],
        config: SyntheticFaceConfig | None,
        seed: int,
        **settings: int,
    ):
        if any(not 0 <= count <= _SET_SIZE for count in counts.values()) or not any(counts.values()):
            raise ValueError(f"counts are {dict(counts)}: 0 to a million pictures of each split, 1 or more altogether.")
        options = json.loads(json.dumps(asdict(config or SyntheticFaceConfig()), default=str))
        head = {"version": VERSION, "layout": layout, "counts": dict(counts), "seed": seed, **settings, **options}
        self.path = folder / ".synthesize.jsonl"
        lines = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        if lines and json.loads(lines[0]) != head:
            before = json.loads(lines[0])
            other = [name for name in {**before, **head} if before.get(name) != head.get(name)]
            raise ValueError(
                f"{folder} holds faces of other settings ({', '.join(other)}): take another folder, or delete this one."
            )
        if not lines and folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no generated faces: take another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self.records = [json.loads(line) for line in lines[1:]]
        _write_lines(self.path, lines or [json.dumps(head)])

    def add(self, record: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)


def _write_layout(
    root: Path,
    layout: str,
    encode: _Encode,
    counts: Mapping[str, int],
    config: SyntheticFaceConfig | None,
    seed: int,
    num_workers: int,
) -> list[dict]:
    """Writes what is missing of a layout's pictures; returns the records of all of them."""
    journal = _Journal(root, layout, counts, config, seed)
    for sample in _encoded_samples(encode, counts, len(journal.records), config, seed, num_workers, layout):
        for name, content in sample.files.items():
            _write_whole(root / name, content)
        journal.add(sample.record)
    return journal.records


@dataclass(frozen=True)
class _Chunk:
    """Some neighbours of a split: their seeds, and the places of the first in the split and in all."""

    split: str
    seeds: range
    index: int
    overall: int


def _chunks(counts: Mapping[str, int], start: int, seed: int) -> Iterator[_Chunk]:
    """What is left to draw after the first `start` pictures of all splits."""
    before = 0
    for offset, (split, count) in enumerate(counts.items()):
        first = (seed + offset) * _SET_SIZE
        for index in range(max(0, start - before), count, _CHUNK):
            seeds = range(first + index, first + min(index + _CHUNK, count))
            yield _Chunk(split, seeds, index, before + index)
        before += count


def _encoded_samples(
    encode: _Encode,
    counts: Mapping[str, int],
    start: int,
    config: SyntheticFaceConfig | None,
    seed: int,
    num_workers: int,
    what: str,
) -> Iterator[_Encoded]:
    """The samples from place `start` on, in order, drawn in `num_workers` processes."""
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: at least 1.")
    total = sum(counts.values())
    chunks = _chunks(counts, start, seed)
    make = partial(_encode_chunk, encode, config)
    with tqdm(total=total, initial=min(start, total), desc=what, unit="face") as bar:
        results = (
            map(make, chunks) if num_workers == 1 or total - start <= _CHUNK else _parallel(make, chunks, num_workers)
        )
        for samples in results:
            for sample in samples:
                yield sample
                bar.update()


def _encode_chunk(encode: _Encode, config: SyntheticFaceConfig | None, chunk: _Chunk) -> list[_Encoded]:
    samples = render_faces(chunk.seeds, config)
    return [encode(sample, chunk.split, chunk.index + i, chunk.overall + i) for i, sample in enumerate(samples)]


def _parallel(make: Callable[[_Chunk], list[_Encoded]], chunks: Iterator[_Chunk], num_workers: int) -> Iterator[list]:
    """`map` in processes, in order and never far ahead of the reader."""
    # Fresh processes: what torch and warp hold (threads, devices) does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_end_with_parent) as pool:
        waiting: deque = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(make, chunk))
                if len(waiting) >= 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise RuntimeError(
                "A drawing process was killed, perhaps for want of memory: give the same command again to go on, with "
                "fewer num_workers."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --------------------------------------------------------------------------------------------------------------- files


def _check_splits(counts: Mapping[str, int], known: tuple[str, ...]) -> None:
    unknown = [split for split in counts if split not in known]
    if unknown:
        raise ValueError(f"Unknown split {unknown[0]!r}: choose among {', '.join(known)}.")


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_lines(path: Path, lines: list[str]) -> None:
    _write_whole(path, ("\n".join(lines) + "\n").encode())


def _write_hrnet_csv(path: Path, points: int, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    header = [f"original_{i}_{axis}" for i in range(points) for axis in "xy"]
    csv.writer(text).writerows([["image_name", "scale", "center_w", "center_h", *header], *rows])
    _write_whole(path, text.getvalue().encode())


def _hrnet_row(name: str, points: np.ndarray, shift: float) -> list[str]:
    # The box is the centre and 100 * scale to either side.
    low, high = points.min(axis=0).astype(float), points.max(axis=0).astype(float)
    numbers = [(high - low).max() / 200, *((low + high) / 2 + shift), *(points.flatten().astype(float) + shift)]
    return [name, *(f"{number:.6f}" for number in numbers)]


def _attributes(face: SyntheticFace) -> dict[str, bool]:
    return {name: bool(value) for name, value in face.attributes.items()}


def _numbers(values: tuple[float, ...], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
