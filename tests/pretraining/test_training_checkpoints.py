"""Stop and go: kills, signals, damaged and older checkpoints, full disks, other numbers of workers, bad gradients."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from pretraining_cases import tiny_config, write_faulty_shards, write_shards
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSemanticSegmentation

from farl_hf import FaRLForPreTraining
from farl_hf.pretraining import loop
from farl_hf.pretraining.checkpointing import Checkpoints, damage_of, to_json
from farl_hf.pretraining.configuration import RECIPES, PretrainConfig
from farl_hf.pretraining.fault_account import FaultAccount
from farl_hf.pretraining.faults import Fault
from farl_hf.pretraining.loop import Pretraining, PretrainResult, pretrain
from farl_hf.pretraining.records import Records
from farl_hf.pretraining.schedule import plan_schedule
from farl_hf.pretraining.stability import Stability
from farl_hf.pretraining.stopping import RunStopped
from farl_hf.pretraining.stream import Processes

TIMES = ("samples_per_second", "data_wait")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return write_shards(tmp_path_factory.mktemp("shards"), num_shards=3, samples_per_shard=16)


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
        "batch_size": 4,
        "num_workers": 0,
        "warmup_steps": 2,
        "logging_steps": 4,
        "save_steps": 3,
        "max_steps": 9,
        "save_total_limit": 5,
        "progress_bar": False,
    }


def run(settings: dict, **changes) -> PretrainResult:
    return pretrain(PretrainConfig.from_recipe("demo", **{**settings, **changes}))


class Crash(BaseException):
    """What a kill is to the code around it."""


def run_up_to(step: int, settings: dict, **changes) -> None:
    """A run that dies in the middle of the step after `step`."""
    original = Pretraining._train_step

    def fatal(self, *args):
        if self.step == step:
            self.checkpoints.wait()
            raise Crash
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Pretraining, "_train_step", fatal)
        run(settings, **changes)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*-0*"))


def without_times(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in history]


@pytest.fixture
def whole(settings, tmp_path) -> PretrainResult:
    return run(settings, output_dir=str(tmp_path / "whole"))


def test_going_on_from_an_older_checkpoint_destroys_none(settings, whole):
    folder = Path(settings["output_dir"])
    run_up_to(8, settings)
    assert names(folder) == ["checkpoint-00000003", "checkpoint-00000006"]
    before = weights(folder / "checkpoint-00000006")
    older = {**settings, "resume": str(folder / "checkpoint-00000003")}
    run_up_to(7, older)
    assert names(folder) == ["abandoned-00000006", "checkpoint-00000003", "checkpoint-00000006"]
    assert equal(weights(folder / "abandoned-00000006"), before)
    # The same command again goes on from where it came to.
    started = []
    original = Checkpoints.load

    def noted(self, path, *rest):
        started.append(path.name)
        return original(self, path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "load", noted)
        assert equal(weights(run(older).output_dir), weights(whole.output_dir))
    assert started == ["checkpoint-00000006"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(settings, whole, caplog):
    folder = Path(settings["output_dir"])
    run_up_to(8, settings)
    newest = folder / "checkpoint-00000006"
    content = bytearray((newest / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 255
    (newest / "optimizer.pt").write_bytes(content)
    assert "optimizer.pt is not what was saved" in damage_of(newest)
    with pytest.raises(ValueError, match=r"checkpoint-00000006 is damaged"):
        run(settings, resume=str(newest))
    assert equal(weights(run(settings).output_dir), weights(whole.output_dir))
    assert "checkpoint-00000006 is damaged" in caplog.text


def test_checkpoints_open_as_what_they_are_and_are_kept(settings):
    folder = Path(run(settings, keep_steps=3, save_total_limit=1, max_steps=7).output_dir)
    assert names(folder) == ["checkpoint-00000003", "checkpoint-00000006", "checkpoint-00000007"]
    assert equal(weights(folder / "checkpoint-00000007"), weights(folder))
    model, info = AutoModelForPreTraining.from_pretrained(folder / "checkpoint-00000003", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.vision_config.image_size == 32 and not equal(model.state_dict(), weights(folder))
    assert type(AutoModel.from_pretrained(folder / "checkpoint-00000003")).__name__ == "FaRLModel"
    AutoModelForSemanticSegmentation.from_pretrained(folder / "checkpoint-00000003")


def test_other_numbers_of_workers_and_of_samples_at_a_time(settings, whole):
    run_up_to(4, settings, num_workers=2)
    with pytest.raises(ValueError, match="saved with a global batch of 4 samples, and these 1 processes have 8"):
        run(settings, batch_size=8)
    # The shards may have moved, too.
    moved = Path(settings["output_dir"]).parent / "moved"
    shutil.copytree(Path(settings["train_shards"][0]).parent, moved)
    changes = {"batch_size": 2, "global_batch_size": 4, "contrastive_chunk_size": 1, "train_shards": [str(moved)]}
    result = run(settings, num_workers=1, **changes)
    assert result.samples == whole.samples
    for name, value in weights(result.output_dir).items():
        torch.testing.assert_close(value, weights(whole.output_dir)[name], atol=2e-4, rtol=1e-3)


def test_records_are_those_of_an_unbroken_run(tmp_path, settings):
    paths, _, _ = write_faulty_shards(tmp_path / "faulty", num_shards=3, samples_per_shard=16, num_faults=8)
    changes = {"train_shards": paths, "report_to": ["tensorboard"], "max_steps": 16, "max_bad_fraction": 0.9}
    whole = run(settings, **changes, output_dir=str(tmp_path / "whole"))
    for step in (5, 11):
        run_up_to(step, settings, **changes)
    result = run(settings, **changes)
    assert without_times(result.history) == without_times(whole.history)
    assert result.faults == whole.faults and result.bad_shards == whole.bad_shards
    lines = (result.output_dir / "bad_samples.jsonl").read_text()
    assert lines == (whole.output_dir / "bad_samples.jsonl").read_text()
    assert len(lines.splitlines()) == sum(result.faults.values())
    assert {"truncated_shard", "missing_shard"} == {kind for kind, _ in result.bad_shards}

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in result.output_dir.glob("pretraining/events.out*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12, 16]


def test_names_behind_the_checkpoint_are_cut_off(tmp_path):
    loader = SimpleNamespace(processes=Processes(), good=9, epoch=0, stream=SimpleNamespace(rank=0, shards=["a.tar"]))
    path = tmp_path / "bad_samples.jsonl"

    def named(account: FaultAccount, key: str) -> list[str]:
        loader.records = [Fault("missing_image", "a.tar", key, 0)] if key else []
        account.update()
        return [json.loads(line)["key"] for line in path.read_text().splitlines()]

    killed, resumed = (FaultAccount(loader, path, 1.0) for _ in range(2))
    assert named(killed, "1") == ["1"]
    state = killed.state_dict()
    assert named(killed, "2") == ["1", "2"]
    resumed.load_state_dict(state)
    assert named(resumed, "") == ["1"] and named(resumed, "3") == ["1", "3"]


def test_only_the_main_process_writes_lines(caplog):
    caplog.set_level("INFO")
    for is_main in (True, False):
        accelerator = SimpleNamespace(is_main_process=is_main, log=lambda *_, **__: None)
        records = Records(PretrainConfig(), accelerator)
        records.write({"step": 3, "loss": 1.0})
        assert records.history == [{"step": 3, "loss": 1.0}], "all have the history, which goes into the checkpoint"
    assert caplog.text.count("loss 1") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_finish_the_step_and_save(settings, whole, number):
    original = Pretraining._train_step

    def interrupted(self, *args):
        if self.step == 4:
            os.kill(os.getpid(), number)
        return original(self, *args)

    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunStopped, match="Stopped at step"):
        patch.setattr(Pretraining, "_train_step", interrupted)
        run(settings)
    assert names(settings["output_dir"])[-1] in ("checkpoint-00000005", "checkpoint-00000006")
    assert signal.getsignal(number) == before
    assert equal(weights(run(settings).output_dir), weights(whole.output_dir))


def test_a_full_disk_leaves_the_last_checkpoint(settings, whole):
    original, calls = torch.save, []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"No space left.*the last good checkpoint is .*checkpoint-00000003"):
            run(settings)
    assert names(settings["output_dir"]) == ["checkpoint-00000003"]
    assert not list(Path(settings["output_dir"]).glob("*.unfinished"))
    assert equal(weights(run(settings).output_dir), weights(whole.output_dir))


def test_first_tries_that_failed_block_nothing(tmp_path, settings):
    folder = Path(settings["output_dir"])
    with pytest.raises(RuntimeError, match="max_bad_fraction"):
        run(settings, train_shards=[str(tmp_path / "gone.tar")], max_steps=None, num_epochs=1, batch_size=8, seed=7)
    assert run(settings, max_steps=3).steps == 3, "nothing to go on from, so the seed may be another one"
    assert yaml.safe_load((folder / "pretrain_config.yaml").read_text())["batch_size"] == 4
    (folder / "pretrain_config.yaml").write_text("")  # as a full disk leaves it
    (folder / "summary.json").unlink()
    assert run(settings, max_steps=3).steps == 3
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        run(settings, output_dir=str(tmp_path / "file" / "run"))


def test_gradients_that_are_not_finite(settings):
    original = loop.backward

    def poisoned(accelerator, objective, *args):
        result = original(accelerator, objective, *args)
        poisoned.calls += 1
        if poisoned.calls in poisoned.bad:
            objective.model.mim_head.weight.grad.fill_(float("nan"))
        return result

    poisoned.calls, poisoned.bad = 0, {3, 4, 6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "backward", poisoned)
        result = run(settings)
        assert result.skipped_steps == 3 and result.history[-1]["skipped_steps"] == 3
        assert all(value.isfinite().all() for value in weights(result.output_dir).values())
        json.loads((result.output_dir / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
        poisoned.calls, poisoned.bad = 0, {5, 6, 7}
        with pytest.raises(RuntimeError, match=r"The last 3 steps, up to 7, .*grad_norm nan.*checkpoint-00000006"):
            run(settings, output_dir=settings["output_dir"] + "2", max_skipped_steps=3)
    assert to_json({"a": [float("inf"), 1.0], "b": float("nan")}) == '{"a": [null, 1.0], "b": null}'


def test_loss_spikes_are_noted():
    stability = Stability(5)
    for step in range(100):
        assert stability.accepts(step, 2.0 + 0.1 * (step % 3), {})
    assert stability.spikes == 0 and stability.accepts(100, 4.0, {}) and stability.spikes == 1
    copy = Stability(5)
    copy.load_state_dict(json.loads(json.dumps(stability.state_dict())))
    assert copy.state_dict() == stability.state_dict()


def test_a_missing_shard_of_four_is_no_end(tmp_path, settings, shards):
    result = run(settings, train_shards=[*shards, str(tmp_path / "gone.tar")], num_workers=4, max_steps=14)
    assert result.steps == 14 and result.faults == {"missing_shard": 1}
    assert result.bad_shards == [["missing_shard", str(tmp_path / "gone.tar")]]


def test_what_cannot_be_counted_is_asked_for(shards):
    remote = ["https://host/0.tar", *shards]
    for known in ({"max_steps": 10}, {"warmup_steps": 2}):
        with pytest.raises(ValueError, match=r"samples of 1 of 4 shards.*https://host/0\.tar.*samples_per_epoch"):
            plan_schedule(PretrainConfig(**known), remote, 4)
    schedule = plan_schedule(PretrainConfig(max_steps=10, warmup_steps=2), remote, 4)
    assert (schedule.total_steps, schedule.warmup_steps) == (10, 2)
    schedule = plan_schedule(PretrainConfig(num_epochs=2, samples_per_epoch=100), remote, 10)
    assert (schedule.total_steps, schedule.warmup_steps) == (20, 10) and schedule.learning_rate(0) == 1e-6
    assert plan_schedule(PretrainConfig(num_epochs=1), [*shards, "gone.tar"], 4).total_steps == 12


def test_the_global_batch_is_met_or_refused():
    paper = PretrainConfig.from_recipe("paper-ep16")
    assert paper.accumulation_steps(8) == 4 and paper.accumulation_steps(32) == 1
    assert paper.peak_learning_rate(5120) == 1e-3 and paper.peak_learning_rate(1280) == pytest.approx(5e-4)
    with pytest.raises(ValueError, match="global_batch_size=5120 cannot be met with 7 processes"):
        paper.accumulation_steps(7)
    with pytest.raises(ValueError, match=r"cannot be met with 8 processes, batch_size=160 and .*steps=1"):
        PretrainConfig.from_recipe("paper-ep16", gradient_accumulation_steps=1).accumulation_steps(8)
    assert PretrainConfig(batch_size=8, gradient_accumulation_steps=3).accumulation_steps(2) == 3
    assert all("mixed_precision" not in recipe for recipe in RECIPES.values()), "the launcher's counts"
