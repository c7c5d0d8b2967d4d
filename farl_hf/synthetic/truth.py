"""Truth: what is known about a face of a rendered picture."""

from dataclasses import dataclass

import numpy as np

from .heads import LENS, TEETH, Head
from .landmarks import face_points
from .people import Person
from .renderer import Rendering
from .shapes import CAVITY, EYE, SKIN, SOCKET, TONGUE

# By id of the part, the last one (-1) the background.
_OF_FACE = np.isin(np.arange(17), (SKIN, EYE, SOCKET, CAVITY, TONGUE, TEETH))
_OF_FACE_OR_LENS = _OF_FACE | (np.arange(17) == LENS)


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

    layouts = face_points(head.vertices, head.brows, head.pupils, head.jaw_middle, head.rotation.T)
    landmarks = {n: project(points).astype(np.float32) for n, points in layouts.items()}
    shown = _OF_FACE if head.person.glasses == "sunglasses" else _OF_FACE_OR_LENS
    seen = (rendering.person == head.index) & shown[rendering.part]
    depth = np.where(seen, rendering.depth, np.inf)
    visibility = _visible(layouts, landmarks, depth, focal)
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


# Points of the outline in each layout: they lie where the surface turns away, and so does its depth.
_OUTLINE = {68: slice(0, 17), 98: slice(0, 33), 106: slice(0, 33), 19: slice(18, 19), 5: slice(0, 0)}

# Points where the lips touch, which lie a little behind what is seen of a closed mouth.
_BETWEEN_LIPS = {68: slice(60, 68), 98: slice(88, 96), 106: slice(96, 104), 19: slice(15, 18), 5: slice(3, 5)}


def _visible(
    layouts: dict[int, np.ndarray], landmarks: dict[int, np.ndarray], depth: np.ndarray, focal: float
) -> dict[int, np.ndarray]:
    """
    Whether the points (n, 3) of each layout, seen at (n, 2), are inside of the picture and in view: one of the pixels
    around shows the face less than 3 mm and a pixel (12 mm between the lips, 25 mm on the outline) before or behind
    them. `depth` is infinite where anything but this face is seen, `focal` the focal length in pixels.
    """
    size = len(depth)
    points, at = np.concatenate(list(layouts.values())), np.concatenate([landmarks[n] for n in layouts])
    inside = np.logical_and.reduce((at > -0.5) & (at < size - 0.5), axis=1)
    tolerance = 0.003 + points[:, 2] / focal
    column, row = (np.clip(line[:, None] + np.arange(-1, 3), 0, size - 1) for line in np.floor(at).astype(int).T)
    away = np.abs(depth[row[:, :, None], column[:, None]] - points[:, 2, None, None])
    # Inside of the face the four pixels around count, on the outline sixteen.
    near, nearest = away[:, 1:3, 1:3].min(axis=(1, 2)), away.min(axis=(1, 2))
    result, start = {}, 0
    for n in layouts:
        of = slice(start, start + n)
        tolerance[of][_BETWEEN_LIPS[n]] = 0.012
        tolerance[of][_OUTLINE[n]] = 0.025
        near[of][_OUTLINE[n]] = nearest[of][_OUTLINE[n]]
        result[n] = inside[of] & (near[of] < tolerance[of])
        start += n
    return result


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
