"""Calls as they were decided and as they went, read one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.models.telemetry import NANOS_PER_USD
from attune.stores._codec import (
    SELECT_ATTEMPTS,
    SELECT_DECISIONS,
    SELECT_OLDER_ATTEMPTS,
    attempt_from_row,
    decision_from_row,
)
from attune.stores._outcomes import outcome_from_row
from attune.stores._schema import has_labels

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome

_LATE_SECONDS = 3600.0
"""Rows lie in the order of their arrival: a decision does not arrive so long after it was made."""


class CallChain(NamedTuple):
    """A call: its decision, its attempts in order, and what was said of their answers."""

    decision: DecisionRecord
    attempts: tuple[LLMCallRecord, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def outcome(self) -> bool | None:
        """Whether the call had a good answer: the caller's last word, else whether a validator let one pass;
        ``None`` when nothing was said.
        """
        told = [outcome for outcome in self.outcomes if outcome.source == "caller"]
        if told:
            return max(told, key=lambda outcome: outcome.at).success
        return any(outcome.success for outcome in self.outcomes) if self.outcomes else None


def read_chains(connection: sqlite3.Connection, since: float, until: float) -> Iterator[CallChain]:
    """The calls decided in ``since <= at < until``, in the order of their decisions; the first decision of
    each.
    """
    connection.execute("BEGIN")  # one snapshot for all that follows
    rows = connection.execute(
        SELECT_DECISIONS + "AS d WHERE number >= ? AND at >= ? AND at < ? AND NOT EXISTS "  # noqa: S608
        "(SELECT 1 FROM decisions WHERE call_id = d.call_id AND number < d.number) ORDER BY number",
        (first_number(connection, since), since, until),
    )
    select = SELECT_ATTEMPTS if has_labels(connection) else SELECT_OLDER_ATTEMPTS
    for row in rows:
        decision = decision_from_row(row)
        attempts = connection.execute(
            select + "WHERE call_id = ? ORDER BY position, number", (decision.call_id,)
        )
        outcomes = read_outcomes(connection, decision.call_id)
        yield CallChain(decision, tuple(map(attempt_from_row, attempts)), tuple(outcomes))


def read_recent(connection: sqlite3.Connection, limit: int) -> list[tuple[DecisionRecord, float | None]]:
    """The newest decisions, oldest first, each with the USD of its attempts (``None``: not known)."""
    rows = connection.execute(f"{SELECT_DECISIONS}ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
    found = []
    for decision in map(decision_from_row, reversed(rows)):
        nanos, known = connection.execute(
            "SELECT sum(cost_nanos), count(*) = count(cost_nanos) FROM attempts WHERE call_id = ?",
            (decision.call_id,),
        ).fetchone()
        found.append((decision, nanos / NANOS_PER_USD if known and nanos is not None else None))
    return found


def read_outcomes(connection: sqlite3.Connection, call_id: str) -> list[Outcome]:
    """What was said of the answers of one call, the oldest first."""
    told = "attempt_id, source" if has_labels(connection) else "'', 'caller'"
    rows = connection.execute(
        f"SELECT call_id, at, success, score, {told} FROM outcomes WHERE call_id = ? ORDER BY number",  # noqa: S608
        (call_id,),
    )
    return [outcome_from_row(row) for row in rows]


def first_number(connection: sqlite3.Connection, since: float) -> int:
    """A number from which all decisions of ``since`` or later are, by halving: no index by time is needed."""
    since -= _LATE_SECONDS
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
