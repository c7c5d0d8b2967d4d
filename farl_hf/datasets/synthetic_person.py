"""Who is drawn: the traits of a generated person, and captions that tell them."""

from dataclasses import dataclass, field

import numpy as np

SKIN_TONES = [(255, 224, 196), (241, 194, 150), (224, 172, 120), (198, 134, 84), (141, 85, 50), (94, 58, 38)]
HAIR_COLOURS = {"Black_Hair": (28, 24, 24), "Brown_Hair": (92, 58, 34), "Blond_Hair": (214, 178, 104)}
GREY_HAIR = (168, 168, 170)
EYE_COLOURS = [(70, 44, 24), (96, 66, 36), (74, 108, 74), (70, 110, 150), (90, 90, 90)]
CLOTHES = {
    "red": (170, 40, 44),
    "blue": (44, 70, 150),
    "green": (50, 110, 64),
    "white": (230, 230, 228),
    "black": (34, 34, 38),
    "yellow": (220, 190, 60),
    "purple": (110, 60, 130),
}


@dataclass
class Person:
    """Everything about a person but where they are and look."""

    male: bool
    young: bool
    skin: tuple[float, float, float]
    hair_colour: str
    hair_style: str  # bald, short, medium, long
    bangs: bool
    glasses: bool
    hat: bool
    beard: str  # none, mustache, goatee, full
    earrings: bool
    necklace: bool
    lipstick: bool
    smile: float  # -0.3 to 1
    mouth_open: float  # 0 to 1
    clothes: str
    eye_colour: tuple[int, int, int]
    shape: dict[str, float] = field(default_factory=dict)

    @property
    def hair_rgb(self) -> tuple[int, int, int]:
        return HAIR_COLOURS.get(self.hair_colour, GREY_HAIR)

    @property
    def smiling(self) -> bool:
        return self.smile > 0.45

    def attributes(self) -> dict[str, bool]:
        has_hair = self.hair_style != "bald"
        colours = {name: has_hair and self.hair_colour == name for name in (*HAIR_COLOURS, "Gray_Hair")}
        attributes = {
            **colours,
            "Male": self.male,
            "Young": self.young,
            "Bald": not has_hair,
            "Bangs": self.bangs,
            "Eyeglasses": self.glasses,
            "Wearing_Hat": self.hat,
            "Mustache": self.beard in ("mustache", "full"),
            "Goatee": self.beard == "goatee",
            "No_Beard": self.beard in ("none", "mustache"),
            "Wearing_Earrings": self.earrings,
            "Wearing_Necklace": self.necklace,
            "Wearing_Lipstick": self.lipstick,
            "Smiling": self.smiling,
            "Mouth_Slightly_Open": self.mouth_open > 0.15,
            "Pale_Skin": self.skin[2] > 180,
            "Bushy_Eyebrows": self.shape["brow_thickness"] > 0.075,
            "Big_Nose": self.shape["nose_width"] > 0.27,
        }
        return {name: bool(value) for name, value in attributes.items()}


def sample_person(rng: np.random.Generator) -> Person:
    male, young = bool(rng.random() < 0.5), bool(rng.random() < 0.7)
    tone = np.array(SKIN_TONES[rng.integers(len(SKIN_TONES))]) * rng.uniform(0.93, 1.04)
    hair_colour = str(rng.choice(["Black_Hair", "Brown_Hair", "Blond_Hair"]))
    if not young and rng.random() < 0.6:
        hair_colour = "Gray_Hair"
    styles = ["bald", "short", "medium", "long"]
    hair_style = str(rng.choice(styles, p=[0.14, 0.6, 0.18, 0.08] if male else [0.02, 0.18, 0.3, 0.5]))
    hat = bool(rng.random() < 0.12)
    beards = ["none", "mustache", "goatee", "full"]
    smile = float(rng.uniform(-0.3, 1.0))
    mouth_open = float(max(0.0, rng.uniform(-0.8, 1.0)))
    ranges = {
        "width": (0.92, 1.08),
        "jaw": (2.1, 3.6),
        "chin": (1.08, 1.24),
        "eye_x": (0.40, 0.47),
        "eye_y": (-0.20, -0.10),
        "eye_width": (0.17, 0.22),
        "eye_open": (0.06, 0.12),
        "eye_tilt": (-0.03, 0.04),
        "brow_height": (0.20, 0.29),
        "brow_thickness": (0.035, 0.075) if not male else (0.05, 0.10),
        "brow_arch": (0.02, 0.08),
        "nose_length": (0.44, 0.56),
        "nose_width": (0.19, 0.30),
        "nose_depth": (0.22, 0.40),
        "mouth_y": (0.62, 0.72),
        "mouth_width": (0.30, 0.42),
        "lip_upper": (0.05, 0.09),
        "lip_lower": (0.07, 0.12),
        "gaze_x": (-0.35, 0.35),
        "gaze_y": (-0.25, 0.25),
        "hairline": (-0.95, -0.72),
    }
    return Person(
        male=male,
        young=young,
        skin=tuple(np.clip(tone, 0, 255)),
        hair_colour=hair_colour,
        hair_style=hair_style,
        bangs=hair_style in ("medium", "long", "short") and not hat and bool(rng.random() < 0.3),
        glasses=bool(rng.random() < 0.22),
        hat=hat,
        beard=str(rng.choice(beards, p=[0.5, 0.15, 0.15, 0.2])) if male else "none",
        earrings=not male and bool(rng.random() < 0.4),
        necklace=not male and bool(rng.random() < 0.35),
        lipstick=not male and bool(rng.random() < 0.5),
        smile=smile,
        mouth_open=mouth_open,
        clothes=str(rng.choice(list(CLOTHES))),
        eye_colour=EYE_COLOURS[rng.integers(len(EYE_COLOURS))],
        shape={name: float(rng.uniform(*limits)) for name, limits in ranges.items()},
    )


# --------------------------------------------------------------------------------------------------------- captions

_COLOUR_WORDS = {"Black_Hair": "black", "Brown_Hair": "brown", "Blond_Hair": "blond", "Gray_Hair": "grey"}


def write_captions(rng: np.random.Generator, people: list[Person], most: int) -> list[str]:
    count = int(rng.integers(1, most + 1))
    return [_caption(rng, people) for _ in range(count)]


def _caption(rng: np.random.Generator, people: list[Person]) -> str:
    if len(people) > 1:
        words = {2: "two", 3: "three"}[len(people)]
        return str(
            rng.choice([f"{words} people", f"a picture of {words} faces", f"a group of {words} people together"])
        )
    person = people[0]
    noun = {(True, True): "young man", (True, False): "old man", (False, True): "young woman"}.get(
        (person.male, person.young), "old woman"
    )
    facts = []
    if person.hair_style == "bald":
        facts.append(("with", "a bald head"))
    else:
        length = "" if person.hair_style == "medium" else f"{person.hair_style} "
        facts.append(("with", f"{length}{_COLOUR_WORDS[person.hair_colour]} hair"))
    if person.bangs:
        facts.append(("with", "bangs"))
    if person.glasses:
        facts.append(("wearing", str(rng.choice(["glasses", "eyeglasses"]))))
    if person.hat:
        facts.append(("wearing", "a hat"))
    if person.beard != "none":
        facts.append(("with", {"mustache": "a mustache", "goatee": "a goatee", "full": "a beard"}[person.beard]))
    if person.earrings:
        facts.append(("wearing", "earrings"))
    if person.necklace:
        facts.append(("wearing", "a necklace"))
    if person.lipstick:
        facts.append(("wearing", "red lipstick"))
    facts.append(("wearing", f"{person.clothes} clothes"))
    chosen = [facts[i] for i in sorted(rng.permutation(len(facts))[: int(rng.integers(1, 5))])]
    phrases = []
    for verb in ("with", "wearing"):
        things = [thing for v, thing in chosen if v == verb]
        if things:
            phrases.append(f"{verb} {' and '.join([', '.join(things[:-1])] * (len(things) > 1) + things[-1:])}")
    mood = str(rng.choice(["smiling ", "happy "])) if person.smiling else str(rng.choice(["", "serious "]))
    opening = str(rng.choice(["", "a portrait of ", "a photo of ", "a picture of ", "a close-up of ", "the face of "]))
    article = "an" if not mood and noun.startswith("old") else "a"
    caption = f"{opening}{article} {mood}{noun} {' '.join(phrases)}"
    if person.mouth_open > 0.3 and rng.random() < 0.5:
        caption += ", mouth open"
    return caption
