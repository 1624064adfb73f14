"""The HTTP transport of the providers. The only module that knows aiohttp and its errors."""

from __future__ import annotations

import asyncio
import io
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import aiohttp

from attune.errors import ConnectionFailedError, InvalidRequestError, ProviderError
from attune.models.executor import EventKind
from attune.wire.errors import MAX_ERROR_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from attune.models.executor import StreamEvent
    from attune.wire.decoder import Decoder
    from attune.wire.errors import ErrorMapper

__all__ = ["HTTPStream", "HTTPTransport"]

TRANSPORT_ERRORS = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError
RECYCLE_S = 1.0
"""How long the end of a complete answer is waited for, so that its connection can be used again."""

_HEADERS = {"user-agent": "attune", "accept-encoding": "identity"}


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
        ``InvalidRequestError`` after ``aclose``.
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
        progress = _Progress()
        try:
            return await self._send(url, headers, body, connect_s, progress)
        except TRANSPORT_ERRORS as error:
            failure = errors.raised(ConnectionFailedError, _reason(error, connect_s))
            failure.sent = progress.written >= len(body) and not _never_left(error)
        # Raised out here, where no error of aiohttp is its context: those hold the headers with the key.
        raise failure

    async def _send(
        self, url: str, headers: Mapping[str, str], body: bytes, connect_s: float, progress: _Progress
    ) -> aiohttp.ClientResponse:
        async def send() -> aiohttp.ClientResponse:
            return await self._session().post(
                url,
                data=io.BytesIO(body),  # bytes above 1 MiB would be written in one go
                headers={**headers, "content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
                allow_redirects=False,
                trace_request_ctx=progress,
            )

        try:
            return await send()
        except aiohttp.ClientOSError as error:
            if not (progress.reused and _never_left(error)):
                raise
        # A kept connection that the server had closed: the request never left as a whole, so no
        # server can have begun it, and sending it on a new connection is not a second attempt.
        progress.reset()
        return await send()

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if loop in self._closed:
            raise InvalidRequestError("the connections of this provider were closed; build it again")
        session = self._sessions.get(loop)
        if session is None:
            session = self._sessions[loop] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                auto_decompress=False,
                trust_env=False,
                trace_configs=[_tracing()],
            )
        return session


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
        self._at_end = False
        self._over = False

    def __aiter__(self) -> HTTPStream:
        return self

    async def __anext__(self) -> StreamEvent:
        if self._over:
            raise StopAsyncIteration
        try:
            event = await self._next()
        except ProviderError:
            await self.aclose()
            raise
        if event.kind is EventKind.TERMINAL:
            self._over = True
            self._transport.recycle(self._response)
        return event

    async def aclose(self) -> None:
        """Close the connection at once, unless the answer was complete; idempotent."""
        if not self._over:
            self._over = True
            self._response.close()

    async def _next(self) -> StreamEvent:
        while True:
            for event in self._ready:
                return event
            if self._at_end:
                raise self._errors.broken("the answer ended before its terminal event")
            chunk = await self._read()
            self._at_end = not chunk
            self._ready = self._decoder.feed(chunk) if chunk else self._decoder.finish()

    async def _read(self) -> bytes:
        with suppress(*TRANSPORT_ERRORS):
            return await self._response.content.readany()
        # Not from that error, which may hold the headers with the key.
        raise self._errors.broken("the connection broke during the answer")


class _Progress:
    """How far a request has come: its bytes written, and whether on a connection used before."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.written = 0
        self.reused = False


def _tracing() -> aiohttp.TraceConfig:
    """Keeps the ``_Progress`` that is given with each request."""

    async def reused(_session: object, context: Any, _params: object) -> None:
        context.trace_request_ctx.reused = True

    async def written(_session: object, context: Any, params: aiohttp.TraceRequestChunkSentParams) -> None:
        context.trace_request_ctx.written += len(params.chunk)

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reused)
    tracing.on_request_chunk_sent.append(written)
    return tracing


def _never_left(error: Exception) -> bool:
    """Whether the connection was found closed while the request was being written."""
    return isinstance(error.__cause__, aiohttp.ClientConnectionResetError)


def _reason(error: Exception, connect_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {connect_s:g} s"
    if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:
        return f"cannot reach {error.host}:{error.port}: {os.strerror(error.errno or 0)}"
    return f"the connection failed: {error}"


async def _failure(response: aiohttp.ClientResponse, errors: ErrorMapper) -> ProviderError:
    body = bytearray()
    try:
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
    finally:
        response.close()
