"""Intervals of means over groups that are independent of each other, by the studentised bootstrap."""

from __future__ import annotations

import math
import random
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Interval", "ratio_intervals", "standard_error"]

REPLICATES = 999
TAIL = 0.02
"""What is left out on each side. Half a point less than nominal: costs are skewed, and of few hundred draws
a resample knows too little of their tail. Intervals of 95 % then hold what they say.
"""


class Interval(NamedTuple):
    """An estimate and its 95 % interval; without a ``value`` the interval bounds what cannot be known."""

    value: float | None
    low: float
    high: float


def ratio_intervals(
    columns: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], seed: int
) -> list[Interval]:
    """For each column of groups' sums, its total over the total of its ``sizes``, with an interval.

    The groups are drawn anew with replacement (Efron 1979), the same draws for every column, and each draw is
    studentised by its own standard error (Hall 1988): that follows skewed weights, which a percentile
    interval does not. Sizes differ between groups, so means are ratios and errors are linearised. A column
    that does not vary has an interval of no width.
    """
    means = [sum(column) / sum(size) for column, size in zip(columns, sizes, strict=True)]
    errors = [standard_error(c, s) for c, s in zip(columns, sizes, strict=True)]
    ts = _studentised(columns, sizes, means, seed)
    cut = int(TAIL * (REPLICATES + 1)) - 1
    return [
        Interval(mean, min(mean - t[-1 - cut] * error, mean), max(mean - t[cut] * error, mean))
        for mean, error, t in zip(means, errors, map(sorted, ts), strict=True)
    ]


def standard_error(column: Sequence[float], size: Sequence[float]) -> float:
    """That of the ratio of totals, linearised; 0 where there are less than two groups."""
    total = sum(size)
    mean = sum(column) / total
    squares = sum((value - mean * n) ** 2 for value, n in zip(column, size, strict=True))
    return math.sqrt(squares * _correction(len(column))) / total


def _studentised(
    columns: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], means: Sequence[float], seed: int
) -> list[list[float]]:
    """For each column, how many of its own standard errors each replicate is off.

    Linearised at the mean: a group is off by its sum less the mean times its size.
    """
    count = len(columns[0])
    if count < 2:
        return [[0.0] * REPLICATES for _ in columns]
    generator = random.Random(seed)  # noqa: S311  (resampling)
    prepared = []
    for column, size, mean in zip(columns, sizes, means, strict=True):
        off = [value - mean * n for value, n in zip(column, size, strict=True)]
        squares = [u * u for u in off]
        prepared.append((off, squares, 1e-12 * sum(squares)))
    found: list[list[float]] = [[] for _ in columns]
    places, correction = range(count), _correction(count)
    for _ in range(REPLICATES):
        drawn = itemgetter(*generator.choices(places, k=count))
        for ts, (off, squares, nothing) in zip(found, prepared, strict=True):
            shift = sum(drawn(off))
            spread = sum(drawn(squares)) - shift * shift / count
            ts.append(shift / math.sqrt(spread * correction) if spread > nothing else 0.0)
    return found


def _correction(groups: int) -> float:
    return groups / (groups - 1) if groups > 1 else 0.0
