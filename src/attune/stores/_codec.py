"""Records to rows and back."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from attune.models.telemetry import (
    CostStatus,
    DecisionRecord,
    DroppedCandidate,
    LLMCallRecord,
    ScoredCandidate,
    TokenUsage,
)
from attune.stores._rows import RowInsert

if TYPE_CHECKING:
    from collections.abc import Callable

INSERT_ATTEMPTS = RowInsert(
    "INSERT INTO attempts",
    "call_id, attempt_id, decision_id, at, cell, credential, success, latency_ms, ttft_ms,"
    "input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,"
    "cost_nanos, cost_status, price_version, error_class, error_code, stop_reason, position,"
    "chosen_by_policy, session_id, list_cost_nanos",
)
INSERT_DECISIONS = RowInsert(
    "INSERT INTO decisions",
    "decision_id, call_id, at, workflow, stage, task_type, base_tier, tier, policy, reason,"
    "ranked, dropped, features, notes",
)

SELECT_ATTEMPTS = (
    "SELECT call_id, attempt_id, decision_id, at, workflow, stage, task_type, provider, model_id, tier,"
    "credential, success, latency_ms, ttft_ms, input_tokens, output_tokens, cache_read_tokens,"
    "cache_write_tokens, cache_write_1h_tokens, cost_nanos, cost_status, price_version, error_class,"
    "error_code, stop_reason, position, chosen_by_policy, session_id, list_cost_nanos, cell "
    "FROM attempt_records "
)
"""Its rows are what ``attempt_from_row`` takes; the cell's number stands last."""

SELECT_OLDER_ATTEMPTS = SELECT_ATTEMPTS.replace("list_cost_nanos", "NULL")
"""The same from a file of before list prices were kept."""

SELECT_DECISIONS = (
    "SELECT decision_id, call_id, at, workflow, stage, task_type, base_tier, tier, policy, reason,"
    "ranked, dropped, features, notes FROM decisions "
)
"""Its rows are what ``decision_from_row`` takes."""

_NO_USAGE = (None,) * len(TokenUsage._fields)


def attempt_row(record: LLMCallRecord, cell: int) -> tuple[Any, ...]:
    """The row of an attempt. Plain types only: others cost the driver a look-up each."""
    # One unpacking is the fastest way to take a record apart.
    (
        call_id,
        attempt_id,
        decision_id,
        at,
        *_,
        credential,
        success,
        latency_ms,
        ttft_ms,
        usage,
        cost_nanos,
        cost_status,
        price_version,
        error_class,
        error_code,
        stop_reason,
        position,
        chosen_by_policy,
        session_id,
        list_cost_nanos,
    ) = record
    return (
        call_id,
        attempt_id,
        decision_id,
        at,
        cell,
        credential,
        1 if success else 0,
        latency_ms,
        ttft_ms,
        *(usage or _NO_USAGE),
        cost_nanos,
        str(cost_status),
        price_version,
        str(error_class),
        error_code,
        stop_reason,
        position,
        1 if chosen_by_policy else 0,
        session_id,
        list_cost_nanos,
    )


def attempt_from_row(row: tuple[Any, ...]) -> LLMCallRecord:
    """The attempt of a row of ``SELECT_ATTEMPTS``."""
    usage = None if row[14] is None else TokenUsage(*row[14:19])
    return LLMCallRecord._make(
        (
            *row[:11],
            bool(row[11]),
            *row[12:14],
            usage,
            row[19],
            CostStatus(row[20]),
            *row[21:26],
            bool(row[26]),
            *row[27:29],
        )
    )


def decision_row(record: DecisionRecord) -> tuple[Any, ...]:
    """The row of a decision; lists are JSON texts of arrays."""
    return (*record[:10], *map(_json_encode(), record[10:]))


def decision_from_row(row: tuple[Any, ...]) -> DecisionRecord:
    """The decision of a row of ``SELECT_DECISIONS``."""
    import json

    ranked, dropped, features, notes = map(json.loads, row[10:])
    return DecisionRecord._make(
        (
            *row[:10],
            tuple(ScoredCandidate(*each) for each in ranked),
            tuple(DroppedCandidate(*each) for each in dropped),
            tuple((name, value) for name, value in features),
            tuple(notes),
        )
    )


@cache
def _json_encode() -> Callable[[Any], str]:
    # Here, where only what writes decisions comes to. The standard library's takes six times as long (19 us
    # a decision) and keeps the interpreter's lock: calls waited 4 ms for every batch.
    from msgspec.json import Encoder

    encode = Encoder().encode
    return lambda value: encode(value).decode()
