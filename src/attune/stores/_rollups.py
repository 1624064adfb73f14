"""Roll-ups: sums by cell and bucket of time, and the totals of a bucket.

A batch of attempts is first summed in memory; each cell's sums are then added to its row, so that
several processes may add to the same row. A row's latency bins are appended to while they are
short (a sketch may repeat an index) and merged when they grow long.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from attune.errors import ErrorClass
from attune.models.performance import BUCKET_SECONDS, RECENT, LatencySketch, counts, merge_bytes, timed_out
from attune.stores._rows import RowInsert

if TYPE_CHECKING:
    import sqlite3

    from attune.models.telemetry import LLMCallRecord

_RECENT_MASK = (1 << RECENT) - 1

_LONG_BINS = 1200
"""Bytes of bins (six a pair) from which they are merged instead of appended to."""

_SUMS = (
    "calls",
    "successes",
    "latency_ms_sum",
    "cost_nanos_sum",
    "cost_count",
    "input_tokens_sum",
    "output_tokens_sum",
    "usage_count",
)

_ADD_ROLLUPS = RowInsert(
    "INSERT INTO rollups",
    f"bucket, cell, {', '.join(_SUMS)}, latency_bins, recent, recent_count",
    f""" ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)},
    latency_bins = CASE WHEN length(latency_bins) + length(excluded.latency_bins) > {_LONG_BINS}
        THEN merge_bins(latency_bins, excluded.latency_bins)
        ELSE CAST(latency_bins || excluded.latency_bins AS BLOB) END,
    recent = ((recent << excluded.recent_count) | excluded.recent) & {_RECENT_MASK},
    recent_count = min({RECENT}, recent_count + excluded.recent_count)""",
)

_TOTALS = (
    "calls",
    "attempts",
    "failed_attempts",
    "input_tokens",
    "output_tokens",
    "cost_nanos",
    "unknown_cost_attempts",
    "list_cost_nanos",
)

_ADD_TOTALS = RowInsert(
    "INSERT INTO totals",
    f"bucket, {', '.join(_TOTALS)}",
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _TOTALS)}",
)


_ADD_PAID = RowInsert(
    "INSERT INTO paid",
    "provider, credential, cost_nanos",
    " ON CONFLICT DO UPDATE SET cost_nanos = cost_nanos + excluded.cost_nanos",
)


def register_functions(connection: sqlite3.Connection) -> None:
    """Give the writer's connection the function that the upsert of roll-ups calls."""
    connection.create_function("merge_bins", 2, merge_bytes, deterministic=True)


class RollupDeltas:
    """What a batch of attempts adds to the roll-ups, the totals and what each credential paid."""

    def __init__(self) -> None:
        self._counted: dict[tuple[int, int], list[LLMCallRecord]] = {}
        self._uncounted: dict[tuple[int, int], list[LLMCallRecord]] = {}
        self._paid: dict[tuple[str, str], int] = {}

    def add(self, record: LLMCallRecord, cell: int) -> None:
        """Take an attempt; one that says nothing of the model enters the totals only, but for the time of a
        cancelled one.
        """
        if record.cost_nanos:
            payer = record.provider, record.credential
            self._paid[payer] = self._paid.get(payer, 0) + record.cost_nanos
        groups = self._counted if record.success or counts(record) else self._uncounted
        key = (int(record.at // BUCKET_SECONDS), cell)
        group = groups.get(key)
        if group is None:
            groups[key] = [record]
        else:
            group.append(record)

    def write(self, connection: sqlite3.Connection) -> None:
        """Add everything to the tables, within the caller's transaction."""
        sketch = LatencySketch()
        rows = []
        by_bucket: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for (bucket, cell), group in self._counted.items():
            sketch.bins.clear()
            sums, recent, first_attempts = _summed(group, sketch)
            rows.append((bucket, cell, *sums, sketch.to_bytes(), recent, min(RECENT, len(group))))
            by_bucket[bucket].append((*sums, first_attempts, _list_cost(group)))
        for (bucket, cell), group in self._uncounted.items():
            sums, _, first_attempts = _summed(group, sketch)
            if any(record.error_class == ErrorClass.CANCELLED for record in group):
                rows.append((bucket, cell, 0, 0, sums[2], 0, 0, 0, 0, 0, b"", 0, 0))
            by_bucket[bucket].append((*sums, first_attempts, _list_cost(group)))
        _ADD_ROLLUPS.write(connection, rows)
        _ADD_PAID.write(connection, [(*payer, nanos) for payer, nanos in self._paid.items()])
        _ADD_TOTALS.write(connection, [(bucket, *_totals(some)) for bucket, some in by_bucket.items()])


def _summed(group: list[LLMCallRecord], sketch: LatencySketch) -> tuple[tuple[Any, ...], int, int]:
    """The sums of ``_SUMS``, the last results as bits, and how many attempts began a call.

    The latencies of successes and time-outs enter the sketch.
    """
    successes = cost_nanos = cost_count = input_tokens = output_tokens = usage_count = 0
    recent = first_attempts = 0
    latency_ms = 0.0
    for record in group:
        success, latency, _, usage, cost = record[11:16]
        if success:
            successes += 1
        if success or timed_out(record):
            latency_ms += latency
            sketch.add(latency)
        elif record.error_class == ErrorClass.CANCELLED:
            latency_ms += latency
        if cost is not None:
            cost_nanos += cost
            cost_count += 1
        if usage is not None:
            input_tokens += usage[0]
            output_tokens += usage[1]
            usage_count += 1
        recent = (recent << 1 | (not success)) & _RECENT_MASK
        if record.position == 0:
            first_attempts += 1
    tokens = (input_tokens, output_tokens, usage_count)
    return (len(group), successes, latency_ms, cost_nanos, cost_count, *tokens), recent, first_attempts


def _list_cost(group: list[LLMCallRecord]) -> int:
    return sum(record.list_cost_nanos or 0 for record in group)


def _totals(sums: list[tuple[Any, ...]]) -> tuple[int, ...]:
    """The sums of ``_TOTALS`` over all groups of a bucket."""
    attempts, successes, _, cost_nanos, cost_count, input_tokens, output_tokens, _, calls, listed = (
        sum(column) for column in zip(*sums, strict=True)
    )
    failed, unknown_cost = attempts - successes, attempts - cost_count
    return calls, attempts, failed, input_tokens, output_tokens, cost_nanos, unknown_cost, listed
