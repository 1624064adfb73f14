"""Serving the gateway: a socket, the application, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import uvicorn

from attune.accounts import Gatekeeper
from attune.clock import SYSTEM_CLOCK
from attune.errors import InvalidRequestError
from attune.gateway.app import Gateway
from attune.gateway.bodies import keep_freed_memory, return_freed_memory
from attune.gateway.http import is_loopback
from attune.gateway.protocol import GuardedProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from attune.config.settings import GatewayConfig
    from attune.runtime import Runtime

__all__ = ["listen", "serve"]

GRACE_SECONDS = 30
"""How long answers under way may take to end once the gateway was asked to; a second signal ends them."""

LAST_SECONDS = 10
"""How long it may then take to tell their clients."""

KEEP_ALIVE_SECONDS = 120
"""How long a connection may wait for its next request: longer than clients and proxies keep theirs (most 60 s
and less, Go 90 s), or one of them would send a request just as it is closed here, and see it fail.
"""


SWITCH_SECONDS = 0.0001
"""How long a thread that computes may keep the event loop waiting for its turn."""


YOUNG_OBJECTS = 10_000
"""After so many new objects the garbage collector looks for cycles, of which a request makes none. Its usual
700 are made by one request: it then takes a tenth of the time.
"""

YOUNG_PASSES = 3
"""After so many of those it looks through all that they have left: 30,000 objects, in 1 ms. Its usual 10 make
it 4, while conversations of thousands of messages are read.
"""

MIDDLE_PASSES = 30
"""After so many of those it looks through everything: as seldom as it usually does."""


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
    """Answer until the program is asked to end; then end what is under way, within ``GRACE_SECONDS``, and
    write what the ledger still holds in memory, however often it is asked.
    """
    host, config = listening.getsockname()[0], runtime.config.gateway
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_PASSES, MIDDLE_PASSES)
    keep_freed_memory()
    gatekeeper = Gatekeeper(runtime.store)
    gateway = Gateway(runtime, gatekeeper, config, clock=SYSTEM_CLOCK, loopback=is_loopback(host))
    runtime.on_attempt = gateway.attempted
    server = _Server(_settings(gateway, config), on_ready)
    with server.asked_by_signals():
        async with runtime, gatekeeper:
            returning = asyncio.create_task(return_freed_memory())
            try:
                await server.serve(sockets=[listening])
            finally:
                returning.cancel()
                await gateway.operations.counter.aclose()


def _settings(gateway: Gateway, config: GatewayConfig) -> uvicorn.Config:
    guarded = partial(
        GuardedProtocol, timeout_s=config.client_timeout_seconds, max_connections=config.max_connections
    )
    return uvicorn.Config(
        gateway,
        http=cast("type[asyncio.Protocol]", guarded),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS + LAST_SECONDS,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._hurried = asyncio.Event()

    @contextmanager
    def asked_by_signals(self) -> Iterator[None]:
        """End gracefully on a signal, and go on with what comes after serving, until it is done: uvicorn's
        own way would raise the signal again, and what the ledger still holds in memory would be lost.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ask_to_end)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Nothing: see ``asked_by_signals``, which lasts longer."""
        return nullcontext()

    def _ask_to_end(self) -> None:
        """End; asked again, without waiting for what is being answered."""
        if self.should_exit:
            self._hurried.set()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers under way end, then end them."""
        ending = asyncio.create_task(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _cut_off(self) -> None:
        """End what is still being answered when the grace is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self._hurried.wait()
        for connection in tuple(self.server_state.connections):
            cast("GuardedProtocol", connection).cut_off()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
