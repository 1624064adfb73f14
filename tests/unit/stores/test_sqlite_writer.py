"""The writing thread: what waits, what fails, and that nothing is lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sqlite3
import subprocess
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from attune.errors import StoreError
from attune.models.telemetry import Outcome
from attune.stores import _writer
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import NOW, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(path, clock=lambda: NOW)
    yield opened
    with contextlib.suppress(StoreError):
        opened.close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file as another process holds it while it writes."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_record_is_committed_soon_without_a_flush(store: SqliteStore) -> None:
    started = monotonic()
    store.append_attempt(attempt())
    while not store.recent_attempts(1):
        assert monotonic() - started < 60
    assert _writer.LINGER_SECONDS < 0.1


async def test_flushing_does_not_block_the_loop(store: SqliteStore, path: Path) -> None:
    with locked(path):
        store.append_attempt(attempt())
        flushed = asyncio.create_task(store.flush())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not flushed.done()
    await flushed
    assert store.attempts("c1")


async def test_a_cancelled_flush_harms_no_one(store: SqliteStore, path: Path) -> None:
    with locked(path):
        store.append_attempt(attempt())
        before = asyncio.create_task(store.flush())  # held up by the lock
        await asyncio.sleep(0)
        flushed = asyncio.create_task(store.flush())
        await asyncio.sleep(0)
        flushed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushed
    await before
    await store.flush()
    store.append_attempt(attempt("c2"))
    await store.flush()
    assert store.totals().calls == 2


def test_a_flush_that_takes_too_long_says_so(store: SqliteStore, path: Path) -> None:
    with locked(path):
        store.append_attempt(attempt())
        with pytest.raises(StoreError, match=r"not written within 0\.05 s"):
            store.flush_sync(0.05)


def test_appends_from_many_threads_all_arrive(store: SqliteStore) -> None:
    def work(name: int) -> None:
        for number in range(500):
            store.append_attempt(attempt(f"{name}.{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush_sync(60)
    assert store.totals().calls == 3000
    assert len({each.call_id for each in store.recent_attempts(9999)}) == 3000


def test_reservations_from_many_threads_never_pass_the_limit(store: SqliteStore) -> None:
    granted: list[str] = []

    def work() -> None:
        for _ in range(40):
            lease = asyncio.run(store.reserve("r", 1, limit=100, window_start=0, ttl_s=1, now=NOW))
            if lease is not None:
                granted.append(lease)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(granted)) == 100


def test_a_full_queue_makes_appends_wait_and_loses_nothing(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "MAX_QUEUED", 10)
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        for number in range(100):
            store.append_attempt(attempt(f"c{number}"))
            started.set()
        done.set()

    with locked(path):
        threading.Thread(target=work).start()
        assert started.wait(60)
        assert not done.wait(0.2)
    assert done.wait(60)
    store.flush_sync(60)
    assert store.totals().calls == 100


def test_a_lock_that_stays_is_an_error_of_flush_and_the_records_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("attune.stores._schema.BUSY_SECONDS", 0.01)
    store = SqliteStore.open(path)
    store.flush_sync(60)
    with locked(path):
        store.append_attempt(attempt())
        for _ in range(3):
            with pytest.raises(StoreError, match="locked; another process has held it"):
                store.flush_sync(60)
        with pytest.raises(StoreError, match="locked"):
            store.record_outcome(Outcome("c1", NOW, success=True))
        assert store.last_error is not None
        assert [each.name for each in caplog.records] == ["attune.stores"]  # once
        monkeypatch.setattr(_writer, "MAX_QUEUED", 1)
        store.append_attempt(attempt("c2"))
        with pytest.raises(StoreError, match=r"records wait already; .*locked"):
            store.append_attempt(attempt("c3"))
    store.flush_sync(60)
    assert store.last_error is None
    assert {each.call_id for each in store.recent_attempts(9)} == {"c1", "c2"}
    store.close()


def test_closing_while_the_disk_refuses_names_how_many_records_are_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("attune.stores._schema.BUSY_SECONDS", 0.01)
    monkeypatch.setattr(_writer, "_CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(_writer, "_RETRY_SECONDS", 0.02)
    store = SqliteStore.open(path)
    store.flush_sync(60)
    with locked(path):
        for number in range(3):
            store.append_attempt(attempt(f"c{number}"))
        while store.last_error is None:  # it has tried
            pass
        with pytest.raises(StoreError, match=r"3 records could not be written: .*locked"):
            store.close()
    assert "3 records" in caplog.text
    store.close()


BAD: dict[str, Any] = {
    "beyond 64 bits": attempt("bad", cost_nanos=2**70),
    "half a character": attempt("bad", stage="\ud800"),
    "not a number": attempt("bad", latency_ms=float("nan")),
    "of the wrong type": attempt("bad", credential=["x"]),
    "not a record": "bad",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_value_that_cannot_be_stored_is_logged_and_holds_up_no_other(
    store: SqliteStore, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    store.append_attempt(attempt("before", stage="new"))
    store.append_attempt(BAD[kind])
    store.append_attempt(attempt("after", stage="new"))
    store.flush_sync(60)
    assert {each.call_id for each in store.recent_attempts(9)} == {"before", "after"}
    assert sum(row.calls for row in store.rollups(0)) == 2
    assert store.rejected == 1
    assert "was not stored" in caplog.text
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def test_a_question_with_a_value_that_cannot_be_stored_gets_the_error_itself(store: SqliteStore) -> None:
    store.append_attempt(attempt())
    with pytest.raises(StoreError, match="cannot be stored"):
        store.record_outcome(Outcome("\ud800", NOW, success=True))
    store.flush_sync(60)
    assert store.attempts("c1")


def test_more_cells_than_are_remembered_keep_their_own_roll_ups(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.stores._batch._MAX_CELLS", 3)
    for _ in range(2):
        for number in range(10):
            store.append_attempt(attempt(stage=f"s{number}"))
        store.flush_sync(60)
    rows = {row.stage: row.calls for row in store.rollups(0)}
    assert rows == {f"s{number}": 2 for number in range(10)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_that_ends_the_thread_leaves_nobody_waiting_and_is_said(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    store.flush_sync(60)
    monkeypatch.setattr(_writer, "write_records", out_of_memory)
    store.append_attempt(attempt())
    with pytest.raises(StoreError, match="is closed"):
        store.flush_sync(60)
    with pytest.raises(StoreError, match="is closed"):
        store.append_attempt(attempt())
    with pytest.raises(StoreError, match="1 records could not be written"):
        store.close()
    assert "1 records could not be written" in caplog.text


def test_a_store_that_is_forgotten_writes_what_was_queued(path: Path) -> None:
    store = SqliteStore.open(path)
    store.append_attempt(attempt())
    del store
    gc.collect()
    assert SqliteStore.open_readonly(path).attempts("c1")
    assert not [thread for thread in threading.enumerate() if thread.name == "attune-ledger"]


APPEND_AND_END = """
import sys
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import attempt
store = SqliteStore.open(sys.argv[1])
for number in range(100):
    store.append_attempt(attempt(f"c{number}"))
"""


def run(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_nothing_is_lost_when_a_program_ends_without_closing(path: Path) -> None:
    done = run(APPEND_AND_END, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert SqliteStore.open_readonly(path).totals().calls == 100


FILL_THE_DISK = """
import resource, signal, sys
from attune.errors import StoreError
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import attempt

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore.open(sys.argv[1])
store.flush_sync(60)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
count = 0
try:
    for round in range(40):
        for _ in range(100):
            store.append_attempt(attempt(f"c{count}"))
            count += 1
        store.flush_sync(60)
except StoreError as error:
    print(error)
    assert str(store.last_error) == str(error)
assert store.totals().calls < count
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.append_attempt(attempt(f"c{count}"))
count += 1
store.flush_sync(60)
assert store.last_error is None
assert store.totals().calls == count, (store.totals(), count)
assert sum(row.calls for row in store.rollups(0)) == count
store.close()
"""


def test_a_full_disk_raises_from_flush_and_everything_is_written_once_there_is_room(path: Path) -> None:
    done = run(FILL_THE_DISK, path)
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip()
    assert str(path) in line
    assert "check its disk" in line
    assert "\n" not in line
    assert done.stderr.count("kept in memory") == 1
