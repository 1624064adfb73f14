"""Doubles for testing code that uses attune, without network or waiting.

``FakeProvider`` answers from a script and records what it was asked; ``FakeClock`` is a clock
whose sleeps take no real time::

    clock = FakeClock()
    provider = FakeProvider("openai", [TransientError("overloaded"), "the answer"], sleep=clock.sleep)
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import re
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attune.errors import ProviderError
from attune.models.executor import (
    EventKind,
    Meta,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.telemetry import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from attune.models.executor import AttemptBudget
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest, ToolCallPart

__all__ = ["FakeClock", "FakeProvider", "FakeStream", "ReceivedRequest", "Reply", "Script"]

SETTLE_TURNS = 25
"""Turns of the event loop without a new sleeper after which ``FakeClock`` takes it for idle."""


class FakeClock:
    """A monotonic and a wall clock that move only by ``advance`` and by sleeping.

    Sleeping takes no real time: when the event loop has nothing else to do, the clock jumps to
    the earliest wake-up, so concurrent sleepers wake in the right order. Work on real sockets
    looks like "nothing to do"; give ``autojump=False`` there and call ``advance``. ``start`` and
    ``epoch`` are the first values of ``monotonic`` and ``time`` in seconds.
    """

    def __init__(
        self, *, start: float = 1_000.0, epoch: float = 1_800_000_000.0, autojump: bool = True
    ) -> None:
        self._now = start
        self._offset = epoch - start
        self._autojump = autojump
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._turns_left = 0
        self._watching = False

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._now

    def time(self) -> float:
        """UTC epoch seconds."""
        return self._now + self._offset

    def advance(self, seconds: float) -> None:
        """Move the time on and wake everyone whose sleep is over."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has moved on by ``seconds``; ``inf`` sleeps until cancelled."""
        loop = asyncio.get_running_loop()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = loop.create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        self._turns_left = SETTLE_TURNS
        if self._autojump and not self._watching:
            self._watching = True
            loop.call_soon(self._watch, loop)
        await woken

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        if not self._sleepers or self._sleepers[0][0] == float("inf"):
            self._watching = False
            return
        self._turns_left -= 1
        if self._turns_left <= 0:
            self._turns_left = SETTLE_TURNS
            self.advance(self._sleepers[0][0] - self._now)
        loop.call_soon(self._watch, loop)


class Reply(NamedTuple):
    """One scripted answer.

    ``text`` as a tuple gives one content event per item; as a string one per word when the
    request streams, else one. ``error`` is raised by ``open``, or in the stream after
    ``error_after`` content events. ``head_s`` passes before ``open`` returns,
    ``first_content_s`` before the first content and ``between_s`` before each later one
    (``inf`` never answers).
    """

    text: str | tuple[str, ...] = "ok"
    thinking: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()
    usage: TokenUsage | None = TokenUsage(input_tokens=10, output_tokens=5)
    stop_reason: str = "stop"
    error: ProviderError | None = None
    error_after: int | None = None
    head_s: float = 0.0
    first_content_s: float = 0.0
    between_s: float = 0.0


Answer: TypeAlias = "str | ProviderError | Reply"
Script: TypeAlias = "Answer | Callable[[LLMRequest, ModelInfo], Answer]"


class ReceivedRequest(NamedTuple):
    """What ``FakeProvider`` was asked."""

    request: LLMRequest
    model: ModelInfo
    budget: AttemptBudget


class FakeProvider:
    """A ``Provider`` that answers from a script.

    ``script`` is used up one item a request; after it ``default`` answers. An item is a text, a
    ``ProviderError`` to raise, a ``Reply``, or a function of (request, model) that returns one of
    these. ``received`` holds every request in order, ``in_flight`` how many are open now,
    ``max_in_flight`` the most that were, ``abandoned`` how many were closed or cancelled before
    their end.
    """

    def __init__(
        self,
        name: str = "fake",
        script: Iterable[Script] = (),
        *,
        default: Script = "ok",
        credential: str = "api_key",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = name
        self._credential = credential
        self._script = deque(script)
        self.default = default
        self.sleep = sleep
        self.received: list[ReceivedRequest] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.abandoned = 0
        self.closed = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def credential(self) -> str:
        return self._credential

    def then(self, *answers: Script) -> FakeProvider:
        """Add answers to the end of the script."""
        self._script.extend(answers)
        return self

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> FakeStream:
        """Take the next answer of the script. Raises its error, with provider and model filled in."""
        self.received.append(ReceivedRequest(request, model, budget))
        reply = self._next_reply(request, model)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        stream = FakeStream(self, list(self._steps(reply, request, model)))
        if reply.head_s:
            try:
                await self.sleep(reply.head_s)
            except asyncio.CancelledError:
                await stream.aclose()
                raise
        if reply.error is not None and reply.error_after is None:
            self.ended(abandoned=False)
            raise self._blamed(reply.error, model)
        return stream

    async def aclose(self) -> None:
        """Note that the owner released the provider."""
        self.closed = True

    def ended(self, *, abandoned: bool) -> None:
        """Count one request as over."""
        self.in_flight -= 1
        self.abandoned += abandoned

    def _next_reply(self, request: LLMRequest, model: ModelInfo) -> Reply:
        item = self._script.popleft() if self._script else self.default
        answer = item(request, model) if callable(item) else item
        match answer:
            case Reply():
                return answer
            case ProviderError():
                return Reply(error=answer)
            case _:
                return Reply(answer)

    def _blamed(self, error: ProviderError, model: ModelInfo) -> ProviderError:
        own = copy.copy(error)  # the same script item may be raised many times
        own.provider = own.provider or self._name
        own.model = own.model or model.id
        return own

    def _steps(self, reply: Reply, request: LLMRequest, model: ModelInfo) -> Iterator[Step]:
        yield Step(0.0, StreamEvent(EventKind.META, b"", Meta(f"fake-{len(self.received)}", model.id)))
        contents = _contents(reply, streams=request.stream)
        for place, payload in enumerate(contents[: reply.error_after]):
            delay = reply.between_s if place else reply.first_content_s
            yield Step(delay, StreamEvent(EventKind.CONTENT, b"", payload))
        if reply.error is not None:
            yield Step(reply.between_s, self._blamed(reply.error, model))
            return
        if reply.usage is not None:
            yield Step(0.0, StreamEvent(EventKind.USAGE, b"", reply.usage))
        yield Step(0.0, StreamEvent(EventKind.TERMINAL, b"", Terminal(reply.stop_reason, reply.stop_reason)))


class Step(NamedTuple):
    """A pause in seconds and what comes after it."""

    delay: float
    then: StreamEvent | ProviderError


class FakeStream:
    """The stream of one scripted answer; ``raw`` of its events is empty."""

    def __init__(self, provider: FakeProvider, steps: list[Step]) -> None:
        self._provider = provider
        self._steps = deque(steps)
        self._over = False

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> StreamEvent:
        if self._over or not self._steps:
            raise StopAsyncIteration
        step = self._steps[0]
        if step.delay:
            await self._provider.sleep(step.delay)
        self._steps.popleft()
        if isinstance(step.then, ProviderError):
            self._end(abandoned=False)
            raise step.then
        if step.then.kind is EventKind.TERMINAL:
            self._end(abandoned=False)
        return step.then

    async def aclose(self) -> None:
        """End the request at once; counts as abandoned if the terminal event was not reached."""
        self._end(abandoned=True)

    def _end(self, *, abandoned: bool) -> None:
        if not self._over:
            self._over = True
            self._provider.ended(abandoned=abandoned)


def _contents(reply: Reply, *, streams: bool) -> list[TextDelta | ThinkingDelta | ToolCallDelta]:
    contents: list[TextDelta | ThinkingDelta | ToolCallDelta] = []
    if reply.thinking:
        contents.append(ThinkingDelta(reply.thinking))
    if isinstance(reply.text, tuple):
        contents += [TextDelta(text) for text in reply.text]
    elif streams:
        contents += [TextDelta(word) for word in re.findall(r"\s*\S+(?:\s+$)?", reply.text)]
    elif reply.text:
        contents.append(TextDelta(reply.text))
    contents += [
        ToolCallDelta(place, call.id, call.name, call.arguments)
        for place, call in enumerate(reply.tool_calls)
    ]
    return contents
