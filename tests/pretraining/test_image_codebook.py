"""Codes of image patches."""

import pytest
import torch
from accelerate import Accelerator
from pretraining_cases import tiny_config, write_shards
from torch import nn
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from farl_hf import FaRLForPreTraining
from farl_hf.pretraining import image_codebook, loop
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.image_codebook import DalleCodebook, RandomProjectionCodebook, load_image_codebook
from farl_hf.pretraining.loop import Pretraining
from farl_hf.pretraining.objective import PretrainingObjective, backward
from farl_hf.pretraining.throughput import codebook_flops, training_flops


@pytest.fixture(scope="module")
def dalle_folder(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("codebook"))
    config = FlavaImageCodebookConfig(num_groups=4, num_blocks_per_group=1, hidden_size=8, vocab_size=64)
    FlavaImageCodebook(config).save_pretrained(folder)
    return folder


def test_dalle_maps_pixels_and_takes_the_arg_max(dalle_folder):
    codebook = DalleCodebook(dalle_folder, grid=4)
    assert codebook.view_size == 32 and codebook.vocab_size == 64
    pixels = torch.rand(2, 3, 32, 32)
    codes = codebook(pixels)
    assert codes.shape == (2, 16) and codes.dtype == torch.int64
    # Pixel mapping of the DALL-E repository: (1 - 2 eps) x + eps with eps = 0.1.
    logits = FlavaImageCodebook.from_pretrained(dalle_folder)(0.8 * pixels + 0.1)
    assert torch.equal(codes.view(2, 4, 4), logits.argmax(dim=1))
    assert not any(parameter.requires_grad for parameter in codebook.parameters())
    # A small random encoder gives many pixels one code, so what it is given is looked at too.
    seen = []
    codebook.encoder.get_codebook_indices = lambda values: seen.append(values) or torch.zeros(2, 4, 4)
    codebook(pixels)
    assert torch.allclose(seen[0], 0.8 * pixels + 0.1)


def test_load_by_name_or_folder(dalle_folder):
    assert isinstance(load_image_codebook(dalle_folder, vocab_size=64, image_size=32, patch_size=8), DalleCodebook)
    with pytest.raises(ValueError, match="64 codes but the model predicts 8192"):
        load_image_codebook(dalle_folder, vocab_size=8192, image_size=224, patch_size=16)
    codebook = load_image_codebook("random-projection", vocab_size=100, image_size=32, patch_size=8)
    assert isinstance(codebook, RandomProjectionCodebook) and codebook.view_size == 32


def test_random_projection_is_a_function_of_seed_and_patch():
    pixels = torch.rand(2, 3, 32, 32)
    codes = RandomProjectionCodebook(100, 32, 8, seed=3)(pixels)
    assert codes.shape == (2, 16) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < 100
    assert torch.equal(codes, RandomProjectionCodebook(100, 32, 8, seed=3)(pixels))
    assert not torch.equal(codes, RandomProjectionCodebook(100, 32, 8, seed=4)(pixels))
    # Row-major: patch 5 of a 4x4 grid is row 1, column 1; changing it changes no other code.
    changed = pixels.clone()
    changed[0, :, 8:16, 8:16] = torch.rand(3, 8, 8).flip(-1)
    different = RandomProjectionCodebook(100, 32, 8, seed=3)(changed) != codes
    assert different.nonzero().tolist() in ([[0, 5]], [])


def test_random_projection_takes_the_nearest_code():
    codebook, pixels = RandomProjectionCodebook(100, 32, 8), torch.rand(1, 3, 32, 32)
    patch = pixels[0, :, 8:16, 16:24]  # row 1, column 2 of a 4x4 grid
    colour = patch.mean(dim=(1, 2))
    texture = patch - colour[:, None, None]
    texture = texture / (texture.square().mean() + 1 / 255**2).sqrt()
    point = texture.flatten() @ codebook.texture_projection
    point = point + (colour - codebook.mean) / codebook.std @ codebook.colour_projection
    assert codebook(pixels)[0, 6] == (codebook.codes - point).norm(dim=1).argmin()


def test_random_projection_reads_colour_and_texture():
    codebook = RandomProjectionCodebook(1024, 64, 8)
    colours = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    flat = nn.functional.interpolate(colours.T.reshape(1, 3, 8, 8), scale_factor=8, mode="nearest")
    assert codebook(flat).unique().numel() > 16, "flat patches of 64 colours"
    # The noise of 8-bit rounding on a flat patch leaves nearly all codes alone.
    noisy = flat + (torch.rand(flat.shape, generator=torch.Generator().manual_seed(1)) - 0.5) / 255
    assert (codebook(noisy) == codebook(flat)).float().mean() > 0.5
    texture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert codebook(texture).unique().numel() > 32, "textures of one mean colour"


def test_dalle_is_counted_and_costs_what_it_costs(dalle_folder, monkeypatch):
    # One block a group: the first convolution and four of a residual path, as its shapes say, two FLOP a product.
    counted = codebook_flops(DalleCodebook(dalle_folder, grid=4))
    layers = [m for m in FlavaImageCodebook.from_pretrained(dalle_folder).modules() if isinstance(m, nn.Conv2d)]
    macs, hooks = [], []
    model = FlavaImageCodebook.from_pretrained(dalle_folder)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        hooks.append(layer.register_forward_hook(lambda m, _, out: macs.append(out[0, 0].numel() * m.weight.numel())))
    model(torch.zeros(1, 3, 32, 32))
    assert len(macs) == len(layers) and counted == 2 * sum(macs)
    # DALL-E's own size at 14 patches: 52 GFLOP an image, a fifth of the whole step.
    monkeypatch.setattr(
        image_codebook.FlavaImageCodebook, "from_pretrained", lambda _: FlavaImageCodebook(FlavaImageCodebookConfig())
    )
    with torch.device("meta"):
        assert codebook_flops(DalleCodebook()) == pytest.approx(52e9, rel=0.02)


def test_dalle_runs_in_the_precision_of_the_step(own_precision, dalle_folder):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    objective = accelerator.prepare(PretrainingObjective(FaRLForPreTraining(tiny_config())))
    codebook, dtypes = DalleCodebook(dalle_folder, grid=4), set()
    for layer in codebook.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, out: dtypes.add(out.dtype))
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[:, 3] = True
    pixels = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    batch = {"pixels": pixels, "input_ids": torch.tensor([[5, 49407], [6, 49407]]), "bool_masked_pos": masks}
    losses = backward(accelerator, objective, [batch], codebook)
    assert dtypes == {torch.bfloat16} and losses["mim_loss"].isfinite()


def test_dalle_is_compiled_with_the_rest_and_counts_in_the_share_of_the_peak(tmp_path, dalle_folder, monkeypatch):
    torch.manual_seed(0)
    FaRLForPreTraining(tiny_config()).save_pretrained(tmp_path / "tiny")
    settings = {"init_from": str(tmp_path / "tiny"), "image_codebook": dalle_folder, "device": "cpu", "max_steps": 1}
    settings |= {"train_shards": write_shards(tmp_path / "shards", 1, 4), "batch_size": 4, "num_workers": 0}
    settings |= {"output_dir": str(tmp_path / "run"), "warmup_steps": 0, "logging_steps": 1, "progress_bar": False}
    compiled = []
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(type(module).__name__))
        Pretraining(PretrainConfig.from_recipe("demo", **settings, torch_compile=True))
    assert sorted(compiled) == ["DalleCodebook", "FaRLTextModel", "FaRLVisionModel"]
    monkeypatch.setattr(loop, "peak_flops", lambda *_: 1e12)
    (entry,) = Pretraining(PretrainConfig.from_recipe("demo", **settings)).run().history
    flops = codebook_flops(DalleCodebook(dalle_folder, grid=4)) + training_flops(tiny_config(), entry["caption_length"])
    assert entry["mfu"] == pytest.approx(flops * entry["samples_per_second"] / 1e12)
