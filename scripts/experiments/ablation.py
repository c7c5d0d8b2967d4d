"""
What each effect of the generated faces is worth: the same small net learns landmarks and face parsing from pictures
without it, one effect at a time, and is tested on faces of the generator's other style (hair, lights, backgrounds and
cameras that no training picture has).
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from farl_hf.datasets.labels import LAPA_LABELS
from farl_hf.metrics import FaceParsingF1
from farl_hf.synthetic import EFFECTS, SyntheticFaceConfig, render_faces

FACES = SyntheticFaceConfig(image_size=96, face_size=(0.45, 0.7))
# Sets of a million pictures each that no picture shares.
TRAIN_SEED, TEST_SEED = 21, 22
# Crops around the points' box have this many times its longer side, and this size in pixels.
CROP_SCALE, CROP_SIZE = 1.5, 64
POINTS = 68


@dataclass(frozen=True)
class AblationSizes:
    """
    How much is done.

    Args:
        faces: Training pictures of each row of the table.
        test_faces: Held-out pictures.
        steps: Optimizer steps of each net.
        batch_size: Faces of a step.
        seeds: Nets of each row: other first weights, order and augmentation.
    """

    faces: int = 6_000
    test_faces: int = 500
    steps: int = 1_500
    batch_size: int = 32
    seeds: int = 3


class SmallNet(nn.Module):
    """A convolutional net: (B, 3, 64, 64) -> points (B, 68, 2) in [0, 1], class logits (B, 11, 32, 32)."""

    def __init__(self):
        super().__init__()
        widths = (32, 48, 64, 96)
        steps = list(pairwise(widths))
        self.stem = _block(3, widths[0], stride=2)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in steps)
        self.up = nn.ModuleList(_block(a + b, a) for a, b in steps)
        self.points = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * (CROP_SIZE // 16) ** 2, 2 * POINTS))
        self.classes = nn.Conv2d(widths[0], len(LAPA_LABELS), 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = [self.stem(pixels.contiguous(memory_format=torch.channels_last))]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        points = self.points(maps[-1]).unflatten(1, (POINTS, 2)) + 0.5
        x = maps.pop()
        for layer in reversed(self.up):
            skip = maps.pop()
            x = layer(torch.cat([skip, F.interpolate(x, size=skip.shape[-2:])], dim=1))
        return points, self.classes(x)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


@dataclass
class Crops:
    """Faces cut out: pixels (N, 3, 64, 64) uint8, labels (N, 64, 64) uint8, points (N, 68, 2) in [0, 1]."""

    pixels: Tensor
    labels: Tensor
    points: Tensor


def make_crops(config: SyntheticFaceConfig, count: int, seed: int, what: str) -> Crops:
    """Draws faces and cuts them out by the box of their points, a little off as detectors are."""
    rng, pixels, labels, points = np.random.default_rng(seed), [], [], []
    first = seed * 1_000_000
    for start in tqdm(range(0, count, 16), desc=what, unit="chunk", leave=False):
        for sample in render_faces(range(first + start, first + min(start + 16, count)), config):
            target = sample.faces[-1].landmarks[POINTS]
            side = CROP_SCALE * np.ptp(target, axis=0).max() * rng.uniform(0.9, 1.12)
            corner = (target.min(axis=0) + target.max(axis=0)) / 2 - side / 2 + rng.normal(0, 0.03, 2) * side
            # Pillow's affine map takes the output's pixel edges to the input's.
            step = side / CROP_SIZE
            matrix = (step, 0, corner[0] + 0.5, 0, step, corner[1] + 0.5)
            pixels.append(_cut(sample.image, matrix, Image.Resampling.BILINEAR))
            labels.append(_cut(sample.lapa_labels, matrix, Image.Resampling.NEAREST))
            points.append((target - corner) / side)
    return Crops(
        torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(points).astype(np.float32)),
    )


def _cut(image: np.ndarray, matrix: tuple[float, ...], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).transform((CROP_SIZE, CROP_SIZE), Image.Transform.AFFINE, matrix, how))


def train_net(crops: Crops, sizes: AblationSizes, seed: int) -> SmallNet:
    """One net; the learning rate warms up, then falls as a cosine. Light and contrast of the crops vary."""
    torch.manual_seed(seed)
    net = SmallNet().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    warm_up = max(1, sizes.steps // 10)

    def share(step: int) -> float:
        return min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / sizes.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for _ in tqdm(range(sizes.steps), desc=f"net {seed}", unit="step", leave=False):
        chosen = torch.randint(len(crops.pixels), (sizes.batch_size,))
        gain, offset = 1 + 0.2 * torch.randn(sizes.batch_size, 1, 1, 1), 0.2 * torch.randn(sizes.batch_size, 1, 1, 1)
        points, logits = net(_normalised(crops.pixels[chosen]) * gain + offset)
        loss = 10 * (points - crops.points[chosen]).abs().mean()
        loss = loss + F.cross_entropy(logits, crops.labels[chosen].long()[:, ::2, ::2])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def score_net(net: SmallNet, crops: Crops) -> dict[str, float]:
    """`nme`: distance of the points in shares of the outer eye corners' distance; `f1`: mean over LaPa's ten parts."""
    errors, metric = [], FaceParsingF1(LAPA_LABELS)
    with torch.no_grad():
        for start in range(0, len(crops.pixels), 100):
            part = slice(start, start + 100)
            points, logits = net(_normalised(crops.pixels[part]))
            target = crops.points[part]
            eyes = (target[:, 36] - target[:, 45]).norm(dim=-1)
            errors.append((points - target).norm(dim=-1).mean(dim=-1) / eyes)
            metric.update(logits.argmax(dim=1).numpy(), crops.labels[part, ::2, ::2].numpy())
    return {"nme": float(torch.cat(errors).mean()), "f1": float(metric.compute()["fg_mean"])}


def _normalised(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def run_ablation(output_dir: str | Path, sizes: AblationSizes, effects: Sequence[str] = EFFECTS) -> dict[str, Any]:
    """
    Trains and tests `sizes.seeds` nets with all effects, then without each of `effects`. Nets that are done are kept,
    so that a killed run goes on.

    Args:
        output_dir: For one file a net, `ablation.json` and `ablation.md`.
        sizes: How much is done. Another size needs another folder.
        effects: Some of `EFFECTS`.

    Returns:
        What `ablation.json` holds: `sizes`, and `rows`: effect left out ("" for none) -> scores of each net.
    """
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    record = output / "sizes.json"
    if record.exists() and json.loads(record.read_text()) != asdict(sizes):
        raise ValueError(f"{output} holds nets of other sizes ({record}): take another folder.")
    record.write_text(json.dumps(asdict(sizes)))
    test: Crops | None = None
    rows: dict[str, list[dict[str, float]]] = {}
    for effect in ("", *effects):
        train: Crops | None = None
        rows[effect] = []
        for seed in range(sizes.seeds):
            path = output / f"{effect or 'all'}-{seed}.json"
            if not path.exists():
                test = test or make_crops(replace(FACES, style="held_out"), sizes.test_faces, TEST_SEED, "held out")
                config = replace(FACES, without=(effect,) if effect else ())
                train = train or make_crops(config, sizes.faces, TRAIN_SEED, f"without {effect or 'nothing'}")
                start = time.time()
                scores = score_net(train_net(train, sizes, seed), test)
                path.write_text(json.dumps({**scores, "minutes": (time.time() - start) / 60}))
            rows[effect].append(json.loads(path.read_text()))
    results = {"sizes": asdict(sizes), "rows": rows}
    (output / "ablation.json").write_text(json.dumps(results, indent=2))
    (output / "ablation.md").write_text(ablation_table(results) + "\n")
    return results


def ablation_table(results: dict[str, Any]) -> str:
    """Markdown: mean and standard deviation over the nets in percent, and the difference to all effects."""
    sizes, rows = results["sizes"], results["rows"]
    means = {
        effect: {k: 100 * np.mean([row[k] for row in nets]) for k in ("nme", "f1")} for effect, nets in rows.items()
    }
    lines = [
        f"{sizes['faces']:,} pictures, {sizes['steps']:,} steps of {sizes['batch_size']}, {sizes['seeds']} nets a row; "
        f"tested on {sizes['test_faces']:,} pictures of the held-out style; mean and standard deviation in percent.",
        "",
        "| without | NME | change | mean F1 | change |",
        "| --- | --- | --- | --- | --- |",
    ]
    for effect, nets in rows.items():
        cells = []
        for key in ("nme", "f1"):
            spread = 100 * np.std([row[key] for row in nets], ddof=min(1, len(nets) - 1))
            change = means[effect][key] - means[""][key]
            cells += [f"{means[effect][key]:.2f} ± {spread:.2f}", f"{change:+.2f}" if effect else ""]
        lines.append(f"| {effect.replace('_', ' ') or 'nothing (all effects)'} | {' | '.join(cells)} |")
    return "\n".join(lines)
