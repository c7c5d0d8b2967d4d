"""Samples of generated faces made by hand: everything but the rendering, for tests of what comes after it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from farl_hf.synthetic import Person, SyntheticFace, SyntheticFaceConfig, SyntheticFaceSample, write_captions

PERSON = Person(
    gender=0.9,
    age=50.0,
    skin_tone=0.4,
    undertone=0.0,
    phenotype={},
    shape={},
    expression={},
    expression_name="neutral",
    gaze=(0.0, 0.0),
    hair_style="short",
    hair_colour="black",
    fringe=False,
    brow=0.5,
    beard="none",
    sideburns=False,
    freckles=0.0,
    wrinkles=0.0,
    blush=0.0,
    lipstick=False,
    makeup=False,
    glasses="none",
    hat="none",
    earrings=False,
    necklace=False,
    clothes="green",
    eye_colour="hazel",
    seed=0,
)
EXPRESSIONS = ("neutral", "smiling", "laughing", "surprised", "angry", "sad", "disgusted", "talking", "winking")


def any_person(rng: np.random.Generator) -> Person:
    """Any traits whatever."""
    name = str(rng.choice(EXPRESSIONS))
    smile = {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8} if name in ("smiling", "laughing") else {}
    return replace(
        PERSON,
        gender=float(rng.random()),
        age=float(rng.uniform(4, 90)),
        expression_name=name,
        expression=smile,
        hair_style=str(
            rng.choice(("bald", "cropped", "receding", "short", "curly", "afro", "bob", "long", "tied", "wavy"))
        ),
        hair_colour=str(rng.choice(("black", "brown", "blond", "red", "grey"))),
        fringe=bool(rng.random() < 0.3),
        beard=str(rng.choice(("none", "stubble", "mustache", "goatee", "full"))),
        freckles=float(rng.random()),
        wrinkles=float(rng.random()),
        lipstick=bool(rng.random() < 0.3),
        makeup=bool(rng.random() < 0.3),
        glasses=str(rng.choice(("none", "round", "square", "rimless", "sunglasses"))),
        hat=str(rng.choice(("none", "none", "none", "cap", "beanie", "brimmed", "headscarf"))),
        earrings=bool(rng.random() < 0.5),
        necklace=bool(rng.random() < 0.5),
        clothes=str(rng.choice(("red", "green", "blue"))),
        eye_colour=str(rng.choice(("brown", "hazel", "green", "blue", "grey"))),
    )


def make_sample(seed: int, config: SyntheticFaceConfig | None = None) -> SyntheticFaceSample:
    """Stripes of every class, landmarks anywhere inside, a smooth picture; the same for the same seed."""
    config = config or SyntheticFaceConfig()
    rng, size = np.random.default_rng(seed), config.image_size
    faces = []
    for _ in range(int(rng.integers(config.num_faces[0], config.num_faces[1] + 1))):
        person = any_person(rng)
        landmarks = {count: rng.uniform(4, size - 4, (count, 2)).astype(np.float32) for count in (5, 19, 68, 98, 106)}
        visibility = {count: rng.random(count) < 0.9 for count in landmarks}
        attributes = {"Male": person.male, "Eyeglasses": person.glasses != "none", "Smiling": person.smiling}
        pose = (float(rng.normal(0, 20)), 0.0, 0.0)
        faces.append(SyntheticFace(landmarks, visibility, (4.0, 5.0, 40.0, 44.0), attributes, pose, person))
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    rows = (np.arange(size) + seed) // 2
    return SyntheticFaceSample(
        image=np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(seed % 256)), axis=2),
        faces=faces,
        lapa_labels=np.repeat((rows % 11).astype(np.uint8)[:, None], size, axis=1),
        celebamask_hq_labels=np.repeat((rows % 19).astype(np.uint8)[:, None], size, axis=1),
        captions=write_captions(rng, [face.person for face in faces], config.max_captions),
        metadata={},
    )


def make_samples(seeds: Sequence[int], config: SyntheticFaceConfig | None = None) -> list[SyntheticFaceSample]:
    """In the place of `farl_hf.synthetic.render_faces`."""
    return [make_sample(seed, config) for seed in seeds]
