"""Contact sheets of the generated faces: effects on and off, people, poses with landmarks, label maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_LABELS
from farl_hf.inference.drawing import colour_labels
from farl_hf.synthetic import (
    EFFECTS,
    SyntheticFaceConfig,
    SyntheticFaceSample,
    render_face_sample,
    render_faces,
    render_person,
    sample_person,
)

# What makes an effect certain, so that its picture shows it.
_CERTAIN: dict[str, dict] = {
    "skin_detail": {"makeup": 1.0},
    "hair_shapes": {"hat": 0.0, "headscarf": 0.0, "male": 0.0},
    "beards": {"beard": 1.0, "male": 1.0, "ages": (25, 60)},
    "glasses": {"glasses": 0.7, "sunglasses": 0.3},
    "hats": {"hat": 0.7, "headscarf": 0.3},
    "jewellery": {"earrings": 1.0, "necklace": 1.0, "male": 0.0},
    "occluders": {"occluder": 1.0},
    "depth_of_field": {"depth_of_field": 1.0},
    "blur": {"blur": 1.0},
    "noise": {"noise": 1.0},
    "compression": {"jpeg": 1.0},
}
_QUIET = {"occluder": 0.0, "depth_of_field": 0.0, "blur": 0.0, "noise": 0.0, "jpeg": 0.0, "grey": 0.0}
_LABEL_HEIGHT = 15


def effects_sheet(tile: int = 104, candidates: int = 8, seed: int = 0) -> Image.Image:
    """
    Every effect of `EFFECTS` alone: the same picture with it on the left, without it on the right.

    Args:
        tile: Side of a picture in pixels.
        candidates: Pictures drawn for each effect; the one that it changes most is shown.
        seed: Of the first candidate.
    """
    cells = []
    for i, effect in enumerate(EFFECTS):
        settings = {"image_size": max(tile, 96), "yaw": (12, 30), "face_size": (0.6, 0.75), **_QUIET}
        on = SyntheticFaceConfig(**{**settings, **_CERTAIN.get(effect, {})})
        seeds = range(seed + 1000 * i, seed + 1000 * i + candidates)
        pairs = list(zip(render_faces(seeds, on), render_faces(seeds, replace(on, without=(effect,))), strict=True))
        most = max(pairs, key=lambda pair: np.abs(pair[0].image.astype(int) - pair[1].image).mean())
        cells.append((effect, np.concatenate([_fit(sample.image, tile) for sample in most], axis=1)))
    return _grid(cells, columns=5)


def people_sheet(tile: int = 104, tones: int = 6, ages: Sequence[float] = (6, 14, 25, 40, 60, 80)) -> Image.Image:
    """Skin tones from very light to very dark from left to right, ages from top to bottom; everybody is another."""
    cells = []
    for row, age in enumerate(ages):
        for column, tone in enumerate(np.linspace(0, 1, tones)):
            config = SyntheticFaceConfig(
                image_size=max(tile, 96),
                ages=(age, age),
                skin_tones=(float(tone), float(tone)),
                yaw=(8, 20),
                pitch=(4, 10),
                face_size=(0.62, 0.72),
                **_QUIET,
            )
            sample = render_face_sample(100 * row + column, config)
            cells.append((f"tone {tone:.1f}, {age:g} years", _fit(sample.image, tile)))
    return _grid(cells, columns=tones)


def poses_sheet(tile: int = 128, person_seed: int = 3) -> Image.Image:
    """One person turned from profile to profile, and up and down; 68 points, green where seen, red where hidden."""
    person = sample_person(person_seed)
    config = SyntheticFaceConfig(image_size=max(tile, 96), **_QUIET)
    cells = []
    for pitch in (-25, 0, 25):
        for yaw in (-90, -60, -30, 0, 30, 60, 90):
            pose = (float(yaw), float(pitch), 0.0)
            sample = render_person(person, seed=1, config=config, pose=pose, centre=(0.5, 0.5), face_size=0.65)
            cells.append((f"yaw {yaw}, pitch {pitch}", _with_points(sample, 68, tile)))
    return _grid(cells, columns=7)


def layouts_sheet(tile: int = 320, person_seed: int = 0) -> Image.Image:
    """All four layouts of landmarks, numbered, on one calm face that looks into the camera."""
    config = SyntheticFaceConfig(image_size=tile, without=("shape_variety", "expressions", "gaze"), **_QUIET)
    person = replace(sample_person(person_seed, config), hat="none", glasses="none", beard="none", hair_style="cropped")
    sample = render_person(person, seed=1, config=config, pose=(0.0, 0.0, 0.0), centre=(0.5, 0.52), face_size=0.85)
    names = {68: "300W, 68", 98: "WFLW, 98", 106: "LaPa, 106", 19: "AFLW, 19"}
    return _grid([(name, _with_points(sample, size, tile, numbers=True)) for size, name in names.items()], columns=4)


def labels_sheet(tile: int = 128, count: int = 6, seed: int = 40) -> Image.Image:
    """Pictures, LaPa's 11 classes and CelebAMask-HQ's 19 below them."""
    samples = render_faces(range(seed, seed + count), SyntheticFaceConfig(image_size=max(tile, 96)))
    rows = (
        ("picture", [sample.image for sample in samples]),
        ("LaPa", [np.asarray(colour_labels(sample.lapa_labels, LAPA_LABELS)) for sample in samples]),
        ("CelebAMask-HQ", [np.asarray(colour_labels(s.celebamask_hq_labels, CELEBAMASK_HQ_LABELS)) for s in samples]),
    )
    cells = [(name, _fit(image, tile, nearest=name != "picture")) for name, images in rows for image in images]
    return _grid(cells, columns=count)


SHEETS = {
    "effects": effects_sheet,
    "people": people_sheet,
    "poses": poses_sheet,
    "layouts": layouts_sheet,
    "labels": labels_sheet,
}


def write_sheets(folder: str | Path, names: Sequence[str] = tuple(SHEETS), most_bytes: int = 150_000) -> list[Path]:
    """
    Draws contact sheets and saves them as `synthetic-{name}.jpg`, each as good as `most_bytes` allow.

    Args:
        folder: Where to write; made if it is not there.
        names: Sheets of `SHEETS`.
        most_bytes: Largest size of a file.

    Raises:
        ValueError: If a sheet is unknown.
    """
    unknown = [name for name in names if name not in SHEETS]
    if unknown:
        raise ValueError(f"Unknown sheet {unknown[0]!r}: choose among {', '.join(SHEETS)}.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        sheet, path = SHEETS[name](), Path(folder) / f"synthetic-{name}.jpg"
        for quality in range(90, 10, -5):
            sheet.save(path, quality=quality, optimize=True)
            if path.stat().st_size <= most_bytes:
                break
        paths.append(path)
    return paths


def _grid(cells: Sequence[tuple[str, np.ndarray]], columns: int, gap: int = 4) -> Image.Image:
    """Pictures of one size in rows, each with its name above it."""
    height, width = cells[0][1].shape[:2]
    rows = -(-len(cells) // columns)
    step_x, step_y = width + gap, height + _LABEL_HEIGHT + gap
    sheet = Image.new("RGB", (columns * step_x - gap, rows * step_y - gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (name, pixels) in enumerate(cells):
        x, y = i % columns * step_x, i // columns * step_y
        draw.text((x + 1, y + 1), name, fill="black", font=font)
        sheet.paste(Image.fromarray(pixels), (x, y + _LABEL_HEIGHT))
    return sheet


def _fit(image: np.ndarray, tile: int, nearest: bool = False) -> np.ndarray:
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return image if len(image) == tile else np.asarray(Image.fromarray(image).resize((tile, tile), how))


def _with_points(sample: SyntheticFaceSample, layout: int, tile: int, numbers: bool = False) -> np.ndarray:
    face, scale = sample.faces[-1], tile / len(sample.image)
    image = Image.fromarray(_fit(sample.image, tile))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(9)
    for i, ((x, y), seen) in enumerate(zip(face.landmarks[layout] * scale, face.visibility[layout], strict=True)):
        radius = 1.5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="lime" if seen else "red")
        if numbers:
            draw.text((x + 2, y - 9), str(i), fill="white", font=font, stroke_width=1, stroke_fill="black")
    return np.asarray(image)
