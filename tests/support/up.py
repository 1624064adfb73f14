"""``attune up`` in a process of its own: where it answers, what it said, and its log when it has ended."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from support.ports import free_port
from support.program import ATTUNE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.program import Program


class Up:
    """A gateway in a process of its own; ``said`` is what it printed when it was ready."""

    def __init__(self, process: asyncio.subprocess.Process, said: dict[str, Any]) -> None:
        self.process = process
        self.said = said
        self.url: str = said["url"]

    async def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Ask it to end: its exit code, and all that it logged."""
        self.process.send_signal(number)
        async with asyncio.timeout(60):
            out, err = await self.process.communicate()
        assert out == b""
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()


@asynccontextmanager
async def up(program: Program, *args: str) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        ATTUNE,
        "up",
        "--json",
        "--port",
        str(free_port()),
        *args,
        env=program.environ,
        cwd=program.home,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            text = await process.stdout.readuntil(b"}\n")
        yield Up(process, json.loads(text))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
