"""``attune breakers``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._payment import is_replaced
from attune.cli._terminal import load_config, print_json, print_table, utc
from attune.models.state import FactKind

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.models.state import Fact

__all__ = ["cmd_breakers", "configure"]

_STATES = {
    FactKind.BREAKER: "open",
    FactKind.COOLDOWN: "cooling down",
    FactKind.CREDENTIAL_OFF: "credential off",
    FactKind.MODEL_OFF: "model off",
}
_HALF_OPEN = "half-open (a probe is allowed)"
_REPLACED = "closed: its key was replaced"


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune breakers``."""
    parser.description = (
        "Shows what all attune processes of this user know of right now: open circuits, half-open ones,\n"
        "cooldowns, credentials and models that are off, and what was closed again within the last hour."
    )
    parser.epilog = "example:\n  attune breakers --json"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_breakers)


@guarded
def cmd_breakers(args: argparse.Namespace) -> int:
    """Show what is tripped, off or cooling down; returns the exit code."""
    config = load_config(args)
    ledger, now = open_ledger(config), time.time()
    rows = [
        _row(fact, now, replaced=is_replaced(fact, config))
        for fact in (ledger.facts() if ledger else ())
        if fact.kind is not FactKind.QUOTA  # `attune quota` shows those
    ]
    if args.json:
        print_json({"domains": rows})
    elif not rows:
        print("everything is closed: nothing is tripped, off or cooling down")
    else:
        print_table(
            ("domain", "state", ">until", ">seconds left", "detail"),
            [
                (
                    row["domain"],
                    row["state"],
                    "-" if row["until"] is None else utc(row["until"]),
                    "-" if row["until"] is None else f"{row['seconds_left']:.0f}",
                    row["detail"],
                )
                for row in rows
            ],
            lead=2,
        )
    return ExitCode.OK


def _row(fact: Fact, now: float, *, replaced: bool) -> dict[str, Any]:
    holds = fact.until > now and not replaced
    past = _HALF_OPEN if fact.kind is FactKind.BREAKER and fact.until else "closed"
    past = _REPLACED if replaced and fact.until > now else past
    return {
        "domain": fact.key,
        "kind": fact.kind.value,
        "state": _STATES[fact.kind] if holds else past,
        "until": fact.until if holds else None,
        "seconds_left": fact.until - now if holds else 0.0,
        "since": fact.at,
        "detail": fact.detail,
    }
