"""Settings of a pre-training run: one dataclass, recipes, YAML files and command line flags with the same names."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers import HfArgumentParser

_PAPER_BATCH, _PAPER_LEARNING_RATE = 5120, 1e-3


def setting(help_text: str, default: Any = None) -> Any:
    """A dataclass field with a help text for the command line."""
    return field(default=default, metadata={"help": help_text})


@dataclass
class PretrainConfig:
    """
    Settings of [`pretrain`]. The defaults are those of the recipe "paper-ep16"; what the paper's text or code does not
    confirm is marked "unverified" (see `RECIPES`).
    """

    train_shards: list[str] = field(
        default_factory=list,
        metadata={"help": "Tar or parquet shards: paths, folders, globs, braces, hf:// or https:// addresses."},
    )
    train_dataset: str | None = setting(
        "Instead of shards, what `datasets` opens: a name on the Hub, a folder, or parquet, arrow or webdataset tar "
        "files by path or address, with braces."
    )
    train_dataset_config: str | None = setting("Configuration of train_dataset, where it has several.")
    split: str = setting("Split of train_dataset.", "train")
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns of train_dataset by role: image=NAME captions=NAME (key, faces, json)."},
    )
    output_dir: str = setting("Folder of the checkpoints and of the final model.", "pretrained")
    recipe: str = setting("The recipe whose values are the defaults: paper-ep16, paper-ep64 or demo.", "paper-ep16")

    # Model
    preset: str = setting("Size of a model from scratch: tiny, base, large or huge.", "base")
    init_from: str | None = setting(
        "Folder or Hub id of a FaRL or CLIP model to start from; from scratch if not given."
    )
    image_size: int | None = setting("Side of the square input in pixels; the preset's or model's if not given.")

    # Data
    batch_size: int = setting("Samples of a process that are on the device at a time.", 160)
    global_batch_size: int | None = setting(
        "Samples of an optimizer step over all processes, all negatives of each other; from batch_size, processes and "
        "gradient_accumulation_steps if not given."
    )
    gradient_accumulation_steps: int | None = setting(
        "Batches of a process per optimizer step; what global_batch_size needs, or 1, if not given."
    )
    contrastive_chunk_size: int | None = setting("Samples to have activations of at a time; gradients stay exact.")
    num_workers: int = setting("Loader processes per training process.", 8)
    shuffle_block: int = setting("Samples of a shard shuffled together; their bytes are in memory.", 128)
    open_shards: int = setting("Shards that are mixed; more loader workers than this, in all, have nothing to do.", 64)
    samples_per_epoch: int | None = setting("Samples in the shards; counted where the shards tell it.")
    crop_scale: list[float] = field(
        default_factory=lambda: [0.9, 1.0],
        metadata={"help": "Lowest and highest share of the image's area in a crop."},
    )
    horizontal_flip: bool = setting("Mirror every second image.", False)
    face_crop_scale: list[float] | None = field(
        default=None, metadata={"help": "Crop around a random detected face: range of the side in boxes."}
    )
    fix_captions: bool = setting("Repair mojibake in captions; needs the ftfy package.", False)
    max_bad_fraction: float = setting("Stop with an error when a larger share of samples or shards is bad.", 0.5)

    # Objective
    image_codebook: str = setting(
        "Targets of masked patches: dalle, random-projection, stored, or a FlavaImageCodebook's folder or Hub id.",
        "dalle",
    )
    itc_weight: float = setting("Weight of the image-text contrastive loss; 0 leaves it out.", 1.0)
    mim_weight: float = setting("Weight of the masked-image loss; 0 leaves it out.", 1.0)
    patch_drop_ratio: float = setting("Share of patches the contrastive branch leaves out at random.", 0.0)
    patch_drop_tail: float = setting("Share of the steps, at the end, that drop no patches.", 0.1)
    max_logit_scale: float | None = setting("Largest inverse temperature.", 100.0)

    # Optimisation
    num_epochs: int = setting("Passes over the data, unless max_steps is given.", 16)
    max_steps: int | None = setting("Optimizer steps; the data is repeated as often as needed.")
    learning_rate: float | None = setting(
        "Peak learning rate. If not given, 1e-3 at a global batch of 5,120, and with the square root of other sizes."
    )
    start_learning_rate: float = setting("Learning rate at the first step.", 1e-6)
    end_learning_rate: float = setting("Learning rate at the last step.", 0.0)
    warmup_epochs: float = setting("Epochs of linear warm-up, unless warmup_steps is given.", 1.0)
    warmup_steps: int | None = setting("Steps of linear warm-up.")
    weight_decay: float = setting("AdamW's weight decay.", 0.05)
    decay_all: bool = setting("Decay norms, biases, positions, tokens and the temperature too.", False)
    adam_beta1: float = setting("AdamW's first beta.", 0.9)
    adam_beta2: float = setting("AdamW's second beta.", 0.98)
    adam_epsilon: float = setting("AdamW's epsilon.", 1e-6)
    max_grad_norm: float | None = setting("Clip the norm of the gradient.")
    max_skipped_steps: int = setting("Stop after so many steps in a row whose loss or gradient is not finite.", 20)
    seed: int = setting("Of weights, data order, crops and masks.", 0)

    # Execution
    device: Literal["auto", "cpu"] = setting("cpu keeps off the accelerator.", "auto")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = setting(
        "Precision of the matrix products; auto is what `accelerate launch` was told, or no.", "auto"
    )
    gradient_checkpointing: bool = setting("Recompute activations: slower, less memory.", False)
    torch_compile: bool = setting("Compile the towers; captions are padded to full length.", False)

    # Records
    logging_steps: int = setting("Steps between log lines.", 50)
    save_steps: int = setting("Steps between checkpoints.", 1000)
    save_total_limit: int = setting("Checkpoints to keep.", 2)
    keep_steps: int | None = setting("Steps between checkpoints that are kept for good, beside the newest ones.")
    resume: str = setting(
        "auto goes on from the newest sound checkpoint; never starts anew; or a checkpoint's folder, whose newer "
        "siblings are then set aside.",
        "auto",
    )
    report_to: list[str] = field(default_factory=list, metadata={"help": "Trackers of Accelerate, e.g. tensorboard."})
    progress_bar: bool = setting("Show a progress bar.", True)
    probe_folder: str | None = setting("Folder with one sub-folder of images per class, for a zero-shot test.")
    probe_template: str = setting("Caption of a class in the zero-shot test.", "a photo of a {}.")
    probe_steps: int = setting("Steps between zero-shot tests.", 1000)

    def __post_init__(self):
        positive = ("batch_size", "logging_steps", "save_steps", "probe_steps", "save_total_limit", "num_epochs")
        for name in (*positive, "shuffle_block", "open_shards", "max_skipped_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1.")
        optional = ("contrastive_chunk_size", "max_steps", "samples_per_epoch", "keep_steps", "global_batch_size")
        for name in (*optional, "gradient_accumulation_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1.")
        if self.recipe not in RECIPES:
            raise ValueError(f"Unknown recipe {self.recipe!r}: choose one of {', '.join(RECIPES)}.")
        if not 0 <= self.patch_drop_ratio < 1:
            raise ValueError(f"patch_drop_ratio is {self.patch_drop_ratio}, it must be in [0, 1).")
        for name in ("crop_scale", "face_crop_scale"):
            scale = getattr(self, name)
            if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1]):
                raise ValueError(f"{name} is {scale}, it must be two positive numbers in rising order.")
        if self.keep_steps is not None and self.keep_steps % self.save_steps:
            raise ValueError(f"keep_steps={self.keep_steps} must be a multiple of save_steps={self.save_steps}.")
        if any("=" not in column for column in self.columns):
            raise ValueError(f"columns is {self.columns}, it must be pairs such as image=jpg captions=txt.")
        if isinstance(self.train_shards, str):
            self.train_shards = [self.train_shards]

    def accumulation_steps(self, num_processes: int) -> int:
        """
        Batches of a process per optimizer step.

        Raises:
            ValueError: If the global batch size cannot be met.
        """
        batch = self.batch_size * num_processes
        if self.global_batch_size is None:
            return self.gradient_accumulation_steps or 1
        steps = self.gradient_accumulation_steps or self.global_batch_size // batch
        if steps * batch != self.global_batch_size:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} cannot be met with {num_processes} processes, "
                f"batch_size={self.batch_size} and gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps or 'any'}: their product must be the global batch size."
            )
        return steps

    def peak_learning_rate(self, global_batch_size: int) -> float:
        """
        The peak learning rate for a global batch. Adam's rate goes with the square root of the batch (Malladi et al.
        2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms").
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return _PAPER_LEARNING_RATE * math.sqrt(global_batch_size / _PAPER_BATCH)

    @classmethod
    def from_recipe(cls, recipe: str, **settings: Any) -> PretrainConfig:
        """
        The settings of a recipe with some of them changed.

        Raises:
            ValueError: If the recipe or a setting is unknown.
        """
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe {recipe!r}: choose one of {', '.join(RECIPES)}.")
        unknown = settings.keys() - {entry.name for entry in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"Unknown setting {sorted(unknown)[0]!r} of a pre-training run: see PretrainConfig.")
        return cls(**{**RECIPES[recipe], **settings, "recipe": recipe})

    def save_yaml(self, path: str | Path) -> None:
        """Writes all settings to a file that `--config` reads."""
        Path(path).write_text(yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True))


# What the original's publications say and what is our choice. From the paper, as recalled and not confirmed by any
# released file: AdamW, a global batch of 5,120 on 32 GPUs (160 each), a peak rate of 1e-3 after one epoch of warm-up
# from 1e-6, then cosine decay, weight decay 0.05, both losses with weight 1. From the repository's README: 16 and 64
# epochs of LAION-Face 20M. Unverified, and therefore CLIP's (Radford et al. 2021, table 18): the betas, epsilon, no
# decay of gains and biases, the limit on the temperature; open_clip's: the crop scale. The code shows gradient
# checkpointing switched on and layer norms written for fp16; the precision is the launcher's.
RECIPES: dict[str, dict[str, Any]] = {
    "paper-ep16": {"num_epochs": 16, "global_batch_size": _PAPER_BATCH, "gradient_checkpointing": True},
    "paper-ep64": {"num_epochs": 64, "global_batch_size": _PAPER_BATCH, "gradient_checkpointing": True},
    # Minutes on a laptop's CPU; nothing is downloaded.
    "demo": {
        "preset": "tiny",
        "image_codebook": "random-projection",
        "batch_size": 64,
        "learning_rate": 1e-3,
        "num_workers": 1,
        "num_epochs": 10,
        "warmup_epochs": 0.5,
        "max_grad_norm": 1.0,
        "logging_steps": 10,
        "save_steps": 100,
        "probe_steps": 100,
    },
}


def parse_arguments(arguments: Sequence[str] | None = None) -> PretrainConfig:
    """
    Settings from the command line: flags count before the `--config` file, that before the recipe.

    Raises:
        ValueError: If the file or a flag holds an unknown setting or a bad value.
        FileNotFoundError: If the file does not exist.
    """
    parser = HfArgumentParser(
        PretrainConfig,
        description="Pre-train FaRL on image-text shards.",
        formatter_class=argparse.HelpFormatter,
        epilog=f"Recipes: {', '.join(RECIPES)}.",
    )
    parser.add_argument("--config", help="YAML file with any of the settings above.")
    for action in parser._actions:
        if action.dest != "help":
            action.help = f"{action.help or ''} (default: {action.default})".replace("%", "%%")
            action.default = argparse.SUPPRESS  # so that only what was given is in the namespace
    given = vars(parser.parse_args(arguments))
    settings: dict[str, Any] = {}
    if "config" in given:
        content = yaml.safe_load(Path(given.pop("config")).read_text())
        if not isinstance(content, dict):
            raise ValueError("The --config file must hold settings, one `name: value` per line.")
        settings.update(content)
    settings.update(given)
    return PretrainConfig.from_recipe(settings.pop("recipe", "paper-ep16"), **settings)
