"""FSDP2 on two CPU processes, which Accelerate leaves to GPUs: here it is told that they are some."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from pretraining_cases import tiny_config, write_shards
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from farl_hf import FaRLForPreTraining
from farl_hf.models.modeling_farl import FaRLEncoderLayer
from farl_hf.pretraining.checkpointing import list_checkpoints
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.loop import Pretraining, pretrain

SETTINGS = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "ACCELERATE_USE_FSDP": "true",
}


def work(rank: int, port: int, settings: dict, last_step: int | None) -> None:
    """One of two processes; with `last_step`, it dies behind that."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **SETTINGS
    )
    torch.set_num_threads(1)
    original = AcceleratorState.__init__

    def as_on_gpus(self, *arguments, fsdp_plugin=None, **options):
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin or FullyShardedDataParallelPlugin()

    AcceleratorState.__init__ = as_on_gpus
    step = Pretraining._train_step

    def watched(self, *arguments):
        if self.step == last_step:
            self.checkpoints.wait()
            self.accelerator.wait_for_everyone()
            os._exit(9)
        layers = [module for module in self.objective.modules() if isinstance(module, FaRLEncoderLayer)]
        assert layers and all(isinstance(layer, FSDPModule) for layer in layers), "gathered one at a time"
        return step(self, *arguments)

    Pretraining._train_step = watched
    pretrain(PretrainConfig.from_recipe("demo", **settings))


def launch(settings: dict, last_step: int | None = None) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farl_hf.pretraining.loop"])
    processes = [context.Process(target=work, args=(rank, port, settings, last_step)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == (9 if last_step else 0)


@pytest.mark.slow
def test_sharded_run_equals_a_plain_one_and_goes_on(tmp_path):
    torch.manual_seed(0)
    FaRLForPreTraining(tiny_config()).save_pretrained(tmp_path / "tiny")
    settings = {"train_shards": write_shards(tmp_path / "shards", 2, 8), "init_from": str(tmp_path / "tiny")}
    settings |= {"device": "cpu", "global_batch_size": 8, "max_steps": 6, "save_steps": 2, "warmup_steps": 2}
    settings |= {"num_workers": 0, "logging_steps": 1, "progress_bar": False, "save_total_limit": 9}
    plain = pretrain(PretrainConfig.from_recipe("demo", **settings, batch_size=8, output_dir=str(tmp_path / "plain")))
    sharded = {**settings, "batch_size": 2, "contrastive_chunk_size": 2}
    launch({**sharded, "output_dir": str(tmp_path / "whole")})
    launch({**sharded, "output_dir": str(tmp_path / "killed")}, last_step=5)
    (*_, last) = list_checkpoints(tmp_path / "killed")
    assert last.name == "checkpoint-00000004"
    launch({**sharded, "output_dir": str(tmp_path / "killed")})

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / "model.safetensors")

    expected, whole, killed = (
        weights(folder) for folder in (plain.output_dir, tmp_path / "whole", tmp_path / "killed")
    )
    assert expected.keys() == whole.keys() and expected["logit_scale"].shape == whole["logit_scale"].shape
    assert all((whole[name] - value).abs().max() < 2e-3 for name, value in expected.items())
    assert all(torch.equal(killed[name], value) for name, value in whole.items())
    FaRLForPreTraining.from_pretrained(last)  # a checkpoint of a sharded run is a whole model, too
