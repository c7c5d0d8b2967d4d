"""CelebAMask-HQ: 19 face parts on aligned portraits (Lee et al., CVPR 2020)."""

from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from .files import BadSamples, build_dataset, check_count, check_split, find_root, require
from .labels import CELEBAMASK_HQ_LABELS

SOURCE = (
    "Get CelebAMask-HQ from https://github.com/switchablenorms/CelebAMask-HQ and unpack it as CelebAMask-HQ; "
    "list_eval_partition.txt comes from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html."
)
COUNTS = {"train": 24_183, "val": 2_993, "test": 2_824}
# Annotation file endings of the classes 1 to 18 (`datasets/celebamask_hq.py` of the FaRL repository). Where masks
# overlap, the higher class id is painted over the lower.
SUFFIXES = (  # noqa: SIM905
    "neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat ear_r neck_l"
).split()
_FACES_PER_FOLDER = 2000


def load_celebamask_hq(
    data_dir: str | Path, split: str, skip_bad: bool = False, strict: bool = False
) -> datasets.Dataset:
    """
    Reads `CelebAMask-HQ/{CelebA-HQ-img, CelebAMask-HQ-mask-anno, CelebA-HQ-to-CelebA-mapping.txt}` and CelebA's
    `list_eval_partition.txt` beside them.

    Args:
        data_dir: The folder `CelebAMask-HQ`, or the one above it.
        split: `train`, `val` or `test`: CelebA's partition of the face.
        skip_bad: Leave out faces without image, and malformed lines, and log their number.
        strict: Make another number of samples than the official one an error, in place of a warning.

    Returns:
        A data set whose rows are `name`, `file`, `image` and `labels` (a grey image of class ids, see
        `CELEBAMASK_HQ_LABELS`), both at the size of the masks. They are made from the stored columns `image` and
        `masks` when a row is read.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is malformed, or the split is unknown or empty.
    """
    check_split(split, tuple(COUNTS))
    root = require(find_root(data_dir, "CelebAMask-HQ"), SOURCE)
    bad = BadSamples(skip_bad, f"CelebAMask-HQ {split}")
    partition = _read_partition(require(root / "list_eval_partition.txt", SOURCE), bad)
    mapping = require(root / "CelebA-HQ-to-CelebA-mapping.txt", SOURCE)
    annotations = require(root / "CelebAMask-HQ-mask-anno", SOURCE)
    mask_files = {path.stem: str(path) for path in annotations.glob("*/*.png")}
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "file": datasets.Value("string"),
            "image": datasets.Image(),
            "masks": datasets.List(
                {"label": datasets.ClassLabel(names=CELEBAMASK_HQ_LABELS), "mask": datasets.Image()}
            ),
        }
    )
    columns: dict[str, list] = {name: [] for name in features}
    hq_index = _read_mapping(mapping, partition, bad)
    # The original's order, on which its few-shot subsets depend.
    for index in (hq_index[file] for file, part in partition.items() if part == split and file in hq_index):
        try:
            image = str(require(root / "CelebA-HQ-img" / f"{index}.jpg", SOURCE))
        except FileNotFoundError as error:
            bad.report(error)
            continue
        masks = [
            {"label": label, "mask": mask_files[stem]}
            for label, suffix in enumerate(SUFFIXES, start=1)
            if (stem := f"{index:05d}_{suffix}") in mask_files
        ]
        if not masks:
            folder = annotations / str(index // _FACES_PER_FOLDER)
            bad.report(FileNotFoundError(f"{folder / f'{index:05d}_*.png'} are missing. {SOURCE}"))
            continue
        for column, value in zip(columns.values(), (str(index), image, image, masks), strict=True):
            column.append(value)
    bad.summarise()
    check_count(f"CelebAMask-HQ {split} in {root}", len(columns["name"]), COUNTS[split], strict)
    description = f"CelebAMask-HQ, class ids of {', '.join(CELEBAMASK_HQ_LABELS)}"
    return build_dataset(columns, features, description).with_transform(_compose)


def _read_mapping(path: Path, partition: dict[str, str], bad: BadSamples) -> dict[str, int]:
    """CelebA file name -> CelebA-HQ index."""
    indices = {}
    for number, line in enumerate(path.read_text().splitlines()[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not fields[0].isdigit() or fields[2] not in partition:
            bad.report(ValueError(f"{path}, line {number}: not an index and a file of the partition: {line!r}"))
            continue
        indices[fields[2]] = int(fields[0])
    return indices


def _read_partition(path: Path, bad: BadSamples) -> dict[str, str]:
    """CelebA file name -> split."""
    partition = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            bad.report(ValueError(f"{path}, line {number}: not a file name and 0, 1 or 2: {line!r}"))
            continue
        partition[fields[0]] = ("train", "val", "test")[int(fields[1])]
    return partition


def _compose(batch: dict[str, list]) -> dict[str, list]:
    labels = [compose_label_map(masks) for masks in batch["masks"]]
    images = [resize_image(image, label.size) for image, label in zip(batch["image"], labels, strict=True)]
    return {"name": batch["name"], "file": batch["file"], "image": images, "labels": labels}


def compose_label_map(masks: list[dict]) -> Image.Image:
    """Paints `{"label", "mask"}` entries in the order of their class ids; mask pixels above 0 count."""
    sizes = {entry["mask"].size for entry in masks}
    if len(sizes) != 1:
        raise ValueError(f"the masks of one face have different sizes: {sorted(sizes)}.")
    ((width, height),) = sizes
    labels = np.zeros((height, width), dtype=np.uint8)
    for entry in sorted(masks, key=lambda entry: entry["label"]):
        labels[np.asarray(entry["mask"].convert("L")) > 0] = entry["label"]
    return Image.fromarray(labels)


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear without antialias, as `cv2.resize`: halving averages four pixels. `size` is (width, height)."""
    if image.size == size:
        return image
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(pixels, size[::-1], mode="bilinear", align_corners=False)
    return Image.fromarray(resized[0].round().byte().permute(1, 2, 0).numpy())
