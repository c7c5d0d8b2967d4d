"""Exported models give the model's numbers at other batch sizes than they were exported with."""

import sys

import pytest
import torch
from PIL import Image
from script_cases import load_script
from test_optimization import random_model

from farl_hf import (
    FaRLBackbone,
    FaRLFaceImageProcessor,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLModel,
)
from farl_hf.inference.export import (
    LANDMARK_TOLERANCE,
    export_executorch,
    export_int8_onnx,
    export_onnx,
    export_openvino,
    export_program,
    exportable,
    onnx_difference,
    tolerance,
)
from farl_hf.inference.optimization import optimize_for_inference

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


def test_landmarks_of_a_dark_background(tmp_path):
    """Where most of the mass is background: onnxruntime's own Sigmoid is off by several times the tolerance."""
    model = random_model(FaRLForFaceAlignment)
    with torch.no_grad():
        model.heatmap_head.conv_seg.weight *= 8
        model.heatmap_head.conv_seg.bias -= 14
    path = export_onnx(model, tmp_path / "model.onnx")
    assert onnx_difference(model, path) < LANDMARK_TOLERANCE / 4
    assert tolerance(model) == LANDMARK_TOLERANCE


@pytest.mark.parametrize("model_class", (FaRLForFaceParsing, FaRLForFaceAlignment))
def test_onnx_of_the_optimised_copy(model_class, tmp_path):
    model = random_model(model_class)
    path = export_onnx(optimize_for_inference(model), tmp_path / "model.onnx")
    for batch in (1, 5):
        assert onnx_difference(model, path, batch=batch) < tolerance(model)


@pytest.mark.parametrize(
    "model_class", (FaRLForFaceParsing, pytest.param(FaRLForFaceAlignment, marks=pytest.mark.slow))
)
def test_int8(model_class, tmp_path):
    import onnx

    model = random_model(model_class)
    pixel_values = torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    path = export_int8_onnx(model, tmp_path / "model.onnx", pixel_values)
    difference = onnx_difference(model, path, pixel_values=pixel_values)
    assert 1e-5 < difference < (0.02 if model_class is FaRLForFaceAlignment else 0.15)
    graph = onnx.load(path).graph
    # Every weight of the head's 3x3 convolutions is an 8-bit one, per channel.
    weights = {w.name: w for w in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    dequantised = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    assert len(convolutions) >= 6
    for node in convolutions:
        source = dequantised[node.input[1]]
        assert weights[source.input[0]].data_type == onnx.TensorProto.INT8
        assert len(weights[source.input[1]].dims) == 1
    # Products are rounded before the next one, not behind themselves: softmax and sums are in fp32.
    products = {node.output[0] for node in graph.node if node.op_type in ("MatMul", "Gemm")}
    assert products and not any(node.op_type == "QuantizeLinear" and node.input[0] in products for node in graph.node)
    with pytest.raises(ValueError, match="empty"):
        export_int8_onnx(model, path, pixel_values[:0])
    with pytest.raises(ValueError, match="takes a task model"):
        export_int8_onnx(random_model(FaRLModel), path, pixel_values)


def test_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = random_model(FaRLForFaceParsing)
    path = export_openvino(model, tmp_path / "model.xml")
    network = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixel_values = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
    found = torch.from_numpy(network({"pixel_values": pixel_values.numpy()})["logits"])
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("model_class", (FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification))
def test_executorch(model_class, tmp_path):
    """Where executorch 1.5.1 is installed, which is in no extra."""
    runtime = pytest.importorskip("executorch.runtime").Runtime.get()
    model = random_model(model_class)
    program = runtime.load_program(export_executorch(model, tmp_path / "model.pte"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    pixel_values = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values)
    found = program.load_method("forward").execute([pixel_values])
    for output, reference in zip(found, expected.values(), strict=True):
        assert float((output - reference).abs().max() / reference.abs().max()) < 1e-4


def test_missing_packages_are_named(monkeypatch, tmp_path):
    for name in ("onnxscript", "onnxruntime.quantization", "openvino", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    model, pixel_values = random_model(FaRLForFaceParsing), torch.zeros(1, 3, 48, 48)
    with pytest.raises(ImportError, match=r"farl_hf\[export\]"):
        export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(ImportError, match=r"farl_hf\[export\]"):
        export_int8_onnx(model, tmp_path / "model.onnx", pixel_values)
    with pytest.raises(ImportError, match=r"farl_hf\[openvino\]"):
        export_openvino(model, tmp_path / "model.xml")
    with pytest.raises(ImportError, match="executorch=="):
        export_executorch(model, tmp_path / "model.pte")
    assert not list(tmp_path.iterdir())


def test_export_leaves_the_mode(tmp_path):
    model = random_model(FaRLForFaceParsing).train()
    model.vision_model.eval()
    modes = [module.training for module in model.modules()]
    export_program(model)
    onnx_difference(model, export_onnx(model, tmp_path / "model.onnx"))
    assert [module.training for module in model.modules()] == modes


def test_command(tmp_path, capsys):
    script = load_script("export")
    random_model(FaRLForFaceAlignment).save_pretrained(tmp_path / "model")
    assert script.main(["--model", str(tmp_path / "model"), "--output", str(tmp_path / "model.onnx")]) == 0
    assert "Written" in capsys.readouterr().out
    assert script.main(["--model", str(tmp_path / "none"), "--output", str(tmp_path / "model.onnx")]) == 2


def test_command_fails_where_the_comparison_fails(tmp_path, capsys, monkeypatch):
    script = load_script("export")
    random_model(FaRLForFaceParsing).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(script, "export_onnx", lambda model, path, argmax: path.write_bytes(b""))
    monkeypatch.setattr(script, "onnx_difference", lambda *args, **kwargs: 2e-4)
    arguments = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "model.onnx"), "--optimize"]
    assert script.main(arguments) == 1
    assert "does not give the model's numbers" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_command_in_8_bits(tmp_path, capsys):
    script = load_script("export")
    random_model(FaRLForFaceParsing).save_pretrained(tmp_path / "model")
    FaRLFaceImageProcessor(align="lapa", size=48, warp_factor=0.0).save_pretrained(tmp_path / "model")
    crops = tmp_path / "crops"
    crops.mkdir()
    arguments = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "m.onnx"), "--int8", str(crops)]
    assert script.main(arguments) == 2
    assert "has no pictures" in capsys.readouterr().err
    for number in range(3):
        Image.effect_noise((64, 64), 40 * (number + 1)).convert("RGB").save(crops / f"{number}.png")
    assert script.main(arguments) == 0
    assert "In onnxruntime" in capsys.readouterr().out


def test_command_on_a_clip_folder(tmp_path, capsys):
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=dict(sizes), vision_config={**sizes, "image_size": 16, "patch_size": 8})
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    arguments = ["--model", str(tmp_path / "clip"), "--output", str(tmp_path / "model.onnx")]
    assert load_script("export").main(arguments) == 2
    assert "names CLIPModel, no model of farl_hf" in capsys.readouterr().err
