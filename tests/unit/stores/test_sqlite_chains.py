"""Calls with all that belongs to them, read from the file one by one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from attune.models.telemetry import DecisionRecord, Outcome
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import FAILED, NOW, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def decision(call_id: str, at: float = NOW, policy: str = "best/1") -> DecisionRecord:
    names = ("review", "security", "review_security")
    return DecisionRecord(f"{call_id}.d", call_id, at, *names, "capable", "capable", policy, "why", (), ())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore.open(tmp_path / "ledger.db", clock=lambda: NOW)) as opened:
        yield opened


def test_a_call_comes_with_its_attempts_in_order_and_its_last_outcome(store):
    store.append_decision(decision("a"))
    store.append_attempt(attempt("a", attempt_id="a.1", position=1))
    store.append_attempt(attempt("a", attempt_id="a.0", position=0, **FAILED))
    store.append_decision(decision("b"))
    store.record_outcome(Outcome("a", NOW, success=True))
    store.record_outcome(Outcome("a", NOW + 1, success=False))
    first, second = store.chains(NOW, NOW + 1)
    assert first.decision == decision("a")
    assert [each.attempt_id for each in first.attempts] == ["a.0", "a.1"]
    assert first.outcome is False
    assert (second.decision.call_id, second.attempts, second.outcome) == ("b", (), None)


def test_a_call_that_was_decided_again_comes_once_with_its_first_decision(store):
    for policy in ("first/1", "second/1"):
        store.append_decision(decision("a", policy=policy))
    store.flush_sync()
    assert [chain.decision.policy for chain in store.chains(0, NOW + 1)] == ["first/1"]


@pytest.mark.parametrize("days", [0, 1, 7, 39, 40, 100])
def test_the_window_holds_its_start_and_not_its_end_wherever_it_begins(store, days):
    for day in reversed(range(40)):
        store.append_decision(decision(f"day-{day}", NOW - 86_400 * day))
        store.append_decision(decision(f"late-{day}", NOW - 86_400 * day - 1800))  # arrived half an hour late
    store.flush_sync()
    found = {chain.decision.call_id for chain in store.chains(NOW - 86_400 * days, NOW)}
    days_held = range(1, min(days, 39) + 1)
    assert found == {f"day-{day}" for day in days_held} | {f"late-{day}" for day in range(min(days, 40))}


def test_a_ledger_without_calls_has_none(store):
    assert list(store.chains(0, NOW)) == []
