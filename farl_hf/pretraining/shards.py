"""
Shards of image-text pairs: webdataset tars as img2dataset writes them, and parquet files with image bytes.

A shard is read front to back, undecoded. Whatever is wrong with a shard becomes a [`ShardError`] after the samples that
could be read; what is wrong with a sample is the business of `laion_face.py`.
"""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
SHARD_EXTENSIONS = (".tar", ".parquet")

# Columns of parquet files that are read, first match wins: those of `datasets`, of webdataset sets converted to
# parquet, and of LAION's metadata.
_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes")
_CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "TEXT")
_KEY_COLUMNS = ("__key__", "key", "SAMPLE_ID", "id")

_TAR_BLOCK = 512
_PARQUET_ROWS_AT_ONCE = 64
_ATTEMPTS, _SECONDS_BETWEEN = 3, 2.0


class ShardError(Exception):
    """A shard that is missing, unreadable or cut short. `kind` is one of the keys of `laion_face.FAULTS`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class RawSample:
    """
    One undecoded image-text pair.

    Attributes:
        key: Name of the sample inside its shard.
        image: The encoded image.
        captions: The captions as stored, `None` where there is none.
        metadata: JSON text, or a dict of a parquet file's further columns.
    """

    key: str
    image: bytes | None = None
    captions: list[str | None] = field(default_factory=list)
    metadata: bytes | dict[str, Any] | None = None


def expand_shards(patterns: str | Sequence[str]) -> list[str]:
    """
    Lists shards, sorted and without duplicates.

    Args:
        patterns: Local paths, `hf://` paths or `http(s)://` addresses, with braces (`{00000..00031}.tar`, `{a,b}.tar`)
            and, except for http, with globs (`**/*.tar`). A local folder stands for all tar and parquet files in it.

    Raises:
        FileNotFoundError: If a glob or folder matches nothing. A name without a glob is not looked up: it may vanish
            later just as well, and is counted then.
    """
    shards: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns:
        for name in _expand_braces(os.fspath(pattern)):
            found = _expand_glob(name)
            if not found:
                raise FileNotFoundError(f"No shard matches {name}: give tar or parquet files, a glob or a folder.")
            shards.update(found)
    return sorted(shards)


def _expand_braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    number_range = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if number_range:
        first, last = number_range.groups()
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    rests = _expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + choice + rest for choice in choices for rest in rests]


def _expand_glob(name: str) -> list[str]:
    if name.startswith("hf://"):
        if not glob.has_magic(name):
            return [name]
        from huggingface_hub import HfFileSystem

        return [f"hf://{path}" for path in HfFileSystem().glob(name)]
    if name.startswith(("http://", "https://")):
        return [name]
    if os.path.isdir(name):
        return [str(path) for path in Path(name).iterdir() if path.suffix in SHARD_EXTENSIONS]
    return glob.glob(name, recursive=True) if glob.has_magic(name) else [name]


def shard_name(shard: str) -> str:
    """The file name of a shard, the same wherever the shard lies."""
    return PurePosixPath(shard).name


def open_shard(shard: str) -> BinaryIO:
    """
    Opens a local or remote file for reading; a remote one is tried three times.

    Raises:
        ShardError: Of kind `missing_shard` if that fails.
    """
    if "://" not in shard:
        try:
            return open(shard, "rb", buffering=1 << 20)
        except OSError as error:
            raise ShardError("missing_shard", f"{shard}: {error.strerror}") from error

    import fsspec

    for attempt in range(_ATTEMPTS):
        try:
            return fsspec.open(shard, "rb").open()
        except FileNotFoundError as error:
            raise ShardError("missing_shard", f"{shard}: not found") from error
        except Exception as error:  # each protocol has its own classes of network errors
            if attempt == _ATTEMPTS - 1:
                raise ShardError("missing_shard", f"{shard}: {error}") from error
            time.sleep(_SECONDS_BETWEEN * (attempt + 1))
    raise AssertionError("unreachable")


def read_shard(shard: str) -> Iterator[RawSample]:
    """
    Reads the samples of a tar or parquet shard in stored order.

    Raises:
        ShardError: After the last sample that could be read: `missing_shard`, `unreadable_shard` (not a tar or parquet
            file) or `truncated_shard` (ends too early, or the connection broke).
    """
    with open_shard(shard) as file:
        try:
            yield from _read_parquet(file) if shard.endswith(".parquet") else _read_tar(file)
        except ShardError as error:
            raise ShardError(error.kind, f"{shard}: {error}") from error
        except OSError as error:
            raise ShardError("truncated_shard", f"{shard}: {error}") from error


def _read_tar(file: BinaryIO) -> Iterator[RawSample]:
    sample, members = None, _tar_members(file)
    while True:
        try:
            member = next(members, None)
        except ShardError:
            # What lies wholly before the cut is good; of the rest nobody can tell what it missed.
            if sample is not None and sample.image is not None and sample.captions:
                yield sample
            raise
        if member is None:
            break
        key, extension, content = member
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = RawSample(key)
        if extension in IMAGE_EXTENSIONS:
            sample.image = content
        elif extension == "txt":
            sample.captions.append(content.decode("utf-8", errors="replace"))
        elif extension == "json":
            sample.metadata = content
    if sample is not None:
        yield sample


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, str, bytes]]:
    """
    Key, extension and content of the regular files in a tar. Python's `tarfile` takes a cut for the end of the archive
    when streaming, and spends more time on a small member than the disk does.
    """
    long_name = None
    while True:
        header = file.read(_TAR_BLOCK)
        if len(header) < _TAR_BLOCK:
            raise ShardError("truncated_shard", "ends without tar's end mark")
        if not header.strip(b"\0"):
            return
        name, size, kind = _parse_tar_header(header)
        content = file.read(size)
        padding = -size % _TAR_BLOCK
        if len(content) < size or len(file.read(padding)) < padding:
            raise ShardError("truncated_shard", f"ends inside of {name}")
        if kind == b"L":  # GNU: the content is the next member's name
            long_name = content.rstrip(b"\0").decode("utf-8", errors="replace")
        elif kind == b"x":  # POSIX: records "length keyword=value\n"
            match = re.search(rb"\d+ path=([^\n]*)\n", content)
            long_name = match[1].decode("utf-8", errors="replace") if match else None
        elif kind in (b"0", b"\0"):
            name, long_name = long_name or name, None
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            yield (f"{folder}/{stem}" if folder else stem), extension.lower(), content


def _parse_tar_header(header: bytes) -> tuple[str, int, bytes]:
    """Name, size in bytes and kind of a member."""
    try:
        # The sum of the header's bytes, its own eight counted as spaces.
        stored_sum = int(header[148:156].strip(b"\0 "), 8)
        size = tarfile.nti(header[124:136])
    except (ValueError, tarfile.HeaderError):
        stored_sum, size = -1, 0
    if stored_sum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ShardError("unreadable_shard", "not a tar file, or damaged")
    name = header[:100].split(b"\0", 1)[0].decode("utf-8", errors="replace")
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0].decode("utf-8", errors="replace")
        name = f"{prefix}/{name}" if prefix else name
    return name, size, header[156:157]


def _read_parquet(file: BinaryIO) -> Iterator[RawSample]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ShardError("unreadable_shard", f"not a parquet file, or cut short ({error})") from error
    columns = table.schema_arrow.names
    image_column = _first_column(columns, _IMAGE_COLUMNS)
    caption_column = _first_column(columns, _CAPTION_COLUMNS)
    key_column = _first_column(columns, _KEY_COLUMNS)
    number = itertools.count()
    try:
        for rows in table.iter_batches(batch_size=_PARQUET_ROWS_AT_ONCE):
            for row in rows.to_pylist():
                index = next(number)
                image = row.pop(image_column, None)
                captions = row.pop(caption_column, None)
                key = row.pop(key_column, None)
                yield RawSample(
                    key=str(index if key is None else key),
                    # `datasets` stores images as {"bytes": ..., "path": ...}.
                    image=image.get("bytes") if isinstance(image, dict) else image,
                    captions=captions if isinstance(captions, list) else [captions],
                    metadata=row.get("json", row),
                )
    except pyarrow.ArrowInvalid as error:
        raise ShardError("truncated_shard", str(error)) from error


def _first_column(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def count_samples(shard: str) -> int | None:
    """
    Number of samples in a shard, good and bad, without reading the images: from img2dataset's `_stats.json` beside it,
    the headers of a local tar, or the footer of a parquet file. `None` if it cannot be told, as for a remote tar.
    """
    try:
        if shard.endswith(".parquet"):
            from pyarrow import parquet

            with open_shard(shard) as file:
                return parquet.ParquetFile(file).metadata.num_rows
        if "://" in shard:
            return None
        statistics = Path(shard).with_name(f"{Path(shard).stem}_stats.json")
        if statistics.exists():
            return int(json.loads(statistics.read_text())["successes"])
        with open_shard(shard) as file:
            return _count_tar(file)
    except (ShardError, OSError, ValueError, KeyError):  # ArrowInvalid is a ValueError
        return None


def _count_tar(file: BinaryIO) -> int:
    keys = 0
    last = None
    while len(header := file.read(_TAR_BLOCK)) == _TAR_BLOCK and header.strip(b"\0"):
        name, size, kind = _parse_tar_header(header)
        file.seek(size + -size % _TAR_BLOCK, io.SEEK_CUR)
        if kind in (b"0", b"\0"):
            folder, _, base = name.rpartition("/")
            key = (folder, base.partition(".")[0])
            keys += key != last
            last = key
    return keys
