"""Several processes on one store, and one that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from attune.models.state import LedgerTotals
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import NOW

if TYPE_CHECKING:
    from pathlib import Path

APPEND = """
import asyncio, sys
from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import FAILED, NOW, attempt

name, count = sys.argv[2], 2000
store = SqliteStore.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for number in range(count):
    store.append_attempt(
        attempt(f"{name}{number}", stage=f"s{number % 7}", latency_ms=float(number + 1),
                **(FAILED if number % 10 == 0 else {}))
    )
    if number % 100 == 0:
        store.flush_sync(60)
        lease = store.reserve("r", 1, limit=30, window_start=0, ttl_s=1, now=NOW)
        granted += asyncio.run(lease) is not None
        store.put_fact(Fact(FactKind.COOLDOWN, "k", NOW + number, NOW))
store.flush_sync(60)
print(granted, flush=True)
"""

FLUSH_AND_WAIT = """
import sys
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import attempt
store = SqliteStore.open(sys.argv[1])
for number in range(500):
    store.append_attempt(attempt(f"c{number}"))
store.flush_sync(60)
print("acknowledged", flush=True)
while True:
    store.append_attempt(attempt("later"))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_append_to_one_file_without_loss_and_share_limits(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    processes = [start(APPEND, str(path), name) for name in "ab"]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    granted = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(granted) == 30

    reader = SqliteStore.open_readonly(path, clock=lambda: 0.0)
    raw = reader.recent_attempts(9999)
    assert {each.call_id for each in raw} == {f"{name}{number}" for name in "ab" for number in range(2000)}
    assert len(raw) == 4000
    rows = list(reader.rollups(0))
    assert len(rows) == 7
    assert sum(row.calls for row in rows) == 4000
    assert sum(row.successes for row in rows) == 3600
    good = [each for each in raw if each.success]
    assert sum(row.latency_ms_sum for row in rows) == sum(each.latency_ms for each in good)
    assert reader.totals() == LedgerTotals(
        calls=4000,
        attempts=4000,
        failed_attempts=400,
        input_tokens=3600 * 1000,
        output_tokens=3600 * 200,
        cost_nanos=3600 * 4_000_001,
        unknown_cost_attempts=400,
    )
    assert [each.until for each in reader.facts()] == [NOW + 1900]


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    process = start(FLUSH_AND_WAIT, str(path))
    assert process.stdout is not None
    assert process.stdout.readline() == "acknowledged\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    store = SqliteStore.open(path)
    kept = {each.call_id for each in store.recent_attempts(10**6)}
    assert {f"c{number}" for number in range(500)} <= kept
    assert sum(row.calls for row in store.rollups(0)) == store.totals().attempts
    assert store.totals().attempts == len(store.recent_attempts(10**6))
    assert store.notices == ()
    store.close()
