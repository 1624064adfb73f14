"""Calls as they were decided and as they went, read one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.stores._codec import SELECT_ATTEMPTS, SELECT_DECISIONS, attempt_from_row, decision_from_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from attune.models.telemetry import DecisionRecord, LLMCallRecord

_LATE_SECONDS = 3600.0
"""Rows lie in the order of their arrival: a decision does not arrive so long after it was made."""


class CallChain(NamedTuple):
    """A call: its decision, its attempts in order, and the last outcome that was told (``None``: none)."""

    decision: DecisionRecord
    attempts: tuple[LLMCallRecord, ...]
    outcome: bool | None


def read_chains(connection: sqlite3.Connection, since: float, until: float) -> Iterator[CallChain]:
    """The calls decided in ``since <= at < until``, in the order of their decisions; the first decision of
    each.
    """
    connection.execute("BEGIN")  # one snapshot for all that follows
    rows = connection.execute(
        SELECT_DECISIONS + "AS d WHERE number >= ? AND at >= ? AND at < ? AND NOT EXISTS "  # noqa: S608
        "(SELECT 1 FROM decisions WHERE call_id = d.call_id AND number < d.number) ORDER BY number",
        (_first_number(connection, since - _LATE_SECONDS), since, until),
    )
    for row in rows:
        decision = decision_from_row(row)
        attempts = connection.execute(
            SELECT_ATTEMPTS + "WHERE call_id = ? ORDER BY position, number", (decision.call_id,)
        )
        outcome = connection.execute(
            "SELECT success FROM outcomes WHERE call_id = ? ORDER BY at DESC, number DESC LIMIT 1",
            (decision.call_id,),
        ).fetchone()
        yield CallChain(
            decision, tuple(map(attempt_from_row, attempts)), None if outcome is None else bool(outcome[0])
        )


def _first_number(connection: sqlite3.Connection, since: float) -> int:
    """The number from which decisions are of ``since`` or later, by halving: no index by time is needed."""
    low, high = connection.execute(
        "SELECT coalesce(min(number), 0), coalesce(max(number), -1) + 1 FROM decisions"
    ).fetchone()
    while low < high:
        middle = (low + high) // 2
        at = connection.execute(
            "SELECT at FROM decisions WHERE number >= ? ORDER BY number LIMIT 1", (middle,)
        ).fetchone()[0]
        if at < since:
            low = middle + 1
        else:
            high = middle
    return int(low)
