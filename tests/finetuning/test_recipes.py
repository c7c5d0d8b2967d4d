"""Recipes, schedules and augmentations against the values that the FaRL repository's files give, in one table."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainingArguments
from transformers.optimization import Adafactor

from farl_hf import FaRLConfig
from farl_hf.finetuning import BENCHMARKS, FinetuneConfig, default_training_arguments
from farl_hf.finetuning.augmentation import sample_generator, sample_similarity
from farl_hf.finetuning.ema import ExponentialMovingAverage
from farl_hf.finetuning.recipes import (
    average_warms_up,
    backbone_learning_rate,
    check_training_arguments,
    heatmap_size,
    milestone,
)
from farl_hf.finetuning.reported import REPORTED
from farl_hf.finetuning.trainer import FaRLTrainer


@dataclass(frozen=True)
class Specified:
    """One line of the table."""

    outputs: int  # classes, landmarks or attributes
    align: str | None
    warp_factor: float
    face_scale: float  # of the crop at test time
    head_lr: float
    paper_epochs: int
    short_epochs: int
    validation: str | None
    headline: str
    shift: float  # uniform, share of the side
    rotation: float  # parsing: standard deviation of a normal distribution; alignment: largest; radians
    occluded: bool
    noise: float  # probability
    paper: float  # headline of the paper, in percent


# `*/trainers/*.yaml`, `*/augmenters/*.yaml`, `optimizers/*.yaml`, README; short epochs are ours.
TABLE = {
    "lapa": Specified(11, "lapa", 0.8, 1.0, 1e-3, 300, 60, "val", "fg_mean", 0.01, 0.314, False, 0.0, 93.878),
    "celebamask_hq": Specified(19, None, 0.0, 1.0, 1e-3, 300, 30, "val", "fg_mean", 0.01, 0.314, False, 0.0, 89.562),
    "ibug300w": Specified(68, "box", 0.0, 0.8, 1e-2, 250, 60, None, "inter_ocular", 0.05, 0.174, True, 0.5, 2.927),
    "wflw": Specified(98, "box", 0.0, 0.8, 1e-2, 150, 30, None, "inter_ocular", 0.05, 0.174, True, 0.5, 3.964),
    "aflw19": Specified(19, "box", 0.0, 1.0, 1e-2, 150, 15, None, "diag", 0.05, 0.174, True, 0.5, 0.943),
}


def recipe(dataset: str = "lapa", recipe: str = "paper", **changes) -> FinetuneConfig:
    return FinetuneConfig(dataset, model="farl-base", recipe=recipe, **changes)


def arguments(config: FinetuneConfig, **changes) -> TrainingArguments:
    return default_training_arguments(config, output_dir="unused", use_cpu=True, report_to=[], **changes)


class TwoParts(nn.Module):
    """What the trainer asks of a model: a vision tower and the rest."""

    def __init__(self):
        super().__init__()
        self.vision_model, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, pixel_values, labels=None):
        return {"loss": (self.head(self.vision_model(pixel_values)) - labels).square().mean()}


class Pairs(torch.utils.data.Dataset):
    """Ten samples and an epoch number, as `TrainingFaces` has it."""

    epoch = torch.zeros(())

    def __init__(self, count: int = 10):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.ones(2) * index, "labels": torch.ones(1)}


def trainer(config: FinetuneConfig, count: int = 10, **changes) -> FaRLTrainer:
    args = arguments(config, eval_strategy="no", load_best_model_at_end=False, dataloader_num_workers=0, **changes)
    return FaRLTrainer(
        TwoParts(),
        args,
        backbone_lr=backbone_learning_rate(config),
        milestone=milestone(config, args),
        train_dataset=Pairs(count),
    )


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("dataset", TABLE)
def test_benchmarks_are_the_originals(dataset):
    benchmark, specified = BENCHMARKS[dataset], TABLE[dataset]
    processor = benchmark.processor(448, "farl")
    assert (processor.align, processor.warp_factor) == (specified.align, specified.warp_factor)
    assert processor.target_face_scale == specified.face_scale
    assert (benchmark.head_lr, benchmark.paper_epochs) == (specified.head_lr, specified.paper_epochs)
    assert (benchmark.short_epochs, benchmark.milestone) == (specified.short_epochs, 200)
    assert (benchmark.validation_split, benchmark.task.headline) == (specified.validation, specified.headline)
    assert benchmark.task.greater_is_better == (specified.headline == "fg_mean")
    options = benchmark.task.model_options()
    assert options.get("num_landmarks", len(options.get("id2label", ()))) == specified.outputs
    assert REPORTED[dataset]["all"][specified.headline][0] == specified.paper


@pytest.mark.parametrize("dataset", TABLE)
def test_paper_recipe(dataset):
    config = recipe(dataset)
    args = arguments(config)
    assert (args.num_train_epochs, args.learning_rate) == (TABLE[dataset].paper_epochs, TABLE[dataset].head_lr)
    assert (args.per_device_train_batch_size, args.weight_decay, args.max_grad_norm) == (40, 1e-5, 0.0)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (args.lr_scheduler_type, args.warmup_steps, args.seed) == ("constant", 0, 123)
    assert "adamw" in args.optim
    assert backbone_learning_rate(config) == 1e-4 and config.ema_decay == 0.999 and not average_warms_up(config)
    assert (config.flip, config.colour_jitter) == (0.0, 0.0)
    assert args.greater_is_better == BENCHMARKS[dataset].task.greater_is_better
    assert args.metric_for_best_model == f"eval_{TABLE[dataset].headline}"


def test_short_recipe():
    config = recipe("lapa", "short")
    args = arguments(config)
    assert (args.num_train_epochs, args.lr_scheduler_type, args.warmup_steps) == (60, "cosine", 0.02)
    assert milestone(config, args) is None and average_warms_up(config)
    assert (backbone_learning_rate(config), args.learning_rate) == (1e-4, 1e-3)
    assert backbone_learning_rate(recipe("lapa", "short", tuning="lora")) == 1e-3
    assert backbone_learning_rate(recipe("lapa", "short", backbone_lr=3e-4)) == 3e-4
    own = {"task": "alignment", "num_landmarks": 5}
    assert average_warms_up(recipe("own", "paper", **own))


def test_narrow_towers_take_larger_steps(tmp_path):
    def rates(dataset="lapa", **changes):
        config = FinetuneConfig(dataset, **changes)
        return backbone_learning_rate(config), arguments(config).learning_rate

    assert rates(preset="tiny") == pytest.approx((6e-4, 6e-3))
    assert rates("ibug300w", preset="tiny") == pytest.approx((6e-4, 1e-2))
    assert rates(preset="huge") == rates(preset="base") == (1e-4, 1e-3)
    assert rates(model="farl-tiny", tuning="lora") == pytest.approx((1e-3, 4e-3))
    assert rates(preset="tiny", recipe="paper") == (1e-4, 1e-3)
    FaRLConfig(vision_config={"hidden_size": 384, "num_attention_heads": 6}).save_pretrained(tmp_path / "half")
    assert rates(model=str(tmp_path / "half"), backbone_lr=3e-4) == pytest.approx((3e-4, 2e-3))
    # An adapter is as wide as its base.
    shutil.move(tmp_path / "half", tmp_path / "adapter" / "task_config")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert rates(model=str(tmp_path / "adapter"), tuning="lora") == pytest.approx((1e-3, 2e-3))


def test_only_names_of_the_hub_are_looked_for(monkeypatch):
    def unreachable(source):
        raise OSError("no connection")

    monkeypatch.setattr(FaRLConfig, "from_pretrained", unreachable)
    assert arguments(recipe(recipe="short")).learning_rate == 1e-3
    with pytest.raises(FileNotFoundError, match="someone/far is neither a folder here nor a model on the Hub"):
        arguments(FinetuneConfig("lapa", model="someone/far"))


def test_workers_read_faces_where_they_cost_nothing_to_start(monkeypatch):
    for methods, cores, workers in ((["fork"], 16, 4), (["fork"], 2, 2), (["spawn"], 16, 0)):
        monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda methods=methods: methods)
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert arguments(recipe("lapa", "short")).dataloader_num_workers == workers


def test_paper_schedule_is_constant_and_a_tenth_from_epoch_200_on():
    it = trainer(recipe("ibug300w"), per_device_train_batch_size=5)
    it.create_optimizer_and_scheduler(500)
    rates = []
    # Two steps per epoch.
    for _ in range(2 * 205):
        rates.append([group["lr"] for group in it.optimizer.param_groups])
        it.optimizer.step()
        it.lr_scheduler.step()
    assert [group["name"] for group in it.optimizer.param_groups] == ["backbone", "head"]
    assert rates[0] == rates[2 * 200 - 1] == [1e-4, 1e-2]
    assert rates[2 * 200] == pytest.approx([1e-5, 1e-3]) and rates[-1] == pytest.approx([1e-5, 1e-3])


def test_flags_of_training_arguments_are_obeyed():
    cosine = trainer(recipe("lapa"), lr_scheduler_type="cosine")
    cosine.create_optimizer_and_scheduler(10)
    for _ in range(5):
        cosine.optimizer.step()
        cosine.lr_scheduler.step()
    assert [group["lr"] for group in cosine.optimizer.param_groups] == pytest.approx([0.5e-4, 0.5e-3])
    adafactor = trainer(recipe("lapa"), optim="adafactor").create_optimizer()
    assert isinstance(adafactor, Adafactor) and [g["lr"] for g in adafactor.param_groups] == [1e-4, 1e-3]
    sgd = trainer(recipe("lapa"), optim="sgd", optim_args="momentum=0.5").create_optimizer()
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[0]["momentum"] == 0.5
    adam = trainer(recipe("lapa"), adam_beta2=0.95, weight_decay=0.1).create_optimizer()
    assert [(g["betas"], g["weight_decay"]) for g in adam.param_groups] == [((0.9, 0.95), 0.1)] * 2


def test_flags_that_cannot_hold_are_refused(monkeypatch):
    def groups_of_its_own(args, model):
        return torch.optim.AdamW, {"params": [], "lr": 1.0}

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="--optim galore_adamw divides the parameters"):
        patch.setattr("transformers.Trainer.get_optimizer_cls_and_kwargs", staticmethod(groups_of_its_own))
        trainer(recipe("lapa"), optim="galore_adamw")
    for config, changes, message in (
        (recipe("lapa"), {"label_smoothing_factor": 0.1}, "--label_smoothing_factor"),
        (recipe("lapa"), {"per_device_train_batch_size": 1}, "--per_device_train_batch_size is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            check_training_arguments(config, arguments(config, **changes))
    # Attributes have no batch norm.
    check_training_arguments(recipe("celeba"), arguments(recipe("celeba"), per_device_train_batch_size=1))


def test_last_batch_of_one_image_is_left_out():
    """The head's batch norm cannot train on it."""
    for count, batches in ((9, [4, 4]), (10, [4, 4, 2]), (8, [4, 4])):
        loader = trainer(recipe("lapa"), count, per_device_train_batch_size=4).get_train_dataloader()
        assert [len(batch["labels"]) for batch in loader] == batches


def test_average_warms_up():
    model = nn.Linear(1, 1)
    paper, warm = ExponentialMovingAverage(model, 0.999), ExponentialMovingAverage(model, 0.999, warmup=True)
    assert [paper.decay_at(step) for step in (1, 100, 10**6)] == [0.999] * 3
    assert [warm.decay_at(step) for step in (1, 90, 10**6)] == [2 / 11, 0.91, 0.999]
    # After 75 steps from 0 to 1 the average without warm-up has hardly left its start.
    with torch.no_grad():
        for average in (paper, warm):
            average.average["weight"].zero_()
            model.weight.fill_(1.0)
            for step in range(1, 76):
                average.update(model, step if average is paper else None)
    assert paper.average["weight"].item() == pytest.approx(1 - 0.999**75, rel=1e-4)
    assert warm.average["weight"].item() > 0.99


def test_heat_maps_follow_the_input():
    assert [heatmap_size(size) for size in (32, 64, 128, 224, 256, 448)] == [32, 32, 64, 112, 128, 128]


# ----------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("dataset", TABLE)
def test_geometric_jitter_has_the_specified_distributions(dataset):
    specified, config, size = TABLE[dataset], BENCHMARKS[dataset].augmentation, 512
    count = 4000
    matrices = torch.stack([sample_similarity(config, size, sample_generator(1, 0, i)) for i in range(count)]).numpy()
    scales = np.sqrt(np.linalg.det(matrices[:, :2, :2]))
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    # Similarities without reflection, about the middle of the pixel grid.
    assert np.allclose(matrices[:, 0, 0], matrices[:, 1, 1]) and np.allclose(matrices[:, 0, 1], -matrices[:, 1, 0])
    shifts = matrices[:, :2, :2] @ [255.5, 255.5] + matrices[:, :2, 2] - 255.5
    largest = specified.shift * size
    assert np.abs(shifts).max() <= largest and (shifts.max(0) > 0.98 * largest).all()
    assert shifts.std(0) == pytest.approx(2 * largest / 12**0.5, rel=0.05)

    def kurtosis(values):
        return ((values - values.mean()) ** 4).mean() / values.var() ** 2

    # The scale of the whole crop, the benchmark's own included.
    scales = scales * specified.face_scale
    if BENCHMARKS[dataset].task.name == "parsing":
        assert angles.std() == pytest.approx(specified.rotation, rel=0.05) and abs(angles.mean()) < 0.02
        assert scales.std() == pytest.approx(0.1, rel=0.05) and scales.mean() == pytest.approx(1, abs=0.01)
        assert kurtosis(angles) == pytest.approx(3, abs=0.4) and kurtosis(scales) == pytest.approx(3, abs=0.4)
    else:
        assert np.abs(angles).max() <= specified.rotation < 1.01 * np.abs(angles).max()
        low, high = specified.face_scale - 0.1, specified.face_scale + 0.1
        assert scales.min() == pytest.approx(low, abs=1e-3) and scales.max() == pytest.approx(high, abs=1e-3)
        assert kurtosis(angles) == pytest.approx(1.8, abs=0.1) and kurtosis(scales) == pytest.approx(1.8, abs=0.1)
    assert (config.occlusion, config.noise) == (specified.occluded, specified.noise)
    assert (config.grey, config.gamma, config.blur) == (0.1, True, 0.01)
