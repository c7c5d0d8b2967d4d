"""Codes of image patches."""

import pytest
import torch
from torch import nn
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from farl_hf.pretraining.image_codebook import DalleCodebook, RandomProjectionCodebook, load_image_codebook


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
