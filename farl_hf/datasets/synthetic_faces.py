"""
An endless, licence-free source of labelled faces: procedural portraits, each a function of one integer seed.

A head is a surface of revolution-like rings in 3D with brows, eyes, nose and lips as curves on it, turned by yaw, pitch
and roll and projected with perspective, so that outlines are foreshortened as they are in photos. The same projected
shapes are painted as a picture (twice supersampled) and as label maps, and give the landmarks of all layouts.

Head coordinates: x to the image's right, y down, z towards the viewer; the cheekbones are at x = -1 and 1. Pictures are
RGB; points are (x, y) in pixels, the centre of the first pixel at (0, 0). "Left" in landmark layouts is the image's
left side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .synthetic_head import Head, Points, face_landmarks, face_outlines, feature_curves, jaw_line
from .synthetic_painting import Canvas, background, finish, paint_occluder, paint_person
from .synthetic_person import Person, sample_person, write_captions

# Changes whenever the same seed gives another picture.
VERSION = 1


@dataclass(frozen=True)
class SyntheticFaceConfig:
    """
    What the generator draws.

    Args:
        image_size: Side of the square picture in pixels, 64 to 1024.
        num_faces: Least and most faces in a picture, 1 to 3.
        max_yaw, max_pitch, max_roll: Largest turn of the head to either side, in degrees.
        face_size: Least and most width of a single face as a share of the picture; several faces share the room.
        nuisance: 0 to 1: strength of light, clutter, occlusion, blur and noise.
        max_captions: Most captions of a picture; each has at least one.
    """

    image_size: int = 224
    num_faces: tuple[int, int] = (1, 1)
    max_yaw: float = 40.0
    max_pitch: float = 20.0
    max_roll: float = 25.0
    face_size: tuple[float, float] = (0.38, 0.62)
    nuisance: float = 1.0
    max_captions: int = 5

    def __post_init__(self):
        if not 64 <= self.image_size <= 1024:
            raise ValueError(f"image_size is {self.image_size}: the generator draws 64 to 1024 pixels.")
        if not 1 <= self.num_faces[0] <= self.num_faces[1] <= 3:
            raise ValueError(f"num_faces is {self.num_faces}: least and most faces lie between 1 and 3.")


@dataclass
class SyntheticFace:
    """
    What is known about one face.

    Attributes:
        landmarks: Layout size -> points (size, 2) float32: 68 (300W), 98 (WFLW), 106 (LaPa), 19 (AFLW) and 5 (pupils,
            nose tip, mouth corners).
        box: (x1, y1, x2, y2) around forehead, ears and chin, in pixels.
        attributes: CelebA attribute -> whether it holds, of those that are defined for a drawing.
        pose: (yaw, pitch, roll) in degrees; positive yaw turns to the image's right, positive pitch down.
        outlines: Part -> polygon (points, 2) that was painted, before other parts covered it.
    """

    landmarks: dict[int, Points]
    box: tuple[float, float, float, float]
    attributes: dict[str, bool]
    pose: tuple[float, float, float]
    outlines: dict[str, Points]


@dataclass
class SyntheticFaceSample:
    """
    A picture and everything about it.

    Attributes:
        image: (size, size, 3) uint8.
        faces: Its faces, the front-most last.
        lapa_labels, celebamask_hq_labels: (size, size) uint8 class ids of the two sets.
        captions: One or more, each true of the first face, or of all.
    """

    image: np.ndarray
    faces: list[SyntheticFace]
    lapa_labels: np.ndarray
    celebamask_hq_labels: np.ndarray
    captions: list[str]


def render_face_sample(seed: int, config: SyntheticFaceConfig | None = None) -> SyntheticFaceSample:
    """The picture of one seed, the same on every machine for one `VERSION` of the generator."""
    config = config or SyntheticFaceConfig()
    rng = np.random.default_rng([seed, VERSION])
    count = int(rng.integers(config.num_faces[0], config.num_faces[1] + 1))
    canvas = Canvas(config.image_size, background(rng, config.image_size, config.nuisance))
    faces, people = [], []
    for i in range(count):
        person = sample_person(rng)
        head = _place_head(rng, config, person, i, count)
        curves = feature_curves(head, person)
        outlines = face_outlines(head, person, curves)
        paint_person(canvas, rng, person, head, curves, outlines, config.nuisance)
        faces.append(_describe(person, head, curves, outlines))
        people.append(person)
    if rng.random() < 0.2 * config.nuisance:
        paint_occluder(canvas, rng, faces[0].box)
    image, blurred = finish(canvas.picture(), rng, config.nuisance)
    for face in faces:
        face.attributes["Blurry"] = blurred
    lapa, celebamask_hq = canvas.labels()
    return SyntheticFaceSample(image, faces, lapa, celebamask_hq, write_captions(rng, people, config.max_captions))


class SyntheticFaces:
    """
    A map-style data set: sample `i` is the picture of seed `seed * 1,000,000 + i`.

    Args:
        length: Number of samples, at most a million.
        config: What to draw.
        seed: Sets with different seeds share no picture.
    """

    def __init__(self, length: int, config: SyntheticFaceConfig | None = None, seed: int = 0):
        if not 0 <= length <= 1_000_000:
            raise ValueError(f"length is {length}: a set has at most a million samples, take another seed for more.")
        self.length, self.config, self.seed = length, config or SyntheticFaceConfig(), seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SyntheticFaceSample:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} of {self.length}.")
        return render_face_sample(self.seed * 1_000_000 + index, self.config)

    def __iter__(self) -> Iterator[SyntheticFaceSample]:
        return (self[i] for i in range(self.length))


def _place_head(rng: np.random.Generator, config: SyntheticFaceConfig, person: Person, index: int, count: int) -> Head:
    size = config.image_size
    width = rng.uniform(*config.face_size) * (1.0 if count == 1 else 1.15 / count)
    angles = tuple(
        math.radians(float(np.clip(rng.normal(0, limit / 2), -limit, limit)))
        for limit in (config.max_yaw, config.max_pitch, config.max_roll)
    )
    column = (index + 0.5) / count
    spread = (1 - width) / 2 / count * 0.8
    centre = (size * (column + rng.uniform(-spread, spread)), size * (0.47 + rng.uniform(-0.08, 0.08)))
    return Head(person, centre, width * size / 2, angles)


def _describe(person: Person, head: Head, curves: dict[str, Points], outlines: dict[str, Points]) -> SyntheticFace:
    around = np.concatenate([outlines["skin"], outlines["ear_left"], outlines["ear_right"]])
    return SyntheticFace(
        landmarks=face_landmarks(curves, jaw_line(head, outlines["skin"])),
        box=tuple(float(value) for value in (*around.min(axis=0), *around.max(axis=0))),
        attributes=person.attributes(),
        pose=head.pose,
        outlines={name: polygon.astype(np.float32) for name, polygon in outlines.items()},
    )
