"""Whether a ledger is sound, as far as opening it can afford to look.

A small file is looked through. Of a large one only the ends of every table and index are read: there
the writer writes. Damage that is met later leaves a mark in the file's header, and the next start
looks through all of a file that has it.
"""

from __future__ import annotations

import contextlib
import sqlite3

SMALL_BYTES = 1_000_000
"""A file up to this size is looked through at every start, in 2 ms."""

PROBED_ROWS = 500
"""How many rows at each end of a table or index are read of a larger file."""

_SUSPECT = 0x73757370  # "susp", the application_id of a file in which damage was met

_ORDERS = (
    ("cells", "id"),
    ("cells", "workflow"),
    ("attempts", "number"),
    ("attempts", "call_id"),
    ("decisions", "number"),
    ("decisions", "call_id"),
    ("outcomes", "number"),
    ("outcomes", "call_id"),
    ("rollups", "bucket"),
    ("totals", "bucket"),
    ("facts", "kind"),
    ("leases", "number"),
    ("leases", "id"),
    ("leases", "resource"),
    ("lease_sums", "resource"),
    ("gateway_keys", "number"),
    ("gateway_keys", "id"),
)
"""Every table and index, as (table, the column that it is ordered by)."""


def check(connection: sqlite3.Connection, size: int) -> None:
    """Raise ``sqlite3.DatabaseError`` (SQLITE_CORRUPT) for a file of ``size`` bytes that is damaged."""
    suspected = is_suspect(connection)
    if not suspected and size > SMALL_BYTES:
        _probe(connection)
        return
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        error = sqlite3.DatabaseError(f"malformed: {' '.join(found.split())}")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    if suspected:
        connection.execute("PRAGMA application_id = 0")


def suspect(connection: sqlite3.Connection) -> None:
    """Mark the file, in which damage was met, for the next start; if it takes even that."""
    with contextlib.suppress(sqlite3.Error):
        if not is_suspect(connection):
            connection.execute(f"PRAGMA application_id = {_SUSPECT}")


def is_suspect(connection: sqlite3.Connection) -> bool:
    """Whether the file has the mark."""
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == _SUSPECT)


def _probe(connection: sqlite3.Connection) -> None:
    for table, column in _ORDERS:
        for direction in ("ASC", "DESC"):
            connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM {table} ORDER BY {column} {direction} "  # noqa: S608 (ours)
                f"LIMIT {PROBED_ROWS})"
            ).fetchone()
