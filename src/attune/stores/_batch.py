"""What one transaction of the writer does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome
from attune.stores._codec import INSERT_ATTEMPTS, INSERT_DECISIONS, attempt_row, decision_row
from attune.stores._facts import put_fact
from attune.stores._leases import Settlement, settle
from attune.stores._outcomes import write_outcome
from attune.stores._rollups import RollupDeltas
from attune.stores._rows import RowInsert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from attune.stores._writer import Record

_MAX_CELLS = 50_000

_INSERT_CELLS = RowInsert("INSERT INTO cells", "id, workflow, stage, task_type, provider, model_id, tier")
_SELECT_CELL = (
    "SELECT id FROM cells WHERE workflow = ? AND stage = ? AND task_type = ? AND provider = ? "
    "AND model_id = ? AND tier = ?"
)


class CellNumbers:
    """The numbers of cells, remembered while there are not too many.

    New cells are numbered one after the other, so that roll-ups of one time lie together, and are
    inserted with the batch that needs them.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], int] = {}
        self._new: list[tuple[int | str, ...]] = []
        self._last: int | None = None

    def number(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> int:
        """The number of a cell, within the caller's transaction; ``write`` inserts a new one."""
        known = self._known.get(names)
        if known is not None:
            return known
        if len(self._known) >= _MAX_CELLS:
            self.write(connection)
            self._known.clear()
        row = connection.execute(_SELECT_CELL, names).fetchone()
        number = self._known[names] = self._add(connection, names) if row is None else int(row[0])
        return number

    def write(self, connection: sqlite3.Connection) -> None:
        """Insert the new cells, within the caller's transaction."""
        _INSERT_CELLS.write(connection, self._new)
        self._new = []
        self._last = None

    def forget(self) -> None:
        """Forget everything: a rollback has undone what ``write`` did."""
        self._known.clear()
        self._new = []
        self._last = None

    def _add(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> int:
        if self._last is None:
            self._last = int(connection.execute("SELECT coalesce(max(id), 0) FROM cells").fetchone()[0])
        self._last += 1
        self._new.append((self._last, *names))
        return self._last


def write_records(
    connection: sqlite3.Connection,
    cells: CellNumbers,
    records: Sequence[Record],
) -> None:
    """Insert records with their roll-ups, within the caller's transaction."""
    attempts = []
    decisions = []
    outcomes = []
    deltas = RollupDeltas()
    for record in records:
        if isinstance(record, LLMCallRecord):
            cell = cells.number(connection, record[4:10])
            attempts.append(attempt_row(record, cell))
            deltas.add(record, cell)
        elif isinstance(record, DecisionRecord):
            decisions.append(decision_row(record))
        elif isinstance(record, Outcome):
            outcomes.append(record)
        elif isinstance(record, Settlement):
            settle(connection, record)
        else:
            put_fact(connection, record)
    cells.write(connection)
    INSERT_ATTEMPTS.write(connection, attempts)
    INSERT_DECISIONS.write(connection, decisions)
    deltas.write(connection)
    for outcome in outcomes:  # the attempts that they are about are there now
        write_outcome(connection, outcome)
