"""Parsing, alignment and attribute models beyond Transformers' common tests."""

import golden_cases as cases
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from PIL import Image, ImageDraw
from torch import nn
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, Trainer, TrainingArguments

from farl_hf import (
    FaRLConfig,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLForPreTraining,
    optimize_for_inference,
)
from farl_hf.conversion.checkpoints import CheckpointError, convert_checkpoint
from farl_hf.datasets.labels import CELEBA_ATTRIBUTES, CELEBAMASK_HQ_LABELS, LAPA_LABELS
from farl_hf.models import modeling_farl

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}


def tiny_config(**kwargs) -> FaRLConfig:
    return FaRLConfig(**{"text_config": dict(TEXT), "vision_config": dict(VISION), "head_channels": 16, **kwargs})


def build(model_class, **kwargs):
    torch.manual_seed(0)
    return model_class(tiny_config(**kwargs))


def pixel_values(batch: int = 2, size: int = 32) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, size, size)


# ---------------------------------------------------------------------------------------------------------- losses


def test_parsing_loss_is_plain_cross_entropy_at_the_labels_size():
    model = build(FaRLForFaceParsing, num_labels=5, output_size=64).eval()
    labels = torch.randint(0, 5, (2, 64, 64))
    output = model(pixel_values(), labels=labels)
    assert output.logits.shape == (2, 5, 64, 64)
    per_pixel = -output.logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    assert output.loss.item() == pytest.approx(per_pixel.mean(dim=(1, 2)).mean().item(), rel=1e-5)
    labels[:, :32] = 255
    ignored = model(pixel_values(), labels=labels).loss
    assert ignored.item() == pytest.approx(per_pixel[:, 32:].mean().item(), rel=1e-5)
    assert model(pixel_values(), output_size=(7, 9)).logits.shape == (2, 5, 7, 9)
    assert build(FaRLForFaceParsing, num_labels=5)(pixel_values()).logits.shape == (2, 5, 32, 32)


def reference_alignment_losses(heatmaps: torch.Tensor, labels: torch.Tensor, size: int, radius: float) -> dict:
    """face_alignment/task.py written down again with loops over landmarks."""
    batch, points, height, width = heatmaps.shape
    coord, ce, l1, l2 = [], [], [], []
    resized = nn.functional.interpolate(heatmaps, size=(size, size), mode="bilinear", align_corners=False)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    v, u = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    for b in range(batch):
        for p in range(points):
            mass = heatmaps[b, p].sigmoid()
            mean_x, mean_y = (mass * x).sum() / mass.sum(), (mass * y).sum() / mass.sum()
            decoded = torch.stack([(mean_x + 0.5) / width, (mean_y + 0.5) / height])
            coord.append((decoded - labels[b, p]).square().sum().sqrt())
            centre = labels[b, p] * size - 0.5
            distance = ((u - centre[0]) ** 2 + (v - centre[1]) ** 2).sqrt()
            target = torch.exp(-8 * distance**2 / radius**2) * (distance <= radius)
            logits = resized[b, p]
            ce.append(nn.functional.binary_cross_entropy_with_logits(logits, target))
            l1.append((logits.sigmoid() - target).abs().mean())
            l2.append((logits - target).square().mean())
    return {name: torch.stack(v).mean() for name, v in {"coord": coord, "ce": ce, "l1": l1, "l2": l2}.items()}


def test_alignment_losses_and_their_gradients():
    model = build(
        FaRLForFaceAlignment,
        num_landmarks=3,
        heatmap_size=24,
        heatmap_radius=4.0,
        coord_loss_weight=2.0,
        heatmap_l1_loss_weight=0.5,
        heatmap_l2_loss_weight=0.25,
    ).eval()
    labels = torch.rand(2, 3, 2)
    output = model(pixel_values(), labels=labels)
    parts = reference_alignment_losses(output.heatmaps, labels, 24, 4.0)
    assert output.coord_loss.item() == pytest.approx(parts["coord"].item(), rel=1e-5)
    expected = 2 * parts["coord"] + parts["ce"] + 0.5 * parts["l1"] + 0.25 * parts["l2"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    got = torch.autograd.grad(output.loss, parameters, retain_graph=True)
    want = torch.autograd.grad(expected, parameters)
    assert all((a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6 for a, b in zip(got, want, strict=True))


def test_attribute_head_and_problem_types():
    model = build(FaRLForImageClassification, num_labels=4, problem_type="multi_label_classification").eval()
    output = model(pixel_values(), labels=torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]), output_hidden_states=True)
    head, tokens = model.classifier, output.hidden_states[-1]
    vectors = (tokens[:, 1:].mean(1), tokens[:, 1:].max(1).values, tokens[:, 0])
    norms = (head.norm_0, head.norm_1, head.norm_2)
    mixed = sum(norm(v) / 3 for norm, v in zip(norms, vectors, strict=True))  # fresh weights: softmax of zeros
    assert torch.allclose(output.logits, head.final_fc(mixed), atol=1e-5)
    regression = build(FaRLForImageClassification, num_labels=1)
    assert regression(pixel_values(), labels=torch.tensor([0.3, 4.0])).loss.ndim == 0
    single = build(FaRLForImageClassification, num_labels=4)
    assert single(pixel_values(), labels=torch.tensor([3, 0])).loss > 0


@pytest.mark.parametrize(
    "model_class, labels, message",
    [
        (FaRLForFaceParsing, torch.full((2, 32, 32), 7), "class ids from 7 to 7.*5 classes"),
        (FaRLForFaceParsing, torch.zeros(2, 1, 32, 32), "labels must be"),
        (FaRLForFaceAlignment, torch.rand(2, 4, 2), r"\(2, 3, 2\)"),
        (
            FaRLForFaceAlignment,
            torch.tensor([[[0, 0.0]] * 3, [[0, 0], [float("nan"), 0], [0, 0]]]),
            "landmark 1 of image 1",
        ),
        (FaRLForImageClassification, torch.tensor([5, 0]), "from 0 to 5"),
        (FaRLForImageClassification, torch.zeros(2, 3), r"\(2, 3\)"),
    ],
)
def test_bad_labels(model_class, labels, message):
    with pytest.raises(ValueError, match=message):
        build(model_class, num_labels=5, num_landmarks=3)(pixel_values(), labels=labels)


# --------------------------------------------------------------------------------------------------- loading, types


@pytest.mark.parametrize("model_class", [FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification])
def test_from_a_dual_encoder_only_the_head_is_new(tmp_path, model_class):
    build(FaRLForPreTraining).save_pretrained(tmp_path / "base")
    model, report = model_class.from_pretrained(
        tmp_path / "base", image_size=64, num_labels=5, num_landmarks=3, output_loading_info=True
    )
    assert not report["unexpected_keys"]
    assert {name.split(".")[0] for name in report["missing_keys"]} <= {
        "pyramid",
        "decode_head",
        "heatmap_head",
        "classifier",
    }
    assert model.vision_model.embeddings.position_embedding.weight.shape == (65, 32)
    model.save_pretrained(tmp_path / "task")
    again, report = model_class.from_pretrained(tmp_path / "task", output_loading_info=True)
    assert not any(report.values())
    values = pixel_values(size=64)
    torch.testing.assert_close(model.eval()(values)[0], again.eval()(values)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_class", [FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification])
def test_half_precision_compile_and_checkpointing(model_class):
    model = build(model_class, num_labels=5, num_landmarks=3).eval()
    values = pixel_values()
    with torch.no_grad():
        # Compiled before it has run once.
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(values)[0]
        plain = model(values)[0]
        assert torch.allclose(plain, compiled, atol=1e-5)
        half = build(model_class, num_labels=5, num_landmarks=3).eval().half()(values)
    if model_class is FaRLForFaceAlignment:
        assert half.landmarks.dtype == torch.float32, "decoding stays in full precision"
    assert (half[0].float() - plain).abs().max() < 0.05 * plain.abs().max()
    model.train()
    model.gradient_checkpointing_enable()
    labels = {
        FaRLForFaceParsing: torch.zeros(2, 32, 32, dtype=torch.long),
        FaRLForFaceAlignment: torch.full((2, 3, 2), 0.5),
        FaRLForImageClassification: torch.tensor([0, 1]),
    }[model_class]
    model(values, labels=labels).loss.backward()
    assert model.vision_model.embeddings.position_embedding.weight.grad.abs().sum() > 0


def test_asked_hidden_states_alone_are_returned():
    model = build(FaRLForFaceParsing, num_labels=5).eval()
    assert model(pixel_values()).hidden_states is None
    assert len(model(pixel_values(), output_hidden_states=True).hidden_states) == 5
    selected = model(pixel_values(), output_hidden_states=[-1]).hidden_states
    assert [h is not None for h in selected] == [False, False, False, False, True]


def test_images_that_are_too_small_for_the_head():
    for model in (build(FaRLForFaceParsing).eval(), optimize_for_inference(build(FaRLForFaceParsing))):
        with pytest.raises(ValueError, match="too small for the head"):
            model(torch.zeros(1, 3, 8, 32), interpolate_pos_encoding=True)


@pytest.mark.parametrize("model_class", [FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification])
def test_labels_on_an_accelerator_are_not_waited_for(model_class):
    """Reading a tensor of the device "meta" is an error, where on a GPU it is a synchronisation."""
    with torch.device("meta"):
        model = model_class(tiny_config(num_labels=5, num_landmarks=3))
        labels = {
            FaRLForFaceParsing: torch.zeros(2, 32, 32, dtype=torch.long),
            FaRLForFaceAlignment: torch.zeros(2, 3, 2),
            FaRLForImageClassification: torch.zeros(2, dtype=torch.long),
        }[model_class]
        assert model(torch.zeros(2, 3, 32, 32), labels=labels).loss.device.type == "meta"


def test_labels_that_are_all_ignored_change_nothing():
    model = build(FaRLForFaceParsing, num_labels=5)
    loss = model(pixel_values(), labels=torch.full((2, 32, 32), 255)).loss
    loss.backward()
    assert loss.item() == 0 and all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_bad_taps():
    with pytest.raises(ValueError, match="reads four layers"):
        build(FaRLForFaceParsing, out_indices=[1, 2])


# ------------------------------------------------------------------------------------------------- Trainer and LoRA


def segmentation_data(count: int = 8) -> list[dict]:
    torch.manual_seed(0)
    return [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.randint(0, 5, (32, 32))} for _ in range(count)]


def train(model, folder, **kwargs) -> Trainer:
    arguments = TrainingArguments(
        folder, max_steps=2, use_cpu=True, seed=1, disable_tqdm=True, logging_steps=1, **kwargs
    )
    trainer = Trainer(model, arguments, train_dataset=segmentation_data(), eval_dataset=segmentation_data(4))
    trainer.train()
    return trainer


def test_trainer_and_gradient_accumulation(tmp_path):
    losses = {}
    for steps in (1, 2):
        # Batch norm sees half batches when accumulating, hence frozen statistics for the comparison.
        model = build(FaRLForFaceParsing, num_labels=5, head_dropout=0.0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module
                module.eval()
                module.training = False
        trainer = train(model, tmp_path, per_device_train_batch_size=4 // steps, gradient_accumulation_steps=steps)
        losses[steps] = trainer.state.log_history[0]["loss"]
        assert "eval_loss" in trainer.evaluate()
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)


def test_lora_keeps_the_head_and_its_running_statistics(tmp_path):
    build(FaRLForPreTraining).save_pretrained(tmp_path / "base")
    base = FaRLForFaceParsing.from_pretrained(tmp_path / "base", num_labels=5)
    lora = LoraConfig(
        r=4,
        target_modules=r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj",
        modules_to_save=["pyramid", "decode_head"],
    )
    model = get_peft_model(base, lora)
    train(model, tmp_path / "run", per_device_train_batch_size=4)
    model.eval().save_pretrained(tmp_path / "adapter")
    expected = model(pixel_values=pixel_values()).logits
    statistics = base.decode_head.modules_to_save["default"].bottleneck.bn.running_mean
    assert statistics.abs().sum() > 0

    fresh = FaRLForFaceParsing.from_pretrained(tmp_path / "base", num_labels=5)
    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    # Not always the same bits: torch 2.11 differs by 1e-6.
    assert (again(pixel_values=pixel_values()).logits - expected).abs().max() < 1e-5
    merged = again.merge_and_unload()
    assert (merged(pixel_values()).logits - expected).abs().max() < 1e-5


def test_adapters_without_the_heads_statistics_are_warned_of(monkeypatch):
    warned = []
    monkeypatch.setattr(modeling_farl.logger, "warning_once", warned.append)
    targets = {"target_modules": ["q_proj"]}
    build(FaRLForFaceParsing).train()
    get_peft_model(build(FaRLForFaceParsing), LoraConfig(**targets, modules_to_save=["pyramid", "decode_head"])).train()
    assert not warned
    for saved in (None, ["decode_head"]):
        get_peft_model(build(FaRLForFaceParsing), LoraConfig(**targets, modules_to_save=saved)).train()
        assert "modules_to_save=['pyramid', 'decode_head']" in warned.pop()
    model = inject_adapter_in_model(LoraConfig(**targets), build(FaRLForFaceAlignment))
    assert model.train() is model and warned


# ------------------------------------------------------------------------------------------------------- converting


def official_tiny_state(head: str, num_outputs: int) -> dict[str, torch.Tensor]:
    """A trainer state of the official layout at the tiny preset's sizes, from our model's own tensors."""
    config = FaRLConfig.from_preset("tiny", num_labels=num_outputs, num_landmarks=num_outputs)
    model_class = FaRLForFaceParsing if head == "head" else FaRLForFaceAlignment
    torch.manual_seed(0)
    ours = {name: value.clone() for name, value in model_class(config).state_dict().items()}
    official = {
        "backbone.image_mean": torch.tensor(cases.seedgen.CLIP_MEAN).view(1, 3, 1, 1),
        "backbone.image_std": torch.tensor(cases.seedgen.CLIP_STD).view(1, 3, 1, 1),
        "backbone.visual.proj": torch.zeros(128, 512),
        "backbone.visual.ln_post.weight": torch.zeros(128),
        "backbone.visual.ln_post.bias": torch.zeros(128),
        "backbone.visual.class_embedding": ours.pop("vision_model.embeddings.class_embedding"),
        "backbone.visual.conv1.weight": ours.pop("vision_model.embeddings.patch_embedding.weight"),
        "backbone.visual.positional_embedding": ours.pop("vision_model.embeddings.position_embedding.weight"),
    }
    for leaf in ("weight", "bias"):
        official[f"backbone.visual.ln_pre.{leaf}"] = ours.pop(f"vision_model.pre_layrnorm.{leaf}")
        for i in range(config.vision_config.num_hidden_layers):
            layer, block = f"vision_model.encoder.layers.{i}", f"backbone.visual.transformer.resblocks.{i}"
            packed = [ours.pop(f"{layer}.self_attn.{x}_proj.{leaf}") for x in "qkv"]
            official[f"{block}.attn.in_proj_{leaf}"] = torch.cat(packed)
            for a, b in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                official[f"{block}.{a}.{leaf}"] = ours.pop(f"{layer}.{b}.{leaf}")
    for name, value in ours.items():
        module, rest = name.split(".", 1)
        official[f"backbone.{rest}" if module == "pyramid" else f"{head}.head.{rest}"] = value
    return official


def trainer_state(path, tensors: dict) -> None:
    raw = {name: value if "image_" in name else torch.zeros_like(value) for name, value in tensors.items()}
    networks = {"main": raw, "main_ema": tensors}
    torch.save({"epoch": 3, "networks": networks, "optimizer": ({}, {})}, path)


@pytest.mark.parametrize(
    "head, outputs, source, recipe",
    [
        ("head", 11, "trainer", {"align": "lapa", "warp_factor": 0.8, "convention": "farl"}),
        ("head", 11, "facer", {"align": "lapa", "warp_factor": 0.8, "convention": "facer"}),
        ("head", 19, "trainer", {"align": None, "warp_factor": 0.0, "convention": "farl"}),
        ("head", 19, "facer", {"align": "celebamask_hq", "warp_factor": 0.0, "convention": "facer"}),
        ("heatmap_head", 68, "trainer", {"align": "box", "target_face_scale": 0.8, "convention": "farl"}),
        ("heatmap_head", 19, "trainer", {"align": "box", "target_face_scale": 1.0, "convention": "farl"}),
        ("heatmap_head", 98, "facer", {"align": "lapa", "target_face_scale": 0.8, "convention": "facer"}),
    ],
)
def test_converted_folder_knows_its_recipe(tmp_path, head, outputs, source, recipe):
    tensors = official_tiny_state(head, outputs)
    path = tmp_path / "official.pth"
    if source == "trainer":
        trainer_state(path, tensors)
    elif head == "head":
        without = {name: value for name, value in tensors.items() if not name.endswith((".proj", "ln_post.bias"))}
        cases.write_torchscript(path, without)
    else:
        cases.write_facer_alignment(path, tensors)
    result = convert_checkpoint(path, tmp_path / "model")
    assert all("ln_post" in name or name.endswith((".proj", "image_mean", "image_std")) for name in result.left_out)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert {name: getattr(processor, name) for name in recipe} == recipe and processor.size == 96
    model_class = FaRLForFaceParsing if head == "head" else FaRLForFaceAlignment
    model, report = model_class.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values())
    weight = tensors[f"{head}.head.conv_seg.weight"]
    assert torch.equal(getattr(model, "decode_head" if head == "head" else head).conv_seg.weight, weight)
    if head == "head":
        names = LAPA_LABELS if outputs == 11 else CELEBAMASK_HQ_LABELS
        assert model.config.id2label == dict(enumerate(names)) and model.config.output_size == 512
    else:
        assert model.config.num_landmarks == outputs
    assert ("keypoint-detection" if head != "head" else "image-segmentation") in (
        tmp_path / "model/README.md"
    ).read_text()


def test_raw_weights_of_a_trainer_state(tmp_path):
    trainer_state(tmp_path / "state.pth", official_tiny_state("head", 11))
    convert_checkpoint(tmp_path / "state.pth", tmp_path / "model", use_ema=False)
    assert FaRLForFaceParsing.from_pretrained(tmp_path / "model").decode_head.conv_seg.weight.abs().max() == 0


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.visual."])
def test_attribute_file(tmp_path, prefix):
    torch.manual_seed(0)
    state = official_tiny_state("head", 11)
    tensors = {
        name.replace("backbone.visual.", prefix): value
        for name, value in state.items()
        if name.startswith("backbone.visual.") and not name.endswith((".proj", "ln_post.weight", "ln_post.bias"))
    }
    tensors |= {f"head.norm_{i}.{leaf}": torch.rand(128) for i in range(3) for leaf in ("weight", "bias")}
    tensors |= {"head.weights": torch.randn(1, 3, 1), "head.final_fc.weight": torch.randn(40, 128)}
    tensors |= {"head.final_fc.bias": torch.randn(40)}
    torch.save(tensors, tmp_path / "face_attribute.pt")
    convert_checkpoint(tmp_path / "face_attribute.pt", tmp_path / "model")
    model, report = FaRLForImageClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values()) and torch.equal(model.classifier.weights, tensors["head.weights"])
    assert model.config.id2label == dict(enumerate(CELEBA_ATTRIBUTES))
    assert model.config.problem_type == "multi_label_classification"
    assert AutoImageProcessor.from_pretrained(tmp_path / "model").align == "celeba"


def test_broken_task_files(tmp_path):
    tensors = official_tiny_state("head", 11)
    bad = {**tensors, "backbone.image_mean": torch.zeros(1, 3, 1, 1)}
    trainer_state(tmp_path / "mean.pth", bad)
    with pytest.raises(CheckpointError, match="image_mean"):
        convert_checkpoint(tmp_path / "mean.pth", tmp_path / "out")
    tensors.pop("head.head.bottleneck.conv.weight")
    trainer_state(tmp_path / "missing.pth", tensors)
    with pytest.raises(CheckpointError, match=r"decode_head\.bottleneck\.conv\.weight"):
        convert_checkpoint(tmp_path / "missing.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------- left and right


@pytest.mark.parametrize("names, eye_ids", [(LAPA_LABELS, (4, 5)), (CELEBAMASK_HQ_LABELS, (8, 9))])
def test_left_and_right_are_the_subjects_own(names, eye_ids):
    """
    A drawn face that winks. The official label maps give the eye on the image's left side the lower id, in LaPa
    (`left_eye` there means the image's left) as in CelebAMask-HQ (file suffix `l_eye`); on a face that looks at us
    that is the subject's right eye.
    """
    image = Image.new("L", (100, 100))
    draw = ImageDraw.Draw(image)
    open_eye, closed_eye = eye_ids
    draw.ellipse([20, 30, 40, 50], fill=open_eye)
    draw.line([60, 40, 80, 40], fill=closed_eye, width=3)
    labels = np.array(image)
    for class_id in eye_ids:
        on_image_left = np.nonzero(labels == class_id)[1].mean() < 50
        subjects_side = "right" if on_image_left else "left"
        assert names[class_id] == f"{subjects_side} eye"


def test_auto_class_opens_a_converted_parser(tmp_path):
    trainer_state(tmp_path / "state.pth", official_tiny_state("head", 11))
    convert_checkpoint(tmp_path / "state.pth", tmp_path / "model")
    assert type(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model")) is FaRLForFaceParsing


# --------------------------------------------------------------------------------------- the original's choices


@pytest.mark.parametrize("layers, taps", [(12, [4, 6, 8, 12]), (24, [8, 12, 16, 24]), (32, [9, 15, 21, 32])])
def test_taps_of_the_original(layers, taps):
    assert FaRLConfig(vision_config={"num_hidden_layers": layers}).out_indices == taps


def test_the_neck_reads_the_outputs_of_these_layers():
    model = build(FaRLForFaceParsing, out_indices=[1, 2, 3, 4]).eval()
    seen = []
    model.pyramid.register_forward_pre_hook(lambda module, arguments: seen.extend(arguments[0]))
    states = model(pixel_values(), output_hidden_states=True).hidden_states
    for tap, index in zip(seen, (1, 2, 3, 4), strict=True):
        assert torch.equal(tap, states[index][:, 1:].transpose(1, 2).reshape(2, 32, 4, 4))


def test_names_of_facer():
    """The class names of facer's parsing models (`face_parsing/farl.py`) say the same sides as ours."""
    sides = {"r": "right", "l": "left"}
    kinds = {"b": "eyebrow", "e": "eye", "r": "ear"}
    facer = {2: "rb", 3: "lb", 4: "re", 5: "le"}, {4: "rr", 5: "lr", 6: "rb", 7: "lb", 8: "re", 9: "le"}
    for names, short_names in zip((LAPA_LABELS, CELEBAMASK_HQ_LABELS), facer, strict=True):
        for index, short in short_names.items():
            assert names[index] == f"{sides[short[0]]} {kinds[short[1]]}"
    assert LAPA_LABELS[6:] == ["nose", "upper lip", "inner mouth", "lower lip", "hair"]
    assert CELEBAMASK_HQ_LABELS[10:15] == ["nose", "inner mouth", "lower lip", "upper lip", "hair"]
