"""The loop that trains the small weights: bad batches, and runs that are given more time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from experiments import tiny_data
from experiments.tiny_data import JointBatches, attributes_in_crop, box_matrix
from experiments.tiny_training import Stage, TinyRun, TinyTraining
from joint_cases import random_joint_batch

from farl_hf.finetuning.augmentation import NO_AUGMENTATION, SYNTHETIC_AUGMENTATION
from farl_hf.models.geometry_farl import photo_to_crop

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
    labels[0, 0, :6] = 18
    labels[1, 0, :6] = 15
    labels[2, 0, :5] = 18  # too little to be seen
    held = attributes_in_crop(torch.ones(3, 3, dtype=torch.bool), names, labels)
    assert held.tolist() == [[True, True, False], [True, False, True], [True, False, False]]
    never = attributes_in_crop(torch.zeros(3, 3, dtype=torch.bool), names, labels)
    assert not never.any()


def test_a_box_crop_has_the_box_in_its_middle():
    points = torch.tensor([[10.0, 20.0], [50.0, 30.0], [30.0, 80.0]], dtype=torch.float64)
    found = photo_to_crop(points, box_matrix(points, 120, 1.5), 120)
    # The longer side is 60, so the crop shows 90 pixels, from (-15, 5) on.
    assert torch.allclose(found, (points - torch.tensor([-15.0, 5.0])) * 120 / 90)


def test_some_crops_are_about_boxes(monkeypatch):
    row = {
        "points_5": np.array([[30, 40], [50, 40], [40, 50], [33, 60], [47, 60]], dtype=np.float32),
        "points_68": np.random.default_rng(0).uniform(20, 80, (68, 2)).astype(np.float32),
    }
    batches = JointBatches(FACES, SIZE, 8, 16, 1, 0.0, 0, NO_AUGMENTATION)
    about_box = box_matrix(torch.from_numpy(row["points_68"]).double() + 0.5, SIZE, 1.5)
    boxes = [torch.allclose(batches._matrix(row, np.random.default_rng(i)), about_box) for i in range(100)]
    assert 20 < sum(boxes) < 60
    monkeypatch.setattr(tiny_data, "_BOX_SHARE", 0.0)
    assert not torch.allclose(batches._matrix(row, np.random.default_rng(boxes.index(True))), about_box)
