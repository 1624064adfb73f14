"""Whatever bytes a service answers with, an attempt ends as an error of one line, or as an answer."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing, suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from attune.errors import (
    ConnectionFailedError,
    ProviderError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
)
from attune.models.executor import AttemptBudget, EventKind
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.providers import Secret, build_provider
from support.faults import HEALTHY, blocks
from support.scale import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from attune.models.executor import StreamEvent
    from support.upstream import Protocol

MODEL = ModelInfo("some-model", "mine", ModelTier.CAPABLE, 100_000, 4096)
KEY = "canary-of-a-key"
PROTOCOLS: tuple[Protocol, ...] = ("chat", "responses", "messages")
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"content-type: text/event-stream\r\n"
THROTTLED = b"HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n"

ODD: dict[str, tuple[bytes, type[ProviderError]]] = {
    "nothing": (b"", ConnectionFailedError),
    "no HTTP": (b"220 mail.example ready\r\n\r\n", ConnectionFailedError),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", ConnectionFailedError),
    "half a head": (OK + b"set-cookie: session=1234\r\nx-more", ConnectionFailedError),
    "a status of no number": (b"HTTP/1.1 abc OK\r\n\r\n", ConnectionFailedError),
    "a header without a name": (OK + b": value\r\n\r\n", ConnectionFailedError),
    "a header of 100 kB": (OK + b"x: " + b"a" * 100_000 + b"\r\n\r\n", ConnectionFailedError),
    "2,000 headers": (OK + b"x: y\r\n" * 2000 + b"\r\n", ConnectionFailedError),
    "a length below zero": (OK + b"content-length: -4\r\n\r\n", ConnectionFailedError),
    "a length of no number": (OK + b"content-length: x\r\n\r\n", ConnectionFailedError),
    "only 100 Continue": (b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionFailedError),
    "101": (b"HTTP/1.1 101 Up\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc", TransientError),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", StreamBrokenError),
    "307": (b"HTTP/1.1 307 Away\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n", TransientError),
    "999": (b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n", TransientError),
    "less than its length": (STREAM + b"content-length: 99\r\n\r\ndata: ", StreamBrokenError),
    "a chunk without a length": (
        STREAM + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        ProviderError,
    ),
    "a chunk of 2**76 bytes": (
        STREAM + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\nabc\r\n",
        ProviderError,
    ),
    "gzip": (STREAM + b"content-encoding: gzip\r\n\r\nabc", StreamBrokenError),
    "a page": (OK + b"content-type: text/html\r\n\r\n<html><title>Log in</title>", StreamBrokenError),
    "100,000 brackets": (STREAM + b"\r\ndata: " + b"[" * 100_000 + b"\n\n", StreamBrokenError),
    "brackets as an error": (b"HTTP/1.1 500 Oh\r\n\r\n" + b"[" * 100_000, TransientError),
    "a huge code": (b'HTTP/1.1 500 Oh\r\n\r\n{"error":{"code":"' + b"x" * 100_000 + b'"}}', TransientError),
    "a wait for ever": (THROTTLED + b"retry-after: 1e400\r\n\r\n", ThrottledError),
    "a wait in bytes": (THROTTLED + b"retry-after: \xff\r\n\r\n", ThrottledError),
    "a date in the year 1": (THROTTLED + b"retry-after: Wed, 21 Oct 0001 07:28:00\r\n\r\n", ThrottledError),
    "a date in 99999": (THROTTLED + b"retry-after: Wed, 21 Oct 99999 07:28:00 GMT\r\n\r\n", ThrottledError),
}


class Speaker:
    """Says to each connection what it is to say, and hangs up; ``patient`` leaves that to the client."""

    def __init__(self) -> None:
        self.says = b""
        self.patient = False
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.says)
            await writer.drain()
            if self.patient:
                await reader.read()
        writer.close()


@pytest.fixture
async def speaker() -> AsyncIterator[Speaker]:
    made = Speaker()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield made


async def ask(url: str, protocol: Protocol) -> list[StreamEvent]:
    how = {"kind": "anthropic"} if protocol == "messages" else {"kind": "openai", "protocol": protocol}
    provider = build_provider("mine", base_url=url, key=Secret(KEY, "env:X"), **how)
    try:
        async with asyncio.timeout(60):
            opened = await provider.open(LLMRequest.from_prompt("hi", stream=True), MODEL, AttemptBudget())
            async with aclosing(opened) as stream:
                return [event async for event in stream]
    finally:
        await provider.aclose()


def is_one_line(error: ProviderError) -> None:
    line = str(error)
    assert line.startswith("mine/some-model")
    assert line.isprintable()
    assert len(line) < 500
    assert KEY not in line
    assert "session=1234" not in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("what", ODD)
async def test_an_odd_answer_is_an_error_of_its_class(
    speaker: Speaker, what: str, protocol: Protocol
) -> None:
    speaker.says, expected = ODD[what]
    with pytest.raises(expected) as caught:
        await ask(speaker.url, protocol)
    is_one_line(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_damaged_bytes_are_an_error_or_an_answer_with_its_end(
    speaker: Speaker, protocol: Protocol
) -> None:
    body = b"".join(blocks(protocol, HEALTHY, MODEL.id))
    whole = STREAM + b"content-length: %d\r\n\r\n" % len(body) + body
    rng = Random(20261122)
    for _ in range(scaled(test=500, faults=10_000, soak=100_000)):
        speaker.says = damaged(whole, rng)
        try:
            events = await ask(speaker.url, protocol)
        except ProviderError as error:
            is_one_line(error)
        else:
            assert [event.kind for event in events].count(EventKind.TERMINAL) == 1, speaker.says


def damaged(whole: bytes, rng: Random) -> bytes:
    """Some bytes changed, lost or come in between."""
    damaged = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(damaged)) if rng.random() < 0.5 else rng.randrange(90)
        lost = rng.choice([0, 1, 1, rng.randrange(20)])
        damaged[at : at + lost] = rng.randbytes(rng.choice([0, 1, 1, rng.randrange(9)]))
    return bytes(damaged)


async def test_closing_while_the_end_of_an_answer_is_awaited_leaves_no_connection(speaker: Speaker) -> None:
    body = b"".join(blocks("chat", HEALTHY, MODEL.id))
    speaker.patient = True
    speaker.says = STREAM + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0" % (len(body), body)
    events = await ask(speaker.url, "chat")
    assert events[-1].kind is EventKind.TERMINAL
    gc.collect()  # an open connection would complain here
