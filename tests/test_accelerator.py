"""
What may differ on an accelerator: every network, the step of pre-training in low precision, codes, warps. Runs on the
one there is (`TRANSFORMERS_TEST_DEVICE` names another), else on the CPU; `scripts/gpu_check.py` runs it on a GPU.
"""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pretraining_cases import tiny_config, write_shards
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.testing_utils import torch_device

from farl_hf import FaRLFaceImageProcessor, FaRLForFaceAlignment, FaRLForFaceParsing, FaRLForPreTraining
from farl_hf.inference.optimization import optimize_for_inference
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.image_codebook import RandomProjectionCodebook
from farl_hf.pretraining.loop import pretrain
from farl_hf.pretraining.objective import PretrainingObjective, backward

pytestmark = pytest.mark.accelerator


def dense_model(model_class: type) -> torch.nn.Module:
    torch.manual_seed(0)
    head = {"out_indices": [1, 1, 2, 2], "head_channels": 20, "num_labels": 5, "num_landmarks": 7}
    return model_class(tiny_config(**(head if model_class is FaRLForFaceParsing else head | {"num_labels": 2}))).eval()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(10, 1000, (4, 9), generator=generator)
    input_ids[:, 7:] = 49407
    masks = torch.rand(4, 16, generator=generator) < 0.4
    masks[:, 0] = True
    pixels = torch.randint(0, 256, (4, 32, 32, 3), generator=generator).byte()
    return {"pixels": pixels, "input_ids": input_ids, "bool_masked_pos": masks}


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours.float().cpu() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("model_class", "output"), [(FaRLForFaceParsing, "logits"), (FaRLForFaceAlignment, "heatmaps")]
)
@torch.no_grad()
def test_dense_networks_plain_optimised_and_rounded(model_class, output):
    model = dense_model(model_class)
    pixel_values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = model(pixel_values=pixel_values)[output]
    moved, on_device = copy.deepcopy(model).to(torch_device), pixel_values.to(torch_device)
    found = moved(pixel_values=on_device)[output]
    assert found.device.type == torch_device and difference(found, expected) < 1e-3
    assert difference(optimize_for_inference(moved)(pixel_values=on_device)[output], expected) < 1e-3
    with torch.autocast(torch_device, torch.bfloat16):
        assert difference(moved(pixel_values=on_device)[output], expected) < 0.1
    assert difference(moved.bfloat16()(pixel_values=on_device.bfloat16())[output], expected) < 0.1


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_step_of_pretraining(own_precision, precision):
    if precision == "fp16" and torch_device == "cpu":
        pytest.skip("Accelerate's fp16 scales gradients on accelerators alone")

    def gradients(device: str, mixed_precision: str) -> tuple[dict, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
        objective = PretrainingObjective(FaRLForPreTraining(tiny_config()))
        optimizer = torch.optim.AdamW(objective.parameters())
        objective, optimizer = accelerator.prepare(objective, optimizer)
        content = {name: value.to(device) for name, value in batch().items()}
        losses = backward(
            accelerator, objective, [content], RandomProjectionCodebook(64, 32, 8).to(device), chunk_size=2
        )
        accelerator.unscale_gradients(optimizer)
        assert losses["itc_loss"].dtype == losses["mim_loss"].dtype == torch.float32
        return losses, {name: p.grad.cpu() for name, p in objective.named_parameters()}

    expected_losses, expected = gradients("cpu", "no")
    losses, found = gradients(torch_device, precision)
    tolerance = 1e-3 if precision == "no" else 0.1
    for name, value in losses.items():
        if name.endswith("loss"):
            assert abs(float(value) - float(expected_losses[name])) < tolerance * float(expected_losses[name])
    for name in ("model.mim_head.weight", "model.visual_projection.weight", "model.text_projection.weight"):
        assert difference(found[name], expected[name]) < tolerance, name


def test_codes_are_those_of_the_cpu():
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    codebook = RandomProjectionCodebook(256, 32, 8)
    expected = codebook(pixels)
    found = codebook.to(torch_device)(pixels.to(torch_device))
    assert found.device.type == torch_device and (found.cpu() == expected).float().mean() > 0.95


def test_a_run_learns_in_low_precision(own_precision, tmp_path):
    settings = {"train_shards": write_shards(tmp_path / "shards", 2, 8), "output_dir": str(tmp_path / "run")}
    settings |= {"device": "cpu" if torch_device == "cpu" else "auto", "mixed_precision": "bf16", "progress_bar": False}
    settings |= {"batch_size": 4, "num_workers": 0, "max_steps": 2, "warmup_steps": 1, "logging_steps": 1}
    torch.manual_seed(0)
    FaRLForPreTraining(tiny_config()).save_pretrained(tmp_path / "tiny")
    result = pretrain(PretrainConfig.from_recipe("demo", init_from=str(tmp_path / "tiny"), **settings))
    assert result.steps == 2 and result.skipped_steps == 0
    again = FaRLForPreTraining.from_pretrained(result.output_dir)
    assert next(again.parameters()).dtype == torch.float32, "master weights stay whole"


def test_crops_of_faces_and_the_way_back():
    processor = FaRLFaceImageProcessor(align="box", size=32)
    image = torch.randint(0, 256, (3, 60, 80), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 15.0, 50.0, 45.0]])
    expected, found = (processor(moved, boxes=boxes) for moved in (image, image.to(torch_device)))
    assert found["pixel_values"].device.type == torch_device
    assert difference(found["pixel_values"], expected["pixel_values"]) < 1e-3
    logits = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(4))
    labels = [
        processor.post_process_semantic_segmentation(SemanticSegmenterOutput(logits=values), inputs["face_transforms"])[
            0
        ].cpu()
        for values, inputs in ((logits, expected), (logits.to(torch_device), found))
    ]
    assert labels[0].shape == (60, 80) and (labels[0] == labels[1]).float().mean() > 0.99
