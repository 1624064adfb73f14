"""Processes that answer calls until they are killed: what each had promised by then is on record.

A parent that has imported everything forks one for each round, so that a round takes little more than
the calls it makes. A process writes one line to its log for each promise, in one write:

    released ID TIME       the answer of a call was given to its caller (monotonic seconds)
    flushed COUNT          so many of the answers released before were flushed to the ledger
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attune.config import load
from attune.runtime import Runtime
from attune.stores.sqlite import SqliteStore
from attune.testing import FakeProvider
from support.program import MINE

if TYPE_CHECKING:
    from collections.abc import Callable

CALLERS = 8
PAUSE_SECONDS = 0.002
"""Between two calls of a caller: together they make some 2,000 a second."""


class Promises(NamedTuple):
    """What a process had promised when it was killed: calls with the time of their answer, and how many
    of them it had flushed.
    """

    released: list[tuple[str, float]]
    flushed: int

    @classmethod
    def read(cls, log: Path) -> Promises:
        lines = [line.split() for line in log.read_text().splitlines()]
        released = [(words[1], float(words[2])) for words in lines if words[0] == "released"]
        return cls(released, max((int(words[1]) for words in lines if words[0] == "flushed"), default=0))


class MortalParent:
    """Starts processes that answer calls, one at a time."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:0] = {sys.path!r}; from support.mortal_process import serve; serve()"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,  # who is killed measures no coverage
        )

    def __enter__(self) -> MortalParent:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate(timeout=120)

    def start(self, home: Path, log: Path, *, durability: str, flushes: bool) -> int:
        """Start one; returns its process id once it exists."""
        return int(self._ask(json.dumps([str(home), str(log), durability, flushes])))

    def ended(self) -> str:
        """Wait until the one that was started has ended; how it did ("-9": killed)."""
        return self._ask("wait")

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


def serve() -> None:
    """What the parent's process runs: until its standard input ends."""
    child = 0
    for line in sys.stdin:
        if line == "wait\n":
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if not child:
            home, log, durability, flushes = json.loads(line)
            asyncio.run(_answer_calls(Path(home), Path(log), durability, flushes=flushes))
        print(child, flush=True)


async def _answer_calls(home: Path, log: Path, durability: str, *, flushes: bool) -> None:
    (home / "config.toml").write_text(
        MINE.format(url="http://127.0.0.1:9/v1") + f'[ledger]\ndurability = "{durability}"\n'
    )
    config = load(environ={"ATTUNE_HOME": str(home), "MINE_KEY": "x"})
    store = SqliteStore.open(config.paths.ledger_file, durability=config.ledger.durability)
    provider = FakeProvider("mine", sleep=asyncio.sleep)
    promise = _writes_lines(log)
    released = 0

    async def call() -> None:
        nonlocal released
        while True:
            call_id = (await ai.run("hello")).call_id
            promise(f"released {call_id} {time.monotonic()}")
            released += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def flush() -> None:
        while flushes:
            count = released
            await store.flush()
            promise(f"flushed {count}")
            await asyncio.sleep(PAUSE_SECONDS)

    async with Runtime(config, [provider], store) as ai:
        await asyncio.gather(*(call() for _ in range(CALLERS)), flush())


def _writes_lines(log: Path) -> Callable[[str], None]:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return lambda line: (os.write(file, f"{line}\n".encode()), None)[1]
