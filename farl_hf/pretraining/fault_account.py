"""The account of bad samples and shards of a run: counted by kind, named in a file, and judged."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from .faults import FAULTS, SHARD_FAULTS, Fault
from .stream import ImageTextLoader

logger = logging.getLogger(__name__)

# A share of bad samples says little before this many were read.
_SAMPLES_BEFORE_JUDGING = 1000
# Shards that are named in the log and the summary; the file has all.
_NAMED = 100


class FaultAccount:
    """
    Faults of all processes. `update` is called by all of them together.

    Args:
        loader: Whose faults.
        path: Of the file that names each of them, one JSON object a line with `kind`, `shard`, `key`, `epoch` and
            `message`. What a killed run wrote behind its last checkpoint is cut off again.
        max_bad_fraction: Largest share of the samples or shards that may be bad.

    Attributes:
        counts: Faults by kind.
        bad_shards: Kind and path of the first bad shards.
    """

    def __init__(self, loader: ImageTextLoader, path: Path, max_bad_fraction: float):
        self.loader, self.path, self.limit = loader, path, max_bad_fraction
        self.counts: Counter[str] = Counter()
        self.bad_shards: list[list[str]] = []
        self._length = 0

    @property
    def bad_samples(self) -> int:
        """Number of bad samples."""
        return self.counts.total() - self.bad_shard_count

    @property
    def bad_shard_count(self) -> int:
        """Number of times that a shard was found bad; once in each epoch."""
        return sum(self.counts[kind] for kind in SHARD_FAULTS)

    def update(self, final: bool = False) -> None:
        """
        Takes over what the loaders of all processes met since the last call.

        Raises:
            RuntimeError: If too much of the data is bad; it names some.
        """
        own, self.loader.records = self.loader.records, []
        records = [record for records in self.loader.processes.gather(own) for record in records]
        if records:
            self._enter(records)
        seen = self.loader.good + self.bad_samples
        shards = len(self.loader.stream.shards)
        too_many = (final or seen >= _SAMPLES_BEFORE_JUDGING) and self.bad_samples > self.limit * seen
        # Each epoch meets the same bad shards again.
        passes = self.loader.epoch + (not final)
        if too_many or self.bad_shard_count > self.limit * shards * max(1, passes):
            named = "; ".join(f"{kind} {shard}" for kind, shard in self.bad_shards[:5])
            raise RuntimeError(
                f"Over max_bad_fraction={self.limit} of the data is bad: {seen} samples and {shards} shards, of them "
                f"bad {dict(self.counts)}{f' ({named})' if named else ''}. {self.path} names all of them; check the "
                "shards (scripts/prepare_laion_face.py verify)."
            )

    def _enter(self, records: list[Fault]) -> None:
        self.counts.update(record.kind for record in records)
        for record in records:
            entry = [record.kind, record.shard]
            if record.key is None and entry not in self.bad_shards and len(self.bad_shards) < _NAMED:
                self.bad_shards.append(entry)
                if self.loader.stream.rank == 0:
                    logger.warning("%s: %s (%s)", record.kind, record.shard, record.message or FAULTS[record.kind])
        lines = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records).encode()
        if self.loader.stream.rank == 0:
            with open(self.path, "ab" if self._length else "wb") as file:
                file.write(lines)
        self._length += len(lines)

    def finish(self) -> None:
        """Says what was skipped."""
        for kind, count in self.counts.items():
            logger.warning("%d %s (%s) were met, see %s.", count, FAULTS[kind], kind, self.path.name)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "bad_shards": self.bad_shards, "length": self._length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts, self.bad_shards = Counter(state["counts"]), [list(entry) for entry in state["bad_shards"]]
        self._length = state["length"]
        # An earlier call may have written more than its checkpoint knows.
        if self.loader.stream.rank == 0 and self.path.exists():
            os.truncate(self.path, min(self._length, self.path.stat().st_size))
