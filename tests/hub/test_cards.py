"""Model cards. Code export is tested in models/test_auto_classes.py."""

from pathlib import Path

import pytest
import yaml

from farl_hf.conversion.downloads import RELEASE_FILES
from farl_hf.conversion.release_cards import release_card

CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.mark.parametrize("name", RELEASE_FILES)
def test_card_of_a_release(name):
    card = release_card(name)
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit" and header["library_name"] == "transformers" and header["pipeline_tag"]
    for heading in (
        "## Use",
        "## Intended use",
        "## Known biases",
        "## Data and licences",
        "## Citation",
        "## Results",
    ):
        assert heading in card
    assert "LAION-400M was taken offline" in card and "not measured here" in card
    committed = (CARDS / f"farl-{name.replace('_', '-')}.md").read_text()
    assert committed == card, "run python scripts/write_model_cards.py"
