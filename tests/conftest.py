"""Puts the fetched common tests of Transformers on the path, see scripts/fetch_transformers_tests.py."""

import sys
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache"
sys.path[:0] = [str(Path(__file__).parent), str(CACHE), str(CACHE / "transformers_tests")]
