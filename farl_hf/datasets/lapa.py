"""LaPa: 11 face parts and 106 landmarks on photos in the wild (Liu et al., AAAI 2020)."""

from pathlib import Path

import datasets
import numpy as np

from .files import BadSamples, build_dataset, check_count, check_split, find_root, points_feature, require
from .labels import LAPA_LABELS

SOURCE = "Get LaPa from https://github.com/JDAI-CV/lapa-dataset and unpack it as LaPa/{train,val,test}."
COUNTS = {"train": 18_176, "val": 2_000, "test": 2_000}
# Pupils, nose tip and mouth corners among the 106 landmarks (`datasets/prepare.py` of the FaRL repository).
FIVE_POINTS = [104, 105, 54, 84, 90]


def load_lapa(data_dir: str | Path, split: str, skip_bad: bool = False, strict: bool = False) -> datasets.Dataset:
    """
    Reads `LaPa/{split}/{images/*.jpg, labels/*.png, landmarks/*.txt}`, sorted by name.

    Args:
        data_dir: The folder `LaPa`, or the one above it.
        split: `train`, `val` or `test`.
        skip_bad: Leave out samples whose label map or landmarks are missing or malformed, and log their number.
        strict: Make another number of samples than the official one an error, in place of a warning.

    Returns:
        Columns `name`, `file`, `image`, `labels` (grey PNG of class ids, see `LAPA_LABELS`), `landmarks` (106, 2) and
        `face_points` (5, 2), both in pixels.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is malformed, or the split is unknown or empty.
    """
    check_split(split, tuple(COUNTS))
    root = require(find_root(data_dir, "LaPa") / split, SOURCE)
    bad = BadSamples(skip_bad, f"LaPa {split}")
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "file": datasets.Value("string"),
            "image": datasets.Image(),
            "labels": datasets.Image(),
            "landmarks": points_feature(106),
            "face_points": points_feature(5),
        }
    )
    columns: dict[str, list] = {name: [] for name in features}
    for image in sorted(require(root / "images", SOURCE).glob("*.jpg")):
        try:
            labels = require(root / "labels" / f"{image.stem}.png", SOURCE)
            landmarks = read_landmarks(require(root / "landmarks" / f"{image.stem}.txt", SOURCE))
        except (FileNotFoundError, ValueError) as error:
            bad.report(error)
            continue
        row = (f"{split}.{image.stem}", str(image), str(image), str(labels), landmarks, landmarks[FIVE_POINTS])
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    bad.summarise()
    check_count(f"LaPa {split} in {root}", len(columns["name"]), COUNTS[split], strict)
    return build_dataset(columns, features, f"LaPa, class ids of {', '.join(LAPA_LABELS)}")


def read_landmarks(path: Path) -> np.ndarray:
    """(106, 2) float32 from a file that holds the number 106, then 106 pairs x y."""
    try:
        numbers = np.array(path.read_text().split(), dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from None
    if len(numbers) != 213 or numbers[0] != 106:
        raise ValueError(f"{path}: {len(numbers)} numbers where 106 and 106 pairs x y are needed.")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path}: landmark {int(np.argmin(np.isfinite(numbers[1:]))) // 2} is not finite.")
    return numbers[1:].reshape(106, 2)
