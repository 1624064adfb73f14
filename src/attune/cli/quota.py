"""``attune quota``."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from attune.cli._exit import ExitCode, guarded, plain
from attune.cli._ledger import open_ledger
from attune.cli._overflow import overflow_as_json, overflow_line, overflow_now
from attune.cli._parser import add_shared_options
from attune.cli._payment import ENROL_A_PLAN
from attune.cli._quota import LOOKED_AT, known_windows, prospect, quota_as_json
from attune.cli._terminal import folded, load_config, print_json
from attune.models.moments import span
from attune.models.quota import CREDITS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from attune.cli._parser import CommandParser
    from attune.cli._quota import KnownWindow
    from attune.config import Config

__all__ = ["cmd_quota", "configure"]

BAR_COLUMNS = 20
NAME_COLUMNS = 40
_COLOURS = ((0.9, "31"), (0.7, "33"), (0.0, "32"))
"""Red from 90 % of a window on, yellow from 70 %, else green."""


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune quota``."""
    parser.description = (
        "Shows what is left of each window of your plan's quota, and of prepaid credits: the part that is\n"
        "used, when it ends, how fast it is used, and when it runs out if that goes on (with 90 % between\n"
        "the two times)."
    )
    parser.epilog = "example:\n  attune quota --json"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_quota)


@guarded
def cmd_quota(args: argparse.Namespace) -> int:
    """Show the windows of the plans, and the credits; returns the exit code."""
    config, now = load_config(args), time.time()
    known = known_windows(config, now)
    plans = [each.name for each in config.plans]
    overflow = overflow_now(config, now) if plans else None
    if args.json:
        told = None if overflow is None else overflow_as_json(overflow)
        print_json({"plans": plans, "windows": [quota_as_json(each) for each in known], "overflow": told})
        return ExitCode.OK
    _show(known, now)
    for name in plans:
        if not any(each.provider == name for each in known):
            print(folded(f"{name}: nothing is known yet; {_how_it_gets_known(config, name)}"))
    if overflow is not None:
        print(folded(overflow_line(overflow)))
    if not plans and not known:
        print(folded(f"no plan is enrolled: {ENROL_A_PLAN}"))
    return ExitCode.OK


def _how_it_gets_known(config: Config, name: str) -> str:
    ledger = open_ledger(config)
    attempts = [] if ledger is None else ledger.recent_attempts(LOOKED_AT)
    if any(each.provider == name and each.success for each in attempts):
        return "its answers so far told of no windows"
    return f"the plan tells of its windows with its answers: attune run --model {name}/claude-haiku-5-5 hi"


def _show(known: Sequence[KnownWindow], now: float) -> None:
    width = max((len(plain(each.window.name)) for each in known), default=0)
    payer = ""
    for each in known:
        if payer != (payer := f"{each.provider} {each.credential}"):
            print(payer)
        used = each.window.utilization
        share = "unknown" if used is None else "none left" if each.expired(now) else f"{used:.0%} used"
        share += f" of ${each.window.capacity_usd:g}" if each.window.name == CREDITS else ""
        name = plain(each.window.name)[:NAME_COLUMNS].ljust(min(width, NAME_COLUMNS))
        print(f"  {name}  {_bar(used)}  {share}")
        print(folded("; ".join(part for part in _said(each, now) if part), "    "))


def _said(known: KnownWindow, now: float) -> tuple[str, ...]:
    resets_at, burn = known.window.resets_at, known.burn_per_hour
    if known.window.name == CREDITS and resets_at is not None:
        when = "" if resets_at <= now else f"expires in {span(resets_at - now)}"
        return (when, "" if burn is None else f"{burn:.1%} an hour", prospect(known, now))
    return (
        "reset not known" if resets_at is None else f"resets in {span(resets_at - now)}",
        "" if burn is None else f"{burn:.1%} an hour",
        prospect(known, now),
        f"learned {span(now - known.learned_at)} ago",
    )


def _bar(used: float | None) -> str:
    """The part that is used as a bar; in colour and in blocks where the terminal has them."""
    filled = 0 if used is None else round(BAR_COLUMNS * min(1.0, used))
    full, left = ("\u2588", "\u2591") if "utf" in (sys.stdout.encoding or "").lower() else ("#", "-")
    bar = full * filled + left * (BAR_COLUMNS - filled)
    if used is None or not _has_colours():
        return bar
    colour = next(code for least, code in _COLOURS if used >= least)
    return f"\x1b[{colour}m{bar}\x1b[0m"


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
