"""The score of each logged call for both policies and what is between them, summed by groups of runs."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from attune.models.logged_calls import ENOUGH_RUNS, GROUPS, Sums, departs, usable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.logged_calls import LoggedCall, Survey

__all__ = [
    "CURRENT",
    "DIFFERENCE",
    "EXCESS",
    "TARGET",
    "UNSUPPORTED",
    "Check",
    "Scores",
    "Sides",
]

UNSUPPORTED = 0.01
"""The share of a policy's choices without support up to which there is a value, in which the model of
outcomes stands in for them; the interval holds their bounds.
"""
SMALL_STRATUM = 10
"""Calls of a key below which it is checked together with other small ones."""

CURRENT, TARGET, DIFFERENCE, EXCESS = range(4)
"""The two policies, the target less the current one, and the target's cost less what it may be."""


class _Part(NamedTuple):
    """What a policy would have given at one call: the success and cost that the logs speak for; its
    probabilities of what can only be bounded, and what the model of outcomes expects of that.
    """

    success: float
    cost: float
    bounded: Sequence[float] | None = None
    more_success: float = 0.0
    more_cost: float = 0.0


class Sides:
    """The sums by group of one quantity as it is expected, and at its lowest and highest."""

    __slots__ = ("expected", "high", "low")

    def __init__(self) -> None:
        self.expected = [0.0] * GROUPS
        self.low = [0.0] * GROUPS
        self.high = [0.0] * GROUPS

    def add(self, group: int, expected: float, low: float, high: float) -> None:
        self.expected[group] += expected
        self.low[group] += low
        self.high[group] += high

    @property
    def known(self) -> bool:
        """Whether there is nothing in it that can only be bounded."""
        return self.low == self.high


class Scores:
    """The sums by group of runs of each call's doubly robust scores, for both policies and what is between
    them.
    """

    def __init__(self, survey: Survey, cost_increase: float) -> None:
        self._survey = survey
        self._models = survey.outcome_models()
        self._contrasts = ((1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (-1.0 - cost_increase, 1.0))
        self.few_runs = len(survey.groups) < ENOUGH_RUNS
        self.supports = [weights.support(survey.calls) for weights in survey.weights]
        self.answered = [
            not self.few_runs and support.enough and support.unsupported <= UNSUPPORTED
            for support in self.supports
        ]
        self.sizes, self.costed = [0.0] * GROUPS, [0.0] * GROUPS
        self.success = [Sides() for _ in self._contrasts]
        self.cost = [Sides() for _ in self._contrasts]
        self.checks = [Check(weights.strata) for weights in survey.weights]
        self.dearest_known = True

    def add(self, call: LoggedCall) -> None:
        """Score one call."""
        survey = self._survey
        if not usable(call):
            return
        key, group = survey.key(call), survey.group(call)
        predict = self._models[survey.fold(group)].predict
        expected = [predict(key, model) for model in call.models]
        parts = [self._part(call, policy, expected) for policy in (CURRENT, TARGET)]
        self.sizes[group] += 1
        self.costed[group] += call.cost is not None
        for contrast, success, cost in zip(self._contrasts, self.success, self.cost, strict=True):
            down, up = _net(contrast, parts)
            value = _mixed(contrast, parts[0].success, parts[1].success)
            more = _mixed(contrast, parts[0].more_success, parts[1].more_success)
            success.add(group, value + more, value + down, value + up)
            if call.cost is not None:
                value, most = _mixed(contrast, parts[0].cost, parts[1].cost), call.most or 0.0
                more = _mixed(contrast, parts[0].more_cost, parts[1].more_cost)
                self.dearest_known &= call.most is not None or (down == up == 0)
                cost.add(group, value + more, value + down * most, value + up * most)
        for check, part, vector in zip(self.checks, parts, (call.current, call.target), strict=True):
            check.add(call, key, group, vector, part)

    def _part(self, call: LoggedCall, policy: int, expected: Sequence[tuple[float, float]]) -> _Part:
        vector = (call.current, call.target)[policy]
        if self.few_runs or (not self.supports[policy].enough and departs(call.logged, vector)):
            return _Part(0.0, 0.0, vector, *_expected(vector, expected))
        drawn = [v if p > 0 else 0.0 for v, p in zip(vector, call.logged, strict=True)]
        never = [0.0 if p > 0 else v for v, p in zip(vector, call.logged, strict=True)]
        weight = vector[call.chosen] / call.logged[call.chosen]
        success, cost = _expected(drawn, expected)
        success += weight * (call.success - expected[call.chosen][0])
        if call.cost is not None:
            cost += weight * (call.cost - expected[call.chosen][1])
        return (
            _Part(success, cost, never, *_expected(never, expected)) if any(never) else _Part(success, cost)
        )


def _expected(vector: Sequence[float], expected: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The success and cost that the model of outcomes expects of these probabilities."""
    return (
        sum(v * success for v, (success, _) in zip(vector, expected, strict=True)),
        sum(v * cost for v, (_, cost) in zip(vector, expected, strict=True)),
    )


def _mixed(contrast: tuple[float, float], current: float, target: float) -> float:
    return contrast[0] * current + contrast[1] * target


def _net(contrast: tuple[float, float], parts: Sequence[_Part]) -> tuple[float, float]:
    """How far a bounded reward of 0..1 may move a contrast down and up: equal choices cancel out."""
    if parts[0].bounded is None and parts[1].bounded is None:
        return 0.0, 0.0
    count = len(parts[0].bounded or parts[1].bounded or ())
    nothing = [0.0] * count
    pairs = zip(parts[0].bounded or nothing, parts[1].bounded or nothing, strict=True)
    net = [_mixed(contrast, current, target) for current, target in pairs]
    return sum(min(n, 0.0) for n in net), sum(max(n, 0.0) for n in net)


# -- the check -------------------------------------------------------------------------------------------


class Check:
    """The self-normalised estimate within each key, weighed by the keys' calls, less the doubly robust one.

    Each call adds what it contributes to the estimate, linearised, so that the error of the difference is
    known. ``weights`` are the importance weights less what they are on average if the logged probabilities
    are those that were drawn with.
    """

    def __init__(self, strata: Mapping[object, tuple[Sums, Sums]]) -> None:
        self._rest = (Sums(), Sums())
        self._strata: dict[object, tuple[Sums, Sums]] = defaultdict(lambda: self._rest)
        for key, (plain, weighted) in strata.items():
            if weighted.costed > 0 and plain.calls >= SMALL_STRATUM:
                self._strata[key] = plain, weighted
            else:
                self._rest[0].plus(plain)
                self._rest[1].plus(weighted)
        self.success = [0.0] * GROUPS
        self.cost = [0.0] * GROUPS
        self.weights = [0.0] * GROUPS

    def add(self, call: LoggedCall, key: object, group: int, vector: Sequence[float], part: _Part) -> None:
        """Add one call's difference; nothing where nobody made the policy's choices."""
        plain, weighted = self._strata[key]
        weight = vector[call.chosen] / call.logged[call.chosen]
        self.weights[group] += weight - sum(v for v, p in zip(vector, call.logged, strict=True) if p > 0)
        if weighted.calls > 0:
            mean = weighted.success / weighted.calls
            own = weight * plain.calls / weighted.calls
            self.success[group] += mean + own * (call.success - mean) - part.success - part.more_success
        if weighted.costed > 0 and call.cost is not None:
            mean = weighted.cost / weighted.costed
            own = weight * plain.costed / weighted.costed
            self.cost[group] += mean + own * (call.cost - mean) - part.cost - part.more_cost
