"""Model cards of the converted official releases, with the authors' own figures labelled as theirs."""

from ..datasets.labels import CELEBA_ATTRIBUTES, CELEBAMASK_HQ_LABELS, LAPA_LABELS
from ..hub.cards import model_card
from ..models.configuration_farl import FaRLConfig
from .downloads import RELEASE_FILES

# What the authors report, by release. None of it is measured here: the data sets need registration.
REPORTED: dict[str, str] = {
    "ep16": "Full fine-tuning at 448 px from this checkpoint, best epoch on the test set (the paper): mean F1 93.88 on "
    "LaPa and 89.56 on CelebAMask-HQ; NME 0.943 (diagonal) on AFLW-19, 2.93 on 300W, 3.96 on WFLW (inter-ocular).",
    "ep64": "Full fine-tuning at 448 px from this checkpoint, best epoch on the test set (the authors' repository): "
    "mean F1 94.04 on LaPa and 89.57 on CelebAMask-HQ; NME 0.938 (diagonal) on AFLW-19, 2.88 on 300W, 3.88 on WFLW "
    "(inter-ocular).",
    "lapa": "The file is the end of a 300-epoch run, by its step number. The authors' logs of such runs end at a "
    "mean F1 of 93.8 to 93.9 on LaPa, faces aligned by the true landmarks; their 93.88 is the best epoch on the "
    "test set.",
    "celebamask_hq": "The file is the end of a 300-epoch run, by its step number. The authors' logs of such runs end "
    "at a mean F1 of 88.6 to 88.7 on CelebAMask-HQ, on whole, aligned images; their 89.56 is the best epoch on the "
    "test set. Give images of that set without points: cropping them again costs accuracy.",
    "ibug300w": "Comment of the authors beside the file: inter-ocular NME 2.8835 % on 300W.",
    "wflw": "Comment of the authors beside the file: inter-ocular NME 3.8933 % on WFLW.",
    "aflw19": "Comment of the authors beside the file: NME 0.9329 % of the box's diagonal on AFLW-19.",
    "celeba": "Comment of the authors beside the file: accuracy 92.07 % over the 40 attributes of CelebA.",
}


def release_card(name: str) -> str:
    """The model card of a converted official release, a key of `downloads.RELEASE_FILES`."""
    source = RELEASE_FILES[name].url.rsplit("/", 1)[1]
    config = FaRLConfig.from_preset("base")
    if name in ("lapa", "celebamask_hq"):
        architecture, names = "FaRLForFaceParsing", LAPA_LABELS if name == "lapa" else CELEBAMASK_HQ_LABELS
        config = FaRLConfig.from_preset("base", image_size=448, id2label=dict(enumerate(names)))
    elif name in ("ibug300w", "wflw", "aflw19"):
        architecture, points = "FaRLForFaceAlignment", {"ibug300w": 68, "wflw": 98, "aflw19": 19}[name]
        config = FaRLConfig.from_preset("base", image_size=448, num_landmarks=points)
    elif name == "celeba":
        architecture = "FaRLForImageClassification"
        config = FaRLConfig.from_preset("base", id2label=dict(enumerate(CELEBA_ATTRIBUTES)))
    else:
        architecture = "FaRLForPreTraining"
    config.architectures = [architecture]
    results = f"## Results\n\nReported by the authors, not measured here. {REPORTED[name]}"
    return model_card(config, f"farl-{name.replace('_', '-')}", source, results)
