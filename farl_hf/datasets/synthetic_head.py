"""
The geometry of a generated head: rings and curves in 3D, their projection, outlines of parts and landmarks.

Head coordinates: x to the image's right, y down, z towards the viewer; the cheekbones are at x = -1 and 1.
"""

import math
from itertools import pairwise

import numpy as np
from scipy.spatial import ConvexHull

from .synthetic_person import Person

Points = np.ndarray


class Head:
    """A person's head in 3D, and its projection into the picture."""

    def __init__(self, person: Person, centre: tuple[float, float], scale: float, angles: tuple[float, float, float]):
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


def hull(points: Points) -> Points:
    return points[ConvexHull(points).vertices]


def resample(curve: Points, count: int) -> Points:
    """`count` points at equal arc length along an open curve, both ends included."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(at, lengths, curve[:, i]) for i in range(2)], axis=1)


def feature_curves(head: Head, person: Person) -> dict[str, Points]:
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


def closed(upper: Points, lower: Points) -> Points:
    return np.concatenate([upper, lower[::-1]])


def face_outlines(head: Head, person: Person, curves: dict[str, Points]) -> dict[str, Points]:
    """Polygons of the facial parts in the picture."""
    s = person.shape

    def hairline(angle: np.ndarray) -> np.ndarray:
        # From the middle of the forehead down to the temples.
        centre = s["hairline"] + (0.12 if not person.male else 0.0)
        return centre + (-0.3 - centre) * np.clip(np.abs(angle) / 1.7, 0, 1) ** 2

    bald = person.hair_style == "bald"
    face = head.rings(-1.45, s["chin"], math.radians(180 if bald else 97), hairline=None if bald else hairline)
    outlines = {"skin": hull(head.project(face))}
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
        outlines[f"eye_{name}"] = closed(curves[f"eye_upper_{name}"], curves[f"eye_lower_{name}"])
        outlines[f"brow_{name}"] = closed(curves[f"brow_upper_{name}"], curves[f"brow_lower_{name}"])
    outlines["nose"] = np.concatenate([curves["nose_side_left"], curves["nose_base"], curves["nose_side_right"][::-1]])
    outlines["upper_lip"] = closed(curves["lip_outer_upper"], curves["lip_inner_upper"])
    outlines["lower_lip"] = closed(curves["lip_inner_lower"], curves["lip_outer_lower"])
    outlines["inner_mouth"] = closed(curves["lip_inner_upper"], curves["lip_inner_lower"])
    return outlines


def jaw_line(head: Head, skin: Points) -> Points:
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


def face_landmarks(curves: dict[str, Points], jaw: Points) -> dict[int, Points]:
    c = curves

    def eye(name: str, upper: int) -> Points:
        """Around one eye from its left corner over the upper lid and back along the lower."""
        over = resample(c[f"eye_upper_{name}"], upper + 2)
        under = resample(c[f"eye_lower_{name}"], upper + 2)
        return np.concatenate([over, under[::-1][1:-1]])

    def brow(name: str) -> Points:
        """Five points along the upper edge from left to right, then four back along the lower."""
        upper, lower = resample(c[f"brow_upper_{name}"], 5), resample(c[f"brow_lower_{name}"], 5)
        return np.concatenate([upper, lower[::-1][:4]])

    outer_upper, outer_lower = resample(c["lip_outer_upper"], 7), resample(c["lip_outer_lower"], 7)
    inner_upper, inner_lower = resample(c["lip_inner_upper"], 5), resample(c["lip_inner_lower"], 5)
    mouth = np.concatenate([outer_upper, outer_lower[::-1][1:-1], inner_upper, inner_lower[::-1][1:-1]])
    ridge = resample(c["nose_ridge"], 4)
    base = resample(c["nose_base"], 5)
    brows_5 = [resample(c[f"brow_upper_{name}"], 5) for name in ("left", "right")]
    pupils = [c["pupil_left"], c["pupil_right"]]
    nose_outline = np.concatenate([c["nose_side_left"][6:], c["nose_base"], c["nose_side_right"][:5:-1]])

    eyes_6, eyes_8 = [eye(n, 2) for n in ("left", "right")], [eye(n, 3) for n in ("left", "right")]
    centres = [e.mean(axis=0, keepdims=True) for e in eyes_8]
    brow_left_3, brow_right_3 = (resample(c[f"brow_upper_{n}"], 3) for n in ("left", "right"))
    layouts = {
        68: [resample(jaw, 17), *brows_5, ridge, base, *eyes_6, mouth],
        98: [resample(jaw, 33), brow("left"), brow("right"), ridge, base, *eyes_8, mouth, *pupils],
        106: [
            resample(jaw, 33),
            brow("left"),
            brow("right"),
            ridge,
            resample(nose_outline, 11),
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
            resample(jaw, 3)[1:2],
        ],
        5: [*pupils, ridge[3:], mouth[0:1], mouth[6:7]],
    }
    return {size: np.concatenate(parts).astype(np.float32) for size, parts in layouts.items()}
