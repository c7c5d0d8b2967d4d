"""
Appearance: the maps of the neutral face's front, shared by everybody, and a row of numbers per person.

Colours are linear RGB in [0, 1].
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from .config import SyntheticFaceConfig
from .landmarks import CONTACT, LIP_BOTTOM, LIP_TOP, NOSE_REGION, SurfacePoints, _jaw_border, both_halves, face_curves
from .people import Person
from .shapes import head_model, place_on_surface

COLUMNS = 128
HAIRLINE_STEPS = 33


def linear(*srgb: float) -> np.ndarray:
    """Linear values of sRGB ones in 0..255."""
    value = np.asarray(srgb, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


# From very light to very dark, sRGB.
SKIN_COLOURS = np.stack(
    [
        linear(*c)
        for c in [
            (243, 214, 194),
            (231, 190, 163),
            (214, 165, 130),
            (186, 132, 96),
            (146, 97, 66),
            (105, 68, 46),
            (66, 43, 32),
        ]
    ]
)
HAIR_COLOURS = {
    "black": [(14, 12, 12), (30, 24, 22)],
    "brown": [(52, 34, 24), (112, 76, 48)],
    "blond": [(160, 122, 72), (222, 188, 132)],
    "red": [(120, 50, 24), (170, 86, 40)],
    "grey": [(112, 110, 108), (214, 212, 208)],
}
EYE_COLOURS = {
    "brown": (70, 42, 24),
    "hazel": (112, 84, 44),
    "green": (92, 116, 74),
    "blue": (84, 124, 160),
    "grey": (120, 128, 130),
}
CLOTHES_COLOURS = {
    "white": (226, 224, 218),
    "black": (26, 26, 28),
    "grey": (120, 120, 122),
    "blue": (44, 66, 124),
    "light blue": (142, 176, 208),
    "red": (156, 36, 38),
    "green": (52, 92, 60),
    "yellow": (208, 172, 66),
    "pink": (214, 142, 158),
    "purple": (92, 58, 116),
    "brown": (104, 76, 54),
    "beige": (196, 180, 152),
    "orange": (206, 112, 48),
}


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    start, end = polygon, np.roll(polygon, -1, axis=0)
    x, y = points[..., 0, None], points[..., 1, None]
    crosses = (start[:, 1] <= y) != (end[:, 1] <= y)
    rise = end[:, 1] - start[:, 1]
    at = start[:, 0] + (y - start[:, 1]) / np.where(rise == 0, 1, rise) * (end[:, 0] - start[:, 0])
    return (crosses & (at > x)).sum(axis=-1) % 2 == 1


def _distance(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """To an open polyline."""
    best = np.full(points.shape[:-1], np.inf)
    for a, b in pairwise(curve):
        along = np.clip(((points - a) @ (b - a)) / max(((b - a) ** 2).sum(), 1e-12), 0, 1)
        best = np.minimum(best, np.linalg.norm(points - a - along[..., None] * (b - a), axis=-1))
    return best


def _signed(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    distance = _distance(points, np.concatenate([polygon, polygon[:1]]))
    return np.where(_inside(points, polygon), -distance, distance)


@lru_cache(maxsize=1)
def face_maps() -> np.ndarray:
    """
    (10, 521, 361) float32 over the neutral face, half a millimetre per cell: signed distances to lips and nose (metres,
    negative inside), beard, moustache, goatee, blush, wrinkles, eye shadow, shade under the eyes (all 0 to 1), and how
    far back (z) the lips touch.
    """
    x = np.arange(361) / 2000 - 0.09
    y = np.arange(521) / 2000 - 0.13
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    mirrored = np.abs(grid[..., 0])
    half = np.stack([mirrored, grid[..., 1]], axis=-1)
    maps = np.zeros((10, 521, 361), dtype=np.float32)

    lips = np.concatenate([both_halves(LIP_TOP), both_halves(LIP_BOTTOM)[::-1][1:-1]])
    maps[0] = _signed(grid, lips)
    nose = both_halves(NOSE_REGION)
    right = nose[nose[:, 0] >= 0]
    outline = np.concatenate([right, right[::-1] * [-1, 1]])
    maps[1] = _signed(grid, outline)

    def soft(distance: np.ndarray, width: float) -> np.ndarray:
        return 1 / (1 + np.exp(np.clip(distance / width, -40, 40)))

    def mm(*points: tuple[float, float]) -> np.ndarray:
        return np.array(points) / 1000

    lip = maps[0]
    cheek = np.interp(mirrored, [0, 0.028, 0.045, 0.06, 0.072, 0.09], np.array([58, 66, 66, 50, 20, -5]) / 1000)
    lower = soft(cheek - grid[..., 1], 0.004) * soft(0.0006 - lip, 0.0006) * soft(grid[..., 1] - 0.14, 0.006)
    bare = soft(_distance(half, mm((9, 87), (14, 84), (19, 80))) - 0.002, 0.001)
    above_lip = (np.abs(grid[..., 0]) < 0.034) & (grid[..., 1] < 0.0745)
    philtrum = np.where(above_lip, soft(0.0525 - grid[..., 1], 0.0015), 1)
    maps[2] = lower * philtrum * (1 - 0.8 * bare)
    moustache = mm((0, 55), (10, 55), (22, 61), (30, 72), (31, 80), (27, 80), (25, 74), (12, 62.5), (0, 62.5))
    maps[3] = soft(_signed(half, moustache), 0.0012) * soft(0.0006 - lip, 0.0005)
    goatee = mm((0, 84), (12, 86), (20, 82), (25, 79), (27, 96), (24, 114), (14, 124), (0, 125))
    maps[4] = soft(_signed(half, goatee), 0.0016) * soft(0.0006 - lip, 0.0005)
    maps[5] = np.exp(-(((mirrored - 0.043) / 0.02) ** 2) - ((grid[..., 1] - 0.038) / 0.017) ** 2) + 0.7 * np.exp(
        -((mirrored / 0.014) ** 2) - ((grid[..., 1] - 0.039) / 0.012) ** 2
    )
    lines = [
        (mm((18, 40), (24, 50), (29, 61), (31, 70)), 0.0011, 1.0),
        (mm((52, -4), (60, -10)), 0.0007, 0.7),
        (mm((53, 1), (62, 0)), 0.0007, 0.7),
        (mm((52, 6), (60, 11)), 0.0007, 0.7),
        (mm((0, -38), (18, -40), (38, -36)), 0.0009, 0.7),
        (mm((0, -47), (20, -49), (40, -44)), 0.0009, 0.7),
        (mm((0, -56), (20, -57), (36, -53)), 0.0009, 0.5),
        (mm((5, -18), (6, -28)), 0.0009, 0.8),
        (mm((28, 76), (31, 84), (31, 92)), 0.0010, 0.6),
        (mm((18, 14), (28, 17), (40, 14)), 0.0009, 0.7),
    ]
    for line, width, strength in lines:
        maps[6] = np.maximum(maps[6], strength * np.exp(-((_distance(half, line) / width) ** 2)))
    lid = _distance(half, mm((20, -2), (27, -8), (36, -9), (46, -3)))
    maps[7] = np.exp(-((lid / 0.006) ** 2)) * soft(grid[..., 1] - 0.004, 0.002)
    maps[8] = np.exp(-((_distance(half, mm((20, 10), (28, 13), (38, 11))) / 0.0065) ** 2))
    contact = np.array(CONTACT) / 1000
    maps[9] = np.interp(mirrored, contact[:, 0], contact[:, 1]) + 0.0004
    return maps


def hairline(person: Person) -> np.ndarray:
    """(33,) heights (y, metres) of the hairline from the forehead's middle to the nape."""
    d = person.details
    front = -0.064 - 0.016 * d.get("forehead", 0.0)
    around = np.array([0, 0.35, 0.7, 0.95, 1.15, 1.3, 1.45, 1.62, 1.9, 2.2, 2.6, np.pi])
    y = np.array([front, front + 0.001, front + 0.003, -0.044, -0.018, 0.002, 0.014, -0.012, 0.0, 0.03, 0.05, 0.056])
    if person.hair_style == "receding":
        y[:4] += np.array([-0.006, -0.03, -0.036, -0.02])
    if person.sideburns:
        y[5:7] += 0.022
    if person.male is False:
        y[4:7] -= 0.006
    return np.interp(np.linspace(0, np.pi, HAIRLINE_STEPS), around, y)


def brow_curve(person: Person) -> np.ndarray:
    """(5, 3): x, y and half the thickness along the right half's brow from the nose outwards, metres."""
    d = person.details
    curve = np.array(
        [(11.5, -15.5, 2.6), (24, -19.6, 3.6), (36.5, -21.5, 3.1), (49, -18.9, 2.3), (59, -11.5, 1.0)], dtype=np.float64
    )
    curve[:, 2] *= 0.6 + 0.75 * person.brow
    curve[:, 1] += 2.0 * d.get("brow_height", 0.0)
    curve[1:4, 1] -= np.array([0.6, 1.6, 1.6]) * d.get("brow_arch", 0.0)
    curve[:, 0] = 11.5 + 3.0 * d.get("brow_gap", 0.0) + (curve[:, 0] - 11.5) * (1 + 0.06 * d.get("brow_length", 0.0))
    return curve / 1000


def brow_points(curve: np.ndarray) -> SurfacePoints:
    """(2 sides, upper and lower edge, 5) points of a brow curve (5, 3), each from the image's left to its right."""
    model = head_model()
    middle, half = curve[:, :2], curve[:, 2:]
    direction = np.gradient(middle, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    normal = np.stack([direction[:, 1], -direction[:, 0]], axis=1)  # up
    normal *= -np.sign(normal[:, 1:])
    # A little within the hairs at the ends.
    middle = middle.copy()
    middle[0] += 0.5 * half[0] * direction[0]
    middle[-1] -= 0.5 * half[-1] * direction[-1]
    edges = np.stack([middle + 0.72 * half * normal, middle - 0.72 * half * normal])
    placed, weights = place_on_surface(model, edges.reshape(-1, 2), _brow_faces())
    placed, weights = placed.reshape(2, 5, 3), weights.reshape(2, 5, 3)
    return SurfacePoints(np.stack([model.mirror[placed[:, ::-1]], placed]), np.stack([weights[:, ::-1], weights]))


@lru_cache(maxsize=1)
def _brow_faces() -> np.ndarray:
    """Triangles of the image's right half of the forehead, where brows can be."""
    faces = face_curves().front_faces
    x, y, _ = np.moveaxis(head_model().neutral[faces].mean(axis=1), -1, 0)
    return faces[(x > -0.002) & (x < 0.085) & (y < 0.0) & (y > -0.06)]


def skin_albedo(tone: float, undertone: float) -> np.ndarray:
    """Linear RGB of a tone, 0 very light to 1 very dark."""
    at = tone * (len(SKIN_COLOURS) - 1)
    base = np.array([np.interp(at, np.arange(len(SKIN_COLOURS)), SKIN_COLOURS[:, i]) for i in range(3)])
    return base * (1 + undertone * np.array([0.02, 0.0, -0.10]))


def hair_rgb(person: Person) -> np.ndarray:
    low, high = HAIR_COLOURS[person.hair_colour]
    return linear(*low) + (linear(*high) - linear(*low)) * person.details.get("hair_shade", 0.5)


def person_row(person: Person, config: SyntheticFaceConfig, eye_centre: np.ndarray) -> np.ndarray:
    """(128,) float32: the numbers that the kernels read."""
    d = person.details.get
    row = np.zeros(COLUMNS, dtype=np.float32)
    skin = skin_albedo(person.skin_tone, person.undertone)
    row[0:3] = skin
    lips = skin * np.array([0.86, 0.58, 0.60]) + np.array([0.02, 0.0, 0.0])
    if person.lipstick:
        shades = [(176, 30, 48), (148, 24, 60), (196, 84, 92), (210, 110, 110), (120, 36, 44), (204, 60, 48)]
        lips = 0.25 * lips + 0.75 * linear(*shades[int(d("lip_shade", 0.0) * 5.99)])
    row[3:6] = lips
    hair = hair_rgb(person)
    row[6:9] = hair
    row[9:12] = 0.42 * np.minimum(hair, 0.3) + 0.05 * skin
    row[12:15] = linear(*EYE_COLOURS[person.eye_colour])
    row[15], row[16], row[17] = person.freckles, person.wrinkles, person.blush
    row[18] = 0.05 + 0.22 * d("gloss", 0.3)
    row[19:22] = {
        "none": (0, 0, 0), "stubble": (1, 0.9, 0.9), "mustache": (0, 1, 0), "goatee": (0, 1, 1), "full": (1, 1, 1),
    }[person.beard]  # fmt: skip
    row[22] = {"none": 0.0, "stubble": 0.35}.get(person.beard, 0.75 + 0.2 * d("beard_density", 0.5))
    row[76:79] = 0.8 * hair + 0.004
    if person.makeup:
        row[23] = 0.35 + 0.5 * d("makeup_strength", 0.5)
        shades = [(90, 60, 60), (60, 60, 80), (130, 80, 90), (40, 30, 30), (110, 90, 70)]
        row[24:27] = linear(*shades[int(d("shadow_shade", 0.0) * 4.99)]) * (1.2 - 0.8 * person.skin_tone)
        row[17] = min(1.0, row[17] + 0.3)
    row[27] = 0.5 + 0.7 * d("blotch", 0.5) + 0.3 * person.wrinkles
    row[28] = d("seed", 0.5) * 10
    row[29] = float(d("moles", 0.0))
    row[30] = d("dark_circles", 0.3)
    row[31] = 0.5 if person.lipstick else 0.0
    row[32] = _jaw_border_cached()
    shaved = {"bald": 0.0, "cropped": 0.92, "receding": 0.92}.get(person.hair_style, 1.0)
    row[33] = shaved
    row[36] = float(person.hat == "headscarf")
    row[37], row[38], row[39] = d("neck_round", 8.0), d("neckline", 0.17), d("neck_v", 0.0)
    row[40] = d("curl", 0.1)
    row[41] = 0.1 + 0.3 * d("hair_gloss", 0.5)
    tint = linear(*[(90, 100, 110), (30, 30, 34), (60, 44, 30), (34, 48, 40)][int(d("lens", 0.0) * 3.99)])
    row[42:45] = tint
    row[45] = 0.88 + 0.1 * d("lens_dark", 0.5) if person.glasses == "sunglasses" else 0.10 * d("lens_dark", 0.5)
    row[46] = 0.02 + 0.10 * d("lens_mirror", 0.3)
    row[47:50] = linear(*CLOTHES_COLOURS[person.clothes]) * (0.7 + 0.5 * d("cloth_light", 0.5))
    names = list(CLOTHES_COLOURS)
    row[50:53] = linear(*CLOTHES_COLOURS[names[int(d("second", 0.3) * (len(names) - 0.01))]])
    row[53] = int(d("pattern", 0.0) * 8) if d("pattern", 0.0) < 0.6 else 0
    row[54] = 150 + 500 * d("pattern_size", 0.5)
    row[55:58] = eye_centre
    row[58] = 0.9 + 0.2 * d("white", 0.5)
    row[71] = 0.35 + 0.35 * (not person.male) + 0.25 * person.makeup
    row[72] = 0.40 + 0.05 * d("iris", 0.5)
    row[73] = 0.13 + 0.10 * d("pupil", 0.4)
    row[74] = 420.0
    row[75] = 0.75 + 0.22 * d("brow_dark", 0.6)
    row[80:83] = (
        np.array([1.0, 0.98, 0.95]) * (0.8 + 0.25 * d("teeth", 0.6)) - np.array([0, 0.03, 0.12]) * person.wrinkles
    )
    frames = [(20, 20, 22), (60, 40, 26), (150, 120, 70), (120, 124, 128), (110, 30, 30), (30, 44, 80), (200, 196, 188)]
    row[83:86] = linear(*frames[int(d("frame", 0.0) * 6.99)])
    row[86:89] = linear(*CLOTHES_COLOURS[names[int(d("hat_colour", 0.3) * (len(names) - 0.01))]])
    row[89] = float(person.hat == "headscarf" and d("pattern", 0.0) < 0.4)
    row[90] = 300 + 900 * d("hat_weave", 0.5)
    metals = [(212, 170, 90), (196, 198, 204), (150, 90, 70), (60, 90, 150), (210, 206, 200)]
    row[91:94] = linear(*metals[int(d("metal", 0.0) * 4.99)])
    row[94:97] = linear(*CLOTHES_COLOURS[names[int(d("thing", 0.5) * (len(names) - 0.01))]])
    row[97] = 40 + 400 * d("thing_grain", 0.5)
    row[100:115] = brow_curve(person).ravel()
    return row


@lru_cache(maxsize=1)
def _jaw_border_cached() -> float:
    return _jaw_border(head_model())
