"""Exported models give the model's numbers at other batch sizes than they were exported with."""

import pytest
import torch
from script_cases import load_script
from test_optimization import random_model

from farl_hf import FaRLBackbone, FaRLForFaceAlignment, FaRLForFaceParsing, FaRLForImageClassification, FaRLModel
from farl_hf.inference.export import export_onnx, export_program, exportable, onnx_difference

MODELS = (FaRLModel, FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification)


@pytest.mark.parametrize("model_class", MODELS)
def test_onnx(model_class, tmp_path):
    model = random_model(model_class)
    path = export_onnx(model, tmp_path / "model.onnx")
    for batch in (1, 5):
        assert onnx_difference(model, path, batch=batch) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_labels_inside(tmp_path):
    model = random_model(FaRLForFaceParsing)
    path = export_onnx(model, tmp_path / "model.onnx", argmax=True)
    assert onnx_difference(model, path, argmax=True) == 0
    with pytest.raises(ValueError, match="no label map"):
        export_onnx(random_model(FaRLForFaceAlignment), path, argmax=True)


@pytest.mark.parametrize("model_class", MODELS)
def test_program(model_class, tmp_path):
    model = random_model(model_class)
    export_program(model, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    module, inputs, _ = exportable(model)
    inputs["pixel_values"] = torch.randn(5, 3, 48, 48)
    with torch.no_grad():
        for ours, expected in zip(program(**inputs), module(**inputs), strict=True):
            assert torch.allclose(ours, expected, atol=1e-5)


def test_models_without_an_answer_are_refused():
    with pytest.raises(ValueError, match="FaRLBackbone cannot be exported"):
        exportable(FaRLBackbone(random_model(FaRLModel).config.vision_config))


def test_command(tmp_path, capsys):
    script = load_script("export")
    random_model(FaRLForFaceAlignment).save_pretrained(tmp_path / "model")
    assert script.main(["--model", str(tmp_path / "model"), "--output", str(tmp_path / "model.onnx")]) == 0
    assert "Written" in capsys.readouterr().out
    assert script.main(["--model", str(tmp_path / "none"), "--output", str(tmp_path / "model.onnx")]) == 2
