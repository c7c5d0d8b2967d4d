"""What a run leaves in its output folder so that the same command goes on after a kill, and no other does."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from .configuration import FinetuneConfig

_SETTINGS_FILE = "finetune_config.json"
# Arguments that change the weights that a run ends with.
_DECISIVE = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "seed",
    "data_seed",
    "bf16",
    "fp16",
)


def run_settings(config: FinetuneConfig, arguments: TrainingArguments) -> dict[str, Any]:
    """Everything that decides the final weights, as plain JSON values. The batch size is that of all processes."""
    settings = asdict(config) | {name: getattr(arguments, name) for name in _DECISIVE}
    settings["batch_size"] = global_batch_size(arguments)
    return json.loads(json.dumps(settings))


def global_batch_size(arguments: TrainingArguments) -> int:
    """Training faces per optimizer step."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


def check_settings(settings: dict[str, Any], output: Path) -> None:
    """Raises a `ValueError` if `output` holds checkpoints of a run with other settings, naming the first of them."""
    path = output / _SETTINGS_FILE
    if not path.is_file() or last_checkpoint(output) is None:
        return
    before = json.loads(path.read_text())
    for name, value in settings.items():
        if name in before and before[name] != value:
            raise ValueError(
                f"{output} holds checkpoints of a run with {name}={before[name]!r}, not {value!r}: give another "
                "--output_dir, or the same settings to go on."
            )


def write_settings(settings: dict[str, Any], output: Path) -> None:
    """For [`check_settings`] of a later start."""
    output.mkdir(parents=True, exist_ok=True)
    (output / _SETTINGS_FILE).write_text(json.dumps(settings, indent=2))


def last_checkpoint(output: Path) -> str | None:
    """The newest complete checkpoint: the Trainer's state is the last file that is written."""
    checkpoints = [path for path in output.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(checkpoints, key=lambda path: int(path.name.split("-")[1]))) if checkpoints else None
