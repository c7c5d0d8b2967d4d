"""Heads: turns a person and a view into meshes of a scene, with all that is needed to tell the truth about them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import wear
from .appearance import brow_curve, brow_points, hairline, person_row
from .camera import View, rotation
from .config import SyntheticFaceConfig
from .hair import hair_shells, skull
from .landmarks import JAW_MIDDLE, SurfacePoints, face_curves
from .people import Person
from .renderer import Scene, openness
from .shapes import BODY, EYE, SKIN, age_to_phenotype, head_model, place_on_surface  # noqa: F401

# Part ids as in `kernels`, which is not imported here so that nothing compiles before it is needed.
TEETH, HAIR, LENS, FRAME, HAT, EARRING, NECKLACE, THING, HAND, LASH = range(6, 16)
# Around what a head turns, and where the neck bends.
PIVOT = np.array([0.0, 0.03, 0.06])
NECK = np.array([0.0, 0.14, 0.075])


@dataclass
class Head:
    """
    Attributes:
        index: Of the person in the scene.
        vertices: (V, 3) in camera space; pupils: (2, 3), image-left first; jaw_middle: (3,) that of the jaw's lines.
        rotation: (3, 3) of the head.
        outline: (n, 3) points of forehead, cheeks and chin, for the box.
        row, hairline: What the kernels read.
    """

    index: int
    person: Person
    view: View
    vertices: np.ndarray
    pupils: np.ndarray
    jaw_middle: np.ndarray
    rotation: np.ndarray
    brows: SurfacePoints
    outline: np.ndarray
    row: np.ndarray
    hairline: np.ndarray


@lru_cache(maxsize=1)
def _neck_weights() -> np.ndarray:
    """(V,) 1 where a vertex follows the head, 0 where it follows the shoulders."""
    neutral = head_model().neutral
    low = neutral[:, 1] + 0.25 * neutral[:, 2]
    t = np.clip((0.205 - low) / (0.205 - 0.125), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


@lru_cache(maxsize=1)
def _fixed() -> dict[str, np.ndarray]:
    """What is the same for everybody: traits of vertices, some vertex ids, and the centre of the eyeball."""
    model = head_model()
    neutral = model.neutral
    upper = np.concatenate([neutral[eye[0].ids[:, 0]] for eye in face_curves().eyes])
    lid = np.exp(-((np.linalg.norm(neutral[:, None] - upper[None], axis=-1).min(axis=1) / 0.0013) ** 2))
    lower = np.concatenate([neutral[eye[1].ids[:, 0]] for eye in face_curves().eyes])
    lid = np.maximum(
        lid, 0.5 * np.exp(-((np.linalg.norm(neutral[:, None] - lower[None], axis=-1).min(axis=1) / 0.001) ** 2))
    )
    traits = np.stack([model.jaw, model.ears, openness(), lid], axis=1).astype(np.float32)
    skin = np.unique(model.faces[model.parts == SKIN])

    def nearest(*point: float, among: np.ndarray = skin) -> int:
        return int(among[np.linalg.norm(neutral[among] - np.array(point), axis=1).argmin()])

    ears = skin[model.ears[skin] > 0.3]
    left = ears[neutral[ears, 0] > 0]
    lobe = int(left[(neutral[left, 1] - 0.3 * neutral[left, 2]).argmax()])
    root = int(left[(neutral[left, 1] + 2 * np.abs(neutral[left, 1] + 0.005) + neutral[left, 2]).argmin()])
    body = np.unique(model.faces[model.parts == BODY])
    body_outwards = neutral[body] - np.array([0.0, 0.2, 0.07])
    body_outwards /= np.linalg.norm(body_outwards, axis=1, keepdims=True)
    centre = neutral[model.eyes[1]].mean(axis=0)
    balls = neutral[model.eyes[1]]
    reach = np.linalg.norm(balls - centre, axis=1).max()
    front = [int(eye[neutral[eye, 2].argmin()]) for eye in model.eyes]
    return {
        "traits": traits,
        "contact": np.unique(np.concatenate([face_curves().mouth_top.ids[:, 0]])),
        "chin": np.array(nearest(0.0, 0.105, -0.014)),
        "lobes": np.array([model.mirror[lobe], lobe]),
        "ear_roots": np.array([model.mirror[root], root]),
        "bridge": np.array(nearest(0.0, 0.006, -0.016)),
        "body": body,
        "body_outwards": body_outwards,
        "eye_centre": centre,
        "eye_radius": np.array(reach),
        "eye_fronts": np.array(front),
    }


@lru_cache(maxsize=1)
def _scarf_lift() -> np.ndarray:
    """(V, 3) by how much a headscarf lies off the skin, with hair below it; `kernels.scarf_at` says where it is."""
    model = head_model()
    neutral = model.neutral.astype(np.float64)
    oval = np.hypot(neutral[:, 0] / 0.063, (neutral[:, 1] - 0.026) / 0.090) - 1
    cover = np.clip(np.maximum(oval, (neutral[:, 2] - 0.034) * 20) / 0.12, 0, 1)
    outwards = neutral - [0.0, 0.02, 0.06]
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    thick = 0.005 + 0.014 * np.clip((neutral[:, 2] - 0.04) / 0.06, 0, 1) * (neutral[:, 1] < 0.06)
    lift = outwards * (cover * thick)[:, None] * (neutral[:, 1] < 0.2)[:, None]
    inner = np.unique(model.faces[(model.parts != SKIN) & (model.parts != BODY)])
    lift[inner] = 0
    return lift


@lru_cache(maxsize=1)
def _arms() -> tuple[np.ndarray, np.ndarray]:
    """Vertex ids of the arms, which `anny` holds away from the body, and by what angle each is turned down."""
    neutral = head_model().neutral
    ids = np.nonzero((np.abs(neutral[:, 0]) > 0.15) & (neutral[:, 1] > 0.13))[0]
    t = np.clip((np.abs(neutral[ids, 0]) - 0.15) / 0.09, 0, 1)
    return ids, np.sign(neutral[ids, 0]) * np.radians(34) * t * t * (3 - 2 * t)


def _lower_arms(points: np.ndarray) -> None:
    """Turns the arms of points (V, 3) down, in place."""
    ids, angle = _arms()
    pivot = np.stack([np.sign(angle) * 0.165, np.full(len(ids), 0.195)], axis=1)
    x, y = (points[ids, :2] - pivot).T
    points[ids, 0] = pivot[:, 0] + np.cos(angle) * x - np.sin(angle) * y
    points[ids, 1] = pivot[:, 1] + np.sin(angle) * x + np.cos(angle) * y


def _posed(points: np.ndarray, weights: np.ndarray | float, head: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Turns points of the head's frame: the head around its middle, the shoulders around the neck."""
    neck = (NECK - PIVOT) @ head.T + PIVOT
    by_head = (points - PIVOT) @ head.T + PIVOT
    if np.ndim(weights) == 0:
        return by_head
    by_body = (points - NECK) @ body.T + neck
    return by_body + np.asarray(weights)[:, None] * (by_head - by_body)


def add_person(scene: Scene, index: int, person: Person, view: View, config: SyntheticFaceConfig) -> Head:
    """Adds the meshes of a person to a scene."""
    model, fixed = head_model(), _fixed()
    expression = dict(person.expression)
    # Lids follow the gaze.
    right, down = person.gaze
    for side in ("Left", "Right"):
        expression[f"eyeLookDown{side}"] = min(max(down / 28, 0.0), 1.0)
        expression[f"eyeLookUp{side}"] = min(max(-down / 28, 0.0), 1.0)
    phenotype = {"gender": person.gender, "age": age_to_phenotype(person.age), **person.phenotype}
    if not config.has("shape_variety"):
        phenotype = {}
    still, acting = model.vertices(phenotype, person.shape, expression)
    still, acting = still.astype(np.float64), acting.astype(np.float64)
    found = []
    for ids in model.eyes:
        centre = still[ids].mean(axis=0)
        turn = rotation((right, down, 0.0))
        acting[ids] = (still[ids] - centre) @ turn.T + centre
        radius = np.linalg.norm(still[ids] - centre, axis=1).max()
        found.append((centre, centre + radius * turn @ np.array([0, 0, -1.0])))
    centres, pupils = np.moveaxis(np.array(found), 1, 0)

    head_turn, body_turn = rotation(view.pose), rotation(view.body)
    # The face's middle sits at the chosen place of the picture.
    scale = view.distance
    middle = np.array([0.0, 0.026, 0.0])
    offset = np.array([(view.centre[0] - 0.5) / view.focal * scale, (view.centre[1] - 0.5) / view.focal * scale, scale])
    move = offset - _posed(middle[None], 1.0, head_turn, body_turn)[0]

    def place(points: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
        return _posed(points, weights, head_turn, body_turn) + move

    weights = _neck_weights()
    line = hairline(person)
    row = person_row(person, config, fixed["eye_centre"])
    # Clothes and a scarf are thicker than skin.
    lifted = acting.copy()
    neutral = model.neutral
    body = fixed["body"]
    low = neutral[body, 1] - row[38] - row[39] * np.abs(neutral[body, 0]) + row[37] * neutral[body, 0] ** 2
    lifted[body] += fixed["body_outwards"] * 0.006 * np.clip(low / 0.01, 0, 1)[:, None]
    _lower_arms(lifted)
    if person.hat == "headscarf":
        lifted += _scarf_lift()
    vertices = place(lifted, weights)
    scene.add(vertices, model.faces, neutral, model.parts, index, fixed["traits"])

    points, triangles, coordinates = wear.teeth(still, acting, fixed["contact"], int(fixed["chin"]))
    scene.add(place(points), triangles, coordinates, TEETH, index)

    gravity = head_turn.T @ np.array([0.0, 1.0, 0.0])
    gravity = gravity + np.array([0, 0.6, 0.0])
    gravity /= np.linalg.norm(gravity)
    edge = wear.hat_edge(person, line)
    for points, triangles, coordinates in hair_shells(person, line, acting, gravity, edge):
        scene.add(place(points), triangles, coordinates, HAIR, index)
    if edge is not None:
        for points, triangles, coordinates in wear.hat(person, edge, acting):
            scene.add(place(points), triangles, coordinates, HAT, index)
    if person.glasses != "none":
        frame, lenses = wear.glasses(person, centres, acting[fixed["bridge"]], acting[fixed["ear_roots"]])
        scene.add(place(frame[0]), frame[1], frame[2], FRAME, index)
        scene.add(place(lenses[0]), lenses[1], lenses[2], LENS, index)
    if person.earrings and person.hat != "headscarf":
        for points, triangles, coordinates in wear.earrings(person, acting[fixed["lobes"]]):
            scene.add(place(points), triangles, coordinates, EARRING, index)
    if person.necklace and person.hat != "headscarf":
        inside = place(np.array([[0.0, 0.17, 0.07]]), np.zeros(1))[0]
        scene.add(*wear.necklace(person, vertices, inside), NECKLACE, index)

    jaw = face_curves().jaw.at(vertices)
    around = skull()[0].at(vertices)
    forehead = around[28:45, 8:14].reshape(-1, 3)
    return Head(
        index=index,
        person=person,
        view=view,
        vertices=vertices,
        pupils=place(pupils),
        jaw_middle=place(JAW_MIDDLE[None])[0],
        rotation=head_turn,
        brows=brow_points(brow_curve(person)),
        outline=np.concatenate([jaw[:, :12].reshape(-1, 3), forehead]),
        row=row,
        hairline=line,
    )


def add_occluder(scene: Scene, rng: np.random.Generator, head: Head, index: int) -> str:
    """Adds something before a head and says what."""
    middle = head.vertices[head_model().eyes[0]].mean(axis=0) / 2 + head.vertices[head_model().eyes[1]].mean(axis=0) / 2
    kind, meshes = wear.occluder(rng, middle + head.rotation @ np.array([0, 0.03, 0]), 0.183)
    for points, triangles, coordinates in meshes:
        scene.add(points, triangles, coordinates, HAND if kind == "hand" else THING, index)
    return kind
