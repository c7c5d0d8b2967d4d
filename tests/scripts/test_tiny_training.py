"""The loop that trains the small weights: bad batches, and runs that are given more time."""

from types import SimpleNamespace

import pytest
import torch
from experiments.tiny_data import attributes_in_crop
from experiments.tiny_training import Stage, TinyRun, TinyTraining
from joint_cases import random_joint_batch

from farl_hf.finetuning.augmentation import SYNTHETIC_AUGMENTATION

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


def test_a_finished_run_goes_on_at_another_size(tmp_path, monkeypatch):
    run = TinyRun(settings(1.0), FACES, FACES, tmp_path)
    run.stage, run.step, run.seconds = 2, 40, 90.0
    run._save()
    milder = SYNTHETIC_AUGMENTATION.milder(0.5)
    larger = TinyTraining(stages=(*settings(1.0).stages, Stage("larger", 96, 1.0, augmentation=milder)))
    again = TinyRun(larger, FACES, FACES, tmp_path)
    seen = []
    monkeypatch.setattr(TinyRun, "_run_stage", lambda self: seen.append(self.joint.config.image_size))
    again.run()
    assert seen == [96] and torch.load(tmp_path / "state.pt", weights_only=True)["size"] == 96
    patches = (96 // again.joint.config.vision_config.patch_size) ** 2
    table = again.ema.average["dual.vision_model.embeddings.position_embedding.weight"]
    assert len(table) == 1 + patches


def test_what_is_worn_outside_of_a_crop_does_not_hold():
    names = ["Male", "Wearing_Necklace", "Eyeglasses"]
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[0, 0, :4] = 18
    labels[1, 0, :4] = 15
    labels[2, 0, :2] = 18  # too little to be seen
    held = attributes_in_crop(torch.ones(3, 3, dtype=torch.bool), names, labels)
    assert held.tolist() == [[True, True, False], [True, False, True], [True, False, False]]
    never = attributes_in_crop(torch.zeros(3, 3, dtype=torch.bool), names, labels)
    assert not never.any()
