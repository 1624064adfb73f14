"""Retention: raw records go after a time, roll-ups stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

_OLDEST_FIRST = (("attempts", "at"), ("decisions", "at"), ("outcomes", "at"), ("leases", "expires"))

_CHUNK = 1000
"""Rows of a table that one step looks at: a few milliseconds of the writer's time."""


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
