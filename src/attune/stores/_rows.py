"""Writing many rows in few statements."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_MAX_PARAMETERS = 32_766  # SQLite's own default limit
_SIZES = (1024, 128, 16)


class RowInsert:
    """``INSERT`` of rows of one shape; ``tail`` is what follows the values (``ON CONFLICT ...``).

    A statement holds many rows because the interpreter's lock is given up at every step of a
    statement, and a busy event loop gives it back only after 5 ms: row by row a loaded program
    would write 200 rows a second. Rows are therefore cut into a few fixed sizes, whose statements
    stay compiled, and one small rest.
    """

    def __init__(self, verb: str, columns: str, tail: str = "") -> None:
        self._head = f"{verb} ({columns}) VALUES "
        self._tail = tail
        width = columns.count(",") + 1
        self._row = f"({', '.join('?' * width)})"
        self._sizes = tuple(size for size in _SIZES if size * width <= _MAX_PARAMETERS)
        self._statement = lru_cache(maxsize=32)(self._text)

    def write(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows in their order, within the caller's transaction."""
        start = 0
        for size in self._sizes:
            while len(rows) - start >= size:
                self._execute(connection, rows[start : start + size])
                start += size
        if start < len(rows):
            self._execute(connection, rows[start:])

    def _execute(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        connection.execute(self._statement(len(rows)), list(chain.from_iterable(rows)))

    def _text(self, size: int) -> str:
        return self._head + ",".join([self._row] * size) + self._tail
