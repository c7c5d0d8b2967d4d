"""Losses and gradients of the global batch: several processes, chunks and accumulation against one plain batch."""

import math
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from pretraining_cases import tiny_config
from torch import nn

from farl_hf import FaRLForPreTraining
from farl_hf.pretraining import contrastive
from farl_hf.pretraining.contrastive import FeatureGradients, global_contrastive_loss
from farl_hf.pretraining.image_codebook import RandomProjectionCodebook
from farl_hf.pretraining.loop import parameter_groups
from farl_hf.pretraining.objective import PretrainingObjective, backward, model_inputs, split_batch

BATCH = 12


def make_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(10, 1000, (BATCH, 9), generator=generator)
    input_ids[:, 7:] = 49407
    # Unequal counts of masked patches per row: a mean of means would differ from the mean.
    masks = torch.rand(BATCH, 16, generator=generator) < torch.linspace(0.1, 0.9, BATCH)[:, None]
    masks[:, 0] = True
    return {
        "pixels": torch.randint(0, 256, (BATCH, 32, 32, 3), generator=generator).byte(),
        "input_ids": input_ids,
        "attention_mask": (torch.arange(9) < 8).long().expand(BATCH, 9),
        "bool_masked_pos": masks,
    }


def two_steps(path: str, accumulation: int = 1, chunk_size: int | None = None, mim_weight: float = 1.0) -> None:
    """Two optimizer steps on this process's share of the batch; saves losses and weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    objective = PretrainingObjective(FaRLForPreTraining(tiny_config()), mim_weight=mim_weight)
    # Unlike AdamW, it tells a gradient from its double, and does not blow up the rounding noise that is all there is in
    # the gradient of the keys' biases.
    optimizer = torch.optim.SGD(parameter_groups(objective, 0.05, decay_all=False), lr=0.02, momentum=0.9)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    codebook = RandomProjectionCodebook(64, 32, 8)
    batch = make_batch()
    if mim_weight == 0:
        del batch["bool_masked_pos"]
    share = split_batch(batch, BATCH // accelerator.num_processes)[accelerator.process_index]
    batches = split_batch(share, len(share["pixels"]) // accumulation)
    losses = []
    for _ in range(2):
        metrics = backward(accelerator, objective, batches, codebook, chunk_size)
        optimizer.step()
        optimizer.zero_grad()
        losses.append({name: accelerator.reduce(value, "mean").item() for name, value in metrics.items()})
    if accelerator.is_main_process:
        torch.save({"losses": losses, "weights": accelerator.unwrap_model(objective).state_dict()}, path)


def worker(rank: int, world_size: int, port: int, arguments: tuple) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    two_steps(*arguments)
    torch.distributed.destroy_process_group()


def launch(world_size: int, *arguments) -> None:
    """Runs `two_steps` in processes that are forks of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farl_hf.pretraining.loop"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [context.Process(target=worker, args=(rank, world_size, port, arguments)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory) -> dict:
    path = str(tmp_path_factory.mktemp("one") / "run.pt")
    two_steps(path)
    return torch.load(path)


def assert_same_run(path: Path | str, expected: dict) -> None:
    run = torch.load(path)
    for ours, theirs in zip(run["losses"], expected["losses"], strict=True):
        assert ours.keys() == theirs.keys() >= {"itc_loss", "mim_loss", "itc_accuracy", "mim_accuracy"}
        assert all(abs(ours[name] - theirs[name]) < 1e-5 for name in ours)
    for name, weight in run["weights"].items():
        assert (weight - expected["weights"][name]).abs().max() < 1e-5, name


@pytest.mark.parametrize(
    ("accumulation", "chunk_size"), [(1, 4), (1, 5), (3, None), (2, 4)], ids=["chunks", "uneven", "accumulated", "both"]
)
def test_chunks_and_accumulation_equal_one_batch(tmp_path, one_batch, accumulation, chunk_size):
    two_steps(str(tmp_path / "run.pt"), accumulation, chunk_size)
    assert_same_run(tmp_path / "run.pt", one_batch)


@pytest.mark.parametrize(("accumulation", "chunk_size"), [(1, None), (2, 2)], ids=["plain", "chunks_and_accumulation"])
def test_two_processes_equal_one(tmp_path, one_batch, accumulation, chunk_size):
    launch(2, str(tmp_path / "run.pt"), accumulation, chunk_size)
    assert_same_run(tmp_path / "run.pt", one_batch)


def test_three_processes_without_masks(tmp_path):
    two_steps(str(tmp_path / "one.pt"), mim_weight=0.0)
    launch(3, str(tmp_path / "three.pt"), 1, None, 0.0)
    one, three = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "three.pt")
    assert abs(one["losses"][1]["itc_loss"] - three["losses"][1]["itc_loss"]) < 1e-5
    assert all((one["weights"][name] - three["weights"][name]).abs().max() < 1e-5 for name in one["weights"])


def test_loss_of_one_process_is_that_of_the_model(one_batch):
    torch.manual_seed(0)
    model = FaRLForPreTraining(tiny_config())
    inputs = model_inputs(make_batch(), RandomProjectionCodebook(64, 32, 8))
    output = model(**inputs, attention_mask=make_batch()["attention_mask"])
    assert abs(output.itc_loss.item() - one_batch["losses"][0]["itc_loss"]) < 1e-5
    assert abs(output.mim_loss.item() - one_batch["losses"][0]["mim_loss"]) < 1e-5


def test_each_loss_has_its_weight():
    inputs = model_inputs(make_batch(), RandomProjectionCodebook(64, 32, 8))
    output = PretrainingObjective(FaRLForPreTraining(tiny_config()), itc_weight=2.0, mim_weight=0.5)(
        inputs, mim_divisor=inputs["bool_masked_pos"].sum()
    )
    expected = 2 * output["itc_loss"] + 0.5 * output["mim_loss"]
    assert output["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_contrastive_loss_by_hand():
    images = nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), dim=1)
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss, accuracy = global_contrastive_loss(images, texts, torch.tensor(math.log(2.0)))
    similarities = [
        [2 * sum(a * b for a, b in zip(i, t, strict=True)) for t in texts.tolist()] for i in images.tolist()
    ]
    rows = [-similarities[i][i] + math.log(sum(map(math.exp, similarities[i]))) for i in range(2)]
    columns = [-similarities[i][i] + math.log(sum(math.exp(row[i]) for row in similarities)) for i in range(2)]
    assert abs(loss.item() - (sum(rows) + sum(columns)) / 4) < 1e-6
    assert accuracy == 0.0


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_blocks_of_rows_equal_the_whole(monkeypatch, rows):
    torch.manual_seed(0)
    images, texts = (nn.functional.normalize(torch.randn(10, 8), dim=1) for _ in range(2))
    texts = nn.functional.normalize(texts + 0.7 * images, dim=1)
    whole, loss, accuracy = FeatureGradients.of_loss(images, texts, torch.tensor(1.5))
    monkeypatch.setattr(contrastive, "_LOGITS_AT_ONCE", rows * 10)
    blocks, block_loss, block_accuracy = FeatureGradients.of_loss(images, texts, torch.tensor(1.5))
    assert abs(loss - block_loss) < 1e-6 and accuracy == pytest.approx(float(block_accuracy)) and 0 < accuracy < 1
    for name in ("image_embeds", "text_embeds", "logit_scale"):
        assert (getattr(whole, name) - getattr(blocks, name)).abs().max() < 1e-6
    # The logits of one block at a time: what is kept for the backward pass has no more rows than that.
    largest = 0

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        global_contrastive_loss(images.requires_grad_(), texts, torch.tensor(1.5))
    assert largest <= 80, "features alone"


def test_surrogate_has_the_gradients_of_the_loss():
    torch.manual_seed(0)
    raw = [
        torch.randn(6, 4, requires_grad=True),
        torch.randn(6, 4, requires_grad=True),
        torch.zeros((), requires_grad=True),
    ]

    def features():
        return nn.functional.normalize(raw[0], dim=1), nn.functional.normalize(raw[1], dim=1), raw[2]

    expected = torch.autograd.grad(global_contrastive_loss(*features())[0], raw)
    gradients, _, _ = FeatureGradients.of_loss(*features())
    images, texts, scale = features()
    parts = [gradients.rows(i, i + 2, 1 / 3).surrogate(images[i : i + 2], texts[i : i + 2], scale) for i in (0, 2, 4)]
    for ours, theirs in zip(torch.autograd.grad(sum(parts), raw), expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-6


def test_dropped_patches_are_the_same_in_both_passes():
    accelerator = Accelerator(cpu=True)
    batch = make_batch()
    del batch["bool_masked_pos"]
    chunks = split_batch(batch, 4)

    def features(objective: PretrainingObjective) -> list[torch.Tensor]:
        torch.manual_seed(1)
        parts = [objective(model_inputs(chunk, None), features_only=True, patch_drop_ratio=0.5) for chunk in chunks]
        return [torch.cat([part[name] for part in parts]) for name in ("image_embeds", "text_embeds")]

    torch.manual_seed(0)
    objective = PretrainingObjective(FaRLForPreTraining(tiny_config()), mim_weight=0.0)
    loss, _ = global_contrastive_loss(*features(objective), objective.model.logit_scale)
    expected = torch.autograd.grad(loss, objective.model.vision_model.parameters())
    torch.manual_seed(1)
    metrics = backward(accelerator, objective, [batch], None, chunk_size=4, patch_drop_ratio=0.5)
    assert abs(metrics["itc_loss"] - loss.item()) < 1e-6
    for parameter, gradient in zip(objective.model.vision_model.parameters(), expected, strict=True):
        assert (parameter.grad - gradient).abs().max() < 1e-5


def test_frozen_without_a_branch():
    model = FaRLForPreTraining(tiny_config())
    PretrainingObjective(model, itc_weight=0.0)
    assert not model.logit_scale.requires_grad and model.mim_head.weight.requires_grad
    with pytest.raises(ValueError, match="nothing to learn"):
        PretrainingObjective(model, itc_weight=0.0, mim_weight=0.0)
