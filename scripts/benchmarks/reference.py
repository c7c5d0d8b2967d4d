"""
The original networks written plainly, as the FaRL repository computes them (`farl/network`), on the weights of our
models: what our models are compared with.
"""

import copy

import torch
from torch import nn

from farl_hf.models.dense_head_farl import FusionConvModule
from farl_hf.models.modeling_farl import FaRLForFaceAlignment, FaRLForFaceParsing, FaRLVisionModel

DenseModel = FaRLForFaceParsing | FaRLForFaceAlignment


class PlainFusion(nn.Module):
    """A fusion convolution as mmsegmentation has it: enlarge all maps, concatenate, convolve, batch norm, ReLU."""

    def __init__(self, module: FusionConvModule):
        super().__init__()
        self.conv, self.bn = module.conv, module.bn

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        size = maps[0].shape[-2:]
        enlarged = [
            m if m.shape[-2:] == size else nn.functional.interpolate(m, size=size, mode="bilinear", align_corners=False)
            for m in maps
        ]
        return nn.functional.relu(self.bn(self.conv(torch.cat(enlarged, dim=1))))


class PlainConvModule(nn.Module):
    """mmcv's block with weights of its own: convolution without bias, batch norm, ReLU."""

    def __init__(self, state: dict[str, torch.Tensor], name: str):
        super().__init__()
        out_channels, in_channels, kernel_size, _ = state[f"{name}.conv.weight"].shape
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.1)
        self.load_state_dict(
            {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


class PlainNeck(nn.Module):
    """
    BEiT's necks (`farl/network/transformers.py`, `_make_fpns`), on copies of the weights of ours: the taps at four and
    two times their size, as they are, and at half of it.
    """

    def __init__(self, neck: nn.Module):
        super().__init__()
        state = neck.state_dict()

        def enlarging(name: str) -> nn.ConvTranspose2d:
            in_channels, out_channels = state[f"{name}.weight"].shape[:2]
            layer = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
            layer.load_state_dict({key: state[f"{name}.{key}"] for key in ("weight", "bias")})
            return layer

        self.first, self.second, self.twice = enlarging("fpns.0.0"), enlarging("fpns.0.3"), enlarging("fpns.1")
        self.norm = nn.BatchNorm2d(self.first.out_channels, eps=1e-5, momentum=0.1)
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        self.norm.load_state_dict({key: state[f"fpns.0.1.{key}"] for key in parts})

    def forward(self, taps: list[torch.Tensor]) -> list[torch.Tensor]:
        four_times = self.second(nn.functional.gelu(self.norm(self.first(taps[0]))))
        return [four_times, self.twice(taps[1]), taps[2], nn.functional.max_pool2d(taps[3], 2, 2)]


class PlainHead(nn.Module):
    """mmsegmentation's UPerNet head (`UPerHead.forward`), on copies of the weights of ours."""

    def __init__(self, head: nn.Module, pool_scales: list[int]):
        super().__init__()
        state = head.state_dict()
        self.pool_scales = list(pool_scales)
        self.pooled = nn.ModuleList(PlainConvModule(state, f"psp_modules.{j}.1") for j in range(len(pool_scales)))
        self.bottleneck = PlainConvModule(state, "bottleneck")
        self.laterals = nn.ModuleList(PlainConvModule(state, f"lateral_convs.{i}") for i in range(3))
        self.outputs = nn.ModuleList(PlainConvModule(state, f"fpn_convs.{i}") for i in range(3))
        self.fusion = PlainConvModule(state, "fpn_bottleneck")
        num_outputs, channels = state["conv_seg.weight"].shape[:2]
        self.conv_seg = nn.Conv2d(channels, num_outputs, 1)
        self.conv_seg.load_state_dict({key: state[f"conv_seg.{key}"] for key in ("weight", "bias")})

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        smallest = maps[3]
        context = [smallest]
        for scale, convolution in zip(self.pool_scales, self.pooled, strict=True):
            pooled = convolution(nn.functional.adaptive_avg_pool2d(smallest, scale))
            context.append(_enlarged(pooled, smallest))
        top = self.bottleneck(torch.cat(context, dim=1))
        lateral = [convolution(m) for convolution, m in zip(self.laterals, maps[:3], strict=True)]
        third = lateral[2] + _enlarged(top, lateral[2])
        second = lateral[1] + _enlarged(third, lateral[1])
        first = lateral[0] + _enlarged(second, lateral[0])
        levels = [convolution(m) for convolution, m in zip(self.outputs, (first, second, third), strict=True)]
        joined = torch.cat([levels[0], *(_enlarged(m, levels[0]) for m in (levels[1], levels[2], top))], dim=1)
        dropped = nn.functional.dropout2d(self.fusion(joined), 0.1, self.training)
        return self.conv_seg(dropped)


def _enlarged(m: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(m, size=like.shape[-2:], mode="bilinear", align_corners=False)


def with_plain_head(model: DenseModel) -> DenseModel:
    """A copy of a parsing or alignment model whose neck and head are the plain ones; for training steps."""
    model = copy.deepcopy(model)
    model.pyramid = PlainNeck(model.pyramid)
    name = "decode_head" if isinstance(model, FaRLForFaceParsing) else "heatmap_head"
    setattr(model, name, PlainHead(getattr(model, name), model.config.pool_scales))
    return model


class PlainBlock(nn.Module):
    """CLIP's residual block on tokens in (length, batch, width) order."""

    def __init__(self, layer: nn.Module, num_heads: int):
        super().__init__()
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.attn = nn.MultiheadAttention(attention.out_proj.in_features, num_heads)
        with torch.no_grad():
            self.attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
            self.attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        self.attn.out_proj = attention.out_proj
        self.ln_1, self.ln_2 = layer.layer_norm1, layer.layer_norm2
        self.c_fc, self.c_proj = layer.mlp.fc1, layer.mlp.fc2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden = self.c_fc(self.ln_2(x))
        return x + self.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class PlainTower(nn.Module):
    """CLIP's vision transformer, giving the taps as maps (batch, width, rows, columns)."""

    def __init__(self, model: FaRLVisionModel, out_indices: list[int]):
        super().__init__()
        self.embeddings, self.ln_pre = model.embeddings, model.pre_layrnorm
        self.blocks = nn.ModuleList(
            PlainBlock(layer, model.config.num_attention_heads) for layer in model.encoder.layers
        )
        self.out_indices = out_indices

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        if self.embeddings.stem is not None:
            pixel_values = self.embeddings.stem(pixel_values)
        x = self.embeddings.patch_embedding(pixel_values)
        batch, width, rows, columns = x.shape
        x = x.reshape(batch, width, -1).permute(0, 2, 1)
        x = torch.cat([self.embeddings.class_embedding.expand(batch, 1, -1), x], dim=1)
        x = self.ln_pre(x + self.embeddings.position_table(rows, columns)).permute(1, 0, 2)
        taps = {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            taps[number] = x
        maps = (taps[i].permute(1, 0, 2)[:, 1:] for i in self.out_indices)
        return [m.permute(0, 2, 1).reshape(batch, width, rows, columns).contiguous() for m in maps]


class PlainDenseModel(nn.Module):
    """The original's parsing or alignment network: logits, or heat maps, at the head's size and as it returns them."""

    def __init__(self, model: DenseModel):
        super().__init__()
        plain = with_plain_head(model)
        self.tower = PlainTower(plain.vision_model, list(plain.config.out_indices))
        self.neck = plain.pyramid
        self.head = plain.decode_head if isinstance(plain, FaRLForFaceParsing) else plain.heatmap_head
        self.output_size = plain.config.output_size if isinstance(plain, FaRLForFaceParsing) else None

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.neck(self.tower(pixel_values)))
        if self.output_size is None:
            return logits
        return nn.functional.interpolate(logits, (self.output_size,) * 2, mode="bilinear", align_corners=False)
