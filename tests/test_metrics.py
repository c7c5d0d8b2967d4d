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


# Where the original measures (`scorers/*.yaml`), by hand: two ends, each the mean of some landmarks.
LENGTHS = {
    ("ibug300w", "inter_ocular"): ([36], [45]),
    ("ibug300w", "inter_pupil"): ([36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47]),
    ("wflw", "inter_ocular"): ([60], [72]),
    ("wflw", "inter_pupil"): ([96], [97]),
    ("aflw19", "inter_ocular"): ([6], [11]),
    ("aflw19", "inter_pupil"): ([7], [10]),
}
POINTS = {"ibug300w": 68, "wflw": 98, "aflw19": 19}


@pytest.mark.parametrize("dataset, name", LENGTHS)
def test_lengths_are_measured_where_the_original_measures(dataset, name):
    first, second = LENGTHS[dataset, name]
    references = np.random.default_rng(0).uniform(0, 9, (1, POINTS[dataset], 2))
    references[0, first], references[0, second] = [10, 20], [40, 60]
    # Two landmarks are off, by 10 and by 15 pixels.
    predictions = references.copy()
    predictions[0, 0] += [6, 8]
    predictions[0, 1] += [-9, 12]
    metric = LandmarkNME(dataset)
    metric.update(predictions, references, np.array([[0, 0, 30, 40]]))
    scores = metric.compute()
    assert scores[name] == pytest.approx(25 / POINTS[dataset] / 50, rel=1e-5)
    if dataset == "aflw19":
        # The diagonal, and the root of the area, of the box.
        assert scores["diag"] == pytest.approx(25 / 19 / 50, rel=1e-5)
        assert scores["box"] == pytest.approx(25 / 19 / 1200**0.5, rel=1e-5)


def test_images_count_alike_in_the_mean():
    references = np.zeros((3, 98, 2))
    references[:, 72] = [100, 0]
    references[:, 97] = [50, 0]
    predictions = references + np.array([1, 2, 9])[:, None, None] * [0.6, 0.8]
    metric = LandmarkNME("wflw")
    metric.update(predictions, references)
    scores = metric.compute()
    assert scores["inter_ocular"] == pytest.approx(0.04) and scores["inter_pupil"] == pytest.approx(0.08)
    # The curve is 0 below 0.01, 1/3 from there, 2/3 from 0.02 and 1 from 0.09 on: no failure up to 0.1.
    assert scores["auc_inter_ocular_10"] == pytest.approx((0.09 + 0.08 + 0.01) / 3 / 0.1, abs=2e-3)
    assert scores["fr_inter_ocular_10"] == 0
    metric.update(references[:1] + np.array([30, 0]), references[:1])
    assert metric.compute()["fr_inter_ocular_10"] == 0.25


def test_curves_are_those_of_the_original():
    """WFLW: the inter-ocular error up to 0.1; AFLW-19: that of the box's side up to 0.07; the others have none."""
    boxes = np.array([[0, 0, 100, 100]] * 4)
    for dataset, count, keys in (
        ("wflw", 98, {"auc_inter_ocular_10", "fr_inter_ocular_10"}),
        ("aflw19", 19, {"auc_box_7", "fr_box_7"}),
        ("ibug300w", 68, set()),
        ("own", 68, set()),
    ):
        references = np.random.default_rng(0).uniform(0, 100, (4, count, 2))
        metric = LandmarkNME(dataset, num_landmarks=count)
        # 7.005 pixels from the truth in one image of four: between 0.07 and the grid's end at 0.0701.
        shifts = np.array([0, 0, 7.005, 8])[:, None, None] * [1, 0]
        metric.update(references + shifts, references, boxes)
        scores = metric.compute()
        assert {key for key in scores if key.startswith(("auc", "fr"))} == keys
        if dataset == "aflw19":
            assert scores["fr_box_7"] == 0.25 and scores["box"] == pytest.approx(0.0375125, rel=1e-4)


def test_own_landmarks():
    """Of a known layout: outer eye corners. Without boxes: those around the landmarks."""
    for count, corners in ((68, (36, 45)), (98, (60, 72)), (106, (66, 79)), (19, (6, 11)), (5, None)):
        references = np.random.default_rng(0).uniform(10, 20, (1, count, 2))
        references[0, :2] = [[0, 0], [30, 40]]
        if corners is not None:
            references[0, corners[0]], references[0, corners[1]] = [5, 10], [10, 22]
        metric = LandmarkNME("own", num_landmarks=count)
        metric.update(references + np.array([3, 4]), references)
        scores = metric.compute()
        assert next(iter(scores)) == ("diag" if corners is None else "inter_ocular")
        assert scores["diag"] == pytest.approx(0.1) and scores["box"] == pytest.approx(5 / 1200**0.5)
        assert scores.get("inter_ocular") == (None if corners is None else pytest.approx(5 / 13))
        metric = LandmarkNME("own", num_landmarks=count)
        metric.update(references + np.array([3, 4]), references, np.array([[0, 0, 6, 8]]))
        assert metric.compute()["diag"] == pytest.approx(0.5)


def test_parsing_f1_by_hand():
    """One confusion matrix of all images: not a mean over images, nor one that counts the background."""
    metric = FaceParsingF1(["background", "skin", "hair"])
    metric.update([[0, 0, 1, 1]], [[0, 1, 1, 1]])
    metric.update([[2, 2, 1, 0, 0, 0]], [[2, 1, 1, 2, 0, 0]])
    scores = metric.compute()
    # Skin: 3 hits of 3 predicted and 5 true; hair: 1 hit of 2 and 2; background: 3 of 5 and 3.
    assert scores["skin"] == 6 / 8 and scores["hair"] == 2 / 4 and scores["background"] == 6 / 8
    assert scores["fg_mean"] == (6 / 8 + 2 / 4) / 2


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
    # An error that lies on the grid counts from there on: no error at all is a curve of 1 up to the grid's end.
    assert auc_and_failure_rate(np.zeros(3), threshold) == (pytest.approx(grid[-1] / threshold, abs=1e-9), 0)
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
