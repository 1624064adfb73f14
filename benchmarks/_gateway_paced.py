"""The upstream of ``gateway.py`` that answers as a model does, a piece at a time. Run with its port.

Every request, whatever it asks, is answered with the same stream: an event every ``PACE_SECONDS``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import _gateway_bodies

PACE_SECONDS = 0.002
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENTS = [event.encode() + b"\n\n" for event in _gateway_bodies.streamed().split("\n\n")[:-1]]


class Paced(asyncio.Protocol):
    """One connection, with one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, complete, body = self._seen.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if complete and len(body) >= int(length or b"0"):
            self._seen = b""
            self._transport.write(_HEAD)
            self._send(0)

    def _send(self, place: int) -> None:
        if self._transport.is_closing():
            return
        event = _EVENTS[place]
        last = place + 1 == len(_EVENTS)
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event) + (b"0\r\n\r\n" if last else b""))
        if not last:
            asyncio.get_running_loop().call_later(PACE_SECONDS, self._send, place + 1)


async def main(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Paced, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
