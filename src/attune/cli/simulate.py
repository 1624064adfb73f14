"""``attune simulate``."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from attune.cli._exit import ExitCode, guarded, note
from attune.cli._parser import add_shared_options
from attune.cli._terminal import counted, print_json
from attune.errors import InvalidRequestError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from attune.cli._parser import CommandParser
    from attune.cli._simulate_report import Report
    from attune.cli._simulate_table import Table
    from attune.models.policies import Policy
    from attune.models.study import Contender, Yardstick

__all__ = ["cmd_simulate", "configure"]

POLICIES = ("static", "best", "guarded", "thompson", "budget")
DEFAULT_SEEDS = 20
MAX_SEEDS = 200


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune simulate``."""
    parser.description = (
        "Replays a table of tasks and models: what would this policy have earned and spent, starting from\n"
        "nothing and seeing only the result of the model it chose? Beside it stand the best fixed mixture\n"
        "of the models at the same spend (the static hull), each single model, chance, LiteLLM's router,\n"
        "and who knew the means of each key. TABLE has a JSON object a line, and may be gzipped:\n\n"
        '  {"task": "sql", "prompt": "...", "arms": {\n'
        '    "large": {"reward": 1,   "cost": 0.021, "latency_ms": 2100},\n'
        '    "small": {"reward": 0.4, "cost": 0.0003, "latency_ms": 480}}}\n\n'
        "(here folded). A reward lies in 0..1, a cost is in USD; prompt, latency_ms and the key (here task)\n"
        "are optional."
    )
    parser.epilog = (
        "policies: static (the table's first model), best (the highest quality score), guarded (the first\n"
        "model until a cheaper one is shown to be as good), thompson (the most reward, whatever it costs),\n"
        "budget (the most reward for --budget)\n\n"
        "FILE is TOML, its models in the order of the static table:\n\n"
        '  [tiers]\n  premium = ["large"]\n  cheap = ["small"]\n\n'
        "example:\n  attune simulate table.jsonl --policy budget --budget 0.002 --key task"
    )
    parser.add_argument("table", metavar="TABLE", help="the file with the rows")
    parser.add_argument(
        "--policy", required=True, choices=POLICIES, metavar="POLICY", help=f"one of {', '.join(POLICIES)}"
    )
    parser.add_argument("--budget", type=float, metavar="USD", help="dollars a call, of --policy budget")
    parser.add_argument(
        "--key",
        default="none",
        metavar="FIELD",
        help="the field that says what kind of task a row is, or none (default)",
    )
    parser.add_argument("--tiers", metavar="FILE", help="the tiers of the models; unknown without it")
    parser.add_argument(
        "--max-latency-ms", type=float, metavar="N", help="leave a model where its mean latency is above this"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=DEFAULT_SEEDS,
        metavar="N",
        help=f"shuffled orders to replay (default {DEFAULT_SEEDS})",
    )
    parser.add_argument(
        "--out", metavar="PICTURE", help="draw regret, cost, reward and shares over time, as SVG"
    )
    add_shared_options(parser)
    parser.set_defaults(run=cmd_simulate)


@guarded
def cmd_simulate(args: argparse.Namespace) -> int:
    """Replay a table under a policy; returns the exit code."""
    from attune.cli._simulate_report import Report, show
    from attune.cli._simulate_table import read_table

    _check(args)
    table = read_table(args.table, args.key, timed=args.max_latency_ms is not None)
    yardstick = _yardstick(args, table)
    report = Report(
        args.table, args.policy, args.key, args.seeds, table, yardstick, _studied(args, table, yardstick)
    )
    if args.json:
        print_json(report.as_json())
    else:
        show(report)
    return ExitCode.OK if args.out is None else _draw(args.out, report, args.budget)


def _check(args: argparse.Namespace) -> None:
    """Refuse what makes no sense before anything takes long."""
    if (args.policy == "budget") != (args.budget is not None):
        raise InvalidRequestError(
            "--policy budget needs --budget, in USD a call"
            if args.budget is None
            else f"--budget is for --policy budget; --policy {args.policy} takes none"
        )
    if args.budget is not None and not (math.isfinite(args.budget) and args.budget > 0):
        raise InvalidRequestError(f"--budget is in USD a call, above 0, not {args.budget:g}")
    limit = args.max_latency_ms
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise InvalidRequestError(f"--max-latency-ms is in milliseconds, above 0, not {limit:g}")
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise InvalidRequestError(f"--seeds must be from 1 to {MAX_SEEDS}, not {args.seeds}")
    if args.out is not None:
        _check_picture(Path(args.out))


def _check_picture(path: Path) -> None:
    if path.suffix.lower() != ".svg":
        raise InvalidRequestError(f"--out {path}: pictures are drawn as SVG only; give a name ending in .svg")
    if os.path.isdir(path) or not os.access(path.parent, os.W_OK):  # noqa: PTH112  (never raises)
        raise InvalidRequestError(f"--out {path}: cannot be written there; name a file in a folder of yours")


def _yardstick(args: argparse.Namespace, table: Table) -> Yardstick:
    from attune.cli._simulate_table import read_tiers
    from attune.models.study import Yardstick

    ranks = {} if args.tiers is None else read_tiers(args.tiers, table.models)
    models = list(dict.fromkeys([*ranks, *table.models]))
    return Yardstick(models, ranks, args.budget, args.max_latency_ms or math.inf)


def _policy(name: str, budget: float | None) -> Callable[[int], Policy]:
    from attune.models import policies

    made: dict[str, Callable[[], Policy]] = {
        "static": policies.StaticPolicy,
        "best": policies.BestPolicy,
        "guarded": policies.GuardedPolicy,
        "thompson": policies.ThompsonPolicy,
        "budget": lambda: policies.BudgetPolicy(policies.Allowance(budget or 0.0)),
    }
    return lambda _: made[name]()


def _studied(args: argparse.Namespace, table: Table, yardstick: Yardstick) -> list[Contender]:
    """The study, with a bar on standard error where somebody sees it."""
    from attune.models.study import baselines, entrant, study

    entrants = [entrant(args.policy, _policy(args.policy, args.budget)), *baselines(table.rows)]
    if not sys.stderr.isatty():
        return study(table.rows, entrants, args.seeds, yardstick)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=args.seeds * len(entrants))
        return study(table.rows, entrants, args.seeds, yardstick, advance=lambda: bar.advance(task))


def _draw(name: str, report: Report, budget: float | None) -> ExitCode:
    """Write the picture; what was printed stands even where that fails."""
    from attune.cli._simulate_picture import picture

    title = (
        f"{report.policy} on {Path(report.file).name}: {counted(len(report.table.rows), 'row')}, mean of "
        f"{counted(report.seeds, 'shuffled order')}"
    )
    try:
        Path(name).write_text(picture(report.contenders, budget, title), encoding="utf-8")
    except OSError as error:
        note(f"cannot write {name}: {error.strerror or error}; name another file")
        return ExitCode.USAGE
    return ExitCode.OK
