"""
Visual codebooks: what the masked-image-modelling branch predicts.

A codebook is anything with the three members of [`ImageCodebook`]. `load_image_codebook` makes the two that come with
the package: `"dalle"`, the discrete VAE of DALL-E that the paper used, and `"random-projection"`, which needs no
download.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from transformers import FlavaImageCodebook
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

# The Hub's copy of DALL-E's encoder.
DALLE_REPOSITORY = "facebook/flava-image-codebook"
# DALL-E's encoder makes one code of 8x8 pixels (three poolings), whatever the model's patch size.
_DALLE_STRIDE = 8
# `logit_laplace_eps` of DALL-E's `map_pixels`.
_DALLE_EPS = 0.1
# BEST-RQ (Chiu et al. 2022) projects to 16 dimensions.
_PROJECTION_DIM = 16


class ImageCodebook(Protocol):
    """
    Turns images into one code per patch.

    Attributes:
        vocab_size: Number of codes.
        view_size: Side in pixels of the view of the image that it reads. The data reader makes that view from the same
            crop and flip as the model's.
    """

    vocab_size: int
    view_size: int

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """
        RGB `pixels` (batch, 3, view_size, view_size), float in [0, 1], to codes (batch, patches), int64, row-major.
        """


class DalleCodebook(nn.Module):
    """
    The encoder of DALL-E's discrete VAE (8,192 codes), as BEiT uses it: pixels mapped by `0.8 x + 0.1`, the code of a
    patch is the arg-max over the channels.

    Args:
        source: A Hub id or folder that `FlavaImageCodebook.from_pretrained` reads.
        grid: Patches per side of the model; the view is 8 pixels per patch (112 for 14 patches).
    """

    def __init__(self, source: str = DALLE_REPOSITORY, grid: int = 14):
        super().__init__()
        self.encoder = FlavaImageCodebook.from_pretrained(source).eval().requires_grad_(False)
        self.vocab_size = self.encoder.vocab_size
        self.view_size = _DALLE_STRIDE * grid

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder.get_codebook_indices((1 - 2 * _DALLE_EPS) * pixels + _DALLE_EPS).flatten(1)


class RandomProjectionCodebook(nn.Module):
    """
    A fixed random quantiser after BEST-RQ (Chiu et al. 2022): a patch is projected by a random matrix, its code is the
    nearest of `vocab_size` random unit vectors. Nothing is learnt or downloaded; equal seeds give equal codes.

    Each patch is normalised to zero mean and unit variance. That alone would give all flat patches one code, be they
    skin, hair or background, so the patch's mean colour enters beside its texture, with equal weight.

    Args:
        vocab_size: Number of codes.
        image_size: Side of the model's square input in pixels.
        patch_size: Side of a patch in pixels.
        seed: Of the projection and the code vectors.
    """

    def __init__(self, vocab_size: int, image_size: int, patch_size: int, seed: int = 0):
        super().__init__()
        self.vocab_size, self.view_size, self.patch_size = vocab_size, image_size, patch_size
        generator = torch.Generator().manual_seed(seed)
        texture = torch.randn(3 * patch_size**2, _PROJECTION_DIM, generator=generator)
        colour = torch.randn(3, _PROJECTION_DIM, generator=generator)
        codes = torch.randn(vocab_size, _PROJECTION_DIM, generator=generator)
        self.register_buffer("texture_projection", texture / len(texture) ** 0.5)
        self.register_buffer("colour_projection", colour / len(colour) ** 0.5)
        self.register_buffer("codes", nn.functional.normalize(codes, dim=-1))
        self.register_buffer("mean", torch.tensor(OPENAI_CLIP_MEAN))
        self.register_buffer("std", torch.tensor(OPENAI_CLIP_STD))

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # (batch, 3 * patch_size ** 2, patches), channels first
        patches = nn.functional.unfold(pixels, kernel_size=self.patch_size, stride=self.patch_size)
        patches = patches.transpose(1, 2).unflatten(2, (3, -1))
        colour = patches.mean(dim=-1)
        texture = patches - colour[..., None]
        # One grey level of 255 is noise of the JPEG: a flat patch has no texture.
        texture = texture / (texture.pow(2).mean(dim=(-2, -1), keepdim=True) + 1 / 255**2).sqrt()
        projected = (
            texture.flatten(2) @ self.texture_projection + (colour - self.mean) / self.std @ self.colour_projection
        )
        # All codes are of unit length, so the nearest one has the largest product.
        return (projected @ self.codes.T).argmax(dim=-1)


def load_image_codebook(
    name: str, vocab_size: int, image_size: int, patch_size: int, seed: int = 0
) -> DalleCodebook | RandomProjectionCodebook:
    """
    Makes the codebook for a model with `vocab_size` codes (`config.mim_vocab_size`) and square images of `image_size`.

    Args:
        name: `"dalle"`, `"random-projection"`, or a Hub id or folder of a `FlavaImageCodebook`.
        vocab_size, image_size, patch_size: Of the model.
        seed: Of the random projection.

    Raises:
        ValueError: If the codebook has another number of codes than the model.
        OSError: If the Hub id or folder cannot be read.
    """
    if name == "random-projection":
        return RandomProjectionCodebook(vocab_size, image_size, patch_size, seed)
    codebook = DalleCodebook(DALLE_REPOSITORY if name == "dalle" else name, grid=image_size // patch_size)
    if codebook.vocab_size != vocab_size:
        raise ValueError(
            f"The image codebook {name!r} has {codebook.vocab_size} codes but the model predicts {vocab_size}: set "
            f"mim_vocab_size={codebook.vocab_size} in the model's config."
        )
    return codebook
