"""Scores of several seeds: their mean, their spread, and which of them are apart."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 of a single value) of scores."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def cells(groups: Sequence[Sequence[float] | None], digits: int = 1, lower_is_better: bool = False) -> list[str]:
    """
    Markdown of scores that are compared with each other, one group of seeds a cell: "mean ± deviation", the best in
    bold if it is better than every other by more than both deviations together. "-" where there is none.
    """
    known = [spread(values) for values in groups if values]
    sign = -1 if lower_is_better else 1
    best = max(known, key=lambda pair: sign * pair[0], default=None)
    apart = len(known) > 1 and all(
        pair is best or sign * (best[0] - pair[0]) > best[1] + pair[1] for pair in known if best is not None
    )
    texts = []
    for values in groups:
        if not values or any(math.isnan(value) for value in values):
            texts.append("-")
            continue
        mean, deviation = spread(values)
        text = f"{mean:.{digits}f} ± {deviation:.{digits}f}"
        texts.append(f"**{text}**" if apart and (mean, deviation) == best else text)
    return texts
