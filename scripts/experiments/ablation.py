"""
What each effect of the generated faces is worth: the same small net learns landmarks and face parsing from pictures
without it, one effect at a time, and is tested on faces of the generator's other style (hair, lights, backgrounds and
cameras that no training picture has).
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
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
        steps: Optimizer steps of each net; with 0, the table tells what it starts from.
        batch_size: Faces of a step.
        seeds: Nets of each row: other first weights, order and augmentation.
    """

    faces: int = 320
    test_faces: int = 320
    steps: int = 220
    batch_size: int = 32
    seeds: int = 3


class SmallNet(nn.Module):
    """
    A convolutional net: (B, 3, 64, 64) -> points (B, 68, 2) in [0, 1], class logits (B, 11, 32, 32).

    It starts with the mean shape and how often each class is at each pixel of the training crops, and learns by how
    much a face differs: so it is past what it takes long to learn without looking.

    Args:
        crops: What it will be trained on.
        weights: (11,) of the classes in the loss.
    """

    def __init__(self, crops: "Crops", weights: Tensor):
        super().__init__()
        widths = (12, 24, 48, 96)
        steps = list(pairwise(widths))
        self.stem = _block(3, widths[0], stride=2)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in steps)
        self.up = nn.ModuleList(_block(a + b, a, size=1) for a, b in steps)
        self.points = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * (CROP_SIZE // 16) ** 2, 2 * POINTS))
        self.classes = nn.Conv2d(widths[0], len(LAPA_LABELS), 1)
        nn.init.zeros_(self.points[1].weight)
        nn.init.zeros_(self.classes.weight)
        self.mean_points = nn.Parameter(crops.points.mean(dim=0))
        share = F.one_hot(_grid(crops.labels), len(LAPA_LABELS)).float().mean(dim=0).permute(2, 0, 1)
        self.prior = nn.Parameter(((share + 2e-3) * (weights / weights.mean())[:, None, None]).log())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = [self.stem(pixels.contiguous(memory_format=torch.channels_last))]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        points = self.points(maps[-1]).unflatten(1, (POINTS, 2)) + self.mean_points
        x = maps.pop()
        for layer in reversed(self.up):
            skip = maps.pop()
            x = layer(torch.cat([skip, F.interpolate(x, size=skip.shape[-2:])], dim=1))
        return points, self.classes(x) + self.prior


def _block(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
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
    # Small parts count more than their share of the pixels, or nothing but skin and hair is learned in a few steps.
    counts = torch.bincount(crops.labels.flatten().long(), minlength=len(LAPA_LABELS)).clamp(min=1)
    weights = counts.float().rsqrt()
    net = SmallNet(crops, weights).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3, weight_decay=1e-4, fused=True)
    warm_up = max(1, sizes.steps // 10)

    def share(step: int) -> float:
        return min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / max(1, sizes.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for _ in tqdm(range(sizes.steps), desc=f"net {seed}", unit="step", leave=False):
        chosen = torch.randint(len(crops.pixels), (sizes.batch_size,))
        gain, offset = 1 + 0.2 * torch.randn(sizes.batch_size, 1, 1, 1), 0.2 * torch.randn(sizes.batch_size, 1, 1, 1)
        points, logits = net(_normalised(crops.pixels[chosen]) * gain + offset)
        loss = 10 * (points - crops.points[chosen]).abs().mean()
        loss = loss + F.cross_entropy(logits, _grid(crops.labels[chosen]), weights)
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
            metric.update(logits.argmax(dim=1).numpy(), _grid(crops.labels[part]).numpy())
    return {"nme": float(torch.cat(errors).mean()), "f1": float(metric.compute()["fg_mean"])}


def _grid(labels: Tensor) -> Tensor:
    """Class ids (N, 64, 64) where the logits are: (N, 32, 32)."""
    return labels[:, ::2, ::2].long()


def _normalised(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def run_ablation(output_dir: str | Path, sizes: AblationSizes, effects: Sequence[str] = EFFECTS) -> dict[str, Any]:
    """
    Trains and tests `sizes.seeds` nets with all effects, and without each of `effects`. Faces that are drawn and nets
    that are done are kept, so that a killed run goes on.

    Args:
        output_dir: For one file of scores a net, the faces of each row (16 kB each), `ablation.json` and `ablation.md`.
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
    _write(record, lambda file: file.write(json.dumps(asdict(sizes)).encode()))
    test: Crops | None = None
    rows: dict[str, list[dict[str, float]]] = {effect: [] for effect in ("", *effects)}
    # One net of every row, then the second ones: the table is whole early.
    for seed, effect in tqdm(list(product(range(sizes.seeds), rows)), desc="nets", unit="net"):
        name = effect or "all"
        path = output / f"{name}-{seed}.json"
        if not path.exists():
            held_out = replace(FACES, style="held_out")
            test = test or _kept_crops(output, held_out, sizes.test_faces, TEST_SEED, "held_out")
            config = replace(FACES, without=(effect,) if effect else ())
            train = _kept_crops(output, config, sizes.faces, TRAIN_SEED, name)
            start = time.time()
            scores = score_net(train_net(train, sizes, seed), test)
            line = json.dumps({**scores, "minutes": (time.time() - start) / 60})
            _write(path, lambda file, line=line: file.write(line.encode()))
        rows[effect].append(json.loads(path.read_text()))
    results = {"sizes": asdict(sizes), "rows": rows}
    (output / "ablation.json").write_text(json.dumps(results, indent=2))
    (output / "ablation.md").write_text(ablation_table(results) + "\n")
    return results


def _kept_crops(output: Path, config: SyntheticFaceConfig, count: int, seed: int, name: str) -> Crops:
    """Faces drawn and cut out once for all nets, and kept in a file."""
    path = output / f"{name}.pt"
    if not path.exists():
        crops = make_crops(config, count, seed, name)
        _write(path, partial(torch.save, vars(crops)))
    return Crops(**torch.load(path))


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    """A kill leaves the file whole, or none."""
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        write(file)
    unfinished.replace(path)


def ablation_table(results: dict[str, Any]) -> str:
    """
    Markdown: mean and standard deviation over the nets in percent, and the difference to all effects, bold beyond twice
    the deviation of a net within its row (of all rows together): with three nets a row, chance makes one of seventy so
    large.
    """
    sizes, rows = results["sizes"], results["rows"]
    values = {key: {e: 100 * np.array([net[key] for net in nets]) for e, nets in rows.items()} for key in ("nme", "f1")}
    spread = {key: _spread(np.stack(list(of.values()))) for key, of in values.items()}
    lines = [
        f"{sizes['faces']:,} pictures, {sizes['steps']:,} steps of {sizes['batch_size']}, {sizes['seeds']} nets a row; "
        f"tested on {sizes['test_faces']:,} pictures of the held-out style; mean and standard deviation in percent.",
        "Bold: changes of more than twice the deviation of a net within its row "
        f"({spread['nme']:.2f} for NME, {spread['f1']:.2f} for F1).",
        "",
        "| without | NME | change | mean F1 | change |",
        "| --- | --- | --- | --- | --- |",
    ]
    for effect in rows:
        cells = []
        for key, of in values.items():
            change = of[effect].mean() - of[""].mean()
            mark = "**" if abs(change) > 2 * spread[key] > 0 else ""
            cells += [f"{of[effect].mean():.2f} ± {_spread(of[effect][None]):.2f}"]
            cells += [f"{mark}{change:+.2f}{mark}" if effect else ""]
        lines.append(f"| {effect.replace('_', ' ') or 'nothing (all effects)'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> float:
    """Standard deviation within rows of values (rows, nets); 0 of single nets."""
    return float(np.sqrt(values.var(axis=1, ddof=min(1, values.shape[1] - 1)).mean()))
