"""``attune route``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.cli._call_options import add_call_options, context_of, read_prompt
from attune.cli._exit import ExitCode, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._payment import check_enrolled, paying
from attune.cli._terminal import dollars, folded, load_config, print_blocks, print_json, print_table
from attune.config.settings import NO_CREDENTIAL
from attune.errors import NoCandidateError
from attune.models.request import LLMRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from attune.cli._parser import CommandParser
    from attune.models.explanation import Flip
    from attune.models.route_decision import RouteDecision
    from attune.models.telemetry import ScoredCandidate

__all__ = ["cmd_route", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune route``."""
    parser.description = (
        "Decides without calling anyone, and shows every candidate with its score and the parts of it,\n"
        "why each other one came later, and why the rest was dropped. What other attune processes found\n"
        "out about open circuits and bad credentials counts."
    )
    parser.epilog = "example:\n  attune route --workflow code-review --task fix_bug --max-cost 0.01"
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what would be asked, for its size")
    parser.add_argument("--flips", action="store_true", help="show what would have changed the choice")
    add_call_options(parser)
    add_shared_options(parser)
    parser.set_defaults(run=cmd_route)


@guarded
def cmd_route(args: argparse.Namespace) -> int:
    """Show the decision; returns the exit code."""
    from attune import runtime

    request = None if args.prompt is None else LLMRequest.from_prompt(read_prompt(args.prompt))
    context = context_of(args)
    config = load_config(args)
    check_enrolled(config, context.model)
    if ledger := open_ledger(config):
        ledger.facts()  # a corrupt ledger ends here: only what writes to it keeps it aside
    with runtime.build(config) as built:
        try:
            decision = built.decide(request, context)
        except NoCandidateError as error:
            if not args.json:
                _show_dropped(error.drops)
            raise
    if args.json:
        print_json(_as_json(decision))
    else:
        _show(decision)
        if args.flips:
            _show_flips(_flips(decision), drawn=decision.drawn is not None)
    return ExitCode.OK


def _show(decision: RouteDecision) -> None:
    print(folded(decision.reason))
    for remark in decision.notes:
        print(folded(f"note: {remark}"))
    print()
    print_blocks(
        (
            *(">", "candidate", "tier", ">p", ">score", ">success", ">latency ms", ">cost"),
            *(">samples", ">recent failures", "why"),
        ),
        [_row(place, scored) for place, scored in enumerate(decision.ranked, 1)],
        lead=4,
    )
    if decision.dropped:
        print()
    _show_dropped([(_name(d.provider, d.model_id, d.credential), d.reason) for d in decision.dropped])


def _flips(decision: RouteDecision) -> tuple[Flip, ...]:
    from attune.models.explanation import flips

    return flips(decision.record(decision_id="", call_id="", at=0.0))


def _show_flips(found: Sequence[Flip], *, drawn: bool) -> None:
    """What would have changed the choice, one quantity at a time."""
    print()
    rows = [_flip_row(flip, flip.threshold, drawn) for flip in found if flip.threshold is not None]
    if rows:
        print_table(("candidate", "what of it", ">now", ">flips", "then chosen"), rows)
    success = "expected reward" if drawn else "success"
    others = f"no {'other ' if rows else ''}{success}, cost or latency"
    print(folded(f"{others} of the candidates above would have changed the choice alone"))


def _flip_row(flip: Flip, threshold: float, drawn: bool) -> tuple[str, ...]:
    above = "above" if threshold > flip.value else "below"
    now, there = _amount(flip.quantity, flip.value), _amount(flip.quantity, threshold)
    what = "expected reward" if drawn and flip.quantity == "success" else flip.quantity
    return flip.candidate, what, now, f"{above} {there}", flip.instead or "nothing"


def _amount(quantity: str, value: float) -> str:
    if quantity == "cost":
        return dollars(value)
    return f"{value:.0f} ms" if quantity == "latency" else f"{value:.2%}"


def _row(place: int, scored: ScoredCandidate) -> tuple[str, ...]:
    return (
        str(place),
        _shown(_name(scored.provider, scored.model_id, scored.credential)),
        scored.tier,
        f"{scored.propensity:.3g}",
        f"{scored.score:.3f}",
        f"{scored.success_rate:.1%}",
        f"{scored.avg_latency_ms:.0f}",
        dollars(scored.predicted_cost_usd),
        str(scored.sample_size),
        str(scored.recent_failures),
        scored.note,
    )


def _show_dropped(drops: Sequence[tuple[str, str]]) -> None:
    if drops:
        print_table(("dropped", "because"), [(_shown(candidate), reason) for candidate, reason in drops])


def _shown(candidate: str) -> str:
    name, _, credential = candidate.rpartition("#")
    return f"{name} {paying(credential)}" if credential == NO_CREDENTIAL else candidate


def _name(provider: str, model_id: str, credential: str) -> str:
    return f"{provider}/{model_id}#{credential}"


def _as_json(decision: RouteDecision) -> dict[str, Any]:
    return {
        "chosen": decision.candidate.key,
        "reason": decision.reason,
        "base_tier": decision.base_tier.value,
        "tier": decision.tier.value,
        "policy": decision.policy,
        "notes": list(decision.notes),
        "ranked": [scored._asdict() for scored in decision.ranked],
        "flips": [flip._asdict() for flip in _flips(decision)],
        "dropped": [
            {
                "candidate": _name(dropped.provider, dropped.model_id, dropped.credential),
                "reason": dropped.reason,
            }
            for dropped in decision.dropped
        ],
    }
