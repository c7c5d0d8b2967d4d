"""
Image-text data sets of the `datasets` library, both ways: [`load_laion_face`] opens shards as a streamed data set, and
[`dataset_shards`] takes any data set with images and texts apart for pre-training.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset, List, Value, load_dataset

from .faults import SampleFault, ShardError
from .samples import parse_metadata
from .shards import CAPTION_COLUMNS, IMAGE_COLUMNS, KEY_COLUMNS, RawSample, expand_shards, read_shard, shard_name

logger = logging.getLogger(__name__)

_UNDECODED = Image(decode=False)
FEATURES = Features(
    {
        "image": _UNDECODED,
        "captions": List(Value("string")),
        "faces": Value("string"),
        "json": Value("string"),
        "key": Value("string"),
    }
)
# Readers of `datasets` by the ending of a file.
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
# Of a map-style data set, so that several workers have something to read.
_ROWS_PER_SHARD = 256


def load_laion_face(shards: str | Sequence[str], seed: int | None = None, shuffle_block: int = 128) -> IterableDataset:
    """
    Opens image-text shards, as img2dataset writes LAION-Face, as a streamed data set of undecoded samples.

    Each shard is one of the data set's shards: `n_shards`, `split_dataset_by_node`, the workers of a `DataLoader`,
    `map`, `filter` and `take` work as on any other, and `state_dict` and `load_state_dict` go on at the exact sample.
    Bad shards are left with a warning, where they end; bad images and captions are for who decodes them (`pretrain`
    counts and names them).

    ```python
    >>> dataset = load_laion_face("shards/{00000..01999}.tar", seed=0)
    >>> dataset = dataset.filter(lambda row: row["faces"] not in (None, "[]"))
    >>> pretrain(config, dataset)
    ```

    Args:
        shards: Tar or parquet files, see `shards.expand_shards`.
        seed: Permutes the shards, and the samples of each in blocks; `None` keeps the stored order. Do not use
            `IterableDataset.shuffle` instead where a run must be resumed: its buffer is lost.
        shuffle_block: Samples that are permuted together, and are in memory together.

    Returns:
        A data set with the columns `image` (`{"bytes", "path"}`, undecoded), `captions` (list of strings, `None` where
        one is not UTF-8), `faces` (JSON text of LAION-Face's detections: a list of `(box, five points, score)` in
        pixels of the original; `None` if there are none), `json` (all the stored metadata) and `key`.

    Raises:
        FileNotFoundError: If a glob or folder matches nothing.
    """
    paths = expand_shards(shards)
    if seed is not None:
        random.Random(f"{seed}").shuffle(paths)
    arguments = {"shards": paths, "seed": seed, "shuffle_block": shuffle_block}
    return IterableDataset.from_generator(_rows, features=FEATURES, gen_kwargs=arguments)


def _rows(shards: list[str], seed: int | None, shuffle_block: int) -> Iterator[dict[str, Any]]:
    for shard in shards:
        block: list[RawSample] = []
        samples, ended = read_shard(shard), False
        while not ended:
            try:
                block.append(next(samples))
            except StopIteration:
                ended = True
            except ShardError as error:
                logger.warning("%s: %s", error.kind, error)
                ended = True
            if block and (ended or len(block) == shuffle_block):
                if seed is not None:
                    random.Random(f"{seed}/{shard_name(shard)}/{block[0].key}").shuffle(block)
                yield from map(_row, block)
                block = []


def _row(sample: RawSample) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] | None = parse_metadata(sample.metadata)
    except SampleFault:
        metadata = None
    text: Any = sample.metadata
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    elif text is not None:
        text = json.dumps({name: value for name, value in text.items() if not isinstance(value, bytes)}, default=str)
    faces = None if metadata is None else metadata.get("faces")
    return {
        "image": {"bytes": sample.image, "path": None},
        "captions": [_text(caption) for caption in sample.captions],
        "faces": None if faces is None else json.dumps(faces, default=str),
        "json": text,
        "key": sample.key,
    }


def _text(caption: str | bytes | None) -> str | None:
    try:
        return caption.decode() if isinstance(caption, bytes) else caption
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class DatasetShard:
    """
    One shard of a streamed data set, as pre-training reads it.

    Attributes:
        dataset: The whole data set.
        index: Which shard.
        name: Of the shard, the same in every run.
        columns: Names of the columns `image`, `captions` and, where there are, `key`, `faces` and `json`.
    """

    dataset: IterableDataset
    index: int
    name: str
    columns: Mapping[str, str]

    def __iter__(self) -> Iterator[RawSample]:
        part = self.dataset.shard(num_shards=self.dataset.num_shards, index=self.index)
        # Of its own, a copy: without types the library leaves rows as they come, which saves 0.1 ms for each.
        part.info.features = None
        try:
            for number, row in enumerate(part):
                yield self._sample(number, row)
        except Exception as error:  # each format and protocol has its own
            raise ShardError("truncated_shard", f"{self.name}: {type(error).__name__}: {error}") from error

    def _sample(self, number: int, row: dict[str, Any]) -> RawSample:
        image, captions = row.get(self.columns["image"]), row.get(self.columns["captions"])
        if image is not None and not isinstance(image, bytes | dict):
            image = _UNDECODED.encode_example(image)
        if isinstance(image, dict):
            image = image.get("bytes") or (Path(image["path"]).read_bytes() if image.get("path") else None)
        key = row.get(self.columns.get("key", ""))
        metadata = row.get(self.columns.get("json", ""))
        if metadata is None and "faces" in self.columns:
            metadata = {"faces": row.get(self.columns["faces"])}
        return RawSample(
            key=str(number if key is None else key),
            image=image,
            captions=captions if isinstance(captions, list) else [captions],
            metadata=metadata,
        )


def open_dataset(name: str, config: str | None = None, split: str = "train") -> IterableDataset:
    """
    Opens a data set for streaming, as `datasets.load_dataset` does, and files by their ending besides.

    Args:
        name: On the Hub, or a folder, or files (`.parquet`, `.arrow`, `.tar`) as `shards.expand_shards` takes them,
            such as `https://host/{00000..00031}.parquet`.
        config: Configuration, where a data set has several.
        split: Its split; files all belong to the one that is asked for.

    Raises:
        FileNotFoundError: If there is no such data set or file.
        ValueError: If it has no such split or configuration.
    """
    builder = _BUILDERS.get(PurePosixPath(name).suffix)
    if builder is None or Path(name).is_dir():
        return load_dataset(name, config, split=split, streaming=True)
    return load_dataset(builder, data_files={split: expand_shards(name)}, split=split, streaming=True)


def dataset_shards(
    dataset: IterableDataset | Dataset, columns: Mapping[str, str] | None = None, name: str = "dataset"
) -> list[DatasetShard]:
    """
    Takes a data set apart for pre-training.

    Args:
        dataset: Anything that `load_dataset` gives, best with `streaming=True`; a split, not a dict of splits. Its
            images are left undecoded; other transforms of yours run before the reader sees a sample.
        columns: Names of its columns for `image`, `captions`, `key`, `faces` and `json`, as far as they are not the
            usual ones.
        name: Of the data set, in reports and for the order.

    Raises:
        ValueError: If it has no images or no captions.
    """
    if not isinstance(dataset, IterableDataset | Dataset):
        raise ValueError(f"The data set is a {type(dataset).__name__}: choose one of its splits.")
    names = dataset.column_names or list(next(iter(dataset.take(1)), {}))
    found = _usual_columns(names)
    for role, column in (columns or {}).items():
        if column not in names or role not in ("image", "captions", "key", "faces", "json"):
            raise ValueError(
                f"Column {role}={column}: the data set has the columns {', '.join(names)}, and pre-training reads "
                "image, captions, key, faces and json."
            )
        found[role] = column
    for role in ("image", "captions"):
        if role not in found:
            raise ValueError(
                f"The data set has the columns {', '.join(names)}: say which one has the {role}, --columns {role}=NAME."
            )
    if isinstance(dataset, Dataset):
        dataset = dataset.to_iterable_dataset(num_shards=max(1, len(dataset) // _ROWS_PER_SHARD))
    if dataset.features is not None and isinstance(dataset.features[found["image"]], Image):
        dataset = dataset.cast_column(found["image"], Image(decode=False))
    return [DatasetShard(dataset, index, f"{name}/{index:05d}", found) for index in range(dataset.num_shards)]


def _usual_columns(names: Sequence[str]) -> dict[str, str]:
    usual = {
        "image": IMAGE_COLUMNS,
        "captions": CAPTION_COLUMNS,
        "key": KEY_COLUMNS,
        "faces": ("faces",),
        "json": ("json",),
    }
    found = {role: next((name for name in wanted if name in names), None) for role, wanted in usual.items()}
    return {role: name for role, name in found.items() if name is not None}
