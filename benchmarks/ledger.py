"""The SQLite ledger: how fast it takes records, how much memory that needs, how fast it is read back.

Records are of 1,000 stages and 10 models in random turns, in the order of time over 7 days, one
success each with a cost and usage, with ids as attune makes them (they sort by time); 10,000 cells.
Every measurement is a process of its own and starts from an empty file. *Written* counts from the first
``append_attempt`` until ``flush_sync`` returned, roll-ups included; the records are made before.
*Committed after* is the time until another connection sees a single record that nobody flushed.
*Restored* is ``PerformanceStats.restore`` of all roll-ups.

Usage: ``python benchmarks/ledger.py [--rounds N] [--json]``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _table

from attune.models.telemetry import CostStatus, LLMCallRecord, TokenUsage
from attune.models.windows import PerformanceStats
from attune.routing import collection_paused
from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 5
SMALL, LARGE = 100_000, 1_000_000
STAGES, MODELS = 1000, 10
WEEK_SECONDS = 7 * 86_400
START = 1_800_000_000.0
LIMIT_SECONDS = 300

TARGET_PER_SECOND = 100_000
TARGET_RESTORE_SECONDS = 0.5
TARGET_COMMIT_MS = 100.0


def records(count: int) -> Iterator[LLMCallRecord]:
    """A week of calls."""
    chance = random.Random(1)
    stages = [(f"workflow-{n % 20}", f"stage-{n}", f"task-{n % 25}") for n in range(STAGES)]
    models = [
        (f"provider-{n % 3}", f"model-{n}", ("cheap", "capable", "premium")[n % 3]) for n in range(MODELS)
    ]
    for number in range(count):
        at = START + number * WEEK_SECONDS / count
        call_id, attempt_id, decision_id = (
            f"{int(at * 1000):011x}{chance.getrandbits(72):018x}" for _ in range(3)
        )
        yield LLMCallRecord(
            call_id,
            attempt_id,
            decision_id,
            at,
            *chance.choice(stages),
            *chance.choice(models),
            credential="default",
            success=True,
            latency_ms=chance.lognormvariate(7, 0.5),
            ttft_ms=120.5,
            usage=TokenUsage(1000 + number % 300, 200),
            cost_nanos=123_456 + number,
            cost_status=CostStatus.EXACT,
            price_version="2026-11-22",
            stop_reason="stop",
        )


def write(path: str) -> float:
    """Records a second, ``SMALL`` records into an empty file."""
    made = list(records(SMALL))
    # A program does not hold its past records; without this the collector would walk them again and again.
    gc.collect()
    gc.freeze()
    with contextlib.closing(SqliteStore.open(path)) as store:
        began = time.perf_counter()
        for record in made:
            store.append_attempt(record)
        store.flush_sync(LIMIT_SECONDS)
        return SMALL / (time.perf_counter() - began)


def memory(path: str) -> dict[str, float]:
    """The peak of resident memory in MB after ``SMALL`` and after ``LARGE`` records; file size, rate."""
    with contextlib.closing(SqliteStore.open(path)) as store:
        peaks = {}
        began = time.perf_counter()
        for number, record in enumerate(records(LARGE), start=1):
            store.append_attempt(record)
            if number in {SMALL, LARGE}:
                store.flush_sync(LIMIT_SECONDS)
                peaks[number] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "small_mb": peaks[SMALL],
        "large_mb": peaks[LARGE],
        "file_mb": Path(path).stat().st_size / 1e6,
        "made_and_written_per_s": LARGE / (time.perf_counter() - began),
    }


def commit(path: str) -> list[float]:
    """Milliseconds until a record that nobody flushed is seen from outside, for 40 of them."""
    taken = []
    with contextlib.closing(SqliteStore.open(path)) as store:
        reader = SqliteStore.open_readonly(path)
        for number, record in enumerate(records(40), start=1):
            began = time.perf_counter()
            store.append_attempt(record)
            while reader.totals().attempts < number:
                os.sched_yield()
            taken.append((time.perf_counter() - began) * 1e3)
    return taken


def restore(path: str) -> dict[str, float]:
    """Seconds to read all roll-ups, and to read them into the statistics of decisions."""
    reader = SqliteStore.open_readonly(path)
    began = time.perf_counter()
    rows = sum(1 for _ in reader.rollups(0))
    read = time.perf_counter() - began
    stats = PerformanceStats()
    began = time.perf_counter()
    with collection_paused():  # as at start
        stats.restore(reader.rollups(0))
    return {"rows": rows, "read_s": read, "restore_s": time.perf_counter() - began, "cells": len(stats)}


WORKERS: dict[str, Callable[[str], Any]] = {
    worker.__name__: worker for worker in (write, memory, commit, restore)
}


def in_process(worker: Callable[[str], Any], path: Path) -> Any:
    """What a worker measures in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--worker", worker.__name__, str(path)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=LIMIT_SECONDS,
    )
    return json.loads(done.stdout)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Everything, medians over the rounds where there are any."""
    rates = [in_process(write, folder / f"write-{number}.db") for number in range(rounds)]
    lags = in_process(commit, folder / "commit.db")
    large = folder / "large.db"
    held = in_process(memory, large)
    restores = [in_process(restore, large) for _ in range(rounds)]
    return {
        "rounds": rounds,
        "records_per_s": round(statistics.median(rates)),
        "records_per_s_rounds": [round(rate) for rate in rates],
        "commit_ms_p50": round(statistics.median(lags), 1),
        "commit_ms_max": round(max(lags), 1),
        **{name: round(value, 1) for name, value in held.items()},
        "rollup_rows": restores[0]["rows"],
        "cells": restores[0]["cells"],
        "read_s": round(statistics.median(each["read_s"] for each in restores), 3),
        "restore_s": round(statistics.median(each["restore_s"] for each in restores), 3),
    }


def show(found: dict[str, Any]) -> None:
    """The table."""
    kept = "kept" if found["records_per_s"] >= TARGET_PER_SECOND else "MISSED"
    rows = [
        ("written, records/s", f"{found['records_per_s']:,}", f">= {TARGET_PER_SECOND:,} {kept}"),
        ("committed after, ms (median)", f"{found['commit_ms_p50']}", ""),
        (
            "committed after, ms (worst of 40)",
            f"{found['commit_ms_max']}",
            _table.verdict(found["commit_ms_max"], TARGET_COMMIT_MS),
        ),
        (f"peak memory after {SMALL:,} records, MB", f"{found['small_mb']}", ""),
        (f"peak memory after {LARGE:,} records, MB", f"{found['large_mb']}", ""),
        (f"file of {LARGE:,} records, MB", f"{found['file_mb']}", ""),
        (f"roll-up rows of {found['cells']:,} cells", f"{found['rollup_rows']:,}", ""),
        ("roll-ups read, s", f"{found['read_s']}", ""),
        (
            "roll-ups restored into statistics, s",
            f"{found['restore_s']}",
            _table.verdict(found["restore_s"], TARGET_RESTORE_SECONDS),
        ),
    ]
    _table.show(f"The SQLite ledger (medians of {found['rounds']})", ("what", "measured", "target"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, path = options.worker
        print(json.dumps(WORKERS[name](path)))
        return
    with tempfile.TemporaryDirectory(prefix="attune-ledger-") as folder:
        found = measure(Path(folder), max(1, options.rounds))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
