"""A user whose disk is full still gets the answer, and is told that it could not be recorded."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from attune.config import load
from attune.stores.sqlite import SqliteStore
from support.program import ATTUNE, LIMIT_SECONDS, MINE, Program
from support.upstream import FakeUpstream

if TYPE_CHECKING:
    from pathlib import Path

NO_ROOM = 36_000
"""Bytes that a file may have: enough to open the ledger, too few for a record in its WAL."""

LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({NO_ROOM}, {NO_ROOM}))
os.execv(sys.argv[1], sys.argv[1:])
"""


def without_room(attune: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, ATTUNE, *arguments],
        env={name: value for name, value in attune.environ.items() if not name.startswith("COV")},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


async def test_the_answer_is_printed_and_the_records_that_are_lost_are_named(tmp_path: Path) -> None:
    attune = Program(tmp_path)
    async with FakeUpstream() as upstream:
        attune.configure(MINE.format(url=upstream.chat_url))
        await asyncio.to_thread(attune, "run", "hello")
        ended = await asyncio.to_thread(without_room, attune, "run", "hello")
    assert ended.stdout == "Hello there, friend\n"
    assert ended.returncode == 3
    last = ended.stderr.splitlines()[-1]
    # The attempt; on a slow machine its decision was written before the answer came, and there was room.
    assert re.match(r"attune: [12] records could not be written: the ledger ", last)
    assert last.endswith("check its disk and the file size limit")
    assert "Traceback" not in ended.stderr
    ledger = load(environ=attune.environ).paths.ledger_file
    assert SqliteStore.open_readonly(ledger).totals().attempts == 1
