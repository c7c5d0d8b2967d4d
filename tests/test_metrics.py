import evaluate
import numpy as np
import pytest
from scipy.integrate import simpson

from farl_hf.datasets.labels import CELEBA_ATTRIBUTES, LAPA_LABELS
from farl_hf.metrics import (
    AttributeAccuracy,
    FaceParsingF1,
    LandmarkNME,
    auc_and_failure_rate,
    module_path,
    nme_normaliser,
)


def label_maps(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    references = rng.integers(0, 11, (count, 20, 30))
    predictions = np.where(rng.random(references.shape) < 0.3, rng.integers(0, 11, references.shape), references)
    return predictions, references


def test_f1_is_counted_over_the_data_set():
    predictions, references = label_maps()
    metric = FaceParsingF1(LAPA_LABELS)
    for predicted, true in zip(predictions, references, strict=True):
        metric.update(predicted, true)
    scores = metric.compute()
    expected = []
    for i, name in enumerate(LAPA_LABELS):
        hits = ((predictions == i) & (references == i)).sum()
        expected.append(2 * hits / ((predictions == i).sum() + (references == i).sum()))
        assert scores[name] == pytest.approx(expected[-1], abs=1e-12)
    assert scores["fg_mean"] == pytest.approx(np.mean(expected[1:]), abs=1e-12)


def test_f1_merges_and_ignores():
    predictions, references = label_maps()
    whole, first, second = (FaceParsingF1(LAPA_LABELS) for _ in range(3))
    whole.update(predictions, references)
    first.update(predictions[:1], references[:1])
    second.update(predictions[1:], references[1:])
    first.merge(second)
    assert first.compute() == whole.compute()
    metric = FaceParsingF1(["background", "face", "hat"])
    metric.update([[0, 1, 1]], [[0, 1, 255]])
    scores = metric.compute()
    assert scores["face"] == 1 and np.isnan(scores["hat"]) and scores["fg_mean"] == 1
    with pytest.raises(ValueError, match="ids from 0 to 7"):
        metric.update([[0, 7]], [[0, 1]])
    with pytest.raises(ValueError, match="2 predicted and 1 true"):
        metric.update([[0, 1]], [[0]])


def test_normalisers():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (3, 98, 2))
    assert np.allclose(
        nme_normaliser("wflw", "inter_pupil", points), np.linalg.norm(points[:, 96] - points[:, 97], axis=1)
    )
    pupils = points[:, 36:42].mean(1) - points[:, 42:48].mean(1)
    assert np.allclose(nme_normaliser("ibug300w", "inter_pupil", points[:, :68]), np.linalg.norm(pupils, axis=1))
    boxes = np.array([[10, 20, 13, 24]] * 3)
    assert np.allclose(nme_normaliser("aflw19", "diag", points[:, :19], boxes), 5)
    assert np.allclose(nme_normaliser("aflw19", "box", points[:, :19], boxes), 12**0.5)
    with pytest.raises(ValueError, match="needs the faces' boxes"):
        nme_normaliser("aflw19", "diag", points[:, :19])
    with pytest.raises(ValueError, match="No normaliser 'diag' for 'wflw'"):
        nme_normaliser("wflw", "diag", points)


def test_nme_over_batches():
    rng = np.random.default_rng(0)
    references = rng.uniform(0, 100, (5, 98, 2))
    predictions = references + rng.normal(0, 1, references.shape)
    metric, other = LandmarkNME("wflw"), LandmarkNME("wflw")
    metric.update(predictions[:2], references[:2])
    other.update(predictions[2:], references[2:])
    metric.merge(other)
    scores = metric.compute()
    eyes = np.linalg.norm(references[:, 60] - references[:, 72], axis=1)
    errors = np.linalg.norm(predictions - references, axis=2).mean(1) / eyes
    assert scores["inter_ocular"] == pytest.approx(errors.mean(), rel=1e-5)
    assert set(scores) == {"inter_ocular", "inter_pupil", "auc_inter_ocular_10", "fr_inter_ocular_10"}
    with pytest.raises(ValueError, match="not finite"):
        metric.update(np.full((1, 98, 2), np.nan), references[:1])


@pytest.mark.parametrize("threshold, points", [(0.1, 1001), (0.07, 702)])
def test_auc_on_the_originals_grid(threshold, points):
    errors = np.random.default_rng(0).gamma(4, 0.012, 200)
    grid = np.arange(0, threshold + 0.0001, 0.0001)
    assert len(grid) == points
    curve = np.array([(errors <= x).mean() for x in grid])
    if points % 2:
        area = simpson(curve, x=grid)
    else:  # SciPy's former even="avg"
        first = simpson(curve[:-1], x=grid[:-1]) + (grid[-1] - grid[-2]) * (curve[-1] + curve[-2]) / 2
        last = simpson(curve[1:], x=grid[1:]) + (grid[1] - grid[0]) * (curve[1] + curve[0]) / 2
        area = (first + last) / 2
    auc, failures = auc_and_failure_rate(errors, threshold)
    assert auc == pytest.approx(area / threshold, abs=1e-9) and failures == pytest.approx((errors > grid[-1]).mean())
    exact, _ = auc_and_failure_rate(errors, threshold, exact=True)
    assert 0 < auc - exact < 3e-3


def test_attribute_accuracy():
    metric = AttributeAccuracy(["Smiling", "Young"])
    metric.update([[2.0, -1.0], [-3.0, -1.0]], [[1, -1], [1, 0]])
    assert metric.compute() == {"Smiling": 0.5, "Young": 1.0, "mean": 0.75}
    with pytest.raises(ValueError, match="2 attributes"):
        metric.update([[1.0]], [[1]])
    with pytest.raises(ValueError, match="1 for yes"):
        metric.update([[1.0, 2.0]], [[1, 3]])


def test_evaluate_modules():
    predictions, references = label_maps(2)
    f1 = evaluate.load(module_path("face_parsing_f1"))
    direct = FaceParsingF1(LAPA_LABELS)
    direct.update(predictions, references)
    got = f1.compute(predictions=predictions.tolist(), references=references.tolist(), names=LAPA_LABELS)
    assert got == direct.compute()
    points = np.random.default_rng(0).uniform(0, 50, (2, 68, 2)).tolist()
    nme = evaluate.load(module_path("landmark_nme"))
    assert nme.compute(predictions=points, references=points, dataset="ibug300w")["inter_ocular"] == 0
    accuracy = evaluate.load(module_path("attribute_accuracy"))
    answers = np.ones((3, 40), dtype=int).tolist()
    assert accuracy.compute(predictions=answers, references=answers)["mean"] == 1
    assert len(CELEBA_ATTRIBUTES) == 40
