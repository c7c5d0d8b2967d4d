"""What wraps a model from outside: offloading, adapters, tracers; and batches of no images."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_dense_models import pixel_values
from test_dense_models import tiny_config as task_config
from test_modeling_farl import inputs, tiny_config

from farl_hf import (
    FaRLBackbone,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLForPreTraining,
    FaRLModel,
    FaRLVisionModel,
)

TASK_MODELS = (FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification)


def fresh(model_class):
    torch.manual_seed(0)
    if model_class in TASK_MODELS:
        return model_class(task_config(num_labels=5, num_landmarks=3)).eval()
    config = tiny_config()
    return model_class(config.vision_config if model_class in (FaRLVisionModel, FaRLBackbone) else config).eval()


def arguments(model_class) -> dict[str, torch.Tensor]:
    if model_class in (FaRLModel, FaRLForPreTraining):
        masked = {"bool_masked_pos": torch.arange(16).repeat(3, 1) % 3 == 0}
        return {**inputs(), **(masked if model_class is FaRLForPreTraining else {})}
    return {"pixel_values": pixel_values()}


def tensors(output) -> list[torch.Tensor]:
    values = output.to_tuple()
    return [x for v in values for x in (v if isinstance(v, tuple) else (v,)) if isinstance(x, torch.Tensor)]


# ------------------------------------------------------------------------------------------------------- offloading


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("model_class", [*TASK_MODELS, FaRLModel, FaRLForPreTraining, FaRLVisionModel, FaRLBackbone])
def test_weights_on_disk(tmp_path, model_class, share):
    """A device map whose memory holds a share of the weights: the others come from disk when a module is called."""
    model = fresh(model_class)
    model.save_pretrained(tmp_path / "model")
    size = sum(p.numel() * 4 for p in model.parameters())
    offloaded = model_class.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": int(share * size)},
        offload_folder=tmp_path / "offload",
    )
    assert any(p.device.type == "meta" for p in offloaded.parameters())
    with torch.no_grad():
        expected, got = model(**arguments(model_class)), offloaded(**arguments(model_class))
    for a, b in zip(tensors(expected), tensors(got), strict=True):
        assert (a - b).abs().max() < 1e-5 * a.abs().max()  # not to the bit: weights in a mapped file lie otherwise


@pytest.mark.parametrize("model_class", TASK_MODELS)
def test_cpu_offload_hooks_on_every_module(model_class):
    """accelerate's hooks as they are on a GPU: a module's own weights come when it is called and leave afterwards."""
    from accelerate import cpu_offload

    model = fresh(model_class)
    with torch.no_grad():
        expected = model(**arguments(model_class))
        offloaded = cpu_offload(fresh(model_class), execution_device=torch.device("cpu"))
        assert all(p.device.type == "meta" for p in offloaded.parameters())
        got = offloaded(**arguments(model_class))
    assert all(torch.equal(a, b) for a, b in zip(tensors(expected), tensors(got), strict=True))


# --------------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize(
    "model_class, target",
    [
        (FaRLForFaceParsing, "decode_head.bottleneck.conv"),
        (FaRLForFaceParsing, "decode_head.fpn_bottleneck.conv"),
        (FaRLForFaceAlignment, "heatmap_head.fpn_bottleneck.conv"),
        (FaRLForFaceParsing, "vision_model.embeddings.position_embedding"),
        (FaRLModel, "vision_model.embeddings.position_embedding"),
        (FaRLModel, "text_model.embeddings.position_embedding"),
        (FaRLForFaceParsing, "vision_model.embeddings.patch_embedding"),
    ],
)
def test_adapters_learn_wherever_they_sit(model_class, target):
    """An adapter changes what the model computes as its merged weight does, and gets a gradient."""
    plain = fresh(model_class)
    model = get_peft_model(fresh(model_class), LoraConfig(r=4, target_modules=target.replace(".", r"\."))).eval()
    given = arguments(model_class)
    with torch.no_grad():
        assert (tensors(plain(**given))[0] - tensors(model(**given))[0]).abs().max() < 1e-5  # B starts at zero
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    output = tensors(model(**given))[0]
    assert (output - tensors(plain(**given))[0]).abs().max() > 1e-3
    output.square().sum().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 and all(g is not None and g.abs().sum() > 0 for g in trained.values()), trained
    merged = model.merge_and_unload()
    assert (tensors(merged(**given))[0] - output).abs().max() < 1e-4 * output.abs().max()


# ---------------------------------------------------------------------------------------------------------- tracing


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("model_class", [FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification])
def test_jit_trace(model_class):
    model = fresh(model_class)
    model.config.return_dict = False
    traced = torch.jit.trace(model, pixel_values(), strict=False)
    other = pixel_values(batch=3)
    with torch.no_grad():
        expected, got = model(other), traced(other)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, got, strict=True))


# ------------------------------------------------------------------------------------------------------ empty batch


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_class", [*TASK_MODELS, FaRLModel, FaRLForPreTraining, FaRLVisionModel, FaRLBackbone])
def test_photos_without_faces_pass(model_class, attention):
    model = fresh(model_class)
    model.set_attn_implementation(attention)
    options = {"return_loss": False} if model_class is FaRLForPreTraining else {}
    full = arguments(model_class)
    with torch.no_grad():
        expected = model(**full, **options)
        got = model(**{name: value[:0] for name, value in full.items()}, **options)
    for a, b in zip(tensors(expected), tensors(got), strict=True):
        rest = a.shape[1:] if model_class is not FaRLModel or a.shape != (3, 3) else (0,)
        if model_class is not FaRLForPreTraining or a.shape != (3, 3):
            assert b.shape == (0, *rest)
