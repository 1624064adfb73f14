"""A prompt as a few numbers, and an online model of what they say beyond the mean of the key."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from attune.models.log_odds import logit, sigmoid, spread_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FEATURES", "FeatureModel", "Scale", "prompt_features"]

WORD_CLASSES = (
    "a an the",
    "of in on at by for from with to into over under between about after before per",
    "and or but so because while although",
    "if when unless then suppose assume",
    "i me my you your he him his she her it its they them their we us our who",
    "is are was were be been being has have had do does did will would can could should may might must",
    "not no never none nor neither cannot except without",
    "all each every some any both many much more most less least few only half twice",
    "than as same different greater larger smaller fewer",
    "this that these those which there such following",
    "what where why how",
    "one two three four five six seven eight nine ten hundred thousand first second third",
)
"""Function words by what they do in a sentence (articles, prepositions, conjunctions ...): they tell how a
text is built whatever it is about (Mosteller and Wallace 1964).
"""
_CLASS_OF = {word: i for i, words in enumerate(WORD_CLASSES) for word in words.split()}
SHAPES = 18
CLASSES = len(WORD_CLASSES)
HASHED = 10
FEATURES = SHAPES + CLASSES + HASHED
LOOKED_AT = 1000
"""Characters at each end of a prompt that are read: the time is bounded, templates show at the ends."""
_WORD = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")

Features: TypeAlias = list[float]


def prompt_features(prompt: str) -> Features:
    """18 numbers of the prompt's shape (length, lines, sentences, kinds of words and signs, repetition), and
    how many of its words are of each of 12 classes or fall, being of none, into each of 10 buckets by hash.
    """
    text = prompt if len(prompt) <= 2 * LOOKED_AT else prompt[:LOOKED_AT] + prompt[-LOOKED_AT:]
    words = _WORD.findall(text)
    counted = Counter(words)
    return [math.log1p(len(prompt)), *_shape(text, words, counted), *_lexicon(counted)]


def _shape(text: str, words: Sequence[str], counted: Counter[str]) -> Features:
    count = max(len(words), 1)
    digits = letters = capitals = characters = numbers = symbols = once = 0
    for word, times in counted.items():
        first = word[0]
        once += times == 1
        if first.isdigit():
            digits += times
            numbers += 1
        elif first.isalpha():
            letters += times
            characters += len(word) * times
            capitals += times if first < "a" else 0
        else:
            symbols += 1
    return [
        text.count("\n") / math.sqrt(count),
        len(text) / count,
        digits / count,
        math.sqrt(digits),
        numbers / math.sqrt(count),
        (count - digits - letters) / count,
        math.log1p(symbols),
        math.log1p(sum([counted[sign] for sign in "+-*/=^%<>$"])),
        capitals / count,
        characters / max(letters, 1),
        once / count,
        counted[","] / count,
        (counted["."] + counted["?"] + counted["!"]) / count,
        counted["("] / count,
        float(bool(words) and words[-1] == "?"),
        float("?" in counted),
        float("```" in text or "def " in text),
    ]


def _lexicon(counted: Counter[str]) -> Features:
    """Logarithms of how many words are of each class, and of the others in each bucket."""
    found = [0] * (CLASSES + HASHED)
    for word, times in counted.items():
        if word[0].isalpha():
            lower = word.lower()
            place = _CLASS_OF.get(lower)
            found[CLASSES + zlib.crc32(lower.encode()) % HASHED if place is None else place] += times
    return [math.log1p(times) for times in found]


class Scale:
    """Centres each feature and divides it by its standard deviation, learned as prompts come (Welford).

    Features that have not varied yet are 0 and leave their share to the others, so that the mean square of a
    prompt's numbers is 1 however many of them say something.
    """

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
        varied = sum([s > 0 for s in self._squares])
        share = math.sqrt(FEATURES / varied) if varied else 0.0
        return [
            0.0 if s <= 0 else share * min(max((v - m) / math.sqrt(s / n), -4.0), 4.0)
            for v, m, s in zip(x, self._mean, self._squares, strict=True)
        ]


class _Filter:
    """Weights that are learned one call at a time: Bayesian recursive least squares (a Kalman filter)."""

    __slots__ = ("_covariance", "_weights")

    def __init__(self, variances: Sequence[float]) -> None:
        self._covariance = [
            [variance if i == j else 0.0 for j in range(len(variances))]
            for i, variance in enumerate(variances)
        ]
        self._weights = [0.0] * len(variances)

    def __call__(self, x: Features) -> float:
        return _dot(self._weights, x)

    def learn(self, x: Features, error: float, noise: float) -> None:
        """Learn from by how much the prediction was too low, and the variance of that."""
        seen = [_dot(row, x) for row in self._covariance]
        k = 1 / (noise + _dot(x, seen))
        error *= k
        self._weights = [w + error * s for w, s in zip(self._weights, seen, strict=True)]
        for i, row in enumerate(self._covariance):
            q = seen[i] * k
            self._covariance[i] = [a - q * s for a, s in zip(row, seen, strict=True)]


_OF_REWARD = [0.004] * (SHAPES + CLASSES) + [0.002] * HASHED
"""Prior variances of the weights on the logit scale. Together they move the odds by about 0.4 at first, so
that the few calls of the beginning do not teach what is not there.
"""
_OF_COST = [0.02] * SHAPES
COST_NOISE = 1.0
"""The variance of a call's cost relative to the key's mean: as if costs were spread exponentially."""


class FeatureModel:
    """What the features say of one model beyond its mean at the key: of the reward by online logistic
    regression on the logit of that mean (an extended Kalman filter), of the relative cost by a linear one on
    the shape alone.

    ``reward_gain.on`` and ``cost_gain.on`` say whether to use it: yes once its progressive squared loss has
    beaten the mean's by more than chance, no again when it no longer beats it at all.
    """

    __slots__ = ("_cost", "_reward", "cost_gain", "reward_gain")

    def __init__(self) -> None:
        self._reward = _Filter(_OF_REWARD)
        self._cost = _Filter(_OF_COST)
        self.reward_gain = Gain()
        self.cost_gain = Gain()

    def shift(self, x: Features) -> float:
        """What to add to the logit of the mean."""
        return self._reward(x)

    def size(self, x: Features) -> float:
        """The cost relative to the key's mean, at least a tenth."""
        return max(1 + self._cost(x[:SHAPES]), 0.1)

    def learn(
        self, x: Features, mean: float, reward: float, dispersion: float, relative_cost: float | None
    ) -> None:
        """Learn from one labelled call whose key predicted ``mean``; its cost may not be known."""
        predicted = sigmoid(logit(mean) + self.shift(x))
        self.reward_gain.add((reward - mean) ** 2 - (reward - predicted) ** 2)
        slope = spread_of(predicted)
        self._reward.learn(x, (reward - predicted) / slope, dispersion / slope)
        if relative_cost is not None:
            size = self.size(x)
            self.cost_gain.add((relative_cost - 1) ** 2 - (relative_cost - size) ** 2)
            self._cost.learn(x[:SHAPES], relative_cost - size, COST_NOISE)


HYSTERESIS = 0.25
GAIN_KEPT = 1 - 1 / 1000
"""A gain counts for about 1,000 calls: what the first weights did says little about those of today."""


class Gain:
    """By how much a loss was beaten lately, with hysteresis: ``on`` above a quarter of the standard deviation
    of that sum, off as far below 0. Weights start small, so that to use them early risks little.
    """

    __slots__ = ("_squares", "_total", "on")

    def __init__(self) -> None:
        self._total = self._squares = 0.0
        self.on = False

    def add(self, gain: float) -> None:
        """Take in how much smaller one loss was."""
        self._total = GAIN_KEPT * self._total + gain
        self._squares = GAIN_KEPT * self._squares + gain * gain
        self.on = self._total > (-HYSTERESIS if self.on else HYSTERESIS) * math.sqrt(self._squares)


def _dot(a: Features, b: Features) -> float:
    return sum([x * y for x, y in zip(a, b, strict=True)])
