"""The three tasks: what a row of a data set holds, what the model learns from it, and how its answers are scored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..datasets.flips import class_flip_permutation, flip_permutation
from ..datasets.label_maps import parse_colours, read_label_map
from ..metrics import AttributeAccuracy, FaceParsingF1, LandmarkNME
from ..models.geometry_farl import photo_to_crop, pixel_centre
from ..models.image_processing_farl import FaceTransform, FaRLFaceImageProcessor
from ..models.modeling_farl import (
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLPreTrainedModel,
)
from .augmentation import flip_label_map, flip_landmarks

# Label maps may hold this id for pixels that do not count; the models' losses and `FaceParsingF1` leave it out.
IGNORE_INDEX = 255


class FaceTask(ABC):
    """
    What differs between parsing, alignment and attributes.

    Attributes:
        name: `parsing`, `alignment` or `attributes`.
        column: Of the data set that holds the truth.
        model_class: Of the task.
        head_modules: Newly initialised modules of the model, trained in every tuning.
        headline: Key of the score that models are compared by.
        greater_is_better: Whether a higher headline is better.
    """

    name: str
    column: str
    model_class: type[FaRLPreTrainedModel]
    head_modules: tuple[str, ...]
    headline: str
    greater_is_better: bool

    @abstractmethod
    def model_options(self) -> dict[str, Any]:
        """Config fields of a new model for this task."""

    @abstractmethod
    def read_target(self, row: Mapping[str, Any], image_size: tuple[int, int]) -> torch.Tensor:
        """The truth of a row, checked. `image_size` is (height, width). Raises a `ValueError` if it is malformed."""

    def check_targets(self, targets: Sequence[torch.Tensor]) -> None:  # noqa: B027 (most tasks have nothing to check)
        """Raises a `ValueError` for truths that are well-formed one by one, and wrong as a set."""

    @abstractmethod
    def crop_target(
        self,
        target: torch.Tensor,
        matrix: torch.Tensor,
        grid: torch.Tensor,
        processor: FaRLFaceImageProcessor,
    ) -> torch.Tensor:
        """
        The truth in the crop that `matrix` (3, 3) leads to, and whose pixels lie at `grid` (1, size, size, 2) of the
        image, see [`crop_sampling_grid`]: the `labels` of the model.
        """

    @abstractmethod
    def flip_target(self, target: torch.Tensor) -> torch.Tensor:
        """What [`crop_target`] gives, of the mirror image."""

    def for_convention(self, convention: str) -> "FaceTask":
        """The task as the code base of that coordinate convention decodes it."""
        return self

    @abstractmethod
    def new_metric(self) -> FaceParsingF1 | LandmarkNME | AttributeAccuracy:
        """An empty accumulator."""

    @abstractmethod
    def predict(
        self, outputs: Any, processor: FaRLFaceImageProcessor, transforms: Sequence[FaceTransform]
    ) -> list[np.ndarray]:
        """One answer per image, in the image's own pixels."""

    @abstractmethod
    def update_metric(self, metric: Any, prediction: np.ndarray, target: np.ndarray, box: np.ndarray | None) -> None:
        """Adds one image to the accumulator."""

    def image_score(self, prediction: np.ndarray, target: np.ndarray, box: np.ndarray | None) -> float:
        """The headline of a single image, by which the worst and the best are chosen."""
        metric = self.new_metric()
        self.update_metric(metric, prediction, target, box)
        return metric.compute()[self.headline]


class ParsingTask(FaceTask):
    """
    Face parsing. Rows hold `labels`: an image of class ids (grey, palette or 1 bit), or of colours.

    Args:
        labels: Class names in the order of their ids.
        colours: Of the classes in label maps in RGB, as hexadecimal `"ff0000"`, in the order of their ids.
    """

    name = "parsing"
    column = "labels"
    model_class = FaRLForFaceParsing
    head_modules = ("pyramid", "decode_head")
    headline = "fg_mean"
    greater_is_better = True

    def __init__(self, labels: Sequence[str], colours: Sequence[str] | None = None):
        self.labels = list(labels)
        self.colours = None if colours is None else parse_colours(colours)
        if self.colours is not None and len(self.colours) != len(self.labels):
            raise ValueError(f"There are {len(self.colours)} colours for {len(self.labels)} class names.")

    def model_options(self) -> dict[str, Any]:
        return {
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: i for i, name in enumerate(self.labels)},
        }

    def read_target(self, row: Mapping[str, Any], image_size: tuple[int, int]) -> torch.Tensor:
        # Palette images give their indices, 1-bit images 0 and 1.
        labels = read_label_map(row["labels"], self.colours)
        if labels.shape != image_size:
            raise ValueError(f"the label map has (height, width) {labels.shape}, the image {image_size}.")
        ids = labels[labels != IGNORE_INDEX]
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.labels):
            raise ValueError(f"the label map holds id {int(ids.max())}, but there are {len(self.labels)} classes.")
        return torch.from_numpy(labels.astype(np.uint8))

    def check_targets(self, targets: Sequence[torch.Tensor]) -> None:
        ids = set().union(*(target.unique().tolist() for target in targets))
        if IGNORE_INDEX in ids and ids <= {0, IGNORE_INDEX}:
            raise ValueError(
                f"The label maps hold only 0 and {IGNORE_INDEX}, and {IGNORE_INDEX} is for pixels that do not count: "
                "write class ids, or 1-bit images."
            )

    def crop_target(
        self,
        target: torch.Tensor,
        matrix: torch.Tensor,
        grid: torch.Tensor,
        processor: FaRLFaceImageProcessor,
    ) -> torch.Tensor:
        # Outside of the image is background, and counts in the loss, as in the original.
        crop = nn.functional.grid_sample(target[None, None].float(), grid, mode="nearest", align_corners=False)
        return crop[0, 0].long()

    def flip_target(self, target: torch.Tensor) -> torch.Tensor:
        return flip_label_map(target, class_flip_permutation(self.labels), IGNORE_INDEX)

    def new_metric(self) -> FaceParsingF1:
        return FaceParsingF1(self.labels, IGNORE_INDEX)

    def predict(
        self, outputs: Any, processor: FaRLFaceImageProcessor, transforms: Sequence[FaceTransform]
    ) -> list[np.ndarray]:
        maps: list[Any] = processor.post_process_semantic_segmentation(outputs, transforms)
        return [labels.cpu().numpy() for labels in maps]

    def update_metric(
        self, metric: FaceParsingF1, prediction: np.ndarray, target: np.ndarray, box: np.ndarray | None
    ) -> None:
        metric.update(prediction, target)


class AlignmentTask(FaceTask):
    """
    Face alignment. Rows hold `landmarks` (points, 2) in pixels, the centre of the first pixel at (0, 0).

    Args:
        num_landmarks: Landmarks per face.
        metric: Data set whose normalisers are used, see [`LandmarkNME`].
        headline: Normaliser that models are compared by; by default the distance of the outer eye corners if the layout
            is known, else the diagonal of the face's box.
        facer_decoding: Decode heat maps in the image as facer does, in place of the original's decoding in the crop.
    """

    name = "alignment"
    column = "landmarks"
    model_class = FaRLForFaceAlignment
    head_modules = ("pyramid", "heatmap_head")
    greater_is_better = False

    def __init__(
        self, num_landmarks: int, metric: str = "own", headline: str | None = None, facer_decoding: bool = False
    ):
        self.num_landmarks, self.metric = num_landmarks, metric
        self.headline = headline or next(iter(self.new_metric().errors))
        self.facer_decoding = facer_decoding

    def model_options(self) -> dict[str, Any]:
        return {"num_landmarks": self.num_landmarks}

    def read_target(self, row: Mapping[str, Any], image_size: tuple[int, int]) -> torch.Tensor:
        landmarks = np.asarray(row["landmarks"], dtype=np.float32)
        if landmarks.shape != (self.num_landmarks, 2):
            raise ValueError(f"the landmarks have shape {landmarks.shape}, not ({self.num_landmarks}, 2).")
        if not np.isfinite(landmarks).all():
            raise ValueError(f"landmark {int(np.argmin(np.isfinite(landmarks).all(axis=1)))} is missing or not finite.")
        return torch.from_numpy(landmarks)

    def crop_target(
        self,
        target: torch.Tensor,
        matrix: torch.Tensor,
        grid: torch.Tensor,
        processor: FaRLFaceImageProcessor,
    ) -> torch.Tensor:
        centre, size = pixel_centre(processor.convention), processor.crop_size
        points = photo_to_crop(target.double() + centre, matrix.double(), size, processor.warp_factor)
        return ((points - centre + 0.5) / size).float()

    def flip_target(self, target: torch.Tensor) -> torch.Tensor:
        return flip_landmarks(target, flip_permutation(self.num_landmarks))

    def for_convention(self, convention: str) -> "AlignmentTask":
        return AlignmentTask(self.num_landmarks, self.metric, self.headline, facer_decoding=convention == "facer")

    def new_metric(self) -> LandmarkNME:
        return LandmarkNME(self.metric, num_landmarks=self.num_landmarks)

    def predict(
        self, outputs: Any, processor: FaRLFaceImageProcessor, transforms: Sequence[FaceTransform]
    ) -> list[np.ndarray]:
        found = processor.post_process_landmarks(outputs, transforms, from_heatmaps=self.facer_decoding)
        return [landmarks[0].cpu().numpy() for landmarks in found]

    def update_metric(
        self, metric: LandmarkNME, prediction: np.ndarray, target: np.ndarray, box: np.ndarray | None
    ) -> None:
        metric.update(prediction[None], target[None], None if box is None else box[None])


class AttributesTask(FaceTask):
    """
    Face attributes. Rows hold `attributes`, a dictionary of booleans.

    Args:
        names: Attribute names in the order of the logits.
    """

    name = "attributes"
    column = "attributes"
    model_class = FaRLForImageClassification
    head_modules = ("classifier",)
    headline = "mean"
    greater_is_better = True

    def __init__(self, names: Sequence[str]):
        self.names = list(names)

    def model_options(self) -> dict[str, Any]:
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: i for i, name in enumerate(self.names)},
            "problem_type": "multi_label_classification",
        }

    def read_target(self, row: Mapping[str, Any], image_size: tuple[int, int]) -> torch.Tensor:
        if missing := [name for name in self.names if row["attributes"].get(name) is None]:
            raise ValueError(f"the attribute {missing[0]!r} is missing.")
        return torch.tensor([float(row["attributes"][name]) for name in self.names])

    def crop_target(
        self,
        target: torch.Tensor,
        matrix: torch.Tensor,
        grid: torch.Tensor,
        processor: FaRLFaceImageProcessor,
    ) -> torch.Tensor:
        return target

    def flip_target(self, target: torch.Tensor) -> torch.Tensor:
        return target

    def new_metric(self) -> AttributeAccuracy:
        return AttributeAccuracy(self.names)

    def predict(
        self, outputs: Any, processor: FaRLFaceImageProcessor, transforms: Sequence[FaceTransform]
    ) -> list[np.ndarray]:
        return list(outputs.logits.float().cpu().numpy())

    def update_metric(
        self, metric: AttributeAccuracy, prediction: np.ndarray, target: np.ndarray, box: np.ndarray | None
    ) -> None:
        metric.update(prediction[None], target[None])


def task_of_model(model: nn.Module, colours: Sequence[str] | None = None) -> FaceTask:
    """
    The task that a fine-tuned model was made for, as own data have it.

    Args:
        model: Task model or adapter on one.
        colours: Of the classes in label maps in RGB, see [`ParsingTask`].
    """
    config = model.config
    if config.architectures and config.architectures[0] == FaRLForFaceAlignment.__name__:
        return AlignmentTask(config.num_landmarks)
    names = [config.id2label[i] for i in range(config.num_labels)]
    if config.architectures and config.architectures[0] == FaRLForFaceParsing.__name__:
        return ParsingTask(names, colours)
    return AttributesTask(names)
