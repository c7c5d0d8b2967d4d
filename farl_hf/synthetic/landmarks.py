"""
Landmarks: curves on the neutral face, chosen by looking at it, and the rules that turn them into the layouts of 300W
(68), WFLW (98), LaPa (106), AFLW (19) and five points.

A point is three vertices and their weights, so it moves with every shape and expression. Points of the jaw belong to
lines that run from the jaw over the cheek towards the nose; of each line the point counts that lies outermost in the
picture, which is the visible outline on the far side of a turned head and the jaw's edge on the near side. Points of
an eye lie on the border of what is seen of it: lids are thick and hang over, so which of their vertices that is depends
on the view. Positions are in metres, x, y of the neutral face from the front (see `shapes`).

How points are spaced along brows, lips and jaw follows the published mean shapes of annotated photos: the 68 points in
space of OpenFace's landmark model and the 51 of dlib's mean face, compared in the frame of the outer eye corners.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .shapes import SKIN, SOCKET, HeadModel, head_model, place_on_surface

# The image's right half in millimetres; the other half mirrors it.
LIP_TOP = [(0, 63.5), (3, 62.6), (5.8, 61.9), (10, 63.1), (15, 65.2), (19, 68.0), (22.5, 70.8), (25.8, 73.6)]
LIP_BOTTOM = [(0, 83.0), (6.6, 82.6), (12, 81.3), (17, 79.1), (21, 76.7), (24, 74.7), (25.8, 73.6)]
NOSE_RIDGE = [(0, -2.0), (0, 12.0), (0, 26.0), (0, 39.0)]
NOSE_BASE = [(15.5, 46.5), (8.5, 48.2), (0, 49.8)]
NOSE_SIDE = [(8.2, 3.0), (10.5, 20.0), (15.5, 31.0), (18.6, 39.0)]
NOSE_REGION = [
    (0, -7), (5, -5), (6.5, 4), (8, 12), (10.5, 22), (14, 29), (18.2, 34), (19.4, 39), (18.6, 43.5), (15.5, 46.5),
    (9, 48.5), (0, 50),
]  # fmt: skip
# The upper lip's are the peaks of its bow and its slopes.
LIP_TOP_POINTS, LIP_BOTTOM_POINTS = (0.0058, 0.0155), (0.0069, 0.0159)
# The mouth's points, from its middle to its corner, and where its lips' edges end, metres.
MOUTH_POINTS, MOUTH_CORNER = np.array([0, 0.0068, 0.0215]), 0.0225
CONTACT = [(0, -20.9), (6, -20.0), (11, -18.0), (17, -13.0), (21, -9.8), (23.5, -6.0), (30, 20.0)]  # x, z
JAW_POINTS, JAW_STEPS = 33, 30
# From the ear's front at the eyes' height over the jaw's angle to the chin, from the chin upwards.
JAW_EDGE = np.array(
    [(0, 119), (15, 117), (28, 113), (40, 104), (51, 91), (60, 75), (66, 57), (70, 36), (72, 20), (72, 4)]
)
# Lines above the lower height begin on the ear: by this many steps of the lines' 1.5 degrees at the upper one.
EAR_HEIGHTS, EAR_STEPS = (0.03, 0.065), 8
JAW_MIDDLE = np.array([0.0, 0.040, 0.055])
# Lids reach this far from the eye's opening, and are searched at points this far from each other, metres.
LID_REACH, LID_STEP = 0.007, 0.0008
# Columns across an eye, from -1.3 to 1.3 of the ball's radius; the gap of the lids in radii that counts as open; the
# share of its width that the border of a nearly closed eye has at least.
EYE_COLUMNS, OPEN_GAP, LEAST_WIDTH = 72, 0.03, 0.6


def both_halves(right: list[tuple[float, float]]) -> np.ndarray:
    """A curve from the image's left over the middle to its right, metres, from its right half."""
    half = np.array(right, dtype=np.float64)
    if half[0, 0] > half[-1, 0]:
        half = half[::-1]
    return np.concatenate([half[:0:-1] * [-1, 1], half]) / 1000


def resample(curve: np.ndarray, count: int, along: np.ndarray | None = None) -> np.ndarray:
    """`count` points at equal arc length along an open curve (n, d), both ends included; `along` (n, k) measures it."""
    measured = curve if along is None else along
    steps = measured[1:] - measured[:-1]
    lengths = np.zeros(len(measured))
    np.cumsum(np.sqrt((steps * steps).sum(axis=1)), out=lengths[1:])
    at = np.linspace(0, lengths[-1], count)
    result = np.empty((count, curve.shape[1]))
    for i in range(curve.shape[1]):
        result[:, i] = np.interp(at, lengths, curve[:, i])
    return result


@dataclass
class SurfacePoints:
    """Points of the skin: vertex ids and weights, each (..., 3)."""

    ids: np.ndarray
    weights: np.ndarray

    def at(self, vertices: np.ndarray) -> np.ndarray:
        """(..., 3) positions for vertices (V, 3)."""
        corners = (vertices[self.ids[..., i]] * self.weights[..., i, None] for i in range(3))
        return sum(corners, start=np.zeros(()))


@dataclass
class Lids:
    """
    The skin around an eye: its triangles (t, 3), the triangle (n,) of each of n points, their weights (n, 3), whether
    they are the upper lid's (n,), and the vertices of the two corners (2,).
    """

    triangles: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray
    upper: np.ndarray
    corners: np.ndarray

    def mirrored(self, mirror: np.ndarray) -> "Lids":
        # Mirrored triangles would run the other way round.
        flip = [0, 2, 1]
        triangles, corners = mirror[self.triangles][:, flip], mirror[self.corners[::-1]]
        return Lids(triangles, self.triangle, self.weights[:, flip], self.upper, corners)


@dataclass
class FaceCurves:
    """The points that do not depend on the person: all but the brows. Each from the image's left to its right."""

    lip_top: SurfacePoints
    lip_bottom: SurfacePoints
    mouth_top: SurfacePoints
    mouth_bottom: SurfacePoints
    ridge: SurfacePoints
    base: SurfacePoints
    sides: SurfacePoints
    eyes: tuple[tuple[SurfacePoints, SurfacePoints], ...]
    lids: tuple["Lids", ...]
    jaw: SurfacePoints
    front_faces: np.ndarray


@lru_cache(maxsize=1)
def face_curves() -> FaceCurves:
    model = head_model()
    skin = model.faces[model.parts == SKIN]
    front = skin[(model.neutral[skin][:, :, 2] < 0.06).all(axis=1) & (model.ears[skin] < 0.2).all(axis=1)]
    normal = np.cross(
        model.neutral[front[:, 1]] - model.neutral[front[:, 0]], model.neutral[front[:, 2]] - model.neutral[front[:, 0]]
    )
    front = front[normal[:, 2] < 0]

    def on(points: np.ndarray) -> SurfacePoints:
        return SurfacePoints(*place_on_surface(model, points, front))

    mouth_top, mouth_bottom = _mouth(model)
    eyes = tuple(_eye(model, side) for side in (-1, 1))
    left = _lids(model, eyes[1])
    return FaceCurves(
        lip_top=on(_lip_points(LIP_TOP, LIP_TOP_POINTS)),
        lip_bottom=on(_lip_points(LIP_BOTTOM, LIP_BOTTOM_POINTS)),
        mouth_top=mouth_top,
        mouth_bottom=mouth_bottom,
        ridge=on(np.array(NOSE_RIDGE) / 1000),
        base=on(both_halves(NOSE_BASE)),
        sides=on(np.concatenate([np.array(NOSE_SIDE) * [-1, 1], np.array(NOSE_SIDE)]) / 1000),
        eyes=eyes,
        lids=(left.mirrored(model.mirror), left),
        jaw=_jaw(model),
        front_faces=front,
    )


def _lip_points(border: list[tuple[float, float]], across: tuple[float, float]) -> np.ndarray:
    """Seven points of a lip's outer border: its middle, two to each side at some x (metres), and the corners."""
    curve = both_halves(border)
    x = np.array([0, *across, 0.0252])
    half = np.stack([x, np.interp(x, curve[:, 0], curve[:, 1])], axis=1)
    return np.concatenate([half[:0:-1] * [-1, 1], half])


def _snap(model: HeadModel, candidates: np.ndarray, points: np.ndarray) -> SurfacePoints:
    """The vertices nearest to points (n, 3)."""
    distance = np.linalg.norm(model.neutral[candidates][None] - points[:, None], axis=-1)
    ids = candidates[distance.argmin(axis=1)]
    weights = np.zeros((len(ids), 3), dtype=np.float32)
    weights[:, 0] = 1
    return SurfacePoints(np.repeat(ids[:, None], 3, axis=1), weights)


def _edges(faces: np.ndarray) -> set[tuple[int, int]]:
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return set(map(tuple, edges.tolist()))


def _mouth(model: HeadModel) -> tuple[SurfacePoints, SurfacePoints]:
    """Five points each along the edges of the upper and the lower lip that touch when the mouth is closed."""
    skin = np.unique(model.faces[model.parts == SKIN])
    near = skin[
        (np.abs(model.neutral[skin, 0]) < 0.025)
        & (np.abs(model.neutral[skin, 1] - 0.0728) < 0.004)
        & (model.neutral[skin, 2] < 0)
    ]
    contact = np.array(CONTACT) / 1000
    x = np.linspace(0, MOUTH_CORNER, 41)
    z = np.interp(x, contact[:, 0], contact[:, 1])
    edges = []
    for lower in (False, True):
        side = near[(model.jaw[near] > _jaw_border(model)) == lower]
        y = np.interp(x, [0, 0.0095, MOUTH_CORNER], [0.0731, 0.0729, 0.0735]) + (0.0004 if lower else -0.0004)
        chain = _snap(model, side, np.stack([x, y, z - 0.0004], axis=1)).ids[:, 0]
        edges.append(_between(model, chain[np.sort(np.unique(chain, return_index=True)[1])]))
    # The corners are the same for both.
    for part in ("ids", "weights"):
        ends = getattr(edges[0], part)[[0, -1]]
        getattr(edges[1], part)[[0, -1]] = ends
    return edges[0], edges[1]


def _between(model: HeadModel, chain: np.ndarray) -> SurfacePoints:
    """Points at `MOUTH_POINTS` and their mirror images, between neighbours of a chain of vertices from the middle."""
    at = np.interp(MOUTH_POINTS, model.neutral[chain, 0], np.arange(len(chain)))
    first = np.minimum(at.astype(int), len(chain) - 2)
    share = at - first
    ids = np.stack([chain[first], chain[first + 1], chain[first + 1]], axis=1)
    weights = np.stack([1 - share, share, np.zeros(len(at))], axis=1).astype(np.float32)
    return SurfacePoints(np.concatenate([model.mirror[ids[:0:-1]], ids]), np.concatenate([weights[:0:-1], weights]))


def _jaw_border(model: HeadModel) -> float:
    """The share of the jaw's movement that separates the lower lip from the upper one."""
    skin = np.unique(model.faces[model.parts == SKIN])
    lips = skin[(np.abs(model.neutral[skin, 0]) < 0.012) & (np.abs(model.neutral[skin, 1] - 0.073) < 0.006)]
    values = np.sort(model.jaw[lips])
    gap = np.diff(values).argmax()
    return float(values[gap : gap + 2].mean())


def _eye(model: HeadModel, side: int) -> tuple[SurfacePoints, SurfacePoints]:
    """The rims of the upper and the lower lid, corner to corner from the image's left, as vertices in order."""
    rim = _edges(model.faces[model.parts == SKIN]) & _edges(model.faces[model.parts == SOCKET])
    neighbours: dict[int, list[int]] = {}
    for a, b in rim:
        if model.neutral[a, 0] * side > 0:
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
    ids = np.array(list(neighbours))
    inner = int(ids[np.abs(model.neutral[ids, 0]).argmin()])
    outer = int(ids[np.abs(model.neutral[ids, 0]).argmax()])
    ways = []
    for first in neighbours[inner]:
        way = [inner, first]
        while way[-1] != outer:
            way.append(next(i for i in neighbours[way[-1]] if i != way[-2]))
        ways.append(way)
    ways.sort(key=lambda way: model.neutral[way, 1].mean())
    rims = []
    for way in ways:
        ids = np.array(way if side > 0 else way[::-1])
        weights = np.zeros((len(ids), 3), dtype=np.float32)
        weights[:, 0] = 1
        rims.append(SurfacePoints(np.repeat(ids[:, None], 3, axis=1), weights))
    return rims[0], rims[1]


def _lids(model: HeadModel, rims: tuple[SurfacePoints, SurfacePoints]) -> Lids:
    """Points all over the skin that can hide a part of an eye."""
    skin = model.faces[model.parts == SKIN]
    curves = [model.neutral[rim.ids[:, 0]].astype(np.float64) for rim in rims]

    def away(points: np.ndarray) -> np.ndarray:
        """(2, n) distances to the two rims, without their common corners."""
        return np.stack([np.linalg.norm(points[:, None] - resample(c, 41)[None, 1:-1], axis=-1).min(1) for c in curves])

    near = skin[(away(model.neutral[skin].mean(axis=1)) < LID_REACH).any(axis=0)]
    triangle, weights = [], []
    for k, corners in enumerate(near):
        longest = max(np.linalg.norm(model.neutral[corners[i]] - model.neutral[corners[i - 1]]) for i in range(3))
        steps = int(np.ceil(longest / LID_STEP))
        some = [(i / steps, j / steps, (steps - i - j) / steps) for i in range(steps + 1) for j in range(steps + 1 - i)]
        triangle += [k] * len(some)
        weights += some
    points = SurfacePoints(near[triangle], np.array(weights, dtype=np.float32))
    upper, lower = away(points.at(model.neutral))
    return Lids(near, np.array(triangle), points.weights, upper < lower, rims[0].ids[[0, -1], 0])


def _jaw(model: HeadModel) -> SurfacePoints:
    """(33, 30) points: 33 lines from the jaw's edge, where label maps end the cheek, to the nose's ridge."""
    skin = model.faces[model.parts == SKIN]
    half = JAW_EDGE / 1000
    line = resample(np.concatenate([half[:0:-1] * [-1, 1], half]), JAW_POINTS)[: JAW_POINTS // 2 + 1]
    angles = np.radians(np.linspace(-60, 90, 101))
    ids, weights = [], []
    for x, y in line:
        # Level lines down to the nose's base, below it lines that meet there.
        middle = np.array([0.0, min(y, JAW_MIDDLE[1]), JAW_MIDDLE[2]])
        side = np.array([x, y - middle[1], 0])
        side /= np.linalg.norm(side)
        directions = np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * np.array([0, 0, -1])
        points = from_inside(model, skin, middle, directions, (len(angles),))
        at = points.at(model.neutral)
        ear = (model.ears[points.ids] * points.weights).sum(axis=1)
        beyond = (ear > 0.6) | ((at[:, 1] > neck_border(at[:, 2])) & (at[:, 1] > 0.04)) | (at[:, 2] > 0.08)
        beyond[angles > np.radians(40)] = False
        first = np.nonzero(beyond)[0].max() + 1
        # People mark the upper ones not where the ear begins but on it.
        first -= round(float(np.interp(y, EAR_HEIGHTS, [EAR_STEPS, 0])))
        chosen = np.linspace(first, len(angles) - 1, JAW_STEPS).round().astype(int)
        ids.append(points.ids[chosen])
        weights.append(points.weights[chosen])
    right = [model.mirror[i] for i in ids[-2::-1]]
    return SurfacePoints(np.array(ids + right), np.array(weights + weights[-2::-1], dtype=np.float32))


def neck_border(z: np.ndarray) -> np.ndarray:
    """Height (y) below which the skin at a depth counts as the neck, as in `kernels`."""
    return 0.1195 - 0.95 * np.maximum(0, z - 0.003) - 1.2 * np.maximum(0, z - 0.045)


def from_inside(
    model: HeadModel, faces: np.ndarray, origin: np.ndarray, directions: np.ndarray, shape: tuple[int, ...]
) -> SurfacePoints:
    """Where rays (n, 3) from a point inside of the head first meet the faces (k, 3): the skin also behind an ear."""
    a, b, c = (model.neutral[faces[:, i]].astype(np.float64) for i in range(3))
    e1, e2 = b - a, c - a
    ids, weights = [], []
    to = origin - a
    q = np.cross(to, e1)
    reach = (e2 * q).sum(1)
    for direction in directions:
        p = np.cross(direction, e2)
        det = (e1 * p).sum(1)
        det = np.where(np.abs(det) < 1e-14, 1e-14, det)
        u = (to * p).sum(1) / det
        v = (q @ direction) / det
        t = reach / det
        score = np.where((np.minimum(u, v) >= -1e-6) & (u + v <= 1 + 1e-6) & (t > 0.02), t, np.inf)
        best = int(score.argmin())
        w = np.clip([1 - u[best] - v[best], u[best], v[best]], 0, 1)
        ids.append(faces[best])
        weights.append(w / w.sum())
    return SurfacePoints(np.array(ids).reshape(*shape, 3), np.array(weights, dtype=np.float32).reshape(*shape, 3))


# ------------------------------------------------------------------------------------------------- layouts


def face_points(
    vertices: np.ndarray, brows: SurfacePoints, pupils: np.ndarray, centre: np.ndarray, outwards: np.ndarray
) -> dict[int, np.ndarray]:
    """
    Layout -> (size, 3) points in camera space.

    Args:
        vertices: (V, 3) in camera space.
        brows: (2 sides, upper and lower edge, 5) points from the image's left to its right.
        pupils: (2, 3) centres of the irises' fronts, in camera space.
        centre: (3,) the middle of the face's jaw, `JAW_MIDDLE`, in camera space.
        outwards: (3, 3) the head's axes in camera space: to its image-right, down, back (rows).
    """
    c = face_curves()
    at = {name: getattr(c, name).at(vertices) for name in ("lip_top", "lip_bottom", "mouth_top", "mouth_bottom")}
    ridge, base, sides = c.ridge.at(vertices), c.base.at(vertices), c.sides.at(vertices)
    brow = brows.at(vertices)
    balls = [vertices[ids].astype(np.float64) for ids in head_model().eyes]
    rims = [
        eye_border(lids, vertices, ball, outwards) or tuple(resample(edge.at(vertices), 25) for edge in eye)
        for lids, ball, eye in zip(c.lids, balls, c.eyes, strict=True)
    ]
    jaw = outline(c.jaw.at(vertices), centre, outwards)

    def eye(i: int, between: int) -> np.ndarray:
        upper, lower = resample(rims[i][0], between + 2), resample(rims[i][1], between + 2)
        return np.concatenate([upper, lower[::-1][1:-1]])

    mouth = np.concatenate(
        [at["lip_top"], at["lip_bottom"][::-1][1:-1], at["mouth_top"], at["mouth_bottom"][::-1][1:-1]]
    )
    brows_5 = [0.5 * brow[i, 0] + 0.5 * (0.7 * brow[i, 0] + 0.3 * brow[i, 1]) for i in range(2)]

    def brow_9(i: int) -> np.ndarray:
        # Along the upper edge from left to right and back along the lower one, without its outer end.
        upper, lower = brow[i]
        return np.concatenate([upper, lower[::-1][:4] if i == 0 else lower[::-1][1:]])

    eyes_6, eyes_8 = [eye(i, 2) for i in range(2)], [eye(i, 3) for i in range(2)]
    centres = [e.mean(axis=0, keepdims=True) for e in eyes_8]
    brows_3 = [resample(b, 3) for b in brows_5]
    # Down the image's left side, along the base, and up the right side.
    outline_11 = np.concatenate([sides[1:4], base, sides[7:4:-1]])
    layouts = {
        68: [jaw[::2], *brows_5, ridge, base, *eyes_6, mouth],
        98: [jaw, brow_9(0), brow_9(1), ridge, base, *eyes_8, mouth, pupils],
        106: [
            jaw, brow_9(0), brow_9(1), ridge, outline_11, eyes_8[0], centres[0], eyes_8[1], centres[1], mouth, pupils,
        ],
        19: [
            *brows_3,
            np.stack([eyes_8[0][0], centres[0][0], eyes_8[0][4]]),
            np.stack([eyes_8[1][0], centres[1][0], eyes_8[1][4]]),
            np.stack([sides[3], ridge[3], sides[7]]),
            np.stack([mouth[0], mouth[[14, 18]].mean(axis=0), mouth[6]]),
            jaw[16:17],
        ],
        5: [pupils, ridge[3:], mouth[0:1], mouth[6:7]],
    }  # fmt: skip
    return {size: np.concatenate(parts).astype(np.float32) for size, parts in layouts.items()}


def eye_border(
    lids: Lids, vertices: np.ndarray, ball: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The edges of the upper and the lower lid, (25, 3) each in camera space, as the viewer sees them: from corner to
    corner of what is seen of the eye, from the image's left. Lids that touch meet in one line. None where too little of
    them is seen.

    Args:
        lids: Of this eye.
        vertices: (V, 3) in camera space.
        ball: (n, 3) the eyeball's vertices.
        axes: (3, 3) as for `face_points`.
    """
    centre = ball.mean(axis=0)
    radius = np.linalg.norm(ball - centre, axis=1).max()
    down = axes[1, :2] - axes[1, 2] * centre[:2] / centre[2]
    down = down / max(float(np.linalg.norm(down)), 1e-6)
    turned = np.array([[down[1], -down[0]], down])

    def seen(positions: np.ndarray) -> np.ndarray:
        """Across and down the eye, in radii of the ball."""
        return (positions[..., :2] / positions[..., 2:] - centre[:2] / centre[2]) @ turned.T * (centre[2] / radius)

    a, b, c = (vertices[lids.triangles[:, i]] for i in range(3))
    facing = (np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0)[lids.triangle].nonzero()[0]
    of, weights, upper = lids.triangle[facing], lids.weights.take(facing, axis=0), lids.upper[facing]
    points = a.take(of, axis=0) * weights[:, :1]
    points += b.take(of, axis=0) * weights[:, 1:2]
    points += c.take(of, axis=0) * weights[:, 2:]
    at = seen(points)
    # Inside of the ball, or behind it.
    to = points - centre
    covered = np.einsum("ij,ij->i", to, to) < radius**2
    covered |= (np.einsum("ij,ij->i", at, at) < 1) & (to @ centre > 0)
    column = np.floor((at[:, 0] + 1.3) / 2.6 * EYE_COLUMNS).astype(int)
    useful = ~covered & (column >= 0) & (column < EYE_COLUMNS)
    edges = np.full((2, EYE_COLUMNS, 3), np.nan)
    height = np.full((2, EYE_COLUMNS), np.nan)
    for i, sign in enumerate((1, -1)):
        chosen = np.nonzero(useful & (upper == (i == 0)))[0]
        # The last of a column is the lowest of the upper lid, or the highest of the lower one.
        chosen = chosen[np.argsort(sign * at[chosen, 1])]
        edges[i, column[chosen]], height[i, column[chosen]] = points[chosen], at[chosen, 1]
    middle = edges.mean(axis=0)
    known = np.nonzero(np.isfinite(middle[:, 0]))[0]
    if len(known) < 2:
        return None
    gap = np.nan_to_num(height[1] - height[0], nan=-1.0)
    # Single columns of a closed eye can seem open, where the sampled lids cross.
    steady = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(gap, 2, mode="edge"), 5), axis=1)
    widest = int(steady.argmax())
    if np.isnan(middle[widest, 0]):
        # Closed, and both lids are seen next to each other hardly anywhere.
        return None
    opening = max(float(steady[widest]), 0.0)
    first = last = widest
    while first > 0 and gap[first - 1] > min(OPEN_GAP, 0.5 * opening):
        first -= 1
    while last < EYE_COLUMNS - 1 and gap[last + 1] > min(OPEN_GAP, 0.5 * opening):
        last += 1
    rims = []
    for edge in edges:
        line = np.concatenate([middle[first : first + 1], edge[first : last + 1], middle[last : last + 1]])
        rims.append(resample(line, 25, seen(line)))
    if opening < 3 * OPEN_GAP:
        # All but closed: from corner to corner of the lids.
        corners = (seen(vertices[lids.corners])[:, 0] + 1.3) / 2.6 * EYE_COLUMNS
        within = known[(known >= corners.min() - 1) & (known <= corners.max())]
        line = middle[within if len(within) > 1 else known]
        share = opening / (3 * OPEN_GAP)
        rims = [share * rim + (1 - share) * resample(line, 25, seen(line)) for rim in rims]
    apart = np.ptp(seen(vertices[lids.corners])[:, 0])
    if opening < 10 * OPEN_GAP and np.ptp(seen(rims[0])[:, 0]) < LEAST_WIDTH * apart:
        # Lids that cross each other hide most of a nearly closed eye.
        return None
    return rims[0], rims[1]


@lru_cache(maxsize=1)
def _outwards() -> np.ndarray:
    """(33, 2) which way is out for each of the jaw's lines on a neutral face."""
    neutral = resample(both_halves([(74, 4), (70, 48), (58, 80), (31, 109), (0, 118.5)]), JAW_POINTS)
    neutral[:, 1] = np.maximum(neutral[:, 1] - JAW_MIDDLE[1], 0)
    return neutral


def outline(jaw: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """
    (33, 3) of jaw lines (33, 30, 3) in camera space: of each line the point that a viewer sees outermost, on the border
    of all that the lines cover. `axes` (rows: the head's right, down, back in camera space) tell which way is out: as
    for a face that looks into the camera, turned in the picture's plane only.
    """
    seen = jaw[..., :2] / jaw[..., 2:] - centre[:2] / centre[2]
    down = axes[1, :2] / max(float(np.linalg.norm(axes[1, :2])), 1e-6)
    lateral = _outwards() @ np.array([[down[1], -down[0]], down])
    best = (seen * lateral[:, None]).sum(axis=-1).argmax(axis=1)
    border = jaw[np.arange(JAW_POINTS), best]
    # Where the far cheek lies behind nose, lips or chin, these are the outline there.
    far = np.nonzero(best > JAW_STEPS / 2)[0]
    if len(far):
        angle, radius = np.arctan2(seen[..., 1], seen[..., 0]), np.linalg.norm(seen, axis=-1)
        off = np.abs((angle.ravel() - angle[far, best[far]][:, None] + np.pi) % (2 * np.pi) - np.pi)
        score = np.where(off < 0.06, radius.ravel() * (1 - 0.7 * off), 0)
        border[far] = jaw.reshape(-1, 3)[score.argmax(axis=1)]
    return border
