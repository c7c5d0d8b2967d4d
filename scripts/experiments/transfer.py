"""
What pre-training is good for: parsing, alignment and attributes of generated faces, learnt from few and many labels, in
every tuning, from pre-trained and from random weights of the preset `tiny`, with one recipe for all.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from farl_hf.datasets.labels import CELEBA_ATTRIBUTES
from farl_hf.finetuning import BENCHMARKS, FinetuneConfig, default_training_arguments, finetune
from farl_hf.finetuning.faces import EvaluationFaces, FaceRows
from farl_hf.finetuning.lora import load_task_model
from farl_hf.synthetic import write_celeba, write_ibug300w, write_lapa

from . import learning
from .learning import IMAGE_SIZE, UNTRAINED, area_under_curve, folder_name
from .spread import cells

# Task -> data set and score.
TASKS = {
    "parsing": ("lapa", "mean F1"),
    "alignment": ("ibug300w", "NME (inter-ocular)"),
    "attributes": ("celeba", "mean AUC"),
}
# Start -> its name: what `learning` trained, and what another task's run on all labels from random weights did.
OTHER = "other task"
STARTS = {UNTRAINED: "random", "ITC + MIM": "ITC + MIM", "ITC": "ITC", "MIM": "MIM", OTHER: "another task"}
OTHER_TASKS = {"parsing": "alignment", "alignment": "parsing", "attributes": "alignment"}
# Tuning and start of a run; adapters of random weights and frozen ones of half a pre-training tell nothing more. Those
# from another task come after what they start from.
RUNS = (
    ("full", UNTRAINED),
    ("full", "ITC + MIM"),
    ("frozen", UNTRAINED),
    ("frozen", "ITC + MIM"),
    ("lora", "ITC + MIM"),
    ("full", "ITC"),
    ("full", "MIM"),
    ("full", OTHER),
)
RATIOS = (0.01, 0.1, 1.0)
# Of a new head, by how much it learnt in some hundred steps from random weights; a linear layer alone needs more.
HEAD_RATES = {"parsing": 5e-3, "alignment": 5e-3, "attributes": 1e-2}
# The face fills the crop, or its small parts are no pixels (the benchmark's own is 1).
FACE_SCALES = {"parsing": 1.8}
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
    steps: int = 600
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
        tasks: Some of `TASKS`; by default all. What would start from a task that is left out is left out, too.

    Returns:
        What `transfer.json` holds: `sizes`; `rows` with `task`, `ratio`, `tuning`, `start`, `seed` and `score` (a
        fraction, on the test split, of the last weights); `baselines` by task.

    Raises:
        FileNotFoundError: If `learned` lacks a start.
    """
    output = Path(output_dir)
    for seed, arm in product(range(sizes.seeds), (UNTRAINED, *learning.ARMS)):
        if not (Path(learned) / folder_name(arm, seed)).is_dir():
            raise FileNotFoundError(f"{learned} has no {folder_name(arm, seed)}: run scripts/learning.py first.")
    tasks, rows, baselines = tasks or list(TASKS), [], {}
    for task in tasks:
        data = output / "data" / task
        write_data(task, data, sizes)
        baselines[task] = baseline(task, data)
    for seed, (tuning, arm), ratio, task in product(range(sizes.seeds), RUNS, RATIOS, tasks):
        if arm == OTHER and OTHER_TASKS[task] not in tasks:
            continue
        folder = run_folder(output, task, ratio, tuning, arm, seed)
        record = folder / "score.json"
        if not record.exists():
            data, model = output / "data" / task, Path(learned) / folder_name(arm, seed)
            if arm == OTHER:
                model = run_folder(output, OTHER_TASKS[task], 1.0, "full", UNTRAINED, seed)
            record.write_text(json.dumps(finetune_once(task, data, model, folder, tuning, ratio, sizes, seed)))
        score = json.loads(record.read_text())
        rows.append(
            {"task": task, "ratio": ratio, "tuning": tuning, "start": STARTS[arm], "seed": seed, "score": score}
        )
    results = {"sizes": asdict(sizes), "rows": rows, "baselines": baselines}
    (output / "transfer.json").write_text(json.dumps(results, indent=2))
    (output / "transfer.md").write_text(transfer_table(results) + "\n")
    return results


def run_folder(output: Path, task: str, ratio: float, tuning: str, arm: str, seed: int) -> Path:
    """Of one run."""
    return output / f"{task}-{100 * ratio:g}-{tuning}-{folder_name(arm, seed)}"


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
    task: str, data: Path, model: Path, folder: Path, tuning: str, ratio: float, sizes: TransferSizes, seed: int
) -> float:
    """
    The score of one run on the test split. The recipe is the same for every start, tuning and share; only adapters have
    their own learning rate. Crops are not varied: the recipe's variation is more than some hundred steps can learn.
    """
    config = FinetuneConfig(
        dataset=TASKS[task][0],
        data_dir=str(data),
        model=str(model),
        tuning=tuning,
        image_size=IMAGE_SIZE,
        train_data_ratio=ratio,
        # The paper's 1e-4 and 0.999 are for a model 100 times as large and runs 100 times as long.
        backbone_lr=1e-3 if tuning == "full" else None,
        ema_decay=0.98,
        validation="none",
        augment=False,
        target_face_scale=FACE_SCALES.get(task),
    )
    arguments = default_training_arguments(
        config,
        output_dir=str(folder),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.batch_size,
        per_device_eval_batch_size=sizes.batch_size,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        # Processes that read beside so small a model cost more than they save.
        dataloader_num_workers=0,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        save_strategy="no",
        report_to=[],
        logging_steps=50,
        learning_rate=HEAD_RATES[task],
        seed=seed,
    )
    result = finetune(config, arguments)
    if task == "attributes":
        return mean_area_under_curve(folder, data, sizes.batch_size)
    return headline(task, result.test_last["all"])


def headline(task: str, scores: dict[str, float]) -> float:
    """A benchmark's main score; of attributes the mean accuracy, less telling than `mean_area_under_curve`."""
    return scores[{"parsing": "fg_mean", "alignment": "inter_ocular", "attributes": "mean"}[task]]


def face_rows(task: str, data: Path, split: str) -> FaceRows:
    """Faces of a split with the crops of these runs, in the convention of inputs of other sizes than 448."""
    benchmark = BENCHMARKS[TASKS[task][0]]
    processor = benchmark.processor(IMAGE_SIZE, "facer", FACE_SCALES.get(task))
    return FaceRows(benchmark.load(data, split), benchmark.task, processor)


@torch.no_grad()
def mean_area_under_curve(folder: Path, data: Path, batch_size: int) -> float:
    """Of the attributes that generated faces define (others are false throughout) and that some test faces have."""
    model = load_task_model(folder).eval()
    faces = EvaluationFaces(face_rows("attributes", data, "test"))
    logits, truth = [], []
    loader: Iterable[list[Any]] = torch.utils.data.DataLoader(faces, batch_size, collate_fn=list)
    for batch in loader:
        logits.append(model(pixel_values=torch.stack([face["pixel_values"] for face in batch])).logits)
        truth += [face["target"] > 0.5 for face in batch]
    columns = [CELEBA_ATTRIBUTES.index(name) for name in json.loads((data / "defined.json").read_text())]
    answers, true = torch.cat(logits), torch.from_numpy(np.stack(truth))
    return float(np.nanmean([area_under_curve(answers[:, i], true[:, i]) for i in columns]))


def baseline(task: str, data: Path) -> float:
    """
    The score without looking at the image: the most frequent class of each pixel of the crop, the mean shape in it, or
    one order of all faces.
    """
    if task == "attributes":
        return 0.5
    train, test = (face_rows(task, data, split) for split in ("train", "test"))
    processor, truths = train.processor, []
    for i in range(len(train)):
        image, target, annotation, _ = train.read(i)
        truths.append(train.crop_target(target, annotation, (image.height, image.width)))
    if task == "parsing":
        counts = sum(torch.nn.functional.one_hot(t, len(train.task.labels)) for t in truths)
        answer = {"logits": counts.permute(2, 0, 1)[None].float()}
    else:
        answer = {"landmarks": (sum(truths) / len(truths))[None], "heatmaps": None}
    metric = train.task.new_metric()
    for i in range(len(test)):
        face: Any = EvaluationFaces(test)[i]
        (prediction,) = train.task.predict(
            SimpleNamespace(**answer), processor, [replace(face["transform"], image_index=0)]
        )
        train.task.update_metric(metric, prediction, face["target"], face["box"])
    return headline(task, metric.compute())


def transfer_table(results: dict[str, Any]) -> str:
    """
    Markdown: one row per task and share of the data, in percent. Bold is a start that is better than random weights in
    full tuning, and a tuning that is better than every other, beyond the spread.
    """
    sizes = results["sizes"]
    scores: dict[tuple, list[float]] = {}
    for row in results["rows"]:
        key = row["task"], row["ratio"], row["tuning"], row["start"]
        scores.setdefault(key, []).append(100 * row["score"])
    tunings = {
        "full": ("full", "ITC + MIM"),
        "LoRA": ("lora", "ITC + MIM"),
        "frozen": ("frozen", "ITC + MIM"),
        "frozen, random weights": ("frozen", "random"),
    }
    lines = [
        f"The preset tiny at {IMAGE_SIZE} px, {sizes['steps']} steps of {sizes['batch_size']}; "
        f"{sizes['train_faces']:,} generated training faces, {sizes['test_faces']:,} held-out ones; mean and standard "
        f"deviation of {sizes['seeds']} seeds, in percent.",
    ]
    for title, columns, reference in (
        ("full tuning from", {start: ("full", start) for start in STARTS.values()}, 0),
        ("tuning", tunings, None),
    ):
        lines += ["", f"| {title} | labels | {' | '.join(columns)} | without the image |"]
        lines.append("| --- " * (len(columns) + 3) + "|")
        for (task, value), ratio in product(results["baselines"].items(), RATIOS):
            groups = [scores.get((task, ratio, *column)) for column in columns.values()]
            texts = " | ".join(cells(groups, 1, task == "alignment", reference))
            lines.append(f"| {task}, {TASKS[task][1]} | {100 * ratio:g} % | {texts} | {100 * value:.1f} |")
    return "\n".join(lines)
