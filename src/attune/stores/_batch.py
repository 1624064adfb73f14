"""What one transaction of the writer does."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from attune.models.telemetry import DecisionRecord, LLMCallRecord
from attune.stores._codec import INSERT_ATTEMPTS, INSERT_DECISIONS, attempt_row, decision_row
from attune.stores._facts import put_fact
from attune.stores._rollups import RollupDeltas
from attune.stores._rows import RowInsert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from attune.stores._writer import Record

_MAX_CELLS = 50_000

_INSERT_CELLS = RowInsert(
    "INSERT INTO cells",
    "id, workflow, stage, task_type, provider, model_id, tier",
    " ON CONFLICT DO NOTHING",
)


class CellNumbers:
    """The numbers of cells, remembered while there are not too many.

    A cell's number is the first 63 bits of a hash of its names: every process finds the same one
    without asking the file, and two of 100,000 cells share a number with a chance of 1 in 10^9.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], int] = {}
        self._new: list[tuple[int | str, ...]] = []

    def number(self, names: tuple[str, ...]) -> int:
        """The number of a cell; a new cell is written by the next ``write``."""
        known = self._known.get(names)
        return self._add(names) if known is None else known

    def write(self, connection: sqlite3.Connection) -> None:
        """Insert the new cells, within the caller's transaction."""
        _INSERT_CELLS.write(connection, self._new)
        self._new = []

    def forget(self) -> None:
        """Take every cell for new again: a rollback has undone what ``write`` did."""
        self._known.clear()
        self._new = []

    def _add(self, names: tuple[str, ...]) -> int:
        if len(self._known) >= _MAX_CELLS:
            self._known.clear()
        digest = blake2b(repr(names).encode(), digest_size=8).digest()
        number = self._known[names] = int.from_bytes(digest, "big") >> 1
        self._new.append((number, *names))
        return number


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
            cell = cells.number(record[4:10])
            attempts.append(attempt_row(record, cell))
            deltas.add(record, cell)
        elif isinstance(record, DecisionRecord):
            decisions.append(decision_row(record))
        else:
            put_fact(connection, record)
    cells.write(connection)
    INSERT_ATTEMPTS.write(connection, attempts)
    INSERT_DECISIONS.write(connection, decisions)
    deltas.write(connection)
