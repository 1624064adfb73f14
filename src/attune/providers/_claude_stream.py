"""One answer of the ``claude`` program: what it is told, and the events that come of what it says."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from attune.errors import ConnectionFailedError, ProviderError
from attune.models.executor import BilledBeside, EventKind, StreamEvent
from attune.providers._claude_lines import (
    Line,
    Result,
    answer_to,
    check_payer,
    check_started,
    control,
    failure_of,
    rate_limit_info,
    sse,
    turn,
)
from attune.providers._claude_windows import RateLimitInfo, billed_beside, window_in_text, windows_of
from attune.wire.errors import MALFORMED
from attune.wire.messages import MessagesDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attune.models.quota import QuotaWindow
    from attune.providers._claude_lines import Asked
    from attune.providers._claude_process import ClaudePool, ClaudeProcess
    from attune.wire.errors import ErrorMapper

__all__ = ["ClaudeStream"]

LAST_WORDS_S = 5.0
"""How long the program's report on the plan is waited for once an answer is complete; it is there at once."""

_NOT_UNDERSTOOD = "what the claude program said is not understood"


class ClaudeStream:
    """The events of one answer, as ``attune.models.executor.ProviderStream`` describes them.

    ``noted`` is called with the windows of each report of the plan. That credits pay beside it is told by an
    event ``BilledBeside``, once the answer has begun.
    """

    def __init__(
        self,
        pool: ClaudePool,
        process: ClaudeProcess,
        errors: ErrorMapper,
        noted: Callable[[Sequence[QuotaWindow]], None],
    ) -> None:
        self._noted = noted
        self._pool = pool
        self._process = process
        self._errors = errors
        self._decoder = MessagesDecoder(errors)
        self._limits = RateLimitInfo()
        self._billed: BilledBeside | None = None
        self._ready: deque[StreamEvent] = deque()
        self._terminal: StreamEvent | None = None
        self._began = False
        self._held = True
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> ClaudeStream:
        return self

    async def __anext__(self) -> StreamEvent:
        await self._fill()
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    def __del__(self) -> None:
        if self._held and not self._loop.is_closed():  # dropped without ``aclose``
            give_back = partial(self._pool.give_back, self._process, finished=False)
            self._loop.call_soon_threadsafe(give_back)

    async def aclose(self) -> None:
        """Interrupt the program, unless the answer was complete; idempotent."""
        self._ready.clear()
        self._end(finished=False)

    async def prepare(self, told: Asked) -> None:
        """Tell it all but the last message. Raises ``CredentialError`` if not the subscription pays."""
        try:
            initialize = control("1", subtype="initialize", hooks=None, systemPrompt=told.system)
            check_started(await self._answer("1", initialize), self._errors)
            settings = control("2", subtype="apply_flag_settings", settings=told.settings)
            await self._answer("2", settings)
        except MALFORMED as error:
            raise self._errors.broken(f"{_NOT_UNDERSTOOD}: {error}") from None
        for message in told.turns[:-1]:
            await self._process.send(turn(message, answered=False))
            if message["role"] == "user":
                while (await self._line())[0].type != "result":
                    pass

    async def ask(self, told: Asked) -> None:
        """Tell it the last message, and wait until it is being answered."""
        try:
            await self._process.send(turn(told.turns[-1], answered=True))
        except BaseException:
            self._end(finished=False)
            raise
        await self._fill()

    async def _answer(self, number: str, request: dict[str, Any]) -> msgspec.Raw:
        await self._process.send(request)
        while True:
            line, _ = await self._line()
            answer = answer_to(number, line, self._errors)
            if answer is not None:
                return answer

    async def _fill(self) -> None:
        """Read until there is an event, unless the answer is over."""
        try:
            while self._held and not self._ready:
                if self._terminal is None:
                    await self._advance()
                else:
                    await self._finish(self._terminal)
        except BaseException:
            self._end(finished=False)
            raise

    async def _advance(self) -> None:
        line, raw = await self._line()
        if line.type == "stream_event":
            for event in self._decoder.feed(sse(line.event)):
                self._began = True
                self._tell_of_credits()
                if event.kind is EventKind.TERMINAL:
                    self._terminal = event
                else:
                    self._ready.append(event)
        elif line.type == "result":
            raise self._failure(raw)

    async def _finish(self, terminal: StreamEvent) -> None:
        """Hear what the program says about the plan after an answer; then it is over.

        It would go on by itself after an answer that is cut off: it is interrupted before that.
        """
        kind = ""
        with suppress(TimeoutError, ProviderError):
            async with asyncio.timeout(LAST_WORDS_S):
                while kind not in {"result", "user"}:
                    kind = (await self._line())[0].type
        self._tell_of_credits()
        self._ready.append(terminal)
        self._end(finished=kind == "result")

    def _tell_of_credits(self) -> None:
        """Put the event that they are billed before the next one."""
        if self._billed is not None:
            self._ready.append(StreamEvent(EventKind.PING, b"", self._billed))
            self._billed = None

    async def _line(self) -> tuple[Line, bytes]:
        """The next line and its bytes. Raises ``ProviderError`` at the end, and when another one pays."""
        try:
            raw = await self._process.line()
            if not raw:
                raise await self._crash()
            line = msgspec.json.decode(raw, type=Line)
        except (ValueError, *MALFORMED) as error:  # ValueError: a line that is too long
            raise self._errors.broken(f"{_NOT_UNDERSTOOD}: {error}") from None
        if (line.type, line.subtype) == ("system", "init"):
            check_payer(line.api_key_source or "something unknown", self._errors)
        elif line.type == "rate_limit_event":
            self._limits = rate_limit_info(line)
            now = time.time()
            self._noted(windows_of(self._limits, now))
            self._billed = billed_beside(self._limits, now) or self._billed
        return line, raw

    async def _crash(self) -> ProviderError:
        what = f"the claude program ended: {await self._process.last_words()}"
        return self._errors.broken(what) if self._began else self._errors.raised(ConnectionFailedError, what)

    def _failure(self, raw: bytes) -> ProviderError:
        now = time.time()
        try:
            result = msgspec.json.decode(raw, type=Result)
        except MALFORMED as error:
            return self._errors.broken(f"{_NOT_UNDERSTOOD}: {error}")
        spent = window_in_text(result.result, now)
        if spent is not None and not windows_of(self._limits, now):
            self._noted((spent,))
        return failure_of(result, self._limits, self._errors, now)

    def _end(self, *, finished: bool) -> None:
        if self._held:
            self._held = False
            self._pool.give_back(self._process, finished=finished)
