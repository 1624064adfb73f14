"""Clients that do not get on: with their head, their body, their reading, or there are too many of them.

What a test waits for has a minute to happen. What has to happen before a limit of the gateway is done anew
when the machine has let the limit pass.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from support.gateway import Gate, gateway
from support.stalls import anew_after_a_stall
from support.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
HURRY = "[gateway]\nclient_timeout_seconds = 0.3\n"
BODY = json.dumps({"model": "beta", "messages": [{"role": "user", "content": "hi"}]}).encode()


@asynccontextmanager
async def connection(gate: Gate) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = gate.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(60):
            yield reader, writer
    finally:
        writer.close()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the gateway hangs up, however it does."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"POST /v1/chat", CHAT + b"x-more: "])
@anew_after_a_stall
async def test_a_head_that_does_not_arrive_is_answered_with_408(tmp_path: Path, begun: bytes) -> None:
    async with gateway(tmp_path, extra=HURRY) as gate, connection(gate) as (reader, writer):
        writer.write(begun)
        answer = await rest_of(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the head of the request did not arrive" in answer
        assert gate.asked == []


@anew_after_a_stall
async def test_the_next_head_on_a_connection_has_the_same_limit(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=HURRY) as gate, connection(gate) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b'"ok"}')
        writer.write(b"GET /hea")
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("request_line", "type_of"),
    [
        (b"POST /v1/messages?beta=true HTTP/1.1\r\n", "invalid_request_error"),
        (b"POST /v1/messages/count_tokens HTTP/1.1\r\nx-more: ", "invalid_request_error"),
        (b"GET /v1/models HTTP/1.1\r\nanthropic-version: 2023-06-01\r\n", "invalid_request_error"),
        (b"POST /v1/responses HTTP/1.1\r\n", None),
        (b"GET /v1/models HTTP/1.1\r\n", None),
    ],
)
@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"x", 408),
        (b"x-padding: " + b"x" * 70_000, 431),
        (b"x: y\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\n{}", 400),
        (b"x: y\r\n\0: \r\n\r\n", 400),
    ],
)
@anew_after_a_stall
async def test_what_is_refused_with_its_head_is_told_in_the_shape_of_its_path(
    tmp_path: Path, request_line: bytes, type_of: str | None, rest: bytes, status: int
) -> None:
    async with gateway(tmp_path, extra="[gateway]\nclient_timeout_seconds = 0.3\n" * (status == 408)) as gate:
        head, _, body = (await gate.raw(request_line + rest)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert (b"x-should-retry: false" in head) == (status != 408)
        told = json.loads(body)
        assert told.get("type") == (type_of and "error")
        assert told["error"]["type"] == "invalid_request_error"
        assert ("code" in told["error"]) == (type_of is None)


async def test_a_slow_head_that_gets_there_in_time_is_answered(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, connection(gate) as (reader, writer):
        for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"])
@anew_after_a_stall
async def test_a_body_that_stops_coming_is_answered_with_408_in_the_clients_shape(
    tmp_path: Path, path: str
) -> None:
    async with gateway(tmp_path, extra=HURRY) as gate, connection(gate) as (reader, writer):
        writer.write(b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{" % path.encode())
        head, _, body = (await rest_of(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head
        assert "the body did not arrive in time" in json.loads(body)["error"]["message"]
        assert ("type" in json.loads(body)) == path.startswith("/v1/messages")
        assert gate.asked == []


@anew_after_a_stall
async def test_a_body_that_drips_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=HURRY) as gate, connection(gate) as (reader, writer):
        writer.write(CHAT + b"content-length: 100000\r\n\r\n")

        async def drip() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        finally:
            dripping.cancel()


@anew_after_a_stall
async def test_a_refused_client_cannot_keep_its_connection_by_sending_on(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=HURRY, keys={"k": {}}) as gate, connection(gate) as (reader, writer):
        writer.write(CHAT + b"content-length: 100000\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")

        async def drip() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            await rest_of(reader)  # until it is hung up on
        finally:
            dripping.cancel()


@anew_after_a_stall
async def test_a_client_that_does_not_read_its_stream_loses_it_and_the_provider_is_let_go(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, extra=HURRY) as gate:
        gate.second.then(Answer(text="word " * 2_000_000))
        host, port = gate.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({**json.loads(BODY), "stream": True}).encode()
            client.sendall(CHAT + b"content-length: %d\r\n\r\n" % len(body) + body)
            async with asyncio.timeout(60):
                while not (records := gate.runtime.store.recent_attempts(1)):
                    await asyncio.sleep(0.02)
                    await gate.runtime.store.flush()
        assert records[0].error_class == "cancelled"


@anew_after_a_stall
async def test_a_client_that_does_not_read_a_whole_answer_loses_its_connection(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=HURRY) as gate:
        gate.second.then(Answer(text="word " * 2_000_000))
        host, port = gate.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(CHAT + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
            async with asyncio.timeout(60):
                while (
                    b'attune_requests_total{outcome="left",path="/v1/chat/completions",status="499"} 1.0'
                    not in (await gate.get("/metrics")).body
                ):
                    await asyncio.sleep(0.02)


async def test_a_slow_reader_that_goes_on_gets_all_of_it(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[gateway]\nclient_timeout_seconds = 60\n") as gate:
        gate.second.then(Answer(text="word " * 200_000))
        async with connection(gate) as (reader, writer):
            writer.write(CHAT + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY)
            got = b""
            while piece := await reader.read(20_000):
                got += piece
                await asyncio.sleep(0)
        assert (
            json.loads(got.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"].count("word")
            == 200_000
        )


async def test_a_connection_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[gateway]\nmax_connections = 2\n") as gate:
        async with connection(gate) as (reader, writer), connection(gate) as (other, second):
            for stream, each in ((writer, reader), (second, other)):
                stream.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert b"200 OK" in await each.readuntil(b'"ok"}')
            async with connection(gate) as (refused, _):
                answer = await rest_of(refused)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 1" in answer
                assert b"max_connections" in answer
        async with asyncio.timeout(60):
            while not (
                await gate.raw(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            ).startswith(b"HTTP/1.1 200"):
                await asyncio.sleep(0.02)
