"""The embedded store: ledger, roll-ups, facts, leases and keys in one SQLite file.

Any number of processes may share the file. One thread of each writes to it; every read opens a
connection of its own and sees what is committed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import weakref
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attune.errors import InvalidRequestError, StoreError
from attune.models.performance import BUCKET_SECONDS
from attune.models.state import LedgerTotals, RollupRow
from attune.stores._chains import read_chains, read_ids, read_newest, read_outcomes, read_recent
from attune.stores._codec import (
    SELECT_ATTEMPTS,
    SELECT_DECISIONS,
    SELECT_OLDER_ATTEMPTS,
    attempt_from_row,
    decision_from_row,
)
from attune.stores._facts import read_facts
from attune.stores._leases import Lease, Settlement, reserve, used
from attune.stores._policy_sums import add_sums, read_sums
from attune.stores._schema import (
    Durability,
    check_readable,
    has_labels,
    has_paid,
    is_corruption,
    open_reader,
    open_writer,
    store_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from attune.models.state import Fact, KeyRecord, OutcomeTarget
    from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome
    from attune.stores._chains import CallChain
    from attune.stores._writer import Writer

__all__ = ["RETENTION_DAYS", "SqliteReader", "SqliteStore"]

RETENTION_DAYS = 90
"""How long decisions, attempts and outcomes are kept, and leases after they expired."""

_LARGEST = 2**63 - 1

_SELECT_TOTALS = (
    "SELECT coalesce(sum(calls), 0), coalesce(sum(attempts), 0), coalesce(sum(failed_attempts), 0),"
    "coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost_nanos), 0),"
    "coalesce(sum(unknown_cost_attempts), 0){listed} FROM totals WHERE bucket >= ?"
)

_SELECT_ROLLUPS = (
    "SELECT bucket, workflow, stage, task_type, provider, model_id, tier, calls, successes,"
    "latency_ms_sum, cost_nanos_sum, cost_count, input_tokens_sum, output_tokens_sum, usage_count,"
    "latency_bins, recent, recent_count{labels} "
    "FROM rollups JOIN cells ON cells.id = cell WHERE bucket >= :since "
)

# Cells are numbered without gaps: who has no more of them than asked for pays nothing for the choice.
_OF_MOST_RECENT_CELLS = (
    "AND ((SELECT max(id) FROM cells) <= :most OR cell IN (SELECT cell FROM ("
    "SELECT cell, max(bucket) AS newest, calls FROM rollups WHERE bucket >= :since GROUP BY cell "
    "ORDER BY newest DESC, calls DESC, cell DESC LIMIT :most))) "
)

_LABELS = ", labelled, label_sum, judged, passed, drawn, drawn_sum"

T = TypeVar("T")


class SqliteReader:
    """What is committed to a file, for surfaces and start-up. Every read raises ``StoreError``."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock

    def attempts(self, call_id: str) -> list[LLMCallRecord]:
        """The attempts of one call, in order."""
        return self._attempts("WHERE call_id = ? ORDER BY position, number", call_id)

    def recent_attempts(self, limit: int) -> list[LLMCallRecord]:
        """The newest attempts first, by their arrival."""
        return self._attempts("ORDER BY number DESC LIMIT ?", max(0, limit))

    def decision(self, call_id: str) -> DecisionRecord | None:
        """The decision of one call; the first, if the call was decided again."""
        row = self._row(SELECT_DECISIONS + "WHERE call_id = ? ORDER BY number LIMIT 1", call_id)
        return None if row is None else decision_from_row(row)

    def totals(self, since: float = 0.0) -> LedgerTotals:
        """Sums since the start of the bucket that holds ``since`` (UTC epoch seconds)."""
        with self._reading() as connection:
            listed = ", coalesce(sum(list_cost_nanos), 0)" if has_labels(connection) else ""
            found = connection.execute(_SELECT_TOTALS.format(listed=listed), (int(since // BUCKET_SECONDS),))
            return LedgerTotals(*found.fetchone())

    def paid(self) -> dict[tuple[str, str], int]:
        """The nano-dollars that each provider's credentials have paid ever, as far as they are known."""
        with self._reading() as connection:
            asked = "SELECT provider, credential, cost_nanos FROM paid"
            found = connection.execute(asked) if has_paid(connection) else ()
            return {(provider, credential): nanos for provider, credential, nanos in found}

    def rollups(self, since_bucket: int, *, max_cells: int | None = None) -> Iterator[RollupRow]:
        """The rows of ``bucket >= since_bucket``, oldest bucket first, read as they are asked for.

        With ``max_cells`` only those of so many cells, the most recently active: by their newest
        bucket, then by the calls in it.
        """
        chosen = "" if max_cells is None else _OF_MOST_RECENT_CELLS
        values = {"since": since_bucket, "most": max_cells}
        with self._reading() as connection:
            labels = _LABELS if has_labels(connection) else ""
            select = _SELECT_ROLLUPS.format(labels=labels)
            rows = connection.execute(f"{select}{chosen}ORDER BY bucket", values)
            yield from starmap(RollupRow, rows)

    def chains(self, since: float, until: float) -> Iterator[CallChain]:
        """The calls decided in ``since <= at < until`` (UTC epoch seconds), read as they are asked for."""
        with self._reading() as connection:
            yield from read_chains(connection, since, until)

    def outcomes(self, call_id: str) -> list[Outcome]:
        """What was said of the answers of one call, the oldest first."""
        with self._reading() as connection:
            return read_outcomes(connection, call_id)

    def recent_decisions(self, limit: int) -> list[tuple[DecisionRecord, float | None]]:
        """The newest decisions, oldest first, each with the USD of its attempts, if that is known."""
        with self._reading() as connection:
            return read_recent(connection, limit)

    def recent_calls(self, limit: int, workflow: str | None, *, failed: bool) -> list[CallChain]:
        """The newest calls first: all, of one ``workflow``, or that did not succeed; see ``read_newest``."""
        with self._reading() as connection:
            return read_newest(connection, limit, workflow=workflow, failed=failed)

    def call_ids(self, beginning: str, limit: int) -> list[str]:
        """The ids of calls that begin with a text, in their order."""
        with self._reading() as connection:
            return read_ids(connection, beginning, limit)

    def facts(self) -> list[Fact]:
        """All facts that still hold now, those cleared within the last hour, and breaker trips that
        nobody cleared, for a day after their deadline.
        """
        with self._reading() as connection:
            return read_facts(connection, self._clock())

    def used(self, resource: str, window_start: float) -> int:
        """Spent plus reserved since ``window_start``."""
        with self._reading() as connection:
            return used(connection, resource, window_start)

    def spent_by_account(self, since: float) -> dict[str, int]:
        """The known costs of the calls since a time (UTC epoch seconds), by the key whose they were."""
        from attune.stores._keys import spent_by_account

        with self._reading() as connection:
            return spent_by_account(connection, since)

    def policy_sums(self, policy: str) -> dict[str, list[float]]:
        """What a policy (with its version) has learned in all processes, as sums by name."""
        with self._reading() as connection:
            return read_sums(connection, policy) if has_labels(connection) else {}

    def all_keys(self) -> list[KeyRecord]:
        """Every key of the gateway, also the revoked and the expired, the oldest first."""
        from attune.stores._keys import read_keys

        with self._reading() as connection:
            return read_keys(connection)

    def keys_version(self) -> int:
        """A number that is another one after every change of the keys."""
        from attune.stores._keys import keys_version

        with self._reading() as connection:
            return keys_version(connection)

    def _attempts(self, clause: str, value: Any) -> list[LLMCallRecord]:
        with self._reading() as connection:
            select = SELECT_ATTEMPTS if has_labels(connection) else SELECT_OLDER_ATTEMPTS
            rows = connection.execute(select + clause, (value,))
            return [attempt_from_row(row) for row in rows]

    def _row(self, statement: str, value: Any) -> tuple[Any, ...] | None:
        with self._reading() as connection:
            row: tuple[Any, ...] | None = connection.execute(statement, (value,)).fetchone()
            return row

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(open_reader(self.path)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise self._failed(error) from error
        except OSError as error:
            raise StoreError(f"the ledger {self.path} cannot be read: {error.strerror or error}") from error

    def _failed(self, error: sqlite3.Error) -> StoreError:
        return store_error(self.path, error)


class SqliteStore(SqliteReader):
    """The whole store of one process: ``LedgerStore``, ``RollupStore``, ``FactStore``, ``LeaseStore``,
    ``KeyStore``.

    Made by ``open``. Thread-safe. ``notices`` are lines that a surface should show (a corrupt file
    that was kept aside). What is queued when the program ends is written then, also without
    ``close``.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float], writer: Writer, notices: tuple[str, ...]
    ) -> None:
        super().__init__(path, clock)
        self.notices = notices
        self._writer = writer
        self._at_exit = weakref.finalize(self, _close_quietly, writer)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "batch",
        retention_days: int = RETENTION_DAYS,
        clock: Callable[[], float] = time.time,
    ) -> SqliteStore:
        """Open the file and make it, with its folder, if it is missing; both are private to the user.

        With ``durability`` "call" every commit is synced to the disk before ``flush`` returns; with
        "batch" it survives a crash of the process, not of the machine. ``clock`` gives UTC epoch
        seconds. Records older than ``retention_days`` are deleted in the background, then and once a
        day. A damaged file is kept aside as far as ``open_writer`` finds it. Raises ``StoreError``.
        """
        from attune.stores._retention import Retention
        from attune.stores._writer import Writer

        file = Path(path)
        connection, notices = open_writer(file, durability, clock)
        return cls(file, clock, Writer(connection, file, Retention(retention_days, clock)), notices)

    @staticmethod
    def open_readonly(
        path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> SqliteReader:
        """The file as another process writes it, or wrote it; nothing is made. Raises ``StoreError``."""
        file = Path(path)
        check_readable(file)
        return SqliteReader(file, clock)

    @property
    def last_error(self) -> StoreError | None:
        """What the disk refuses to do now; records are kept, and it is tried again. ``None`` if nothing."""
        return self._writer.last_error

    @property
    def rejected(self) -> int:
        """How many records held a value that cannot be stored (each was logged)."""
        return self._writer.rejected

    def append_decision(self, record: DecisionRecord) -> None:
        """Take a decision; it is committed within 100 ms, or by ``flush``.

        Waits when 50,000 records are queued; raises ``StoreError`` then if the disk fails.
        """
        self._writer.put(record)

    def append_attempt(self, record: LLMCallRecord) -> None:
        """Take an attempt, like ``append_decision``; roll-ups are updated in the same transaction."""
        self._writer.put(record)

    def put_fact(self, fact: Fact) -> None:
        """Take a fact, like ``append_decision``."""
        self._writer.put(fact)

    def append_outcome(self, outcome: Outcome) -> None:
        """Take an outcome, like ``append_decision``; roll-ups are corrected in the same transaction."""
        self._writer.put(outcome)

    def record_outcome(self, outcome: Outcome) -> OutcomeTarget | None:
        """Store an outcome at once and correct the roll-ups; ``None`` for an unknown call.

        Sees everything appended before. The caller's replaces what the caller had said of the same attempt
        before, and counts instead of a validator's; both are kept.
        """
        from attune.stores._outcomes import apply_outcome

        return self._do(partial(apply_outcome, outcome=outcome))

    async def reserve(
        self, resource: str, amount: int, *, limit: int, window_start: float, ttl_s: float, now: float
    ) -> str | None:
        """Reserve ``amount`` if spent + reserved since ``window_start`` stays within ``limit``.

        Atomic over all processes. Returns the lease's id, or ``None`` when the limit would be passed.
        Whoever is cancelled meanwhile holds nothing.
        """
        import asyncio

        _check_amount(amount)
        lease = Lease(os.urandom(16).hex(), resource, now, now + ttl_s, amount)
        work = partial(reserve, lease=lease, limit=limit, window_start=window_start)
        try:
            granted = await asyncio.wrap_future(self._writer.submit(work))
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):  # closed meanwhile: then it counts in full
                self.settle(lease.id, 0)  # stands behind the reservation, should that be under way
            raise
        return lease.id if granted else None

    def settle(self, lease_id: str, amount: int) -> None:
        """Take what a reservation is replaced with, like ``append_decision``: what was really used, also
        after it expired; twice changes nothing. Every later reservation sees it.
        """
        _check_amount(amount)
        self._writer.put(Settlement(lease_id, amount))

    def add_key(self, record: KeyRecord) -> bool:
        """Keep a key at once; ``False``, and it is not kept, when one that is not revoked has its name."""
        from attune.stores._keys import add_key

        return self._do(partial(add_key, record=record))

    def revoke_key(self, key_id: str, at: float) -> bool:
        """Take a key back at once; ``False`` when there is none with this id that is not revoked."""
        from attune.stores._keys import revoke_key

        return self._do(partial(revoke_key, key_id=key_id, at=at))

    def add_policy_sums(self, policy: str, changes: Mapping[str, list[float]]) -> dict[str, list[float]]:
        """Add at once to what a policy has learned; all of it, with this."""
        return self._do(partial(add_sums, policy=policy, changes=changes))

    def prune(self, before: float) -> None:
        """Delete decisions, attempts and outcomes of before a time (UTC epoch seconds); keep roll-ups."""
        from attune.stores._retention import prune_step

        while self._do(partial(prune_step, before=before)):
            pass

    async def flush(self) -> None:
        """Return when everything appended before is committed. Raises ``StoreError``."""
        import asyncio

        await asyncio.wrap_future(self._writer.submit(None))

    def flush_sync(self, timeout: float | None = None) -> None:
        """``flush`` for a thread; raises ``StoreError`` also after ``timeout`` seconds."""
        try:
            self._writer.submit(None).result(timeout)
        except TimeoutError:
            raise StoreError(f"the ledger {self.path} was not written within {timeout:g} s") from None

    def close(self) -> None:
        """Write what is queued and close the file; again: nothing. Raises ``StoreError`` on loss."""
        self._at_exit.detach()
        self._writer.close()

    def _failed(self, error: sqlite3.Error) -> StoreError:
        if is_corruption(error):
            from attune.stores._soundness import suspect

            with contextlib.suppress(StoreError):  # closed meanwhile
                self._writer.submit(suspect)
        return store_error(self.path, error, writing=True)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        answer: T = self._writer.submit(work).result()
        return answer


def _check_amount(amount: int) -> None:
    if not 0 <= amount <= _LARGEST:
        raise InvalidRequestError(f"an amount lies between 0 and 2^63 - 1, not {amount!r}")


def _close_quietly(writer: Writer) -> None:
    with contextlib.suppress(StoreError):  # the writer has logged it
        writer.close()
