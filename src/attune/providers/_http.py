"""The HTTP transport of the providers. The only module that knows aiohttp and its errors."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import time
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from attune.aside import aside
from attune.errors import ConnectionFailedError, InvalidRequestError, ProviderError
from attune.models.executor import EventKind, StreamEvent
from attune.wire.errors import MAX_ERROR_BODY_BYTES
from attune.wire.steps import STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from attune.models.request import LLMRequest
    from attune.wire.decoder import Decoder
    from attune.wire.errors import ErrorMapper

__all__ = ["HTTPStream", "HTTPTransport", "written"]

TRANSPORT_ERRORS = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError
RECYCLE_S = 1.0
"""How long the end of a complete answer is waited for, so that its connection can be used again."""

ERROR_BODY_S = 0.5
"""How long the body of an error is waited for: its status says the most, and a body may never end."""

READ_BYTES = 64 * 1024
"""How much of an answer is taken in at a time, however fast it comes: a millisecond or two of work."""

_HEADERS = {"user-agent": "attune", "accept-encoding": "identity"}

_connects: ContextVar[list[object]] = ContextVar("attune_connects")
"""The addresses that the request under way in this context has connected to; none with a kept connection.
aiohttp's tracing would tell as well, and takes a quarter of the time of a whole call.
"""


class HTTPTransport:
    """Connections of one provider: a pool for each event loop, no retries, no redirects.

    Proxies of the environment, cookies and redirects are ignored, so that a key goes only where
    the configuration says. aiohttp never repeats a POST by itself.
    """

    def __init__(self) -> None:
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            WeakKeyDictionary()
        )
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
        response = await self._head(url, headers, body, connect_s, errors)
        if not 200 <= response.status < 300:
            raise await _failure(response, errors)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            raise errors.broken("the answer is compressed, which was not asked for")
        media_type = response.content_type
        streamed = media_type == "text/event-stream" or (streams and media_type != "application/json")
        return HTTPStream(self, response, of_stream if streamed else of_body, errors)

    def recycle(self, response: aiohttp.ClientResponse) -> None:
        """Give the connection of a complete answer back, once its last bytes have arrived."""
        if response.content.at_eof():
            response.release()
            return
        task = asyncio.get_running_loop().create_task(_read_to_end(response))
        self._recycling.add(task)
        task.add_done_callback(self._recycling.discard)
        task.add_done_callback(lambda _: response.close())  # also when it is cancelled before it has begun

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and open none there any more; idempotent."""
        loop = asyncio.get_running_loop()
        self._closed.add(loop)
        recycling = [task for task in self._recycling if task.get_loop() is loop]
        for task in recycling:
            task.cancel()
        await asyncio.gather(*recycling, return_exceptions=True)
        session = self._sessions.pop(loop, None)
        if session is not None:
            await session.close()

    async def _head(
        self, url: str, headers: Mapping[str, str], body: bytes, connect_s: float, errors: ErrorMapper
    ) -> aiohttp.ClientResponse:
        content = _Body(body)  # bytes above 1 MiB would be written in one go
        try:
            return await self._send(url, headers, content, connect_s)
        except asyncio.CancelledError as stopped:
            stopped.sent = content.tell() >= len(body)  # type: ignore[attr-defined]
            raise
        except (*TRANSPORT_ERRORS, UnicodeError) as error:  # UnicodeError: a host that is no name of one
            failure = errors.raised(ConnectionFailedError, _reason(error, connect_s))
            failure.sent = content.tell() >= len(body) and not _never_left(error)
        # Raised out here, where no error of aiohttp is its context: those hold the headers with the key.
        raise failure

    async def _send(
        self, url: str, headers: Mapping[str, str], content: io.BytesIO, connect_s: float
    ) -> aiohttp.ClientResponse:
        connects: list[object] = []
        _connects.set(connects)
        try:
            return await self._ask(url, headers, content, connect_s)
        except aiohttp.ClientOSError as error:
            if connects or not _never_left(error):
                raise
        # A kept connection that the server had closed: the request never left as a whole, so no
        # server can have begun it, and sending it on a new connection is not a second attempt.
        content.seek(0)
        return await self._ask(url, headers, content, connect_s)

    async def _ask(
        self, url: str, headers: Mapping[str, str], content: io.BytesIO, connect_s: float
    ) -> aiohttp.ClientResponse:
        """What ``ClientSession.post`` does, without what nothing here uses, which is a third of its time:
        cookies, redirects, proxies, time-outs.
        """
        session = self._session()
        assert session.connector is not None
        request = aiohttp.ClientRequest(
            "POST",
            _parsed(url),
            headers={**_HEADERS, **headers},
            data=aiohttp.BytesIOPayload(content, content_type="application/json"),
            loop=asyncio.get_running_loop(),
            session=session,
        )
        connection = await session.connector.connect(request, traces=[], timeout=_timeout(connect_s))
        try:
            assert connection.protocol is not None
            connection.protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            response = await request.send(connection)
            try:
                await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
        return response

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if loop in self._closed:
            raise InvalidRequestError("the connections of this provider were closed; build it again")
        session = self._sessions.get(loop)
        if session is None:
            connector = aiohttp.TCPConnector(limit=0, socket_factory=_new_socket)
            connector._factory = partial(_Connection, loop=loop)  # type: ignore[assignment]
            session = self._sessions[loop] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return session


class _Body(io.BytesIO):
    """A body that is read piece by piece. aiohttp asks for its buffer to know its size, of which ``BytesIO``
    would make a copy.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._content = content

    def getbuffer(self) -> memoryview:
        return memoryview(self._content)


async def written(request: LLMRequest, write: Callable[..., bytes], *args: Any, **options: Any) -> bytes:
    """The body that ``write`` makes of ``request``; of a large one beside the event loop."""
    source = request.source
    if source is None or sum(map(len, source.fields.values())) <= STEP:
        return write(request, *args, **options)
    try:
        return await aside(write, request, *args, **options)
    except asyncio.CancelledError as stopped:
        stopped.sent = False  # type: ignore[attr-defined]
        raise


class HTTPStream:
    """The events of one answer, as ``attune.models.executor.ProviderStream`` describes them."""

    def __init__(
        self,
        transport: HTTPTransport,
        response: aiohttp.ClientResponse,
        decoder: Decoder,
        errors: ErrorMapper,
    ) -> None:
        self._transport = transport
        self._response = response
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
            self._transport.recycle(self._response)
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
            self._response.close()

    async def aclose(self) -> None:
        """Close the connection at once, unless the answer was complete; idempotent."""
        if not self._over:
            self._over = True
            self._response.close()

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
            self._ready = self._decoder.feed(chunk) if chunk else self._decoder.finish()
            for event in self._ready:
                return event
        raise self._errors.broken("the answer ended before its terminal event")

    async def _read(self) -> bytes:
        content = self._response.content
        with suppress(*TRANSPORT_ERRORS):
            chunk = await content.read(READ_BYTES)
            if len(chunk) == READ_BYTES:
                await asyncio.sleep(0)  # more is here already: others have their turn
            return chunk
        # When a connection has broken, aiohttp keeps what came before that to itself: usage, or even the end.
        if left := content._read_nowait(-1):
            return left
        # Not from that error, which may hold the headers with the key.
        raise self._errors.broken("the connection broke during the answer")


class _Connection(ResponseHandler):
    """A connection on which an answer that stops being HTTP fails at once. aiohttp closes such a connection
    without a word to who reads the body, who would wait for ever.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        body = self._payload
        if self._exception is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError("the framing of the body is broken"))


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """The socket of a new connection, which the request that it is for is told of."""
    _connects.get([]).append(address)
    return socket.socket(*address[:3])


@lru_cache(maxsize=64)
def _parsed(url: str) -> URL:
    return URL(url)


@lru_cache(maxsize=8)
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)


def _never_left(error: Exception) -> bool:
    """Whether the connection was found closed while the request was being written."""
    return isinstance(error.__cause__, aiohttp.ClientConnectionResetError)


def _reason(error: Exception, connect_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {connect_s:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot reach {error.host}:{error.port}: {_why(error)}"
    if isinstance(error, aiohttp.ServerDisconnectedError):  # which may hold half a head
        return "the connection failed: closed before an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the connection failed: what came is not HTTP: {error.message}"
    return f"the connection failed: {error}"


def _why(error: aiohttp.ClientConnectorError) -> str:
    if (error.errno or 0) > 0 and not isinstance(error, aiohttp.ClientSSLError):  # whose numbers are others
        return os.strerror(error.errno or 0)
    return (error.strerror or str(error)).partition(" (_ssl")[0]


async def _failure(response: aiohttp.ClientResponse, errors: ErrorMapper) -> ProviderError:
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_S):
            while len(body) < MAX_ERROR_BODY_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except TRANSPORT_ERRORS:
        pass  # the status says enough
    finally:
        response.close()
    return errors.from_response(response.status, response.headers, bytes(body), now=time.time())


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(RECYCLE_S):
            while await response.content.readany():
                pass
    except TRANSPORT_ERRORS:
        pass  # the answer is complete; only its connection is lost
