"""Whole runs of pre-training: learning, resuming after kills, faults, records, final folder, settings."""

import json
import math
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pretraining_cases import TOWER, drawing, tiny_config, write_faulty_shards, write_shards
from safetensors.torch import load_file
from script_cases import load_script
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForKeypointDetection,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
)

from farl_hf import FaRLBackbone, FaRLConfig, FaRLForPreTraining
from farl_hf.pretraining import checkpointing, loop
from farl_hf.pretraining.building import build_model, parameter_groups
from farl_hf.pretraining.configuration import RECIPES, PretrainConfig, parse_arguments
from farl_hf.pretraining.loop import PretrainResult, pretrain
from farl_hf.pretraining.schedule import Schedule
from farl_hf.pretraining.throughput import training_flops


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return write_shards(tmp_path_factory.mktemp("shards"), num_shards=4, samples_per_shard=16)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("tiny"))
    FaRLForPreTraining(tiny_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(shards, tiny_model, tmp_path) -> dict:
    return {
        "train_shards": shards,
        "init_from": tiny_model,
        "output_dir": str(tmp_path / "run"),
        "device": "cpu",
        "batch_size": 8,
        "num_workers": 0,
        "warmup_steps": 4,
        "logging_steps": 4,
        "progress_bar": False,
    }


def run(settings: dict, **changes) -> PretrainResult:
    return pretrain(PretrainConfig.from_recipe("demo", **{**settings, **changes}))


def final_weights(output_dir: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(output_dir) / "model.safetensors")


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_learns_both_tasks(settings):
    result = run(settings, num_epochs=12, batch_size=16, learning_rate=3e-3, logging_steps=8)
    first, last = result.history[0], result.history[-1]
    assert result.steps == 48 and result.samples == 12 * 64 and result.faults == {}
    assert last["itc_loss"] < 0.75 * first["itc_loss"] and last["itc_accuracy"] > 2 / 16
    assert last["mim_loss"] < 0.95 * first["mim_loss"] and last["mim_accuracy"] > first["mim_accuracy"]
    expected = {
        "step", "epoch", "loss", "itc_loss", "mim_loss", "itc_accuracy", "mim_accuracy", "temperature", "grad_norm",
        "learning_rate", "samples_per_second", "data_wait", "bad_samples", "bad_shards",
        "skipped_steps", "loss_spikes",
    }  # fmt: skip
    assert expected <= last.keys() and all(value == value for value in last.values())


def die(settings: dict, module: str, function: str, call: int) -> None:
    """Runs until the `call`-th call of a function, which SIGKILLs the process."""
    torch.set_num_threads(1)
    owner = {"run": loop.Pretraining, "checkpointing": checkpointing}[module]
    original, count = getattr(owner, function), 0

    def fatal(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, function, fatal)
    run(settings)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_and_resumed_bit_for_bit(tmp_path, settings, num_workers):
    paths, _, _ = write_faulty_shards(tmp_path / "faulty", num_shards=4, samples_per_shard=16, num_faults=8)
    settings |= {"train_shards": paths, "num_workers": num_workers, "max_steps": 20, "save_steps": 3}
    settings |= {"patch_drop_ratio": 0.25, "contrastive_chunk_size": 4, "shuffle_block": 8}
    torch.set_num_threads(1)
    whole = run(settings, output_dir=str(tmp_path / "whole"))

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farl_hf.pretraining.loop"])
    moments = [
        ("run", "_train_step", 6),  # between two checkpoints
        ("checkpointing", "_checksum", 2),  # inside of a checkpoint
        ("checkpointing", "_flush", 7),  # before it gets its name
        ("checkpointing", "_remove", 5),  # when the oldest goes
        ("run", "_finish", 1),  # before the final model
    ]
    # A killed process counts as ended when its loader workers have noticed, which takes them five seconds.
    for moment in moments[:2] if num_workers else moments:
        process = context.Process(target=die, args=(settings, *moment))
        process.start()
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL, moment
        assert not (Path(settings["output_dir"]) / "summary.json").exists()
    resumed = run(settings)
    assert equal(final_weights(resumed.output_dir), final_weights(whole.output_dir))
    assert (resumed.steps, resumed.samples, resumed.faults) == (whole.steps, whole.samples, whole.faults)
    left = sorted(path.name for path in Path(settings["output_dir"]).glob("checkpoint-*"))
    assert left == ["checkpoint-00000018", "checkpoint-00000020"]


def test_a_finished_run_is_not_repeated(settings):
    first = run(settings, max_steps=3)
    assert run(settings, max_steps=3) == first
    with pytest.raises(ValueError, match="holds a run with seed=0"):
        run(settings, max_steps=3, seed=4)
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run"):
        run(settings, max_steps=3, resume="never")


def test_ten_epochs_with_faults_end_normally(tmp_path, settings):
    paths, good, faults = write_faulty_shards(tmp_path / "faulty", num_shards=2, samples_per_shard=80, num_faults=8)
    result = run(settings, train_shards=paths, num_epochs=10, batch_size=64, num_workers=2)
    assert result.samples == 10 * len(good)
    assert result.faults == {kind: 10 * count for kind, count in faults.items()}
    summary = json.loads((result.output_dir / "summary.json").read_text())
    assert summary["faults"] == result.faults


def test_too_many_faults_are_an_error(tmp_path, settings):
    paths, _, _ = write_faulty_shards(tmp_path / "faulty", num_shards=2, samples_per_shard=16, num_faults=16)
    with pytest.raises(RuntimeError, match=r"max_bad_fraction=0.1 .*corrupt_image"):
        run(settings, train_shards=paths, num_epochs=1, max_bad_fraction=0.1)


def test_every_auto_class_loads_the_final_folder(settings):
    folder = str(run(settings, max_steps=2).output_dir)
    assert AutoConfig.from_pretrained(folder).model_type == "farl"
    for auto_class in (
        AutoModel,
        AutoModelForPreTraining,
        AutoModelForZeroShotImageClassification,
        AutoModelForSemanticSegmentation,
        AutoModelForKeypointDetection,
        AutoModelForImageClassification,
    ):
        auto_class.from_pretrained(folder)
    # AutoBackbone.from_pretrained takes Hub ids only.
    assert FaRLBackbone.from_pretrained(folder).config.model_type == "farl_vision_model"
    assert CLIPModel.from_pretrained(folder).logit_scale.shape == ()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=[drawing(0)[0]], text=["a red circle"], return_tensors="pt")
    assert AutoModel.from_pretrained(folder)(**inputs).logits_per_image.shape == (1, 1)
    assert AutoImageProcessor.from_pretrained(folder).crop_size["height"] == 32
    assert len(AutoTokenizer.from_pretrained(folder)) == 49408
    saved = yaml.safe_load(Path(folder, "pretrain_config.yaml").read_text())
    assert saved["batch_size"] == 8 and saved["recipe"] == "demo"


def test_branches_alone_leave_the_other_weights(settings, tiny_model):
    start = FaRLForPreTraining.from_pretrained(tiny_model).state_dict()
    for branch, same in (("mim_weight", "mim_head.weight"), ("itc_weight", "text_projection.weight")):
        folder = run(settings, max_steps=2, output_dir=f"{settings['output_dir']}-{branch}", **{branch: 0.0}).output_dir
        weights = final_weights(folder)
        assert torch.equal(weights[same], start[same])
        assert not torch.equal(weights["vision_model.pre_layrnorm.weight"], start["vision_model.pre_layrnorm.weight"])


def test_probe_and_tensorboard(tmp_path, settings):
    for label, colour in enumerate(("red", "blue")):
        (tmp_path / "probe" / f"{colour}_circle").mkdir(parents=True)
        for number in range(3):
            drawing(10 * label + number)[0].save(tmp_path / "probe" / f"{colour}_circle" / f"{number}.jpg")
    result = run(settings, max_steps=4, probe_folder=str(tmp_path / "probe"), probe_steps=2, report_to=["tensorboard"])
    scores = [(entry["step"], entry["zero_shot_accuracy"]) for entry in result.history if "zero_shot_accuracy" in entry]
    assert [step for step, _ in scores] == [2, 4] and all(round(6 * score) == 6 * score for _, score in scores)
    assert list(result.output_dir.rglob("events.out.tfevents*"))
    with pytest.raises(FileNotFoundError, match="no two sub-folders"):
        run(settings, max_steps=4, probe_folder=str(tmp_path / "probe" / "red_circle"), output_dir=str(tmp_path / "x"))


def test_starts_from_clip(tmp_path, settings):
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            text_config={**TOWER, "eos_token_id": 2, "projection_dim": 16},
            vision_config={**TOWER, "image_size": 32, "patch_size": 8, "projection_dim": 16},
            projection_dim=16,
        )
    )
    clip.save_pretrained(tmp_path / "clip")
    config = PretrainConfig.from_recipe("demo", **{**settings, "init_from": str(tmp_path / "clip")})
    model = build_model(config)
    assert model.config.text_config.eos_token_id == 49407
    ours = model.state_dict()
    assert all(torch.equal(weight, ours[name]) for name, weight in clip.state_dict().items() if name in ours)
    assert clip.state_dict().keys() - ours.keys() <= {"text_model.embeddings.position_ids"}
    larger = build_model(PretrainConfig.from_recipe("demo", **{**settings, "image_size": 64}))
    assert larger.vision_model.embeddings.position_embedding.weight.shape[0] == 65


def test_schedule():
    schedule = Schedule(total_steps=110, warmup_steps=10, peak=1e-3, start=1e-6, end=1e-5)
    rates = [schedule.learning_rate(step) for step in range(111)]
    assert rates[0] == 1e-6 and rates[10] == 1e-3 and abs(rates[5] - (1e-6 + 1e-3) / 2) < 1e-9
    assert abs(rates[60] - (1e-3 + 1e-5) / 2) < 1e-9 and abs(rates[110] - 1e-5) < 1e-12
    quarter = (1 + math.cos(math.pi / 4)) / 2  # a straight line has 0.75
    assert abs(rates[35] - (quarter * 1e-3 + (1 - quarter) * 1e-5)) < 1e-9
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_what_decays():
    model = FaRLForPreTraining(tiny_config())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.05, False))
    assert "mim_head.weight" in decayed and "text_model.embeddings.token_embedding.weight" in decayed
    for name in ("logit_scale", "mask_token", "mim_head.bias", "vision_model.embeddings.position_embedding.weight"):
        assert name in free
    assert parameter_groups(model, 0.05, True)[1]["params"] == []


def test_flops_of_clip_b16():
    # 41.09 GFLOP forward is open_clip's own profile of ViT-B/16; it counts 35.13 + 5.96, multiply-adds as two.
    flops = training_flops(FaRLConfig.from_preset("base"), caption_length=77, use_mim=False) / 3
    assert abs(flops / 41.09e9 - 1) < 0.02


def test_settings_from_flags_file_and_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("recipe: demo\nbatch_size: 32\nseed: 7\ntrain_shards: [a.tar]\n")
    config = parse_arguments(["--config", str(file), "--seed", "8", "--mim_weight", "0.5"])
    assert (config.seed, config.batch_size, config.mim_weight) == (8, 32, 0.5)
    assert config.preset == "tiny" and config.train_shards == ["a.tar"], "recipe and file"
    config.save_yaml(tmp_path / "resolved.yaml")
    assert parse_arguments(["--config", str(tmp_path / "resolved.yaml")]) == config
    file.write_text("learning_rte: 1\n")
    with pytest.raises(ValueError, match="Unknown setting 'learning_rte'"):
        parse_arguments(["--config", str(file)])
    for recipe in RECIPES:
        PretrainConfig.from_recipe(recipe)
    paper = PretrainConfig.from_recipe("paper-ep64")
    assert (paper.num_epochs, paper.global_batch_size, paper.weight_decay) == (64, 5120, 0.05)
    assert paper.peak_learning_rate(5120) == 1e-3
    for bad in ({"recipe": "x"}, {"batch_size": 0}, {"crop_scale": [1.0, 0.5]}, {"patch_drop_ratio": 1.0}):
        with pytest.raises(ValueError):
            PretrainConfig(**bad)


def test_script_reports_bad_input(tmp_path, monkeypatch, capsys):
    flags = ["--recipe", "demo", "--train_shards", str(tmp_path / "*.tar"), "--output_dir", str(tmp_path / "o")]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *flags, "--device", "cpu"])
    assert load_script("pretrain").main() == 2
    assert "error: No shard matches" in capsys.readouterr().err
