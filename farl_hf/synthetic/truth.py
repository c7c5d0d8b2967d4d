"""Truth: what is known about a face of a rendered picture."""

from dataclasses import dataclass

import numpy as np

from .heads import Head
from .landmarks import face_points
from .people import Person
from .renderer import Rendering


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


def describe(head: Head, rendering: Rendering, size: int, blurry: bool) -> SyntheticFace:
    """Landmarks, visibility, box, attributes and pose of one person's head in a rendering."""
    focal, middle = head.view.focal * size, (size - 1) / 2

    def project(points: np.ndarray) -> np.ndarray:
        return points[..., :2] / points[..., 2:] * focal + middle

    layouts = face_points(head.vertices, head.brows, head.pupils, head.rotation.T)
    landmarks = {n: project(points).astype(np.float32) for n, points in layouts.items()}
    visibility = {n: _visible(points, landmarks[n], rendering) for n, points in layouts.items()}
    outline = project(head.outline)
    low, high = outline.min(axis=0), outline.max(axis=0)
    return SyntheticFace(
        landmarks=landmarks,
        visibility=visibility,
        box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        attributes=attributes(head, rendering, blurry),
        pose=head.view.pose,
        person=head.person,
    )


def _visible(points: np.ndarray, at: np.ndarray, rendering: Rendering) -> np.ndarray:
    """Inside of the picture, and nothing is more than 8 mm before it, on any of the pixels next to it."""
    size = len(rendering.depth)
    inside = ((at > -0.5) & (at < size - 0.5)).all(axis=1)
    column = np.clip(np.floor(at[:, 0]), 0, size - 2).astype(int)
    row = np.clip(np.floor(at[:, 1]), 0, size - 2).astype(int)
    # The farthest of the four pixels around: points on outlines have the background beside them.
    around = np.stack([rendering.depth[row + j, column + i] for i in (0, 1) for j in (0, 1)])
    return inside & (around.max(axis=0) > points[:, 2] - 0.008)


def attributes(head: Head, rendering: Rendering, blurry: bool) -> dict[str, bool]:
    """CelebA attributes that are defined by what was drawn and can be seen."""
    who, mine = head.person, rendering.person == head.index
    labels = rendering.celebamask_hq[mine]
    hair = (labels == 14).sum()
    covered = who.hat == "headscarf"
    haired = who.hair_style != "bald" and not covered and hair > 0
    colours = {"Black_Hair": "black", "Brown_Hair": "brown", "Blond_Hair": "blond", "Gray_Hair": "grey"}
    act = who.expression.get
    values = {
        **{name: haired and who.hair_colour == colour for name, colour in colours.items()},
        "5_o_Clock_Shadow": who.beard == "stubble",
        "Bags_Under_Eyes": who.details.get("dark_circles", 0) > 0.75,
        "Bald": who.hair_style == "bald" and who.hat == "none",
        "Bangs": who.fringe,
        "Big_Lips": who.shape.get("mouth-scale-vert-incr", 0) > 0.4,
        "Big_Nose": who.shape.get("nose-scale-horiz-incr", 0) > 0.4,
        "Blurry": blurry,
        "Bushy_Eyebrows": who.brow > 0.75,
        "Chubby": who.phenotype.get("weight", 0.5) > 0.75 or who.shape.get("head-fat-incr", 0) > 0.55,
        "Eyeglasses": bool((labels == 15).any()),
        "Goatee": who.beard == "goatee",
        "Heavy_Makeup": who.makeup and who.lipstick,
        "Male": who.male,
        "Mouth_Slightly_Open": bool((labels == 11).sum() > 0.004 * max(1, (labels == 2).sum())),
        "Mustache": who.beard in ("mustache", "goatee", "full"),
        "Narrow_Eyes": 0.3 < max(act("eyeBlinkLeft", 0), act("eyeSquintLeft", 0)) < 0.9,
        "No_Beard": who.beard in ("none", "mustache"),
        "Pale_Skin": who.skin_tone < 0.15,
        "Receding_Hairline": who.hair_style == "receding" and who.hat == "none",
        "Rosy_Cheeks": who.blush > 0.7,
        "Sideburns": who.sideburns and not covered,
        "Smiling": who.smiling,
        "Straight_Hair": haired and who.hair_style in ("short", "bob", "long") and who.details.get("curl", 0) < 0.35,
        "Wavy_Hair": haired and who.hair_style in ("wavy", "curly"),
        "Wearing_Earrings": bool((labels == 17).any()),
        "Wearing_Hat": bool((labels == 16).any()),
        "Wearing_Lipstick": who.lipstick,
        "Wearing_Necklace": bool((labels == 18).any()),
        "Young": who.young,
    }
    return {name: bool(value) for name, value in values.items()}
