"""HTTP on one connection: uvicorn's protocol, with caps and limits of time. It has none of its own."""

from __future__ import annotations

from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from attune.gateway.app import shape_of
from attune.gateway.http import DEPARTURE, ClientGoneError, Departure, HTTPError
from attune.gateway.refusing import refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["GuardedProtocol"]

MAX_HEAD_BYTES = 64 * 1024
"""The largest head of a request that is read."""

_TOO_LARGE = f"the head of the request is above {MAX_HEAD_BYTES // 1024} KiB; send less"
_UPGRADE = "a request with a body cannot ask for another protocol (upgrade); send it as HTTP/1.1"
_BODIES = frozenset({b"content-length", b"transfer-encoding"})
_TOO_SLOW = "the head of the request did not arrive in time; send it again"
_TOO_MANY = "the gateway has as many connections as it may; try again, or raise [gateway] max_connections"
_GOING = "the gateway was asked to end, and this took longer than its answers may then; send it again"


class GuardedProtocol(HttpToolsProtocol):
    """One connection of at most ``max_connections``.

    What is no body, heads and trailers, is capped. What the parser has seen in full is counted exactly; a
    line whose end has not come yet is kept by the parser, so the bytes that come without any progress are
    counted too.

    A client may keep the gateway waiting for ``timeout_s``: for a whole head, for reading on once it has
    left more unread than the sockets hold, and, when it was answered, for reading what is left of the answer
    and for sending what is left of a body that nobody reads. A body that is read has its own limits: see
    ``Request``.

    Requests are answered one after the other. What comes behind one that waits for its turn is read, or its
    client's going away would not be seen, but only held: up to ``MAX_HEAD_BYTES``.
    """

    def __init__(self, *args: Any, timeout_s: float, max_connections: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._head_bytes = 0
        self._waiting_bytes = 0
        self._in_head = True
        self._of_head: asyncio.TimerHandle | None = None
        self._of_write: asyncio.TimerHandle | None = None
        self._of_rest: asyncio.TimerHandle | None = None

        self.url = b""
        self._early = bytearray()
        self._departure = Departure()
        self._cycles: list[RequestResponseCycle] = []

    # -- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(cast("asyncio.Transport", _HeadWithBody(transport)))
        if len(self.connections) > self._max_connections:
            self._refuse(503, _TOO_MANY, {"retry-after": "1"})
        else:
            self._of_head = self._later(self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        for timer in (self._of_head, self._of_write, self._of_rest):
            _cancel(timer)
        for cycle in self._cycles:  # uvicorn itself tells the newest alone, which may still be waiting
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # which uvicorn leaves where the client has reset it
        self._departure.happen(_gone)

    def cut_off(self) -> None:
        """End what is being answered: its client is told so, unless it does not read what it was sent."""
        if self.flow.write_paused or self._answered():
            self.transport.abort()
        else:
            self._departure.happen(_ending)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        super().pause_writing()
        self._of_write = self._later(self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read on."""
        _cancel(self._of_write)
        super().resume_writing()

    def on_response_complete(self) -> None:
        """An answer was given, though perhaps not read, nor its request sent to the end."""
        cast("_HeadWithBody", self.transport).flush()
        super().on_response_complete()
        if not self._in_head or self.transport.get_write_buffer_size():
            _cancel(self._of_rest)
            self._of_rest = self._later(self._rest_is_late)
        if self._early and not self.pipeline and not self.transport.is_closing():
            early, self._early = bytes(self._early), bytearray()
            self.data_received(early)

    # -- the parser ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.pipeline:
            self._early += data
            if len(self._early) > MAX_HEAD_BYTES:
                self.flow.pause_reading()
            return
        self._waiting_bytes += len(data)
        super().data_received(data)
        if self._waiting_bytes > MAX_HEAD_BYTES:
            self._refuse(431, _TOO_LARGE)
        elif self._in_head and self._of_head is None and self._answered():
            self._of_head = self._later(self._head_is_late)
        if self.pipeline:
            self.flow.resume_reading()  # which uvicorn has paused, and so would not see the client leave

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {DEPARTURE: self._departure}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        """A piece of what is asked for."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header, or trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._waiting_bytes = 0
        self._in_head = False
        if self.parser.should_upgrade() and not _BODIES.isdisjoint(name for name, _ in self.headers):
            raise HTTPError(400, _UPGRADE)  # the parser would take the body for another request
        _cancel(self._of_head)
        self._of_head = None
        super().on_headers_complete()
        self._cycles = [each for each in (*self._cycles, self.cycle) if each and not each.response_complete]

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which the application has a cap on."""
        self._waiting_bytes = max(0, self._waiting_bytes - len(body))
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """A chunk with its frame is complete."""
        self._waiting_bytes = 0

    def on_message_complete(self) -> None:
        """The request is complete; what comes now is the head of another."""
        self._waiting_bytes = 0
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, what ``_count`` has refused, or a body beside an upgrade."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, _TOO_LARGE)
        else:
            self._refuse(400, _UPGRADE if self.parser.should_upgrade() else msg)

    # -- what goes too far -----------------------------------------------------------------------

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HTTPError(431, _TOO_LARGE)  # which ends the parser

    def _refuse(self, status: int, message: str, more: Mapping[str, str] | None = None) -> None:
        """Answer in the shape of the path, as far as it has come, and hang up; without an answer in the
        middle of one.
        """
        if self._answered():
            names = {name.decode("latin-1") for name, _ in self.headers or ()}
            door = shape_of(self.url.partition(b"?")[0].decode("latin-1"), names)
            told = refusal(door, HTTPError(status, message, headers=more), now=time())
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
            lines += [f"content-length: {len(told.body)}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in told.headers.items()]
            self.transport.write("\r\n".join((*lines, "", "")).encode() + told.body)
            self.transport.close()
        else:
            self.transport.abort()

    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _later(self, act: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self._timeout_s, act)

    def _head_is_late(self) -> None:
        self._refuse(408, _TOO_SLOW)

    def _rest_is_late(self) -> None:
        if self._answered() and (not self._in_head or self.transport.get_write_buffer_size()):
            self.transport.abort()


class _HeadWithBody:
    """A transport that sends the head of an answer with what comes next of it: in one packet, not two."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):  # such as 100 Continue
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that nothing comes after."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


def _gone() -> ClientGoneError:
    return ClientGoneError("the client went away")


def _ending() -> HTTPError:
    return HTTPError(503, _GOING, headers={"retry-after": "1"})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
