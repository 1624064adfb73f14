"""``attune policy``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import CommandParser, add_commands, add_shared_options
from attune.cli._terminal import counted, dollars, folded, load_config, print_json, print_table
from attune.errors import InvalidRequestError
from attune.models.estimators import Comparison, Limits, Verdict, compare

if TYPE_CHECKING:
    import argparse

    from attune.cli._policy_file import PastPolicy
    from attune.cli._policy_logs import LoggedCalls
    from attune.config import Config
    from attune.models.estimators import Interval, PolicyEstimate

__all__ = ["cmd_policy_diff", "configure"]

CURRENT = "current"
DAY_SECONDS = 86_400
MAX_DAYS = 3650
MAX_PERCENT = 1000.0

CODES = {
    Verdict.WITHIN: ExitCode.OK,
    Verdict.BEYOND: ExitCode.BEYOND_LIMITS,
    Verdict.UNDECIDED: ExitCode.UNDECIDED,
}


def configure(parser: CommandParser) -> None:
    """Add the commands of ``attune policy``."""
    parser.description = (
        "Asks of the calls in the ledger what another policy would have made of them. Each takes --json and\n"
        "--config FILE."
    )
    parser.epilog = "example:\n  attune policy diff --to cheaper.toml"
    add_commands(
        parser, {"diff": ("what would the last days have cost under another policy?", _configure_diff)}
    )


def _configure_diff(parser: CommandParser) -> None:
    parser.description = (
        "Estimates the success and the cost of two policies on the calls of the last days, at today's\n"
        "prices, and their difference, with 95 % intervals. Logs of a policy that draws can answer; where\n"
        "they cannot, bounds are shown and the answer is undecided. FILE is TOML:\n\n"
        '  [policy]\n  kind = "static"             # static | best | mix\n\n'
        "  [tiers]                     # static and best: other lists than configured\n"
        '  capable = ["openai/gpt-6.1-terra"]\n\n'
        '  [tasks]                     # other tiers for tasks; "*" for every one\n'
        '  fix_bug = "cheap"\n\n'
        "  [weights]                   # mix: how often each eligible model is drawn\n"
        '  "openai/gpt-6.1-terra" = 0.7'
    )
    parser.epilog = (
        "exit codes: 0 proven to stay within both limits, 6 proven to be beyond one, 7 undecided.\n\n"
        "example:\n  attune policy diff --to cheaper.toml --days 14 --max-cost-increase 0%"
    )
    parser.add_argument(
        "--from",
        dest="current",
        default=CURRENT,
        metavar="CURRENT",
        help="`current`: what decided (default), or a policy file",
    )
    parser.add_argument("--to", dest="target", required=True, metavar="FILE", help="the other policy")
    parser.add_argument("--days", type=int, default=7, metavar="N", help="how far back (default 7)")
    parser.add_argument(
        "--max-cost-increase",
        default="5%",
        metavar="P%",
        help="how much more it may cost, of the current cost (default 5%%)",
    )
    parser.add_argument(
        "--max-success-drop",
        default="5%",
        metavar="P%",
        help="how many points the success rate may fall (default 5%%: from 90%% to 85%%)",
    )
    add_shared_options(parser)
    parser.set_defaults(run=cmd_policy_diff)


@guarded
def cmd_policy_diff(args: argparse.Namespace) -> int:
    """Compare two policies on what is in the ledger; returns the exit code."""
    if not 1 <= args.days <= MAX_DAYS:
        raise InvalidRequestError(f"--days must be from 1 to {MAX_DAYS}, not {args.days}")
    config = load_config(args)
    current, target = _policy(args.current, config), _policy(args.target, config)
    limits = Limits(
        _share("--max-cost-increase", args.max_cost_increase),
        _share("--max-success-drop", args.max_success_drop),
    )
    calls = _logged_calls(config, args.days, current, target)
    if calls is None or next(iter(calls), None) is None:
        return _refuse(args, f"no calls within the last {counted(args.days, 'day')}: nothing to compare on")
    try:
        found = compare(calls, limits)
    except InvalidRequestError as error:  # of the logs, not of the command line
        return _refuse(args, str(error))
    found = found._replace(notes=(*found.notes, *_remarks(found, calls)))
    if args.json:
        print_json({"days": args.days, "limits": limits._asdict(), **_as_json(found, current, target)})
    else:
        _show(found, limits, current, target, args.days)
    return CODES[found.verdict]


def _share(option: str, text: str) -> float:
    number, sign, rest = text.partition("%")
    try:
        share = float(number) / 100 if sign and not rest else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= MAX_PERCENT / 100:
        raise InvalidRequestError(
            f"{option} is a percentage such as 5%, up to {MAX_PERCENT:g}%, not {text!r}"
        )
    return share


def _policy(name: str, config: Config) -> PastPolicy:
    from attune.cli._policy_file import LoggedPolicy, read_policy

    return LoggedPolicy() if name == CURRENT else read_policy(Path(name), config.registry)


def _logged_calls(config: Config, days: int, current: PastPolicy, target: PastPolicy) -> LoggedCalls | None:
    from attune.cli._policy_logs import LoggedCalls

    ledger = open_ledger(config)
    if ledger is None:
        return None
    now = time.time()
    return LoggedCalls(ledger, (now - days * DAY_SECONDS, now), config.registry, current, target)


def _refuse(args: argparse.Namespace, reason: str) -> int:
    if args.json:
        print_json({"verdict": Verdict.UNDECIDED, "notes": [reason]})
    else:
        print(folded(f"undecided: {reason}"))
    return ExitCode.UNDECIDED


def _remarks(found: Comparison, calls: LoggedCalls) -> list[str]:
    """What the estimate took for granted."""
    remarks = []
    total = found.calls + found.unusable
    if calls.labelled < total:
        share = calls.labelled / total
        remarks.append(
            f"an outcome was told of {share:.1%} of the calls; of others only whether an answer came is known"
        )
    if calls.without_attempts:
        remarks.append(f"{counted(calls.without_attempts, 'call')} that no model was asked are left out")
    if calls.priced_as_then:
        remarks.append(
            f"{counted(calls.priced_as_then, 'call')} cost what they did then: there is no price today"
        )
    return remarks


# -- for people ------------------------------------------------------------------------------------------


def _show(found: Comparison, limits: Limits, current: PastPolicy, target: PastPolicy, days: int) -> None:
    print(f"{counted(found.calls, 'call')} within {counted(days, 'day')}, at today's prices; 95 % intervals")
    print_table(("", ">" + current.description, ">" + target.description, ">difference"), _rows(found))
    for remark in found.notes:
        print(folded(f"note: {remark}"))
    print(folded(_sentence(found, limits)))


def _rows(found: Comparison) -> list[tuple[str, ...]]:
    current, target = found.current, found.target
    supports = (current.support, target.support)
    costs = (current.cost, target.cost, found.cost_difference)
    return [
        ("success", _rate(current.success), _rate(target.success), _points(found.success_difference)),
        ("cost a call", *(_usd(cost) for cost in costs)),
        ("cost of all", *(_usd(cost, found.calls) for cost in costs)),
        ("effective calls", *(f"{each.effective:,.0f}" for each in supports), "-"),
        ("largest weight", *(f"{each.largest_weight:.3g}" for each in supports), "-"),
        ("without support", *(f"{each.unsupported:.1%}" for each in supports), "-"),
    ]


def _rate(interval: Interval) -> str:
    value = "" if interval.value is None else f"{interval.value:.1%} "
    return f"{value}[{interval.low:.1%}, {interval.high:.1%}]"


def _points(interval: Interval) -> str:
    value = "" if interval.value is None else f"{100 * interval.value:+.1f} "
    return f"{value}[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}] points"


def _usd(interval: Interval | None, times: int = 1) -> str:
    if interval is None:
        return "unknown"
    value, low, high = (None if each is None else each * times for each in interval)
    return f"{'' if value is None else _signed(value) + ' '}[{_signed(low)}, {_signed(high)}]"


def _signed(usd: float | None) -> str:
    return f"-{dollars(-usd)}" if usd is not None and usd < 0 else dollars(usd)


def _sentence(found: Comparison, limits: Limits) -> str:
    drop = 100 * limits.success_drop
    within = f"at most {100 * limits.cost_increase:.4g} % more cost and {drop:.4g} points less success"
    if found.verdict is Verdict.WITHIN:
        return f"proven within the limits: {within}"
    if found.verdict is Verdict.BEYOND:
        return f"proven beyond the limits ({within})"
    return f"undecided: these calls do not show whether it stays within the limits ({within})"


# -- for programs ----------------------------------------------------------------------------------------


def _as_json(found: Comparison, current: PastPolicy, target: PastPolicy) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "calls": found.calls,
        "unusable_calls": found.unusable,
        "current": {"policy": current.description, **_estimate_as_json(found.current)},
        "target": {"policy": target.description, **_estimate_as_json(found.target)},
        "difference": {
            "success": _interval_as_json(found.success_difference),
            "cost_usd": _interval_as_json(found.cost_difference),
        },
        "notes": found.notes,
    }


def _estimate_as_json(estimate: PolicyEstimate) -> dict[str, Any]:
    return {
        "success": _interval_as_json(estimate.success),
        "cost_usd": _interval_as_json(estimate.cost),
        "success_self_normalised": estimate.success_check,
        "cost_usd_self_normalised": estimate.cost_check,
        **estimate.support._asdict(),
    }


def _interval_as_json(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else interval._asdict()
