"""A service on loopback that fails in a given way, byte for byte: sockets and nothing above them.

    async with FaultServer() as server:
        site = server.site(FAULTS["truncate"])
        provider = build_provider("mine", "openai", base_url=site.base_url("chat"))

A *site* is an address of its own with one fault; it keeps the requests that it received. What a healthy
service would say is made by ``support.upstream``, so that a fault is all that differs.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from support.upstream import Answer, chat_stream, error_body, messages_stream, sse
from support.upstream_responses import response_event, responses_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from support.upstream import Protocol

TEXT = "Hello there, Grüße \N{PARTY POPPER} friend"
HEALTHY = Answer(text=TEXT)
BROKEN_TOOL_CALL = Answer(text="", tool_calls=(("call_1", "look", '{"city": "Rom'),))

SHORT_S = 1
LONG_S = 3600
DRIP_S = 0.001
LONGEST_S = 30.0
"""No exchange lasts longer, whatever its client does."""


class Exchange:
    """One request as it arrived, and the connection on which it is answered."""

    def __init__(
        self,
        protocol: Protocol,
        body: Any,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.protocol = protocol
        self.body = body
        self.number = number
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, content_type: str, **headers: str) -> None:
        """The head of an answer."""
        lines = [f"HTTP/1.1 {status} Status", f"content-type: {content_type}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def whole(
        self, status: int, body: bytes, content_type: str = "application/json", **headers: str
    ) -> None:
        """An answer in one body."""
        await self.head(status, content_type, content_length=str(len(body)), **headers)
        await self.send(body)

    async def error(
        self, status: int, error_type: str, message: str, code: str | None = None, **headers: str
    ) -> None:
        """An error in the protocol's own shape."""
        answer = Answer(status=status, error_type=error_type, error_code=code, error_message=message)
        await self.whole(status, error_body(self.protocol, answer), **headers)

    async def stream(self, *pieces: bytes, ends: bool = True, pause_s: float = 0.0) -> None:
        """Each piece as a chunk of its own; ``ends`` says that there are no more."""
        await self.head(200, "text/event-stream", transfer_encoding="chunked")
        for piece in pieces:
            await self.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if pause_s:
                await asyncio.sleep(pause_s)
        if ends:
            await self.send(b"0\r\n\r\n")

    async def silence(self) -> None:
        """Nothing more, until the client has gone."""
        while await self._reader.read(4096):
            pass

    def reset(self) -> None:
        """End the connection with a reset."""
        peer: socket.socket = self._writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def blocks(self, answer: Answer = HEALTHY) -> list[bytes]:
        """The events of a complete answer."""
        return blocks(self.protocol, answer, self.body["model"])

    def opening(self) -> list[bytes]:
        """The events of an answer up to its first content."""
        events = self.blocks()
        first = TEXT[: len(TEXT) // 2].encode()
        return events[: next(n for n, event in enumerate(events) if first in event) + 1]


def blocks(protocol: Protocol, answer: Answer, model: str) -> list[bytes]:
    """The events of a complete answer."""
    spoken = {"chat": chat_stream, "responses": responses_stream, "messages": messages_stream}
    return spoken[protocol](answer, model)


def error_event(protocol: Protocol) -> bytes:
    """How a service says inside a stream that it cannot go on."""
    if protocol == "messages":
        error = {"type": "overloaded_error", "message": "Overloaded"}
        return sse({"type": "error", "error": error}, "error")
    if protocol == "responses":
        return response_event("error", 9, code="server_is_overloaded", message="Overloaded", param=None)
    return sse({"error": {"type": "server_error", "code": "server_is_overloaded", "message": "Overloaded"}})


class Fault(NamedTuple):
    """One way to fail, of a ``group`` of them.

    Its ``place`` is the server, where ``answer`` says what becomes of a request, or one out of reach.
    """

    group: str
    place: str = "server"
    answer: Callable[[Exchange], Awaitable[None]] | None = None


async def _healthy(x: Exchange) -> None:
    await x.stream(*x.blocks())


async def _reset(x: Exchange) -> None:
    x.reset()


async def _headers_stall(x: Exchange) -> None:
    await x.silence()


async def _400(x: Exchange) -> None:
    await x.error(400, "invalid_request_error", "messages: this is not valid")


async def _401(x: Exchange) -> None:
    await x.error(401, "authentication_error", "invalid key", "invalid_api_key")


async def _402(x: Exchange) -> None:
    await x.error(402, "billing_error", "no credits are left")


async def _403(x: Exchange) -> None:
    await x.error(403, "permission_error", "this key may not do that")


async def _404(x: Exchange) -> None:
    code = None if x.protocol == "messages" else "model_not_found"
    await x.error(404, "not_found_error", f"model: {x.body['model']}", code)


async def _408(x: Exchange) -> None:
    await x.error(408, "timeout_error", "the request took too long")


async def _429_short(x: Exchange) -> None:
    if x.number > 1:
        await _healthy(x)
    else:
        await x.error(429, "rate_limit_error", "slow down", retry_after=str(SHORT_S))


async def _429_long(x: Exchange) -> None:
    await x.error(429, "rate_limit_error", "slow down", retry_after=str(LONG_S))


async def _500(x: Exchange) -> None:
    await x.error(500, "api_error", "internal error")


async def _503(x: Exchange) -> None:
    await x.error(503, "server_error", "overloaded", "server_is_overloaded")


async def _529(x: Exchange) -> None:
    await x.error(529, "overloaded_error", "overloaded")


async def _html_502(x: Exchange) -> None:
    page = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    await x.whole(502, page, "text/html")


async def _first_event_error(x: Exchange) -> None:
    await x.stream(error_event(x.protocol))


async def _late_error(x: Exchange) -> None:
    await x.stream(*x.opening(), error_event(x.protocol))


async def _stall(x: Exchange) -> None:
    await x.stream(*x.opening(), ends=False)
    await x.silence()


async def _drip(x: Exchange) -> None:
    whole = b"".join(x.blocks())
    await x.stream(*(whole[n : n + 1] for n in range(len(whole))), pause_s=DRIP_S)


async def _truncate(x: Exchange) -> None:
    await x.stream(*x.opening())


async def _malformed(x: Exchange) -> None:
    *_, last = x.opening()
    broken = last.rstrip()[:-12] + b"\n\n"
    await x.stream(*x.opening(), broken, *x.blocks()[len(x.opening()) :])


async def _split_utf8(x: Exchange) -> None:
    whole = b"".join(x.blocks())
    cuts = [
        n for n, byte in enumerate(whole) if byte & 0xC0 == 0x80
    ]  # inside every character of several bytes
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    await x.stream(*pieces, pause_s=DRIP_S)


async def _empty_200(x: Exchange) -> None:
    await x.whole(200, b"", "text/event-stream")


async def _usage_missing(x: Exchange) -> None:
    await x.stream(*x.blocks(Answer(text=TEXT, usage={})))


async def _broken_tool_call(x: Exchange) -> None:
    await x.stream(*x.blocks(BROKEN_TOOL_CALL))


WELL = Fault("none", answer=_healthy)

FAULTS: dict[str, Fault] = {
    "dns": Fault("connect", "dns"),
    "refused": Fault("connect", "refused"),
    "connect-timeout": Fault("connect", "backlog"),
    "tls": Fault("connect", "tls"),
    "reset": Fault("connect", answer=_reset),
    "headers-stall": Fault("connect", answer=_headers_stall),
    "400": Fault("status", answer=_400),
    "401": Fault("status", answer=_401),
    "402": Fault("status", answer=_402),
    "403": Fault("status", answer=_403),
    "404": Fault("status", answer=_404),
    "408": Fault("status", answer=_408),
    "429-short": Fault("status", answer=_429_short),
    "429-long": Fault("status", answer=_429_long),
    "500": Fault("status", answer=_500),
    "503": Fault("status", answer=_503),
    "529": Fault("status", answer=_529),
    "html-502": Fault("status", answer=_html_502),
    "first-event-error": Fault("stream", answer=_first_event_error),
    "late-error": Fault("stream", answer=_late_error),
    "stall": Fault("stream", answer=_stall),
    "drip": Fault("stream", answer=_drip),
    "truncate": Fault("stream", answer=_truncate),
    "malformed": Fault("stream", answer=_malformed),
    "split-utf8": Fault("stream", answer=_split_utf8),
    "empty-200": Fault("content", answer=_empty_200),
    "usage-missing": Fault("content", answer=_usage_missing),
    "broken-tool-call": Fault("content", answer=_broken_tool_call),
}
"""The 28 kinds of fault. All but ``429-short`` last."""

NO_SUCH_HOST = ".".join(["no-such-host-" + "x" * 47] * 5)
"""Longer than a name may be: every resolver refuses it at once, without a network."""


class Site:
    """An address with one fault; ``requests`` holds the bodies that arrived."""

    def __init__(self, origin: str, path: str, fault: Fault) -> None:
        self._url = f"{origin}/{path}"
        self.fault = fault
        self.requests: list[Any] = []

    def base_url(self, protocol: Protocol) -> str:
        """What a configuration calls the site."""
        return self._url if protocol == "messages" else f"{self._url}/v1"


class FaultServer:
    """Answers every site's requests with its fault, and keeps the places that cannot be reached."""

    def __init__(self) -> None:
        self._sites: dict[str, Site] = {}
        self._server: asyncio.Server | None = None
        self._held = ExitStack()
        self._ports: dict[str, int] = {}
        self._exchanges: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultServer:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self._ports["server"] = self._ports["tls"] = self._server.sockets[0].getsockname()[1]
        self._ports["refused"] = self._bound().getsockname()[1]
        self._ports["backlog"] = await self._without_room()
        self._ports["dns"] = 443
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        await self._server.wait_closed()
        self._held.close()

    def site(self, fault: Fault) -> Site:
        """A new address with this fault."""
        host = NO_SUCH_HOST if fault.place == "dns" else "127.0.0.1"
        scheme = "https" if fault.place in {"dns", "tls"} else "http"  # the server does not speak TLS
        path = f"site-{len(self._sites)}"
        site = Site(f"{scheme}://{host}:{self._ports[fault.place]}", path, fault)
        self._sites[path] = site
        return site

    def _bound(self) -> socket.socket:
        """A socket that has a port and does not listen: whoever comes is refused."""
        taken = self._held.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        return taken

    async def _without_room(self) -> int:
        """A port that listens and has no room: whoever comes waits for an answer that never comes."""
        full = self._bound()
        full.listen(0)
        address = full.getsockname()
        for _ in range(16):
            if not await self._gets_in(address):
                break
        return int(address[1])

    async def _gets_in(self, address: tuple[str, int]) -> bool:
        """Whether one more visitor is let in, who then stays."""
        visitor = self._held.enter_context(socket.socket())
        visitor.setblocking(False)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.get_running_loop().sock_connect(visitor, address)
        with suppress(OSError):  # the time may be over though there was room
            return bool(visitor.getpeername())
        return False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        try:
            with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(LONGEST_S):
                    await self._exchange(reader, writer)
        except asyncio.CancelledError:
            pass  # the server closes; asyncio's own callback would report it as unhandled
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        if not first.startswith(b"POST /"):
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        path = first.split()[1].decode()
        length = 0
        while (line := await reader.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        site = self._sites[path.split("/")[1]]
        site.requests.append(json.loads(await reader.readexactly(length)))
        assert site.fault.answer is not None
        await site.fault.answer(
            Exchange(_protocol(path), site.requests[-1], len(site.requests), reader, writer)
        )


def _protocol(path: str) -> Protocol:
    last = path.rpartition("/")[2]
    return cast("Protocol", last) if last in {"messages", "responses"} else "chat"


def kinds(groups: Sequence[str] = ("connect", "status", "stream", "content")) -> list[str]:
    """The kinds of fault of some groups, in their order."""
    return [kind for kind, fault in FAULTS.items() if fault.group in groups]
