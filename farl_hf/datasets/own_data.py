"""
Your own faces, from a folder or from the Hub.

A folder has one subfolder per split (`train`, `test`, and one of `validation`, `val`, `valid`, `dev` if there is one),
with the pictures in `images` and the truth beside it:

```
data/train/images/0001.jpg
data/train/labels/0001.png          parsing: class ids as grey, palette or 1-bit PNG, or colours
data/train/landmarks/0001.pts       alignment; or landmarks.csv, or keypoints.json (COCO)
data/train/attributes.csv           attributes
```
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .files import BadSamples, build_dataset, points_feature, require
from .own_files import OwnFace, read_attribute_csv, read_coco_keypoints, read_landmark_csv, read_pts

_LAYOUT = (
    "Give a folder with {split}/images and {split}/labels/*.png, {split}/landmarks.csv, {split}/landmarks/*.pts, "
    "{split}/keypoints.json or {split}/attributes.csv, or anything that datasets.load_dataset reads."
)
_NAMES = {"name": datasets.Value("string"), "file": datasets.Value("string"), "image": datasets.Image()}


def load_own_data(
    source: str | Path,
    split: str,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    truth: str | None = None,
) -> datasets.Dataset:
    """
    Opens a data set and gives its columns the names that this package uses.

    Args:
        source: A folder as above; a folder that `save_to_disk` wrote; any folder that `load_dataset` reads, such as an
            image folder with `metadata.jsonl`; or the name of a data set on the Hub.
        split: Name of the split.
        columns: Our name -> the data set's name, where it is not a folder as above: `image`; `labels` (image of class
            ids or colours), `landmarks` (points, 2) in pixels or `attributes` (dictionary of booleans); and, where
            faces are to be cut out, `face_points` (5, 2) or `box` (x1, y1, x2, y2).
        skip_bad: Leave out images without a truth, and log their number.
        truth: `labels`, `landmarks` or `attributes`: which of them to read from a folder as above; by default the first
            that is there.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is malformed, a column is missing, or the split is unknown or empty.
    """
    folder = Path(source)
    if (folder / split / "images").is_dir():
        dataset = _read_folder(folder / split, truth, skip_bad)
    else:
        available = own_splits(source)
        if split not in available:
            raise ValueError(f"{source} has no split {split!r}, but {', '.join(available) or 'none at all'}. {_LAYOUT}")
        dataset = _load(folder, str(source), split)
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


def own_splits(source: str | Path) -> list[str]:
    """
    Names of the splits of what [`load_own_data`] opens.

    Raises:
        FileNotFoundError: If there is nothing of that name.
    """
    folder = Path(source)
    if found := sorted(path.parent.name for path in folder.glob("*/images") if path.is_dir()):
        return found
    if (folder / "dataset_dict.json").exists():
        return list(datasets.load_from_disk(str(folder)))
    if (folder / "state.json").exists():
        return ["train"]
    if not folder.exists() and folder.is_absolute():
        raise FileNotFoundError(f"{folder} is missing. {_LAYOUT}")
    return [str(name) for name in datasets.get_dataset_split_names(str(source))]


def _load(folder: Path, source: str, split: str) -> datasets.Dataset:
    if not folder.exists() or not ((folder / "dataset_dict.json").exists() or (folder / "state.json").exists()):
        return datasets.load_dataset(source, split=split)
    saved = datasets.load_from_disk(str(folder))
    return saved[split] if isinstance(saved, datasets.DatasetDict) else saved


def _read_folder(folder: Path, truth: str | None, skip_bad: bool) -> datasets.Dataset:
    readers = {"labels": _read_label_maps, "landmarks": _read_landmarks, "attributes": _read_attributes}
    sources = {
        "labels": ("labels",),
        "landmarks": ("landmarks.csv", "keypoints.json", "landmarks"),
        "attributes": ("attributes.csv",),
    }
    for kind in (truth,) if truth else readers:
        for name in sources[kind]:
            if (folder / name).exists():
                bad = BadSamples(skip_bad, str(folder))
                rows, features = readers[kind](folder, folder / name, bad)
                bad.summarise()
                features = datasets.Features(_NAMES | features)
                columns = {column: [row[column] for row in rows] for column in features}
                return build_dataset(columns, features, f"Own faces of {folder}")
    raise FileNotFoundError(f"{folder} has images but no {truth or 'truth'} beside them. {_LAYOUT}")


def _row(folder: Path, name: str, **values: Any) -> dict[str, Any]:
    path = str(require(folder / "images" / name, _LAYOUT))
    return {"name": Path(name).stem, "file": path, "image": path, **values}


def _collect(rows: Iterable[tuple[str, dict[str, Any]]], folder: Path, bad: BadSamples) -> list[dict[str, Any]]:
    """Rows whose image exists."""
    kept = []
    for name, values in rows:
        try:
            kept.append(_row(folder, name, **values))
        except FileNotFoundError as error:
            bad.report(error)
    return kept


def _read_label_maps(folder: Path, source: Path, bad: BadSamples) -> tuple[list[dict[str, Any]], dict]:
    rows = []
    for image in sorted((folder / "images").iterdir()):
        try:
            labels = require(source / f"{image.stem}.png", _LAYOUT)
        except FileNotFoundError as error:
            bad.report(error)
            continue
        rows.append((image.name, {"labels": str(labels)}))
    return _collect(rows, folder, bad), {"labels": datasets.Image()}


def _read_landmarks(folder: Path, source: Path, bad: BadSamples) -> tuple[list[dict[str, Any]], dict]:
    if source.suffix == ".csv":
        faces = read_landmark_csv(source, bad)
    elif source.suffix == ".json":
        faces = read_coco_keypoints(source, bad)
    else:
        faces = _read_pts_folder(folder, source, bad)
    counts = [len(face.landmarks) for face in faces]
    usual = max(set(counts), key=counts.count, default=0)
    for face in faces:
        if len(face.landmarks) != usual:
            bad.report(ValueError(f"{face.image} has {len(face.landmarks)} landmarks, other faces have {usual}."))
    faces = [face for face in faces if len(face.landmarks) == usual]
    features: dict[str, Any] = {"landmarks": points_feature(usual)}
    with_boxes = bool(faces) and all(face.box is not None for face in faces)
    if with_boxes:
        features["box"] = datasets.List(datasets.Value("float32"), length=4)
    rows = ((face.image, {"landmarks": face.landmarks} | ({"box": face.box} if with_boxes else {})) for face in faces)
    return _collect(rows, folder, bad), features


def _read_pts_folder(folder: Path, source: Path, bad: BadSamples) -> list[OwnFace]:
    faces = []
    for image in sorted((folder / "images").iterdir()):
        try:
            landmarks: np.ndarray = read_pts(require(source / f"{image.stem}.pts", _LAYOUT))
        except (FileNotFoundError, ValueError) as error:
            bad.report(error)
            continue
        faces.append(OwnFace(image.name, landmarks))
    return faces


def _read_attributes(folder: Path, source: Path, bad: BadSamples) -> tuple[list[dict[str, Any]], dict]:
    names, answers = read_attribute_csv(source, bad)
    rows = ((image, {"attributes": dict(zip(names, values, strict=True))}) for image, values in answers.items())
    return _collect(rows, folder, bad), {"attributes": {name: datasets.Value("bool") for name in names}}
