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


def plain_fusions(model: DenseModel) -> DenseModel:
    """A copy of a parsing or alignment model with plain fusion convolutions; for training steps."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FusionConvModule):
                setattr(parent, name, PlainFusion(child))
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
        plain = plain_fusions(model)
        self.tower = PlainTower(plain.vision_model, list(plain.config.out_indices))
        self.neck = plain.pyramid
        self.head = plain.decode_head if isinstance(plain, FaRLForFaceParsing) else plain.heatmap_head
        self.output_size = plain.config.output_size if isinstance(plain, FaRLForFaceParsing) else None

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.neck(self.tower(pixel_values)))
        if self.output_size is None:
            return logits
        return nn.functional.interpolate(logits, (self.output_size,) * 2, mode="bilinear", align_corners=False)
