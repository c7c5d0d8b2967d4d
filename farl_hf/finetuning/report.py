"""Evaluation results as JSON, as a Markdown table beside the authors' numbers, and as pictures."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .evaluation import Evaluation
from .faces import EvaluationFaces
from .reported import REPORTED, RUNS
from .tasks import IGNORE_INDEX, AttributesTask

# Heights in pixels of the pictures of single faces, and of the text above them.
_HEIGHT, _CAPTION = 256, 32


def markdown_table(result: dict[str, Any]) -> str:
    """
    Every score of every subset in percent, beside what the authors report for the benchmark.

    Args:
        result: Of [`Evaluation.run`].
    """
    reported = REPORTED.get(result["dataset"], {}) if result["split"] == "test" else {}
    runs = RUNS if reported else ()
    lines = [
        f"{result['dataset']} {result['split']}: {result['num_samples']:,} images, {result['num_skipped']} skipped; "
        f"faces from {result['localisation']}, {result['convention']} coordinates, {result['precision']}; "
        f"{result['images_per_second']:.1f} images/s.",
        "",
        f"| subset | score | this model | {' | '.join(runs)} |" if runs else "| subset | score | this model |",
        "| --- " * (3 + len(runs)) + "|",
    ]
    for subset, scores in result["metrics"].items():
        for name, value in scores.items():
            others = reported.get(subset, {}).get(name, (None,) * len(runs))
            cells = [subset, name, _percent(100 * value), *map(_percent, others)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def write_report(result: dict[str, Any], path: str | Path) -> Path:
    """Writes `path` (JSON) and the table beside it (`.md`), whose path is returned."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2))
    table = path.with_suffix(".md")
    table.write_text(markdown_table(result) + "\n")
    return table


def write_pictures(evaluation: Evaluation, result: dict[str, Any], path: str | Path, count: int = 4) -> list[Path]:
    """
    Draws the worst and the best images of a result beside its JSON file: `<name>.worst.png` and `<name>.best.png`.

    Args:
        evaluation: What was run.
        result: Of [`Evaluation.run`].
        path: Of the JSON file.
        count: Images in each picture, the most extreme first.
    """
    ordered = result["image_scores"][::-1] if evaluation.faces.task.greater_is_better else result["image_scores"]
    pictures = []
    for name, scores in (("worst", ordered[::-1]), ("best", ordered)):
        picture = Path(path).with_suffix(f".{name}.png")
        draw_rows(evaluation, scores[:count]).save(picture)
        pictures.append(picture)
    return pictures


@torch.no_grad()
def draw_rows(evaluation: Evaluation, scores: Sequence[tuple[float, int]]) -> Image.Image:
    """
    One picture with a row per face: the image, the truth and the prediction (of attributes: the image alone, and what
    was wrong in words), under the row's name and score.

    Args:
        evaluation: Model and rows.
        scores: (score, row) as in `image_scores`.
    """
    model, faces = evaluation.model.eval(), evaluation.faces
    device = next(model.parameters()).device
    strips = []
    for score, index in scores:
        crop: Any = EvaluationFaces(faces)[index]
        outputs = model(pixel_values=crop["pixel_values"][None].to(device))
        (prediction,) = faces.task.predict(outputs, faces.processor, [replace(crop["transform"], image_index=0)])
        image, *_ = faces.read(index)
        text = f"{faces.describe(index)}: {faces.task.headline} {100 * score:.2f} %"
        if isinstance(faces.task, AttributesTask):
            wrong = [
                name for name, p, t in zip(faces.task.names, prediction, crop["target"], strict=True) if (p > 0) != t
            ]
            strips.append(_captioned([image], f"{text}\nwrong: {', '.join(wrong) or 'none'}"))
        else:
            window = face_window(crop["target"], image.size)
            drawn = [image, overlay(image, crop["target"]), overlay(image, prediction)]
            strips.append(_captioned([picture.crop(window) for picture in drawn], f"{text}\nimage, truth, prediction"))
    page = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height
    return page


def face_window(target: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the labelled pixels or landmarks with a margin, within an image of this `size`."""
    is_points = np.issubdtype(target.dtype, np.floating)
    points = target if is_points else np.argwhere((target > 0) & (target != IGNORE_INDEX))[:, ::-1]
    if len(points) == 0:
        return 0, 0, *size
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.2 * (high - low).max() + 1
    low, high = np.maximum(low - margin, 0).astype(int), np.minimum(high + margin + 1, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def overlay(image: Image.Image, answer: np.ndarray) -> Image.Image:
    """The image under coloured class ids (height, width), or with landmarks (points, 2) as floats in pixels."""
    if np.issubdtype(answer.dtype, np.floating):
        picture = image.convert("RGB")
        draw, radius = ImageDraw.Draw(picture), max(0.5, float(np.ptp(answer, axis=0).max()) / 100)
        for x, y in answer.tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(0, 255, 0))
        return picture
    # The same colours in every picture, whatever the label set.
    colours = np.random.default_rng(1).integers(40, 255, (256, 3), dtype=np.uint8)
    pixels = np.asarray(image.convert("RGB"))
    mixed = pixels // 2 + colours[answer.astype(np.uint8)] // 2
    return Image.fromarray(np.where(answer[..., None] > 0, mixed, pixels))


def _captioned(images: Sequence[Image.Image], text: str) -> Image.Image:
    """Images of one height side by side under two lines of text."""
    resized = [image.resize((max(1, round(image.width * _HEIGHT / image.height)), _HEIGHT)) for image in images]
    text_width = int(ImageDraw.Draw(resized[0]).textbbox((0, 0), text)[2])
    strip = Image.new("RGB", (max(sum(image.width for image in resized), text_width + 8), _HEIGHT + _CAPTION), "white")
    ImageDraw.Draw(strip).text((4, 2), text, fill="black")
    left = 0
    for image in resized:
        strip.paste(image, (left, _CAPTION))
        left += image.width
    return strip
