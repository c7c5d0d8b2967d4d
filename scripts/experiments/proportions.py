"""Proportions of generated faces beside those of real ones: what the shapes are calibrated by."""

from collections.abc import Callable

import numpy as np
from tqdm.auto import tqdm

from farl_hf.synthetic import SyntheticFaceConfig, render_faces

Points = np.ndarray


def _distance(a: int, b: int) -> Callable[[Points], float]:
    return lambda points: float(np.linalg.norm(points[a] - points[b]))


def _below_eyes(*indices: int) -> Callable[[Points], float]:
    return lambda points: float(points[list(indices), 1].mean())


# Name -> (measure of 68 points whose outer eye corners lie at (-0.5, 0) and (0.5, 0), y down; mean, 5 and 95 percent of
# 1,207 annotated photos of real faces).
PROPORTIONS: dict[str, tuple[Callable[[Points], float], tuple[float, float, float]]] = {
    "eye width (36-39)": (_distance(36, 39), (0.29, 0.25, 0.34)),
    "eye opening (37-41)": (_distance(37, 41), (0.09, 0.03, 0.13)),
    "inner corners (39-42)": (_distance(39, 42), (0.42, 0.36, 0.47)),
    "brow above eye (17-26)": (lambda points: -_below_eyes(*range(17, 27))(points), (0.22, 0.15, 0.31)),
    "brow width (17-21)": (_distance(17, 21), (0.55, 0.35, 0.74)),
    "gap of the brows (21-22)": (_distance(21, 22), (0.26, 0.14, 0.40)),
    "nose tip below eyes (30)": (_below_eyes(30), (0.38, 0.20, 0.54)),
    "nose base below eyes (33)": (_below_eyes(33), (0.54, 0.40, 0.67)),
    "nose width (31-35)": (_distance(31, 35), (0.34, 0.26, 0.43)),
    "mouth centre below eyes": (_below_eyes(48, 54, 62, 66), (0.78, 0.65, 0.94)),
    "mouth width (48-54)": (_distance(48, 54), (0.63, 0.47, 0.80)),
    "mouth opening (62-66)": (_distance(62, 66), (0.07, 0.00, 0.22)),
    "height of the lips (51-57)": (_distance(51, 57), (0.23, 0.10, 0.39)),
    "chin below eyes (8)": (_below_eyes(8), (1.30, 1.04, 1.57)),
    "jaw width (0-16)": (_distance(0, 16), (1.65, 1.45, 1.89)),
    "jaw width at the mouth (4-12)": (_distance(4, 12), (1.32, 1.08, 1.56)),
    "sideways nose tip (30)": (lambda points: float(points[30, 0]), (0.01, -0.26, 0.26)),
}


def eye_frame(points: Points) -> Points:
    """68 points (x, y) turned, scaled and moved so that the outer eye corners lie at (-0.5, 0) and (0.5, 0)."""
    x, y = (points[45] - points[36]).astype(float)
    turn = np.array([[x, y], [-y, x]]) / (x * x + y * y)
    return (points - (points[36] + points[45]) / 2) @ turn.T


def measure_proportions(config: SyntheticFaceConfig, count: int, seed: int = 31) -> dict[str, np.ndarray]:
    """Name of `PROPORTIONS` -> its values of `count` generated faces, in units of the outer eye corners' distance."""
    first, values = seed * 1_000_000, {name: [] for name in PROPORTIONS}
    for start in tqdm(range(0, count, 16), desc="proportions", unit="chunk"):
        for sample in render_faces(range(first + start, first + min(start + 16, count)), config):
            points = eye_frame(sample.faces[-1].landmarks[68])
            for name, (measure, _) in PROPORTIONS.items():
                values[name].append(measure(points))
    return {name: np.array(numbers) for name, numbers in values.items()}


def proportions_table(values: dict[str, np.ndarray]) -> str:
    """Markdown: mean and 5 to 95 percent, real and generated."""
    lines = ["| outer eye corners' distance = 1 | real | generated |", "| --- | --- | --- |"]
    for name, numbers in values.items():
        _, real = PROPORTIONS[name]
        generated = (numbers.mean(), *np.percentile(numbers, (5, 95)))
        lines.append(
            f"| {name} | "
            + " | ".join(f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in (real, generated))
            + " |"
        )
    return "\n".join(lines)
