"""A prompt as a few numbers, and an online model of what they say beyond the mean of the key."""

from __future__ import annotations

import math
import re
import zlib
from typing import TYPE_CHECKING, TypeAlias

from attune.models.log_odds import logit, sigmoid, spread_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FEATURES", "FeatureModel", "Scale", "prompt_features"]

SHAPES = 10
HASHED = 14
FEATURES = SHAPES + HASHED
LOOKED_AT = 1500
"""Characters at each end of a prompt that are read: the time is bounded, templates show at the ends."""
ENDS = 12
"""Words at each end that are hashed."""
_WORD = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")

Features: TypeAlias = list[float]


def prompt_features(prompt: str) -> Features:
    """Ten numbers of the prompt's shape (length, lines, digits, signs, capitals, questions) and which of 14
    buckets the words and pairs of words at its two ends fall into.
    """
    text = prompt if len(prompt) <= 2 * LOOKED_AT else prompt[:LOOKED_AT] + prompt[-LOOKED_AT:]
    words = _WORD.findall(text)
    count = max(len(words), 1)
    digits = letters = capitals = 0
    for word in words:
        first = word[0]
        if first.isdigit():
            digits += 1
        elif first.isalpha():
            letters += 1
            capitals += first < "a"
    return [
        math.log1p(len(prompt)),
        text.count("\n") / math.sqrt(count),
        digits / count,
        (count - digits - letters) / count,
        len(text) / count,
        capitals / count,
        math.sqrt(digits),
        float(bool(words) and words[-1] == "?"),
        float("?" in text),
        float("```" in text or "def " in text),
        *_hashed(words),
    ]


def _hashed(words: Sequence[str]) -> Features:
    ends = words if len(words) <= 2 * ENDS else [*words[:ENDS], *words[-ENDS:]]
    found = [0.0] * HASHED
    last = ""
    for word in ends:
        token = "0" if word[0].isdigit() else word.lower()
        found[zlib.crc32(token.encode()) % HASHED] = 1.0
        found[zlib.crc32((last + " " + token).encode()) % HASHED] = 1.0
        last = token
    return found


class Scale:
    """Centres each feature and divides it by its standard deviation, learned as prompts come (Welford)."""

    __slots__ = ("_count", "_mean", "_squares")

    def __init__(self) -> None:
        self._count = 0
        self._mean = [0.0] * FEATURES
        self._squares = [0.0] * FEATURES

    def learn(self, x: Features) -> None:
        """Take in one prompt."""
        self._count += 1
        k = 1 / self._count
        mean = [m + (v - m) * k for m, v in zip(self._mean, x, strict=True)]
        self._squares = [
            s + (v - a) * (v - b) for s, v, a, b in zip(self._squares, x, self._mean, mean, strict=True)
        ]
        self._mean = mean

    def __call__(self, x: Features) -> Features:
        n = self._count + 1
        return [
            0.0 if s <= 0 else min(max((v - m) / math.sqrt(s / n), -4.0), 4.0)
            for v, m, s in zip(x, self._mean, self._squares, strict=True)
        ]


_PRIOR_VARIANCE = [0.02] * SHAPES + [0.002] * HASHED
"""Of a weight on the logit scale: a shape moves the odds by a seventh or so a standard deviation."""
COST_NOISE = 0.25
"""The variance of a call's cost relative to the key's mean."""


class FeatureModel:
    """What the features say of one model beyond its mean at the key: of the reward by online logistic
    regression on the logit of that mean, of the relative cost by a linear one; both by the extended Kalman
    filter with one covariance (Bayesian recursive least squares).

    ``helps_reward`` and ``helps_cost`` say whether to use it: yes once its progressive squared loss has
    beaten the mean's by more than chance, no again when it no longer beats it at all.
    """

    __slots__ = ("_covariance", "_of_cost", "_of_reward", "cost_gain", "reward_gain")

    def __init__(self) -> None:
        self._covariance = [
            [_PRIOR_VARIANCE[i] if i == j else 0.0 for j in range(FEATURES)] for i in range(FEATURES)
        ]
        self._of_reward = [0.0] * FEATURES
        self._of_cost = [0.0] * FEATURES
        self.reward_gain = Gain()
        self.cost_gain = Gain()

    def shift(self, x: Features) -> float:
        """What to add to the logit of the mean."""
        return _dot(self._of_reward, x)

    def size(self, x: Features) -> float:
        """The cost relative to the key's mean, at least a tenth."""
        return max(1 + _dot(self._of_cost, x), 0.1)

    def learn(self, x: Features, mean: float, reward: float, dispersion: float, relative_cost: float) -> None:
        """Learn from one labelled call whose key predicted ``mean``."""
        predicted = sigmoid(logit(mean) + self.shift(x))
        size = self.size(x)
        self.reward_gain.add((reward - mean) ** 2 - (reward - predicted) ** 2)
        self.cost_gain.add((relative_cost - 1) ** 2 - (relative_cost - size) ** 2)
        slope = spread_of(predicted)
        seen = [_dot(row, x) for row in self._covariance]
        k = 1 / (dispersion / slope + _dot(x, seen))
        error = (reward - predicted) / slope * k
        cost_error = (relative_cost - size) * k
        self._of_reward = [w + error * s for w, s in zip(self._of_reward, seen, strict=True)]
        self._of_cost = [w + cost_error * s for w, s in zip(self._of_cost, seen, strict=True)]
        for i, row in enumerate(self._covariance):
            q = seen[i] * k
            self._covariance[i] = [a - q * s for a, s in zip(row, seen, strict=True)]


HYSTERESIS = 0.25


class Gain:
    """By how much a loss was beaten, with hysteresis: ``on`` above a quarter of the standard deviation of
    that sum, off as far below 0. Weights start small, so that to use them early risks little.
    """

    __slots__ = ("_squares", "_total", "on")

    def __init__(self) -> None:
        self._total = self._squares = 0.0
        self.on = False

    def add(self, gain: float) -> None:
        """Take in how much smaller one loss was."""
        self._total += gain
        self._squares += gain * gain
        self.on = self._total > (-HYSTERESIS if self.on else HYSTERESIS) * math.sqrt(self._squares)


def _dot(a: Features, b: Features) -> float:
    return sum([x * y for x, y in zip(a, b, strict=True)])
