"""
What a mirror image does to landmark indices and class ids.

The original trains and tests without flips; these tables serve the optional flip augmentation.
"""

import re
from collections.abc import Iterable, Sequence

from .labels import (
    CELEBAMASK_HQ_FACER_NAMES,
    CELEBAMASK_HQ_FARL_NAMES,
    CELEBAMASK_HQ_LABELS,
    LAPA_FACER_NAMES,
    LAPA_FARL_NAMES,
    LAPA_LABELS,
)

# Each chain runs across the face from the image's left to its right, so that its mirror image is the reversed chain.
# Layouts: 68 is iBUG's, 98 WFLW's, 106 LaPa's (JD-landmark), 19 AFLW's.
_EYES_AND_MOUTH_68 = [
    [36, 37, 38, 39, 42, 43, 44, 45],
    [41, 40, 47, 46],
    range(48, 55),
    range(59, 54, -1),
    range(60, 65),
    range(67, 64, -1),
]
_CHAINS: dict[int, list[Iterable[int]]] = {
    68: [range(17), range(17, 27), range(31, 36), *_EYES_AND_MOUTH_68],
    98: [
        range(33),
        [*range(33, 38), *range(42, 47)],
        [41, 40, 39, 38, 50, 49, 48, 47],
        range(55, 60),
        [60, 61, 62, 63, 64, 68, 69, 70, 71, 72],
        [67, 66, 65, 75, 74, 73],
        range(76, 83),
        range(87, 82, -1),
        range(88, 93),
        range(95, 92, -1),
        [96, 97],
    ],
    106: [
        range(33),
        [*range(33, 38), *range(42, 47)],
        [41, 40, 39, 38, 50, 49, 48, 47],
        range(55, 66),
        [66, 67, 68, 69, 70, 75, 76, 77, 78, 79],
        [73, 72, 71, 82, 81, 80],
        [74, 83],
        range(84, 91),
        range(95, 90, -1),
        range(96, 101),
        range(103, 100, -1),
        [104, 105],
    ],
    19: [range(6), range(6, 12), range(12, 15), range(15, 18)],
}
# Names under which the label sets are known, see `labels.py`.
_KNOWN_NAMES = {
    "lapa": (LAPA_LABELS, LAPA_FARL_NAMES, LAPA_FACER_NAMES),
    "celebamask_hq": (CELEBAMASK_HQ_LABELS, CELEBAMASK_HQ_FARL_NAMES, CELEBAMASK_HQ_FACER_NAMES),
}
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
# Class ids of a left and a right part, see `labels.py`.
_LABEL_PAIRS: dict[str, tuple[int, list[Iterable[int]]]] = {
    "lapa": (11, [(2, 3), (4, 5)]),
    "celebamask_hq": (19, [(4, 5), (6, 7), (8, 9)]),
}


def flip_permutation(layout: int | str) -> list[int]:
    """
    Which index of the original takes each place in the mirror image: `landmarks[permutation]` after mirroring x, or
    `permutation[labels]` of a mirrored label map. Every table is its own inverse.

    Args:
        layout: 68, 98, 106 or 19 landmarks, or the class ids of `"lapa"` or `"celebamask_hq"`.

    Raises:
        ValueError: If there is no table for the layout.
    """
    count: int
    chains: Sequence[Iterable[int]]
    if isinstance(layout, int) and layout in _CHAINS:
        count, chains = layout, _CHAINS[layout]
    elif isinstance(layout, str) and layout in _LABEL_PAIRS:
        count, chains = _LABEL_PAIRS[layout]
    else:
        raise ValueError(f"No flip table for {layout!r}: choose one of {[*_CHAINS, *_LABEL_PAIRS]}.")
    permutation = list(range(count))
    for chain in map(list, chains):
        for index, mirrored in zip(chain, reversed(chain), strict=True):
            permutation[index] = mirrored
    return permutation


def class_flip_permutation(names: Sequence[str]) -> list[int]:
    """
    [`flip_permutation`] of label maps by the names of their classes. LaPa's and CelebAMask-HQ's sets, under our, FaRL's
    or facer's names, have their tables; of others, names that differ only in the words left and right (or l and r)
    change places.

    Args:
        names: Class names in the order of their ids.
    """
    lowered = [name.lower() for name in names]
    for layout, known in _KNOWN_NAMES.items():
        if lowered in ([name.lower() for name in those] for those in known):
            return flip_permutation(layout)
    mirrored = ["".join(_OTHER_SIDE.get(word, word) for word in re.split(r"([^a-z]+)", name)) for name in lowered]
    return [lowered.index(other) if other in lowered else i for i, other in enumerate(mirrored)]
