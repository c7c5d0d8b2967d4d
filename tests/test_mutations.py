"""The lists of planted mistakes name text that is there; `check_mutations.py` plants it."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted(path.stem for path in (ROOT / "tests" / "mutations").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("room", ROOMS)
def test_every_mistake_can_be_planted(room):
    for mutation in importlib.import_module(f"mutations.{room}").MUTATIONS:
        assert (ROOT / mutation.file).read_text().count(mutation.old) == 1, (mutation.file, mutation.old)
        assert mutation.new != mutation.old
        for test in mutation.tests:
            assert (ROOT / test.partition("::")[0]).exists(), test
