"""Keeps a run from training on nonsense: steps that are not finite are skipped, sudden rises of the loss are noted."""

from __future__ import annotations

import logging
import math
from typing import Any

logger = logging.getLogger(__name__)

# A spike is a loss this many standard deviations above its moving mean, of which each new loss makes up the share.
_DEVIATIONS, _SHARE = 6.0, 0.02
_STEPS_BEFORE_JUDGING = 50


class Stability:
    """
    Watches losses and gradient norms of the global batch.

    Args:
        max_skipped_steps: Skipped steps in a row that end the run.

    Attributes:
        skipped: Steps that were skipped.
        spikes: Steps whose loss was a spike. They are trained on.
    """

    def __init__(self, max_skipped_steps: int):
        self.max_skipped_steps = max_skipped_steps
        self.skipped = self.spikes = self._in_a_row = self._seen = 0
        self._mean = self._variance = 0.0

    def accepts(self, step: int, loss: float, metrics: dict[str, float]) -> bool:
        """
        Whether the step's gradients can be used.

        Raises:
            RuntimeError: If too many in a row could not.
        """
        if math.isfinite(loss) and all(map(math.isfinite, metrics.values())):
            self._in_a_row = 0
            self._watch(step, loss)
            return True
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        bad = ", ".join(f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value))
        logger.warning("Step %d is skipped: %s.", step, bad or f"loss {loss}")
        if self._in_a_row >= self.max_skipped_steps:
            raise RuntimeError(
                f"The last {self._in_a_row} steps, up to {step}, had no finite loss and gradient ({bad}): lower the "
                "learning rate or set max_grad_norm, and go on from a checkpoint before."
            )
        return False

    def _watch(self, step: int, loss: float) -> None:
        if self._seen >= _STEPS_BEFORE_JUDGING and loss > self._mean + _DEVIATIONS * math.sqrt(self._variance):
            self.spikes += 1
            logger.warning("Step %d has a loss of %.4g after a mean of %.4g.", step, loss, self._mean)
        self._seen += 1
        share = max(_SHARE, 1 / self._seen)
        difference = loss - self._mean
        self._mean += share * difference
        self._variance = (1 - share) * (self._variance + share * difference**2)

    def state_dict(self) -> dict[str, Any]:
        return {name.lstrip("_"): value for name, value in vars(self).items() if name != "max_skipped_steps"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in vars(self).keys() - {"max_skipped_steps"}:
            setattr(self, name, state[name.lstrip("_")])
