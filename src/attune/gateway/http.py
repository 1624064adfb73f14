"""Requests and answers as ASGI has them, with a cap on everything that comes from outside."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import msgspec

from attune.errors import AttuneError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

__all__ = ["ClientGoneError", "HTTPError", "Request", "is_loopback", "send_answer"]

MAX_HEADER_VALUE = 1000
"""Characters of a header of ours; a longer one is a mistake."""


class HTTPError(AttuneError):
    """A request that is refused before anything is asked; ``status`` is the HTTP status, ``headers`` come
    with the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        super().__init__(message)


class ClientGoneError(AttuneError):
    """The client went away before its request was complete."""


class Request:
    """One HTTP request. ``path`` is without the query; header names are in lower case."""

    def __init__(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]]) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        self.receive = receive
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """All headers; of several with one name the last."""
        if self._headers is None:
            self._headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers
            }
        return self._headers

    def header(self, name: str) -> str:
        """A header's value; empty without one. Raises ``HTTPError`` for one that is too long."""
        value = self.headers.get(name, "").strip()
        if len(value) > MAX_HEADER_VALUE:
            raise HTTPError(431, f"the header {name} is above {MAX_HEADER_VALUE} characters")
        return value

    async def body(self, cap: int) -> bytes:
        """The whole body. Raises ``HTTPError`` above ``cap`` bytes, ``ClientGoneError`` if it breaks off."""
        length = self.header("content-length")
        if length.isdecimal() and int(length) > cap:
            raise _too_large(cap)
        if encoding := self.header("content-encoding"):
            raise HTTPError(415, f"a body with content-encoding {encoding[:40]!r} is not read; send it plain")
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientGoneError("the client went away")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > cap:
                raise _too_large(cap)
            chunks.append(chunk)
            if not message.get("more_body"):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def gone(self) -> None:
        """Return when the client has gone away."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _too_large(cap: int) -> HTTPError:
    return HTTPError(
        413, f"the body is above {cap // (1024 * 1024)} MiB; raise [gateway] max_body_mib or send less"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def head(status: int, content_type: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """The message that begins an answer."""
    lines = [(b"content-type", content_type.encode())]
    lines += [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": lines}


async def send_answer(
    send: Callable[[Any], Awaitable[None]],
    status: int,
    body: bytes | object,
    *,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> None:
    """Send a whole answer; anything but bytes as JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    await send(head(status, content_type, {"content-length": str(len(content)), **(headers or {})}))
    await send({"type": "http.response.body", "body": content})
