"""Truth: what is known about a face of a rendered picture."""

from dataclasses import dataclass

import numpy as np

from .heads import LENS, TEETH, Head
from .landmarks import SurfacePoints, face_curves, face_points
from .people import CURLED_STYLES, Person
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
        attributes=attributes(head, rendering, layouts[68], focal, blurry),
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


# Of 400 faces as farl-tiny was trained on (96 px) a fifth has a wider nose, thicker lips, wider cheeks, larger brows
# than these; a seventh has eyes that are open less; the smallest earrings are a few pixels of a face and cannot be
# seen. In units of `proportions`, brows and earrings as areas in the picture.
_BIG_NOSE, _BIG_LIPS, _WIDE_CHEEKS, _BUSHY_BROWS, _NARROW_EYES, _EARRING = 0.379, 0.195, 1.22, 0.072, 0.22, 0.004
# The line of the jaw that ends beside the mouth.
_CHEEK = 10


def proportions(points: np.ndarray) -> dict[str, float]:
    """
    Sizes of a face's parts in space, in units of the distance of the outer eye corners, from its 68 points (68, 3):
    `nose` and `lips` (width, height without the opening), `eye_opening` (mean of both, of the eye's own width).
    """

    def span(i: int, j: int) -> float:
        return float(np.linalg.norm(points[i] - points[j]))

    unit = span(36, 45)
    openings = [(span(i + 1, i + 5) + span(i + 2, i + 4)) / (2 * span(i, i + 3)) for i in (36, 42)]
    return {
        "nose": span(31, 35) / unit,
        "lips": (span(51, 57) - span(62, 66)) / unit,
        "eye_opening": sum(openings) / 2,
    }


def attributes(head: Head, rendering: Rendering, points: np.ndarray, focal: float, blurry: bool) -> dict[str, bool]:
    """
    CelebA attributes that are defined by what was drawn and can be seen.

    Args:
        head: Whose.
        rendering: With the label maps.
        points: (68, 3) in camera space.
        focal: Focal length in pixels.
        blurry: Whether the picture is.
    """
    who, mine = head.person, rendering.person == head.index
    part, unit = proportions(points), float(np.linalg.norm(points[36] - points[45]))
    jaw = face_curves().jaw
    edge = SurfacePoints(jaw.ids[[_CHEEK, -1 - _CHEEK], 0], jaw.weights[[_CHEEK, -1 - _CHEEK], 0]).at(head.vertices)
    cheeks = float(np.linalg.norm(edge[0] - edge[1])) / unit
    # Pixels that a square of that unit has where the eyes are.
    square = (unit * focal / points[[36, 45], 2].mean()) ** 2
    labels = rendering.celebamask_hq[mine]
    hair = (labels == 14).sum()
    covered = who.hat == "headscarf"
    haired = who.hair_style != "bald" and not covered and hair > 0
    colours = {"Black_Hair": "black", "Brown_Hair": "brown", "Blond_Hair": "blond", "Gray_Hair": "grey"}
    shaded = who.glasses == "sunglasses"
    values = {
        **{name: haired and who.hair_colour == colour for name, colour in colours.items()},
        "5_o_Clock_Shadow": who.beard == "stubble",
        "Bags_Under_Eyes": who.details.get("dark_circles", 0) > 0.5 and not shaded,
        "Bald": who.hair_style == "bald" and who.hat == "none",
        "Bangs": who.fringe,
        "Big_Lips": part["lips"] > _BIG_LIPS,
        "Big_Nose": part["nose"] > _BIG_NOSE,
        "Blurry": blurry,
        "Bushy_Eyebrows": np.isin(labels, (6, 7)).sum() > _BUSHY_BROWS * square,
        "Chubby": cheeks > _WIDE_CHEEKS,
        "Eyeglasses": bool((labels == 15).any()),
        "Goatee": who.beard == "goatee",
        "Heavy_Makeup": who.makeup and who.lipstick,
        "Male": who.male,
        "Mouth_Slightly_Open": bool((labels == 11).sum() > 0.004 * max(1, (labels == 2).sum())),
        "Mustache": who.beard in ("mustache", "goatee", "full"),
        "Narrow_Eyes": part["eye_opening"] < _NARROW_EYES and not shaded,
        "No_Beard": who.beard in ("none", "mustache"),
        "Pale_Skin": who.skin_tone < 0.15,
        "Receding_Hairline": who.hair_style == "receding" and who.hat == "none",
        "Rosy_Cheeks": who.blush > 0.5 and who.skin_tone < 0.6,
        "Sideburns": who.sideburns and not covered,
        "Smiling": who.smiling,
        "Straight_Hair": haired and who.hair_style not in CURLED_STYLES,
        "Wavy_Hair": haired and who.hair_style in CURLED_STYLES,
        "Wearing_Earrings": (labels == 17).sum() > _EARRING * square,
        "Wearing_Hat": bool((labels == 16).any()),
        "Wearing_Lipstick": who.lipstick,
        "Wearing_Necklace": bool((labels == 18).any()),
        "Young": who.young,
    }
    return {name: bool(value) for name, value in values.items()}
