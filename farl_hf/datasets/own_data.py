"""Your own faces: image and mask, image and key points, or image and attributes, from a folder or from the Hub."""

from collections.abc import Mapping
from pathlib import Path

import datasets

from .files import BadSamples, build_dataset, require

_LAYOUT = "Give a folder with {split}/images and {split}/labels, or anything that datasets.load_dataset reads."


def load_own_data(
    source: str | Path, split: str, columns: Mapping[str, str] | None = None, skip_bad: bool = False
) -> datasets.Dataset:
    """
    Opens a data set and gives its columns the names that this package uses.

    Args:
        source: A folder with `{split}/images/*` and `{split}/labels/*.png` of the same stems; a folder that
            `Dataset.save_to_disk` wrote; any folder that `load_dataset` reads, such as an image folder with
            `metadata.jsonl`; or the name of a data set on the Hub.
        split: Name of the split.
        columns: Our name -> the data set's name: `image`; `labels` (grey image of class ids), `landmarks` (points, 2)
            in pixels or `attributes` (dictionary of booleans); and, where faces are to be cut out, `face_points`
            (5, 2) or `box` (x1, y1, x2, y2).
        skip_bad: Leave out images without a label map, and log their number.

    Raises:
        FileNotFoundError: If a label map is missing.
        ValueError: If a column is missing or the split is unknown or empty.
    """
    folder = Path(source)
    if (folder / split / "images").is_dir():
        dataset = _pairs(folder / split, skip_bad)
    elif (folder / "dataset_dict.json").exists():
        dataset = datasets.load_from_disk(str(folder))[split]
    elif folder.exists() or not folder.is_absolute():
        dataset = datasets.load_dataset(str(source), split=split)
    else:
        raise FileNotFoundError(f"{folder} is missing. {_LAYOUT}")
    columns = dict(columns or {})
    if missing := [name for name in columns.values() if name not in dataset.column_names]:
        raise ValueError(f"{source} has no column {missing[0]!r}, but {', '.join(dataset.column_names)}.")
    dataset = dataset.rename_columns({theirs: ours for ours, theirs in columns.items() if ours != theirs})
    if "image" not in dataset.column_names:
        raise ValueError(
            f"{source} has no column 'image', but {', '.join(dataset.column_names)}: map it with `columns`."
        )
    if len(dataset) == 0:
        raise ValueError(f"{source} {split} has no samples.")
    return dataset


def _pairs(folder: Path, skip_bad: bool) -> datasets.Dataset:
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "file": datasets.Value("string"),
            "image": datasets.Image(),
            "labels": datasets.Image(),
        }
    )
    columns = {name: [] for name in features}
    bad = BadSamples(skip_bad, str(folder))
    for image in sorted((folder / "images").iterdir()):
        try:
            labels = require(folder / "labels" / f"{image.stem}.png", _LAYOUT)
        except FileNotFoundError as error:
            bad.report(error)
            continue
        for column, value in zip(columns.values(), (image.stem, str(image), str(image), str(labels)), strict=True):
            column.append(value)
    bad.summarise()
    return build_dataset(columns, features, f"Images and label maps of {folder}")
