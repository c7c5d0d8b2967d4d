"""One tower with all heads, the augmentation that it trains with, and crops that are averaged down."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from joint_cases import random_joint_batch

from farl_hf import FaRLConfig, FaRLFaceImageProcessor
from farl_hf.finetuning.augmentation import NO_AUGMENTATION, SYNTHETIC_AUGMENTATION, augment_colours
from farl_hf.finetuning.joint import JointFaRL, save_models, soft_dice_loss
from farl_hf.models.geometry_farl import warp_image, warp_image_smoothly

SIZE, BATCH = 32, 4


@pytest.fixture(scope="module")
def joint():
    torch.manual_seed(0)
    config = FaRLConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 8,
            "stem_channels": [8],
        },
        text_config={
            "vocab_size": 600,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "bos_token_id": 598,
            "eos_token_id": 599,
        },
        projection_dim=8,
        mim_vocab_size=32,
        head_channels=8,
        neck_channels=8,
        heatmap_size=16,
    )
    return JointFaRL(config, ["Male", "Smiling"])


def random_batch():
    return random_joint_batch(BATCH, SIZE, patches=16, codes=32, caption=[598, 5, 6, 599], masked=2)


def test_every_part_of_it_learns(joint):
    joint.train()
    joint.zero_grad()
    losses = {}
    for step in range(4):  # both landmark layouts and both label sets take turns
        losses = joint(random_batch(), step)
        losses["loss"].backward()
    assert set(losses) == {"loss", "itc", "contrary", "mim", "parsing", "dice", "alignment", "attributes"}
    assert [name for name, p in joint.named_parameters() if p.grad is None or not p.grad.any()] == []
    joint.zero_grad()
    first = joint(random_batch(), tasks=False)
    assert set(first) == {"loss", "itc", "contrary", "mim"}


def test_true_captions_win_over_contrary_ones(joint):
    joint.eval()
    batch, dual = random_batch(), joint.dual
    with torch.no_grad():
        loss = joint(batch)["contrary"]
        face = dual.get_image_features(batch.pixel_values[batch.contrary_rows]).pooler_output
        true, false = (dual.get_text_features(ids).pooler_output for ids in batch.contrary_ids)
        cosines = [torch.cosine_similarity(face, text) for text in (true, false)]
        logits = torch.stack(cosines, dim=1) * dual.logit_scale.exp()
    # The likelihood of the true one of the two.
    assert abs(logits[0, 0] - logits[0, 1]) > 1e-3
    assert loss.item() == pytest.approx(-logits.log_softmax(dim=1)[:, 0].mean().item(), rel=1e-4)


def test_distances_count_in_units_of_the_eyes(joint):
    """The same mistake in pixels weighs more on a face whose eyes are near to each other, down to a least unit."""
    features = torch.zeros(BATCH, 8, SIZE, SIZE)
    batch = random_batch()
    joint.eval()
    losses = []
    for apart in (0.4, 0.2, 0.1, 0.001):
        points = torch.full((BATCH, 68, 2), 0.25)
        points[:, 36] = torch.tensor([0.5 - apart / 2, 0.25])
        points[:, 45] = torch.tensor([0.5 + apart / 2, 0.25])
        batch.landmarks[68] = points
        losses.append(joint._alignment_loss(features, batch, 68).item())
    assert losses[1] / losses[0] == pytest.approx(2, rel=0.2)
    assert losses[2] / losses[1] == pytest.approx(2, rel=0.2)
    assert losses[3] == pytest.approx(losses[2], rel=0.02)


def test_dice_is_the_missing_share_of_f1():
    labels = torch.tensor([[[0, 1, 1, 2]]])
    sure = 40 * torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert soft_dice_loss(sure, labels) < 1e-6
    wrong = labels.clone()
    wrong[0, 0, 3] = 1  # class 1: precision 2/3, recall 1; class 2 is missed
    decided = 40 * torch.nn.functional.one_hot(wrong, 4).permute(0, 3, 1, 2).float()
    assert soft_dice_loss(decided, labels).item() == pytest.approx(1 - (0.8 + 0.0) / 2, abs=1e-5)
    # The background does not count, alone it is no loss.
    assert soft_dice_loss(decided, torch.zeros_like(labels)) == 0


def test_its_parts_are_ordinary_models(joint, tmp_path):
    joint.eval()
    family = joint.models()
    batch = random_batch()
    with torch.no_grad():
        outputs = joint.dual.vision_model(batch.pixel_values, output_hidden_states=True)
        features = joint._dense_features(outputs.hidden_states)
        for name, labels in (("farl-tiny-parsing", "lapa"), ("farl-tiny-parsing-celebamask-hq", "celebamask_hq")):
            logits = joint._outputs(features, labels)
            found = family[name](batch.pixel_values, output_size=logits.shape[-1]).logits
            assert torch.allclose(found, logits, atol=1e-5), name
        for name, layout in (("farl-tiny-alignment", 68), ("farl-tiny-alignment-wflw", 98)):
            heatmaps = joint._outputs(features, layout)
            assert torch.allclose(family[name](batch.pixel_values).heatmaps, heatmaps, atol=1e-5), name
    assert family["farl-tiny-attributes"].config.id2label == {0: "Male", 1: "Smiling"}
    folders = save_models(joint, tmp_path)
    processor = FaRLFaceImageProcessor.from_pretrained(folders["farl-tiny-alignment"])
    assert (processor.size, processor.antialias) == (SIZE, True)
    again = type(family["farl-tiny-parsing"]).from_pretrained(folders["farl-tiny-parsing"])
    assert again.dtype == torch.float32


def test_synthetic_augmentation_keeps_the_picture_a_picture():
    image = torch.from_numpy(np.random.default_rng(0).random((3, 24, 24), dtype=np.float32))
    pictures = [augment_colours(image, SYNTHETIC_AUGMENTATION, np.random.default_rng(seed)) for seed in range(40)]
    for picture in pictures:
        assert picture.shape == image.shape and picture.isfinite().all()
        assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(pictures[3], augment_colours(image, SYNTHETIC_AUGMENTATION, np.random.default_rng(3)))
    assert torch.equal(augment_colours(image, NO_AUGMENTATION, np.random.default_rng(0)), image)


@pytest.mark.parametrize(
    "option",
    [{"light": 0.5}, {"tint": 0.2}, {"reduction": 0.3}, {"sensor_noise": 0.1}, {"patches": 1.0}, {"jpeg": 1.0}],
)
def test_each_option_does_something(option):
    image = torch.from_numpy(np.random.default_rng(0).random((3, 24, 24), dtype=np.float32))
    config = replace(NO_AUGMENTATION, **option)
    changed = [augment_colours(image, config, np.random.default_rng(seed)) for seed in range(8)]
    assert any(not torch.allclose(picture, image, atol=1e-3) for picture in changed)


def test_milder_augmentation_does_less_of_everything():
    half = SYNTHETIC_AUGMENTATION.milder(0.5)
    assert (half.shift, half.jpeg, half.flip) == (0.06, 0.15, 0.5)
    assert half.reduction == pytest.approx(1 - (1 - SYNTHETIC_AUGMENTATION.reduction) / 2)
    assert SYNTHETIC_AUGMENTATION.milder(1.0) == SYNTHETIC_AUGMENTATION
    image = torch.from_numpy(np.random.default_rng(0).random((3, 24, 24), dtype=np.float32))
    nothing = SYNTHETIC_AUGMENTATION.milder(0.0)
    assert torch.allclose(augment_colours(image, nothing, np.random.default_rng(0)), image, atol=1e-5)


@pytest.mark.parametrize("convention", ["farl", "facer"])
def test_smooth_crops(convention):
    # Columns of black and white, four pixels of which fall into one of the crop.
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)
    shift = (0.25 - 1) * (0.5 if convention == "farl" else 0.0)
    matrix = torch.tensor([[[0.25, 0, shift], [0, 0.25, shift], [0, 0, 1]]])
    crop = warp_image_smoothly(stripes, matrix, 16, convention=convention)
    assert torch.allclose(crop, torch.full_like(crop, 0.5), atol=1e-5)
    same = torch.eye(3)[None]
    picture = torch.rand(3, 16, 16)
    assert torch.equal(
        warp_image_smoothly(picture, same, 16, convention=convention),
        warp_image(picture[None], same, 16, convention=convention),
    )
    # A ramp tells whether the crop sits where it should.
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    smooth = warp_image_smoothly(ramp, matrix, 16, convention=convention)
    assert torch.allclose(smooth, warp_image(ramp[None], matrix, 16, convention=convention), atol=1e-4)
