"""`Faces`: the faces of one photo and everything that was found out about them; the one answer of this room."""

import base64
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Photo = Image.Image | np.ndarray | str | os.PathLike
# Type, and shape after the axis of faces (None: any length), of every field that has one entry per face.
_PER_FACE: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "boxes": (np.float32, (4,)),
    "points": (np.float32, (5, 2)),
    "scores": (np.float32, ()),
    "label_boxes": (np.int32, (4,)),
    "label_maps": (object, ()),
    "logits": (np.float32, (None, None, None)),
    "landmarks": (np.float32, (None, 2)),
    "attributes": (np.float32, (None,)),
    "embeddings": (np.float32, (None,)),
    "track_ids": (np.int64, ()),
    "head_pose": (np.float32, (3,)),
    "eye_openness": (np.float32, (2,)),
    "mouth_openness": (np.float32, ()),
    "transforms": (object, ()),
}
_OF_THE_PHOTO = ("image_size", "label_names", "attribute_names")


@dataclass(frozen=True, eq=False)
class Faces:
    """
    The faces of one photo, the most certain first, with one row per face in every array. What was not asked for, or is
    not known, is `None`; a photo without faces has arrays of length zero.

    Coordinates are (x, y) in pixel indices of the photo as it is seen (turned upright by its EXIF tag): the centre of
    its first pixel is (0, 0). "Left" means the image's left in points and landmarks, the subject's own in names of
    labels and attributes.

    ```python
    >>> faces = farl_hf.analyze("photo.jpg")
    >>> faces[faces.scores > 0.9].draw(photo).save("drawn.jpg")
    ```

    Args:
        image_size: (height, width) of the photo in pixels.
        boxes: (faces, 4) float32: left, top, right, bottom.
        points: (faces, 5, 2) float32: eyes, nose tip, mouth corners, the image's left side first.
        scores: (faces,) float32 in [0, 1]: how certain the detector is.
        label_maps: (faces,) objects, each a (height, width) uint8 map of class ids: the part of the photo that the face
            reaches, at the photo's resolution. [`label_map`] merges them.
        label_boxes: (faces, 4) int32: where each map lies in the photo, x1, y1, x2, y2, the far sides excluded.
        label_names: Name of each class id.
        logits: (faces, classes, side, side) float32 of the parsing network, in its crop.
        landmarks: (faces, landmarks, 2) float32 in the photo.
        attributes: (faces, attributes) float32 probabilities in [0, 1].
        attribute_names: Name of each column of `attributes`.
        embeddings: (faces, size) float32, of length one.
        track_ids: (faces,) int64: the same number for the same face through a film.
        head_pose: (faces, 3) float32 degrees: yaw (positive to the image's right), pitch (positive down), roll
            (positive clockwise as seen).
        eye_openness: (faces, 2) float32: height over width of the eyes, the image's left one first.
        mouth_openness: (faces,) float32: height over width of the opening between the lips.
        transforms: (faces,) objects: the [`FaceTransform`] from the photo to the crop that the network saw.

    Raises:
        ValueError: If an array has not the shape above, or not as many rows as `boxes`.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    points: np.ndarray | None = None
    scores: np.ndarray | None = None
    label_maps: np.ndarray | None = None
    label_boxes: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    logits: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    attributes: np.ndarray | None = None
    attribute_names: tuple[str, ...] | None = None
    embeddings: np.ndarray | None = None
    track_ids: np.ndarray | None = None
    head_pose: np.ndarray | None = None
    eye_openness: np.ndarray | None = None
    mouth_openness: np.ndarray | None = None
    transforms: np.ndarray | None = None

    def __post_init__(self) -> None:
        height, width = self.image_size
        object.__setattr__(self, "image_size", (int(height), int(width)))
        for name in ("label_names", "attribute_names"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        for name, (dtype, shape) in _PER_FACE.items():
            value = getattr(self, name)
            if value is not None:
                value = _object_array(value) if dtype is object else np.asarray(value, dtype=dtype)
                if value.size == 0 and value.ndim <= 1 and dtype is not object:
                    value = value.reshape(0, *(length or 0 for length in shape))
                object.__setattr__(self, name, value)
                _check_shape(name, value, shape, len(self.boxes))

    @classmethod
    def empty(cls, image_size: tuple[int, int]) -> "Faces":
        """The result of a photo without faces; `image_size` is its (height, width)."""
        return cls(image_size, np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))

    @classmethod
    def concatenate(cls, results: Sequence["Faces"]) -> "Faces":
        """
        The faces of several results of one photo (or of photos of one size) as one result.

        Raises:
            ValueError: If there is none, if their photos differ in size, or if one with faces lacks a field that
                another one has.
        """
        if not results:
            raise ValueError("There is nothing to concatenate: give at least one result.")
        kept = [faces for faces in results if len(faces)] or [results[0]]
        values: dict[str, Any] = {}
        for name in _OF_THE_PHOTO:
            values[name] = getattr(kept[0], name)
            if any(getattr(faces, name) != values[name] for faces in kept):
                raise ValueError(f"These results differ in {name}: they cannot be one.")
        for name in _PER_FACE:
            arrays = [getattr(faces, name) for faces in kept]
            if all(array is not None for array in arrays):
                values[name] = np.concatenate(arrays)
            elif any(array is not None for array in arrays):
                raise ValueError(f"Only some of these results have {name}: they cannot be one.")
        return cls(**values)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Faces":
        """Faces by number (one face, still a `Faces`), slice, list of numbers, or mask."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"There is no face {index}: this photo has {len(self)}.")
            index = [index]
        elif not isinstance(index, slice):
            index = np.asarray(index)
            if index.dtype != bool:
                index = index.astype(np.int64)
        return self.replace(**{name: value[index] for name, value in self._arrays()})

    def __iter__(self) -> Iterator["Faces"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.image_size
        found = [name for name, _ in self._arrays()]
        return f"Faces({len(self)} in {width} x {height} pixels: {', '.join(found)})"

    def replace(self, **changes: Any) -> "Faces":
        """The same faces with some fields replaced, as `dataclasses.replace` does."""
        return replace(self, **changes)

    def largest(self, count: int | None) -> "Faces":
        """At most `count` faces, those with the largest boxes, in the same order; `None` keeps all."""
        if count is None or len(self) <= count:
            return self
        area = np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1)
        return self[np.sort(np.argsort(-area, kind="stable")[:count])]

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, value) for name in _PER_FACE if (value := getattr(self, name)) is not None)

    @property
    def label_map(self) -> np.ndarray | None:
        """
        (height, width) uint8 class ids of the whole photo, 0 where no face reaches. Where faces overlap the more
        certain one is on top, and background (0) covers nothing. `None` without label maps.
        """
        if self.label_maps is None or self.label_boxes is None:
            return None
        merged = np.zeros(self.image_size, dtype=np.uint8)
        for labels, (x1, y1, x2, y2) in reversed(list(zip(self.label_maps, self.label_boxes, strict=True))):
            part = merged[y1:y2, x1:x2]
            np.copyto(part, labels, where=labels > 0)
        return merged

    def to_dict(self, label_maps: bool = True) -> dict[str, Any]:
        """
        Plain Python types, ready for JSON: `{"image_size": [height, width], "faces": [{"box": [...], ...}, ...]}` with
        the fields above in the singular, where they are known. Attributes are `{name: probability}`; a label map is
        `{"box": [...], "png": base64 of an 8-bit PNG of class ids}`. Numbers that are not finite become `None`.

        Args:
            label_maps: Whether the label maps are in.
        """
        faces = [self._face_to_dict(i, label_maps) for i in range(len(self))]
        result: dict[str, Any] = {"image_size": list(self.image_size), "faces": faces}
        if label_maps and self.label_names is not None:
            result["label_names"] = list(self.label_names)
        return result

    def _face_to_dict(self, i: int, label_maps: bool) -> dict[str, Any]:
        singular = {"boxes": "box", "scores": "score", "embeddings": "embedding", "track_ids": "track_id"}
        face = {
            singular.get(name, name): _plain(value[i])
            for name, value in self._arrays()
            if name not in ("label_maps", "label_boxes", "logits", "transforms", "attributes")
        }
        if self.attributes is not None:
            names = self.attribute_names or tuple(map(str, range(self.attributes.shape[1])))
            face["attributes"] = dict(zip(names, _plain(self.attributes[i]), strict=True))
        if label_maps and self.label_maps is not None and self.label_boxes is not None:
            face["labels"] = {"box": _plain(self.label_boxes[i]), "png": _png_text(self.label_maps[i])}
        return face

    def to_json(self, label_maps: bool = True) -> str:
        """[`to_dict`] as one line of JSON."""
        return json.dumps(self.to_dict(label_maps), allow_nan=False)

    def draw(self, image: Photo, **options: Any) -> Image.Image:
        """A copy of the photo with these faces drawn on it, see [`drawing.draw_faces`] for photo and options."""
        from .drawing import draw_faces

        return draw_faces(image, self, **options)

    def crop(self, image: Photo, size: int = 256, face_scale: float = 0.8) -> list[Image.Image]:
        """
        One upright square picture per face: turned by the five points, or cut around the box where there are none.

        Args:
            image: The photo: PIL, (height, width, 3) uint8, or a path.
            size: Side of the pictures in pixels.
            face_scale: Share of the picture's side that the box's longer side takes.

        Raises:
            ValueError: If the photo has another size than the one that the faces are of.
        """
        photo = upright_photo(image, self)
        return [_upright_square(photo, face, size, face_scale) for face in self]

    def to_supervision(self) -> Any:
        """
        The faces as `supervision.Detections` (pip install supervision): boxes, scores, track ids, and in `data` the
        points, landmarks and head poses that are known.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision() needs the package supervision: pip install supervision.") from None
        extras = ("points", "landmarks", "attributes", "head_pose")
        data: dict[str, Any] = {name: value for name, value in self._arrays() if name in extras}
        return supervision.Detections(xyxy=self.boxes, confidence=self.scores, tracker_id=self.track_ids, data=data)


def upright_photo(image: Photo, faces: Faces) -> Image.Image:
    """
    A copy of the photo in RGB, turned upright by its EXIF tag, as the faces were found in it.

    Raises:
        ValueError: If it has another size than the photo that the faces are of.
    """
    if isinstance(image, str | os.PathLike):
        image = Image.open(image)
    photo = ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else Image.fromarray(image)
    if (photo.height, photo.width) != faces.image_size:
        raise ValueError(f"The photo is {photo.width} x {photo.height} pixels, these faces are of another: {faces!r}.")
    return photo.convert("RGB") if photo.mode != "RGB" else photo.copy()


def _object_array(values: Any) -> np.ndarray:
    """(n,) objects; `np.asarray` would stack maps of one size into one array."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _check_shape(name: str, value: np.ndarray, shape: tuple[int | None, ...], count: int) -> None:
    expected = ", ".join(["faces", *("any" if length is None else str(length) for length in shape)])
    fits = value.ndim == 1 + len(shape) and all(
        length in (None, found) for length, found in zip(shape, value.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {value.shape}: it must be ({expected}).")
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} rows for {count} faces.")


def _plain(value: Any) -> Any:
    """Numbers and nested lists of them; float32 in its shortest decimals, `None` for what is not finite."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.floating):
        return float(str(value)) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _png_text(labels: np.ndarray) -> str:
    if labels.size == 0:
        return ""
    file = io.BytesIO()
    Image.fromarray(labels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _upright_square(photo: Image.Image, face: Faces, size: int, face_scale: float) -> Image.Image:
    left, top, right, bottom = face.boxes[0].astype(float)
    centre, angle = np.array([(left + right) / 2, (top + bottom) / 2]), 0.0
    side = max(right - left, bottom - top)
    if face.points is not None and np.isfinite(face.points[0]).all():
        points = face.points[0].astype(float)
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        down = mouth - eyes
        # A profile's eyes lie on one spot, its mouth is still below them.
        angle = np.arctan2(-down[0], down[1])
    step = max(side, 1.0) / face_scale / size
    x_axis, y_axis = np.array([np.cos(angle), np.sin(angle)]) * step, np.array([-np.sin(angle), np.cos(angle)]) * step
    # Pillow's affine map counts from the outer edges of pixels.
    origin = centre + 0.5 - (x_axis + y_axis) * size / 2
    shrink = int(step)
    if shrink > 1:
        # Interpolation reads four pixels; a large face is averaged down before.
        photo = photo.reduce(shrink)
        x_axis, y_axis, origin = x_axis / shrink, y_axis / shrink, origin / shrink
    coefficients = (x_axis[0], y_axis[0], origin[0], x_axis[1], y_axis[1], origin[1])
    return photo.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)


__all__ = ["Faces", "Photo", "upright_photo"]
