"""What a policy is given, what it gives back, and the arithmetic of probability vectors."""

from __future__ import annotations

import math
from operator import sub
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.evidence import Path
    from attune.models.telemetry import Decided

__all__ = [
    "Feedback",
    "LivePolicy",
    "Policy",
    "Prospect",
    "Rule",
    "Setting",
    "certain",
    "doubt",
    "draw",
    "exploration_floors",
    "posterior_odds",
    "with_floors",
]

EXPLORED = 0.01
"""The share of calls that explores whatever is believed, over all other candidates together."""
EXPLORED_WHEN_CHANGED = 0.03
"""That of each candidate that has lately changed: it may change back."""
RESHAPED = 0.25
"""A model's posterior standard deviation at a key is used at this share. Plain Thompson sampling explores
too much over a few thousand calls; Chapelle and Li (2011) found a quarter to a half best on theirs.
"""
RESHAPED_VARIANCE = RESHAPED**2
INDIFFERENCE = 0.005
"""Differences of reward that are not worth telling apart."""


class Prospect(NamedTuple):
    """What is predicted of one eligible candidate.

    ``mean`` is the expected reward (0..1) and ``sd`` the standard deviation of that belief, ``calls`` its
    labelled calls at the key, ``cost`` USD a call (``None`` unknown), ``rank`` its tier (0 the cheapest,
    ``None`` unknown), ``score`` the seed's quality score, ``changed`` whether it has lately changed,
    ``ability_sd`` the part of ``sd`` that is of the model at all keys.
    """

    model: str
    mean: float
    sd: float
    calls: float = 0.0
    cost: float | None = None
    rank: int | None = None
    score: float = 0.0
    changed: bool = False
    ability_sd: float = 0.0


class Setting(NamedTuple):
    """The call that is decided: its key, UTC epoch seconds, whether exploring is allowed (never for realtime
    tasks).
    """

    path: Path
    now: float
    explores: bool = True


class Feedback(NamedTuple):
    """What came of a call: what it chose among, the model it chose, the reward (``None`` not judged), USD
    (``None`` unknown), whether the model was then found to have changed, and the models that could have been
    drawn (``None``: all of them).
    """

    path: Path
    prospects: Sequence[Prospect]
    model: str
    reward: float | None
    cost: float | None
    now: float
    changed: bool = False
    among: Sequence[str] | None = None


class Policy(Protocol):
    """Chooses among eligible candidates, which come in the order of the static table."""

    @property
    def name(self) -> str:
        """What it is called in configurations and records."""
        ...

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """How probable each candidate is to be drawn; they sum to 1. Asking changes no belief."""
        ...

    def settle(self, feedback: Feedback) -> None:
        """Learn what came of a call that this policy decided, with its reward if that is known already."""
        ...


class Rule(Protocol):
    """What a policy goes by at one moment: nothing that it learns later changes it."""

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """How probable each candidate is to be drawn; they sum to 1."""
        ...

    def why_not(self, place: int, prospects: Sequence[Prospect]) -> str:
        """Why the candidate at ``place`` gets no call, in words."""
        ...

    def numbers(self) -> dict[str, object]:
        """What it goes by, as the record of a decision keeps it; ``rule_of`` makes the rule of it again."""
        ...


class LivePolicy(Policy, Protocol):
    """A policy that decides calls as they come, whose rewards come later."""

    def rule(self, prospects: Sequence[Prospect]) -> Rule:
        """What it goes by now, for a choice among these."""
        ...

    def judge(self, decided: Decided, model: str, reward: float, *, changed: bool) -> None:
        """Learn the reward of a call that was settled without one, and was ``decided`` for ``model``, which
        was then found to have ``changed`` or not.
        """
        ...


def draw(probabilities: Sequence[float], u: float) -> int:
    """The index that a uniform number ``u`` in 0..1 falls on; never one of probability 0."""
    last = 0
    for i, p in enumerate(probabilities):
        if p > 0:
            last = i
            u -= p
            if u < 0:
                return i
    return last


def certain(index: int, count: int) -> list[float]:
    """The vector that is sure of one."""
    vector = [0.0] * count
    vector[index] = 1.0
    return vector


def doubt(prospect: Prospect) -> float:
    """The variance that exploring goes by: what is not known of the model as such, which few calls settle for
    all keys, counts twice as much as what is not known of it at this key.
    """
    sd, shared = prospect.sd, prospect.ability_sd
    shared = shared if shared < sd else sd  # a call of min takes longer
    return RESHAPED_VARIANCE * (sd * sd + 3 * shared * shared)


def posterior_odds(values: Sequence[float], variances: Sequence[float]) -> list[float]:
    """How probable each is to be the best, from the odds of each against the one with the highest mean.

    Thompson sampling's own probabilities for two candidates and for any number of equal ones, and close to
    them between; unlike a draw from the posterior it is known without sampling.
    """
    top = max(values)
    common = variances[values.index(top)] + INDIFFERENCE**2
    sqrt, erfc = math.sqrt, math.erfc
    odds = []
    for value, variance in zip(values, variances, strict=True):
        z = (top - value) / sqrt(2 * (common + variance))
        below = erfc(z) if z < 5 else 0.0
        odds.append(below / (2 - below))
    total = sum(odds)
    return [o / total for o in odds]


def exploration_floors(
    prospects: Sequence[Prospect], affordable: Sequence[bool] | None = None
) -> list[float]:
    """The least probability of each candidate: ``EXPLORED`` over the affordable (``None``: all are), more for
    the changed.
    """
    if affordable is None:
        each = EXPLORED / max(len(prospects) - 1, 1)
        return [EXPLORED_WHEN_CHANGED if p.changed else each for p in prospects]
    each = EXPLORED / max(sum(affordable) - 1, 1)
    return [
        (EXPLORED_WHEN_CHANGED if p.changed else each) if may else 0.0
        for p, may in zip(prospects, affordable, strict=True)
    ]


def with_floors(vector: Sequence[float], floors: Sequence[float]) -> list[float]:
    """The vector with what is below its floor raised to it, at the cost of what is above in proportion."""
    least = sum(floors)
    if least >= 1:
        return [f / least for f in floors]
    spare = list(map(sub, vector, floors))
    lacking = -sum([s for s in spare if s < 0])
    if lacking <= 0:
        return list(vector)
    kept = 1 - lacking / (1 - least + lacking)
    return [f + s * kept if s > 0 else f for s, f in zip(spare, floors, strict=True)]
