"""The tables of the SQLite file, and how a connection to it is opened.

A cell is one (workflow, stage, task type, provider, model, tier); attempts and roll-ups refer to it
by number, which makes both half as large and twice as fast to write. The view ``attempt_records``
shows attempts with the names, for reading by program or by hand.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from attune.errors import CorruptFileError, StoreError
from attune.stores._soundness import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Durability: TypeAlias = Literal["batch", "call"]

BUSY_SECONDS = 10.0
"""How long a connection waits for another process that is writing."""

CACHE_KIB = 4096
"""Pages that the writer keeps in memory. What it adds lies together at the ends of tables and indexes, so
that 16 MiB are no faster, and are filled by 20,000 calls.
"""

_CACHED_STATEMENTS = 128
_OPEN_TRIES = 10
_ALONE_SECONDS = 1.0  # someone who only reads is done by then

_ATTEMPT_RECORDS = """CREATE VIEW attempt_records AS
        SELECT number, call_id, attempt_id, decision_id, at,
            workflow, stage, task_type, provider, model_id, tier,
            credential, success, latency_ms, ttft_ms, input_tokens, output_tokens, cache_read_tokens,
            cache_write_tokens, cache_write_1h_tokens, cost_nanos, cost_status, price_version,
            error_class, error_code, stop_reason, position, chosen_by_policy, session_id, cell
        FROM attempts AS a JOIN cells ON cells.id = a.cell"""

_VERSION_1 = (
    """CREATE TABLE cells (
        id INTEGER PRIMARY KEY,
        workflow TEXT NOT NULL, stage TEXT NOT NULL, task_type TEXT NOT NULL,
        provider TEXT NOT NULL, model_id TEXT NOT NULL, tier TEXT NOT NULL,
        UNIQUE (workflow, stage, task_type, provider, model_id, tier))""",
    """CREATE TABLE attempts (
        number INTEGER PRIMARY KEY,
        call_id TEXT NOT NULL, attempt_id TEXT NOT NULL, decision_id TEXT NOT NULL, at REAL NOT NULL,
        cell INTEGER NOT NULL REFERENCES cells, credential TEXT NOT NULL,
        success INTEGER NOT NULL, latency_ms REAL NOT NULL, ttft_ms REAL,
        input_tokens INTEGER, output_tokens INTEGER, cache_read_tokens INTEGER,
        cache_write_tokens INTEGER, cache_write_1h_tokens INTEGER,
        cost_nanos INTEGER, cost_status TEXT NOT NULL, price_version TEXT NOT NULL,
        error_class TEXT NOT NULL, error_code TEXT NOT NULL, stop_reason TEXT NOT NULL,
        position INTEGER NOT NULL, chosen_by_policy INTEGER NOT NULL, session_id TEXT NOT NULL)""",
    "CREATE INDEX attempts_by_call ON attempts (call_id)",
    _ATTEMPT_RECORDS,
    """CREATE TABLE decisions (
        number INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL, call_id TEXT NOT NULL, at REAL NOT NULL,
        workflow TEXT NOT NULL, stage TEXT NOT NULL, task_type TEXT NOT NULL,
        base_tier TEXT NOT NULL, tier TEXT NOT NULL, policy TEXT NOT NULL, reason TEXT NOT NULL,
        ranked TEXT NOT NULL, dropped TEXT NOT NULL, features TEXT NOT NULL, notes TEXT NOT NULL)""",
    "CREATE INDEX decisions_by_call ON decisions (call_id)",
    """CREATE TABLE outcomes (
        number INTEGER PRIMARY KEY,
        call_id TEXT NOT NULL UNIQUE, at REAL NOT NULL, success INTEGER NOT NULL, score REAL)""",
    """CREATE TABLE rollups (
        bucket INTEGER NOT NULL, cell INTEGER NOT NULL REFERENCES cells,
        calls INTEGER NOT NULL, successes INTEGER NOT NULL, latency_ms_sum REAL NOT NULL,
        cost_nanos_sum INTEGER NOT NULL, cost_count INTEGER NOT NULL,
        input_tokens_sum INTEGER NOT NULL, output_tokens_sum INTEGER NOT NULL,
        usage_count INTEGER NOT NULL, latency_bins BLOB NOT NULL,
        recent INTEGER NOT NULL, recent_count INTEGER NOT NULL,
        PRIMARY KEY (bucket, cell)) WITHOUT ROWID""",
    """CREATE TABLE totals (
        bucket INTEGER PRIMARY KEY,
        calls INTEGER NOT NULL, attempts INTEGER NOT NULL, failed_attempts INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        cost_nanos INTEGER NOT NULL, unknown_cost_attempts INTEGER NOT NULL)""",
    """CREATE TABLE facts (
        kind TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, until REAL NOT NULL,
        detail TEXT NOT NULL, data TEXT NOT NULL,
        PRIMARY KEY (kind, key, at, until)) WITHOUT ROWID""",
    """CREATE TABLE leases (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE, resource TEXT NOT NULL, at REAL NOT NULL, expires REAL NOT NULL,
        amount INTEGER NOT NULL, settled INTEGER NOT NULL)""",
    "CREATE INDEX leases_by_time ON leases (resource, at, amount)",
    """CREATE TABLE lease_sums (
        resource TEXT NOT NULL, hour INTEGER NOT NULL, amount INTEGER NOT NULL,
        PRIMARY KEY (resource, hour)) WITHOUT ROWID""",
)

_VERSION_2 = (
    """CREATE TABLE gateway_keys (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, digest BLOB NOT NULL,
        created REAL NOT NULL, expires REAL, revoked REAL, scopes TEXT NOT NULL, limits TEXT NOT NULL)""",
)

_VERSION_3 = (
    """CREATE TABLE policy_sums (
        policy TEXT NOT NULL, name TEXT NOT NULL, sums BLOB NOT NULL,
        PRIMARY KEY (policy, name)) WITHOUT ROWID""",
    "ALTER TABLE outcomes RENAME TO outcomes_of_calls",
    """CREATE TABLE outcomes (
        number INTEGER PRIMARY KEY,
        call_id TEXT NOT NULL, attempt_id TEXT NOT NULL, source TEXT NOT NULL,
        at REAL NOT NULL, success INTEGER NOT NULL, score REAL,
        UNIQUE (call_id, attempt_id, source))""",
    """INSERT INTO outcomes SELECT number, call_id, coalesce(
            (SELECT attempt_id FROM attempts AS a WHERE a.call_id = o.call_id
                ORDER BY a.success DESC, a.position DESC, a.number DESC LIMIT 1), ''),
        'caller', at, success, score FROM outcomes_of_calls AS o""",
    "DROP TABLE outcomes_of_calls",
    "ALTER TABLE attempts ADD COLUMN list_cost_nanos INTEGER",
    "DROP VIEW attempt_records",
    _ATTEMPT_RECORDS.replace("session_id, cell", "session_id, list_cost_nanos, cell"),
    "ALTER TABLE totals ADD COLUMN list_cost_nanos INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollups ADD COLUMN labelled INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollups ADD COLUMN label_sum REAL NOT NULL DEFAULT 0",
    "ALTER TABLE rollups ADD COLUMN judged INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollups ADD COLUMN passed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollups ADD COLUMN drawn INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollups ADD COLUMN drawn_sum REAL NOT NULL DEFAULT 0",
    """UPDATE rollups SET labelled = known.labelled, label_sum = known.label_sum, drawn = known.drawn,
        drawn_sum = known.drawn_sum FROM
        (SELECT CAST(a.at / 86400 AS INTEGER) AS bucket, a.cell AS cell, count(*) AS labelled,
            sum(coalesce(o.score, o.success)) AS label_sum, sum(a.chosen_by_policy) AS drawn,
            sum(a.chosen_by_policy * coalesce(o.score, o.success)) AS drawn_sum
            FROM outcomes AS o JOIN attempts AS a ON a.call_id = o.call_id AND a.attempt_id = o.attempt_id
            WHERE a.success GROUP BY 1, 2) AS known
        WHERE rollups.bucket = known.bucket AND rollups.cell = known.cell""",
)

_VERSION_4 = (
    """CREATE TABLE paid (
        provider TEXT NOT NULL, credential TEXT NOT NULL, cost_nanos INTEGER NOT NULL,
        PRIMARY KEY (provider, credential)) WITHOUT ROWID""",
    """INSERT INTO paid SELECT provider, credential, sum(cost_nanos)
        FROM attempts AS a JOIN cells ON cells.id = a.cell WHERE cost_nanos > 0 GROUP BY 1, 2""",
)

MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""The statements that lead from each schema version to the next; the first makes an empty file."""


def open_writer(
    path: Path, durability: Durability, clock: Callable[[], float]
) -> tuple[sqlite3.Connection, tuple[str, ...]]:
    """A connection for the writer and the notices of what was found; makes what is missing.

    A file that is not a database, or a malformed one, is kept aside and a fresh one is made; but not
    while another process has it open. That is known by the lock that every connection holds; it cannot
    be known of a process that opens the file within the microseconds between the last look and the
    move, nor where locks do not work (some network file systems).
    Raises ``StoreError`` then, and for a file that cannot be written or that a newer attune wrote.
    """
    notices: tuple[str, ...] = ()
    try:
        _make_private_file(path)
        found = _identity(path)
        try:
            return _prepared(path, durability), notices
        except sqlite3.DatabaseError as error:
            if not is_corruption(error):
                raise
            if _identity(path) == found:  # else another process has just kept it aside
                _refuse_in_use(path, error)
                notices = (_keep_aside(path, str(error), clock()),)
        _make_private_file(path)
        return _prepared(path, durability), notices
    except OSError as error:
        raise StoreError(
            f"the ledger {path} cannot be written: {error.strerror}; "
            "make its folder writable or choose another with ATTUNE_HOME"
        ) from error
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def open_reader(path: Path) -> sqlite3.Connection:
    """A short-lived connection that cannot write and creates no file.

    Without a WAL no process has the file open, and it is read as it is: a plain read-only
    connection would leave a WAL behind.
    """
    alive = path.with_name(path.name + "-wal").exists()
    uri = path.absolute().as_uri() + ("?mode=ro" if alive else "?mode=ro&immutable=1")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def has_labels(connection: sqlite3.Connection) -> bool:
    """Whether the file knows which attempt an outcome is of, who told it, and costs at list price; else
    nobody has written to it since this was not kept.
    """
    return _version(connection) >= 3


def has_paid(connection: sqlite3.Connection) -> bool:
    """Whether the file has sums of what each credential paid; else nobody has written to it since then."""
    return _version(connection) >= 4


def check_readable(path: Path) -> None:
    """Raise ``StoreError`` unless there is a ledger that this version can read."""
    if not path.exists():
        raise StoreError(f"there is no ledger at {path} yet; it is made at the first call")
    try:
        with contextlib.closing(open_reader(path)) as connection:
            version = _version(connection)
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    _refuse_newer(path, version)
    if version == 0:
        raise StoreError(f"{path} is not an attune ledger; name another file")


def is_corruption(error: sqlite3.Error) -> bool:
    """Whether the file itself is at fault, not the disk or a lock."""
    return _primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def store_error(path: Path, error: sqlite3.Error, *, writing: bool = False) -> StoreError:
    """The one line to show for an error of the database: what happened and what to do.

    Damage that one who is ``writing`` has met is marked, for the next start to find it.
    """
    hint = _HINTS.get(_primary_code(error), "")
    if writing and is_corruption(error):
        hint = "stop every attune process; the next start keeps the file aside"
    return StoreError(f"the ledger {path} failed: {error}{hint and '; '}{hint}")


_HINTS = {
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_IOERR: "check its disk and the file size limit",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "make the file and its folder readable and writable",
    sqlite3.SQLITE_BUSY: "another process has held it for too long, stop that one",
    sqlite3.SQLITE_CORRUPT: "stop every attune process, then move the file aside",
    sqlite3.SQLITE_NOTADB: "stop every attune process, then move the file aside",
}


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _make_private_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Closing any descriptor of a file gives up all locks that this process has on it, also those of
    # another store in it: so a file that is there already is left to SQLite.
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _refuse_in_use(path: Path, error: sqlite3.Error) -> None:
    """Raise ``StoreError`` if anyone else has the file open: only who is alone gets it exclusively."""
    with contextlib.closing(sqlite3.connect(path, timeout=_ALONE_SECONDS, isolation_level=None)) as alone:
        try:
            alone.execute("PRAGMA locking_mode = EXCLUSIVE")
            alone.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as refused:
            if _primary_code(refused) == sqlite3.SQLITE_BUSY:
                raise StoreError(
                    f"the ledger {path} is damaged ({error}) and another process has it open; "
                    "stop every attune process, the next start keeps the file aside"
                ) from error


def _prepared(path: Path, durability: Durability) -> sqlite3.Connection:
    # Two processes that open a fresh file at once may be told "locked" without the busy time-out
    # while one switches to WAL: hence the tries.
    for _ in range(_OPEN_TRIES - 1):
        try:
            return _connected(path, durability)
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.05)
    return _connected(path, durability)


def _connected(path: Path, durability: Durability) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )
    try:
        _configure(connection, durability)
        _migrate(connection, path)
        check(connection, path.stat().st_size)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, durability: Durability) -> None:
    # For a new file; pages twice the default take in 8 % more records a second.
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'call' else 'NORMAL'}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    _refuse_newer(path, _version(connection))
    connection.execute("BEGIN IMMEDIATE")
    for version, statements in enumerate(MIGRATIONS[_version(connection) :], start=_version(connection) + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_newer(path: Path, version: int) -> None:
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer attune (schema {version}, this one knows "
            f"{len(MIGRATIONS)}); upgrade attune"
        )


def _keep_aside(path: Path, reason: str, now: float) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    kept = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while kept.exists():
        kept = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
        number += 1
    for suffix in ("-wal", "-shm", ""):  # the WAL first: a fresh file must never meet it
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))
    return str(CorruptFileError(str(path), str(kept), reason))
