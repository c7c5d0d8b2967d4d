"""What people wear, have in their mouths and hold before their faces: teeth, glasses, hats, jewellery, hands."""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from .hair import grid_triangles, head_middle, skull, sphere
from .people import Person
from .shapes import head_model

Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]


def tube(path: np.ndarray, radius: float | np.ndarray, closed: bool = False, sides: int = 6) -> Mesh:
    """A tube around a path (n, 3)."""
    if closed:
        path = np.concatenate([path, path[:1]])
        radius = np.append(radius, radius[0]) if isinstance(radius, np.ndarray) else radius
    along = np.gradient(path, axis=0)
    if closed:
        along[0] = along[-1] = path[1] - path[-2]
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-12
    helper = np.array([0.13, 0.31, 0.94])
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True) + 1e-12
    second = np.cross(along, first)
    turn = np.linspace(0, 2 * np.pi, sides + 1)
    wide = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(path),))[:, None, None]
    ring = first[:, None] * np.cos(turn)[None, :, None] + second[:, None] * np.sin(turn)[None, :, None]
    points = path[:, None] + wide * ring
    return points.reshape(-1, 3), grid_triangles(len(path), sides + 1), points.reshape(-1, 3)


def teeth(still: np.ndarray, acting: np.ndarray, contact_ids: np.ndarray, chin_id: int) -> Mesh:
    """Two rows: the upper fixed to the skull, the lower moving with the jaw."""
    model = head_model()
    neutral = model.neutral
    shift = still[contact_ids].mean(axis=0) - neutral[contact_ids].mean(axis=0)
    widths = np.ptp(still[contact_ids, 0]) / np.ptp(neutral[contact_ids, 0])
    # The jaw turns: the front teeth move almost as much as the chin.
    jaw = (acting[chin_id] - still[chin_id]) * 0.85
    meshes = []
    for lower in (0, 1):
        x = np.linspace(-0.025, 0.025, 41)
        z = -0.0158 + 58 * x**2 + 0.0015 * lower
        top, bottom = (0.0625, 0.0742) if not lower else (0.0745, 0.0860)
        gum, edge = (top, bottom) if not lower else (bottom, top)
        rows = np.linspace(0, 1, 4)
        y = gum + (edge - gum) * rows
        grid = np.stack(
            [
                np.broadcast_to(x[:, None] * widths, (41, 4)),
                np.broadcast_to(y[None], (41, 4)),
                z[:, None] + 0.001 * (1 - rows)[None] * 0,
            ],
            axis=-1,
        )
        grid = grid + shift + jaw * lower
        wide = 0.0078 if not lower else 0.0058
        coordinates = np.stack(
            [
                np.broadcast_to((x / wide + 100.5 * 1)[:, None] - 0.5 + 0.5 * (not lower), (41, 4)),
                np.broadcast_to(rows[None], (41, 4)),
                np.full((41, 4), float(lower)),
            ],
            axis=-1,
        )
        meshes.append((grid.reshape(-1, 3), grid_triangles(41, 4), coordinates.reshape(-1, 3)))
    return merge(meshes)


def merge(meshes: list[Mesh]) -> Mesh:
    points, triangles, coordinates, offset = [], [], [], 0
    for p, t, c in meshes:
        points.append(p)
        triangles.append(t + offset)
        coordinates.append(c)
        offset += len(p)
    return np.concatenate(points), np.concatenate(triangles), np.concatenate(coordinates)


def glasses(person: Person, eyes: np.ndarray, ridge: np.ndarray, ears: np.ndarray) -> tuple[Mesh, Mesh]:
    """
    Frame and lenses.

    Args:
        eyes: (2, 3) centres of the eyeballs, image-left first.
        ridge: (3,) the bridge of the nose.
        ears: (2, 3) where the ears meet the head.
    """
    d = person.details.get
    scale = float(np.linalg.norm(eyes[1] - eyes[0])) / 0.064
    size = 0.9 + 0.35 * d("glasses_size", 0.5) + 0.12 * (person.glasses == "sunglasses")
    kind = person.glasses
    round_one = kind == "round" or (kind == "sunglasses" and d("frame", 0) < 0.4)
    wide, tall = (0.0225, 0.0215) if round_one else (0.0265, 0.019)
    wide, tall = wide * size * scale, tall * size * scale
    power = 2.0 if round_one else 3.5
    thick = (0.0006 if kind == "rimless" else 0.0010 + 0.0014 * d("frame", 0.5)) * scale
    turn = np.linspace(0, 2 * np.pi, 29)[:-1]
    front = min(eyes[:, 2].mean() - 0.026 * scale, ridge[2] - 0.002)
    frames, lenses = [], []
    middle_x = ridge[0]
    level = eyes[:, 1].mean() + 0.004 * scale
    half_gap = np.abs(eyes[:, 0] - middle_x).mean()
    half_gap = max(half_gap, wide + 0.007 * scale)
    for side in (-1, 1):
        c, s = np.cos(turn), np.sin(turn)
        x = np.sign(c) * np.abs(c) ** (2 / power) * wide
        y = np.sign(s) * np.abs(s) ** (2 / power) * tall
        y = np.where(y > 0, y * 1.05, y * 0.92)
        lens_x = middle_x + side * half_gap + x
        # The frame wraps around the face.
        bend = np.abs(lens_x - middle_x)
        rim = np.stack([lens_x, level + y, front + 3.2 * np.maximum(bend - 0.01, 0) ** 2 + 0.06 * y], axis=1)
        if kind != "rimless":
            frames.append(tube(rim, thick, closed=True))
        centre = rim.mean(axis=0) - [0, 0, 0.001]
        fan = np.concatenate([rim, centre[None]])
        ids = np.arange(28)
        triangles = np.stack([ids, (ids + 1) % 28, np.full(28, 28)], axis=1).astype(np.int32)
        lenses.append((fan, triangles, fan.copy()))
        hinge = np.array([middle_x + side * (half_gap + wide), level - 0.35 * tall, rim[:, 2].max()])
        ear = ears[0 if side < 0 else 1]
        reach = np.abs(ear[0] - middle_x) + 0.002
        over = np.array([middle_x + side * reach, ear[1] - 0.004, ear[2]])
        half_way = 0.5 * (hinge + over)
        half_way[0] = middle_x + side * max(np.abs(half_way[0] - middle_x), reach, half_gap + wide)
        path = np.stack([hinge, half_way, over, over + np.array([0, 0.012, 0.012])])
        dense = np.concatenate([np.linspace(a, b, 4)[:-1] for a, b in pairwise(path)] + [path[-1:]])
        frames.append(tube(dense, max(thick, 0.0009)))
    gap = half_gap - wide
    t = np.linspace(-1, 1, 7)
    bridge = np.stack([middle_x + t * gap, level - 0.25 * tall - 0.002 * (1 - t**2), np.full(7, front - 0.001)], axis=1)
    frames.append(tube(bridge, max(thick, 0.001)))
    return merge(frames), merge(lenses)


def hat_edge(person: Person, line: np.ndarray) -> np.ndarray | None:
    """(73,) angle from the crown down to which a hat reaches."""
    if person.hat in ("none", "headscarf"):
        return None
    around = skull()[1]
    low = {"cap": 0.0, "beanie": 0.12, "brimmed": 0.02}[person.hat]
    d = person.details.get("forehead", 0.0) * 0.04
    front, back = 1.02 + low + d, 1.55 + low
    return front + (back - front) * 0.5 * (1 - np.cos(around))


def hat(person: Person, edge: np.ndarray, vertices: np.ndarray) -> list[Mesh]:
    """A crown, and a visor or a brim."""
    points, around, down = skull()
    head = points.at(vertices)
    middle = head_middle(vertices)
    d = person.details.get
    rows = np.linspace(0, 1, 12)
    loose = {"cap": 0.010, "beanie": 0.008, "brimmed": 0.012}[person.hat]
    high = {"cap": 0.012, "beanie": 0.005 + 0.03 * d("volume", 0.5), "brimmed": 0.035}[person.hat]
    base = np.empty((len(around), len(rows), 3))
    for i, last in enumerate(edge):
        for k in range(3):
            base[i, :, k] = np.interp(rows * last, down, head[i, :, k])
    outwards = base - middle
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    lift = loose + high * np.clip(1 - rows, 0, 1) ** (0.5 if person.hat == "brimmed" else 1.2)
    grid = base + outwards * lift[:, None]
    rim = edge_of_crown = grid[:, -1]
    meshes = [(grid.reshape(-1, 3), grid_triangles(*grid.shape[:2]), grid.reshape(-1, 3))]
    if person.hat == "beanie":
        band = np.stack(
            [rim + (rim - middle) * 0.04 - [0, 0.028, 0], rim + (rim - middle) * 0.05 + [0, 0.004, 0]], axis=1
        )
        meshes.append((band.reshape(-1, 3), grid_triangles(*band.shape[:2]), band.reshape(-1, 3)))
    else:
        outwards = (rim - middle) * [1, 0, 1]
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        if person.hat == "cap":
            width = 0.07 * np.clip(np.cos(around * 1.25), 0, None) * (np.abs(around) < 1.25) + 0.001
            droop = 0.25
        else:
            width = np.full(len(around), 0.04 + 0.05 * d("length", 0.5))
            droop = 0.05 + 0.3 * d("part", 0.5)
        steps = np.linspace(0, 1, 4)
        brim = edge_of_crown[:, None] + (outwards * width[:, None])[:, None] * steps[None, :, None]
        brim[..., 1] += droop * width[:, None] * steps[None] - 0.001
        under = brim + np.array([0, 0.002, 0])
        for sheet in (brim, under):
            meshes.append((sheet.reshape(-1, 3), grid_triangles(*sheet.shape[:2]), sheet.reshape(-1, 3)))
    return meshes


def earrings(person: Person, lobes: np.ndarray) -> list[Mesh]:
    """One below each lobe (2, 3): a stud, a hoop or a drop."""
    kind = person.details.get("earring_kind", 0.5)
    meshes = []
    for side, lobe in zip((-1, 1), lobes, strict=True):
        at = lobe + np.array([side * 0.003, 0.0, -0.002])
        if kind < 0.35:
            points, triangles = sphere(8, 6)
            points = at + points * (0.003 + 0.003 * kind)
            meshes.append((points, triangles, points))
        elif kind < 0.7:
            radius = 0.008 + 0.035 * (kind - 0.35)
            turn = np.linspace(0, 2 * np.pi, 19)[:-1]
            ring = np.stack(
                [0.3 * radius * np.sin(turn), radius - radius * np.cos(turn), radius * np.sin(turn) * 0.9], axis=1
            )
            meshes.append(tube(at + ring, 0.0013, closed=True))
        else:
            points, triangles = sphere(8, 8)
            points = at + points * np.array([0.004, 0.013, 0.004]) + [0, 0.012, 0]
            meshes.append((points, triangles, points))
    return meshes


@lru_cache(maxsize=1)
def _chest() -> np.ndarray:
    """Vertices that a necklace can lie on."""
    model = head_model()
    used = np.unique(model.faces)
    return used[(model.neutral[used, 1] > 0.137) & (model.neutral[used, 1] < 0.262)]


def necklace(person: Person, vertices: np.ndarray, axis: np.ndarray) -> Mesh:
    """A chain that lies on the chest: vertices (V, 3) of head and body, and a point (3,) inside of the neck."""
    model = head_model()
    low = 0.155 + 0.045 * person.details.get("length", 0.5)
    turn = np.linspace(-2.3, 2.3, 40)
    neutral = model.neutral
    skin = _chest()
    # The neutral loop is high at the nape and low in front; each point takes the nearest surface vertex's motion.
    loop = np.stack(
        [np.sin(turn) * 0.075, low - 0.055 * np.abs(turn / 2.3) ** 1.2, 0.05 - 0.085 * np.cos(turn)], axis=1
    )
    nearest = np.linalg.norm(neutral[skin][None] - loop[:, None], axis=-1)
    four = np.argpartition(nearest, 4, axis=1)[:, :4]
    ids = skin[np.take_along_axis(four, np.take_along_axis(nearest, four, axis=1).argsort(axis=1), axis=1)]
    surface = vertices[ids].mean(axis=1)
    outwards = surface - axis
    outwards[:, 1] *= 0.2
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    smooth = surface + outwards * 0.004
    for _ in range(3):
        smooth[1:-1] = 0.25 * smooth[:-2] + 0.5 * smooth[1:-1] + 0.25 * smooth[2:]
    return tube(smooth, 0.002 + 0.003 * person.details.get("volume", 0.5), sides=5)


def occluder(rng: np.random.Generator, face: np.ndarray, scale: float) -> tuple[str, list[Mesh]]:
    """
    A hand, a cup, a phone or a bar before a face whose middle is (3,) in camera space and whose height is `scale`.
    Returns what it is and its meshes.
    """
    kind = str(rng.choice(["hand", "hand", "box", "bar", "ball"]))
    angle = rng.uniform(0, 2 * np.pi)
    away = rng.uniform(0.15, 0.6) * scale
    at = face + np.array([np.cos(angle) * away, np.sin(angle) * away * 0.9, -rng.uniform(0.55, 0.8) * scale])
    meshes: list[Mesh] = []
    if kind == "hand":
        tilt = rng.uniform(-0.7, 0.7) + (np.pi if rng.random() < 0.15 else 0)
        turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
        flip = rng.choice([-1, 1])
        points, triangles = sphere(12, 10)
        palm = points * np.array([0.042, 0.05, 0.014]) + [0, 0.05, 0]
        meshes.append((palm, triangles, palm))
        curl = rng.uniform(0, 0.8)
        spread = rng.uniform(0.2, 1.0)
        for k in range(4):
            base = np.array([(k - 1.5) * 0.019, 0.012, 0.0])
            lean = (k - 1.5) * 0.14 * spread
            length = (0.068, 0.078, 0.074, 0.058)[k] * rng.uniform(0.95, 1.05)
            t = np.linspace(0, 1, 7)
            bend = curl * t**2
            path = base + np.stack(
                [np.sin(lean) * t * length, -np.cos(lean) * t * length * (1 - 0.35 * bend), bend * length * 0.6], axis=1
            )
            meshes.append(tube(path, np.append(np.full(6, 0.0085), 0.004) * (1 - 0.1 * t), sides=8))
        t = np.linspace(0, 1, 6)
        thumb = np.stack([-0.035 - 0.04 * t, 0.055 - 0.045 * t, 0.01 * t], axis=1)
        meshes.append(tube(thumb, np.append(np.full(5, 0.010), 0.005), sides=8))
        arm = np.stack([np.linspace(0, 0.02, 5), np.linspace(0.09, 0.5, 5), np.linspace(0, 0.05, 5)], axis=1)
        meshes.append(tube(arm, np.linspace(0.026, 0.04, 5), sides=10))
        meshes = [((p * [flip, 1, 1]) @ turn.T * (scale / 0.185) + at, t[:, ::flip], c) for p, t, c in meshes]
        return kind, meshes
    if kind == "ball":
        points, triangles = sphere(16, 12)
        points = points * rng.uniform(0.15, 0.3) * scale
    elif kind == "box":
        half = rng.uniform(0.12, 0.32, 3) * scale * [1, 1, 0.2]
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
        quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        points = corners[np.array(quads)].reshape(-1, 3)
        triangles = np.concatenate([[[4 * i, 4 * i + 1, 4 * i + 2], [4 * i, 4 * i + 2, 4 * i + 3]] for i in range(6)])
        triangles = triangles.astype(np.int32)
    else:
        points, triangles, _ = tube(
            np.linspace([-1.5, 0, 0], [1.5, 0, 0], 5) * scale, rng.uniform(0.03, 0.09) * scale, sides=8
        )
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    if kind == "bar":
        a = rng.uniform(0, np.pi)
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return kind, [(points @ turn.T + at, triangles, points)]
