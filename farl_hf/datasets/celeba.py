"""CelebA: 40 face attributes (Liu et al., ICCV 2015)."""

from pathlib import Path

import datasets
import numpy as np

from .files import BadSamples, build_dataset, check_count, check_split, find_root, points_feature, require
from .labels import CELEBA_ATTRIBUTES

SOURCE = (
    "Get CelebA from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html as celeba/img_align_celeba and the files "
    "list_attr_celeba.txt, list_eval_partition.txt and list_landmarks_align_celeba.txt."
)
COUNTS = {"train": 162_770, "val": 19_867, "test": 19_962}


def load_celeba(data_dir: str | Path, split: str, skip_bad: bool = False, strict: bool = False) -> datasets.Dataset:
    """
    Reads the aligned images and annotation lists, flat in one folder or in the official subfolders `Img`, `Anno`,
    `Eval`.

    Args:
        data_dir: The folder `celeba`, or the one above it.
        split: `train`, `val` or `test`.
        skip_bad: Leave out malformed lines and faces without image, and log their number.
        strict: Make another number of samples than the official one an error, in place of a warning.

    Returns:
        Columns `name`, `file`, `image`, `face_points` (5, 2) in pixels, and `attributes`, a dictionary of 40 booleans
        in CelebA's order.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is malformed, or the split is unknown or empty.
    """
    check_split(split, tuple(COUNTS))
    root = require(find_root(data_dir, "celeba"), SOURCE)
    bad = BadSamples(skip_bad, f"CelebA {split}")
    partition = _read_list(_find(root, "Eval", "list_eval_partition.txt"), 1, 0, ("0", "1", "2"), bad)
    attributes = _read_list(_find(root, "Anno", "list_attr_celeba.txt"), 40, 2, ("1", "-1"), bad)
    points = _read_list(_find(root, "Anno", "list_landmarks_align_celeba.txt"), 10, 2, None, bad)
    images = _find(root, "Img", "img_align_celeba")
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "file": datasets.Value("string"),
            "image": datasets.Image(),
            "face_points": points_feature(5),
            "attributes": {name: datasets.Value("bool") for name in CELEBA_ATTRIBUTES},
        }
    )
    columns: dict[str, list] = {name: [] for name in features}
    wanted = str(list(COUNTS).index(split))
    for name in (name for name, (part,) in partition.items() if part == wanted):
        if name not in attributes or name not in points:
            bad.report(ValueError(f"{name} of {split} has no attributes or no landmarks in the lists of {root}."))
            continue
        try:
            image = str(require(images / name, SOURCE))
        except FileNotFoundError as error:
            bad.report(error)
            continue
        answers = dict(zip(CELEBA_ATTRIBUTES, (value == "1" for value in attributes[name]), strict=True))
        five_points = np.array(points[name], dtype=np.float32).reshape(5, 2)
        for column, value in zip(columns.values(), (name, image, image, five_points, answers), strict=True):
            column.append(value)
    bad.summarise()
    check_count(f"CelebA {split} in {root}", len(columns["name"]), COUNTS[split], strict)
    return build_dataset(columns, features, "CelebA, 40 attributes")


def _find(root: Path, subfolder: str, name: str) -> Path:
    """`root/name`, or `root/subfolder/name` as in the official archive."""
    nested = root / subfolder / name
    return nested if nested.exists() else require(root / name, SOURCE)


def _read_list(
    path: Path, num_values: int, header_lines: int, allowed: tuple[str, ...] | None, bad: BadSamples
) -> dict[str, list[str]]:
    """File name -> values of a list of CelebA. `allowed` values; `None` takes any number."""
    entries = {}
    for number, line in enumerate(path.read_text().splitlines()[header_lines:], start=header_lines + 1):
        if not line.strip():
            continue
        name, *values = line.split()
        valid = all(value in allowed for value in values) if allowed else all(map(_is_number, values))
        if len(values) != num_values or not valid:
            expected = f"{num_values} values" + (f" of {' or '.join(allowed)}" if allowed else "")
            bad.report(ValueError(f"{path}, line {number}: {expected} are needed after the file name."))
            continue
        entries[name] = values
    return entries


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
