"""Server-sent events: bytes in, events out, at any chunk boundary (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import StreamBrokenError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_EVENT_BYTES", "SSEEvent", "SSEParser"]

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""The largest event accepted: far above any real delta, far below what would hurt."""

# A blank line: two line ends in a row. Atomic, or "\r\n" would count as two ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_BLANK_LINE = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SSEEvent(NamedTuple):
    """One block: its ``event`` name, its ``data`` lines joined, and the bytes as they arrived.

    A block of comments only, which servers send to keep a connection alive, has empty ``data``.
    """

    event: str
    data: bytes
    raw: bytes


class SSEParser:
    """Cuts a byte stream into events.

    The ``raw`` of all events and ``rest`` together are exactly the bytes that were fed.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._returns = False
        self._max_event_bytes = max_event_bytes

    @property
    def rest(self) -> bytes:
        """What has arrived of an event that is not complete."""
        return bytes(self._buffer)

    def feed(self, chunk: bytes) -> Iterator[SSEEvent]:
        """Yield the events that ``chunk`` completes; exhaust it before the next ``feed``.

        Raises ``StreamBrokenError`` for an event above the size limit.
        """
        buffer = self._buffer
        buffer += chunk
        self._returns = self._returns or b"\r" in chunk
        while (size := self._first_event()) > 1:
            raw = bytes(buffer[:size])
            del buffer[:size]
            self._searched = 0
            self._check_size(size)
            yield _parse(raw)
        self._searched = len(buffer)
        self._check_size(self._searched)

    def _first_event(self) -> int:
        """How many bytes the first event takes, its blank line included; below 2 if it is not complete."""
        start = max(0, self._searched - _LONGEST_BLANK_LINE)
        if not self._returns:  # nearly always; the pattern takes five times as long
            return self._buffer.find(b"\n\n", start) + 2
        end = _BLANK_LINE.search(self._buffer, start)
        return end.end() if end else 0

    def _check_size(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise StreamBrokenError(f"an event of the stream is above {self._max_event_bytes} bytes")


def _parse(raw: bytes) -> SSEEvent:
    if raw.startswith(b"data: ") and raw.count(b"\n") == 2 and b"\r" not in raw:  # nearly always
        return SSEEvent("", raw[6:-2], raw)
    event = ""
    data: list[bytes] = []
    for line in raw.removeprefix(_BYTE_ORDER_MARK).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            event = value.removeprefix(b" ").decode("utf-8", "replace")
    return SSEEvent(event, b"\n".join(data), raw)
