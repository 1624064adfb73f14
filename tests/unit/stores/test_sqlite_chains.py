"""Calls with all that belongs to them, read from the file one by one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from attune.models.telemetry import DecisionRecord, Outcome
from attune.stores import _chains
from attune.stores._schema import open_reader
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


# -- the newest calls ------------------------------------------------------------------------------


def verdict(call_id: str, attempt_id: str, success: bool, score: float) -> Outcome:
    return Outcome(call_id, NOW, success, score, attempt_id, "validator")


def newest(
    store: SqliteStore, limit: int = 9, workflow: str | None = None, *, failed: bool = False
) -> list[str]:
    store.flush_sync()
    return [chain.decision.call_id for chain in store.recent_calls(limit, workflow, failed=failed)]


def test_the_newest_calls_come_first_and_each_once(store):
    for call_id in ("a", "b", "b", "c"):
        store.append_decision(decision(call_id))
    assert newest(store) == ["c", "b", "a"]
    assert newest(store, 2) == ["c", "b"]


def test_the_calls_of_a_workflow_are_its_own(store):
    store.append_decision(decision("a"))
    store.append_decision(decision("b")._replace(workflow="other"))
    assert newest(store, workflow="review") == ["a"]
    assert newest(store, workflow="nobody") == []


def test_a_call_has_failed_that_nobody_answered_or_whose_answer_was_no_good(store):
    for call_id in ("answered", "tried", "untried", "no good", "climbed", "forgiven"):
        store.append_decision(decision(call_id))
        if call_id != "untried":
            store.append_attempt(attempt(call_id, **(FAILED if call_id == "tried" else {})))
    store.record_outcome(Outcome("no good", NOW, success=False))
    store.append_attempt(attempt("climbed", attempt_id="climbed.b", position=1))
    store.append_outcome(verdict("climbed", "climbed.a", False, 0.0))
    store.append_outcome(verdict("climbed", "climbed.b", True, 1.0))
    store.append_outcome(verdict("forgiven", "forgiven.a", False, 0.0))
    store.record_outcome(Outcome("forgiven", NOW, success=True))
    assert newest(store, failed=True) == ["no good", "untried", "tried"]
    assert newest(store, 1, failed=True) == ["no good"]


@pytest.mark.parametrize(
    "verdicts",
    [[], [(False, 0.1), (False, 0.4), (False, 0.3)], [(False, 0.9), (True, 0.6), (False, 0.9)]],
)
def test_the_answer_of_a_call_is_the_one_that_an_outcome_is_of(store, verdicts):
    store.append_decision(decision("a"))
    for number in range(4):
        changed = FAILED if number == 3 else {}
        store.append_attempt(attempt("a", attempt_id=f"a.{number}", position=number, **changed))
    for number, said in enumerate(verdicts):
        store.append_outcome(verdict("a", f"a.{number}", *said))
    store.flush_sync()
    (chain,) = store.recent_calls(1, None, failed=False)
    assert chain.answer == store.record_outcome(Outcome("a", NOW, success=True)).record


def test_an_id_is_found_by_its_beginning(store):
    for call_id in ("0a1", "0a1b", "0b", "0b"):
        store.append_decision(decision(call_id))
    store.flush_sync()
    assert store.call_ids("0a", 9) == ["0a1", "0a1b"]
    assert store.call_ids("0b", 9) == ["0b"]
    assert store.call_ids("0", 2) == ["0a1", "0a1b"]
    assert store.call_ids("1", 2) == []


def steps(store: SqliteStore) -> list[int]:
    """How many steps the database makes for each question, in hundreds."""
    counted = []
    questions = [
        lambda c: _chains.read_newest(c, 5, workflow=None, failed=False),
        lambda c: _chains.read_newest(c, 5, workflow="nobody", failed=False),
        lambda c: _chains.read_newest(c, 5, workflow=None, failed=True),
        lambda c: _chains.read_ids(c, "call", 3),
    ]
    store.flush_sync()
    for ask in questions:
        made = []
        with contextlib.closing(open_reader(store.path)) as connection:
            connection.set_progress_handler(lambda made=made: made.append(1), 100)
            ask(connection)
        counted.append(len(made))
    return counted


def test_looking_back_takes_as_many_steps_however_long_the_history_is(store, monkeypatch):
    monkeypatch.setattr(_chains, "LOOKED_AT", 100)

    def call(number: int) -> None:
        store.append_decision(decision(f"call-{number:06}"))
        store.append_attempt(attempt(f"call-{number:06}"))

    for number in range(200):
        call(number)
    few = steps(store)
    for number in range(200, 3000):
        call(number)
    assert max(many - before for many, before in zip(steps(store), few, strict=True)) <= 5
