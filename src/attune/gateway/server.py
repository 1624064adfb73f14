"""Serving the gateway: a socket, the application, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from attune.accounts import Gatekeeper
from attune.clock import SYSTEM_CLOCK
from attune.errors import InvalidRequestError
from attune.gateway.app import Gateway
from attune.gateway.http import HTTPError, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attune.runtime import Runtime

__all__ = ["listen", "serve"]

GRACE_SECONDS = 30
"""How long answers under way may take to end once the gateway was asked to."""

MAX_HEAD_BYTES = 64 * 1024
"""The largest head of a request that is read."""

_TOO_LARGE = f"the head of the request is above {MAX_HEAD_BYTES // 1024} KiB; send less"


class CappedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a cap on what is no body: heads and trailers. It has none of its own.

    What the parser has seen in full is counted exactly. A line whose end has not come yet is kept by the
    parser, so the bytes that come without any progress are counted too.
    """

    _head_bytes = 0
    _waiting_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._waiting_bytes += len(data)
        super().data_received(data)
        if self._waiting_bytes > MAX_HEAD_BYTES:
            self._refuse(431, _TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = 0
        super().on_message_begin()

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
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which the application has a cap on."""
        self._waiting_bytes = max(0, self._waiting_bytes - len(body))
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """A chunk with its frame is complete."""
        self._waiting_bytes = 0

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._waiting_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or what ``_count`` has refused."""
        too_large = self._head_bytes > MAX_HEAD_BYTES
        self._refuse(431 if too_large else 400, _TOO_LARGE if too_large else msg)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HTTPError(431, _TOO_LARGE)  # which ends the parser

    def _refuse(self, status: int, message: str) -> None:
        """Answer and hang up; without an answer in the middle of one."""
        if self.cycle is None or self.cycle.response_complete:
            body = msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error"}})
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``InvalidRequestError`` where that is not possible."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        # With its protocol, or asyncio would not send small packets at once (TCP_NODELAY).
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidRequestError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port"
        ) from None
    listening.listen(1024)
    listening.setblocking(False)
    return listening


async def serve(runtime: Runtime, listening: socket.socket, *, on_ready: Callable[[], None]) -> None:
    """Answer until the program is asked to end; then end what is under way, within ``GRACE_SECONDS``."""
    host = listening.getsockname()[0]
    async with runtime, Gatekeeper(runtime.store) as gatekeeper:
        gateway = Gateway(
            runtime, gatekeeper, runtime.config.gateway, clock=SYSTEM_CLOCK, loopback=is_loopback(host)
        )
        runtime.on_attempt = gateway.operations.attempted
        server = _Server(
            uvicorn.Config(
                gateway,
                http=CappedProtocol,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            ),
            on_ready,
        )
        await server.serve(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End gracefully on a signal, and go on with what comes after serving: uvicorn's own way would raise
        the signal again, and what the ledger still holds in memory would be lost.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
