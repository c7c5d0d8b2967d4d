"""Part of the suite `data`: what one augmented training face costs, against chains of torchvision and of OpenCV."""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

from farl_hf.finetuning import BENCHMARKS
from farl_hf.finetuning.faces import FaceRows, TrainingFaces
from farl_hf.models.image_processing_farl import FaRLFaceImageProcessor

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
