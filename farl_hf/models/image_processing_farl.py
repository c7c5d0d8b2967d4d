"""Image processors: CLIP's for whole images, and aligned face crops with the way back to the photo."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, CLIPImageProcessorPil
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import is_torchvision_available

from .geometry_farl import (
    box_crop_matrix,
    celeba_align_matrix,
    celebamask_hq_matrix,
    crop_to_photo,
    face_align_matrix,
    facer_landmarks,
    photo_sampling_map,
    pixel_centre,
    warp_image,
    warp_image_smoothly,
)
from .image_loading_farl import ImageLike, to_rgb_tensor

if is_torchvision_available():
    from transformers import CLIPImageProcessor
else:
    # What the name stands for then; asking for it prints a warning that no user can do anything about.
    CLIPImageProcessor = CLIPImageProcessorPil

# Crops that the FaRL repository's networks see are cut at this size and resized inside of the network to 448.
_FARL_CANVAS = 512
# Pixels of a photo that are labelled in one go; bounds the memory of the way back.
_PIXELS_AT_ONCE = 1 << 20


class FaRLImageProcessor(CLIPImageProcessor):
    """
    Images for the dual encoder: `pixel_values` (batch, 3, 224, 224), float32, with the defaults and the numbers of the
    processor of openai/clip-vit-base-patch16. Uses torchvision; without it Transformers falls back to Pillow.
    """


class FaRLImageProcessorPil(CLIPImageProcessorPil):
    """[`FaRLImageProcessor`] on Pillow: bit-equal to OpenAI's own transform, and the faster one on a CPU."""


@dataclass(frozen=True)
class FaceTransform:
    """
    Where a crop came from.

    Attributes:
        image_index: Position of the photo in the call.
        image_size: (height, width) of the photo in pixels.
        matrix: (3, 3), from the photo's to the crop's coordinates.
        crop_size: Side of the crop that `matrix` leads to, in pixels.
        warp_factor: Of the tanh warp after the matrix.
        convention: `"farl"` or `"facer"`, see `geometry_farl`.
        whole: Whether the crop is the whole photo, resized.
    """

    image_index: int
    image_size: tuple[int, int]
    matrix: torch.Tensor
    crop_size: int
    warp_factor: float
    convention: str
    whole: bool = False


class FaceTransforms(list[FaceTransform]):
    """
    One [`FaceTransform`] per face, and the sizes of the photos that they are of, those without a face among them.

    Attributes:
        image_sizes: (height, width) in pixels of every photo of the call.
    """

    def __init__(self, transforms: Iterable[FaceTransform], image_sizes: Iterable[tuple[int, int]]):
        super().__init__(transforms)
        self.image_sizes = list(image_sizes)


@dataclass
class FaceSegmentation:
    """
    One face's part of a photo.

    Attributes:
        image_index: Position of the photo in the call.
        box: (x1, y1, x2, y2) of the part in pixels, the far sides excluded.
        labels: (y2 - y1, x2 - x1) uint8 class ids, or `None`.
        probabilities: (classes, y2 - y1, x2 - x1) float32, or `None`.
    """

    image_index: int
    box: tuple[int, int, int, int]
    labels: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None


class FaRLFaceImageProcessorKwargs(TypedDict, total=False):
    """What [`FaRLFaceImageProcessor`] keeps in its JSON file."""

    align: str | None
    size: int
    warp_factor: float
    target_face_scale: float
    convention: str
    antialias: bool
    image_mean: list[float]
    image_std: list[float]


class FaRLFaceImageProcessor(BaseImageProcessor):
    """
    Cuts aligned faces out of photos for the task models, and carries the results back.

    ```python
    >>> inputs = processor(photo, face_points=five_points, return_tensors="pt")
    >>> outputs = model(inputs["pixel_values"])
    >>> (labels,) = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
    ```

    Args:
        align: How faces are cut out: `"lapa"` (five points), `"celeba"` (five points, facer's attribute crop),
            `"celebamask_hq"` (five points, the CelebA-HQ frame), `"box"`, or `None` for images that are already aligned
            or to be taken whole.
        size: Side of `pixel_values` in pixels.
        warp_factor: Of the tanh warp; 0.8 for LaPa models, else 0.
        target_face_scale: Size of the face in the crop for `"lapa"` and `"box"`.
        convention: `"farl"`: integer pixel indices and a 512 px crop that is then resized, as in the original's
            training and evaluation. `"facer"`: pixel centres at one half, and a crop of `size`.
        antialias: Whether a face that is larger in the photo than in the crop is averaged down, as small models are
            trained. The originals' crops skip pixels, so `False` for their weights.
        image_mean, image_std: Per channel, for images in [0, 1]. CLIP's by default.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = FaRLFaceImageProcessorKwargs
    # A default other than None makes Transformers write `align=None` to the JSON file.
    align: str | None = "lapa"

    def __init__(
        self,
        align: str | None = "lapa",
        size: int = 448,
        warp_factor: float = 0.0,
        target_face_scale: float = 1.0,
        convention: str = "farl",
        antialias: bool = False,
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if align not in ("lapa", "celeba", "celebamask_hq", "box", None):
            raise ValueError(f"align is {align!r}: choose 'lapa', 'celeba', 'celebamask_hq', 'box' or None.")
        if not 0 <= warp_factor <= 1:
            raise ValueError(f"warp_factor is {warp_factor}: it lies between 0 and 1.")
        pixel_centre(convention)
        self.align = align
        self.size = size
        self.warp_factor = warp_factor
        self.target_face_scale = target_face_scale
        self.convention = convention
        self.antialias = antialias
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        face_points: Any = None,
        boxes: Any = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """
        Args:
            images: One image or a list of images of any sizes, see [`to_rgb_tensor`], or a batch of four dimensions.
            face_points: For each image (faces, 5, 2) points: eyes, nose tip, mouth corners, the image's left side
                first, x then y in `convention`, in the upright image. For one image the array itself. `[]` for an image
                without a face.
            boxes: For each image (faces, 4) boxes x1, y1, x2, y2, in place of points with `align="box"`.
            return_tensors: `"pt"`, or `"np"` for arrays.

        Returns:
            `pixel_values` (all faces, 3, size, size) float32, and `face_transforms`, a list of one [`FaceTransform`]
            per face, both in the order of the images. With `align=None` every image is one crop, resized as a whole,
            and points or boxes are not looked at. An image with zero faces is an ordinary input; without any face
            `pixel_values` is (0, 3, size, size).

        Raises:
            ValueError: If an image is unreadable or smaller than 2 pixels, or a face is degenerate (the message names
                the image and the face), or points or boxes are missing or not what the recipe needs.
        """
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}: choose 'pt' for tensors or 'np' for arrays.")
        self._check_annotation_kind(face_points, boxes)
        annotations = face_points if face_points is not None else boxes
        if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
            images = list(images)
        elif not isinstance(images, list | tuple):
            images, annotations = [images], None if annotations is None else [annotations]
        if annotations is not None and len(annotations) != len(images):
            raise ValueError(f"There are {len(images)} images but face annotations for {len(annotations)}.")
        crops, transforms, image_sizes = [], [], []
        for index, image in enumerate(images):
            pixels = to_rgb_tensor(image, index)
            if self.align is None:
                cropped, found = self._whole(pixels, index)
            else:
                cropped, found = self._cut(pixels, index, annotations[index])
            crops.append(cropped)
            transforms.extend(found)
            image_sizes.append(tuple(pixels.shape[-2:]))
        pixel_values = torch.cat(crops) if crops else torch.zeros(0, 3, self.size, self.size)
        mean, std = (pixel_values.new_tensor(v).view(3, 1, 1) for v in (self.image_mean, self.image_std))
        pixel_values = (pixel_values - mean) / std
        if return_tensors == "np":
            pixel_values = pixel_values.detach().cpu().numpy()
        transforms = FaceTransforms(transforms, image_sizes)
        return BatchFeature({"pixel_values": pixel_values, "face_transforms": transforms})

    def _check_annotation_kind(self, face_points: Any, boxes: Any) -> None:
        if face_points is not None and boxes is not None:
            raise ValueError("Give face_points or boxes, not both.")
        if self.align == "box" and face_points is not None:
            raise ValueError("This processor cuts faces by their boxes (align='box'): give boxes, not face_points.")
        if self.align not in ("box", None) and boxes is not None:
            raise ValueError(f"This processor cuts faces by five points (align={self.align!r}): give face_points.")
        if self.align is not None and face_points is None and boxes is None:
            wanted = "their boxes=..." if self.align == "box" else "their five points, face_points=..."
            raise ValueError(
                f"This processor cuts faces out of photos (align={self.align!r}): give {wanted}, as a face detector "
                "finds them; or set processor.align = None for images that are aligned crops already."
            )

    @property
    def crop_size(self) -> int:
        """Side in pixels of the crop that matrices lead to, before the network's own resize."""
        return _FARL_CANVAS if self.convention == "farl" else self.size

    def _whole(self, pixels: torch.Tensor, index: int) -> tuple[torch.Tensor, list[FaceTransform]]:
        height, width = pixels.shape[-2:]
        if self.antialias:
            sides = (self.size, self.size)
            crop = nn.functional.interpolate(pixels[None], sides, mode="bilinear", align_corners=False, antialias=True)
        else:
            crop = _resize(_resize(pixels[None], self.crop_size), self.size)
        shift = 0.5 - pixel_centre(self.convention)
        scale_x, scale_y = self.crop_size / width, self.crop_size / height
        matrix = torch.tensor(
            [[scale_x, 0, (scale_x - 1) * shift], [0, scale_y, (scale_y - 1) * shift], [0, 0, 1]], device=pixels.device
        )
        return crop, [FaceTransform(index, (height, width), matrix, self.crop_size, 0.0, self.convention, whole=True)]

    def _cut(self, pixels: torch.Tensor, index: int, annotation: Any) -> tuple[torch.Tensor, list[FaceTransform]]:
        image_size = tuple(pixels.shape[-2:])
        row = (4,) if self.align == "box" else (5, 2)
        if annotation is None:
            what = "boxes are" if self.align == "box" else "face_points is"
            raise ValueError(f"Image {index}: {what} None: give the faces, or [] where there is none.")
        faces = annotation if isinstance(annotation, torch.Tensor) else torch.from_numpy(np.asarray(annotation))
        faces = faces.to(pixels.device, torch.float32)
        if faces.numel() == 0:
            return pixels.new_zeros(0, 3, self.size, self.size), []
        if tuple(faces.shape[1:]) != row:
            raise ValueError(
                f"Image {index}: face annotations must be (faces, {', '.join(map(str, row))}), "
                f"got {tuple(faces.shape)}."
            )
        matrices = self._matrices(faces, index)
        if self.antialias:
            crops = warp_image_smoothly(pixels, matrices, self.crop_size, self.warp_factor, self.convention)
        else:
            expanded = pixels[None].expand(len(faces), -1, -1, -1)
            crops = warp_image(expanded, matrices, self.crop_size, self.warp_factor, self.convention)
        crops = _resize(crops, self.size)
        return crops, [
            FaceTransform(index, image_size, matrix, self.crop_size, self.warp_factor, self.convention)
            for matrix in matrices
        ]

    def _matrices(self, faces: torch.Tensor, index: int) -> torch.Tensor:
        try:
            return self._matrices_of(faces)
        except ValueError:
            # Once more one by one, to name the face.
            for number, face in enumerate(faces):
                try:
                    self._matrices_of(face[None])
                except ValueError as error:
                    raise ValueError(f"Image {index}, face {number}: {error}") from None
            raise

    def _matrices_of(self, faces: torch.Tensor) -> torch.Tensor:
        """(faces, 3, 3) float32 from five points or boxes, computed in float64 as the original does."""
        faces, size = faces.double(), self.crop_size
        if self.align == "lapa":
            matrix = face_align_matrix(faces, size, self.target_face_scale)
        elif self.align == "celeba":
            matrix = celeba_align_matrix(faces, size)
        elif self.align == "celebamask_hq":
            matrix = celebamask_hq_matrix(faces, size)
        else:
            matrix = box_crop_matrix(faces, size, self.target_face_scale)
            # The crop's outer edges, in index coordinates; continuous ones start half a pixel earlier.
            matrix[..., :2, 2] += pixel_centre(self.convention)
        return matrix.float()

    # ------------------------------------------------------------------------------------------- the way back

    def post_process_landmarks(
        self, outputs: Any, face_transforms: Sequence[FaceTransform], from_heatmaps: bool = False
    ) -> list[torch.Tensor]:
        """
        Landmarks in the photos.

        Args:
            outputs: Of [`FaRLForFaceAlignment`].
            face_transforms: What the call returned beside the `pixel_values`.
            from_heatmaps: Decode in the photo as facer does (see `facer_landmarks`) in place of the original's
                decoding in the crop. Only with convention `"facer"`.

        Returns:
            For each photo (faces, num_landmarks, 2) float32, x and y as pixel indices, the centre of the first pixel at
            (0, 0).
        """
        self._check_count(len(outputs.landmarks), face_transforms)
        landmarks = [
            self._decode_in_photo(outputs.heatmaps[i : i + 1], transform)
            if from_heatmaps
            else self._points_to_photo(outputs.landmarks[i], transform)
            for i, transform in enumerate(face_transforms)
        ]
        empty = outputs.landmarks.new_zeros(0, *outputs.landmarks.shape[1:])
        return [
            torch.stack(found) if (found := _of_image(landmarks, face_transforms, index)) else empty
            for index in range(_count_photos(face_transforms))
        ]

    def _points_to_photo(self, landmarks: torch.Tensor, transform: FaceTransform) -> torch.Tensor:
        centre = pixel_centre(transform.convention)
        # Normalised points are (pixel index + 0.5) / size.
        points = landmarks * transform.crop_size - 0.5 + centre
        matrix = transform.matrix.to(points.device)
        return crop_to_photo(points, matrix, transform.crop_size, transform.warp_factor) - centre

    def _decode_in_photo(self, heatmaps: torch.Tensor, transform: FaceTransform) -> torch.Tensor:
        if transform.convention != "facer" or transform.warp_factor != 0:
            raise ValueError("Decoding in the photo is facer's: it needs convention 'facer' and no warp.")
        matrix = transform.matrix.to(heatmaps.device)[None]
        return facer_landmarks(heatmaps.sigmoid(), matrix, transform.crop_size, *transform.image_size)[0]

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        face_transforms: Sequence[FaceTransform] | None = None,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        output: str = "labels",
        return_segmentation_scores: bool = False,
    ) -> list[torch.Tensor] | list[FaceSegmentation] | list[SemanticSegmentationPostProcessorOutput]:
        """
        Class ids in the photos. Logits are interpolated at every pixel and then compared, as in the original.

        Args:
            outputs: Of [`FaRLForFaceParsing`], with `logits` (faces, classes, height, width).
            face_transforms: What the call returned beside the `pixel_values`. `None` takes the logits as whole images.
            target_sizes: (height, width) per photo, for whole images that are wanted at another size.
            output: `"labels"`, `"faces"` or `"probabilities"`.
            return_segmentation_scores: Of whole images, return Transformers' output with `segmentation` and
                `segmentation_scores`, the interpolated logits (classes, height, width).

        Returns:
            With `"labels"` one (height, width) int64 map per photo; where faces overlap, the earlier one is on top, and
            background (0) covers nothing. With `"faces"` one [`FaceSegmentation`] per face with its labels, cropped to
            the smallest box that holds all but background. With `"probabilities"` the same with the softmax over the
            classes.
        """
        logits = outputs.logits.float()
        if face_transforms is None:
            sizes = target_sizes or [tuple(logits.shape[-2:])] * len(logits)
            if len(sizes) != len(logits):
                raise ValueError(f"There are {len(logits)} images in the batch but {len(sizes)} target_sizes.")
            sizes = [(int(height), int(width)) for height, width in sizes]
            face_transforms = FaceTransforms([_whole_transform(i, size) for i, size in enumerate(sizes)], sizes)
        elif target_sizes is not None:
            sizes = _image_sizes(face_transforms)
            if len(target_sizes) != len(sizes):
                raise ValueError(f"There are {len(sizes)} photos but {len(target_sizes)} target_sizes.")
            for t in face_transforms:
                if t.whole:
                    height, width = target_sizes[t.image_index]
                    sizes[t.image_index] = int(height), int(width)
            face_transforms = FaceTransforms(
                [_whole_transform(t.image_index, sizes[t.image_index]) if t.whole else t for t in face_transforms],
                sizes,
            )
        self._check_count(len(logits), face_transforms)
        if output not in ("labels", "faces", "probabilities"):
            raise ValueError(f"output is {output!r}: choose 'labels', 'faces' or 'probabilities'.")
        if return_segmentation_scores and not all(t.whole for t in face_transforms):
            raise ValueError("Scores of faces that were cut out of a photo come with output='probabilities'.")
        if output != "labels":
            pairs = zip(logits, face_transforms, strict=True)
            return [_segment_face(face_logits, t, probabilities=output == "probabilities") for face_logits, t in pairs]

        sizes = _image_sizes(face_transforms)
        maps = [torch.zeros(size, dtype=torch.long, device=logits.device) for size in sizes]
        for face_logits, transform in reversed(list(zip(logits, face_transforms, strict=True))):
            face = _segment_face(face_logits, transform)
            x1, y1, x2, y2 = face.box
            part = maps[transform.image_index][y1:y2, x1:x2]
            assert face.labels is not None
            part.copy_(torch.where(face.labels > 0, face.labels.long(), part))
        if not return_segmentation_scores:
            return maps
        scores = [_resize_to(x[None], t.image_size)[0] for x, t in zip(logits, face_transforms, strict=True)]
        return [
            SemanticSegmentationPostProcessorOutput(data={"segmentation": labels, "segmentation_scores": score})
            for labels, score in zip(maps, scores, strict=True)
        ]

    def _check_count(self, count: int, face_transforms: Sequence[FaceTransform]) -> None:
        if count != len(face_transforms):
            raise ValueError(f"There are outputs for {count} faces but {len(face_transforms)} face_transforms.")


def _of_image(items: Sequence, face_transforms: Sequence[FaceTransform], index: int) -> list:
    return [item for item, t in zip(items, face_transforms, strict=True) if t.image_index == index]


def _count_photos(face_transforms: Sequence[FaceTransform]) -> int:
    """The photos of the call; of a plain list of transforms, those up to the last with a face."""
    if isinstance(face_transforms, FaceTransforms):
        return len(face_transforms.image_sizes)
    return max((transform.image_index for transform in face_transforms), default=-1) + 1


def _image_sizes(face_transforms: Sequence[FaceTransform]) -> list[tuple[int, int]]:
    """(height, width) of every photo."""
    if isinstance(face_transforms, FaceTransforms):
        return list(face_transforms.image_sizes)
    sizes = {transform.image_index: transform.image_size for transform in face_transforms}
    count = _count_photos(face_transforms)
    if absent := sorted(set(range(count)) - sizes.keys()):
        raise ValueError(
            f"Photo {absent[0]} has no face, and a plain list of face_transforms does not know its size: give them as "
            "the processor returned them."
        )
    return [sizes[index] for index in range(count)]


def _whole_transform(index: int, size: tuple[int, int]) -> FaceTransform:
    matrix = torch.diag(torch.tensor([1 / size[1], 1 / size[0], 1.0]))
    return FaceTransform(index, size, matrix, 1, 0.0, "facer", whole=True)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    return _resize_to(images, (size, size))


def _resize_to(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    # No antialias: what OpenCV's bilinear resize and the original network do.
    return nn.functional.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)


def _segment_face(logits: torch.Tensor, transform: FaceTransform, probabilities: bool = False) -> FaceSegmentation:
    """One face's labels or probabilities in the part of the photo where it is not background."""
    labels = _most_likely(logits)
    box = _face_region(labels, transform)
    lookup = _LabelLookup(logits, labels, padding_mode="border" if transform.whole else "zeros")
    x1, y1, x2, y2 = box
    parts = []
    rows = max(1, _PIXELS_AT_ONCE // max(1, x2 - x1))
    matrix = transform.matrix.to(logits.device)
    for top in range(y1, y2, rows):
        part = x1, top, x2, min(top + rows, y2)
        x, y = photo_sampling_map(matrix, part, transform.crop_size, transform.warp_factor, transform.convention)
        parts.append(lookup.probabilities(x, y) if probabilities else lookup.labels(x, y))
    if probabilities:
        merged = torch.cat(parts, dim=1) if parts else logits.new_zeros(len(logits), 0, 0)
        return FaceSegmentation(transform.image_index, box, probabilities=merged)
    merged = torch.cat(parts) if parts else labels.new_zeros(0, 0, dtype=torch.uint8)
    return FaceSegmentation(transform.image_index, box, labels=merged)


def _most_likely(logits: torch.Tensor) -> torch.Tensor:
    """The class of the largest of `logits` (classes, ...), the first one of equal ones."""
    # `argmax` says the same, and takes PyTorch four times as long on a CPU.
    return logits.max(dim=0).indices


def _face_region(labels: torch.Tensor, transform: FaceTransform) -> tuple[int, int, int, int]:
    """Box in the photo, far sides excluded, that holds every pixel whose label can be other than background."""
    height, width = transform.image_size
    if transform.whole:
        return 0, 0, width, height
    rows, columns = labels.any(dim=1).nonzero()[:, 0], labels.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        return 0, 0, 0, 0
    # One pixel of the crop more on each side: bilinear interpolation reaches that far.
    top, bottom = int(rows[0]) - 0.5, int(rows[-1]) + 1.5
    left, right = int(columns[0]) - 0.5, int(columns[-1]) + 1.5
    side_y, side_x = labels.shape
    if transform.warp_factor > 0 and (top <= 0 or left <= 0 or bottom >= side_y or right >= side_x):
        # The border of a warped crop stands for everything up to infinity.
        return 0, 0, width, height
    scale = torch.tensor([transform.crop_size / side_x, transform.crop_size / side_y])
    corners = torch.tensor([[left, top], [right, top], [right, bottom], [left, bottom]]) * scale
    corners = corners - (0.5 - pixel_centre(transform.convention))
    points = crop_to_photo(corners, transform.matrix.cpu(), transform.crop_size, transform.warp_factor)
    (x1, y1), (x2, y2) = points.amin(dim=0).floor().tolist(), points.amax(dim=0).ceil().tolist()
    x1, y1 = max(0, int(x1) - 1), max(0, int(y1) - 1)
    x2, y2 = min(width, int(x2) + 2), min(height, int(y2) + 2)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else (0, 0, 0, 0)


class _LabelLookup:
    """
    The arg-max of bilinearly interpolated logits. Where the four pixels around a point agree on their class, that class
    has the largest interpolated logit too, so only the others, along the borders of regions, are interpolated.
    """

    # In place of a class where the four pixels around a point disagree.
    _MIXED = 255

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor, padding_mode: str):
        self.logits = logits
        self.padding_mode = padding_mode
        # One ring of cells that disagree around the map, where interpolation meets the padding.
        height, width = labels.shape
        self.cells = labels.new_full((height + 1, width + 1), self._MIXED, dtype=torch.uint8)
        labels = labels.to(torch.uint8)
        corner = labels[:-1, :-1]
        agree = (corner == labels[:-1, 1:]) & (corner == labels[1:, :-1]) & (corner == labels[1:, 1:])
        self.cells[1:-1, 1:-1] = corner.masked_fill(~agree, self._MIXED)

    def labels(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """uint8 class ids at points whose coordinates x and y, of any one shape, lie in [0, 1] of the map."""
        height, width = self.cells.shape
        row = (y * (height - 1) - 0.5).floor_().clamp_(-1, height - 2).long()
        column = (x * (width - 1) - 0.5).floor_().clamp_(-1, width - 2).long()
        found = self.cells.take((row + 1).mul_(width).add_(column + 1))
        mixed = (found == self._MIXED).nonzero(as_tuple=True)
        found[mixed] = _most_likely(self._interpolate(x[mixed], y[mixed])).to(torch.uint8)
        return found

    def probabilities(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(classes, height, width) softmax at points x and y (height, width) in [0, 1] of the map."""
        return self._interpolate(x.flatten(), y.flatten()).softmax(dim=0).unflatten(-1, x.shape)

    def _interpolate(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(classes, points) logits at points x and y (points,)."""
        grid = (2 * torch.stack([x, y], dim=-1) - 1)[None, None]
        return nn.functional.grid_sample(
            self.logits[None], grid, mode="bilinear", padding_mode=self.padding_mode, align_corners=False
        )[0, :, 0]


__all__ = [
    "FaRLFaceImageProcessor",
    "FaRLImageProcessor",
    "FaRLImageProcessorPil",
    "FaceSegmentation",
    "FaceTransform",
    "FaceTransforms",
]
