"""Counting tokens in a process of its own, which begins with the first count and ends when none is asked for.

Loading a vocabulary stops a whole process, threads too, for about a second, and takes 100 MB that no process
gives back while it lives: neither may happen to the one that answers everybody.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from attune.errors import InvalidRequestError
from attune.gateway.http import HTTPError, pieces
from attune.providers.secret import without_secrets
from attune.wire.errors import MALFORMED

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["TokenCounter"]

IDLE_SECONDS = 60.0
"""After so long without a count the process ends."""

LONGEST_SECONDS = 30.0
"""How long a count may take, the start of the process included."""

_LENGTH = 8
_BROKEN = (OSError, EOFError, msgspec.DecodeError)


class _Counted(msgspec.Struct):
    tokens: int = 0
    error: str = ""


class TokenCounter:
    """Counts bodies of Messages, one after the other."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[int]] = set()

    async def count(self, body: bytes) -> int:
        """The tokens of a body, an estimate. Raises ``InvalidRequestError`` for one that makes no sense, and
        ``HTTPError`` where it cannot be counted now.
        """
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    counted = await self._asked(body)
            except _BROKEN:  # a TimeoutError is an OSError
                self._kill()
                message = "the tokens cannot be counted now; try again"
                raise HTTPError(503, message, headers={"retry-after": "1"}) from None
            except asyncio.CancelledError:
                self._kill()  # its answer would be taken for that of the next
                raise
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._kill)
        if counted.error:
            raise InvalidRequestError(counted.error)
        return counted.tokens

    async def aclose(self) -> None:
        """End the process; idempotent."""
        if self._idle is not None:
            self._idle.cancel()
        self._kill()
        await asyncio.gather(*self._ending)

    async def _asked(self, body: bytes) -> _Counted:
        process = self._process
        if process is None or process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", __name__),  # -P: no module of the current folder
                stdin=pipe,
                stdout=pipe,
                env=without_secrets(os.environ),
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(len(body).to_bytes(_LENGTH, "big"))
        for piece in pieces(body):
            process.stdin.write(piece)
            await process.stdin.drain()
        return msgspec.json.decode(await process.stdout.readuntil(), type=_Counted)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        task = asyncio.get_running_loop().create_task(process.wait())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def answer(bodies: BinaryIO, answers: BinaryIO) -> None:
    """The process itself: for each body, after its length, a line of JSON; until there are no more."""
    from attune.tokens import count_request  # which must not be loaded in the gateway's process
    from attune.wire.messages_door import MessagesDoor

    door = MessagesDoor()
    while length := bodies.read(_LENGTH):
        body = bodies.read(int.from_bytes(length, "big"))
        try:
            model, asked = door.read(_with_limit(body))
            counted = _Counted(count_request(asked, model))
        except InvalidRequestError as error:
            counted = _Counted(error=str(error))
        answers.write(msgspec.json.encode(counted) + b"\n")
        answers.flush()


def _with_limit(body: bytes) -> bytes:
    """A body to be counted, with the output limit that only a call needs."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except MALFORMED:
        return body  # the door says what is wrong with it
    return msgspec.json.encode({"max_tokens": 1, **fields})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the gateway, which then ends this
    answer(sys.stdin.buffer, sys.stdout.buffer)
