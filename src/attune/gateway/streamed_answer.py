"""A streamed answer as it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.gateway.http import head, send_body
from attune.models.executor import EventKind
from attune.wire.doors import AnswerHead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from attune.calls_under_way import TrackedStream
    from attune.clock import Clock
    from attune.models.request import LLMRequest
    from attune.models.route_decision import RouteDecision
    from attune.wire.doors import Door

__all__ = ["StreamedAnswer", "noted", "one_header_line"]


class StreamedAnswer:
    """A stream on its way to the client: the head once, then what the writer makes of the events.

    ``protocol`` says by which protocol the request goes to a model, ``left_out`` the header that names what
    that model is not told.
    """

    def __init__(
        self,
        door: Door,
        request: LLMRequest,
        events: TrackedStream,
        send: Callable[[Any], Awaitable[None]],
        *,
        protocol: Callable[[LLMRequest, str], str],
        left_out: Callable[[LLMRequest, str], dict[str, str]],
        clock: Clock,
    ) -> None:
        self._door = door
        self._request = request
        self._events = events
        self._send = send
        self._protocol = protocol
        self._left_out = left_out
        self._clock = clock
        self._writer: Any = None
        self._unsent: list[bytes] = []
        self._headers: dict[str, str] = {}
        self.begun = False

    async def write_all(self) -> None:
        """Pass the events on, as they come; the end is left to ``end``."""
        async with self._events as events:
            async for event in events:
                if event.kind is EventKind.PING and events.candidate is None:
                    await self._ping()
                else:
                    await self._write(event)

    async def _ping(self) -> None:
        """Tell the client that its answer is still being made."""
        await self._begin()
        await send_body(self._send, self._door.PING, more=True)

    async def _write(self, event: Any) -> None:
        """Pass one event on, together with those that have come already, and the last one with the end."""
        if self._writer is None:
            self._writer = self._make_writer()
        if content := self._writer.feed(event):
            self._unsent.append(content)
        if self._unsent and not self._events.has_more and event.kind is not EventKind.TERMINAL:
            await self._begin()
            content, self._unsent = b"".join(self._unsent), []
            await send_body(self._send, content, more=True)

    async def end(self, last: bytes) -> None:
        """The last bytes of the answer."""
        await self._begin()
        await send_body(self._send, b"".join((*self._unsent, last)))

    def _make_writer(self) -> Any:
        candidate = self._events.candidate
        assert candidate is not None  # an event that is no ping comes after the commit
        if self.begun:
            self._unsent.append(_comment(self._known().items() - self._headers.items()))
        told = AnswerHead(
            self._events.call_id, candidate.model_id, candidate.provider, int(self._clock.time())
        )
        protocol = self._protocol(self._request, candidate.label)
        return self._door.stream(self._request, told, relays=protocol == self._door.protocol)

    async def _begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        self._headers = self._known()
        headers = {"x-attune-call-id": self._events.call_id, "cache-control": "no-store", **self._headers}
        await self._send(head(200, "text/event-stream", headers))

    def _known(self) -> dict[str, str]:
        """The headers that can be told by now."""
        headers = {}
        decision, candidate = self._events.decision, self._events.candidate
        if decision is not None:
            other = candidate is not None and candidate != decision.candidate
            after = f"; {candidate} answers, others failed" if other else ""
            headers["x-attune-decision"] = one_header_line(decision.reason + after)
            headers |= noted(decision)
        if candidate is not None:
            headers["x-attune-model"] = candidate.label
            headers |= self._left_out(self._request, candidate.label)
        return headers


def _comment(headers: Collection[tuple[str, str]]) -> bytes:
    """Headers as a comment of an event stream, which no client takes for an event: for what is known only
    after the head was sent.
    """
    return b"".join(f": {name}: {value}\n".encode() for name, value in sorted(headers)) + b"\n"


def noted(decision: RouteDecision) -> dict[str, str]:
    """The header with what the decision remarks, such as a task that is not known; none without."""
    return {"x-attune-note": one_header_line("; ".join(decision.notes))} if decision.notes else {}


def one_header_line(text: str) -> str:
    """A header's value: one line of ASCII, at most 500 characters."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:500]
