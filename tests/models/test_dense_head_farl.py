import pytest
import torch
from torch import nn

from farl_hf.models.dense_head_farl import FaRLNeck, FaRLUperHead, conv3x3_over_enlarged, init_dense_head_weights


def plain_fusion(maps: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """The original's way: enlarge every map, concatenate, convolve."""
    enlarged = [resize(m, maps[0].shape[-2:]) for m in maps]
    return nn.functional.conv2d(torch.cat(enlarged, dim=1), weight, padding=1)


def resize(x: torch.Tensor, size) -> torch.Tensor:
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    "sizes",
    [
        [(16, 16), (8, 8), (4, 4), (2, 2)],
        [(14, 14), (14, 14), (1, 1), (2, 2), (3, 3), (6, 6)],
        [(9, 13), (5, 6), (1, 3)],
    ],
)
def test_low_resolution_fusion_is_the_same_convolution(sizes):
    torch.manual_seed(0)
    maps = [torch.randn(2, 3 + i, *size, dtype=torch.float64, requires_grad=True) for i, size in enumerate(sizes)]
    weight = torch.randn(7, sum(m.shape[1] for m in maps), 3, 3, dtype=torch.float64, requires_grad=True)
    ours, plain = conv3x3_over_enlarged(maps, weight), plain_fusion(maps, weight)
    assert (ours - plain).abs().max() < 1e-6 * plain.abs().max()
    direction = torch.randn_like(plain)
    got = torch.autograd.grad((ours * direction).sum(), [weight, *maps])
    want = torch.autograd.grad((plain * direction).sum(), [weight, *maps])
    assert all((a - b).abs().max() < 1e-6 * b.abs().max() for a, b in zip(got, want, strict=True))


def test_low_resolution_fusion_in_single_precision():
    torch.manual_seed(0)
    maps = [torch.randn(1, 64, size, size) for size in (32, 16, 8, 4)]
    weight = torch.randn(64, 256, 3, 3)
    plain = plain_fusion([m.double() for m in maps], weight.double())
    assert (conv3x3_over_enlarged(maps, weight) - plain).abs().max() < 1e-5 * plain.abs().max()


def plain_head(head: FaRLUperHead, maps: list[torch.Tensor]) -> torch.Tensor:
    """mmsegmentation's UPerHead.forward written down again, on the head's own layers."""

    def conv_module(module, x):
        return torch.relu(module.bn(nn.functional.conv2d(x, module.conv.weight, padding=module.conv.padding)))

    laterals = [conv_module(module, x) for module, x in zip(head.lateral_convs, maps[:3], strict=True)]
    pooled = [resize(conv_module(m[1], m[0](maps[3])), maps[3].shape[-2:]) for m in head.psp_modules]
    laterals.append(conv_module(head.bottleneck, torch.cat([maps[3], *pooled], dim=1)))
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1].shape[-2:])
    levels = [conv_module(module, x) for module, x in zip(head.fpn_convs, laterals[:3], strict=True)] + [laterals[3]]
    levels = [resize(x, levels[0].shape[-2:]) for x in levels]
    return head.conv_seg(conv_module(head.fpn_bottleneck, torch.cat(levels, dim=1)))


def random_head(**kwargs) -> FaRLUperHead:
    torch.manual_seed(0)
    head = FaRLUperHead([8] * 4, 12, 5, pool_scales=(1, 2, 3, 6), dropout=0.1, **kwargs)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return head


def pyramid(batch: int = 2, side: int = 28) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 8, side // 2**i, side // 2**i) for i in range(4)]


def test_head_equals_the_plain_one():
    head = random_head().eval()
    maps = pyramid()
    assert (head(maps) - plain_head(head, maps)).abs().max() < 1e-5
    head.train().dropout.p = 0.0
    got = torch.autograd.grad(head(maps).square().mean(), list(head.parameters()))
    want = torch.autograd.grad(plain_head(head, maps).square().mean(), list(head.parameters()))
    assert all((a - b).abs().max() < 1e-4 * b.abs().max() + 1e-7 for a, b in zip(got, want, strict=True))


def test_official_names():
    names = set(random_head().state_dict())
    assert {"psp_modules.3.1.conv.weight", "bottleneck.bn.running_var", "fpn_bottleneck.conv.weight"} <= names
    assert sum(p.numel() for p in FaRLUperHead([768] * 4, 768, 11, (1, 2, 3, 6), 0.1).parameters()) == 67_856_651
    neck = FaRLNeck(768)
    assert {"fpns.0.0.weight", "fpns.0.1.bias", "fpns.0.3.weight", "fpns.1.bias"} <= set(neck.state_dict())
    assert sum(p.numel() for p in neck.parameters()) == 7_081_728


def test_neck_sizes_also_for_odd_grids():
    taps = [torch.randn(2, 8, 7, 9) for _ in range(4)]
    maps = FaRLNeck(8)(taps)
    assert [tuple(m.shape[-2:]) for m in maps] == [(28, 36), (14, 18), (7, 9), (3, 4)]
    assert random_head().eval()(maps).shape == (2, 5, 28, 36)


def test_a_batch_of_one_cannot_train():
    with pytest.raises(ValueError, match="batch of one"):
        random_head().train()(pyramid(batch=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    head = random_head().eval()
    want = head(pyramid())
    got = head.to(dtype)([m.to(dtype) for m in pyramid()])
    assert got.dtype == dtype and (got.float() - want).abs().max() < 0.05 * want.abs().max()


def test_compiles_and_exports_in_one_graph():
    head, maps = random_head().eval(), pyramid()
    with torch.no_grad():
        assert torch.allclose(torch.compile(head, fullgraph=True, backend="aot_eager")(maps), head(maps), atol=1e-5)
        assert torch.allclose(torch.export.export(head, (maps,)).module()(maps), head(maps), atol=1e-5)


def test_initialisation_is_kaiming_by_fan_out():
    torch.manual_seed(0)
    head = FaRLUperHead([64] * 4, 64, 5, (1,), 0.1)
    head.apply(init_dense_head_weights)
    assert head.fpn_convs[0].conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert head.conv_seg.weight.abs().max() <= 64**-0.5


def test_neck_by_hand():
    """Each level from its tap with loops: transposed convolutions of kernel and stride 2, the identity, the largest."""
    torch.manual_seed(0)
    neck = FaRLNeck(3).eval()
    taps = [torch.randn(1, 3, 4, 4) for _ in range(4)]

    def enlarge(layer: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(1, 3, 2 * x.shape[2], 2 * x.shape[3])
        for row in range(out.shape[2]):
            for column in range(out.shape[3]):
                kernel = layer.weight[:, :, row % 2, column % 2]
                out[0, :, row, column] = x[0, :, row // 2, column // 2] @ kernel + layer.bias
        return out

    first, norm, _, last = neck.fpns[0]
    maps = neck(taps)
    middle = nn.functional.gelu(norm(enlarge(first, taps[0])))
    assert (maps[0] - enlarge(last, middle)).abs().max() < 1e-5
    assert (maps[1] - enlarge(neck.fpns[1], taps[1])).abs().max() < 1e-5
    assert torch.equal(maps[2], taps[2])
    assert torch.equal(maps[3], taps[3].view(1, 3, 2, 2, 2, 2).amax(dim=(3, 5)))
