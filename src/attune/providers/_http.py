"""The HTTP transport of the providers: aiohttp's connections, on which HTTP is spoken by ``Wire``.

The only module that knows aiohttp and its errors.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary, WeakSet

import aiohttp
from yarl import URL

from attune.errors import ConnectionFailedError, InvalidRequestError, ProviderError, TransientError
from attune.models.executor import EventKind, StreamEvent
from attune.providers._http1 import NotHTTPError, Wire
from attune.wire.errors import MAX_ERROR_BODY_BYTES
from attune.wire.steps import STEP
from attune.wire.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from attune.models.request import LLMRequest
    from attune.wire.decoder import Decoder
    from attune.wire.errors import ErrorMapper

__all__ = ["HTTPStream", "HTTPTransport", "look_at", "written"]

TRANSPORT_ERRORS = (aiohttp.ClientError, NotHTTPError, OSError)  # TimeoutError is an OSError
RECYCLE_S = 1.0
"""How long the end of a complete answer is waited for, so that its connection can be used again."""

ERROR_BODY_S = 0.5
"""How long the body of an error is waited for: its status says the most, and a body may never end."""

READ_BYTES = 16 * 1024
"""How much of an answer is taken in at a time, however fast it comes: a hundred events, which take 3 ms."""

_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "attune",
}


class HTTPTransport:
    """Connections of one provider: a pool for each event loop, no retries, no redirects.

    Proxies of the environment, cookies and redirects are ignored, so that a key goes only where
    the configuration says.
    """

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self._recycling: set[asyncio.Task[None]] = set()
        self._closed: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_s: float,
        errors: ErrorMapper,
        streams: bool,
        of_stream: Decoder,
        of_body: Decoder,
    ) -> HTTPStream:
        """Send a JSON body; return when the head of a 2xx answer has arrived.

        ``connect_s`` is the limit in seconds until the connection stands, TLS included.
        The answer is read by its media type, ``of_stream`` or ``of_body``; where that says neither,
        by whether it was asked to stream (``streams``). Raises ``ConnectionFailedError`` when
        no head arrives, the error that the answer means for every other status, and
        ``InvalidRequestError`` after ``aclose``. A ``CancelledError`` that comes before the head
        says in ``sent`` whether the whole request had left, as ``ConnectionFailedError`` does.
        """
        lease, wire = await self._lease(url, headers, body, connect_s, errors)
        if not 200 <= wire.status < 300:
            raise await _failure(lease, wire, errors)
        if wire.headers.get("content-encoding", "identity").lower() != "identity":
            lease.close()
            raise errors.broken("the answer is compressed, which was not asked for")
        media_type = wire.headers.get("content-type", "").partition(";")[0].strip().lower()
        streamed = media_type == "text/event-stream" or (streams and media_type != "application/json")
        return HTTPStream(self, lease, wire, of_stream if streamed else of_body, errors)

    def recycle(self, lease: aiohttp.connector.Connection, wire: Wire) -> None:
        """Give the connection of a complete answer back, once its last bytes have arrived."""
        if wire.at_end:
            lease.release()
            return
        task = asyncio.get_running_loop().create_task(_read_to_end(lease, wire))
        self._recycling.add(task)
        task.add_done_callback(self._recycling.discard)
        task.add_done_callback(lambda _: lease.close())  # also when it is cancelled before it has begun

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and open none there any more; idempotent."""
        loop = asyncio.get_running_loop()
        self._closed.add(loop)
        recycling = [task for task in self._recycling if task.get_loop() is loop]
        for task in recycling:
            task.cancel()
        await asyncio.gather(*recycling, return_exceptions=True)
        pool = self._pools.pop(loop, None)
        if pool is not None:
            await pool.connector.close()

    async def _lease(
        self, url: str, headers: Mapping[str, str], body: bytes, connect_s: float, errors: ErrorMapper
    ) -> tuple[aiohttp.connector.Connection, Wire]:
        """A connection on which the request was sent and the head of its answer has come."""
        wire = None
        try:
            pool = self._pool()
            place = pool.place(url)
            head = _head(place.begins, headers, len(body))
            while True:
                lease = await pool.connector.connect(place.request, traces=[], timeout=_timeout(connect_s))
                wire = cast("Wire", lease.protocol)
                try:
                    await wire.ask(head, body)
                except BaseException as error:
                    lease.close()
                    # A kept connection that the server had closed: the request never left as a whole, so no
                    # server can have begun it, and sending it on another one is not a second attempt.
                    if not isinstance(error, OSError) or wire.sent or not wire.reused:
                        raise
                else:
                    return lease, wire
        except asyncio.CancelledError as stopped:
            stopped.sent = wire is not None and wire.sent  # type: ignore[attr-defined]
            raise
        except (*TRANSPORT_ERRORS, UnicodeError) as error:  # UnicodeError: a host that is no name of one
            failure = errors.raised(ConnectionFailedError, _reason(error, connect_s))
            failure.sent = wire is not None and wire.sent
        # Raised out here, where no error of aiohttp is its context.
        raise failure

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        if loop in self._closed:
            raise InvalidRequestError("the connections of this provider were closed; build it again")
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(loop)
        return pool


class _Place(NamedTuple):
    """Where a request goes: as the connector knows it, and how a head begins."""

    request: aiohttp.ClientRequest
    begins: str


class _Pool:
    """The connections of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.connector = aiohttp.TCPConnector(limit=0)
        self.connector._factory = Wire  # type: ignore[assignment]
        self._loop = loop
        self._places: dict[str, _Place] = {}

    def place(self, url: str) -> _Place:
        """The place of an address, of which a provider has a few."""
        place = self._places.get(url)
        if place is None:
            request = aiohttp.ClientRequest("POST", URL(url), loop=self._loop)
            begins = f"POST {request.url.raw_path_qs} HTTP/1.1\nhost: {request.headers['host']}"
            place = self._places[url] = _Place(request, begins)
        return place


def _head(begins: str, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request. Raises ``InvalidRequestError`` for a header that would be more than one line."""
    lines = [begins, *(f"{name}: {value}" for name, value in {**_HEADERS, **headers}.items())]
    head = "\n".join((*lines, f"content-length: {length}", "", ""))
    if head.count("\n") != len(lines) + 3 or "\r" in head or "\0" in head:
        raise InvalidRequestError("a header of the request holds a line break")
    return head.replace("\n", "\r\n").encode()


async def written(request: LLMRequest, write: Callable[..., bytes], *args: Any, **options: Any) -> bytes:
    """The body that ``write`` makes of ``request``; of a large one beside the event loop."""
    source = request.source
    if source is None or sum(map(len, source.fields.values())) <= STEP:
        return write(request, *args, **options)
    try:
        return await in_turns(write, request, *args, **options)
    except asyncio.CancelledError as stopped:
        stopped.sent = False  # type: ignore[attr-defined]
        raise


class HTTPStream:
    """The events of one answer, as ``attune.models.executor.ProviderStream`` describes them."""

    def __init__(
        self,
        transport: HTTPTransport,
        lease: aiohttp.connector.Connection,
        wire: Wire,
        decoder: Decoder,
        errors: ErrorMapper,
    ) -> None:
        self._transport = transport
        self._lease = lease
        self._wire = wire
        self._decoder = decoder
        self._errors = errors
        self._ready: Iterator[StreamEvent] = iter(())
        self._taken: StreamEvent | ProviderError | None = None
        self._at_end = False
        self._over = False

    def __aiter__(self) -> HTTPStream:
        return self

    async def __anext__(self) -> StreamEvent:
        if self._over:
            raise StopAsyncIteration
        try:
            event = self._untaken() or next(self._ready, None) or await self._next()
        except ProviderError:
            await self.aclose()
            raise
        if event.kind is EventKind.TERMINAL:
            self._over = True
            self._transport.recycle(self._lease, self._wire)
        return event

    def take(self) -> StreamEvent | None:
        """The next event if it came together with the last one; neither the end nor an error."""
        if self._taken is None and not self._over:
            try:
                self._taken = next(self._ready, None)
            except ProviderError as error:
                self._taken = error
        if not isinstance(self._taken, StreamEvent) or self._taken.kind is EventKind.TERMINAL:
            return None
        return self._untaken()

    def __del__(self) -> None:
        if not self._over:  # dropped without ``aclose``
            self._lease.close()

    async def aclose(self) -> None:
        """Close the connection at once, unless the answer was complete; idempotent."""
        if not self._over:
            self._over = True
            self._lease.close()

    def _untaken(self) -> StreamEvent | None:
        """What ``take`` found and did not give."""
        taken, self._taken = self._taken, None
        if isinstance(taken, ProviderError):
            raise taken
        return taken

    async def _next(self) -> StreamEvent:
        """The first event that comes of more bytes."""
        while not self._at_end:
            chunk = await self._read()
            self._at_end = not chunk
            self._ready = self._decoder.feed(chunk) if chunk else await self._finished()
            for event in self._ready:
                return event
        raise self._errors.broken("the answer ended before its terminal event")

    async def _finished(self) -> Iterator[StreamEvent]:
        """What the end of the answer completes; of a large body that is read beside the event loop."""
        if self._decoder.held <= STEP:
            return self._decoder.finish()
        return await in_turns(self._decoder.finish)

    async def _read(self) -> bytes:
        try:
            chunk = await self._wire.read(READ_BYTES)
        except TRANSPORT_ERRORS:
            raise self._errors.broken("the connection broke during the answer") from None
        if len(chunk) == READ_BYTES:
            await asyncio.sleep(0)  # more is here already: others have their turn
        return chunk


async def look_at(url: str, headers: Mapping[str, str], *, within_s: float, errors: ErrorMapper) -> None:
    """Ask for the list of models at ``url``, on a connection of its own; return when that comes.

    As by ``HTTPTransport``, proxies and redirects are not followed. Raises ``ConnectionFailedError`` also
    when nothing is answered within ``within_s`` seconds, ``TransientError`` when it is something else, and
    for every status but 2xx the error that it means.
    """
    limit = aiohttp.ClientTimeout(total=within_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, headers={**_HEADERS, **headers}) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            body = await answer.content.read(MAX_ERROR_BODY_BYTES)
            status, told = answer.status, answer.headers
    except (*TRANSPORT_ERRORS, UnicodeError) as error:
        late = isinstance(error, TimeoutError)
        reason = f"no answer within {within_s:g} s" if late else _reason(error, within_s)
        failure: ProviderError = errors.raised(ConnectionFailedError, reason)
    else:
        if 200 <= status < 300 and _begins_a_list(body):
            return
        failure = errors.from_response(status, told, body, now=time.time())
        if 200 <= status < 300:
            failure = errors.raised(TransientError, "answered with something else than a list of models")
    raise failure  # out here, where no error of aiohttp is its context


def _begins_a_list(body: bytes) -> bool:
    """Whether it is the beginning of a JSON object with a list, such as ``{"object": "list", "data": [``."""
    return body.lstrip()[:1] == b"{" and b'":[' in body.replace(b" ", b"").replace(b"\n", b"")


@lru_cache(maxsize=8)
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)


def _reason(error: Exception, connect_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {connect_s:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot reach {error.host}:{error.port}: {_why(error)}"
    if isinstance(error, NotHTTPError):
        return f"the connection failed: what came is not HTTP: {error}"
    return f"the connection failed: {error}"


def _why(error: aiohttp.ClientConnectorError) -> str:
    if (error.errno or 0) > 0 and not isinstance(error, aiohttp.ClientSSLError):  # whose numbers are others
        return os.strerror(error.errno or 0)
    return (error.strerror or str(error)).partition(" (_ssl")[0]


async def _failure(lease: aiohttp.connector.Connection, wire: Wire, errors: ErrorMapper) -> ProviderError:
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_S):
            while len(body) < MAX_ERROR_BODY_BYTES and (chunk := await wire.read(READ_BYTES)):
                body += chunk
    except TRANSPORT_ERRORS:
        pass  # the status says enough
    finally:
        lease.close()
    return errors.from_response(wire.status, wire.headers, bytes(body), now=time.time())


async def _read_to_end(lease: aiohttp.connector.Connection, wire: Wire) -> None:
    try:
        async with asyncio.timeout(RECYCLE_S):
            while await wire.read(READ_BYTES):
                pass
        lease.release()
    except TRANSPORT_ERRORS:
        pass  # the answer is complete; only its connection is lost
