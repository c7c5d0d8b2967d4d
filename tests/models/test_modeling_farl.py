"""What the common tests of Transformers (see test_common_modeling.py) do not ask of the dual encoder."""

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from farl_hf import (
    FaRLBackbone,
    FaRLConfig,
    FaRLForPreTraining,
    FaRLModel,
    FaRLTextModel,
    FaRLVisionConfig,
    FaRLVisionModel,
)
from farl_hf.conversion.checkpoint_files import CheckpointError
from farl_hf.conversion.checkpoints import openai_state_dict
from farl_hf.models.modeling_farl import halves, resize_position_table

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**TEXT, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8}


def tiny_config(**kwargs) -> FaRLConfig:
    config = {
        "text_config": {**TEXT, "vocab_size": 99, "max_position_embeddings": 16, "eos_token_id": 98},
        "vision_config": dict(VISION),
        "projection_dim": 24,
        "mim_vocab_size": 50,
    }
    return FaRLConfig(**{**config, **kwargs})


def inputs(batch: int = 3, size: int = 32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    input_ids = torch.randint(1, 97, (batch, 9))
    input_ids[:, 6] = 98
    attention_mask = torch.ones_like(input_ids)
    attention_mask[:, 7:] = 0
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(batch, 3, size, size),
    }


@pytest.fixture(scope="module")
def pretraining_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretraining")
    FaRLForPreTraining(tiny_config()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_equal_to_clip(tmp_path, attention):
    torch.manual_seed(0)
    model = FaRLModel(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    config = CLIPConfig.from_pretrained(tmp_path)
    clip = CLIPModel.from_pretrained(tmp_path, config=config, attn_implementation=attention).eval()
    model.set_attn_implementation(attention)
    assert clip.state_dict().keys() == model.state_dict().keys()
    ours, theirs = model(**inputs(), return_loss=True), clip(**inputs(), return_loss=True)
    for name in ("loss", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
        assert (ours[name] - theirs[name]).abs().max() < 1e-6, name


def test_padding_does_not_matter():
    model = FaRLModel(tiny_config()).eval()
    batch = inputs()
    padded = model(**batch).text_embeds
    unpadded = model(input_ids=batch["input_ids"][:, :7]).text_embeds
    assert (padded - unpadded).abs().max() < 1e-6


def test_one_modality_alone():
    model = FaRLModel(tiny_config()).eval()
    batch = inputs()
    both = model(**batch)
    image_only = model(pixel_values=batch["pixel_values"])
    text_only = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert torch.equal(image_only.image_embeds, both.image_embeds) and image_only.logits_per_image is None
    assert torch.equal(text_only.text_embeds, both.text_embeds) and text_only.vision_model_output is None
    with pytest.raises(ValueError, match="needs pixel_values, input_ids, or both"):
        model()
    with pytest.raises(ValueError, match="one text"):
        model(pixel_values=batch["pixel_values"], return_loss=True)


def test_checkpoint_of_pretraining_serves_every_class_quietly(pretraining_folder):
    for model_class in (FaRLModel, FaRLTextModel, FaRLVisionModel, FaRLBackbone, FaRLForPreTraining):
        _, report = model_class.from_pretrained(pretraining_folder, output_loading_info=True)
        assert not any(report.values()), (model_class, report)


def test_pretraining_starts_from_a_dual_encoder(tmp_path):
    FaRLModel(tiny_config()).save_pretrained(tmp_path)
    _, report = FaRLForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] and all(
        name.startswith("mim_") or name == "mask_token" for name in report["missing_keys"]
    )


def test_tower_of_a_dual_encoder_gives_the_same_features(pretraining_folder):
    model = FaRLModel.from_pretrained(pretraining_folder)
    tower = FaRLVisionModel.from_pretrained(pretraining_folder)
    pixel_values = inputs()["pixel_values"]
    assert torch.equal(tower(pixel_values).pooler_output, model.vision_model(pixel_values).pooler_output)


def reference_pretraining_loss(model: FaRLForPreTraining, batch: dict, mask: torch.Tensor, targets: torch.Tensor):
    """Section 3 of the paper in two separate passes, from the model's own parts."""
    vision = model.vision_model
    patches = vision.embeddings.patch_embedding(batch["pixel_values"]).flatten(2).transpose(1, 2)

    def encode(patches: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([vision.embeddings.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        hidden = vision.pre_layrnorm(tokens + vision.embeddings.position_embedding.weight)
        for layer in vision.encoder.layers:
            hidden = layer(hidden)
        return hidden

    image = model.visual_projection(vision.post_layernorm(encode(patches)[:, 0]))
    text = model.text_projection(model.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output)
    logits = nn.functional.normalize(image) @ nn.functional.normalize(text).t() * model.logit_scale.exp()
    diagonal = torch.arange(len(logits))
    itc = (nn.functional.cross_entropy(logits, diagonal) + nn.functional.cross_entropy(logits.t(), diagonal)) / 2

    corrupted = patches.clone()
    corrupted[mask] = model.mask_token
    hidden = encode(corrupted)
    for layer in model.mim_encoder.layers:
        hidden = layer(hidden)
    codes = model.mim_head(model.mim_layernorm(hidden[:, 1:]))
    return itc, nn.functional.cross_entropy(codes[mask], targets[mask])


def test_pretraining_losses_and_gradients():
    torch.manual_seed(0)
    model = FaRLForPreTraining(tiny_config(mim_loss_weight=0.5))
    batch = inputs()
    mask = torch.rand(3, 16) < 0.4
    targets = torch.randint(0, 50, (3, 16))
    output = model(**batch, bool_masked_pos=mask, mim_targets=targets)
    itc, mim = reference_pretraining_loss(model, batch, mask, targets)
    assert output.itc_loss.item() == pytest.approx(itc.item(), rel=1e-5)
    assert output.mim_loss.item() == pytest.approx(mim.item(), rel=1e-5)
    assert output.loss.item() == pytest.approx((itc + 0.5 * mim).item(), rel=1e-5)

    got = torch.autograd.grad(output.loss, list(model.parameters()))
    want = torch.autograd.grad(itc + 0.5 * mim, list(model.parameters()))
    for (name, _), a, b in zip(model.named_parameters(), got, want, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6, name


def test_pretraining_branches_alone():
    model = FaRLForPreTraining(tiny_config()).eval()
    batch = inputs()
    mask = torch.rand(3, 16) < 0.4
    targets = torch.randint(0, 50, (3, 16))
    both = model(**batch, bool_masked_pos=mask, mim_targets=targets)
    masked_only = model(pixel_values=batch["pixel_values"], bool_masked_pos=mask, mim_targets=targets[mask])
    assert torch.allclose(masked_only.loss, both.mim_loss, atol=1e-6) and masked_only.image_embeds is None
    contrastive_only = model(**batch)
    assert torch.allclose(contrastive_only.loss, both.itc_loss, atol=1e-6) and contrastive_only.mim_logits is None
    assert model(**batch, bool_masked_pos=mask, return_loss=False).loss is None
    with pytest.raises(ValueError, match="bool_masked_pos has shape"):
        model(**batch, bool_masked_pos=mask[:, :5])
    with pytest.raises(ValueError, match="needs pixel_values"):
        model(pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("eos_token_id", [2, 98, [98], [97, 98]])
def test_end_of_text(tmp_path, eos_token_id):
    """CLIP's older configs say 2 where the vocabulary ends in the end token; others have several end tokens."""
    torch.manual_seed(0)
    model = FaRLModel(tiny_config(text_config={**tiny_config().text_config.to_dict(), "eos_token_id": eos_token_id}))
    model.eval().save_pretrained(tmp_path)
    batch = inputs()
    batch["input_ids"][0, 4] = 97
    end = torch.tensor([4 if eos_token_id == [97, 98] else 6, 6, 6])
    tower = model.text_model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(tower.pooler_output, tower.last_hidden_state[torch.arange(3), end])
    if isinstance(eos_token_id, int):
        clip = CLIPModel.from_pretrained(tmp_path, config=CLIPConfig.from_pretrained(tmp_path)).eval()
        assert (clip(**batch).text_embeds - model(**batch).text_embeds).abs().max() < 1e-6


def test_pretraining_refuses_what_it_does_not_know():
    model = FaRLForPreTraining(tiny_config()).eval()
    batch = inputs()
    with pytest.raises(ValueError, match=r"24x96 but the model was built for 32x32.*load the model with image_size"):
        model(pixel_values=torch.randn(3, 3, 24, 96), input_ids=batch["input_ids"])
    for name in ("interpolate_pos_encoding", "mim_target", "bool_mask"):
        with pytest.raises(TypeError, match=f"no argument '{name}'"):
            model(**batch, **{name: True})


def test_masks_of_other_types_and_of_nothing():
    torch.manual_seed(0)
    model = FaRLForPreTraining(tiny_config())
    batch = {**inputs(), "mim_targets": torch.randint(0, 50, (3, 16))}
    mask = torch.rand(3, 16) < 0.4
    expected = model(**batch, bool_masked_pos=mask)
    for dtype in (torch.int64, torch.uint8, torch.float32):
        assert torch.equal(model(**batch, bool_masked_pos=mask.to(dtype)).mim_logits, expected.mim_logits)
    nothing = model(**batch, bool_masked_pos=torch.zeros_like(mask))
    assert nothing.mim_loss.item() == 0 and nothing.loss.item() == nothing.itc_loss.item()
    nothing.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_hidden_states_of_pretraining():
    model = FaRLForPreTraining(tiny_config()).eval()
    batch = {**inputs(), "bool_masked_pos": torch.arange(16).repeat(3, 1) % 3 == 0}
    assert model(**batch).vision_model_output is None
    output = model(**batch, output_hidden_states=True)
    clean = model.vision_model(batch["pixel_values"], output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(output.vision_model_output.hidden_states, clean, strict=True))
    assert len(output.text_model_output.hidden_states) == 3 and len(output.masked_model_output.hidden_states) == 5
    assert not torch.equal(output.masked_model_output.hidden_states[0], clean[0])
    # What a GPU does: both copies in one pass.
    pixels = torch.cat([batch["pixel_values"], batch["pixel_values"].flip(-1)])
    first, second = halves(model.vision_model(pixels, output_hidden_states=True))
    assert torch.equal(first.hidden_states[-1], torch.cat([first.last_hidden_state]))
    assert (first.pooler_output - model.vision_model(pixels[:3]).pooler_output).abs().max() < 1e-5
    assert (
        second.hidden_states[2] - model.vision_model(pixels[3:], output_hidden_states=True).hidden_states[2]
    ).abs().max() < 1e-5


def test_dropped_patches_keep_their_positions():
    model = FaRLForPreTraining(tiny_config()).eval()
    batch = inputs()
    all_patches = model.vision_model.embeddings.embed_patches(batch["pixel_values"])
    order = torch.stack([torch.randperm(16) for _ in range(3)])
    shuffled = all_patches.gather(1, order[..., None].expand(-1, -1, 32))
    whole = model.vision_model(batch["pixel_values"]).pooler_output
    permuted = model.vision_model(inputs_embeds=shuffled, position_ids=order).pooler_output
    assert (whole - permuted).abs().max() < 1e-5
    output = model(**batch, patch_drop_ratio=0.5)
    assert output.loss.isfinite() and not torch.allclose(output.image_embeds, model(**batch).image_embeds)


def test_image_size_resizes_the_position_table_once(pretraining_folder, tmp_path):
    stored = FaRLModel.from_pretrained(pretraining_folder)
    model = FaRLModel.from_pretrained(pretraining_folder, image_size=64)
    table = model.vision_model.embeddings.position_embedding.weight
    assert table.shape == (65, 32) and table.requires_grad and model.config.image_size == 64
    pixel_values = torch.randn(2, 3, 64, 64)
    on_the_fly = stored(pixel_values=pixel_values, interpolate_pos_encoding=True).image_embeds
    assert torch.equal(model(pixel_values=pixel_values).image_embeds, on_the_fly)
    model.save_pretrained(tmp_path)
    again, report = FaRLModel.from_pretrained(tmp_path, output_loading_info=True)
    assert again.config.image_size == 64 and not any(report.values())
    config = FaRLConfig.from_pretrained(pretraining_folder, image_size=64)
    assert FaRLModel.from_pretrained(pretraining_folder, config=config).config.image_size == 64
    with pytest.raises(ValueError, match="not a multiple of the patch size"):
        stored.resize_position_embeddings(60)


def test_images_of_any_shape():
    model = FaRLModel(tiny_config()).eval()
    assert model(pixel_values=torch.randn(1, 3, 40, 24), interpolate_pos_encoding=True).image_embeds.shape == (1, 24)
    with pytest.raises(ValueError, match="40x24"):
        model(pixel_values=torch.randn(1, 3, 40, 24))
    with pytest.raises(ValueError, match="at most 16"):
        model(input_ids=torch.full((1, 17), 98))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision(pretraining_folder, dtype, tolerance):
    batch = inputs()
    full = FaRLModel.from_pretrained(pretraining_folder, dtype=torch.float32)(**batch)
    half = FaRLModel.from_pretrained(pretraining_folder, dtype=dtype)(**batch)
    assert half.image_embeds.dtype == dtype
    assert (full.image_embeds - half.image_embeds.float()).abs().max() < tolerance
    assert (full.text_embeds - half.text_embeds.float()).abs().max() < tolerance


def test_gradient_checkpointing_changes_nothing():
    torch.manual_seed(0)
    model = FaRLForPreTraining(tiny_config()).train()
    batch = {**inputs(), "bool_masked_pos": torch.rand(3, 16) < 0.4}
    batch["mim_targets"] = torch.randint(0, 50, (3, 16))
    plain = torch.autograd.grad(model(**batch).loss, list(model.parameters()))
    model.gradient_checkpointing_enable()
    checkpointed = torch.autograd.grad(model(**batch).loss, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, checkpointed, strict=True))


def test_image_encoder_compiles_without_graph_breaks(pretraining_folder):
    tower = FaRLVisionModel.from_pretrained(pretraining_folder).eval()
    compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")
    pixel_values = inputs()["pixel_values"]
    with torch.no_grad():
        assert torch.allclose(compiled(pixel_values).pooler_output, tower(pixel_values).pooler_output, atol=1e-5)


def test_sharded_folder_and_device_map(tmp_path):
    model = FaRLModel(tiny_config()).eval()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    again = FaRLModel.from_pretrained(tmp_path, device_map="auto").eval()
    assert torch.equal(model(**inputs()).logits_per_image, again(**inputs()).logits_per_image)


def test_initialisation_follows_the_original():
    torch.manual_seed(0)
    width = 256
    vision = {**VISION, "hidden_size": width, "intermediate_size": 4 * width}
    tower = FaRLVisionModel._from_config(tiny_config(vision_config=vision).vision_config).requires_grad_(False)
    query = tower.encoder.layers[0].self_attn.q_proj.weight
    packed_bound = (6 / (width + 3 * width)) ** 0.5
    assert query.abs().max() <= packed_bound
    assert query.std().item() == pytest.approx(packed_bound / 3**0.5, rel=0.02)
    assert tower.encoder.layers[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert tower.embeddings.position_embedding.weight.std().item() == pytest.approx(width**-0.5, rel=0.05)


@pytest.mark.parametrize("preset, parameters", [("base", 149_620_737), ("large", None), ("huge", None), ("tiny", None)])
def test_presets(preset, parameters):
    with torch.device("meta"):
        model = FaRLModel(FaRLConfig.from_preset(preset))
    assert parameters is None or sum(p.numel() for p in model.parameters()) == parameters
    if preset == "base":
        with torch.device("meta"):
            pretraining = FaRLForPreTraining(FaRLConfig.from_preset(preset))
        # The size of the official files, 652.04 MB, tells the depth and the vocabulary of the masked branch.
        assert sum(p.numel() for p in pretraining.parameters()) == 163_010_561


def test_presets_change_in_part():
    config = FaRLConfig.from_preset("tiny", image_size=64, vision_config={"patch_size": 4}, projection_dim=32)
    assert (config.vision_config.patch_size, config.vision_config.hidden_size, config.image_size) == (4, 128, 64)
    assert (config.projection_dim, config.text_config.hidden_size) == (32, 128)
    # What was changed stays with the one that it was changed for.
    assert FaRLConfig.from_preset("tiny").vision_config.patch_size == 8
    whole = FaRLConfig.from_preset("tiny", vision_config=FaRLVisionConfig(hidden_size=96, num_attention_heads=4))
    assert whole.vision_config.hidden_size == 96


def test_stem_of_convolutions(tmp_path):
    torch.manual_seed(0)
    config = tiny_config(vision_config={**VISION, "stem_channels": [6, 10]})
    model = FaRLForPreTraining(config).eval()
    embeddings = model.vision_model.embeddings
    assert embeddings.patch_embedding.weight.shape == (32, 10, 2, 2)
    batch = inputs()
    patches = embeddings.embed_patches(batch["pixel_values"])
    assert patches.shape == (3, 16, 32)
    # What passes through keeps its size; CLIP's start at 0.02 would end at next to nothing.
    assert 0.2 < patches.std() < 5
    # A patch sees its own pixels and few beside them.
    changed = batch["pixel_values"].clone()
    changed[..., :8, :8] += 1
    moved = (embeddings.embed_patches(changed) - patches).abs().amax(dim=(0, 2)).view(4, 4) > 1e-6
    assert moved[0, 0] and not moved[2:].any() and not moved[:, 2:].any()
    model.save_pretrained(tmp_path)
    again = FaRLForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again(**batch).logits_per_image, model(**batch).logits_per_image)
    assert "stem" not in "".join(FaRLForPreTraining(tiny_config()).state_dict())
    with pytest.raises(CheckpointError, match="stem_channels"):
        openai_state_dict(model.state_dict(), config)
    with pytest.raises(Exception, match="multiple of 2 \\*\\* 4"):
        tiny_config(vision_config={**VISION, "stem_channels": [4, 4, 4, 4]})


def test_mean_pooling(tmp_path):
    torch.manual_seed(0)
    model = FaRLForPreTraining(tiny_config(vision_config={**VISION, "use_mean_pooling": True})).eval()
    batch = inputs()
    output = model.vision_model(batch["pixel_values"])
    tokens = output.last_hidden_state
    assert torch.equal(output.pooler_output, model.vision_model.post_layernorm(tokens[:, 1:].mean(dim=1)))
    model.save_pretrained(tmp_path)
    again = FaRLForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again(**batch).logits_per_image, model(**batch).logits_per_image)
    with pytest.raises(CheckpointError, match="use_mean_pooling"):
        openai_state_dict(model.state_dict(), model.config)
    token = FaRLForPreTraining(tiny_config()).eval().vision_model(batch["pixel_values"])
    assert not torch.allclose(token.pooler_output, token.last_hidden_state[:, 1:].mean(dim=1), atol=0.1)


def bicubic_matrix(large: int, small: int) -> torch.Tensor:
    """(large, small), Keys' kernel with a = -0.75 about the pixels' centres, edges repeated, from its formula."""

    def kernel(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = torch.zeros(large, small, dtype=torch.float64)
    for i in range(large):
        centre = (i + 0.5) * small / large - 0.5
        for j in range(int(centre // 1) - 1, int(centre // 1) + 3):
            matrix[i, min(max(j, 0), small - 1)] += kernel(centre - j)
    return matrix


@pytest.mark.parametrize("grid", [(8, 8), (3, 3), (5, 7)])
def test_position_tables_are_resized_as_in_the_original(grid):
    torch.manual_seed(0)
    table = torch.randn(1 + 16, 6)
    resized = resize_position_table(table, 4, grid)
    rows, columns = bicubic_matrix(grid[0], 4), bicubic_matrix(grid[1], 4)
    wanted = torch.einsum("ri,cj,ijd->rcd", rows, columns, table[1:].double().view(4, 4, 6)).reshape(-1, 6)
    assert torch.equal(resized[0], table[0]) and (resized[1:] - wanted).abs().max() < 1e-5
