"""Settings of a fine-tuning run."""

import json
from dataclasses import dataclass, field
from typing import Any

from .benchmarks import BENCHMARKS, Benchmark, own_benchmark
from .evaluation import get_benchmark
from .tasks import AlignmentTask, AttributesTask, FaceTask, ParsingTask


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class FinetuneConfig:
    """Settings of a fine-tuning run beside `TrainingArguments`; `scripts/finetune.py --help` explains each."""

    dataset: str = _option("lapa", f"one of {', '.join(BENCHMARKS)}, or own (with --task)")
    data_dir: str = _option(".", "folder of the data set in its official layout; of own data also a Hub name")
    model: str | None = _option(None, "pre-trained or fine-tuned folder, Hub name, or farl-tiny")
    preset: str | None = _option(None, "size of a model from random weights, in the place of --model")
    tuning: str = _option("full", "full, frozen (vision tower fixed) or lora")
    recipe: str = _option("short", "short, or paper: as long and as the original, which over-fits")
    image_size: int | None = _option(None, "side of the input; default: the preset's, else 448 (224 for attributes)")
    head_channels: int | None = _option(None, "width of neck and head; default 768; 256 makes small adapters")
    train_data_ratio: float = _option(1.0, "share of the training data, repeated to the full length")
    backbone_lr: float | None = _option(
        None, "learning rate of the tower; default 1e-4, narrow towers more, adapters 1e-3"
    )
    ema_decay: float = _option(0.999, "decay of the averaged weights; 0 for none")
    lora_rank: int = _option(8, "rank of the adapters")
    base_name: str | None = _option(
        None, "how an adapter names its base model, such as the base's Hub name; default: --model as given"
    )
    validation: str = _option("auto", "auto (validation split, else 5 percent held out), none, or test as in the paper")
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
    colours: list[str] | None = field(
        default=None, metadata={"help": "of own masks in RGB: the colour of each name, e.g. 000000 ff0000 00ff00"}
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
        assert not isinstance(self.columns, str)  # see `__post_init__`
        return own_benchmark(self._own_task(), self.align, self.columns, self.target_face_scale or 1.0)

    def _own_task(self) -> FaceTask:
        if self.task == "parsing" and self.names:
            return ParsingTask(self.names, colours=self.colours)
        if self.task == "attributes" and self.names:
            return AttributesTask(self.names)
        if self.task == "alignment" and self.num_landmarks:
            return AlignmentTask(self.num_landmarks)
        raise ValueError("Own data need --task parsing or attributes with --names, or alignment with --num_landmarks.")
