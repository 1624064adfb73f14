"""The floor of ``gateway.py``: what a gateway of these parts costs that does nothing but pass on.

uvicorn takes a request, aiohttp sends it, the answer goes back as it comes. Run with a port and an address.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import uvicorn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_TYPE = b"content-type"


class PassThrough:
    """An ASGI application that sends each request to the same path of ``address``."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["path"] == "/ready":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self._pass_on(scope, body, send)

    async def _pass_on(
        self, scope: dict[str, Any], body: bytes, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if self._session is None:  # it belongs to the loop that serves
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        kept = {"authorization", "content-type"}
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name.decode() in kept}
        async with self._session.post(self._address + scope["path"], data=body, headers=headers) as answer:
            given = [(_TYPE, answer.headers["content-type"].encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": given})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})


def main(port: int, address: str) -> None:
    """Serve until the process is ended."""
    quiet = {"access_log": False, "log_level": "error", "lifespan": "off"}
    uvicorn.run(PassThrough(address), host="127.0.0.1", port=port, http="httptools", loop="asyncio", **quiet)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
