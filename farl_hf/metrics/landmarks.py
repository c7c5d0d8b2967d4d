"""Normalised mean error of landmarks, its area under the curve and failure rate (`face_alignment/scorer.py`)."""

import numpy as np

# Normalisers by data set (`face_alignment/scorers/*.yaml`): rows whose means are the two ends of the distance.
_DISTANCES: dict[str, dict[str, tuple[list[int], list[int]]]] = {
    "ibug300w": {
        "inter_ocular": ([36], [45]),
        "inter_pupil": ([36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47]),
    },
    "wflw": {"inter_ocular": ([60], [72]), "inter_pupil": ([96], [97])},
    "aflw19": {"inter_ocular": ([6], [11]), "inter_pupil": ([7], [10]), "diag": ([], []), "box": ([], [])},
    # Own data: without annotated boxes, those around the landmarks.
    "own": {"diag": ([], []), "box": ([], [])},
}
# Outer corners of the eyes in the layouts of iBUG, WFLW, LaPa and AFLW, by their number of landmarks: what own data
# of that number are taken for.
OUTER_EYE_CORNERS = {68: (36, 45), 98: (60, 72), 106: (66, 79), 19: (6, 11)}
# The threshold and the normaliser of AUC and failure rate that the original reports.
_CURVES = {"wflw": ("inter_ocular", 0.1, "10"), "aflw19": ("box", 0.07, "7")}


def nme_normaliser(dataset: str, name: str, references: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
    """
    The length that errors are divided by.

    Args:
        dataset: `ibug300w`, `wflw`, `aflw19`, or `own` for any other landmarks.
        name: `inter_ocular`, `inter_pupil`, or on AFLW-19 and own data `diag` and `box` of the annotated box. Own data
            have `inter_ocular` if their number of landmarks is that of a known layout (68, 98, 106 or 19).
        references: (images, points, 2) true landmarks in pixels.
        boxes: (images, 4) x1, y1, x2, y2, for `diag` and `box`; of own data by default those around the landmarks.

    Returns:
        (images,) float32.
    """
    references = np.asarray(references, dtype=np.float32)
    distances = _distances(dataset, references.shape[1])
    if name not in distances:
        raise ValueError(f"No normaliser {name!r} for {dataset!r}: choose one of {', '.join(distances)}.")
    if name in ("diag", "box"):
        if boxes is None and dataset == "own":
            boxes = np.concatenate([references.min(axis=1), references.max(axis=1)], axis=1)
        if boxes is None:
            raise ValueError(f"The normaliser {name!r} needs the faces' boxes.")
        boxes = np.asarray(boxes, dtype=np.float32)
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        return np.sqrt(width**2 + height**2) if name == "diag" else np.sqrt(width * height)
    first, second = distances[name]
    return np.linalg.norm(references[:, first].mean(axis=1) - references[:, second].mean(axis=1), axis=-1)


def _distances(dataset: str, num_landmarks: int | None) -> dict[str, tuple[list[int], list[int]]]:
    """Normalisers of a data set, the one that models are compared by first."""
    if dataset not in _DISTANCES:
        raise ValueError(f"Unknown data set {dataset!r}: choose one of {', '.join(_DISTANCES)}.")
    if dataset == "own" and num_landmarks in OUTER_EYE_CORNERS:
        first, second = OUTER_EYE_CORNERS[num_landmarks]
        return {"inter_ocular": ([first], [second]), **_DISTANCES["own"]}
    return _DISTANCES[dataset]


def normalised_mean_error(predictions: np.ndarray, references: np.ndarray, normaliser: np.ndarray) -> np.ndarray:
    """(images,) float32: mean distance of (images, points, 2) landmarks, divided by the (images,) normaliser."""
    difference = np.asarray(predictions, dtype=np.float32) - np.asarray(references, dtype=np.float32)
    return np.linalg.norm(difference, axis=-1).mean(axis=-1) / normaliser


def auc_and_failure_rate(errors: np.ndarray, threshold: float, exact: bool = False) -> tuple[float, float]:
    """
    Area under the cumulative error curve up to `threshold`, divided by it, and the share of images beyond it.

    By default as the original: Simpson's rule on the grid `arange(0, threshold + 0.0001, 0.0001)`, which for 0.07 ends
    at 0.0701 while the divisor stays 0.07; where the number of points is even the first and the last interval are
    corrected with trapezoids in turn and averaged (SciPy's `even="avg"`, since removed). `exact=True` integrates the
    step curve itself, and counts failures beyond the threshold itself.

    Args:
        errors: (images,) normalised mean errors.
        threshold: Upper end, 0.1 on WFLW, 0.07 on AFLW-19.
        exact: See above.
    """
    errors = np.asarray(errors)
    if exact:
        area = np.clip(threshold - errors, 0, None).mean()
        return float(area / threshold), float((errors > threshold).mean())
    step = 0.0001
    grid = np.arange(0.0, threshold + step, step)
    curve = np.searchsorted(np.sort(errors), grid, side="right") / len(errors)
    return float(_simpson(curve, grid) / threshold), float(1 - curve[-1])


def _simpson(y: np.ndarray, x: np.ndarray) -> float:
    if len(x) % 2 == 1:
        return _simpson_odd(y, x)
    first = _simpson_odd(y[:-1], x[:-1]) + 0.5 * (x[-1] - x[-2]) * (y[-1] + y[-2])
    last = _simpson_odd(y[1:], x[1:]) + 0.5 * (x[1] - x[0]) * (y[1] + y[0])
    return (first + last) / 2


def _simpson_odd(y: np.ndarray, x: np.ndarray) -> float:
    """Composite Simpson's rule for an odd number of points, whose spacing may vary."""
    h0, h1 = np.diff(x)[0::2], np.diff(x)[1::2]
    total, product, ratio = h0 + h1, h0 * h1, h0 / h1
    parts = y[:-2:2] * (2 - 1 / ratio) + y[1:-1:2] * total * total / product + y[2::2] * (2 - ratio)
    return float((total / 6 * parts).sum())


class LandmarkNME:
    """
    Landmark errors over a data set; only one number per image and normaliser is kept.

    Args:
        dataset: `ibug300w`, `wflw`, `aflw19`, or `own` for any other landmarks.
        exact_auc: See [`auc_and_failure_rate`].
        num_landmarks: Of own data, which decides whether they have an `inter_ocular` error, see [`nme_normaliser`].
    """

    def __init__(self, dataset: str, exact_auc: bool = False, num_landmarks: int | None = None):
        self.dataset, self.exact_auc = dataset, exact_auc
        self.errors: dict[str, list[np.ndarray]] = {name: [] for name in _distances(dataset, num_landmarks)}

    def update(self, predictions: np.ndarray, references: np.ndarray, boxes: np.ndarray | None = None) -> None:
        """
        Adds images.

        Args:
            predictions, references: (images, points, 2) landmarks in pixels of the original image.
            boxes: (images, 4) x1, y1, x2, y2; AFLW-19, and own data if they have them.

        Raises:
            ValueError: If shapes differ, a coordinate is not finite, or a normaliser is zero.
        """
        predictions, references = np.asarray(predictions), np.asarray(references)
        if predictions.shape != references.shape or predictions.ndim != 3:
            raise ValueError(f"Landmarks have shapes {predictions.shape} and {references.shape}: (images, points, 2).")
        if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
            raise ValueError("Landmarks are not finite.")
        for name, errors in self.errors.items():
            normaliser = nme_normaliser(self.dataset, name, references, boxes)
            if not (normaliser > 0).all():
                raise ValueError(f"The {name} distance of image {int(np.argmin(normaliser))} of the batch is zero.")
            errors.append(normalised_mean_error(predictions, references, normaliser))

    def merge(self, other: "LandmarkNME") -> None:
        """Adds the errors of another process."""
        for name, errors in self.errors.items():
            errors.extend(other.errors[name])

    def compute(self) -> dict[str, float]:
        """Mean error per normaliser (fractions), and `auc_*` and `fr_*` where the original reports them."""
        errors = {name: np.concatenate(parts) for name, parts in self.errors.items() if parts}
        if not errors:
            raise ValueError("No image was added to the metric.")
        result = {name: float(values.mean(dtype=np.float32)) for name, values in errors.items()}
        if self.dataset in _CURVES:
            name, threshold, suffix = _CURVES[self.dataset]
            auc, failures = auc_and_failure_rate(errors[name], threshold, self.exact_auc)
            result |= {f"auc_{name}_{suffix}": auc, f"fr_{name}_{suffix}": failures}
        return result
