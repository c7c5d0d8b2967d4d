"""
The FaRL models.

[`FaRLModel`] is a CLIP dual encoder with exactly the parameter names of `CLIPModel`; [`FaRLForPreTraining`] adds the
masked-image-modelling branch. The task models own the vision tower under the same names, so all of them load straight
from a dual encoder's folder. Every `pixel_values` is RGB, float, normalised with CLIP's mean and standard deviation,
of shape (batch, 3, height, width).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    SemanticSegmenterOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig
from .dense_head_farl import FaRLNeck, FaRLUperHead, init_dense_head_weights, resize_bilinear
from .geometry_farl import landmarks_from_heatmaps, target_heatmaps

logger = logging.get_logger(__name__)


@dataclass
class FaRLVisionModelOutput(BaseModelOutputWithPooling):
    """
    Output of [`FaRLVisionModel`].

    Args:
        last_hidden_state (batch, 1 + patches, hidden_size): Tokens without a final norm, the class token first.
        pooler_output (batch, hidden_size): The normed class token, or with `use_mean_pooling` the normed mean of the
            patches, where the model has this norm.
        hidden_states, attentions: On request, as in all of Transformers.
        tapped_hidden_states: The hidden states of the `out_indices` that were asked for, in their order.
    """

    tapped_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class FaRLOutput(ModelOutput):
    """
    Output of [`FaRLModel`]. What belongs to an absent modality is `None`.

    Args:
        loss (scalar): Contrastive loss over the batch, with `return_loss=True`.
        logits_per_image (images, texts): Cosine similarities divided by the temperature.
        logits_per_text (texts, images): The transpose of `logits_per_image`.
        text_embeds (texts, projection_dim): Caption features of unit length.
        image_embeds (images, projection_dim): Image features of unit length.
        text_model_output, vision_model_output: Outputs of the towers.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class FaRLForPreTrainingOutput(ModelOutput):
    """
    Output of [`FaRLForPreTraining`].

    Args:
        loss (scalar): `itc_loss + mim_loss_weight * mim_loss`, of the parts that were computed.
        itc_loss (scalar): Image-text contrastive loss over the batch.
        mim_loss (scalar): Cross-entropy of the visual codes at the masked patches.
        logits_per_image (images, texts), logits_per_text (texts, images): Similarities divided by the temperature.
        text_embeds (texts, projection_dim), image_embeds (images, projection_dim): Features of unit length; the image
            is the unmasked one.
        mim_logits (masked patches, mim_vocab_size): Codebook logits at the masked patches, in row-major order of
            `bool_masked_pos`.
        text_model_output, vision_model_output, masked_model_output: Outputs of the towers for the captions, the clean
            and the masked image, where hidden states or attentions are asked for.
    """

    loss: torch.Tensor | None = None
    itc_loss: torch.Tensor | None = None
    mim_loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    mim_logits: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    masked_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


def image_text_contrastive_loss(logits_per_image: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy (scalar) of a square matrix of image-text logits whose matches lie on the diagonal."""
    target = torch.arange(len(logits_per_image), device=logits_per_image.device)
    image_loss = nn.functional.cross_entropy(logits_per_image, target)
    text_loss = nn.functional.cross_entropy(logits_per_image.t(), target)
    return (image_loss + text_loss) / 2


def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = -100) -> torch.Tensor:
    """
    PyTorch's cross-entropy (scalar), its mean over the labels other than `ignore_index`; of none it is 0 in place of
    NaN, so that a batch without labels changes nothing.
    """
    total = nn.functional.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Divides `features` (..., dim) by their Euclidean length, with the roundings of `CLIPModel`."""
    return features / features.pow(2).sum(dim=-1, keepdim=True).pow(0.5)


class FaRLTextEmbeddings(nn.Module):
    def __init__(self, config: FaRLTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        length, longest = input_ids.shape[-1], self.config.max_position_embeddings
        if length > longest:
            raise ValueError(f"The text has {length} tokens but the model reads at most {longest}: truncate it.")
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)[None]
        return self.token_embedding(input_ids) + self.position_embedding(position_ids)


class FaRLVisionStem(nn.Sequential):
    """Convolutions, each followed by a GELU, that halve the image (see `stem_channels` of [`FaRLVisionConfig`])."""

    def __init__(self, num_channels: int, widths: Sequence[int]):
        layers: list[nn.Module] = []
        for narrow, wide in zip([num_channels, *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1), nn.GELU()]
        super().__init__(*layers)


class FaRLVisionEmbeddings(nn.Module):
    def __init__(self, config: FaRLVisionConfig):
        super().__init__()
        self.config = config
        self.patch_size = config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        widths = list(config.stem_channels)
        self.stem = FaRLVisionStem(config.num_channels, widths) if widths else None
        side = config.patch_size // 2 ** len(widths)
        channels = widths[-1] if widths else config.num_channels
        self.patch_embedding = nn.Conv2d(channels, config.hidden_size, kernel_size=side, stride=side, bias=False)
        num_patches = (config.image_size // config.patch_size) ** 2
        self.position_embedding = nn.Embedding(num_patches + 1, config.hidden_size)

    def embed_patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) to patch embeddings (batch, patches, hidden_size), row-major, without positions."""
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixel_values if self.stem is None else self.stem(pixel_values))
        return patches.flatten(2).transpose(1, 2)

    def check_image_size(self, height: int, width: int, other_way: str = "") -> None:
        """Raises a ValueError where the image has not the size that the position table is for."""
        expected = self.config.image_size
        if height != expected or width != expected:
            raise ValueError(
                f"The image is {height}x{width} but the model was built for {expected}x{expected}: resize it, or "
                f"{other_way}load the model with image_size=..."
            )

    @property
    def grid_side(self) -> int:
        """Patches per side of the images that the position table is for."""
        return self.config.image_size // self.patch_size

    def position_table(self, height: int, width: int) -> torch.Tensor:
        """Position embeddings (1 + height * width, hidden_size) of a grid of patches, resized where it differs."""
        side = self.grid_side
        # Looked up, not read: hooks that bring weights from elsewhere, and adapters, work where a module is called.
        table = self.position_embedding(torch.arange(side * side + 1, device=self.class_embedding.device))
        if (height, width) == (side, side):
            return table
        return resize_position_table(table, side, (height, width))

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            assert pixel_values is not None
            height, width = pixel_values.shape[-2:]
            if not interpolate_pos_encoding:
                self.check_image_size(height, width, "pass interpolate_pos_encoding=True, or ")
            inputs_embeds = self.embed_patches(pixel_values)
            positions = self.position_table(height // self.patch_size, width // self.patch_size)
        else:
            positions = self.position_table(self.grid_side, self.grid_side)
        class_embeds = self.class_embedding.expand(inputs_embeds.shape[0], 1, -1)
        if position_ids is None:
            return torch.cat([class_embeds, inputs_embeds], dim=1) + positions
        return torch.cat([class_embeds + positions[:1], inputs_embeds + positions[1:][position_ids]], dim=1)


def resize_position_table(table: torch.Tensor, side: int, grid: tuple[int, int]) -> torch.Tensor:
    """
    Resizes a position table as the original does (`_resize_pe` in `farl/network/transformers.py`): the class row is
    kept, the square of patch rows is resized in fp32, bicubic, `align_corners=False`, no antialias.

    Args:
        table: (1 + side * side, hidden_size), the class token first, then patches in row-major order.
        side: Patches per side of the table's grid.
        grid: (height, width) of the new grid in patches.

    Returns:
        (1 + height * width, hidden_size), in the table's dtype.
    """
    patches = table[1:].float().t().reshape(1, -1, side, side)
    patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches.flatten(2)[0].t().to(table.dtype)])


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class FaRLAttention(nn.Module):
    def __init__(self, config: FaRLTextConfig | FaRLVisionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_and_length = hidden_states.shape[:-1]
        # No -1 among the sizes: it would be ambiguous for a batch of no images.
        heads = self.config.num_attention_heads, self.head_dim
        query, key, value = (
            projection(hidden_states).view(*batch_and_length, *heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if not torch.compiler.is_compiling() and len(hidden_states) == 0:
            # The library's others reshape with a -1 among the sizes.
            attention_interface = eager_attention_forward
        attended, weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(attended.reshape(*batch_and_length, self.config.hidden_size)), weights


class FaRLMLP(nn.Module):
    def __init__(self, config: FaRLTextConfig | FaRLVisionConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class FaRLEncoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: FaRLTextConfig | FaRLVisionConfig):
        super().__init__()
        self.self_attn = FaRLAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FaRLMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.self_attn(self.layer_norm1(hidden_states), attention_mask=attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class FaRLEncoder(nn.Module):
    def __init__(self, config: FaRLTextConfig | FaRLVisionConfig, num_layers: int):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([FaRLEncoderLayer(config) for _ in range(num_layers)])
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        out_indices: Sequence[int] = (),
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """
        Tokens (batch, length, hidden_size) behind the last layer, and those behind each of `out_indices` (0: the
        input, -1: the last), which Transformers' own `output_hidden_states` cannot record while a fresh model is
        compiled.
        """
        out_indices = [index % (len(self.layers) + 1) for index in out_indices]
        tapped = {0: hidden_states} if 0 in out_indices else {}
        for index, layer in enumerate(self.layers, start=1):
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
            if index in out_indices:
                tapped[index] = hidden_states
        return hidden_states, tuple(tapped[index] for index in out_indices)


class FaRLPreTrainedModel(PreTrainedModel):
    """
    Base of all FaRL models: weight initialisation, and loading at another image size.

    The vision weights start as in the original code (`farl/network/farl/model.py`): truncated normal with standard
    deviation 0.02 for linear and convolution weights, zero biases, a normal with standard deviation
    `hidden_size ** -0.5` for the class token, the position table, the mask token and the projections, and PyTorch's
    Xavier-uniform of the packed matrix for the query, key and value projections. The text tower follows OpenAI CLIP.
    """

    config: FaRLConfig
    base_model_prefix = "farl"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    # Trainer must not rescale our losses, which are means over the batch, by the gradient accumulation steps.
    accepts_loss_kwargs = False
    _no_split_modules = ["FaRLTextEmbeddings", "FaRLVisionEmbeddings", "FaRLEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": FaRLEncoderLayer, "attentions": FaRLAttention}

    @classmethod
    def is_custom_code(cls) -> bool:
        # Transformers guards loaded weights against foreign initialisers by skipping modules without parameters of
        # their own, FaRLAttention for one. `_init_weights` uses its functions, which leave loaded weights alone.
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        factor = self.config.initializer_factor
        vision_config: Any = getattr(self.config, "vision_config", self.config)
        if isinstance(module, FaRLVisionEmbeddings):
            std = module.config.hidden_size**-0.5 * factor
            init.normal_(module.class_embedding, std=std)
            init.normal_(module.position_embedding.weight, std=std)
            if module.stem is None:
                init.trunc_normal_(module.patch_embedding.weight, std=self.config.initializer_range * factor)
            else:
                # What passes through keeps its size.
                for layer in [*module.stem, module.patch_embedding]:
                    if isinstance(layer, nn.Conv2d):
                        init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(module, FaRLAttention):
            # The packed (3 * width, width) matrix has fan_in + fan_out = 4 * width, hence the Xavier bound.
            bound = (6 / (4 * module.config.hidden_size)) ** 0.5 * factor
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                init.uniform_(projection.weight, -bound, bound)
            init.trunc_normal_(module.out_proj.weight, std=self.config.initializer_range * factor)
        elif isinstance(module, FaRLMLP):
            init.trunc_normal_(module.fc1.weight, std=self.config.initializer_range * factor)
            init.trunc_normal_(module.fc2.weight, std=self.config.initializer_range * factor)
        elif isinstance(module, FaRLDualEncoder):
            init.normal_(module.visual_projection.weight, std=vision_config.hidden_size**-0.5 * factor)
            init.normal_(module.text_projection.weight, std=self.config.text_config.hidden_size**-0.5 * factor)
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if isinstance(module, FaRLForPreTraining):
                init.normal_(module.mask_token, std=vision_config.hidden_size**-0.5 * factor)
                init.trunc_normal_(module.mim_head.weight, std=self.config.initializer_range * factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """
        As `PreTrainedModel.from_pretrained`. With `image_size=...`, or a `config` of another image size than the
        checkpoint's, the position table is resized once after loading (see [`resize_position_table`]) and trains on
        from there.
        """
        wanted = kwargs.pop("image_size", None)
        if isinstance(config, PreTrainedConfig) and wanted is None:
            wanted = getattr(_vision_config(config), "image_size", None)
        if wanted is None or pretrained_model_name_or_path is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

        hub_arguments = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        stored_config = cls.config_class.from_pretrained(
            pretrained_model_name_or_path, **{name: kwargs[name] for name in hub_arguments if name in kwargs}
        )
        stored = _vision_config(stored_config).image_size
        if isinstance(config, PreTrainedConfig) and _vision_config(config).image_size != stored:
            config = copy.deepcopy(config)
            _vision_config(config).image_size = stored
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if wanted != stored:
            model.resize_position_embeddings(wanted)
        return loaded

    def resize_position_embeddings(self, image_size: int) -> None:
        """
        Replaces the position table by one for square images of another size, and notes the size in the config.

        Args:
            image_size: Side of the input in pixels, a multiple of the patch size.

        Raises:
            ValueError: If the size is no multiple of the patch size.
        """
        vision_config = _vision_config(self.config)
        if image_size % vision_config.patch_size != 0:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch size {vision_config.patch_size}.")
        side = image_size // vision_config.patch_size
        for module in self.modules():
            if isinstance(module, FaRLVisionEmbeddings):
                old = module.position_embedding.weight
                table = resize_position_table(old.detach(), module.grid_side, (side, side))
                module.position_embedding.weight = nn.Parameter(table, requires_grad=old.requires_grad)
                module.position_embedding.num_embeddings = table.shape[0]
                module.config.image_size = image_size
        vision_config.image_size = image_size


def _vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    return getattr(config, "vision_config", config)


class FaRLTextModel(FaRLPreTrainedModel):
    """CLIP's causal text transformer. Loads from its own folder or from a dual encoder's."""

    config: FaRLTextConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _input_embed_layer = "token_embedding"
    _keys_to_ignore_on_load_unexpected = [r"^vision_model\.", r"_projection\.", r"logit_scale", r"^mim_", r"mask_token"]

    def __init__(self, config: FaRLTextConfig):
        super().__init__(config)
        self.embeddings = FaRLTextEmbeddings(config)
        self.encoder = FaRLEncoder(config, config.num_hidden_layers)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Standard deviations of OpenAI CLIP's `initialize_parameters` (clip/model.py).
        PreTrainedModel._init_weights(self, module)
        factor, width = self.config.initializer_factor, self.config.hidden_size
        residual_std = width**-0.5 * (2 * self.config.num_hidden_layers) ** -0.5 * factor
        if isinstance(module, FaRLTextEmbeddings):
            init.normal_(module.token_embedding.weight, std=0.02 * factor)
            init.normal_(module.position_embedding.weight, std=0.01 * factor)
        elif isinstance(module, FaRLAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                init.normal_(projection.weight, std=width**-0.5 * factor)
            init.normal_(module.out_proj.weight, std=residual_std)
        elif isinstance(module, FaRLMLP):
            init.normal_(module.fc1.weight, std=(2 * width) ** -0.5 * factor)
            init.normal_(module.fc2.weight, std=residual_std)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            input_ids (batch, length): Token ids, each row with an end-of-text token.
            attention_mask (batch, length): 1 for tokens, 0 for padding.
            position_ids (batch, length): Positions, by default 0 to length - 1.

        Returns:
            `last_hidden_state` (batch, length, hidden_size) after the final layer norm, and `pooler_output` (batch,
            hidden_size), its row at the first end-of-text token.
        """
        if input_ids is None:
            raise ValueError("FaRLTextModel needs input_ids.")
        hidden_states = self.embeddings(input_ids, position_ids)
        # By place: the last one's name, the cache, is new in Transformers 5.24.
        attention_mask = create_causal_mask(self.config, hidden_states, attention_mask, None)
        kwargs.pop("is_causal", None)
        hidden_states, _ = self.encoder(hidden_states, attention_mask, is_causal=True, **kwargs)
        hidden_states = self.final_layer_norm(hidden_states)
        end_token: Any = self.config.eos_token_id
        end = first_end_token(input_ids, end_token).to(hidden_states.device)
        pooled = hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), end]
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


def first_end_token(input_ids: torch.Tensor, eos_token_id: int | list[int]) -> torch.Tensor:
    """
    Position (batch,) of the first end-of-text token in `input_ids` (batch, length), int64.

    CLIP's older configs, and folders converted from them, say 2 where CLIP's vocabulary has its largest id: there it is
    the largest id of each row, as in `CLIPModel`.
    """
    # int: `argmax` of int64 cannot be exported to ONNX.
    if eos_token_id == 2:
        return input_ids.int().argmax(dim=-1)
    if isinstance(eos_token_id, int):
        return (input_ids == eos_token_id).int().argmax(dim=-1)
    return torch.stack([input_ids == token for token in eos_token_id]).any(dim=0).int().argmax(dim=-1)


class FaRLVisionModel(FaRLPreTrainedModel):
    """
    The ViT of FaRL. Loads from its own folder or from a dual encoder's.

    Args:
        config: The configuration.
        add_pooling_layer: Whether to have the final layer norm of what is pooled, which the dense task models leave out
            because they read the layers' own outputs.
    """

    config: FaRLVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _input_embed_layer = "patch_embedding"
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"_projection\.", r"logit_scale", r"^mim_", r"mask_token"]

    def __init__(self, config: FaRLVisionConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = FaRLVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = FaRLEncoder(config, config.num_hidden_layers)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        out_indices: Sequence[int] = (),
        **kwargs: Unpack[TransformersKwargs],
    ) -> FaRLVisionModelOutput:
        """
        Args:
            pixel_values (batch, 3, height, width): CLIP-normalised RGB.
            interpolate_pos_encoding: Resize the position table to images of any size on the fly.
            inputs_embeds (batch, patches, hidden_size): Patch embeddings in place of `pixel_values`, before the class
                token and the positions are added.
            position_ids (batch, patches): Grid index of each of the `inputs_embeds`, where not all patches are there.
            out_indices: Which of the hidden states to return as `tapped_hidden_states`.

        Returns:
            [`FaRLVisionModelOutput`].
        """
        if (pixel_values is None) == (inputs_embeds is None):
            raise ValueError("FaRLVisionModel needs either pixel_values or inputs_embeds.")
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding, inputs_embeds, position_ids)
        hidden_states, tapped = self.encoder(self.pre_layrnorm(hidden_states), out_indices=out_indices, **kwargs)
        pooled = None
        if self.post_layernorm is not None:
            pooled = hidden_states[:, 1:].mean(dim=1) if self.config.use_mean_pooling else hidden_states[:, 0]
            pooled = self.post_layernorm(pooled)
        return FaRLVisionModelOutput(
            last_hidden_state=hidden_states, pooler_output=pooled, tapped_hidden_states=tapped or None
        )


class FaRLDualEncoder(FaRLPreTrainedModel):
    """Text tower, vision tower and their projections: what [`FaRLModel`] and [`FaRLForPreTraining`] share."""

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        self.text_model = FaRLTextModel._from_config(config.text_config)
        self.vision_model = FaRLVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """The text tower's output with `pooler_output` (batch, projection_dim) projected, not of unit length."""
        outputs = self.text_model(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """The vision tower's output with `pooler_output` (batch, projection_dim) projected, not of unit length."""
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    def similarity(self, text_embeds: torch.Tensor, image_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`logits_per_text` (texts, images) and its transpose from features of unit length."""
        image_embeds = image_embeds.to(text_embeds.device)
        logits_per_text = torch.matmul(text_embeds, image_embeds.t()) * self.logit_scale.exp().to(text_embeds.device)
        return logits_per_text, logits_per_text.t()


class FaRLModel(FaRLDualEncoder):
    """
    The dual encoder, with the parameter names and the numbers of `CLIPModel`.

    ```python
    >>> import farl_hf
    >>> from transformers import AutoModel, AutoProcessor

    >>> model, processor = AutoModel.from_pretrained("farl-base"), AutoProcessor.from_pretrained("farl-base")
    >>> inputs = processor(images=image, text=["a smiling face", "a frowning face"], padding=True, return_tensors="pt")
    >>> probabilities = model(**inputs).logits_per_image.softmax(dim=1)
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^mim_", r"^mask_token$"]

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> FaRLOutput:
        """
        Args:
            input_ids, attention_mask, position_ids (texts, length): See [`FaRLTextModel`]. May be absent.
            pixel_values (images, 3, height, width): See [`FaRLVisionModel`]. May be absent.
            return_loss: Whether to compute the contrastive loss; image `i` belongs to text `i`.
            interpolate_pos_encoding: Accept images of any size.

        Returns:
            [`FaRLOutput`]. With one modality alone there are no logits.

        Raises:
            ValueError: If both modalities are absent, or the loss is wanted without one of them or with unequal
                numbers of images and texts.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("FaRLModel needs pixel_values, input_ids, or both.")
        if return_loss and (input_ids is None or pixel_values is None or len(input_ids) != len(pixel_values)):
            raise ValueError("The contrastive loss needs one text (input_ids) per image (pixel_values).")
        output = FaRLOutput()
        if pixel_values is not None:
            output.vision_model_output = self.vision_model(
                pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs
            )
            output.image_embeds = unit_length(self.visual_projection(output.vision_model_output.pooler_output))
        if input_ids is not None:
            output.text_model_output = self.text_model(
                input_ids, attention_mask, position_ids, return_dict=True, **kwargs
            )
            output.text_embeds = unit_length(self.text_projection(output.text_model_output.pooler_output))
        if input_ids is not None and pixel_values is not None:
            output.logits_per_text, output.logits_per_image = self.similarity(output.text_embeds, output.image_embeds)
            if return_loss:
                output.loss = image_text_contrastive_loss(output.logits_per_image)
        return FaRLOutput(**output)


class FaRLForPreTraining(FaRLDualEncoder):
    """
    The dual encoder with the masked-image-modelling branch of the paper: image-text contrastive loss on the clean
    image, and the visual codes of masked patches predicted from a copy of it whose masked patches are replaced by
    `mask_token` (`forward_mim` in `farl/network/farl/model.py`). Both copies pass through the encoder in one batch, on
    CPU in two.

    The losses are those of the batch at hand. Batches spread over processes or chunks are the training loop's matter:
    it asks for `return_loss=False` and works on the features.
    """

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        vision_config = config.vision_config
        self.mask_token = nn.Parameter(torch.empty(vision_config.hidden_size))
        self.mim_encoder = FaRLEncoder(vision_config, config.mim_num_layers)
        self.mim_layernorm = nn.LayerNorm(vision_config.hidden_size, eps=vision_config.layer_norm_eps)
        self.mim_head = nn.Linear(vision_config.hidden_size, config.mim_vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        mim_targets: torch.Tensor | None = None,
        return_loss: bool = True,
        patch_drop_ratio: float = 0.0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> FaRLForPreTrainingOutput:
        """
        Args:
            input_ids, attention_mask, position_ids (batch, length): The captions. Without them only the masked copy is
                encoded and there is no contrastive part.
            pixel_values (batch, 3, image_size, image_size): CLIP-normalised RGB.
            bool_masked_pos (batch, patches), bool or integers: True at masked patches, row-major. Without it there is
                no masked part; where it masks nothing, the masked loss is 0.
            mim_targets (batch, patches), int64: Codes of all patches, or (masked patches,) of the masked ones.
            return_loss: Whether to compute the losses of what is there.
            patch_drop_ratio: Share in [0, 1) of patches that the contrastive branch leaves out at random, different
                ones per image. An extension, 0 in the paper. The clean copy is then encoded in a pass of its own.
            kwargs: What all models of Transformers take, such as `output_hidden_states`.

        Returns:
            [`FaRLForPreTrainingOutput`].

        Raises:
            ValueError: If images are absent or of another size, or there is nothing to compute, or shapes disagree.
            TypeError: If an argument has no such name.
        """
        if unknown := sorted(kwargs.keys() - TransformersKwargs.__annotations__.keys() - {"return_dict"}):
            raise TypeError(f"FaRLForPreTraining takes no argument {unknown[0]!r}.")
        if pixel_values is None or (input_ids is None and bool_masked_pos is None):
            raise ValueError("FaRLForPreTraining needs pixel_values, and input_ids or bool_masked_pos or both.")
        self.vision_model.embeddings.check_image_size(*pixel_values.shape[-2:])
        patches = self.vision_model.embeddings.embed_patches(pixel_values)
        if bool_masked_pos is not None and bool_masked_pos.shape != patches.shape[:2]:
            raise ValueError(
                f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}, the images have {tuple(patches.shape[:2])} "
                "(batch, patches)."
            )
        if bool_masked_pos is not None:
            bool_masked_pos = bool_masked_pos.to(patches.device, torch.bool)
        clean, masked = self._encode_copies(patches, input_ids is not None, bool_masked_pos, patch_drop_ratio, **kwargs)
        output = FaRLForPreTrainingOutput()
        losses = []
        if clean is not None:
            output.image_embeds = unit_length(self.visual_projection(clean.pooler_output))
            text = self.text_model(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
            output.text_embeds = unit_length(self.text_projection(text.pooler_output))
            if recorded(text):
                output.text_model_output, output.vision_model_output = text, clean
            output.logits_per_text, output.logits_per_image = self.similarity(output.text_embeds, output.image_embeds)
            if return_loss:
                output.itc_loss = image_text_contrastive_loss(output.logits_per_image)
                losses.append(output.itc_loss)
        if masked is not None:
            if recorded(masked):
                output.masked_model_output = masked
            tokens = self.mim_layernorm(self.mim_encoder(masked.last_hidden_state)[0][:, 1:])
            output.mim_logits = self.mim_head(tokens[bool_masked_pos])
            if return_loss and mim_targets is not None:
                targets = mim_targets[bool_masked_pos] if mim_targets.ndim == 2 else mim_targets
                output.mim_loss = mean_cross_entropy(output.mim_logits.float(), targets)
                losses.append(self.config.mim_loss_weight * output.mim_loss)
        if losses:
            output.loss = sum(losses)
        return FaRLForPreTrainingOutput(**output)

    def _encode_copies(
        self,
        patches: torch.Tensor,
        encode_clean: bool,
        bool_masked_pos: torch.Tensor | None,
        patch_drop_ratio: float,
        **kwargs,
    ) -> tuple[FaRLVisionModelOutput | None, FaRLVisionModelOutput | None]:
        """What the tower gives for the clean and for the masked copy, where they are wanted."""
        if bool_masked_pos is not None:
            # Before class token, positions and `pre_layrnorm`, as in the original.
            masked = torch.where(bool_masked_pos[..., None], self.mask_token.to(patches.dtype), patches)

        def encode(inputs_embeds: torch.Tensor, position_ids: torch.Tensor | None = None) -> FaRLVisionModelOutput:
            return self.vision_model(inputs_embeds=inputs_embeds, position_ids=position_ids, return_dict=True, **kwargs)

        if not encode_clean:
            return None, encode(masked)
        if patch_drop_ratio > 0:
            position_ids = keep_random_patches(patches, patch_drop_ratio)
            kept = patches.gather(1, position_ids[..., None].expand(-1, -1, patches.shape[-1]))
            return encode(kept, position_ids), None if bool_masked_pos is None else encode(masked)
        if bool_masked_pos is None:
            return encode(patches), None
        if patches.device.type == "cpu":
            # One pass over both fills a GPU better; on a CPU the smaller maps of two passes stay longer in the caches.
            return encode(patches), encode(masked)
        return halves(encode(torch.cat([patches, masked])))


def recorded(output: BaseModelOutputWithPooling) -> bool:
    """Whether the caller asked for more than the tower's result."""
    return output.hidden_states is not None or output.attentions is not None


def halves(output: FaRLVisionModelOutput) -> tuple[FaRLVisionModelOutput, FaRLVisionModelOutput]:
    """The output of a batch as those of its first and its second half."""
    first, second = FaRLVisionModelOutput(), FaRLVisionModelOutput()
    for name, value in output.items():
        if isinstance(value, torch.Tensor):
            first[name], second[name] = value.chunk(2)
        else:
            chunks = [(None, None) if item is None else item.chunk(2) for item in value]
            first[name], second[name] = (tuple(half) for half in zip(*chunks, strict=True))
    return first, second


def keep_random_patches(patches: torch.Tensor, drop_ratio: float) -> torch.Tensor:
    """Sorted grid indices (batch, kept) of a random choice of `patches` (batch, count, dim), at least one per image."""
    batch, count = patches.shape[:2]
    kept = max(1, round(count * (1 - drop_ratio)))
    order = torch.rand(batch, count, device=patches.device).argsort(dim=1)
    return order[:, :kept].sort(dim=1).values


class FaRLBackbone(BackboneMixin, FaRLVisionModel):
    """
    The ViT as a Transformers backbone: feature maps of the layers named by `out_indices` or `out_features`, without the
    class token and without a final norm. Loads from its own folder or from a dual encoder's.
    """

    _keys_to_ignore_on_load_unexpected = [*FaRLVisionModel._keys_to_ignore_on_load_unexpected, r"post_layernorm"]

    def __init__(self, config: FaRLVisionConfig):
        config = _vision_config(config)
        super().__init__(config, add_pooling_layer=False)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> BackboneOutput:
        """
        Args:
            pixel_values (batch, 3, height, width): CLIP-normalised RGB.
            interpolate_pos_encoding: Accept images of any size.

        Returns:
            `feature_maps`: a tuple of (batch, hidden_size, height / patch_size, width / patch_size) maps.
        """
        outputs = FaRLVisionModel.forward(
            self, pixel_values, interpolate_pos_encoding, out_indices=self.out_indices, return_dict=True, **kwargs
        )
        grid = tuple(side // self.config.patch_size for side in pixel_values.shape[-2:])
        return BackboneOutput(
            feature_maps=tuple(tokens_to_map(tokens, grid) for tokens in outputs.tapped_hidden_states),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def tokens_to_map(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Tokens (batch, 1 + height * width, dim) to a map (batch, dim, height, width), dropping the class token."""
    return tokens[:, 1:].transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


class FaRLDenseModel(FaRLPreTrainedModel):
    """The vision tower, its taps and the neck: what [`FaRLForFaceParsing`] and [`FaRLForFaceAlignment`] share."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = [*FaRLPreTrainedModel._no_split_modules, "FaRLNeck", "FaRLUperHead"]
    _keys_to_ignore_on_load_unexpected = [
        *FaRLVisionModel._keys_to_ignore_on_load_unexpected,
        r"^vision_model\.post_layernorm\.",
    ]

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        vision_config = config.vision_config
        self.vision_model = FaRLVisionModel._from_config(vision_config, add_pooling_layer=False)
        # Not called "neck": peft finds modules by the end of their names, and the head has a "bottleneck".
        self.pyramid = FaRLNeck(vision_config.hidden_size, config.neck_channels)

    def _build_head(self, num_outputs: int) -> FaRLUperHead:
        config = self.config
        if len(config.out_indices) != 4:
            raise ValueError(f"The head reads four layers, but out_indices is {config.out_indices}.")
        return FaRLUperHead(
            self.pyramid.out_channels,
            config.head_channels,
            num_outputs,
            pool_scales=tuple(config.pool_scales),
            dropout=config.head_dropout,
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.get_input_embeddings()

    def train(self, mode: bool = True) -> "FaRLDenseModel":
        """As ever; warns where an adapter's file would miss the batch-norm statistics that training gathers."""
        if mode and _statistics_escape_the_adapter(self):
            logger.warning_once(
                "The batch norms of neck and head gather statistics in training that the adapter's folder will not "
                "hold, so the reloaded model differs: give modules_to_save=['pyramid', 'decode_head'] (parsing) or "
                "['pyramid', 'heatmap_head'] (alignment) in the peft config."
            )
        return super().train(mode)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_dense_head_weights(module)

    def _feature_maps(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool, **kwargs
    ) -> tuple[list[torch.Tensor], BaseModelOutputWithPooling]:
        """Maps of strides 4, 8, 16 and 32 (for patch 16), and the tower's output with what the caller asked for."""
        if pixel_values is None:
            raise ValueError(f"{type(self).__name__} needs pixel_values.")
        if kwargs.get("output_hidden_states") is None:
            kwargs["output_hidden_states"] = self.config.output_hidden_states
        outputs = self.vision_model(
            pixel_values, interpolate_pos_encoding, out_indices=self.config.out_indices, return_dict=True, **kwargs
        )
        grid = tuple(side // self.config.vision_config.patch_size for side in pixel_values.shape[-2:])
        if min(grid) < 2:
            raise ValueError("The image is too small for the head: it needs at least two patches per side.")
        # The head's own precision: full under autocast, as in the original, which casts the taps to fp32.
        dtype = next(self.pyramid.parameters()).dtype
        taps = [tokens_to_map(tokens.to(dtype), grid) for tokens in outputs.tapped_hidden_states]
        return self.pyramid(taps), outputs


def _statistics_escape_the_adapter(model: nn.Module) -> bool:
    """Whether peft has put adapters into the model but keeps no copy of the modules that hold batch norms."""
    modules = list(model.modules())
    if not any(type(module).__module__.startswith("peft.tuners.") for module in modules):
        return False
    kept = [module for module in modules if type(module).__name__ == "ModulesToSaveWrapper"]
    saved = {id(part) for module in kept for part in module.modules()}
    return any(isinstance(module, nn.BatchNorm2d) and id(module) not in saved for module in modules)


def can_be_read(labels: torch.Tensor) -> bool:
    """
    Whether to check the values of labels: on a CPU. Reading them on an accelerator would wait for it in each step; its
    own kernels refuse class ids out of range.
    """
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()


class FaRLForFaceParsing(FaRLDenseModel):
    """
    Face parsing: the ViT with the BEiT-style neck and the UPerNet head of the original (`farl/network`), trained with
    plain cross-entropy over all pixels.

    ```python
    >>> model = FaRLForFaceParsing.from_pretrained("farl-base", image_size=448, id2label={0: "background", 1: "skin"})
    ```
    """

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        self.decode_head = self._build_head(config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_size: int | tuple[int, int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        """
        Args:
            pixel_values (batch, 3, height, width): CLIP-normalised RGB.
            labels (batch, label height, label width), int64: Class ids from 0 to `num_labels - 1`, or
                `semantic_loss_ignore_index`. Logits are resized to them, whatever their size.
            interpolate_pos_encoding: Accept images of any size.
            output_size: Side or (height, width) of the logits; by default `config.output_size`, else the image's size.

        Returns:
            `loss` (scalar, with labels) and `logits` (batch, num_labels, height, width).

        Raises:
            ValueError: If labels have the wrong shape or an id out of range.
        """
        maps, outputs = self._feature_maps(pixel_values, interpolate_pos_encoding, **kwargs)
        assert pixel_values is not None  # checked by `_feature_maps`
        head_logits = self.decode_head(maps)
        size = output_size or self.config.output_size or tuple(pixel_values.shape[-2:])
        size = (size, size) if isinstance(size, int) else tuple(size)
        logits = resize_bilinear(head_logits, size)
        loss = None
        if labels is not None:
            self._check_labels(labels, len(pixel_values))
            at_labels = logits if labels.shape[-2:] == size else resize_bilinear(head_logits, tuple(labels.shape[-2:]))
            loss = mean_cross_entropy(at_labels.float(), labels.long(), self.config.semantic_loss_ignore_index)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _check_labels(self, labels: torch.Tensor, batch_size: int) -> None:
        if labels.ndim != 3 or len(labels) != batch_size:
            raise ValueError(f"labels must be (batch, height, width) class ids, got shape {tuple(labels.shape)}.")
        if not can_be_read(labels):
            return
        ids = labels[labels != self.config.semantic_loss_ignore_index]
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.num_labels:
            raise ValueError(
                f"labels hold class ids from {int(ids.min())} to {int(ids.max())}, but the model has "
                f"{self.config.num_labels} classes (0 to {self.config.num_labels - 1})."
            )


@dataclass
class FaRLFaceAlignmentOutput(ModelOutput):
    """
    Output of [`FaRLForFaceAlignment`].

    Args:
        loss (scalar): Weighted sum of the losses, with labels.
        landmarks (batch, num_landmarks, 2), float32: x then y, normalised as `(pixel + 0.5) / size` of the input.
        heatmaps (batch, num_landmarks, height, width): Heat-map logits, before the sigmoid, at a quarter of the input's
            size (for patch 16).
        coord_loss (scalar): Mean Euclidean distance of landmarks in normalised units (the original's `coord_l1_loss`).
        heatmap_loss (scalar): Weighted sum of the heat-map losses.
    """

    loss: torch.Tensor | None = None
    landmarks: torch.Tensor | None = None
    heatmaps: torch.Tensor | None = None
    coord_loss: torch.Tensor | None = None
    heatmap_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class FaRLForFaceAlignment(FaRLDenseModel):
    """
    Face alignment: the network of [`FaRLForFaceParsing`] with one heat map per landmark, decoded by the mean position
    under the sigmoid's mass (`farl/network/geometry.py`), always in fp32.
    """

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        self.heatmap_head = self._build_head(config.num_landmarks)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> FaRLFaceAlignmentOutput:
        """
        Args:
            pixel_values (batch, 3, height, width): CLIP-normalised RGB.
            labels (batch, num_landmarks, 2), float: x then y, normalised as `(pixel + 0.5) / size`. They may lie
                outside [0, 1], where only the coordinate loss sees them.
            interpolate_pos_encoding: Accept images of any size.

        Returns:
            [`FaRLFaceAlignmentOutput`].

        Raises:
            ValueError: If labels have the wrong shape or are not finite.
        """
        maps, outputs = self._feature_maps(pixel_values, interpolate_pos_encoding, **kwargs)
        assert pixel_values is not None  # checked by `_feature_maps`
        heatmaps = self.heatmap_head(maps)
        landmarks = landmarks_from_heatmaps(heatmaps.float().sigmoid())
        output = FaRLFaceAlignmentOutput(landmarks=landmarks, heatmaps=heatmaps)
        if labels is not None:
            self._check_labels(labels, len(pixel_values))
            labels = labels.to(landmarks)
            output.coord_loss = (landmarks - labels).norm(dim=-1).mean()
            output.heatmap_loss = self._heatmap_loss(heatmaps.float(), labels)
            output.loss = self.config.coord_loss_weight * output.coord_loss + output.heatmap_loss
        output.hidden_states, output.attentions = outputs.hidden_states, outputs.attentions
        return FaRLFaceAlignmentOutput(**output)

    def _heatmap_loss(self, heatmaps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the heat-map losses of `face_alignment/task.py`, each a mean over landmarks and pixels."""
        config = self.config
        size = config.heatmap_size
        targets = target_heatmaps(labels, size=size, radius=config.heatmap_radius)
        logits = resize_bilinear(heatmaps, (size, size))
        loss = config.heatmap_ce_loss_weight * nn.functional.binary_cross_entropy_with_logits(logits, targets)
        if config.heatmap_l1_loss_weight:
            loss = loss + config.heatmap_l1_loss_weight * (logits.sigmoid() - targets).abs().mean()
        if config.heatmap_l2_loss_weight:
            # On the logits, not the probabilities, as in the original.
            loss = loss + config.heatmap_l2_loss_weight * (logits - targets).pow(2).mean()
        return loss

    def _check_labels(self, labels: torch.Tensor, batch_size: int) -> None:
        expected = (batch_size, self.config.num_landmarks, 2)
        if tuple(labels.shape) != expected:
            raise ValueError(
                f"labels must be (batch, num_landmarks, 2) = {expected} points, got shape {tuple(labels.shape)}."
            )
        if can_be_read(labels) and not bool(labels.isfinite().all()):
            image, landmark, _ = labels.isfinite().logical_not().nonzero()[0].tolist()
            raise ValueError(f"labels are not finite: landmark {landmark} of image {image} in the batch.")


class FaRLAttributeHead(nn.Module):
    """
    The attribute head of facer (`farl/classification.py`): spatial mean, spatial maximum and class token of the last
    layer, each with its own layer norm, mixed with learnt softmax weights.
    """

    def __init__(self, hidden_size: int, num_labels: int, dropout: float, layer_norm_eps: float):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(1, 3, 1))
        self.norm_0 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.norm_1 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.norm_2 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.final_fc = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, 1 + patches, hidden_size), the class token first, to logits (batch, num_labels)."""
        class_token, patches = hidden_states[:, 0], hidden_states[:, 1:]
        pooled = torch.stack(
            [self.norm_0(patches.mean(dim=1)), self.norm_1(patches.amax(dim=1)), self.norm_2(class_token)], dim=1
        )
        return self.final_fc(self.dropout((pooled * self.weights.softmax(dim=1)).sum(dim=1)))


class FaRLForImageClassification(FaRLPreTrainedModel):
    """
    Face attributes: the ViT with the attribute head of facer's CelebA model. `config.problem_type` chooses the loss:
    `"multi_label_classification"` (the 40 attributes), `"single_label_classification"` or `"regression"`; left `None`
    it follows from `num_labels` and the labels' dtype.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = FaRLDenseModel._keys_to_ignore_on_load_unexpected

    def __init__(self, config: FaRLConfig):
        super().__init__(config)
        vision_config = config.vision_config
        self.vision_model = FaRLVisionModel._from_config(vision_config, add_pooling_layer=False)
        self.classifier = FaRLAttributeHead(
            vision_config.hidden_size, config.num_labels, config.classifier_dropout, vision_config.layer_norm_eps
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.get_input_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, FaRLAttributeHead):
            init.zeros_(module.weights)
            init.trunc_normal_(
                module.final_fc.weight, std=self.config.initializer_range * self.config.initializer_factor
            )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values (batch, 3, height, width): CLIP-normalised RGB.
            labels: (batch, num_labels) of 0 and 1 for multi-label classification, (batch,) int64 class ids for
                single-label classification, (batch, num_labels) or (batch,) numbers for regression.
            interpolate_pos_encoding: Accept images of any size.

        Returns:
            `loss` (scalar, with labels) and `logits` (batch, num_labels); multi-label probabilities are their sigmoid.

        Raises:
            ValueError: If the labels' shape does not fit, or class ids or multi-label targets are out of range.
        """
        if pixel_values is None:
            raise ValueError("FaRLForImageClassification needs pixel_values.")
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)
        logits = self.classifier(outputs.last_hidden_state)
        return ImageClassifierOutput(
            loss=None if labels is None else self._loss(logits.float(), labels.to(logits.device)),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        num_labels = self.config.num_labels
        problem_type = self.config.problem_type
        if problem_type is None:
            if num_labels == 1:
                problem_type = "regression"
            else:
                multi_label = labels.is_floating_point() or labels.shape == logits.shape
                problem_type = "multi_label_classification" if multi_label else "single_label_classification"
        expected = logits.shape[:1] if problem_type == "single_label_classification" else logits.shape
        if problem_type == "regression" and num_labels == 1:
            labels = labels.reshape(-1, 1)
        if labels.shape != expected:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, {problem_type} with {num_labels} labels needs "
                f"{tuple(expected)}."
            )
        if problem_type == "regression":
            return nn.functional.mse_loss(logits, labels.to(logits.dtype))
        highest = num_labels - 1 if problem_type == "single_label_classification" else 1
        if can_be_read(labels) and labels.numel() and not 0 <= labels.min() <= labels.max() <= highest:
            raise ValueError(
                f"labels go from {labels.min().item():g} to {labels.max().item():g}, but {problem_type} needs values "
                f"from 0 to {highest}."
            )
        if problem_type == "single_label_classification":
            return nn.functional.cross_entropy(logits, labels.long())
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


__all__ = [
    "FaRLBackbone",
    "FaRLFaceAlignmentOutput",
    "FaRLForFaceAlignment",
    "FaRLForFaceParsing",
    "FaRLForImageClassification",
    "FaRLForPreTraining",
    "FaRLForPreTrainingOutput",
    "FaRLModel",
    "FaRLOutput",
    "FaRLPreTrainedModel",
    "FaRLTextModel",
    "FaRLVisionModel",
]
