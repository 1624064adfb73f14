"""Leases: reserve, settle, sum.

A lease counts with its full amount from its reservation until it is settled; one that expires
unsettled stays as it is, since it may have been spent. Sums by hour are kept beside the leases, so
that a month's window costs 720 rows and not every lease of the month.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3

_HOUR = 3600


class Lease(NamedTuple):
    """A reservation: times are UTC epoch seconds, ``amount`` is in the resource's own unit."""

    id: str
    resource: str
    at: float
    expires: float
    amount: int


class Settlement(NamedTuple):
    """What a reservation is to be replaced by: ``amount`` in the unit of its resource."""

    lease_id: str
    amount: int


def reserve(connection: sqlite3.Connection, lease: Lease, limit: int, window_start: float) -> bool:
    """Store the lease if the limit allows it, within the caller's transaction."""
    if used(connection, lease.resource, window_start) + lease.amount > limit:
        return False
    connection.execute(
        "INSERT INTO leases (id, resource, at, expires, amount, settled) VALUES (?, ?, ?, ?, ?, 0)", lease
    )
    _add(connection, lease.resource, lease.at, lease.amount)
    return True


def settle(connection: sqlite3.Connection, settlement: Settlement) -> None:
    """Replace a reservation by what was used, within the caller's transaction.

    Does nothing for a lease that is settled already, or that retention has removed.
    """
    lease_id, amount = settlement
    row = connection.execute(
        "SELECT resource, at, amount FROM leases WHERE id = ? AND settled = 0", (lease_id,)
    ).fetchone()
    if row is None:
        return
    resource, at, reserved = row
    connection.execute("UPDATE leases SET amount = ?, settled = 1 WHERE id = ?", (amount, lease_id))
    _add(connection, resource, at, amount - reserved)


def used(connection: sqlite3.Connection, resource: str, window_start: float) -> int:
    """Spent plus reserved since ``window_start``: whole hours from their sums, the rest by lease."""
    first_hour = ceil(window_start / _HOUR)
    row = connection.execute(
        "SELECT (SELECT coalesce(sum(amount), 0) FROM lease_sums WHERE resource = ? AND hour >= ?)"
        " + (SELECT coalesce(sum(amount), 0) FROM leases WHERE resource = ? AND at >= ? AND at < ?)",
        (resource, first_hour, resource, window_start, first_hour * _HOUR),
    ).fetchone()
    return int(row[0])


def _add(connection: sqlite3.Connection, resource: str, at: float, amount: int) -> None:
    connection.execute(
        "INSERT INTO lease_sums (resource, hour, amount) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
        (resource, int(at // _HOUR), amount),
    )
