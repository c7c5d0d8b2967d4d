"""
One integer -> one picture of generated faces with everything that is known about it.

Pictures are RGB; points are (x, y) in pixels, the centre of the first pixel at (0, 0). "Left" in landmark layouts is
the image's left side, in label names and attributes the subject's own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .camera import View, sample_views
from .captions import write_captions
from .config import SyntheticFaceConfig
from .effects import background, expose, gaussian, out_of_focus, sample_focus, sensor
from .heads import Head, add_occluder, add_person
from .lights import sample_light
from .people import Person, sample_person
from .renderer import Rendering, Scene, Shot, device, render
from .truth import SyntheticFace, describe

# Changes whenever the same seed gives another picture.
VERSION = 2

# Of all pictures of one launch: enough to keep a GPU busy, few enough for a CPU's cache.
MOST_PIXELS = {"cpu": 4 * 224**2, "cuda": 64 * 224**2}


@dataclass
class SyntheticFaceSample:
    """
    A picture and everything about it.

    Attributes:
        image: (size, size, 3) uint8.
        faces: Its faces, the front-most last.
        lapa_labels, celebamask_hq_labels: (size, size) uint8 class ids of the two sets.
        captions: One or more.
        depth: (size, size) float32 metres from the camera, infinite on the background; None unless asked for.
        normals: (size, size, 3) float32 in camera space (x right, y down, z away); None unless asked for.
        metadata: Plain values that tell light, camera, background and what the sensor did.
    """

    image: np.ndarray
    faces: list[SyntheticFace]
    lapa_labels: np.ndarray
    celebamask_hq_labels: np.ndarray
    captions: list[str]
    depth: np.ndarray | None = None
    normals: np.ndarray | None = None
    metadata: dict | None = None


def render_face_sample(
    seed: int, config: SyntheticFaceConfig | None = None, person: Person | None = None
) -> SyntheticFaceSample:
    """
    The picture of one seed; `person` replaces whom the front-most face would show, so the same person can be seen
    under as many poses and lights as there are seeds. Same seed, configuration and `VERSION`: same labels everywhere.
    """
    return _finish([_set_up(seed, config or SyntheticFaceConfig(), person)])[0]


def render_faces(seeds: Sequence[int], config: SyntheticFaceConfig | None = None) -> list[SyntheticFaceSample]:
    """The pictures of several seeds, each as `render_face_sample` gives it, many in one launch of the kernels."""
    config = config or SyntheticFaceConfig()
    most = max(1, MOST_PIXELS[device()] // config.image_size**2)
    samples: list[SyntheticFaceSample] = []
    for start in range(0, len(seeds), most):
        samples += _finish([_set_up(seed, config) for seed in seeds[start : start + most]])
    return samples


def render_person(
    person: Person,
    seed: int = 0,
    config: SyntheticFaceConfig | None = None,
    *,
    pose: tuple[float, float, float] | None = None,
    centre: tuple[float, float] | None = None,
    face_size: float | None = None,
    light_turn: float = 0.0,
    frame: int = 0,
) -> SyntheticFaceSample:
    """
    One person under a chosen view, for films and tests: light, background and camera are those of the seed and stay
    the same from call to call, whatever else is given.

    Args:
        person: Whom to show; vary `expression` and `gaze` with `dataclasses.replace` from frame to frame.
        seed: Of the surroundings.
        pose: (yaw, pitch, roll) in degrees as in `SyntheticFace.pose`.
        centre: (x, y) of the face's middle as shares of the picture.
        face_size: Height of the face as a share of the picture.
        light_turn: Degrees by which the lamps have gone round the person.
        frame: Of a film: another one has other noise.
    """
    config = config or SyntheticFaceConfig()
    rng = np.random.default_rng([seed, VERSION])
    view = sample_views(rng, config, 1)[0]
    if pose is not None:
        yaw, pitch, roll = map(float, pose)
        view = replace(view, pose=(yaw, pitch, roll))
    if centre is not None:
        view = replace(view, centre=(centre[0], centre[1]))
    if face_size is not None:
        view = replace(view, face_size=float(face_size))
    return _finish([_arrange(rng, seed, config, [person], [view], light_turn, frame)])[0]


@dataclass
class _Arranged:
    """A picture that only needs its rays."""

    seed: int
    config: SyntheticFaceConfig
    people: list[Person]
    view: View
    heads: list[Head]
    shot: Shot
    light: dict
    back: np.ndarray
    kind: str
    thing: str | None
    streams: dict[str, np.random.Generator]
    frame: int


def _set_up(seed: int, config: SyntheticFaceConfig, person: Person | None = None) -> _Arranged:
    rng = np.random.default_rng([seed, VERSION])
    count = int(rng.integers(config.num_faces[0], config.num_faces[1] + 1))
    people = [sample_person(rng, config) for _ in range(count)]
    if person is not None:
        people[-1] = person
    return _arrange(rng, seed, config, people, sample_views(rng, config, count))


def _arrange(
    rng: np.random.Generator,
    seed: int,
    config: SyntheticFaceConfig,
    people: list[Person],
    views: list[View],
    light_turn: float = 0.0,
    frame: int = 0,
) -> _Arranged:
    """People, things, lamps and camera of a picture."""
    # Independent streams: what one switches off leaves the others as they are.
    streams = dict(zip(("light", "background", "thing", "sensor", "words", "focus"), rng.spawn(6), strict=True))
    lamps, sky, light = sample_light(streams["light"], config)
    if light_turn:
        turn = math.radians(light_turn)
        x, z = lamps[:, 0].copy(), lamps[:, 2].copy()
        lamps[:, 0], lamps[:, 2] = x * math.cos(turn) + z * math.sin(turn), z * math.cos(turn) - x * math.sin(turn)
    back, kind = background(streams["background"], config)
    scene = Scene()
    heads = [add_person(scene, i, who, view, config) for i, (who, view) in enumerate(zip(people, views, strict=True))]
    thing = None
    if streams["thing"].random() < config.occluder and config.has("occluders"):
        thing = add_occluder(scene, streams["thing"], heads[-1], len(people) - 1)
    table, hairlines = np.stack([head.row for head in heads]), np.stack([head.hairline for head in heads])
    shot = Shot(scene, table, hairlines, lamps, sky, heads[0].view.focal * config.image_size, seed)
    return _Arranged(seed, config, people, views[0], heads, shot, light, back, kind, thing, streams, frame)


def _finish(arranged: list[_Arranged]) -> list[SyntheticFaceSample]:
    """Pictures of one configuration."""
    config = arranged[0].config
    shots = [one.shot for one in arranged]
    renderings = render(shots, config.image_size, config.has("hair_strands"), config.has("skin_detail"))
    return [_develop(one, rendering) for one, rendering in zip(arranged, renderings, strict=True)]


def _develop(one: _Arranged, rendering: Rendering) -> SyntheticFaceSample:
    """What lens and sensor make of a rendering, and the truth about it."""
    config, size, streams = one.config, one.config.image_size, one.streams
    focus = sample_focus(streams["focus"], config, one.heads[-1].pupils[:, 2].mean(), one.view)
    back = one.back if focus is None else gaussian(one.back, float(focus.blur(np.inf)) * size)
    pixels, exposure = expose(rendering.colour, rendering.alpha, back, streams["sensor"], config)
    if focus is not None:
        pixels = out_of_focus(pixels, rendering.depth, focus)
    noise_rng = np.random.default_rng([one.seed, VERSION, 5, one.frame])
    image, facts = sensor(pixels, streams["sensor"], config, noise_rng)
    faces = [describe(head, rendering, size, facts["blurry"]) for head in one.heads]
    seen = {"background": one.kind, "light": one.light["kind"], "grey": facts["grey"], "blurry": facts["blurry"]}
    if len(faces) == 1:
        seen["yaw"] = faces[0].pose[0]
    attributes = [face.attributes for face in faces]
    camera = {"focal": round(one.view.focal, 4), "distance": round(one.view.distance, 4), **exposure}
    return SyntheticFaceSample(
        image,
        faces,
        rendering.lapa,
        rendering.celebamask_hq,
        write_captions(streams["words"], one.people, config.max_captions, attributes, seen),
        rendering.depth if config.depth else None,
        rendering.normal if config.normals else None,
        {
            "light": one.light,
            "camera": {**camera, "aperture": None if focus is None else round(focus.aperture, 4)},
            "background": one.kind,
            "occluder": one.thing,
            "sensor": facts,
        },
    )


class SyntheticFaces:
    """
    A map-style data set: sample `i` is the picture of seed `seed * 1,000,000 + i`.

    Args:
        length: Number of samples, at most a million.
        config: What to draw.
        seed: Sets with different seeds share no picture.
    """

    def __init__(self, length: int, config: SyntheticFaceConfig | None = None, seed: int = 0):
        if not 0 <= length <= 1_000_000:
            raise ValueError(f"length is {length}: a set has at most a million samples, take another seed for more.")
        self.length, self.config, self.seed = length, config or SyntheticFaceConfig(), seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SyntheticFaceSample:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} of {self.length}.")
        return render_face_sample(self.seed * 1_000_000 + index, self.config)

    def __iter__(self) -> Iterator[SyntheticFaceSample]:
        return (self[i] for i in range(self.length))
