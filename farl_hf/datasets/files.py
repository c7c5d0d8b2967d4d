"""What the readers of the official layouts share: missing files, bad samples, counts, the HRNet annotation files."""

import csv
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


class BadSamples:
    """
    Raises the error of a bad sample or, with `skip`, counts it and lets the reader go on.

    Args:
        skip: Whether to go on.
        what: Name of the data set, for the final message.
    """

    def __init__(self, skip: bool, what: str):
        self.skip, self.what = skip, what
        self.errors: list[Exception] = []

    def report(self, error: Exception) -> None:
        """Call in the place of `raise`."""
        if not self.skip:
            raise error
        self.errors.append(error)

    def summarise(self) -> None:
        """Logs how many samples were left out, and the first reason."""
        if self.errors:
            logger.warning("%s: skipped %d bad samples, the first: %s", self.what, len(self.errors), self.errors[0])


def find_root(data_dir: str | Path, folder: str) -> Path:
    """`data_dir/folder` if it exists, else `data_dir` itself."""
    nested = Path(data_dir) / folder
    return nested if nested.is_dir() else Path(data_dir)


def require(path: Path, source: str) -> Path:
    """`path`, or a `FileNotFoundError` that says where the data set comes from."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {source}")
    return path


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raises a `ValueError` for an unknown split."""
    if split not in splits:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(splits)}.")


def check_count(what: str, count: int, official: int, strict: bool) -> None:
    """Compares with the official number of samples: a warning, with `strict` a `ValueError`; none at all is one too."""
    if count == 0:
        raise ValueError(f"{what} has no samples.")
    if count != official:
        message = f"{what} has {count:,} samples, the official set {official:,}: results will not be comparable."
        if strict:
            raise ValueError(message)
        logger.warning(message)


def points_feature(count: int) -> datasets.Array2D:
    """Feature of (count, 2) points, x then y in pixels, the centre of the first pixel at (0, 0)."""
    return datasets.Array2D((count, 2), "float32")


def jpeg_round_trip(image: Image.Image) -> Image.Image:
    """
    The image after one more JPEG compression, as the FaRL repository's repacked data has it (OpenCV's default: quality
    95, chroma at half the resolution).
    """
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return Image.open(buffer)


@dataclass(frozen=True)
class HrnetFace:
    """
    One line of an HRNet annotation file.

    Attributes:
        path: Of the image, below the image folder.
        box: (x1, y1, x2, y2): 100 * scale to either side of the centre.
        landmarks: (points, 2) float32.
    """

    path: str
    box: tuple[float, float, float, float]
    landmarks: np.ndarray


def read_hrnet_csv(path: Path, num_points: int, bad: BadSamples, shift: float = 0.0) -> list[HrnetFace]:
    """
    Reads `path, scale, center_w, center_h, x0, y0, x1, y1, ...` lines after one header line; blank lines and lines that
    start with `#` are left out.

    Args:
        path: The CSV file.
        num_points: Landmarks per face.
        bad: Takes lines of another length or with numbers that are not finite.
        shift: Subtracted from landmarks and centre.
    """
    faces = []
    with path.open(newline="") as file:
        next(file, None)
        for number, line in enumerate(file, start=2):
            if not line.strip() or line.startswith("#"):
                continue
            name, *fields = next(csv.reader([line]))
            expected = 3 + 2 * num_points
            if len(fields) != expected:
                bad.report(
                    ValueError(f"{path}, line {number}: {len(fields) + 1} fields where {expected + 1} are needed.")
                )
                continue
            try:
                scale, *values = (float(field) for field in fields)
            except ValueError as error:
                bad.report(ValueError(f"{path}, line {number}: {error}."))
                continue
            if not all(math.isfinite(value) for value in (scale, *values)) or scale <= 0:
                bad.report(ValueError(f"{path}, line {number}: a number is not finite, or the scale is not positive."))
                continue
            points = np.array(values, dtype=np.float32).reshape(-1, 2) - np.float32(shift)
            (x, y), half = points[0].tolist(), 100 * scale
            faces.append(HrnetFace(name, (x - half, y - half, x + half, y + half), points[1:]))
    return faces


def landmark_dataset(
    rows: list[dict], root: Path, num_points: int, bad: BadSamples, source: str, what: str
) -> datasets.Dataset:
    """
    The data set of an alignment benchmark.

    Args:
        rows: `name`, `image` (path below `root`), `box`, `landmarks` and `subsets` of each face.
        root: Folder of the images.
        num_points: Landmarks per face.
        bad: Takes faces whose image is missing.
        source: Where to get the data set.
        what: Description of the data set.
    """
    kept = []
    for row in rows:
        try:
            kept.append({**row, "image": str(require(root / row["image"], source))})
        except FileNotFoundError as error:
            bad.report(error)
    bad.summarise()
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "file": datasets.Value("string"),
            "image": datasets.Image(),
            "box": datasets.List(datasets.Value("float32"), length=4),
            "landmarks": points_feature(num_points),
            "subsets": datasets.List(datasets.Value("string")),
        }
    )
    columns = {name: [row[name] for row in kept] for name in features if name != "file"}
    columns["file"] = columns["image"]
    return build_dataset(columns, features, what)


def build_dataset(columns: dict[str, list], features: datasets.Features, description: str) -> datasets.Dataset:
    """A `datasets.Dataset`; images are given by path and decoded when a row is read."""
    return datasets.Dataset.from_dict(columns, features, info=datasets.DatasetInfo(description, features=features))
