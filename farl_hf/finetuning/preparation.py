"""Everything that a run needs, opened and checked before its first step: the model, its processor, and the faces."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from ..models.configuration_farl import FaRLConfig
from ..models.image_processing_farl import FaRLFaceImageProcessor
from ..weights import model_folder
from .augmentation import NO_AUGMENTATION
from .benchmarks import Benchmark
from .configuration import FinetuneConfig
from .faces import FaceRows, TrainingFaces, few_shot_indices
from .lora import add_adapter, is_adapter, load_task_model
from .recipes import heatmap_size
from .resuming import global_batch_size

# Share of the training data that is held out where a set has no validation split.
_HELD_OUT = 0.05
# What own data may call the split that weights are chosen by.
_VALIDATION_NAMES = ("validation", "val", "valid", "dev")


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
        if config.base_name is not None:
            model.peft_config["default"].base_model_name_or_path = config.base_name
    else:
        options = _model_options(config, benchmark)
        if config.preset is not None:
            model = task.model_class(FaRLConfig.from_preset(config.preset, **options))
        else:
            model = task.model_class.from_pretrained(_start(config), **options)
        if config.tuning == "lora":
            model = add_adapter(model, task.head_modules, config.lora_rank, config.base_name)
        elif config.tuning == "frozen":
            # Nothing before neck and head needs a gradient, so no activation of the tower is kept either.
            model.vision_model.requires_grad_(False)
    image_size = (model.get_base_model() if isinstance(model, PeftModel) else model).config.image_size
    convention = config.convention or ("farl" if image_size == 448 else "facer")
    return model, benchmark.processor(image_size, convention, config.target_face_scale)


def _start(config: FinetuneConfig) -> str:
    """Where the model to start from is opened."""
    assert config.model is not None  # `FinetuneConfig` asks for a model or a preset
    folder = model_folder(config.model)
    if not Path(folder).is_dir() and "/" not in folder:
        raise FileNotFoundError(
            f"{config.model} is no folder here, none of the package's models (farl-tiny), and no OWNER/NAME on the "
            "Hub: give --model one of these, or --preset for random weights."
        )
    return folder


def _model_options(config: FinetuneConfig, benchmark: Benchmark) -> dict:
    """Config fields of the model: the user's, else the task's."""
    options = benchmark.task.model_options()
    image_size = config.image_size
    if image_size is None and config.preset is None:
        image_size = 224 if benchmark.task.name == "attributes" else 448
    options |= {"image_size": image_size} if image_size else {}
    if config.head_channels is not None:
        options |= {"head_channels": config.head_channels, "neck_channels": config.head_channels}
    if benchmark.task.name == "alignment":
        if config.preset is not None:
            start = FaRLConfig.from_preset(config.preset)
        else:
            start = FaRLConfig.from_pretrained(_start(config))
        # A model that is aligned already keeps its own.
        if benchmark.task.model_class.__name__ not in (start.architectures or []):
            # Small presets have smaller ones.
            options["heatmap_size"] = min(start.heatmap_size, heatmap_size(image_size or start.image_size))
    assert not isinstance(config.model_options, str)  # see `FinetuneConfig`
    return options | (config.model_options or {})


@dataclass(frozen=True)
class RunData:
    """
    The faces of a run.

    Attributes:
        training: Augmented crops.
        validation: Rows that weights are chosen by, if any.
        test: Rows that are scored at the end, if any.
        selection: How weights are chosen, in words.
    """

    training: TrainingFaces
    validation: FaceRows | None
    test: FaceRows | None
    selection: str


def open_data(
    config: FinetuneConfig, benchmark: Benchmark, processor: FaRLFaceImageProcessor, arguments: TrainingArguments
) -> RunData:
    """
    Opens every split that the run will read, and reads some faces of each.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a split is missing or empty, a face that was tried cannot be used, or mirrored faces are asked
            for where there is no flip table.
    """

    def faces(rows: datasets.Dataset) -> FaceRows:
        return FaceRows(rows, benchmark.task, processor, config.jpeg_round_trip)

    train_rows, epoch_length, validation_rows, test_rows, selection = load_rows(config, benchmark, arguments.seed)
    train_faces = faces(train_rows)
    validation = None if validation_rows is None else faces(validation_rows)
    test = None if test_rows is None else faces(test_rows)
    train_faces.check(config.skip_bad, flipped=config.flip > 0)
    for part in (validation, test):
        if part is not None:
            part.check(config.skip_bad)
    augmentation = benchmark.augmentation if config.augment else NO_AUGMENTATION
    training = TrainingFaces(
        train_faces,
        replace(augmentation, flip=config.flip, colour_jitter=config.colour_jitter),
        arguments.seed,
        epoch_length,
        global_batch_size(arguments),
        config.skip_bad,
    )
    return RunData(training, validation, test, selection)


def load_rows(
    config: FinetuneConfig, benchmark: Benchmark, seed: int
) -> tuple[datasets.Dataset, int, datasets.Dataset | None, datasets.Dataset | None, str]:
    """
    Rows to train on and their number in an epoch; rows to choose weights by and to test on, or `None`; and in words how
    weights are chosen.
    """
    _check_splits(config, benchmark)
    options = {"skip_bad": config.skip_bad, "strict": config.strict}
    train = benchmark.load(config.data_dir, "train", **options)
    test = benchmark.load(config.data_dir, "test", **options) if config.test or config.validation == "test" else None
    validation, selection = None, "last epoch"
    epoch_length = len(train)
    if config.train_data_ratio != 1:
        # The few that there are must do for training and choice; an epoch keeps the steps of the whole set.
        train = train.select(few_shot_indices(len(train), config.train_data_ratio))
    validation_split = benchmark.validation_split or _own_validation_split(config, benchmark)
    if config.validation == "test":
        validation, selection = test, "best on the test split, as the paper did"
    elif config.validation == "auto" and validation_split is not None:
        validation = benchmark.load(config.data_dir, validation_split, **options)
        selection = "best on validation"
    elif config.validation == "auto":
        count = len(train)
        train, validation = _hold_out(train, seed)
        selection = f"best on {len(validation)} held-out training samples"
        epoch_length = len(train) if epoch_length == count else epoch_length
    return train, epoch_length, validation, test if config.test else None, selection


def _hold_out(train: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training rows without, and only, the held-out share."""
    held_out = max(1, round(_HELD_OUT * len(train)))
    if held_out == len(train):
        raise ValueError("One training sample is too few to hold some out: use --validation none.")
    indices = list(range(len(train)))
    random.Random(seed).shuffle(indices)
    return train.select(sorted(indices[held_out:])), train.select(sorted(indices[:held_out]))


def _check_splits(config: FinetuneConfig, benchmark: Benchmark) -> None:
    if benchmark.list_splits is None:
        return
    splits = benchmark.list_splits(config.data_dir)
    if "train" not in splits:
        raise ValueError(f"{config.data_dir} has no split 'train', but {', '.join(splits) or 'none at all'}.")
    if "test" not in splits and (config.test or config.validation == "test"):
        raise ValueError(
            f"{config.data_dir} has no split 'test', but {', '.join(splits)}: add one, or train without it "
            "(--test False)."
        )


def _own_validation_split(config: FinetuneConfig, benchmark: Benchmark) -> str | None:
    if benchmark.list_splits is None:
        return None
    splits = benchmark.list_splits(config.data_dir)
    return next((name for name in _VALIDATION_NAMES if name in splits), None)
