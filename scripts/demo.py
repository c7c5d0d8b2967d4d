#!/usr/bin/env python
"""
A FaRL model from an official checkpoint, and one of your own, on real photos. About three minutes on two CPU cores.

1. An official-format ViT-B/16 checkpoint becomes a Hugging Face folder, and is opened with AutoModel and AutoProcessor.
   Without --weights its numbers are seeded noise, for machines that cannot reach the official files.
2. The `tiny` preset is pre-trained (contrastive and masked-image loss) on image-caption shards made from the photos
   that scikit-image ships.
3. The result classifies views of those photos that it has not seen, by caption.

Everything lands in demo_output/. A finished stage is not repeated; delete its folder to run it again.
"""

import argparse
import io
import json
import random
import tarfile
import textwrap
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor, CLIPModel
from transformers.utils import logging

import farl_hf
from farl_hf.modeling_farl import FaRLForPreTraining
from farl_hf.tokenization import build_processor

# Photos of the scikit-image package and what they show. The astronaut is Eileen Collins, photographed by NASA.
PHOTOS = {
    "astronaut": "a portrait of a smiling astronaut in an orange suit",
    "camera": "a black and white photo of a man with a camera",
    "chelsea": "a close-up of a tabby cat",
    "coffee": "a cup of coffee on a wooden table",
    "coins": "old coins on a dark ground",
    "rocket": "a rocket on its launch pad",
    "moon": "the surface of the moon",
    "brick": "a wall of bricks",
    "grass": "a meadow of grass",
    "gravel": "a path of gravel",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="seeded", help="ep16, ep64, a checkpoint file, or 'seeded' (default)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for results")
    parser.add_argument("--seconds", type=float, default=60, help="time for pre-training (default: 60)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    # CLIPModel reports the masked-image branch, which it has no use for.
    logging.set_verbosity_error()

    print("\n1. Official checkpoint -> Hugging Face folder")
    convert_and_reload(arguments.weights, arguments.output / f"farl-base-{Path(arguments.weights).stem}")
    print("\n2. Shards of real photos, and a tiny FaRL pre-trained on them")
    shards = make_shards(arguments.output / "shards")
    pretrain(shards, arguments.output / "farl-tiny", arguments.seconds)
    print("\n3. Zero-shot classification of unseen views")
    classify(arguments.output / "farl-tiny", arguments.output)


def convert_and_reload(weights: str, folder: Path) -> None:
    if not (folder / "config.json").exists():
        if weights == "seeded":
            weights = write_seeded_checkpoint(folder.with_name("seeded.pth"))
        result = farl_hf.convert_checkpoint(weights, folder)
        print(f"{result.output}: {result.architecture}, {result.num_tensors} tensors")
        folder.with_name("seeded.pth").unlink(missing_ok=True)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    captions = list(PHOTOS.values())
    photo = Image.fromarray(skimage.data.astronaut())
    inputs = processor(images=photo, text=captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
        difference = (logits - CLIPModel.from_pretrained(folder)(**inputs).logits_per_image).abs().max()
    print(f"AutoModel and AutoProcessor: logits {tuple(logits.shape)}; CLIPModel differs by at most {difference:.1e}")


def write_seeded_checkpoint(path: Path) -> Path:
    """A file of the official layout whose numbers are those of a fresh model, by way of the converter's way back."""
    torch.manual_seed(0)
    fresh = path.with_name("fresh")
    FaRLForPreTraining(farl_hf.FaRLConfig.from_preset("base")).save_pretrained(fresh)
    farl_hf.convert_checkpoint(fresh, path.with_name("fresh-clip"), to="clip", overwrite=True)
    (path.with_name("fresh-clip") / "openai_clip.pth").rename(path)
    return path


def load_photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def random_view(photo: Image.Image, rng: random.Random) -> Image.Image:
    """A square of 50 to 90 % of the photo's shorter side, at 96 px."""
    side = round(min(photo.size) * rng.uniform(0.5, 0.9))
    left, top = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
    return photo.resize((96, 96), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def make_shards(folder: Path, views: int = 48) -> list[Path]:
    """Tar files as img2dataset writes them: `.jpg`, `.txt` and `.json` under one key per sample."""
    if not (folder / "done").exists():
        folder.mkdir(exist_ok=True)
        rng = random.Random(0)
        samples = [(name, random_view(load_photo(name), rng)) for name in PHOTOS for _ in range(views)]
        rng.shuffle(samples)
        for shard in range(4):
            with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
                for i, (name, view) in enumerate(samples[shard::4]):
                    jpeg = io.BytesIO()
                    view.save(jpeg, "JPEG", quality=95)
                    key = f"{shard:05d}{i:04d}"
                    description = {"key": key, "caption": PHOTOS[name], "status": "success", "width": 96, "height": 96}
                    add_file(archive, f"{key}.jpg", jpeg.getvalue())
                    add_file(archive, f"{key}.txt", PHOTOS[name].encode())
                    add_file(archive, f"{key}.json", json.dumps(description).encode())
        (folder / "done").touch()
    shards = sorted(folder.glob("*.tar"))
    print(f"{len(shards)} shards with {len(PHOTOS) * views} views of {len(PHOTOS)} photos in {folder}")
    return shards


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def read_shards(shards: list[Path], processor) -> tuple[torch.Tensor, torch.Tensor]:
    """All images (samples, 3, 96, 96) and padded token ids (samples, length) of small shards."""
    from datasets import load_dataset

    samples = load_dataset("webdataset", data_files=[str(path) for path in shards], split="train", streaming=True)
    images, captions = zip(*((sample["jpg"], sample["txt"]) for sample in samples), strict=True)
    inputs = processor(images=list(images), text=list(captions), padding=True, return_tensors="pt")
    return inputs.pixel_values, inputs.input_ids


def pretrain(shards: list[Path], folder: Path, seconds: float, batch_size: int = 32) -> None:
    if (folder / "config.json").exists():
        print(f"{folder} is there already")
        return
    torch.manual_seed(0)
    config = farl_hf.FaRLConfig.from_preset("tiny", mim_vocab_size=64)
    model, processor = FaRLForPreTraining(config), build_processor(96)
    pixel_values, input_ids = read_shards(shards, processor)
    # Visual codes for the masked patches: the nearest of 64 random directions to each patch.
    directions = torch.randn(3 * 8 * 8, config.mim_vocab_size)
    patches = torch.nn.functional.unfold(pixel_values, 8, stride=8).transpose(1, 2)
    codes = ((patches - patches.mean(-1, keepdim=True)) @ directions).argmax(dim=-1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    curves = {"itc_loss": [], "mim_loss": []}
    start, progress = time.time(), tqdm(desc="pre-training", unit="step")
    while time.time() - start < seconds:
        rows = torch.randperm(len(pixel_values))[:batch_size]
        output = model(
            input_ids[rows],
            pixel_values[rows],
            bool_masked_pos=torch.rand(codes[rows].shape) < 0.4,
            mim_targets=codes[rows],
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        for name, curve in curves.items():
            curve.append(output[name].item())
        progress.set_postfix({name: f"{curve[-1]:.3f}" for name, curve in curves.items()})
        progress.update()
    progress.close()
    for name, curve in curves.items():
        edge = max(1, len(curve) // 10)
        print(f"{name}: {np.mean(curve[:edge]):.3f} (first tenth) -> {np.mean(curve[-edge:]):.3f} (last tenth)")
    draw_curves(curves, folder.with_name("loss.png"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def draw_curves(curves: dict[str, list[float]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3))
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        axis.plot(curve, linewidth=0.8)
        axis.set(title=name, xlabel="step")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def classify(folder: Path, output: Path, views: int = 5) -> None:
    """New random views, of the photos the model was trained on: it has seen the scenes, not these cut-outs."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    rng = random.Random(1)
    names = list(PHOTOS)
    images = [random_view(load_photo(name), rng) for name in names for _ in range(views)]
    inputs = processor(images=images, text=list(PHOTOS.values()), padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits_per_image.softmax(dim=1)
    predicted = probabilities.argmax(dim=1).view(len(names), views)
    correct = predicted == torch.arange(len(names))[:, None]
    print(f"{'photo':<12} right of {views}   caption")
    for name, row in zip(names, correct, strict=True):
        print(f"{name:<12} {int(row.sum()):>10}   {PHOTOS[name]}")
    print(f"{int(correct.sum())} of {correct.numel()} unseen views ({1 / len(names):.0%} by chance)")

    figure, axes = plt.subplots(2, len(names) // 2, figsize=(14, 7.2), layout="constrained")
    for i, axis in enumerate(axes.flat):
        best = int(predicted[i, 0])
        axis.imshow(images[i * views])
        axis.set_title(
            f"{textwrap.fill(PHOTOS[names[best]], 26)}\n{probabilities[i * views, best]:.0%}",
            fontsize=9,
            color="darkgreen" if best == i else "firebrick",
        )
        axis.axis("off")
    figure.savefig(output / "zero_shot.png", dpi=110)
    print(f"Pictures: {output / 'loss.png'}, {output / 'zero_shot.png'}. Model: {folder}")


if __name__ == "__main__":
    main()
