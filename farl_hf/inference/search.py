"""
An index of the faces in a folder of photos: found again by description, and near duplicates of pictures.

Not by identity: neither the encoder nor the comparison of pictures is made to tell people apart, and both should not be
used for it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .encoding import PROMPT, FaceEncoder
from .photo_files import open_photo, written_whole
from .results import Faces

INDEX_NAME = ".farl-index.safetensors"
# Grey pictures of faces by which near duplicates are found, in pixels: too coarse for noise and compression to be seen.
_THUMBNAIL = 16
# What an encoder says of it tells whether it is the one that the index was made with.
_PROBE = "a photo of a face"
_ROWS_AT_ONCE = 2048


class FoundFace(NamedTuple):
    """A face of the index: its photo's name, its number in it, its box in pixels, and how well it fits (a cosine)."""

    name: str
    face: int
    box: tuple[float, float, float, float]
    score: float


@dataclass
class IndexedPhoto:
    """
    What the index knows of a file.

    Attributes:
        stamp: Its size in bytes and time of change in nanoseconds.
        embeddings: (faces, size) float16.
        boxes: (faces, 4) float32, pixels.
        thumbnails: (faces, 256) uint8, 16 x 16 grey pixels.
        error: Why it could not be read, or `""`.
    """

    stamp: tuple[int, int]
    embeddings: np.ndarray
    boxes: np.ndarray
    thumbnails: np.ndarray
    error: str = ""


@dataclass
class FaceIndex:
    """
    Embeddings, boxes and thumbnails of the faces in photos, in one safetensors file.

    ```python
    >>> index, encoder = FaceIndex.load("photos/.farl-index.safetensors"), FaceEncoder()
    >>> index.search(encoder, "a smiling man with glasses", count=3)
    ```

    Args:
        model: Folder or Hub name of the dual encoder, `""` for the package's own.
        probe: (size,) what it says of a fixed text, to know it again.
        photos: Name below the folder -> what is known of it.
    """

    model: str
    probe: np.ndarray
    photos: dict[str, IndexedPhoto] = field(default_factory=dict)

    @classmethod
    def new(cls, model: str, encoder: FaceEncoder) -> "FaceIndex":
        return cls(model, encoder.embed_texts([_PROBE])[0])

    @classmethod
    def load(cls, path: Path) -> "FaceIndex":
        """
        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is no index.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: make the index by `farl index` first.")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                model, entries = metadata["model"], json.loads(metadata["photos"])
                arrays = {name: file.get_tensor(name) for name in ("embeddings", "boxes", "thumbnails", "probe")}
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no index of faces ({error}): delete it and run `farl index`.") from error
        index, start = cls(model, arrays["probe"]), 0
        for name, size, changed, count, problem in entries:
            embeddings, boxes, thumbnails = (
                arrays[key][start : start + count] for key in ("embeddings", "boxes", "thumbnails")
            )
            index.photos[name] = IndexedPhoto((size, changed), embeddings, boxes, thumbnails, problem)
            start += count
        return index

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        photos = list(self.photos.values())
        entries = [[name, *p.stamp, len(p.boxes), p.error] for name, p in self.photos.items()]
        tensors = {
            "embeddings": np.concatenate([np.zeros((0, len(self.probe)), np.float16), *(p.embeddings for p in photos)]),
            "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(p.boxes for p in photos)]),
            "thumbnails": np.concatenate([np.zeros((0, _THUMBNAIL**2), np.uint8), *(p.thumbnails for p in photos)]),
            "probe": self.probe,
        }
        # JSON in plain ASCII: names that are no UTF-8 survive as escapes.
        data = save(tensors, {"model": self.model, "photos": json.dumps(entries)})
        with written_whole(path, "wb") as file:
            file.write(data)

    def check_encoder(self, encoder: FaceEncoder) -> None:
        """
        Raises:
            ValueError: If the index was made with another encoder.
        """
        probe = encoder.embed_texts([_PROBE])[0]
        if probe.shape != self.probe.shape or not np.allclose(probe, self.probe, atol=1e-3):
            raise ValueError(
                f"The index was made with another model ({self.model or 'our small one, of another version'}): name "
                "it by --model, or make the index anew by `farl index --overwrite`."
            )

    def __len__(self) -> int:
        """Number of faces."""
        return sum(len(photo.boxes) for photo in self.photos.values())

    @property
    def faces(self) -> list[tuple[str, int]]:
        """Name of the photo and number in it of every face, in the order of rows."""
        return [(name, i) for name, photo in self.photos.items() for i in range(len(photo.boxes))]

    def _stacked(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(photo, name) for photo in self.photos.values()]).astype(np.float32)

    def _found(self, face: tuple[str, int], score: float) -> FoundFace:
        left, top, right, bottom = self.photos[face[0]].boxes[face[1]].tolist()
        return FoundFace(*face, (left, top, right, bottom), float(score))

    def search(self, encoder: FaceEncoder, text: str, count: int = 10, prompt: str = PROMPT) -> list[FoundFace]:
        """
        The photos that a description fits best, each once, by its best face.

        Args:
            encoder: The one that the index was made with.
            text: Such as "a smiling man with glasses".
            count: Most photos.
            prompt: What the text is put into, at `{}`.
        """
        self.check_encoder(encoder)
        if len(self) == 0:
            return []
        scores = self._stacked("embeddings") @ encoder.embed_texts([prompt.format(text)])[0]
        faces, best = self.faces, {}
        for row in np.argsort(-scores, kind="stable").tolist():
            if faces[row][0] not in best:
                best[faces[row][0]] = self._found(faces[row], scores[row])
                if len(best) == count:
                    break
        return list(best.values())

    def duplicates(self, least: float = 0.95) -> list[list[FoundFace]]:
        """
        Groups of faces of different photos that look like one picture at other sizes, compressions, brightness: their
        upright grey thumbnails correlate by `least`. The score of a face is its highest in the group.
        """
        if len(self) == 0:
            return []
        pixels = self._stacked("thumbnails")
        pixels -= pixels.mean(axis=1, keepdims=True)
        # A picture of one colour is like no other one.
        pixels /= np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1.0)
        faces, best = self.faces, np.zeros(len(pixels))
        group = np.arange(len(pixels))
        for start in range(0, len(pixels), _ROWS_AT_ONCE):
            likeness = pixels[start : start + _ROWS_AT_ONCE] @ pixels.T
            for i, j in zip(*np.nonzero(likeness >= least), strict=True):
                a, b = int(i) + start, int(j)
                if faces[a][0] != faces[b][0]:
                    best[a] = max(best[a], likeness[i, j])
                    group[group == group[b]] = group[a]
        numbers, counts = np.unique(group, return_counts=True)
        rows = [np.flatnonzero(group == number).tolist() for number in numbers[counts > 1]]
        return [[self._found(faces[row], best[row]) for row in some] for some in rows]


def photo_stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is changed: size in bytes, time in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def index_photos(
    files: Sequence[tuple[Path, Path]], detect: object, encoder: FaceEncoder, max_pixels: int, batch_size: int = 16
) -> Iterator[tuple[str, IndexedPhoto]]:
    """
    Name and entry of each photo, in order; crops of several photos go through the encoder together. A file that cannot
    be read, or makes detector or encoder fail, has an entry with its error.

    Args:
        files: Pairs of file and name, see [`find_files`].
        detect: From a photo to its [`Faces`].
        encoder: Makes the embeddings.
        max_pixels: Larger photos are errors.
        batch_size: Photos at once.
    """
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        prepared = [_prepare(file, detect, encoder, max_pixels) for file, _ in part]
        crops = [crop for entry, some in prepared for crop in some]
        embeddings = encoder.embed_crops(crops, batch_size).astype(np.float16)
        for (_, name), (entry, some) in zip(part, prepared, strict=True):
            entry.embeddings, embeddings = embeddings[: len(some)], embeddings[len(some) :]
            yield os.fspath(name), entry


def _prepare(
    file: Path, detect: object, encoder: FaceEncoder, max_pixels: int
) -> tuple[IndexedPhoto, list[Image.Image]]:
    nothing = np.zeros((0, 0), np.float16), np.zeros((0, 4), np.float32), np.zeros((0, _THUMBNAIL**2), np.uint8)
    try:
        stamp = photo_stamp(file)
    except OSError as error:
        return IndexedPhoto((0, 0), *nothing, str(error)), []
    try:
        photo = open_photo(file, max_pixels)
        faces: Faces = detect(photo)  # type: ignore[operator]
        crops = encoder.crop(photo, faces)
    except Exception as error:  # odd photos must not end a long run
        return IndexedPhoto(stamp, *nothing, " ".join(str(error).split()) or type(error).__name__), []
    thumbnails = np.array([_thumbnail(crop) for crop in crops], np.uint8).reshape(-1, _THUMBNAIL**2)
    return IndexedPhoto(stamp, nothing[0], faces.boxes, thumbnails), crops


def _thumbnail(crop: Image.Image) -> np.ndarray:
    small = crop.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).ravel()


def contact_sheet(folder: Path, rows: Iterable[Sequence[FoundFace]], side: int = 160) -> Image.Image:
    """
    A picture of the found faces, each with its score and its photo's name below.

    Args:
        folder: That the names are below.
        rows: Of faces.
        side: Of one face in pixels.
    """
    rows = [list(row) for row in rows]
    font = ImageFont.load_default(size=11)
    height = side + 30
    sheet = Image.new("RGB", (max(map(len, rows), default=1) * side, max(1, len(rows)) * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, found in enumerate(row):
            place = x * side, y * height
            try:
                photo = open_photo(folder / found.name)
                faces = Faces((photo.height, photo.width), np.array([found.box]))
                sheet.paste(faces.crop(photo, side, 0.6)[0], place)
            except ValueError:
                draw.text((place[0] + 4, place[1] + 4), "cannot be read now", font=font, fill=(0, 0, 0))
            name = found.name.encode("utf-8", "replace").decode()
            while font.getlength(name) > side - 8:
                name = "…" + name[2:]
            draw.text((place[0] + 4, place[1] + side), f"{found.score:.3f}", font=font, fill=(0, 0, 0))
            draw.text((place[0] + 4, place[1] + side + 14), name, font=font, fill=(0, 0, 0))
    return sheet


__all__ = ["INDEX_NAME", "FaceIndex", "FoundFace", "IndexedPhoto", "contact_sheet", "index_photos", "photo_stamp"]
