"""Stopping when a cluster asks for it: the step is finished, a checkpoint is saved, the exit code says "again"."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

# `EX_TEMPFAIL` of sysexits.h: the same command goes on.
REQUEUE_EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class RunStopped(Exception):
    """A run that was asked to stop and has saved its state; the same call goes on. Scripts exit with code 75."""


class StopRequest:
    """
    Listens, while it is entered, to SIGTERM (spot machines, `scancel`, Kubernetes) and SIGUSR1 (Slurm's `--signal`).

    Attributes:
        received: Whether one of them came, to this process.
    """

    def __init__(self):
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # only the main thread may; elsewhere who called decides
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        logger.warning("%s: stopping after this step.", signal.Signals(number).name)
