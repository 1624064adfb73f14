"""The file itself: who may read it, what a bad one becomes, and how others read it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from attune.errors import StoreError
from attune.models.state import Fact, FactKind, LedgerTotals
from attune.models.telemetry import Outcome
from attune.stores._schema import open_writer
from attune.stores.sqlite import RETENTION_DAYS, SqliteReader, SqliteStore
from unit.stores.ledger_records import NOW, attempt

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_and_every_file_are_private_to_the_user(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with contextlib.closing(SqliteStore.open(tmp_path / "data" / "ledger.db")) as store:
            store.append_attempt(attempt())
            store.flush_sync(60)
            assert mode(tmp_path / "data") == 0o700
            files = list((tmp_path / "data").iterdir())
            assert len(files) == 3
            assert {mode(file) for file in files} == {0o600}
    finally:
        os.umask(before)


def test_closing_leaves_one_file_without_a_wal(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "ledger.db")
    store.append_attempt(attempt())
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]


@pytest.mark.parametrize("garbage", [b"this is not a database at all" * 100, b"SQLite format 3\x00" * 300])
def test_a_corrupt_file_is_kept_aside_and_a_fresh_one_is_made(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(garbage)
    (tmp_path / "ledger.db-wal").write_bytes(b"wal")
    store = SqliteStore.open(path, clock=lambda: NOW)
    store.append_attempt(attempt())
    store.close()
    kept = tmp_path / "ledger.db.corrupt-20270115T080000Z"
    assert kept.read_bytes() == garbage
    (notice,) = store.notices
    assert str(path) in notice
    assert str(kept) in notice
    assert "\n" not in notice
    assert [each.call_id for each in SqliteStore.open_readonly(path).recent_attempts(2)] == ["c1"]


def test_a_truncated_ledger_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteStore.open(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert len(store.notices) == 1


OPEN_AND_CLOSE = (
    "import sys; from attune.stores.sqlite import SqliteStore; SqliteStore.open(sys.argv[1]).close()"
)


def test_a_second_store_of_one_process_leaves_the_lock_of_the_first_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path)) as store:
        store.append_attempt(attempt("before"))
        store.flush_sync(60)
        SqliteStore.open(path).close()
        # Whoever sees no lock believes to be the last, and removes the WAL that we write to.
        subprocess.run([sys.executable, "-c", OPEN_AND_CLOSE, str(path)], check=True, timeout=120)
        store.append_attempt(attempt("after"))
        store.flush_sync(60)
        seen = SqliteStore.open_readonly(path).recent_attempts(9)
        assert [each.call_id for each in seen] == ["after", "before"]


def test_two_corrupt_files_of_one_second_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for content in (b"first" * 500, b"second" * 500):
        path.write_bytes(content)
        SqliteStore.open(path, clock=lambda: NOW).close()
        path.unlink()
    assert {file.read_bytes()[:5] for file in tmp_path.glob("*.corrupt-*")} == {b"first", b"secon"}


def test_a_sound_file_brings_no_notice(tmp_path: Path) -> None:
    for _ in range(2):
        with contextlib.closing(SqliteStore.open(tmp_path / "ledger.db")) as store:
            assert store.notices == ()


def test_a_file_of_a_newer_version_is_refused_with_the_advice_to_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteStore.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    content = path.read_bytes()
    for opened in (SqliteStore.open, SqliteStore.open_readonly):
        with pytest.raises(StoreError, match=r"schema 99.*upgrade attune"):
            opened(path)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written: .*writable") as raised:
        SqliteStore.open(tmp_path / "file" / "ledger.db")
    assert "\n" not in str(raised.value)
    with pytest.raises(StoreError, match=r"unable to open .*; make the file"):
        SqliteStore.open(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="writable"):
        SqliteStore.open(tmp_path / "ledger.db")


def test_a_ledger_that_another_program_holds_locked_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.stores._schema.BUSY_SECONDS", 0.01)
    monkeypatch.setattr("attune.stores._schema._OPEN_TRIES", 2)
    path = tmp_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked; another process"):
            SqliteStore.open(path)


def test_a_commit_is_synced_to_the_disk_only_if_every_call_asks_for_it(tmp_path: Path) -> None:
    for durability, synchronous in (("batch", 1), ("call", 2)):
        connection, _ = open_writer(tmp_path / "ledger.db", durability, lambda: NOW)
        with contextlib.closing(connection):
            assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with contextlib.closing(SqliteStore.open(tmp_path / "ledger.db", durability="call")) as store:
        store.append_attempt(attempt())
        store.flush_sync(60)
        assert store.attempts("c1")


def test_another_terminal_reads_while_the_store_writes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path, clock=lambda: NOW)) as store:
        reader = SqliteStore.open_readonly(path, clock=lambda: NOW)
        store.append_attempt(attempt())
        store.put_fact(Fact(FactKind.BREAKER, "anthropic", NOW + 60, NOW))
        asyncio.run(store.reserve("key:a", 5, limit=9, window_start=0, ttl_s=1, now=NOW))
        assert reader.totals().calls == 1
        assert [each.key for each in reader.facts()] == ["anthropic"]
        assert reader.used("key:a", 0) == 5
        store.append_attempt(attempt("c2"))
        store.flush_sync(60)
        assert reader.totals().calls == 2


def test_reading_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with pytest.raises(StoreError, match="no ledger at"):
        SqliteStore.open_readonly(path)
    assert list(tmp_path.iterdir()) == []
    SqliteStore.open(path).close()
    assert SqliteStore.open_readonly(path).totals() == LedgerTotals(0, 0, 0, 0, 0, 0, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]


def test_reading_a_file_that_is_no_ledger_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="not an attune ledger"):
        SqliteStore.open_readonly(path)
    path.write_bytes(b"garbage" * 999)
    with pytest.raises(StoreError, match="not a database"):
        SqliteStore.open_readonly(path)
    assert path.read_bytes() == b"garbage" * 999


def test_a_reader_is_told_of_a_database_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.mkdir()
    with pytest.raises(StoreError, match=f"the ledger {path} failed: "):
        SqliteStore.open_readonly(path)


def test_a_file_that_goes_bad_while_it_is_read_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteStore.open(path).close()
    reader = SqliteStore.open_readonly(path)
    path.write_bytes(b"garbage" * 999)
    for read in (reader.totals, reader.facts, lambda: list(reader.rollups(0))):
        with pytest.raises(StoreError, match="move the file aside"):
            read()


def test_a_reader_cannot_write() -> None:
    assert not hasattr(SqliteReader, "append_attempt")


def test_a_fact_of_a_kind_that_only_a_newer_version_knows_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteStore.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO facts VALUES ('omen', 'a', ?, ?, '', '')", (NOW, NOW + 9))
    assert SqliteStore.open_readonly(path, clock=lambda: NOW).facts() == []


def test_opening_deletes_what_is_older_than_the_retention_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteStore.open(path, clock=lambda: NOW)
    for number in range(3500):
        store.append_attempt(attempt(f"c{number}"))
    store.record_outcome(Outcome("c0", NOW, success=True))
    store.append_attempt(attempt("new", at=NOW + RETENTION_DAYS * 86_400))
    store.close()
    store = SqliteStore.open(path, clock=lambda: NOW + RETENTION_DAYS * 86_400 + 1)
    for _ in range(9):  # a step stands behind each flush
        store.flush_sync(60)
    assert [each.call_id for each in store.recent_attempts(9)] == ["new"]
    assert store.totals().calls == 3501
    store.close()


def test_a_store_that_stays_open_deletes_again_a_day_later(tmp_path: Path) -> None:
    now = NOW
    store = SqliteStore.open(tmp_path / "ledger.db", retention_days=1, clock=lambda: now)
    store.append_attempt(attempt("old"))
    for _ in range(3):
        store.flush_sync(60)
    now = NOW + 86_399  # the last look was less than a day ago
    store.append_attempt(attempt("new", at=now))
    store.flush_sync(60)
    assert len(store.recent_attempts(9)) == 2
    now = NOW + 86_401
    for _ in range(3):
        store.flush_sync(60)
    assert [each.call_id for each in store.recent_attempts(9)] == ["new"]
    store.close()


def test_a_store_without_work_deletes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attune.stores._writer._IDLE_SECONDS", 0.01)
    now = NOW
    with contextlib.closing(
        SqliteStore.open(tmp_path / "ledger.db", retention_days=1, clock=lambda: now)
    ) as store:
        store.append_attempt(attempt("old"))
        store.flush_sync(60)
        now = NOW + 2 * 86_400
        began = monotonic()
        while store.recent_attempts(1):
            assert monotonic() - began < 60


def test_a_shorter_retention_deletes_what_the_usual_one_keeps(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for days, left in ((90, 1), (1, 0)):
        store = SqliteStore.open(path, retention_days=days, clock=lambda: NOW + 2 * 86_400)
        if days == 90:
            store.append_attempt(attempt("two days old"))
        for _ in range(3):
            store.flush_sync(60)
        assert len(store.recent_attempts(9)) == left
        store.close()


def test_hand_made_questions_find_attempts_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path)) as store:
        store.append_attempt(attempt())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        asked = "SELECT workflow, model_id, sum(cost_nanos) FROM attempt_records GROUP BY 1, 2"
        assert connection.execute(asked).fetchall() == [("review", "claude-sonnet-5-5", 4_000_001)]


def test_importing_the_store_loads_neither_a_network_nor_a_json_library() -> None:
    code = "import sys; old = set(sys.modules); import attune.stores.sqlite; print(*set(sys.modules) - old)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(done.stdout.split())
    assert "attune.stores.sqlite" in loaded
    assert not loaded & {"asyncio", "aiohttp", "msgspec", "json", "logging", "concurrent.futures"}
