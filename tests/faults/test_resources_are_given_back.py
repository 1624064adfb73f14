"""After thousands of calls that failed, were cancelled and left in the middle, nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from attune.models.telemetry import CostStatus
from attune.stores._schema import CACHE_KIB
from support.counting_upstream import CountingUpstream, Tally
from support.scale import scaled
from support.storm import ANSWERING, CONCURRENCY, storm, storm_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = scaled(test=1_000, faults=10_000, soak=100_000)
SEED = 11

RSS_TOLERANCE_KIB = CACHE_KIB + 8 * 1024
"""What the process may grow by from the second to the last tenths: SQLite's page cache fills meanwhile."""

BLOCKS_TOLERANCE = 12_000
"""The same for the interpreter's own allocations: about 1 MB, whatever the number of calls."""


class Holdings(NamedTuple):
    """What this process holds that could be left behind; not the threads that the loop keeps for blocking
    work, as many as it ever needed at a time.
    """

    tasks: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> Holdings:
        threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
        return cls(len(asyncio.all_tasks()), len([*Path("/proc/self/fd").iterdir()]), len(threads))


class Memory(NamedTuple):
    """Allocations of the interpreter, and resident memory in KiB."""

    blocks: int
    rss_kib: int

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE") // 1024)


class Aftermath(NamedTuple):
    """What was held before a runtime was built, when its calls were over, and after it was closed."""

    before: Holdings
    idle: Holdings
    after: Holdings
    probes: int
    idle_tally: Tally
    after_tally: Tally
    memory: list[Memory]
    ledger: Path


async def until(settled: Callable[[], bool]) -> None:
    """Wait for what happens by itself within a second or so: the ends of answers are read, sockets close."""
    async with asyncio.timeout(60):
        while not settled():
            await asyncio.sleep(0.01)


def in_tenths(memory: list[Memory]) -> Iterator[int]:
    """The numbers of the calls; after each tenth of them the memory is taken down."""
    for number in range(CALLS):
        yield number
        if (number + 1) % (CALLS // 10) == 0:
            memory.append(Memory.now())


async def aftermath_of(home: Path) -> Aftermath:
    memory: list[Memory] = []
    with CountingUpstream(seed=SEED) as upstream:
        (home / "before").mkdir()
        async with storm_runtime(home / "before", upstream.url) as ai:  # what a process keeps for its life
            await storm(ai, iter(range(CALLS, CALLS + 100)), seed=SEED)
        await until(lambda: not upstream.tally().connections)
        before = Holdings.now()
        async with storm_runtime(home, upstream.url, routing="max_usd_per_day = 1e6\n") as ai:
            await storm(ai, in_tenths(memory), seed=SEED)
            await until(lambda: len(asyncio.all_tasks()) <= before.tasks + 1)
            await until(lambda: not upstream.tally().busy)
            probes = sum(each.probes for each in ai.domains.snapshot())
            idle, idle_tally = Holdings.now(), upstream.tally()
            ledger = ai.store.path
        await until(lambda: not upstream.tally().connections)
        gc.collect()
        after, after_tally = Holdings.now(), upstream.tally()
    return Aftermath(before, idle, after, probes, idle_tally, after_tally, memory, ledger)


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    return asyncio.run(aftermath_of(tmp_path_factory.mktemp("storm")))


def test_no_task_file_or_thread_is_left_when_the_runtime_is_closed(aftermath: Aftermath) -> None:
    assert aftermath.after == aftermath.before


def test_with_no_call_under_way_only_idle_connections_and_the_look_at_others_are_left(
    aftermath: Aftermath,
) -> None:
    assert aftermath.idle.tasks <= aftermath.before.tasks + 1
    assert aftermath.idle_tally.busy == 0
    assert aftermath.idle_tally.connections <= CONCURRENCY * len(ANSWERING)
    # Each is a file here; so is the ledger with its WAL and its shared memory.
    assert aftermath.idle.files <= aftermath.before.files + aftermath.idle_tally.connections + 5


def test_the_upstream_has_no_connection_left_when_the_runtime_is_closed(aftermath: Aftermath) -> None:
    assert aftermath.after_tally.connections == 0


def test_every_permit_was_given_back(aftermath: Aftermath) -> None:
    assert aftermath.probes == 0


def test_every_reservation_was_settled_but_those_of_unknown_cost(aftermath: Aftermath) -> None:
    with closing(sqlite3.connect(aftermath.ledger)) as connection:
        known, unknown, spent = connection.execute(
            "SELECT count(cost_nanos), sum(cost_status = ?), sum(cost_nanos) FROM attempts",
            (CostStatus.UNKNOWN.value,),
        ).fetchone()
        settled, held, amount = connection.execute(
            "SELECT sum(settled), sum(1 - settled), sum(settled * amount) FROM leases"
        ).fetchone()
        (summed,) = connection.execute("SELECT sum(amount) FROM lease_sums").fetchone()
        (total,) = connection.execute("SELECT sum(amount) FROM leases").fetchone()
    assert held == unknown > 0
    assert settled >= known > 0  # a reservation of a refused attempt is settled too, with nothing
    assert amount == spent
    assert summed == total


def test_memory_is_flat(aftermath: Aftermath) -> None:
    # What is under way when the memory is taken down comes on top, more of it on a slow machine; what has
    # leaked does not go away again, so the least of the later tenths has it.
    second, *later = aftermath.memory[1], *aftermath.memory[-3:]
    blocks = min(each.blocks for each in later) - second.blocks
    rss_kib = min(each.rss_kib for each in later) - second.rss_kib
    print(f"\n{CALLS} calls: {blocks:+} blocks, {rss_kib:+} KiB")
    assert blocks < BLOCKS_TOLERANCE
    assert rss_kib < RSS_TOLERANCE_KIB
