"""A decision as people and programs see it, made now or long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.cli._payment import paying
from attune.cli._terminal import dollars, folded, print_blocks, print_table
from attune.config.settings import NO_CREDENTIAL
from attune.models.candidate import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.explanation import Flip
    from attune.models.telemetry import DecisionRecord, ScoredCandidate

__all__ = ["as_people_read", "decision_as_json", "show_decision", "show_dropped", "show_flips"]


LEGEND = (
    "p: the propensity, with what probability it was to be chosen; score: success, latency and cost in one, "
    "at most 1; samples: the calls here that this is known from, with few of them it is assumed"
)


def show_decision(decision: DecisionRecord) -> None:
    """Print a decision: its reason and notes, every candidate with its score, and what was dropped."""
    print(folded(decision.reason))
    for remark in decision.notes:
        print(folded(f"note: {remark}"))
    if decision.ranked:
        print()
        print_blocks(
            (
                *(">", "candidate", "tier", ">p", ">score", ">success", ">latency ms", ">cost"),
                *(">samples", ">recent failures", "why"),
            ),
            [_row(place, scored) for place, scored in enumerate(decision.ranked, 1)],
            lead=4,
        )
        print(folded(LEGEND))
    if decision.dropped:
        print()
    show_dropped([(Candidate(*dropped[:3]).key, dropped.reason) for dropped in decision.dropped])


def show_dropped(drops: Sequence[tuple[str, str]]) -> None:
    """Print the candidates (as ``provider/model#credential``) that were dropped, and why."""
    if drops:
        print_table(("dropped", "because"), [(as_people_read(key), reason) for key, reason in drops])


def show_flips(decision: DecisionRecord) -> None:
    """Print what would have changed the choice, one quantity at a time."""
    drawn = decision.policy.partition("/")[0] != "best"
    print()
    rows = [_flip_row(flip, flip.threshold, drawn) for flip in _flips(decision) if flip.threshold is not None]
    if rows:
        print_table(("candidate", "what of it", ">now", ">flips", "then chosen"), rows)
    success = "expected reward" if drawn else "success"
    others = f"by no {'other ' if rows else ''}{success}, cost or latency of one candidate"
    print(folded(f"{others}, all else as it was, would the choice have been another"))


def decision_as_json(decision: DecisionRecord) -> dict[str, Any]:
    """A decision that was not recorded, for programs."""
    return {
        "chosen": Candidate(*decision.ranked[0][:3]).key,
        "reason": decision.reason,
        "base_tier": str(decision.base_tier),
        "tier": str(decision.tier),
        "policy": decision.policy,
        "notes": list(decision.notes),
        "ranked": [scored._asdict() for scored in decision.ranked],
        "flips": [flip._asdict() for flip in _flips(decision)],
        "dropped": [
            {"candidate": Candidate(*dropped[:3]).key, "reason": dropped.reason}
            for dropped in decision.dropped
        ],
    }


def as_people_read(key: str) -> str:
    """A candidate, ``provider/model#credential``, as people read it."""
    name, _, credential = key.rpartition("#")
    return f"{name} {paying(credential)}" if credential == NO_CREDENTIAL else key


def _flips(decision: DecisionRecord) -> tuple[Flip, ...]:
    from attune.models.explanation import flips

    return flips(decision)


def _flip_row(flip: Flip, threshold: float, drawn: bool) -> tuple[str, ...]:
    above = "above" if threshold > flip.value else "below"
    now, there = _amount(flip.quantity, flip.value), _amount(flip.quantity, threshold)
    what = "expected reward" if drawn and flip.quantity == "success" else flip.quantity
    return flip.candidate, what, now, f"{above} {there}", flip.instead or "nothing"


def _amount(quantity: str, value: float) -> str:
    if quantity == "cost":
        return dollars(value)
    return f"{value:.0f} ms" if quantity == "latency" else f"{value:.2%}"


def _cost(scored: ScoredCandidate) -> str:
    """What it costs, and what it would use of what is prepaid."""
    cost = dollars(scored.predicted_cost_usd)
    if scored.list_usd is None:
        return cost
    worth = "of unknown worth until the plan has reported a rise in its use"
    if scored.quota_usd is not None:
        worth = f"worth {dollars(scored.quota_usd)}"
    if scored.by_credits:
        return f"{cost} of credits {worth}"
    return f"{cost} and quota {worth} ({dollars(scored.list_usd)} at API prices)"


def _row(place: int, scored: ScoredCandidate) -> tuple[str, ...]:
    return (
        str(place),
        as_people_read(Candidate(*scored[:3]).key),
        scored.tier,
        f"{scored.propensity:.3g}",
        f"{scored.score:.3f}",
        f"{scored.success_rate:.1%}",
        f"{scored.avg_latency_ms:.0f}",
        _cost(scored),
        str(scored.sample_size),
        str(scored.recent_failures),
        scored.note,
    )
