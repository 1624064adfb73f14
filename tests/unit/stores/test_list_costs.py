"""What the answers of a plan are worth at list price, beside the cost of 0 that they have."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from attune.models.telemetry import CostStatus
from attune.stores._schema import _VERSION_1, _VERSION_2
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import NOW, attempt

if TYPE_CHECKING:
    from pathlib import Path

OF_A_PLAN = {"cost_nanos": 0, "cost_status": CostStatus.EXACT, "credential": "subscription"}


def test_the_value_is_kept_beside_the_cost_and_summed_in_the_totals(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path)) as store:
        kept = [attempt("c1", list_cost_nanos=12_300_000, **OF_A_PLAN), attempt("c2")]
        for record in (*kept, attempt("c3", list_cost_nanos=700_000, **OF_A_PLAN)):
            store.append_attempt(record)
        store.flush_sync(60)
        assert [*store.attempts("c1"), *store.attempts("c2")] == kept
        totals = store.totals(NOW)
        assert (totals.cost_nanos, totals.list_cost_nanos) == (4_000_001, 13_000_000)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        asked = "SELECT sum(list_cost_nanos) FROM attempt_records WHERE credential = 'subscription'"
        assert connection.execute(asked).fetchone() == (13_000_000,)


def test_attempts_of_before_have_none_whether_their_file_was_opened_for_writing_since_or_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in (*_VERSION_1, *_VERSION_2, "PRAGMA user_version = 2"):
            connection.execute(statement)
        connection.execute("INSERT INTO cells VALUES (1, 'w', 's', '', 'mine', 'm', 'cheap')")
        values = (
            1,
            "c1",
            "a",
            "d",
            1,
            1,
            "k",
            1,
            5,
            1,
            9,
            9,
            0,
            0,
            0,
            7,
            "exact",
            "v",
            "",
            "",
            "stop",
            0,
            1,
            "",
        )
        connection.execute(f"INSERT INTO attempts VALUES ({', '.join('?' * 24)})", values)
        connection.execute("INSERT INTO totals VALUES (0, 1, 1, 0, 9, 9, 7, 0)")
        connection.commit()
    reader = SqliteStore.open_readonly(path)
    for _ in range(2):
        (record,) = reader.attempts("c1")
        assert (record.cost_nanos, record.list_cost_nanos, record.session_id) == (7, None, "")
        assert (reader.totals().cost_nanos, reader.totals().list_cost_nanos) == (7, 0)
        assert list(reader.chains(0, 9)) == []
        SqliteStore.open(path, retention_days=36_500).close()
