"""
One integer -> one picture of generated faces with everything that is known about it.

Pictures are RGB; points are (x, y) in pixels, the centre of the first pixel at (0, 0). "Left" in landmark layouts is
the image's left side, in label names and attributes the subject's own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .config import SyntheticFaceConfig
from .people import Person, sample_person  # noqa: F401

# Changes whenever the same seed gives another picture.
VERSION = 1


@dataclass
class SyntheticFace:
    """
    What is known about one face.

    Attributes:
        landmarks: Layout size -> points (size, 2) float32: 68 (300W), 98 (WFLW), 106 (LaPa), 19 (AFLW) and 5 (pupils,
            nose tip, mouth corners). Points of turned heads' jaws lie on the visible outline, as in these sets.
        visibility: Layout size -> (size,) bool: inside the picture and hidden neither by the head itself nor by
            anything before it.
        box: (x1, y1, x2, y2) around forehead, cheeks and chin, in pixels.
        attributes: CelebA attribute -> whether it holds and is seen, of those that are defined by what was drawn.
        pose: (yaw, pitch, roll) in degrees; positive yaw turns to the image's right, positive pitch down, positive
            roll clockwise as seen in the image.
        person: Whom it shows.
    """

    landmarks: dict[int, np.ndarray]
    visibility: dict[int, np.ndarray]
    box: tuple[float, float, float, float]
    attributes: dict[str, bool]
    pose: tuple[float, float, float]
    person: Person


@dataclass
class SyntheticFaceSample:
    """
    A picture and everything about it.

    Attributes:
        image: (size, size, 3) uint8.
        faces: Its faces, the front-most last.
        lapa_labels, celebamask_hq_labels: (size, size) uint8 class ids of the two sets.
        captions: One or more.
        depth: (size, size) float32 metres from the camera, infinite on the background; None unless asked for.
        normals: (size, size, 3) float32 in camera space (x right, y down, z away); None unless asked for.
        metadata: Plain values that tell light, camera, background and what the sensor did.
    """

    image: np.ndarray
    faces: list[SyntheticFace]
    lapa_labels: np.ndarray
    celebamask_hq_labels: np.ndarray
    captions: list[str]
    depth: np.ndarray | None = None
    normals: np.ndarray | None = None
    metadata: dict | None = None


def render_face_sample(
    seed: int, config: SyntheticFaceConfig | None = None, person: Person | None = None
) -> SyntheticFaceSample:
    """
    The picture of one seed; `person` replaces whom the front-most face would show, so the same person can be seen
    under as many poses and lights as there are seeds. Same seed, configuration and `VERSION`: same labels everywhere.
    """
    raise NotImplementedError


def render_faces(seeds: Sequence[int], config: SyntheticFaceConfig | None = None) -> list[SyntheticFaceSample]:
    """The pictures of several seeds, each as `render_face_sample` gives it."""
    return [render_face_sample(seed, config) for seed in seeds]


def render_person(
    person: Person,
    seed: int = 0,
    config: SyntheticFaceConfig | None = None,
    *,
    pose: tuple[float, float, float] | None = None,
    centre: tuple[float, float] | None = None,
    face_size: float | None = None,
) -> SyntheticFaceSample:
    """
    One person under a chosen view, for films and tests: light, background, clothes and camera are those of the seed
    and stay the same from call to call, whatever else is given.

    Args:
        person: Whom to show; vary `expression` and `gaze` with `dataclasses.replace` from frame to frame.
        seed: Of the surroundings.
        pose: (yaw, pitch, roll) in degrees as in `SyntheticFace.pose`.
        centre: (x, y) of the face's middle as shares of the picture.
        face_size: Height of the face as a share of the picture.
    """
    raise NotImplementedError


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
