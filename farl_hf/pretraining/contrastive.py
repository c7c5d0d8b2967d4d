"""Contrastive loss over the global batch: all processes, all chunks of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

# 256 MB of fp32 for each of the few tensors of this size.
_LOGITS_AT_ONCE = 1 << 26


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all processes; the gradient of a row sums what every process did with it."""

    @staticmethod
    def forward(ctx, features: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_gradient(features: torch.Tensor) -> torch.Tensor:
    """`features` (local, dim) of all processes, (global, dim), in the order of their ranks. Differentiable."""
    return _Gather.apply(features) if is_distributed() else features


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def global_contrastive_loss(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, logit_scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Symmetric InfoNCE of this process's rows against everybody's columns. The mean over the processes, which is what
    data-parallel training makes of the gradients, is the loss of the global batch. Logits are local times global, not
    global squared, and where that is much, rows are taken in blocks whose logits are computed again for the backward
    pass.

    Args:
        image_embeds, text_embeds (local, dim): Features of unit length; pairs share a row. The number of rows must be
            the same in every process.
        logit_scale (scalar or (1,)): Log of the inverse temperature.

    Returns:
        The loss and the share of rows whose own partner is the most similar one (mean of both directions), scalars.
    """
    # The product of normalised features is where low precision would hurt first.
    with torch.autocast(image_embeds.device.type, enabled=False):
        image_embeds, text_embeds = image_embeds.float(), text_embeds.float()
        scale = logit_scale.float().exp()
        columns = gather_with_gradient(image_embeds), gather_with_gradient(text_embeds)
        rank, count = dist.get_rank() if is_distributed() else 0, len(image_embeds)
        target = torch.arange(count, device=image_embeds.device) + rank * count
        rows = max(1, _LOGITS_AT_ONCE // len(columns[0]))
        loss = correct = torch.zeros((), device=image_embeds.device)
        for start in range(0, count, rows):
            block = (tensor[start : start + rows] for tensor in (image_embeds, text_embeds, target))
            if rows >= count:
                part = _loss_of_rows(scale, *columns, *block)
            else:
                part = checkpoint(_loss_of_rows, scale, *columns, *block, use_reentrant=False, preserve_rng_state=False)
            loss, correct = loss + part[0] / (2 * count), correct + part[1] / (2 * count)
    return loss, correct


def _loss_of_rows(
    scale: torch.Tensor,
    all_images: torch.Tensor,
    all_texts: torch.Tensor,
    images: torch.Tensor,
    texts: torch.Tensor,
    target: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of both directions' losses and hits over some rows."""
    image_logits, text_logits = scale * images @ all_texts.T, scale * texts @ all_images.T
    losses = [nn.functional.cross_entropy(logits, target, reduction="sum") for logits in (image_logits, text_logits)]
    hits = [(logits.argmax(dim=1) == target).sum() for logits in (image_logits, text_logits)]
    return losses[0] + losses[1], (hits[0] + hits[1]).float()


@dataclass
class FeatureGradients:
    """
    Gradients of the contrastive loss with respect to the features and the log of the inverse temperature. With them,
    the backward pass of a part of the batch needs nothing of the other parts.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    logit_scale: torch.Tensor

    @classmethod
    def of_loss(
        cls, image_embeds: torch.Tensor, text_embeds: torch.Tensor, logit_scale: torch.Tensor
    ) -> tuple[FeatureGradients, torch.Tensor, torch.Tensor]:
        """The gradients, the loss and the accuracy of [`global_contrastive_loss`]."""
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (image_embeds, text_embeds, logit_scale)]
        with torch.enable_grad():
            loss, accuracy = global_contrastive_loss(*leaves)
            gradients = torch.autograd.grad(loss, leaves)
        return cls(*gradients), loss.detach(), accuracy

    def rows(self, start: int, stop: int, share: float) -> FeatureGradients:
        """The gradients of some rows, and a share of the temperature's."""
        return FeatureGradients(self.image_embeds[start:stop], self.text_embeds[start:stop], self.logit_scale * share)

    def surrogate(
        self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, logit_scale: torch.Tensor
    ) -> torch.Tensor:
        """A scalar whose gradients are these."""
        return (
            (image_embeds.float() * self.image_embeds).sum()
            + (text_embeds.float() * self.text_embeds).sum()
            + (logit_scale * self.logit_scale).sum()
        )
