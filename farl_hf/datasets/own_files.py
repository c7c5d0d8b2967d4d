"""Readers of the annotation files that people have: landmarks as CSV, `.pts` or COCO keypoints, attributes as CSV."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import BadSamples

_BOX_COLUMNS = ("box_x1", "box_y1", "box_x2", "box_y2")
_ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "-1": False, "false": False, "no": False}


@dataclass(frozen=True)
class OwnFace:
    """
    One annotated face.

    Attributes:
        image: File name below the folder of images.
        landmarks: (points, 2) float32 pixel indices, the centre of the first pixel at (0, 0).
        box: (x1, y1, x2, y2) in the same coordinates, if the file has boxes.
    """

    image: str
    landmarks: np.ndarray
    box: tuple[float, float, float, float] | None = None


def read_landmark_csv(path: Path, bad: BadSamples) -> list[OwnFace]:
    """
    One line per face: the column `image`, the columns `box_x1, box_y1, box_x2, box_y2` if there are boxes, and all
    others in their order as x and y of one landmark after another, whatever they are called.

    ```
    image,box_x1,box_y1,box_x2,box_y2,x0,y0,x1,y1
    0001.jpg,40,52,168,180,83.5,101.0,127.5,100.2
    ```
    """
    rows = _read_rows(path)
    names = list(rows[0]) if rows else []
    box_names = [name for name in _BOX_COLUMNS if name in names]
    points = [name for name in names if name not in ("image", *_BOX_COLUMNS)]
    if len(box_names) not in (0, 4) or not points or len(points) % 2:
        raise ValueError(
            f"{path}: beside image and {', '.join(_BOX_COLUMNS)} it needs an even number of columns, not {len(points)}."
        )
    faces = []
    for number, row in enumerate(rows, start=2):
        try:
            landmarks = np.array([float(row[name]) for name in points], dtype=np.float32).reshape(-1, 2)
            box: Any = tuple(float(row[name]) for name in box_names) or None
        except (ValueError, TypeError) as error:
            bad.report(ValueError(f"{path}, line {number}: {error}."))
            continue
        faces.append(OwnFace(row["image"], landmarks, box))
    return faces


def read_pts(path: Path) -> np.ndarray:
    """
    (points, 2) float32 pixel indices from iBUG's `.pts`, which count pixels from 1.

    ```
    version: 1
    n_points: 2
    {
    84.5 102.0
    128.5 101.2
    }
    ```
    """
    try:
        head, _, rest = path.read_text().partition("{")
        numbers = np.array(rest.partition("}")[0].split(), dtype=np.float32)
        count = int(head.partition("n_points:")[2].split()[0])
        return numbers.reshape(count, 2) - 1
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is no .pts file (n_points, then x y between braces): {error}.") from None


def read_coco_keypoints(path: Path, bad: BadSamples) -> list[OwnFace]:
    """
    COCO's JSON: `images` with `id` and `file_name`, `annotations` with `image_id`, `keypoints` (x, y and visibility of
    one landmark after another) and `bbox` (x, y, width, height). A keypoint of visibility 0 is not labelled, which
    makes the face a bad sample.

    ```
    {"images": [{"id": 1, "file_name": "0001.jpg"}],
     "annotations": [{"image_id": 1, "keypoints": [83.5, 101, 2, 127.5, 100.2, 2], "bbox": [40, 52, 128, 128]}]}
    ```
    """
    try:
        content = json.loads(path.read_text())
        files = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no COCO file with images and annotations: {error}.") from None
    faces = []
    for number, annotation in enumerate(annotations):
        try:
            keypoints = np.array(annotation["keypoints"], dtype=np.float32).reshape(-1, 3)
            if (keypoints[:, 2] == 0).any():
                raise ValueError(f"keypoint {int(np.argmin(keypoints[:, 2]))} is not labelled")
            x, y, width, height = annotation.get("bbox") or (np.nan,) * 4
            box = None if np.isnan(x) else (x, y, x + width, y + height)
            faces.append(OwnFace(files[annotation["image_id"]], keypoints[:, :2], box))
        except (ValueError, KeyError, TypeError) as error:
            bad.report(ValueError(f"{path}, annotation {number}: {error}."))
    return faces


def read_attribute_csv(path: Path, bad: BadSamples) -> tuple[list[str], dict[str, list[bool]]]:
    """
    Attribute names, and image -> answers. One line per image; 1, true and yes are yes, and 0, -1, false and no are no.

    ```
    image,Smiling,Eyeglasses
    0001.jpg,1,0
    ```
    """
    rows = _read_rows(path)
    names = [name for name in (rows[0] if rows else ()) if name != "image"]
    answers = {}
    for number, row in enumerate(rows, start=2):
        values: list[Any] = [_ANSWERS.get((row[name] or "").strip().lower()) for name in names]
        if None in values:
            name = names[values.index(None)]
            bad.report(ValueError(f"{path}, line {number}: {name} is {row[name]!r}, not 1 or 0."))
            continue
        answers[row["image"]] = values
    return names, answers


def _read_rows(path: Path) -> Sequence[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    if rows and "image" not in rows[0]:
        raise ValueError(f"{path} has no column 'image', but {', '.join(rows[0])}.")
    return rows
