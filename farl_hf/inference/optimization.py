"""
Faster copies of models for inference: [`optimize_for_inference`] with the same numbers up to rounding, from fewer
multiplications and fewer passes over memory, and [`quantize_for_inference`] with 8-bit weights and activations.

What the first does:

- Batch norm is folded into the convolution before it, dropout is gone.
- Maps stay (batch, height, width, channels), as the tokens come, so every 1x1 convolution is one matrix product.
- The neck's last transposed convolutions and the lateral 1x1 convolutions behind them are composed to one linear map.
- 3x3 convolutions are Winograd's F(4x4, 3x3): 36 products of channels where the plain one takes 144.
- QuickGELU is a SiLU between rescaled weights.
- The fusion convolutions mix channels at each map's own size, as [`conv3x3_over_enlarged`] does.

Measure it with `python scripts/benchmark.py parsing alignment clip`.
"""

import copy
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from ..models.dense_head_farl import ConvModule, FaRLNeck, FaRLUperHead, enlarge_and_shift, resize_bilinear
from ..models.modeling_farl import FaRLDenseModel, FaRLEncoderLayer, FaRLMLP, FaRLPreTrainedModel

# glibc's allocator reuses buffers of up to 32 MiB; larger ones are mapped anew, and their page faults cost twice the
# time of a Winograd transform. So both kinds of convolution work in pieces: on this many tiles (36 x 128 x 768 floats
# are 14 MiB) ...
TILES_AT_ONCE = 128
# ... and on this many output channels of the low-resolution fusion.
CHANNELS_AT_ONCE = 192


def optimize_for_inference(model: FaRLPreTrainedModel, winograd: bool = True) -> FaRLPreTrainedModel:
    """
    A copy of a model that computes the same outputs faster, for prediction alone: it does not train, and its weights
    have other names and shapes, so it cannot be saved; save the model itself.

    Args:
        model: Any model of this package in fp32; parsing and alignment gain most. It stays as it is.
        winograd: Whether 3x3 convolutions are computed by Winograd's algorithm. Its rounding is too coarse for 8 bits.

    Returns:
        The copy, in evaluation mode. Its outputs are within 1e-4 of the model's, relative to the largest.

    Raises:
        ValueError: If the model is of another kind or precision, carries adapters that are not merged, or is such a
            copy already.
    """
    _check_model(model, "optimize_for_inference")
    if model.dtype != torch.float32:
        raise ValueError(f"optimize_for_inference works in float32: load the model with it, not with {model.dtype}.")
    parts: dict[int, nn.Module] = {}
    with torch.no_grad():
        if isinstance(model, FaRLDenseModel):
            head = next(module for module in model.children() if isinstance(module, FaRLUperHead))
            parts = {
                id(model.pyramid): InferenceNeck(model.pyramid, head),
                id(head): InferenceHead(head, WinogradConv if winograd else PlainConv),
            }
        # `deepcopy` puts what its memo holds in the place of the old parts.
        optimized = copy.deepcopy(model, parts)
        for layer in [module for module in optimized.modules() if isinstance(module, FaRLEncoderLayer)]:
            layer.mlp = InferenceMLP(layer.mlp)
    return _forbid_saving(optimized.eval().requires_grad_(False))


def quantize_for_inference(model: FaRLPreTrainedModel) -> FaRLPreTrainedModel:
    """
    A copy whose vision tower multiplies 8-bit integers: weights rounded once per output channel, activations per token
    as they come (`Int8DynamicActivationInt8WeightConfig` of torchao). Neck and heads, of which little is a linear
    layer, stay in fp32. Where the CPU has bf16 products, `torch.autocast("cpu", torch.bfloat16)` is faster and rounds
    less; see the README for both.

    Args:
        model: Any model of this package in fp32. It stays as it is.

    Returns:
        The copy, in evaluation mode. It cannot be saved.

    Raises:
        ImportError: If torchao is not installed.
        ValueError: As in [`optimize_for_inference`].
    """
    _check_model(model, "quantize_for_inference")
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        raise ImportError("Quantisation needs torchao: pip install 'farl_hf[quantization]'.") from None
    quantized = copy.deepcopy(model).eval().requires_grad_(False)
    quantize_(quantized.vision_model, Int8DynamicActivationInt8WeightConfig())
    return _forbid_saving(quantized)


def _check_model(model: FaRLPreTrainedModel, function: str) -> None:
    if any(type(module).__module__.startswith("peft.") for module in getattr(model, "modules", list)()):
        raise ValueError(f"{function} takes no model with adapters: merge them first, model.merge_and_unload().")
    if not isinstance(model, FaRLPreTrainedModel):
        raise ValueError(f"{function} takes a model of farl_hf, not {type(model).__name__}.")
    if vars(model).get("save_pretrained") is _refuse_to_save:
        raise ValueError(f"{function} takes the model itself: this is a copy for inference already.")


def _forbid_saving(model: FaRLPreTrainedModel) -> FaRLPreTrainedModel:
    # `push_to_hub` saves before it makes a repository.
    model.save_pretrained = _refuse_to_save
    return model


def _refuse_to_save(*args: Any, **kwargs: Any) -> NoReturn:
    raise ValueError("This is a copy for inference, whose weights no class can load: save the model it was made of.")


class InferenceMLP(nn.Module):
    """
    A layer's MLP. QuickGELU is `x * sigmoid(1.702 * x)`: three operations, each writing a new tensor. SiLU, `x *
    sigmoid(x)`, is one and can work in place, so 1.702 moves into the weights before and after it. They are under
    other names than the model's, which would take them for its own.
    """

    def __init__(self, mlp: FaRLMLP):
        super().__init__()
        self.expand, self.activation_fn, self.contract = mlp.fc1, mlp.activation_fn, mlp.fc2
        if mlp.config.hidden_act == "quick_gelu":
            self.expand.weight *= 1.702
            self.expand.bias *= 1.702
            self.contract.weight /= 1.702
            self.activation_fn = nn.SiLU(inplace=True)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As [`FaRLMLP`]."""
        return self.contract(self.activation_fn(self.expand(hidden_states)))


class InferenceNeck(nn.Module):
    """The neck together with the head's lateral convolutions."""

    def __init__(self, neck: FaRLNeck, head: FaRLUperHead):
        super().__init__()
        enlarge, norm, activation, enlarge_again = neck.fpns[0]
        laterals = [linear(*fold_batch_norm(module)) for module in head.lateral_convs]
        scale, shift = batch_norm_as_affine(norm)
        self.enlarge = enlarging_linear(enlarge, after=linear(torch.diag(scale), shift))
        self.activation = activation
        self.levels = nn.ModuleList(
            [enlarging_linear(enlarge_again, laterals[0]), enlarging_linear(neck.fpns[1], laterals[1]), laterals[2]]
        )
        self.halve = neck.fpns[3]

    def forward(self, taps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        As [`FaRLNeck`], but channels come last, and the first three maps have passed the lateral convolutions.

        Args:
            taps: Four maps (batch, hidden_size, height, width) from shallow to deep.

        Returns:
            Maps (batch, height, width, channels) of 4, 2, 1 and 1/2 times the height and width.
        """
        first, second, third, _ = (tap.permute(0, 2, 3, 1) for tap in taps)
        # Pixels stay in blocks of 2x2 while they are mixed, and are put in their place once.
        first = self.activation(self.enlarge(first).unflatten(-1, (4, -1)))
        first = self.levels[0](first).relu_().flatten(3).unflatten(-1, (2, 2, 2, 2, -1))
        second = self.levels[1](second).relu_().unflatten(-1, (2, 2, -1))
        return [
            first.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3),
            second.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2),
            self.levels[2](third).relu_(),
            self.halve(taps[3]).permute(0, 2, 3, 1),
        ]


class InferenceHead(nn.Module):
    """The head behind [`InferenceNeck`], with channels last and 3x3 convolutions of the class `conv`."""

    def __init__(self, head: FaRLUperHead, conv: "type[WinogradConv | PlainConv]"):
        super().__init__()
        self.pools = nn.ModuleList(pool for pool, _ in head.psp_modules)
        self.pooled_convs = nn.ModuleList(linear(*fold_batch_norm(module)) for _, module in head.psp_modules)
        channels = head.bottleneck.conv.out_channels
        deepest = head.bottleneck.conv.in_channels - len(self.pools) * channels
        self.bottleneck = EnlargingConv(
            *fold_batch_norm(head.bottleneck), [deepest] + [channels] * len(self.pools), conv
        )
        self.fpn_convs = nn.ModuleList(conv(*fold_batch_norm(module)) for module in head.fpn_convs)
        self.fpn_bottleneck = EnlargingConv(*fold_batch_norm(head.fpn_bottleneck), [channels] * 4, conv)
        self.conv_seg = linear(head.conv_seg.weight, head.conv_seg.bias)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """As [`FaRLUperHead`], from the maps of [`InferenceNeck`]. Returns (batch, num_outputs, height, width)."""
        deepest = maps[3].permute(0, 3, 1, 2)
        pooled = [
            conv(pool(deepest).permute(0, 2, 3, 1)).relu_()
            for pool, conv in zip(self.pools, self.pooled_convs, strict=True)
        ]
        levels = [*maps[:3], self.bottleneck([maps[3], *pooled]).relu_()]
        for i in (3, 2, 1):
            enlarged = resize_bilinear(levels[i].permute(0, 3, 1, 2), tuple(levels[i - 1].shape[1:3]))
            levels[i - 1] = enlarged.permute(0, 2, 3, 1) + levels[i - 1]
        levels = [*(conv(level).relu_() for conv, level in zip(self.fpn_convs, levels[:3], strict=True)), levels[3]]
        return self.conv_seg(self.fpn_bottleneck(levels).relu_()).permute(0, 3, 1, 2)


class PlainConv(nn.Conv2d):
    """
    A 3x3 convolution with zero padding 1, channels last.

    Args:
        weight: (out channels, in channels, 3, 3).
        bias: (out channels,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__(weight.shape[1], weight.shape[0], kernel_size=3, padding=1, device="meta")
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, height, width, in channels) to (batch, height, width, out channels)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class WinogradConv(nn.Module):
    """
    A 3x3 convolution with zero padding 1 by Winograd's F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional
    Neural Networks", 2016, section 4): tiles of 6x6 pixels, and the kernel, are evaluated at six points per axis, there
    multiplied, and interpolated to 4x4 results.

    Args:
        weight: (out channels, in channels, 3, 3).
        bias: (out channels,).
    """

    # Finite points; the sixth is infinity. Among the sets tried these round least: 2.4e-6 relative to the largest
    # result over 768 channels, against 3e-7 of the plain convolution and 1.2e-5 with the usual 0, 1, -1, 2, -2.
    POINTS = (0.0, 0.7, -0.7, 1.4, -1.4)

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        inputs, kernel, outputs = (torch.from_numpy(matrix) for matrix in winograd_matrices(self.POINTS))
        evaluated = torch.einsum("ai,bj,ocij->abco", kernel, kernel, weight.double()).flatten(0, 1)
        self.weight = nn.Parameter(evaluated.float())
        self.bias = nn.Parameter(bias)
        self.register_buffer("evaluate", torch.kron(inputs, inputs).float())
        self.register_buffer("interpolate", torch.kron(outputs, outputs).float())

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, height, width, in channels) to (batch, height, width, out channels)."""
        batch, height, width, _ = x.shape
        rows, columns = -(-height // 4), -(-width // 4)
        if torch.compiler.is_exporting():
            return self._forward_at_once(x, rows, columns)
        output = x.new_empty(batch, 4 * rows, 4 * columns, self.bias.shape[0])
        if batch == 0:
            return output[:, :height, :width]
        images_at_once = max(1, TILES_AT_ONCE // (rows * columns))
        rows_at_once = max(1, TILES_AT_ONCE // columns)
        for images, results in zip(x.split(images_at_once), output.split(images_at_once), strict=True):
            for row in range(0, rows, rows_at_once):
                result = results[:, 4 * row : 4 * (row + rows_at_once)]
                # The input's rows from one above to one below the results'.
                top, bottom = 4 * row - 1, 4 * row + result.shape[1] + 1
                piece = images[:, max(top, 0) : min(bottom, height)]
                margins = (0, 0, 1, 4 * columns - width + 1, max(-top, 0), max(bottom - height, 0))
                tiles = nn.functional.pad(piece, margins).unfold(1, 6, 4).unfold(2, 6, 4)
                result.unflatten(2, (columns, 4)).unflatten(1, (-1, 4)).copy_(self._convolve(tiles))
        return output[:, :height, :width]

    def _forward_at_once(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Without pieces, whose number would depend on the batch; other runtimes manage their memory themselves."""
        batch, height, width, _ = x.shape
        padded = nn.functional.pad(x, (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1))
        taps = torch.arange(6, device=x.device)
        row = (4 * torch.arange(rows, device=x.device)[:, None] + taps).flatten()
        column = (4 * torch.arange(columns, device=x.device)[:, None] + taps).flatten()
        tiles = padded.index_select(1, row).index_select(2, column).view(batch, rows, 6, columns, 6, -1)
        result = self._convolve(tiles.permute(0, 1, 3, 5, 2, 4))
        return result.reshape(batch, 4 * rows, 4 * columns, -1)[:, :height, :width]

    def _convolve(self, tiles: torch.Tensor) -> torch.Tensor:
        """(batch, rows, columns, in channels, 6, 6) to (batch, rows, 4, columns, 4, out channels)."""
        batch, rows, columns, channels = tiles.shape[:4]
        points = self.evaluate @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
        products = torch.bmm(points.view(36, -1, channels), self.weight)
        result = (self.interpolate @ products.flatten(1)).view(4, 4, batch, rows, columns, -1) + self.bias
        return result.permute(2, 3, 0, 4, 1, 5)


def winograd_matrices(points: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Toom and Cook's matrices (float64) for the correlation of `len(points) + 1` inputs with 3 weights:
    `outputs @ ((kernel @ weights) * (inputs @ x))`, as the transpose of polynomial multiplication at `points` and
    infinity.
    """

    def powers(count: int) -> np.ndarray:
        infinity = np.eye(count)[-1:]
        return np.concatenate([np.vander(points, count, increasing=True), infinity])

    size = len(points) + 1
    inputs = np.linalg.inv(powers(size)).T
    # The scale of a point is free: rows of largest entry 1 round least.
    scale = np.abs(inputs).max(axis=1, keepdims=True)
    return inputs / scale, powers(3) * scale, powers(size - 2).T


class EnlargingConv(nn.Module):
    """
    [`conv3x3_over_enlarged`] with channels last and a bias.

    Args:
        weight: (out channels, sum of in_channels, 3, 3).
        bias: (out channels,).
        in_channels: Channels of each map; the first map has the output's size.
        conv: Class of the first map's part.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        in_channels: Sequence[int],
        conv: type[WinogradConv | PlainConv] = WinogradConv,
    ):
        super().__init__()
        first, *others = weight.split(list(in_channels), dim=1)
        self.conv = conv(first, bias)
        # For each map and piece of output channels, (vertical taps, in channels, horizontal taps * out channels).
        self.pieces = nn.ModuleList(
            nn.ParameterList(piece.permute(2, 1, 3, 0).flatten(2) for piece in other.split(CHANNELS_AT_ONCE))
            for other in others
        )

    @torch.no_grad()
    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps (batch, height, width, channels of each) to (batch, height, width, out channels) of the first's size."""
        output = self.conv(maps[0])
        height, width = output.shape[1:3]
        rows = torch.cat([enlarge_and_shift(m.shape[1], height, m).flatten(0, 1) for m in maps[1:]]).t()
        columns = [enlarge_and_shift(m.shape[2], width, m).permute(2, 1, 0).reshape(width, -1) for m in maps[1:]]
        count = len(self.pieces[0])
        if torch.compiler.is_exporting():
            enlarged = [self._enlarged(maps[1:], piece, rows, columns, output.shape) for piece in range(count)]
            return output + torch.cat(enlarged, dim=-1)
        for image, result in enumerate(output):
            for piece, part in enumerate(result.split(CHANNELS_AT_ONCE, dim=-1)):
                part += self._enlarged([m[image] for m in maps[1:]], piece, rows, columns, part.shape)
        return output

    def _enlarged(
        self,
        maps: Sequence[torch.Tensor],
        piece: int,
        rows: torch.Tensor,
        columns: Sequence[torch.Tensor],
        shape: Sequence[int],
    ) -> torch.Tensor:
        """
        The small maps' part of a piece of output channels, of a batch or of one image: (..., height, width, channels of
        the piece).
        """
        mixed = [
            to_columns @ (m @ tap).view(*m.shape[:-2], to_columns.shape[1], -1)
            for m, pieces, to_columns in zip(maps, self.pieces, columns, strict=True)
            for tap in pieces[piece]
        ]
        return (rows @ torch.cat(mixed, dim=-3).flatten(-2)).view(*shape[:-1], -1)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A layer of this weight (out, in) or (out, in, 1, 1) and bias (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.flatten(1)), nn.Parameter(bias)
    return layer


def batch_norm_as_affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift (channels,) that the norm applies in evaluation."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def fold_batch_norm(module: ConvModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution that equals the module's convolution and batch norm in evaluation."""
    scale, shift = batch_norm_as_affine(module.bn)
    return module.conv.weight * scale[:, None, None, None], shift


def enlarging_linear(enlarge: nn.ConvTranspose2d, after: nn.Linear) -> nn.Linear:
    """
    A transposed convolution of kernel and stride 2 followed by a linear layer on channels, as one linear layer from a
    pixel to the block of 2x2 pixels it becomes: (4 * out channels, in channels), rows of the block first.
    """
    weight = torch.einsum("oc,icyx->yxoi", after.weight, enlarge.weight).flatten(0, 2)
    return linear(weight, (after(enlarge.bias)).repeat(4))
