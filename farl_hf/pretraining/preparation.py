"""
Making and checking of image-text shards: rows of LAION-Face out of LAION's metadata, packing, verification, and visual
codes made beforehand.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import shlex
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..conversion.checkpoint_files import CheckpointError
from .faults import SampleFault, ShardError
from .image_codebook import ImageCodebook
from .image_views import Box, ImageViews, open_image
from .objective import scaled_pixels
from .samples import codes_path, parse_metadata, usable_captions
from .shards import IMAGE_EXTENSIONS, RawSample, expand_shards, read_shard

# The 13 of the 32 parts whose union is the paper's LAION-Face 20M (README of FacePerceiver/LAION-Face).
LAION_FACE_20M_PARTS = (0, 2, 5, 8, 13, 15, 17, 18, 21, 22, 24, 25, 28)
# Columns that LAION-Face's download script hands to img2dataset beside the address and the caption.
_EXTRA_COLUMNS = ("NSFW", "similarity", "LICENSE", "SAMPLE_ID", "faces")
_WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


def read_ids(path: str | Path, part: int | None = None) -> set[int]:
    """
    Reads sample ids.

    Args:
        path: `laion_face_ids.pth` (a list or dict of the ids of each part; read without executing its pickle), a
            parquet file with a column `SAMPLE_ID`, or text with one id per line.
        part: Which part to take of a `.pth` file; all of them if not given.

    Raises:
        ValueError: If the file does not hold ids, or not that part.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return set(map(int, parquet.read_table(path, columns=["SAMPLE_ID"])["SAMPLE_ID"].to_pylist()))
    if path.suffix == ".txt":
        return {int(line) for line in path.read_text().split()}
    parts = _load_safely(path)
    if isinstance(parts, list):
        parts = dict(enumerate(parts))
    if not isinstance(parts, dict):
        raise ValueError(f"{path} holds a {type(parts).__name__}, not the ids of parts.")
    if part is not None and part not in parts:
        raise ValueError(f"{path} has no part {part}: it has {sorted(parts)}.")
    chosen = parts.values() if part is None else [parts[part]]
    return {int(sample_id) for ids in chosen for sample_id in ids}


def filter_metadata(
    metadata: str | Path, ids: set[int], output: str | Path, detections: str | Path | None = None
) -> tuple[int, int]:
    """
    Keeps the rows of a metadata parquet file (columns `URL`, `TEXT`, `SAMPLE_ID` and any others) whose id is wanted.

    Args:
        metadata: The parquet file of LAION-400M, Re-LAION, or any other set with these columns.
        ids: Wanted values of `SAMPLE_ID`.
        output: Parquet file to write.
        detections: LAION-Face's `sample2detect_PART.pth`; adds a column `faces`, JSON that the reader crops by.

    Returns:
        Number of rows read and of rows kept.

    Raises:
        ValueError: If a column is missing.
    """
    import pyarrow
    from pyarrow import compute, parquet

    source = parquet.ParquetFile(metadata)
    for column in ("URL", "TEXT", "SAMPLE_ID"):
        if column not in source.schema_arrow.names:
            raise ValueError(f"{metadata} has no column {column}: it has {', '.join(source.schema_arrow.names)}.")
    faces = None if detections is None else _load_safely(Path(detections))
    wanted = pyarrow.array(sorted(ids), pyarrow.int64())
    schema = (
        source.schema_arrow if faces is None else source.schema_arrow.append(pyarrow.field("faces", pyarrow.string()))
    )
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".unfinished")
    kept = 0
    with parquet.ParquetWriter(unfinished, schema) as writer:
        for batch in source.iter_batches():
            sample_ids = compute.cast(batch["SAMPLE_ID"], pyarrow.int64())
            batch = batch.filter(compute.is_in(sample_ids, value_set=wanted))
            if faces is not None:
                found = [json.dumps(_plain(faces.get(int(i), []))) for i in batch["SAMPLE_ID"].to_pylist()]
                batch = batch.append_column("faces", pyarrow.array(found, pyarrow.string()))
            kept += len(batch)
            writer.write_batch(batch)
    unfinished.replace(output)
    return source.metadata.num_rows, kept


def img2dataset_command(
    metadata: str | Path, output: str | Path, columns: Sequence[str] = _EXTRA_COLUMNS, processes: int = 16
) -> str:
    """
    The shell command that fetches the images of a filtered parquet file, with the settings of LAION-Face's
    `download.sh`: webdataset shards, original resolution, 128 threads per process.
    """
    options = {
        "url_list": str(metadata),
        "input_format": "parquet",
        "url_col": "URL",
        "caption_col": "TEXT",
        "output_format": "webdataset",
        "output_folder": str(output),
        "resize_mode": "no",
        "processes_count": str(processes),
        "thread_count": "128",
        "save_additional_columns": json.dumps(list(columns)),
    }
    return " ".join(["img2dataset", *(f"--{name} {shlex.quote(value)}" for name, value in options.items())])


def _load_safely(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many classes on files that are not its own
        raise CheckpointError(f"{path} is no torch file of plain lists, dicts and tensors: {error}") from error


def _plain(value: Any) -> Any:
    """Tensors and tuples as lists, for JSON."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def samples_from_folder(folder: str | Path) -> Iterator[RawSample]:
    """
    Images of a folder and its sub-folders, sorted, with the caption in a `.txt` file of the same name (one caption per
    line) and metadata in a `.json` file if there is one.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS)
    for path in paths:
        caption, metadata = path.with_suffix(".txt"), path.with_suffix(".json")
        yield RawSample(
            key=path.relative_to(folder).with_suffix("").as_posix(),
            image=path.read_bytes(),
            captions=[*caption.read_text(errors="replace").splitlines()] if caption.exists() else [],
            metadata=metadata.read_bytes() if metadata.exists() else None,
        )


def samples_from_dataset(
    name: str, split: str, image_column: str = "image", caption_column: str = "text", config: str | None = None
) -> Iterator[RawSample]:
    """Images and captions of anything that `datasets.load_dataset` reads, streamed, bytes as they are stored."""
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    dataset = load_dataset(name, config, split=split, streaming=True)
    dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    for number, row in enumerate(dataset):
        image, captions = row[image_column], row[caption_column]
        data = image["bytes"] or Path(image["path"]).read_bytes()
        yield RawSample(f"{number:09d}", data, captions if isinstance(captions, list) else [captions])


def write_shards(
    samples: Iterable[RawSample], output: str | Path, samples_per_shard: int = 1000, seed: int | None = 0
) -> tuple[int, dict[str, int]]:
    """
    Packs samples into `00000.tar`, `00001.tar`, ... as img2dataset names and fills them, with a `_stats.json` beside
    each. Unusable samples are left out and counted.

    Args:
        samples: What to pack. With a seed it is listed first, since a folder sorted by person or class must not become
            shards of one class each; encoded images of one shard at a time are in memory without.
        output: Folder to write to.
        samples_per_shard: Samples in each tar but the last.
        seed: Of the order; `None` keeps the order and streams.

    Returns:
        Number of packed samples, and of faults by kind.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if seed is not None:
        samples = list(samples)
        random.Random(seed).shuffle(samples)
    faults: Counter[str] = Counter()
    shard: list[RawSample] = []
    packed = number = 0
    for sample in tqdm(samples, desc="Packing", unit="image"):
        fault = sample_fault(sample)
        if fault is not None:
            faults[fault] += 1
            continue
        shard.append(sample)
        packed += 1
        if len(shard) == samples_per_shard:
            _write_tar(output / f"{number:05d}.tar", shard, number)
            shard, number = [], number + 1
    if shard:
        _write_tar(output / f"{number:05d}.tar", shard, number)
    return packed, dict(faults)


def _write_tar(path: Path, samples: list[RawSample], shard_number: int) -> None:
    unfinished = path.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as tar:
        for index, sample in enumerate(samples):
            metadata = {**parse_metadata(sample.metadata), "source": sample.key}
            captions = usable_captions(sample, metadata)
            if len(captions) > 1:
                metadata["captions"] = captions
            assert sample.image is not None  # samples without were left out
            extension = (
                str(Image.open(io.BytesIO(sample.image)).format).lower().replace("jpeg", "jpg").replace("mpo", "jpg")
            )
            members = {extension: sample.image, "txt": captions[0].encode(), "json": json.dumps(metadata).encode()}
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{shard_number:05d}{index:04d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    unfinished.replace(path)
    path.with_name(f"{path.stem}_stats.json").write_text(json.dumps({"count": len(samples), "successes": len(samples)}))


def sample_fault(sample: RawSample) -> str | None:
    """What is wrong with a sample (a key of `faults.FAULTS`), or `None`. Decodes the whole image."""
    try:
        usable_captions(sample, parse_metadata(sample.metadata))
        if not sample.image:
            return "missing_image"
        ImageViews(image_size=8)(sample.image, random.Random(0), {}, _WHOLE_IMAGE)
    except SampleFault as fault:
        return fault.kind
    return None


@dataclass
class ShardReport:
    """
    What [`verify_shards`] found.

    Attributes:
        shards: Good samples by shard.
        faults: Faults by kind, see `faults.FAULTS`.
        duplicates: Number of images whose bytes occurred before.
        examples: Up to five places of each kind of fault, and of `duplicate`.
    """

    shards: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, place: str) -> None:
        if kind == "duplicate":
            self.duplicates += 1
        else:
            self.faults[kind] = self.faults.get(kind, 0) + 1
        places = self.examples.setdefault(kind, [])
        if len(places) < 5:
            places.append(place)


def verify_shards(patterns: str | Sequence[str]) -> ShardReport:
    """Reads shards from front to back, decodes every image, and reports counts, faults and duplicates."""
    report = ShardReport()
    seen: set[bytes] = set()
    for shard in tqdm(expand_shards(patterns), desc="Verifying", unit="shard"):
        good = 0
        try:
            for sample in read_shard(shard):
                kind = sample_fault(sample)
                if kind is None:
                    digest = hashlib.blake2b(sample.image or b"", digest_size=12).digest()
                    kind = "duplicate" if digest in seen else None
                    seen.add(digest)
                    good += 1
                if kind is not None:
                    report.note(kind, f"{shard}:{sample.key}")
        except ShardError as error:
            report.note(error.kind, str(error))
        report.shards[shard] = good
    return report


def write_codes(
    patterns: str | Sequence[str], codebook: ImageCodebook, image_size: int, device: str = "cpu", batch_size: int = 64
) -> dict[str, int]:
    """
    Makes the visual codes of local shards beforehand, for `--image_codebook stored`: `SHARD.codes.npz` with one code
    per patch of the largest central square of each image. Training then uses that crop, which saves the codebook's
    time and gives up random crops.

    Args:
        patterns: The shards.
        codebook: Of the model to be trained.
        image_size: Side of the model's input in pixels.
        device: Where the codebook is.
        batch_size: Images at a time.

    Returns:
        Samples by shard; bad ones are left out.
    """
    views = ImageViews(image_size, None if codebook.view_size == image_size else codebook.view_size)
    counts = {}
    for shard in tqdm(expand_shards(patterns), desc="Codes", unit="shard"):
        keys, boxes, codes = [], [], []
        central = _central_views(shard, views)
        while part := list(itertools.islice(central, batch_size)):
            pixels = np.stack([view for _, _, view in part])
            codes.append(codebook(scaled_pixels(torch.from_numpy(pixels).to(device))).cpu().numpy().astype(np.uint16))
            keys += [key for key, _, _ in part]
            boxes += [box for _, box, _ in part]
        if keys:
            with open(codes_path(shard), "wb") as file:
                np.savez(file, keys=np.array(keys), codes=np.concatenate(codes), boxes=np.array(boxes, np.float32))
        counts[shard] = len(keys)
    return counts


def _central_views(shard: str, views: ImageViews) -> Iterator[tuple[str, Box, np.ndarray]]:
    """Key, crop and the codebook's view of the good samples of a shard, as far as it can be read."""
    try:
        for sample in read_shard(shard):
            if sample_fault(sample) is None and sample.image is not None:
                image, orientation = open_image(sample.image)
                width, height = image.size if orientation < 5 else image.size[::-1]
                left, top = (1 - min(width, height) / width) / 2, (1 - min(width, height) / height) / 2
                box = (left, top, 1 - left, 1 - top)
                yield sample.key, box, views(sample.image, random.Random(0), {}, box)[-1]
    except ShardError:
        return  # training will report the shard
