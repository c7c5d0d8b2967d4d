"""Statistics of the block-wise masks."""

import random

import numpy as np
import pytest

from farl_hf.pretraining.masking import BlockMaskGenerator


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """2,000 masks of the paper's grid, (2000, 14, 14)."""
    rng, generator = random.Random(0), BlockMaskGenerator()
    return np.stack([generator(rng) for _ in range(2000)]).reshape(-1, 14, 14)


def test_count_comes_close_to_75_and_never_over(masks):
    counts = masks.sum(axis=(1, 2))
    assert counts.max() == 75
    assert 70 < counts.mean() < 75
    assert (counts >= 60).mean() > 0.99


def test_masks_are_blocks(masks):
    # Horizontal neighbours agree far more often than with independent patches, where 1 - 2 p (1 - p) = 0.53 do.
    assert (masks[:, :, 1:] == masks[:, :, :-1]).mean() > 0.85
    # Every masked patch lies in a masked 2x2 square unless its rectangle is one patch thin, which is rare.
    squares = masks[:, 1:, 1:] & masks[:, 1:, :-1] & masks[:, :-1, 1:] & masks[:, :-1, :-1]
    covered = np.zeros_like(masks)
    for rows, columns in ((slice(1, None), slice(1, None)), (slice(1, None), slice(-1)), (slice(-1), slice(1, None))):
        covered[:, rows, columns] |= squares
    covered[:, :-1, :-1] |= squares
    assert covered[masks].mean() > 0.97


def test_every_place_is_masked_and_the_grid_is_symmetric(masks):
    frequency = masks.mean(axis=0)
    assert frequency.min() > 0.02
    assert frequency[5:9, 5:9].mean() > frequency[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    for mirrored in (frequency[::-1], frequency[:, ::-1], frequency.T):
        assert np.abs(frequency - mirrored).max() < 0.08


def test_first_blocks_keep_the_smallest_area_and_aspect():
    generator = BlockMaskGenerator(grid=14, num_masked=75, smallest_block=16)
    rng, aspects = random.Random(1), []
    for _ in range(500):
        mask = np.zeros((14, 14), dtype=bool)
        assert generator._add_block(mask, 75, rng) == mask.sum()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = len(rows), len(columns)
        assert mask.sum() == height * width, "one filled rectangle"
        # Rounding of the sides moves area and aspect a little beyond 16..75 and 0.3..3.33.
        assert 12 <= height * width <= 75 and 0.25 <= height / width <= 4
        aspects.append(height / width)
    assert min(aspects) < 0.35 and max(aspects) > 2.9, "thin blocks, too"


def test_other_grids_keep_the_share():
    for grid in (4, 12, 16, 28):
        generator, rng = BlockMaskGenerator.for_grid(grid), random.Random(2)
        counts = [generator(rng).sum() for _ in range(200)]
        assert min(counts) >= 1
        assert max(counts) <= round(grid * grid * 75 / 196)
        assert np.mean(counts) > 0.8 * grid * grid * 75 / 196
    assert BlockMaskGenerator.for_grid(14) == BlockMaskGenerator()


def test_equal_seeds_give_equal_masks():
    generator = BlockMaskGenerator()
    first, second, other = (generator(random.Random(seed)) for seed in ("a", "a", "b"))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
