"""Configurations of the FaRL models: text tower, vision tower, and the dual encoder with its task heads."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin


def _check_heads(config: PreTrainedConfig) -> None:
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads != 0:
        raise ValueError(f"hidden_size ({width}) must be a multiple of num_attention_heads ({heads}).")


@strict
class FaRLTextConfig(PreTrainedConfig):
    r"""
    Configuration of [`FaRLTextModel`], CLIP's causal text transformer. The defaults are those of the official FaRL
    checkpoints, which load into OpenAI CLIP ViT-B/16.

    Args:
        vocab_size (`int`, defaults to 49408): Size of CLIP's byte-pair vocabulary.
        hidden_size (`int`, defaults to 512): Width of the tokens.
        intermediate_size (`int`, defaults to 2048): Width of the MLPs.
        num_hidden_layers (`int`, defaults to 12): Number of transformer layers.
        num_attention_heads (`int`, defaults to 8): Attention heads per layer.
        max_position_embeddings (`int`, defaults to 77): Longest caption in tokens, both ends included.
        hidden_act (`str`, defaults to `"quick_gelu"`): `x * sigmoid(1.702 x)`.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every layer norm.
        attention_dropout (`float`, defaults to 0.0): Dropout on the attention weights; none in the original.
        initializer_factor (`float`, defaults to 1.0): Multiplies the standard deviation of every random weight.
        pad_token_id, bos_token_id, eos_token_id (`int`): As in openai/clip-vit-base-patch16. The caption's feature is
            read at the first `eos_token_id`.
    """

    model_type = "farl_text_model"
    base_config_key = "text_config"

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: int | float = 0.0
    initializer_factor: int | float = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | list[int] | None = 49407

    def validate_architecture(self):
        _check_heads(self)


@strict
class FaRLVisionConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of [`FaRLVisionModel`] and [`FaRLBackbone`], a pre-norm ViT with a class token. The defaults are those
    of the official FaRL checkpoints (ViT-B/16 at 224 px).

    Args:
        hidden_size (`int`, defaults to 768): Width of the tokens.
        intermediate_size (`int`, defaults to 3072): Width of the MLPs.
        num_hidden_layers (`int`, defaults to 12): Number of transformer layers.
        num_attention_heads (`int`, defaults to 12): Attention heads per layer.
        num_channels (`int`, defaults to 3): Channels of the image, in RGB order.
        image_size (`int`, defaults to 224): Side of the square input in pixels; it sets the size of the position table.
        patch_size (`int`, defaults to 16): Side of a patch in pixels.
        stem_channels (`list[int]`, defaults to `[]`): Widths of 3x3 convolutions of stride 2 that the image goes
            through before the patch embedding, which then is a convolution of `patch_size / 2 ** len(stem_channels)`.
            Small towers learn faster with some (Xiao et al. 2021, arXiv:2106.14881); the original has none.
        use_mean_pooling (`bool`, defaults to `False`): Whether captions are matched with the mean of the patches, as
            BEiT's images with their classes, in place of the class token, the original's choice.
        hidden_act (`str`, defaults to `"quick_gelu"`): `x * sigmoid(1.702 x)`.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every layer norm.
        attention_dropout (`float`, defaults to 0.0): Dropout on the attention weights; none in the original.
        initializer_range (`float`, defaults to 0.02): Standard deviation of linear and convolution weights.
        initializer_factor (`float`, defaults to 1.0): Multiplies the standard deviation of every random weight.
        out_indices (`list[int]`, *optional*): Which `hidden_states` [`FaRLBackbone`] returns (index 0 is the input of
            the first layer, index `i` the output of the `i`-th). Defaults to the last.
        out_features (`list[str]`, *optional*): The same by name (`"stem"`, `"stage1"`, ...).
    """

    model_type = "farl_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    stem_channels: list[int] | tuple[int, ...] = ()
    use_mean_pooling: bool = False
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: int | float = 0.0
    initializer_range: float = 0.02
    initializer_factor: int | float = 1.0
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stage_names = ["stem"] + [f"stage{i}" for i in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        _check_heads(self)
        if self.image_size % self.patch_size != 0:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size}).")
        if self.patch_size % 2 ** len(self.stem_channels) != 0:
            raise ValueError(
                f"patch_size ({self.patch_size}) must be a multiple of 2 ** {len(self.stem_channels)}: each of "
                "stem_channels halves the image."
            )


def default_out_indices(num_hidden_layers: int) -> list[int]:
    """The four `hidden_states` that the dense heads read in a tower of `num_hidden_layers`, see [`FaRLConfig`]."""
    if num_hidden_layers == 32:
        return [9, 15, 21, 32]
    third = num_hidden_layers / 3
    return [max(1, round(index)) for index in (third, 1.5 * third, 2 * third, num_hidden_layers)]


@strict
class FaRLConfig(PreTrainedConfig):
    r"""
    Configuration of [`FaRLModel`], [`FaRLForPreTraining`] and the task models. `image_size`, which people change when
    they load a checkpoint, can be given here and is kept in `vision_config`:
    `FaRLForFaceParsing.from_pretrained(folder, image_size=448)`.

    Args:
        text_config (`dict` or [`FaRLTextConfig`], *optional*): The text tower.
        vision_config (`dict` or [`FaRLVisionConfig`], *optional*): The vision tower.
        projection_dim (`int`, defaults to 512): Size of the joint image-text embedding.
        logit_scale_init_value (`float`, defaults to 2.6593): Initial log of the inverse temperature, `ln(1 / 0.07)`.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the weights of the masked-image branch and
            the attribute head.
        initializer_factor (`float`, defaults to 1.0): Multiplies the standard deviation of every random weight.
        mim_num_layers (`int`, defaults to 1): Transformer layers of the masked-image-modelling branch. The released
            files hold one.
        mim_vocab_size (`int`, defaults to 8192): Size of the visual codebook that the branch predicts.
        mim_loss_weight (`float`, defaults to 1.0): Weight of the masked-image loss beside the contrastive loss. The
            paper's value is not confirmed.
        out_indices (`list[int]`, *optional*): The four `hidden_states` that the parsing and alignment heads read.
            Defaults to the original's: 4, 6, 8, 12 of 12 layers, 8, 12, 16, 24 of 24, 9, 15, 21, 32 of 32
            (`farl/network/farl/model.py`), and to about the same proportions for other depths.
        head_channels (`int`, defaults to 768): Width of the parsing and alignment heads (`head_channel` of the
            original's network configs).
        neck_channels (`int`, *optional*): Width of the neck's two enlarged maps. `None` is the vision tower's hidden
            size, as in the original.
        pool_scales (`list[int]`, defaults to `[1, 2, 3, 6]`): Bins per side of the pyramid pooling.
        head_dropout (`float`, defaults to 0.1): Channel dropout before the head's classifier.
        output_size (`int`, *optional*): Side in pixels of the parsing logits. `None` is the input's size; converted
            official parsers have 512, the original's.
        semantic_loss_ignore_index (`int`, defaults to 255): Label id that the parsing loss leaves out. The original has
            none; no official label map uses this id.
        num_landmarks (`int`, defaults to 68): Landmarks of the alignment model.
        heatmap_size (`int`, defaults to 128): Side of the target heat maps (`face_alignment/trainers/*.yaml`).
        heatmap_radius (`float`, defaults to 5.0): Radius in heat-map pixels beyond which targets are zero.
        coord_loss_weight, heatmap_ce_loss_weight, heatmap_l1_loss_weight, heatmap_l2_loss_weight (`float`): Weights
            of the alignment losses. The original uses the first two with weight 1 on every data set.
        classifier_dropout (`float`, defaults to 0.0): Dropout before the attribute head's linear layer.
    """

    model_type = "farl"
    sub_configs = {"text_config": FaRLTextConfig, "vision_config": FaRLVisionConfig}
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "heatmaps", "coord_loss", "heatmap_loss"]

    if TYPE_CHECKING:
        # Whatever is given, this is what there is once the object is made.
        text_config: FaRLTextConfig
        vision_config: FaRLVisionConfig
        out_indices: Sequence[int]
    else:
        text_config: dict | FaRLTextConfig | None = None
        vision_config: dict | FaRLVisionConfig | None = None
        out_indices: list[int] | tuple[int, ...] | None = None
    projection_dim: int = 512
    logit_scale_init_value: int | float = 2.6593
    initializer_range: float = 0.02
    initializer_factor: int | float = 1.0
    mim_num_layers: int = 1
    mim_vocab_size: int = 8192
    mim_loss_weight: int | float = 1.0
    head_channels: int = 768
    neck_channels: int | None = None
    pool_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    head_dropout: int | float = 0.1
    output_size: int | None = None
    semantic_loss_ignore_index: int = 255
    num_landmarks: int = 68
    heatmap_size: int = 128
    heatmap_radius: int | float = 5.0
    coord_loss_weight: int | float = 1.0
    heatmap_ce_loss_weight: int | float = 1.0
    heatmap_l1_loss_weight: int | float = 0.0
    heatmap_l2_loss_weight: int | float = 0.0
    classifier_dropout: int | float = 0.0

    def __post_init__(self, **kwargs):
        if not __name__.startswith("transformers_modules"):
            # The package's own pipelines are registered; those of a folder would ask for trust, and a model that is
            # tuned from it would name code that its folder lacks.
            kwargs.pop("custom_pipelines", None)
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if not isinstance(value, PreTrainedConfig):
                setattr(self, name, config_class(**(value or {})))
        if self.out_indices is None:
            self.out_indices = default_out_indices(self.vision_config.num_hidden_layers)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict:
        fields = super().to_dict()
        if self._auto_class is None:
            # A fine-tune of a folder with exported code does not carry that code along.
            fields.pop("auto_map", None)
        return fields

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels, kept in `vision_config`."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, value: int):
        self.vision_config.image_size = value

    @classmethod
    def from_preset(cls, preset: str, **kwargs) -> "FaRLConfig":
        """
        A configuration by size: `"base"` (the official checkpoints), `"large"` (patch 16) and `"huge"` (patch 14),
        which the original code has but never released (`farl/network/farl/model.py`), `"farl-tiny"` (112 px, 4 layers,
        the weights that come with this package), or `"tiny"` (96 px, for tests and demonstrations on a laptop).

        Args:
            preset: One of the names above.
            kwargs: Any field of [`FaRLConfig`], e.g. `image_size=448, num_labels=19`. A `dict` for a tower changes what
                it names of the preset's tower, e.g. `vision_config={"patch_size": 4}`.

        Raises:
            ValueError: If the preset is unknown.
        """
        if preset not in PRESETS:
            raise ValueError(f"Unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.")
        fields = dict(PRESETS[preset])
        for name, value in kwargs.items():
            both = isinstance(value, dict) and isinstance(fields.get(name), dict)
            fields[name] = {**fields[name], **value} if both else value
        return cls(**copy.deepcopy(fields))


PRESETS: dict[str, dict] = {
    "tiny": {
        "text_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 8,
        },
        "projection_dim": 128,
        "mim_vocab_size": 1024,
        # In proportion to the tower, or nearly all of a training step would go into the head. Heat maps of 16 px and
        # four layers learn more in the same time than 32 px and six (model_cards/farl-tiny.md).
        "head_channels": 32,
        "neck_channels": 32,
        "heatmap_size": 16,
        "heatmap_radius": 2.5,
    },
    # Chosen by measurement, see model_cards/farl-tiny.md. The vocabulary is the first part of CLIP's.
    "farl-tiny": {
        "text_config": {
            "vocab_size": 4096,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "bos_token_id": 4094,
            "eos_token_id": 4095,
        },
        "vision_config": {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": 112,
            "patch_size": 8,
            "stem_channels": [48, 96],
            "use_mean_pooling": True,
        },
        "projection_dim": 128,
        "mim_vocab_size": 1024,
        "head_channels": 48,
        "neck_channels": 32,
        "heatmap_size": 32,
        "heatmap_radius": 5.0,
    },
    "base": {"text_config": {}, "vision_config": {}},
    "large": {
        "text_config": {},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    },
    "huge": {
        "text_config": {},
        "vision_config": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
    },
}

__all__ = ["FaRLConfig", "FaRLTextConfig", "FaRLVisionConfig"]
