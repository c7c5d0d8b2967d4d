"""Planted mistakes, one module per room: what `tests/check_mutations.py` plants, and which tests must see it."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """
    One mistake.

    Attributes:
        file: Path in the repository.
        old: Text that occurs there exactly once.
        new: What is planted in its place.
        tests: Arguments of pytest, one at least of which must fail: `tests/models/test_x.py`, or with `::test_name`.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
