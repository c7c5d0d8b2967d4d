"""Suites of pre-training: the step (`pretrain`) and the reader (`data`)."""

import io
import json
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import webdataset
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torchvision import transforms

from farl_hf.allocation import keep_freed_memory
from farl_hf.models.configuration_farl import FaRLConfig
from farl_hf.models.modeling_farl import FaRLForPreTraining
from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.pretraining.image_views import ImageViews
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


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)


def _contrastive_step(scale: Scale, batch: int, side: str) -> Function:
    keep_freed_memory()
    model = seeded_pretraining_model(scale)
    content = {name: value for name, value in example_batch(model, batch).items() if name in ("pixels", "input_ids")}
    if side == "reference":
        return _open_clip_step(model, content)
    return _our_step(model, content, mim_weight=0.0)


def _our_step(model: FaRLForPreTraining, content: dict[str, torch.Tensor], mim_weight: float) -> Function:
    accelerator, objective = Accelerator(cpu=True), PretrainingObjective(model, mim_weight=mim_weight).train()
    optimizer = _optimizer(model)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        result = backward(accelerator, objective, [content])
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
    """One epoch over shards against the package `webdataset`; and memory over few and many shards."""
    for size in sizes:
        for decoder, goal in (("PIL", 1.2), ("our decoder", 0.95)):
            name = f"{images} images of {size} px, against webdataset with {decoder}"
            build = partial(_epoch, size, images // _SHARD_SIZE, decoder)
            yield Case("data", name, build, tolerance=None, goal=goal)
    for shards in (4, 32):
        build = partial(_epoch, sizes[0], shards, "PIL")
        yield Case("data", f"{shards} shards", build, tolerance=None, timed=False, memory=True)


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


def _epoch(size: int, shards: int, decoder: str, side: str) -> Function:
    paths, tokenizer = _shards(size, shards), build_clip_tokenizer()

    def ours() -> int:
        stream = ImageTextStream(paths, tokenizer, ImageViews(image_size=224), _LOADER_BATCH, num_epochs=1)
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
