"""Light: a sky of three colours and one to three lamps."""

import numpy as np

from .config import SyntheticFaceConfig


def _temperature(warm: float) -> np.ndarray:
    """White of a lamp from bluish (-1) to orange (1)."""
    return (
        np.array([1 + 0.28 * warm, 1.0, 1 - 0.38 * warm])
        if warm > 0
        else np.array([1 + 0.2 * warm, 1, 1 - 0.15 * warm])
    )


def _direction(azimuth: float, height: float) -> np.ndarray:
    """Towards a lamp, in camera space; azimuth 0 is behind the camera, positive to the image's right."""
    return np.array([np.sin(azimuth) * np.cos(height), -np.sin(height), -np.cos(azimuth) * np.cos(height)])


def sample_light(rng: np.random.Generator, config: SyntheticFaceConfig) -> tuple[np.ndarray, np.ndarray, dict]:
    """
    (n, 8) float32 lamps: direction towards it (3), colour (3), size (radians), whether it casts shadows; (3, 3) float32
    colours of the sky above, at the horizon and below; and what it is.
    """
    shadows = float(config.has("shadows"))
    if not config.has("light_variety"):
        lamps = [[*_direction(0.3, 0.5), 0.6, 0.6, 0.6, 0.1, shadows]]
        return np.array(lamps, dtype=np.float32), np.full((3, 3), 0.35, dtype=np.float32), {"kind": "studio"}
    held_out = config.style == "held_out"
    kinds = (
        ["sun", "window", "two lamps", "ring"]
        if held_out
        else ["studio", "sun", "overcast", "room", "backlight", "coloured"]
    )
    chances = None if held_out else [0.2, 0.22, 0.16, 0.24, 0.1, 0.08]
    kind = str(rng.choice(kinds, p=chances))
    warm = float(rng.normal(0.1, 0.45))
    white = _temperature(np.clip(warm, -1, 1))
    key = _direction(rng.uniform(-1.5, 1.5), rng.uniform(-0.1, 1.1))
    sky = np.ones((3, 3)) * rng.uniform(0.15, 0.45)
    lamps = []

    def lamp(direction: np.ndarray, power: float, colour: np.ndarray, size: float, casts: float = 1.0) -> None:
        lamps.append([*direction, *(power * colour), size, casts * shadows])

    if kind == "sun":
        lamp(
            _direction(rng.uniform(-2.2, 2.2), rng.uniform(0.3, 1.35)),
            rng.uniform(0.7, 1.3),
            _temperature(rng.uniform(0, 0.6)),
            0.02,
        )
        sky = np.stack([[0.32, 0.40, 0.52], [0.34, 0.36, 0.38], [0.20, 0.18, 0.15]]) * rng.uniform(0.5, 1.2)
    elif kind == "overcast":
        sky = np.stack([[0.85, 0.9, 0.95], [0.5, 0.52, 0.54], [0.18, 0.18, 0.17]]) * rng.uniform(0.6, 1.1)
        lamp(_direction(rng.uniform(-1, 1), 1.0), 0.2, white, 0.4)
    elif kind in ("room", "two lamps"):
        sky = sky * white * np.array([[1.1], [0.9], [0.7]])
        for _ in range(int(rng.integers(2, 4))):
            lamp(
                _direction(rng.uniform(-1.7, 1.7), rng.uniform(0.0, 1.3)),
                rng.uniform(0.25, 0.7),
                _temperature(np.clip(rng.normal(warm, 0.3), -1, 1)),
                rng.uniform(0.05, 0.3),
            )
    elif kind == "backlight":
        lamp(
            _direction(rng.choice([-1, 1]) * rng.uniform(1.9, 2.7), rng.uniform(0.1, 0.9)),
            rng.uniform(0.8, 1.6),
            white,
            0.05,
        )
        sky = sky * rng.uniform(0.8, 1.4)
    elif kind == "coloured":
        for _ in range(2):
            hue = rng.dirichlet([0.8, 0.8, 0.8]) * 2.2 + 0.25
            lamp(_direction(rng.uniform(-1.8, 1.8), rng.uniform(-0.4, 1.0)), rng.uniform(0.4, 0.8), hue, 0.08)
    elif kind == "window":
        lamp(
            _direction(rng.choice([-1, 1]) * rng.uniform(0.8, 1.6), rng.uniform(0.0, 0.5)),
            rng.uniform(0.6, 1.1),
            _temperature(-0.3),
            0.35,
        )
        sky = sky * 0.7
    elif kind == "ring":
        lamp(_direction(0.0, 0.02), 0.8, white, 0.12, 0.0)
    else:
        lamp(key, rng.uniform(0.5, 0.9), white, rng.uniform(0.05, 0.25))
        lamp(
            _direction(-np.sign(key[0]) * rng.uniform(0.5, 1.4), rng.uniform(0, 0.6)),
            rng.uniform(0.1, 0.4),
            white,
            0.3,
            0.0,
        )
    facts = {"kind": kind, "warmth": round(warm, 3), "lamps": [[round(float(v), 4) for v in row] for row in lamps]}
    return np.array(lamps, dtype=np.float32), sky.astype(np.float32), facts
