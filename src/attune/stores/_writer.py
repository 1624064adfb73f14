"""The one thread that writes to the SQLite file.

Records go into a bounded queue; the thread commits what is there, at most ``LINGER_SECONDS`` after
it arrived, in one transaction. Jobs (functions that need an answer) stand in the same queue, so
each sees everything appended before it. When the disk fails, the records stay and are tried again.
The WAL is checkpointed here and not by SQLite, which would keep a failure to itself.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import deque
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from attune.errors import StoreError
from attune.models.state import Fact
from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome
from attune.stores._batch import CellNumbers, write_records
from attune.stores._leases import Settlement
from attune.stores._rollups import register_functions
from attune.stores._schema import is_corruption, store_error
from attune.stores._soundness import suspect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from attune.stores._retention import Retention

Record: TypeAlias = LLMCallRecord | DecisionRecord | Outcome | Fact | Settlement

LINGER_SECONDS = 0.03
"""How long a record waits for others to share its commit; with the commit itself it stays under
100 ms."""

MAX_QUEUED = 50_000
_MAX_BATCH = 16_384
_CHECKPOINT_ROWS = 40_000
_ROWS_OF_A_COMMIT = 80
"""What the WAL may hold before its pages are moved into the file, counted in rows, with so many for the
pages that a commit rewrites though they are not full: some 10 MB of full commits or 30 MB of small ones."""
_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_IDLE_SECONDS = 3600.0  # a thread without work looks this often whether the retention is due

_REFUSED = (
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a value that SQLite cannot hold raises (not a number, beyond 64 bits, half a character):
trying again cannot help, and one such record must not hold up the others."""


class _Job(NamedTuple):
    """Something to do after everything queued before; nothing at all for a flush."""

    work: Callable[[sqlite3.Connection], Any] | None
    done: Future[Any]


class Writer:
    """Owns the connection that writes; thread-safe. Between its batches it does what ``retention`` asks.

    ``last_error`` is what the disk refuses to do now, or ``None``: take records, or empty the WAL that has
    them. ``rejected`` counts the records that no table can hold; each is logged.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, retention: Retention) -> None:
        register_functions(connection)
        self.last_error: StoreError | None = None
        self.rejected = 0
        self._path = path
        self._connection = connection
        self._retention = retention
        self._cells = CellNumbers()
        self._queue: deque[Record | _Job] = deque()
        self._jobs = 0
        self._retrying: list[Record] = []
        self._rows_in_wal = 0
        self._closing_until: float | None = None
        self._loss: StoreError | None = None
        # Re-entrant, because the garbage collector may call ``close`` in this very thread.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name="attune-ledger", daemon=True)
        self._thread.start()

    # -- any thread ------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Queue a record; waits for room while the disk works. Raises ``StoreError`` if it does not."""
        with self._lock:
            while len(self._queue) >= MAX_QUEUED and self._closing_until is None:
                if self.last_error is not None:
                    raise StoreError(f"{MAX_QUEUED} records wait already; {self.last_error}")
                self._room.wait(_RETRY_SECONDS)
            if self._closing_until is not None:
                raise self._closed()
            self._queue.append(record)
            waiting = len(self._queue)
            if waiting == 1 or waiting == _MAX_BATCH:  # noqa: PLR1714 (a set costs a tenth of this)
                self._work.notify()

    def submit(self, work: Callable[[sqlite3.Connection], Any] | None) -> Future[Any]:
        """Queue a job; its future ends when the transaction that did it is committed."""
        job = _Job(work, Future())
        with self._lock:
            if self._closing_until is not None:
                raise self._closed()
            self._queue.append(job)
            self._jobs += 1
            self._work.notify()
        return job.done

    def close(self) -> None:
        """Write what is queued, then end the thread; again: nothing. Raises ``StoreError`` on loss."""
        with self._lock:
            if self._closing_until is None:
                self._closing_until = monotonic() + _CLOSE_SECONDS
            self._work.notify()
            self._room.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            loss, self._loss = self._loss, None
            if loss is not None:
                raise loss

    def _closed(self) -> StoreError:
        return StoreError(f"the ledger {self._path} is closed; open it again")

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        items: list[Record | _Job] = []
        try:
            while (taken := self._take()) is not None:
                items = taken
                self._attempt(items)
                items = []
        finally:
            self._end(items)

    def _take(self) -> list[Record | _Job] | None:
        """The next items, those to try again first; ``None`` when it is time to end."""
        with self._lock:
            while not (due := self._retention.due()) and not (
                self._queue or self._retrying or self._closing_until is not None
            ):
                self._work.wait(_IDLE_SECONDS)
            self._linger()
            if self._closing_until is not None and (
                monotonic() > self._closing_until if self._retrying else not self._queue
            ):
                return None
            items: list[Record | _Job] = [*self._retrying]
            self._retrying = []
            for _ in range(min(len(self._queue), max(1, _MAX_BATCH - len(items)))):
                item = self._queue.popleft()
                if not isinstance(item, _Job):
                    items.append(item)
                    continue
                self._jobs -= 1
                if item.done.set_running_or_notify_cancel():
                    items.append(item)
            if due:
                items.append(_Job(self._retention.take(), Future()))
            self._room.notify_all()
            return items

    def _linger(self) -> None:
        """Wait for company, or for the disk to recover; a job does not wait."""
        until = monotonic() + (_RETRY_SECONDS if self._retrying else LINGER_SECONDS)
        while not self._jobs and (
            self._retrying or (self._closing_until is None and len(self._queue) < _MAX_BATCH)
        ):
            left = until - monotonic()
            if left <= 0 or not self._work.wait(left):
                return

    def _attempt(self, items: Sequence[Record | _Job]) -> None:
        """Do the items in one transaction; if a value is refused, each in one of its own."""
        try:
            answers = self._commit(items)
        except _REFUSED as error:
            if len(items) == 1:
                self._reject(items[0], error)
                return
        except sqlite3.Error as error:
            self._hold(items, self._refused(error, "records are kept in memory and tried again"))
            return
        else:
            if self._rows_in_wal < _CHECKPOINT_ROWS:  # else it is the checkpoint that fails
                self.last_error = None
            for done, answer in answers:
                done.set_result(answer)
            self._rows_in_wal += len(items) + _ROWS_OF_A_COMMIT
            if self._rows_in_wal >= _CHECKPOINT_ROWS:
                self._checkpoint()
            return
        for item in items:
            self._attempt([item])

    def _checkpoint(self, mode: str = "PASSIVE") -> None:
        """Move what is committed from the WAL into the file; if that fails, nothing is lost."""
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            self._refused(error, f"records stay in {self._path.name}-wal")
        else:
            self._rows_in_wal = 0
            self.last_error = None

    def _refused(self, error: sqlite3.Error, what_now: str) -> StoreError:
        """The error to show for what the disk or the file refused; logged when it begins."""
        if is_corruption(error):
            suspect(self._connection)
        reason = store_error(self._path, error, writing=True)
        if self.last_error is None:
            _log(f"{reason} ({what_now})")
        self.last_error = reason
        return reason

    def _commit(self, items: Sequence[Record | _Job]) -> list[tuple[Future[Any], Any]]:
        if all(isinstance(item, _Job) and item.work is None for item in items):
            return [(item.done, None) for item in items if isinstance(item, _Job)]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            answers = self._perform(items)
            self._connection.execute("COMMIT")
        except BaseException:
            self._cells.forget()
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise
        return answers

    def _perform(self, items: Sequence[Record | _Job]) -> list[tuple[Future[Any], Any]]:
        answers: list[tuple[Future[Any], Any]] = []
        records: list[Record] = []
        for item in items:
            if not isinstance(item, _Job):
                records.append(item)
            elif item.work is None:
                answers.append((item.done, None))
            else:
                write_records(self._connection, self._cells, records)
                records = []
                answers.append((item.done, item.work(self._connection)))
        write_records(self._connection, self._cells, records)
        return answers

    def _reject(self, item: Record | _Job, error: Exception) -> None:
        reason = StoreError(f"a value cannot be stored: {error}")
        if isinstance(item, _Job):
            item.done.set_exception(reason)
        else:
            self.rejected += 1
            _log(f"{type(item).__name__} {str(item[0])[:80]!r} was not stored: {error}")

    def _hold(self, items: Sequence[Record | _Job], error: StoreError) -> None:
        """Keep the records for another try; whoever waits for an answer gets the error now."""
        with self._lock:
            waiting = [item for item in (*items, *self._queue) if isinstance(item, _Job)]
            self._retrying += [item for item in items if not isinstance(item, _Job)]
            self._queue = deque(item for item in self._queue if not isinstance(item, _Job))
            self._jobs = 0
            self._room.notify_all()
        _fail(waiting, error)

    def _end(self, unfinished: list[Record | _Job]) -> None:
        """Close the file; its WAL is emptied into it. Whatever is left is lost, and that is said."""
        with self._lock:
            self._closing_until = self._closing_until or monotonic()
            left = [*unfinished, *self._retrying, *self._queue]
            self._room.notify_all()
        jobs = [item for item in left if isinstance(item, _Job)]
        if len(left) > len(jobs):
            lost = len(left) - len(jobs)
            self._loss = StoreError(f"{lost} records could not be written: {self.last_error}")
            _log(str(self._loss))
        _fail(jobs, self._closed())
        self._checkpoint("TRUNCATE")
        self._connection.close()


def _fail(jobs: Sequence[_Job], error: StoreError) -> None:
    for job in jobs:
        if job.done.running() or (not job.done.done() and job.done.set_running_or_notify_cancel()):
            job.done.set_exception(StoreError(str(error)))


def _log(line: str) -> None:
    logging.getLogger("attune.stores").error(line)
