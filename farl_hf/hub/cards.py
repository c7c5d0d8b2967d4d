"""Model cards: Markdown with the Hub's YAML header, written from a saved model's config and measured results."""

import re
from pathlib import Path

from ..models.configuration_farl import FaRLConfig

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
    "FaRLForFaceParsing": """import farl_hf
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

model = AutoModelForSemanticSegmentation.from_pretrained("{folder}")
processor = AutoImageProcessor.from_pretrained("{folder}")
image = Image.open("photo.jpg")
inputs = processor(image, face_points=[five_points], return_tensors="pt")
outputs = model(inputs["pixel_values"])
labels = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])""",
    "FaRLForFaceAlignment": """import farl_hf
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForKeypointDetection

model = AutoModelForKeypointDetection.from_pretrained("{folder}")
processor = AutoImageProcessor.from_pretrained("{folder}")
inputs = processor(Image.open("photo.jpg"), face_points=[five_points], return_tensors="pt")
outputs = model(inputs["pixel_values"])
landmarks = processor.post_process_landmarks(outputs, inputs["face_transforms"])""",
    "FaRLForImageClassification": """import farl_hf
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{folder}")
processor = AutoImageProcessor.from_pretrained("{folder}")
inputs = processor(Image.open("photo.jpg"), face_points=[five_points], return_tensors="pt")
probabilities = model(inputs["pixel_values"]).logits.sigmoid()""",
}
_USE["FaRLForPreTraining"] = _USE["FaRLModel"]

_CARD = """---
license: mit
library_name: transformers
pipeline_tag: {pipeline_tag}
tags:
- farl
- face
---

# {title}

{what}

{origin}

## Use

```python
{use}
```

`import farl_hf` makes the model known to Transformers. Left and right in class names are the subject's own.

{details}

## Intended use

Research on and tools for the analysis of face *images*: segmentation, landmarks, editing, retrieval by description, and
the study of representations. It was neither built nor tested to identify people, and must not be used to identify or
track them, to decide about them (employment, credit, access, policing), or to infer emotion, character, health,
ethnicity, religion or orientation. Face images are personal data: have a lawful basis before you process them.

## Known biases and limits

FaRL learnt from captions and faces of the public web of 2021, in which age groups, skin tones, countries, professions
and image styles are unevenly represented; captions carry the prejudices of their authors. Errors grow with extreme
pose, occlusion, blur, very small faces, drawings, and on people who are rare in the data. Attribute names of CelebA,
"Attractive" or "Male" among them, are annotators' impressions and not facts about a person. Measure on your own data,
per group, before relying on a result.

## Data and licences

* Code of FaRL, facer and this package: MIT. Converted weights stay under the licence of their source (MIT for the
  FaRL and facer releases).
* Pre-training data of the official weights: LAION-Face, a 20-million-pair subset of LAION-400M (identifier lists under
  CC-BY 4.0; the images belong to their owners). LAION-400M was taken offline in December 2023 after links to illegal
  material were found in LAION's sets; Re-LAION is the cleaned re-release. The data cannot be fetched as it was.
* The data sets behind task checkpoints (LaPa, CelebAMask-HQ, 300W, WFLW, AFLW-19, CelebA) are for non-commercial
  research; whether that binds weights trained on them is for you to clarify.

## Citation

Zheng et al., *General Facial Representation Learning in a Visual-Linguistic Manner*, CVPR 2022, arXiv:2112.03109.
"""


def model_card(
    config: FaRLConfig, title: str, source: str | None = None, results: str = "", is_adapter: bool = False
) -> str:
    """
    A model card in Markdown with the Hub's YAML header.

    Args:
        config: Config of the saved model, with `architectures`.
        title: Heading, and the folder or repository named in the code sample.
        source: Name of the official file the weights were converted from, or `None` for own training.
        results: Markdown with measured numbers and the commands that give them.
        is_adapter: Whether the folder holds an adapter, which `load_task_model` opens.
    """
    architecture = (config.architectures or ["FaRLModel"])[0]
    origin = "Trained with `farl_hf`."
    if source is not None:
        origin = f"Converted from `{source}` by `farl_hf.convert_checkpoint`; the numbers are the original network's."
    use = _USE[architecture]
    if is_adapter:
        use = use.replace("import farl_hf", "from farl_hf.finetuning import load_task_model")
        use = re.sub(r"AutoModel\w+\.from_pretrained", "load_task_model", re.sub(r", AutoModel\w+", "", use))
    return _CARD.format(
        pipeline_tag=_PIPELINE_TAGS[architecture],
        title=title,
        what=_WHAT[architecture],
        origin=origin,
        use=use.format(folder=title),
        details="\n\n".join(part for part in (_describe(config, architecture), results) if part),
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
) -> Path:
    """
    Writes `README.md` into a saved model's folder, see [`model_card`]. An adapter's folder has no config of a model:
    give its model's.
    """
    folder = Path(folder)
    config = adapter_config or FaRLConfig.from_pretrained(folder)
    path = folder / "README.md"
    path.write_text(model_card(config, title or folder.name, source, results, is_adapter=adapter_config is not None))
    return path
