#!/usr/bin/env python
"""Write the cards of the official releases to model_cards/, from the texts in farl_hf/conversion/release_cards.py."""

from pathlib import Path

from farl_hf.conversion.downloads import RELEASE_FILES
from farl_hf.conversion.release_cards import release_card


def main() -> None:
    folder = Path(__file__).parent.parent / "model_cards"
    folder.mkdir(exist_ok=True)
    for name in RELEASE_FILES:
        (folder / f"farl-{name.replace('_', '-')}.md").write_text(release_card(name))


if __name__ == "__main__":
    main()
