"""From an undecoded sample to what a model reads: captions, metadata, stored visual codes."""

from __future__ import annotations

import html
import io
import json
from typing import Any

import numpy as np

from .faults import SampleFault, ShardError
from .shards import RawSample, open_shard


def clean_caption(text: str, fix_text: bool = False) -> str:
    """
    Cleans a caption as OpenAI's tokenizer does before it splits into tokens: HTML entities (escaped once or twice) and
    white space, and with `fix_text` mojibake, which needs the `ftfy` package. Lower case is the tokenizer's business.
    """
    if fix_text:
        import ftfy

        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split())


def usable_captions(raw: RawSample, metadata: dict[str, Any], fix_text: bool = False) -> list[str]:
    """
    The cleaned captions of a sample: those under `captions` in its metadata, or else the stored text.

    Raises:
        SampleFault: If there is none, or none in UTF-8, or none with text.
    """
    stored = metadata.get("captions")
    stored = stored if stored and isinstance(stored, list) else raw.captions
    present = [caption for caption in stored if isinstance(caption, str | bytes)]
    if not present:
        raise SampleFault("missing_caption")
    captions = [text for text in map(_utf8, present) if text is not None]
    if not captions:
        raise SampleFault("undecodable_caption")
    captions = [cleaned for cleaned in (clean_caption(text, fix_text) for text in captions) if cleaned]
    if not captions:
        raise SampleFault("empty_caption")
    return captions


def _utf8(caption: str | bytes) -> str | None:
    """The caption if it is UTF-8; half a surrogate pair, which JSON can hold, is not."""
    try:
        return caption.decode() if isinstance(caption, bytes) else caption.encode().decode()
    except UnicodeError:
        return None


def parse_metadata(metadata: bytes | dict[str, Any] | None) -> dict[str, Any]:
    """A sample's metadata as a dict. Raises [`SampleFault`] if it is no JSON object."""
    if isinstance(metadata, (bytes, str)):
        try:
            metadata = json.loads(metadata)
        # JSONDecodeError and UnicodeDecodeError are ValueErrors; lists in lists by the thousand are RecursionErrors.
        except (ValueError, RecursionError) as error:
            raise SampleFault("bad_metadata") from error
    if not isinstance(metadata, dict | None):
        raise SampleFault("bad_metadata")
    metadata = metadata or {}
    if isinstance(metadata.get("faces"), str):  # img2dataset keeps a column as it stands in the parquet file
        return {**metadata, "faces": parse_metadata(f'{{"faces": {metadata["faces"]}}}'.encode())["faces"]}
    return metadata


class StoredCodes:
    """
    Visual codes of a shard, made beforehand: `SHARD.codes.npz` with `keys` (n,), `codes` (n, patches), and `boxes`
    (n, 4), the crops' left, top, right and bottom as shares of width and height.

    Attributes:
        error: Why the file cannot be read, if it is there and cannot. Without readable codes each sample is a fault.
    """

    def __init__(self, shard: str):
        self.rows: dict[str, int] = {}
        self.error: str | None = None
        try:
            with open_shard(codes_path(shard)) as file:
                content = file.read()
        except ShardError:
            return
        try:
            stored = np.load(io.BytesIO(content), allow_pickle=False)
            self.codes, self.boxes = stored["codes"].astype(np.int64), stored["boxes"].astype(np.float64)
            keys = stored["keys"].tolist()
            if self.codes.ndim != 2 or self.boxes.shape != (len(keys), 4) or len(self.codes) != len(keys):
                raise ValueError(f"{len(keys)} keys, codes {self.codes.shape}, boxes {self.boxes.shape}")
        except Exception as error:  # numpy and zipfile raise many classes on files that were cut
            self.error = f"{type(error).__name__}: {error}"
            return
        self.rows = {key: row for row, key in enumerate(keys)}

    def look_up(self, key: str) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """Codes (patches,), int64, and crop of a sample. Raises [`SampleFault`] if there are none."""
        row = self.rows.get(key)
        if row is None:
            raise SampleFault("missing_codes")
        return self.codes[row], tuple(self.boxes[row].tolist())


def codes_path(shard: str) -> str:
    """Where the stored codes of a shard lie."""
    return f"{shard}.codes.npz"
