"""Which tier serves a call: up from one that fails too often, down to one that has proven itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attune.models.performance import RECENT
from attune.models.registry import ModelTier
from attune.models.route_decision import TierUpgrade
from attune.models.route_request import DEFAULT_MIN_SUCCESS_RATE
from attune.models.sequential import ENOUGH_FAILURES_OF, TOLERATED_FAILURE_RATE
from attune.models.tasks import TASK_TIER_MAP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.cells import Level
    from attune.models.option import Scored
    from attune.models.route_request import RouteRequest
    from attune.models.sequential import FailureWatch
    from attune.models.windows import TierResults

__all__ = [
    "ENOUGH_SAMPLES",
    "chosen_tier",
    "may_stay",
    "positions",
    "put_proven_first",
    "upgrade_of",
]

ENOUGH_SAMPLES = 30
"""Calls at the key itself before a cheaper tier can prove itself without ``max_cost``."""

_TIERS = tuple(ModelTier)


def chosen_tier(
    request: RouteRequest,
    base: ModelTier,
    task: str,
    realtime: bool,
    scored: Sequence[Scored],
    level: Level,
    first: int,
    *,
    up: bool = True,
    down: bool = True,
) -> tuple[ModelTier, str]:
    """The tier to choose from and why; ``level`` is the key's own, ``first`` the window's oldest bucket.
    ``up`` and ``down`` say whether it may move for what telemetry shows.
    """
    present = {each[1].rank for each in scored}
    if request.model:
        return scored[0][1].model.tier, f"the model {request.model!r} was asked for"
    rank = base.rank
    if not request.tier:
        if up and rank + 1 in present and (evidence := _upgrade_now(base, scored, level, first)):
            return _TIERS[rank + 1], f"upgraded from {base}: {evidence}"
        if down and not realtime and (downgrade := _downgrade(rank, request.min_success_rate, scored, level)):
            return downgrade
    if rank in present:
        return base, _why(request, base, task)
    downwards = request.max_cost is not None and not realtime
    tier = min(present, key=positions(rank, downwards=downwards).__getitem__)
    return _TIERS[tier], f"no {base} candidate is available, {_TIERS[tier]} is next"


def _why(request: RouteRequest, base: ModelTier, task: str) -> str:
    if request.tier:
        return f"the tier {base} was asked for"
    return f"{base} is enough for {task!r}" if task in TASK_TIER_MAP else f"{base} is the default tier"


# -- up ------------------------------------------------------------------------------------------------


def upgrade_of(tier: str, level: Level, results: TierResults, first: int) -> TierUpgrade:
    """Whether a tier should be left upwards, and the evidence in words."""
    if tier == ModelTier.PREMIUM:
        return TierUpgrade(False, f"{tier} is the highest tier")
    watch = level.watch(tier, first)
    if watch.failing:
        known = _known(tier, level, first)
        if len(known) > 1 and (does_well := _one_that_does_well(known)):
            return TierUpgrade(False, f"{_failures(tier, watch)}, but only {does_well}")
        return TierUpgrade(True, _evidence(tier, watch))
    rate = f"{results.failures:.0f} of {results.calls:.0f} {tier} calls failed"
    if results.calls < ENOUGH_FAILURES_OF:
        return TierUpgrade(False, f"{rate}, too few to tell")
    return TierUpgrade(False, f"{rate}, not beyond chance above {TOLERATED_FAILURE_RATE:.0%}")


def _failures(tier: str, watch: FailureWatch) -> str:
    return f"{watch.run_failures} of the last {watch.run_calls} {tier} calls failed"


def _evidence(tier: str, watch: FailureWatch) -> str:
    return (
        f"{_failures(tier, watch)}, beyond chance above {TOLERATED_FAILURE_RATE:.0%}: at that rate, 1 in 20 "
        "runs of 10,000 calls at most ever looks so"
    )


def _upgrade_now(base: ModelTier, scored: Sequence[Scored], level: Level, first: int) -> str:
    """The evidence for leaving a tier upwards, of the candidates that can be chosen now; else nothing."""
    if not level.cells or not (watch := level.watch(base, first)).failing:
        return ""
    known = _known(base, level, first)
    labels = {each[1].label for each in scored}
    left = {label: row for label, row in known.items() if label in labels}
    if not left or (len(known) > 1 and _one_that_does_well(left)):
        return ""
    return _evidence(base, watch)


def _known(tier: str, level: Level, first: int) -> dict[str, tuple[float, ...]]:
    """The numbers of each candidate of a tier that was called here within the window."""
    rows = ((label, level.row(label, first)) for label, cell in level.cells.items() if cell.tier == tier)
    return {label: row for label, row in rows if row is not None}


def _one_that_does_well(known: dict[str, tuple[float, ...]]) -> str:
    """A candidate whose last results are no reason to leave its tier, in words; else nothing.

    One that is broken among several costs the tier its calls until it is avoided, not the tier its place.
    """
    for label, (calls, _, _, failures, _) in known.items():
        last = min(calls, RECENT)
        if failures <= TOLERATED_FAILURE_RATE * last:
            return f"{failures:.0f} of the last {last:.0f} of {label}"
    return ""


# -- down ----------------------------------------------------------------------------------------------


def _downgrade(
    rank: int, min_success_rate: float, scored: Sequence[Scored], level: Level
) -> tuple[ModelTier, str] | None:
    for each in scored:
        option, row = each[1:3]
        if option.rank < rank and _proven(each, level, min_success_rate):
            tier = option.model.tier
            least = level.cells[option.label].proven_rate()
            return tier, (
                f"{tier} has proven itself on {row[3]:.0f} calls here: {row[4]:.0f} succeeded, so at least "
                f"{least}% do (by a test that is wrong 1 time in 20 at most)"
            )
    return None


def _proven(scored: Scored, level: Level, min_success_rate: float) -> bool:
    """Whether enough calls at the key itself prove that a candidate's success rate is high enough; no
    floor proves nothing, so the default takes its place. See ``highest_proven_rate``.
    """
    option, row = scored[1:3]
    if row[3] < ENOUGH_SAMPLES:
        return False
    least = math.ceil((min_success_rate or DEFAULT_MIN_SUCCESS_RATE) * 100 - 1e-9)
    return level.cells[option.label].proven_rate() >= least


def put_proven_first(scored: list[Scored], level: Level, min_success_rate: float) -> None:
    """In a tier that was chosen for what has proven itself, the best that has comes before others."""
    proven = (place for place, each in enumerate(scored) if _proven(each, level, min_success_rate))
    scored.insert(0, scored.pop(next(proven, 0)))


# -- the order of tiers --------------------------------------------------------------------------------

RANKS: dict[str, int] = {tier.value: tier.rank for tier in _TIERS}
"""The rank of each tier, 0 for the cheapest: looked up faster than asked for."""

_UPWARDS_FIRST = ((0, 1, 2), (2, 0, 1), (2, 1, 0))
_DOWNWARDS_FIRST = ((0, 1, 2), (1, 0, 2), (2, 1, 0))


def positions(rank: int, *, downwards: bool) -> tuple[int, ...]:
    """By rank, how many tiers are tried before it when ``rank`` is the chosen one: that one first,
    then those on one side from near to far, then those on the other.
    """
    return (_DOWNWARDS_FIRST if downwards else _UPWARDS_FIRST)[rank]


def may_stay(
    scored: Sequence[Scored], level: Level, min_success_rate: float, *, cheaper: bool
) -> list[Scored]:
    """Those among which a conversation may choose: of the chosen tier, and in a tier that was chosen for what
    has proven itself, those that have.
    """
    rank = scored[0][1].rank
    leaders = [each for each in scored if each[1].rank == rank]
    proven = [each for each in leaders if _proven(each, level, min_success_rate)] if cheaper else []
    return proven or leaders
