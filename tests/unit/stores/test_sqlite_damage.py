"""A ledger with damaged pages: found when it is opened or when the damage is met, and kept aside."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest

from attune.errors import StoreError
from attune.models.state import Fact, FactKind
from attune.models.telemetry import Outcome
from attune.stores import _soundness
from attune.stores._schema import MIGRATIONS
from attune.stores._soundness import SMALL_BYTES
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import NOW, attempt

if TYPE_CHECKING:
    from pathlib import Path


def filled(path: Path, attempts: int = 3000) -> None:
    """A ledger with many pages in every table that start-up reads."""
    with contextlib.closing(SqliteStore.open(path)) as store:
        for number in range(attempts):
            store.append_attempt(attempt(f"c{number}", stage=f"s{number % 500}"))
        for number in range(500):
            store.put_fact(Fact(FactKind.BREAKER, f"provider-{number}", NOW + 9, NOW, "x" * 100))


def damage(path: Path, page: int) -> bytes:
    """Overwrite a page (counted from 1); returns what the file then holds."""
    content = bytearray(path.read_bytes())
    content[(page - 1) * 8192 : page * 8192] = b"\xab" * 8192
    path.write_bytes(content)
    return bytes(content)


def child_page(path: Path, root: int) -> int:
    """A page in the middle of the tree with this root (see "B-tree Pages" of SQLite's file format)."""
    page = path.read_bytes()[(root - 1) * 8192 : root * 8192]
    assert page[0] == 2
    cells = int.from_bytes(page[3:5])
    pointer = 12 + 2 * (cells // 2)
    cell = int.from_bytes(page[pointer : pointer + 2])
    return int.from_bytes(page[cell : cell + 4])


def root_page(path: Path, name: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        return int(root)


@pytest.mark.parametrize("table", ["cells", "attempts", "attempts_by_call", "rollups", "totals", "facts"])
@pytest.mark.parametrize("small", [True, False])
def test_a_ledger_with_a_damaged_table_is_kept_aside_when_it_is_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, small: bool
) -> None:
    monkeypatch.setattr("attune.stores._soundness.SMALL_BYTES", 10**9 if small else 0)
    path = tmp_path / "ledger.db"
    filled(path)
    content = damage(path, root_page(path, table))
    store = SqliteStore.open(path, clock=lambda: NOW)
    store.append_attempt(attempt("new"))
    store.close()
    (notice,) = store.notices
    assert "malformed" in notice
    assert "\n" not in notice
    assert (tmp_path / "ledger.db.corrupt-20270115T080000Z").read_bytes() == content
    assert [each.call_id for each in SqliteStore.open_readonly(path).recent_attempts(9)] == ["new"]


def test_damage_anywhere_in_a_small_ledger_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path, attempts=200)
    assert path.stat().st_size < SMALL_BYTES
    damage(path, path.stat().st_size // 8192 - 1)
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert len(store.notices) == 1


def test_damage_that_is_only_met_later_is_kept_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.stores._soundness.SMALL_BYTES", 0)
    monkeypatch.setattr("attune.stores._soundness.PROBED_ROWS", 1)
    path = tmp_path / "ledger.db"
    filled(path)
    middle = child_page(path, root_page(path, "rollups"))
    damage(path, middle)
    store = SqliteStore.open(path)
    assert store.notices == ()
    with pytest.raises(StoreError, match=r"malformed; .*next start keeps the file aside"):
        list(store.rollups(0))
    store.close()
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert len(store.notices) == 1
        assert list(store.rollups(0)) == []
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert store.notices == ()


def test_damage_that_the_writer_meets_is_kept_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("attune.stores._soundness.SMALL_BYTES", 0)
    monkeypatch.setattr("attune.stores._soundness.PROBED_ROWS", 1)
    path = tmp_path / "ledger.db"
    filled(path)
    damage(path, child_page(path, root_page(path, "attempts_by_call")))
    store = SqliteStore.open(path)
    assert store.notices == ()

    def tell_all() -> None:
        for number in range(0, 3000, 20):
            store.record_outcome(Outcome(f"c{number}", NOW, success=True))

    with pytest.raises(StoreError, match=r"malformed; .*next start keeps the file aside"):
        tell_all()
    assert "malformed" in caplog.text
    store.close()
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert len(store.notices) == 1


def test_a_false_alarm_costs_one_look_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.stores._soundness.SMALL_BYTES", 0)
    path = tmp_path / "ledger.db"
    filled(path, attempts=9)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _soundness.suspect(connection)
        assert _soundness.is_suspect(connection)
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert store.notices == ()
        assert store.totals().calls == 9
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert not _soundness.is_suspect(connection)


def test_a_damaged_ledger_that_another_process_has_open_is_not_moved(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    damage(path, root_page(path, "rollups"))
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        with pytest.raises(
            StoreError, match="another process has it open; stop every attune process"
        ) as raised:
            SqliteStore.open(path)
        assert "\n" not in str(raised.value)
        assert list(tmp_path.glob("*.corrupt-*")) == []
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert len(store.notices) == 1


def test_a_file_that_another_process_has_replaced_meanwhile_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    damage(path, root_page(path, "rollups"))
    checked = _soundness.check

    def replaced(connection: sqlite3.Connection, size: int) -> None:
        monkeypatch.setattr("attune.stores._schema.check", checked)
        try:
            checked(connection, size)
        finally:
            path.rename(tmp_path / "kept by the other")
            filled(path, attempts=9)

    monkeypatch.setattr("attune.stores._schema.check", replaced)
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert store.notices == ()
        assert store.totals().calls == 9
    assert list(tmp_path.glob("*.corrupt-*")) == []
