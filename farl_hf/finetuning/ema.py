"""Exponential moving average of a model, as in the original's trainer (`ml/trainer.py` of py-blueprint)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def moving_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: parameters with gradients, and floating buffers (running statistics of batch norm)."""
    tensors = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    return tensors | {name: b for name, b in model.named_buffers() if b.is_floating_point()}


class ExponentialMovingAverage:
    """
    `average = decay * average + (1 - decay) * weight` after every step, from the initial weights on. Running statistics
    are averaged too; integer buffers are the model's own.

    Args:
        model: Whose weights are averaged.
        decay: 0.999 in the original: a horizon of 1,000 steps.
        warmup: Whether the decay grows as `(1 + n) / (10 + n)` after `n` steps until it reaches `decay`, so that a
            short run's average leaves its start behind. The original has none.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup: bool = False):
        self.decay, self.warmup, self.step = decay, warmup, 0
        self.average = {name: tensor.clone() for name, tensor in moving_tensors(model).items()}

    def decay_at(self, step: int) -> float:
        """Decay of the update that follows optimizer step number `step`, the first of which is 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int | None = None) -> None:
        """After optimizer step number `step`, by default one more than at the last call."""
        self.step = self.step + 1 if step is None else step
        current, weight = moving_tensors(model), 1 - self.decay_at(self.step)
        torch._foreach_lerp_(list(self.average.values()), [current[name] for name in self.average], weight)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Makes the model's weights the average."""
        for name, tensor in moving_tensors(model).items():
            self.average[name].copy_(tensor)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Makes the average the model's weights."""
        for name, tensor in moving_tensors(model).items():
            tensor.copy_(self.average[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model holds the average inside of the `with` block, and its own weights again after it."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, tensor in moving_tensors(model).items():
            own = tensor.clone()
            tensor.copy_(self.average[name])
            self.average[name].copy_(own)
