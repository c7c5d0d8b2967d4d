"""300W: 68 landmarks (Sagonas et al., ICCV workshops 2013), in the annotation files of HRNet."""

from pathlib import Path

import datasets

from .files import BadSamples, check_count, check_split, find_root, landmark_dataset, read_hrnet_csv, require

SOURCE = (
    "Get the images from https://ibug.doc.ic.ac.uk/resources/300-W/ as IBUG300W/{afw,helen,ibug,lfpw}, and the "
    "annotation files from https://github.com/HRNet/HRNet-Facial-Landmark-Detection."
)
_FILES = {"test_common": "valid_common", "test_challenging": "valid_challenge", "train": "train"}
COUNTS = {"train": 3_148, "test": 689, "test_common": 554, "test_challenging": 135}
# The FaRL repository subtracts this from every coordinate of these files, boxes included (`datasets/ibug300w.py`).
SHIFT = 2.0
# On disk this one file has a space in its name.
_RENAMED = {"ibug/image_092_01.jpg": "ibug/image_092 _01.jpg"}


def load_ibug300w(data_dir: str | Path, split: str, skip_bad: bool = False, strict: bool = False) -> datasets.Dataset:
    """
    Reads `IBUG300W/face_landmarks_300w_{train,valid_common,valid_challenge}.csv` and the images beside them.

    Args:
        data_dir: The folder `IBUG300W`, or the one above it.
        split: `train`, `test` (common and challenging), `test_common` or `test_challenging`.
        skip_bad: Leave out malformed lines and faces without image, and log their number.
        strict: Make another number of samples than the official one an error, in place of a warning.

    Returns:
        Columns `name`, `file`, `image`, `box` (x1, y1, x2, y2), `landmarks` (68, 2), both in pixels and moved by -2 as
        in the original, and `subsets` of a test face.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is malformed, or the split is unknown or empty.
    """
    check_split(split, tuple(COUNTS))
    root = require(find_root(data_dir, "IBUG300W"), SOURCE)
    bad = BadSamples(skip_bad, f"300W {split}")
    rows = []
    for part in ("test_common", "test_challenging") if split == "test" else (split,):
        csv_file = require(root / f"face_landmarks_300w_{_FILES[part]}.csv", SOURCE)
        rows += [
            {
                "name": str(Path(face.path).with_suffix("")).replace("/", "_"),
                "image": _RENAMED.get(face.path, face.path),
                "box": face.box,
                "landmarks": face.landmarks,
                "subsets": [] if part == "train" else [part],
            }
            for face in read_hrnet_csv(csv_file, 68, bad, SHIFT)
        ]
    dataset = landmark_dataset(rows, root, 68, bad, SOURCE, "300W, 68 landmarks")
    check_count(f"300W {split} in {root}", len(dataset), COUNTS[split], strict)
    return dataset
