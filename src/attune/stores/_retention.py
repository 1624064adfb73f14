"""Retention: raw records go after a time, roll-ups stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

DAY_SECONDS = 86_400

_OLDEST_FIRST = (("attempts", "at"), ("decisions", "at"), ("outcomes", "at"), ("leases", "expires"))

_CHUNK = 1000
"""Rows of a table that one step looks at: a few milliseconds of the writer's time."""


class Retention:
    """Deletes what is older than ``days``: at once, then once a day; ``clock`` gives UTC epoch seconds."""

    def __init__(self, days: int, clock: Callable[[], float]) -> None:
        self._seconds = days * DAY_SECONDS
        self._clock = clock
        self._next = float("-inf")

    def due(self) -> bool:
        """Whether it is time for a step."""
        return self._clock() >= self._next

    def take(self) -> Callable[[sqlite3.Connection], None]:
        """The step to do now. The next is due in a day, also if this one is never done or fails."""
        self._next = self._clock() + DAY_SECONDS
        return self._step

    def _step(self, connection: sqlite3.Connection) -> None:
        now = self._clock()
        if prune_step(connection, now - self._seconds):
            self._next = now  # there may be more


def prune_step(connection: sqlite3.Connection, before: float) -> bool:
    """Delete some of what is older than ``before``; whether there may be more.

    Rows lie in the order of their arrival, so each table is read from its oldest end, and done when
    nothing in a chunk was old: no index by time is needed. Runs within the caller's transaction.
    """
    deleted = 0
    for table, column in _OLDEST_FIRST:
        deleted += connection.execute(
            f"DELETE FROM {table} WHERE {column} < ? AND number < "  # noqa: S608 (our own names)
            f"(SELECT min(number) FROM {table}) + {_CHUNK}",
            (before,),
        ).rowcount
    connection.execute("DELETE FROM facts WHERE at < ? AND until < ?", (before, before))
    return deleted > 0
