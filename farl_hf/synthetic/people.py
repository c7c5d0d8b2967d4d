"""Who is drawn: the traits of a generated person, sampled independently of each other where nature allows it."""

from dataclasses import dataclass, field, replace

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


# What the hair of the two styles looks like.
HAIR_STYLES = {
    "train": ("bald", "cropped", "receding", "short", "curly", "bob", "long", "tied"),
    "held_out": ("cropped", "short", "afro", "wavy", "long", "tied"),
}
CURLED_STYLES = ("curly", "afro", "wavy")
_EXPRESSIONS = {
    "neutral": 0.24,
    "smiling": 0.20,
    "laughing": 0.14,
    "talking": 0.16,
    "surprised": 0.07,
    "angry": 0.06,
    "sad": 0.05,
    "disgusted": 0.04,
    "winking": 0.04,
}
# Small things, each a number that `appearance`, `hair` and `wear` read: normal ones and even ones in [0, 1].
_SIGNED_DETAILS = ("forehead", "brow_height", "brow_arch", "brow_gap", "brow_length")
_DETAILS = tuple(
    (  # noqa: SIM905
        "hair_shade lip_shade gloss beard_density makeup_strength shadow_shade blotch moles dark_circles curl "
        "hair_gloss lens lens_dark lens_mirror cloth_light second pattern pattern_size white iris pupil brow_dark "
        "teeth frame hat_colour hat_weave metal thing thing_grain seed part volume length beard_length earring_kind "
        "glasses_size"
    ).split()
)
# Standard deviations of local changes; what is not named has 0.3.
_SPREADS = {
    "l-eye-trans-out": 0.22,
    "l-eye-trans-up": 0.15,
    "head-angle-out": 0.2,
    "head-trans-forward": 0.2,
    "head-trans-up": 0.1,
    "head-trans-out": 0.0,
    "mouth-trans-out": 0.08,
    "nose-trans-out": 0.08,
    "neck-trans-out": 0.0,
    "l-ear-wing-incr": 0.4,
    "head-age-incr": 0.2,
    "l-eye-bag-incr": 0.35,
    "mouth-trans-up": 0.2,
    "mouth-trans-forward": 0.2,
    "nose-trans-up": 0.2,
    "nose-septumangle-incr": 0.3,
    "head-scale-vert-incr": 0.3,
    "head-scale-horiz-incr": 0.25,
    "nose-scale-horiz-incr": 0.35,
    "l-eye-scale-incr": 0.3,
}


# Means of local changes that bring the average head to the proportions of annotated photos (eyes nearer together and
# longer, a wider and shorter face, thinner lips, narrower noses); all others have 0.
_MEANS = {
    "l-eye-trans-out": -0.3,
    "l-eye-push2-out": 0.65,
    "l-eye-push1-out": 0.3,
    "l-eye-scale-incr": 0.3,
    "head-scale-horiz-incr": 0.12,
    "head-scale-vert-incr": -0.15,
    "head-fat-incr": 0.05,
    "forehead-temple-incr": 0.5,
    "l-cheek-bones-incr": 0.5,
    "l-eye-height2-incr": 0.35,
    "head-angle-out": 0.1,
    "mouth-scale-horiz-incr": 0.1,
    "mouth-scale-vert-incr": -0.3,
    "mouth-lowerlip-height-incr": 0.4,
    "mouth-upperlip-height-incr": -0.7,
    "nose-nostrils-width-incr": -0.3,
    "nose-width3-incr": -0.25,
    "nose-scale-horiz-incr": -0.1,
    "nose-point-up": 0.35,
}


def _shape(rng: np.random.Generator) -> dict[str, float]:
    """Local changes; both sides share a value up to a small difference."""
    from .shapes import head_model

    shape = {}
    for name in head_model().change_names:
        if name.startswith("r-"):
            continue
        spread = _SPREADS.get(name, 0.3)
        value = min(1.0, max(-1.0, float(rng.normal(_MEANS.get(name, 0.0), spread))))
        difference = float(rng.normal(0, 0.06))
        keep = rng.random() < 0.55 or name in _MEANS or name.startswith(("nose", "mouth", "head-scale", "chin-height"))
        if not keep or spread == 0:
            continue
        shape[name] = value
        if name.startswith("l-"):
            shape["r-" + name[2:]] = min(1.0, max(-1.0, value + difference))
    return shape


def sample_expression(rng: np.random.Generator, name: str | None = None) -> tuple[str, dict[str, float]]:
    """The name of an expression and its facial actions (ARKit names, 0 to 1)."""
    name = name or str(rng.choice(list(_EXPRESSIONS), p=np.array(list(_EXPRESSIONS.values()))))
    actions: dict[str, float] = {}

    def act(strength: float, *names: str) -> None:
        for action in names:
            if action.endswith("*"):
                for side in ("Left", "Right"):
                    actions[action[:-1] + side] = float(np.clip(strength * rng.uniform(0.8, 1.15), 0, 1))
            else:
                actions[action] = float(np.clip(strength, 0, 1))

    strong = rng.uniform(0.45, 1.0)
    if name == "smiling":
        act(strong, "mouthSmile*")
        act(0.6 * strong * rng.random(), "cheekSquint*", "eyeSquint*")
        act(0.25 * rng.random(), "mouthUpperUp*", "mouthLowerDown*")
        if rng.random() < 0.4:
            act(rng.uniform(0.05, 0.2), "jawOpen")
    elif name == "laughing":
        act(strong, "mouthSmile*")
        act(strong * rng.uniform(0.3, 1), "cheekSquint*", "eyeSquint*")
        act(rng.uniform(0.2, 0.7), "mouthUpperUp*")
        act(rng.uniform(0.1, 0.5), "mouthLowerDown*")
        act(rng.uniform(0.1, 0.6), "jawOpen")
    elif name == "talking":
        act(rng.uniform(0.05, 0.5), "jawOpen")
        for action in ("mouthFunnel", "mouthPucker", "mouthRollLower", "mouthShrugUpper", "mouthStretch*"):
            if rng.random() < 0.35:
                act(rng.uniform(0.1, 0.7), action)
        act(0.4 * rng.random(), "mouthLowerDown*", "mouthUpperUp*")
    elif name == "surprised":
        act(strong, "browInnerUp", "browOuterUp*")
        act(strong * rng.random(), "eyeWide*")
        act(rng.uniform(0.1, 0.95), "jawOpen")
    elif name == "angry":
        act(strong, "browDown*")
        act(0.7 * rng.random(), "noseSneer*", "mouthPress*", "eyeSquint*")
        if rng.random() < 0.35:
            act(rng.uniform(0.1, 0.6), "jawOpen")
            act(0.6, "mouthUpperUp*", "mouthLowerDown*")
    elif name == "sad":
        act(strong, "mouthFrown*", "browInnerUp")
        act(0.5 * rng.random(), "mouthShrugLower", "eyeSquint*")
    elif name == "disgusted":
        act(strong, "noseSneer*")
        act(0.7 * rng.random(), "mouthUpperUp*", "browDown*", "mouthFrown*")
    elif name == "winking":
        act(rng.uniform(0.8, 1.0), str(rng.choice(["eyeBlinkLeft", "eyeBlinkRight"])))
        act(0.7 * rng.random(), "mouthSmile*")
    # Everybody's face moves a little.
    for action in (
        "browInnerUp",
        "browDown*",
        "browOuterUp*",
        "mouthPress*",
        "mouthDimple*",
        "eyeSquint*",
        "cheekPuff",
    ):
        if rng.random() < 0.2 and action.rstrip("*") + "Left" not in actions and action not in actions:
            act(0.35 * rng.random(), action)
    for action in ("jawLeft", "jawRight", "mouthLeft", "mouthRight", "tongueOut", "mouthPucker", "mouthFunnel"):
        if rng.random() < 0.03:
            act(0.6 * rng.random(), action)
    if name != "winking":
        closing = rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0.85, 1.0)], p=[0.55, 0.38, 0.07])
        if closing:
            for side in ("Left", "Right"):
                actions["eyeBlink" + side] = float(closing)
    return name, actions


def sample_person(rng: np.random.Generator | int, config: SyntheticFaceConfig | None = None) -> Person:
    """
    A person, the same for the same seed and configuration. `dataclasses.replace` gives them another expression, gaze,
    hair or glasses.
    """
    config = config or SyntheticFaceConfig()
    seed = None
    if not isinstance(rng, np.random.Generator):
        seed, rng = int(rng), np.random.default_rng([int(rng), 77])
    male = bool(rng.random() < config.male)
    gender = float(rng.uniform(0.6, 1.0) if male else rng.uniform(0.0, 0.4))
    age = float(rng.uniform(*config.ages))
    tone = float(rng.uniform(*config.skin_tones))
    undertone = float(rng.uniform(-1, 1))
    race = rng.dirichlet([0.5, 0.5, 0.5])
    phenotype = {
        "weight": float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
        "muscle": float(np.clip(rng.normal(0.5, 0.15), 0, 1)),
        **{name: float(value) for name, value in zip(("african", "asian", "caucasian"), race, strict=True)},
    }
    shape = _shape(rng)
    name, expression = sample_expression(rng)
    gaze = (float(np.clip(rng.normal(0, 11), -28, 28)), float(np.clip(rng.normal(2, 6), -14, 16)))

    grown, old = age > 16, float(np.clip((age - 35) / 45, 0, 1))
    styles = HAIR_STYLES[config.style]
    chance = {
        "bald": 0.3 + old * 0.6 if male and grown else 0.03,
        "cropped": 1.0 if male else 0.15,
        "receding": 0.25 + 0.9 * old if male and grown else 0.0,
        "short": 1.5 if male else 0.7,
        "curly": 0.5 if male else 0.6,
        "afro": 0.6,
        "bob": 0.25 if male else 1.1,
        "long": 0.25 if male else 1.5,
        "wavy": 0.25 if male else 1.4,
        "tied": 0.1 if male else 0.8,
    }
    chances = np.array([chance[style] for style in styles])
    hair_style = str(rng.choice(styles, p=chances / chances.sum()))
    colours = np.array([0.36, 0.3, 0.2, 0.08, 0.06])
    colours[4] += 2.5 * old**2
    hair_colour = str(rng.choice(["black", "brown", "blond", "red", "grey"], p=colours / colours.sum()))
    beard = "none"
    if male and grown and rng.random() < config.beard:
        beard = str(rng.choice(["stubble", "mustache", "goatee", "full"], p=[0.3, 0.17, 0.2, 0.33]))
    draw = rng.random()
    glasses = "none"
    if draw < config.sunglasses:
        glasses = "sunglasses"
    elif draw < config.sunglasses + config.glasses:
        glasses = str(rng.choice(["round", "square", "rimless"], p=[0.4, 0.45, 0.15]))
    draw, hat = rng.random(), "none"
    if draw < config.hat:
        hat = str(rng.choice(["cap", "beanie", "brimmed"]))
    elif draw < config.hat + config.headscarf:
        hat = "headscarf"
    details = {name: float(np.clip(rng.normal(0, 0.8), -2, 2)) for name in _SIGNED_DETAILS}
    details |= {name: float(rng.random()) for name in _DETAILS}
    details["moles"] = float(rng.random() < 0.35)
    details["dark_circles"] = _faint_or_clear(details["dark_circles"])
    details["curl"] = 0.3 * details["curl"] + 0.65 * (hair_style in CURLED_STYLES)
    from .appearance import CLOTHES_COLOURS

    person = Person(
        gender=gender,
        age=age,
        skin_tone=tone,
        undertone=undertone,
        phenotype=phenotype,
        shape=shape,
        expression=expression,
        expression_name=name,
        gaze=gaze,
        hair_style=hair_style,
        hair_colour=hair_colour,
        fringe=bool(hair_style in ("short", "bob", "long", "wavy", "curly") and hat == "none" and rng.random() < 0.35),
        brow=float(np.clip(rng.normal(0.62 if male else 0.4, 0.2), 0.05, 1)),
        beard=beard,
        sideburns=bool(male and grown and (beard == "full" or rng.random() < 0.35)),
        freckles=float(max(0, rng.uniform(-1.5, 1)) * (tone < 0.6)),
        wrinkles=float(np.clip(old * rng.uniform(0.5, 1.3), 0, 1)),
        blush=_faint_or_clear(float(rng.random())),
        lipstick=bool(not male and grown and rng.random() < config.makeup),
        makeup=bool(not male and grown and rng.random() < 0.8 * config.makeup),
        glasses=glasses,
        hat=hat,
        earrings=bool(rng.random() < (config.earrings if not male else 0.15 * config.earrings)),
        necklace=bool(rng.random() < config.necklace),
        clothes=str(rng.choice(list(CLOTHES_COLOURS))),
        eye_colour=str(rng.choice(["brown", "hazel", "green", "blue", "grey"], p=[0.45, 0.15, 0.12, 0.2, 0.08])),
        seed=seed if seed is not None else int(rng.integers(2**31)),
        details=details,
    )
    return _without(person, config)


def _faint_or_clear(share: float) -> float:
    """An even number in [0, 1] to a strength that is faint (0 to 0.3, for three of four) or clear (0.75 to 1)."""
    return share / 0.75 * 0.3 if share < 0.75 else share


def _without(person: Person, config: SyntheticFaceConfig) -> Person:
    """The person without what the configuration switches off."""
    changes: dict = {}
    if not config.has("skin_tones"):
        changes.update(skin_tone=0.4, undertone=0.0)
    if not config.has("skin_detail"):
        changes.update(freckles=0.0, wrinkles=0.0, lipstick=False, makeup=False)
    if not config.has("hair_shapes"):
        changes.update(hair_style="cropped", fringe=False)
    if not config.has("beards"):
        changes.update(beard="none", sideburns=False)
    if not config.has("glasses"):
        changes.update(glasses="none")
    if not config.has("hats"):
        changes.update(hat="none")
    if not config.has("jewellery"):
        changes.update(earrings=False, necklace=False)
    if not config.has("expressions"):
        changes.update(expression={}, expression_name="neutral")
    if not config.has("gaze"):
        changes.update(gaze=(0.0, 0.0))
    if not config.has("shape_variety"):
        changes.update(shape={}, phenotype={})
    return replace(person, **changes)
