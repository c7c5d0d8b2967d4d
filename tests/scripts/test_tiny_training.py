"""The loop that trains the small weights: bad batches, and runs that are given more time."""

from types import SimpleNamespace

import pytest
import torch
from experiments import tiny_captions
from experiments.tiny_captions import CaptionTraining, train_captions
from experiments.tiny_training import CAPTIONS_FILE, Stage, TinyRun, TinyTraining, load_average
from joint_cases import random_joint_batch

SIZE = 64
FACES = SimpleNamespace(attributes=["Male", "Smiling"])


def settings(minutes):
    return TinyTraining(stages=(Stage("before", SIZE, 0.5), Stage("joint", SIZE, minutes)))


def batch():
    return random_joint_batch(2, SIZE, patches=64, codes=1024, caption=[4094, 5, 6, 4095], masked=1)


def test_a_batch_without_a_finite_loss_is_skipped_and_counted(tmp_path, capsys):
    run = TinyRun(settings(1.0), FACES, FACES, tmp_path)
    before = [p.clone() for p in run.joint.parameters()]
    bad = batch()
    bad.landmarks[68][0, 42] = float("nan")
    assert run._train_step(bad, run.settings.stages[1]) == {}
    assert run.skipped == 1 and "step 0" in capsys.readouterr().out
    assert all(map(torch.equal, before, run.joint.parameters()))
    losses = run._train_step(batch(), run.settings.stages[1])
    assert losses["loss"] > 0 and run.skipped == 1
    assert not all(map(torch.equal, before, run.joint.parameters()))


@pytest.mark.parametrize(("minutes", "stage", "seconds"), [(1.0, 2, 0.0), (3.0, 1, 60.0)])
def test_a_finished_run_goes_on_if_it_is_given_more_minutes(tmp_path, minutes, stage, seconds):
    run = TinyRun(settings(1.0), FACES, FACES, tmp_path)
    run.stage, run.seconds = 2, 90.0
    run._save()
    again = TinyRun(settings(minutes), FACES, FACES, tmp_path)
    assert (again.stage, again.stage_seconds, again.seconds) == (stage, seconds, 90.0)


def test_captions_are_learnt_of_a_locked_tower(tmp_path, monkeypatch, capsys):
    run = TinyRun(settings(1.0), FACES, FACES, tmp_path)
    run._save()
    before = load_average(tmp_path, FACES.attributes).state_dict()
    # Eight kinds of faces, each with two words of its own.
    seen = torch.randn(8, 192, generator=torch.Generator().manual_seed(0))
    captions = [torch.tensor([[4094, 10 + i, 4095], [4094, 30 + i, 4095]]) for i in range(8)]
    monkeypatch.setattr(tiny_captions, "embed_crops", lambda *args: (seen, captions))
    faces = SimpleNamespace(attributes=FACES.attributes, tokenizer=SimpleNamespace(eos_token_id=4095))
    train_captions(tmp_path, faces, CaptionTraining(steps=40, batch_size=8))
    assert float(capsys.readouterr().out.split(", ")[-1]) < 0.7  # chance is 2.08, twins in a batch cost the rest
    after = load_average(tmp_path, FACES.attributes).state_dict()
    changed = {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"text_model", "text_projection", "visual_projection", "logit_scale"}
    # Not learnt again; gone when the weights are others.
    monkeypatch.setattr(tiny_captions, "embed_crops", lambda *args: pytest.fail("learnt again"))
    train_captions(tmp_path, faces)
    run._save()
    assert not (tmp_path / CAPTIONS_FILE).exists()
