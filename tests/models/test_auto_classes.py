"""Auto classes, pipelines, and folders that work where the package is not installed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForKeypointDetection,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import farl_hf
from farl_hf.models.tokenization import build_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("auto") / "farl-tiny"
    farl_hf.FaRLForPreTraining(farl_hf.FaRLConfig.from_preset("tiny")).save_pretrained(folder)
    build_processor(96).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize(
    "auto_class, expected",
    [
        (AutoConfig, "FaRLConfig"),
        (AutoModel, "FaRLModel"),
        (AutoModelForPreTraining, "FaRLForPreTraining"),
        (AutoModelForZeroShotImageClassification, "FaRLModel"),
        (AutoModelForSemanticSegmentation, "FaRLForFaceParsing"),
        (AutoModelForKeypointDetection, "FaRLForFaceAlignment"),
        (AutoModelForImageClassification, "FaRLForImageClassification"),
        (AutoProcessor, "FaRLProcessor"),
        (AutoImageProcessor, "FaRLImageProcessor"),
        (AutoTokenizer, "CLIPTokenizer"),
    ],
)
def test_auto_class(folder, auto_class, expected):
    assert type(auto_class.from_pretrained(folder)).__name__ == expected


def test_image_processor_backends(folder, photo):
    pil = AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert type(pil) is farl_hf.FaRLImageProcessorPil
    other = AutoImageProcessor.from_pretrained(folder)
    difference = pil(photo, return_tensors="pt").pixel_values - other(photo, return_tensors="pt").pixel_values
    assert difference.abs().mean() < 0.01


def test_towers_and_backbone(folder):
    for config_class, model in (("text_config", "FaRLTextModel"), ("vision_config", "FaRLVisionModel")):
        config = getattr(AutoConfig.from_pretrained(folder), config_class)
        assert type(AutoModel.from_config(config)).__name__ == model
    vision_config = AutoConfig.from_pretrained(folder).vision_config
    vision_config.out_indices = [2, 4]
    backbone = AutoBackbone.from_config(vision_config)
    assert [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 96, 96)).feature_maps] == [(1, 128, 12, 12)] * 2


def test_saved_tower_opens_by_itself(folder, tmp_path):
    farl_hf.FaRLVisionModel.from_pretrained(folder).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is farl_hf.FaRLVisionModel


def test_zero_shot_pipeline(folder, photo):
    result = pipeline("zero-shot-image-classification", model=str(folder))(photo, candidate_labels=["a face", "a car"])
    assert {row["label"] for row in result} == {"a face", "a car"}
    assert sum(row["score"] for row in result) == pytest.approx(1, abs=1e-5)


def test_feature_extraction_pipeline(folder, photo):
    features = pipeline("image-feature-extraction", model=str(folder))(photo)
    assert np.asarray(features).shape == (1, 128)


def test_face_processor_is_found(tmp_path):
    processor = farl_hf.FaRLFaceImageProcessor(align=None, size=64, warp_factor=0.0, convention="facer")
    config = farl_hf.FaRLConfig.from_preset("tiny", image_size=64, num_labels=3)
    farl_hf.FaRLForFaceParsing(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is farl_hf.FaRLFaceImageProcessor
    assert again.to_dict() == processor.to_dict() and again.align is None


def test_task_folders_have_the_face_processor_and_nothing_else(tmp_path):
    processor = farl_hf.FaRLFaceImageProcessor(align=None, size=96)
    config = farl_hf.FaRLConfig.from_preset("tiny", num_labels=3)
    farl_hf.FaRLForFaceParsing(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    found = AutoProcessor.from_pretrained(tmp_path / "model")
    assert type(found) is farl_hf.FaRLFaceImageProcessor and found.to_dict() == processor.to_dict()
    with pytest.raises(ValueError, match="tokenizer"):
        AutoTokenizer.from_pretrained(tmp_path / "model")
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "model"))
    assert segmenter.tokenizer is None
    segmenter.save_pretrained(tmp_path / "again")
    saved = {path.name for path in (tmp_path / "again").iterdir()}
    assert saved == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert type(AutoProcessor.from_pretrained(tmp_path / "again")) is farl_hf.FaRLFaceImageProcessor
    farl_hf.export_remote_code(tmp_path / "again")
    auto_map = json.loads((tmp_path / "again/preprocessor_config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoProcessor", "AutoImageProcessor"}
    assert set(auto_map.values()) == {"image_processing_farl.FaRLFaceImageProcessor"}


def test_photos_are_not_squeezed_by_transformers_own_pipeline(tmp_path, photo):
    config = farl_hf.FaRLConfig.from_preset("tiny", num_labels=3)
    farl_hf.FaRLForFaceParsing(config).save_pretrained(tmp_path)
    farl_hf.FaRLFaceImageProcessor(align="lapa", size=96).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cuts faces out of photos"):
        pipeline("image-segmentation", model=str(tmp_path))(photo)


WITHOUT_PACKAGE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "farl_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
torch.manual_seed(0)
inputs = processor(text=["a face"], images=torch.rand(3, 100, 90), return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits_per_image.item())
"""


def test_remote_code_without_the_package(folder, tmp_path):
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    processor.save_pretrained(tmp_path)
    farl_hf.export_remote_code(tmp_path)
    run = [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path)]
    environment = {"HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.manual_seed(0)
    inputs = processor(text=["a face"], images=torch.rand(3, 100, 90), return_tensors="pt")
    with torch.no_grad():
        assert float(done.stdout.split()[-1]) == pytest.approx(model(**inputs).logits_per_image.item(), abs=1e-6)


def test_fine_tune_of_an_exported_folder_does_not_name_code_it_lacks(folder, tmp_path):
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "exported")
    farl_hf.export_remote_code(tmp_path / "exported")
    assert "auto_map" in json.loads((tmp_path / "exported/config.json").read_text())
    AutoModel.from_pretrained(tmp_path / "exported").save_pretrained(tmp_path / "tuned")
    assert "auto_map" not in json.loads((tmp_path / "tuned/config.json").read_text())


def test_export_refuses_other_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        farl_hf.export_remote_code(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="BertModel"):
        farl_hf.export_remote_code(tmp_path)


def test_import_is_light():
    code = (
        "import sys, farl_hf; "
        "print([m for m in ('datasets', 'evaluate', 'peft', 'cv2', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_works_without_torchvision(folder):
    code = (
        "import sys; sys.modules['torchvision'] = None; import farl_hf; "
        "from transformers import AutoProcessor; from PIL import Image; "
        f"processor = AutoProcessor.from_pretrained({str(folder)!r}); "
        "print(processor(text=['a'], images=Image.new('RGB', (50, 60)), return_tensors='pt').pixel_values.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch.Size([1, 3, 96, 96])" in done.stdout, done.stderr[-2000:]
