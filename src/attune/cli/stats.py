"""``attune stats``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode, guarded, plain
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._terminal import dollars, load_config, print_json, print_table
from attune.errors import InvalidRequestError, UnknownNameError

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.config import Config
    from attune.models.adaptive_routing import AdaptiveModelRouter
    from attune.models.routing_stats import ModelStats, RoutingStats
    from attune.models.state import RollupRow

__all__ = ["cmd_stats", "configure"]

MAX_DAYS = 3650


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune stats``."""
    parser.description = (
        "Shows what happened within the last days, per workflow and model: calls, success rate, cost,\n"
        "latencies, recent failures, calls that a higher tier than the task's served, and what was saved\n"
        "against always using a premium model."
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
    rows = _rollups(config, args.days)
    workflows = _workflows(rows, args.workflow, args.stage)
    router = _restored(config, rows, args.days)
    found = [router.get_routing_stats(name, args.stage, args.days) for name in workflows]
    if args.json:
        print_json({"days": args.days, "workflows": [_as_json(stats) for stats in found]})
    elif not found:
        print(f"no calls within the last {args.days} days")
    else:
        for stats in found:
            _show(stats)
    return ExitCode.OK


def _rollups(config: Config, days: int) -> list[RollupRow]:
    from attune.models.performance import BUCKET_SECONDS

    ledger = open_ledger(config)
    return list(ledger.rollups(int(time.time() // BUCKET_SECONDS) - days)) if ledger else []


def _workflows(rows: list[RollupRow], workflow: str | None, stage: str | None) -> list[str]:
    """The workflows to show, in alphabetical order. Raises ``UnknownNameError`` for one without calls."""
    names = sorted({row.workflow for row in rows})
    if workflow is None or not names:
        return names
    if workflow not in names:
        raise UnknownNameError("workflow", workflow[:60], names, where="the ledger")
    stages = {row.stage for row in rows if row.workflow == workflow}
    if stage is not None and stage not in stages:
        raise UnknownNameError("stage", stage[:60], stages, where=f"the workflow {workflow!r}")
    return [workflow]


def _restored(config: Config, rows: list[RollupRow], days: int) -> AdaptiveModelRouter:
    from attune.models.adaptive_routing import AdaptiveModelRouter

    router = AdaptiveModelRouter(config.registry, credentials=config.enrolled, window_days=days)
    router.restore(rows)
    return router


def _show(stats: RoutingStats) -> None:
    name = plain(stats.workflow if stats.stage is None else f"{stats.workflow}/{stats.stage}")
    rate = "-" if stats.success_rate is None else f"{stats.success_rate:.1%}"
    unknown = f" and {stats.unknown_cost_calls} calls of unknown cost" if stats.unknown_cost_calls else ""
    print(
        f"{name}: {stats.calls} calls within {stats.days} days, {rate} succeeded, "
        f"{dollars(stats.cost_usd)}{unknown}, {stats.tier_upgrades} served by a higher tier, "
        f"saved against always-premium: {dollars(stats.savings_usd)}"
    )
    print_table(
        ("model", "tier", ">calls", ">success", ">cost", ">p50 ms", ">p95 ms", ">recent failures"),
        [_row(model) for model in stats.models],
    )


def _row(model: ModelStats) -> tuple[str, ...]:
    known = model.calls > model.unknown_cost_calls
    return (
        f"{model.provider}/{model.model_id}",
        model.tier,
        str(model.calls),
        f"{model.success_rate:.1%}",
        dollars(model.cost_usd if known else None),
        _milliseconds(model.p50_latency_ms),
        _milliseconds(model.p95_latency_ms),
        str(model.recent_failures),
    )


def _milliseconds(latency: float | None) -> str:
    return "-" if latency is None else f"{latency:.0f}"


def _as_json(stats: RoutingStats) -> dict[str, Any]:
    return {**stats._asdict(), "models": [model._asdict() for model in stats.models]}
