"""``attune breakers``: what it calls a circuit whose time has come."""

from __future__ import annotations

import time

import pytest

from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore


@pytest.fixture
def ledger(attune):
    """The ledger as a running process writes it."""
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    yield store
    store.close()


def test_a_circuit_that_waits_for_its_probe_is_half_open_and_not_closed(attune, ledger):
    now = time.time()
    ledger.put_fact(Fact(FactKind.BREAKER, "openai", now - 30, now - 90, "5 failures in a row"))
    ledger.put_fact(Fact(FactKind.COOLDOWN, "openai/m#k", now - 30, now - 90, "it is throttled"))
    ledger.flush_sync()
    (row,) = attune.json("breakers")["domains"]
    assert (row["domain"], row["state"]) == ("openai", "half-open (a probe is allowed)")
    assert (row["until"], row["seconds_left"]) == (None, 0.0)
    out = attune("breakers")[1]
    assert "half-open (a probe is allowed)" in out
    assert "everything is closed" not in out
    ledger.put_fact(Fact(FactKind.BREAKER, "openai", 0, now, "closed"))
    ledger.flush_sync()
    assert [row["state"] for row in attune.json("breakers")["domains"]] == ["closed"]
