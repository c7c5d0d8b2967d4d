"""The recipes as `TrainingArguments`, and what else follows from a recipe."""

import multiprocessing
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..models.configuration_farl import FaRLConfig
from ..weights import model_folder
from .configuration import FinetuneConfig
from .lora import TASK_CONFIG_FOLDER, is_adapter

# The paper's global batch, over 8 GPUs; learning rate of the ViT; decay of every parameter (`optimizers/*.yaml`).
_GLOBAL_BATCH = 40
_BACKBONE_LR = 1e-4
_WEIGHT_DECAY = 1e-5
# Width of the towers that the paper's rates are for; and the highest rate of a head, which is its one for landmarks.
_WIDTH = 768
_HIGHEST_HEAD_LR = 1e-2
# Adapters start from zero and want more than the weights that they change.
_ADAPTER_LR = 1e-3
# The paper's schedule is `constant` with a milestone; any other `lr_scheduler_type` is taken as it is.
_PAPER_SCHEDULE = "constant"
# More processes than these read no faster than a training step uses what they read.
_MOST_WORKERS = 4
# Heat maps of the original: 128 px for an input of 448.
_HEATMAP_SIZE = 128


def default_training_arguments(config: FinetuneConfig, **overrides: Any) -> TrainingArguments:
    """
    The recipe as `TrainingArguments`; any of them can be overridden. `learning_rate` is that of neck and head.

    The paper's: AdamW at a constant rate, divided by 10 at epoch 200, decay 1e-5, global batch 40, no clipping. The
    short recipe differs in its length, its cosine decay with 2 percent warm-up, the warm-up of the average, and the
    rates of towers narrower than the paper's (see [`small_model_factor`]).
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
        "learning_rate": min(_HIGHEST_HEAD_LR, benchmark.head_lr * small_model_factor(config)),
        "weight_decay": _WEIGHT_DECAY,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": _PAPER_SCHEDULE if paper else "cosine",
        "warmup_steps": 0 if paper else 0.02,
        "eval_strategy": "epoch" if validated else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": validated,
        "metric_for_best_model": f"eval_{benchmark.task.headline}" if validated else None,
        "greater_is_better": benchmark.task.greater_is_better if validated else None,
        "remove_unused_columns": False,
        "dataloader_num_workers": default_workers(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "label_names": ["labels"],
        # The original's (`ml/trainer.py` of py-blueprint).
        "seed": 123,
    }


def default_workers() -> int:
    """
    Processes that read faces beside the training: as many as cores, up to four; none where a process cannot be forked
    (Windows, macOS, Python 3.14), because each epoch would begin by importing everything anew.
    """
    forked = multiprocessing.get_all_start_methods()[0] == "fork"
    return min(_MOST_WORKERS, os.cpu_count() or 1) if forked else 0


def check_training_arguments(config: FinetuneConfig, arguments: TrainingArguments) -> None:
    """
    Refuses what cannot hold here, before anything is opened.

    Raises:
        ValueError: For label smoothing, FSDP or DeepSpeed with averaged weights, and dense heads on single images.
    """
    if arguments.label_smoothing_factor:
        raise ValueError("--label_smoothing_factor has no meaning here: the models compute their own losses.")
    if (arguments.fsdp or arguments.deepspeed) and config.ema_decay:
        raise ValueError("--fsdp and --deepspeed divide the weights, whose average is kept whole: add --ema_decay 0.")
    alone = arguments.train_batch_size == 1 and (arguments.world_size == 1 or arguments.device.type == "cpu")
    if alone and config.benchmark().task.name != "attributes":
        raise ValueError(
            "--per_device_train_batch_size is 1, and the head's batch norm needs two images or more: give at least 2."
        )


def milestone(config: FinetuneConfig, arguments: TrainingArguments) -> int | None:
    """Epoch from which learning rates are divided by 10: in the paper's recipe with its own schedule."""
    if config.recipe != "paper" or arguments.lr_scheduler_type != _PAPER_SCHEDULE:
        return None
    return config.benchmark().milestone


def backbone_learning_rate(config: FinetuneConfig) -> float:
    """Of what trains in the vision tower."""
    if config.backbone_lr:
        return config.backbone_lr
    return _ADAPTER_LR if config.tuning == "lora" else _BACKBONE_LR * small_model_factor(config)


def small_model_factor(config: FinetuneConfig) -> float:
    """
    By how much the short recipe raises learning rates: the paper's tower has 768 channels, and the fewer a tower has,
    the larger the steps that it needs (measured in model_cards/results.md). 1 for as many or more, for the paper's
    recipe, and for a folder that cannot be opened, which stops the run later with its own message.

    Raises:
        FileNotFoundError: If the model is OWNER/NAME and cannot be fetched.
    """
    if config.recipe == "paper":
        return 1.0
    if config.preset is not None:
        width = FaRLConfig.from_preset(config.preset).vision_config.hidden_size
    else:
        width = _model_width(str(config.model))
    return max(1.0, _WIDTH / width)


@cache
def _model_width(model: str) -> int:
    folder = model_folder(model)
    source = Path(folder) / TASK_CONFIG_FOLDER if is_adapter(folder) else folder
    is_local = Path(source).is_dir()
    # Neither a folder nor OWNER/NAME: nothing to ask the Hub for.
    if not is_local and "/" not in folder:
        return _WIDTH
    try:
        return FaRLConfig.from_pretrained(source).vision_config.hidden_size
    except (OSError, ValueError) as error:
        if is_local:
            return _WIDTH
        raise FileNotFoundError(
            f"{model} is neither a folder here nor a model on the Hub that can be reached: {error}"
        ) from error


def average_warms_up(config: FinetuneConfig) -> bool:
    """Whether the averaged weights leave their start faster than `ema_decay` says: all recipes but the paper's own."""
    return config.recipe == "short" or config.dataset == "own"


def heatmap_size(image_size: int) -> int:
    """
    Side of an alignment model's target heat maps: 128, the original's, from inputs of 256 px on, and half of a smaller
    input (at least 32), where a map larger than the input costs half of a training step and shows nothing more.
    """
    return min(_HEATMAP_SIZE, max(32, image_size // 2))
