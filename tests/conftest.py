"""Puts the fetched common tests of Transformers on the path, see scripts/fetch_transformers_tests.py."""

import sys
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent / ".cache"
sys.path[:0] = [str(Path(__file__).parent), str(CACHE), str(CACHE / "transformers_tests")]


def pytest_pycollect_makemodule(module_path: Path):
    missing = not (CACHE / "transformers_tests").is_dir()
    if missing and "from transformers_tests" in module_path.read_text():
        pytest.exit("Transformers' common tests are not here: run python scripts/fetch_transformers_tests.py", 2)
