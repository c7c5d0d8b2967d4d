"""Films: what is said to move moves, smoothly, and nothing else does."""

import numpy as np
import pytest

from farl_hf.synthetic import MOTIONS, SyntheticFaceConfig, render_film

CONFIG = SyntheticFaceConfig(
    image_size=48, occluder=0.0, blur=0.0, jpeg=0.0, noise=1.0, sunglasses=0.0, glasses=0.0, yaw=(20, 60)
)


def film(motion: str, seed: int = 4, num_frames: int = 6, fps: float = 12.0):
    frames = list(render_film(seed, num_frames, fps, CONFIG, motion))
    points = np.stack([frame.faces[0].landmarks[68] for frame in frames])
    poses = np.array([frame.faces[0].pose for frame in frames])
    return frames, points, poses


def test_still_films_change_by_noise_alone():
    frames, points, poses = film("still", num_frames=3)
    assert not np.ptp(points, axis=0).any() and not np.ptp(poses, axis=0).any()
    assert np.array_equal(frames[0].lapa_labels, frames[2].lapa_labels)
    difference = np.abs(frames[0].image.astype(int) - frames[1].image).mean()
    assert 0 < difference < 30
    assert [frame.metadata["frame"] for frame in frames] == [0, 1, 2]
    assert frames[2].metadata["time"] == pytest.approx(2 / 12)


def test_turning_films_turn_the_head_smoothly():
    frames, points, poses = film("turning")
    steps = np.abs(np.diff(poses, axis=0))
    assert np.ptp(poses[:, 0]) > 2 and steps.max() < 12
    assert (np.abs(poses) <= [60, 45, 40]).all()
    moved = np.linalg.norm(np.diff(points, axis=0), axis=2)
    assert moved.max() < 6 and moved.mean() > 0.1
    assert len({str(frame.faces[0].person.expression) for frame in frames}) == 1


def test_talking_films_move_the_face_alone():
    frames, points, poses = film("talking", num_frames=8, fps=4.0)
    assert not np.ptp(poses, axis=0).any() and np.ptp(points, axis=0).max() > 0.5
    assert len({str(frame.faces[0].person.expression) for frame in frames}) > 4
    assert len({frame.faces[0].person.skin_tone for frame in frames}) == 1


def test_lights_go_round_and_labels_stay():
    frames, points, _ = film("lights", num_frames=3, fps=1.0)
    assert not np.ptp(points, axis=0).any() and np.array_equal(frames[0].lapa_labels, frames[2].lapa_labels)
    still, _, _ = film("still", num_frames=3, fps=1.0)
    assert np.array_equal(frames[0].image, still[0].image) and not np.array_equal(frames[1].image, still[1].image)


def test_same_seed_same_film():
    first, second = (next(iter(render_film(9, 2, config=CONFIG))) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    other = next(iter(render_film(10, 2, config=CONFIG)))
    assert not np.array_equal(first.image, other.image)


def test_bad_settings():
    assert set(MOTIONS) == {"still", "turning", "talking", "lights", "free"}
    with pytest.raises(ValueError, match="Unknown motion 'dancing': choose among still"):
        render_film(0, motion="dancing")
    with pytest.raises(ValueError, match="0 frames"):
        render_film(0, 0)
