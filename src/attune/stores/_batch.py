"""What one transaction of the writer does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.telemetry import DecisionRecord, LLMCallRecord
from attune.stores._codec import INSERT_ATTEMPTS, INSERT_DECISIONS, attempt_row, decision_row
from attune.stores._facts import put_fact
from attune.stores._rollups import RollupDeltas

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from attune.stores._writer import Record

_MAX_CELLS = 50_000


class CellNumbers:
    """The numbers of cells, remembered while there are not too many."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], int] = {}

    def number(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> int:
        """The number of a cell; a new cell gets one, within the caller's transaction."""
        known = self._known.get(names)
        if known is not None:
            return known
        if len(self._known) >= _MAX_CELLS:
            self._known.clear()
        connection.execute(
            "INSERT OR IGNORE INTO cells (workflow, stage, task_type, provider, model_id, tier) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            names,
        )
        row = connection.execute(
            "SELECT id FROM cells WHERE workflow = ? AND stage = ? AND task_type = ? AND provider = ? "
            "AND model_id = ? AND tier = ?",
            names,
        ).fetchone()
        number = self._known[names] = int(row[0])
        return number

    def forget(self) -> None:
        """Forget everything: after a rollback, new numbers no longer hold."""
        self._known.clear()


def write_records(
    connection: sqlite3.Connection,
    cells: CellNumbers,
    records: Sequence[Record],
) -> None:
    """Insert records with their roll-ups, within the caller's transaction."""
    attempts = []
    decisions = []
    deltas = RollupDeltas()
    for record in records:
        if isinstance(record, LLMCallRecord):
            cell = cells.number(connection, record[4:10])
            attempts.append(attempt_row(record, cell))
            deltas.add(record, cell)
        elif isinstance(record, DecisionRecord):
            decisions.append(decision_row(record))
        else:
            put_fact(connection, record)
    INSERT_ATTEMPTS.write(connection, attempts)
    INSERT_DECISIONS.write(connection, decisions)
    deltas.write(connection)
