"""
Streaming of LAION-Face and other image-text shards into batches, shuffled, split and exactly resumable.

The order of the data is a pure function of the seed: shards are permuted by (seed, epoch), and within a shard the
samples are permuted in blocks by (seed, epoch, shard, block). The choice of caption, crop and mask is drawn from
(seed, epoch, shard, key). So the whole state of a stream is a position, and nothing is lost or repeated when a run is
killed and resumed. A bad sample is skipped and counted under its kind.
"""

from __future__ import annotations

import html
import io
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import CLIPTokenizer

from .image_views import ImageViews, SampleFault
from .masking import BlockMaskGenerator
from .shards import RawSample, ShardError, open_shard, read_shard, shard_name

# What can be wrong, and what the reports call it.
FAULTS = {
    "missing_shard": "shards that are gone or cannot be fetched",
    "unreadable_shard": "shards that are no tar or parquet file",
    "truncated_shard": "shards that end too early",
    "missing_image": "samples without image data",
    "not_an_image": "images of no known format",
    "corrupt_image": "images that cannot be decoded",
    "truncated_image": "images that end too early",
    "bad_image_size": "images below 8 pixels or above 89 megapixels",
    "missing_caption": "samples without a caption",
    "empty_caption": "captions without text",
    "bad_metadata": "samples whose JSON cannot be read",
    "missing_codes": "samples without stored codes",
}
SHARD_FAULTS = ("missing_shard", "unreadable_shard", "truncated_shard")

Batch = dict[str, torch.Tensor]


def clean_caption(text: str, fix_text: bool = False) -> str:
    """
    Cleans a caption as OpenAI's tokenizer does before it splits into tokens: HTML entities (escaped once or twice) and
    white space, and with `fix_text` mojibake, which needs the `ftfy` package. Lower case is the tokenizer's business.
    """
    if fix_text:
        import ftfy

        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split())


@dataclass
class StreamState:
    """
    Position in a stream: what was consumed. `shard` counts the shards of this stream in this epoch, `sample` the raw
    samples of this shard in shuffled order; `good` and `faults` count over the whole run.
    """

    epoch: int = 0
    shard: int = 0
    sample: int = 0
    good: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def count_fault(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1


@dataclass(frozen=True)
class ImageTextStream:
    """
    What to read from shards, and how; [`ImageTextLoader`] iterates over it.

    Every process and every loader worker reads a stream of its own. As many shards as can be shared out evenly are
    split by shard; of the remaining ones every stream reads all and keeps each n-th sample. Either way each sample is
    seen once per epoch.

    Attributes:
        shards: Paths, see `shards.expand_shards`.
        tokenizer: CLIP's.
        views: Makes the images.
        batch_size: Samples per batch of this process.
        mask_generator: Draws the masks; without it there are none.
        seed: Of the whole order and of all augmentation.
        num_epochs: Passes over the shards; `None` goes on for ever.
        shuffle_block: Samples of a shard that are permuted together. Their undecoded bytes are in memory, per worker.
        fix_captions: Repair mojibake, see [`clean_caption`].
        stored_codes: Read visual codes from `SHARD.codes.npz` beside each shard, with the crops they were made of.
        pad_captions: Pad to the tokenizer's full length rather than to the longest caption of the batch.
        rank, world_size: This process, and how many there are.
    """

    shards: Sequence[str]
    tokenizer: CLIPTokenizer
    views: ImageViews
    batch_size: int
    mask_generator: BlockMaskGenerator | None = None
    seed: int = 0
    num_epochs: int | None = None
    shuffle_block: int = 512
    fix_captions: bool = False
    stored_codes: bool = False
    pad_captions: bool = False
    rank: int = 0
    world_size: int = 1

    def batches(self, state: StreamState, stream: int, num_streams: int) -> Iterator[tuple[dict, Batch | None]]:
        """
        Reads on from `state`, which moves along.

        Yields:
            The state after a batch as a dict, and the batch (see [`ImageTextLoader`]). The last batch may be smaller;
            after it comes the final state without a batch.

        Raises:
            ValueError: If a stream without end finds no good sample in an epoch.
        """
        samples: list[dict[str, Any]] = []
        for sample in self._samples(state, stream, num_streams):
            samples.append(sample)
            if len(samples) == self.batch_size:
                yield asdict(state), self._collate(samples)
                samples = []
        if samples:
            yield asdict(state), self._collate(samples)
        yield asdict(state), None

    def _samples(self, state: StreamState, stream: int, num_streams: int) -> Iterator[dict[str, Any]]:
        while self.num_epochs is None or state.epoch < self.num_epochs:
            good_before = state.good if state.shard == state.sample == 0 else -1
            own = self._own_shards(state.epoch, stream, num_streams)
            while state.shard < len(own):
                shard, step = own[state.shard]
                yield from self._shard_samples(state, shard, stream if step > 1 else 0, step)
                state.shard, state.sample = state.shard + 1, 0
            if state.good == good_before and self.num_epochs is None:
                raise ValueError(
                    f"Epoch {state.epoch} had no usable sample for loader {stream} of {num_streams} (bad so far: "
                    f"{state.faults or 'none'}): check the shards, or use fewer loader workers."
                )
            state.epoch, state.shard, state.sample = state.epoch + 1, 0, 0

    def _own_shards(self, epoch: int, stream: int, num_streams: int) -> list[tuple[str, int]]:
        """The shards of this stream in order, each with 1, or the number of streams that share its samples."""
        order = list(self.shards)
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        whole = len(order) // num_streams * num_streams
        own = [(shard, 1) for shard in order[stream:whole:num_streams]]
        return own + [(shard, num_streams) for shard in order[whole:]]

    def _shard_samples(self, state: StreamState, shard: str, first: int, step: int) -> Iterator[dict[str, Any]]:
        codes = StoredCodes(shard) if self.stored_codes else None
        skip = state.sample
        for block in self._blocks(shard, state.epoch, first, step):
            if isinstance(block, ShardError):
                if first == 0:  # of the streams that share a shard, one counts its fault
                    state.count_fault(block.kind)
                continue
            for raw in block[skip:]:
                state.sample += 1
                rng = random.Random(f"{self.seed}/{state.epoch}/{shard_name(shard)}/{raw.key}")
                try:
                    sample = self._decode(raw, rng, codes)
                except SampleFault as fault:
                    state.count_fault(fault.kind)
                    continue
                state.good += 1
                yield sample
            skip = max(0, skip - len(block))

    def _blocks(self, shard: str, epoch: int, first: int, step: int) -> Iterator[list[RawSample] | ShardError]:
        """Permuted blocks of every `step`-th sample of a shard, and at the end its fault if it has one."""
        block: list[RawSample] = []
        number = 0
        fault = None
        try:
            for position, raw in enumerate(read_shard(shard)):
                if position % step != first:
                    continue
                block.append(raw)
                if len(block) == self.shuffle_block:
                    yield self._permuted(block, shard, epoch, number)
                    block, number = [], number + 1
        except ShardError as error:
            fault = error
        if block:
            yield self._permuted(block, shard, epoch, number)
        if fault is not None:
            yield fault

    def _permuted(self, block: list[RawSample], shard: str, epoch: int, number: int) -> list[RawSample]:
        random.Random(f"{self.seed}/{epoch}/{shard_name(shard)}/block {number}").shuffle(block)
        return block

    def _decode(self, raw: RawSample, rng: random.Random, codes: StoredCodes | None) -> dict[str, Any]:
        metadata = parse_metadata(raw.metadata)
        caption = rng.choice(usable_captions(raw, metadata, self.fix_captions))
        if not raw.image:
            raise SampleFault("missing_image")
        sample = {"caption": caption}
        relative_box = None
        if codes is not None:
            sample["mim_targets"], relative_box = codes.look_up(raw.key)
        views = self.views(raw.image, rng, metadata, relative_box)
        sample["pixels"] = views[0]
        if len(views) > 1:
            sample["codebook_pixels"] = views[1]
        if self.mask_generator is not None:
            sample["bool_masked_pos"] = self.mask_generator(rng)
        return sample

    def _collate(self, samples: list[dict[str, Any]]) -> Batch:
        captions = [sample.pop("caption") for sample in samples]
        padding = "max_length" if self.pad_captions else "longest"
        batch = dict(self.tokenizer(captions, padding=padding, truncation=True, max_length=77, return_tensors="pt"))
        for name in samples[0]:
            batch[name] = torch.from_numpy(np.stack([sample[name] for sample in samples]))
        return batch


def usable_captions(raw: RawSample, metadata: dict[str, Any], fix_text: bool = False) -> list[str]:
    """
    The cleaned captions of a sample: those under `captions` in its metadata, or else the stored text.

    Raises:
        SampleFault: If there is none, or none with text.
    """
    stored = metadata.get("captions")
    stored = stored if stored and isinstance(stored, list) else raw.captions
    captions = [caption for caption in stored if isinstance(caption, str)]
    if not captions:
        raise SampleFault("missing_caption")
    captions = [cleaned for cleaned in (clean_caption(text, fix_text) for text in captions) if cleaned]
    if not captions:
        raise SampleFault("empty_caption")
    return captions


def parse_metadata(metadata: bytes | dict[str, Any] | None) -> dict[str, Any]:
    """A sample's metadata as a dict. Raises [`SampleFault`] if it is no JSON object."""
    if isinstance(metadata, (bytes, str)):
        try:
            metadata = json.loads(metadata)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise SampleFault("bad_metadata") from error
    if not isinstance(metadata, dict | None):
        raise SampleFault("bad_metadata")
    metadata = metadata or {}
    if isinstance(metadata.get("faces"), str):  # img2dataset keeps a column as it stands in the parquet file
        return {**metadata, "faces": parse_metadata(f'{{"faces": {metadata["faces"]}}}')["faces"]}
    return metadata


class StoredCodes:
    """
    Visual codes of a shard, made beforehand: `SHARD.codes.npz` with `keys` (n,), `codes` (n, patches), and `boxes`
    (n, 4), the crops' left, top, right and bottom as shares of width and height.
    """

    def __init__(self, shard: str):
        self.rows: dict[str, int] = {}
        try:
            with open_shard(codes_path(shard)) as file:
                stored = np.load(io.BytesIO(file.read()), allow_pickle=False)
                self.codes, self.boxes = stored["codes"], stored["boxes"]
                self.rows = {key: row for row, key in enumerate(stored["keys"].tolist())}
        except (ShardError, OSError, ValueError, KeyError):
            return  # each sample is counted as one without codes

    def look_up(self, key: str) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """Codes (patches,), int64, and crop of a sample. Raises [`SampleFault`] if there are none."""
        row = self.rows.get(key)
        if row is None:
            raise SampleFault("missing_codes")
        return self.codes[row].astype(np.int64), tuple(self.boxes[row].tolist())


def codes_path(shard: str) -> str:
    """Where the stored codes of a shard lie."""
    return f"{shard}.codes.npz"


class ImageTextLoader:
    """
    Iterates over the batches of an [`ImageTextStream`] with loader workers, and knows where it stands.

    A batch has `pixels` (batch, image_size, image_size, 3), uint8 RGB; `codebook_pixels` likewise, if the codebook has
    a view of its own; `input_ids` and `attention_mask` (batch, length), int64; and, with masks, `bool_masked_pos`
    (batch, patches), bool; with stored codes, `mim_targets` (batch, patches), int64.

    Workers take turns, so the order of batches does not depend on their speed. It does depend on their number.

    Args:
        stream: What to read.
        num_workers: Loader processes; 0 reads in this one.
        pin_memory: Put batches into page-locked memory for a faster copy to a GPU.
    """

    def __init__(self, stream: ImageTextStream, num_workers: int = 0, pin_memory: bool = False):
        self.stream, self.num_workers, self.pin_memory = stream, num_workers, pin_memory
        self._states = [asdict(StreamState()) for _ in range(max(1, num_workers))]
        self._next = 0

    def __iter__(self) -> Iterator[Batch]:
        turns = _Turns(self.stream, self._states, self._next)
        # A generator of its own: a DataLoader would otherwise draw from the default one, which the model uses too.
        loader = DataLoader(
            turns,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(self.stream.seed),
        )
        finished: set[int] = set()
        for stream, state, batch in loader:
            self._states[stream] = state
            self._next = (stream + 1) % len(self._states)
            if batch is not None:
                yield batch
            else:
                finished.add(stream)
                if len(finished) == len(self._states):
                    return

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was taken, in plain numbers and strings."""
        return {"next": self._next, "streams": [dict(state) for state in self._states]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Goes on from a position. Takes effect at the next `iter()`.

        Raises:
            ValueError: If it was saved with another number of workers.
        """
        if len(state["streams"]) != len(self._states):
            raise ValueError(
                f"The position was saved with {len(state['streams'])} loader workers and cannot be taken up with "
                f"{len(self._states)}: set num_workers to the same number."
            )
        self._states, self._next = [dict(stream) for stream in state["streams"]], state["next"]

    @property
    def epoch(self) -> int:
        """Epoch of the fastest worker, from 0."""
        return max(state["epoch"] for state in self._states)

    @property
    def good(self) -> int:
        """Good samples so far."""
        return sum(state["good"] for state in self._states)

    @property
    def faults(self) -> dict[str, int]:
        """Bad samples and shards so far, by kind."""
        return dict(sum((Counter(state["faults"]) for state in self._states), Counter()))


class _Turns(IterableDataset):
    """The streams of one process. A DataLoader always asks its worker 0 first, so worker 0 is given the next stream."""

    def __init__(self, stream: ImageTextStream, states: list[dict], next_stream: int):
        self.stream, self.states, self.next_stream = stream, states, next_stream

    def __iter__(self) -> Iterator[tuple[int, dict, Batch | None]]:
        worker = get_worker_info()
        own = self.next_stream
        if worker is not None:
            # Workers are forks; without this the tokenizer warns that its threads do not survive a fork.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            own = (worker.id + self.next_stream) % len(self.states)
        state = StreamState(**{**self.states[own], "faults": dict(self.states[own]["faults"])})
        num_streams = len(self.states) * self.stream.world_size
        stream = self.stream.rank * len(self.states) + own
        for after, batch in self.stream.batches(state, stream, num_streams):
            yield own, after, batch
        # A worker that ended would leave its turns to the others at a moment that depends on their speed.
        while True:
            yield own, after, None
