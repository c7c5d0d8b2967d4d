"""
Pipelines from photos to [`Faces`]: `face-parsing`, `face-alignment`, `face-attributes`, and `face-analysis`, which does
several at once on one detection. Faces of many photos share batches, and every photo has its answer, in order.
"""

import copy
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForKeypointDetection,
    AutoModelForSemanticSegmentation,
)
from transformers.pipelines.base import Pipeline

from ..datasets.flips import flip_permutation
from ..models.geometry_farl import photo_to_crop, pixel_centre
from ..models.image_loading_farl import to_rgb_image
from ..models.image_processing_farl import FaceTransform
from .detection import FaceDetector, YuNetDetector
from .head_pose import eye_openness, five_points, head_pose, mouth_openness
from .results import Faces

if TYPE_CHECKING:
    from .tracking import FaceTracker

# Where the five points of an upright face lie in its box, as shares of its width and height: YuNet's on its own boxes.
POINTS_IN_BOX = ((0.28, 0.33), (0.72, 0.33), (0.50, 0.53), (0.32, 0.72), (0.68, 0.72))
BOX_HEIGHT = 1.17  # of such a box, in widths
# Degrees by which a face in a box may be tilted, all of which are tried.
_TURNS_IN_BOX = range(0, 360, 45)
# Photos that may wait for a batch to fill, per face of a batch.
_WAITING_PER_FACE = 4
_DETECTION = ("threshold", "max_faces")
_OPTIONS = ("mirror", "output_size", "return_logits")


class FacePipeline(Pipeline):
    """
    Photos in, one [`Faces`] each out: what all pipelines here have in common.

    ```python
    >>> parse = pipeline("face-parsing", "farl-lapa")
    >>> parse("photo.jpg").label_map  # (height, width) uint8
    >>> [len(faces) for faces in parse(["group.jpg", "empty.jpg"])]
    [6, 0]
    ```

    Args:
        model: Of the task.
        image_processor: Its [`FaRLFaceImageProcessor`], which knows how faces are cut out.
        detector: Finds faces, see [`FaceDetector`]; [`YuNetDetector`] by default, made when it is first needed.
        points_from: A pipeline or folder of face alignment that finds five points in boxes, where a detector or a
            caller gives boxes only; by default the package's own weights.
        batch_size: Faces that go through the network together, from as many photos as it takes.
        convention: Replaces the processor's: `"farl"` or `"facer"`.
        aligned: Whether images are aligned crops already: each is taken whole, as one face. By default so if the
            processor has no recipe to cut faces out (`align=None`).
        kwargs: The options of a call, for every call.
    """

    _load_image_processor = True
    _load_tokenizer = _load_feature_extractor = _load_processor = _load_video_processor = False
    # Name in `transformers.pipeline`, class of the model, and what opens its folder.
    task_name = ""
    architecture = ""
    auto_class: Any = None

    image_processor: Any

    def __init__(
        self,
        *args: Any,
        detector: FaceDetector | None = None,
        points_from: "str | FaceAlignmentPipeline | None" = None,
        batch_size: int = 8,
        convention: str | None = None,
        aligned: bool | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, batch_size=batch_size, **kwargs)
        saved_as = (self.model.config.architectures or [type(self.model).__name__])[0]
        if saved_as != (self.architecture or type(self.model).__name__):
            # Opened by an Auto class all the same, with a head of random weights.
            name = self.model.name_or_path or "this model"
            raise ValueError(f"{self.task_name} needs a {type(self.model).__name__}, but {name} is a {saved_as}.")
        if self.model.dtype == torch.float16 and self.device.type == "cpu":
            self.model.float()  # half precision is slower than single on a CPU
        if convention is not None:
            pixel_centre(convention)  # raises if it is unknown
            self.image_processor = copy.copy(self.image_processor)
            self.image_processor.convention = convention
        self.aligned = self.image_processor.align is None if aligned is None else aligned
        self._detector, self._points_from = detector, points_from

    @property
    def detector(self) -> FaceDetector:
        if self._detector is None:
            self._detector = YuNetDetector()
        return self._detector

    @property
    def parts(self) -> "list[FacePipeline]":
        """The pipelines of one network each that a photo goes through."""
        return [self]

    # ------------------------------------------------------------------------------------------ photos in, Faces out

    def __call__(self, images: Any, boxes: Any = None, face_points: Any = None, **options: Any) -> Any:
        """
        Args:
            images: One photo or many. A photo is a path (`str` or `Path`), a URL, a PIL image, an array or a tensor
                (see [`to_rgb_tensor`]), or a dict of `image` and, where they are known, `boxes` and `face_points`, and
                of a film's frame its `time` in seconds. Many are a list, a batch of four dimensions or a column of a
                data set, answered by a list; or a generator or data set of any length, answered by a generator whose
                memory does not grow.
            boxes: In place of detection, (faces, 4) left, top, right, bottom in pixel indices; for many photos a list
                of such. An empty one means no face.
            face_points: The same for five points (faces, 5, 2): eyes, nose tip, mouth corners, the image's left first.
            detector: Replaces the pipeline's.
            threshold: Least score of a detected face.
            max_faces: Keep at most this many faces of a photo, the largest ones.
            mirror: Average with the mirror image's answer, at twice the cost.
            output_size: (height, width) that results are wanted for instead of the photo's: every coordinate and label
                map is of a photo of that size.
            return_logits: Of parsing, keep `logits` and `transforms`.
            tracker: A new [`FaceTracker`], if the photos are the frames of a film: its faces are followed and steadied.
            batch_size: Replaces the pipeline's.

        Returns:
            A [`Faces`], or a list or generator of one [`Faces`] per photo. A photo without faces gives an empty one.

        Raises:
            ValueError: If a photo cannot be read, or given boxes or points do not fit; the message says which photo.
        """
        settings = self._settings(options)
        if boxes is not None and face_points is not None:
            raise ValueError("Give boxes or face_points, not both.")
        known = {key: value for key, value in (("boxes", boxes), ("face_points", face_points)) if value is not None}
        if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
            images = list(images)
        if _is_one_photo(images):
            image = images if isinstance(images, Mapping) else {"image": images, **known}
            return next(self._run([image], settings))
        if known:
            ((key, values),) = known.items()
            if not isinstance(images, Sized) or len(values) != len(images):
                raise ValueError(f"{key} must be a list with one entry for each image of a list.")
            photos: Any = images
            images = ({"image": image, key: value} for image, value in zip(photos, values, strict=True))
            return list(self._run(images, settings))
        results = self._run(images, settings)
        return list(results) if isinstance(images, Sequence) else results

    def _settings(self, options: dict[str, Any]) -> dict[str, Any]:
        preprocess, forward, postprocess = self._sanitize_parameters(**options)
        settings = {**self._preprocess_params, **self._forward_params, **self._postprocess_params}
        settings |= {**preprocess, **forward, **postprocess}
        batch_size = settings.pop("batch_size", None) or self._batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1.")
        return {**settings, "batch_size": batch_size}

    def _run(self, photos: Iterable[Any], settings: dict[str, Any]) -> Iterator[Faces]:
        settings = dict(settings)
        batch_size, mirror = settings.pop("batch_size"), settings.pop("mirror", False)
        finish: dict[str, Any] = {key: settings.pop(key) for key in ("output_size", "return_logits") if key in settings}
        finish["tracker"] = settings.get("tracker")
        waiting: deque[_Photo] = deque()
        batches = [_Batches(part, number, batch_size, mirror) for number, part in enumerate(self.parts)]
        for index, photo in enumerate(photos):
            waiting.append(self.preprocess(photo, index=index, **settings))
            for batch in batches:
                batch.add(waiting[-1])
            if len(waiting) > _WAITING_PER_FACE * batch_size:
                for batch in batches:
                    batch.flush()
            while waiting and waiting[0].is_complete:
                yield self.postprocess(waiting.popleft(), **finish)
        for batch in batches:
            batch.flush()
        for photo in waiting:
            yield self.postprocess(photo, **finish)

    # ------------------------------------------------------------------------------ the steps, as Transformers has it

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(set(options) - {*_DETECTION, *_OPTIONS, "detector", "tracker", "batch_size"})
        if unknown:
            raise TypeError(f"The pipeline {self.task} has no option {', '.join(unknown)}.")
        preprocess = {key: options[key] for key in (*_DETECTION, "detector", "tracker") if options.get(key) is not None}
        forward = {key: options[key] for key in ("mirror", "batch_size") if options.get(key) is not None}
        postprocess = {key: options[key] for key in ("output_size", "return_logits") if options.get(key) is not None}
        return preprocess, forward, postprocess

    def preprocess(
        self,
        photo: Any,
        index: int = 0,
        detector: FaceDetector | None = None,
        threshold: float | None = None,
        max_faces: int | None = None,
        tracker: "FaceTracker | None" = None,
    ) -> "_Photo":
        """Finds the faces of a photo, follows those of a film, and cuts them out for each network."""
        known = photo if isinstance(photo, Mapping) else {"image": photo}
        if "image" not in known:
            raise ValueError(f"Image {index} is a dict with {', '.join(known)}: its photo must be under 'image'.")
        image = to_rgb_image(known["image"], index)
        size = image.height, image.width
        given = next((key for key in ("boxes", "face_points") if known.get(key) is not None), None)
        if given is not None and self.aligned:
            raise ValueError(f"Image {index}: aligned crops are taken whole, they have no {given}.")
        if given is not None:
            faces = _given_faces(known[given], given, size, index)
        elif self.aligned:
            faces = Faces(size, np.array([[0, 0, image.width - 1, image.height - 1]]))
        else:
            faces = (detector or self.detector).detect(image)
            if threshold is not None and faces.scores is not None:
                faces = faces[faces.scores >= threshold]
            faces = faces[_usable(faces)]
        faces = faces.largest(max_faces)
        if faces.points is None and any(part.wants_points for part in self.parts):
            faces = faces.replace(points=self._find_points(image, faces.boxes))
        time = 0.0
        if tracker is not None:
            time = float(known.get("time", index / tracker.fps))
            faces = tracker.track(faces, time)
        pixels = _pixels(image) if len(faces) else None
        crops = [part.cut(pixels, faces, index) for part in self.parts]
        return _Photo(faces, crops, [[] for _ in self.parts], time)

    def _find_points(self, image: Image.Image, boxes: np.ndarray) -> np.ndarray:
        if len(boxes) == 0:
            return np.zeros((0, 5, 2), dtype=np.float32)
        if not isinstance(self._points_from, FaceAlignmentPipeline):
            source = self._points_from or _tiny_alignment()
            self._points_from = open_pipeline(FaceAlignmentPipeline, source, device=self.device)
        pipeline: Any = self._points_from
        return pipeline.points_in_boxes(image, boxes)

    @property
    def wants_points(self) -> bool:
        """Whether this network's crops are made from five points."""
        return not self.aligned and self.image_processor.align not in ("box", None)

    def cut(
        self, pixels: torch.Tensor | None, faces: Faces, index: int = 0
    ) -> tuple[torch.Tensor, list[FaceTransform]]:
        """
        The crops (faces, 3, size, size) that this pipeline's network sees of a photo (3, height, width), and where they
        are from. `index` names the photo in errors.
        """
        processor = self.image_processor
        if len(faces) == 0:
            return torch.zeros(0, 3, processor.size, processor.size), []
        if self.aligned:
            processor = copy.copy(processor)
            processor.align = None
        elif processor.align is None:
            raise ValueError(
                "This model takes aligned crops whole (align=None in its processor): give such crops and "
                "aligned=True, or set the processor's align to 'celebamask_hq' to have faces cut out of photos."
            )
        try:
            if self.aligned:
                inputs = processor([pixels])
            elif processor.align == "box":
                inputs = processor([pixels], boxes=[faces.boxes])
            else:
                # The processor counts in its own convention, `Faces` in pixel indices.
                assert faces.points is not None
                inputs = processor([pixels], face_points=[faces.points + pixel_centre(processor.convention)])
        except ValueError as error:
            # The processor speaks of the only image that it was given.
            raise ValueError(str(error).replace("Image 0", f"Image {index}")) from None
        return inputs["pixel_values"], list(inputs["face_transforms"])

    def _forward(self, inputs: dict[str, torch.Tensor], mirror: bool = False) -> dict[str, torch.Tensor]:
        """What the network says of crops, averaged with what it says of their mirror images if asked to."""
        pixel_values = inputs["pixel_values"].to(self.model.dtype)
        outputs = self.predict(pixel_values)
        if mirror:
            mirrored = self.mirrored(self.predict(pixel_values.flip(-1)))
            outputs = {key: (value + mirrored[key]) / 2 for key, value in outputs.items()}
        return {key: value.float() for key, value in outputs.items()}

    def postprocess(
        self,
        photo: "_Photo",
        output_size: tuple[int, int] | None = None,
        return_logits: bool = False,
        tracker: "FaceTracker | None" = None,
    ) -> Faces:
        """Everything that the networks said of a photo's faces, in the photo's pixels, steadied by the tracker."""
        faces = photo.faces
        scale = np.ones(2) if output_size is None else np.divide(output_size, faces.image_size)
        if output_size is not None:
            faces = _resized(faces, output_size, scale[::-1])
        parts = zip(self.parts, photo.crops, photo.answers, strict=True)
        # Landmarks first: they tell how a face moved since the last frame.
        for part, (_, transforms), answers in sorted(parts, key=lambda p: not isinstance(p[0], FaceAlignmentPipeline)):
            if output_size is not None:
                transforms = [_resized_transform(t, faces.image_size, scale[::-1]) for t in transforms]
            if tracker is not None:
                answers = part.steady(answers, transforms, faces, photo.time, tracker)
            faces = faces.replace(**part.fields(answers, transforms, faces, return_logits))
        if tracker is not None:
            tracker.finish_frame(faces, photo.time)
        return faces

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Writes model and processor; `farl export-code` adds the code of the pipelines to the folder."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory, **kwargs)

    # -------------------------------------------------------------------------------------------- of each single task

    def predict(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The network's outputs that count, one row per crop."""
        raise NotImplementedError

    def mirrored(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs of mirror images as they are in the crops themselves."""
        raise NotImplementedError

    def fields(
        self, answers: list[dict[str, torch.Tensor]], transforms: list[FaceTransform], faces: Faces, return_logits: bool
    ) -> dict[str, Any]:
        """The fields of [`Faces`] that this network fills, from its outputs for each face of one photo."""
        raise NotImplementedError

    def steady(
        self,
        answers: list[dict[str, torch.Tensor]],
        transforms: list[FaceTransform],
        faces: Faces,
        time: float,
        tracker: "FaceTracker",
    ) -> list[dict[str, torch.Tensor]]:
        """Outputs for the tracked faces of a film's frame, steadied by those of the frames before."""
        raise NotImplementedError

    def _labels(self) -> tuple[str, ...]:
        names = self.model.config.id2label
        return tuple(names[i] for i in range(len(names)))


class FaceParsingPipeline(FacePipeline):
    """`face-parsing`: `label_maps`, `label_boxes` and `label_names` of each face, merged by `label_map`."""

    task_name = "face-parsing"
    architecture = "FaRLForFaceParsing"
    auto_class = AutoModelForSemanticSegmentation

    def predict(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.model(pixel_values=pixel_values).logits}

    def mirrored(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": outputs["logits"].flip(-1)[:, _mirrored_labels(self._labels())]}

    def fields(
        self, answers: list[dict[str, torch.Tensor]], transforms: list[FaceTransform], faces: Faces, return_logits: bool
    ) -> dict[str, Any]:
        maps, boxes = [], []
        for answer, transform in zip(answers, transforms, strict=True):
            outputs = SimpleNamespace(logits=answer["logits"][None])
            (part,) = self.image_processor.post_process_semantic_segmentation(outputs, [transform], output="faces")
            maps.append(part.labels.cpu().numpy())
            boxes.append(part.box)
        found: dict[str, Any] = {"label_maps": maps, "label_boxes": boxes, "label_names": self._labels()}
        if return_logits:
            logits = [answer["logits"].cpu().numpy() for answer in answers]
            found |= {"logits": np.stack(logits) if logits else [], "transforms": transforms}
        return found

    def steady(
        self,
        answers: list[dict[str, torch.Tensor]],
        transforms: list[FaceTransform],
        faces: Faces,
        time: float,
        tracker: "FaceTracker",
    ) -> list[dict[str, torch.Tensor]]:
        logits = tracker.steady_logits([answer["logits"] for answer in answers], transforms, faces, time)
        return [{"logits": own} for own in logits]


class FaceAlignmentPipeline(FacePipeline):
    """`face-alignment`: `landmarks`, and from them `head_pose`, `eye_openness` and `mouth_openness` where known."""

    task_name = "face-alignment"
    architecture = "FaRLForFaceAlignment"
    auto_class = AutoModelForKeypointDetection

    def predict(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.model(pixel_values=pixel_values)
        # How high the heat maps rise: little where there is no face, or one in another tilt.
        certainty = outputs.heatmaps.float().flatten(2).amax(dim=-1).sigmoid().mean(dim=-1)
        return {"landmarks": outputs.landmarks, "certainty": certainty}

    def mirrored(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        landmarks = outputs["landmarks"]
        x, y = landmarks.unbind(dim=-1)
        turned = torch.stack([1 - x, y], dim=-1)[:, flip_permutation(landmarks.shape[1])]
        return {**outputs, "landmarks": turned}

    def fields(
        self, answers: list[dict[str, torch.Tensor]], transforms: list[FaceTransform], faces: Faces, return_logits: bool
    ) -> dict[str, Any]:
        landmarks = self._in_photo(answers, transforms)
        return {
            "landmarks": landmarks,
            "head_pose": head_pose(landmarks),
            "eye_openness": eye_openness(landmarks),
            "mouth_openness": mouth_openness(landmarks),
        }

    def _in_photo(self, answers: list[dict[str, torch.Tensor]], transforms: list[FaceTransform]) -> np.ndarray:
        """(faces, landmarks, 2) float32."""
        if not answers:
            return np.zeros((0, self.model.config.num_landmarks, 2), dtype=np.float32)
        outputs = SimpleNamespace(landmarks=torch.stack([answer["landmarks"] for answer in answers]))
        photos = self.image_processor.post_process_landmarks(outputs, [replace(t, image_index=0) for t in transforms])
        return photos[0].cpu().numpy()

    def steady(
        self,
        answers: list[dict[str, torch.Tensor]],
        transforms: list[FaceTransform],
        faces: Faces,
        time: float,
        tracker: "FaceTracker",
    ) -> list[dict[str, torch.Tensor]]:
        landmarks = tracker.steady_landmarks(self._in_photo(answers, transforms), faces, time)
        return [{"landmarks": _in_crop(own, t)} for own, t in zip(landmarks, transforms, strict=True)]

    def points_in_boxes(self, image: Image.Image, boxes: np.ndarray) -> np.ndarray:
        """
        Five points (faces, 5, 2) of faces in any tilt of which only boxes (faces, 4) are known: the landmarks of crops
        that are made from the box for eight tilts, of these the most certain ones, and those of another crop that is
        made from what they say. Nine looks of the network per face.
        """
        pixels = _pixels(image)
        return np.stack([self._points_in_box(pixels, box) for box in boxes]).astype(np.float32)

    def _points_in_box(self, pixels: torch.Tensor, box: np.ndarray) -> np.ndarray:
        starts = np.stack([_points_of_box(box, degrees) for degrees in _TURNS_IN_BOX])
        found, certainty = self._look(pixels, box, starts)
        # Landmarks on one spot say nothing.
        certainty = np.where(_spread(found) > 0.1 * _spread(starts), certainty, 0.0)
        if not certainty.any():
            return starts[0]
        first = found[[certainty.argmax()]]
        second, _ = self._look(pixels, box, first)
        return second[0] if _spread(second)[0] > 0.1 * _spread(first)[0] else first[0]

    def _look(self, pixels: torch.Tensor, box: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Five points (n, 5, 2) that the network finds in crops made from such, and how certain it is of them, (n,)."""
        crops, transforms = self.cut(
            pixels, Faces(tuple(pixels.shape[-2:]), np.repeat(box[None], len(points), 0), points)
        )
        outputs = self.forward({"pixel_values": crops})
        landmarks = self._in_photo([{"landmarks": landmarks} for landmarks in outputs["landmarks"]], transforms)
        return five_points(landmarks), outputs["certainty"].cpu().numpy()


class RefinedDetector:
    """
    Another detector's faces, with five points, and boxes around them, from an alignment model: for detectors that give
    boxes only, or whose points are poor, as on tilted heads.

    ```python
    >>> pipeline("face-parsing", "farl-lapa", detector=RefinedDetector(MyDetector()))
    ```

    Args:
        detector: Gives boxes, see [`FaceDetector`].
        alignment: A pipeline, or the folder or Hub name of a model with 19, 68, 98 or 106 landmarks; the package's own
            small one by default.

    Raises:
        ValueError: If the package was installed without its weights and no model is named.
    """

    def __init__(self, detector: FaceDetector, alignment: "str | FaceAlignmentPipeline | None" = None):
        self.inner = detector
        self.alignment = open_pipeline(FaceAlignmentPipeline, alignment or _tiny_alignment())

    def detect(self, image: Image.Image) -> Faces:
        """The other detector's faces, refined."""
        faces = self.inner.detect(image)
        faces = faces[_usable(faces)]
        if len(faces) == 0:
            return faces
        points = self.alignment.points_in_boxes(image, faces.boxes)
        return faces.replace(points=points, boxes=_boxes_around(points))


class FaceAttributesPipeline(FacePipeline):
    """`face-attributes`: `attributes`, probabilities, and `attribute_names`."""

    task_name = "face-attributes"
    architecture = "FaRLForImageClassification"
    auto_class = AutoModelForImageClassification

    def predict(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.model(pixel_values=pixel_values).logits}

    def mirrored(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return outputs

    def fields(
        self, answers: list[dict[str, torch.Tensor]], transforms: list[FaceTransform], faces: Faces, return_logits: bool
    ) -> dict[str, Any]:
        names = self._labels()
        logits = torch.stack([answer["logits"] for answer in answers]) if answers else torch.zeros(0, len(names))
        one_of_many = self.model.config.problem_type == "single_label_classification"
        probabilities = logits.softmax(dim=-1) if one_of_many else logits.sigmoid()
        return {"attributes": probabilities.cpu().numpy(), "attribute_names": names}

    def steady(
        self,
        answers: list[dict[str, torch.Tensor]],
        transforms: list[FaceTransform],
        faces: Faces,
        time: float,
        tracker: "FaceTracker",
    ) -> list[dict[str, torch.Tensor]]:
        if not answers:
            return answers
        logits = tracker.steady_attributes(torch.stack([answer["logits"] for answer in answers]), faces, time)
        return [{"logits": own} for own in logits]


class FaceAnalysisPipeline(FacePipeline):
    """
    `face-analysis`: parsing, alignment and attributes of the same faces, found once.

    ```python
    >>> analyze = pipeline("face-analysis", "farl-lapa", alignment="farl-wflw", attributes="farl-celeba")
    ```

    Args:
        model: Of one of the tasks; `transformers.pipeline` opens it as one of parsing.
        parsing, alignment, attributes: For the other tasks, a pipeline, or the folder or Hub name of a model; `None`
            leaves the task out.
    """

    task_name = "face-analysis"
    auto_class = AutoModelForSemanticSegmentation

    def __init__(
        self,
        *args: Any,
        parsing: "str | FaceParsingPipeline | None" = None,
        alignment: "str | FaceAlignmentPipeline | None" = None,
        attributes: "str | FaceAttributesPipeline | None" = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        given = {FaceParsingPipeline: parsing, FaceAlignmentPipeline: alignment, FaceAttributesPipeline: attributes}
        own = next(task for task in given if task.architecture == type(self.model).__name__)
        options = {"device": self.device, "aligned": self.aligned}
        given[own] = own(self.model, image_processor=self.image_processor, task=own.task_name, **options)
        self._parts = [open_pipeline(task, source, **options) for task, source in given.items() if source is not None]
        self._points_from = self._points_from or next(
            (part for part in self._parts if isinstance(part, FaceAlignmentPipeline)), None
        )

    @property
    def parts(self) -> list[FacePipeline]:
        return self._parts


# ------------------------------------------------------------------------------------------------------ batches, photos


class _Photo:
    """
    One photo on its way: its faces, the crops for each network, what the networks have said so far, and a frame's time.
    """

    def __init__(self, faces: Faces, crops: list, answers: list[list], time: float):
        self.faces, self.crops, self.answers, self.time = faces, crops, answers, time

    @property
    def is_complete(self) -> bool:
        return all(len(answers) == len(self.faces) for answers in self.answers)


class _Batches:
    """Collects the crops of one network, number `number` of a photo's, over photos until there are enough of them."""

    def __init__(self, part: FacePipeline, number: int, batch_size: int, mirror: bool):
        self.part, self.number, self.batch_size, self.mirror = part, number, batch_size, mirror
        self.waiting: list[tuple[torch.Tensor, list]] = []

    def add(self, photo: _Photo) -> None:
        crops, transforms = photo.crops[self.number]
        # Photos wait for their batch without the crops that are answered already.
        photo.crops[self.number] = None, transforms
        self.waiting += [(crop, photo.answers[self.number]) for crop in crops]
        while len(self.waiting) >= self.batch_size:
            self._answer(self.batch_size)

    def flush(self) -> None:
        while self.waiting:
            self._answer(min(self.batch_size, len(self.waiting)))

    def _answer(self, count: int) -> None:
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        outputs = self.part.forward({"pixel_values": torch.stack([crop for crop, _ in batch])}, mirror=self.mirror)
        for i, (_, answers) in enumerate(batch):
            # A copy: a view would keep the whole batch in memory.
            answers.append({key: value[i].clone() for key, value in outputs.items()})


def _pixels(image: Image.Image) -> torch.Tensor:
    """(3, height, width) uint8, which processors have no need to check and scale to [0, 1] only once."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0)


def _is_one_photo(images: Any) -> bool:
    return isinstance(images, str | os.PathLike | Image.Image | np.ndarray | torch.Tensor | Mapping)


def _given_faces(values: Any, kind: str, size: tuple[int, int], index: int) -> Faces:
    """The faces that a caller names by boxes or five points."""
    values = np.asarray(values, dtype=np.float32)
    shape = (-1, 4) if kind == "boxes" else (-1, 5, 2)
    if values.size == 0:
        return Faces.empty(size)
    if values.shape[1:] != shape[1:]:
        wanted = "(faces, 4)" if kind == "boxes" else "(faces, 5, 2)"
        raise ValueError(f"Image {index}: {kind} must be {wanted}, got {values.shape}.")
    faces = Faces(size, values) if kind == "boxes" else Faces(size, _boxes_around(values), values)
    for number, usable in enumerate(_usable(faces)):
        if not usable:
            raise ValueError(f"Image {index}, face {number}: its {kind} are not finite or span no face.")
    return faces


def _usable(faces: Faces) -> np.ndarray:
    """Mask of faces whose box and points can be cut out."""
    usable = np.isfinite(faces.boxes).all(axis=1) & (faces.boxes[:, 2:] - faces.boxes[:, :2] > 0).all(axis=1)
    if faces.points is not None:
        usable &= np.isfinite(faces.points).all(axis=(1, 2)) & (_spread(faces.points) > 0.1)
    return usable


def _spread(points: np.ndarray) -> np.ndarray:
    """(faces,) root mean square distance of points (faces, n, 2) from their mean."""
    return np.sqrt(np.square(points - points.mean(axis=1, keepdims=True)).sum(axis=2).mean(axis=1))


def _points_of_box(box: np.ndarray, degrees: float) -> np.ndarray:
    """(5, 2) where the five points are in the box (4,) of a face that is tilted clockwise."""
    width = np.sqrt(np.prod(box[2:] - box[:2]) / BOX_HEIGHT)
    upright = (np.array(POINTS_IN_BOX) - 0.5) * (width, width * BOX_HEIGHT)
    return upright @ _turn(np.deg2rad(degrees)).T + (box[:2] + box[2:]) / 2


def _boxes_around(points: np.ndarray) -> np.ndarray:
    """(faces, 4) boxes of faces, in any tilt, of which five points (faces, 5, 2) are known."""
    shares = (np.array(POINTS_IN_BOX) - 0.5) * (1, BOX_HEIGHT)
    width = _spread(points) / _spread(shares[None])
    boxes = []
    for five, side in zip(points.astype(np.float64), width, strict=True):
        # The tilt that fits best: of the sums of cross and dot products with the points of an upright face.
        from_mean, upright = five - five.mean(axis=0), shares - shares.mean(axis=0)
        cross = (upright[:, 0] * from_mean[:, 1] - upright[:, 1] * from_mean[:, 0]).sum()
        turn = _turn(np.arctan2(cross, (upright * from_mean).sum()))
        centre = five.mean(axis=0) - turn @ shares.mean(axis=0) * side
        # A face is about the ellipse in its upright box: this is the box around the turned ellipse.
        half = np.linalg.norm(turn * np.array([side, side * BOX_HEIGHT]) / 2, axis=1)
        boxes.append(np.concatenate([centre - half, centre + half]))
    return np.array(boxes).reshape(-1, 4)


def _turn(radians: float) -> np.ndarray:
    """(2, 2) rotation clockwise as seen."""
    cos, sin = np.cos(radians), np.sin(radians)
    return np.array([[cos, -sin], [sin, cos]])


def _resized(faces: Faces, size: tuple[int, int], scale: np.ndarray) -> Faces:
    """The same faces in the photo resized to `size` (height, width); `scale` is x's and y's."""
    boxes = (faces.boxes + 0.5) * np.tile(scale, 2) - 0.5
    points = None if faces.points is None else (faces.points + 0.5) * scale - 0.5
    return faces.replace(image_size=size, boxes=boxes, points=points)


def _resized_transform(transform: FaceTransform, size: tuple[int, int], scale: np.ndarray) -> FaceTransform:
    """The transform to the same crop from the photo resized to `size`."""
    x, y = (1 / scale).tolist()
    shift = 0.5 - pixel_centre(transform.convention)
    to_original = torch.tensor([[x, 0, (x - 1) * shift], [0, y, (y - 1) * shift], [0, 0, 1]])
    matrix = transform.matrix.double() @ to_original.double().to(transform.matrix.device)
    return replace(transform, image_size=size, matrix=matrix.to(transform.matrix.dtype))


def _in_crop(landmarks: np.ndarray, transform: FaceTransform) -> torch.Tensor:
    """Landmarks (n, 2) of the photo as shares of the crop, as networks give them."""
    centre = pixel_centre(transform.convention)
    points = torch.from_numpy(landmarks).double() + centre
    points = photo_to_crop(points, transform.matrix, transform.crop_size, transform.warp_factor)
    return ((points - centre + 0.5) / transform.crop_size).float()


def _mirrored_labels(names: Sequence[str]) -> list[int]:
    """The class whose name has left and right exchanged, for every class."""
    sides = {"left": "right", "right": "left"}
    mirrored = [" ".join(sides.get(word, word) for word in name.split()) for name in names]
    return [names.index(other) if other in names else i for i, other in enumerate(mirrored)]


def open_pipeline(pipeline_class: type[FacePipeline], source: Any, **options: Any) -> Any:
    """A pipeline from the folder or Hub name of its model; a pipeline is passed through."""
    if isinstance(source, FacePipeline):
        return source
    model = pipeline_class.auto_class.from_pretrained(source)
    image_processor = AutoImageProcessor.from_pretrained(source)
    return pipeline_class(model, image_processor=image_processor, task=pipeline_class.task_name, **options)


def _tiny_alignment() -> str:
    try:
        from farl_hf import pretrained
    except ImportError:
        raise ValueError("Boxes without five points need an alignment model: give points_from='folder'.") from None
    return pretrained("farl-tiny-alignment")


__all__ = [
    "FaceAlignmentPipeline",
    "FaceAnalysisPipeline",
    "FaceAttributesPipeline",
    "FaceParsingPipeline",
    "FacePipeline",
    "RefinedDetector",
    "open_pipeline",
]
