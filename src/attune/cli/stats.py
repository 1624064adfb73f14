"""``attune stats``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._terminal import counted, dollars, folded, load_config, print_json, print_table
from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.state import LedgerTotals
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.config import Config
    from attune.models.adaptive_routing import AdaptiveModelRouter
    from attune.models.routing_stats import ModelStats, RoutingStats
    from attune.models.state import RollupRow

__all__ = ["cmd_stats", "configure"]

MAX_DAYS = 3650
MAX_NAME_CHARS = 100
FEW = 20
_LATELY = ">recent failures"


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune stats``."""
    parser.description = (
        "Shows what happened within the last days, per workflow and model: attempts that say something\n"
        "of the model, success rate, cost, latencies, recent failures, attempts that a higher tier than the\n"
        "task's served, and what was saved against always using a premium model. The ledger's own line\n"
        "counts everything, attempts that were cancelled too."
    )
    parser.epilog = "example:\n  attune stats code-review --stage review --days 30"
    parser.add_argument("workflow", nargs="?", metavar="WORKFLOW", help="one workflow; all without it")
    parser.add_argument("--stage", metavar="S", help="one stage of the workflow")
    parser.add_argument("--days", type=int, default=7, metavar="N", help="how far back (default 7)")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_stats)


@guarded
def cmd_stats(args: argparse.Namespace) -> int:
    """Show what happened; returns the exit code."""
    if not 1 <= args.days <= MAX_DAYS:
        raise InvalidRequestError(f"--days must be from 1 to {MAX_DAYS}, not {args.days}")
    if args.stage is not None and args.workflow is None:
        raise InvalidRequestError("--stage is a stage of one workflow: name the workflow too")
    config = load_config(args)
    rows, totals = _read(config, args.days)
    workflows = _workflows(rows, args.workflow, args.stage)
    router = _restored(config, rows, args.days)
    found = [router.get_routing_stats(name, args.stage, args.days) for name in workflows]
    if args.json:
        workflows_shown = [_as_json(stats) for stats in found]
        print_json({"days": args.days, "totals": _totals_as_json(totals), "workflows": workflows_shown})
    elif not totals.attempts:
        print(f"no calls within the last {counted(args.days, 'day')}")
    else:
        for stats in found:
            _show(stats, config)
        shown = None if args.workflow is not None else sum(stats.calls for stats in found)
        _show_totals(totals, args.days, shown)
    return ExitCode.OK


def _read(config: Config, days: int) -> tuple[list[RollupRow], LedgerTotals]:
    """The roll-ups of the period, and what the whole ledger has in it."""
    from attune.models.performance import BUCKET_SECONDS

    ledger = open_ledger(config)
    if ledger is None:
        return [], LedgerTotals(0, 0, 0, 0, 0, 0, 0)
    first = int(time.time() // BUCKET_SECONDS) - days
    return list(ledger.rollups(first)), ledger.totals(first * BUCKET_SECONDS)


def _workflows(rows: list[RollupRow], workflow: str | None, stage: str | None) -> list[str]:
    """The workflows to show, in alphabetical order. Raises ``UnknownNameError`` for one without calls."""
    names = sorted({row.workflow for row in rows})
    if workflow is None or not names:
        return names
    if workflow not in names:
        raise UnknownNameError("workflow", workflow, names, where="the ledger")
    stages = {row.stage for row in rows if row.workflow == workflow}
    if stage is not None and stage not in stages:
        raise UnknownNameError("stage", stage, stages, where=f"the workflow {workflow!r}")
    return [workflow]


def _restored(config: Config, rows: list[RollupRow], days: int) -> AdaptiveModelRouter:
    from attune.models.adaptive_routing import AdaptiveModelRouter

    router = AdaptiveModelRouter(config.registry, credentials=config.enrolled, window_days=days)
    router.restore(rows)
    return router


def _show(stats: RoutingStats, config: Config) -> None:
    name = stats.workflow if stats.stage is None else f"{stats.workflow}/{stats.stage}"
    name = name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}..."
    rate = "-" if stats.success_rate is None else f"{stats.success_rate:.1%}"
    print(
        folded(
            f"{name}: {counted(stats.calls, 'attempt')} within {counted(stats.days, 'day')}, {rate} "
            f"succeeded, {dollars(stats.cost_usd)}{_unknown(stats.unknown_cost_calls)}, "
            f"{stats.tier_upgrades} served by a higher tier, {_labelled(stats)}; {_saved(stats, config)}"
        )
    )
    print_table(
        ("model", "tier", ">attempts", ">success", ">quality", ">cost", ">p50 ms", ">p95 ms", _LATELY),
        [_row(model) for model in stats.models],
        lead=2,
    )
    for doubt in stats.doubts:
        print(folded(f"doubtful: {doubt}"))
    print()


def _show_totals(totals: LedgerTotals, days: int, shown: int | None) -> None:
    """Show all that the ledger has; ``shown`` attempts are counted above, ``None`` if of one workflow."""
    worth = totals.list_cost_nanos / NANOS_PER_USD
    of_plans = f", and answers that a plan paid for, worth {dollars(worth)} at list price" if worth else ""
    print(
        folded(
            f"the ledger, all workflows within {counted(days, 'day')}: {counted(totals.calls, 'call')}, "
            f"{counted(totals.attempts, 'attempt')} ({totals.failed_attempts:,} failed), "
            f"{dollars(totals.cost_nanos / NANOS_PER_USD)}{_unknown(totals.unknown_cost_attempts)}"
            f"{of_plans}{_silent(totals.attempts, shown)}; estimated costs, if any, are included"
        )
    )


def _silent(attempts: int, shown: int | None) -> str:
    """How many of the attempts are not counted above."""
    if shown is None or shown >= attempts:
        return ""
    silent = attempts - shown
    says = "says nothing of its model and is" if silent == 1 else "say nothing of their model and are"
    return f"; {counted(silent, 'attempt')} {says} not counted above"


def _saved(stats: RoutingStats, config: Config) -> str:
    if not any(model.provider in config.enrolled for model in config.registry.in_tier("premium")):
        return "no premium model is enrolled to compare with"
    return f"saved against always-premium: {dollars(stats.savings_usd)}"


def _labelled(stats: RoutingStats) -> str:
    """How many answers were judged, and how good they were: that one came says nothing of it."""
    share = f"{stats.labelled_share or 0.0:.1%} have an outcome"
    return share if stats.quality is None else f"{share} (quality {stats.quality:.3f})"


def _unknown(attempts: int) -> str:
    return f" and {counted(attempts, 'attempt')} of unknown cost" if attempts else ""


def _row(model: ModelStats) -> tuple[str, ...]:
    known = model.calls > model.unknown_cost_calls
    return (
        f"{model.provider}/{model.model_id}",
        model.tier,
        str(model.calls),
        f"{model.success_rate:.1%}",
        "-" if model.quality is None else f"{model.quality:.3f}",
        dollars(model.cost_usd if known else None),
        _milliseconds(model.p50_latency_ms),
        _tail(model),
        str(model.recent_failures),
    )


def _tail(model: ModelStats) -> str:
    """The 95th percentile of the latencies; of fewer than 20 it is no more than the longest."""
    few = "max " if 0 < round(model.calls * model.success_rate) < FEW and model.p95_latency_ms else ""
    return few + _milliseconds(model.p95_latency_ms)


def _milliseconds(latency: float | None) -> str:
    return "-" if latency is None else f"{latency:.0f}"


def _as_json(stats: RoutingStats) -> dict[str, Any]:
    return {**_of_attempts(stats._asdict()), "models": [_of_attempts(m._asdict()) for m in stats.models]}


def _of_attempts(values: dict[str, Any]) -> dict[str, Any]:
    """Statistics under the names of what they count."""
    names = {"calls": "attempts", "unknown_cost_calls": "unknown_cost_attempts"}
    return {names.get(name, name): value for name, value in values.items()}


def _totals_as_json(totals: LedgerTotals) -> dict[str, Any]:
    return {
        "calls": totals.calls,
        "attempts": totals.attempts,
        "failed_attempts": totals.failed_attempts,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cost_usd": totals.cost_nanos / NANOS_PER_USD,
        "unknown_cost_attempts": totals.unknown_cost_attempts,
        "list_cost_usd": totals.list_cost_nanos / NANOS_PER_USD,
    }
