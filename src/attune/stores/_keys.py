"""Keys of the gateway: a row each, never deleted, with scopes and limits as JSON."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attune.errors import StoreError
from attune.models.state import KeyLimits, KeyRecord, KeyScopes
from attune.stores._chains import first_number

if TYPE_CHECKING:
    import sqlite3

_COLUMNS = "id, name, digest, created, expires, revoked, scopes, limits"
_SINCE_VERSION = 2


def add_key(connection: sqlite3.Connection, record: KeyRecord) -> bool:
    """Store a key unless one that is not revoked has its name, within the caller's transaction."""
    taken = "SELECT 1 FROM gateway_keys WHERE name = ? AND revoked IS NULL"
    if connection.execute(taken, (record.name,)).fetchone() is not None:
        return False
    scopes = {name: _as_json(value) for name, value in record.scopes._asdict().items()}
    connection.execute(
        f"INSERT INTO gateway_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our own names)
        (*record[:6], json.dumps(scopes), json.dumps(record.limits._asdict())),
    )
    return True


def revoke_key(connection: sqlite3.Connection, key_id: str, at: float) -> bool:
    """Mark a key as revoked, within the caller's transaction; ``False`` if there is none to revoke."""
    update = "UPDATE gateway_keys SET revoked = ? WHERE id = ? AND revoked IS NULL"
    return connection.execute(update, (at, key_id)).rowcount == 1


def read_keys(connection: sqlite3.Connection) -> list[KeyRecord]:
    """Every key, the oldest first. Raises ``StoreError`` for one that cannot be understood."""
    if not _are_there(connection):
        return []
    rows = connection.execute(f"SELECT {_COLUMNS} FROM gateway_keys ORDER BY number")  # noqa: S608
    return [_record(row) for row in rows]


def keys_version(connection: sqlite3.Connection) -> int:
    """Grows by one with every key that is made or revoked."""
    if not _are_there(connection):
        return 0
    (version,) = connection.execute("SELECT count(*) + count(revoked) FROM gateway_keys").fetchone()
    return int(version)


def spent_by_account(connection: sqlite3.Connection, since: float) -> dict[str, int]:
    """The known costs in nano-dollars of the calls decided from ``since`` on, by whose they were."""
    first = first_number(connection, since)
    return dict(connection.execute(_SELECT_SPENT, {"first": first, "since": since, "mark": _ACCOUNT}))


_ACCOUNT = '["account",'
"""How a decision's features name whose call it was; in a client's own text the quotes would be escaped."""

_SELECT_SPENT = """
    SELECT substr(whose, 1, instr(whose, '"') - 1), coalesce(sum(cost_nanos), 0)
    FROM (SELECT call_id, ltrim(substr(features, instr(features, :mark) + length(:mark)), ' "') AS whose
          FROM decisions WHERE number >= :first AND at >= :since AND instr(features, :mark))
    JOIN attempts USING (call_id) GROUP BY 1"""


def _are_there(connection: sqlite3.Connection) -> bool:
    """Whether the file has the table: one that is only read may be of before it."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] >= _SINCE_VERSION)


def _record(row: tuple[Any, ...]) -> KeyRecord:
    key_id, name, digest, created, expires, revoked, scopes, limits = row
    try:
        allowed, limited = _scopes(scopes), _limits(limits)
    except (TypeError, ValueError) as error:
        raise StoreError(f"the gateway key {name!r} in the ledger is unreadable: {error}") from None
    return KeyRecord(key_id, name, digest, created, expires, revoked, allowed, limited)


def _as_json(value: frozenset[str] | bool | None) -> list[str] | bool | None:
    return sorted(value) if isinstance(value, frozenset) else value


@lru_cache(maxsize=1024)  # most keys are alike
def _scopes(text: str) -> KeyScopes:
    """What is stored; anything odd is refused, since a guess could allow too much."""
    found = _fields(text, KeyScopes._fields)
    realtime = found.pop("realtime")
    if not isinstance(realtime, bool) or not all(map(_is_names, found.values())):
        raise TypeError("its scopes are no lists of names")
    sets = {name: None if value is None else frozenset(value) for name, value in found.items()}
    return KeyScopes(**sets, realtime=realtime)


@lru_cache(maxsize=1024)
def _limits(text: str) -> KeyLimits:
    found = _fields(text, KeyLimits._fields)
    if not all(value is None or type(value) in {int, float} for value in found.values()):
        raise TypeError("its limits are no numbers")
    return KeyLimits(**found)


def _fields(text: str, fields: tuple[str, ...]) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or found.keys() != set(fields):
        raise TypeError(f"it does not have exactly {', '.join(fields)}")
    return found


def _is_names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))
