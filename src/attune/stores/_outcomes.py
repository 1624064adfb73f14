"""Outcomes: what is known of the answers of attempts, and what that corrects in the roll-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.models.performance import BUCKET_SECONDS, label_change
from attune.models.state import OutcomeTarget
from attune.models.telemetry import Decided, Outcome
from attune.stores._codec import SELECT_ATTEMPTS, SELECT_DECISIONS, attempt_from_row, decision_from_row

if TYPE_CHECKING:
    import sqlite3

    from attune.models.telemetry import LLMCallRecord

_VERDICT = (
    "(SELECT {} FROM outcomes AS o WHERE o.call_id = attempt_records.call_id "
    "AND o.attempt_id = attempt_records.attempt_id AND o.source = 'validator')"
)

_SELECT_ANSWER = (
    f"{SELECT_ATTEMPTS}WHERE call_id = ?1 AND ?2 IN ('', attempt_id) ORDER BY success DESC, "
    f"coalesce({_VERDICT.format('o.success')}, 1) DESC, coalesce({_VERDICT.format('o.score')}, 0) DESC, "
    "position DESC, number DESC LIMIT 1"
)
"""The answer that a call returned, by the order of ``Judge.worth``; or one attempt of it."""

_SELECT_PREVIOUS = (
    "SELECT call_id, at, success, score, attempt_id, source FROM outcomes "
    "WHERE call_id = ? AND attempt_id = ? ORDER BY source LIMIT 1"  # the caller's before a validator's
)

_FIRST = "WHERE call_id = ? ORDER BY number LIMIT 1"

_INSERT = (
    "INSERT INTO outcomes (call_id, at, success, score, attempt_id, source) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (call_id, attempt_id, source) DO UPDATE SET "
    "at = excluded.at, success = excluded.success, score = excluded.score"
)


def apply_outcome(connection: sqlite3.Connection, outcome: Outcome) -> OutcomeTarget | None:
    """``write_outcome``, with what decided the call."""
    found = write_outcome(connection, outcome)
    return None if found is None else OutcomeTarget(*found, _decided(connection, outcome.call_id))


def write_outcome(
    connection: sqlite3.Connection, outcome: Outcome
) -> tuple[LLMCallRecord, Outcome | None] | None:
    """Store an outcome and correct the roll-up of its attempt, within the caller's transaction. Returns the
    attempt and what an earlier outcome had said of it; ``None`` for an unknown one.

    An attempt whose transport failed stays a failure, and its label does not count. A validator's word is
    taken once, and not after the caller's. As in ``PerformanceStats.correct``, the newest of the last 20
    results that differs is taken for the one that changed.
    """
    row = connection.execute(_SELECT_ANSWER, (outcome.call_id, outcome.attempt_id)).fetchone()
    if row is None:
        return None
    record = attempt_from_row(row)
    earlier = connection.execute(_SELECT_PREVIOUS, (record.call_id, record.attempt_id)).fetchone()
    previous = None if earlier is None else outcome_from_row(earlier)
    if previous is None or outcome.source == "caller":
        connection.execute(_INSERT, (*outcome[:4], record.attempt_id, outcome.source))
        if record.success:
            _correct(connection, record, row[-1], previous, outcome)
    return record, previous


def outcome_from_row(row: tuple[Any, ...]) -> Outcome:
    """The outcome of a row of its fields."""
    call_id, at, success, *rest = row
    return Outcome(call_id, at, bool(success), *rest)


def _decided(connection: sqlite3.Connection, call_id: str) -> Decided:
    row = connection.execute(SELECT_DECISIONS + _FIRST, (call_id,)).fetchone()
    if row is None:
        return Decided()
    decision = decision_from_row(row)
    among = [f"{each.provider}/{each.model_id}" for each in decision.ranked if each.propensity]
    return Decided(decision.policy, dict(decision.features).get("table", ""), tuple(among))


def _correct(
    connection: sqlite3.Connection,
    record: LLMCallRecord,
    cell: int,
    previous: Outcome | None,
    outcome: Outcome,
) -> None:
    key = (int(record.at // BUCKET_SECONDS), cell)
    connection.execute(
        "UPDATE rollups SET labelled = labelled + ?1, label_sum = label_sum + ?2, judged = judged + ?3, "
        "passed = passed + ?4, drawn = drawn + ?1 * ?5, drawn_sum = drawn_sum + ?2 * ?5 "
        "WHERE bucket = ?6 AND cell = ?7",
        (*label_change(previous, outcome), record.chosen_by_policy, *key),
    )
    if (previous is None or previous.success) == outcome.success:
        return
    recent, count = connection.execute(
        "SELECT recent, recent_count FROM rollups WHERE bucket = ? AND cell = ?", key
    ).fetchone()
    flipped = next((1 << place for place in range(count) if bool(recent >> place & 1) is outcome.success), 0)
    change = 1 if outcome.success else -1
    connection.execute(
        "UPDATE rollups SET successes = successes + ?, latency_ms_sum = latency_ms_sum + ?, recent = ? "
        "WHERE bucket = ? AND cell = ?",
        (change, change * record.latency_ms, recent ^ flipped, *key),
    )
