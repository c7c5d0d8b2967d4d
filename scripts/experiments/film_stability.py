"""
What following faces through a film is worth: jitter of landmarks on a still face, lag behind a moving one, flicker of
label maps, with and without `FaceTracker`'s filters, on generated films whose truth is exact.
"""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from farl_hf import Faces
from farl_hf.inference.analysis import analysis_pipeline
from farl_hf.inference.head_pose import five_points
from farl_hf.inference.tracking import FaceTracker
from farl_hf.synthetic import SyntheticFaceConfig, SyntheticFaceSample, render_film

FPS = 25.0
# The first frames, in which filters settle, do not count.
SETTLING = 10
# Standard deviation of the stand-in detector's boxes and points, per frame, in sides of the box.
BOX_JITTER, POINT_JITTER = 0.02, 0.01
MOTIONS = ("still", "lights", "turning", "talking")
MEASURES = {
    "jitter": "jitter of landmarks, % of the eyes' distance",
    "lag": "lag of landmarks, ms",
    "error": "error of landmarks, % of the eyes' distance",
    "flicker": "flicker of the label map, % of the face's pixels per frame",
    "f1": "mean F1 of the label map, %",
}
# Motion -> what is measured on it.
MEASURED = {
    "still": ("jitter", "error", "flicker", "f1"),
    "lights": ("jitter", "error", "flicker", "f1"),
    "turning": ("lag", "error", "flicker", "f1"),
    "talking": ("error", "flicker", "f1"),
}


class JitteringDetector:
    """The truth's box and five points of each frame in turn, trembling."""

    def __init__(self, frames: Sequence[SyntheticFaceSample], seed: int = 0):
        self.truth = iter([frame.faces[0] for frame in frames])
        self.rng = np.random.default_rng(seed)

    def detect(self, image: Image.Image) -> Faces:
        face = next(self.truth)
        box = np.array(face.box, dtype=float)
        side = max(box[2:] - box[:2])
        shift = self.rng.normal(0, BOX_JITTER * side, 2)
        box = box + np.tile(shift, 2) + self.rng.normal(0, BOX_JITTER * side / 2, 4)
        points = five_points(face.landmarks[68][None])[0] + shift + self.rng.normal(0, POINT_JITTER * side, (5, 2))
        return Faces((image.height, image.width), box[None], points[None], np.ones(1))


def film(seed: int, motion: str, num_frames: int, size: int) -> list[SyntheticFaceSample]:
    config = SyntheticFaceConfig(
        image_size=size, occluder=0, blur=0, noise=1, jpeg=0, sunglasses=0, headscarf=0, yaw=(15, 40), style="held_out"
    )
    # Heads turn at twice their usual speed, so that a film of some seconds has them turn to both sides.
    speed = 2 if motion == "turning" else 1
    return list(render_film(seed, num_frames, FPS / speed, config, motion))


def jitter(landmarks: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square distance of landmarks (frames, n, 2) from their mean over the film, in percent."""
    offsets = landmarks - landmarks.mean(axis=0)
    return 100 * float(np.sqrt(np.square(offsets).sum(axis=-1).mean())) / _eye_distance(truth)


def error(landmarks: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance from the truth, in percent."""
    return 100 * float(np.linalg.norm(landmarks - truth, axis=-1).mean()) / _eye_distance(truth)


def lag(landmarks: np.ndarray, truth: np.ndarray, fps: float = FPS) -> float:
    """
    Milliseconds by which the truth has to be delayed to fit the landmarks best, up to an offset and a factor for each
    coordinate: what a network always gets wrong is no lag.
    """
    times = np.arange(len(truth)) / fps
    flat, found = truth.reshape(len(truth), -1), landmarks.reshape(len(truth), -1)
    delays = np.arange(-0.1, 0.3, 0.002)
    inner = (times >= 0.3) & (times <= times[-1] - 0.1)
    left = []
    for delay in delays:
        delayed = np.stack([np.interp(times[inner] - delay, times, column) for column in flat.T], axis=1)
        delayed, seen = delayed - delayed.mean(axis=0), found[inner] - found[inner].mean(axis=0)
        factor = (delayed * seen).sum(axis=0) / np.maximum(np.square(delayed).sum(axis=0), 1e-9)
        left.append(np.square(seen - factor * delayed).sum())
    return 1000 * float(delays[int(np.argmin(left))])


def flicker(maps: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """Percent of the face's pixels whose class changes from frame to frame although the true one does not."""
    changed = pixels = 0
    for (before, after), (true_before, true_after) in zip(pairwise(maps), pairwise(truth), strict=True):
        stays = (true_before == true_after) & (true_after > 0)
        changed += int(((before != after) & stays).sum())
        pixels += int(stays.sum())
    return 100 * changed / max(pixels, 1)


def mean_f1(maps: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """Mean F1 over the classes that the truth has, background aside, in percent."""
    found, true = np.stack(maps), np.stack(truth)
    scores = []
    for label in np.unique(true[true > 0]):
        both = ((found == label) & (true == label)).sum()
        scores.append(2 * both / max((found == label).sum() + (true == label).sum(), 1))
    return 100 * float(np.mean(scores))


def _eye_distance(truth: np.ndarray) -> float:
    return float(np.linalg.norm(truth[:, 36] - truth[:, 45], axis=-1).mean())


def measure_film(frames: Sequence[SyntheticFaceSample], motion: str, find: Callable) -> dict[str, float]:
    """The measures of a motion, of the answers that `find(pictures, detector)` gives for the frames of a film."""
    pictures = [{"image": frame.image, "time": i / FPS} for i, frame in enumerate(frames)]
    faces = list(find(pictures, JitteringDetector(frames)))[SETTLING:]
    kept = frames[SETTLING:]
    landmarks = np.stack([found.landmarks[0] for found in faces if found.landmarks is not None])
    truth = np.stack([frame.faces[0].landmarks[68] for frame in kept])
    maps, true_maps = [found.label_map for found in faces], [frame.lapa_labels for frame in kept]
    functions = {"jitter": jitter, "error": error, "lag": lag}
    return {
        name: functions[name](landmarks, truth)
        if name in functions
        else {"flicker": flicker, "f1": mean_f1}[name]([m for m in maps if m is not None], true_maps)
        for name in MEASURED[motion]
    }


def run_film_stability(
    output: Path, num_people: int, num_frames: int, size: int, models: dict[str, str], quiet: bool = False
) -> dict:
    """Measures all motions, filters off and on; the result, means over the people, is also written as JSON."""
    from tqdm.auto import tqdm

    pipe = analysis_pipeline(("parsing", "alignment"), models, device="cpu")
    ways = {
        "off": lambda pictures, detector: pipe(pictures, detector=detector),
        "on": lambda pictures, detector: pipe(pictures, detector=detector, tracker=FaceTracker(fps=FPS)),
    }
    found: dict[str, dict[str, dict[str, list[float]]]] = {motion: {} for motion in MOTIONS}
    for motion in tqdm(MOTIONS, unit="motion", disable=True if quiet else None):
        for seed in range(num_people):
            frames = film(1000 + seed, motion, num_frames, size)
            for way, find in ways.items():
                for name, value in measure_film(frames, motion, find).items():
                    found[motion].setdefault(name, {}).setdefault(way, []).append(value)
    means = {
        motion: {name: {way: float(np.mean(values)) for way, values in both.items()} for name, both in names.items()}
        for motion, names in found.items()
    }
    result = {"num_people": num_people, "num_frames": num_frames, "size": size, "means": means}
    output.mkdir(parents=True, exist_ok=True)
    (output / "film_stability.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def stability_table(result: dict) -> str:
    """Markdown, one row per film and measure."""
    lines = ["| film | measure | filters off | on |", "| --- | --- | --- | --- |"]
    for motion, names in result["means"].items():
        for name, both in names.items():
            digits = 0 if name == "lag" else 2
            lines.append(f"| {motion} | {MEASURES[name]} | {both['off']:.{digits}f} | {both['on']:.{digits}f} |")
    return "\n".join(lines)
