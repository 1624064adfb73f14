"""What another policy would have come to on the calls that were logged, from the logs alone.

An estimate is doubly robust (Dudik, Langford, Li 2011): a model of outcomes, the shrunk mean of each key and
candidate, says what every candidate would have given, and what was logged corrects it with importance
weights, the policy's probability of what was chosen over the logged one. The model of a call is fitted
without the fold of runs that it belongs to (Chernozhukov et al. 2018). The self-normalised estimate within
each key (Swaminathan and Joachims 2015) is the check. What the logs cannot say is bounded, not guessed.

Money is USD a call. The calls are read twice and none is kept: memory grows with the keys, up to a limit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.bootstrap import Interval, ratio_intervals, standard_error
from attune.models.doubly_robust import (
    CURRENT,
    DIFFERENCE,
    EXCESS,
    TARGET,
    UNSUPPORTED,
    Scores,
    Sides,
)
from attune.models.logged_calls import ENOUGH_CALLS, ENOUGH_RUNS, SURE, LoggedCall, Support, Survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Comparison",
    "Interval",
    "Limits",
    "LoggedCall",
    "PolicyEstimate",
    "Support",
    "Verdict",
    "compare",
]

UNKNOWN_COSTS = 0.01
"""The share of calls of unknown cost up to which they are left out of the costs."""
DISAGREEMENT = 4.0
"""Standard errors between an estimate and its check that are not taken for chance."""
UNSEEN = 3.0
"""The rule of three: what n calls never showed has a rate of up to 3 / n (Hanley, Lippman-Hand 1983)."""


class Limits(NamedTuple):
    """How much worse the target may be: ``cost_increase`` as a share of the current cost, ``success_drop`` in
    points (0.05: from 0.90 to 0.85).
    """

    cost_increase: float = 0.05
    success_drop: float = 0.05


DEFAULT_LIMITS = Limits()


class PolicyEstimate(NamedTuple):
    """A policy's success rate and cost a call (``None`` where costs are unknown), what supports them, and the
    self-normalised estimates beside them (``None`` where there are only bounds).
    """

    success: Interval
    cost: Interval | None
    support: Support
    success_check: float | None
    cost_check: float | None


class Verdict(StrEnum):
    """What is proven of the target."""

    WITHIN = "within"
    BEYOND = "beyond"
    UNDECIDED = "undecided"


class Comparison(NamedTuple):
    """Both policies on the same calls, the target less the current one, and what follows.

    ``unusable`` calls are left out. ``notes`` say in plain words what the data cannot say, and why.
    """

    calls: int
    unusable: int
    current: PolicyEstimate
    target: PolicyEstimate
    success_difference: Interval
    cost_difference: Interval | None
    verdict: Verdict
    notes: tuple[str, ...]


def compare(calls: Iterable[LoggedCall], limits: Limits = DEFAULT_LIMITS, *, seed: int = 0) -> Comparison:
    """What the target would have come to on these calls beside the current policy; iterates them twice.

    The same calls and seed give the same result. Raises ``InvalidRequestError`` when no call can be used.
    """
    survey = Survey(seed)
    for call in calls:
        survey.add(call)
    if survey.unusable and not survey.calls:
        raise InvalidRequestError(
            f"none of the {survey.unusable} logged calls can be used: probabilities must sum to 1, and that "
            "of what was chosen must be above 0"
        )
    if not survey.calls:
        raise InvalidRequestError("there are no logged calls to compare on; take a longer window")
    scores = Scores(survey, limits.cost_increase)
    for call in calls:
        scores.add(call)
    return _concluded(survey, scores, limits, seed)


# -- what follows ----------------------------------------------------------------------------------------


def _concluded(survey: Survey, scores: Scores, limits: Limits, seed: int) -> Comparison:
    knows_costs = survey.calls - survey.costed <= UNKNOWN_COSTS * survey.calls and scores.dearest_known
    quantities = [(sides, scores.sizes) for sides in scores.success[:EXCESS]]
    answered = [*scores.answered, all(scores.answered)]
    if knows_costs:
        quantities += [(sides, scores.costed) for sides in scores.cost]
        answered += [*answered, all(answered)]
    intervals = _intervals(quantities, answered, seed)
    success, cost = intervals[:EXCESS], intervals[EXCESS:] or None
    if cost is not None:
        cost[:DIFFERENCE] = [_within(interval, 0.0, float("inf")) for interval in cost[:DIFFERENCE]]
    for place, unseen in enumerate(_unseen(survey, scores)):
        success[place] = _within(_wider(success[place], unseen), -1.0 if place == DIFFERENCE else 0.0, 1.0)
    current = _estimate(survey, scores, CURRENT, success, cost)
    target = _estimate(survey, scores, TARGET, success, cost)
    disagree = _disagrees(scores, current, CURRENT) or _disagrees(scores, target, TARGET)
    excess = None if cost is None else cost[EXCESS]
    return Comparison(
        survey.calls,
        survey.unusable,
        current,
        target,
        success[DIFFERENCE],
        None if cost is None else cost[DIFFERENCE],
        Verdict.UNDECIDED if disagree else _verdict(success[DIFFERENCE], excess, limits),
        _notes(survey, scores, disagree=disagree),
    )


def _intervals(
    quantities: Sequence[tuple[Sides, Sequence[float]]], answered: Sequence[bool], seed: int
) -> list[Interval]:
    """Of each quantity: from the lower end of its lowest to the upper end of its highest if these differ, and
    then with a value only if it was ``answered``.
    """
    there = [group for group, size in enumerate(quantities[0][1]) if size]
    columns, sizes = [], []
    for sides, size in quantities:
        for side in (sides.low,) if sides.known else (sides.low, sides.high):
            columns.append([side[group] for group in there])
            sizes.append([size[group] for group in there])
    ends = iter(ratio_intervals(columns, sizes, seed))
    found = []
    for (sides, size), knows in zip(quantities, answered, strict=True):
        interval = next(ends)
        if not sides.known:
            value = sum(sides.expected) / sum(size) if knows else None
            interval = Interval(value, interval.low, next(ends).high)
            interval = interval if value is None else _wider(interval, 0.0)
        found.append(interval)
    return found


def _unseen(survey: Survey, scores: Scores) -> list[float]:
    """How much each success rate, and their difference, may be off for what happened to no call."""
    known = [UNSEEN / (support.effective if support.enough else survey.calls) for support in scores.supports]
    departing = [support.effective_departing for support in scores.supports if support.effective_departing]
    between = UNSEEN * survey.differing / survey.calls / min(departing, default=survey.calls)
    return [*known, between]


def _wider(interval: Interval, by: float) -> Interval:
    if interval.value is None:
        return interval
    return Interval(
        interval.value, min(interval.low, interval.value - by), max(interval.high, interval.value + by)
    )


def _within(interval: Interval, low: float, high: float) -> Interval:
    return Interval(*(None if end is None else min(max(end, low), high) for end in interval))  # type: ignore[arg-type]


def _estimate(
    survey: Survey,
    scores: Scores,
    policy: int,
    success: Sequence[Interval],
    cost: Sequence[Interval] | None,
) -> PolicyEstimate:
    check, support = scores.checks[policy], scores.supports[policy]
    value = success[policy].value
    checked = None if value is None else value + sum(check.success) / survey.calls
    spent = None if cost is None else cost[policy]
    known = None if spent is None or spent.value is None else spent.value + sum(check.cost) / survey.costed
    return PolicyEstimate(success[policy], spent, support, checked, known)


def _disagrees(scores: Scores, estimate: PolicyEstimate, policy: int) -> bool:
    """Whether a check is further from the estimate, or the mean weight from 1, than chance explains."""
    check = scores.checks[policy]
    columns = []
    if estimate.success_check is not None:
        columns += [(check.success, scores.sizes), (check.weights, scores.sizes)]
    if estimate.cost_check is not None:
        columns += [(check.cost, scores.costed)]
    return any(
        abs(sum(column)) > DISAGREEMENT * standard_error(column, sizes) * sum(sizes) + SURE * sum(sizes)
        for column, sizes in columns
    )


def _verdict(success: Interval, excess: Interval | None, limits: Limits) -> Verdict:
    """``excess`` is the target's cost less what the limit allows."""
    if success.high < -limits.success_drop or (excess is not None and excess.low > 0):
        return Verdict.BEYOND
    if success.low >= -limits.success_drop and excess is not None and excess.high <= 0:
        return Verdict.WITHIN
    return Verdict.UNDECIDED


def _notes(survey: Survey, scores: Scores, *, disagree: bool) -> tuple[str, ...]:
    calls, notes = survey.calls, []
    if survey.single == calls:
        notes.append("every call had a single candidate: no policy could have chosen another")
    elif survey.certain == calls:
        notes.append(
            "the logging policy was deterministic: its logs say nothing of any model that it did not choose; "
            "a policy that draws, such as a mix, would make them speak"
        )
    elif survey.certain:
        notes.append(f"{survey.certain / calls:.1%} of the calls were decided without a draw")
    if scores.few_runs:
        notes.append(f"fewer than {ENOUGH_RUNS} independent workflow runs are too few to estimate from")
    for name, support in zip(("current", "target"), scores.supports, strict=True):
        if support.unsupported > UNSUPPORTED:
            notes.append(
                f"{support.unsupported:.1%} of the {name} policy's choices are ones that the logging policy "
                "never made: bounds, not an estimate"
            )
        if not support.enough:
            notes.append(
                f"the logs hold the worth of {min(support.effective, support.effective_departing):.0f} calls "
                f"in {support.departing_runs:.0f} workflow runs where the {name} policy departs from them; "
                f"{ENOUGH_CALLS} in {ENOUGH_RUNS} are needed: bounds, not an estimate"
            )
    if disagree:
        notes.append(
            "the estimate and its self-normalised check disagree beyond chance, or models were chosen more "
            "or less often than the logged probabilities say: nothing is proven"
        )
    if not scores.dearest_known:
        notes.append(
            "the costs of what was not drawn have no bound: the size of a call or a price is not known"
        )
    if survey.calls > survey.costed:
        notes.append(f"{survey.calls - survey.costed} calls are of unknown cost")
    if survey.unusable:
        notes.append(f"{survey.unusable} calls are left out: their probabilities cannot be used")
    return tuple(notes)
