"""Fine-tuning: every benchmark in every tuning, averaged weights, adapters, resume, bad data, evaluation."""

import json
import multiprocessing
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning_cases import DATASETS, TINY, make_base_model, make_miniature
from peft import AutoPeftModel, PeftModel
from PIL import Image
from safetensors.torch import load_file
from script_cases import load_script
from transformers import AutoModelForSemanticSegmentation, TrainerCallback

from farl_hf import FaRLConfig, FaRLForFaceParsing
from farl_hf.datasets.labels import LAPA_LABELS
from farl_hf.finetuning import (
    BENCHMARKS,
    FinetuneConfig,
    default_training_arguments,
    finetune,
    load_task_model,
    open_evaluation,
)
from farl_hf.finetuning import run as run_module
from farl_hf.finetuning.augmentation import NO_AUGMENTATION
from farl_hf.finetuning.ema import ExponentialMovingAverage
from farl_hf.finetuning.faces import EvaluationFaces, FaceRows, TrainingFaces, few_shot_indices
from farl_hf.finetuning.lora import add_adapter
from farl_hf.finetuning.optimizer import parameter_groups
from farl_hf.finetuning.report import markdown_table, write_pictures, write_report
from farl_hf.finetuning.resuming import last_checkpoint
from farl_hf.finetuning.tasks import ParsingTask
from farl_hf.inference.results import Faces
from farl_hf.synthetic import SyntheticFaceConfig


@pytest.fixture(scope="module")
def base_model(tmp_path_factory) -> str:
    return str(make_base_model(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of a miniature benchmark by name, made once."""
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = make_miniature(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return get


def settings(data_dir: Path, dataset: str = "lapa", **changes) -> FinetuneConfig:
    options = {key: value for key, value in TINY.items() if key not in ("image_size", "head_channels", "vision_config")}
    if "preset" in changes:
        options["vision_config"] = TINY["vision_config"]
    defaults = {"image_size": TINY["image_size"], "head_channels": TINY["head_channels"], "model_options": options}
    return FinetuneConfig(**{"dataset": dataset, "data_dir": str(data_dir), **defaults, **changes})


def arguments(config: FinetuneConfig, output: Path, **changes):
    defaults = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return default_training_arguments(config, output_dir=str(output), **{**defaults, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


# ------------------------------------------------------------------------------------------------- the whole of it


@pytest.mark.parametrize("tuning", ("full", "frozen", "lora"))
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_benchmark_trains_in_every_tuning(data, base_model, tmp_path, dataset, tuning):
    config = settings(data(dataset), dataset, model=base_model, tuning=tuning)
    result = finetune(config, arguments(config, tmp_path / "out"))
    headline = BENCHMARKS[dataset].task.headline
    assert np.isfinite(result.validation_best[headline]) and np.isfinite(result.test_best["all"][headline])
    assert result.trainable_parameters < result.parameters or tuning == "full"
    saved = json.loads((tmp_path / "out/results.json").read_text())
    assert saved["test_best"]["all"][headline] == result.test_best["all"][headline]
    # What was saved scores what was reported.
    again = open_evaluation(str(tmp_path / "out"), dataset, data(dataset), device="cpu").run(progress=False)
    for name, value in again["metrics"]["all"].items():
        assert value == pytest.approx(result.test_best["all"][name], rel=1e-4, abs=1e-6, nan_ok=True)
    # The tower has moved only in full tuning.
    model = load_task_model(tmp_path / "out")
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    tower = {
        name.replace(".base_layer", ""): parameter
        for name, parameter in model.vision_model.named_parameters()
        if "lora_" not in name
    }
    before = load_file(Path(base_model) / "model.safetensors")
    moved = [not torch.equal(tensor, before[f"vision_model.{name}"]) for name, tensor in tower.items()]
    assert all(moved) if tuning == "full" else not any(moved)
    if tuning == "lora":
        adapters = [p for name, p in model.named_parameters() if "lora_B" in name]
        assert len(adapters) == 2 * 4 and all(p.abs().max() > 0 for p in adapters)


@pytest.mark.parametrize("tuning", ("full", "lora"))
def test_killed_run_ends_with_the_same_weights(data, base_model, tmp_path, monkeypatch, tuning):
    config = settings(data("lapa"), model=base_model, tuning=tuning, test=False)
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    options["save_total_limit"] = 5
    finetune(config, arguments(config, tmp_path / "whole", **options))

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    class KilledTrainer(run_module.FaRLTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(Kill())

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "FaRLTrainer", KilledTrainer)
        finetune(config, arguments(config, tmp_path / "killed", **options))
    assert last_checkpoint(tmp_path / "killed").endswith("checkpoint-2")
    finetune(config, arguments(config, tmp_path / "killed", **options))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # The raw weights too, from which a longer run would go on.
    raw = [load_file(tmp_path / run / "checkpoint-4/raw_weights.safetensors") for run in ("whole", "killed")]
    assert all(torch.equal(raw[0][name], raw[1][name]) for name in raw[0])
    with pytest.raises(ValueError, match="holds checkpoints of a run with tuning"):
        finetune(replace(config, tuning="frozen"), arguments(config, tmp_path / "killed", **options))


def test_averaged_weights_are_saved_and_the_raw_ones_kept(data, base_model, tmp_path):
    config = settings(data("lapa"), model=base_model, recipe="paper", ema_decay=0.5, test=False, validation="none")
    seen: list[dict[str, torch.Tensor]] = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.on_step_end(args, state, control, model)

    original = run_module.FaRLTrainer.__init__

    def recorded(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(Record())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module.FaRLTrainer, "__init__", recorded)
        finetune(config, arguments(config, tmp_path, max_steps=3, save_strategy="steps", save_steps=3))
    saved = load_file(tmp_path / "model.safetensors")
    raw = load_file(tmp_path / "checkpoint-3/raw_weights.safetensors")
    assert len(seen) == 4
    for name in ("decode_head.conv_seg.weight", "decode_head.fpn_bottleneck.bn.running_var"):
        average = seen[0][name]
        for step in seen[1:]:
            average = 0.5 * average + 0.5 * step[name]
        assert torch.allclose(saved[name], average, atol=1e-6)
        assert torch.equal(raw[name], seen[-1][name])
        assert not torch.allclose(saved[name], raw[name], atol=1e-6)


def test_average_swaps_and_returns():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = ExponentialMovingAverage(model, 0.9)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
        model[1].running_mean.add_(2)
    average.update(model, 1)
    with average.applied(model):
        assert torch.allclose(model[0].weight, before + 0.1) and torch.allclose(
            model[1].running_mean, torch.full((2,), 0.2)
        )
    assert torch.allclose(model[0].weight, before + 1)


def test_learning_rates_and_decay_by_part(base_model):
    model = FaRLForFaceParsing.from_pretrained(base_model, **{k: v for k, v in TINY.items() if k != "vision_config"})
    groups = {group["name"]: group for group in parameter_groups(model, 1e-4, 1e-3, 1e-5)}
    assert groups["backbone"]["lr"] == 1e-4 and groups["head"]["lr"] == 1e-3
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    model.vision_model.requires_grad_(False)
    assert [group["name"] for group in parameter_groups(model, 1e-4, 1e-3, 1e-5)] == ["head"]
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(model.requires_grad_(False), 1e-4, 1e-3, 1e-5)


def test_recipes_are_the_originals():
    paper = default_training_arguments(FinetuneConfig("lapa", model="x", recipe="paper"), output_dir="x", use_cpu=True)
    assert (paper.num_train_epochs, paper.learning_rate, paper.weight_decay) == (300, 1e-3, 1e-5)
    assert (paper.per_device_train_batch_size, paper.max_grad_norm, paper.seed) == (40, 0.0, 123)
    epochs = {name: (b.paper_epochs, b.head_lr) for name, b in BENCHMARKS.items()}
    assert epochs["celebamask_hq"] == (300, 1e-3) and epochs["ibug300w"] == (250, 1e-2)
    assert epochs["wflw"] == epochs["aflw19"] == (150, 1e-2)


# ----------------------------------------------------------------------------------------------------------- adapters


def test_adapter_carries_its_head_and_merges(data, base_model, tmp_path):
    config = settings(data("lapa"), model=base_model, tuning="lora", ema_decay=0.0)
    finetune(config, arguments(config, tmp_path))
    adapter = load_task_model(tmp_path).eval()
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert any("decode_head.fpn_bottleneck.bn.running_mean" in name for name in names)
    assert not any("original_module" in name or "fc1" in name for name in names)
    pixel_values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = adapter(pixel_values).logits
        # Both read the base model's config, to which the adapter's differs by these fields.
        fields = {"image_size": 32, "head_channels": 16, "neck_channels": 16, "out_indices": [1, 1, 2, 2]}
        fields["num_labels"] = len(LAPA_LABELS)
        auto = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, **fields).eval()
        assert torch.allclose(auto(pixel_values).logits, expected, atol=1e-6)
        peft_auto = AutoPeftModel.from_pretrained(tmp_path, import_allowlist=["farl_hf"], **fields).eval()
        assert torch.allclose(peft_auto(pixel_values).logits, expected, atol=1e-6)
        merged = adapter.merge_and_unload()
        assert isinstance(merged, FaRLForFaceParsing)
        assert torch.allclose(merged(pixel_values).logits, expected, atol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        assert torch.allclose(load_task_model(tmp_path / "merged").eval()(pixel_values).logits, expected, atol=1e-5)


def test_adapter_of_the_small_head_is_below_50_mb():
    with torch.device("meta"):
        config = FaRLConfig.from_preset("base", image_size=448, head_channels=256, neck_channels=256, num_labels=11)
        model = FaRLForFaceParsing(config)
        model.name_or_path = "farl-base"
        adapter = add_adapter(model, ParsingTask.head_modules)
    saved = [p for p in adapter.parameters() if p.requires_grad]
    assert 10e6 < 4 * sum(p.numel() for p in saved) < 50e6


def test_adapters_go_on_as_adapters(data, base_model, tmp_path):
    config = settings(data("lapa"), model=base_model, tuning="lora", test=False)
    finetune(config, arguments(config, tmp_path / "first"))
    for tuning in ("full", "frozen"):
        wrong = settings(data("lapa"), model=str(tmp_path / "first"), tuning=tuning)
        with pytest.raises(ValueError, match="is a LoRA adapter"):
            finetune(wrong, arguments(wrong, tmp_path / "second"))
    more = settings(data("lapa"), model=str(tmp_path / "first"), tuning="lora", test=False)
    finetune(more, arguments(more, tmp_path / "second"))
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys() and not all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="--model, not --preset"):
        settings(data("lapa"), preset="tiny", tuning="lora")


def test_frozen_and_lora_steps_keep_less_for_backward(base_model):
    """Bytes that autograd keeps for the tower: none when frozen, less than in full with adapters."""
    fields = {k: v for k, v in TINY.items() if k != "vision_config"}
    kept = {}
    for tuning in ("full", "frozen", "lora"):
        model = FaRLForFaceParsing.from_pretrained(base_model, **fields)
        if tuning == "frozen":
            model.vision_model.requires_grad_(False)
        elif tuning == "lora":
            model = add_adapter(model, ParsingTask.head_modules, 2).get_base_model()
        storages: dict[int, int] = {}
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(tensor, storages=storages, parameters=parameters):
            if tensor.untyped_storage().data_ptr() not in parameters:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model.vision_model(torch.randn(2, 3, 32, 32)).last_hidden_state
        kept[tuning] = sum(storages.values())
        assert output.requires_grad == (tuning != "frozen")
    assert kept["frozen"] == 0 < kept["lora"] < kept["full"]


# --------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("dataset", DATASETS)
def test_training_crop_without_augmentation_is_the_evaluation_crop(data, dataset):
    benchmark = BENCHMARKS[dataset]
    processor = benchmark.processor(48, "farl")
    rows = benchmark.load(data(dataset), "train")
    faces = FaceRows(rows, benchmark.task, processor)
    training, evaluation = TrainingFaces(faces, NO_AUGMENTATION, seed=0), EvaluationFaces(faces)
    for index in range(2):
        difference = training[index]["pixel_values"] - evaluation[index]["pixel_values"]
        assert difference.abs().max() < 2e-3
        if dataset in ("ibug300w", "wflw", "aflw19"):
            # Labels in the crop lead back to the landmarks of the file.
            output = type("Output", (), {"landmarks": training[index]["labels"][None], "heatmaps": None})
            back = processor.post_process_landmarks(output, [replace(evaluation[index]["transform"], image_index=0)])
            assert np.abs(back[0][0].numpy() - evaluation[index]["target"]).max() < 1e-2


def test_five_points_are_taken_from_landmarks(data):
    """A model of five-point crops on a set that has landmarks alone."""
    benchmark = BENCHMARKS["ibug300w"]
    rows = benchmark.load(data("ibug300w"), "train")
    faces = FaceRows(rows, benchmark.task, BENCHMARKS["lapa"].processor(48, "farl"))
    _, target, points, _ = faces.read(0)
    eyes = target[36:42].mean(dim=0), target[42:48].mean(dim=0)
    assert np.allclose(points, torch.stack([*eyes, *target[[30, 48, 54]]]), atol=1e-4)
    assert faces.localisation == "annotated landmarks"
    difference = (
        TrainingFaces(faces, NO_AUGMENTATION, seed=0)[0]["pixel_values"] - EvaluationFaces(faces)[0]["pixel_values"]
    )
    assert difference.abs().max() < 2e-3


def test_samples_follow_from_seed_epoch_and_index(data):
    benchmark = BENCHMARKS["ibug300w"]
    faces = FaceRows(benchmark.load(data("ibug300w"), "train"), benchmark.task, benchmark.processor(32, "farl"))
    one, two = (TrainingFaces(faces, benchmark.augmentation, seed=5, batch_size=3) for _ in range(2))
    assert len(one) == 9
    assert torch.equal(one[8]["pixel_values"], two[8]["pixel_values"])
    two.epoch.fill_(1)
    assert not torch.equal(one[0]["pixel_values"], two[0]["pixel_values"])
    other = TrainingFaces(faces, benchmark.augmentation, seed=6)
    assert not torch.equal(one[0]["labels"], other[0]["labels"])


def test_few_shot_subset_is_the_originals():
    indices = list(range(50))
    random.Random(123).shuffle(indices)
    assert few_shot_indices(50, 0.1) == indices[:5]
    assert few_shot_indices(7, 1.0) == list(range(7))
    for ratio in (0.0, 1.5, 0.01):
        with pytest.raises(ValueError, match="train_data_ratio"):
            few_shot_indices(50, ratio)


def test_own_data(tmp_path, base_model):
    """A folder of images and masks, columns mapped, without a line of code about the set."""
    import datasets

    def rows(count):
        generator = np.random.default_rng(0)
        masks = [Image.fromarray(generator.integers(0, 3, (40, 40)).astype(np.uint8)) for _ in range(count)]
        images = [Image.fromarray(generator.integers(0, 255, (40, 40, 3)).astype(np.uint8)) for _ in range(count)]
        features = datasets.Features({"photo": datasets.Image(), "mask": datasets.Image()})
        return datasets.Dataset.from_dict({"photo": images, "mask": masks}, features=features)

    datasets.DatasetDict(train=rows(6), test=rows(2)).save_to_disk(tmp_path / "set")
    own = {
        "task": "parsing",
        "names": ["background", "skin", "hair"],
        "columns": '{"image": "photo", "labels": "mask"}',
    }
    config = settings(tmp_path / "set", "own", model=base_model, validation="test", **own)
    result = finetune(config, arguments(config, tmp_path / "out"))
    assert 0 <= result.test_best["all"]["fg_mean"] <= 1
    with pytest.raises(ValueError, match="column"):
        finetune(replace(config, columns={"image": "photo", "labels": "labels"}), arguments(config, tmp_path / "other"))


def break_lapa(folder: Path, fault: str) -> str:
    """Plants a fault in the first training sample, and returns what the error must say."""
    root = folder / "LaPa/train"
    image, label = sorted(root.glob("images/*"))[0], sorted(root.glob("labels/*"))[0]
    if fault == "size":
        Image.new("L", (10, 10)).save(label)
        return "the label map has"
    if fault == "id":
        Image.new("L", (64, 64), 11).save(label)
        return "holds id 11"
    if fault == "image":
        image.write_bytes(b"no image")
        return image.name
    assert fault == "landmark"
    path = sorted(root.glob("landmarks/*"))[0]
    path.write_text(path.read_text().replace("\n", "\nnan ", 1))
    return path.name


@pytest.mark.parametrize("fault", ("size", "id", "image", "landmark"))
def test_bad_samples_are_named_or_skipped(data, base_model, tmp_path, fault):
    shutil.copytree(data("lapa"), tmp_path / "data")
    message = break_lapa(tmp_path / "data", fault)
    config = settings(tmp_path / "data", model=base_model, test=False, validation="none")
    with pytest.raises(ValueError, match=message) as error:
        finetune(config, arguments(config, tmp_path / "stops", num_train_epochs=1, max_steps=-1))
    assert "000000" in str(error.value)
    config = replace(config, skip_bad=True)
    result = finetune(config, arguments(config, tmp_path / "goes_on", num_train_epochs=1, max_steps=-1))
    # Files that the reader itself reads are left out before training.
    assert result.num_bad == (0 if fault == "landmark" else 1)
    evaluation = open_evaluation(
        str(tmp_path / "goes_on"), "lapa", tmp_path / "data", "train", device="cpu", skip_bad=True
    )
    scores = evaluation.run(skip_bad=True, progress=False)
    assert scores["num_samples"] == 7 and scores["num_skipped"] == (0 if fault == "landmark" else 1)


def test_empty_and_missing_data(data, base_model, tmp_path):
    config = settings(tmp_path, model=base_model)
    with pytest.raises(FileNotFoundError, match="lapa-dataset"):
        finetune(config, arguments(config, tmp_path / "out"))
    benchmark = BENCHMARKS["lapa"]
    rows = benchmark.load(data("lapa"), "train")
    with pytest.raises(ValueError, match="no samples"):
        FaceRows(rows.select([]), benchmark.task, benchmark.processor(32, "farl"))
    for changes, message in (
        ({"tuning": "half"}, "tuning is 'half'"),
        ({"model": None}, "Give a model"),
        ({"dataset": "ffhq"}, "Unknown data set 'ffhq'"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong = settings(**{"data_dir": tmp_path, "model": base_model, **changes})
            finetune(wrong, arguments(wrong, tmp_path / "out"))


# --------------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def trained(data, base_model, tmp_path_factory) -> dict[str, str]:
    folders = {}
    for dataset in ("lapa", "wflw", "celeba"):
        folders[dataset] = str(tmp_path_factory.mktemp(f"trained_{dataset}"))
        config = settings(data(dataset), dataset, model=base_model, test=False, validation="none")
        finetune(config, arguments(config, Path(folders[dataset])))
    return folders


@pytest.mark.parametrize("dataset", ("lapa", "wflw", "celeba"))
def test_report_shows_every_score_and_the_extremes(data, trained, tmp_path, dataset):
    evaluation = open_evaluation(trained[dataset], dataset, data(dataset), device="cpu")
    result = evaluation.run(batch_size=3, progress=False)
    # Batches do not matter.
    single = evaluation.run(batch_size=1, progress=False)
    for name, value in result["metrics"]["all"].items():
        assert value == pytest.approx(single["metrics"]["all"][name], rel=1e-4, abs=1e-6, nan_ok=True)
    table = write_report(result, tmp_path / "result.json")
    text = table.read_text()
    assert json.loads((tmp_path / "result.json").read_text())["num_samples"] == 4
    headline = evaluation.faces.task.headline
    assert f"| all | {headline} | {100 * result['metrics']['all'][headline]:.3f} |" in text
    assert "paper" in text
    if dataset == "wflw":
        assert "| test_blur | inter_ocular |" in text and result["metrics"].keys() >= {"all", "test_blur"}
    pictures = write_pictures(evaluation, result, tmp_path / "result.json", count=2)
    assert [Image.open(path).height for path in pictures] == [2 * 288, 2 * 288]
    scores = [score for score, _ in result["image_scores"]]
    assert scores == sorted(scores) and len({index for _, index in result["image_scores"]}) == 4


def test_published_numbers_stand_beside_their_own_split_only(data, trained):
    evaluation = open_evaluation(trained["lapa"], "lapa", data("lapa"), "val", device="cpu")
    assert "paper" not in markdown_table(evaluation.run(progress=False))


def test_both_inference_paths(data, trained):
    by_path = {
        convention: open_evaluation(trained["wflw"], "wflw", data("wflw"), convention=convention, device="cpu")
        for convention in ("farl", "facer")
    }
    assert by_path["facer"].faces.task.facer_decoding and not by_path["farl"].faces.task.facer_decoding
    scores = {name: evaluation.run(progress=False) for name, evaluation in by_path.items()}
    assert scores["farl"]["convention"] == "farl" and scores["facer"]["convention"] == "facer"
    # Nearly the same crop, decoded in another way: close, and not equal.
    farl, facer = (scores[name]["metrics"]["all"]["inter_ocular"] for name in ("farl", "facer"))
    assert farl != facer and facer == pytest.approx(farl, rel=0.2)


@pytest.mark.parametrize("precision", ("bf16", "int8"))
def test_lower_precision_costs_little(data, trained, precision):
    exact = open_evaluation(trained["wflw"], "wflw", data("wflw"), device="cpu").run(progress=False)
    evaluation = open_evaluation(trained["wflw"], "wflw", data("wflw"), precision=precision, device="cpu")
    result = evaluation.run(progress=False)
    assert result["precision"] == precision and result["metrics"] != exact["metrics"]
    assert result["metrics"]["all"]["inter_ocular"] == pytest.approx(exact["metrics"]["all"]["inter_ocular"], rel=0.1)


class OffsetDetector:
    """Finds the annotated faces of the set, and a distant false one before them."""

    def __init__(self, rows, shift: float):
        self.faces = {np.asarray(row["image"].convert("RGB")).tobytes(): row for row in rows}
        self.shift = shift

    def detect(self, image):
        row = self.faces.get(np.asarray(image.convert("RGB")).tobytes())
        if row is None:
            return Faces.empty((image.height, image.width))
        points = np.asarray(row["face_points"], dtype=np.float32)
        both = np.stack([points + 500, points + self.shift])
        return Faces((image.height, image.width), np.zeros((2, 4)), both, np.array([0.9, 0.8]))


def test_detected_faces_take_the_place_of_annotated_ones(data, trained):
    rows = BENCHMARKS["lapa"].load(data("lapa"), "test")

    def run(detector, **options):
        return open_evaluation(trained["lapa"], "lapa", data("lapa"), detector=detector, device="cpu").run(
            progress=False, **options
        )

    annotated, exact, shifted = run(None), run(OffsetDetector(rows, 0)), run(OffsetDetector(rows, 6))
    assert exact["metrics"] == annotated["metrics"] and shifted["metrics"] != annotated["metrics"]
    assert (annotated["localisation"], exact["localisation"]) == ("annotated face_points", "OffsetDetector")
    blind = OffsetDetector(rows.select(range(3)), 0)
    with pytest.raises(ValueError, match="found no face"):
        run(blind)
    assert run(blind, skip_bad=True)["num_skipped"] == 1


def score_in_process(rank: int, model: str, data_dir: str, output: str) -> None:
    """One of two processes that share an evaluation."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": "29641", "ACCELERATE_USE_CPU": "true"}
    result = open_evaluation(model, "wflw", data_dir, device="cpu").run(progress=False)
    Path(output, f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def test_two_processes_share_an_evaluation(data, trained, tmp_path):
    single = open_evaluation(trained["wflw"], "wflw", data("wflw"), device="cpu").run(progress=False)
    arguments = (trained["wflw"], str(data("wflw")), str(tmp_path))
    # Forks of one process that has imported everything.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farl_hf.finetuning.run"])
    processes = [context.Process(target=score_in_process, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["num_samples"] == 4
        for subset, scores in single["metrics"].items():
            assert result["metrics"][subset] == pytest.approx(scores, rel=1e-4, nan_ok=True)


def test_commands(data, base_model, tmp_path, capsys):
    output = tmp_path / "model"
    options = json.dumps({"out_indices": [1, 1, 2, 2]})
    flags = ["--dataset", "lapa", "--data_dir", str(data("lapa")), "--model", base_model, "--image_size", "32"]
    flags += ["--head_channels", "16", "--model_options", options, "--output_dir", str(output), "--max_steps", "2"]
    flags += ["--per_device_train_batch_size", "4", "--use_cpu", "True", "--report_to", "none"]
    assert load_script("finetune").main(flags) == 0
    assert "parameters trained" in capsys.readouterr().out
    command = ["--model", str(output), "--dataset", "lapa", "--data_dir", str(data("lapa")), "--num_workers", "0"]
    assert load_script("evaluate").main([*command, "--output", str(tmp_path / "result.json")]) == 0
    assert "| all | fg_mean |" in capsys.readouterr().out
    assert (tmp_path / "result.worst.png").exists() and (tmp_path / "result.md").exists()
    assert load_script("evaluate").main(["--model", str(tmp_path), *command[2:]]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert load_script("finetune").main(["--dataset", "lapa", "--data_dir", ".", "--output_dir", str(output)]) == 2


# ------------------------------------------------------------------------------------------------------- memorisation


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ("lapa", "celebamask_hq", "ibug300w", "wflw", "aflw19"))
def test_sixteen_faces_are_learnt_by_heart(tmp_path, dataset):
    """Scores on the training faces themselves, without augmentation: can the whole path fit at all?"""
    parsing = dataset in ("lapa", "celebamask_hq")
    views = {"yaw": (8, 15), "pitch": (4, 10), "face_size": (0.8, 0.85)}
    plain = ("hats", "occluders", "blur", "noise", "compression", "colour")
    faces = SyntheticFaceConfig(image_size=64 if parsing else 96, without=plain, **views)
    make_miniature(dataset, tmp_path / "data", train=16, config=faces)
    size = 96 if dataset == "lapa" else 64
    vision_config = {**TINY["vision_config"], "hidden_size": 64, "intermediate_size": 128, "patch_size": 4}
    config = settings(
        tmp_path / "data",
        dataset,
        preset="tiny",
        image_size=size,
        head_channels=32,
        model_options={
            "vision_config": {**vision_config, "image_size": size},
            "out_indices": [1, 1, 2, 2],
            "heatmap_size": size,
            "heatmap_radius": 3.0,
        },
        augment=False,
        validation="none",
        test=False,
        ema_decay=0.9,
        backbone_lr=1e-3,
    )
    finetune(
        config,
        arguments(config, tmp_path / "out", max_steps=1000, learning_rate=1e-2, save_strategy="no", seed=0),
    )
    scores = open_evaluation(str(tmp_path / "out"), dataset, tmp_path / "data", "train", device="cpu").run()
    headline = scores["metrics"]["all"][BENCHMARKS[dataset].task.headline]
    assert headline > 0.9 if parsing else headline < 0.02
