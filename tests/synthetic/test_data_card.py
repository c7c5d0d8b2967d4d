"""The data card tells the truth about the code."""

import re
from dataclasses import fields
from pathlib import Path

from PIL import Image

from farl_hf.synthetic import SyntheticFaceConfig
from farl_hf.synthetic.people import _EXPRESSIONS, HAIR_STYLES

CARD = Path(__file__).parents[2] / "model_cards/synthetic-faces.md"
TEXT = CARD.read_text()


def test_defaults_are_those_of_the_configuration():
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d. ]+) \|", TEXT, re.MULTILINE))
    defaults = {field.name: field.default for field in fields(SyntheticFaceConfig)}
    assert len(told) >= 18
    for name, numbers in told.items():
        default = defaults[name] if isinstance(defaults[name], tuple) else (defaults[name],)
        assert tuple(map(float, numbers.split())) == tuple(map(float, default)), name


def test_pictures_are_there_and_small():
    names = re.findall(r"\]\((images/[^)]+)\)", TEXT)
    assert len(names) == 5
    for name in names:
        assert (CARD.parent / name).stat().st_size <= 150_000
        assert min(Image.open(CARD.parent / name).size) > 250


def test_people_are_drawn_as_told():
    for name, share in _EXPRESSIONS.items():
        assert re.search(rf"{name}\s+{share:.2f}\b", TEXT), name
    hair = re.search(r"\*\*Hair\*\*:(.*?)\n\*", TEXT, re.DOTALL).group(1)
    assert all(style in hair for styles in HAIR_STYLES.values() for style in styles)
