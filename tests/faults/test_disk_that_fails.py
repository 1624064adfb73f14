"""EIO and ENOSPC from below SQLite: said at once, nothing acknowledged is lost, and it goes on afterwards.

Each program runs in a process of its own whose disk fails on demand (``support.failing_disk``); it prints
what it was promised, and this process looks at what the ledger really has.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import errno, os, signal, sys
from attune.errors import StoreError
from attune.stores import _writer
from attune.stores.sqlite import SqliteStore
from support.failing_disk import FailingDisk
from unit.stores.ledger_records import attempt

path, kind, number, durability = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
_writer._RETRY_SECONDS = 0.05

def disk_or_skip():
    try:
        return FailingDisk()
    except OSError as error:
        print(error)
        sys.exit(77)

def append(name, count=50):
    for place in range(count):
        store.append_attempt(attempt(f"{name}{place}"))

def flush_fails():
    try:
        store.flush_sync(60)
    except StoreError as error:
        assert str(error) == str(store.last_error)
        print(error)
    else:
        sys.exit("flush did not raise")
"""

SKIPPED = 77


def run(code: str, path: Path, *arguments: str, ends: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PRELUDE}{code}", path, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == SKIPPED:
        pytest.skip(f"this machine lets no program fail its own disk: {done.stdout.strip()}")
    assert done.returncode == ends, done.stderr
    return done


def kept(path: Path) -> list[str]:
    """The calls in the ledger, which is sound: its roll-ups hold the same number."""
    store = SqliteStore.open(path)
    assert store.notices == ()
    calls = [row.call_id for row in store.recent_attempts(10**6)]
    assert store.totals().attempts == sum(row.calls for row in store.rollups(0)) == len(calls)
    store.close()
    return sorted(calls)


FAULTS = [
    pytest.param("write", errno.EIO, "batch", id="write fails"),
    pytest.param("write", errno.ENOSPC, "batch", id="no space to write"),
    pytest.param("write", errno.EIO, "call", id="write fails, synced"),
    pytest.param("write", errno.ENOSPC, "call", id="no space to write, synced"),
    pytest.param("fsync", errno.EIO, "call", id="sync fails"),
    pytest.param("fsync", errno.ENOSPC, "call", id="no space to sync"),
]

FAIL_AND_RECOVER = """
disk = disk_or_skip()
store = SqliteStore.open(path, durability=durability)
append("before")
store.flush_sync(60)
disk.fail(kind, number, path)
for turn in range(3):
    append(f"during{turn}.")
    flush_fails()
assert disk.failures >= 3
assert store.totals().attempts == 50  # what was acknowledged can still be read
disk.work()
append("after")
store.flush_sync(60)
assert store.last_error is None
store.close()
"""


@pytest.mark.parametrize(("kind", "number", "durability"), FAULTS)
def test_a_disk_that_fails_is_an_error_of_flush_and_everything_is_written_once_it_works(
    tmp_path: Path, kind: str, number: int, durability: str
) -> None:
    path = tmp_path / "ledger.db"
    done = run(FAIL_AND_RECOVER, path, kind, str(number), durability)
    names = ("before", "during0.", "during1.", "during2.", "after")
    assert kept(path) == sorted(f"{name}{place}" for name in names for place in range(50))
    assert len(done.stdout.splitlines()) == 3
    for line in done.stdout.splitlines():
        assert line.startswith(f"the ledger {path} failed: ")
        assert "; free some space" in line or "; check its disk" in line
    assert done.stderr.count("kept in memory") == 1
    assert "Traceback" not in done.stderr


FAIL_AND_DIE = """
disk = disk_or_skip()
store = SqliteStore.open(path, durability=durability)
for turn in range(5):
    append(f"before{turn}.")
    store.flush_sync(60)
disk.fail(kind, number, path)
append("during")
flush_fails()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("kind", "number", "durability"), FAULTS)
def test_a_process_killed_while_its_disk_fails_has_lost_nothing_acknowledged(
    tmp_path: Path, kind: str, number: int, durability: str
) -> None:
    path = tmp_path / "ledger.db"
    run(FAIL_AND_DIE, path, kind, str(number), durability, ends=-9)
    promised = {f"before{turn}.{place}" for turn in range(5) for place in range(50)}
    calls = kept(path)
    assert promised <= set(calls)
    # A transaction whose sync failed may be there after all: whole, and once.
    assert len(calls) in {250, 300}
    assert len(set(calls)) == len(calls)


CHECKPOINT_FAILS = """
_writer._CHECKPOINT_ROWS = 400
disk = disk_or_skip()
store = SqliteStore.open(path, durability=durability)
append("before")
store.flush_sync(60)
disk.fail("fsync", number, path)
for turn in range(5):
    append(f"during{turn}.")
    store.flush_sync(60)  # committed to the WAL all the same
    while turn == 4 and store.last_error is None:
        pass
print(store.last_error)
assert disk.failures
append("more")
store.flush_sync(60)
assert store.last_error is not None
disk.work()
append("after")
store.flush_sync(60)
while store.last_error is not None:
    pass
append("last")
store.flush_sync(60)
disk.fail("fsync", number, path)
store.close()
"""


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_checkpoint_that_fails_is_said_and_harms_no_record(tmp_path: Path, number: int) -> None:
    path = tmp_path / "ledger.db"
    done = run(CHECKPOINT_FAILS, path, "fsync", str(number), "batch")
    assert done.stdout.startswith(f"the ledger {path} failed: ")
    said = [line for line in done.stderr.splitlines() if "records stay in ledger.db-wal" in line]
    assert len(said) == 2  # when it began, and at the end
    assert len(done.stderr.splitlines()) == 2
    names = ("before", *(f"during{turn}." for turn in range(5)), "more", "after", "last")
    assert kept(path) == sorted(f"{name}{place}" for name in names for place in range(50))


OPEN = """
disk = disk_or_skip()
disk.fail(kind, number, path)
try:
    SqliteStore.open(path, durability=durability)
except StoreError as error:
    print(error)
disk.work()
store = SqliteStore.open(path, durability=durability)
append("after")
store.flush_sync(60)
store.close()
"""


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_ledger_that_cannot_be_made_says_so_in_one_line_and_can_be_made_later(
    tmp_path: Path, number: int
) -> None:
    path = tmp_path / "ledger.db"
    done = run(OPEN, path, "write", str(number), "batch")
    assert done.stdout.startswith(f"the ledger {path} failed: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert len(kept(path)) == 50


A_CALL = """
import asyncio
from pathlib import Path
from attune.config import load
from attune.runtime import Runtime
from attune.testing import FakeProvider
from support.program import MINE

home = Path(path)
home.mkdir()
ledger = f'[ledger]\\ndurability = "{durability}"\\n'
(home / "config.toml").write_text(MINE.format(url="http://127.0.0.1:9/v1") + ledger)

async def main():
    config = load(environ={"ATTUNE_HOME": path, "MINE_KEY": "x"})
    store = SqliteStore.open(config.paths.ledger_file, durability=durability)
    async with Runtime(config, [FakeProvider("mine")], store) as ai:
        await ai.run("hello")
        disk.fail(kind, number, str(config.paths.ledger_file))
        try:
            await ai.run("hello")
            print("answered")
        except StoreError as error:
            print(error)
        disk.work()
        await ai.run("hello")
        await store.flush()
        print(store.totals().calls, store.last_error)

disk = disk_or_skip()
asyncio.run(main())
"""


def test_with_durability_call_an_answer_whose_record_cannot_be_synced_is_an_error(tmp_path: Path) -> None:
    done = run(A_CALL, tmp_path / "home", "fsync", str(errno.EIO), "call")
    refused, after = done.stdout.splitlines()
    assert "failed: disk I/O error; check its disk" in refused
    assert after == "3 None"


def test_by_default_an_answer_does_not_wait_for_a_disk_that_fails(tmp_path: Path) -> None:
    done = run(A_CALL, tmp_path / "home", "write", str(errno.ENOSPC), "batch")
    assert done.stdout.splitlines() == ["answered", "3 None"]
