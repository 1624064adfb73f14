"""What each credential has paid ever, whatever became of the single records."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from attune.stores._schema import MIGRATIONS
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import NOW, attempt

if TYPE_CHECKING:
    from pathlib import Path

TEAM, OWN = ("anthropic", "team"), ("anthropic", "own")


def test_all_processes_add_to_the_same_sums_and_retention_takes_nothing_from_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with (
        contextlib.closing(SqliteStore.open(path, clock=lambda: NOW)) as one,
        contextlib.closing(SqliteStore.open(path, clock=lambda: NOW)) as other,
    ):
        assert one.paid() == {}
        for number in range(3):
            one.append_attempt(attempt(f"c{number}", credential="team", cost_nanos=5))
        other.append_attempt(attempt("c4", credential="team", cost_nanos=7))
        other.append_attempt(attempt("c5", credential="own", cost_nanos=1))
        other.append_attempt(attempt("c6", credential="own", cost_nanos=None))
        one.flush_sync(60)
        other.flush_sync(60)
        assert one.paid() == other.paid() == {TEAM: 22, OWN: 1}
        one.prune(NOW + 1)
        assert one.recent_attempts(9) == []
        assert one.paid() == {TEAM: 22, OWN: 1}


def test_a_ledger_of_before_counts_what_it_still_has_from_its_next_writer_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path, clock=lambda: NOW)) as store:
        for number, nanos in enumerate((5, 6, 0, None)):
            store.append_attempt(attempt(f"c{number}", credential="team", cost_nanos=nanos))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE paid")
        connection.execute("PRAGMA user_version = 3")
    assert SqliteStore.open_readonly(path).paid() == {}
    SqliteStore.open(path, clock=lambda: NOW).close()
    assert SqliteStore.open_readonly(path).paid() == {TEAM: 11}
    assert len(MIGRATIONS) >= 4
