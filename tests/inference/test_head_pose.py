"""Pose, openness and five points from landmarks, against generated heads whose truth is exact."""

from functools import lru_cache

import numpy as np
import pytest

from farl_hf.datasets.flips import flip_permutation
from farl_hf.inference.head_pose import _MEAN_FACE, eye_openness, five_points, head_pose, mouth_openness

LAYOUTS = (68, 98, 106, 19)


@lru_cache
def generated(seed: int, expression: tuple = ()) -> np.ndarray:
    """(vertices, 3) of a generated head from the front, in metres."""
    pytest.importorskip("anny")
    from farl_hf.synthetic.people import sample_person
    from farl_hf.synthetic.shapes import age_to_phenotype, head_model

    person = sample_person(seed)
    phenotype = {"gender": person.gender, "age": age_to_phenotype(person.age), **person.phenotype}
    actions = dict(expression) if expression else person.expression
    return head_model().vertices(phenotype, person.shape, actions)[1].astype(np.float64)


def landmarks_of(vertices: np.ndarray, pose: tuple[float, float, float], distance: float = 1.5) -> dict:
    """Layout -> landmarks in pixels of a head under a pose, seen by a camera at `distance` metres."""
    from farl_hf.synthetic.appearance import brow_curve, brow_points
    from farl_hf.synthetic.camera import rotation
    from farl_hf.synthetic.landmarks import JAW_MIDDLE, face_points
    from farl_hf.synthetic.people import sample_person

    turn = rotation(pose)
    away = np.array([0, 0, distance])
    placed, middle = vertices @ turn.T + away, JAW_MIDDLE @ turn.T + away
    points = face_points(placed, brow_points(brow_curve(sample_person(0))), np.zeros((2, 3)) + 1.0, middle, turn.T)
    return {n: p[:, :2] / p[:, 2:] * 1000 + 500 for n, p in points.items()}


def test_pose_of_the_mean_face_is_exact():
    from farl_hf.synthetic.camera import rotation

    for pose in ((0, 0, 0), (35, -20, 10), (-70, 15, -120), (10, 40, 175)):
        points = (_MEAN_FACE @ rotation(pose).T)[:, :2] * 3 + 200
        landmarks = np.zeros((1, 68, 2))
        landmarks[0, [36, 39, 42, 45, 27, 28, 29, 30, 31, 33, 35, 48, 54]] = points
        assert np.allclose(head_pose(landmarks)[0], pose, atol=1e-3)
    assert np.isnan(head_pose(np.zeros((1, 68, 2)))).all() and head_pose(np.zeros((2, 7, 2))) is None
    assert head_pose(np.zeros((0, 98, 2))).shape == (0, 3)


def test_pose_of_generated_heads():
    rng = np.random.default_rng(0)
    errors = {layout: [] for layout in LAYOUTS}
    for seed in range(24):
        pose = tuple(rng.uniform((-60, -30, -90), (60, 30, 90)))
        for layout, landmarks in landmarks_of(generated(seed), pose).items():
            if layout in LAYOUTS:
                difference = head_pose(landmarks[None])[0] - pose
                errors[layout].append(np.abs((difference + 180) % 360 - 180))
    means = {layout: np.mean(found, axis=0).round(2) for layout, found in errors.items()}
    for layout in (68, 98, 106):
        assert (means[layout] < (4, 5, 3)).all(), means
    assert (means[19] < (8, 9, 5)).all(), means


def test_openness_follows_the_lids_and_the_jaw():
    blinks = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    still, blinking, talking = (
        landmarks_of(generated(3, tuple(actions.items())), (0, 0, 0))
        for actions in ({"jawOpen": 0.0}, blinks, {"jawOpen": 0.7})
    )
    for layout in (68, 98, 106):
        open_eyes, closed = eye_openness(still[layout][None])[0], eye_openness(blinking[layout][None])[0]
        assert (open_eyes > 0.2).all() and (closed < 0.4 * open_eyes).all()
        shut, wide = mouth_openness(still[layout][None])[0], mouth_openness(talking[layout][None])[0]
        assert shut < 0.1 < 0.25 < wide
    assert eye_openness(np.zeros((1, 19, 2))) is None and mouth_openness(np.zeros((1, 19, 2))) is None
    # One eye alone: the subject's left one is the image's right one.
    winking = landmarks_of(generated(3, (("eyeBlinkLeft", 1.0),)), (0, 0, 0))[68]
    left_of_image, right_of_image = eye_openness(winking[None])[0]
    assert right_of_image < 0.5 * left_of_image


def test_five_points_agree_between_layouts():
    found = landmarks_of(generated(5), (20, 5, 15))
    points = {layout: five_points(found[layout][None])[0] for layout in LAYOUTS}
    size = np.linalg.norm(points[68][1] - points[68][0])
    for layout in (98, 106, 19):
        assert np.linalg.norm(points[layout] - points[68], axis=1).max() < 0.12 * size, layout
    with pytest.raises(ValueError, match="7 landmarks"):
        five_points(np.zeros((1, 7, 2)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mirror_images(layout):
    landmarks = landmarks_of(generated(1), (25, 10, -20))[layout]
    mirrored = (landmarks * (-1, 1) + (1000, 0))[flip_permutation(layout)][None]
    yaw, pitch, roll = head_pose(landmarks[None])[0]
    assert np.allclose(head_pose(mirrored)[0], (-yaw, pitch, -roll), atol=0.05)
    if layout != 19:
        assert np.allclose(eye_openness(mirrored)[0], eye_openness(landmarks[None])[0][::-1], atol=1e-4)
