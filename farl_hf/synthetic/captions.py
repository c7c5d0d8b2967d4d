"""
Captions of generated pictures in the manner of the web: sentences, titles of stock photos, lists of attributes; some
vague, some with noise words, all of them true of the picture.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .people import Person

# Younger ones are boys and girls, of this age and above men and women.
_GROWN_UP = 20
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_MOODS = {
    "neutral": ("serious", "calm"),
    "smiling": ("smiling", "happy"),
    "laughing": ("laughing", "happy"),
    "surprised": ("surprised", "astonished"),
    "angry": ("angry",),
    "sad": ("sad", "unhappy"),
    "disgusted": ("disgusted",),
    "talking": ("talking",),
    "winking": ("winking",),
}
_HAIR = {
    "cropped": ("very short {} hair", "cropped {} hair"),
    "receding": ("{} hair and a high forehead", "receding {} hair"),
    "short": ("short {} hair", "{} hair"),
    "curly": ("curly {} hair", "{} curls"),
    "afro": ("a {} afro", "{} afro hair"),
    "bob": ("a {} bob", "chin-length {} hair"),
    "long": ("long {} hair",),
    "tied": ("{} hair tied back", "a {} ponytail"),
    "wavy": ("wavy {} hair",),
}
_GLASSES = {
    "round": ("round glasses", "glasses", "eyeglasses"),
    "square": ("square glasses", "glasses", "eyeglasses"),
    "rimless": ("rimless glasses", "glasses", "eyeglasses"),
    "sunglasses": ("sunglasses", "dark glasses", "shades"),
}
_HATS = {
    "cap": ("a cap", "a baseball cap"),
    "beanie": ("a beanie", "a knitted hat"),
    "brimmed": ("a hat", "a brimmed hat"),
    "headscarf": ("a headscarf",),
}
_BEARDS = {
    "stubble": ("stubble",),
    "mustache": ("a mustache",),
    "goatee": ("a goatee",),
    "full": ("a beard", "a full beard"),
}
# Words for glad faces and for others, none of which says that of the other kind.
_GLAD = tuple(dict.fromkeys(_MOODS["smiling"] + _MOODS["laughing"]))
_NOT_GLAD = ("serious", "calm", "angry", "sad", "unhappy")
_MOOD_WORD = re.compile(rf"\b({'|'.join(dict.fromkeys(word for words in _MOODS.values() for word in words))})\b", re.I)
# Kinds of backgrounds and of light -> what is said of them, without colours.
_PLACES = {
    "wall": ("in front of a wall", "against a wall"),
    "room": ("in a room", "indoors"),
    "street": ("in front of a building",),
    "foliage": ("in front of leaves", "in a garden", "outdoors"),
    "sky": ("under the sky", "outdoors"),
    "clouds": ("in front of a cloudy backdrop",),
    "bokeh": ("with lights in the background", "with a blurred background"),
    "clutter": ("in front of a lot of things", "with shapes in the background"),
    "stripes": ("in front of stripes", "with a striped background"),
    "gradient": ("on a plain background", "plain background"),
    "plain": ("on a plain background", "plain background"),
}
_LIGHTS = {
    "studio": ("in studio light", "studio light"),
    "sun": ("in the sun", "on a sunny day"),
    "overcast": ("on a cloudy day", "in soft daylight"),
    "room": ("in room light", "by lamplight"),
    "two lamps": ("by lamplight",),
    "backlight": ("against the light", "lit from behind"),
    "coloured": ("in stage light",),
    "window": ("by a window", "in window light"),
    "ring": ("in flat light",),
}
# CelebA attribute -> what a caption may not say unless the attribute is seen.
_SEEN = {"glasses": "Eyeglasses", "earrings": "Wearing_Earrings", "necklace": "Wearing_Necklace", "fringe": "Bangs"}
_HAIR_ATTRIBUTES = {"black": "Black_Hair", "brown": "Brown_Hair", "blond": "Blond_Hair", "grey": "Gray_Hair"}
_OPENINGS = ("a photo of {}", "a portrait of {}", "a picture of {}", "a close-up of {}", "portrait of {}", "photo: {}")
_SINGLE_OPENINGS = (*_OPENINGS, "the face of {}", "headshot of {}", "this is {}")
_VAGUE = ("portrait", "a face", "a photo", "profile picture", "someone", "untitled", "a picture of a person", "me")
_BEFORE = ("stock photo: {}", "royalty free image - {}", "[HD] {}", "{number}.jpg {}", "Photo {number}: {}")
_AFTER = (
    "{} | photo {number}",
    "{} #portrait #face",
    "{} - stock image",
    "{} (IMG_{number}.JPG)",
    "{}, high resolution",
    "{} :)",
    "{} © 20{year:02d}",
    "{} [{number} x {number}]",
)


def write_captions(
    rng: np.random.Generator,
    people: Sequence[Person],
    most: int,
    seen: Sequence[Mapping[str, bool]] | None = None,
    scene: Mapping[str, Any] | None = None,
) -> list[str]:
    """
    One to `most` captions of a picture.

    Args:
        rng: Draws number, kind and words.
        people: Whom the picture shows, the front-most last.
        most: Most captions, at least 1.
        seen: CelebA attributes of each person that hold *and* are seen; what is hidden is not told. By default what
            hats and headscarves cover is taken as hidden, all else as seen.
        scene: About the picture, all optional: `background` and `light`, their kinds as the generator names them (one
            that has no words is not told); `grey` and `blurry`, whether it is so; `yaw` of a single person in degrees.

    Raises:
        ValueError: If there is nobody to tell of, or `most` is below 1.
    """
    if not people or most < 1:
        raise ValueError(f"{len(people)} people and at most {most} captions: at least one of each is needed.")
    seen = seen or [{} for _ in people]
    return [_caption(rng, people, seen, scene or {}) for _ in range(int(rng.integers(1, most + 1)))]


def contradict_mood(rng: np.random.Generator, caption: str) -> str | None:
    """
    A caption of [`write_captions`] that no longer holds: a glad face is called serious or sad, any other one glad. None
    for one that tells no mood.
    """
    found = _MOOD_WORD.search(caption)
    if found is None:
        return None
    word = _pick(rng, _NOT_GLAD if found[0].lower() in _GLAD else _GLAD)
    return caption[: found.start()] + word + caption[found.end() :]


def _caption(
    rng: np.random.Generator,
    people: Sequence[Person],
    seen: Sequence[Mapping[str, bool]],
    scene: Mapping[str, Any],
) -> str:
    kind = rng.choice(["sentence", "list", "short", "vague"], p=[0.6, 0.2, 0.14, 0.06])
    if kind == "vague":
        text = _pick(rng, _VAGUE) if len(people) == 1 else _pick(rng, ("people", "a group photo", "us", "friends"))
    elif kind == "short":
        text = _group(people) if len(people) > 1 else _noun(rng, people[0], mood=rng.random() < 0.5)
    elif kind == "list":
        text = _attribute_list(rng, people, seen, scene)
    else:
        text = _sentence(rng, people, seen, scene)
    if rng.random() < 0.12:
        pattern = _pick(rng, _BEFORE + _AFTER)
        text = pattern.format(text, number=int(rng.integers(1, 9999)), year=int(rng.integers(8, 27)))
    return _written(rng, text)


def _sentence(
    rng: np.random.Generator,
    people: Sequence[Person],
    seen: Sequence[Mapping[str, bool]],
    scene: Mapping[str, Any],
) -> str:
    order = rng.permutation(len(people))
    if len(people) > 2 or (len(people) == 2 and rng.random() < 0.4):
        text = _group(people)
    else:
        most = 4 if len(people) == 1 else 2
        described = [_described(rng, people[i], _facts(rng, people[i], seen[i], scene), most) for i in order]
        text = _pick(rng, (" and ", " next to ", " with ")).join(described)
    if len(people) == 1 and rng.random() < 0.5:
        text += _view(rng, scene)
    for words, kind, share in ((_PLACES, "background", 0.35), (_LIGHTS, "light", 0.2)):
        if scene.get(kind) in words and rng.random() < share:
            text += f" {_pick(rng, words[scene[kind]])}"
    if scene.get("blurry") and rng.random() < 0.3:
        return f"a blurry photo of {text}"
    if scene.get("grey") and rng.random() < 0.4:
        return f"black and white photo of {text}"
    openings = _SINGLE_OPENINGS if len(people) == 1 else _OPENINGS
    return _pick(rng, openings).format(text) if rng.random() < 0.7 else text


def _view(rng: np.random.Generator, scene: Mapping[str, Any]) -> str:
    turn = abs(float(scene.get("yaw", 0.0)))
    if turn > 60:
        return _pick(rng, (" in profile", " from the side"))
    return _pick(rng, (" in three-quarter view", " with the head turned")) if turn > 30 else ""


def _described(rng: np.random.Generator, person: Person, facts: list[tuple[str, str]], most: int) -> str:
    """A person with up to `most` of the facts, as `an old man with grey hair wearing glasses and a hat`."""
    chosen = [facts[i] for i in sorted(rng.permutation(len(facts))[: int(rng.integers(0, most + 1))])]
    parts = [_with_article(_noun(rng, person, mood=rng.random() < 0.6))]
    for verb in ("with", "wearing"):
        things = [thing for v, thing in chosen if v == verb]
        if things:
            parts.append(f"{verb} {_enumerated(things)}")
    return " ".join(parts)


def _attribute_list(
    rng: np.random.Generator,
    people: Sequence[Person],
    seen: Sequence[Mapping[str, bool]],
    scene: Mapping[str, Any],
) -> str:
    if len(people) > 1:
        return ", ".join([_group(people), *(_noun(rng, person) for person in people)])
    facts = [thing.removeprefix("a ") for _, thing in _facts(rng, people[0], seen[0], scene)]
    rng.shuffle(facts)
    mood = _mood(rng, people[0])
    words = [_noun(rng, people[0]), *([mood] if mood else []), *facts[: int(rng.integers(1, 7))]]
    if scene.get("background") in _PLACES and rng.random() < 0.3:
        words.append(_pick(rng, _PLACES[scene["background"]]))
    return _pick(rng, (", ", " ", " / ", "; "), p=[0.7, 0.14, 0.08, 0.08]).join(words)


def _facts(
    rng: np.random.Generator, person: Person, seen: Mapping[str, bool], scene: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """(`with` or `wearing`, thing) of everything that can be told about a person's looks."""
    coloured = not scene.get("grey")

    def shows(trait: str) -> bool:
        return seen.get(_SEEN[trait], True)

    facts = []
    covered = person.hat != "none"
    if person.hair_style == "bald":
        if seen.get("Bald", not covered):
            facts.append(("with", "a bald head"))
    elif seen.get(_HAIR_ATTRIBUTES.get(person.hair_colour, ""), not covered) and not covered:
        colour = person.hair_colour if coloured else ""
        facts.append(("with", " ".join(_pick(rng, _HAIR[person.hair_style]).format(colour).split())))
    if person.fringe and person.hair_style != "bald" and not covered and shows("fringe"):
        facts.append(("with", _pick(rng, ("bangs", "a fringe"))))
    if person.beard != "none":
        facts.append(("with", _pick(rng, _BEARDS[person.beard])))
    if person.freckles > 0.5 and coloured:
        facts.append(("with", "freckles"))
    if person.age >= 60 and person.wrinkles > 0.5:
        facts.append(("with", "wrinkles"))
    if person.eye_colour in ("blue", "green", "brown") and coloured and person.glasses != "sunglasses":
        facts.append(("with", f"{person.eye_colour} eyes"))
    if person.glasses != "none" and shows("glasses"):
        facts.append(("wearing", _pick(rng, _GLASSES[person.glasses])))
    if person.hat != "none" and (person.hat == "headscarf" or seen.get("Wearing_Hat", True)):
        facts.append(("wearing", _pick(rng, _HATS[person.hat])))
    if person.earrings and person.hat != "headscarf" and shows("earrings"):
        facts.append(("wearing", "earrings"))
    if person.necklace and person.hat != "headscarf" and shows("necklace"):
        facts.append(("wearing", "a necklace"))
    if person.lipstick and coloured and seen.get("Wearing_Lipstick", True):
        facts.append(("wearing", "lipstick"))
    if person.makeup and coloured and seen.get("Heavy_Makeup", True):
        facts.append(("wearing", "make-up"))
    if coloured:
        facts.append(("wearing", f"{person.clothes} clothes"))
    return facts


def _noun(rng: np.random.Generator, person: Person, mood: bool = False) -> str:
    """`old man`, `smiling girl`: age and sex in words, without an article."""
    if person.child:
        noun = "boy" if person.male else "girl"
    elif person.age < _GROWN_UP:
        noun = "teenage boy" if person.male else "teenage girl"
    else:
        noun = "man" if person.male else "woman"
        if person.age < 35:
            noun = f"young {noun}"
        elif person.age >= 60:
            noun = f"{_pick(rng, ('old', 'elderly', 'senior'))} {noun}"
        elif person.age >= 45:
            noun = f"{_pick(rng, ('', 'middle-aged '))}{noun}"
    word = _mood(rng, person) if mood else ""
    return f"{word} {noun}" if word else noun


def _mood(rng: np.random.Generator, person: Person) -> str:
    """A word for the expression; none for one that has no word or is too weak for it."""
    if (person.expression_name in ("smiling", "laughing")) != person.smiling:
        return ""
    return _pick(rng, _MOODS.get(person.expression_name, ("",)))


def _group(people: Sequence[Person]) -> str:
    """`two women`, `three people`, `a man and a woman`, `four children`."""
    count = _NUMBERS[len(people)]
    if all(person.child for person in people):
        return f"{count} children"
    if any(person.age < _GROWN_UP for person in people):
        return f"{count} people"
    men = sum(person.male for person in people)
    if men in (0, len(people)):
        return f"{count} {'men' if men else 'women'}"
    return "a man and a woman" if len(people) == 2 else f"a group of {count} people"


def _pick(rng: np.random.Generator, options: Sequence[str], p: Sequence[float] | None = None) -> str:
    return options[int(rng.choice(len(options), p=p))]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _enumerated(things: Sequence[str]) -> str:
    return " and ".join([*([", ".join(things[:-1])] if len(things) > 1 else []), things[-1]])


def _written(rng: np.random.Generator, text: str) -> str:
    """Capital letters and full stops, as people use them or not."""
    style = rng.random()
    if style < 0.3:
        text = text[0].upper() + text[1:]
    elif style < 0.36:
        text = text.title()
    elif style < 0.38:
        text = text.upper()
    return f"{text}." if rng.random() < 0.2 and text[-1].isalnum() else text
