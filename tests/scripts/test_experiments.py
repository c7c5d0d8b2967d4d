"""The experiments behind the README's tables: every arm and run is made once, and scores are what they are called."""

import json
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from experiments import learning, transfer
from experiments.learning import (
    ARMS,
    PROMPTS,
    LearningSizes,
    area_under_curve,
    learning_table,
    ridge_regression,
    run_learning,
)
from experiments.spread import cells
from experiments.transfer import TransferSizes, run_transfer, transfer_table
from scipy.stats import mannwhitneyu

from farl_hf.datasets.labels import CELEBA_ATTRIBUTES

SIZES = LearningSizes(faces=48, steps=2, batch_size=8, probe_faces=60, test_faces=60, seeds=1)


def test_area_under_curve_is_mann_whitneys():
    generator = torch.Generator().manual_seed(0)
    scores, truth = torch.randint(0, 9, (200,), generator=generator).float(), torch.rand(200, generator=generator) < 0.3
    expected = mannwhitneyu(scores[truth], scores[~truth]).statistic / (int(truth.sum()) * int((~truth).sum()))
    assert area_under_curve(scores, truth) == pytest.approx(expected)
    assert np.isnan(area_under_curve(scores, torch.ones(200, dtype=torch.bool)))


def test_ridge_regression_without_penalty_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 5, generator=generator) * 3 + 1
    truth = features[:, 0] + torch.randn(100, generator=generator) > 1
    weights = ridge_regression(features, truth, penalty=1e-9)
    design = torch.cat([features, torch.ones(100, 1)], dim=1).double()
    expected = torch.linalg.lstsq(design, truth.double()[:, None] * 2 - 1).solution[:, 0]
    assert torch.allclose(weights.double(), expected, atol=1e-4)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    # Accelerate keeps the precision of a process's first run, which another test may have begun.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield folder, run_learning(folder, SIZES)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bold_is_what_is_apart_beyond_the_spread():
    assert cells([[1.0, 3.0], [9.0, 11.0]]) == ["2.0 ± 1.4", "**10.0 ± 1.4**"]
    assert cells([[1.0, 3.0], [9.0, 11.0]], lower_is_better=True) == ["**2.0 ± 1.4**", "10.0 ± 1.4"]
    # Apart by less than both deviations together; nothing to compare with.
    assert cells([[1.0, 3.0], [3.0, 6.0]]) == ["2.0 ± 1.4", "4.5 ± 2.1"]
    assert cells([[1.0, 3.0], None, []]) == ["2.0 ± 1.4", "-", "-"]
    # With a reference, everything that is better than it, however near to each other.
    assert cells([[1.0, 3.0], [9.0, 11.0], [10.0, 11.0], [3.0, 6.0]], reference=0) == [
        "2.0 ± 1.4", "**10.0 ± 1.4**", "**10.5 ± 0.7**", "4.5 ± 2.1"
    ]  # fmt: skip
    assert cells([None, [9.0, 11.0]], reference=0) == ["-", "10.0 ± 1.4"]


def test_learning_tests_every_arm_once(learned, monkeypatch):
    folder, results = learned
    assert list(results["arms"]) == [*ARMS, "no training"]
    for arm in ARMS:
        (record,) = results["arms"][arm]
        assert record["auc"].keys() == {*PROMPTS, "mean"}
        steps = json.loads((folder / learning.folder_name(arm, 0) / "summary.json").read_text())["steps"]
        assert steps == round(SIZES.steps * ARMS[arm].speed)
    table = (folder / "learning.md").read_text()
    assert table.count("\n| ITC + MIM |") == 1 and "| chance | 0.500 |" in table
    monkeypatch.setattr(learning, "pretrain_arm", lambda *args: pytest.fail("an arm was trained again"))
    again = run_learning(folder, SIZES)
    assert learning_table(again) == learning_table(results)
    # What an arm leaves out does not learn: without ITC the text tower only decays.
    states = {arm: learning.FaRLModel.from_pretrained(folder / f"{arm}-0").state_dict() for arm in
              ("itc-mim", "mim", "no-training")}  # fmt: skip
    text, image = "text_model.embeddings.position_embedding.weight", "vision_model.pre_layrnorm.weight"
    assert torch.allclose(states["mim"][text], states["no-training"][text], rtol=1e-2, atol=1e-4)
    assert not torch.allclose(states["itc-mim"][text], states["no-training"][text], rtol=1e-2, atol=1e-4)
    assert not torch.equal(states["itc-mim"][image], states["mim"][image])


def test_transfer_runs_every_combination_once(learned, tmp_path, monkeypatch):
    folder, _ = learned
    monkeypatch.setattr(transfer, "RATIOS", (1.0,))
    monkeypatch.setattr(transfer, "RUNS", (("full", "no training"), ("lora", "ITC + MIM"), ("full", "other task")))
    sizes = TransferSizes(train_faces=16, test_faces=8, steps=1, batch_size=8, seeds=1)
    results = run_transfer(folder, tmp_path, sizes, ["alignment", "attributes"])
    # What would start from parsing is left out with it.
    assert [(row["start"], row["task"]) for row in results["rows"]] == [
        *product(["random", "ITC + MIM"], ["alignment", "attributes"]),
        ("another task", "attributes"),
    ]
    settings = json.loads((tmp_path / "attributes-100-full-other-task-0" / "finetune_config.json").read_text())
    assert str(tmp_path / "alignment-100-full-no-training-0") in json.dumps(settings)
    monkeypatch.setattr(transfer, "finetune_once", lambda *args: pytest.fail("a run was made again"))
    assert run_transfer(folder, tmp_path, sizes, ["alignment", "attributes"])["rows"] == results["rows"]
    assert results["baselines"]["attributes"] == 0.5 and 0 < results["baselines"]["alignment"] < 1
    assert json.loads((tmp_path / "transfer.json").read_text())["rows"] == results["rows"]
    starts, tunings = transfer_table(results).split("\n\n")[1:]
    (nme,) = (row["score"] for row in results["rows"] if (row["task"], row["tuning"]) == ("alignment", "full"))
    assert f"| alignment, NME (inter-ocular) | 100 % | {100 * nme:.1f} ± 0.0 | - | - | - | - |" in starts
    assert tunings.splitlines()[-1].startswith("| attributes, mean AUC | 100 % | - | ")
    # Attributes are scored by how well the logits order the faces.
    data = tmp_path / "data" / "attributes"
    rows = transfer.face_rows("attributes", data, "test").rows
    truth = torch.tensor([[row["attributes"][name] for name in CELEBA_ATTRIBUTES] for row in rows]).float()
    for sign, score in ((1, 1.0), (-1, 0.0)):
        model = SimpleNamespace(eval=lambda sign=sign: lambda pixel_values: SimpleNamespace(logits=sign * truth))
        monkeypatch.setattr(transfer, "load_task_model", lambda folder, model=model: model)
        assert transfer.mean_area_under_curve(folder, data, len(rows)) == score
    with pytest.raises(FileNotFoundError, match="no-training-1"):
        run_transfer(folder, tmp_path, replace(sizes, seeds=2), ["alignment"])
