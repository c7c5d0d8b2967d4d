#!/usr/bin/env python
"""
The whole life of a FaRL model, on a laptop and without a network.

 1. An official-format ViT-B/16 checkpoint becomes a Hugging Face folder, and is opened with AutoModel.
 2. Generated faces with captions are written as image-text shards.
 3. A tiny FaRL is pre-trained on them: contrastive and masked-image loss.
 4. It classifies attributes of held-out faces by caption (zero-shot).
 5. Face parsing and face alignment are fine-tuned from it and from scratch, on few and on many faces.
 6. A LoRA adapter is trained for parsing.
 7. All of it predicts on held-out generated faces, and on a real photo.
 8. demo_output/report.html shows curves, tables and pictures.

Every stage keeps its result under the output folder and is skipped when it is there; a killed run goes on where it
stopped, at the latest stage. --quick takes about 2 minutes on 2 CPU cores, the full run less than 10.
"""

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    BatchFeature,
    CLIPModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

import farl_hf
from farl_hf.datasets.labels import LAPA_LABELS
from farl_hf.hub.cards import write_model_card
from farl_hf.metrics import FaceParsingF1, LandmarkNME
from farl_hf.models.geometry_farl import photo_to_crop, warp_image
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.loop import pretrain
from farl_hf.synthetic import SyntheticFaceConfig, SyntheticFaces, SyntheticFaceSample, write_webdataset

IMAGE_SIZE = 64
FACES = SyntheticFaceConfig(image_size=96)
# Seeds of the generator: no picture is in two of these sets.
PRETRAIN_SEED, FINETUNE_SEED, TEST_SEED = 1, 2, 3

# Attribute -> (caption if it holds, caption if not).
PROMPTS = {
    "Male": ("a photo of a man", "a photo of a woman"),
    "Young": ("a photo of a young person", "a photo of an old person"),
    "Smiling": ("a smiling face", "a serious face"),
    "Eyeglasses": ("a face wearing glasses", "a face"),
    "Wearing_Hat": ("a face wearing a hat", "a face"),
    "Bald": ("a face with a bald head", "a face with hair"),
    "Black_Hair": ("a face with black hair", "a face with brown hair"),
    "Blond_Hair": ("a face with blond hair", "a face with brown hair"),
    "Gray_Hair": ("a face with grey hair", "a face with brown hair"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller everything, about 2 minutes")
    parser.add_argument("--weights", default="seeded", help="ep16, ep64, a checkpoint file, or 'seeded' (default)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for results")
    arguments = parser.parse_args()
    # Reports of heads that are new, or of branches that CLIPModel has no use for, are expected throughout.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    quick = arguments.quick
    sizes = {
        "pretrain_faces": 400 if quick else 3000,
        "pretrain_steps": 40 if quick else 400,
        "finetune_steps": 30 if quick else 160,
        "few": 32,
        "many": 96 if quick else 600,
        "test": 48 if quick else 200,
    }
    stage = Stages(output, sizes)

    print("1. Official checkpoint -> Hugging Face folder")
    base = output / f"farl-base-{Path(arguments.weights).stem}"
    conversion = stage.run(base.name, lambda: convert_and_reload(arguments.weights, base))
    print("2. Image-text shards of generated faces")
    stage.run("shards", lambda: make_shards(output / "shards", sizes["pretrain_faces"]))
    print("3. Pre-training of a tiny FaRL")
    tiny = output / "farl-tiny"
    history = stage.run(
        "farl-tiny", lambda: pretrain_tiny(output / "shards", tiny, sizes["pretrain_steps"]), goes_on=True
    )
    print("4. Zero-shot attributes of held-out faces")
    zero_shot = stage.run("zero-shot", lambda: classify_attributes(tiny, sizes["test"]))
    print("5. Fine-tuning, from the pre-trained model and from scratch")
    rows = []
    for task in ("parsing", "alignment"):
        for faces in (sizes["few"], sizes["many"]):
            for start in ("scratch", "pre-trained"):
                name = f"{task}-{faces}-{start}"
                score = stage.run(name, lambda n=name, t=task, f=faces, s=start: finetune(n, t, f, s, output, sizes))
                rows.append({"task": task, "faces": faces, "start": start, "score": score})
    print("6. LoRA adapter for parsing")
    lora = stage.run("lora", lambda: train_lora(output, sizes))
    print("7. Predictions, 8. report")
    best = {task: output / f"{task}-{sizes['many']}-pre-trained" for task in ("parsing", "alignment")}
    baseline = mean_shape_error(sizes)
    draw_history(history, output / "losses.png")
    draw_predictions(best, output / "predictions.png")
    draw_real_photo(best, output / "real_photo.png")
    results = {
        "conversion": conversion,
        "zero_shot": zero_shot,
        "finetuning": rows,
        "lora": lora,
        "mean_shape": baseline,
    }
    (output / "results.json").write_text(json.dumps({**results, "sizes": sizes}, indent=2))
    write_report(output, results, sizes, history)
    print(
        f"Report: {output / 'report.html'}. Models: {tiny}, {best['parsing']}, {best['alignment']}, {output / 'lora'}"
    )


class Stages:
    """Runs a stage once: its result lies in `results/NAME.json`, and is read back on the next run of equal sizes."""

    def __init__(self, output: Path, sizes: dict[str, int]):
        self.folder, self.output = output / "results", output
        marker = self.folder / "sizes.json"
        if marker.exists() and json.loads(marker.read_text()) != sizes:
            for leftover in (self.folder, output / "farl-tiny"):
                shutil.rmtree(leftover, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        marker.write_text(json.dumps(sizes))

    def run(self, name: str, make: Callable[[], object], goes_on: bool = False) -> object:
        """With `goes_on`, what a killed run left of the stage is kept for it."""
        path = self.folder / f"{name}.json"
        if path.exists():
            print(f"   {name}: done before")
            return json.loads(path.read_text())
        if not goes_on:
            shutil.rmtree(self.output / name, ignore_errors=True)
        start = time.time()
        result = make()
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(result))
        temporary.replace(path)
        print(f"   {name}: {time.time() - start:.0f} s")
        return result


# ------------------------------------------------------------------------------------------- the official checkpoint


def convert_and_reload(weights: str, folder: Path) -> dict:
    """Converts and reopens the checkpoint; without weights, one of the official layout with seeded numbers."""
    if weights == "seeded":
        fresh = folder.with_name("fresh")
        farl_hf.FaRLForPreTraining(farl_hf.FaRLConfig.from_preset("base")).save_pretrained(fresh)
        farl_hf.convert_checkpoint(fresh, folder.with_name("fresh-clip"), to="clip", overwrite=True)
        result = farl_hf.convert_checkpoint(folder.with_name("fresh-clip") / "openai_clip.pth", folder)
        shutil.rmtree(fresh)
        shutil.rmtree(folder.with_name("fresh-clip"))
    else:
        result = farl_hf.convert_checkpoint(weights, folder)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    texts = ["a portrait of an astronaut", "a photo of a cat", "a cup of coffee"]
    photo = Image.fromarray(skimage.data.astronaut())
    inputs = processor(images=photo, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits_per_image.softmax(dim=1)[0]
        clip = CLIPModel.from_pretrained(folder)(**inputs).logits_per_image.softmax(dim=1)[0]
    difference = (clip - probabilities).abs().max()
    print(f"   {result.architecture}, {result.num_tensors} tensors; CLIPModel differs by at most {difference:.0e}")
    return {"tensors": result.num_tensors, "probabilities": dict(zip(texts, probabilities.tolist(), strict=True))}


# ------------------------------------------------------------------------------------------------------ pre-training


def make_shards(folder: Path, count: int) -> int:
    return len(write_webdataset(folder, count, 200, FACES, PRETRAIN_SEED, num_workers=os.cpu_count() or 1))


def pretrain_tiny(shards: Path, folder: Path, steps: int) -> list[dict[str, float]]:
    """Killed and started again, it goes on from its newest checkpoint."""
    config = PretrainConfig.from_recipe(
        "demo",
        train_shards=[str(shards / "*.tar")],
        output_dir=str(folder),
        image_size=IMAGE_SIZE,
        batch_size=32,
        max_steps=steps,
        warmup_steps=max(1, steps // 20),
        logging_steps=max(1, steps // 40),
        device="cpu",
    )
    history = pretrain(config).history
    write_model_card(folder)
    return history


def classify_attributes(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Area under the ROC curve of "first caption fits better than the second", per attribute. Chance is 0.5."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    samples = list(SyntheticFaces(count, FACES, TEST_SEED))
    texts = [text for pair in PROMPTS.values() for text in pair]
    with torch.no_grad():
        inputs = processor(images=[s.image for s in samples], text=texts, padding=True, return_tensors="pt")
        similarities = model(**inputs).logits_per_image.view(count, len(PROMPTS), 2)
    table = {}
    for i, name in enumerate(PROMPTS):
        truth = np.array([sample.faces[0].attributes[name] for sample in samples])
        score = (similarities[:, i, 0] - similarities[:, i, 1]).numpy()
        table[name] = {"positives": int(truth.sum()), "auc": area_under_roc(score, truth)}
    return table


def area_under_roc(score: np.ndarray, truth: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative."""
    wins = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    return float(wins.mean()) if wins.size else float("nan")


# ------------------------------------------------------------------------------------------------------- fine-tuning


def face_processor(task: str) -> farl_hf.FaRLFaceImageProcessor:
    """The crops of the original: five-point alignment with tanh warp for LaPa's parsing, boxes for alignment."""
    if task == "parsing":
        # Closer than the original's scale of 1: at 64 px an eye would have 8 pixels.
        return farl_hf.FaRLFaceImageProcessor(
            align="lapa", size=IMAGE_SIZE, warp_factor=0.8, target_face_scale=1.8, convention="facer"
        )
    return farl_hf.FaRLFaceImageProcessor(align="box", size=IMAGE_SIZE, target_face_scale=0.8, convention="facer")


def crop_faces(samples: list[SyntheticFaceSample], task: str) -> BatchFeature:
    """One crop per picture, by its own five points or landmark box. Half a pixel: this convention counts from edges."""
    images, processor = [sample.image for sample in samples], face_processor(task)
    if task == "parsing":
        return processor(images, face_points=[sample.faces[0].landmarks[5][None] + 0.5 for sample in samples])
    points = [sample.faces[0].landmarks[68] + 0.5 for sample in samples]
    return processor(images, boxes=[[[*p.min(axis=0), *p.max(axis=0)]] for p in points])


def training_rows(samples: list[SyntheticFaceSample], task: str) -> list[dict[str, torch.Tensor]]:
    crops = crop_faces(samples, task)
    rows = []
    for sample, pixel_values, transform in zip(samples, crops["pixel_values"], crops["face_transforms"], strict=True):
        matrix, size, warp = transform.matrix, transform.crop_size, transform.warp_factor
        if task == "parsing":
            label_map = torch.from_numpy(sample.lapa_labels)[None, None].float()
            labels = warp_image(label_map, matrix[None], size, warp, "facer", mode="nearest")[0, 0].long()
        else:
            points = torch.from_numpy(sample.faces[0].landmarks[68]) + 0.5
            labels = photo_to_crop(points, matrix, size, warp) / size
        rows.append({"pixel_values": pixel_values, "labels": labels})
    return rows


def build_task_model(task: str, start: str, output: Path) -> farl_hf.FaRLPreTrainedModel:
    labels = dict(enumerate(LAPA_LABELS))
    # Smaller target heat maps than the original's (128, radius 5): the crops are smaller too.
    options = (
        {"id2label": labels} if task == "parsing" else {"num_landmarks": 68, "heatmap_size": 32, "heatmap_radius": 2.5}
    )
    model_class = farl_hf.FaRLForFaceParsing if task == "parsing" else farl_hf.FaRLForFaceAlignment
    torch.manual_seed(0)
    if start == "scratch":
        return model_class(farl_hf.FaRLConfig.from_preset("tiny", image_size=IMAGE_SIZE, **options))
    return model_class.from_pretrained(output / "farl-tiny", **options)


@cache
def finetuning_rows(task: str, faces: int) -> list[dict[str, torch.Tensor]]:
    return training_rows(list(SyntheticFaces(faces, FACES, FINETUNE_SEED)), task)


@cache
def held_out(faces: int) -> list[SyntheticFaceSample]:
    return list(SyntheticFaces(faces, FACES, TEST_SEED))


def train(model: torch.nn.Module, task: str, faces: int, folder: Path, steps: int) -> None:
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        # Alignment learns at a higher rate in the original too.
        learning_rate=4e-3 if task == "parsing" else 6e-3,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = Trainer(model, arguments, train_dataset=finetuning_rows(task, faces))
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def finetune(name: str, task: str, faces: int, start: str, output: Path, sizes: dict) -> float:
    model = build_task_model(task, start, output)
    train(model, task, faces, output / name, sizes["finetune_steps"])
    model.save_pretrained(output / name)
    face_processor(task).save_pretrained(output / name)
    score = evaluate(model, task, held_out(sizes["test"]))
    metric = "mean foreground F1" if task == "parsing" else "inter-ocular NME"
    write_model_card(output / name, results=f"## Results\n\nOn held-out *generated* faces: {metric} {score:.4f}.")
    print(f"   {name}: {score:.4f}")
    return score


def predict(model: torch.nn.Module, task: str, samples: list[SyntheticFaceSample]) -> list[torch.Tensor]:
    """Label maps of the pictures (height, width), or landmarks in them (1, 68, 2)."""
    processor, predictions = face_processor(task), []
    for start in range(0, len(samples), 16):
        crops = crop_faces(samples[start : start + 16], task)
        with torch.no_grad():
            outputs = model(pixel_values=crops["pixel_values"])
        if task == "parsing":
            predictions += processor.post_process_semantic_segmentation(outputs, crops["face_transforms"])
        else:
            predictions += processor.post_process_landmarks(outputs, crops["face_transforms"])
    return predictions


def evaluate(model: torch.nn.Module, task: str, samples: list[SyntheticFaceSample]) -> float:
    """Mean foreground F1 of parsing, or inter-ocular NME of alignment, in the pictures."""
    predictions = predict(model.eval(), task, samples)
    if task == "parsing":
        f1 = FaceParsingF1(LAPA_LABELS)
        for predicted, sample in zip(predictions, samples, strict=True):
            f1.update(predicted.numpy(), sample.lapa_labels)
        return f1.compute()["fg_mean"]
    nme = LandmarkNME("ibug300w")
    nme.update(torch.cat(predictions).numpy(), np.stack([sample.faces[0].landmarks[68] for sample in samples]))
    return nme.compute()["inter_ocular"]


def mean_shape_error(sizes: dict) -> float:
    """NME of answering every crop with the mean landmarks of the fine-tuning crops."""
    mean = torch.stack([row["labels"] for row in finetuning_rows("alignment", sizes["many"])]).mean(dim=0)

    class MeanShape(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(landmarks=mean.expand(len(pixel_values), -1, -1))

    return evaluate(MeanShape(), "alignment", held_out(sizes["test"]))


def train_lora(output: Path, sizes: dict) -> dict[str, float]:
    base = build_task_model("parsing", "pre-trained", output)
    lora = LoraConfig(
        r=8,
        target_modules=r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj",
        modules_to_save=["pyramid", "decode_head"],
    )
    model = get_peft_model(base, lora)
    train(model, "parsing", sizes["many"], output / "lora", sizes["finetune_steps"])
    model.save_pretrained(output / "lora")
    score = evaluate(model, "parsing", held_out(sizes["test"]))
    again = PeftModel.from_pretrained(build_task_model("parsing", "pre-trained", output), output / "lora")
    reloaded = evaluate(again, "parsing", held_out(sizes["test"]))
    trainable, total = model.get_nb_trainable_parameters()
    size = (output / "lora/adapter_model.safetensors").stat().st_size / 1e6
    return {"f1": score, "f1_reloaded": reloaded, "trainable": trainable, "parameters": total, "megabytes": size}


# ---------------------------------------------------------------------------------------------------------- pictures


def colours(labels: np.ndarray) -> np.ndarray:
    palette = np.array(plt.get_cmap("tab20").colors[: len(LAPA_LABELS)])
    palette[0] = 0
    return palette[labels]


def draw_history(history: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for axis, (name, title) in zip(
        axes, (("itc_loss", "image-text contrastive"), ("mim_loss", "masked image")), strict=True
    ):
        axis.plot([row["step"] for row in history], [row[name] for row in history])
        axis.set(title=f"{title} loss", xlabel="step")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_predictions(models: dict[str, Path], path: Path, count: int = 6) -> None:
    """Held-out faces: predicted (green) and true (white) landmarks, predicted and true parts."""
    samples = [SyntheticFaces(1000, FACES, TEST_SEED)[i] for i in range(500, 500 + count)]
    label_maps = predict(farl_hf.FaRLForFaceParsing.from_pretrained(models["parsing"]).eval(), "parsing", samples)
    landmarks = predict(farl_hf.FaRLForFaceAlignment.from_pretrained(models["alignment"]).eval(), "alignment", samples)
    figure, axes = plt.subplots(3, count, figsize=(2 * count, 6.2), layout="constrained")
    titles = ("landmarks", "predicted parts", "true parts")
    for i, sample in enumerate(samples):
        axes[0, i].imshow(sample.image)
        axes[0, i].scatter(*sample.faces[0].landmarks[68].T, s=4, color="white")
        axes[0, i].scatter(*landmarks[i][0].numpy().T, s=4, color="lime")
        axes[1, i].imshow(colours(label_maps[i].numpy()))
        axes[2, i].imshow(colours(sample.lapa_labels))
        for row, title in enumerate(titles):
            axes[row, i].axis("off")
            axes[row, i].set_title(title if i == 0 else "", fontsize=9, loc="left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_real_photo(models: dict[str, Path], path: Path) -> None:
    """The astronaut Eileen Collins (NASA, public domain; part of scikit-image), with points and box read off by eye."""
    photo = skimage.data.astronaut()
    points = np.array([[203.0, 101], [246, 103], [222, 127], [203, 139], [246, 140]])
    with torch.no_grad():
        processor = face_processor("parsing")
        crops = processor(photo, face_points=points[None])
        outputs = farl_hf.FaRLForFaceParsing.from_pretrained(models["parsing"]).eval()(crops["pixel_values"])
        (labels,) = processor.post_process_semantic_segmentation(outputs, crops["face_transforms"])
        processor = face_processor("alignment")
        crops = processor(photo, boxes=[[182, 88, 270, 178]])
        outputs = farl_hf.FaRLForFaceAlignment.from_pretrained(models["alignment"]).eval()(crops["pixel_values"])
        (landmarks,) = processor.post_process_landmarks(outputs, crops["face_transforms"])
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
    axes[0].imshow(photo)
    axes[0].scatter(*landmarks[0].numpy().T, s=3, color="lime")
    overlay = 0.5 * photo / 255 + 0.5 * colours(labels.numpy())
    axes[1].imshow(np.where(labels.numpy()[..., None] > 0, overlay, photo / 255))
    for axis in axes:
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ------------------------------------------------------------------------------------------------------------ report

_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border: 1px solid #ccc; padding: .3rem .7rem; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
.note { background: #fff4d6; border-left: 4px solid #e0a800; padding: .6rem 1rem }
"""


def table(header: list[str], rows: list[list]) -> str:
    cells = ["".join(f"<td>{value}</td>" for value in row) for row in rows]
    head = "".join(f"<th>{name}</th>" for name in header)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def write_report(output: Path, results: dict, sizes: dict, history: list[dict]) -> None:
    scores = {(row["task"], row["faces"], row["start"]): row["score"] for row in results["finetuning"]}

    def comparison(task: str, better: Callable[[float, float], bool], factor: float) -> tuple[str, list[str]]:
        rows, verdicts = [], []
        for faces in (sizes["few"], sizes["many"]):
            scratch, pretrained = (scores[task, faces, start] for start in ("scratch", "pre-trained"))
            rows.append([faces, f"{factor * scratch:.2f}", f"{factor * pretrained:.2f}"])
            verdicts.append(
                f"{faces} faces: pre-training {'helps' if better(pretrained, scratch) else 'does not help'}"
            )
        return table(["training faces", "from scratch", "pre-trained"], rows), verdicts

    parsing, parsing_verdicts = comparison("parsing", lambda a, b: a > b, 100)
    alignment, alignment_verdicts = comparison("alignment", lambda a, b: a < b, 100)
    lora = results["lora"]
    zero_shot = [[name, row["positives"], f"{row['auc']:.3f}"] for name, row in results["zero_shot"].items()]
    mean_auc = np.nanmean([row["auc"] for row in results["zero_shot"].values()])
    ends = history[0], history[-1]
    losses = [[name, *(f"{row[name]:.3f}" for row in ends)] for name in ("itc_loss", "mim_loss")]
    accuracies = [[name, *(f"{row[name]:.3f}" for row in ends)] for name in ("itc_accuracy", "mim_accuracy")]
    html = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>FaRL demonstration</title>
<style>{_STYLE}</style></head><body>
<h1>The life of a tiny FaRL</h1>
<p class="note">These models were trained for minutes on few <b>generated faces</b>. They are no face models for real
photos. For those, convert the official weights: <code>farl convert ep64 farl-base</code>, and fine-tune or use the
released task models (<code>farl convert lapa farl-lapa</code>).</p>
<h2>Pre-training</h2>
<p>{sizes["pretrain_faces"]} generated faces with captions, {history[-1]["step"]} steps of 32, at
{history[-1]["samples_per_second"]:.0f} samples per second.</p>
{table(["", "first steps", "last steps"], losses + accuracies)}<img src="losses.png" alt="loss curves">
<h2>Zero-shot attributes</h2>
<p>{sizes["test"]} held-out faces. Area under the ROC curve of "the first caption fits better than the second"; chance
is 0.5, the mean here {mean_auc:.3f}.</p>{table(["attribute", "positives", "AUC"], zero_shot)}
<h2>Face parsing</h2>
<p>Mean foreground F1 (percent) over {sizes["test"]} held-out faces after {sizes["finetune_steps"]} steps.
{"; ".join(parsing_verdicts)}.</p>{parsing}
<p>LoRA on {sizes["many"]} faces: F1 {100 * lora["f1"]:.2f}, reloaded from the adapter folder
{100 * lora["f1_reloaded"]:.2f}; {lora["trainable"]:,} of {lora["parameters"]:,} parameters trained, adapter with head
{lora["megabytes"]:.1f} MB.</p>
<h2>Face alignment</h2>
<p>Inter-ocular NME (percent, lower is better); always answering the mean shape gives
{100 * results["mean_shape"]:.2f}. {"; ".join(alignment_verdicts)}.</p>{alignment}
<img src="predictions.png" alt="predictions on held-out faces">
<h2>A real photo</h2>
<p>The same models on a photo of the astronaut Eileen Collins (NASA, public domain), cut out by a box and pasted back.
Expect little: see the note at the top.</p><img src="real_photo.png" alt="predictions on a real photo">
<p>All numbers are from this run; generator seeds {PRETRAIN_SEED} (pre-training), {FINETUNE_SEED} (fine-tuning) and
{TEST_SEED} (held out) share no picture.</p></body></html>"""
    (output / "report.html").write_text(html)


if __name__ == "__main__":
    random.seed(0)
    main()
