"""What comes before the first content of an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.models.executor import EventKind, StreamEvent, TextDelta
from attune.models.race import first_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = StreamEvent(EventKind.CONTENT, b"data: text\n\n", TextDelta("text"))


async def beginning(*raw: bytes) -> list[bytes]:
    async def attempt() -> AsyncIterator[StreamEvent]:
        for each in raw:
            yield StreamEvent(EventKind.PING, each, None)
        yield TEXT

    events: Any = await first_events(attempt())  # type: ignore[arg-type]
    return [event.raw for event in events]


async def test_signs_of_life_are_kept_once() -> None:
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    assert await beginning(ping, ping, b": on\n\n", b": on\n\n", ping) == [ping, b": on\n\n", ping, TEXT.raw]


async def test_equal_pieces_of_what_is_only_passed_on_are_all_kept() -> None:
    piece = b'data: {"choices": [{"index": 1, "delta": {"content": "ha"}}]}\n\n'
    assert await beginning(piece, piece) == [piece, piece, TEXT.raw]
