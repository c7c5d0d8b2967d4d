"""
Hair as shells: columns that run from the crown over the skull to the hairline, and hang on from there when it is long.

Strands are gaps that the kernel cuts into the shells, along the columns; their coordinates are (angle around the head,
0 at the crown to 1 at the tips, layer).
"""

from functools import lru_cache

import numpy as np

from .landmarks import SurfacePoints, from_inside
from .people import Person
from .shapes import SKIN, head_model

AROUND, DOWN = 72, 28
ROWS = 16
CENTRE = np.array([0.0, -0.01, 0.06])
_STEEPEST = 2.2


@lru_cache(maxsize=1)
def skull() -> tuple[SurfacePoints, np.ndarray, np.ndarray]:
    """(73, 28) points of the skull by angle around (-pi to pi, 0 in front) and from the crown down; and both angles."""
    model = head_model()
    skin = model.faces[model.parts == SKIN]
    around = np.linspace(-np.pi, np.pi, AROUND + 1)
    down = np.linspace(0.03, _STEEPEST, DOWN)
    a, d = np.meshgrid(around, down, indexing="ij")
    directions = np.stack([np.sin(d) * np.sin(a), -np.cos(d), -np.sin(d) * np.cos(a)], axis=-1).reshape(-1, 3)
    points = from_inside(model, skin, CENTRE, directions, (AROUND + 1, DOWN))
    return points, around, down


@lru_cache(maxsize=1)
def _of_neutral_skull() -> tuple[np.ndarray, np.ndarray]:
    """(73, 28) angles around the head, 0 in front to pi behind, and heights (y) of `skull`'s points."""
    neutral = skull()[0].at(head_model().neutral)
    return np.abs(np.arctan2(neutral[..., 0], 0.06 - neutral[..., 2])), neutral[..., 1]


def _where_hair_ends(line: np.ndarray) -> np.ndarray:
    """(73,) angle from the crown at which each column meets the hairline (33,)."""
    down = skull()[2]
    angle, neutral_height = _of_neutral_skull()
    height = np.interp(angle, np.linspace(0, np.pi, len(line)), line)
    below = neutral_height > height
    below[:, :3] = False
    below[:, -1] = True
    first = below.argmax(axis=1)
    return down[first] - 0.5 * (down[1] - down[0])


def hair_shells(
    person: Person, line: np.ndarray, vertices: np.ndarray, axis_down: np.ndarray, hat_edge: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """
    Shells of (points (n, 3), triangles (m, 3), coordinates (n, 3)).

    Args:
        line: The hairline, `appearance.hairline`.
        vertices: (V, 3) of the head.
        axis_down: (3,) where gravity pulls, in the same frame.
        hat_edge: (73,) angle from the crown above which a hat presses the hair down.
    """
    style, d = person.hair_style, person.details.get
    if style == "bald" or person.hat == "headscarf":
        return []
    points, around, down = skull()
    head = points.at(vertices)
    middle = head_middle(vertices)
    end = _where_hair_ends(line)
    side = np.abs(around)
    volume, curl = d("volume", 0.5), d("curl", 0.1)
    rng = np.random.default_rng([person.seed, 5])

    thickness = {
        "cropped": 0.002 + 0.004 * volume,
        "receding": 0.002 + 0.006 * volume,
        "short": 0.008 + 0.018 * volume,
        "curly": 0.018 + 0.025 * volume,
        "afro": 0.035 + 0.045 * volume,
        "bob": 0.010 + 0.014 * volume,
        "long": 0.008 + 0.014 * volume,
        "wavy": 0.012 + 0.020 * volume,
        "tied": 0.004 + 0.006 * volume,
    }[style]
    drop = np.zeros(len(around))
    if style in ("bob", "long", "wavy", "curly"):
        length = {
            "bob": 0.05 + 0.07 * d("length", 0.5),
            "curly": 0.01 + 0.10 * d("length", 0.5),
        }.get(style, 0.10 + 0.18 * d("length", 0.5))
        # Hair hangs from the temples backwards, over the ears or behind them.
        open_to = 0.95 + 0.5 * (d("part", 0.5) < 0.35)
        drop = length * _smooth(open_to - 0.25, open_to + 0.15, side)
    elif style == "short":
        drop = 0.012 * d("length", 0.5) * _smooth(1.0, 1.6, side)
    stop = end.copy()
    if person.fringe:
        amount = 0.18 + 0.28 * d("length", 0.5)
        ragged = rng.uniform(0.85, 1.1, len(around))
        stop = stop + amount * _smooth(0.95, 0.55, side) * ragged
    # From where long hair hangs freely: the widest part of the skull.
    hang = drop > 0.001
    hang_at = np.minimum(stop, 1.55 + 0.15 * (side > 2.0))
    stop = np.where(hang & (drop > 0.02), hang_at, stop)

    shells = []
    waves = rng.uniform(0, 2 * np.pi, 4)
    for layer, share in enumerate((1.0, 0.55)):
        rows = np.linspace(0, 1, ROWS)
        total = np.maximum(stop, 0.2) * 0.1 + drop
        on_skull = np.where(drop > 0.001, (stop * 0.1) / total, 1.0)
        # (columns, rows): how far down the skull each point is.
        at = np.minimum(rows / on_skull[:, None], 1.0) * stop[:, None]
        step = np.clip((at - down[0]) / (down[1] - down[0]), 0, DOWN - 1.001)
        low = step.astype(int)
        share_of_next = (step - low)[..., None]
        column = np.arange(len(around))[:, None]
        base = head[column, low] * (1 - share_of_next) + head[column, low + 1] * share_of_next
        outwards = base - middle
        outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
        thick = np.full(at.shape, thickness * share)
        # Thin at the hairline, unless a fringe lies there.
        thin = thick * (0.25 + 0.75 * _smooth(1.0, 0.75, rows)) + 0.0015
        thick = np.where(drop[:, None] < 0.02, thin, thick)
        if hat_edge is not None:
            thick = np.where(at < hat_edge[:, None] + 0.1, np.minimum(thick, 0.004), thick)
        turn = around[:, None]
        bumps = 1 + (0.12 + 0.3 * curl) * np.sin(
            np.round(3 + 9 * curl) * turn + waves[0] + (2 + 8 * curl) * rows
        ) * np.sin(7 * rows + waves[1] + 2 * turn)
        beyond = np.clip(rows - on_skull[:, None], 0, None) / np.maximum(1 - on_skull, 1e-6)[:, None] * drop[:, None]
        swing = np.sin(beyond * (30 + 40 * curl) + waves[2] + 3 * turn) * np.minimum(beyond * 8, 1)
        swing = (0.005 + 0.013 * curl) * swing
        inwards = -0.25 * beyond * (1 if style == "bob" else 0.4)
        flat = outwards - (outwards @ axis_down)[..., None] * axis_down
        grid = base + outwards * (thick * bumps)[..., None] + beyond[..., None] * axis_down
        grid = grid + flat * (swing + inwards * 0.3)[..., None]
        coordinates = np.stack(
            [
                np.broadcast_to(around[:, None], grid.shape[:2]),
                np.broadcast_to(rows[None], grid.shape[:2]),
                np.full(grid.shape[:2], float(layer + 1)),
            ],
            axis=-1,
        )
        shells.append((grid.reshape(-1, 3), grid_triangles(*grid.shape[:2]), coordinates.reshape(-1, 3)))
    if style == "tied":
        shells.append(_bun(person, head, middle, rng))
    return shells


def _bun(person: Person, head: np.ndarray, middle: np.ndarray, rng: np.random.Generator):
    """A knot or a tail at the back of the head."""
    down_step = int(rng.integers(5, 14))
    anchor = head[0, down_step]
    outwards = (anchor - middle) / np.linalg.norm(anchor - middle)
    size = 0.02 + 0.022 * person.details.get("volume", 0.5)
    points, triangles = sphere(14, 10)
    stretched = points * size * np.array([1.0, rng.choice([0.9, 2.4]), 1.0])
    placed = anchor + outwards * size * 0.7 + stretched + np.array([0, max(0, stretched[:, 1].max() - size), 0])
    coordinates = np.stack(
        [np.arctan2(points[:, 0], points[:, 2]), 0.3 + 0.2 * points[:, 1], np.full(len(points), 3.0)], -1
    )
    return placed, triangles, coordinates


def head_middle(vertices: np.ndarray) -> np.ndarray:
    """The skull's middle: that of the crown's and the nape's rings."""
    points = skull()[0].at(vertices)
    return points[:-1, 4:18].reshape(-1, 3).mean(axis=0)


def _smooth(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=64)
def grid_triangles(columns: int, rows: int) -> np.ndarray:
    """Triangles of a grid of points (columns, rows)."""
    i, j = np.meshgrid(np.arange(columns - 1), np.arange(rows - 1), indexing="ij")
    a = (i * rows + j).ravel()
    b, c, d = a + rows, a + rows + 1, a + 1
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)


def sphere(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) of a unit ball and its triangles."""
    a, b = np.meshgrid(np.linspace(0, 2 * np.pi, columns), np.linspace(0.001, np.pi - 0.001, rows), indexing="ij")
    points = np.stack([np.sin(b) * np.cos(a), -np.cos(b), np.sin(b) * np.sin(a)], axis=-1)
    return points.reshape(-1, 3), grid_triangles(columns, rows)
