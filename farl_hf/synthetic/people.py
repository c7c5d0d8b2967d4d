"""Who is drawn: the traits of a generated person, sampled independently of each other where nature allows it."""

from dataclasses import dataclass, field, replace  # noqa: F401

import numpy as np

from .config import SyntheticFaceConfig


@dataclass(frozen=True)
class Person:
    """
    Everything about a person but where they are and how they are lit.

    Attributes:
        gender: 0 (female) to 1 (male) in shape.
        age: Years.
        skin_tone: 0 (very light) to 1 (very dark), undertone -1 (cool) to 1 (warm).
        phenotype: Further inputs of `anny`: weight, muscle, african, asian, caucasian, in [0, 1].
        shape: Local changes of `anny` that are not zero, in [-1, 1].
        expression: Facial actions (ARKit names) that are not zero, in [0, 1].
        expression_name: neutral, smiling, laughing, surprised, angry, sad, disgusted, talking or winking.
        gaze: Where the eyes look against the head, (right of the image, down), in degrees.
        hair_style: bald, cropped, receding, short, curly, afro, bob, long, tied or wavy.
        hair_colour: black, brown, blond, red or grey.
        fringe: Whether hair falls on the forehead.
        brow: Thickness 0 to 1.
        beard: none, stubble, mustache, goatee or full; `sideburns` beside it.
        freckles, wrinkles, blush: Strengths, 0 to 1.
        lipstick, makeup: Whether lips, and eyes and cheeks, are painted.
        glasses: none, round, square, rimless or sunglasses.
        hat: none, cap, beanie, brimmed or headscarf.
        earrings, necklace: Whether worn.
        clothes: The colour's name.
        eye_colour: brown, hazel, green, blue or grey.
        seed: Draws the details (freckles' places, strands).
    """

    gender: float
    age: float
    skin_tone: float
    undertone: float
    phenotype: dict[str, float]
    shape: dict[str, float]
    expression: dict[str, float]
    expression_name: str
    gaze: tuple[float, float]
    hair_style: str
    hair_colour: str
    fringe: bool
    brow: float
    beard: str
    sideburns: bool
    freckles: float
    wrinkles: float
    blush: float
    lipstick: bool
    makeup: bool
    glasses: str
    hat: str
    earrings: bool
    necklace: bool
    clothes: str
    eye_colour: str
    seed: int
    details: dict[str, float] = field(default_factory=dict)

    @property
    def male(self) -> bool:
        return self.gender >= 0.5

    @property
    def young(self) -> bool:
        return self.age < 45

    @property
    def child(self) -> bool:
        return self.age < 13

    @property
    def smiling(self) -> bool:
        return self.expression.get("mouthSmileLeft", 0) + self.expression.get("mouthSmileRight", 0) > 0.7

    @property
    def mouth_open(self) -> float:
        return self.expression.get("jawOpen", 0.0)


def sample_person(rng: np.random.Generator | int, config: SyntheticFaceConfig | None = None) -> Person:
    """
    A person, the same for the same seed and configuration. `dataclasses.replace` gives them another expression, gaze,
    hair or glasses.
    """
    raise NotImplementedError
