"""A service on loopback whose answers end where the prompt says: "cut 120 reset" gets 120 bytes of the body.

    async with CutServer({"chat": recording}) as server:
        build_provider("mine", "openai", base_url=server.base_url("chat"))

The ways to end: ``eof`` (a body without a length, ended by closing, so that HTTP cannot tell), ``chunked``
(complete for HTTP), ``close`` (in the middle of a chunked body) and ``reset``. Without an order, or by a
server that does not obey, the recording is sent whole.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

WAYS = ("eof", "chunked", "close", "reset")

_ORDER = re.compile(rb"cut (\d+) (\w+)")
_DOORS = {b"/chat/completions": "chat", b"/responses": "responses", b"/messages": "messages"}
_NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends a reset


class CutServer:
    """The server; ``recordings`` are the bodies by protocol, ``asked`` how many requests arrived."""

    def __init__(self, recordings: Mapping[str, bytes], *, obeys: bool = True) -> None:
        self._obeys = obeys
        self._recordings = recordings
        self._server: asyncio.Server | None = None
        self.port = 0
        self.asked = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def base_url(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.port}" + ("" if protocol == "messages" else "/v1")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(60):
                await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        asked_for = await reader.readexactly(int(length[1]) if length else 0)
        self.asked += 1
        body = self._recordings[next(name for door, name in _DOORS.items() if door in head)]
        order = _ORDER.search(asked_for) if self._obeys else None
        way = "chunked" if order is None else order[2].decode()
        body = body if order is None else body[: int(order[1])]
        framing = b"" if way == "eof" else b"transfer-encoding: chunked\r\n"
        answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n" + framing + b"\r\n"
        )
        answer += body if way == "eof" else b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        writer.write(answer + (b"0\r\n\r\n" if way == "chunked" else b""))
        await writer.drain()
        if way == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()
