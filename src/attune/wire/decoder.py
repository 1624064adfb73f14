"""From the bytes of an answer to ``StreamEvent``s, streamed or in one body."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from attune.models.executor import (
    EventKind,
    Meta,
    Payload,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Working,
)
from attune.models.telemetry import TokenUsage
from attune.wire.errors import MALFORMED
from attune.wire.sse import SSEEvent, SSEParser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from attune.wire.errors import ErrorMapper

__all__ = ["MAX_BODY_BYTES", "MAX_CONTENT_BYTES", "BodyDecoder", "Decoder", "StreamDecoder", "events_of"]

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The largest answer accepted in one body."""

MAX_CONTENT_BYTES = 128 * 1024 * 1024
"""The most bytes of content events accepted in one stream: three times the longest answers of today,
128,000 tokens of up to 330 bytes with all that is sent around each. What comes of them is kept.
"""

_KINDS: dict[type, EventKind] = {
    Meta: EventKind.META,
    TextDelta: EventKind.CONTENT,
    ThinkingDelta: EventKind.CONTENT,
    ToolCallDelta: EventKind.CONTENT,
    TokenUsage: EventKind.USAGE,
    Terminal: EventKind.TERMINAL,
    Working: EventKind.PING,
    type(None): EventKind.PING,
}


class Decoder(Protocol):
    """Takes an answer's bytes in pieces of any size. Both methods raise ``ProviderError``.

    ``held`` is how many bytes ``finish`` has to read.
    """

    @property
    def held(self) -> int: ...

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Yield the events that ``chunk`` completes; exhaust it before the next call."""

    def finish(self) -> Iterator[StreamEvent]:
        """Yield what the end of the input completes."""


def events_of(payloads: Iterable[Payload], raw: bytes) -> Iterator[StreamEvent]:
    """One event for each payload; the first carries ``raw``. No payload at all makes a ping."""
    for payload in payloads or (None,):
        yield StreamEvent(_KINDS[type(payload)], raw, payload)
        raw = b""


class StreamDecoder(ABC):
    """A stream of server-sent events; a subclass says what one means.

    Every block of the stream is one or more events, of which the first has the block's bytes: a
    block that carries no part of the answer is a ``ping``. What follows the terminal is ignored.
    """

    protocol = ""
    held = 0

    def __init__(self, errors: ErrorMapper) -> None:
        self._errors = errors
        self._parser = SSEParser()
        self._over = False
        self._content_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """See ``Decoder``."""
        for block in self._parser.feed(chunk):
            if self._over:
                return
            for event in events_of(self._payloads(block), block.raw):
                self._over = event.kind is EventKind.TERMINAL
                if event.kind is EventKind.CONTENT:
                    self._count(len(event.raw))
                yield event

    def _count(self, size: int) -> None:
        self._content_bytes += size
        if self._content_bytes > MAX_CONTENT_BYTES:
            raise self._errors.broken(f"the content of the answer is above {MAX_CONTENT_BYTES} bytes")

    def finish(self) -> Iterator[StreamEvent]:
        """An event that the end of the input cuts off is no event, so nothing is left to yield."""
        return iter(())

    def _payloads(self, block: SSEEvent) -> Iterable[Payload]:
        if block.event == "error":
            raise self._errors.from_event(block.data)
        try:
            return self._read(block) if block.data else ()
        except MALFORMED as error:
            raise self._errors.broken(f"an event is not {self.protocol}: {error}") from error

    @abstractmethod
    def _read(self, block: SSEEvent) -> Iterable[Payload]:
        """What one event means; may raise anything in ``MALFORMED``.

        An iterator may raise a ``ProviderError`` after what it yields, and is never empty.
        """


class BodyDecoder:
    """An answer in one body, decoded at its end by ``decode``."""

    def __init__(
        self, decode: Callable[[bytes, ErrorMapper], list[StreamEvent]], errors: ErrorMapper
    ) -> None:
        self._decode = decode
        self._errors = errors
        self._chunks: list[bytes] = []
        self.held = 0

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Keep ``chunk``; a body above ``MAX_BODY_BYTES`` is refused."""
        self._chunks.append(chunk)
        self.held += len(chunk)
        if self.held > MAX_BODY_BYTES:
            raise self._errors.broken(f"the answer is above {MAX_BODY_BYTES} bytes")
        return iter(())

    def finish(self) -> Iterator[StreamEvent]:
        """Yield the events of the whole body."""
        return iter(self._decode(b"".join(self._chunks), self._errors))
