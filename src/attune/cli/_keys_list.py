"""``attune keys list``, and how a key is described."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.accounts import PERIODS, Period, period_bounds, resource_of
from attune.cli._exit import ExitCode
from attune.cli._ledger import open_ledger
from attune.cli._terminal import dollars, load_config, print_json, print_table, utc
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from attune.models.state import KeyRecord, KeyScopes
    from attune.stores.sqlite import SqliteReader

__all__ = ["as_json", "show"]


def show(args: argparse.Namespace) -> int:
    """Print every key; returns the exit code."""
    ledger, now = open_ledger(load_config(args)), time.time()
    records = [] if ledger is None else ledger.all_keys()
    known = _known_costs(records, ledger, now)
    rows = [{**as_json(record, now), **_spent(record, ledger, now, known)} for record in records]
    if args.json:
        print_json({"keys": rows})
    elif not rows:
        print("there are no keys; `attune keys create NAME` makes one")
    else:
        columns = ("name", "id", "state", "created", "may use", "limits and spending")
        print_table(columns, [_cells(*each) for each in zip(records, rows, strict=True)], lead=3)
    return ExitCode.OK


def as_json(record: KeyRecord, now: float) -> dict[str, Any]:
    """A key for programs: times in UTC epoch seconds, lists of what it may use, ``null`` for no limit."""
    scopes = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in record.scopes._asdict().items()
    }
    return {
        "name": record.name,
        "id": record.id,
        "state": _state_of(record, now),
        "created": record.created,
        "expires": record.expires,
        "revoked": record.revoked,
        **scopes,
        **record.limits._asdict(),
    }


def _state_of(record: KeyRecord, now: float) -> str:
    """``valid``, ``expired`` or ``revoked``."""
    if record.revoked is not None:
        return "revoked"
    return "expired" if record.expires is not None and now >= record.expires else "valid"


def _known_costs(
    records: Sequence[KeyRecord], ledger: SqliteReader | None, now: float
) -> dict[Period, dict[str, int]]:
    """What the calls of each key cost, as far as is known, in the periods that some key has no budget of."""
    return {
        period: ledger.spent_by_account(period_bounds(period, now)[0])
        for period in PERIODS
        if ledger is not None and not all(_has_budget(record, period) for record in records)
    }


def _has_budget(record: KeyRecord, period: Period) -> bool:
    return getattr(record.limits, f"usd_per_{period}") is not None


def _spent(
    record: KeyRecord, ledger: SqliteReader | None, now: float, known: dict[Period, dict[str, int]]
) -> dict[str, float]:
    """What is spent in each period, in USD: of a budget with what is reserved by calls under way."""
    spent: dict[str, float] = {}
    for period in PERIODS:
        if ledger is not None and _has_budget(record, period):
            nanos = ledger.used(resource_of(record.id, period), period_bounds(period, now)[0])
        else:
            nanos = known.get(period, {}).get(record.id, 0)
        spent[f"usd_this_{period}"] = nanos / NANOS_PER_USD
    return spent


def _cells(record: KeyRecord, row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if state == "valid" and record.expires is not None:
        state = f"valid until {utc(record.expires)}"
    created, scopes = utc(record.created), _scopes_text(record.scopes)
    return (record.name, record.id, state, created, scopes, _limits_text(row))


def _scopes_text(scopes: KeyScopes) -> str:
    lists = scopes._asdict()
    realtime = lists.pop("realtime")
    parts = [f"{name} {', '.join(sorted(value))}" for name, value in lists.items() if value is not None]
    return "; ".join([*(parts or ["everything"]), *(["realtime"] if realtime else [])])


def _limits_text(row: dict[str, Any]) -> str:
    parts = [
        f"{row[f'{what}_per_minute']:,} {what} a minute"
        for what in ("requests", "tokens")
        if row[f"{what}_per_minute"] is not None
    ]
    parts += [
        f"{dollars(row[f'usd_this_{period}'])} of {dollars(row[f'usd_per_{period}'])} this {period}"
        for period in PERIODS
        if row[f"usd_per_{period}"] is not None
    ]
    spent = [f"{dollars(row['usd_this_month'])} this month"] if row["usd_per_month"] is None else []
    return "; ".join([*(parts or ["none"]), *spent])
