"""The cards of the farl-tiny family, from what was measured."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from .tiny_data import DrawnFaces
from .tiny_scores import FamilyScores

_WHAT = {
    "farl-tiny": (
        "zero-shot-image-classification",
        "A dual encoder of face crops and captions, with its masked branch",
    ),
    "farl-tiny-parsing": ("image-segmentation", "Face parsing into LaPa's 11 classes"),
    "farl-tiny-parsing-celebamask-hq": ("image-segmentation", "Face parsing into CelebAMask-HQ's 19 classes"),
    "farl-tiny-alignment": ("keypoint-detection", "68 landmarks in the order of 300W"),
    "farl-tiny-alignment-wflw": ("keypoint-detection", "98 landmarks in the order of WFLW"),
    "farl-tiny-attributes": ("image-classification", "Those of CelebA's attributes that generated faces define"),
}
_FOLDER_CARD = """---
library_name: transformers
license: mit
pipeline_tag: {tag}
tags:
- farl
- face
---

# {name}

{what}, of the family farl-tiny: small weights that come with the package `farl_hf`, trained on generated faces only and
on nobody's photos. How they were trained, what they score, where they fail and what they are not for is told in the
family's card, `model_cards/farl-tiny.md` of the repository.

```python
import farl_hf

folder = farl_hf.pretrained("{name}")
```

On held-out generated faces: {scores}. Not for telling who somebody is, and not for decisions about people.
"""
_AGES = (("below 20", 0, 20), ("20 to 50", 20, 50), ("above 50", 50, 200))
_TONES = (("light", 0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("dark", 2 / 3, 1.01))


def write_folder_cards(folders: Mapping[str, Path], scores: FamilyScores) -> None:
    """A `README.md` in each model's folder."""
    lines = {
        "farl-tiny": f"mean zero-shot AUC {np.nanmean(list(scores.zero_shot_auc.values())):.3f}",
        "farl-tiny-parsing": f"mean F1 {100 * scores.f1['lapa']['fg_mean']:.1f}",
        "farl-tiny-parsing-celebamask-hq": f"mean F1 {100 * scores.f1['celebamask_hq']['fg_mean']:.1f}",
        "farl-tiny-alignment": f"NME by the outer eye corners {100 * scores.nme[68].mean():.2f} %",
        "farl-tiny-alignment-wflw": f"NME by the outer eye corners {100 * scores.nme[98].mean():.2f} %",
        "farl-tiny-attributes": f"mean AUC {np.nanmean(list(scores.attribute_auc.values())):.3f}",
    }
    for name, folder in folders.items():
        tag, what = _WHAT[name]
        card = _FOLDER_CARD.format(tag=tag, name=name, what=what, scores=lines[name])
        (folder / "README.md").write_text(card)


def held_out_tables(scores: FamilyScores, faces: DrawnFaces) -> str:
    """Markdown of everything that was measured on held-out generated faces."""
    count = len(scores.nme[68])
    parsing, wide = scores.f1["lapa"], scores.f1["celebamask_hq"]
    lines = [
        f"{count} faces of the held-out style (other hair, lights, backgrounds and cameras than in training).",
        "",
        "| | farl-tiny | answer that does not look |",
        "| --- | --- | --- |",
        f"| 68 landmarks, NME by the outer eye corners, % | {100 * scores.nme[68].mean():.2f} (median "
        f"{100 * np.median(scores.nme[68]):.2f}) | {100 * scores.mean_shape_nme:.1f} (mean shape) |",
        f"| 98 landmarks, NME, % | {100 * scores.nme[98].mean():.2f} (median "
        f"{100 * np.median(scores.nme[98]):.2f}) | |",
        f"| LaPa's classes, mean F1 | {100 * parsing['fg_mean']:.1f} | {100 * scores.frequent_class_f1:.1f} "
        "(most frequent class per pixel) |",
        f"| CelebAMask-HQ's classes, mean F1 | {100 * wide['fg_mean']:.1f} | |",
        f"| attributes, mean AUC | {np.nanmean(list(scores.attribute_auc.values())):.3f} | 0.5 |",
        f"| zero shot, mean AUC | {np.nanmean(list(scores.zero_shot_auc.values())):.3f} | 0.5 |",
        "",
        "F1 by class, LaPa: " + _listed(parsing, 100, 1) + ".",
        "",
        "F1 by class, CelebAMask-HQ: " + _listed(wide, 100, 1) + ".",
        "",
        "AUC by attribute: " + _listed(scores.attribute_auc, 1, 2) + ".",
        "",
        "Zero-shot AUC: " + _listed(scores.zero_shot_auc, 1, 2) + ".",
        "",
        "By who is shown (NME of 68 points in %, mean F1 of the LaPa classes that a face shows):",
        "",
        "| skin | sex | age | faces | NME | F1 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    male, age, tone = faces.column("traits")[:count].T
    for tone_name, low, high in _TONES:
        for sex, wanted in (("women", 0), ("men", 1)):
            for age_name, youngest, oldest in _AGES:
                rows = (tone >= low) & (tone < high) & (male == wanted) & (age >= youngest) & (age < oldest)
                if rows.any():
                    nme, f1 = 100 * scores.nme[68][rows].mean(), 100 * np.nanmean(scores.face_f1[rows])
                    lines.append(f"| {tone_name} | {sex} | {age_name} | {rows.sum()} | {nme:.2f} | {f1:.1f} |")
    return "\n".join(lines)


def _listed(values: Mapping[str, float], factor: float, digits: int) -> str:
    named = [(name.replace("_", " "), value) for name, value in values.items() if name not in ("fg_mean", "background")]
    return ", ".join(f"{name} {factor * value:.{digits}f}" for name, value in named if np.isfinite(value))


@torch.no_grad()
def milliseconds_per_face(models: Mapping[str, PreTrainedModel], repeats: int = 20) -> dict[str, float]:
    """Of the network alone, one face, one thread: the fastest of several runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = {}
    for name, model in models.items():
        size = model.config.image_size
        pixels = torch.rand(1, 3, size, size)
        run = model.get_image_features if name == "farl-tiny" else model
        run(pixels)
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            run(pixels)
            taken.append(time.perf_counter() - start)
        times[name] = round(1000 * min(taken), 1)
    torch.set_num_threads(threads)
    return times


def scores_as_json(scores: FamilyScores, times: Mapping[str, float]) -> str:
    """What was measured, as a JSON text."""
    content = {
        **scores.headline(),
        "nme_98": float(scores.nme[98].mean()),
        "f1": scores.f1,
        "attribute_auc": scores.attribute_auc,
        "zero_shot_auc": scores.zero_shot_auc,
        "mean_shape_nme": scores.mean_shape_nme,
        "frequent_class_f1": scores.frequent_class_f1,
        "milliseconds_per_face": dict(times),
    }
    return json.dumps(content, indent=2) + "\n"
