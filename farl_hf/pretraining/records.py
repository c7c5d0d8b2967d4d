"""What a run writes down: one entry per so many steps, on the screen, in the history and in the trackers."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

from accelerate import Accelerator

from .configuration import PretrainConfig

logger = logging.getLogger(__name__)


class Records:
    """
    The history of a run, and the sums since its last entry. All processes hold the same; the main one writes.

    Attributes:
        history: One dict per entry, see `loop.PretrainResult`.
    """

    def __init__(self, config: PretrainConfig, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self.history: list[dict[str, float]] = []
        self._start_window()

    def start(self, step: int) -> None:
        """Opens the trackers, which show nothing of an earlier call behind `step`."""
        self._started = time.perf_counter()
        if self.config.report_to:
            scalars = {k: v for k, v in dataclasses.asdict(self.config).items() if isinstance(v, int | float | str)}
            trackers = {"tensorboard": {"purge_step": step + 1}}
            self.accelerator.init_trackers("pretraining", config=scalars, init_kwargs=trackers)

    def waited(self, seconds: float) -> None:
        """Adds time in which the device had no data."""
        self._data_wait += seconds

    def add(self, metrics: dict[str, float] | None, samples: int, caption_tokens: int) -> None:
        """Adds a step over the global batch; without metrics, one that was skipped."""
        self._samples += samples
        self._caption_tokens += caption_tokens
        if metrics is not None:
            self._steps += 1
            for name, value in metrics.items():
                self._totals[name] = self._totals.get(name, 0.0) + value

    @property
    def empty(self) -> bool:
        """Whether there was no step since the last entry."""
        return self._samples == 0

    def close_window(self, step: int, epoch: int) -> dict[str, float]:
        """An entry with the means since the last one, to be completed and given to `write`."""
        seconds = self._seconds()
        entry: dict[str, float] = {"step": step, "epoch": epoch}
        entry.update({name: total / self._steps for name, total in self._totals.items()})
        entry["samples_per_second"] = self._samples / seconds
        entry["data_wait"] = self._data_wait / seconds
        entry["caption_length"] = self._caption_tokens / max(1, self._samples)
        self._start_window()
        return entry

    def write(self, entry: dict[str, float]) -> None:
        """Adds an entry to the history, the log and the trackers."""
        self.history.append(entry)
        if self.accelerator.is_main_process:
            logger.info("%s", ", ".join(f"{name} {value:.5g}" for name, value in entry.items()))
        self.accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=int(entry["step"]))

    def end(self) -> None:
        """Closes the trackers."""
        if self.config.report_to:
            self.accelerator.end_training()

    def state_dict(self) -> dict[str, Any]:
        window = {
            "totals": dict(self._totals),
            "steps": self._steps,
            "samples": self._samples,
            "caption_tokens": self._caption_tokens,
            "data_wait": self._data_wait,
            "seconds": self._seconds(),
        }
        return {"history": list(self.history), "window": window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])
        window = state["window"]
        self._totals: dict[str, float] = dict(window["totals"])
        self._steps, self._samples = window["steps"], window["samples"]
        self._caption_tokens, self._data_wait = window["caption_tokens"], window["data_wait"]
        self._seconds_before = window["seconds"]

    def _start_window(self) -> None:
        self._totals = {}
        self._steps = self._samples = self._caption_tokens = 0
        self._data_wait = self._seconds_before = 0.0
        self._started = time.perf_counter()

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started
