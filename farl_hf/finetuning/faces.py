"""Rows of a data set as crops: for training with augmentation, for evaluation with the way back to the image."""

import logging
import random
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn

from ..datasets.files import jpeg_round_trip
from ..inference.detection import FaceDetector
from ..inference.head_pose import five_points
from ..models.geometry_farl import (
    box_crop_matrix,
    celeba_align_matrix,
    celebamask_hq_matrix,
    crop_sampling_grid,
    face_align_matrix,
    pixel_centre,
)
from ..models.image_processing_farl import FaRLFaceImageProcessor, to_rgb_tensor
from .augmentation import AugmentationConfig, augment_colours, sample_generator, sample_similarity
from .tasks import FaceTask

logger = logging.getLogger(__name__)

# Column of the data set that says where the face is, by the `align` of the processor.
ANNOTATION_COLUMNS = {
    "lapa": "face_points",
    "celeba": "face_points",
    "celebamask_hq": "face_points",
    "box": "box",
    None: None,
}
# Faces that are tried before a run.
_CHECKED = 16
# The original's few-shot subset (`ml/dataprocessor.py` of py-blueprint).
_SUBSET_SEED = 123


class FaceRows:
    """
    A data set with checked columns, whose errors name the file.

    Args:
        rows: Columns `image`, the task's column, and the processor's annotation column. Without `face_points` the five
            points are taken from `landmarks`.
        task: What is learnt.
        processor: Cuts the faces out.
        round_trip: Compress images as JPEG once more, as the original's data.
        detector: Finds the faces in the place of the annotation, which still says which face of the image is meant.

    Raises:
        ValueError: If a column is missing or there are no rows.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        task: FaceTask,
        processor: FaRLFaceImageProcessor,
        round_trip: bool = False,
        detector: FaceDetector | None = None,
    ):
        if len(rows) == 0:
            raise ValueError("The data set has no samples.")
        self.rows, self.task, self.processor, self.round_trip = rows, task, processor, round_trip
        self.detector = detector
        self.annotation_column = ANNOTATION_COLUMNS[processor.align]
        if self.annotation_column == "face_points" and "face_points" not in (columns := rows.column_names):
            self.annotation_column = "landmarks" if "landmarks" in columns else "face_points"
        names = ("image", task.column, self.annotation_column)
        needed = list(dict.fromkeys(name for name in names if name is not None))
        missing = [name for name in needed if name not in rows.column_names]
        # A transform makes columns of its own, which only a row shows.
        if missing and rows.format["type"] != "custom":
            raise ValueError(
                f"The data set has no column {missing[0]!r}, but {', '.join(rows.column_names)}: map it by `columns`."
            )

        # Columns that nobody reads cost time too, points above all.
        self._read_rows = rows
        if rows.format["type"] != "custom":
            used = [*needed, *(name for name in ("box", "subsets") if name in rows.column_names and name not in needed)]
            self._read_rows = rows.select_columns(used)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def localisation(self) -> str:
        """How faces are found, in words."""
        if self.annotation_column is None:
            return "whole image"
        return f"annotated {self.annotation_column}" if self.detector is None else type(self.detector).__name__

    def read(self, index: int) -> tuple[Image.Image, torch.Tensor, np.ndarray | None, Mapping[str, Any]]:
        """Image, truth, annotation of the face (see `ANNOTATION_COLUMNS`), and the row itself."""
        try:
            row = self._read_rows[index]
            image = row["image"].convert("RGB")
            if self.round_trip:
                image = jpeg_round_trip(image)
            target = self.task.read_target(row, (image.height, image.width))
            annotation = None
            if self.annotation_column is not None:
                annotation = np.asarray(row[self.annotation_column], dtype=np.float32)
                if not np.isfinite(annotation).all():
                    raise ValueError(f"{self.annotation_column} is missing or not finite.")
                if self.annotation_column == "landmarks":
                    annotation = five_points(annotation[None])[0].astype(np.float32)
                if self.detector is not None:
                    annotation = detected_face(self.detector, image, annotation)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise ValueError(f"{self.describe(index)}: {error}") from error
        return image, target, annotation, row

    def check(self, skip_bad: bool = False, flipped: bool = False) -> None:
        """
        Reads faces from all over the set as training or evaluation will, so that what is wrong with all of them shows
        at once.

        Args:
            skip_bad: Whether some of them may be bad, as long as one is good.
            flipped: Whether their mirror images will be needed.

        Raises:
            ValueError: If a face cannot be used; with `skip_bad`, if none can.
        """
        targets, errors = [], []
        step = max(1, len(self) // _CHECKED)
        for index in range(0, len(self), step)[:_CHECKED]:
            try:
                image, target, annotation, _ = self.read(index)
                label = self.crop_target(target, annotation, (image.height, image.width))
            except ValueError as error:
                if not skip_bad:
                    raise
                errors.append(error)
                continue
            if flipped:
                self.task.flip_target(label)
            targets.append(target)
        if not targets:
            raise errors[0]
        self.task.check_targets(targets)

    def crop_target(
        self, target: torch.Tensor, annotation: np.ndarray | None, image_size: tuple[int, int]
    ) -> torch.Tensor:
        """The `labels` of a face that [`read`] gave, in the crop of evaluation. `image_size` is (height, width)."""
        processor = self.processor
        matrix = crop_matrix(processor, annotation, image_size)
        grid = crop_sampling_grid(matrix, processor.crop_size, processor.warp_factor, processor.convention, *image_size)
        return self.task.crop_target(target, matrix, grid, processor)

    def describe(self, index: int) -> str:
        """File of a row if the data set knows it, else its number."""
        plain = self.rows.with_format(None)
        return plain.select_columns("file")[index]["file"] if "file" in plain.column_names else f"Sample {index}"


def detected_face(detector: FaceDetector, image: Image.Image, annotation: np.ndarray) -> np.ndarray:
    """
    The detected face whose centre is nearest to the annotated one's, in the annotation's form.

    Args:
        detector: Searches the image.
        image: RGB.
        annotation: (5, 2) points or (4,) box in pixel indices.

    Raises:
        ValueError: If no face is found, or points are wanted of a detector that gives boxes only.
    """
    found = detector.detect(image)
    if len(found) == 0:
        raise ValueError("the detector found no face.")
    faces = found.points if annotation.ndim == 2 else found.boxes
    if faces is None:
        raise ValueError("the detector gives no five points, which this model's crop is made from.")
    centres = faces.reshape(len(faces), -1, 2).mean(axis=1)
    distances = np.linalg.norm(centres - annotation.reshape(-1, 2).mean(axis=0), axis=1)
    return faces[int(distances.argmin())]


def crop_matrix(
    processor: FaRLFaceImageProcessor, annotation: np.ndarray | None, image_size: tuple[int, int]
) -> torch.Tensor:
    """
    The matrix (3, 3) float64 with which the processor cuts out one face.

    Args:
        processor: Of the model.
        annotation: (5, 2) points or (4,) box in pixel indices, or `None` for the whole image.
        image_size: (height, width).
    """
    size, centre = processor.crop_size, pixel_centre(processor.convention)
    if annotation is None:
        height, width = image_size
        scale_x, scale_y, shift = size / width, size / height, 0.5 - centre
        return torch.tensor(
            [[scale_x, 0, (scale_x - 1) * shift], [0, scale_y, (scale_y - 1) * shift], [0, 0, 1]], dtype=torch.float64
        )
    face = torch.from_numpy(annotation).double() + centre
    if processor.align == "box":
        matrix = box_crop_matrix(face, size, processor.target_face_scale)
        matrix[:2, 2] += centre
        return matrix
    if processor.align == "lapa":
        return face_align_matrix(face, size, processor.target_face_scale)
    return celeba_align_matrix(face, size) if processor.align == "celeba" else celebamask_hq_matrix(face, size)


def few_shot_indices(count: int, ratio: float) -> list[int]:
    """
    The original's subset: indices shuffled by `random.Random(123)`, of which the first `int(count * ratio)` are kept.

    Raises:
        ValueError: If the ratio is not in (0, 1] or keeps nothing.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"train_data_ratio is {ratio}: it lies above 0 and up to 1.")
    if ratio == 1:
        return list(range(count))
    indices = list(range(count))
    random.Random(_SUBSET_SEED).shuffle(indices)
    kept = indices[: int(count * ratio)]
    if not kept:
        raise ValueError(f"train_data_ratio {ratio} keeps none of {count} samples.")
    return kept


class TrainingFaces(torch.utils.data.Dataset):
    """
    Augmented crops: `pixel_values` (3, size, size) CLIP-normalised, and `labels` as the task's model takes them.

    Args:
        faces: The rows.
        augmentation: What is done to them.
        seed: Of the augmentation.
        epoch_length: Samples of an epoch, to which the rows are repeated; by default their number. The original repeats
            a few-shot subset to the length of the whole set.
        batch_size: The epoch is filled up to a multiple of it with random samples, as the original's sampler does:
            batch norm does not like a last batch of one.
        skip_bad: Take another sample in the place of one that cannot be read, and count it.

    Attributes:
        epoch: Shared with worker processes; set it when an epoch begins.
        is_bad: (rows,) bool, which rows could not be read so far; shared as well.
    """

    def __init__(
        self,
        faces: FaceRows,
        augmentation: AugmentationConfig,
        seed: int,
        epoch_length: int | None = None,
        batch_size: int = 1,
        skip_bad: bool = False,
    ):
        self.faces, self.augmentation, self.seed, self.skip_bad = faces, augmentation, seed, skip_bad
        self.epoch_length = epoch_length or len(faces)
        self.length = -(-self.epoch_length // batch_size) * batch_size
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.is_bad = torch.zeros(len(faces), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        if not 0 <= position < self.length:
            raise IndexError(f"Sample {position} of {self.length}.")
        rng = sample_generator(self.seed, int(self.epoch), position)
        index = position % len(self.faces) if position < self.epoch_length else int(rng.integers(len(self.faces)))
        for _ in range(len(self.faces)):
            try:
                image, target, annotation, _ = self.faces.read(index)
                matrix = crop_matrix(self.faces.processor, annotation, (image.height, image.width))
                break
            except ValueError as error:
                if not self.skip_bad:
                    raise
                if not self.is_bad[index]:
                    logger.warning("Skipped: %s", error)
                self.is_bad[index] = True
                index = int(rng.integers(len(self.faces)))
        else:
            raise ValueError("No sample of the training data can be read.")
        return self._augmented(to_rgb_tensor(image), target, matrix, rng)

    def _augmented(
        self, image: torch.Tensor, target: torch.Tensor, matrix: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        processor, task, config = self.faces.processor, self.faces.task, self.augmentation
        size, centre = processor.crop_size, pixel_centre(processor.convention)
        to_indices = torch.eye(3, dtype=torch.float64)
        to_indices[:2, 2] = -centre
        jitter = torch.linalg.inv(to_indices) @ sample_similarity(config, size, rng) @ to_indices
        matrix = (jitter @ matrix).float()
        height, width = image.shape[-2:]
        grid = crop_sampling_grid(matrix, size, processor.warp_factor, processor.convention, height, width)
        # Sampling is twice as fast from channels that lie apart.
        crop = nn.functional.grid_sample(image[None].contiguous(), grid, mode="bilinear", align_corners=False)[0]
        labels = task.crop_target(target, matrix, grid, processor)
        crop = augment_colours(crop, config, rng)
        if rng.random() < config.flip:
            crop, labels = crop.flip(-1), task.flip_target(labels)
        if size != processor.size:
            # Inside of the original's network: bilinear, no antialias.
            crop = nn.functional.interpolate(crop[None], (processor.size,) * 2, mode="bilinear", align_corners=False)[0]
        mean, std = (crop.new_tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
        return {"pixel_values": (crop - mean).div_(std), "labels": labels}


class EvaluationFaces(torch.utils.data.Dataset):
    """
    Crops with the way back, one dictionary per row: `pixel_values`, `transform`, `target` (in the image), `box`,
    `subsets` and `index`. A row that cannot be read gives its error in the place of the dictionary with `skip_bad`, and
    raises it otherwise.
    """

    def __init__(self, faces: FaceRows, skip_bad: bool = False):
        self.faces, self.skip_bad = faces, skip_bad

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> dict[str, Any] | ValueError:
        try:
            return self._crop(index)
        except ValueError as error:
            if not self.skip_bad:
                raise
            return error

    def _crop(self, index: int) -> dict[str, Any]:
        processor = self.faces.processor
        image, target, annotation, row = self.faces.read(index)
        try:
            if annotation is None:
                crop = processor(image)
            else:
                keyword = "boxes" if processor.align == "box" else "face_points"
                given: dict[str, Any] = {keyword: annotation[None] + pixel_centre(processor.convention)}
                crop = processor(image, **given)
        except ValueError as error:
            raise ValueError(f"{self.faces.describe(index)}: {error}") from error
        return {
            "pixel_values": crop["pixel_values"][0],
            "transform": crop["face_transforms"][0],
            "target": target.numpy(),
            "box": np.asarray(row["box"], dtype=np.float32) if "box" in row else None,
            "subsets": row.get("subsets", []),
            "index": index,
        }
