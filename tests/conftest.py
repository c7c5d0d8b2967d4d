"""Puts the helpers of tests, the scripts and the fetched common tests of Transformers on the path."""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CACHE = TESTS.parent / f".cache/transformers-{version('transformers')}"
sys.path[:0] = [str(TESTS), str(CACHE), str(CACHE / "transformers_tests")]
# Last: scripts/evaluate.py has the name of a library.
sys.path.append(str(TESTS.parent / "scripts"))


@pytest.fixture
def own_precision() -> Iterator[None]:
    """Accelerate keeps the first precision of a process for good: this test has one of its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Transformers' common tests are left out, with one line, until scripts/fetch_transformers_tests.py has run."""
    if collection_path.suffix != ".py" or (CACHE / "transformers_tests").is_dir():
        return None
    if collection_path.name.startswith("test_") and "from transformers_tests" in collection_path.read_text():
        print(f"left out: {collection_path.name} needs python scripts/fetch_transformers_tests.py", file=sys.stderr)
        return True
    return None
