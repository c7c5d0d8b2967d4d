"""
Films of generated people with exact truth in every frame, to measure what single pictures cannot: jitter of landmarks
on a face that does not move, lag behind one that does, flicker of label maps under changing light.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .config import SyntheticFaceConfig
from .faces import SyntheticFaceSample, render_person
from .people import Person, sample_expression, sample_person

# What moves: the head, the face, the lamps. Only the sensor's noise changes from frame to frame in a still film.
MOTIONS: dict[str, tuple[bool, bool, bool]] = {
    "still": (False, False, False),
    "turning": (True, False, False),
    "talking": (False, True, False),
    "lights": (False, False, True),
    "free": (True, True, True),
}
# At rest people blink 17 times a minute (Bentivoglio et al. 1997), for about a third of a second.
_BLINK_EVERY, _BLINK_SECONDS = 60 / 17, 0.3
# Openings of the jaw per second of speech, about one a syllable.
_SYLLABLES = 4.5


def render_film(
    seed: int,
    num_frames: int = 100,
    fps: float = 25.0,
    config: SyntheticFaceConfig | None = None,
    motion: str = "free",
) -> Iterator[SyntheticFaceSample]:
    """
    The frames of a film of one person, each with its truth. The same arguments give the same film.

    Args:
        seed: Of the person, the place and the movements.
        num_frames: Number of frames.
        fps: Frames per second.
        config: What to draw; `num_faces` does not count. The head turns within the limits of `yaw`, `pitch` and `roll`.
        motion: `still`, `turning` (the head alone), `talking` (expression, eyes and lids alone), `lights` (the lamps
            alone go round) or `free` (all of it).

    Yields:
        Samples; `metadata` has `frame` and `time` (seconds) besides.

    Raises:
        ValueError: If the motion is unknown or a number is not positive.
    """
    if motion not in MOTIONS:
        raise ValueError(f"Unknown motion {motion!r}: choose among {', '.join(MOTIONS)}.")
    if num_frames < 1 or fps <= 0:
        raise ValueError(f"{num_frames} frames at {fps} per second: both must be positive.")
    return _frames(seed, num_frames, fps, config or SyntheticFaceConfig(), motion)


def _frames(
    seed: int, num_frames: int, fps: float, config: SyntheticFaceConfig, motion: str
) -> Iterator[SyntheticFaceSample]:
    turns, talks, lights = MOTIONS[motion]
    head, face = _Head(seed, config, turns), _Face(seed, config, num_frames / fps, talks)
    for frame in range(num_frames):
        time = frame / fps
        pose, centre = head.at(time)
        sample = render_person(
            face.at(time),
            seed,
            config,
            pose=pose,
            centre=centre,
            face_size=head.size,
            light_turn=40 * math.sin(0.9 * time) if lights else 0.0,
            frame=frame,
        )
        sample.metadata = {**(sample.metadata or {}), "frame": frame, "time": time}
        yield sample


class _Head:
    """Where the head is and how it is turned: slow waves within the configuration's limits."""

    def __init__(self, seed: int, config: SyntheticFaceConfig, moves: bool):
        rng = np.random.default_rng([seed, 101])
        limits = np.array([min(2 * spread, limit) for spread, limit in (config.yaw, config.pitch, config.roll)])
        self.size = float(np.mean(config.face_size))
        # Two waves each of yaw, pitch, roll, x and y: amplitude, radians per second, phase.
        reach = np.array([*limits, 0.08, 0.05])[:, None] * [0.65, 0.35]
        self.amplitudes = reach if moves else 0 * reach
        self.speeds = rng.uniform(0.5, 1.6, (5, 2)) * [1, 2]
        self.phases = rng.uniform(0, 2 * np.pi, (5, 2))
        self.middle = np.array([*rng.uniform(-0.3, 0.3, 3) * limits * (not moves), 0.5, 0.5])

    def at(self, time: float) -> tuple[tuple[float, float, float], tuple[float, float]]:
        """Pose in degrees, and centre as shares of the picture."""
        waves = self.amplitudes * np.sin(self.speeds * time + self.phases)
        yaw, pitch, roll, x, y = (self.middle + waves.sum(axis=1)).tolist()
        return (yaw, pitch, roll), (x, y)


class _Face:
    """The person with the expression, gaze and lids of a moment: one expression turns into the next."""

    def __init__(self, seed: int, config: SyntheticFaceConfig, seconds: float, moves: bool):
        rng = np.random.default_rng([seed, 102])
        self.person, self.moves = sample_person(seed, config), moves and config.has("expressions")
        self.moments = [0.0]
        while self.moments[-1] < seconds + 2:
            self.moments.append(self.moments[-1] + float(rng.uniform(0.8, 1.8)))
        self.expressions = [sample_expression(rng) for _ in self.moments]
        # Lids are closed by the blinks alone.
        for _, actions in self.expressions:
            for side in ("Left", "Right"):
                actions.pop(f"eyeBlink{side}", None)
        self.gazes = [(float(rng.normal(0, 9)), float(rng.normal(2, 4))) for _ in self.moments]
        self.first_blink = float(rng.uniform(0.2, _BLINK_EVERY))

    def at(self, time: float) -> Person:
        if not self.moves:
            return self.person
        i = int(np.searchsorted(self.moments, time, side="right")) - 1
        share = (time - self.moments[i]) / (self.moments[i + 1] - self.moments[i])
        share = share * share * (3 - 2 * share)
        (name, before), (next_name, after) = self.expressions[i], self.expressions[i + 1]
        actions = {
            action: (1 - share) * before.get(action, 0.0) + share * after.get(action, 0.0)
            for action in {**before, **after}
        }
        speech = "talking" in (name, next_name)
        if speech:
            actions["jawOpen"] = actions.get("jawOpen", 0.0) * (0.5 + 0.5 * math.sin(2 * math.pi * _SYLLABLES * time))
        lid = self._lid(time)
        if lid:
            actions["eyeBlinkLeft"] = actions["eyeBlinkRight"] = lid
        # Eyes jump: the gaze of a moment holds.
        gaze = self.gazes[i] if self.person.gaze != (0.0, 0.0) else self.person.gaze
        return replace(self.person, expression=actions, expression_name=name if share < 0.5 else next_name, gaze=gaze)

    def _lid(self, time: float) -> float:
        """How far the lids are closed, 0 to 1."""
        since = (time - self.first_blink) % _BLINK_EVERY
        return math.sin(math.pi * since / _BLINK_SECONDS) if since < _BLINK_SECONDS else 0.0
