"""
Part of the suite `data`: what one augmented training face costs, against chains of torchvision and of OpenCV; and the
suite `small`: training steps of the small presets.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

from farl_hf.finetuning import BENCHMARKS
from farl_hf.finetuning.faces import FaceRows, TrainingFaces
from farl_hf.finetuning.run import prepare_for_cpu
from farl_hf.models.configuration_farl import FaRLConfig
from farl_hf.models.image_processing_farl import FaRLFaceImageProcessor
from farl_hf.models.modeling_farl import FaRLForFaceAlignment

from .measuring import Case

Function = Callable[[], Any]

# (width, height) of the photos, about LaPa's.
_PHOTO = (600, 640)
_MEAN, _STD = FaRLFaceImageProcessor().image_mean, FaRLFaceImageProcessor().image_std


def training_face_cases(size: int = 448, faces: int = 20) -> Iterator[Case]:
    """
    One process reads a photo and its label map and makes a training pair of them: ours with LaPa's warp (a tanh, which
    no library has, at 512 px and then resized as in the original), the others with an affine map in its place.
    """
    for library, goal in (("torchvision", 0.8), ("OpenCV", 0.3)):
        name = f"{faces} augmented LaPa faces of {size} px, against an affine chain of {library}"
        yield Case("data", name, partial(_augmented_faces, size, faces, library), tolerance=None, goal=goal)


def small_step_cases(size: int = 64, batch: int = 32) -> Iterator[Case]:
    """A step of landmarks with the small presets against a plain convolutional network of about as many parameters."""
    for preset in ("tiny", "farl-tiny"):
        for precision in ("fp32", "bf16"):
            name = f"alignment step of {preset} at {size} px, batch {batch}, {precision}, against convolutions alone"
            yield Case("small", name, partial(_small_step, preset, size, batch, precision), tolerance=None)


def _small_step(preset: str, size: int, batch: int, precision: str, side: str) -> Function:
    torch.manual_seed(0)
    if side == "ours":
        model = FaRLForFaceAlignment(FaRLConfig.from_preset(preset, image_size=size, num_landmarks=68)).train()
        prepare_for_cpu(model, precision == "bf16")
        loss_of = lambda pixels, labels: model(pixel_values=pixels, labels=labels).loss  # noqa: E731
    else:
        model = _plain_landmarks(size).train()
        loss_of = lambda pixels, labels: nn.functional.l1_loss(model(pixels).float(), labels)  # noqa: E731
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    pixel_values, labels = torch.randn(batch, 3, size, size), torch.rand(batch, 68, 2)

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(pixel_values, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _plain_landmarks(size: int) -> nn.Module:
    """1.3 M parameters at 64 px: four halvings, two layers each, and coordinates from what is left."""
    layers: list[nn.Module] = []
    before = 3
    for width in (32, 64, 128, 192):
        for stride in (1, 2):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
    left = before * (size // 16) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(left, 136), nn.Unflatten(1, (68, 2)))


@cache
def _lapa(faces: int) -> Path:
    """Smooth pictures with noise, which costs a JPEG decoder about what photos do; blocks of classes; five points."""
    root = Path(tempfile.mkdtemp(prefix="farl-benchmark-")) / "LaPa/train"
    rng = np.random.default_rng(0)
    for folder in ("images", "labels", "landmarks"):
        (root / folder).mkdir(parents=True)
    for i in range(faces):
        smooth = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize(_PHOTO)
        pixels = np.asarray(smooth) + rng.normal(0, 6, (_PHOTO[1], _PHOTO[0], 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"images/{i}.jpg", quality=92)
        blocks = Image.fromarray(rng.integers(0, 11, (10, 10), dtype=np.uint8))
        blocks.resize(_PHOTO, Image.Resampling.NEAREST).save(root / f"labels/{i}.png")
        points = rng.uniform(150, 450, (106, 2))
        points[[104, 105, 54, 84, 90]] = [[230, 260], [370, 260], [300, 330], [250, 410], [350, 410]]
        text = "\n".join(f"{x} {y}" for x, y in points)
        (root / f"landmarks/{i}.txt").write_text(f"106\n{text}\n")
    return root.parents[1]


def _augmented_faces(size: int, faces: int, library: str, side: str) -> Function:
    data_dir = _lapa(faces)
    if side == "ours":
        benchmark = BENCHMARKS["lapa"]
        rows = FaceRows(benchmark.load(data_dir, "train"), benchmark.task, benchmark.processor(size, "farl"))
        training = TrainingFaces(rows, benchmark.augmentation, seed=0)
        return lambda: sum(len(training[i]) for i in range(faces))
    root = data_dir / "LaPa/train"
    read = (
        _torchvision_reader(size) if library == "torchvision" else partial(_opencv_pair, np.random.default_rng(0), size)
    )
    return lambda: sum(len(read(root / f"images/{i}.jpg", root / f"labels/{i}.png")) for i in range(faces))


def _torchvision_reader(size: int) -> Callable[[Path, Path], Any]:
    augment = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((size, size), antialias=False),
            v2.RandomAffine(18, translate=(0.01, 0.01), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomGrayscale(0.1),
            v2.RandomApply([v2.GaussianBlur(5)], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_MEAN, _STD),
        ]
    )
    return lambda image, labels: augment(
        Image.open(image).convert("RGB"), Mask(torch.from_numpy(np.array(Image.open(labels))))
    )


def _opencv_pair(rng: np.random.Generator, size: int, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    classes = cv2.imread(str(labels), cv2.IMREAD_GRAYSCALE)
    middle = (_PHOTO[0] / 2, _PHOTO[1] / 2)
    matrix = cv2.getRotationMatrix2D(middle, rng.normal(0, 18), size / _PHOTO[1] * rng.normal(1, 0.1))
    matrix[:, 2] += size / 2 - np.array(middle)
    pixels = cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR)
    classes = cv2.warpAffine(classes, matrix, (size, size), flags=cv2.INTER_NEAREST)
    if rng.random() < 0.1:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    blur = int(size * rng.uniform(0, 0.01))
    pixels = cv2.blur(pixels, (blur, blur)) if blur > 1 else pixels
    scaled = (pixels.astype(np.float32) / 255 - np.float32(_MEAN)) / np.float32(_STD)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)), classes
