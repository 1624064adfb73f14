"""Calls as they were decided and as they went, read one by one."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from collections.abc import Iterable, Iterator

    from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome

_LATE_SECONDS = 3600.0
"""Rows lie in the order of their arrival: a decision does not arrive so long after it was made."""

LOOKED_AT = 200_000
"""Among so many of the newest calls those of one workflow, or that failed, are looked for: no index has them,
and a rare one would else take longer the older the ledger is.
"""

_FIRST_OF_CALL = "NOT EXISTS (SELECT 1 FROM decisions WHERE call_id = d.call_id AND number < d.number)"
_MAY_HAVE_FAILED = (
    "(NOT EXISTS (SELECT 1 FROM attempts WHERE call_id = d.call_id AND success) "
    "OR EXISTS (SELECT 1 FROM outcomes WHERE call_id = d.call_id AND NOT success))"
)


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

    @property
    def succeeded(self) -> bool:
        """Whether an answer came of which nothing says that it was no good."""
        return any(each.success for each in self.attempts) and self.outcome is not False

    @property
    def answer(self) -> LLMCallRecord | None:
        """The attempt whose answer the call returned, by the order of ``Judge.worth``; where none succeeded
        the last one, ``None`` without any.
        """
        verdicts = {each.attempt_id: each for each in self.outcomes if each.source == "validator"}

        def worth(attempt: LLMCallRecord) -> tuple[bool, bool, float, int]:
            verdict = verdicts.get(attempt.attempt_id)
            score = 0.0 if verdict is None else verdict.score or 0.0
            return attempt.success, verdict is None or verdict.success, score, attempt.position

        return max(self.attempts, key=worth, default=None)


def read_chains(connection: sqlite3.Connection, since: float, until: float) -> Iterator[CallChain]:
    """The calls decided in ``since <= at < until``, in the order of their decisions; the first decision of
    each.
    """
    connection.execute("BEGIN")  # one snapshot for all that follows
    rows = connection.execute(
        f"{SELECT_DECISIONS}AS d WHERE number >= ? AND at >= ? AND at < ? AND {_FIRST_OF_CALL} "
        "ORDER BY number",
        (first_number(connection, since), since, until),
    )
    yield from _with_all_of_them(connection, rows)


def read_newest(
    connection: sqlite3.Connection, limit: int, *, workflow: str | None, failed: bool
) -> list[CallChain]:
    """Of the newest ``LOOKED_AT`` calls the newest first: those of one ``workflow`` (``None``: of all), and
    if ``failed`` only those that did not succeed.
    """
    connection.execute("BEGIN")
    wanted = ["number > (SELECT max(number) FROM decisions) - :most", _FIRST_OF_CALL]
    wanted += ["workflow = :workflow"] if workflow is not None else []
    wanted += [_MAY_HAVE_FAILED] if failed else []
    rows = connection.execute(
        f"{SELECT_DECISIONS}AS d WHERE {' AND '.join(wanted)} ORDER BY number DESC",
        {"most": LOOKED_AT, "workflow": workflow},
    )
    found = (chain for chain in _with_all_of_them(connection, rows) if not (failed and chain.succeeded))
    return list(islice(found, limit))


def read_ids(connection: sqlite3.Connection, beginning: str, limit: int) -> list[str]:
    """The ids of calls that begin in a way, in their order."""
    rows = connection.execute(
        "SELECT DISTINCT call_id FROM decisions WHERE call_id >= ? AND call_id < ? ORDER BY call_id LIMIT ?",
        (beginning, beginning + "\U0010ffff", limit),
    )
    return [call_id for (call_id,) in rows]


def _with_all_of_them(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> Iterator[CallChain]:
    """The calls of rows of ``SELECT_DECISIONS``, read as they are asked for."""
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
