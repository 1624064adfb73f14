"""``kill -9`` at a random moment: what was acknowledged is in the ledger, and the ledger is sound."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from random import Random
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pytest

from attune.stores.sqlite import SqliteStore
from support.mortal_process import MortalParent, Promises
from support.scale import scaled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS = scaled(test=25, faults=200, soak=10_000)
ROUNDS_OF_A_LEDGER = 25
LIVES_SECONDS = 0.4
"""How long at most a process goes on answering: longer than a record may be at risk."""
AT_RISK_SECONDS = 0.1

MODES = [("call", False), ("batch", True), ("batch", False)]
"""Durability, and whether the process also flushes."""


class Killed(NamedTuple):
    """A process that was killed: what it had promised, and the (monotonic) time of the kill."""

    promises: Promises
    at: float


@pytest.fixture(scope="module")
def parent() -> Iterator[MortalParent]:
    with MortalParent() as started:
        yield started


def kill_one(parent: MortalParent, home: Path, rng: Random, durability: str, *, flushes: bool) -> Killed:
    """Kill a process at a random moment: usually while it answers calls, sometimes while it opens."""
    log = home / "promises.log"
    log.write_text("")
    process = parent.start(home, log, durability=durability, flushes=flushes)
    answers = rng.randint(1, 40) if rng.random() < 0.9 else 0
    give_up = time.monotonic() + 60
    while log.read_bytes().count(b"released") < answers:
        assert time.monotonic() < give_up
        time.sleep(0.001)
    time.sleep(rng.uniform(0, LIVES_SECONDS))
    at = time.monotonic()
    os.kill(process, signal.SIGKILL)
    assert parent.ended() == "-9"
    return Killed(Promises.read(log), at)


def test_a_kill_loses_no_acknowledged_record_and_at_most_100_ms_of_the_others(
    parent: MortalParent, tmp_path: Path
) -> None:
    rng = Random(ROUNDS)
    lost_after: list[float] = []
    at_risk: list[float] = []
    promised = 0
    for number in range(ROUNDS):
        home = tmp_path / f"{number // ROUNDS_OF_A_LEDGER}"
        home.mkdir(exist_ok=True)
        durability, flushes = MODES[number % len(MODES)]
        promises, at = kill_one(parent, home, rng, durability, flushes=flushes)
        promised += len(promises.released)
        ledger = next(home.glob("**/*.db"), None)
        if ledger is None:  # killed before it was made
            assert not promises.released
            continue
        missing = missing_from(ledger, promises)
        acknowledged = len(promises.released) if durability == "call" else promises.flushed
        assert missing.isdisjoint(call for call, _ in promises.released[:acknowledged]), durability
        ages = [at - released for call, released in promises.released if call in missing]
        lost_after += ages
        if (durability, flushes) == ("batch", False):
            at_risk.append(max(ages, default=0.0))
        assert_sound(ledger, opened_again=number % 5 == 4)
    oldest, usual = max(lost_after, default=0.0), median(at_risk)
    print(
        f"\n{ROUNDS} kills, {promised} answers: {len(lost_after)} unacknowledged records lost, "
        f"the oldest {oldest * 1000:.0f} ms before the kill, of a process {usual * 1000:.0f} ms"
    )
    assert promised > ROUNDS * 10
    # Of a single process the machine may have stopped the writing thread just then, so most of them count.
    assert usual < AT_RISK_SECONDS


def missing_from(ledger: Path, promises: Promises) -> set[str]:
    """The calls that were answered and are not in the ledger, with their attempt and their decision."""
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as connection:
        kept = {
            call
            for (call,) in connection.execute("SELECT call_id FROM attempts JOIN decisions USING (call_id)")
        }
    return {call for call, _ in promises.released} - kept


def assert_sound(ledger: Path, *, opened_again: bool) -> None:
    if opened_again:  # else the next process is the first to open what was left behind
        store = SqliteStore.open(ledger)
        assert store.notices == ()
        store.close()
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (attempts,) = connection.execute("SELECT count(*) FROM attempts").fetchone()
        for table, column in (("rollups", "calls"), ("totals", "attempts")):
            (summed,) = connection.execute(f"SELECT coalesce(sum({column}), 0) FROM {table}").fetchone()
            assert summed == attempts
