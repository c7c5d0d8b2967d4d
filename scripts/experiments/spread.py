"""Scores of several seeds: their mean, their spread, and which of them are apart."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 of a single value) of scores."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def apart(values: Sequence[float], others: Sequence[float], lower_is_better: bool = False) -> bool:
    """Whether the mean of scores is better than that of others by more than both deviations together."""
    (mean, deviation), (other_mean, other_deviation) = spread(values), spread(others)
    gain = other_mean - mean if lower_is_better else mean - other_mean
    return gain > deviation + other_deviation


def cells(
    groups: Sequence[Sequence[float] | None],
    digits: int = 1,
    lower_is_better: bool = False,
    reference: int | None = None,
) -> list[str]:
    """
    Markdown of scores that are compared with each other, one group of seeds a cell: "mean ± deviation", or "-" where
    there is none. In bold is what is `apart` from every other group, or, with a `reference`, from the group of that
    index alone.
    """
    known = [values for values in groups if values]
    texts = []
    for i, values in enumerate(groups):
        if not values or any(math.isnan(value) for value in values):
            texts.append("-")
            continue
        mean, deviation = spread(values)
        text = f"{mean:.{digits}f} ± {deviation:.{digits}f}"
        others = [other for other in known if other is not values]
        if reference is not None:
            others = [other for other in [groups[reference]] if other and i != reference]
        bold = others and all(apart(values, other, lower_is_better) for other in others)
        texts.append(f"**{text}**" if bold else text)
    return texts
