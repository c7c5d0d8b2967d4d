"""
Official FaRL, CLIP and facer files to Hugging Face folders, and back to CLIP.

The key names of an official file follow from its sizes, so a conversion first builds the complete table "official name
-> our names" and then demands that file and table agree exactly: nothing is dropped in silence.
"""

import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, CLIPConfig, CLIPImageProcessorPil, CLIPProcessor

from ..datasets.labels import CELEBA_ATTRIBUTES, CELEBAMASK_HQ_LABELS, LAPA_LABELS
from ..hub.cards import write_model_card
from ..models.configuration_farl import PRESETS, FaRLConfig
from ..models.image_processing_farl import FaRLFaceImageProcessor
from ..models.modeling_farl import (
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLForPreTraining,
    FaRLModel,
    FaRLPreTrainedModel,
)
from ..models.processing_farl import FaRLProcessor
from ..models.tokenization import build_clip_tokenizer, build_processor
from .checkpoint_files import CheckpointError, CheckpointFile, read_tensors, read_tensors_from_bytes
from .downloads import RELEASE_FILES, download_release

Tensors = dict[str, torch.Tensor]
# Official name -> our names: three where the packed attention matrix is split into query, key and value.
NameTable = dict[str, tuple[str, ...]]

# Added to images inside the original task networks (`farl/network/transformers.py`); ours leave it to the processor.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Conversion:
    """
    What a conversion did.

    Attributes:
        output: The folder that was written.
        architecture: Name of the class that the weights belong to, e.g. `"FaRLForPreTraining"`.
        num_tensors: Number of tensors written.
        left_out: Official names that were left out because the original itself never uses them.
    """

    output: Path
    architecture: str
    num_tensors: int
    left_out: list[str] = field(default_factory=list)


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    to: str = "farl",
    config: FaRLConfig | None = None,
    dtype: torch.dtype = torch.float32,
    use_ema: bool = True,
    overwrite: bool = False,
) -> Conversion:
    """
    Converts an official checkpoint to a Hugging Face folder: weights (safetensors), config, processor, tokenizer and
    model card.

    Args:
        source: A file: a pre-trained FaRL `.pth`, an OpenAI CLIP or open_clip ViT-B/16 state dict (`.pth`, `.pt`,
            safetensors), a trainer state of the FaRL repository, or one of facer's downstream files. Or the name of a
            release file, which is downloaded: `ep16`, `ep64`, `lapa`, `celebamask_hq`, `ibug300w`, `wflw`, `aflw19`,
            `celeba`. With `to="clip"` also a folder that this function wrote.
        output: Folder to write. It appears only when it is complete.
        to: `"farl"`; or `"clip"`, for a folder that `CLIPModel.from_pretrained` reads and that holds
            `openai_clip.pth` with the same weights under OpenAI's names.
        config: Sizes that are none of the presets of [`FaRLConfig`]; weights alone do not tell the number of heads.
        dtype: Data type of the written weights.
        use_ema: Of trainer states, take the averaged weights (`main_ema`), which the original evaluates, or the raw
            ones (`main`).
        overwrite: Whether to replace an `output` that is a model's folder. Other folders with files are never touched.

    Raises:
        CheckpointError: If the file cannot be read, is of no known kind, or its names or shapes are not as expected.
        FileExistsError: If `output` is not empty, and `overwrite` is false or it is no model's folder.
        ValueError: If `output` is the current folder or holds it.
    """
    output = Path(output)
    if Path.cwd().is_relative_to(output.resolve()):
        raise ValueError(
            f"{output} is the current folder or holds it, and is replaced as a whole: name a folder in it."
        )
    if to not in ("farl", "clip"):
        raise ValueError(f"Cannot convert to {to!r}: choose 'farl' or 'clip'.")
    _check_output(output, overwrite)
    convert = _convert_to_clip if to == "clip" else _convert_to_farl
    return _write_folder(output, overwrite, lambda folder: convert(source, folder, config, dtype, use_ema))


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{output} exists and is not empty: choose another folder, or overwrite it.")
    if not (output / "config.json").is_file() or not any(output.glob("*.safetensors")):
        raise FileExistsError(
            f"{output} is no model's folder (it has no config.json, or no *.safetensors), so it is not overwritten: "
            "choose another."
        )


def _write_folder(output: Path, overwrite: bool, write: Callable[[Path], Conversion]) -> Conversion:
    """Lets `write` fill a temporary neighbour of `output` and puts it in place when it has succeeded."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        result = write(folder)
        for path in folder.iterdir():
            # safetensors' files are readable by their owner alone, the others as the user's settings say.
            path.chmod((folder / "config.json").stat().st_mode)
        # Once more: writing takes a while.
        _check_output(output, overwrite)
        if overwrite and output.exists():
            shutil.move(output, Path(scratch) / "replaced")
        try:
            os.replace(folder, output)
        except OSError as error:
            raise FileExistsError(f"{output} has been filled meanwhile and is left as it is: {error}") from error
    result.output = output
    return result


def _convert_to_farl(
    source: str | Path, folder: Path, config: FaRLConfig | None, dtype: torch.dtype, use_ema: bool
) -> Conversion:
    path = download_release(str(source)) if str(source) in RELEASE_FILES else Path(source)
    plan = _recognise(read_tensors(path), path, config, use_ema)
    weights = _rename(plan, path, dtype)
    plan.config.architectures = [plan.model_class.__name__]
    plan.config.dtype = dtype
    plan.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    plan.processor.save_pretrained(folder)
    write_model_card(folder, source=path.name)
    return Conversion(folder, plan.model_class.__name__, len(weights), sorted(plan.left_out))


# ----------------------------------------------------------------------------------------------- recognising a file


@dataclass
class _Plan:
    """An official state dict, and everything that its conversion needs."""

    tensors: Tensors
    names: NameTable
    config: FaRLConfig
    model_class: type[FaRLPreTrainedModel]
    processor: FaRLProcessor | FaRLFaceImageProcessor
    left_out: set[str] = field(default_factory=set)


def _recognise(file: CheckpointFile, path: Path, config: FaRLConfig | None, use_ema: bool) -> _Plan:
    content = file.content
    if "networks" in content:
        name = "main_ema" if use_ema else "main"
        networks = content["networks"]
        if not isinstance(networks, dict) or name not in networks:
            raise CheckpointError(f"{path} is a trainer state without the network {name!r}.")
        return _plan_dense(_named_tensors(networks[name], path), path, "farl", config)
    if "backbone" in file.extra:
        backbone = read_tensors_from_bytes(file.extra["backbone"], f"{path} (backbone)").content
        tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
        tensors |= {f"heatmap_head.{name}": tensor for name, tensor in content.items()}
        return _plan_dense(tensors, path, "facer", config)
    tensors = _named_tensors(content.get("state_dict", content), path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    if "visual.conv1.weight" in tensors:
        return _plan_dual_encoder(tensors, path, config)
    if any(name.startswith("head.head.") for name in tensors):
        return _plan_dense(tensors, path, "facer", config)
    if "head.final_fc.weight" in tensors:
        return _plan_attributes(tensors, path, config)
    some = ", ".join(sorted(tensors)[:3]) or "no tensors"
    raise CheckpointError(f"{path} is no FaRL, CLIP ViT or facer checkpoint: no `visual.*`, but {some} and so on.")


def _named_tensors(content: Any, path: Path) -> Tensors:
    """The tensors of a state dict, without what else a file keeps beside them."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has a {type(content).__name__} in the place of named tensors.")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _plan_dual_encoder(tensors: Tensors, path: Path, config: FaRLConfig | None) -> _Plan:
    if "token_embedding.weight" not in tensors:
        raise CheckpointError(
            f"{path} holds an image tower but no text tower (token_embedding.weight is missing): FaRL is a dual "
            "encoder, convert the complete file."
        )
    # Bookkeeping in OpenAI's own files, which is no weight.
    bookkeeping = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
    left_out = {name for name in tensors if name.split(".")[-1] in bookkeeping}
    config = config or _config_from_shapes(tensors, "visual.", path)
    has_mim = any(name in tensors for name in ("visual.mask_token", "visual.lm_head.weight"))
    model_class = FaRLForPreTraining if has_mim else FaRLModel
    processor = build_processor(config.image_size)
    return _Plan(tensors, _dual_encoder_names(config, has_mim), config, model_class, processor, left_out)


def _plan_dense(tensors: Tensors, path: Path, convention: str, config: FaRLConfig | None) -> _Plan:
    head = next((name for name in ("head", "heatmap_head") if f"{name}.head.conv_seg.weight" in tensors), None)
    if head is None or "backbone.visual.conv1.weight" not in tensors:
        raise CheckpointError(f"{path} is no face parsing or alignment network: it has no backbone or no classifier.")
    num_outputs, head_channels = tensors[f"{head}.head.conv_seg.weight"].shape[:2]
    config = copy.deepcopy(config) or _config_from_shapes(tensors, "backbone.visual.", path)
    config.head_channels = head_channels
    for name, expected in (("image_mean", _CLIP_MEAN), ("image_std", _CLIP_STD)):
        stored = tensors.get(f"backbone.{name}")
        if stored is not None and not torch.allclose(stored.flatten().float(), torch.tensor(expected), atol=1e-6):
            raise CheckpointError(f"{path} normalises images with another backbone.{name} than CLIP's: not supported.")
    if head == "head":
        model_class, our_head = FaRLForFaceParsing, "decode_head"
        # The original's `out_size` (`face_parsing/networks/farl.yaml`).
        config.output_size = 512
        names = {len(LAPA_LABELS): LAPA_LABELS, len(CELEBAMASK_HQ_LABELS): CELEBAMASK_HQ_LABELS}.get(num_outputs)
        _set_labels(config, names or [f"LABEL_{i}" for i in range(num_outputs)])
    else:
        model_class, our_head = FaRLForFaceAlignment, "heatmap_head"
        config.num_landmarks = num_outputs
    table = _vision_names(config, "backbone.visual.", pooling=False)
    table |= {
        name: (name.replace("backbone.fpns", "pyramid.fpns"),) for name in tensors if name.startswith("backbone.fpns.")
    }
    prefix = f"{head}.head."
    table |= {name: (f"{our_head}." + name.removeprefix(prefix),) for name in tensors if name.startswith(prefix)}
    unused = ("proj", "ln_post.weight", "ln_post.bias")
    left_out = {f"backbone.visual.{name}" for name in unused} | {"backbone.image_mean", "backbone.image_std"}
    processor = _face_processor(model_class, num_outputs, convention, config.image_size)
    return _Plan(tensors, table, config, model_class, processor, left_out & tensors.keys())


def _plan_attributes(tensors: Tensors, path: Path, config: FaRLConfig | None) -> _Plan:
    backbone = "backbone.visual." if "backbone.visual.conv1.weight" in tensors else "backbone."
    if f"{backbone}conv1.weight" not in tensors:
        raise CheckpointError(f"{path} holds an attribute head but no image tower (backbone.conv1.weight is missing).")
    config = copy.deepcopy(config) or _config_from_shapes(tensors, backbone, path)
    num_labels = tensors["head.final_fc.weight"].shape[0]
    known = num_labels == len(CELEBA_ATTRIBUTES)
    _set_labels(config, CELEBA_ATTRIBUTES if known else [f"LABEL_{i}" for i in range(num_labels)])
    config.problem_type = "multi_label_classification"
    table = _vision_names(config, backbone, pooling=False)
    table |= {name: (f"classifier.{name.removeprefix('head.')}",) for name in tensors if name.startswith("head.")}
    left_out = {"backbone.image_mean", "backbone.image_std"} & tensors.keys()
    # Five-point crop at 224 px (facer `face_attribute/farl.py`).
    processor = FaRLFaceImageProcessor(align="celeba", size=config.image_size, warp_factor=0.0, convention="facer")
    return _Plan(tensors, table, config, FaRLForImageClassification, processor, left_out)


def _face_processor(model_class: type, num_outputs: int, convention: str, size: int) -> FaRLFaceImageProcessor:
    """The crop recipe that the weights were trained (`"farl"`) or are run (`"facer"`) with, see the model's card."""
    if model_class is FaRLForFaceParsing:
        if num_outputs == len(CELEBAMASK_HQ_LABELS):
            # The original evaluates the whole, already aligned image; facer rebuilds the alignment of any photo.
            align = None if convention == "farl" else "celebamask_hq"
            return FaRLFaceImageProcessor(align=align, size=size, warp_factor=0.0, convention=convention)
        return FaRLFaceImageProcessor(
            align="lapa", size=size, warp_factor=0.8, target_face_scale=1.0, convention=convention
        )
    if convention == "facer":
        return FaRLFaceImageProcessor(
            align="lapa", size=size, warp_factor=0.0, target_face_scale=0.8, convention="facer"
        )
    # `scale_mu` of the test augmenters: 1.0 on AFLW-19 (19 points), 0.8 on 300W and WFLW.
    scale = 1.0 if num_outputs == 19 else 0.8
    return FaRLFaceImageProcessor(align="box", size=size, warp_factor=0.0, target_face_scale=scale, convention="farl")


def _set_labels(config: FaRLConfig, names: list[str]) -> None:
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def _config_from_shapes(tensors: Tensors, prefix: str, path: Path) -> FaRLConfig:
    """The preset whose image tower has the sizes of the tensors under `prefix`, at their image size."""
    width, _, patch_size, _ = tensors[f"{prefix}conv1.weight"].shape
    num_layers = _count_layers(tensors, f"{prefix}transformer.resblocks.")
    for preset in PRESETS:
        config = FaRLConfig.from_preset(preset)
        vision = config.vision_config
        if (vision.hidden_size, vision.num_hidden_layers, vision.patch_size) == (width, num_layers, patch_size):
            break
    else:
        raise CheckpointError(
            f"{path} holds a ViT of width {width}, {num_layers} layers and patch {patch_size}, which is none of FaRL's "
            f"sizes ({', '.join(PRESETS)}): pass its `config`."
        )
    positions = tensors.get(f"{prefix}positional_embedding")
    if positions is not None:
        vision.image_size = round((positions.shape[0] - 1) ** 0.5) * patch_size
    if "visual.lm_head.weight" in tensors:
        config.mim_vocab_size = tensors["visual.lm_head.weight"].shape[0]
        config.mim_num_layers = _count_layers(tensors, "visual.lm_transformer.resblocks.")
    return config


def _count_layers(tensors: Tensors, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


# ----------------------------------------------------------------------------------------------------- name tables


def _dual_encoder_names(config: FaRLConfig, has_mim: bool) -> NameTable:
    table = _vision_names(config, "visual.", pooling=True)
    table |= {
        "visual.proj": ("visual_projection.weight",),
        "token_embedding.weight": ("text_model.embeddings.token_embedding.weight",),
        "positional_embedding": ("text_model.embeddings.position_embedding.weight",),
        "text_projection": ("text_projection.weight",),
        "logit_scale": ("logit_scale",),
    }
    table |= _norm_names("ln_final", "text_model.final_layer_norm")
    table |= _block_names("transformer", "text_model.encoder", config.text_config.num_hidden_layers)
    if has_mim:
        table |= {"visual.mask_token": ("mask_token",)}
        table |= _norm_names("visual.ln_lm", "mim_layernorm")
        table |= _norm_names("visual.lm_head", "mim_head")
        table |= _block_names("visual.lm_transformer", "mim_encoder", config.mim_num_layers)
    return table


def _vision_names(config: FaRLConfig, prefix: str, pooling: bool) -> NameTable:
    table: NameTable = {
        f"{prefix}class_embedding": ("vision_model.embeddings.class_embedding",),
        f"{prefix}conv1.weight": ("vision_model.embeddings.patch_embedding.weight",),
        f"{prefix}positional_embedding": ("vision_model.embeddings.position_embedding.weight",),
    }
    table |= _norm_names(f"{prefix}ln_pre", "vision_model.pre_layrnorm")
    if pooling:
        table |= _norm_names(f"{prefix}ln_post", "vision_model.post_layernorm")
    num_layers = config.vision_config.num_hidden_layers
    return table | _block_names(f"{prefix}transformer", "vision_model.encoder", num_layers)


def _norm_names(official: str, ours: str) -> NameTable:
    return {f"{official}.{leaf}": (f"{ours}.{leaf}",) for leaf in ("weight", "bias")}


def _block_names(official: str, ours: str, num_layers: int) -> NameTable:
    table = {}
    for i in range(num_layers):
        block, layer = f"{official}.resblocks.{i}", f"{ours}.layers.{i}"
        for leaf in ("weight", "bias"):
            packed = tuple(f"{layer}.self_attn.{name}_proj.{leaf}" for name in "qkv")
            table[f"{block}.attn.in_proj_{leaf}"] = packed
        table |= _norm_names(f"{block}.attn.out_proj", f"{layer}.self_attn.out_proj")
        table |= _norm_names(f"{block}.ln_1", f"{layer}.layer_norm1")
        table |= _norm_names(f"{block}.ln_2", f"{layer}.layer_norm2")
        table |= _norm_names(f"{block}.mlp.c_fc", f"{layer}.mlp.fc1")
        table |= _norm_names(f"{block}.mlp.c_proj", f"{layer}.mlp.fc2")
    return table


def _is_transposed(our_name: str) -> bool:
    """OpenAI stores the two projections as (input, output) matrices, `nn.Linear` as (output, input)."""
    return our_name in ("visual_projection.weight", "text_projection.weight")


def _rename(plan: _Plan, path: Path, dtype: torch.dtype) -> Tensors:
    """The tensors of `plan` under our names, after checking names and shapes against the model."""
    missing = sorted(plan.names.keys() - plan.tensors.keys())
    unexpected = sorted(plan.tensors.keys() - plan.names.keys() - plan.left_out)
    if missing or unexpected:
        problems = [
            f"{len(x)} {what} ({_some(x)})" for what, x in (("missing", missing), ("unexpected", unexpected)) if x
        ]
        raise CheckpointError(
            f"{path} does not hold the tensors of {plan.model_class.__name__}: {', '.join(problems)}."
        )
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in plan.model_class(plan.config).state_dict().items()}
    weights = {}
    for official, ours in plan.names.items():
        tensor = plan.tensors[official]
        if _is_transposed(ours[0]):
            tensor = tensor.t()
        parts = tensor.chunk(3) if len(ours) == 3 else (tensor,)
        for name, part in zip(ours, parts, strict=False):
            if part.numel() == 1 and expected.get(name) == ():
                part = part.reshape(())  # a scalar that was saved as a vector of one
            if name not in expected or part.shape != expected[name]:
                wanted = tuple(expected[name]) if name in expected else "no such tensor"
                raise CheckpointError(f"{path}: {official} has shape {tuple(part.shape)}, {name} needs {wanted}.")
            # A copy: safetensors refuses views, and the file may be mapped into memory.
            weights[name] = part.to(dtype if part.is_floating_point() else part.dtype).clone().contiguous()
    if absent := sorted(expected.keys() - weights.keys()):
        raise CheckpointError(f"{path} has nothing for {len(absent)} tensors of the model ({_some(absent)}).")
    return weights


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# --------------------------------------------------------------------------------------------------- back to CLIP


def openai_state_dict(tensors: Tensors, config: FaRLConfig) -> Tensors:
    """
    The weights of a dual encoder under OpenAI's names, which open_clip reads too, and the MIM branch under FaRL's.

    Args:
        tensors: State dict of [`FaRLModel`] or [`FaRLForPreTraining`].
        config: Of the model.

    Raises:
        KeyError: If a tensor is missing.
        CheckpointError: If the vision tower has a stem of convolutions or pools its patches, which CLIP does not.
    """
    if config.vision_config.stem_channels:
        raise CheckpointError("The vision tower has stem_channels (convolutions before the patches): CLIP has none.")
    if config.vision_config.use_mean_pooling:
        raise CheckpointError(
            "The vision tower has use_mean_pooling (captions see all patches): CLIP's reads one token."
        )

    def official(names: tuple[str, ...]) -> torch.Tensor:
        tensor = torch.cat([tensors[name] for name in names]) if len(names) == 3 else tensors[names[0]]
        return (tensor.t() if _is_transposed(names[0]) else tensor).contiguous()

    table = _dual_encoder_names(config, has_mim="mask_token" in tensors)
    return {name: official(names) for name, names in table.items()}


def _convert_to_clip(
    source: str | Path, folder: Path, config: FaRLConfig | None, dtype: torch.dtype, use_ema: bool
) -> Conversion:
    source = Path(source)
    if not source.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            _convert_to_farl(source, Path(scratch), config, dtype, use_ema)
            return _convert_to_clip(scratch, folder, None, dtype, use_ema)
    config = AutoConfig.from_pretrained(source)
    tensors: dict[str, torch.Tensor] = {}
    for part in sorted(source.glob("model*.safetensors")):
        tensors |= load_file(part)
    try:
        state_dict = openai_state_dict(tensors, config)
    except KeyError as error:
        raise CheckpointError(f"{source} is no FaRL dual encoder: {error} not found in model*.safetensors.") from error
    state_dict = {name: tensor.to(dtype) for name, tensor in state_dict.items()}
    torch.save({"state_dict": state_dict}, folder / "openai_clip.pth")
    ours = {name for names in _dual_encoder_names(config, has_mim=False).values() for name in names}
    weights = {name: tensors[name].to(dtype).contiguous() for name in ours}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    vision, text = config.vision_config.to_dict(), config.text_config.to_dict()
    for sub_config in (vision, text):
        sub_config.pop("model_type")
    clip_config = CLIPConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=config.projection_dim,
        logit_scale_init_value=config.logit_scale_init_value,
        architectures=["CLIPModel"],
        dtype=dtype,
    )
    clip_config.save_pretrained(folder)
    side = config.vision_config.image_size
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(image_processor, build_clip_tokenizer()).save_pretrained(folder)
    return Conversion(folder, "CLIPModel", len(weights))
