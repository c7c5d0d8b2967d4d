"""Length of a run and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .configuration import PretrainConfig
from .shards import count_samples
from .stream import Shard, path_of


@dataclass(frozen=True)
class Schedule:
    """
    Linear warm-up, then a cosine down to the end.

    Attributes:
        total_steps: Optimizer steps of the run, as far as is known beforehand; bad samples make it shorter.
        warmup_steps: Steps of them in which the rate rises.
        peak, start, end: Learning rates at the end of the warm-up, at the first and at the last step.
    """

    total_steps: int
    warmup_steps: int
    peak: float
    start: float
    end: float

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.end + (self.peak - self.end) * (1 + math.cos(math.pi * progress)) / 2


def plan_schedule(
    config: PretrainConfig, shards: list[str | Shard], global_batch_size: int, samples: int | None = None
) -> Schedule:
    """
    The schedule of a run.

    Args:
        config: Its settings.
        shards: What it reads; counted only where the settings leave it to them.
        global_batch_size: Samples of an optimizer step.
        samples: Of an epoch, where a data set states them.

    Raises:
        ValueError: If something would have to be guessed, because there are shards whose samples cannot be counted.
    """
    samples = config.samples_per_epoch or samples
    if samples is None and (config.max_steps is None or config.warmup_steps is None):
        counts = [count_samples(shard) if isinstance(shard, str) else None for shard in shards]
        unknown = [path_of(shard) for shard, count in zip(shards, counts, strict=True) if count is None]
        if unknown:
            raise ValueError(
                f"The samples of {len(unknown)} of {len(shards)} shards cannot be counted beforehand (such as "
                f"{unknown[0]}), and the length of the schedule and of the warm-up depends on them: give "
                "samples_per_epoch, or both max_steps and warmup_steps."
            )
        samples = sum(count for count in counts if count is not None)
    epoch = samples or 0  # not asked for where it is unknown
    total = config.max_steps or math.ceil(epoch * config.num_epochs / global_batch_size)
    warmup = config.warmup_steps
    if warmup is None:
        warmup = min(total, round(epoch * config.warmup_epochs / global_batch_size))
    peak = config.peak_learning_rate(global_batch_size)
    return Schedule(total, warmup, peak, min(config.start_learning_rate, peak), config.end_learning_rate)
