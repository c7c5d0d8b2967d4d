"""
Shards of image-text pairs: webdataset tars as img2dataset writes them, and parquet files with image bytes.

A shard is read front to back, undecoded. Whatever is wrong with a shard becomes a [`ShardError`] after the samples that
could be read; what is wrong with a sample is the business of `samples.py`.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from .faults import ShardError

Result = TypeVar("Result")

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
SHARD_EXTENSIONS = (".tar", ".parquet")

# Columns of parquet files that are read, first match wins: those of `datasets`, of webdataset sets converted to
# parquet, and of LAION's metadata.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes")
CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "TEXT")
KEY_COLUMNS = ("__key__", "key", "SAMPLE_ID", "id")

_TAR_BLOCK = 512
# Tar archives are padded to records of this size; so a second archive that was appended begins at a multiple of it.
_TAR_RECORD = 10_240
# No image or caption is larger: a header that says so is damaged, and must not fill the memory.
_LARGEST_MEMBER = 1 << 30
_PARQUET_ROWS_AT_ONCE = 64
_ATTEMPTS, _SECONDS_BETWEEN = 3, 2.0


@dataclass(slots=True)
class RawSample:
    """
    One undecoded image-text pair.

    Attributes:
        key: Name of the sample inside its shard.
        image: The encoded image.
        captions: The captions as stored, bytes where their encoding is still unchecked, `None` where there is none.
        metadata: JSON text, or a dict of a parquet file's further columns.
    """

    key: str
    image: bytes | None = None
    captions: list[str | bytes | None] = field(default_factory=list)
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
    if os.path.isdir(name) and not name.endswith(SHARD_EXTENSIONS):
        return [str(path) for path in Path(name).iterdir() if path.suffix in SHARD_EXTENSIONS]
    return glob.glob(name, recursive=True) if glob.has_magic(name) else [name]


def shard_name(shard: str) -> str:
    """The file name of a shard, the same wherever the shard lies."""
    return PurePosixPath(shard).name


def open_shard(shard: str) -> BinaryIO:
    """
    Opens a local or remote file for reading. A remote one is tried three times, to open as well as to read: a
    connection that breaks midway is taken up where it broke.

    Raises:
        ShardError: Of kind `missing_shard` if that fails.
    """
    if "://" in shard:
        return io.BufferedReader(_RemoteFile(shard), buffer_size=1 << 20)
    try:
        return open(shard, "rb", buffering=1 << 20)
    except OSError as error:
        raise ShardError("missing_shard", f"{shard}: {error.strerror}") from error


class _RemoteFile(io.RawIOBase):
    """A file behind an address, opened anew at the same place when a read fails."""

    def __init__(self, address: str):
        self.address = address
        self.file: Any = None
        self._persist(lambda: None, "missing_shard")

    def _persist(self, action: Callable[[], Result], kind: str) -> Result:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if self.file is None:
                    self._open()
                return action()
            except FileNotFoundError as error:
                raise ShardError("missing_shard", f"{self.address}: not found") from error
            except Exception as error:  # each protocol has its own classes of network errors
                if attempt == _ATTEMPTS:
                    raise ShardError(kind, f"{self.address}: {error}") from error
                self.file, self._resume_at = None, self._position
                time.sleep(_SECONDS_BETWEEN * attempt)
        raise AssertionError("unreachable")

    _position = _resume_at = 0

    def _open(self) -> None:
        import fsspec

        self.file = fsspec.open(self.address, "rb").open()
        if self._resume_at:
            try:
                self.file.seek(self._resume_at)
            except (OSError, ValueError):  # a server without ranges: read up to the place
                left = self._resume_at
                while left and (part := self.file.read(min(left, 1 << 20))):
                    left -= len(part)

    def readinto(self, buffer: Any) -> int:
        content = self._persist(lambda: self.file.read(len(buffer)), "truncated_shard")
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = self._persist(lambda: self.file.seek(offset, whence), "truncated_shard")
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        super().close()


def read_shard(shard: str) -> Iterator[RawSample]:
    """
    Reads the samples of a tar or parquet shard in stored order.

    Raises:
        ShardError: After the last sample that could be read: `missing_shard`, `unreadable_shard` (not a tar or parquet
            file), `truncated_shard` (ends too early, or the connection broke for good) or `damaged_shard` (a place in
            the middle is broken; what lies behind it was read).
    """
    with open_shard(shard) as file:
        try:
            yield from _read_parquet(file) if shard.endswith(".parquet") else _read_tar(file)
        except ShardError as error:
            raise ShardError(error.kind, f"{shard}: {error}") from error
        except OSError as error:
            raise ShardError("truncated_shard", f"{shard}: {error}") from error


def _read_tar(file: BinaryIO) -> Iterator[RawSample]:
    sample: RawSample | None = None
    found: set[str] = set()
    members = _tar_members(file)
    while True:
        try:
            member = next(members, None)
        except ShardError as error:
            # What lies wholly before a cut is good; of the rest nobody can tell what it missed.
            if sample is not None and ((sample.image is not None and sample.captions) or error.kind == "damaged_shard"):
                yield sample
            raise
        if member is None:
            break
        key, extension, content = member
        # A second image or text of the same key belongs to another sample, however the archive was put together.
        kind = "image" if extension in IMAGE_EXTENSIONS else extension
        if sample is None or sample.key != key or kind in found:
            if sample is not None:
                yield sample
            sample, found = RawSample(key), set()
        found.add(kind)
        if kind == "image":
            sample.image = content
        elif kind == "txt":
            sample.captions.append(content)
        elif kind == "json":
            sample.metadata = content
    if sample is not None:
        yield sample


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, str, bytes]]:
    """
    Key, extension and content of the regular files in a tar, or in several, one appended to the other. A damaged place
    is passed over to the next sound header, and reported when all is read. Python's `tarfile` takes a cut or a damaged
    header for the end of the archive when streaming, and spends more time on a small member than the disk does.
    """
    position, zeros, members = 0, 0, 0
    damage = long_name = None
    try:
        length = os.fstat(file.fileno()).st_size
    except OSError:  # a remote file
        length = None
    while header := file.read(_TAR_BLOCK):
        start, position = position, position + len(header)
        if len(header) < _TAR_BLOCK:
            break
        if not header.strip(b"\0"):
            zeros += 1
            continue
        try:
            name, size, kind = _parse_tar_header(header)
            if not 0 <= size <= _LARGEST_MEMBER:
                raise ShardError("truncated_shard", f"{name} says to have {size} bytes")
            if length is not None and position + size > length:
                raise ShardError("truncated_shard", f"ends inside of {name}")
        except ShardError as error:
            damage = damage or error
            continue
        if zeros == 1 or (zeros and start % _TAR_RECORD):
            damage = damage or ShardError("damaged_shard", f"zeros before {name}")
        zeros = 0
        content = file.read(size)
        padding = file.read(-size % _TAR_BLOCK)
        position += len(content) + len(padding)
        if len(content) < size or len(padding) < -size % _TAR_BLOCK:
            raise ShardError("truncated_shard", f"ends inside of {name}")
        members += 1
        if damage is not None and damage.kind != "damaged_shard":
            damage = ShardError("damaged_shard", f"damaged before {name} ({damage})")
        if kind == b"L":  # GNU: the content is the next member's name
            long_name = content.rstrip(b"\0").decode("utf-8", errors="replace")
        elif kind == b"x":  # POSIX: records "length keyword=value\n"
            match = re.search(rb"\d+ path=([^\n]*)\n", content)
            long_name = match[1].decode("utf-8", errors="replace") if match else None
        elif kind in (b"0", b"\0"):
            name, long_name = long_name or name, None
            folder, _, base = name.rpartition("/")
            if base.startswith("."):  # macOS puts a file ._NAME with attributes beside each
                continue
            stem, _, extension = base.partition(".")
            yield (f"{folder}/{stem}" if folder else stem), extension.lower(), content
    if damage is not None:
        if damage.kind == "unreadable_shard" and members:
            damage = ShardError("damaged_shard", f"damaged behind {name}")
        raise damage
    if not zeros:
        raise ShardError("truncated_shard", "ends without tar's end mark")


def _parse_tar_header(header: bytes) -> tuple[str, int, bytes]:
    """Name, size in bytes and kind of a member."""
    try:
        # The sum of the header's bytes, its own eight counted as spaces.
        stored_sum = int(header[148:156].strip(b"\0 "), 8)
        size = tarfile.nti(header[124:136])  # type: ignore[attr-defined]  # the library's own reader of its numbers
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
    except (pyarrow.ArrowException, OSError) as error:
        raise ShardError("unreadable_shard", f"not a parquet file, or cut short ({error})") from error
    columns = table.schema_arrow.names
    image_column = _first_column(columns, IMAGE_COLUMNS)
    caption_column = _first_column(columns, CAPTION_COLUMNS)
    key_column = _first_column(columns, KEY_COLUMNS)
    number = itertools.count()
    try:
        for rows in table.iter_batches(batch_size=_PARQUET_ROWS_AT_ONCE):
            columns = {name: _values(rows.column(name)) for name in rows.schema.names}
            for row in (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)):
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
    except pyarrow.ArrowException as error:
        raise ShardError("truncated_shard", str(error)) from error


def _values(column: Any) -> list[Any]:
    """An Arrow column as a list; strings that are not UTF-8 stay bytes, so that they spoil no other row."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes()
        if hasattr(scalar, "items"):
            return {name: _value(value) for name, value in scalar.items()}
        return [_value(value) for value in scalar.values]


def _first_column(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def count_samples(shard: str) -> int | None:
    """
    Number of samples in a shard, good and bad, without reading the images: from img2dataset's `_stats.json` beside it,
    the headers of a local tar, or the footer of a parquet file. A local file that is missing or broken has none. `None`
    if it cannot be told, as for a remote tar.
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
    except (ShardError, OSError, ValueError, KeyError, TypeError, RecursionError):  # ArrowInvalid is a ValueError
        return None if "://" in shard else 0


def _count_tar(file: BinaryIO) -> int:
    length = os.fstat(file.fileno()).st_size
    keys, last, position = 0, None, 0
    while len(header := file.read(_TAR_BLOCK)) == _TAR_BLOCK:
        position += _TAR_BLOCK
        try:
            name, size, kind = _parse_tar_header(header)
        except ShardError:  # zeros between two archives, or a damaged place
            continue
        if not 0 <= size <= length - position:
            continue
        position = file.seek(position + size + -size % _TAR_BLOCK)
        folder, _, base = name.rpartition("/")
        if kind in (b"0", b"\0") and not base.startswith("."):
            key = (folder, base.partition(".")[0])
            keys += key != last
            last = key
    return keys
