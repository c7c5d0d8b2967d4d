"""A run from its first check to its last number: what is opened beforehand, resumed, held out, chosen and reported."""

import ast
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_cases import make_celebamask_hq, make_ibug300w, make_lapa, make_own
from finetuning_cases import TINY, make_base_model
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file
from script_cases import load_script
from transformers import TrainerCallback

import farl_hf
from farl_hf import FaRLConfig, FaRLForFaceAlignment
from farl_hf.finetuning import (
    BENCHMARKS,
    FinetuneConfig,
    default_training_arguments,
    finetune,
    load_task_model,
    open_evaluation,
)
from farl_hf.finetuning import run as run_module
from farl_hf.finetuning.preparation import build_model, load_rows
from farl_hf.finetuning.results import best_scores, last_scores, peak_memory
from farl_hf.finetuning.trainer import FaRLTrainer
from farl_hf.weights import pack_family


@pytest.fixture(scope="module")
def base_model(tmp_path_factory) -> str:
    return str(make_base_model(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def lapa(tmp_path_factory) -> Path:
    return make_lapa(tmp_path_factory.mktemp("lapa"), {"train": 8, "val": 2, "test": 2})


def settings(model: str, data_dir: Path, dataset: str = "lapa", **changes) -> FinetuneConfig:
    fields = {"out_indices": TINY["out_indices"], **changes.pop("model_options", {})}
    options = {"image_size": 32, "head_channels": 16, "model_options": fields, "test": False}
    return FinetuneConfig(**{"dataset": dataset, "data_dir": str(data_dir), "model": model, **options, **changes})


def arguments(config: FinetuneConfig, output: Path, **changes):
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "dataloader_num_workers": 0, "report_to": []}
    defaults |= {"use_cpu": True, "disable_tqdm": True, "output_dir": str(output)}
    return default_training_arguments(config, **{**defaults, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# ------------------------------------------------------------------------------------------------------------ own data

OWN = {
    "labels": {"task": "parsing", "names": ["background", "skin", "hair"]},
    "landmarks.pts": {"task": "alignment", "num_landmarks": 68},
    "landmarks.csv": {"task": "alignment", "num_landmarks": 68, "align": "box"},
    "keypoints.json": {"task": "alignment", "num_landmarks": 68},
    "attributes.csv": {"task": "attributes", "names": ["Smiling", "Young"]},
}
SCORES = {
    "labels": {"background", "skin", "hair", "fg_mean"},
    "attributes.csv": {"Smiling", "Young", "mean"},
}


@pytest.mark.parametrize("kind", OWN)
def test_own_folders_are_trained_on_chosen_by_and_scored(base_model, tmp_path, capsys, kind):
    make_own(tmp_path / "data", {"train": 6, "validation": 2, "test": 2}, kind)
    config = settings(base_model, tmp_path / "data", "own", test=True, **OWN[kind])
    result = finetune(config, arguments(config, tmp_path / "out"))
    assert result.selection == "best on validation"
    scores = SCORES.get(kind, {"inter_ocular", "diag", "box"})
    assert result.test_best["all"].keys() == scores and result.headline in scores
    assert np.isfinite(result.test_best["all"][result.headline])
    if OWN[kind]["task"] == "alignment":
        assert result.headline == "inter_ocular"
    # The folder knows what it was made for.
    command = ["--model", str(tmp_path / "out"), "--dataset", "own", "--data_dir", str(tmp_path / "data")]
    flags = ["--num_workers", "0", "--device", "cpu", "--output", str(tmp_path / "result.json")]
    assert load_script("evaluate").main([*command, *flags]) == 0
    assert f"| all | {result.headline} |" in capsys.readouterr().out
    again = json.loads((tmp_path / "result.json").read_text())["metrics"]["all"]
    assert again == pytest.approx(result.test_best["all"], rel=1e-4, nan_ok=True)


def test_own_masks_in_colours(base_model, tmp_path):
    make_own(tmp_path, {"train": 4, "test": 2}, "labels")
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    grey = settings(base_model, tmp_path, "own", test=True, validation="none", **OWN["labels"])
    expected = finetune(grey, arguments(grey, tmp_path / "grey"))
    for path in tmp_path.glob("*/labels/*.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)
    with pytest.raises(ValueError, match="--colours"):
        finetune(grey, arguments(grey, tmp_path / "other"))
    colours = replace(grey, colours=["000000", "ff0000", "0000ff"])
    result = finetune(colours, arguments(colours, tmp_path / "coloured"))
    assert result.test_best == expected.test_best
    evaluation = open_evaluation(
        str(tmp_path / "coloured"), "own", tmp_path, colours=["000000", "ff0000", "0000ff"], device="cpu"
    )
    assert evaluation.run(progress=False)["metrics"]["all"] == pytest.approx(result.test_best["all"], rel=1e-4)


@pytest.mark.parametrize(
    "kind, changes, spoil, message",
    (
        ("labels", {"test": True}, "test", "has no split 'test', but train.*--test False"),
        ("labels", {"validation": "test"}, "test", "has no split 'test'"),
        ("labels", {}, "masks of 0 and 255", "hold only 0 and 255"),
        ("labels", {"names": ["background", "skin"]}, None, "holds id 2, but there are 2 classes"),
        ("labels", {"colours": ["000000"]}, None, "1 colours for 3 class names"),
        ("labels", {"task": "alignment", "num_landmarks": 68}, None, "no landmarks beside them"),
        ("landmarks.pts", {"align": "box"}, None, "no column 'box'"),
        ("landmarks.pts", {"num_landmarks": 5}, None, r"shape \(68, 2\), not \(5, 2\)"),
        ("landmarks.pts", {"flip": 0.5}, "five landmarks", "No flip table for 5"),
        ("attributes.csv", {"names": ["Smiling", "Bald"]}, None, "attribute 'Bald' is missing"),
        ("labels", {}, "test image", "face1"),
    ),
)
def test_what_a_run_will_need_is_checked_before_its_first_step(
    base_model, tmp_path, monkeypatch, kind, changes, spoil, message
):
    make_own(tmp_path, {"train": 4, "test": 2}, kind)
    own = {**OWN[kind], **changes}
    if spoil == "test":
        (tmp_path / "test/images").rename(tmp_path / "test/pictures")
    elif spoil == "masks of 0 and 255":
        for path in tmp_path.glob("*/labels/*.png"):
            Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    elif spoil == "five landmarks":
        own["num_landmarks"] = 5
        for path in tmp_path.glob("*/landmarks/*.pts"):
            path.write_text("n_points: 5\n{\n1 2\n3 4\n5 6\n7 8\n9 1\n}\n")
    elif spoil == "test image":
        (tmp_path / "test/images/face1.jpg").write_bytes(b"no image")
        own["test"] = True

    def no_training(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(FaRLTrainer, "train", no_training)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        config = settings(base_model, tmp_path, "own", **own)
        finetune(config, arguments(config, tmp_path / "out"))


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "changes",
    (
        {"learning_rate": 3e-3},
        {"seed": 5},
        {"per_device_train_batch_size": 4},
        {"num_train_epochs": 7},
        {"max_steps": 3},
        {"lr_scheduler_type": "linear"},
        {"optim": "sgd"},
        {"weight_decay": 0.5},
    ),
)
def test_a_run_goes_on_with_its_own_settings_only(lapa, base_model, tmp_path, monkeypatch, changes):
    config = settings(base_model, lapa, validation="none")
    monkeypatch.setattr(FaRLTrainer, "train", lambda self, **kwargs: None)
    finetune(config, arguments(config, tmp_path))
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/trainer_state.json").write_text("{}")
    finetune(config, arguments(config, tmp_path))
    name = "batch_size" if "batch" in next(iter(changes)) else next(iter(changes))
    with pytest.raises(ValueError, match=f"holds checkpoints of a run with {name}="):
        finetune(config, arguments(config, tmp_path, **changes))
    # As many faces per step from half the batch are the same run.
    half = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    monkeypatch.setattr(run_module, "check_training_arguments", lambda *args: None)
    finetune(config, arguments(config, tmp_path, **half))


def test_killed_in_the_middle_of_an_epoch_with_workers(lapa, base_model, tmp_path, monkeypatch):
    """Four steps an epoch; a checkpoint after step 6, the kill before step 8: the data go on at the third batch."""
    config = settings(base_model, lapa, validation="none")
    options = {"max_steps": 9, "save_strategy": "steps", "save_steps": 6, "dataloader_num_workers": 2}
    finetune(config, arguments(config, tmp_path / "whole", **options))

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    class KilledTrainer(FaRLTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(Kill())

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "FaRLTrainer", KilledTrainer)
        finetune(config, arguments(config, tmp_path / "killed", **options))
    finetune(config, arguments(config, tmp_path / "killed", **options))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# ------------------------------------------------------------------------------------------------- held out, few-shot


def test_held_out_faces_are_not_trained_on(tmp_path):
    make_ibug300w(tmp_path, {"train": 40})
    benchmark = BENCHMARKS["ibug300w"]
    config = settings("base", tmp_path, "ibug300w")
    train, epoch, validation, test, selection = load_rows(config, benchmark, seed=0)
    names = set(train["name"]), set(validation["name"])
    assert (len(train), epoch, len(validation), test) == (38, 38, 2, None)
    assert not names[0] & names[1] and len(names[0] | names[1]) == 40
    assert selection == "best on 2 held-out training samples"
    other = load_rows(config, benchmark, seed=1)[2]
    assert set(other["name"]) != names[1]


def test_few_labels_are_few_for_the_choice_too(tmp_path):
    make_ibug300w(tmp_path, {"train": 40})
    benchmark = BENCHMARKS["ibug300w"]
    config = settings("base", tmp_path, "ibug300w", train_data_ratio=0.1)
    # The original's four of forty.
    order = list(range(40))
    random.Random(123).shuffle(order)
    four = {f"helen_train_{i}" for i in order[:4]}
    train, epoch, validation, _, selection = load_rows(config, benchmark, seed=0)
    assert len(validation) == 1 and len(train) == 3 and set(train["name"]) | set(validation["name"]) == four
    assert epoch == 40 and selection == "best on 1 held-out training samples"
    everything = load_rows(replace(config, validation="none"), benchmark, seed=0)
    assert everything[0]["name"][:] == [f"helen_train_{i}" for i in order[:4]] and everything[2] is None
    with pytest.raises(ValueError, match="too few to hold some out"):
        load_rows(replace(config, train_data_ratio=0.025), benchmark, seed=0)


def test_few_of_celebamask_hq_follow_the_partition(tmp_path):
    make_celebamask_hq(tmp_path, [0] * 20 + [1])
    config = settings("base", tmp_path, "celebamask_hq", train_data_ratio=0.1)
    train, epoch, validation, _, selection = load_rows(config, BENCHMARKS["celebamask_hq"], seed=0)
    order = list(range(20))
    random.Random(123).shuffle(order)
    # The partition lists CelebA's files 81 to 100, which are the HQ indices 19 to 0.
    assert train["name"][:] == [str(19 - i) for i in order[:2]]
    assert epoch == 20 and len(validation) == 1 and selection == "best on validation"


# --------------------------------------------------------------------------------------------------- choice and report


@pytest.mark.parametrize("dataset, best_is", (("lapa", max), ("ibug300w", min)))
def test_best_weights_are_saved_and_both_are_reported(base_model, tmp_path, monkeypatch, dataset, best_is):
    """The headline is made up, best at the second of four checkpoints; the saved weights must be the second's."""
    if dataset == "lapa":
        make_lapa(tmp_path / "data", {"train": 8, "val": 2, "test": 2})
    else:
        make_ibug300w(tmp_path / "data", {"train": 8, "valid_common": 2, "valid_challenge": 1})
    made_up = [0.5, 0.9, 0.3, 0.6] if best_is is max else [0.5, 0.1, 0.7, 0.4]
    answers, score = iter(made_up), FaRLTrainer.score

    def fake(self, faces):
        result = score(self, faces)
        if len(faces) < 3 and (answer := next(answers, None)) is not None:
            result["metrics"]["all"][BENCHMARKS[dataset].task.headline] = answer
        return result

    monkeypatch.setattr(FaRLTrainer, "score", fake)
    config = settings(base_model, tmp_path / "data", dataset, ema_decay=0.5, test=True)
    options = {"max_steps": 4, "save_total_limit": 9}
    options |= {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    result = finetune(config, arguments(config, tmp_path / "out", **options))
    headline = result.headline
    assert result.validation_best[headline] == best_is(made_up) and result.validation_last[headline] == made_up[-1]
    saved, best, last = (weights(tmp_path / "out" / name) for name in ("", "checkpoint-2", "checkpoint-4"))
    assert all(torch.equal(saved[name], best[name]) for name in saved)
    assert not all(torch.equal(saved[name], last[name]) for name in saved)
    # And they are what is tested, beside the last ones.
    for folder, scores in (("", result.test_best), ("checkpoint-4", result.test_last)):
        model = load_task_model(tmp_path / "out" / folder)
        processor = build_model(config, BENCHMARKS[dataset])[1]
        again = open_evaluation(model, dataset, tmp_path / "data", processor=processor).run(progress=False)
        assert again["metrics"]["all"] == pytest.approx(scores["all"], rel=1e-4, nan_ok=True)
    assert result.test_best["all"] != result.test_last["all"]


def test_best_and_last_of_a_log():
    log = [{"eval_fg_mean": value, "epoch": i} for i, value in enumerate((0.2, 0.7, 0.4))]
    assert best_scores(log, BENCHMARKS["lapa"].task) == {"fg_mean": 0.7, "epoch": 1}
    assert last_scores(log) == {"fg_mean": 0.4, "epoch": 2} and last_scores([]) == {}
    log = [{"eval_diag": value} for value in (0.2, 0.7, 0.1)]
    assert best_scores(log, BENCHMARKS["aflw19"].task) == {"diag": 0.1}


# ------------------------------------------------------------------------------------------------ models and adapters


def test_heat_maps_of_new_models_follow_the_input(base_model, tmp_path):
    def size(**changes):
        config = settings(changes.pop("model", base_model), tmp_path, "ibug300w", **changes)
        return build_model(config, BENCHMARKS["ibug300w"])[0].config.heatmap_size

    assert size() == 32 and size(image_size=96) == 48 and size(model_options={"heatmap_size": 24}) == 24
    # Small presets have smaller ones, and keep them.
    small = FinetuneConfig(dataset="ibug300w", preset="tiny", image_size=64)
    assert build_model(small, BENCHMARKS["ibug300w"])[0].config.heatmap_size == 16
    # A model that is aligned already keeps its own.
    fields = {**TINY, "neck_channels": 16, "num_landmarks": 68, "heatmap_size": 40}
    FaRLForFaceAlignment(FaRLConfig(**fields)).save_pretrained(tmp_path / "aligned")
    assert size(model=str(tmp_path / "aligned")) == 40


def test_start_that_is_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder here, none of the package's models"):
        build_model(settings("nowhere", tmp_path), BENCHMARKS["lapa"])


def test_adapters_name_a_base_that_others_have(lapa, base_model, tmp_path, monkeypatch, caplog):
    config = settings(base_model, lapa, tuning="lora", base_name="someone/farl-base", test=True)
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    result = finetune(config, arguments(config, tmp_path / "named", **options))
    assert result.test_best["all"]

    def base_of(folder):
        return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]

    assert base_of(tmp_path / "named") == "someone/farl-base"
    assert load_task_model(tmp_path / "named", base=base_model).get_base_model().name_or_path == base_model
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"adapts someone/farl-base, .*base=\.\.\."):
        load_task_model(tmp_path / "named")
    # Without a name, a folder of this machine is what there is, and is warned of.
    caplog.clear()
    build_model(replace(config, base_name=None), BENCHMARKS["lapa"])
    assert "a folder of this machine" in caplog.text and "--base_name" in caplog.text
    # The package's own weights go by their name.
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FARL_WEIGHTS", str(pack_family({"small": base_model}, tmp_path / "family")))
    for folder, model in (("name", "small"), ("path", farl_hf.pretrained("small"))):
        own = settings(model, lapa, tuning="lora")
        caplog.clear()
        finetune(own, arguments(own, tmp_path / folder))
        assert base_of(tmp_path / folder) == "small" and "this machine" not in caplog.text
        assert load_task_model(tmp_path / folder).config.num_labels == 11


def test_memory_is_told_without_the_module_that_windows_lacks(monkeypatch):
    assert peak_memory(torch.device("cpu")) > 1 << 20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(torch.device("cpu")) > 1 << 20
    # Nothing asks for it before it is needed.
    for path in Path(farl_hf.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {"resource", "fcntl"} & set(names), path


@pytest.mark.parametrize(("bf16", "attention"), [(True, "eager"), (False, "sdpa")])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_attention_on_a_cpu_in_bfloat16_is_computed_in_steps(
    base_model, tmp_path, monkeypatch, tuning, bf16, attention
):
    class Stopped(Exception):
        pass

    def stop(trainer, **options):
        raise Stopped(trainer.model.config._attn_implementation)

    monkeypatch.setattr(FaRLTrainer, "train", stop)
    data_dir = make_lapa(tmp_path, {"train": 4, "val": 2})
    config = settings(base_model, data_dir, tuning=tuning)
    with pytest.raises(Stopped, match=attention):
        finetune(config, arguments(config, tmp_path / "out", bf16=bf16))
