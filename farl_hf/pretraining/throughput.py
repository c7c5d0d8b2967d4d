"""Arithmetic of a training step, and the share of a device's peak that it reaches."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..models.configuration_farl import FaRLConfig
from .image_codebook import ImageCodebook

# Dense 16-bit matrix throughput in FLOP/s, from the vendors' data sheets, by part of the device's name.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def training_flops(config: FaRLConfig, caption_length: float, use_itc: bool = True, use_mim: bool = True) -> float:
    """
    Matrix-product FLOPs of one training sample: forward, and twice that backward. Recomputed activations do not count,
    as is usual for model FLOP utilisation; for the codebook see [`codebook_flops`].

    Args:
        config: Of the model.
        caption_length: Mean tokens of the (padded) caption.
        use_itc, use_mim: Which branches run.
    """
    vision, text = config.vision_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens = patches + 1
    embedding = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    image = vision.num_hidden_layers * _layer_flops(vision, tokens)
    forward = embedding + (use_itc + use_mim) * image
    if use_itc:
        forward += text.num_hidden_layers * _layer_flops(text, caption_length)
    if use_mim:
        masked = 75 / 196 * patches
        forward += config.mim_num_layers * _layer_flops(vision, tokens)
        forward += 2 * masked * vision.hidden_size * config.mim_vocab_size
    return 3 * forward


def _layer_flops(config, tokens: float) -> float:
    """Forward FLOPs of a transformer layer: four projections, the MLP, and the two products of attention."""
    width = config.hidden_size
    return 2 * tokens * (4 * width**2 + 2 * width * config.intermediate_size) + 4 * tokens**2 * width


@cache
def codebook_flops(codebook: ImageCodebook | None) -> float:
    """FLOPs that a codebook takes for the codes of one image, measured once; 0 without one."""
    if codebook is None:
        return 0.0
    buffers = [*codebook.parameters(), *codebook.buffers()] if isinstance(codebook, torch.nn.Module) else []
    device = buffers[0].device if buffers else torch.device("cpu")
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        codebook(torch.zeros(1, 3, codebook.view_size, codebook.view_size, device=device))
    return float(counter.get_total_flops())


def peak_flops(device: torch.device, mixed_precision: str) -> float | None:
    """Peak FLOP/s of a device in 16-bit precision; `None` where it is unknown."""
    if device.type != "cuda" or mixed_precision == "no":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_FLOPS.items() if part in name), None)
