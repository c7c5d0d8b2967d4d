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
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial import ConvexHull

# Changes whenever the same seed gives another picture.
VERSION = 1

Points = np.ndarray

# Parts on the painting canvas: name -> (LaPa id, CelebAMask-HQ id). What one set does not know is background there, or
# what lies beneath (glasses, beard).
PARTS: dict[str, tuple[int, int]] = {
    "background": (0, 0),
    "neck": (0, 1),
    "skin": (1, 2),
    "clothes": (0, 3),
    "ear_left": (1, 4),
    "ear_right": (1, 5),
    "brow_left": (2, 6),
    "brow_right": (3, 7),
    "eye_left": (4, 8),
    "eye_right": (5, 9),
    "nose": (6, 10),
    "inner_mouth": (8, 11),
    "lower_lip": (9, 12),
    "upper_lip": (7, 13),
    "hair": (10, 14),
    "glasses": (0, 15),
    "hat": (0, 16),
    "earring": (0, 17),
    "necklace": (0, 18),
    "occluder": (0, 0),
}
_PART_IDS = {name: i for i, name in enumerate(PARTS)}
_LAPA_IDS, _CELEBAMASK_HQ_IDS = (np.array(ids, dtype=np.uint8) for ids in zip(*PARTS.values(), strict=True))

_SKIN_TONES = [(255, 224, 196), (241, 194, 150), (224, 172, 120), (198, 134, 84), (141, 85, 50), (94, 58, 38)]
_HAIR_COLOURS = {"Black_Hair": (28, 24, 24), "Brown_Hair": (92, 58, 34), "Blond_Hair": (214, 178, 104)}
_GREY_HAIR = (168, 168, 170)
_EYE_COLOURS = [(70, 44, 24), (96, 66, 36), (74, 108, 74), (70, 110, 150), (90, 90, 90)]
_CLOTHES = {
    "red": (170, 40, 44),
    "blue": (44, 70, 150),
    "green": (50, 110, 64),
    "white": (230, 230, 228),
    "black": (34, 34, 38),
    "yellow": (220, 190, 60),
    "purple": (110, 60, 130),
}


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
    canvas = _Canvas(config.image_size, _background(rng, config))
    faces, traits = [], []
    for i in range(count):
        person = _sample_person(rng)
        head = _place_head(rng, config, person, i, count)
        faces.append(_paint_person(canvas, rng, person, head, config))
        traits.append(person)
    if rng.random() < 0.2 * config.nuisance:
        _paint_occluder(canvas, rng, faces[0])
    image, blurred = _finish(canvas.picture(), rng, config)
    for face in faces:
        face.attributes["Blurry"] = blurred
    lapa, celebamask_hq = canvas.labels()
    return SyntheticFaceSample(image, faces, lapa, celebamask_hq, _captions(rng, traits, config.max_captions))


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


# ------------------------------------------------------------------------------------------------------- the person


@dataclass
class _Person:
    """Everything about a person but where they are and look."""

    male: bool
    young: bool
    skin: tuple[float, float, float]
    hair_colour: str
    hair_style: str  # bald, short, medium, long
    bangs: bool
    glasses: bool
    hat: bool
    beard: str  # none, mustache, goatee, full
    earrings: bool
    necklace: bool
    lipstick: bool
    smile: float  # -0.3 to 1
    mouth_open: float  # 0 to 1
    clothes: str
    eye_colour: tuple[int, int, int]
    shape: dict[str, float] = field(default_factory=dict)

    @property
    def hair_rgb(self) -> tuple[int, int, int]:
        return _HAIR_COLOURS.get(self.hair_colour, _GREY_HAIR)

    @property
    def smiling(self) -> bool:
        return self.smile > 0.45

    def attributes(self) -> dict[str, bool]:
        has_hair = self.hair_style != "bald"
        colours = {name: has_hair and self.hair_colour == name for name in (*_HAIR_COLOURS, "Gray_Hair")}
        attributes = {
            **colours,
            "Male": self.male,
            "Young": self.young,
            "Bald": not has_hair,
            "Bangs": self.bangs,
            "Eyeglasses": self.glasses,
            "Wearing_Hat": self.hat,
            "Mustache": self.beard in ("mustache", "full"),
            "Goatee": self.beard == "goatee",
            "No_Beard": self.beard in ("none", "mustache"),
            "Wearing_Earrings": self.earrings,
            "Wearing_Necklace": self.necklace,
            "Wearing_Lipstick": self.lipstick,
            "Smiling": self.smiling,
            "Mouth_Slightly_Open": self.mouth_open > 0.15,
            "Pale_Skin": self.skin[2] > 180,
            "Bushy_Eyebrows": self.shape["brow_thickness"] > 0.075,
            "Big_Nose": self.shape["nose_width"] > 0.27,
        }
        return {name: bool(value) for name, value in attributes.items()}


def _sample_person(rng: np.random.Generator) -> _Person:
    male, young = bool(rng.random() < 0.5), bool(rng.random() < 0.7)
    tone = np.array(_SKIN_TONES[rng.integers(len(_SKIN_TONES))]) * rng.uniform(0.93, 1.04)
    hair_colour = str(rng.choice(["Black_Hair", "Brown_Hair", "Blond_Hair"]))
    if not young and rng.random() < 0.6:
        hair_colour = "Gray_Hair"
    styles = ["bald", "short", "medium", "long"]
    hair_style = str(rng.choice(styles, p=[0.14, 0.6, 0.18, 0.08] if male else [0.02, 0.18, 0.3, 0.5]))
    hat = bool(rng.random() < 0.12)
    beards = ["none", "mustache", "goatee", "full"]
    smile = float(rng.uniform(-0.3, 1.0))
    mouth_open = float(max(0.0, rng.uniform(-0.8, 1.0)))
    ranges = {
        "width": (0.92, 1.08),
        "jaw": (2.1, 3.6),
        "chin": (1.08, 1.24),
        "eye_x": (0.40, 0.47),
        "eye_y": (-0.20, -0.10),
        "eye_width": (0.17, 0.22),
        "eye_open": (0.06, 0.12),
        "eye_tilt": (-0.03, 0.04),
        "brow_height": (0.20, 0.29),
        "brow_thickness": (0.035, 0.075) if not male else (0.05, 0.10),
        "brow_arch": (0.02, 0.08),
        "nose_length": (0.44, 0.56),
        "nose_width": (0.19, 0.30),
        "nose_depth": (0.22, 0.40),
        "mouth_y": (0.62, 0.72),
        "mouth_width": (0.30, 0.42),
        "lip_upper": (0.05, 0.09),
        "lip_lower": (0.07, 0.12),
        "gaze_x": (-0.35, 0.35),
        "gaze_y": (-0.25, 0.25),
        "hairline": (-0.95, -0.72),
    }
    return _Person(
        male=male,
        young=young,
        skin=tuple(np.clip(tone, 0, 255)),
        hair_colour=hair_colour,
        hair_style=hair_style,
        bangs=hair_style in ("medium", "long", "short") and not hat and bool(rng.random() < 0.3),
        glasses=bool(rng.random() < 0.22),
        hat=hat,
        beard=str(rng.choice(beards, p=[0.5, 0.15, 0.15, 0.2])) if male else "none",
        earrings=not male and bool(rng.random() < 0.4),
        necklace=not male and bool(rng.random() < 0.35),
        lipstick=not male and bool(rng.random() < 0.5),
        smile=smile,
        mouth_open=mouth_open,
        clothes=str(rng.choice(list(_CLOTHES))),
        eye_colour=_EYE_COLOURS[rng.integers(len(_EYE_COLOURS))],
        shape={name: float(rng.uniform(*limits)) for name, limits in ranges.items()},
    )


# ---------------------------------------------------------------------------------------------------- head geometry


class _Head:
    """A person's head in 3D, and its projection into the picture."""

    def __init__(self, person: _Person, centre: tuple[float, float], scale: float, angles: tuple[float, float, float]):
        self.shape, self.centre, self.scale = person.shape, np.array(centre), scale
        self.pose = tuple(math.degrees(a) for a in angles)
        yaw, pitch, roll = angles
        cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
        turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        turn_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        turn_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.rotation = turn_z @ turn_x @ turn_y

    def project(self, points: np.ndarray) -> Points:
        """Head coordinates (..., 3) to pixels (..., 2): a camera nine face half-widths away."""
        turned = points @ self.rotation.T
        return self.centre + self.scale * turned[..., :2] * (9 / (9 - turned[..., 2:]))

    def half_width(self, y: np.ndarray) -> np.ndarray:
        below = np.clip((y + 0.2) / (self.shape["chin"] + 0.2), 0, 1)
        above = np.clip((y + 0.2) / 1.25, -1, 0)
        jaw = self.shape["jaw"]
        return self.shape["width"] * np.sqrt(np.where(y > -0.2, 1 - below**jaw, 1 - above**2))

    def depth(self, y: np.ndarray) -> np.ndarray:
        below = np.clip((y + 0.2) / (self.shape["chin"] + 0.2), 0, 1)
        above = np.clip((y + 0.2) / 1.25, -1, 0)
        return 1.05 * np.sqrt(np.where(y > -0.2, 1 - 0.75 * below**4, 1 - above**2))

    def on_face(self, x, y, lift: float = 0.0) -> np.ndarray:
        """The front surface at (x, y), `lift` in front of it."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        share = np.clip(x / np.maximum(self.half_width(y), 1e-6), -0.99, 0.99)
        return np.stack([x, y, self.depth(y) * np.sqrt(1 - share**2) + lift], axis=-1)

    def rings(self, top: float, bottom: float, half_angle: float, grow: float = 1.0, hairline=None) -> np.ndarray:
        """Surface points between two heights and angles from the front, as (points, 3)."""
        angle = np.linspace(-half_angle, half_angle, 41)
        y = np.linspace(top, bottom, 30)[:, None]
        if hairline is not None:
            upper = hairline(angle)
            y = upper + (bottom - upper) * np.linspace(0, 1, 30)[:, None]
        y = np.broadcast_to(y, (30, 41))
        ring = [self.half_width(y) * np.sin(angle), y * np.ones(41), self.depth(y) * np.cos(angle)]
        return (np.stack(ring, axis=-1) * grow).reshape(-1, 3)


def _place_head(
    rng: np.random.Generator, config: SyntheticFaceConfig, person: _Person, index: int, count: int
) -> _Head:
    size = config.image_size
    width = rng.uniform(*config.face_size) * (1.0 if count == 1 else 1.15 / count)
    angles = tuple(
        math.radians(float(np.clip(rng.normal(0, limit / 2), -limit, limit)))
        for limit in (config.max_yaw, config.max_pitch, config.max_roll)
    )
    column = (index + 0.5) / count
    spread = (1 - width) / 2 / count * 0.8
    centre = (size * (column + rng.uniform(-spread, spread)), size * (0.47 + rng.uniform(-0.08, 0.08)))
    return _Head(person, centre, width * size / 2, angles)


def _hull(points: Points) -> Points:
    return points[ConvexHull(points).vertices]


def _resample(curve: Points, count: int) -> Points:
    """`count` points at equal arc length along an open curve, both ends included."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(at, lengths, curve[:, i]) for i in range(2)], axis=1)


def _feature_curves(head: _Head, person: _Person) -> dict[str, Points]:
    """Projected curves of brows, eyes, nose and lips, each from the image's left to its right."""
    s = person.shape
    t = np.linspace(-1, 1, 25)
    curves = {}
    for side, name in ((-1, "left"), (1, "right")):
        x = side * s["eye_x"] + t * s["eye_width"]
        tilt = -side * t * s["eye_tilt"] * -1
        arch = 1 - t**2
        squint = 1 - 0.25 * max(person.smile, 0)
        upper = s["eye_y"] + tilt - s["eye_open"] * squint * arch
        lower = s["eye_y"] + tilt + 0.75 * s["eye_open"] * squint * arch
        curves[f"eye_upper_{name}"] = head.project(head.on_face(x, upper))
        curves[f"eye_lower_{name}"] = head.project(head.on_face(x, lower))
        gaze_x = side * s["eye_x"] + s["gaze_x"] * s["eye_width"]
        curves[f"pupil_{name}"] = head.project(head.on_face(gaze_x, s["eye_y"] + s["gaze_y"] * s["eye_open"]))[None]
        bx = side * (s["eye_x"] + 0.02) + t * (s["eye_width"] + 0.07)
        bow = s["eye_y"] - s["brow_height"] - s["brow_arch"] * (1 - (t - 0.3 * side) ** 2)
        # Thick at the nose, thin outside.
        thick = s["brow_thickness"] * (1 - 0.6 * np.clip(side * t, 0, 1)) * np.sqrt(1 - 0.9 * t**2)
        curves[f"brow_upper_{name}"] = head.project(head.on_face(bx, bow - thick / 2, 0.02))
        curves[f"brow_lower_{name}"] = head.project(head.on_face(bx, bow + thick / 2, 0.02))

    top, tip = s["eye_y"] + 0.02, s["eye_y"] + s["nose_length"]
    down = np.linspace(0, 1, 13)
    ridge = np.stack([0 * down, top + (tip - top) * down, 0 * down], axis=1)
    ridge[:, 2] = head.on_face(0 * down, ridge[:, 1])[:, 2] + s["nose_depth"] * down**1.3
    curves["nose_ridge"] = head.project(ridge)
    base_y, half = tip + 0.08, s["nose_width"]
    sides = 0.10 + (half - 0.10) * down**2.2
    for side, name in ((-1, "left"), (1, "right")):
        wing = head.on_face(side * sides, top + (base_y - 0.04 - top) * down)
        wing[:, 2] += 0.5 * s["nose_depth"] * down**2
        curves[f"nose_side_{name}"] = head.project(wing)
    u = np.linspace(-1, 1, 25)
    base = head.on_face(half * u, base_y - 0.04 + 0.06 * (1 - u**2))
    base[:, 2] += s["nose_depth"] * (0.5 + 0.25 * (1 - u**2))
    curves["nose_base"] = head.project(base)

    width = s["mouth_width"] * (1 + 0.22 * max(person.smile, 0))
    corner = -0.11 * person.smile
    opening = 0.20 * person.mouth_open
    mouth_x = width * t
    middle = s["mouth_y"] + corner * t**2 + 0.05 * max(person.smile, 0)
    bow = s["lip_upper"] * (1 - t**2) * (1 + 0.25 * np.cos(3 * np.pi * t) - 0.1)
    lower = s["lip_lower"] * (1 - t**2) ** 0.8
    jaw_drop = opening * (1 - t**2)
    inner = 0.94
    curves["lip_outer_upper"] = head.project(head.on_face(mouth_x, middle - bow, 0.05))
    curves["lip_outer_lower"] = head.project(head.on_face(mouth_x, middle + jaw_drop + lower, 0.05))
    curves["lip_inner_upper"] = head.project(head.on_face(inner * mouth_x, middle, 0.05))
    curves["lip_inner_lower"] = head.project(head.on_face(inner * mouth_x, middle + jaw_drop + 0.004, 0.05))
    return curves


def _closed(upper: Points, lower: Points) -> Points:
    return np.concatenate([upper, lower[::-1]])


def _outlines(head: _Head, person: _Person, curves: dict[str, Points]) -> dict[str, Points]:
    """Polygons of the facial parts in the picture."""
    s = person.shape

    def hairline(angle: np.ndarray) -> np.ndarray:
        # From the middle of the forehead down to the temples.
        centre = s["hairline"] + (0.12 if not person.male else 0.0)
        return centre + (-0.3 - centre) * np.clip(np.abs(angle) / 1.7, 0, 1) ** 2

    bald = person.hair_style == "bald"
    face = head.rings(-1.45, s["chin"], math.radians(180 if bald else 97), hairline=None if bald else hairline)
    outlines = {"skin": _hull(head.project(face))}
    for name in ("left", "right"):
        side = -1 if name == "left" else 1
        around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ear = np.stack(
            [
                side * (head.half_width(np.array(0.05)) + 0.06 + 0.10 * np.cos(around)),
                0.05 + 0.25 * np.sin(around) - 0.04 * np.cos(around),
                -0.02 - 0.12 * np.cos(around),
            ],
            axis=1,
        )
        outlines[f"ear_{name}"] = head.project(ear)
        outlines[f"eye_{name}"] = _closed(curves[f"eye_upper_{name}"], curves[f"eye_lower_{name}"])
        outlines[f"brow_{name}"] = _closed(curves[f"brow_upper_{name}"], curves[f"brow_lower_{name}"])
    outlines["nose"] = np.concatenate([curves["nose_side_left"], curves["nose_base"], curves["nose_side_right"][::-1]])
    outlines["upper_lip"] = _closed(curves["lip_outer_upper"], curves["lip_inner_upper"])
    outlines["lower_lip"] = _closed(curves["lip_inner_lower"], curves["lip_outer_lower"])
    outlines["inner_mouth"] = _closed(curves["lip_inner_upper"], curves["lip_inner_lower"])
    return outlines


def _jaw(head: _Head, skin: Points) -> Points:
    """The face's outline from the image's left at eye height over the chin to the right, along the skin's edge."""
    # In the frame of the upright face.
    down = (head.rotation @ [0, 1, 0])[:2]
    down = down / np.linalg.norm(down)
    right = np.array([down[1], -down[0]])
    eye_line = float((head.project(head.on_face(0, head.shape["eye_y"])) - head.centre) @ down)
    ring = np.concatenate([skin, skin[:1]])
    dense = np.concatenate([a + (b - a) * np.linspace(0, 1, 12)[:-1, None] for a, b in pairwise(ring)])
    local = np.stack([(dense - head.centre) @ right, (dense - head.centre) @ down], axis=1)
    lower = local[:, 1] > eye_line
    chosen, local = dense[lower], local[lower]
    # By the angle around the middle of the lower face: left to bottom to right.
    middle = np.array([local[:, 0].mean(), eye_line])
    order = np.argsort(-np.arctan2(local[:, 1] - middle[1], local[:, 0] - middle[0]))
    return chosen[order]


# -------------------------------------------------------------------------------------------------------- landmarks


def _landmarks(curves: dict[str, Points], jaw: Points) -> dict[int, Points]:
    c = curves

    def eye(name: str, upper: int) -> Points:
        """Around one eye from its left corner over the upper lid and back along the lower."""
        over = _resample(c[f"eye_upper_{name}"], upper + 2)
        under = _resample(c[f"eye_lower_{name}"], upper + 2)
        return np.concatenate([over, under[::-1][1:-1]])

    def brow(name: str) -> Points:
        """Five points along the upper edge from left to right, then four back along the lower."""
        upper, lower = _resample(c[f"brow_upper_{name}"], 5), _resample(c[f"brow_lower_{name}"], 5)
        return np.concatenate([upper, lower[::-1][:4]])

    outer_upper, outer_lower = _resample(c["lip_outer_upper"], 7), _resample(c["lip_outer_lower"], 7)
    inner_upper, inner_lower = _resample(c["lip_inner_upper"], 5), _resample(c["lip_inner_lower"], 5)
    mouth = np.concatenate([outer_upper, outer_lower[::-1][1:-1], inner_upper, inner_lower[::-1][1:-1]])
    ridge = _resample(c["nose_ridge"], 4)
    base = _resample(c["nose_base"], 5)
    brows_5 = [_resample(c[f"brow_upper_{name}"], 5) for name in ("left", "right")]
    pupils = [c["pupil_left"], c["pupil_right"]]
    nose_outline = np.concatenate([c["nose_side_left"][6:], c["nose_base"], c["nose_side_right"][:5:-1]])

    eyes_6, eyes_8 = [eye(n, 2) for n in ("left", "right")], [eye(n, 3) for n in ("left", "right")]
    centres = [e.mean(axis=0, keepdims=True) for e in eyes_8]
    brow_left_3, brow_right_3 = (_resample(c[f"brow_upper_{n}"], 3) for n in ("left", "right"))
    layouts = {
        68: [_resample(jaw, 17), *brows_5, ridge, base, *eyes_6, mouth],
        98: [_resample(jaw, 33), brow("left"), brow("right"), ridge, base, *eyes_8, mouth, *pupils],
        106: [
            _resample(jaw, 33),
            brow("left"),
            brow("right"),
            ridge,
            _resample(nose_outline, 11),
            eyes_8[0],
            centres[0],
            eyes_8[1],
            centres[1],
            mouth,
            *pupils,
        ],
        19: [
            brow_left_3,
            brow_right_3,
            np.stack([eyes_8[0][0], centres[0][0], eyes_8[0][4]]),
            np.stack([eyes_8[1][0], centres[1][0], eyes_8[1][4]]),
            np.stack([base[0], ridge[3], base[4]]),
            np.stack([mouth[0], mouth[[3, 9]].mean(axis=0), mouth[6]]),
            _resample(jaw, 3)[1:2],
        ],
        5: [*pupils, ridge[3:], mouth[0:1], mouth[6:7]],
    }
    return {size: np.concatenate(parts).astype(np.float32) for size, parts in layouts.items()}


# --------------------------------------------------------------------------------------------------------- painting


class _Canvas:
    """A picture at twice the size and a map of parts, painted together from the same shapes."""

    def __init__(self, size: int, background: Image.Image):
        self.size = size
        self.image = background
        self.parts = np.full((size, size), _PART_IDS["background"], dtype=np.uint8)

    @staticmethod
    def _on_picture(polygon: Points) -> list[tuple[float, float]]:
        return [tuple(point) for point in (polygon + 0.5) * 2 - 0.5]

    def mask(self, polygon: Points) -> tuple[Image.Image, tuple[int, int]]:
        """A polygon's mask on the picture, cropped to it, and where the crop begins."""
        corners = np.array(self._on_picture(polygon))
        x1, y1 = np.clip(np.floor(corners.min(axis=0)), 0, self.image.width).astype(int)
        x2, y2 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, self.image.width).astype(int)
        mask = Image.new("L", (max(int(x2 - x1), 1), max(int(y2 - y1), 1)))
        ImageDraw.Draw(mask).polygon([tuple(point) for point in corners - (x1, y1)], fill=255)
        return mask, (int(x1), int(y1))

    def paint(self, polygon: Points, colour: tuple | Image.Image, part: str | None = None, alpha: float = 1.0) -> None:
        """Fills a polygon with a colour or a texture of the picture's size; `part` goes to the label canvas."""
        mask, (x, y) = self.mask(polygon)
        if alpha < 1:
            mask = mask.point(lambda value: round(value * alpha))
        if isinstance(colour, Image.Image):
            self.image.paste(colour.crop((x, y, x + mask.width, y + mask.height)), (x, y), mask)
        else:
            self.image.paste(tuple(round(c) for c in colour), (x, y, x + mask.width, y + mask.height), mask)
        if part is not None:
            fill_polygon(self.parts, polygon, _PART_IDS[part])

    def line(self, points: Points, colour: tuple, width: float, part: str | None = None) -> None:
        """A line of `width` pixels of the final picture."""
        drawn = ImageDraw.Draw(self.image)
        drawn.line(self._on_picture(points), fill=colour, width=max(1, round(2 * width)), joint="curve")
        if part is not None:
            finer = Image.new("L", (4 * self.size, 4 * self.size))
            scaled = [tuple(point) for point in points * 4 + 2]
            ImageDraw.Draw(finer).line(scaled, fill=1, width=max(1, round(4 * width)), joint="curve")
            # The third of four samples lies on the pixel's centre.
            self.parts[np.asarray(finer)[2::4, 2::4] > 0] = _PART_IDS[part]

    def picture(self) -> Image.Image:
        return self.image.resize((self.size, self.size), Image.Resampling.BOX)

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return _LAPA_IDS[self.parts], _CELEBAMASK_HQ_IDS[self.parts]


def fill_polygon(labels: np.ndarray, polygon: Points, value: int) -> None:
    """
    Sets the pixels of `labels` (height, width) whose centres lie inside of a polygon (points, 2), by the even-odd rule.
    Pillow would also set every pixel that the outline touches, which is much on an eye of ten pixels.
    """
    height, width = labels.shape
    start, end = polygon, np.roll(polygon, -1, axis=0)
    top, bottom = max(0, math.ceil(polygon[:, 1].min())), min(height - 1, math.floor(polygon[:, 1].max()))
    if top > bottom:
        return
    rows = np.arange(top, bottom + 1)[:, None]
    row, edge = np.nonzero((start[:, 1] <= rows) != (end[:, 1] <= rows))
    along = (row + top - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    crossing = start[edge, 0] + along * (end[edge, 0] - start[edge, 0])
    changes = np.zeros((len(rows), width + 1), dtype=np.int32)
    np.add.at(changes, (row, np.clip(np.ceil(crossing), 0, width).astype(int)), 1)
    inside = changes.cumsum(axis=1)[:, :width] % 2 == 1
    labels[top : bottom + 1][inside] = value


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise (size, size) with standard deviation about one."""
    coarse = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _to_image(pixels: np.ndarray, size: int) -> Image.Image:
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def _background(rng: np.random.Generator, config: SyntheticFaceConfig) -> Image.Image:
    size = config.image_size
    y, x = np.mgrid[0:size, 0:size] / size
    first, second = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    pixels = first * ramp + second * (1 - ramp)
    pixels = pixels + 14 * config.nuisance * _noise(rng, size, (6, 6))[..., None]
    image = _to_image(pixels, 2 * size)
    draw = ImageDraw.Draw(image, "RGBA")
    # Clutter, some of it in the colours of skin.
    for _ in range(int(rng.integers(0, 1 + round(9 * config.nuisance)))):
        colour = _SKIN_TONES[rng.integers(6)] if rng.random() < 0.3 else tuple(rng.integers(0, 256, 3).tolist())
        centre, extent = rng.uniform(0, 2 * size, 2), rng.uniform(0.04, 0.3, 2) * size
        box = [*(centre - extent), *(centre + extent)]
        fill = (*colour, int(rng.integers(90, 256)))
        if rng.random() < 0.5:
            draw.ellipse(box, fill=fill)
        else:
            draw.rectangle(box, fill=fill)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3) * size / 224))


def _skin_texture(rng: np.random.Generator, head: _Head, person: _Person, config: SyntheticFaceConfig) -> Image.Image:
    """Skin under a light, over the whole canvas."""
    size = config.image_size
    y, x = np.mgrid[0:size, 0:size]
    nx, ny = (x - head.centre[0]) / (1.25 * head.scale), (y - head.centre[1]) / (1.5 * head.scale)
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0.05, 1))
    azimuth, height = rng.uniform(-1.3, 1.3), rng.uniform(-0.9, 0.3)
    light = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    diffuse = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, 1)
    contrast = 0.25 + 0.35 * config.nuisance * rng.random()
    shade = 1 - contrast + 1.25 * contrast * diffuse + 0.02 * _noise(rng, size, (40, 40))
    pixels = shade[..., None] * np.array(person.skin)
    for side in (-1, 1):
        cheek = head.project(head.on_face(side * 0.55, 0.3))
        glow = np.exp(-((x - cheek[0]) ** 2 + (y - cheek[1]) ** 2) / (2 * (0.22 * head.scale) ** 2))
        pixels[..., 0] += 14 * glow
        pixels[..., 1:] -= 8 * glow[..., None]
    return _to_image(pixels, 2 * size)


def _hair_texture(rng: np.random.Generator, person: _Person, size: int) -> Image.Image:
    strands = _noise(rng, size, (6, 60)) * 0.10 + _noise(rng, size, (4, 4)) * 0.06
    return _to_image((1 + strands)[..., None] * np.array(person.hair_rgb) + 4, 2 * size)


def _darker(colour: tuple, factor: float) -> tuple[int, ...]:
    return tuple(round(max(0, min(255, c * factor))) for c in colour)


def _paint_person(
    canvas: _Canvas, rng: np.random.Generator, person: _Person, head: _Head, config: SyntheticFaceConfig
) -> SyntheticFace:
    curves = _feature_curves(head, person)
    outlines = _outlines(head, person, curves)
    skin, hair = _skin_texture(rng, head, person, config), _hair_texture(rng, person, config.image_size)
    _paint_body(canvas, rng, person, head, skin, hair, outlines)
    _paint_face(canvas, person, head, curves, outlines, skin)
    _paint_on_top(canvas, rng, person, head, curves, outlines, hair)
    around = np.concatenate([outlines["skin"], outlines["ear_left"], outlines["ear_right"]])
    box = (*around.min(axis=0), *around.max(axis=0))
    return SyntheticFace(
        landmarks=_landmarks(curves, _jaw(head, outlines["skin"])),
        box=tuple(float(value) for value in box),
        attributes=person.attributes(),
        pose=head.pose,
        outlines={name: polygon.astype(np.float32) for name, polygon in outlines.items()},
    )


def _paint_body(
    canvas: _Canvas,
    rng: np.random.Generator,
    person: _Person,
    head: _Head,
    skin: Image.Image,
    hair: Image.Image,
    outlines: dict[str, Points],
) -> None:
    """All behind the face: long hair, neck, clothes, the hair's outline and the ears."""
    scale, s = head.scale, person.shape
    chin = head.project(head.on_face(0, s["chin"]))
    top = head.project(np.array([0, 0.3, -0.3]))
    shoulder_y = max(chin[1] + 0.45 * scale, top[1] + 1.25 * scale)
    middle_x = 0.4 * chin[0] + 0.6 * head.centre[0]
    if person.hair_style == "long":
        wide, end = 1.18, shoulder_y + rng.uniform(0.0, 0.5) * scale
        crown = _hull(head.project(head.rings(-1.45, 0.2, math.pi, grow=1.12)))
        falling = np.array([[middle_x - wide * scale, end], [middle_x + wide * scale, end]])
        canvas.paint(_hull(np.concatenate([crown, falling])), hair, "hair")
    half = (0.52 if person.male else 0.40) * scale
    neck = np.array(
        [
            [top[0] - half, top[1]],
            [top[0] + half, top[1]],
            [middle_x + 1.15 * half, shoulder_y + 0.34 * scale],
            [middle_x - 1.15 * half, shoulder_y + 0.34 * scale],
        ]
    )
    canvas.paint(neck, skin.point(lambda value: round(value * 0.8)), "neck")
    bottom = canvas.size + scale
    width = (2.0 if person.male else 1.7) * scale
    t = np.linspace(-1, 1, 21)
    collar = np.stack([middle_x + half * 1.1 * t, shoulder_y + 0.28 * scale * (1 - t**2)], axis=1)
    shoulders = np.array(
        [
            [middle_x + width, shoulder_y + 0.55 * scale],
            [middle_x + 1.15 * width, bottom],
            [middle_x - 1.15 * width, bottom],
            [middle_x - width, shoulder_y + 0.55 * scale],
        ]
    )
    canvas.paint(
        np.concatenate([collar, shoulders]), _darker(_CLOTHES[person.clothes], rng.uniform(0.8, 1.1)), "clothes"
    )
    if person.necklace:
        chain = np.stack([middle_x + half * 0.95 * t, shoulder_y - 0.12 * scale + 0.26 * scale * (1 - t**2)], axis=1)
        canvas.line(chain, (226, 190, 90), 0.035 * scale, "necklace")
    if person.hair_style != "bald":
        reach = {"short": 0.0, "medium": 0.75, "long": 0.55}[person.hair_style]
        grow = {"short": 1.05, "medium": 1.13, "long": 1.12}[person.hair_style]
        canvas.paint(_hull(head.project(head.rings(-1.45, reach, math.pi, grow=grow))), hair, "hair")
    if person.hair_style in ("bald", "short"):
        for name in ("left", "right"):
            canvas.paint(outlines[f"ear_{name}"], skin.point(lambda value: round(value * 0.9)), f"ear_{name}")


def _paint_face(
    canvas: _Canvas,
    person: _Person,
    head: _Head,
    curves: dict[str, Points],
    outlines: dict[str, Points],
    skin: Image.Image,
) -> None:
    scale, s = head.scale, person.shape
    canvas.paint(outlines["skin"], skin, "skin")
    t = np.linspace(-1, 1, 25)
    if person.beard == "full":
        cheeks = head.project(head.on_face(0.97 * head.half_width(np.array(0.5)) * t, 0.42 + 0.16 * (1 - t**2)))
        jaw = _resample(_jaw(head, outlines["skin"]), 33)[9:24]
        canvas.paint(_closed(jaw, cheeks), _darker(person.hair_rgb, 0.9), alpha=0.8)
    if person.beard == "goatee":
        around = np.linspace(0, 2 * np.pi, 24)
        patch = head.on_face(0.2 * np.cos(around), s["mouth_y"] + 0.28 + 0.13 * np.sin(around))
        canvas.paint(head.project(patch), _darker(person.hair_rgb, 0.9), alpha=0.85)
    if person.beard in ("mustache", "full"):
        lip = s["mouth_y"] - s["lip_upper"]
        upper = head.on_face(0.3 * t, lip - 0.10 + 0.06 * t**2, 0.06)
        lower = head.on_face(0.34 * t, lip - 0.005 + 0.05 * t**2, 0.06)
        canvas.paint(_closed(head.project(upper), head.project(lower)), _darker(person.hair_rgb, 0.9), alpha=0.9)

    lit = 1.07 if head.rotation[0, 2] >= 0 else 0.93
    canvas.paint(outlines["nose"], skin.point(lambda value: min(255, round(value * lit))), "nose")
    shadow = _darker(person.skin, 0.62)
    canvas.line(curves["nose_base"], shadow, 0.02 * scale)
    for at in (7, 17):
        nostril = curves["nose_base"][at]
        around = np.linspace(0, 2 * np.pi, 12)
        hole = nostril + scale * np.stack([0.045 * np.cos(around), 0.025 * np.sin(around) - 0.015], axis=1)
        canvas.paint(hole, _darker(person.skin, 0.4))

    if person.mouth_open > 0.02:
        canvas.paint(outlines["inner_mouth"], (70, 20, 24), "inner_mouth")
        if person.mouth_open > 0.15:
            upper, lower = curves["lip_inner_upper"], curves["lip_inner_lower"]
            canvas.paint(_closed(upper, 0.6 * upper + 0.4 * lower), (238, 234, 226))
    lips = (
        (172, 36, 56)
        if person.lipstick
        else _darker((person.skin[0], person.skin[1] * 0.72, person.skin[2] * 0.72), 0.86)
    )
    canvas.paint(outlines["upper_lip"], _darker(lips, 0.85), "upper_lip")
    canvas.paint(outlines["lower_lip"], lips, "lower_lip")

    for name in ("left", "right"):
        eye = outlines[f"eye_{name}"]
        canvas.paint(eye, (236, 232, 228), "eye_" + name)
        _paint_iris(canvas, eye, curves[f"pupil_{name}"][0], 0.095 * scale, person.eye_colour)
        canvas.line(curves[f"eye_upper_{name}"], (40, 28, 26), (0.035 if not person.male else 0.022) * scale)
        brow = person.hair_rgb if person.hair_style != "bald" else (80, 60, 44)
        canvas.paint(outlines[f"brow_{name}"], _darker(brow, 0.75), "brow_" + name)
    if not person.young:
        for side in (-1, 1):
            fold = head.on_face(side * np.linspace(0.3, 0.45, 8), np.linspace(0.38, 0.66, 8))
            canvas.line(head.project(fold), _darker(person.skin, 0.78), 0.014 * scale)
        for y in (-0.62, -0.55):
            canvas.line(
                head.project(head.on_face(0.35 * t, y + 0.02 * t**2)), _darker(person.skin, 0.85), 0.012 * scale
            )


def _paint_iris(canvas: _Canvas, eye: Points, centre: Points, radius: float, colour: tuple[int, int, int]) -> None:
    """Iris, pupil and a highlight, cut off at the lids."""
    mask, offset = canvas.mask(eye)
    layer = canvas.image.crop((*offset, offset[0] + mask.width, offset[1] + mask.height))
    draw = ImageDraw.Draw(layer)
    x, y = (centre + 0.5) * 2 - 0.5 - offset
    for share, fill in ((1.0, _darker(colour, 0.7)), (0.85, colour), (0.45, (12, 10, 10))):
        r = 2 * radius * share
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    r = 0.5 * radius
    draw.ellipse([x - 1.2 * r, y - 1.2 * r, x - 0.2 * r, y - 0.2 * r], fill=(250, 250, 250))
    canvas.image.paste(layer, offset, mask)


def _paint_on_top(
    canvas: _Canvas,
    rng: np.random.Generator,
    person: _Person,
    head: _Head,
    curves: dict[str, Points],
    outlines: dict[str, Points],
    hair: Image.Image,
) -> None:
    """Fringe, strands, earrings, glasses and hat."""
    scale, s = head.scale, person.shape
    # What hangs at the far side of a turned head is behind the face.
    near_sides = [side for side in (-1, 1) if side * head.rotation[2, 0] > -0.3]
    angle = np.linspace(-1.25, 1.25, 31)

    def across(y: np.ndarray, grow: float) -> Points:
        ring = np.stack([head.half_width(y) * np.sin(angle), y, head.depth(y) * np.cos(angle)], axis=1)
        return head.project(ring * grow)

    if person.bangs:
        ragged = s["eye_y"] - s["brow_height"] - 0.10 + 0.05 * np.sin(np.arange(31) * rng.uniform(1.5, 2.5))
        canvas.paint(
            _closed(across(np.full(31, -1.0), 1.08), across(ragged + 0.25 * np.abs(angle), 1.04)), hair, "hair"
        )
    if person.hair_style in ("medium", "long"):
        bottom = 0.75 if person.hair_style == "medium" else 1.35
        y = np.linspace(-0.95, bottom, 16)
        for side in near_sides:
            wide = 1.02 * np.interp(y, [-0.95, -0.2, bottom], [0.55, 1.0, 0.95])
            inner = np.stack([side * (wide - 0.10), y, np.full(16, 0.25)], axis=1)
            outer = np.stack([side * (wide + 0.17), y, np.full(16, -0.1)], axis=1)
            canvas.paint(_closed(head.project(inner), head.project(outer)), hair, "hair")
    if person.earrings:
        for side in near_sides:
            lobe = head.project(np.array([side * (float(head.half_width(np.array(0.3))) + 0.07), 0.36, 0.05]))
            around = np.linspace(0, 2 * np.pi, 16)
            drop = lobe + scale * np.stack([0.055 * np.cos(around), 0.09 * np.sin(around)], axis=1)
            canvas.paint(drop, (226, 196, 100), "earring")
    if person.glasses:
        frame = (30, 30, 34)
        around = np.linspace(0, 2 * np.pi, 28)
        for side in (-1, 1):
            x = side * (s["eye_x"] + 0.01) + 0.29 * np.cos(around)
            lens = head.project(head.on_face(x, s["eye_y"] + 0.03 + 0.19 * np.sin(around), 0.12))
            canvas.paint(lens, (210, 226, 236), "glasses", alpha=0.22)
            canvas.line(np.concatenate([lens, lens[:1]]), frame, 0.035 * scale, "glasses")
            hinge = np.stack(
                [side * np.linspace(0.72, 1.0, 6), np.full(6, s["eye_y"]), np.linspace(0.75, 0.1, 6)], axis=1
            )
            canvas.line(head.project(hinge), frame, 0.03 * scale, "glasses")
        bridge = head.on_face(np.linspace(-0.14, 0.14, 7), s["eye_y"] - 0.03, 0.16)
        canvas.line(head.project(bridge), frame, 0.035 * scale, "glasses")
    if person.hat:
        colour = tuple(int(c) for c in rng.integers(20, 220, 3))
        crown = _hull(head.project(head.rings(-1.45, -0.85, math.pi, grow=1.16)))
        canvas.paint(crown, colour, "hat")
        rim = np.linspace(0, 2 * np.pi, 40)
        brim = np.stack([1.45 * np.cos(rim), np.full(40, -0.85), 1.45 * np.sin(rim)], axis=1)
        canvas.paint(head.project(brim), _darker(colour, 0.75), "hat")


def _paint_occluder(canvas: _Canvas, rng: np.random.Generator, face: SyntheticFace) -> None:
    """A bar or a hand-like blob over part of a face."""
    x1, y1, x2, y2 = face.box
    centre = np.array([rng.uniform(x1, x2), rng.uniform(y1 + 0.4 * (y2 - y1), y2)])
    length, width = rng.uniform(0.3, 0.6) * (x2 - x1), rng.uniform(0.08, 0.16) * (x2 - x1)
    angle = rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    if rng.random() < 0.5:
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        bar = np.array([centre + a * length * along + b * width * across for a, b in corners])
        canvas.paint(bar, tuple(rng.integers(0, 256, 3).tolist()), "occluder")
    else:
        tone = _SKIN_TONES[rng.integers(6)]
        turn = np.linspace(0, 2 * np.pi, 24)
        palm = centre + np.stack([np.cos(turn), np.sin(turn)], axis=1) * width * 1.5
        canvas.paint(palm, tone, "occluder")
        for finger in range(4):
            base = centre + across * width * (finger - 1.5) * 0.75
            tip = base + along * length * rng.uniform(0.8, 1.0)
            sides = across * width * 0.33
            canvas.paint(
                np.array([base - sides, tip - sides, tip + sides, base + sides]), _darker(tone, 0.95), "occluder"
            )


def _finish(image: Image.Image, rng: np.random.Generator, config: SyntheticFaceConfig) -> tuple[np.ndarray, bool]:
    """Camera: blur, exposure, colour cast and noise. Returns the pixels and whether they are clearly blurred."""
    strength, size = config.nuisance, config.image_size
    blurred = bool(rng.random() < 0.1 * strength)
    radius = rng.uniform(1.6, 2.6) if blurred else rng.uniform(0, 0.7) * strength
    image = image.filter(ImageFilter.GaussianBlur(radius * size / 224))
    pixels = np.asarray(image, dtype=np.float32) / 255
    pixels = pixels ** np.float32(rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength))
    pixels = pixels * (1 + 0.1 * strength * rng.uniform(-1, 1, 3).astype(np.float32))
    pixels = pixels + rng.uniform(0, 0.035 * strength) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8), blurred


# --------------------------------------------------------------------------------------------------------- captions

_COLOUR_WORDS = {"Black_Hair": "black", "Brown_Hair": "brown", "Blond_Hair": "blond", "Gray_Hair": "grey"}


def _captions(rng: np.random.Generator, people: list[_Person], most: int) -> list[str]:
    count = int(rng.integers(1, most + 1))
    return [_caption(rng, people) for _ in range(count)]


def _caption(rng: np.random.Generator, people: list[_Person]) -> str:
    if len(people) > 1:
        words = {2: "two", 3: "three"}[len(people)]
        return str(
            rng.choice([f"{words} people", f"a picture of {words} faces", f"a group of {words} people together"])
        )
    person = people[0]
    noun = {(True, True): "young man", (True, False): "old man", (False, True): "young woman"}.get(
        (person.male, person.young), "old woman"
    )
    facts = []
    if person.hair_style == "bald":
        facts.append(("with", "a bald head"))
    else:
        length = "" if person.hair_style == "medium" else f"{person.hair_style} "
        facts.append(("with", f"{length}{_COLOUR_WORDS[person.hair_colour]} hair"))
    if person.bangs:
        facts.append(("with", "bangs"))
    if person.glasses:
        facts.append(("wearing", str(rng.choice(["glasses", "eyeglasses"]))))
    if person.hat:
        facts.append(("wearing", "a hat"))
    if person.beard != "none":
        facts.append(("with", {"mustache": "a mustache", "goatee": "a goatee", "full": "a beard"}[person.beard]))
    if person.earrings:
        facts.append(("wearing", "earrings"))
    if person.necklace:
        facts.append(("wearing", "a necklace"))
    if person.lipstick:
        facts.append(("wearing", "red lipstick"))
    facts.append(("wearing", f"{person.clothes} clothes"))
    chosen = [facts[i] for i in sorted(rng.permutation(len(facts))[: int(rng.integers(1, 5))])]
    phrases = []
    for verb in ("with", "wearing"):
        things = [thing for v, thing in chosen if v == verb]
        if things:
            phrases.append(f"{verb} {' and '.join([', '.join(things[:-1])] * (len(things) > 1) + things[-1:])}")
    mood = str(rng.choice(["smiling ", "happy "])) if person.smiling else str(rng.choice(["", "serious "]))
    opening = str(rng.choice(["", "a portrait of ", "a photo of ", "a picture of ", "a close-up of ", "the face of "]))
    article = "an" if not mood and noun.startswith("old") else "a"
    caption = f"{opening}{article} {mood}{noun} {' '.join(phrases)}"
    if person.mouth_open > 0.3 and rng.random() < 0.5:
        caption += ", mouth open"
    return caption
