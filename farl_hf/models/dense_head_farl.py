"""
The neck and the UPerNet head that face parsing and face alignment share (`farl/network/transformers.py` and
`farl/network/mmseg.py` of the original; the head is mmsegmentation's `UPerHead`).

Module names are the original's, so official weights fit after renaming their prefix.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init


class FaRLNeck(nn.Module):
    """
    Four taps of the ViT, all at one size, to a pyramid: twice, once enlarged, as it is, and halved (BEiT's necks).

    Args:
        hidden_size: Channels of the taps.
        channels: Of the two enlarged maps; by default as many, as in the original.

    Attributes:
        out_channels: Of the four maps.
    """

    def __init__(self, hidden_size: int, channels: int | None = None):
        super().__init__()
        channels = channels or hidden_size

        def enlarge(in_channels: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(in_channels, channels, kernel_size=2, stride=2)

        self.fpns = nn.ModuleList(
            [
                nn.Sequential(enlarge(hidden_size), nn.BatchNorm2d(channels), nn.GELU(), enlarge(channels)),
                enlarge(hidden_size),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2, stride=2),
            ]
        )
        self.out_channels = [channels, channels, hidden_size, hidden_size]

    def forward(self, taps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            taps: Four maps (batch, hidden_size, height, width) from shallow to deep.

        Returns:
            Maps (batch, their out_channels, ...) of 4, 2, 1 and 1/2 times the height and width.
        """
        return [layer(tap) for layer, tap in zip(self.fpns, taps, strict=True)]


class ConvModule(nn.Module):
    """Convolution without bias, batch norm, ReLU: mmcv's `ConvModule` with its default names."""

    conv_class = nn.Conv2d

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = self.conv_class(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.conv(x))

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """What follows the convolution."""
        return nn.functional.relu(self.bn(x))


class FusionConv(nn.Conv2d):
    """
    A 3x3 convolution with padding 1 and no bias, also over maps of different sizes without making the enlarged ones.
    """

    def forward(self, maps: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """One map (batch, in_channels, height, width), or several as [`conv3x3_over_enlarged`] takes them."""
        return super().forward(maps) if isinstance(maps, torch.Tensor) else conv3x3_over_enlarged(maps, self.weight)


class FusionConvModule(ConvModule):
    """
    A [`ConvModule`] of kernel size 3 over the concatenation of maps of different sizes, each enlarged to the first
    one's size (bilinear).
    """

    conv_class = FusionConv

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=3)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        if not isinstance(self.conv, FusionConv):
            # An adapter has taken the convolution's place, and its own convolutions read one map.
            size = tuple(maps[0].shape[-2:])
            maps = torch.cat([maps[0], *(resize_bilinear(m, size) for m in maps[1:])], dim=1)
        return self.normalise(self.conv(maps))


def resize_bilinear(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(batch, channels, height, width) maps at another size, bilinear, `align_corners=False`, no antialias."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def conv3x3_over_enlarged(maps: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """
    The 3x3 convolution (zero padding 1, no bias) of all maps enlarged to the first one's size and concatenated, with
    about a third of the multiplications on the head's four maps.

    Enlarging and convolving are linear, so the channels of a small map are mixed at its own size, once for each of the
    nine taps, and the nine results are enlarged, shifted and added: two products with small constant matrices that hold
    "enlarge, then shift by one pixel with zero border", one per axis. All small maps share the vertical product.

    Args:
        maps: Maps (batch, channels of each, height, width); the first has the output's size.
        weight: (out channels, sum of all channels, 3, 3).

    Returns:
        (batch, out channels, height, width).
    """
    batch, _, height, width = maps[0].shape
    channels = weight.shape[0]
    weights = weight.split([m.shape[1] for m in maps], dim=1)
    output = nn.functional.conv2d(maps[0], weights[0], padding=1)
    # (output rows, vertical tap and small row) against (vertical tap and small row, output columns and channels).
    rows, mixed = [], []
    for small, small_weight in zip(maps[1:], weights[1:], strict=True):
        small_height, small_width = small.shape[-2:]
        rows.append(enlarge_and_shift(small_height, height, small).reshape(-1, height))
        columns = enlarge_and_shift(small_width, width, small).permute(2, 1, 0).reshape(width, -1)
        pixels = small.flatten(2).transpose(1, 2)
        for vertical_tap in range(3):
            taps = small_weight[:, :, vertical_tap].permute(2, 0, 1).reshape(3 * channels, -1)
            tapped = (pixels @ taps.t()).view(batch, small_height, 3 * small_width, channels)
            mixed.append(columns @ tapped)
    enlarged = torch.cat(rows).t() @ torch.cat(mixed, dim=1).flatten(2)
    return output + enlarged.view(batch, height, width, channels).permute(0, 3, 1, 2)


def enlarge_and_shift(small: int, large: int, like: torch.Tensor) -> torch.Tensor:
    """
    Matrices (3, small, large) that enlarge a row vector bilinearly (`align_corners=False`) and shift it by -1, 0 and +1
    with zeros moving in, in the dtype and on the device of `like`.
    """
    identity = torch.eye(small, dtype=torch.float32, device=like.device)[None]
    enlarge = nn.functional.interpolate(identity, size=large, mode="linear", align_corners=False)[0]
    padded = nn.functional.pad(enlarge, (1, 1)).to(like.dtype)
    return torch.stack([padded[:, tap : tap + large] for tap in range(3)])


class FaRLUperHead(nn.Module):
    """
    UPerNet's head: pyramid pooling on the smallest map, a feature pyramid, and a fusion of all levels.

    Args:
        in_channels: Channels of the four maps.
        channels: Width of the head.
        num_outputs: Classes or landmarks.
        pool_scales: Bins per side of the pyramid pooling.
        dropout: Share of channels dropped before the classifier while training.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, num_outputs: int, pool_scales: Sequence[int], dropout: float
    ):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(in_channels[3], channels, 1)) for scale in pool_scales
        )
        self.bottleneck = FusionConvModule(in_channels[3] + len(pool_scales) * channels, channels)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in in_channels[:3])
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(3))
        self.fpn_bottleneck = FusionConvModule(4 * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_outputs, kernel_size=1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            maps: Four maps (batch, their in_channels, height, width) from large to small.

        Returns:
            Logits (batch, num_outputs, height, width) at the size of the first map.

        Raises:
            ValueError: In training with a single image, whose 1x1 pooled map has no variance to normalise by.
        """
        if self.training and maps[0].shape[0] == 1 and isinstance(self.psp_modules[0][1].bn, nn.BatchNorm2d):
            raise ValueError(
                "Batch norm over the head's 1x1 pooled map cannot train on a batch of one image: use a batch of at "
                "least 2 (dataloader_drop_last leaves out a last one of 1), or synchronised batch norm over several "
                "processes."
            )
        levels = [conv(m) for conv, m in zip(self.lateral_convs, maps[:3], strict=True)]
        pooled = [module(maps[3]) for module in self.psp_modules]
        levels.append(self.bottleneck([maps[3], *pooled]))
        for i in (3, 2, 1):
            enlarged = nn.functional.interpolate(
                levels[i], size=levels[i - 1].shape[-2:], mode="bilinear", align_corners=False
            )
            levels[i - 1] = levels[i - 1] + enlarged
        levels = [*(conv(level) for conv, level in zip(self.fpn_convs, levels[:3], strict=True)), levels[3]]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(levels)))


def init_dense_head_weights(module: nn.Module) -> None:
    """
    Fresh weights for one module of the neck or the head: Kaiming-normal (fan-out) for the convolutions of
    [`ConvModule`], as mmcv does, and PyTorch's own for the others, which the original leaves as they are.
    """
    if isinstance(module, ConvModule):
        init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, FaRLUperHead):
        _init_as_pytorch(module.conv_seg)
    elif isinstance(module, FaRLNeck):
        for child in module.modules():
            if isinstance(child, nn.ConvTranspose2d):
                _init_as_pytorch(child)


def _init_as_pytorch(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    # PyTorch's `reset_parameters`: both weight and bias uniform within 1 / sqrt(fan in).
    bound = layer.weight[0].numel() ** -0.5
    init.uniform_(layer.weight, -bound, bound)
    init.uniform_(layer.bias, -bound, bound)
