"""The events of one call, with the change of candidate that nobody sees."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attune.errors import ProviderError
from attune.models.executor import EventKind

if TYPE_CHECKING:
    from types import TracebackType

    from attune.models.attempt import Attempt
    from attune.models.call import Call
    from attune.models.executor import LLMResponse, StreamEvent

__all__ = ["CallStream"]


class CallStream:
    """The events of one call. ``response`` is there once the terminal event has come.

    Leaving the ``async with`` block, or cancelling, closes the upstream connection at once.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._attempt: Attempt | None = None
        self._ready: deque[StreamEvent] = deque()
        self._committed = False
        self._over = False
        self.response: LLMResponse | None = None

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
            if self._over or self.response is not None:
                raise StopAsyncIteration
            self._over = True  # a failure or a cancellation ends it for good
            await (self._go_on() if self._committed else self._commit())
            self._over = False
        return self._ready.popleft()

    async def aclose(self) -> None:
        """End the call now."""
        self._over = True
        if self._attempt is not None:
            await self._attempt.aclose()

    async def _commit(self) -> None:
        """Read one attempt up to its first content, replacing it if it fails before."""
        attempt = self._attempt = await self._call.next_attempt()
        held: list[StreamEvent] = []
        try:
            async for event in attempt:
                held.append(event)
                if event.kind in {EventKind.CONTENT, EventKind.TERMINAL}:
                    break
        except ProviderError as error:
            await attempt.aclose()
            self._call.failed(attempt, error)
            return
        if event.kind is EventKind.TERMINAL and not self._call.answered(attempt):
            return
        self._committed = True
        if event.kind is EventKind.TERMINAL:
            self.response = await self._call.response(attempt)
        self._ready.extend(held)

    async def _go_on(self) -> None:
        attempt = self._attempt
        if attempt is None:
            raise StopAsyncIteration
        event = await attempt.__anext__()
        if event.kind is EventKind.TERMINAL:
            self._call.finished(attempt)
            self.response = await self._call.response(attempt)
        self._ready.append(event)
