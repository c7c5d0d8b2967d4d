"""Copies for inference give the model's own numbers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from farl_hf import FaRLConfig, FaRLForFaceAlignment, FaRLForFaceParsing, FaRLForImageClassification, FaRLModel
from farl_hf.inference.optimization import (
    EnlargingConv,
    WinogradConv,
    optimize_for_inference,
    quantize_for_inference,
    winograd_matrices,
)
from farl_hf.models.dense_head_farl import conv3x3_over_enlarged

TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 8,
}


def random_model(model_class, **fields):
    torch.manual_seed(0)
    config = FaRLConfig(
        text_config=dict(TEXT), vision_config=dict(VISION), out_indices=[1, 1, 2, 2], projection_dim=16,
        head_channels=20, num_landmarks=7, heatmap_size=24, **fields,
    )  # fmt: skip
    model = model_class(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


def difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("size", (48, 40, 72))
@pytest.mark.parametrize("neck_channels", (None, 12))
@pytest.mark.parametrize(
    ("model_class", "output"), ((FaRLForFaceParsing, "logits"), (FaRLForFaceAlignment, "heatmaps"))
)
def test_dense_copy_gives_the_same_maps(model_class, output, neck_channels, size):
    model = random_model(model_class, neck_channels=neck_channels)
    before = copy.deepcopy(model.state_dict())
    optimized = optimize_for_inference(model)
    for batch in (1, 3):
        pixel_values = torch.randn(batch, 3, size, size + 8)
        options = {"pixel_values": pixel_values, "interpolate_pos_encoding": True}
        # Users may forget `no_grad`.
        assert difference(optimized(**options)[output], model(**options)[output]) < 1e-5
    # The model is as it was, and can still train.
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(isinstance(m, nn.Dropout2d | nn.BatchNorm2d) for m in optimized.modules())


def test_a_copy_is_not_taken_for_a_model(tmp_path):
    """A copy of a copy would scale its matrices again; its weights have names that no model takes for its own."""
    for model_class in (FaRLModel, FaRLForFaceParsing):
        optimized = optimize_for_inference(random_model(model_class))
        for function in (optimize_for_inference, quantize_for_inference):
            with pytest.raises(ValueError, match="copy for inference already"):
                function(optimized)
        with pytest.raises(RuntimeError, match="Missing key"):
            random_model(model_class).load_state_dict(optimized.state_dict())
        with pytest.raises(ValueError, match="copy for inference"):
            optimized.push_to_hub("somebody/something")


def test_adapters_must_be_merged_first():
    peft = pytest.importorskip("peft")
    model = random_model(FaRLForFaceParsing)
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["pyramid", "decode_head"])
    )
    for given in (wrapped, model):
        with pytest.raises(ValueError, match="merge_and_unload"):
            optimize_for_inference(given)
    assert (
        difference(
            *(
                m(torch.ones(1, 3, 48, 48)).logits
                for m in (optimize_for_inference(wrapped.merge_and_unload()), model.eval())
            )
        )
        < 1e-5
    )


def test_copy_of_a_model_in_training():
    model = random_model(FaRLForFaceParsing)
    pixel_values = torch.randn(2, 3, 48, 48)
    expected = model(pixel_values).logits
    optimized = optimize_for_inference(model.train())
    assert model.training and not any(module.training for module in optimized.modules())
    assert difference(optimized(pixel_values).logits, expected) < 1e-5


@pytest.mark.parametrize("model_class", (FaRLModel, FaRLForImageClassification))
def test_copies_of_other_models(model_class):
    model = random_model(model_class)
    optimized = optimize_for_inference(model)
    inputs = {"pixel_values": torch.randn(2, 3, 48, 48)}
    if model_class is FaRLModel:
        inputs["input_ids"] = torch.tensor([[5, 6, 7, 49407], [8, 9, 49407, 49407]])
    name = "logits_per_image" if model_class is FaRLModel else "logits"
    with torch.no_grad():
        assert difference(optimized(**inputs)[name], model(**inputs)[name]) < 1e-5


def test_copies_do_not_pretend_to_be_checkpoints(tmp_path):
    optimized = optimize_for_inference(random_model(FaRLForFaceParsing))
    with pytest.raises(ValueError, match="save the model it was made of"):
        optimized.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="float32"):
        optimize_for_inference(random_model(FaRLForFaceParsing).to(torch.bfloat16))
    with pytest.raises(ValueError, match="not Linear"):
        optimize_for_inference(nn.Linear(1, 1))


def test_compiled_copy_gives_the_same_maps():
    model = random_model(FaRLForFaceParsing)
    compiled = torch.compile(optimize_for_inference(model), backend="aot_eager")
    pixel_values = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert difference(compiled(pixel_values).logits, model(pixel_values).logits) < 1e-5


def test_winograd_matrices_are_exact():
    """In float64, against the definition of a correlation."""
    inputs, kernel, outputs = winograd_matrices((0.0, 1.0, -1.0, 2.0, -2.0))
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=6), generator.normal(size=3)
    result = outputs @ ((kernel @ weights) * (inputs @ x))
    assert np.abs(result - np.correlate(x, weights, "valid")).max() < 1e-12


@pytest.mark.parametrize("size", ((4, 4), (5, 9), (1, 2), (30, 50)))
def test_winograd_convolution(size):
    torch.manual_seed(0)
    weight, bias = torch.randn(6, 768, 3, 3), torch.randn(6)
    x = torch.randn(2, 768, *size)
    expected = nn.functional.conv2d(x, weight, bias, padding=1)
    result = WinogradConv(weight, bias)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert difference(result, expected) < 1e-5


def test_enlarging_convolution():
    torch.manual_seed(0)
    maps = [torch.randn(2, channels, side, side + 1) for channels, side in ((5, 12), (4, 6), (3, 5))]
    weight, bias = torch.randn(300, 12, 3, 3), torch.randn(300)
    expected = conv3x3_over_enlarged(maps, weight) + bias[:, None, None]
    layer = EnlargingConv(weight, bias, [5, 4, 3])
    result = layer([m.permute(0, 2, 3, 1) for m in maps]).permute(0, 3, 1, 2)
    assert difference(result, expected) < 1e-5


@pytest.mark.parametrize("model_class", (FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification))
def test_bf16_autocast_stays_close(model_class):
    model = random_model(model_class)
    name = "heatmaps" if model_class is FaRLForFaceAlignment else "logits"
    pixel_values = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = model(pixel_values)[name]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = model(pixel_values)[name]
    assert 0 < difference(result.float(), expected) < 0.05


def test_quantised_copy_stays_close():
    pytest.importorskip("torchao")
    model = random_model(FaRLForFaceParsing)
    quantized = quantize_for_inference(model)
    pixel_values = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected, result = model(pixel_values).logits, quantized(pixel_values).logits
    assert 0 < difference(result, expected) < 0.1
    with pytest.raises(ValueError, match="save the model"):
        quantized.save_pretrained("nowhere")
