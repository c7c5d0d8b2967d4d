"""AFLW-19: 19 landmarks on faces of any pose (Koestinger et al. 2011; split and points of Zhu et al., CVPR 2016)."""

from pathlib import Path

import datasets
import numpy as np

from .files import BadSamples, check_count, check_split, find_root, landmark_dataset, require

SOURCE = (
    "Get AFLWinfo_release.mat from http://mmlab.ie.cuhk.edu.hk/projects/compositional.html and the images "
    "(data/flickr) from https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/, as AFLW-19."
)
COUNTS = {"train": 20_000, "test": 4_386, "test_frontal": 1_314}


def load_aflw19(data_dir: str | Path, split: str, skip_bad: bool = False, strict: bool = False) -> datasets.Dataset:
    """
    Reads `AFLW-19/AFLWinfo_release.mat` and the images in `AFLW-19/data/flickr`. The file's permutation `ra` has the
    20,000 training faces first; a file of another length is divided in the same proportion.

    Args:
        data_dir: The folder `AFLW-19`, or the one above it.
        split: `train`, `test` or `test_frontal` (all 19 points visible).
        skip_bad: Leave out faces without image or with landmarks that are not finite, and log their number.
        strict: Make another number of samples than the official one an error, in place of a warning.

    Returns:
        Columns `name` (position in the split), `file`, `image`, `box` (x1, y1, x2, y2), `landmarks` (19, 2), both in
        pixels, and `subsets` of a test face.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the `.mat` file is malformed, or the split is unknown or empty.
    """
    check_split(split, tuple(COUNTS))
    root = require(find_root(data_dir, "AFLW-19"), SOURCE)
    boxes, landmarks, visible, names, order = _read_mat(require(root / "AFLWinfo_release.mat", SOURCE))
    bad = BadSamples(skip_bad, f"AFLW-19 {split}")
    num_train = round(len(order) * COUNTS["train"] / (COUNTS["train"] + COUNTS["test"]))
    rows = []
    for position, i in enumerate(order[:num_train] if split == "train" else order[num_train:]):
        frontal = split != "train" and bool((visible[i] == 1).all())
        if split == "test_frontal" and not frontal:
            continue
        left, right, top, bottom = boxes[i].tolist()
        if not np.isfinite(landmarks[i]).all() or not (left < right and top < bottom):
            bad.report(ValueError(f"{root / 'AFLWinfo_release.mat'}, face {i}: landmarks or box are not valid."))
            continue
        rows.append(
            {
                "name": str(position),
                "image": f"data/flickr/{names[i]}",
                "box": (left, top, right, bottom),
                "landmarks": landmarks[i],
                "subsets": ["test_frontal"] if frontal else [],
            }
        )
    dataset = landmark_dataset(rows, root, 19, bad, SOURCE, "AFLW-19, 19 landmarks")
    check_count(f"AFLW-19 {split} in {root}", len(dataset), COUNTS[split], strict)
    return dataset


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Boxes (faces, 4) left, right, top, bottom; landmarks (faces, 19, 2); visibility (faces, 19); names; order."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
        boxes = content["bbox"].astype(np.float32)
        # 19 x values, then 19 y values.
        landmarks = content["data"].astype(np.float32).reshape(-1, 2, 19).transpose(0, 2, 1)
        visible = content["mask_new"].reshape(-1, 19)
        names = [str(np.ravel(name)[0]) for name in content["nameList"].ravel()]
        order = content["ra"].ravel().astype(np.int64) - 1
    except (KeyError, ValueError, IndexError, NotImplementedError, TypeError, MatReadError) as error:
        raise ValueError(f"{path} is not AFLWinfo_release.mat: {error}.") from error
    lengths = {len(boxes), len(landmarks), len(visible), len(names), len(order)}
    if len(lengths) != 1 or sorted(order.tolist()) != list(range(len(order))):
        raise ValueError(f"{path} is not AFLWinfo_release.mat: its fields differ in length, or `ra` is no permutation.")
    return boxes, landmarks, visible, names, order
