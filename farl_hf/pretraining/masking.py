"""Block-wise masks over the grid of patches, as BEiT draws them (Bao et al. 2021, `masking_generator.py`)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

# BEiT's recipe at 14x14 patches: 75 masked ones, in blocks of at least 16, of aspect ratio 0.3 to 1 / 0.3.
_PATCHES, _MASKED, _SMALLEST_BLOCK = 196, 75, 16
_LOWEST_ASPECT = 0.3
_ATTEMPTS = 10


@dataclass(frozen=True)
class BlockMaskGenerator:
    """
    Draws masks as a union of random rectangles. The count of masked patches comes close to `num_masked` and never goes
    over it: drawing stops when ten rectangles in a row do not fit into what is left.

    ```python
    >>> mask = BlockMaskGenerator.for_grid(14)(random.Random(0))
    >>> mask.shape, mask.dtype
    ((196,), dtype('bool'))
    ```

    Attributes:
        grid: Patches per side of the image.
        num_masked: Most patches to mask.
        smallest_block: Least area of a rectangle in patches.
    """

    grid: int = 14
    num_masked: int = _MASKED
    smallest_block: int = _SMALLEST_BLOCK

    @classmethod
    def for_grid(cls, grid: int) -> BlockMaskGenerator:
        """The generator of a grid of another size, with BEiT's shares of the patches (38.3 % masked)."""
        patches = grid * grid
        return cls(
            grid,
            num_masked=max(1, round(patches * _MASKED / _PATCHES)),
            smallest_block=max(1, round(patches * _SMALLEST_BLOCK / _PATCHES)),
        )

    def __call__(self, rng: random.Random) -> np.ndarray:
        """A mask (grid * grid,), bool, row-major, True where masked."""
        mask = np.zeros((self.grid, self.grid), dtype=bool)
        count = 0
        while count < self.num_masked:
            added = self._add_block(mask, self.num_masked - count, rng)
            if added == 0:
                break
            count += added
        return mask.reshape(-1)

    def _add_block(self, mask: np.ndarray, budget: int, rng: random.Random) -> int:
        """Masks one more rectangle in place; returns how many patches that added, 0 if none of ten fitted."""
        log_aspect = math.log(_LOWEST_ASPECT)
        for _ in range(_ATTEMPTS):
            # With less budget left than the smallest block, BEiT's uniform draw runs downwards; so does this one.
            area = rng.uniform(self.smallest_block, budget)
            aspect = math.exp(rng.uniform(log_aspect, -log_aspect))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= self.grid or width >= self.grid:
                continue
            top, left = rng.randint(0, self.grid - height), rng.randint(0, self.grid - width)
            block = mask[top : top + height, left : left + width]
            added = block.size - int(np.count_nonzero(block))
            if 0 < added <= budget:
                block[:] = True
                return added
        return 0
