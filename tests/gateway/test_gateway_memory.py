"""What a request leaves behind: nothing that waits for the garbage collector, which seldom looks."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from attune.gateway import bodies
from attune.gateway.protocol import GuardedProtocol
from support.gateway import Gate, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OF_MODELS = {"its own protocol": "beta", "another protocol": "alpha", "Responses": "gamma"}


@pytest.fixture
def collector() -> Iterator[None]:
    """The collector keeps what it finds, and looks only when it is told to."""
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def unreachable() -> list[str]:
    """The types of attune of which something refers to itself and is not used any more."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = {type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("attune.")}
    gc.garbage.clear()
    return sorted(found)


async def asked(gate: Gate, times: int, **fields: Any) -> None:
    for _ in range(times):
        assert (await gate.chat(**fields)).status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("of_model", OF_MODELS)
async def test_an_answered_request_leaves_nothing_for_the_garbage_collector(
    of_model: str, stream: bool, tmp_path: Path, collector: None
) -> None:
    async with gateway(tmp_path) as gate:
        await asked(gate, 2, model=OF_MODELS[of_model], stream=stream)  # what is made once
        unreachable()
        await asked(gate, 5, model=OF_MODELS[of_model], stream=stream)
        assert unreachable() == []


async def test_a_connection_that_its_client_resets_is_forgotten_at_once(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        host, port = gate.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await reader.readuntil(b'{"status":"ok"}')
        assert connections() == 1
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        async with asyncio.timeout(60):
            while connections():
                await asyncio.sleep(0.01)


def connections() -> int:
    """How many the gateway has in memory, closed or not."""
    gc.collect()
    return sum(isinstance(each, GuardedProtocol) for each in gc.get_objects())


async def test_while_the_gateway_runs_the_system_gets_its_memory_back_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(bodies, "RETURN_SECONDS", 0.001)
    monkeypatch.setattr(bodies, "_return_freed_memory", lambda: loop.call_soon_threadsafe(again.release))
    async with gateway(tmp_path), asyncio.timeout(60):
        await again.acquire()
        await again.acquire()
