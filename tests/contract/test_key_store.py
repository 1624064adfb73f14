"""What every store promises of the gateway's keys."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from attune.errors import StoreError
from attune.stores._schema import _VERSION_1
from attune.stores.sqlite import SqliteReader, SqliteStore
from unit.accounts.gateway_accounts import NOW, a_key

EVERYTHING = {
    "models": ["claude-haiku-5-5", "openai/gpt-6-luna"],
    "tiers": ["cheap"],
    "routes": ["/v1/messages"],
    "providers": ["anthropic"],
    "realtime": True,
    "requests_per_minute": 60,
    "tokens_per_minute": 10**12,
    "usd_per_day": 0.5,
    "usd_per_month": 10,
    "expires": NOW + 60.5,
}

STORES = {"sqlite": SqliteStore.open}


@pytest.fixture(params=STORES)
def opened(request, tmp_path):
    """Open the same store any number of times, as several processes do."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(STORES[request.param](tmp_path / "ledger.db")))


@pytest.fixture
def store(opened) -> Any:
    return opened()


def test_a_key_comes_back_as_it_was_with_all_its_scopes_and_limits(store, opened):
    records = [a_key("narrow", **EVERYTHING).record, a_key("wide").record, a_key("none", tiers=[]).record]
    assert all(map(store.add_key, records))
    assert opened().all_keys() == records


def test_a_name_is_free_again_once_its_key_is_revoked(store, opened):
    first, second = a_key("ci").record, a_key("ci").record
    assert store.add_key(first)
    assert not opened().add_key(second)
    assert store.all_keys() == [first]
    assert store.revoke_key(first.id, NOW)
    assert opened().add_key(second)
    assert store.all_keys() == [first._replace(revoked=NOW), second]


def test_a_key_is_revoked_once_and_for_good(store, opened):
    record = a_key().record
    store.add_key(record)
    assert opened().revoke_key(record.id, NOW + 1)
    assert not store.revoke_key(record.id, NOW + 2)
    assert not store.revoke_key("nobody", NOW)
    assert store.all_keys() == [record._replace(revoked=NOW + 1)]


def test_the_version_is_another_one_after_every_change_and_the_same_without_any(store, opened):
    other = opened()
    seen = [store.keys_version()]
    records = [a_key(f"k{number}").record for number in range(3)]
    for record in records:
        other.add_key(record)
        seen.append(store.keys_version())
    for record in records:
        other.revoke_key(record.id, NOW)
        seen.append(store.keys_version())
    assert len(set(seen)) == 7
    other.add_key(records[0]._replace(id="other", name="k1"))
    other.add_key(records[0]._replace(id="another", name="k1"))  # its name is taken
    assert store.keys_version() == store.keys_version() not in seen


def test_of_many_who_want_one_name_one_gets_it(store, opened):
    stores = [store, opened()]
    records = [a_key("ci").record for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda pair: stores[pair[0] % 2].add_key(pair[1]), enumerate(records)))
    assert sum(kept) == 1
    assert len(store.all_keys()) == 1


def test_keys_outlive_what_retention_removes(store):
    store.add_key(a_key(now=NOW - 10**8).record)
    store.prune(NOW)
    assert len(store.all_keys()) == 1


# -- the file of SQLite --------------------------------------------------------------------------


def test_a_ledger_of_before_there_were_keys_has_none_and_gets_its_table_when_it_is_written(tmp_path):
    path = tmp_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (*_VERSION_1, "PRAGMA user_version = 1"):
            connection.execute(statement)
    reader = SqliteStore.open_readonly(path)
    assert reader.all_keys() == []
    assert reader.keys_version() == 0
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert store.notices == ()
        assert store.add_key(a_key().record)
    assert len(reader.all_keys()) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scopes", {"models": "claude-haiku-5-5"}),
        ("scopes", {"models": [1]}),
        ("scopes", {"realtime": 1}),
        ("scopes", {"regions": ["eu"]}),
        ("limits", {"usd_per_day": "5"}),
        ("limits", {"usd_per_day": True}),
        ("limits", {"usd_per_hour": 5}),
    ],
)
def test_what_is_stored_wrongly_is_an_error_and_never_allows_more(tmp_path, column, value):
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path)) as store:
        store.add_key(a_key().record)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            (kept,) = other.execute(f"SELECT {column} FROM gateway_keys").fetchone()
            for text in (json.dumps(json.loads(kept) | value), "[]", "{", "{}"):
                other.execute(f"UPDATE gateway_keys SET {column} = ?", (text,))
                with pytest.raises(StoreError, match="the gateway key 'ci' in the ledger is unreadable"):
                    store.all_keys()


def test_a_file_that_the_system_refuses_to_look_for_is_an_error_of_the_store(tmp_path):
    reader = SqliteReader(tmp_path / ("x" * 300), lambda: NOW)
    with pytest.raises(StoreError, match="cannot be read: File name too long"):
        reader.all_keys()
