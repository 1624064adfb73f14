"""``attune route``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.cli._call_options import add_call_options, context_of, read_prompt
from attune.cli._exit import ExitCode, guarded, note, plain
from attune.cli._parser import add_shared_options
from attune.cli._terminal import dollars, print_json, print_table
from attune.errors import NoCandidateError
from attune.models.request import LLMRequest

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
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
    add_call_options(parser)
    add_shared_options(parser)
    parser.set_defaults(run=cmd_route)


@guarded
def cmd_route(args: argparse.Namespace) -> int:
    """Show the decision; returns the exit code."""
    from attune import runtime

    request = None if args.prompt is None else LLMRequest.from_prompt(read_prompt(args.prompt))
    context = context_of(args)
    opened = runtime.open(args.config)
    for notice in opened.notices:
        note(notice)
    with opened:
        try:
            decision = opened.decide(request, context)
        except NoCandidateError as error:
            _show_nothing(error, wants_json=args.json)
            if not opened.config.providers:
                note(str(error))
                return ExitCode.CREDENTIALS
            raise
    if args.json:
        print_json(_as_json(decision))
    else:
        _show(decision)
    return ExitCode.OK


def _show(decision: RouteDecision) -> None:
    print(plain(decision.reason))
    for remark in decision.notes:
        print(f"note: {plain(remark)}")
    print_table(
        (
            *(">", "candidate", "tier", ">score", ">success", ">latency ms", ">cost"),
            *(">samples", ">recent failures", "why"),
        ),
        [_row(place, scored) for place, scored in enumerate(decision.ranked, 1)],
    )
    _show_dropped([(_name(d.provider, d.model_id, d.credential), d.reason) for d in decision.dropped])


def _row(place: int, scored: ScoredCandidate) -> tuple[str, ...]:
    return (
        str(place),
        _name(scored.provider, scored.model_id, scored.credential),
        scored.tier,
        f"{scored.score:.3f}",
        f"{scored.success_rate:.1%}",
        f"{scored.avg_latency_ms:.0f}",
        dollars(scored.predicted_cost_usd),
        str(scored.sample_size),
        str(scored.recent_failures),
        scored.note,
    )


def _show_nothing(error: NoCandidateError, *, wants_json: bool) -> None:
    if wants_json:
        dropped = [{"candidate": candidate, "reason": reason} for candidate, reason in error.drops]
        print_json({"chosen": None, "reason": str(error), "ranked": [], "dropped": dropped})
    else:
        _show_dropped(error.drops)


def _show_dropped(drops: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> None:
    if drops:
        print_table(("dropped", "because"), drops)


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
        "dropped": [
            {
                "candidate": _name(dropped.provider, dropped.model_id, dropped.credential),
                "reason": dropped.reason,
            }
            for dropped in decision.dropped
        ],
    }
