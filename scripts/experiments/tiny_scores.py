"""Scores of the farl-tiny family on generated faces that it never saw, overall and by who is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from farl_hf.datasets.flips import flip_permutation
from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_LABELS
from farl_hf.finetuning.augmentation import flip_landmarks
from farl_hf.finetuning.joint import FACE_SCALES
from farl_hf.metrics import FaceParsingF1
from farl_hf.metrics.landmarks import OUTER_EYE_CORNERS
from farl_hf.models.geometry_farl import face_align_matrix, photo_to_crop, warp_image

from .learning import area_under_curve, embed_texts
from .tiny_data import DrawnFaces, attributes_in_crop, crop_smoothly, normalise

_PEOPLE = ("man", "woman", "boy", "girl")
# Attribute -> captions if it holds, captions if not; the features of each list are averaged, as CLIP's prompts.
ZERO_SHOT: dict[str, tuple[list[str], list[str]]] = {
    "Male": (["a man", "a photo of a man", "a boy"], ["a woman", "a photo of a woman", "a girl"]),
    "Young": (["a young man", "a young woman", "a boy", "a girl"], ["an old man", "an old woman"]),
    "Smiling": ([f"a smiling {p}" for p in _PEOPLE], [f"a serious {p}" for p in _PEOPLE]),
    "Eyeglasses": ([f"a {p} wearing glasses" for p in _PEOPLE], [f"a {p}" for p in _PEOPLE]),
    "Wearing_Hat": ([f"a {p} wearing a hat" for p in _PEOPLE], [f"a {p}" for p in _PEOPLE]),
    "Bald": (["a bald man", "a bald woman"], [f"a {p} with brown hair" for p in _PEOPLE]),
    "Black_Hair": ([f"a {p} with black hair" for p in _PEOPLE], [f"a {p} with brown hair" for p in _PEOPLE]),
    "Blond_Hair": ([f"a {p} with blond hair" for p in _PEOPLE], [f"a {p} with brown hair" for p in _PEOPLE]),
    "Gray_Hair": ([f"a {p} with grey hair" for p in _PEOPLE], [f"a {p} with brown hair" for p in _PEOPLE]),
    "No_Beard": ([f"a {p}" for p in _PEOPLE], ["a man with a beard", "a bearded man"]),
}
_BATCH = 64


@dataclass
class FamilyScores:
    """
    Scores on generated faces, as fractions.

    Attributes:
        nme: Layout -> mean distance of the landmarks over that of the outer eye corners, per face.
        f1: Label set -> class -> F1 over all pixels of the crops.
        face_f1: Per face the mean F1 of LaPa's classes that it shows, without background.
        attribute_auc, zero_shot_auc: By attribute.
        mean_shape_nme, frequent_class_f1: Of answers that do not look at the picture.
    """

    nme: dict[int, np.ndarray] = field(default_factory=dict)
    f1: dict[str, dict[str, float]] = field(default_factory=dict)
    face_f1: np.ndarray | None = None
    attribute_auc: dict[str, float] = field(default_factory=dict)
    zero_shot_auc: dict[str, float] = field(default_factory=dict)
    attribute_scores: np.ndarray | None = None
    mean_shape_nme: float = float("nan")
    frequent_class_f1: float = float("nan")

    def headline(self) -> dict[str, float]:
        """One number per task."""
        return {
            "nme": float(self.nme[68].mean()),
            "f1": self.f1["lapa"]["fg_mean"],
            "attribute_auc": float(np.nanmean(list(self.attribute_auc.values()))),
            "zero_shot_auc": float(np.nanmean(list(self.zero_shot_auc.values()))),
        }


@torch.no_grad()
def score_family(
    models: Mapping[str, PreTrainedModel], faces: DrawnFaces, most: int | None = None, flip: bool = False
) -> FamilyScores:
    """
    Scores the models on the crops that their processors would cut.

    Args:
        models: Names of `farl_hf.pretrained` -> models.
        faces: Held-out pictures.
        most: At most so many of them.
        flip: Average every answer with that for the mirror image.
    """
    count = min(len(faces), most or len(faces))
    rows = [faces.row(i)[0] for i in range(count)]
    scores = FamilyScores()
    device = next(models["farl-tiny"].parameters()).device
    for name, layout in (("farl-tiny-alignment", 68), ("farl-tiny-alignment-wflw", 98)):
        scores.nme[layout], scores.mean_shape_nme = _score_landmarks(models[name], rows, name, layout, flip, device)
    for name, labels in (
        ("farl-tiny-parsing", ("lapa", LAPA_LABELS)),
        ("farl-tiny-parsing-celebamask-hq", ("celebamask_hq", CELEBAMASK_HQ_LABELS)),
    ):
        f1, per_face, frequent = _score_parsing(models[name], rows, name, *labels, flip, device)
        scores.f1[labels[0]] = f1
        if labels[0] == "lapa":
            scores.face_f1, scores.frequent_class_f1 = per_face, frequent
    logits, embeds, truths = [], [], []
    size = models["farl-tiny-attributes"].config.image_size
    for (part, matrix), crops in _crops(rows, size, FACE_SCALES["farl-tiny-attributes"], device):
        labels = _cropped_labels(part, matrix, size, "celebamask_hq")
        truths.append(
            attributes_in_crop(torch.from_numpy(np.stack([r["attributes"] for r in part])), faces.attributes, labels)
        )
        logits.append(flip_average(lambda x: models["farl-tiny-attributes"](x).logits, crops, flip).cpu())
        embeds.append(
            flip_average(lambda x: models["farl-tiny"].get_image_features(x).pooler_output, crops, flip).cpu()
        )
    logits, truth = torch.cat(logits), torch.cat(truths)
    scores.attribute_scores = logits.numpy()
    embeds = torch.nn.functional.normalize(torch.cat(embeds), dim=-1)
    for i, name in enumerate(faces.attributes):
        scores.attribute_auc[name] = area_under_curve(logits[:, i], truth[:, i])
    for name, prompts in ZERO_SHOT.items():
        if name in faces.attributes:
            margin = zero_shot_margin(models["farl-tiny"], faces.tokenizer, embeds, prompts)
            scores.zero_shot_auc[name] = area_under_curve(margin, truth[:, faces.attributes.index(name)])
    return scores


def zero_shot_margin(model, tokenizer, embeds: torch.Tensor, prompts: tuple[list[str], list[str]]) -> torch.Tensor:
    """How much nearer (images,) the embeddings are to the first captions than to the second, as cosines."""
    present, absent = (embed_texts(model, tokenizer, texts).cpu().mean(dim=0) for texts in prompts)
    return embeds @ (present / present.norm() - absent / absent.norm())


def flip_average(function, crops: torch.Tensor, flip: bool) -> torch.Tensor:
    """`function` of the crops, averaged with that of their mirror images if `flip`."""
    value = function(crops)
    return (value + function(crops.flip(-1))) / 2 if flip else value


def predict_landmarks(model, crops: torch.Tensor, flip: bool = False) -> torch.Tensor:
    """Landmarks (faces, points, 2), normalised to the crop."""
    points = model(crops).landmarks
    if flip:
        mirrored = model(crops.flip(-1)).landmarks
        permutation = flip_permutation(points.shape[1])
        points = (points + torch.stack([flip_landmarks(face, permutation) for face in mirrored])) / 2
    return points


def predict_logits(model, crops: torch.Tensor, layout: str, flip: bool = False) -> torch.Tensor:
    """Class logits (faces, classes, size, size)."""
    logits = model(crops).logits
    if flip:
        logits = (logits + model(crops.flip(-1)).logits.flip(-1)[:, flip_permutation(layout)]) / 2
    return logits


def _crops(rows: list[dict], size: int, scale: float, device):
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        points = torch.from_numpy(np.stack([row["points_5"] for row in part])).double() + 0.5
        matrix = face_align_matrix(points, size, scale)
        images = torch.from_numpy(np.stack([row["images"] for row in part])).permute(0, 3, 1, 2).float() / 255
        yield (part, matrix), normalise(crop_smoothly(images, matrix, size)).to(device)


def _cropped_labels(rows: list[dict], matrix: torch.Tensor, size: int, layout: str) -> torch.Tensor:
    """(faces, size, size) int64."""
    labels = torch.from_numpy(np.stack([row[layout] for row in rows]))[:, None].float()
    return warp_image(labels, matrix.float(), size, mode="nearest")[:, 0].long()


def _score_landmarks(model, rows, name, layout, flip, device) -> tuple[np.ndarray, float]:
    size = model.config.image_size
    errors, shapes, spans = [], [], []
    outer = OUTER_EYE_CORNERS[layout]
    for (part, matrix), crops in _crops(rows, size, FACE_SCALES[name], device):
        truth = torch.from_numpy(np.stack([row[f"points_{layout}"] for row in part])).double() + 0.5
        truth = (photo_to_crop(truth, matrix, size) / size).float()
        found = predict_landmarks(model, crops, flip).cpu()
        span = (truth[:, outer[0]] - truth[:, outer[1]]).norm(dim=-1)
        errors.append((found - truth).norm(dim=-1).mean(dim=-1) / span)
        shapes.append(truth)
        spans.append(span)
    shapes = torch.cat(shapes)
    never = ((shapes - shapes.mean(dim=0)).norm(dim=-1).mean(dim=-1) / torch.cat(spans)).mean()
    return torch.cat(errors).numpy(), float(never)


def _score_parsing(model, rows, name, layout, labels, flip, device) -> tuple[dict[str, float], np.ndarray, float]:
    size = model.config.image_size
    metric, per_face, truths = FaceParsingF1(labels), [], []
    for (part, matrix), crops in _crops(rows, size, FACE_SCALES[name], device):
        truth = _cropped_labels(part, matrix, size, layout).numpy()
        found = predict_logits(model, crops, layout, flip).argmax(dim=1).cpu().numpy()
        metric.update(found, truth)
        per_face += [_mean_f1(f, t, len(labels)) for f, t in zip(found, truth, strict=True)]
        truths.append(truth)
    truths = np.concatenate(truths)
    counts = np.stack([(truths == i).sum(axis=0) for i in range(len(labels))])
    never = FaceParsingF1(labels)
    never.update(np.broadcast_to(counts.argmax(axis=0), truths.shape).copy(), truths)
    return metric.compute(), np.array(per_face), never.compute()["fg_mean"]


def _mean_f1(found: np.ndarray, truth: np.ndarray, classes: int) -> float:
    values = []
    for i in range(1, classes):
        both, either = ((found == i) & (truth == i)).sum(), (found == i).sum() + (truth == i).sum()
        if either:
            values.append(2 * both / either)
    return float(np.mean(values)) if values else float("nan")
