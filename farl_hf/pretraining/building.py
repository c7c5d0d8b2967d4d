"""What a run starts with: the model, from scratch or from another one, and its groups of parameters."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoConfig

from ..models.configuration_farl import FaRLConfig
from ..models.modeling_farl import FaRLForPreTraining
from .configuration import PretrainConfig
from .image_codebook import DALLE_REPOSITORY

# DALL-E's number of codes.
_DALLE_VOCABULARY = 8192


def build_model(config: PretrainConfig) -> FaRLForPreTraining:
    """
    The model a run starts with: a preset from scratch, a FaRL folder, or a CLIP folder whose masked-image branch is
    fresh.
    """
    size = {} if config.image_size is None else {"image_size": config.image_size}
    if config.init_from is None:
        if config.image_codebook in ("dalle", DALLE_REPOSITORY):
            size["mim_vocab_size"] = _DALLE_VOCABULARY
        return FaRLForPreTraining(FaRLConfig.from_preset(config.preset, **size))
    source = AutoConfig.from_pretrained(config.init_from)
    if source.model_type == "clip":
        return FaRLForPreTraining.from_pretrained(config.init_from, config=config_from_clip(source), **size)
    return FaRLForPreTraining.from_pretrained(config.init_from, **size)


def config_from_clip(clip: Any) -> FaRLConfig:
    """The [`FaRLConfig`] of a `CLIPConfig`."""
    tower = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
    )
    text = (*tower, "vocab_size", "max_position_embeddings")
    vision = (*tower, "num_channels", "image_size", "patch_size")
    # Special tokens keep our defaults: many CLIP folders state wrong ones (an end token of 2).
    return FaRLConfig(
        text_config={name: getattr(clip.text_config, name) for name in text},
        vision_config={name: getattr(clip.vision_config, name) for name in vision},
        projection_dim=clip.projection_dim,
    )


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """
    Trainable parameters for AdamW. Without `decay_all` only matrices decay: norms, biases, position tables, class and
    mask token and the temperature do not.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and "position_embedding" not in name
            (decayed if decay_all or is_matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
