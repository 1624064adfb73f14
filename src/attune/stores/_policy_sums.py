"""What policies have learned, as sums that every process adds to."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


def add_sums(
    connection: sqlite3.Connection, policy: str, changes: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    """Add to a policy's sums by name, within the caller's transaction; all of them, with these."""
    known = read_sums(connection, policy)
    rows = []
    for name, change in changes.items():
        total = known.get(name)
        if total is None or len(total) != len(change):
            total = [0.0] * len(change)
        known[name] = [a + b for a, b in zip(total, change, strict=True)]
        rows.append((policy, name, array("d", known[name]).tobytes()))
    connection.executemany(
        "INSERT INTO policy_sums (policy, name, sums) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET sums = excluded.sums",
        rows,
    )
    return known


def read_sums(connection: sqlite3.Connection, policy: str) -> dict[str, list[float]]:
    """A policy's sums by name."""
    rows = connection.execute("SELECT name, sums FROM policy_sums WHERE policy = ?", (policy,))
    return {name: array("d", sums).tolist() for name, sums in rows if len(sums) % 8 == 0}
