"""HTTP/1.1 on one connection: a request is written, its answer is read as it comes.

aiohttp's own way makes a dozen objects for a request and takes twice the time. Its connector is still what
opens connections, with TLS, and keeps them.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque

import httptools

__all__ = ["MAX_HEAD_BYTES", "NotHTTPError", "Wire"]

MAX_HEAD_BYTES = 64 * 1024
"""The largest head of an answer that is read, and the most that is neither head nor body without a break."""

HIGH_WATER_BYTES = 256 * 1024
"""Nothing more is taken from the socket while so much of an answer was not read."""

PIECE_BYTES = 64 * 1024
"""How much of a request is written at a time."""

_OF_A_HEADER = 32
"""Bytes that a header counts for beside its text, so that there cannot be thousands of short ones."""


class NotHTTPError(Exception):
    """What came is not HTTP, or more than is read of it. The reason holds nothing of its text."""


class Wire(asyncio.Protocol):
    """One connection, for one request after the other.

    The connector of aiohttp uses it as it does its own. ``reused`` says whether a request was answered on it
    before, ``sent`` whether all of the newest was handed over while the connection stood. ``status`` and
    ``headers`` are those of the answer, once ``ask`` has returned: names in lower case, of several with one
    name the first.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._closed: asyncio.Future[None] | None = None
        self._lost = self._spoilt = self._asked = False
        self._full = self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._poll = select.poll() if hasattr(select, "poll") else None  # Windows has none
        self._begin()

    def _begin(self) -> None:
        self.reused = self._asked
        self.sent = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self._in_head = True
        self._until_closed = False
        self._complete = False
        self._failure: Exception | None = None
        self._pieces: deque[bytes | memoryview] = deque()
        self._held = 0
        self._head_bytes = 0
        self._frame_bytes = 0

    # -- what the connector asks -----------------------------------------------------------------

    def is_connected(self) -> bool:
        """Whether it can be used."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def should_close(self) -> bool:
        """Whether no other request may follow."""
        return self._spoilt or not self._complete or not self.sent

    @property
    def closed(self) -> asyncio.Future[None] | None:
        """Done when the connection has ended; ``None`` if it has."""
        if self._closed is None and not self._lost:
            self._closed = self._loop.create_future()
        return self._closed

    def close(self) -> None:
        """Hang up: at once where something of a request has not left yet."""
        transport, self.transport = self.transport, None
        self._parser = None  # the two refer to each other
        if transport is None:
            return
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    abort = close

    # -- a request and its answer ----------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes) -> None:
        """Send a request; return when the head of its answer is here.

        Raises ``OSError`` when the connection breaks before, and ``NotHTTPError``. Where an error is answered
        before all of the request has left, the rest of it is not sent.
        """
        self._begin()
        self._asked = True
        if (
            self.reused and self._poll and self._poll.poll(0)
        ):  # its end, not seen by the loop yet, or no answer
            raise ConnectionResetError("closed before the request was sent")
        if len(body) <= PIECE_BYTES:
            self._write(head + body)
            self.sent = True
        else:
            await self._write_in_pieces(head, body)
        while self._in_head:
            await self._more()

    async def read(self, most: int) -> bytes:
        """What is here of the body, at most so many bytes; empty at its end.

        Raises ``OSError`` when the connection breaks before, and ``NotHTTPError``.
        """
        while not self._pieces:
            if self._complete:
                return b""
            await self._more()
        taken: list[bytes | memoryview] = []
        left = most
        while self._pieces and left:
            piece = self._pieces.popleft()
            if len(piece) > left:
                rest = memoryview(piece)  # or what is left of a large piece would be copied each time
                self._pieces.appendleft(rest[left:])
                piece = rest[:left]
            taken.append(piece)
            left -= len(piece)
        self._held -= most - left
        if self._paused and self._held <= HIGH_WATER_BYTES // 2:
            self._pause(paused=False)
        return b"".join(taken)

    @property
    def at_end(self) -> bool:
        """Whether the whole answer was read."""
        return self._complete and not self._pieces

    def _write(self, data: bytes | memoryview) -> None:
        if self.transport is None or self.transport.is_closing():
            raise self._failure or ConnectionResetError("closed while the request was sent")
        self.transport.write(data)

    async def _write_in_pieces(self, head: bytes, body: bytes) -> None:
        self._write(head)
        content, size = memoryview(body), PIECE_BYTES
        for start in range(0, len(body), PIECE_BYTES):
            while self._full and self._in_head:
                await self._more()
            await asyncio.sleep(0)  # the socket may take it all, and others are to have their turn
            if not self._in_head:
                if self.status >= 300:
                    return
                size = len(body)  # all that is left
            self._write(content[start : start + size])
            self.sent = start + size >= len(body)
            if self.sent:
                return

    async def _more(self) -> None:
        """Wait until something has happened. Raises what the connection has failed with."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the transport ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = transport  # type: ignore[assignment]
        if self._poll is not None:
            self._poll.register(transport.get_extra_info("socket"), select.POLLIN)
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._lost = self._spoilt = True
        self.transport = self._parser = None
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        if self._until_closed and exc is None:
            self._complete = True
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("closed before an answer"))

    def pause_writing(self) -> None:
        """The service does not read as fast as it is written to."""
        self._full = True

    def resume_writing(self) -> None:
        """It has read on."""
        self._full = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._parser is None:
            return
        if self._complete or not self._asked:  # nobody has asked for them
            self._spoil()
            return
        self._frame_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._spoil()  # the answer has no body
        except httptools.HttpParserError as error:
            self._spoil()
            own = error.__context__  # raised below, by the parser's callback
            self._fail(own if isinstance(own, NotHTTPError) else NotHTTPError(str(error)))
        else:
            if self._frame_bytes > MAX_HEAD_BYTES:
                self._spoil()
                self._fail(NotHTTPError("what is no body of it is too large"))
        if self._held > HIGH_WATER_BYTES and not self._paused:
            self._pause(paused=True)
        self._wake()

    def _pause(self, *, paused: bool) -> None:
        self._paused, transport = paused, self.transport
        if transport is not None and not transport.is_closing():
            (transport.pause_reading if paused else transport.resume_reading)()

    def _fail(self, failure: Exception) -> None:
        if not self._complete and self._failure is None:
            self._failure = failure
        self._wake()

    def _spoil(self) -> None:
        self._spoilt = True
        if self.transport is not None:
            self.transport.abort()

    # -- the parser ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._complete:
            raise NotHTTPError("an answer that nobody has asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header, or trailer."""
        self._head_bytes += len(name) + len(value) + _OF_A_HEADER
        if self._head_bytes > MAX_HEAD_BYTES:
            raise NotHTTPError("its head is too large")
        if self._in_head:
            known, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if known == "transfer-encoding" and known in self.headers:
                text = f"{self.headers.pop(known)}, {text}"
            self.headers.setdefault(known, text)

    def on_headers_complete(self) -> None:
        """The head is complete, perhaps that of an interim answer such as 100 Continue."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._frame_bytes = 0
        if 100 <= self.status < 200 and self.status != 101:
            self._head_bytes += _OF_A_HEADER  # there may not be any number of them
            if self._head_bytes > MAX_HEAD_BYTES:
                raise NotHTTPError("its head is too large")
            return
        self._in_head = False
        encoding = self.headers.get("transfer-encoding", "identity").strip().lower()
        if encoding not in {"chunked", "identity"}:
            raise NotHTTPError("it is encoded for the transfer in a way that was not asked for")
        self._until_closed = encoding == "identity" and "content-length" not in self.headers

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._frame_bytes = max(0, self._frame_bytes - len(body))
        self._pieces.append(body)
        self._held += len(body)

    def on_chunk_complete(self) -> None:
        """A chunk with its frame is complete."""
        self._frame_bytes = 0

    def on_message_complete(self) -> None:
        """The answer is complete, or an interim one."""
        if self._in_head:
            self.headers = {}
            return
        self._complete = True
        assert self._parser is not None
        if not self._parser.should_keep_alive():
            self._spoilt = True
