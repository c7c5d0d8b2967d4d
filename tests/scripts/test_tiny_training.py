"""The loop that trains the small weights: bad batches, and runs that are given more time."""

from types import SimpleNamespace

import pytest
import torch
from experiments.tiny_training import Stage, TinyRun, TinyTraining
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
