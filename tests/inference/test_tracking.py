"""Tracks keep their numbers, filters keep still points still and lag little, label maps go along with the face."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from inference_cases import FixedDetector, astronaut, save_tiny_model
from transformers import pipeline

import farl_hf
from farl_hf import Faces
from farl_hf.inference.tracking import FaceTracker, OneEuroFilter
from farl_hf.models.geometry_farl import celeba_align_matrix, face_align_matrix
from farl_hf.models.image_processing_farl import FaceTransform

TEMPLATE = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]])
FPS = 25.0


def faces_at(*corners: tuple[float, float], side: float = 100.0, points: bool = True) -> Faces:
    """Faces with these left upper corners of their boxes in a photo of 1000 x 1000 pixels."""
    boxes = np.array([[x, y, x + side, y + side] for x, y in corners]).reshape(-1, 4)
    five = boxes[:, None, :2] + TEMPLATE * side
    return Faces((1000, 1000), boxes, five if points else None, np.ones(len(boxes)))


# ----------------------------------------------------------------------------------------------------------- filter


def filtered(points: np.ndarray, **options) -> np.ndarray:
    """(frames, n, 2) through one filter, a face of 100 pixels."""
    steady = OneEuroFilter(**options)
    return np.stack([steady(frame, i / FPS, 100.0) for i, frame in enumerate(points)])


def test_still_points_are_steadied():
    noise = np.random.default_rng(0).normal(0, 1, (200, 5, 2)) + 300
    assert filtered(noise)[20:].std(axis=0).mean() < 0.6 * noise.std(axis=0).mean()


def test_moving_points_lag_little():
    """Half a face per second: a fixed filter of the same strength lags by a sixth of a second."""
    path = 300 + np.arange(100)[:, None, None] / FPS * 50 * np.array([1.0, 0.0])
    lag = (path - filtered(path))[50:, 0, 0].mean() / 50
    fixed = (path - filtered(path, beta=0.0))[50:, 0, 0].mean() / 50
    assert 0 < lag < 0.06 and fixed > 0.14


def test_one_euro_of_the_paper():
    """By hand, three values: alpha = 1 / (1 + tau / dt), tau = 1 / (2 pi cutoff)."""
    steady = OneEuroFilter(min_cutoff=1.0, beta=0.5, speed_cutoff=1.0)
    values, x, v = [0.0, 1.0, 3.0], 0.0, 0.0
    steady(np.zeros((1, 2)), 0.0)
    for i, value in enumerate(values[1:], 1):
        share = 1 / (1 + 1 / (2 * np.pi * 1.0) / 0.1)
        v = v + share * ((value - x) / 0.1 - v)
        share = 1 / (1 + 1 / (2 * np.pi * (1.0 + 0.5 * abs(v))) / 0.1)
        x = x + share * (value - x)
        found = steady(np.array([[value, 0.0]]), i / 10)
        assert found[0, 0] == pytest.approx(x) and found[0, 1] == 0


# ----------------------------------------------------------------------------------------------------------- tracks


@pytest.mark.parametrize("points", (True, False))
def test_numbers_stay_when_faces_change_places_in_the_list(points):
    tracker = FaceTracker()
    rng = np.random.default_rng(0)
    for i in range(40):
        places = [(100 + 4 * i, 100), (500 - 4 * i, 400), (700, 700)]
        order = rng.permutation(3)
        faces = tracker.track(faces_at(*[places[j] for j in order], points=points), i / FPS)
        assert faces.track_ids.tolist() == (faces.track_ids[np.argsort(order)][order]).tolist()
        if i == 0:
            number = dict(zip(order.tolist(), faces.track_ids.tolist(), strict=True))
        assert faces.track_ids.tolist() == [number[j] for j in order.tolist()]


@pytest.mark.parametrize("points", (True, False))
def test_faces_that_pass_each_other_keep_their_numbers(points):
    tracker = FaceTracker()
    for i in range(60):
        faces = tracker.track(faces_at((100 + 8 * i, 300), (584 - 8 * i, 302), points=points), i / FPS)
        assert faces.track_ids.tolist() == [0, 1], i


def test_gaps_new_faces_and_jumps():
    tracker = FaceTracker(memory=0.5)
    assert tracker.track(faces_at((0, 0)), 0.0).track_ids.tolist() == [0]
    assert tracker.track(faces_at(), 0.1).track_ids.shape == (0,)
    assert tracker.track(faces_at((5, 0), (600, 0)), 0.3).track_ids.tolist() == [0, 1]
    assert tracker.track(faces_at((5, 0)), 0.9).track_ids.tolist() == [2], "after more than half a second"
    assert tracker.track(faces_at((400, 400)), 0.94).track_ids.tolist() == [3], "elsewhere"
    # Boxes that overlap, points that are far: a face behind another one.
    wide = faces_at((400, 400))
    moved = wide.replace(points=wide.points + 55)
    assert tracker.track(moved, 0.98).track_ids.tolist() == [3] and wide.points is not moved.points
    with pytest.raises(ValueError, match="fps is 0"):
        FaceTracker(fps=0)


def test_detector_jitter_is_steadied_and_can_be_kept():
    rng = np.random.default_rng(1)
    noisy = [faces_at(tuple(400 + rng.normal(0, 3, 2))) for _ in range(60)]
    for smooth in (True, False):
        tracker = FaceTracker(smooth=smooth)
        found = [tracker.track(faces, i / FPS) for i, faces in enumerate(noisy)]
        for name in ("boxes", "points"):
            kept, given = (np.stack([getattr(f, name)[0] for f in some[20:]]).std(axis=0) for some in (found, noisy))
            assert (kept < 0.6 * given).all() if smooth else np.array_equal(kept, given)


# ------------------------------------------------------------------------------------------------ after the networks


def logits_of(box: tuple[float, float, float, float], points: np.ndarray, matrix=face_align_matrix, warp: float = 0.0):
    """Logits (2, 24, 24) that are certain of class 1 inside of a box of the photo, and their transform."""
    from farl_hf.models.geometry_farl import crop_to_photo, pixel_grid

    size = 96
    transform = FaceTransform(0, (1000, 1000), matrix(torch.from_numpy(points).float(), size), size, warp, "farl")
    grid = pixel_grid(24, 24, "facer", torch.zeros(1))[0] / 24 * size - 0.5
    x, y = crop_to_photo(grid, transform.matrix, size, warp).unbind(-1)
    inside = ((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).reshape(24, 24).float() * 8 - 4
    return torch.stack([-inside, inside]), transform


@pytest.mark.parametrize("warp", (0.0, 0.8))
def test_logits_go_along_with_the_face(warp):
    """A face moves and grows, the next crop is another one and its network undecided: it says what was said before."""
    tracker = FaceTracker(smooth=False)
    first, second = faces_at((300, 300)), faces_at((420, 360), side=130)
    region = np.array([325.0, 330.0, 385.0, 370.0])
    moved = (region - 300) * 1.3 + np.array([420, 360, 420, 360])
    own, transform = logits_of(tuple(region), first.points[0], face_align_matrix, warp)
    expected, transform_now = logits_of(tuple(moved), second.points[0], celeba_align_matrix, 0.8 - warp)
    for moment, faces, logits, crop in ((0.0, first, own, transform), (0.04, second, 0 * own, transform_now)):
        # One track, by hand: so far no face goes in one frame.
        faces = faces.replace(track_ids=[0], landmarks=faces.points)
        (found,) = tracker.steady_logits([logits], [crop], faces, moment)
        tracker.finish_frame(faces, moment)
    inside, wanted = found[1] > 0, expected[1] > 0
    assert 20 < wanted.sum() < 200
    assert (inside & wanted).sum() / (inside | wanted).sum() > 0.75


def test_flicker_is_averaged_and_certain_changes_pass():
    rng = torch.Generator().manual_seed(0)
    faces, base = faces_at((300, 300)), torch.zeros(2, 24, 24)
    _, transform = logits_of((0, 0, 1, 1), faces.points[0])
    flips = {}
    for smooth_labels in (True, False):
        tracker, maps = FaceTracker(smooth_labels=smooth_labels), []
        for i in range(30):
            coarse = 0.5 * torch.randn(1, 2, 6, 6, generator=rng)
            noisy = base + torch.nn.functional.interpolate(coarse, size=(24, 24), mode="bilinear")[0]
            followed = tracker.track(faces, i / FPS)
            (found,) = tracker.steady_logits([noisy], [transform], followed, i / FPS)
            tracker.finish_frame(followed, i / FPS)
            maps.append(found.argmax(dim=0))
        flips[smooth_labels] = torch.stack([(a != b).float().mean() for a, b in pairwise(maps[5:])])
    assert flips[True].mean() < 0.75 * flips[False].mean()
    # An eye closes: seen in the very frame.
    tracker = FaceTracker()
    for i, sign in enumerate((1, 1, 1, 1, -1)):
        followed = tracker.track(faces, i / FPS)
        sure = torch.stack([base[0] + 4 * sign, base[1] - 4 * sign])
        (found,) = tracker.steady_logits([sure], [transform], followed, i / FPS)
        tracker.finish_frame(followed, i / FPS)
    assert (found.argmax(dim=0) == 1).float().mean() > 0.95


def test_states_ask_for_tracks_and_are_forgotten():
    tracker = FaceTracker()
    with pytest.raises(ValueError, match=r"no track_ids"):
        tracker.steady_landmarks(np.zeros((1, 68, 2)), faces_at((0, 0)), 0.0)
    for i in range(20):
        faces = tracker.track(faces_at((50 * i % 900, 0)), float(i))
        tracker.steady_landmarks(np.zeros((1, 68, 2), np.float32), faces, float(i))
        tracker.finish_frame(faces, float(i))
    assert len(tracker._tracks) == len(tracker._carried) == 1


# -------------------------------------------------------------------------------------------------------- pipelines

TASKS = ("parsing", "alignment", "attributes")


@pytest.fixture(scope="module")
def analyze(tmp_path_factory):
    folders = {task: save_tiny_model(tmp_path_factory.mktemp(task), task) for task in TASKS}
    return pipeline("face-analysis", folders.pop("parsing"), **folders)


class Trembling(FixedDetector):
    """The same face, a few pixels off in every frame."""

    def detect(self, image):
        faces = super().detect(image)
        shift = np.random.default_rng(self.calls).normal(0, 1.5, 2)
        return faces.replace(boxes=faces.boxes + np.tile(shift, 2), points=faces.points + shift)


def trembling() -> Trembling:
    return Trembling((0.35, 0.13, 0.53, 0.34), points=True)


def frames(count: int) -> list[dict]:
    small = astronaut().resize((192, 192))
    return [{"image": small, "time": i / FPS} for i in range(count)]


def spread(results: list[Faces], name: str) -> float:
    return float(np.stack([getattr(faces, name)[0] for faces in results[2:]]).std(axis=0).mean())


def test_pipelines_follow_and_steady(analyze):
    plain = analyze(frames(10), detector=trembling())
    assert all(faces.track_ids is None for faces in plain)
    steady = list(analyze(iter(frames(10)), tracker=FaceTracker(), detector=trembling()))
    assert [faces.track_ids.tolist() for faces in steady] == [[0]] * 10
    for name in ("landmarks", "attributes", "points", "boxes"):
        assert spread(steady, name) < 0.7 * spread(plain, name), name
    first, *_, last = steady
    assert np.allclose(first.landmarks, plain[0].landmarks, atol=1e-3), "nothing to average yet"
    assert np.allclose(first.attributes, plain[0].attributes, atol=1e-4)
    assert np.allclose(last.head_pose, farl_hf.inference.head_pose.head_pose(last.landmarks), atol=1e-2)
    off = analyze(frames(10), tracker=FaceTracker(smooth=False, smooth_labels=False), detector=trembling())
    for a, b in zip(plain, off, strict=True):
        assert b.track_ids.tolist() == [0] and np.allclose(a.landmarks, b.landmarks, atol=1e-3)
        assert np.array_equal(a.label_map, b.label_map) and np.array_equal(a.boxes, b.boxes)


def test_answers_do_not_depend_on_the_batch(analyze):
    """Detection runs ahead of the networks by a batch; the two stages are steadied apart."""
    found = {}
    for batch_size in (1, 4):
        options = {"detector": trembling(), "batch_size": batch_size}
        found[batch_size] = analyze(frames(9), tracker=FaceTracker(), **options)
    for a, b in zip(found[1], found[4], strict=True):
        assert np.allclose(a.landmarks, b.landmarks, atol=1e-3)
        assert (a.label_map == b.label_map).mean() > 0.999


def test_films_by_their_name(analyze, tmp_path, monkeypatch):
    pytest.importorskip("av")
    from film_cases import write_film

    from farl_hf.inference import analysis

    monkeypatch.setattr(analysis, "_kept_pipeline", lambda *_: analyze)
    path = write_film(tmp_path / "film.mp4", 4)
    results = list(farl_hf.analyze(path, detector=None))
    assert [faces.image_size for faces in results] == [(64, 96)] * 4
    assert all(faces.track_ids is not None for faces in results)
