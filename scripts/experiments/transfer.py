"""
What pre-training is good for: parsing, alignment and attributes of generated faces, learnt from few and many labels, in
every tuning, from a pre-trained farl-tiny and from random weights, with one recipe for all.
"""

import json
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from farl_hf.finetuning import BENCHMARKS, FinetuneConfig, default_training_arguments, finetune
from farl_hf.finetuning.faces import EvaluationFaces, FaceRows
from farl_hf.synthetic import write_celeba, write_ibug300w, write_lapa

from . import learning
from .learning import IMAGE_SIZE, folder_name
from .spread import cells

# Task -> data set and score.
TASKS = {
    "parsing": ("lapa", "mean F1"),
    "alignment": ("ibug300w", "NME (inter-ocular)"),
    "attributes": ("celeba", "mean accuracy"),
}
# What `learning` trained -> name of the start.
STARTS = {"no training": "random", "ITC + MIM": "pre-trained"}
TUNINGS = ("full", "frozen", "lora")
RATIOS = (0.01, 0.1, 1.0)
# Seed of the generator, apart from those of pre-training; every split has another.
DATA_SEED = 101
FACES = replace(learning.FACES, image_size=96)


@dataclass(frozen=True)
class TransferSizes:
    """
    How much is done.

    Args:
        train_faces, test_faces: Of each task.
        steps: Optimizer steps of each run, whatever the share of the data.
        batch_size: Faces per step.
        seeds: Runs of each combination, each from the pre-training of its own seed.
    """

    train_faces: int = 1_000
    test_faces: int = 200
    steps: int = 100
    batch_size: int = 8
    seeds: int = 3


def run_transfer(
    learned: str | Path, output_dir: str | Path, sizes: TransferSizes, tasks: list[str] | None = None
) -> dict[str, Any]:
    """
    Fine-tunes and tests every combination of seed, task, share of the data, tuning and start. What is done already is
    kept.

    Args:
        learned: Folder of `run_learning`, with as many seeds.
        output_dir: For data, one folder per run, `transfer.json` and `transfer.md`.
        sizes: How much is done. Another size needs another folder.
        tasks: Some of `TASKS`; by default all.

    Returns:
        What `transfer.json` holds: `sizes`; `rows` with `task`, `ratio`, `tuning`, `start`, `seed` and `score` (a
        fraction, on the test split, of the last weights); `baselines` by task.

    Raises:
        FileNotFoundError: If `learned` lacks a start.
    """
    output = Path(output_dir)
    for seed, arm in product(range(sizes.seeds), STARTS):
        if not (Path(learned) / folder_name(arm, seed)).is_dir():
            raise FileNotFoundError(f"{learned} has no {folder_name(arm, seed)}: run scripts/learning.py first.")
    tasks, rows, baselines = tasks or list(TASKS), [], {}
    for task in tasks:
        data = output / "data" / task
        write_data(task, data, sizes)
        baselines[task] = baseline(task, data)
    for seed, task, ratio, tuning, (arm, start) in product(range(sizes.seeds), tasks, RATIOS, TUNINGS, STARTS.items()):
        data, folder = output / "data" / task, output / f"{task}-{100 * ratio:g}-{tuning}-{start}-{seed}"
        if not (folder / "results.json").exists():
            model = str(Path(learned) / folder_name(arm, seed))
            finetune_once(task, data, model, folder, tuning, ratio, sizes, seed)
        score = headline(task, json.loads((folder / "results.json").read_text())["test_last"]["all"], data)
        rows.append({"task": task, "ratio": ratio, "tuning": tuning, "start": start, "seed": seed, "score": score})
    results = {"sizes": asdict(sizes), "rows": rows, "baselines": baselines}
    (output / "transfer.json").write_text(json.dumps(results, indent=2))
    (output / "transfer.md").write_text(transfer_table(results) + "\n")
    return results


def write_data(task: str, folder: Path, sizes: TransferSizes) -> None:
    """Writes the generated data set of a task in the layout of its benchmark."""
    if task == "alignment":
        challenging = sizes.test_faces // 4
        counts = {
            "train": sizes.train_faces,
            "valid_common": sizes.test_faces - challenging,
            "valid_challenge": challenging,
        }
        write_ibug300w(folder, counts, FACES, DATA_SEED)
        return
    counts = {"train": sizes.train_faces, "val": 1, "test": sizes.test_faces}
    if task == "parsing":
        write_lapa(folder, counts, FACES, DATA_SEED)
    else:
        defined = write_celeba(folder, counts, FACES, DATA_SEED)
        (folder / "defined.json").write_text(json.dumps(defined))


def finetune_once(
    task: str, data: Path, model: str, folder: Path, tuning: str, ratio: float, sizes: TransferSizes, seed: int
) -> None:
    """One run. The same recipe for every start, tuning and share; only adapters have their own learning rate."""
    config = FinetuneConfig(
        dataset=TASKS[task][0],
        data_dir=str(data),
        model=model,
        tuning=tuning,
        image_size=IMAGE_SIZE,
        train_data_ratio=ratio,
        # The paper's 1e-4 and 0.999 are for a model 100 times as large and runs 100 times as long.
        backbone_lr=1e-3 if tuning == "full" else None,
        ema_decay=0.98,
        validation="none",
    )
    arguments = default_training_arguments(
        config,
        output_dir=str(folder),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.batch_size,
        per_device_eval_batch_size=sizes.batch_size,
        save_strategy="no",
        report_to=[],
        logging_steps=50,
        # A new head learns little in so few steps at the recipe's 1e-3; a linear layer alone needs more.
        learning_rate=1e-2 if task == "attributes" else 4e-3,
        seed=seed,
    )
    finetune(config, arguments)


def headline(task: str, scores: dict[str, float], data: Path) -> float:
    """The score of a run; of attributes those that generated faces define, the others being false throughout."""
    if task == "attributes":
        return float(np.mean([scores[name] for name in json.loads((data / "defined.json").read_text())]))
    return scores["fg_mean" if task == "parsing" else "inter_ocular"]


def baseline(task: str, data: Path) -> float:
    """
    The score without looking at the image: the most frequent class of each pixel of the crop, the mean shape in it, or
    the more frequent answer.
    """
    benchmark = BENCHMARKS[TASKS[task][0]]
    processor = benchmark.processor(IMAGE_SIZE, "farl")
    train, test = (FaceRows(benchmark.load(data, split), benchmark.task, processor) for split in ("train", "test"))
    if task == "attributes":
        defined = json.loads((data / "defined.json").read_text())
        answers = [[row["attributes"][name] for name in defined] for row in train.rows.select_columns("attributes")]
        truth = [[row["attributes"][name] for name in defined] for row in test.rows.select_columns("attributes")]
        return float((np.array(truth) == (np.mean(answers, axis=0) > 0.5)).mean())
    truths = []
    for i in range(len(train)):
        image, target, annotation, _ = train.read(i)
        truths.append(train.crop_target(target, annotation, (image.height, image.width)))
    if task == "parsing":
        counts = sum(torch.nn.functional.one_hot(t, len(benchmark.task.labels)) for t in truths)
        answer = {"logits": counts.permute(2, 0, 1)[None].float()}
    else:
        answer = {"landmarks": (sum(truths) / len(truths))[None], "heatmaps": None}
    metric = benchmark.task.new_metric()
    for i in range(len(test)):
        face = EvaluationFaces(test)[i]
        (prediction,) = benchmark.task.predict(
            SimpleNamespace(**answer), processor, [replace(face["transform"], image_index=0)]
        )
        benchmark.task.update_metric(metric, prediction, face["target"], face["box"])
    return headline(task, metric.compute(), data)


def transfer_table(results: dict[str, Any]) -> str:
    """Markdown: one row per task and share of the data, in percent; bold a start that is better beyond the spread."""
    sizes = results["sizes"]
    scores: dict[tuple, list[float]] = {}
    for row in results["rows"]:
        key = row["task"], row["ratio"], row["tuning"], row["start"]
        scores.setdefault(key, []).append(100 * row["score"])
    lines = [
        f"farl-tiny at {IMAGE_SIZE} px, {sizes['steps']} steps of {sizes['batch_size']}; {sizes['train_faces']:,} "
        f"generated training faces, {sizes['test_faces']:,} held-out ones; random weights / pre-trained, mean and "
        f"standard deviation of {sizes['seeds']} seeds, in percent.",
        "",
        "| task | labels | full | frozen | LoRA | without the image |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task, value in results["baselines"].items():
        for ratio in RATIOS:
            pairs = (
                cells([scores[task, ratio, tuning, start] for start in STARTS.values()], 1, task == "alignment")
                for tuning in TUNINGS
            )
            texts = " | ".join(" / ".join(pair) for pair in pairs)
            lines.append(f"| {task}, {TASKS[task][1]} | {100 * ratio:g} % | {texts} | {100 * value:.1f} |")
    return "\n".join(lines)
