"""The cards of the farl-tiny family, from what was measured."""

import csv
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


def scores_as_json(scores: FamilyScores) -> str:
    """What was measured, as a JSON text."""
    content = {
        **scores.headline(),
        "nme_98": float(scores.nme[98].mean()),
        "f1": scores.f1,
        "attribute_auc": scores.attribute_auc,
        "zero_shot_auc": scores.zero_shot_auc,
        "mean_shape_nme": scores.mean_shape_nme,
        "frequent_class_f1": scores.frequent_class_f1,
    }
    return json.dumps(content, indent=2) + "\n"


_FAMILY_CARD = """---
library_name: transformers
license: mit
tags:
- farl
- face
---

# farl-tiny

A family of small FaRL models that comes with the package: one tower (a stem of two convolutions, four layers of width
192, patch 8, 112 px) with a text tower for zero shot, two face parsers, two landmark models and an attribute model.
They were trained on generated faces only, by the package's own generator and scripts, so nobody's photo is in them:
MIT, weights included.

```python
import farl_hf

faces = farl_hf.analyze("photo.jpg")  # detector, parsing, landmarks, attributes
folder = farl_hf.pretrained("farl-tiny-alignment")  # for any Auto class or pipeline
```

| name | parameters | one face on one CPU thread, network alone |
| --- | --- | --- |
{sizes}

Measured by `scripts/train_farl_tiny.sh` at its end, with other programs running on the machine.

## Training

`bash scripts/train_farl_tiny.sh` draws the faces, trains and packs; this run's settings: {settings}. On one core of a
shared 2-core machine, without a GPU: {minutes:.0f} minutes of training in all, {seen:,} crops seen in {steps:,} steps,
of {faces:,} pictures that were drawn while it trained (it began with the first thousand). The curve is in
[farl-tiny-curve.csv](farl-tiny-curve.csv).

{history}

* **Losses.** First the paper's two, ITC + MIM, then these and the tasks together on the one tower: cross-entropy and
  the missing share of F1 (Dice) of the two label sets in turns, heat maps and coordinates of the two landmark layouts
  in turns, binary cross-entropy of attributes, from the attribute head and from what captions are matched with, the
  mean of the patches. An eighth of each batch has a masked copy. Parsers and aligners share neck and head but for the
  last layer.
* **From small to large.** 64 px first (where a step costs a third), then 96 px, 112 px at the end, with the position
  table resized as FaRL does between pre-training and fine-tuning.
* **Augmentation.** `SYNTHETIC_AUGMENTATION` of `farl_hf.finetuning.augmentation`: jittered crops, light, colour, blur,
  reduction, noise, patches, JPEG, mirror images; at 112 px all but the jitter two thirds as strong.
* **Weights** are exponential averages, stored in float16, and load as float32.

## Generated faces that it never saw

{held_out}

## Real photos

{real}

## Who was drawn

Skin tone, sex and age (4 to 85) are drawn uniformly and independently, expressions, hair, glasses, beards and the rest
by the rates in `SyntheticFaceConfig`. The table above says how the models do on each group of *generated* people; no
such table on real people was measured.

## Known failures

{failures}

![Held-out generated faces: above the largest errors of landmarks (true points green, found ones pink), below the worst
maps](images/farl-tiny-worst.jpg)

## Not for

Telling who somebody is (the models know no identities, and their embeddings are no face recognition), decisions about
people, or medical use. "Male" and "Young" are what the drawing meant, not what a person is.
"""


def card_facts(
    output: Path, models: Mapping[str, PreTrainedModel], scores: FamilyScores, faces: DrawnFaces
) -> dict[str, object]:
    """
    What the family's card tells of a run in `output`: sizes and times, the run's settings and counters, the tables, and
    the scores on real photos if `scripts/evaluate_real_faces.py --output OUTPUT/real.json` wrote them. What only a
    person can tell is left to them.
    """
    state = torch.load(output / "run" / "state.pt", map_location="cpu", weights_only=True)
    counters, settings = state["counters"], state["settings"]
    stages = ", ".join(f"{stage['name']} {stage['minutes']:g} min" for stage in settings["stages"])
    with (output / "run" / "curve.csv").open() as file:
        drawn = max(int(row["faces"]) for row in csv.DictReader(file))
    times = milliseconds_per_face(models)
    rows = [f"| `{name}` | {m.num_parameters() / 1e6:.2f} M | {times[name]} ms |" for name, m in models.items()]
    real = output / "real.json"
    return {
        "sizes": "\n".join(rows),
        "settings": f"{stages}; batch {settings['batch_size']}, learning rates {settings['tower_lr']:g} (tower) and "
        f"{settings['head_lr']:g} (heads), AdamW, seed {settings['seed']}",
        "minutes": counters["seconds"] / 60,
        "seen": counters["seen"],
        "steps": counters["step"],
        "faces": drawn,
        "history": "",
        "held_out": held_out_tables(scores, faces),
        "real": real_tables(json.loads(real.read_text())) if real.is_file() else "Not measured.",
        "failures": "",
    }


def real_tables(scores: Mapping[str, Mapping]) -> str:
    """Markdown of what `scripts/evaluate_real_faces.py` measured."""
    points = scores["keypoints"]
    lines = [
        "`python scripts/evaluate_real_faces.py --keypoints P1_Facial_Keypoints --fasseg FASSEG-repository`; none of "
        "these photos was trained on.",
        "",
        f"| 68 landmarks, {points['frames']} frames of udacity/P1_Facial_Keypoints | NME by the outer eye corners, % |",
        "| --- | --- |",
        f"| crop of 1.5 times the points' box | {points['box']:.2f} |",
        f"| and a second pass on the five-point crop of the first | {points['aligned']:.2f} |",
        f"| and a third that is averaged with its mirror image | {points['mirrored']:.2f} |",
        f"| mean shape, which does not look | {points['mean_shape']:.1f} |",
        "",
        "By part, second pass: "
        + ", ".join(f"{part} {value:.1f}" for part, value in points["by_part"]["aligned"].items())
        + ".",
        "",
        f"These annotations lie {points['shift']:.1f} ± {points['shift_error']:.1f} % of the same distance right of "
        "what they mark: a model that is off by its own leaning is off by the same in a frame and in its mirror "
        "image, and half of the difference is what the annotations are off by. Without that shift the second pass has "
        f"{points['unshifted']:.2f} %.",
        "",
        "| F1, massimomauro/FASSEG-repository | V2, frontal | V3, many poses |",
        "| --- | --- | --- |",
    ]
    frontal, posed = scores["fasseg_V2"], scores["fasseg_V3"]
    names = [name for name in frontal if name not in ("frequent_class", "photos", "no_face", "background")]
    for name in names:
        label = "mean" if name == "fg_mean" else name
        lines.append(f"| {label} | {frontal[name]:.1f} | {posed[name]:.1f} |")
    lines.append(
        f"| most frequent class per place, mean | {frontal['frequent_class']:.1f} | {posed['frequent_class']:.1f} |"
    )
    lines.append(
        f"| photos (no face found) | {frontal['photos']} ({frontal['no_face']}) | "
        f"{posed['photos']} ({posed['no_face']}) |"
    )
    return "\n".join(lines)


def family_card(facts: Mapping[str, object]) -> str:
    """The card of the family; `facts` fill the places in it."""
    return _FAMILY_CARD.format(**facts)
