"""A picture for the card of farl-tiny: the held-out faces that it does worst."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import PreTrainedModel

from farl_hf.datasets.labels import LAPA_LABELS
from farl_hf.finetuning.joint import FACE_SCALES
from farl_hf.inference.drawing import colour_labels
from farl_hf.models.geometry_farl import face_align_matrix, photo_to_crop

from .tiny_data import DrawnFaces, crop_smoothly, normalise
from .tiny_scores import FamilyScores, predict_landmarks, predict_logits

_SIDE = 192
_TRUE, _FOUND = (0, 230, 90), (255, 60, 200)


@torch.no_grad()
def worst_faces(
    models: Mapping[str, PreTrainedModel], scores: FamilyScores, faces: DrawnFaces, path: str | Path, count: int = 6
) -> None:
    """
    Writes a sheet of the worst faces: above those with the largest NME (true points green, found ones pink), below
    those with the smallest mean F1 (the picture over the parts that were found).

    Args:
        models: Names of `farl_hf.pretrained` -> models.
        scores: Of these models on the first of `faces`.
        faces: Held-out pictures.
        path: Of the JPEG.
        count: Faces in each row.
    """
    assert scores.face_f1 is not None  # `score_family` fills it
    sheet = Image.new("RGB", (count * _SIDE, 3 * _SIDE), "white")
    for column, index in enumerate(np.argsort(-scores.nme[68])[:count]):
        sheet.paste(_landmarks(models, faces.row(int(index))[0]), (column * _SIDE, 0))
    for column, index in enumerate(np.argsort(np.nan_to_num(scores.face_f1, nan=1.0))[:count]):
        for row, picture in enumerate(_parts(models, faces.row(int(index))[0])):
            sheet.paste(picture, (column * _SIDE, (1 + row) * _SIDE))
    sheet.save(path, quality=85)


def _crop(row: Mapping[str, np.ndarray], size: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    matrix = face_align_matrix(torch.from_numpy(row["points_5"][None]).double() + 0.5, size, scale)
    image = torch.from_numpy(row["images"][None]).permute(0, 3, 1, 2).float() / 255
    return crop_smoothly(image, matrix, size), matrix


def _picture(crop: torch.Tensor) -> Image.Image:
    pixels = (crop[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _landmarks(models: Mapping[str, PreTrainedModel], row: Mapping[str, np.ndarray]) -> Image.Image:
    name = "farl-tiny-alignment"
    size = models[name].config.image_size
    crop, matrix = _crop(row, size, FACE_SCALES[name])
    found = predict_landmarks(models[name], normalise(crop))[0]
    true = photo_to_crop(torch.from_numpy(row["points_68"][None]).double() + 0.5, matrix, size)[0] / size
    picture = _picture(crop)
    draw = ImageDraw.Draw(picture)
    for points, colour in ((true, _TRUE), (found, _FOUND)):
        for x, y in (points * _SIDE).tolist():
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
    return picture


def _parts(models: Mapping[str, PreTrainedModel], row: Mapping[str, np.ndarray]) -> tuple[Image.Image, Image.Image]:
    name = "farl-tiny-parsing"
    size = models[name].config.image_size
    crop, _ = _crop(row, size, FACE_SCALES[name])
    labels = predict_logits(models[name], normalise(crop), "lapa").argmax(dim=1)[0].numpy()
    return _picture(crop), colour_labels(labels, LAPA_LABELS).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
