"""Pictures and label maps of generated heads, painted together from the same shapes."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .synthetic_head import Head, Points, closed, hull, jaw_line, resample
from .synthetic_person import CLOTHES, SKIN_TONES, Person

# Parts on the painting canvas: name -> (LaPa id, CelebAMask-HQ id).
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
# LaPa has no classes for these and sees what lies beneath them.
_ABSENT_IN_LAPA = {"glasses", "earring", "necklace"}
_PART_IDS = {name: i for i, name in enumerate(PARTS)}
_LAPA_IDS, _CELEBAMASK_HQ_IDS = (np.array(ids, dtype=np.uint8) for ids in zip(*PARTS.values(), strict=True))


class Canvas:
    """A picture at twice the size and a map of parts, painted together from the same shapes."""

    def __init__(self, size: int, background: Image.Image):
        self.size = size
        self.image = background
        self.parts = np.full((size, size), _PART_IDS["background"], dtype=np.uint8)
        self.parts_of_lapa = self.parts.copy()

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
            inside = rasterise(polygon, self.size)
            self._mark(inside, part)

    def line(self, points: Points, colour: tuple, width: float, part: str | None = None) -> None:
        """A line of `width` pixels of the final picture."""
        drawn = ImageDraw.Draw(self.image)
        drawn.line(self._on_picture(points), fill=colour, width=max(1, round(2 * width)), joint="curve")
        if part is not None:
            finer = Image.new("L", (4 * self.size, 4 * self.size))
            scaled = [tuple(point) for point in points * 4 + 2]
            ImageDraw.Draw(finer).line(scaled, fill=1, width=max(1, round(4 * width)), joint="curve")
            # The third of four samples lies on the pixel's centre.
            self._mark(np.asarray(finer)[2::4, 2::4] > 0, part)

    def _mark(self, inside: np.ndarray, part: str) -> None:
        self.parts[inside] = _PART_IDS[part]
        if part not in _ABSENT_IN_LAPA:
            self.parts_of_lapa[inside] = _PART_IDS[part]

    def picture(self) -> Image.Image:
        return self.image.resize((self.size, self.size), Image.Resampling.BOX)

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return _LAPA_IDS[self.parts_of_lapa], _CELEBAMASK_HQ_IDS[self.parts]


def rasterise(polygon: Points, size: int) -> np.ndarray:
    """
    (size, size) bool: the pixels whose centres lie inside of a polygon (points, 2), by the even-odd rule. Pillow would
    also take every pixel that the outline touches, which is much on an eye of ten pixels.
    """
    start, end = polygon, np.roll(polygon, -1, axis=0)
    rows = np.arange(size)[:, None]
    row, edge = np.nonzero((start[:, 1] <= rows) != (end[:, 1] <= rows))
    along = (row - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    crossing = start[edge, 0] + along * (end[edge, 0] - start[edge, 0])
    changes = np.zeros((size, size + 1), dtype=np.int32)
    np.add.at(changes, (row, np.clip(np.ceil(crossing), 0, size).astype(int)), 1)
    return changes.cumsum(axis=1)[:, :size] % 2 == 1


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise (size, size) with standard deviation about one."""
    coarse = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _to_image(pixels: np.ndarray, size: int) -> Image.Image:
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def background(rng: np.random.Generator, size: int, nuisance: float) -> Image.Image:
    """A cluttered background at twice the `size`, for a [`Canvas`]."""
    y, x = np.mgrid[0:size, 0:size] / size
    first, second = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    pixels = first * ramp + second * (1 - ramp)
    pixels = pixels + 14 * nuisance * _noise(rng, size, (6, 6))[..., None]
    image = _to_image(pixels, 2 * size)
    draw = ImageDraw.Draw(image, "RGBA")
    # Clutter, some of it in the colours of skin.
    for _ in range(int(rng.integers(0, 1 + round(9 * nuisance)))):
        colour = SKIN_TONES[rng.integers(6)] if rng.random() < 0.3 else tuple(rng.integers(0, 256, 3).tolist())
        centre, extent = rng.uniform(0, 2 * size, 2), rng.uniform(0.04, 0.3, 2) * size
        box = [*(centre - extent), *(centre + extent)]
        fill = (*colour, int(rng.integers(90, 256)))
        if rng.random() < 0.5:
            draw.ellipse(box, fill=fill)
        else:
            draw.rectangle(box, fill=fill)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3) * size / 224))


def _skin_texture(rng: np.random.Generator, head: Head, person: Person, size: int, nuisance: float) -> Image.Image:
    """Skin under a light, over the whole canvas."""
    y, x = np.mgrid[0:size, 0:size]
    nx, ny = (x - head.centre[0]) / (1.25 * head.scale), (y - head.centre[1]) / (1.5 * head.scale)
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0.05, 1))
    azimuth, height = rng.uniform(-1.3, 1.3), rng.uniform(-0.9, 0.3)
    light = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    diffuse = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, 1)
    contrast = 0.25 + 0.35 * nuisance * rng.random()
    shade = 1 - contrast + 1.25 * contrast * diffuse + 0.02 * _noise(rng, size, (40, 40))
    pixels = shade[..., None] * np.array(person.skin)
    for side in (-1, 1):
        cheek = head.project(head.on_face(side * 0.55, 0.3))
        glow = np.exp(-((x - cheek[0]) ** 2 + (y - cheek[1]) ** 2) / (2 * (0.22 * head.scale) ** 2))
        pixels[..., 0] += 14 * glow
        pixels[..., 1:] -= 8 * glow[..., None]
    return _to_image(pixels, 2 * size)


def _hair_texture(rng: np.random.Generator, person: Person, size: int) -> Image.Image:
    strands = _noise(rng, size, (6, 60)) * 0.10 + _noise(rng, size, (4, 4)) * 0.06
    return _to_image((1 + strands)[..., None] * np.array(person.hair_rgb) + 4, 2 * size)


def _darker(colour: tuple, factor: float) -> tuple[int, ...]:
    return tuple(round(max(0, min(255, c * factor))) for c in colour)


def paint_person(
    canvas: Canvas,
    rng: np.random.Generator,
    person: Person,
    head: Head,
    curves: dict[str, Points],
    outlines: dict[str, Points],
    nuisance: float,
) -> None:
    """Paints a person over what is on the canvas; `curves` and `outlines` are those of `synthetic_head`."""
    skin = _skin_texture(rng, head, person, canvas.size, nuisance)
    hair = _hair_texture(rng, person, canvas.size)
    _paint_body(canvas, rng, person, head, skin, hair, outlines)
    _paint_face(canvas, person, head, curves, outlines, skin)
    _paint_on_top(canvas, rng, person, head, curves, outlines, hair)


def _paint_body(
    canvas: Canvas,
    rng: np.random.Generator,
    person: Person,
    head: Head,
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
        crown = hull(head.project(head.rings(-1.45, 0.2, math.pi, grow=1.12)))
        falling = np.array([[middle_x - wide * scale, end], [middle_x + wide * scale, end]])
        canvas.paint(hull(np.concatenate([crown, falling])), hair, "hair")
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
        np.concatenate([collar, shoulders]), _darker(CLOTHES[person.clothes], rng.uniform(0.8, 1.1)), "clothes"
    )
    if person.necklace:
        chain = np.stack([middle_x + half * 0.95 * t, shoulder_y - 0.12 * scale + 0.26 * scale * (1 - t**2)], axis=1)
        canvas.line(chain, (226, 190, 90), 0.035 * scale, "necklace")
    if person.hair_style != "bald":
        reach = {"short": 0.0, "medium": 0.75, "long": 0.55}[person.hair_style]
        grow = {"short": 1.05, "medium": 1.13, "long": 1.12}[person.hair_style]
        canvas.paint(hull(head.project(head.rings(-1.45, reach, math.pi, grow=grow))), hair, "hair")
    if person.hair_style in ("bald", "short"):
        for name in ("left", "right"):
            canvas.paint(outlines[f"ear_{name}"], skin.point(lambda value: round(value * 0.9)), f"ear_{name}")


def _paint_face(
    canvas: Canvas,
    person: Person,
    head: Head,
    curves: dict[str, Points],
    outlines: dict[str, Points],
    skin: Image.Image,
) -> None:
    scale, s = head.scale, person.shape
    canvas.paint(outlines["skin"], skin, "skin")
    t = np.linspace(-1, 1, 25)
    if person.beard == "full":
        cheeks = head.project(head.on_face(0.97 * head.half_width(np.array(0.5)) * t, 0.42 + 0.16 * (1 - t**2)))
        jaw = resample(jaw_line(head, outlines["skin"]), 33)[9:24]
        canvas.paint(closed(jaw, cheeks), _darker(person.hair_rgb, 0.9), alpha=0.8)
    if person.beard == "goatee":
        around = np.linspace(0, 2 * np.pi, 24)
        patch = head.on_face(0.2 * np.cos(around), s["mouth_y"] + 0.28 + 0.13 * np.sin(around))
        canvas.paint(head.project(patch), _darker(person.hair_rgb, 0.9), alpha=0.85)
    if person.beard in ("mustache", "full"):
        lip = s["mouth_y"] - s["lip_upper"]
        upper = head.on_face(0.3 * t, lip - 0.10 + 0.06 * t**2, 0.06)
        lower = head.on_face(0.34 * t, lip - 0.005 + 0.05 * t**2, 0.06)
        canvas.paint(closed(head.project(upper), head.project(lower)), _darker(person.hair_rgb, 0.9), alpha=0.9)

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
            canvas.paint(closed(upper, 0.6 * upper + 0.4 * lower), (238, 234, 226))
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


def _paint_iris(canvas: Canvas, eye: Points, centre: Points, radius: float, colour: tuple[int, int, int]) -> None:
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
    canvas: Canvas,
    rng: np.random.Generator,
    person: Person,
    head: Head,
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
        canvas.paint(closed(across(np.full(31, -1.0), 1.08), across(ragged + 0.25 * np.abs(angle), 1.04)), hair, "hair")
    if person.hair_style in ("medium", "long"):
        bottom = 0.75 if person.hair_style == "medium" else 1.35
        y = np.linspace(-0.95, bottom, 16)
        for side in near_sides:
            wide = 1.02 * np.interp(y, [-0.95, -0.2, bottom], [0.55, 1.0, 0.95])
            inner = np.stack([side * (wide - 0.10), y, np.full(16, 0.25)], axis=1)
            outer = np.stack([side * (wide + 0.17), y, np.full(16, -0.1)], axis=1)
            canvas.paint(closed(head.project(inner), head.project(outer)), hair, "hair")
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
        crown = hull(head.project(head.rings(-1.45, -0.85, math.pi, grow=1.16)))
        canvas.paint(crown, colour, "hat")
        rim = np.linspace(0, 2 * np.pi, 40)
        brim = np.stack([1.45 * np.cos(rim), np.full(40, -0.85), 1.45 * np.sin(rim)], axis=1)
        canvas.paint(head.project(brim), _darker(colour, 0.75), "hat")


def paint_occluder(canvas: Canvas, rng: np.random.Generator, box: tuple[float, float, float, float]) -> None:
    """A bar or a hand over part of the face in a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    centre = np.array([rng.uniform(x1, x2), rng.uniform(y1 + 0.4 * (y2 - y1), y2)])
    length, width = rng.uniform(0.3, 0.6) * (x2 - x1), rng.uniform(0.08, 0.16) * (x2 - x1)
    angle = rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    if rng.random() < 0.5:
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        bar = np.array([centre + a * length * along + b * width * across for a, b in corners])
        canvas.paint(bar, tuple(rng.integers(0, 256, 3).tolist()), "occluder")
    else:
        tone = SKIN_TONES[rng.integers(6)]
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


def finish(image: Image.Image, rng: np.random.Generator, nuisance: float) -> tuple[np.ndarray, bool]:
    """Camera: blur, exposure, colour cast and noise. Returns the pixels and whether they are clearly blurred."""
    strength, size = nuisance, image.width
    blurred = bool(rng.random() < 0.1 * strength)
    radius = rng.uniform(1.6, 2.6) if blurred else rng.uniform(0, 0.7) * strength
    image = image.filter(ImageFilter.GaussianBlur(radius * size / 224))
    pixels = np.asarray(image, dtype=np.float32) / 255
    pixels = pixels ** np.float32(rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength))
    pixels = pixels * (1 + 0.1 * strength * rng.uniform(-1, 1, 3).astype(np.float32))
    pixels = pixels + rng.uniform(0, 0.035 * strength) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8), blurred
