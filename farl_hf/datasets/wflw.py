"""WFLW: 98 landmarks in the wild (Wu et al., CVPR 2018), in the annotation files of HRNet."""

from pathlib import Path

import datasets

from .files import (
    BadSamples,
    HrnetFace,
    check_count,
    check_split,
    find_root,
    landmark_dataset,
    logger,
    read_hrnet_csv,
    require,
)

SOURCE = (
    "Get WFLW_images from https://wywu.github.io/projects/LAB/WFLW.html as WFLW/WFLW_images, and the annotation files "
    "from https://github.com/HRNet/HRNet-Facial-Landmark-Detection."
)
COUNTS = {
    "train": 7_500,
    "test": 2_500,
    "test_largepose": 326,
    "test_expression": 314,
    "test_illumination": 698,
    "test_makeup": 206,
    "test_occlusion": 736,
    "test_blur": 773,
}


def load_wflw(data_dir: str | Path, split: str, skip_bad: bool = False, strict: bool = False) -> datasets.Dataset:
    """
    Reads `WFLW/face_landmarks_wflw_{split}.csv` and the images in `WFLW/WFLW_images`.

    Args:
        data_dir: The folder `WFLW`, or the one above it.
        split: `train`, `test` or a subset of it (`test_largepose`, ..., see `COUNTS`).
        skip_bad: Leave out malformed lines and faces without image, and log their number.
        strict: Make another number of samples than the official one an error, in place of a warning.

    Returns:
        Columns `name`, `file`, `image`, `box` (x1, y1, x2, y2), `landmarks` (98, 2), both in pixels, and `subsets`: for
        `test` those whose annotation file lists the face.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is malformed, or the split is unknown or empty.
    """
    check_split(split, tuple(COUNTS))
    root = require(find_root(data_dir, "WFLW"), SOURCE)
    bad = BadSamples(skip_bad, f"WFLW {split}")
    faces = read_hrnet_csv(require(root / f"face_landmarks_wflw_{split}.csv", SOURCE), 98, bad)
    members = _subset_members(root, bad) if split == "test" else {}
    rows = []
    for face in faces:
        name = _sample_name(face)
        subsets = [subset for subset, names in members.items() if name in names]
        rows.append(
            {"name": name, "image": face.path, "box": face.box, "landmarks": face.landmarks, "subsets": subsets}
        )
    dataset = landmark_dataset(rows, root / "WFLW_images", 98, bad, SOURCE, "WFLW, 98 landmarks")
    check_count(f"WFLW {split} in {root}", len(dataset), COUNTS[split], strict)
    return dataset


def _sample_name(face: HrnetFace) -> str:
    """Image and mean landmark: an image may have several annotated faces."""
    x, y = face.landmarks.mean(axis=0)
    return f"{face.path.replace('/', '.')}_{x:.3f}_{y:.3f}"


def _subset_members(root: Path, bad: BadSamples) -> dict[str, set[str]]:
    """Subset -> names of its faces, of the subsets whose annotation file is there."""
    members = {}
    for subset in (name for name in COUNTS if name.startswith("test_")):
        path = root / f"face_landmarks_wflw_{subset}.csv"
        if path.exists():
            members[subset] = {_sample_name(face) for face in read_hrnet_csv(path, 98, bad)}
        else:
            logger.warning("%s is missing: there will be no figures for %s.", path, subset)
    return members
