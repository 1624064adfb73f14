"""Requests and answers as ASGI has them, with a cap on everything that comes from outside."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any, cast

import msgspec

from attune.aside import aside
from attune.errors import AttuneError
from attune.models.eager import Eager
from attune.models.interruption import Interruptible, TimeLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping

    from attune.gateway.bodies import Bodies

__all__ = ["BrokenAnswerError", "ClientGoneError", "HTTPError", "Request", "is_loopback", "send_answer"]

LARGE_BODY = 128 * 1024
"""Bytes above which a body is read beside the event loop, which it would hold up, and counts in ``Bodies``.
Smaller ones are bounded by the number of connections.
"""

SLOWEST_BYTES_A_SECOND = 1024
"""A body that comes more slowly is not waited for: a byte a minute would keep a connection for ever."""

PIECE_BYTES = 64 * 1024
"""How much of an answer is written in one go: what a client does not read is not kept beyond it."""

DEPARTURE = "attune.departure"
"""The extension of ASGI by which a connection ends what is done for its client, without a task that waits."""

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


class BrokenAnswerError(AttuneError):
    """An answer that had begun, with status 200, ended in an error, which its client was told."""


class Departure(Interruptible):
    """The end of a connection: its client has gone, or the gateway goes. ``with departure:`` surrounds what
    is awaited for an answer, and raises the reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self._why: Callable[[], AttuneError] | None = None

    def happen(self, why: Callable[[], AttuneError]) -> None:
        """End what is under way, and whatever is begun later, with an error that ``why`` makes."""
        self._why = why  # and no error, which would refer to whoever raised it, and so to this
        self.interrupt(why())

    def __enter__(self) -> None:
        if self._why is not None:
            raise self._why()
        super().__enter__()


class Request:
    """One HTTP request. ``path`` is without the query; header names are in lower case.

    Of a body each piece may take ``timeout_s`` to come, and all of it so much longer than the slowest
    connection takes. A large one is held in ``bodies`` until ``release``.
    """

    def __init__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        bodies: Bodies | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        self.receive = receive
        self.departure: Departure = scope.get("extensions", {}).get(DEPARTURE) or Departure()
        self._headers: dict[str, str] | None = None
        self._bodies = bodies
        self._held = 0
        self._timeout_s = timeout_s

    @property
    def headers(self) -> dict[str, str]:
        """All headers; of several with one name the last."""
        if self._headers is None:
            self._headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers
            }
        return self._headers

    def every(self, name: str) -> list[str]:
        """The values of all headers with a name, in their order."""
        wanted = name.encode()
        return [value.decode("latin-1").strip() for each, value in self.raw_headers if each == wanted]

    def header(self, name: str) -> str:
        """A header's value; empty without one. Raises ``HTTPError`` for one that is too long."""
        value = self.headers.get(name, "").strip()
        if len(value) > MAX_HEADER_VALUE:
            raise HTTPError(431, f"the header {name} is above {MAX_HEADER_VALUE} characters")
        return value

    async def body(self, cap: int) -> bytes:
        """The whole body. Raises ``HTTPError`` above ``cap`` bytes, for one that has no room beside the
        others or comes too slowly, and ``ClientGoneError`` if it breaks off.
        """
        length = self.header("content-length")
        if length.isdecimal() and int(length) > cap:
            raise _too_large(cap)
        if length.isdecimal() and int(length) > LARGE_BODY and self._bodies is not None:
            self._bodies.check(int(length))
        if encoding := self.header("content-encoding"):
            raise HTTPError(415, f"a body with content-encoding {encoding[:40]!r} is not read; send it plain")
        chunks = await self._chunks(cap)
        if len(chunks) == 1:
            return chunks[0]
        return await aside(b"".join, chunks) if self._held else b"".join(chunks)

    def release(self) -> None:
        """The body is not needed any more; idempotent."""
        if self._held and self._bodies is not None:
            self._bodies.release(self._held)
            self._held = 0

    async def _chunks(self, cap: int) -> list[bytes]:
        chunks: list[bytes] = []
        size, limit, loop = 0, TimeLimit(), asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                message = await self._message(limit, began + self._timeout_s + size / SLOWEST_BYTES_A_SECOND)
                if message["type"] != "http.request":
                    raise ClientGoneError("the client went away")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > cap:
                    raise _too_large(cap)
                self._hold(size)
                chunks.append(chunk)
                if not message.get("more_body"):
                    return chunks
        except TimeoutError:
            raise HTTPError(
                408, "the body did not arrive in time; send it again", headers={"connection": "close"}
            ) from None
        finally:
            limit.stop()

    async def _message(self, limit: TimeLimit, latest: float) -> Any:
        """The next message, by ``latest`` on the loop's clock. Raises ``TimeoutError``."""
        message = Eager(cast("Coroutine[Any, Any, Any]", self.receive()))
        if message.done:  # as most are: a small body comes with its head
            return message.result
        with limit.within(min(self._timeout_s, latest - asyncio.get_running_loop().time())):
            return await message

    def _hold(self, size: int) -> None:
        if size > LARGE_BODY and self._bodies is not None:
            self._bodies.hold(size - self._held)
            self._held = size


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
    await send_body(send, content)


async def send_body(send: Callable[[Any], Awaitable[None]], content: bytes, *, more: bool = False) -> None:
    """Send a piece of an answer, the last one without ``more``, no faster than it is read."""
    if len(content) <= PIECE_BYTES:
        await send({"type": "http.response.body", "body": content, "more_body": more})
        return
    for piece in pieces(content):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)  # the socket may take it all, and others are to have their turn
    if not more:
        await send({"type": "http.response.body", "body": b""})


def pieces(content: bytes) -> Iterator[bytes]:
    """Large bytes in pieces that can be written in one go; empty ones in none."""
    return (content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES))
