"""Fine-tuning of a task model: recipes, tunings, and the run itself."""

import json
import logging
import os
import random
import resource
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from ..allocation import keep_freed_memory
from ..hub.cards import write_model_card
from ..models.configuration_farl import FaRLConfig
from ..models.image_processing_farl import FaRLFaceImageProcessor
from .augmentation import NO_AUGMENTATION
from .benchmarks import BENCHMARKS, Benchmark, own_benchmark
from .evaluation import ALL, get_benchmark, score_model
from .faces import FaceRows, TrainingFaces
from .lora import add_adapter, is_adapter, load_task_model
from .tasks import AlignmentTask, AttributesTask, FaceTask, ParsingTask
from .trainer import FaRLTrainer

logger = logging.getLogger(__name__)

# The paper's global batch, over 8 GPUs; learning rate of the ViT; decay of every parameter (`optimizers/*.yaml`).
_GLOBAL_BATCH = 40
_BACKBONE_LR = 1e-4
_WEIGHT_DECAY = 1e-5
# Adapters start from zero and want more than the weights that they change.
_ADAPTER_LR = 1e-3
# Share of the training data that is held out where a set has no validation split.
_HELD_OUT = 0.05
_SETTINGS_FILE = "finetune_config.json"


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class FinetuneConfig:
    """Settings of a fine-tuning run beside `TrainingArguments`; `scripts/finetune.py --help` explains each."""

    dataset: str = _option("lapa", f"one of {', '.join(BENCHMARKS)}, or own (with --task)")
    data_dir: str = _option(".", "folder of the data set in its official layout")
    model: str | None = _option(None, "pre-trained or fine-tuned folder, or Hub name")
    preset: str | None = _option(None, "size of a model from random weights, in the place of --model")
    tuning: str = _option("full", "full, frozen (vision tower fixed) or lora")
    recipe: str = _option("short", "short, or paper: as long and as the original, which over-fits")
    image_size: int | None = _option(None, "side of the input; default: the preset's, else 448 (224 for attributes)")
    head_channels: int | None = _option(None, "width of neck and head; default 768; 256 makes small adapters")
    train_data_ratio: float = _option(1.0, "share of the training data, repeated to the full length")
    backbone_lr: float | None = _option(None, "learning rate of the vision tower; default 1e-4, adapters 1e-3")
    ema_decay: float = _option(0.999, "decay of the averaged weights; 0 for none")
    lora_rank: int = _option(8, "rank of the adapters")
    validation: str = _option("auto", "auto (official split, else 5 percent held out), none, or test as in the paper")
    test: bool = _option(True, "evaluate the chosen and the last weights on the test split at the end")
    skip_bad: bool = _option(False, "leave out and count samples that cannot be read")
    strict: bool = _option(False, "fail where a split has not the official number of samples")
    jpeg_round_trip: bool = _option(False, "compress images once more, as the original's repacked data")
    convention: str | None = _option(None, "farl or facer coordinates; default: farl at 448, else facer")
    target_face_scale: float | None = _option(None, "size of the face in the crop; default: the benchmark's")
    augment: bool = _option(True, "the benchmark's augmentation; without it the crops are those of evaluation")
    flip: float = _option(0.0, "probability of mirrored faces; an extension")
    colour_jitter: float = _option(0.0, "strength of colour changes; an extension")
    model_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'config fields as JSON, e.g. {"heatmap_size": 32}'}
    )
    task: str | None = _option(None, "of own data: parsing, alignment or attributes")
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": 'of own data, as JSON: {"image": "photo", "labels": "mask"}'}
    )
    names: list[str] | None = field(
        default=None, metadata={"help": "of own data: class or attribute names in the order of their ids"}
    )
    num_landmarks: int | None = _option(None, "of own data: landmarks per face")
    align: str | None = _option(None, "of own data: lapa, celeba or celebamask_hq (five points), box; default: whole")

    def __post_init__(self):
        if isinstance(self.model_options, str):
            self.model_options = json.loads(self.model_options)
        if isinstance(self.columns, str):
            self.columns = json.loads(self.columns)
        for name, allowed in (
            ("tuning", ("full", "frozen", "lora")),
            ("recipe", ("short", "paper")),
            ("validation", ("auto", "none", "test")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        if (self.model is None) == (self.preset is None):
            raise ValueError("Give a model to start from, or a preset for random weights, and not both.")
        if self.preset is not None and self.tuning == "lora":
            raise ValueError("LoRA adapts a trained model: give --model, not --preset.")

    def benchmark(self) -> Benchmark:
        """The benchmark, or own data as one."""
        if self.dataset != "own":
            return get_benchmark(self.dataset)
        return own_benchmark(self._own_task(), self.align, self.columns, self.target_face_scale or 1.0)

    def _own_task(self) -> FaceTask:
        if self.task in ("parsing", "attributes") and self.names:
            return ParsingTask(self.names) if self.task == "parsing" else AttributesTask(self.names)
        if self.task == "alignment" and self.num_landmarks:
            return AlignmentTask(self.num_landmarks, "own", "diag")
        raise ValueError("Own data need --task parsing or attributes with --names, or alignment with --num_landmarks.")


@dataclass
class FinetuneResult:
    """
    What [`finetune`] did, also in `results.json` of the output folder.

    Attributes:
        output_dir: Folder of the model or adapter, its processor and card.
        benchmark: Name.
        headline: Score that weights were chosen by.
        selection: How weights were chosen, in words.
        validation_best, validation_last: Scores (fractions) on the validation rows of the chosen and the last weights.
        test_best, test_last: Scores by subset on the test split.
        trainable_parameters, parameters: Counts.
        saved_bytes: Size of the saved weights: the model, or the adapter with its head.
        peak_memory_bytes: Largest memory on the GPU, or of the process.
        num_bad: Training samples that could not be read and were left out.
        history: What the Trainer logged.
    """

    output_dir: str
    benchmark: str
    headline: str
    selection: str
    validation_best: dict[str, float]
    validation_last: dict[str, float]
    test_best: dict[str, dict[str, float]]
    test_last: dict[str, dict[str, float]]
    trainable_parameters: int
    parameters: int
    saved_bytes: int
    peak_memory_bytes: int
    num_bad: int
    history: list[dict[str, float]]


def default_training_arguments(config: FinetuneConfig, **overrides: Any) -> TrainingArguments:
    """
    The recipe as `TrainingArguments`; any of them can be overridden. `learning_rate` is that of neck and head.

    The paper's: AdamW at a constant rate, divided by 10 at epoch 200, decay 1e-5, global batch 40, no clipping. The
    short recipe differs in its length and its cosine decay with 2 percent warm-up.
    """
    return TrainingArguments(**{**recipe_defaults(config), **overrides})


def recipe_defaults(config: FinetuneConfig) -> dict[str, Any]:
    """Fields of `TrainingArguments` that the recipe sets."""
    benchmark = config.benchmark()
    paper = config.recipe == "paper"
    validated = config.validation != "none"
    return {
        "num_train_epochs": benchmark.paper_epochs if paper else benchmark.short_epochs,
        "per_device_train_batch_size": max(1, _GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1"))),
        "learning_rate": benchmark.head_lr,
        "weight_decay": _WEIGHT_DECAY,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant" if paper else "cosine",
        "warmup_steps": 0 if paper else 0.02,
        "eval_strategy": "epoch" if validated else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": validated,
        "metric_for_best_model": f"eval_{benchmark.task.headline}" if validated else None,
        "greater_is_better": benchmark.task.greater_is_better if validated else None,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "label_names": ["labels"],
        # The original's (`ml/trainer.py` of py-blueprint).
        "seed": 123,
    }


def finetune(config: FinetuneConfig, arguments: TrainingArguments | None = None) -> FinetuneResult:
    """
    Trains, chooses, tests and saves a task model. A run that was killed goes on from its last checkpoint in the output
    folder, and ends with the weights that it would have had.

    Args:
        config: What is trained on what.
        arguments: How; see [`default_training_arguments`].

    Raises:
        FileNotFoundError: If the data set or the model is missing.
        ValueError: If settings or data are bad, or the output folder holds a run with other settings.
    """
    arguments = arguments or default_training_arguments(config)
    output = Path(arguments.output_dir)
    _check_settings(config, output)
    benchmark = config.benchmark()
    # New weights of the head follow from the seed.
    torch.manual_seed(arguments.seed)
    model, processor = build_model(config, benchmark)
    train_rows, validation_rows, selection = load_rows(config, benchmark, arguments.seed)
    train_faces = FaceRows(train_rows, benchmark.task, processor, config.jpeg_round_trip)
    validation = validation_rows and FaceRows(validation_rows, benchmark.task, processor, config.jpeg_round_trip)
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    augmentation = benchmark.augmentation if config.augment else NO_AUGMENTATION
    training = TrainingFaces(
        train_faces,
        replace(augmentation, flip=config.flip, colour_jitter=config.colour_jitter),
        arguments.seed,
        config.train_data_ratio,
        batch,
        config.skip_bad,
    )
    if arguments.world_size > 1 and arguments.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    trainer = FaRLTrainer(
        model,
        arguments,
        backbone_lr=config.backbone_lr or (_ADAPTER_LR if config.tuning == "lora" else _BACKBONE_LR),
        ema_decay=config.ema_decay,
        milestone=benchmark.milestone if config.recipe == "paper" else None,
        skip_bad=config.skip_bad,
        train_dataset=training,
        eval_dataset=validation,
        processing_class=processor,
    )
    if arguments.device.type == "cpu":
        keep_freed_memory()
    trainable, total = count_parameters(model)
    logger.info(
        "%s: %s of %s parameters are trained (%s).", benchmark.name, f"{trainable:,}", f"{total:,}", config.tuning
    )
    if arguments.should_save:
        output.mkdir(parents=True, exist_ok=True)
        (output / _SETTINGS_FILE).write_text(json.dumps(asdict(config), indent=2))
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint or last_checkpoint(output))
    trainer.save_model()
    scores = [entry for entry in trainer.state.log_history if f"eval_{benchmark.task.headline}" in entry]
    test_best, test_last = _test(config, benchmark, trainer, processor) if config.test else ({}, {})
    result = FinetuneResult(
        output_dir=str(output),
        benchmark=benchmark.name,
        headline=benchmark.task.headline,
        selection=selection,
        validation_best=_best(scores, benchmark.task) if arguments.load_best_model_at_end else _last(scores),
        validation_last=_last(scores),
        test_best=test_best,
        test_last=test_last,
        trainable_parameters=trainable,
        parameters=total,
        saved_bytes=sum(path.stat().st_size for path in output.glob("*.safetensors")),
        peak_memory_bytes=peak_memory(arguments.device),
        num_bad=int(training.is_bad.sum()),
        history=trainer.state.log_history,
    )
    if arguments.should_save:
        (output / "results.json").write_text(json.dumps(asdict(result), indent=2))
        adapter_config = model.get_base_model().config if isinstance(model, PeftModel) else None
        write_model_card(output, results=f"## Results\n\n{results_table(result)}", adapter_config=adapter_config)
    return result


def build_model(config: FinetuneConfig, benchmark: Benchmark) -> tuple[nn.Module, FaRLFaceImageProcessor]:
    """
    The model with `requires_grad` as the tuning wants it, and its processor.

    Raises:
        ValueError: If an adapter is to be trained in another tuning than LoRA.
    """
    task = benchmark.task
    if config.model is not None and is_adapter(config.model):
        if config.tuning != "lora":
            raise ValueError(
                f"{config.model} is a LoRA adapter, but tuning is {config.tuning!r}: go on with --tuning lora, or "
                "merge it first (load_task_model(folder).merge_and_unload())."
            )
        model = load_task_model(config.model, trainable=True)
    else:
        options = {**task.model_options(), **(config.model_options or {})}
        image_size = config.image_size
        if image_size is None and config.preset is None:
            image_size = 224 if task.name == "attributes" else 448
        options |= {"image_size": image_size} if image_size else {}
        if config.head_channels is not None:
            options |= {"head_channels": config.head_channels, "neck_channels": config.head_channels}
        if config.preset is not None:
            model = task.model_class(FaRLConfig.from_preset(config.preset, **options))
        else:
            model = task.model_class.from_pretrained(config.model, **options)
        if config.tuning == "lora":
            model = add_adapter(model, task.head_modules, config.lora_rank)
        elif config.tuning == "frozen":
            # Nothing before neck and head needs a gradient, so no activation of the tower is kept either.
            model.vision_model.requires_grad_(False)
    image_size = (model.get_base_model() if isinstance(model, PeftModel) else model).config.image_size
    convention = config.convention or ("farl" if image_size == 448 else "facer")
    return model, benchmark.processor(image_size, convention, config.target_face_scale)


def load_rows(
    config: FinetuneConfig, benchmark: Benchmark, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None, str]:
    """Training rows, validation rows or `None`, and in words how weights are chosen."""
    options = {"skip_bad": config.skip_bad, "strict": config.strict}
    train = benchmark.load(config.data_dir, "train", **options)
    if config.validation == "none":
        return train, None, "last epoch"
    if config.validation == "test":
        return train, benchmark.load(config.data_dir, "test", **options), "best on the test split, as the paper did"
    if benchmark.validation_split is not None:
        return train, benchmark.load(config.data_dir, benchmark.validation_split, **options), "best on validation"
    indices = list(range(len(train)))
    random.Random(seed).shuffle(indices)
    held_out = max(1, round(_HELD_OUT * len(train)))
    if held_out == len(train):
        raise ValueError("One training sample is too few to hold some out: use --validation none.")
    kept = train.select(sorted(indices[held_out:]))
    return kept, train.select(sorted(indices[:held_out])), f"best on {held_out} held-out training samples"


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and all parameters; copies that an adapter keeps of replaced modules are not counted."""
    parameters = [(name, p) for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for _, p in parameters if p.requires_grad), sum(p.numel() for _, p in parameters)


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes since the start: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def last_checkpoint(output: Path) -> str | None:
    """The newest complete checkpoint: the Trainer's state is the last file that is written."""
    checkpoints = [path for path in output.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(checkpoints, key=lambda path: int(path.name.split("-")[1]))) if checkpoints else None


def _check_settings(config: FinetuneConfig, output: Path) -> None:
    path = output / _SETTINGS_FILE
    if not path.is_file() or last_checkpoint(output) is None:
        return
    before = json.loads(path.read_text())
    for name, value in json.loads(json.dumps(asdict(config))).items():
        if before.get(name) != value:
            raise ValueError(
                f"{output} holds checkpoints of a run with {name}={before.get(name)!r}, not {value!r}: give another "
                "--output_dir, or the same settings to go on."
            )


def _test(
    config: FinetuneConfig, benchmark: Benchmark, trainer: FaRLTrainer, processor: FaRLFaceImageProcessor
) -> tuple[dict, dict]:
    """Scores of the chosen and the last weights on the test split."""
    rows = benchmark.load(config.data_dir, "test", skip_bad=config.skip_bad, strict=config.strict)
    faces = FaceRows(rows, benchmark.task, processor, config.jpeg_round_trip)
    best = trainer.score(faces)["metrics"]
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
    chosen = trainer.state.best_model_checkpoint
    if not trainer.args.load_best_model_at_end or checkpoint is None or checkpoint == chosen:
        return best, best
    arguments = trainer.args
    last = score_model(
        load_task_model(checkpoint).to(arguments.device),
        faces,
        arguments.per_device_eval_batch_size,
        arguments.dataloader_num_workers,
        config.skip_bad,
        progress=False,
    )
    return best, last["metrics"]


def _best(scores: list[dict[str, float]], task: FaceTask) -> dict[str, float]:
    choose = max if task.greater_is_better else min
    return _last([choose(scores, key=lambda entry: entry[f"eval_{task.headline}"])] if scores else [])


def _last(scores: list[dict[str, float]]) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in scores[-1].items()} if scores else {}


def results_table(result: FinetuneResult) -> str:
    """Markdown: the headline in percent on validation and test rows, of the chosen and of the last weights."""
    name = result.headline
    rows = [("validation", result.validation_best.get(name), result.validation_last.get(name))]
    for subset, scores in result.test_best.items():
        label = "test" if subset == ALL else subset
        rows.append((label, scores.get(name), result.test_last[subset].get(name)))
    lines = [
        f"| {result.benchmark}, {name} in percent | chosen ({result.selection}) | last epoch |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {label} | {_percent(best)} | {_percent(last)} |" for label, best, last in rows]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f}"
