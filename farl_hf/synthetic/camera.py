"""Camera and pose: where a head is in the picture, how it is turned, and from how far it is seen."""

import math
from dataclasses import dataclass

import numpy as np

from .config import SyntheticFaceConfig

# Height of the average adult's face from the hairline to the chin, metres.
FACE_HEIGHT = 0.183


@dataclass(frozen=True)
class View:
    """
    Attributes:
        pose: (yaw, pitch, roll) of the head in degrees: to the image's right, down, clockwise.
        body: The same of the shoulders.
        centre: (x, y) of the face's middle as shares of the picture.
        face_size: Height of the face as a share of the picture.
        focal: Focal length as a share of the picture's side; one for all faces of a picture.
    """

    pose: tuple[float, float, float]
    body: tuple[float, float, float]
    centre: tuple[float, float]
    face_size: float
    focal: float

    @property
    def distance(self) -> float:
        """From the camera to the face, metres."""
        return self.focal * FACE_HEIGHT / self.face_size


def rotation(pose: tuple[float, float, float]) -> np.ndarray:
    """(3, 3) for column vectors in camera space (x right, y down, z away)."""
    yaw, pitch, roll = (math.radians(angle) for angle in pose)
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    # With z away from the viewer, a face that looks at us looks along -z.
    turn_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    turn_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    turn_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return turn_z @ turn_x @ turn_y


def sample_views(rng: np.random.Generator, config: SyntheticFaceConfig, count: int) -> list[View]:
    """Views of several people, side by side, the nearest last."""
    if not config.has("perspective"):
        near = 4.0
    elif config.style == "held_out":
        near = float(np.exp(rng.uniform(math.log(0.4), math.log(1.2))))
    else:
        near = float(np.exp(rng.uniform(math.log(0.4), math.log(5.0))))
    sizes = np.sort(rng.uniform(*config.face_size, count) * (1.0 if count == 1 else 1.35 / count))
    focal = near * float(sizes[-1]) / FACE_HEIGHT
    slots = rng.permutation(count)
    views = []
    for i, share in enumerate(sizes):
        pose = []
        for spread, limit in (config.yaw, config.pitch, config.roll):
            # Mostly a bell, with some weight on everything up to the limit.
            angle = rng.normal(0, spread) if rng.random() < 0.85 else rng.uniform(-1.8, 1.8) * spread
            pose.append(float(np.clip(angle, -limit, limit)))
        follow = rng.uniform(0.2, 0.8)
        body = (
            pose[0] * follow + float(rng.normal(0, 10)),
            float(np.clip(pose[1] * 0.3 + rng.normal(0, 5), -20, 20)),
            pose[2] * rng.uniform(0.2, 0.9),
        )
        if count == 1:
            room = max(0.06, 0.5 - share / 2)
            x, y = 0.5 + rng.uniform(-1, 1) * 0.6 * room, 0.48 + rng.uniform(-1, 1) * 0.6 * room
        else:
            x = (slots[i] + 0.5) / count + rng.uniform(-0.12, 0.12) / count
            # Not so high that the body would end inside of the picture.
            y = min(0.85, max(0.45 + rng.uniform(-0.15, 0.15), 1.02 - 2.5 * share))
        views.append(View((pose[0], pose[1], pose[2]), body, (float(x), float(y)), float(share), focal))
    return views
