"""
The training objective around the model: losses of the global batch, and their exact gradients in chunks.

Everything that touches parameters happens in `PretrainingObjective.forward`, so that DDP and FSDP see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..models.modeling_farl import FaRLEncoderLayer, FaRLForPreTraining
from .contrastive import FeatureGradients, global_contrastive_loss, is_distributed
from .image_codebook import ImageCodebook
from .stream import Batch


class PretrainingObjective(nn.Module):
    """
    `itc_weight * L_ITC + mim_weight * L_MIM` of [`FaRLForPreTraining`]. Parameters that a zero weight leaves without a
    gradient are frozen.

    Args:
        model: The model.
        itc_weight, mim_weight: Weights of the contrastive and the masked-image loss; 0 leaves a branch out.

    Raises:
        ValueError: If both weights are 0.
    """

    def __init__(self, model: FaRLForPreTraining, itc_weight: float = 1.0, mim_weight: float = 1.0):
        super().__init__()
        if itc_weight == 0 and mim_weight == 0:
            raise ValueError("itc_weight and mim_weight are both 0: there is nothing to learn.")
        self.model, self.itc_weight, self.mim_weight = model, itc_weight, mim_weight
        # Where Accelerate's FSDP looks for what to gather one at a time; without it, the whole model is one piece. The
        # embeddings are not in it: their patches are used without a call of the module, past FSDP's hooks.
        self._no_split_modules = [FaRLEncoderLayer.__name__]
        if itc_weight == 0:
            for module in (model.text_model, model.text_projection, model.visual_projection):
                module.requires_grad_(False)
            model.vision_model.post_layernorm.requires_grad_(False)
            model.logit_scale.requires_grad_(False)
        if mim_weight == 0:
            for module in (model.mim_encoder, model.mim_layernorm, model.mim_head):
                module.requires_grad_(False)
            model.mask_token.requires_grad_(False)

    def forward(
        self,
        inputs: dict[str, torch.Tensor],
        mim_divisor: torch.Tensor | None = None,
        gradients: FeatureGradients | None = None,
        features_only: bool = False,
        patch_drop_ratio: float = 0.0,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            inputs: `pixel_values`, `input_ids`, `bool_masked_pos` and `mim_targets` as the model takes them; captions
                padded on the right.
            mim_divisor (scalar): Masked patches in the global batch per process; the masked loss is a sum over it.
            gradients: Of the contrastive loss with respect to these rows' features. Without them the loss is that of
                these rows alone.
            features_only: Return `image_embeds`, `text_embeds` and `logit_scale` and compute no loss.
            patch_drop_ratio: See [`FaRLForPreTraining`].

        Returns:
            `loss` to go backward from, and detached `itc_loss`, `itc_accuracy`, `mim_loss`, `mim_accuracy` as far as
            they were computed here.
        """
        use_mim = self.mim_weight > 0 and not features_only
        output = self.model(
            # Without a mask for the padding: it lies behind the end token, which a causal model reads alone, and plain
            # causal attention has the faster kernels.
            input_ids=inputs["input_ids"] if self.itc_weight > 0 else None,
            pixel_values=inputs["pixel_values"],
            bool_masked_pos=inputs["bool_masked_pos"] if use_mim else None,
            return_loss=False,
            patch_drop_ratio=patch_drop_ratio,
        )
        features = (output.image_embeds, output.text_embeds, self.model.logit_scale)
        if features_only:
            return dict(zip(("image_embeds", "text_embeds", "logit_scale"), features, strict=True))
        result, losses = {}, []
        if self.itc_weight > 0:
            if gradients is None:
                itc_loss, result["itc_accuracy"] = global_contrastive_loss(*features)
                result["itc_loss"] = itc_loss.detach()
            else:
                itc_loss = gradients.surrogate(*features)
            losses.append(self.itc_weight * itc_loss)
        if use_mim:
            targets = inputs["mim_targets"][inputs["bool_masked_pos"]]
            mim_loss = nn.functional.cross_entropy(output.mim_logits.float(), targets, reduction="sum") / mim_divisor
            losses.append(self.mim_weight * mim_loss)
            result["mim_loss"] = mim_loss.detach()
            result["mim_accuracy"] = (output.mim_logits.argmax(dim=-1) == targets).sum() / mim_divisor
        return {"loss": sum(losses), **result}


def backward(
    accelerator: Accelerator,
    objective: nn.Module,
    batches: Sequence[Batch],
    codebook: ImageCodebook | None = None,
    chunk_size: int | None = None,
    patch_drop_ratio: float = 0.0,
) -> dict[str, torch.Tensor]:
    """
    Adds the gradients of one optimizer step, over the global batch: `batches` of all processes together.

    With one chunk this is a forward and a backward pass. With several it is gradient caching (Gao et al. 2021), which
    gives the same gradients with the activations of one chunk in memory, for one more forward pass of the clean images
    and captions (about 1.3 times the time):

    1. features of all chunks, without activations;
    2. the loss of the whole batch and its gradients with respect to the features;
    3. forward and backward of each chunk, with the features' gradients put in. Processes exchange gradients in the
       last chunk only.

    Exact for models without attention dropout, such as FaRL's; dropped patches are the same in both passes.

    Args:
        accelerator: Of the loop.
        objective: A [`PretrainingObjective`], prepared by `accelerator`.
        batches: Batches of [`ImageTextLoader`], on the accelerator's device; several for gradient accumulation.
        codebook: Makes the targets of batches without `mim_targets`.
        chunk_size: Largest number of samples to have activations of; by default a whole batch.
        patch_drop_ratio: See [`FaRLForPreTraining`].

    Returns:
        `itc_loss`, `itc_accuracy`, `mim_loss`, `mim_accuracy` (scalars, detached) whose mean over the processes is that
        of the global batch.
    """
    chunks = [chunk for batch in batches for chunk in split_batch(batch, chunk_size)]
    itc_weight = accelerator.unwrap_model(objective).itc_weight
    use_mim = "bool_masked_pos" in chunks[0]
    mim_divisor = _masked_patches_per_process(chunks) if use_mim else None
    totals: dict[str, torch.Tensor] = {}
    gradients = None
    random_states = []
    if len(chunks) > 1 and itc_weight > 0:
        parts = []
        for chunk in chunks:
            random_states.append(_random_state(accelerator.device))
            with torch.no_grad():
                inputs = model_inputs(chunk, None)
                parts.append(objective(inputs, features_only=True, patch_drop_ratio=patch_drop_ratio))
        image_embeds, text_embeds = (
            torch.cat([part[name] for part in parts]) for name in ("image_embeds", "text_embeds")
        )
        gradients, totals["itc_loss"], totals["itc_accuracy"] = FeatureGradients.of_loss(
            image_embeds, text_embeds, parts[0]["logit_scale"]
        )
    start = 0
    for number, chunk in enumerate(chunks):
        stop = start + len(chunk["pixels"])
        if random_states:
            _restore_random_state(random_states[number], accelerator.device)
        synchronise = number == len(chunks) - 1
        with nullcontext() if synchronise else accelerator.no_sync(objective):
            with accelerator.autocast():
                inputs = model_inputs(chunk, codebook)
            result = objective(
                inputs,
                mim_divisor=mim_divisor,
                gradients=None if gradients is None else gradients.rows(start, stop, share=1 / len(chunks)),
                patch_drop_ratio=patch_drop_ratio,
            )
            accelerator.backward(result.pop("loss"))
        for name, value in result.items():
            totals[name] = totals.get(name, 0) + value
        start = stop
    return totals


def split_batch(batch: Batch, chunk_size: int | None) -> list[Batch]:
    """Rows of a batch in parts of at most `chunk_size`."""
    rows = len(batch["pixels"])
    size = rows if chunk_size is None else chunk_size
    return [{name: value[i : i + size] for name, value in batch.items()} for i in range(0, rows, size)]


def model_inputs(batch: Batch, codebook: ImageCodebook | None) -> dict[str, torch.Tensor]:
    """A reader's batch as the objective takes it; without a codebook the targets stay as they are in the batch."""
    inputs: dict[str, torch.Tensor] = {
        name: batch[name] for name in ("input_ids", "bool_masked_pos", "mim_targets") if name in batch
    }
    pixels = scaled_pixels(batch["pixels"])
    inputs["pixel_values"] = clip_normalised(pixels)
    if codebook is not None and "bool_masked_pos" in batch and "mim_targets" not in batch:
        view = scaled_pixels(batch["codebook_pixels"]) if "codebook_pixels" in batch else pixels
        inputs["mim_targets"] = codebook(view)
    return inputs


def scaled_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (batch, height, width, 3) to float (batch, 3, height, width) in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def clip_normalised(pixels: torch.Tensor) -> torch.Tensor:
    """RGB in [0, 1], (batch, 3, height, width), with CLIP's mean and standard deviation."""
    mean, std = (
        torch.tensor(values, device=pixels.device)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return (pixels - mean) / std


def _masked_patches_per_process(chunks: Sequence[Batch]) -> torch.Tensor:
    """
    Masked patches of the global batch over the number of processes: data-parallel training averages gradients over the
    processes, and so makes of sums over this number the mean over all masked patches.
    """
    count = sum(chunk["bool_masked_pos"].sum() for chunk in chunks).float()
    if is_distributed():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
