#!/usr/bin/env python
"""
FaRL at work, on a laptop and without a network.

 1. The small weights that come with this package, on a real photo: parts, landmarks, attributes, captions.
 2. Then the life of a model: generated faces are written as image-caption shards and as labelled data sets,
 3. a tiny FaRL is pre-trained on the captions (contrastive and masked-image loss),
 4. parsing and alignment are fine-tuned, from random weights and from those of the package,
 5. a LoRA adapter is trained for parsing,
 6. and the fine-tuned models look at the photo, too.
 demo_output/report.html shows pictures, curves and tables.

Every stage keeps its result under the output folder and is skipped when it is there; a killed run goes on where it
stopped. --quick does everything at a small size.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import skimage.data
import torch
from experiments.transfer import baseline, headline
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.utils import logging

import farl_hf
from farl_hf.finetuning import FinetuneConfig, default_training_arguments, finetune, load_task_model
from farl_hf.hub.cards import write_model_card
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.loop import pretrain
from farl_hf.synthetic import SyntheticFaceConfig
from farl_hf.synthetic.writers import write_ibug300w, write_lapa, write_webdataset

FACES = SyntheticFaceConfig(image_size=128)
# Seeds of the generator: no picture is in two sets.
PRETRAIN_SEED, FINETUNE_SEED = 31, 32
# Side of the input in fine-tuning: the weights' own, 112, takes half as long again.
FINETUNE_SIZE = 96
CAPTIONS = ("a woman", "a man", "a smiling woman", "a serious woman", "a woman wearing glasses")
# Task -> data set, what its score is called, whether more is better.
TASKS = {"parsing": ("lapa", "mean F1", True), "alignment": ("ibug300w", "NME (inter-ocular)", False)}
STARTS = ("random weights", "farl-tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller everything")
    parser.add_argument("--photo", type=Path, help="a photo of your own (default: the astronaut Eileen Collins)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for results")
    arguments = parser.parse_args()
    # Reports of heads that are new are expected throughout.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    sizes = {
        "pretrain_faces": 160 if arguments.quick else 1000,
        "pretrain_steps": 20 if arguments.quick else 150,
        "train_faces": 100 if arguments.quick else 600,
        "test_faces": 32 if arguments.quick else 120,
        "finetune_steps": 50 if arguments.quick else 180,
    }
    stages = Stages(output, {**sizes, "photo": str(arguments.photo)})
    # The astronaut is a NASA picture, in the public domain; it is part of scikit-image.
    photo = Image.open(arguments.photo) if arguments.photo else Image.fromarray(skimage.data.astronaut())

    print("1. The package's own weights on a real photo")
    shown = stages.run("photo", lambda: show_photo(photo, output))
    print(f"   {output / 'photo.png'}")
    print("2. Generated faces")
    stages.run("data", lambda: generate(output, sizes))
    print("3. Pre-training of a tiny FaRL on captions")
    history = stages.run("farl-pretrained", lambda: pretrain_tiny(output, sizes["pretrain_steps"]))
    print("4. Fine-tuning, from random weights and from those of the package; 5. a LoRA adapter")
    scores: dict[str, dict[str, float]] = {}
    for task in TASKS:
        blind = stages.run(f"{task}-blind", lambda t=task: baseline(t, output / "data" / t))
        scores[task] = {"without looking": blind}
        for start in STARTS:
            name = f"{task}-{start.replace(' ', '-')}"
            scores[task][start] = stages.run(name, lambda t=task, s=start, n=name: tune(t, s, output / n, sizes))
    adapter = output / "parsing-lora"
    scores["parsing"]["farl-tiny, LoRA"] = stages.run(
        adapter.name, lambda: tune("parsing", "farl-tiny", adapter, sizes, tuning="lora")
    )
    print("6. Predictions and report")
    stages.run("predictions", lambda: show_finetuned(photo, output))
    draw_history(history, output / "losses.png")
    (output / "results.json").write_text(json.dumps({"sizes": sizes, "scores": scores, "photo": shown}, indent=2))
    write_report(output, scores, sizes, history, shown)
    print(f"Report: {output / 'report.html'}. Models: the folders beside it, for AutoModel….from_pretrained.")


class Stages:
    """Runs a stage once: its result lies in `results/NAME.json`, and is read back on the next run of equal settings."""

    def __init__(self, output: Path, settings: dict[str, Any]):
        self.folder = output / "results"
        marker = self.folder / "settings.json"
        if marker.exists() and json.loads(marker.read_text()) != settings:
            raise SystemExit(f"{output} holds a run with other settings: remove it, or name another --output.")
        self.folder.mkdir(exist_ok=True)
        marker.write_text(json.dumps(settings))

    def run(self, name: str, make: Callable[[], Any]) -> Any:
        path = self.folder / f"{name}.json"
        if path.exists():
            print(f"   {name}: done before")
            return json.loads(path.read_text())
        start = time.time()
        result = make()
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(result))
        temporary.replace(path)
        print(f"   {name}: {time.time() - start:.0f} s")
        return result


# ------------------------------------------------------------------------------------------------------- a real photo


def show_photo(photo: Image.Image, output: Path) -> dict[str, dict[str, float]]:
    """Draws what the shipped models find in the photo; returns the attributes and captions of its first face."""
    faces = farl_hf.analyze(photo)
    faces.draw(photo).save(output / "photo.png")
    if not len(faces):
        return {"attributes": {}, "captions": {}}
    attributes = dict(zip(faces.attribute_names, map(float, faces.attributes[0]), strict=True))
    folder = farl_hf.pretrained("farl-tiny")
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    (face,) = faces[:1].crop(photo)
    inputs = processor(images=face, text=list(CAPTIONS), padding=True, return_tensors="pt")
    with torch.no_grad():
        similarities = model(**inputs).logits_per_image[0]
    return {"attributes": attributes, "captions": dict(zip(CAPTIONS, similarities.tolist(), strict=True))}


def show_finetuned(photo: Image.Image, output: Path) -> int:
    """The models fine-tuned here, on the same photo."""
    for task in TASKS:
        faces = pipeline(f"face-{task}", str(output / f"{task}-farl-tiny"))(photo)
        faces.draw(photo).save(output / f"photo-{task}.png")
    # The adapter opens again as a model.
    return sum(p.numel() for p in load_task_model(output / "parsing-lora").parameters())


# ------------------------------------------------------------------------------------------------ the life of a model


def generate(output: Path, sizes: dict[str, int]) -> int:
    """Image-caption shards, and data sets in the layouts of LaPa and 300W."""
    write_webdataset(output / "shards", sizes["pretrain_faces"], 200, FACES, PRETRAIN_SEED, num_workers=2)
    train, test = sizes["train_faces"], sizes["test_faces"]
    write_lapa(output / "data/parsing", {"train": train, "val": 1, "test": test}, FACES, FINETUNE_SEED, num_workers=2)
    counts = {"train": train, "valid_common": test - test // 4, "valid_challenge": test // 4}
    write_ibug300w(output / "data/alignment", counts, FACES, FINETUNE_SEED, num_workers=2)
    return sum(sizes[name] for name in ("pretrain_faces", "train_faces", "test_faces"))


def pretrain_tiny(output: Path, steps: int) -> list[dict[str, float]]:
    """Killed and started again, it goes on from its newest checkpoint."""
    folder = output / "farl-pretrained"
    config = PretrainConfig.from_recipe(
        "demo",
        train_shards=[str(output / "shards/*.tar")],
        output_dir=str(folder),
        image_size=64,
        batch_size=32,
        max_steps=steps,
        warmup_steps=max(1, steps // 20),
        logging_steps=max(1, steps // 20),
        device="cpu",
    )
    history = pretrain(config).history
    write_model_card(folder)
    return history


def tune(task: str, start: str, folder: Path, sizes: dict[str, int], tuning: str = "full") -> float:
    """Fine-tunes on generated faces; returns the score (a fraction) on held-out ones."""
    pretrained = start == "farl-tiny"
    config = FinetuneConfig(
        dataset=TASKS[task][0],
        data_dir=str(folder.parent / "data" / task),
        model=farl_hf.pretrained(f"farl-tiny-{task}") if pretrained else None,
        preset=None if pretrained else "farl-tiny",
        tuning=tuning,
        image_size=FINETUNE_SIZE,
        # The paper's 1e-4 and 0.999 are for a model 30 times as large and runs 100 times as long.
        backbone_lr=5e-4 if tuning == "full" else None,
        ema_decay=0.98,
        target_face_scale=1.8 if task == "parsing" else None,
        # Varied crops are more than so few steps can learn (model_cards/results.md).
        augment=False,
        validation="none",
    )
    arguments = default_training_arguments(
        config,
        output_dir=str(folder),
        max_steps=sizes["finetune_steps"],
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        learning_rate=5e-3,
        save_strategy="no",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_num_workers=0,
    )
    scores = finetune(config, arguments).test_last["all"]
    return headline(task, scores)


# ------------------------------------------------------------------------------------------------------------- report


def draw_history(history: list[dict[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for axis, (name, title) in zip(
        axes, (("itc_loss", "image-text contrastive"), ("mim_loss", "masked image")), strict=True
    ):
        axis.plot([row["step"] for row in history], [row[name] for row in history])
        axis.set(title=f"{title} loss", xlabel="step")
    figure.savefig(path, dpi=110)
    plt.close(figure)


_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border: 1px solid #ccc; padding: .3rem .7rem; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{name}</th>" for name in header)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def write_report(
    output: Path,
    scores: dict[str, dict[str, float]],
    sizes: dict[str, int],
    history: list[dict[str, float]],
    shown: dict[str, dict[str, float]],
) -> None:
    attributes = sorted(shown["attributes"].items(), key=lambda item: -item[1])[:8]
    captions = sorted(shown["captions"].items(), key=lambda item: -item[1])
    tuned = ""
    for task, (_, name, greater) in TASKS.items():
        rows = [[start, f"{100 * score:.1f}"] for start, score in scores[task].items()]
        better = (scores[task]["farl-tiny"] > scores[task]["random weights"]) == greater
        tuned += f"<h3>Face {task}</h3>{table(['start', f'{name}, percent'], rows)}"
        tuned += f"<p>{'Higher' if greater else 'Lower'} is better: here the trained start "
        tuned += f"{'helps' if better else 'does not help'}.</p><img src='photo-{task}.png' alt='{task}'>"
    ends = history[0], history[-1]
    losses = [[name, *(f"{row[name]:.3f}" for row in ends)] for name in ("itc_loss", "mim_loss")]
    (output / "report.html").write_text(
        f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>FaRL demonstration</title>
<style>{_STYLE}</style></head><body>
<h1>FaRL at work</h1>
<img src="photo.png" alt="parts, landmarks and attributes of a face">
<p>Found by <code>farl-tiny</code>, the small weights in this package, which have seen generated faces only. The larger
official ones are one <code>farl convert lapa farl-lapa</code> away.</p>
{table(["attribute", "probability"], [[name, f"{value:.2f}"] for name, value in attributes])}
{table(["caption", "similarity"], [[text, f"{value:.2f}"] for text, value in captions])}
<h2>The life of a model</h2>
<h3>Pre-training</h3>
<p>{sizes["pretrain_faces"]} generated faces with captions, {history[-1]["step"]} steps of 32.</p>
{table(["", "first steps", "last steps"], losses)}<img src="losses.png" alt="loss curves">
<h2>Fine-tuning</h2>
<p>{sizes["train_faces"]} generated faces, {sizes["finetune_steps"]} steps of 16 each; scores on
{sizes["test_faces"]} held-out generated faces. "farl-tiny" starts from the package's model of the task, which was
trained on other generated faces and other crops; "without looking" answers with the most frequent class of every
pixel, or the mean shape. The pictures are predictions of the models fine-tuned here.</p>
{tuned}
<p>All numbers are from this run. Seeds {PRETRAIN_SEED} (captions) and {FINETUNE_SEED} (labels; every split has its
own) share no picture.</p></body></html>"""
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
