"""Full-size networks against the original's numbers for the same seeded weights (about 3 minutes on 2 cores)."""

import subprocess
import sys

import golden_cases as cases
import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPModel

from farl_hf import FaRLBackbone, FaRLForFaceAlignment, FaRLForFaceParsing, FaRLForPreTraining, FaRLModel
from farl_hf.conversion.checkpoints import convert_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dual_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual_encoder")
    torch.save({"state_dict": cases.state_dict("backbone")}, folder / "official.pth")
    convert_checkpoint(folder / "official.pth", folder / "farl-base")
    (folder / "official.pth").unlink()
    return folder / "farl-base"


def pixel_values(count: int) -> torch.Tensor:
    return cases.stack(count, lambda i: cases.seedgen.normal(f"clip/pixel_values/{i}", (3, 224, 224), 11))


def test_dual_encoder(dual_encoder):
    golden = cases.numbers("clip")
    model = FaRLModel.from_pretrained(dual_encoder)
    input_ids = torch.from_numpy(golden["token_ids"].astype(np.int64))
    with torch.no_grad():
        output = model(input_ids=input_ids, pixel_values=pixel_values(2))
    assert np.abs(output.image_embeds.numpy() - golden["image_embeds"]).max() < 1e-5
    assert np.abs(output.text_embeds.numpy() - golden["text_embeds"]).max() < 1e-5
    assert np.abs(output.logits_per_image.numpy() - golden["logits_per_image"]).max() < 1e-3
    hidden = output.vision_model_output.last_hidden_state
    assert cases.relative_error(hidden[:, ::8, ::8], golden["vision_last_hidden_slice"]) < 2e-5
    assert cases.relative_error(output.vision_model_output.pooler_output, golden["pooled"]) < 3e-5

    clip = CLIPModel.from_pretrained(dual_encoder)
    with torch.no_grad():
        clip_output = clip(input_ids=input_ids, pixel_values=pixel_values(2))
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        assert (clip_output[name] - output[name]).abs().max() < 1e-6


def test_contrastive_loss_and_gradients(dual_encoder):
    golden = cases.numbers("clip")
    model = FaRLModel.from_pretrained(dual_encoder).train()
    input_ids = torch.from_numpy(golden["token_ids"].astype(np.int64))
    loss = model(input_ids=input_ids, pixel_values=pixel_values(6), return_loss=True).loss
    loss.backward()
    assert float(loss) == pytest.approx(float(golden["clip_loss"]), rel=1e-5)
    wanted = dict(zip(cases.MANIFEST["clip"]["grad_keys"], golden["grad_norms"], strict=True))
    parameters = dict(model.named_parameters())
    for official, ours in {
        "visual.proj": "visual_projection.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "text_projection": "text_projection.weight",
        "logit_scale": "logit_scale",
    }.items():
        assert float(parameters[ours].grad.double().norm()) == pytest.approx(float(wanted[official]), rel=1e-3)


def test_masked_image_modelling(dual_encoder):
    golden = cases.numbers("clip")
    mask = cases.stack(2, lambda i: cases.seedgen.rng(f"mim/mask/{i}", 11).permutation(196) < 75)
    targets = torch.from_numpy(cases.seedgen.rng("mim/target", 11).integers(0, 8192, 150))
    model = FaRLForPreTraining.from_pretrained(dual_encoder)
    input_ids = torch.from_numpy(golden["token_ids"].astype(np.int64))[:2]
    with torch.no_grad():
        output = model(input_ids, pixel_values(2), bool_masked_pos=mask, mim_targets=targets)
    assert cases.relative_error(output.mim_logits[::5, ::64], golden["mim_logits_slice"]) < 3e-5
    assert float(output.mim_loss) == pytest.approx(float(golden["mim_loss"]), rel=1e-5)
    # The contrastive branch sees the clean image although both copies pass the encoder together.
    assert np.abs(output.image_embeds.numpy() - golden["image_embeds"]).max() < 1e-5


def test_loading_makes_no_second_copy_of_the_weights(dual_encoder):
    code = (
        "import resource, sys, farl_hf, transformers; "
        "name = sys.argv[1]; owner = farl_hf if hasattr(farl_hf, name) else transformers; "
        "getattr(owner, name).from_pretrained(sys.argv[2]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {}
    for name in ("FaRLModel", "CLIPModel"):
        run = [sys.executable, "-c", code, name, str(dual_encoder)]
        peaks[name] = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert peaks["FaRLModel"] <= 1.05 * peaks["CLIPModel"], peaks


def images(size: int) -> torch.Tensor:
    name, count = ("ds/{}", 2) if size == 448 else ("ds512", 1)
    return cases.stack(count, lambda i: cases.seedgen.unit_image(name.format(i), size, 31))


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    return model


@pytest.mark.parametrize("source", ["trainer state", "facer package"])
def test_face_parsing(tmp_path, source):
    golden = cases.numbers("parsing_lapa")
    path = tmp_path / "official.pth"
    if source == "trainer state":
        cases.write_trainer_state(path, "parsing_lapa")
    else:
        cases.write_torchscript(path, cases.state_dict("parsing_lapa"))
    convert_checkpoint(path, tmp_path / "model")
    path.unlink()
    model = FaRLForFaceParsing.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        logits = model(cases.normalise(images(448))).logits
    wanted = nn.functional.interpolate(torch.from_numpy(golden["head"]), size=(512, 512), mode="bilinear")
    assert logits.shape == (2, 11, 512, 512)
    assert (logits - wanted).abs().max() < 1e-3
    differing = np.flatnonzero((logits.argmax(1).numpy() != golden["mask_512"]).ravel())
    assert np.setdiff1d(differing, golden["ambiguous_512"]).size == 0
    if source == "facer package":
        return

    labels = cases.stack(2, lambda i: cases.seedgen.label_map(f"parsing_lapa/label/{i}", 512, 11, 31))
    with torch.no_grad():
        loss = model(cases.normalise(images(448)), labels=labels).loss
    assert float(loss) == pytest.approx(float(golden["eval_loss"]), rel=1e-5)
    loss = without_dropout(model.train())(cases.normalise(images(448)), labels=labels).loss
    loss.backward()
    assert float(loss) == pytest.approx(float(golden["train_loss"]), rel=1e-5)
    wanted = dict(zip(cases.MANIFEST["parsing_lapa"]["grad_keys"], golden["grad_norms"], strict=True))
    parameters = dict(model.named_parameters())
    for official, ours in {
        "backbone.visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "backbone.fpns.0.0.weight": "pyramid.fpns.0.0.weight",
        "head.head.fpn_bottleneck.conv.weight": "decode_head.fpn_bottleneck.conv.weight",
        "head.head.conv_seg.weight": "decode_head.conv_seg.weight",
    }.items():
        assert float(parameters[ours].grad.double().norm()) == pytest.approx(float(wanted[official]), rel=1e-3)


@pytest.mark.parametrize("source", ["trainer state", "facer package"])
def test_face_alignment(tmp_path, source):
    golden = cases.numbers("align_ibug300w")
    path = tmp_path / "official.pth"
    if source == "trainer state":
        cases.write_trainer_state(path, "align_ibug300w")
    else:
        cases.write_facer_alignment(path, cases.state_dict("align_ibug300w"))
    convert_checkpoint(path, tmp_path / "model")
    path.unlink()
    model = FaRLForFaceAlignment.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        output = model(cases.normalise(images(448)))
    assert cases.relative_error(output.heatmaps[:, :, ::8, ::8], golden["head_slice"]) < 1e-4
    # 0.01 pixel at 448
    assert np.abs(output.landmarks.numpy() - (golden["landmarks_px"] + 0.5) / 448).max() < 0.01 / 448
    if source == "facer package":
        return

    labels = torch.from_numpy(golden["target_landmarks_norm"])
    for mode in ("eval", "train"):
        without_dropout(model).train(mode == "train")
        output = model(cases.normalise(images(448)), labels=labels)
        assert float(output.coord_loss) == pytest.approx(float(golden[f"{mode}_coord_l1_loss"].mean()), rel=1e-4)
        assert float(output.heatmap_loss) == pytest.approx(float(golden[f"{mode}_heatmap_ce_loss"].mean()), rel=1e-4)
        assert float(output.loss) == pytest.approx(float(golden[f"{mode}_loss"].mean()), rel=1e-4)


def test_backbone_taps_equal_the_hidden_states(dual_encoder):
    backbone = FaRLBackbone.from_pretrained(dual_encoder, image_size=448, out_indices=[4, 6, 8, 12])
    table = backbone.embeddings.position_embedding.weight
    assert table.shape == (785, 768)
    stored = FaRLModel.from_pretrained(dual_encoder).vision_model.embeddings.position_embedding.weight
    resized = nn.functional.interpolate(
        stored[1:].t().reshape(1, 768, 14, 14), size=(28, 28), mode="bicubic", align_corners=False
    )
    assert torch.equal(table[1:], resized[0].flatten(1).t()) and torch.equal(table[0], stored[0])
