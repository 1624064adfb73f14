"""``attune breakers``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode, guarded, note
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._payment import is_replaced
from attune.cli._terminal import folded, load_config, print_json, print_table, utc
from attune.errors import UnknownNameError
from attune.models.quota import USED_UP
from attune.models.state import FactKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from attune.cli._parser import CommandParser
    from attune.config import Config
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
        "cooldowns, credentials and models that are off, and what was closed again within the last hour.\n"
        "--reset has it tried again at once, by all of them: after a new login, for example."
    )
    parser.epilog = "examples:\n  attune breakers --json\n  attune breakers --reset claude#subscription"
    parser.add_argument(
        "--reset",
        nargs="?",
        const="",
        metavar="NAME",
        help="clear one domain, or all but quota that is used up, which ends with its reset",
    )
    add_shared_options(parser)
    parser.set_defaults(run=cmd_breakers)


@guarded
def cmd_breakers(args: argparse.Namespace) -> int:
    """Show what is tripped, off or cooling down, or clear it; returns the exit code."""
    config = load_config(args)
    if args.reset is not None:
        return _reset(config, args.reset, as_json=args.json)
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


def _reset(config: Config, name: str, *, as_json: bool) -> int:
    """Clear what is known of a domain, or of all. Raises ``UnknownNameError`` for one that is not tripped."""
    ledger, now = open_ledger(config), time.time()
    facts = [f for f in (ledger.facts() if ledger else ()) if f.until and f.kind is not FactKind.QUOTA]
    chosen = [fact for fact in facts if (fact.key == name if name else fact.detail != USED_UP)]
    if name and not chosen:
        known = {fact.key for fact in facts}
        raise UnknownNameError("domain", name, known, where="what is tripped, off or cooling down")
    if chosen:
        _clear(config, chosen, now)
    left = [] if name else [fact for fact in facts if fact not in chosen]
    if as_json:
        shown = {"cleared": chosen, "left": left}
        print_json({k: [_fact_as_json(fact) for fact in found] for k, found in shown.items()})
        return ExitCode.OK
    for fact in chosen:
        print(folded(f"cleared: {_told(fact, now)}"))
    for fact in left:
        print(folded(f"left: {_told(fact, now)}: give its name to have it asked all the same"))
    if not facts:
        print("nothing is tripped, off or cooling down: nothing to clear")
    return ExitCode.OK


def _clear(config: Config, facts: Sequence[Fact], now: float) -> None:
    """Store that they hold no more, which every process then takes in. What they say stays with them: it
    tells which of the things that are known of a domain is cleared.
    """
    from attune.stores.sqlite import SqliteStore

    durability, days = config.ledger
    store = SqliteStore.open(config.paths.ledger_file, durability=durability, retention_days=days)
    try:
        for notice in store.notices:
            note(notice)
        for fact in facts:
            store.put_fact(fact._replace(until=0.0, at=now))
    finally:
        store.close()


def _told(fact: Fact, now: float) -> str:
    state = _STATES[fact.kind] if fact.until > now else _HALF_OPEN
    return f"{fact.key} ({state}: {fact.detail})"


def _fact_as_json(fact: Fact) -> dict[str, Any]:
    return {"domain": fact.key, "kind": fact.kind.value, "detail": fact.detail}


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
