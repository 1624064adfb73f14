"""How much a few calls count beside what is known already: the arithmetic under ``Evidence``.

A key's difficulty is that of a Rasch model (Rasch 1960), added to the abilities on the logit scale; what a
model is at a key is drawn to its parent's by how much keys differ (empirical Bayes by moments; DerSimonian
and Laird 1986).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from attune.models.log_odds import logit, sigmoid, spread_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "Ability",
    "Node",
    "Path",
    "Sums",
    "below",
    "costs_of",
    "difficulty_of",
    "dispersions",
    "noise_of",
    "raw_difficulty",
    "shifted",
]

PRIOR_MEAN, PRIOR_SD = 0.7, 0.2
"""A model of which nothing is known: weak, about as much as one or two calls."""
PRIOR_CALLS = 2.0
"""How many calls the mean of others weighs against ``PRIOR_MEAN``, and a size known from the parent."""
NO_CALLS = 1e-9
"""So little of a call is nothing: what is divided by it stays finite."""
PRIOR_DISPERSION = 0.3
PRIOR_SPREAD_SD = 0.05
PRIOR_DIFFICULTY_SD = 0.5
PRIOR_KEYS = 3.0
"""The three above count as much as so many keys."""

Path: TypeAlias = tuple[str, ...]


class Sums:
    """Labelled calls of a model at a key with their rewards and squares, and priced calls with their costs
    and sizes relative to the model's mean; all as of ``time``. ``left`` is the logarithm of the share that
    all forgetting of the model until now leaves of what was known at first.
    """

    __slots__ = ("calls", "cost", "left", "priced", "reward", "size", "squares", "time")

    def __init__(self, time: float, left: float = 0.0) -> None:
        self.calls = self.reward = self.squares = 0.0
        self.priced = self.cost = self.size = 0.0
        self.time = time
        self.left = left

    def add(self, at: float, half_life_s: float, reward: float, squares: float, calls: float) -> None:
        """Add rewards of ``at``; those of before ``time`` count as much as if they had come then."""
        self.decay(at, half_life_s)
        weight = 1.0 if at >= self.time else 0.5 ** ((self.time - at) / half_life_s)
        self.calls += weight * calls
        self.reward += weight * reward
        self.squares += weight * squares

    def keep_possible(self) -> None:
        """Keep to what rewards in 0..1 can come to: of a label that was forgotten in part, more can be taken
        back than is left of it.
        """
        self.reward = min(max(self.reward, 0.0), self.calls)
        least = self.reward * self.reward / self.calls if self.calls > 0 else 0.0
        self.squares = min(max(self.squares, least), self.reward)

    def decay(self, now: float, half_life_s: float) -> None:
        """Bring the sums to ``now``; an earlier time changes nothing."""
        if now > self.time:
            keep = 0.5 ** ((now - self.time) / half_life_s)
            self.forget(keep)
            self.priced *= keep
            self.cost *= keep
            self.size *= keep
            self.time = now

    def forget(self, keep: float) -> None:
        """Keep a share of what the rewards say; the costs stay."""
        if self.calls * keep < NO_CALLS:
            keep = 0.0
        self.calls *= keep
        self.reward *= keep
        self.squares *= keep

    def merge(self, other: Sums, half_life_s: float) -> None:
        """Add other sums, as of the later time of both."""
        late = Sums(other.time)
        for name in ("calls", "reward", "squares", "priced", "cost", "size"):
            setattr(late, name, getattr(other, name))
        late.decay(self.time, half_life_s)
        self.decay(other.time, half_life_s)
        for name in ("calls", "reward", "squares", "priced", "cost", "size"):
            setattr(self, name, getattr(self, name) + getattr(late, name))


Ability: TypeAlias = tuple[float, float]
"""Mean and variance."""


class Node:
    """One key: its models' sums, its difficulty, what was learned of how its children differ, and at a root
    the abilities as of the last call. ``fades`` is how often anything was forgotten when it was brought up to
    date.
    """

    __slots__ = (
        "abilities",
        "children",
        "difficulty",
        "difficulty_var",
        "dispersion",
        "fades",
        "models",
        "refresh_at",
        "seen",
        "spread",
    )

    def __init__(self) -> None:
        self.models: dict[str, Sums] = {}
        self.abilities: dict[str, Ability] = {}
        self.children: dict[Path, None] = {}
        self.fades = 0
        self.seen = 0
        self.refresh_at = 8.0
        self.difficulty = 0.0
        self.difficulty_var = PRIOR_DIFFICULTY_SD**2
        self.spread = PRIOR_SPREAD_SD**2
        self.dispersion: dict[str, float] = {}


def noise_of(node: Node, model: str, mean: float) -> float:
    """The variance of one reward of a model whose mean is ``mean``."""
    known = node.dispersion
    return (known.get(model) or known.get("", PRIOR_DISPERSION)) * spread_of(mean)


def dispersions(kids: Iterable[Node]) -> dict[str, float]:
    """Variance within the cells over that of binary outcomes, each model's drawn to that of all (``""``)."""
    within: dict[str, tuple[float, float]] = {}
    for kid in kids:
        for model, sums in kid.models.items():
            if sums.calls > 1:
                squares, most = within.get(model, (0.0, 0.0))
                mean = (sums.reward + PRIOR_CALLS * PRIOR_MEAN) / (sums.calls + PRIOR_CALLS)
                squares += sums.squares - sums.reward**2 / sums.calls
                within[model] = squares, most + (sums.calls - 1) * spread_of(mean)
    total = sum(squares for squares, _ in within.values())
    most = sum(m for _, m in within.values())
    pooled = (total + 0.4 * PRIOR_DISPERSION) / (most + 0.4)
    found = {model: (squares + 0.6 * pooled) / (m + 0.6) for model, (squares, m) in within.items()}
    return {**found, "": pooled}


def shifted(mean: float, difficulty: float) -> float:
    """A mean where a key is easier (above 0) or harder by so much on the logit scale."""
    return mean if difficulty == 0.0 else sigmoid(logit(mean) + difficulty)


def raw_difficulty(node: Node, kid: Node, abilities: Mapping[str, Ability]) -> tuple[float, float]:
    """One Newton step from 0 without a prior, and its variance."""
    score = slope = var = 0.0
    for model, sums in kid.models.items():
        mean = abilities[model][0]
        score += sums.reward - sums.calls * mean
        slope += sums.calls * spread_of(mean)
        var += sums.calls * noise_of(node, model, mean)
    return (score / slope, var / slope**2) if slope > 1e-6 else (0.0, math.inf)


def difficulty_of(node: Node, kid: Node, abilities: Mapping[str, Ability]) -> float:
    """The mode of the posterior of a key's difficulty (above 0: easier), two Newton steps from 0."""
    found = 0.0
    for _ in range(2):
        score, information = -found / node.difficulty_var, 1 / node.difficulty_var
        for model, sums in kid.models.items():
            mean = shifted(abilities[model][0], found)
            dispersion = node.dispersion.get(model) or node.dispersion.get("", PRIOR_DISPERSION)
            score += (sums.reward - sums.calls * mean) / dispersion
            information += sums.calls * spread_of(mean) / dispersion
        found = min(max(found + score / information, -4.0), 4.0)
    return found


def below(node: Node, kid: Node, model: str, ability: Ability) -> Ability:
    """A model's ability at a key from that at the parent, the key's difficulty and its own calls there."""
    mean, var = ability
    if kid.difficulty:
        mean = shifted(mean, kid.difficulty)
    var += node.spread
    sums = kid.models.get(model)
    if sums is None or sums.calls <= 0:
        return mean, var
    calls, reward = sums.calls, sums.reward
    noise = noise_of(node, model, (reward + PRIOR_CALLS * mean) / (calls + PRIOR_CALLS))
    weight = var / (var + noise / calls)
    return mean + weight * (reward / calls - mean), var * (1 - weight)


def costs_of(root: Node, kid: Node, models: Sequence[str]) -> list[float | None]:
    """The model's mean cost times the key's relative size, which all models share, drawn to the key's own."""
    priced = sum(s.priced for s in kid.models.values())
    size = (PRIOR_CALLS + sum(s.size for s in kid.models.values())) / (PRIOR_CALLS + priced)
    found: list[float | None] = []
    for model in models:
        sums = root.models.get(model)
        if sums is None or sums.priced <= 0:
            found.append(None)
            continue
        mean = sums.cost / sums.priced * size
        own = kid.models.get(model)
        found.append((PRIOR_CALLS * mean + own.cost) / (PRIOR_CALLS + own.priced) if own else mean)
    return found
