"""Model cards: Markdown with the Hub's YAML header, written from a saved model's config and measured results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from ..models.configuration_farl import FaRLConfig
from .remote_code import PIPELINES

_PIPELINE_TAGS = {
    "FaRLModel": "zero-shot-image-classification",
    "FaRLForPreTraining": "zero-shot-image-classification",
    "FaRLForFaceParsing": "image-segmentation",
    "FaRLForFaceAlignment": "keypoint-detection",
    "FaRLForImageClassification": "image-classification",
}

_WHAT = {
    "FaRLModel": "An image and a text encoder for faces, trained together on image-caption pairs: a CLIP-shaped dual "
    "encoder whose parameter names and numbers are those of `CLIPModel`.",
    "FaRLForFaceParsing": "Face parsing: a class for every pixel of a face crop, by a ViT with a UPerNet head.",
    "FaRLForFaceAlignment": "Face alignment: landmarks of a face crop, by a ViT with a heat-map head.",
    "FaRLForImageClassification": "Face attributes: yes or no for each attribute of a face crop.",
}
_WHAT["FaRLForPreTraining"] = (
    _WHAT["FaRLModel"] + " The branch for masked image modelling is kept for further training."
)

_USE = {
    "FaRLModel": """import farl_hf
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{folder}")
processor = AutoProcessor.from_pretrained("{folder}")
texts = ["a photo of a smiling face", "a photo of a frowning face"]
inputs = processor(images=Image.open("face.jpg"), text=texts, padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(dim=1))""",
    "FaRLForFaceParsing": """{opening}
faces = find("photo.jpg")
print(faces.label_map.shape, faces.label_names)
faces.draw("photo.jpg").save("drawn.jpg")""",
    "FaRLForFaceAlignment": """{opening}
faces = find("photo.jpg")
print(faces.landmarks.shape, faces.head_pose)
faces.draw("photo.jpg").save("drawn.jpg")""",
    "FaRLForImageClassification": """{opening}
faces = find("photo.jpg")
print(dict(zip(faces.attribute_names, faces.attributes[0])) if len(faces) else "nobody")""",
}
_USE["FaRLForPreTraining"] = _USE["FaRLModel"]

# How the code of task models begins: a whole model, and an adapter.
_OPENING = """import farl_hf
from transformers import pipeline

# It finds the faces, too (pip install 'farl_hf[detection]'); boxes=[[left, top, right, bottom]] gives them.
find = pipeline("{task}", "{folder}")"""
_ADAPTER_OPENING = """import farl_hf
from farl_hf.finetuning import load_task_model
from transformers import pipeline

model = load_task_model("{folder}").merge_and_unload()
processor = farl_hf.FaRLFaceImageProcessor.from_pretrained("{folder}")
# It finds the faces, too (pip install 'farl_hf[detection]'); boxes=[[left, top, right, bottom]] gives them.
find = pipeline("{task}", model, image_processor=processor)"""

_CARD = """---
{header}
---

# {title}

{what}

{origin}

## Use

```python
{use}
```

`import farl_hf` makes the model known to Transformers. Where the package is not installed and the repository carries
its code (`modeling_farl.py`), leave that line out and give `trust_remote_code=True`. Left and right in class names are
the subject's own.

{details}

## Intended use

Research on and tools for the analysis of face *images*: segmentation, landmarks, editing, retrieval by description, and
the study of representations.

## Out of scope

It was neither built nor tested to identify people, and must not be used to identify or track them, to decide about them
(employment, credit, access, policing), or to infer emotion, character, health, ethnicity, religion or orientation. Face
images are personal data: have a lawful basis before you process them.

## Known biases and limits

{biases}

Errors grow with extreme pose, occlusion, blur, very small faces, drawings, and on people who are rare in the data.
Attribute names of CelebA, "Attractive" or "Male" among them, are annotators' impressions and not facts about a person.
{groups} Measure on your own data, per group, before relying on a result.

## Data and licences

{data}

## Citation

```bibtex
@inproceedings{{zheng2022farl,
  title     = {{General Facial Representation Learning in a Visual-Linguistic Manner}},
  author    = {{Zheng, Yinglin and Yang, Hao and Zhang, Ting and Bao, Jianmin and Chen, Dongdong and Huang, Yangyu and
               Yuan, Lu and Chen, Dong and Zeng, Ming and Wen, Fang}},
  booktitle = {{CVPR}},
  year      = {{2022}},
  note      = {{arXiv:2112.03109}}
}}
```
"""

_WEB_BIASES = """\
FaRL learnt from captions and faces of the public web of 2021, in which age groups, skin tones, countries, professions
and image styles are unevenly represented; captions carry the prejudices of their authors."""
_GENERATED_BIASES = """\
It learnt from generated faces alone, and is no face model for photos beyond what such faces teach: their shapes, skins,
hair and light are a designer's choice, not a sample of people."""
_UNKNOWN_BIASES = "It shares the biases of the data that it was trained on, and of the model that it started from."

_CODE_LICENCE = "* Code of FaRL, facer and this package: MIT."
_WEB_DATA = f"""\
{_CODE_LICENCE} Converted weights stay under the licence of their source (MIT for the
  FaRL and facer releases).
* Pre-training data of the official weights: LAION-Face, a 20-million-pair subset of LAION-400M (identifier lists under
  CC-BY 4.0; the images belong to their owners). LAION-400M was taken offline in December 2023 after links to illegal
  material were found in LAION's sets; Re-LAION is the cleaned re-release. The data cannot be fetched as it was.
* The data sets behind task checkpoints (LaPa, CelebAMask-HQ, 300W, WFLW, AFLW-19, CelebA) are for non-commercial
  research; whether that binds weights trained on them is for you to clarify."""
_GENERATED_DATA = f"""\
{_CODE_LICENCE}
* Training data: faces generated by `farl_hf.synthetic`. No photo of a person and no data set of people was used.
* No part of LAION-Face was used."""
_UNKNOWN_DATA = f"""\
{_CODE_LICENCE}
* If it started from official FaRL weights: these learnt from LAION-Face, a 20-million-pair subset of LAION-400M, which
  was taken offline in December 2023 after links to illegal material were found in LAION's sets.
* LaPa, CelebAMask-HQ, 300W, WFLW, AFLW-19 and CelebA are for non-commercial research; whether that binds weights
  trained on them is for you to clarify."""

# What the weights learnt from -> the card's sections on biases and on data.
_LEARNT_FROM = {
    "laion": (_WEB_BIASES, _WEB_DATA),
    "generated": (_GENERATED_BIASES, _GENERATED_DATA),
    "unknown": (_UNKNOWN_BIASES, _UNKNOWN_DATA),
}


@dataclass(frozen=True)
class Measurement:
    """
    One measured score.

    Attributes:
        dataset: Data set by its name in this package, such as `lapa`.
        metric: Score by its name in this package, such as `fg_mean`.
        value: In percent.
        split: Of the data set.
        subset: Of the split; `all` for the whole.
        notes: How it was measured: precision, how faces were found.
    """

    dataset: str
    metric: str
    value: float
    split: str = "test"
    subset: str = "all"
    notes: str = ""


def measurements(result: Mapping[str, Any]) -> list[Measurement]:
    """
    The scores in a result of `scripts/evaluate.py` (its JSON) or of `scripts/finetune.py` (`results.json`, the test
    split under the chosen weights).
    """
    if "test_best" in result:
        scores, dataset, split, notes = result["test_best"], result["benchmark"], "test", result["selection"]
    else:
        scores, dataset, split = result["metrics"], result["dataset"], result["split"]
        notes = ", ".join(str(result[name]) for name in ("localisation", "precision") if name in result)
    return [
        Measurement(dataset, metric, 100 * value, split, subset, notes)
        for subset, values in scores.items()
        for metric, value in values.items()
        if math.isfinite(value)
    ]


def model_card(
    config: FaRLConfig,
    title: str,
    source: str | None = None,
    results: str = "",
    is_adapter: bool = False,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    measured: Sequence[Measurement] = (),
    license: str = "mit",
    learnt_from: str | None = None,
) -> str:
    """
    A model card in Markdown with the Hub's YAML header.

    Args:
        config: Config of the saved model, with `architectures`.
        title: Heading, and the folder or repository named in the code sample.
        source: Name of the official file the weights were converted from, or `None` for own training.
        results: Markdown with numbers and the commands that give them. Figures of others belong here, labelled as
            theirs, and never in `measured`.
        is_adapter: Whether the folder holds an adapter, which `load_task_model` opens.
        base_model: Hub name of the model that this one was tuned from, or `"none"` for random weights.
        datasets: Hub names of the training data.
        measured: Scores, for the header's `model-index` and a table.
        license: Of the weights, by its name on the Hub.
        learnt_from: `"laion"` (the official weights), `"generated"` (faces of this package) or `"unknown"`. By default
            the first with `source`, else the last.
    """
    architecture = (config.architectures or ["FaRLModel"])[0]
    origin = "Trained with `farl_hf`."
    if source is not None:
        origin = f"Converted from `{source}` by `farl_hf.convert_checkpoint`; the numbers are the original network's."
    elif base_model is not None:
        start = "random weights" if base_model == "none" else f"`{base_model}`"
        origin = f"Trained with `farl_hf`, starting from {start}."
    task, _ = PIPELINES.get(architecture, ("", ""))
    opening = (_ADAPTER_OPENING if is_adapter else _OPENING).format(task=task, folder=title)
    biases, data = _LEARNT_FROM[learnt_from or ("laion" if source else "unknown")]
    groups = "No score by group of people was measured."
    if any(score.subset != "all" for score in measured):
        groups = "Scores by subset, where they were measured, are above."
    return _CARD.format(
        header=_header(architecture, title, is_adapter, base_model, datasets, measured, license),
        title=title,
        what=_WHAT[architecture],
        origin=origin,
        use=_USE[architecture].format(folder=title, opening=opening),
        details="\n\n".join(part for part in (_describe(config, architecture), results, _table(measured)) if part),
        biases=biases,
        groups=groups,
        data=data,
    )


def _header(
    architecture: str,
    title: str,
    is_adapter: bool,
    base_model: str | None,
    datasets: Sequence[str],
    measured: Sequence[Measurement],
    license: str,
) -> str:
    """The YAML between the card's dashes."""
    task = _PIPELINE_TAGS[architecture]
    fields: dict[str, Any] = {
        "license": license,
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": task,
        "tags": ["farl", "face"],
    }
    if base_model not in (None, "none"):
        fields |= {"base_model": base_model, "base_model_relation": "adapter" if is_adapter else "finetune"}
    if datasets:
        fields["datasets"] = list(datasets)
    if measured:
        results = [
            EvalResult(
                task_type=task,
                dataset_type=score.dataset,
                dataset_name=score.dataset,
                dataset_config=None if score.subset == "all" else score.subset,
                dataset_split=score.split,
                metric_type=score.metric,
                metric_name=f"{score.metric} (percent)",
                metric_value=round(score.value, 3),
            )
            for score in measured
        ]
        fields |= {"model_name": title.rpartition("/")[2], "eval_results": results}
    return ModelCardData(**fields).to_yaml().strip()


def _table(measured: Sequence[Measurement]) -> str:
    if not measured:
        return ""
    rows = [
        f"| {score.dataset} {score.split} | {score.subset} | {score.metric} | {score.value:.3f} | {score.notes} |"
        for score in measured
    ]
    head = ["| data | subset | score | percent | how |", "| --- | --- | --- | --- | --- |"]
    return "## Measured\n\nBy `scripts/evaluate.py` or at the end of `scripts/finetune.py`.\n\n" + "\n".join(
        head + rows
    )


def _describe(config: FaRLConfig, architecture: str) -> str:
    vision = config.vision_config
    rows = [
        ("Input", f"RGB, {vision.image_size} x {vision.image_size}"),
        ("Image tower", f"{vision.num_hidden_layers} layers, width {vision.hidden_size}, patch {vision.patch_size}"),
    ]
    if architecture in ("FaRLModel", "FaRLForPreTraining"):
        text = config.text_config
        rows.append(("Text tower", f"{text.num_hidden_layers} layers, width {text.hidden_size}"))
        rows.append(("Joint embedding", str(config.projection_dim)))
    elif architecture == "FaRLForFaceAlignment":
        rows.append(("Landmarks", str(config.num_landmarks)))
    else:
        rows.append(("Classes", ", ".join(config.id2label[i] for i in sorted(config.id2label))))
    return "## Model\n\n| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def write_model_card(
    folder: str | Path,
    title: str | None = None,
    source: str | None = None,
    results: str = "",
    adapter_config: FaRLConfig | None = None,
    **options: Any,
) -> Path:
    """
    Writes `README.md` into a saved model's folder. An adapter's folder has no config of a model: give its model's.

    Args:
        folder: Where the model is saved.
        title: By default the folder's name.
        source, results, options: See [`model_card`].
        adapter_config: Config of the adapter's model.
    """
    folder = Path(folder)
    config = adapter_config or FaRLConfig.from_pretrained(folder)
    path = folder / "README.md"
    card = model_card(config, title or folder.name, source, results, adapter_config is not None, **options)
    path.write_text(card, encoding="utf-8")
    return path


def write_eval_results(
    folder: str | Path, measured: Sequence[Measurement], dataset_ids: Mapping[str, tuple[str, str]]
) -> list[Path]:
    """
    Writes `.eval_results/<data set>.yaml`, the Hub's newer form beside `model-index`: scores of benchmarks that are
    data sets on the Hub. Only whole splits are listed.

    Args:
        folder: Of the model.
        measured: Scores.
        dataset_ids: Name of a data set in this package -> its (Hub name, task id there).

    Returns:
        The files that were written.
    """
    paths = []
    for dataset, (dataset_id, task_id) in dataset_ids.items():
        entries = [
            EvalResultEntry(
                dataset_id=dataset_id,
                task_id=task_id,
                value=round(score.value, 3),
                notes=", ".join(part for part in (f"{score.metric} in percent", score.split, score.notes) if part),
            )
            for score in measured
            if score.dataset == dataset and score.subset == "all"
        ]
        if entries:
            path = Path(folder) / EVAL_RESULTS_FOLDER / f"{dataset}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
            paths.append(path)
    return paths
