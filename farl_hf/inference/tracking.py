"""Faces followed through a film: numbers that stay, landmarks that do not tremble, label maps that do not flicker."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ..models.geometry_farl import (
    apply_matrix,
    crop_to_photo,
    photo_to_crop,
    pixel_centre,
    pixel_grid,
    sample,
    similarity_from_points,
)
from ..models.image_processing_farl import FaceTransform
from .results import Faces

# A detection goes on with a track if their likeness, 0 to 1, is at least this.
_LEAST_LIKENESS = 0.25
# Share of a new speed in a track's, which says where its face is expected.
_NEW_SPEED = 0.4
# Of the One-Euro filters, chosen with scripts/film_stability.py: hertz at rest; hertz per side of the face's box and
# second; hertz of the speed's own filter (that of the paper).
_MIN_CUTOFF, _BETA, _SPEED_CUTOFF = 1.0, 8.0, 1.0
# Seconds over which logits are averaged; longer ones cost small parts of the face more than they calm.
_LOGITS_SECONDS = 0.1


class OneEuroFilter:
    """
    The One-Euro filter (Casiez, Roussel and Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in
    Interactive Systems", CHI 2012) of points: strong on those that rest, weak on those that move, so that neither
    trembling nor lag is seen.

    Args:
        min_cutoff: Cutoff in hertz of a point at rest: lower is steadier.
        beta: Hertz that the cutoff rises by per unit of speed: higher lags less.
        speed_cutoff: Cutoff in hertz of the speed's own filter.
    """

    def __init__(self, min_cutoff: float = _MIN_CUTOFF, beta: float = _BETA, speed_cutoff: float = _SPEED_CUTOFF):
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._time = 0.0
        self._points: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def __call__(self, points: np.ndarray, time: float, unit: float = 1.0) -> np.ndarray:
        """
        Args:
            points: (n, 2), the same n at every call.
            time: Of the film, in seconds, later at every call.
            unit: Length in pixels that speeds are counted in, such as the size of the face.

        Returns:
            (n, 2), filtered.
        """
        points = points.astype(np.float64)
        if self._points is None or self._speed is None:
            self._points, self._speed, self._time = points, np.zeros_like(points), time
            return points
        seconds = max(time - self._time, 1e-3)
        speed = (points - self._points) / seconds
        self._speed = self._speed + _share(self.speed_cutoff, seconds) * (speed - self._speed)
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(self._speed, axis=1, keepdims=True) / unit
        self._points = self._points + _share(cutoff, seconds) * (points - self._points)
        self._time = time
        return self._points


def _share(cutoff: Any, seconds: float) -> Any:
    """Weight of the newest value in a low-pass filter of first order."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * seconds))


@dataclass
class _Track:
    """Where a face was seen last, and how it moved."""

    number: int
    time: float
    box: np.ndarray
    points: np.ndarray | None
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))
    box_filter: OneEuroFilter = field(default_factory=OneEuroFilter)
    points_filter: OneEuroFilter = field(default_factory=OneEuroFilter)

    def likeness(self, time: float, box: np.ndarray, points: np.ndarray | None) -> float:
        """How well a detection fits where the face is expected, 0 to 1: overlap of boxes, nearness of points."""
        shift = self.speed * (time - self.time)
        overlap = _overlap(self.box + np.tile(shift, 2), box)
        if points is None or self.points is None:
            return overlap
        distance = np.sqrt(np.square(self.points + shift - points).sum(axis=1).mean())
        return (overlap + max(0.0, 1 - 2 * distance / _side(box))) / 2

    def move(self, time: float, box: np.ndarray, points: np.ndarray | None) -> None:
        seconds = max(time - self.time, 1e-3)
        speed = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2 / seconds
        self.speed = self.speed + _NEW_SPEED * (speed - self.speed)
        self.time, self.box, self.points = time, box, points


@dataclass
class _Carried:
    """What was last said of a face by the networks."""

    time: float
    landmarks: OneEuroFilter = field(default_factory=OneEuroFilter)
    attributes: torch.Tensor | None = None
    labels: "_LabelAverage | None" = None


class FaceTracker:
    """
    Follows the faces of one film: `track_ids` tell which is which, and what is found is steadied over time. Give it to
    a pipeline with the frames of the film in their order:

    ```python
    >>> for faces in pipe(FilmReader("film.mp4"), tracker=FaceTracker()):
    ...     print(faces.track_ids)
    ```

    A face goes on with a track if their boxes overlap and their five points lie near each other, where the track's
    motion lets expect it. Boxes, points and landmarks pass [`OneEuroFilter`]s. Logits of label maps and attributes are
    averaged over the last frames; those of label maps are carried along by the face's motion, the similarity that
    takes its landmarks (five points, without an alignment model) from frame to frame, and where a frame is certain of
    another class than before, it is believed at once.

    Tracks know places, not people: a face that comes back after `memory` is a new one, and another face that takes its
    place between two frames, as at a cut, is the same.

    Args:
        smooth: Whether boxes, points and landmarks are filtered.
        smooth_labels: Whether logits of label maps and attributes are averaged.
        fps: Frames per second, of frames that come without their time.
        memory: Seconds that a track waits for its face.
    """

    def __init__(self, smooth: bool = True, smooth_labels: bool = True, fps: float = 25.0, memory: float = 0.5):
        if fps <= 0 or memory < 0:
            raise ValueError(f"fps is {fps} and memory {memory}: fps must be positive, memory not negative.")
        self.smooth, self.smooth_labels, self.fps, self.memory = smooth, smooth_labels, fps, memory
        self._tracks: dict[int, _Track] = {}
        self._carried: dict[int, _Carried] = {}
        self._next_number = 0

    # ----------------------------------------------------------------------------------------- before the networks

    def track(self, faces: Faces, time: float) -> Faces:
        """The faces of the next frame, at `time` in seconds, with `track_ids`, and boxes and points filtered."""
        self._tracks = {n: track for n, track in self._tracks.items() if time - track.time <= self.memory}
        tracks, points = list(self._tracks.values()), faces.points
        likeness = np.array(
            [
                [track.likeness(time, box, None if points is None else points[i]) for track in tracks]
                for i, box in enumerate(faces.boxes)
            ]
        ).reshape(len(faces), len(tracks))
        known = {
            i: tracks[j]
            for i, j in zip(*linear_sum_assignment(-likeness), strict=True)
            if likeness[i, j] >= _LEAST_LIKENESS
        }
        numbers, boxes = [], faces.boxes.copy()
        points = None if points is None else points.copy()
        for i, box in enumerate(faces.boxes):
            own = None if points is None else points[i].copy()
            if i in known:
                track = known[i]
                track.move(time, box, own)
            else:
                track = self._tracks[self._next_number] = _Track(self._next_number, time, box, own)
                self._next_number += 1
            numbers.append(track.number)
            if self.smooth:
                boxes[i] = track.box_filter(box.reshape(2, 2), time, _side(box)).ravel()
                if points is not None and own is not None:
                    points[i] = track.points_filter(own, time, _side(box))
        return faces.replace(track_ids=np.array(numbers, dtype=np.int64), boxes=boxes, points=points)

    # ------------------------------------------------------------------------------------------ after the networks

    def steady_landmarks(self, landmarks: np.ndarray, faces: Faces, time: float) -> np.ndarray:
        """Landmarks (faces, n, 2) of tracked faces, filtered."""
        if not self.smooth or len(faces) == 0:
            return landmarks
        rows = zip(landmarks, self._states(faces, time), faces.boxes, strict=True)
        return np.stack([state.landmarks(points, time, _side(box)) for points, state, box in rows]).astype(np.float32)

    def steady_attributes(self, logits: torch.Tensor, faces: Faces, time: float) -> torch.Tensor:
        """Logits (faces, n) of tracked faces, averaged."""
        if not self.smooth_labels or len(faces) == 0:
            return logits
        rows = []
        for row, state, seconds in zip(logits, *self._states_and_seconds(faces, time), strict=True):
            share = _averaging_share(seconds)
            state.attributes = row if state.attributes is None else state.attributes + share * (row - state.attributes)
            rows.append(state.attributes)
        return torch.stack(rows)

    def steady_logits(
        self, logits: list[torch.Tensor], transforms: list[FaceTransform], faces: Faces, time: float
    ) -> list[torch.Tensor]:
        """
        Logits of label maps of tracked faces, averaged over what the last frames said of the same places of the face.

        Args:
            logits: For each face (classes, height, width), in its crop.
            transforms: From the photo to the crops.
            faces: With `track_ids`, and with landmarks if there are any.
            time: In seconds.
        """
        if not self.smooth_labels or len(faces) == 0:
            return logits
        averaged = []
        states, seconds = self._states_and_seconds(faces, time)
        for i, (own, transform, state) in enumerate(zip(logits, transforms, states, strict=True)):
            place = _place(faces, i)
            if state.labels is None or not state.labels.fits(own, place):
                state.labels = _LabelAverage(own, transform, place)
            else:
                own = state.labels.add(own, transform, place, _averaging_share(seconds[i]))
            averaged.append(own)
        return averaged

    def _states(self, faces: Faces, time: float) -> list[_Carried]:
        """What is carried along for each face, made if it is new; what is too old is forgotten."""
        if faces.track_ids is None:
            raise ValueError("These faces have no track_ids: FaceTracker.track comes first.")
        self._carried = {n: state for n, state in self._carried.items() if time - state.time <= self.memory}
        return [self._carried.setdefault(n, _Carried(time)) for n in faces.track_ids.tolist()]

    def _states_and_seconds(self, faces: Faces, time: float) -> tuple[list[_Carried], list[float]]:
        states = self._states(faces, time)
        return states, [time - state.time for state in states]

    def finish_frame(self, faces: Faces, time: float) -> None:
        """All that is asked of this frame was asked: its time is the last that its faces were seen at."""
        for state in self._states(faces, time):
            state.time = time


class _LabelAverage:
    """
    The average of a face's logits over time, kept in the crop of its first frame, at twice their resolution: each frame
    is carried there and back once. Carried from frame to frame, it would be blurred a little more every time, and small
    parts of the face would drown in it.

    Args:
        logits: (classes, height, width) of the first frame.
        transform: From the photo to its crop.
        place: (n, 2) points of the photo that say where the face is.
    """

    def __init__(self, logits: torch.Tensor, transform: FaceTransform, place: np.ndarray):
        self.transform, self.place, self.shape = transform, place, logits.shape
        self.size = 2 * logits.shape[-2], 2 * logits.shape[-1]
        options = {"size": self.size, "mode": "bilinear", "align_corners": False}
        self.average = torch.nn.functional.interpolate(logits[None], **options)[0]

    def fits(self, logits: torch.Tensor, place: np.ndarray) -> bool:
        """Whether this face can be averaged with a frame."""
        return logits.shape == self.shape and place.shape == self.place.shape

    def add(self, logits: torch.Tensor, transform: FaceTransform, place: np.ndarray, share: float) -> torch.Tensor:
        """
        The average over the places that a frame shows, in its own crop, after it has entered it with `share`, and with
        more where it is certain of another class.
        """
        to_frame = similarity_from_points(torch.from_numpy(self.place).double(), torch.from_numpy(place).double())
        there = _share_of_crop(apply_matrix(to_frame, _photo_pixels(self.transform, *self.size)), transform)
        new, shown = _read(logits, there, self.size)
        # How far the two answers are apart, 0 to 1: half the sum of the differences of their probabilities.
        apart = (new.softmax(dim=0) - self.average.softmax(dim=0)).abs().sum(dim=0) / 2
        weight = torch.where(shown, apart.clamp(min=share), 0.0)
        self.average = self.average + weight * (new - self.average)
        # What is carried back is the difference, so that the frame's own details stay as sharp as they are.
        size = logits.shape[-2], logits.shape[-1]
        to_first = torch.linalg.inv(to_frame)
        here = _share_of_crop(apply_matrix(to_first, _photo_pixels(transform, *size)), self.transform)
        difference, known = _read(torch.where(shown, self.average - new, 0.0), here, size)
        return logits + torch.where(known, difference, 0.0)


def _photo_pixels(transform: FaceTransform, height: int, width: int) -> torch.Tensor:
    """(height * width, 2) float64 pixel indices of the photo at the centres of a map that covers the crop."""
    extent = torch.tensor([width, height], dtype=torch.float64)
    first = pixel_centre(transform.convention)
    points = pixel_grid(height, width, "facer", extent)[0] / extent * transform.crop_size - 0.5 + first
    return crop_to_photo(points, transform.matrix.double().cpu(), transform.crop_size, transform.warp_factor) - first


def _share_of_crop(points: torch.Tensor, transform: FaceTransform) -> torch.Tensor:
    """Points (n, 2) of the photo, pixel indices, as shares of the crop's sides."""
    first = pixel_centre(transform.convention)
    found = photo_to_crop(points + first, transform.matrix.double().cpu(), transform.crop_size, transform.warp_factor)
    return (found - first + 0.5) / transform.crop_size


def _read(maps: torch.Tensor, shares: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (n, height, width) read at shares of their sides, (n, *size), and where these are inside, (*size)."""
    extent = torch.tensor([maps.shape[-1], maps.shape[-2]], dtype=torch.float64)
    inside = ((shares > 0) & (shares < 1)).all(dim=-1).reshape(size).to(maps.device)
    # Half a pixel beyond the outermost centres repeats them.
    half = 0.5 / extent
    coordinates = (shares.maximum(half).minimum(1 - half) * extent).reshape(1, *size, 2)
    return sample(maps[None], coordinates.to(maps.device), "facer")[0], inside


def _averaging_share(seconds: float) -> float:
    return float(1 - np.exp(-max(seconds, 0.0) / _LOGITS_SECONDS))


def _place(faces: Faces, i: int) -> np.ndarray:
    """(n, 2) points that say where a face is: landmarks, else the five points, else the box's corners."""
    for found in (faces.landmarks, faces.points):
        # Points on one spot tell nothing.
        if found is not None and np.ptp(found[i], axis=0).max() > 0.1 * _side(faces.boxes[i]):
            return found[i]
    return faces.boxes[i].reshape(2, 2)


def _side(box: np.ndarray) -> float:
    """The longer side of a box, at least a pixel."""
    return float(max(*(box[2:] - box[:2]), 1.0))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection of two boxes over their union."""
    width, height = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(min=0)
    shared = width * height
    return float(shared / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared, 1e-6))


__all__ = ["FaceTracker", "OneEuroFilter"]
