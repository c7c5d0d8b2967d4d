"""Runs that are killed or stopped at random moments, by one process and by two: the same bits, the same records."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from pretraining_cases import TOWER, tiny_config, write_faulty_shards
from safetensors.torch import load_file

from farl_hf import FaRLForPreTraining
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.loop import Pretraining, pretrain
from farl_hf.pretraining.stopping import REQUEUE_EXIT_CODE, RunStopped

KILLS = 20
TIMES = ("samples_per_second", "data_wait")


def work(rank: int, world_size: int, port: int, steps, settings: dict) -> None:
    """One process of a run. Counts in `steps` how many it has begun."""
    if world_size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    # As in a run by hand; children of a fork server would each start one more, and import everything for each worker.
    multiprocessing.set_start_method("fork", force=True)
    original = Pretraining._train_step

    def noted(self, *arguments):
        steps.value += 1
        return original(self, *arguments)

    Pretraining._train_step = noted
    try:
        pretrain(PretrainConfig.from_recipe("demo", **settings))
    except RunStopped:
        sys.exit(REQUEUE_EXIT_CODE)


def start(world_size: int, settings: dict) -> tuple[list[BaseProcess], list]:
    """The processes of a run, and for each the number of steps that it has begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farl_hf.pretraining.loop", "pytest"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    steps = [context.Value("i") for _ in range(world_size)]
    processes = [
        context.Process(target=work, args=(rank, world_size, port, steps[rank], settings)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes, steps


def finish(world_size: int, settings: dict) -> None:
    processes, _steps = start(world_size, settings)  # the counters must live as long as the processes
    for process in processes:
        process.join(timeout=600)
        assert process.exitcode == 0


def content(folder: Path) -> dict:
    """What must be the same after all kills."""
    summary = json.loads((folder / "summary.json").read_text())
    history = [{name: value for name, value in entry.items() if name not in TIMES} for entry in summary["history"]]
    return {**summary, "history": history, "output_dir": "", "named": (folder / "bad_samples.jsonl").read_text()}


def assert_same(folder: Path, whole: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert content(folder) == content(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_twenty_random_moments(tmp_path, world_size, number):
    """
    While it starts, reads, trains or saves, with 0 to 3 loader workers in turn. Of two processes one gets the signal.
    If it dies of it, a launcher kills the other one a moment later; else it tells the other one to stop.
    """
    paths, _, _ = write_faulty_shards(tmp_path / "faulty", num_shards=4, samples_per_shard=16, num_faults=8)
    torch.manual_seed(0)
    tower = {**TOWER, "hidden_size": 16, "num_hidden_layers": 1}
    small = tiny_config(text_config=tower, vision_config={**tower, "image_size": 32, "patch_size": 8})
    FaRLForPreTraining(small).save_pretrained(tmp_path / "tiny")
    settings = {"train_shards": paths, "init_from": str(tmp_path / "tiny"), "device": "cpu", "max_bad_fraction": 0.9}
    settings |= {"batch_size": 8 // world_size, "max_steps": 24, "warmup_steps": 4, "save_steps": 2}
    settings |= {"logging_steps": 3, "progress_bar": False, "num_workers": 0}
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(world_size, {**settings, "output_dir": str(whole)})
    settings["output_dir"] = str(folder)
    rng, kills, while_saving, runs = random.Random(0), 0, 0, 0
    while kills < KILLS:
        processes, steps = start(world_size, {**settings, "num_workers": kills % 4})
        # In steps, not in seconds, so that it is as thorough on a busy machine; every fifth signal while it starts.
        wanted = rng.randint(1, 5) if kills % 5 else 0
        while any(count.value < wanted for count in steps) and all(process.is_alive() for process in processes):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        with contextlib.suppress(ProcessLookupError):  # at its end already
            os.kill(rng.choice(processes).pid, number)
        wait([process.sentinel for process in processes], timeout=120)
        if any(process.exitcode not in (None, 0, REQUEUE_EXIT_CODE) for process in processes):
            time.sleep(rng.uniform(0, 0.1))
            for process in processes:
                process.kill()
        for process in processes:
            process.join(timeout=120)
        codes = {process.exitcode for process in processes}
        kills += 1
        print(f"{kills}: exit codes {codes}, {sorted(path.name for path in folder.glob('*-0*'))}", flush=True)
        # A signal that comes before the run listens to it ends the process at once, as one that is killed.
        assert codes <= {0, 1, -signal.SIGKILL, -number} | ({REQUEUE_EXIT_CODE} if number == signal.SIGTERM else set())
        while_saving += any(folder.glob("checkpoint-*.unfinished"))
        if codes == {0}:  # at its end before the signal: a new run for the next ones
            assert_same(folder, whole)
            shutil.rmtree(folder)
            runs += 1
    finish(world_size, settings)
    assert_same(folder, whole)
    print(f"{kills} signals, {while_saving} of them while saving, {runs + 1} runs")
    assert while_saving or number == signal.SIGTERM
