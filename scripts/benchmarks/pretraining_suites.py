"""Suites of pre-training: the step (`pretrain`), its flags on and off (`flags`), and the reader (`data`)."""

import io
import json
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import open_clip
import torch
import webdataset
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn
from torchvision import transforms
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from farl_hf.allocation import keep_freed_memory
from farl_hf.models.configuration_farl import FaRLConfig
from farl_hf.models.modeling_farl import FaRLForPreTraining
from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining.image_codebook import ImageCodebook, load_image_codebook
from farl_hf.pretraining.image_views import ImageViews
from farl_hf.pretraining.laion_face import dataset_shards, load_laion_face
from farl_hf.pretraining.masking import BlockMaskGenerator
from farl_hf.pretraining.objective import PretrainingObjective, backward, clip_normalised, scaled_pixels
from farl_hf.pretraining.stream import ImageTextLoader, ImageTextStream
from farl_hf.synthetic import SyntheticFaceConfig, SyntheticFaces

from .measuring import Case
from .network_suites import Scale, example_captions, open_clip_model

Function = Callable[[], Any]

# Images of a shard, and their loader batch.
_SHARD_SIZE, _LOADER_BATCH = 100, 32


# ----------------------------------------------------------------------------------------------------------- pretrain


def pretrain_cases(scale: Scale, batch: int = 8) -> Iterator[Case]:
    """
    Steps of the contrastive loss alone against open_clip, and the cost of the whole step against its parts; all with
    the allocator as the pre-training loop sets it on CPU.
    """
    name = f"contrastive step, batch {batch}, against open_clip"
    yield Case("pretrain", name, partial(_contrastive_step, scale, batch), goal=1.0)
    name = f"ITC + MIM step, batch {batch}, against the sum of its parts"
    yield Case("pretrain", name, partial(_whole_step, scale, batch), tolerance=None, goal=0.95)
    few = min(batch, 2)  # DALL-E's encoder on a CPU takes its time
    name = f"ITC + MIM step, batch {few}, stored codes against DALL-E's made on the way"
    yield Case("pretrain", name, partial(_codes_step, scale, few), tolerance=None)


def flag_cases(scale: Scale, batch: int = 8) -> Iterator[Case]:
    """Each flag of a step, on (ours) against off (reference)."""
    flags = (
        ("torch_compile", _Flags(compile=True), 1e-3, False),
        ("bf16", _Flags(precision="bf16"), 0.1, False),
        ("fused AdamW", _Flags(fused=True), 1e-4, False),
        ("gradient_checkpointing", _Flags(checkpointing=True), 1e-4, True),
        ("captions padded to 77 against 22 tokens", _Flags(padded=True), 1e-4, False),
    )
    for name, on, tolerance, memory in flags:
        build = partial(_step_with_flags, scale, batch, on)
        yield Case("flags", f"{name}, batch {batch}", build, tolerance=tolerance, memory=memory)


def seeded_pretraining_model(scale: Scale) -> FaRLForPreTraining:
    """A model of random weights, the same ones each time."""
    torch.manual_seed(0)
    return FaRLForPreTraining(FaRLConfig.from_preset(scale.preset, image_size=scale.clip_size))


def example_batch(model: FaRLForPreTraining, batch: int) -> dict[str, torch.Tensor]:
    """What the reader gives, of random content."""
    torch.manual_seed(1)
    size, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    grid = size // patch
    masks = BlockMaskGenerator.for_grid(grid)
    return {
        "pixels": torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8),
        "input_ids": example_captions(model, batch),
        "bool_masked_pos": torch.from_numpy(np.stack([masks(random.Random(i)) for i in range(batch)])).flatten(1),
        "mim_targets": torch.randint(0, model.config.mim_vocab_size, (batch, grid * grid)),
    }


@dataclass(frozen=True)
class _Flags:
    compile: bool = False
    precision: str = "no"
    fused: bool = False
    checkpointing: bool = False
    padded: bool = False


def _step_with_flags(scale: Scale, batch: int, on: _Flags, side: str) -> Function:
    keep_freed_memory()
    flags = on if side == "ours" else _Flags()
    model = seeded_pretraining_model(scale).train()
    content = example_batch(model, batch)
    if not flags.padded:
        content["input_ids"] = content["input_ids"][:, :22]
    if flags.checkpointing:
        model.gradient_checkpointing_enable()
    if flags.compile:
        model.vision_model.compile()
        model.text_model.compile()
    return _our_step(model, content, 1.0, precision=flags.precision, fused=flags.fused)


def _codes_step(scale: Scale, batch: int, side: str) -> Function:
    keep_freed_memory()
    model = seeded_pretraining_model(scale).train()
    content = example_batch(model, batch)
    if side == "ours":
        return _our_step(model, content, 1.0)
    # DALL-E's shape; the weights change nothing of the time.
    size, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    shape = FlavaImageCodebookConfig(vocab_size=model.config.mim_vocab_size)
    if scale.preset == "tiny":
        shape = FlavaImageCodebookConfig(vocab_size=model.config.mim_vocab_size, hidden_size=8, num_blocks_per_group=1)
    with tempfile.TemporaryDirectory() as folder:
        FlavaImageCodebook(shape).save_pretrained(folder)
        codebook = load_image_codebook(folder, model.config.mim_vocab_size, size, patch)
    del content["mim_targets"]
    view = codebook.view_size
    content["codebook_pixels"] = torch.randint(0, 256, (batch, view, view, 3), dtype=torch.uint8)
    return _our_step(model, content, 1.0, codebook=codebook)


def _optimizer(model: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=fused)


def _contrastive_step(scale: Scale, batch: int, side: str) -> Function:
    keep_freed_memory()
    model = seeded_pretraining_model(scale)
    content = {name: value for name, value in example_batch(model, batch).items() if name in ("pixels", "input_ids")}
    if side == "reference":
        return _open_clip_step(model, content)
    return _our_step(model, content, mim_weight=0.0)


def _our_step(
    model: FaRLForPreTraining,
    content: dict[str, torch.Tensor],
    mim_weight: float,
    precision: str = "no",
    fused: bool = False,
    codebook: ImageCodebook | None = None,
) -> Function:
    AcceleratorState._reset_state()  # which otherwise keeps the first precision of the process
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    objective = PretrainingObjective(model, mim_weight=mim_weight).train()
    optimizer = _optimizer(model, fused)
    objective, optimizer = accelerator.prepare(objective, optimizer)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        result = backward(accelerator, objective, [content], codebook)
        optimizer.step()
        return result["itc_loss"]

    return step


def _open_clip_step(model: FaRLForPreTraining, content: dict[str, torch.Tensor]) -> Function:
    network, loss_of = open_clip_model(model).train(), open_clip.ClipLoss()
    optimizer = _optimizer(network)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        features = network(clip_normalised(scaled_pixels(content["pixels"])), content["input_ids"])
        loss = loss_of(*features[:3])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _whole_step(scale: Scale, batch: int, side: str) -> Function:
    keep_freed_memory()
    model = seeded_pretraining_model(scale).train()
    content = example_batch(model, batch)
    if side == "reference":
        return _parts_of_step(model, content)
    return _our_step(model, content, mim_weight=1.0)


def _parts_of_step(model: FaRLForPreTraining, content: dict[str, torch.Tensor]) -> Function:
    """Two image passes, the captions, and the masked-image layer and head, each forward and backward on its own."""
    optimizer = _optimizer(model)
    pixel_values = clip_normalised(scaled_pixels(content["pixels"]))
    masked = content["bool_masked_pos"]
    tokens = torch.randn(len(masked), masked.shape[1] + 1, model.config.vision_config.hidden_size)
    targets = content["mim_targets"][masked]

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(2):
            model.visual_projection(model.vision_model(pixel_values).pooler_output).sum().backward()
        model.text_projection(model.text_model(content["input_ids"]).pooler_output).sum().backward()
        hidden = model.mim_encoder(tokens.requires_grad_())[0][:, 1:][masked]
        nn.functional.cross_entropy(model.mim_head(model.mim_layernorm(hidden)), targets).backward()
        optimizer.step()

    return step


# --------------------------------------------------------------------------------------------------------------- data


def data_cases(sizes: tuple[int, ...] = (256, 512), images: int = 800) -> Iterator[Case]:
    """
    One epoch over shards against the package `webdataset`, as `datasets` streams them (`load_laion_face`) and by path;
    reading alone against the tar reader of `datasets`; and memory over few and many shards. The allocator as above.
    """
    shards = images // _SHARD_SIZE
    for size in sizes:
        for way in ("load_laion_face", "paths"):
            for decoder, goal in (("PIL", 1.2), ("our decoder", 1.0)):
                name = f"{images} images of {size} px, {way}, against webdataset with {decoder}"
                build = partial(_epoch, size, shards, decoder, way)
                yield Case("data", name, build, tolerance=None, goal=goal)
        name = f"{images} undecoded samples of {size} px, our tar reader against that of datasets"
        yield Case("data", name, partial(_undecoded, size, shards), tolerance=0)
    for count in (4, 32):
        for way in ("load_laion_face", "paths"):
            build = partial(_epoch, sizes[0], count, "PIL", way)
            yield Case("data", f"{count} shards, {way}", build, tolerance=None, timed=False, memory=True)


@cache
def _shards(size: int, count: int) -> list[str]:
    """Shards of faces with noise, which costs a JPEG decoder about what photos do."""
    folder = Path(tempfile.mkdtemp(prefix="farl-benchmark-"))
    faces = SyntheticFaces(_SHARD_SIZE, SyntheticFaceConfig(image_size=128), seed=0)
    rng, contents = np.random.default_rng(0), []
    for i in range(_SHARD_SIZE):
        image = Image.fromarray(faces[i].image).resize(
            (size, round(size * rng.uniform(1, 1.5))), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(image) + rng.normal(0, 6, (image.height, image.width, 1))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        description = json.dumps({"caption": faces[i].captions[0]}).encode()
        contents.append({"jpg": buffer.getvalue(), "txt": faces[i].captions[0].encode(), "json": description})
    for shard in range(count):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for i, parts in enumerate(contents):
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(f"{shard:05d}{i:04d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return sorted(str(path) for path in folder.glob("*.tar"))


def _undecoded(size: int, shards: int, side: str) -> Function:
    """Bytes of images and captions in all shards."""
    paths = _shards(size, shards)

    def ours() -> int:
        rows = load_laion_face(paths)
        return sum(len(row["image"]["bytes"]) + len(row["captions"][0]) for row in rows)

    def reference() -> int:
        rows = datasets.load_dataset("webdataset", data_files={"train": paths}, split="train", streaming=True)
        rows = rows.cast_column("jpg", datasets.Image(decode=False))
        return sum(len(row["jpg"]["bytes"]) + len(row["txt"]) for row in rows)

    return ours if side == "ours" else reference


def _epoch(size: int, shards: int, decoder: str, way: str, side: str) -> Function:
    keep_freed_memory()
    paths, tokenizer = _shards(size, shards), build_clip_tokenizer()

    def ours() -> int:
        parts = dataset_shards(load_laion_face(paths)) if way == "load_laion_face" else paths
        stream = ImageTextStream(parts, tokenizer, ImageViews(image_size=224), _LOADER_BATCH, num_epochs=1)
        return sum(len(batch["pixels"]) for batch in ImageTextLoader(stream))

    def reference() -> int:
        return sum(len(pixels) for pixels, _ in _webdataset_loader(paths, tokenizer, decoder))

    return ours if side == "ours" else reference


def _webdataset_loader(paths: list[str], tokenizer: Any, decoder: str) -> Any:
    """The reader that webdataset's documentation shows, with the tokenizer in the collation."""
    dataset = webdataset.WebDataset(paths, shardshuffle=len(paths), seed=0).shuffle(512)
    if decoder == "PIL":
        crop = transforms.RandomResizedCrop(224, scale=(0.9, 1.0), interpolation=transforms.InterpolationMode.BICUBIC)
        to_pixels = transforms.Compose([crop, transforms.PILToTensor()])
        samples = dataset.decode("pil").to_tuple("jpg", "txt").map_tuple(to_pixels, str)
    else:
        views, rng = ImageViews(image_size=224), random.Random(0)
        samples = dataset.to_tuple("jpg", "txt").map_tuple(lambda data: views(data, rng, {})[0], bytes.decode)

    def collate(rows: list[tuple[Any, str]]) -> tuple[torch.Tensor, Any]:
        pixels = torch.stack([torch.as_tensor(image) for image, _ in rows])
        captions = [caption for _, caption in rows]
        return pixels, tokenizer(captions, padding=True, truncation=True, max_length=77, return_tensors="pt")

    return webdataset.WebLoader(samples, batch_size=_LOADER_BATCH, collate_fn=collate)
