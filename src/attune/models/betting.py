"""How far apart two means can be, whenever one looks: betting against what would be surprising."""

from __future__ import annotations

import math

__all__ = ["STEP", "Bets", "gap_exceeds", "gap_upper"]

GRID = 120
STEP = 1 / GRID
"""Means are told apart in steps of this."""
_BOLDEST = 0.75
"""The share of the capital that one bet risks at most."""
_MEANS = [i / GRID for i in range(GRID + 1)]
_MOST_ABOVE = [_BOLDEST / max(m, STEP) for m in _MEANS]
_MOST_BELOW = [_BOLDEST / max(1 - m, STEP) for m in _MEANS]


class Bets:
    """Rewards in 0..1 of one arm, and the logarithm of what was won betting that their mean is above, and
    that it is below, each value of a grid: "estimating means of bounded random variables by betting"
    (Waudby-Smith and Ramdas 2023), with their approximate growth-optimal bets.

    If the mean is at most ``m``, the capital that bets on above ``m`` ever reaches ``1 / a`` with
    probability ``a`` at most, and so for below.
    """

    __slots__ = ("_squares", "_sum", "above", "below", "calls")

    def __init__(self) -> None:
        self.calls = 0.0
        self._sum, self._squares = 0.5, 0.5  # one call of half, as uncertain as can be
        self.above = [0.0] * (GRID + 1)
        self.below = [0.0] * (GRID + 1)

    @property
    def mean(self) -> float:
        """The mean, drawn to one half by one call."""
        return self._sum / (self.calls + 1)

    @property
    def variance(self) -> float:
        """The variance of a reward, that call included."""
        return max(self._squares / (self.calls + 1) - self.mean**2, 1e-3)

    def sums(self) -> list[float]:
        """Everything that rewards add to, so that those of several processes can be added up: each bet
        was made on what one of them knew, and the product of what such bets won is as valid.
        """
        return [self.calls, self._sum - 0.5, self._squares - 0.5, *self.above, *self.below]

    def put(self, sums: list[float]) -> None:
        """Take over what ``sums`` gave."""
        self.calls, self._sum, self._squares = sums[0], sums[1] + 0.5, sums[2] + 0.5
        self.above, self.below = sums[3 : GRID + 4], sums[GRID + 4 :]

    def add(self, reward: float) -> None:
        """Take in one reward."""
        mean = self.mean
        variance = self.variance
        log1p = math.log1p
        above, below = self.above, self.below
        for i, m in enumerate(_MEANS):
            ahead = mean - m
            bet = ahead / (variance + ahead * ahead)
            if ahead > 0:
                most = _MOST_ABOVE[i]
                above[i] += log1p((bet if bet < most else most) * (reward - m))
            elif ahead < 0:
                most = -_MOST_BELOW[i]
                below[i] += log1p((bet if bet > most else most) * (reward - m))
        self.calls += 1
        self._sum += reward
        self._squares += reward * reward


def gap_upper(reference: Bets, other: Bets, error: float) -> float:
    """The most by which the reference's mean is above the other's, wrong at any time with probability
    ``error``.

    A gap of ``g`` needs a mean ``m`` that the reference reaches and the other stays ``g`` below; it is
    ruled out when the product of both capitals against that reaches ``1 / error`` for every ``m``.
    """
    low, high = -GRID, GRID
    while low < high:
        middle = (low + high) // 2
        if _least(reference.below, other.above, middle - 1) >= -math.log(error):
            high = middle
        else:
            low = middle + 1
    return high * STEP


def gap_exceeds(reference: Bets, other: Bets, gap: float, error: float) -> bool:
    """Whether the reference's mean is above the other's by more than ``gap``, wrongly with probability
    ``error`` at any time.
    """
    return _least(other.below, reference.above, -math.ceil(gap * GRID) - 1) >= -math.log(error)


def _least(falls: list[float], rises: list[float], apart: int) -> float:
    """The least, over means, of the capital against one arm reaching a mean and the other staying ``apart``
    steps below it.
    """
    if apart >= 0:
        pairs = zip(falls[apart:], rises, strict=False)
    else:
        pairs = zip(falls, rises[-apart:], strict=False)
    return min([a + b for a, b in pairs], default=math.inf)
