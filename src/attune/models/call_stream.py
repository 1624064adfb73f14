"""The events of one call, with the change of candidate that nobody sees."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from attune.errors import AttuneError, InvalidRequestError, StreamBrokenError
from attune.models.call_checks import check_number
from attune.models.executor import EventKind, StreamEvent
from attune.models.interruption import Interruptible

if TYPE_CHECKING:
    from types import TracebackType

    from attune.models.attempt import Attempt
    from attune.models.call import Call
    from attune.models.candidate import Candidate
    from attune.models.executor import LLMResponse
    from attune.models.route_decision import RouteDecision

__all__ = ["CallStream"]

_PING = StreamEvent(EventKind.PING, b"", None)


class CallStream:
    """The events of one call. ``response`` is there once the terminal event has come.

    Leaving the ``async with`` block, or cancelling, closes the upstream connection at once. With
    ``ping_s`` a ping comes whenever so many seconds have passed without content before the first.
    """

    def __init__(self, call: Call, *, ping_s: float | None = None) -> None:
        if ping_s is not None:
            check_number("ping_s", ping_s, above_zero=True)
        self._call = call
        self._ping_s = ping_s
        self._beginning: asyncio.Task[tuple[Attempt, list[StreamEvent]]] | None = None
        self._attempt: Attempt | None = None
        self._ready: deque[StreamEvent] = deque()
        self._over = False
        self._closed = False
        self._interrupted = False
        self._reading = Interruptible()
        self._reader: asyncio.Task[object] | None = None
        self.response: LLMResponse | None = None

    @property
    def call_id(self) -> str:
        """The call's id, by which the ledger knows it."""
        return self._call.id

    @property
    def decision(self) -> RouteDecision | None:
        """What was decided, once it was."""
        return self._call.decision

    @property
    def candidate(self) -> Candidate | None:
        """What answers, once its first content has come; ``None`` before."""
        return None if self._attempt is None else self._attempt.candidate

    @property
    def has_more(self) -> bool:
        """Whether the next event has come already."""
        return bool(self._ready)

    async def __aenter__(self) -> CallStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> CallStream:
        return self

    async def __anext__(self) -> StreamEvent:
        while not self._ready:
            if self.response is not None:
                raise StopAsyncIteration
            if self._interrupted:
                raise StreamBrokenError("another task closed the stream before its end")
            if self._reading.running:
                raise InvalidRequestError("another task is reading this stream")
            if self._over:
                raise StopAsyncIteration
            self._over = True  # a failure or a cancellation ends it for good
            await self._read()
            self._over = self._closed
        return self._ready.popleft()

    async def aclose(self) -> None:
        """End the call now; another task that reads it gets ``StreamBrokenError``."""
        await self.break_off(StreamBrokenError("the stream was closed while it was being read"))

    async def break_off(self, reason: AttuneError) -> None:
        """End the call now; another task that reads it gets ``reason``."""
        self._closed = self._over = True
        if self.response is None:
            self._ready.clear()
        self._interrupted |= self._reader not in {None, asyncio.current_task()}
        if not self._reading.is_ours:
            self._reading.interrupt(reason)  # wherever it waits: for the head, in a pause, for an event
            await self._reading.left()
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.wait({self._beginning})
            if not self._beginning.cancelled():
                self._beginning.exception()  # nobody waits for it any more
        await self._call.aclose()

    async def _read(self) -> None:
        """Wait for the next event, until ``aclose`` in another task."""
        self._reader = asyncio.current_task()
        try:
            with self._reading:
                await (self._commit() if self._attempt is None else self._go_on(self._attempt))
        except AttuneError as error:
            error.call_id = self._call.id
            raise

    async def _commit(self) -> None:
        """Commit to the attempt that gives the first content, or say that it is still waited for."""
        begun = await self._begin()
        if begun is None:
            self._ready.append(_PING)
            return
        attempt, events = begun
        if events[-1].kind is EventKind.TERMINAL:
            if not self._call.answered(attempt):
                return
            await self._call.judge(attempt)
            self.response = await self._call.response(attempt)
        self._attempt = attempt
        self._ready.extend(events)

    async def _begin(self) -> tuple[Attempt, list[StreamEvent]] | None:
        """The beginning of the answer; ``None`` when ``ping_s`` have passed without one."""
        if self._ping_s is None:
            return await self._call.begin()
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._call.begin())
        try:
            await asyncio.wait({self._beginning}, timeout=self._ping_s)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if not self._beginning.done():
            return None
        begun, self._beginning = self._beginning, None
        return begun.result()

    async def _go_on(self, attempt: Attempt) -> None:
        event: StreamEvent | None = await attempt.__anext__()
        if event is not None and event.kind is EventKind.TERMINAL:
            self._call.finished(attempt)
            await self._call.judge(attempt)
            self.response = await self._call.response(attempt)
        while event is not None:
            self._ready.append(event)
            event = attempt.take()
