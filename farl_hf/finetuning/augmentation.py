"""
Training augmentation of the original (`face_parsing/augmenters`, `face_alignment/augmenters`, defaults of
`py-blueprint`), on one face at a time.

Every random number comes from a generator seeded by (seed, epoch, sample), so a picture does not depend on workers or
processes. The original's own streams repeat every epoch, which is not worth reproducing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from ..models.geometry_farl import random_similarity_matrix

# OpenCV's RGB2GRAY.
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentationConfig:
    """
    What is done to a training face, in this order. Lengths are shares of the crop's side.

    Args:
        shift: Each axis moves by up to this share, uniformly.
        rotation: Standard deviation in radians if `gaussian`, else the largest angle.
        scale: Standard deviation about 1 if `gaussian`, else the largest difference from 1, before division by
            `scale_mean`.
        scale_mean: Middle of the scale that the crop matrix already holds: a uniform jitter of `scale` is added to it.
        gaussian: Whether rotation and scale are normally or uniformly distributed.
        occlusion: Whether a black box is painted, always.
        noise: Probability that uniform noise is mixed in, with weight up to 0.5.
        grey: Probability of a grey image.
        gamma: Whether brightness is taken to the power 0.5, 1 or 2, each as likely.
        blur: Largest box filter as a share of the side.
        flip: Probability of a mirror image. An extension, off in the original; needs a flip table of the landmarks or
            classes.
        colour_jitter: Largest relative change of brightness, contrast and saturation. This and what follows are
            extensions, off in the original, for pictures whose look differs from what the model will see.
        light: Largest logarithm of a smooth change of brightness across the picture, and of a gamma for all of it.
        tint: Largest relative change of single colour channels.
        reduction: Least size that the picture is reduced to and enlarged from, in half of the cases.
        sensor_noise: Largest standard deviation of normal noise.
        patches: Probability that one to three boxes and ellipses of a colour, of noise or of stripes are painted.
        jpeg: Probability of a JPEG round trip at quality 15 to 95.
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    scale_mean: float = 1.0
    gaussian: bool = False
    occlusion: bool = False
    noise: float = 0.0
    grey: float = 0.1
    gamma: bool = True
    blur: float = 0.01
    flip: float = 0.0
    colour_jitter: float = 0.0
    light: float = 0.0
    tint: float = 0.0
    reduction: float = 1.0
    sensor_noise: float = 0.0
    patches: float = 0.0
    jpeg: float = 0.0

    def milder(self, share: float) -> "AugmentationConfig":
        """
        Every jitter, strength and probability (but that of mirror images and of gamma) times `share`, from 0 to 1, and
        reductions that take as much less away: for the end of a training, whose faces then look as those to come.
        """
        kept = {"flip", "gamma", "gaussian", "occlusion", "scale_mean", "reduction"}
        changed = {f.name: share * getattr(self, f.name) for f in fields(self) if f.name not in kept}
        return replace(self, **changed, reduction=1 - share * (1 - self.reduction))


# 0.314 rad is 18 degrees, 0.174 rad 10 degrees.
PARSING_AUGMENTATION = AugmentationConfig(shift=0.01, rotation=0.314, scale=0.1, gaussian=True)
ALIGNMENT_AUGMENTATION = AugmentationConfig(
    shift=0.05, rotation=0.174, scale=0.1, scale_mean=0.8, occlusion=True, noise=0.5
)
# The original's training on attributes is not released: mild changes.
ATTRIBUTE_AUGMENTATION = AugmentationConfig(shift=0.02, rotation=0.087, scale=0.05)
# From generated pictures to photos: chosen for farl-tiny, see its model card.
SYNTHETIC_AUGMENTATION = AugmentationConfig(
    shift=0.12,
    rotation=0.35,
    scale=0.2,
    grey=0.12,
    gamma=False,
    blur=0.05,
    flip=0.5,
    colour_jitter=0.35,
    light=0.5,
    tint=0.15,
    reduction=0.35,
    sensor_noise=0.07,
    patches=0.25,
    jpeg=0.3,
)
NO_AUGMENTATION = AugmentationConfig(grey=0.0, gamma=False, blur=0.0)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.default_rng([seed, epoch, index])


def sample_similarity(config: AugmentationConfig, size: int, rng: np.random.Generator) -> torch.Tensor:
    """
    The geometric jitter as a (3, 3) float64 matrix on pixel indices of a crop of `size`, to be multiplied to the left
    of the crop's matrix.
    """
    shift = rng.uniform(-config.shift, config.shift, 2) * size
    if config.gaussian:
        angle, scale = rng.normal(0, config.rotation), rng.normal(1, config.scale)
    else:
        angle = rng.uniform(-config.rotation, config.rotation)
        # The original draws the scale of the whole crop from mean +- scale; the mean is in the crop matrix already.
        scale = 1 + rng.uniform(-config.scale, config.scale) / config.scale_mean
    angle, scale, shift = (torch.as_tensor(value, dtype=torch.float64) for value in (angle, scale, shift))
    return random_similarity_matrix(angle, scale, shift, size)


def augment_colours(image: torch.Tensor, config: AugmentationConfig, rng: np.random.Generator) -> torch.Tensor:
    """
    Everything after the warp but the flip.

    Args:
        image: (3, size, size) float32 RGB in [0, 1].
        config: What is done.
        rng: See [`sample_generator`].

    Returns:
        The image, of the same shape and range; the argument keeps its values.
    """
    if config.occlusion:
        image = image.clone()
        paint_occluder(image, rng)
    if rng.random() < config.noise:
        weight = rng.uniform(0, 0.5)
        noise = torch.from_numpy(rng.random(image.shape, dtype=np.float32))
        image = (1 - weight) * image + weight * noise
    if config.colour_jitter:
        image = jitter_colours(image, rng.uniform(-config.colour_jitter, config.colour_jitter, 3).tolist())
    if config.light:
        image = change_light(image, config.light, rng)
    if config.tint:
        gains = 1 + rng.uniform(-config.tint, config.tint, 3).astype(np.float32)
        image = (image * torch.from_numpy(gains).view(3, 1, 1)).clamp(0, 1)
    if config.patches and rng.random() < config.patches:
        image = image.clone()
        for _ in range(rng.integers(1, 4)):
            paint_patch(image, rng)
    if rng.random() < config.grey:
        image = to_grey(image)
    if config.gamma:
        image = image.clamp(0, 1) ** float(rng.choice((0.5, 1.0, 2.0)))
    if config.blur:
        image = box_blur(image, int(image.shape[-1] * rng.uniform(0, config.blur)))
    if config.reduction < 1 and rng.random() < 0.5:
        image = reduce_and_enlarge(image, float(rng.uniform(config.reduction, 1)))
    if config.sensor_noise:
        deviation = rng.uniform(0, config.sensor_noise) * rng.random()
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = (image + deviation * noise).clamp(0, 1)
    if config.jpeg and rng.random() < config.jpeg:
        image = _compress(image, int(rng.integers(15, 96)))
    return image


def change_light(image: torch.Tensor, most: float, rng: np.random.Generator) -> torch.Tensor:
    """(3, height, width) in [0, 1] under a gradient of light in a random direction and a random gamma."""
    height, width = image.shape[-2:]
    angle, strength = rng.uniform(0, 2 * np.pi), float(rng.uniform(0, most))
    x = torch.linspace(-1, 1, width) * float(np.cos(angle))
    y = torch.linspace(-1, 1, height) * float(np.sin(angle))
    gains = torch.exp(strength * (y[:, None] + x))
    # A gamma of e ** 0.7 or so is a photo much too dark.
    gamma = float(np.exp(rng.uniform(-most, most)))
    return (image.clamp(1e-4, 1) ** gamma * gains).clamp(0, 1)


def paint_patch(image: torch.Tensor, rng: np.random.Generator) -> None:
    """Covers a box or an ellipse of (3, height, width), up to a third of each side, in place."""
    height, width = image.shape[-2:]
    half_h, half_w = (max(1, int(rng.uniform(0.03, 0.17) * side)) for side in (height, width))
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    top, left = max(0, y - half_h), max(0, x - half_w)
    part = image[:, top : y + half_h, left : x + half_w]
    rows = (torch.arange(part.shape[1]) + (top - y + 0.5)) / half_h
    columns = (torch.arange(part.shape[2]) + (left - x + 0.5)) / half_w
    paint = torch.from_numpy(rng.random((3, 1, 1), dtype=np.float32)).expand_as(part)
    kind = rng.integers(3)
    if kind == 1:
        paint = torch.from_numpy(rng.random(part.shape, dtype=np.float32))
    elif kind == 2:
        direction, period = rng.uniform(0, np.pi), rng.uniform(1, 8)
        stripes = torch.sin(period * (float(np.cos(direction)) * columns + float(np.sin(direction)) * rows[:, None]))
        paint = (paint + 0.3 * stripes).clamp(0, 1)
    if rng.random() < 0.5:
        part.copy_(paint)
    else:
        part.copy_(torch.where(rows[:, None].square() + columns.square() <= 1, paint, part))


def reduce_and_enlarge(image: torch.Tensor, share: float) -> torch.Tensor:
    """(3, height, width) as if it had been taken with `share` of its pixels per side."""
    size = tuple(image.shape[-2:])
    smaller = tuple(max(8, round(side * share)) for side in size)
    small = torch.nn.functional.interpolate(image[None], smaller, mode="area")
    return torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)[0]


def _compress(image: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255


def paint_occluder(image: torch.Tensor, rng: np.random.Generator) -> None:
    """Blackens a random box of (3, height, width) in place: 0.1 to 0.4 of the side high, 0 to 0.5 wide."""
    height, width = image.shape[-2:]
    relative_height = rng.uniform(0.2, 0.8)
    relative_width = relative_height + rng.uniform(-0.2, 0.2)
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    half_height = int(height / 2 * relative_height) // 2
    half_width = int(width / 2 * relative_width) // 2
    image[:, max(0, y - half_height) : y + half_height, max(0, x - half_width) : x + half_width] = 0


def to_grey(image: torch.Tensor) -> torch.Tensor:
    """(3, height, width) with three equal channels."""
    weights = image.new_tensor(_GREY_WEIGHTS).view(3, 1, 1)
    return (image * weights).sum(dim=0, keepdim=True).expand(3, -1, -1)


def box_blur(image: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over `size` x `size` pixels as `cv2.blur`: mirrored border, even sizes reach further up and left."""
    if size <= 1:
        return image
    before, after = size // 2, size - 1 - size // 2
    padded = torch.nn.functional.pad(image[None], (before, after, before, after), mode="reflect")[0]
    # First down, then across: ten times as fast as pooling.
    height, width = image.shape[-2:]
    rows = sum(padded[:, i : i + height] for i in range(size))
    return sum(rows[:, :, i : i + width] for i in range(size)) / size**2


def jitter_colours(image: torch.Tensor, changes: Sequence[float]) -> torch.Tensor:
    """Brightness, contrast and saturation of (3, height, width) changed by relative amounts, within [0, 1]."""
    brightness, contrast, saturation = (1 + float(change) for change in changes)
    image = image * brightness
    mean = image.mean()
    image = (image - mean) * contrast + mean
    grey = to_grey(image)
    return ((image - grey) * saturation + grey).clamp(0, 1)


def flip_landmarks(landmarks: torch.Tensor, permutation: list[int]) -> torch.Tensor:
    """(points, 2) in [0, 1] of the mirror image, see [`farl_hf.datasets.flips.flip_permutation`]."""
    return torch.stack([1 - landmarks[:, 0], landmarks[:, 1]], dim=-1)[permutation]


def flip_label_map(labels: torch.Tensor, permutation: list[int], ignore_index: int = 255) -> torch.Tensor:
    """(height, width) class ids of the mirror image; `ignore_index` stays."""
    table = torch.arange(256)
    table[: len(permutation)] = torch.tensor(permutation)
    table[ignore_index] = ignore_index
    return table[labels.flip(-1).long()]
