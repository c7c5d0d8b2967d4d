"""Captions are true of the picture, and as different as those of the web."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_cases import PERSON, any_person

from farl_hf.synthetic import Person, contradict_mood, write_captions

# Word of a caption -> whether it is true.
TRUE = {
    "glasses": lambda p: p.glasses != "none",
    "sunglasses": lambda p: p.glasses == "sunglasses",
    "round glasses": lambda p: p.glasses == "round",
    "hat": lambda p: p.hat in ("beanie", "brimmed"),
    "cap": lambda p: p.hat == "cap",
    "headscarf": lambda p: p.hat == "headscarf",
    "bald": lambda p: p.hair_style == "bald" and p.hat == "none",
    "hair": lambda p: p.hair_style != "bald" and p.hat == "none",
    "black": lambda p: p.hair_colour == "black" and p.hat == "none",
    "blond": lambda p: p.hair_colour == "blond" and p.hat == "none",
    "long": lambda p: p.hair_style == "long",
    "curly": lambda p: p.hair_style == "curly",
    "bangs": lambda p: p.fringe and p.hat == "none" and p.hair_style != "bald",
    "beard": lambda p: p.beard == "full",
    "mustache": lambda p: p.beard == "mustache",
    "goatee": lambda p: p.beard == "goatee",
    "stubble": lambda p: p.beard == "stubble",
    "earrings": lambda p: p.earrings,
    "necklace": lambda p: p.necklace,
    "lipstick": lambda p: p.lipstick,
    "make-up": lambda p: p.makeup,
    "freckles": lambda p: p.freckles > 0.5,
    "smiling": lambda p: p.smiling,
    "happy": lambda p: p.smiling,
    "serious": lambda p: p.expression_name == "neutral",
    "sad": lambda p: p.expression_name == "sad",
    "man": lambda p: p.male and p.age >= 20,
    "woman": lambda p: not p.male and p.age >= 20,
    "boy": lambda p: p.male and p.age < 20,
    "girl": lambda p: not p.male and p.age < 20,
    "young": lambda p: p.young,
    "old": lambda p: p.age >= 60,
    "elderly": lambda p: p.age >= 60,
    "blue eyes": lambda p: p.eye_colour == "blue" and p.glasses != "sunglasses",
}


def words(caption: str) -> str:
    return " " + "".join(c if c.isalnum() or c == "-" else " " for c in caption.lower()) + " "


def says(caption: str, word: str) -> bool:
    return f" {word} " in words(caption)


def captions_of(person: Person, count: int = 200, **options) -> list[str]:
    rng = np.random.default_rng(0)
    return [c for _ in range(count) for c in write_captions(rng, [person], 1, **options)]


def test_captions_are_true_and_varied():
    rng, told, captions = np.random.default_rng(0), set(), set()
    for _ in range(1500):
        person = any_person(rng)
        for caption in write_captions(rng, [person], 5):
            captions.add(caption)
            for word, holds in TRUE.items():
                if says(caption, word):
                    told.add(word)
                    assert holds(person), (caption, word, person)
    assert told == set(TRUE)
    assert len(captions) > 3000
    lengths = [len(caption.split()) for caption in captions]
    assert min(lengths) == 1 and max(lengths) > 15


def test_number_of_captions():
    rng = np.random.default_rng(0)
    counts = {len(write_captions(rng, [PERSON], 3)) for _ in range(50)}
    assert counts == {1, 2, 3}
    with pytest.raises(ValueError, match="at most 0 captions"):
        write_captions(rng, [PERSON], 0)
    with pytest.raises(ValueError, match="0 people"):
        write_captions(rng, [], 1)


def test_what_is_hidden_is_not_told():
    person = replace(PERSON, earrings=True, glasses="round", hat="cap")
    shown = " ".join(captions_of(person))
    assert says(shown, "earrings") and says(shown, "glasses") and says(shown, "cap")
    hidden = " ".join(
        captions_of(person, seen=[{"Wearing_Earrings": False, "Eyeglasses": False, "Wearing_Hat": False}])
    )
    assert not any(says(hidden, word) for word in ("earrings", "glasses", "cap", "hair"))


def test_grey_pictures_have_no_colours():
    person = replace(PERSON, hair_colour="brown", clothes="red", lipstick=True, eye_colour="blue", freckles=1.0)
    grey = captions_of(person, scene={"grey": True})
    assert not any(says(c, word) for c in grey for word in ("brown", "red", "blue", "lipstick", "freckles"))
    assert any("black and white" in c.lower() for c in grey)


def test_place_light_and_view():
    scene = {"background": "foliage", "light": "sun", "yaw": -70.0, "blurry": True}
    captions = " / ".join(captions_of(PERSON, scene=scene)).lower()
    for phrase in ("in a garden", "in the sun", "in profile", "a blurry photo of"):
        assert 3 < captions.count(phrase) < 100
    plain = " / ".join(captions_of(PERSON, scene={"background": "photo", "light": "?", "yaw": 5.0})).lower()
    assert not any(phrase in plain for phrase in ("garden", "sun", "profile from", "blurry", "turned", "photo photo"))


def test_several_people_are_counted():
    man, woman, child = PERSON, replace(PERSON, gender=0.1), replace(PERSON, age=6.0)
    rng = np.random.default_rng(0)
    for people, group in (
        ([man, woman], "a man and a woman"),
        ([man, man], "two men"),
        ([woman, woman, woman], "three women"),
        ([man, woman, child], "three people"),
        ([child, child], "two children"),
        ([man, replace(PERSON, gender=0.1, age=16.0)], "two people"),
        ([man, woman, woman, man], "a group of four people"),
    ):
        captions = [c.lower() for _ in range(60) for c in write_captions(rng, people, 3)]
        assert any(group in caption for caption in captions), group
        others = {"two", "three", "four", "five", "six"} - set(group.split())
        assert not any(says(caption, word) for caption in captions for word in others)


def test_same_generator_same_captions():
    first, second = (write_captions(np.random.default_rng(5), [PERSON], 5) for _ in range(2))
    assert first == second


def test_a_contradicted_mood_is_not_true():
    rng, told = np.random.default_rng(0), 0
    for seed in range(40):
        person = any_person(np.random.default_rng(seed))
        for caption in captions_of(person, 20):
            false = contradict_mood(rng, caption)
            if false is None:
                assert not any(says(caption, mood) for mood in ("smiling", "serious", "angry", "winking", "surprised"))
                continue
            told += 1
            glad = any(says(false, word) for word in ("smiling", "happy", "laughing"))
            assert glad != person.smiling, (caption, false)
            # One word only is another.
            changed = [a != b for a, b in zip(words(caption).split(), words(false).split(), strict=True)]
            assert sum(changed) == 1
    assert told > 200
    assert contradict_mood(rng, "A SMILING girl with curls.") != "A SMILING girl with curls."
    assert contradict_mood(rng, "an old man with a goatee") is None
