"""Model cards. Code export is tested in models/test_auto_classes.py."""

import contextlib
from pathlib import Path

import pytest
import skimage.data
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import farl_hf
from farl_hf.conversion.downloads import RELEASE_FILES
from farl_hf.conversion.release_cards import release_card
from farl_hf.finetuning.lora import TASK_CONFIG_FOLDER, add_adapter
from farl_hf.hub.cards import Measurement, measurements, model_card, write_eval_results, write_model_card
from farl_hf.models.tokenization import build_processor

CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.mark.parametrize("name", RELEASE_FILES)
def test_card_of_a_release(name):
    card = release_card(name)
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit" and header["library_name"] == "transformers" and header["pipeline_tag"]
    for heading in (
        "## Use",
        "## Intended use",
        "## Out of scope",
        "## Known biases",
        "## Data and licences",
        "## Citation",
        "## Results",
    ):
        assert heading in card
    assert "LAION-400M was taken offline" in card and "not measured here" in card
    # The authors' figures are theirs: none of them is in the header.
    assert "model-index" not in header and "93.8" not in card.split("---")[1]
    committed = (CARDS / f"farl-{name.replace('_', '-')}.md").read_text()
    assert committed == card, "run python scripts/write_model_cards.py"


def card(architecture: str, **options) -> ModelCard:
    config = farl_hf.FaRLConfig.from_preset("tiny")
    config.architectures = [architecture]
    return ModelCard(model_card(config, "me/model", **options))


def test_scores_are_in_the_header_and_in_a_table():
    result = {
        "dataset": "lapa",
        "split": "test",
        "precision": "bf16",
        "localisation": "five points",
        "metrics": {"all": {"fg_mean": 0.87654321, "nose": float("nan")}, "dark": {"fg_mean": 0.5}},
    }
    scores = measurements(result)
    assert [(score.subset, score.metric) for score in scores] == [("all", "fg_mean"), ("dark", "fg_mean")]
    found = card("FaRLForFaceParsing", measured=scores, base_model="me/base", datasets=["some/faces"])
    whole, dark = found.data.eval_results
    assert (whole.task_type, whole.dataset_type, whole.dataset_split) == ("image-segmentation", "lapa", "test")
    assert (whole.metric_type, whole.metric_value, dark.metric_value, dark.dataset_config) == (
        "fg_mean", 87.654, 50.0, "dark",
    )  # fmt: skip
    assert "| lapa test | all | fg_mean | 87.654 | five points, bf16 |" in found.text
    assert "Scores by subset" in found.text and "starting from `me/base`" in found.text
    assert found.data.datasets == ["some/faces"] and found.data["base_model_relation"] == "finetune"
    without = card("FaRLForFaceParsing")
    assert without.data.eval_results is None and "No score by group" in without.text


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (farl_hf.FaRLModel, {}),
        (farl_hf.FaRLForFaceParsing, {"num_labels": 3}),
        (farl_hf.FaRLForFaceAlignment, {"num_landmarks": 68}),
        (farl_hf.FaRLForImageClassification, {"num_labels": 4}),
    ],
)
def test_code_of_a_card_runs(model_class, options, tmp_path, capsys):
    small = {"image_size": 64, "head_channels": 32, "neck_channels": 32}
    config = farl_hf.FaRLConfig.from_preset("tiny", **(small | options if options else {}))
    model_class(config).save_pretrained(tmp_path / "model")
    if options:
        farl_hf.FaRLFaceImageProcessor(align="lapa", size=64, warp_factor=0.0).save_pretrained(tmp_path / "model")
    else:
        build_processor(96).save_pretrained(tmp_path / "model")
    for name in ("photo.jpg", "face.jpg"):
        Image.fromarray(skimage.data.astronaut()).save(tmp_path / name)
    text = ModelCard.load(write_model_card(tmp_path / "model", title="model")).text
    code = text.split("```python\n")[1].split("```")[0]
    with contextlib.chdir(tmp_path):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
    assert (tmp_path / "drawn.jpg").is_file() == (
        model_class in (farl_hf.FaRLForFaceParsing, farl_hf.FaRLForFaceAlignment)
    )


def test_code_of_an_adapters_card_runs(tmp_path, capsys):
    small = {"image_size": 64, "head_channels": 32, "neck_channels": 32}
    farl_hf.FaRLForPreTraining(farl_hf.FaRLConfig.from_preset("tiny")).save_pretrained(tmp_path / "base")
    model = farl_hf.FaRLForFaceParsing.from_pretrained(tmp_path / "base", num_labels=3, **small)
    add_adapter(model, ("pyramid", "decode_head"), rank=2).save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter" / TASK_CONFIG_FOLDER)
    farl_hf.FaRLFaceImageProcessor(align="lapa", size=64, warp_factor=0.0).save_pretrained(tmp_path / "adapter")
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photo.jpg")
    options = {"adapter_config": model.config, "base_model": "me/base"}
    text = ModelCard.load(write_model_card(tmp_path / "adapter", title="adapter", **options)).text
    code = text.split("```python\n")[1].split("```")[0]
    assert 'load_task_model("adapter").merge_and_unload()' in code
    with contextlib.chdir(tmp_path):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out and (tmp_path / "drawn.jpg").is_file()


def test_what_a_model_learnt_from():
    generated = card("FaRLModel", learnt_from="generated", base_model="none").text
    assert "generated faces alone" in generated and "LAION-400M" not in generated and "random weights" in generated
    assert "LAION-400M" in card("FaRLModel", source="a.pth").text
    assert "LAION-Face" in card("FaRLModel").text and "public web of 2021" not in card("FaRLModel").text


def test_eval_results(tmp_path):
    scores = [Measurement("lapa", "fg_mean", 91.5, notes="fp32"), Measurement("lapa", "fg_mean", 80.0, subset="dark")]
    (path,) = write_eval_results(tmp_path, scores, {"lapa": ("some/lapa", "parsing"), "wflw": ("some/wflw", "all")})
    assert path == tmp_path / ".eval_results/lapa.yaml"
    assert yaml.safe_load(path.read_text()) == [
        {
            "dataset": {"id": "some/lapa", "task_id": "parsing"},
            "value": 91.5,
            "notes": "fg_mean in percent, test, fp32",
        }
    ]
