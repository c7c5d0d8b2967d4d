"""
Streaming of image-text shards into global batches: shuffled, divided among processes and workers, exactly resumable.

The order of the samples is a pure function of the seed, whoever reads them. The shards of an epoch are permuted by
(seed, epoch) and dealt out to lanes, as many as shards are open side by side. A lane reads its shards one after the
other; in each, samples are permuted in blocks by (seed, epoch, shard, block), and caption, crop and mask are drawn from
(seed, epoch, shard, key). The samples of all lanes, taken in turn until the last lane is empty, are the epoch; the
global batches are consecutive parts of it. So a position is one place per lane, and a run may go on with other numbers
of workers and processes. A lane is read by one worker of one process; where lanes do not divide evenly, or end early,
processes hand each other decoded samples. A bad sample is skipped, counted under its kind and named.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import random
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import CLIPTokenizer

from .contrastive import is_distributed
from .faults import Fault, SampleFault, ShardError
from .image_views import ImageViews
from .masking import BlockMaskGenerator
from .samples import StoredCodes, parse_metadata, usable_captions
from .shards import RawSample, read_shard, shard_name

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
# Epoch, shard of this lane in this epoch, raw samples of this shard (in shuffled order) that were consumed.
Position = tuple[int, int, int]

# Samples of a lane that a worker hands over at a time, at most.
_BUNDLE = 8
_NOT_IN_SIGHT = 1 << 60


class Shard(Protocol):
    """A shard that is no file, such as a part of a `datasets` data set (`laion_face.DatasetShard`)."""

    @property
    def name(self) -> str: ...

    def __iter__(self) -> Iterator[RawSample]: ...


@dataclass(slots=True)
class Item:
    """
    What comes next in a lane: a decoded sample, or `None` where the lane's epoch is over.

    Attributes:
        position: Of the lane, after this.
        sample: `pixels` and the like by name, and `input_ids`.
        faults: Met since the item before.
    """

    position: Position
    sample: dict[str, Any] | None
    faults: list[Fault]


@dataclass(frozen=True)
class ImageTextStream:
    """
    What to read from shards, and how; [`ImageTextLoader`] iterates over it.

    Attributes:
        shards: Paths, see `shards.expand_shards`, or parts of a data set.
        tokenizer: CLIP's.
        views: Makes the images.
        batch_size: Samples per batch of this process; the global batch is `world_size` times that.
        mask_generator: Draws the masks; without it there are none.
        seed: Of the whole order and of all augmentation.
        num_epochs: Passes over the shards; `None` goes on for ever.
        shuffle_block: Samples of a shard that are permuted together. Their undecoded bytes are in memory, per lane.
        open_shards: Number of lanes: shards whose samples are mixed. More workers than this have nothing to read.
        fix_captions: Repair mojibake, see `samples.clean_caption`.
        stored_codes: Read visual codes from `SHARD.codes.npz` beside each shard, with the crops they were made of.
        pad_captions: Pad to the tokenizer's full length rather than to the longest caption of the batch.
        rank, world_size: This process, and how many there are.
    """

    shards: Sequence[str | Shard]
    tokenizer: CLIPTokenizer
    views: ImageViews
    batch_size: int
    mask_generator: BlockMaskGenerator | None = None
    seed: int = 0
    num_epochs: int | None = None
    shuffle_block: int = 128
    open_shards: int = 16
    fix_captions: bool = False
    stored_codes: bool = False
    pad_captions: bool = False
    rank: int = 0
    world_size: int = 1

    def lane(self, lane: int, num_lanes: int, position: Position) -> Iterator[Item]:
        """The items of a lane from a position on, epoch after epoch."""
        epoch, number, done = position
        faults: list[Fault] = []
        while self.num_epochs is None or epoch < self.num_epochs:
            order = list(self.shards)
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            own = order[lane::num_lanes]
            while number < len(own):
                for consumed, event in self._events(own[number], epoch, done):
                    if isinstance(event, Fault):
                        faults.append(event)
                    else:
                        yield Item((epoch, number, consumed), event, faults)
                        faults = []
                number, done = number + 1, 0
            epoch, number, done = epoch + 1, 0, 0
            yield Item((epoch, 0, 0), None, faults)
            faults = []

    def _events(self, shard: str | Shard, epoch: int, done: int) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
        """Good samples and faults of a shard behind the first `done` raw samples, each with the new value of `done`."""
        name = path_of(shard)
        seed = f"{self.seed}/{epoch}/{shard_name(name)}"
        codes = StoredCodes(name) if self.stored_codes else None
        if codes is not None and codes.error is not None and done == 0:
            yield done, Fault("unreadable_codes", name, None, epoch, codes.error)
        skip = done
        try:
            for number, block in enumerate(self._blocks(shard)):
                random.Random(f"{seed}/block {number}").shuffle(block)
                for raw in block[skip:]:
                    done += 1
                    rng = random.Random(f"{seed}/{raw.key}")
                    try:
                        sample = self._decode(raw, rng, codes)
                    except SampleFault as fault:
                        yield done, Fault(fault.kind, name, raw.key, epoch)
                    else:
                        yield done, sample
                skip = max(0, skip - len(block))
        except ShardError as error:
            yield done, Fault(error.kind, name, None, epoch, str(error))

    def _blocks(self, shard: str | Shard) -> Iterator[list[RawSample]]:
        """The samples of a shard in stored order, in blocks; what was read before a fault comes before its error."""
        block: list[RawSample] = []
        error = None
        try:
            for raw in read_shard(shard) if isinstance(shard, str) else shard:
                block.append(raw)
                if len(block) == self.shuffle_block:
                    yield block
                    block = []
        except ShardError as fault:
            error = fault
        if block:
            yield block
        if error is not None:
            raise error

    def _decode(self, raw: RawSample, rng: random.Random, codes: StoredCodes | None) -> dict[str, Any]:
        metadata = parse_metadata(raw.metadata)
        caption = rng.choice(usable_captions(raw, metadata, self.fix_captions))
        if not raw.image:
            raise SampleFault("missing_image")
        sample: dict[str, Any] = {"caption": caption}
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

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        """Samples as a batch (see [`ImageTextLoader`])."""
        captions = [sample["input_ids"] for sample in samples]
        shape = len(captions), 77 if self.pad_captions else max(map(len, captions))
        input_ids, attention_mask = np.full(shape, self.tokenizer.pad_token_id), np.zeros(shape, np.int64)
        for row, caption in enumerate(captions):
            input_ids[row, : len(caption)] = caption
            attention_mask[row, : len(caption)] = 1
        batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        for name in samples[0]:
            if name != "input_ids":
                batch[name] = torch.from_numpy(np.stack([sample[name] for sample in samples]))
        return batch


def path_of(shard: str | Shard) -> str:
    """Path or address of a shard, or the name of a part of a data set."""
    return shard if isinstance(shard, str) else shard.name


class _LaneReader(IterableDataset):
    """Some lanes, read side by side: yields the number of a lane and its next items, up to the end of its epoch."""

    def __init__(self, stream: ImageTextStream, positions: dict[int, Position], num_lanes: int):
        self.stream, self.positions, self.num_lanes = stream, positions, num_lanes
        in_a_batch = stream.batch_size * stream.world_size // num_lanes
        self.bundle = max(1, min(_BUNDLE, in_a_batch))

    def __iter__(self) -> Iterator[tuple[int, list[Item]]]:
        if get_worker_info() is not None:
            # Workers are forks; without this the tokenizer warns that its threads do not survive a fork.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            # A cluster sends these to every process of a job; the main process must still get its last batch.
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
        lanes = {lane: self.stream.lane(lane, self.num_lanes, position) for lane, position in self.positions.items()}
        while True:
            # None of them runs ahead into the next epoch while another is still in this one.
            turns = deque(lanes)
            while turns:
                lane = turns.popleft()
                items = []
                for item in islice(lanes[lane], self.bundle):
                    items.append(item)
                    if item.sample is None:
                        break
                if not items:  # the last epoch is over
                    return
                if items[-1].sample is not None:
                    turns.append(lane)
                self._tokenize(items)
                yield lane, items

    def _tokenize(self, items: list[Item]) -> None:
        samples = [item.sample for item in items if item.sample is not None]
        if samples:
            # Below the tokenizer's own call, whose offsets nobody reads: eight captions take 0.35 ms, not 0.49.
            backend = self.stream.tokenizer.backend_tokenizer
            backend.enable_truncation(77)
            backend.no_padding()
            encodings = backend.encode_batch_fast([sample.pop("caption") for sample in samples])
            for sample, encoding in zip(samples, encodings, strict=True):
                sample["input_ids"] = encoding.ids


class Processes:
    """What the processes of a run tell each other about their lanes; alone, a process talks to itself."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = device

    def minimum(self, values: list[int]) -> list[int]:
        """Element by element over all processes."""
        if not is_distributed():
            return values
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Any object of every process, in the order of their ranks."""
        if not is_distributed():
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values


class ImageTextLoader:
    """
    Iterates over the batches of an [`ImageTextStream`] with loader workers, and knows where it stands.

    A batch has `pixels` (batch, image_size, image_size, 3), uint8 RGB; `codebook_pixels` likewise, if the codebook has
    a view of its own; `input_ids` and `attention_mask` (batch, length), int64; and, with masks, `bool_masked_pos`
    (batch, patches), bool; with stored codes, `mim_targets` (batch, patches), int64. The last one may be smaller, in
    all processes alike; up to `world_size - 1` samples are left out there (`left_out`).

    The global batches do not depend on the number of workers and processes, only on `seed`, `shuffle_block`,
    `open_shards` and the size of the global batch. All methods are called by all processes together.

    Args:
        stream: What to read.
        num_workers: Loader processes; 0 reads in this one.
        pin_memory: Put batches into page-locked memory for a faster copy to a GPU.
        processes: How this process talks to the others.

    Attributes:
        epoch: Passes over the data that are complete.
        good: Good samples so far, of all processes.
        faults: Bad samples and shards so far by kind, of this process; `state_dict` has the sum over all processes.
        records: The same one by one; whoever stores them elsewhere may empty the list.
        left_out: Good samples that the last batch could not share out.
    """

    def __init__(
        self,
        stream: ImageTextStream,
        num_workers: int = 0,
        pin_memory: bool = False,
        processes: Processes | None = None,
    ):
        self.stream, self.num_workers, self.pin_memory = stream, num_workers, pin_memory
        self.processes = processes or Processes()
        self.epoch = self.good = self.left_out = 0
        self.faults: Counter[str] = Counter()
        self.records: list[Fault] = []
        self._good_before_epoch = self._next_lane = 0
        self._names = shard_names(stream.shards)
        self._positions: list[Position] = [(0, 0, 0)] * min(stream.open_shards, len(stream.shards))

    def __iter__(self) -> Iterator[Batch]:
        self._open_lanes()
        try:
            yield from self._batches()
        finally:
            self._sources.clear()  # ends the workers

    def _batches(self) -> Iterator[Batch]:
        stream = self.stream
        while stream.num_epochs is None or self.epoch < stream.num_epochs:
            owners, own = self._next_samples(stream.batch_size * stream.world_size)
            share = len(owners) // stream.world_size
            self.left_out = len(owners) - share * stream.world_size
            self.good += share * stream.world_size
            if share:
                batch = stream.collate(self._shared_out(owners, own, share))
                yield {name: value.pin_memory() for name, value in batch.items()} if self.pin_memory else batch

    def _open_lanes(self) -> None:
        stream, lanes = self.stream, range(self.stream.rank, len(self._positions), self.stream.world_size)
        count = max(1, min(self.num_workers, len(lanes)))
        prefetch = math.ceil(2 * stream.batch_size / (_BUNDLE * count))
        self._queues: dict[int, deque[Item]] = {lane: deque() for lane in lanes}
        self._sources: dict[int, Iterator[tuple[int, list[Item]]]] = {}
        for worker in range(count):
            own = lanes[worker::count]
            reader = _LaneReader(stream, {lane: self._positions[lane] for lane in own}, len(self._positions))
            if self.num_workers and own:
                # One loader for each worker, because whose turn it is depends on which lanes are at their end.
                source = iter(
                    DataLoader(
                        reader,
                        batch_size=None,
                        collate_fn=_as_it_is,
                        num_workers=1,
                        prefetch_factor=max(2, prefetch),
                        # Of its own: it would otherwise draw from the default generator, which the model uses too.
                        generator=torch.Generator().manual_seed(stream.seed),
                    )
                )
            else:
                source = iter(reader)
            self._sources.update(dict.fromkeys(own, source))

    def _next_samples(self, count: int) -> tuple[list[int], list[tuple[int, dict[str, Any]]]]:
        """
        Up to `count` samples, fewer only at the very end: for each the process that read it, and those of this process
        with their places.
        """
        owners: list[int] = []
        own: list[tuple[int, dict[str, Any]]] = []
        while True:
            for lane in self._next_lanes(count - len(owners)):
                if lane in self._queues:
                    sample = self._consume(lane).sample
                    assert sample is not None
                    own.append((len(owners), sample))
                owners.append(lane % self.stream.world_size)
            if len(owners) == count:
                return owners, own
            for lane in self._queues:
                self._consume(lane)
            self.epoch, self._next_lane = self.epoch + 1, 0
            self._positions = [(self.epoch, 0, 0)] * len(self._positions)
            if self.epoch == self.stream.num_epochs:
                return owners, own
            good = self.good + len(owners)
            if self.stream.num_epochs is None and good == self._good_before_epoch:
                raise ValueError(
                    f"Epoch {self.epoch - 1} had no usable sample (bad so far, in process {self.stream.rank}: "
                    f"{dict(self.faults) or 'none'}): check the shards."
                )
            self._good_before_epoch = good

    def _consume(self, lane: int) -> Item:
        item = self._queues[lane].popleft()
        self._positions[lane] = item.position
        self.faults.update(fault.kind for fault in item.faults)
        self.records += item.faults
        return item

    def _next_lanes(self, count: int) -> list[int]:
        """The lanes of the next `count` samples in turn; fewer if the epoch has no more."""
        num_lanes = len(self._positions)
        horizon = math.ceil(count / num_lanes) + 1
        while True:
            left = self.processes.minimum(self._look_ahead(horizon))
            taken = [0] * num_lanes
            order: list[int] = []
            lane, running = self._next_lane, {lane for lane, end in enumerate(left) if end}
            while len(order) < count and running:
                if lane in running:
                    order.append(lane)
                    taken[lane] += 1
                    if taken[lane] == left[lane]:
                        running.remove(lane)
                lane = (lane + 1) % num_lanes
            # A lane whose end is not in sight may end before what it was taken for.
            if all(n <= horizon for n, end in zip(taken, left, strict=True) if end == _NOT_IN_SIGHT):
                self._next_lane = lane
                return order
            horizon *= 2

    def _look_ahead(self, horizon: int) -> list[int]:
        """Samples that each lane still has in this epoch, as far as this process sees within the horizon."""
        left = [_NOT_IN_SIGHT] * len(self._positions)
        for lane, queue in self._queues.items():
            while True:
                end = next((place for place, item in enumerate(queue) if item.sample is None), None)
                if end is not None:
                    left[lane] = end
                if end is not None or len(queue) >= horizon:
                    break
                other, items = next(self._sources[lane])
                self._queues[other].extend(items)
        return left

    def _shared_out(self, owners: list[int], own: list[tuple[int, dict[str, Any]]], share: int) -> list[dict[str, Any]]:
        """This process's equal share of the samples: its own first, then what others have too many of."""
        stream = self.stream
        total = share * stream.world_size
        counts = Counter(owners[:total])
        own = [(place, sample) for place, sample in own if place < total]
        if max(counts.values()) > share:
            offers = [offer for offers in self.processes.gather(own[share:]) for offer in offers]
            offers.sort(key=lambda offer: offer[0])
            start = sum(max(0, share - counts[rank]) for rank in range(stream.rank))
            own = own[:share]
            own += offers[start : start + share - len(own)]
        return [sample for _, sample in own]

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was taken, in plain numbers and strings; the same in all processes."""
        positions = [list(position) for position in self._positions]
        own = {lane: positions[lane] for lane in range(self.stream.rank, len(positions), self.stream.world_size)}
        faults: Counter[str] = Counter()
        for theirs, counts in self.processes.gather((own, dict(self.faults))):
            faults.update(counts)
            for lane, position in theirs.items():
                positions[lane] = position
        return {
            "epoch": self.epoch,
            "next_lane": self._next_lane,
            "good": self.good,
            "good_before_epoch": self._good_before_epoch,
            "faults": dict(sorted(faults.items())),
            "positions": positions,
            "shards": self._names,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Goes on from a position, with any number of workers and processes. Takes effect at the next `iter()`.

        The shards are those of the saved position, in its order, wherever their folder lies now: one that is gone is
        counted as missing, and one that is new is left out, both with a warning.

        Raises:
            ValueError: If none of the shards is one of the saved position's.
        """
        names = state["shards"]
        shards, gone, new = _matched(names, self.stream.shards)
        if len(gone) == len(names):
            raise ValueError(
                f"None of the {len(self.stream.shards)} shards is one of the {len(names)} that the position was saved "
                f"with, such as {names[0]}: give the same shards, or start anew in another folder."
            )
        if gone and self.stream.rank == 0:
            logger.warning("Shards that were there before are gone and count as missing: %s.", ", ".join(gone))
        if new and self.stream.rank == 0:
            logger.warning("Shards that were not there before are left out: %s.", ", ".join(new))
        self.stream = dataclasses.replace(self.stream, shards=shards)
        self._names = list(names)
        self.epoch, self._next_lane = state["epoch"], state["next_lane"]
        self.good, self._good_before_epoch = state["good"], state["good_before_epoch"]
        self._positions = [tuple(position) for position in state["positions"]]
        self.faults = Counter(state["faults"] if self.stream.rank == 0 else {})


def shard_names(shards: Sequence[str | Shard]) -> list[str]:
    """Names of shards below their common folder: the same when the folder moves."""
    paths = [path_of(shard).split("/") for shard in shards]
    common = 0
    while all(len(path) > common + 1 and path[common] == paths[0][common] for path in paths):
        common += 1
    return ["/".join(path[common:]) for path in paths]


def _matched(names: list[str], shards: Sequence[str | Shard]) -> tuple[list[str | Shard], list[str], list[str]]:
    """The shards that bear these names, in their order; the names of those that are gone; the paths of new ones."""
    by_name = dict(zip(shard_names(shards), shards, strict=True))
    by_end: dict[str, list[str | Shard]] = {}
    for candidate in shards:
        parts = path_of(candidate).split("/")
        for start in range(len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(candidate)
    found: list[str | Shard] = []
    gone: list[str] = []
    for name in names:
        # With a shard gone, or several more, the common folder may be another one: then by the end of the path.
        ends = by_end.get(name, [])
        shard: str | Shard | None = by_name.get(name) or (ends[0] if len(ends) == 1 else None)
        if shard is None:
            gone.append(name)
        found.append(shard or name)
    known = {path_of(shard) for shard in found}
    return found, gone, [path for path in map(path_of, shards) if path not in known]


def _as_it_is(item: Any) -> Any:
    return item
