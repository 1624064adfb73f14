"""Facts: what holds until a time, kept so that every order of arrival ends the same.

Of each (kind, key) those facts are kept that no other one outdoes: a later clearing outdoes
everything learned up to its time, and a fact outdoes the ones learned before it with an earlier
deadline. A clearing is kept, so that a fact that arrives late but was learned before it stays out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.state import Fact, FactKind

if TYPE_CHECKING:
    import sqlite3

CLEARED_SHOWN_SECONDS = 3600.0

TRIP_SHOWN_SECONDS = 86_400.0
"""How long after its deadline a trip is known that nobody has cleared: its breaker is half-open."""

_KINDS = frozenset(FactKind)


def put_fact(connection: sqlite3.Connection, fact: Fact) -> None:
    """Store a fact and drop those that are outdone now, within the caller's transaction."""
    key = (str(fact.kind), fact.key)
    connection.execute(
        "INSERT OR REPLACE INTO facts (kind, key, at, until, detail, data) VALUES (?, ?, ?, ?, ?, ?)",
        (*key, fact.at, fact.until, fact.detail, fact.data),
    )
    connection.execute(
        """DELETE FROM facts AS old WHERE kind = ? AND key = ? AND EXISTS (
            SELECT 1 FROM facts AS new
            WHERE new.kind = old.kind AND new.key = old.key AND new.at >= old.at
                AND (new.at, new.until) <> (old.at, old.until)
                AND (new.until = 0 OR (old.until > 0 AND new.until >= old.until)))""",
        key,
    )


def read_facts(connection: sqlite3.Connection, now: float) -> list[Fact]:
    """The facts that hold at ``now``, those cleared within the hour before, and the breaker trips of the
    day before that were never cleared; by kind and key.
    """
    found: dict[tuple[str, str], Fact] = {}
    for kind, *rest in connection.execute(
        "SELECT kind, key, until, at, detail, data FROM facts "
        "WHERE until > ? OR (until = 0 AND at > ?) OR (kind = ? AND until > ?) ORDER BY kind, key, until",
        (now, now - CLEARED_SHOWN_SECONDS, str(FactKind.BREAKER), now - TRIP_SHOWN_SECONDS),
    ):
        if kind in _KINDS:  # another version may know more kinds
            fact = Fact(FactKind(kind), *rest)
            found[kind, fact.key] = fact
    return list(found.values())
