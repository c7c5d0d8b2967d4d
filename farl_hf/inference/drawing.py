"""
Faces drawn on their photo: label maps in colours that colour-blind people tell apart, landmarks as lines, boxes, words.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .results import Faces, Photo, upright_photo

# RGB of each class of LaPa and CelebAMask-HQ. Found by random search for the largest least distance in OKLab, as normal
# eyes see it and as protanopes and deuteranopes do; tests/inference/test_drawing.py computes the distances.
PALETTE: dict[str, tuple[int, int, int]] = {
    "background": (0, 0, 0),
    "neck": (194, 192, 204),
    "skin": (255, 249, 245),
    "clothes": (89, 97, 145),
    "right ear": (144, 106, 102),
    "left ear": (199, 137, 31),
    "right eyebrow": (119, 67, 21),
    "left eyebrow": (167, 103, 16),
    "right eye": (16, 142, 166),
    "left eye": (184, 177, 253),
    "nose": (220, 255, 65),
    "inner mouth": (118, 56, 246),
    "lower lip": (102, 50, 135),
    "upper lip": (241, 161, 135),
    "hair": (40, 10, 6),
    "eyeglasses": (59, 68, 196),
    "hat": (68, 17, 104),
    "earring": (194, 221, 65),
    "necklace": (133, 149, 115),
}
# Lines: yellow on black is seen on any skin, in any light, by everybody.
_LINE, _HALO = (255, 225, 25), (0, 0, 0)
# Of tracks, by number (Okabe and Ito, "Color Universal Design", 2008, without black).
_TRACKS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def _closed(first: int, last: int) -> list[int]:
    return [*range(first, last + 1), first]


# Layout -> polylines of landmark indices: iBUG's 68, WFLW's 98, LaPa's 106, AFLW's 19. Jaw, brows, nose, eyes, lips.
LANDMARK_LINES: dict[int, list[Sequence[int]]] = {
    68: [
        range(17),
        range(17, 22),
        range(22, 27),
        range(27, 31),
        range(31, 36),
        _closed(36, 41),
        _closed(42, 47),
        _closed(48, 59),
        _closed(60, 67),
    ],
    98: [
        range(33),
        _closed(33, 41),
        _closed(42, 50),
        range(51, 55),
        range(55, 60),
        _closed(60, 67),
        _closed(68, 75),
        _closed(76, 87),
        _closed(88, 95),
    ],
    106: [
        range(33),
        _closed(33, 41),
        _closed(42, 50),
        range(51, 55),
        range(55, 66),
        _closed(66, 73),
        _closed(75, 82),
        _closed(84, 95),
        _closed(96, 103),
    ],
    19: [range(3), range(3, 6), range(6, 9), range(9, 12), range(12, 15), range(15, 18)],
}


def palette(label_names: Sequence[str]) -> np.ndarray:
    """
    (classes, 3) uint8 RGB of classes by name: those of LaPa and CelebAMask-HQ have the same colour in every set, others
    get bright colours by their number.
    """
    # Steps of the golden ratio spread any number of hues evenly.
    hues = (colorsys.hsv_to_rgb((i * 0.618034) % 1, 0.65, 0.95) for i in range(len(label_names)))
    others = [tuple(round(255 * channel) for channel in hue) for hue in hues]
    return np.array([PALETTE.get(name, other) for name, other in zip(label_names, others, strict=True)], np.uint8)


def line_width(size: tuple[int, int]) -> int:
    """Pixels of a line in a photo of `size`, (height, width): one in 300 of its shorter side, at least one."""
    return max(1, round(min(size) / 300))


def colour_labels(label_map: np.ndarray, label_names: Sequence[str]) -> Image.Image:
    """An RGB picture of a (height, width) map of class ids."""
    if label_map.size and int(label_map.max()) >= len(label_names):
        raise ValueError(f"The map has class {int(label_map.max())}, but there are {len(label_names)} names.")
    return Image.fromarray(palette(label_names)[label_map])


def labels_picture(label_map: np.ndarray, label_names: Sequence[str]) -> Image.Image:
    """A (height, width) uint8 map of class ids as a picture of mode "P": ids as pixel values, seen in their colours."""
    picture = Image.fromarray(np.ascontiguousarray(label_map, dtype=np.uint8)).convert("L")
    picture.putpalette(palette(label_names).ravel().tolist())
    return picture


def draw_faces(
    image: Photo,
    faces: Faces,
    *,
    boxes: bool = True,
    labels: bool = True,
    opacity: float = 0.5,
    outlines: bool = True,
    landmarks: bool = True,
    words: bool = True,
    legend: bool = False,
) -> Image.Image:
    """
    A copy of the photo with what is known about its faces.

    Args:
        image: The photo: PIL, (height, width, 3) uint8, or a path.
        faces: Of this photo.
        boxes: Draw the boxes.
        labels: Colour the label maps, with `opacity` in [0, 1] over the photo, and `outlines` around the regions.
        landmarks: Draw landmarks as lines and dots, or the five points where there are no landmarks.
        words: Write score, track and attributes that hold (probability over one half) at each box.
        legend: Add a strip at the right with the colours and names of the classes that occur.

    Raises:
        ValueError: If the photo has another size than the one that the faces are of.
    """
    photo = upright_photo(image, faces)
    width = line_width(faces.image_size)
    label_map = faces.label_map if labels else None
    names = faces.label_names or tuple(map(str, range(256)))
    if label_map is not None:
        photo = _colour_regions(photo, label_map, palette(names), opacity, width if outlines else 0)
    draw = ImageDraw.Draw(photo)
    for i in range(len(faces)):
        colour = _LINE if faces.track_ids is None else _TRACKS[faces.track_ids[i] % len(_TRACKS)]
        if boxes and np.isfinite(faces.boxes[i]).all():
            left, top, right, bottom = faces.boxes[i].tolist()
            corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
            _draw_line(draw, corners, colour, width)
        if landmarks:
            _draw_landmarks(draw, faces, i, colour, width)
    if words:
        for i in range(len(faces)):
            _write_words(draw, faces, i, photo.size)
    if legend and label_map is not None:
        present = [c for c in np.unique(label_map).tolist() if c > 0]
        return _with_legend(photo, palette(names)[present], [names[c] for c in present])
    return photo


def _colour_regions(
    photo: Image.Image, label_map: np.ndarray, colours: np.ndarray, opacity: float, outline: int
) -> Image.Image:
    """The photo under colours where the map is not background; only the rows and columns that have such are touched."""
    rows, columns = np.flatnonzero(label_map.any(axis=1)), np.flatnonzero(label_map.any(axis=0))
    if len(rows) == 0:
        return photo
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    pixels = np.array(photo)
    part, labels = pixels[top:bottom, left:right], label_map[top:bottom, left:right]
    shown = labels > 0
    part[shown] = (part[shown] * (1 - opacity) + colours[labels[shown]] * opacity + 0.5).astype(np.uint8)
    if outline:
        border = np.zeros(labels.shape, dtype=bool)
        for step in range(1, outline + 1):
            border[:, step:] |= labels[:, step:] != labels[:, :-step]
            border[step:] |= labels[step:] != labels[:-step]
        border &= shown
        part[border] = colours[labels[border]]
    return Image.fromarray(pixels)


def _draw_line(draw: ImageDraw.ImageDraw, points: Sequence, colour: tuple[int, int, int], width: int) -> None:
    points = [tuple(point) for point in points]
    draw.line(points, fill=_HALO, width=width + 2 * max(1, width // 2), joint="curve")
    draw.line(points, fill=colour, width=width, joint="curve")


def _draw_dots(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: tuple[int, int, int], radius: float) -> None:
    for x, y in points.tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_HALO)


def _draw_landmarks(draw: ImageDraw.ImageDraw, faces: Faces, i: int, colour: tuple[int, int, int], width: int) -> None:
    found = faces.landmarks if faces.landmarks is not None else faces.points
    if found is None or not np.isfinite(found[i]).all():
        return
    lines = LANDMARK_LINES.get(found.shape[1], [])
    # Small faces of a large photo keep thin lines.
    size = np.ptp(found[i], axis=0).max()
    width = min(width, max(1, round(size / 60)))
    for line in lines:
        _draw_line(draw, found[i][list(line)].tolist(), colour, width)
    _draw_dots(draw, found[i], (255, 255, 255), width if lines else 1.5 * width)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(9, size))


def _write_words(draw: ImageDraw.ImageDraw, faces: Faces, i: int, photo_size: tuple[int, int]) -> None:
    if not np.isfinite(faces.boxes[i]).all():
        return
    parts = [f"#{faces.track_ids[i]}"] if faces.track_ids is not None else []
    parts += [f"{faces.scores[i]:.2f}"] if faces.scores is not None else []
    lines = [" ".join(parts)] if parts else []
    if faces.attributes is not None and faces.attribute_names is not None:
        pairs = zip(faces.attribute_names, faces.attributes[i], strict=True)
        lines += [name.replace("_", " ") for name, probability in pairs if probability > 0.5]
    if not lines:
        return
    _, top, right, bottom = faces.boxes[i].tolist()
    # As large as the face allows, so that the words of many faces do not cover each other.
    font = _font(min(min(photo_size) / 40, (bottom - top) / max(6, len(lines))))
    text = "\n".join(lines)
    x1, y1, x2, y2 = draw.multiline_textbbox((0, 0), text, font=font)
    x = min(max(0, right + 4), photo_size[0] - (x2 - x1) - 2)
    y = min(max(0, top), photo_size[1] - (y2 - y1) - 2)
    stroke = 1 if getattr(font, "size", 9) < 14 else 2
    draw.multiline_text(
        (max(0, x), max(0, y)), text, font=font, fill=(255, 255, 255), stroke_width=stroke, stroke_fill=_HALO
    )


def _with_legend(photo: Image.Image, colours: np.ndarray, names: Sequence[str]) -> Image.Image:
    """The photo with a strip of colours and names at its right, in as many columns as its height asks for."""
    size = max(11, round(min(photo.size) / 32))
    font, step = _font(size), round(1.6 * size)
    rows = max(1, (photo.height - step // 2) // step)
    columns = -(-len(names) // rows) if names else 0
    column_width = round(max((font.getlength(name) for name in names), default=0)) + 3 * size
    sheet = Image.new("RGB", (photo.width + columns * column_width, photo.height), (255, 255, 255))
    sheet.paste(photo)
    draw = ImageDraw.Draw(sheet)
    for i, (colour, name) in enumerate(zip(colours.tolist(), names, strict=True)):
        x, y = photo.width + size // 2 + (i // rows) * column_width, step // 2 + (i % rows) * step
        draw.rectangle((x, y, x + size, y + size), fill=tuple(colour), outline=_HALO)
        draw.text((x + round(1.5 * size), y + size / 2), name, font=font, fill=_HALO, anchor="lm")
    return sheet


__all__ = ["LANDMARK_LINES", "PALETTE", "colour_labels", "draw_faces", "labels_picture", "line_width", "palette"]
