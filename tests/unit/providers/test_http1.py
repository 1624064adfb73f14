"""``Wire`` on real connections: what a server says, in which order, and what becomes of the connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import pytest

from attune.providers._http1 import HIGH_WATER_BYTES, MAX_HEAD_BYTES, PIECE_BYTES, NotHTTPError, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HEAD = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
LARGE = b"x" * (40 * 1024 * 1024)
"""More than the sockets between two programs hold."""

Serve: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


@asynccontextmanager
async def connected(serve: Serve) -> AsyncIterator[Wire]:
    """A wire to a server that does this with its connection, which is then closed."""

    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        over.set()

    async with asyncio.timeout(60), await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port)
        yield wire
        wire.close()
        if wire.closed is not None:
            await wire.closed
        await over.wait()


def saying(*answers: bytes, keeps: bool = True) -> Serve:
    """A server that says one of these to each request, and then waits for the client to hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(answer)
        if keeps:
            await reader.read()

    return serve


async def whole(wire: Wire, body: bytes = b"{}", most: int = PIECE_BYTES) -> bytes:
    """The body of the answer to a request."""
    await wire.ask(HEAD % len(body), body)
    pieces = []
    while piece := await wire.read(most):
        assert len(piece) <= most
        pieces.append(piece)
    return b"".join(pieces)


async def settled(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


BY_LENGTH = OK + b"content-length: 5\r\n\r\nhello"
IN_CHUNKS = OK + b"transfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n"


@pytest.mark.parametrize("answer", [BY_LENGTH, IN_CHUNKS])
async def test_an_answer_whose_end_is_told_leaves_the_connection_for_the_next(answer: bytes) -> None:
    async with connected(saying(answer, answer)) as wire:
        assert await whole(wire) == b"hello"
        assert not wire.reused
        assert not wire.should_close
        assert await whole(wire, most=2) == b"hello"
        assert wire.reused
        assert wire.at_end


async def test_an_answer_may_end_with_its_connection() -> None:
    async with connected(saying(OK + b"\r\nhello", keeps=False)) as wire:
        assert await whole(wire) == b"hello"
        assert wire.should_close
        assert not wire.is_connected()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_that_has_no_body_is_complete_with_its_head(status: bytes) -> None:
    async with connected(saying(b"HTTP/1.1 " + status + b"\r\n\r\n", BY_LENGTH)) as wire:
        assert await whole(wire) == b""
        assert await whole(wire) == b"hello"


async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with connected(saying(interim + BY_LENGTH)) as wire:
        assert await whole(wire) == b"hello"
        assert (wire.status, wire.headers) == (200, {"content-length": "5"})


async def test_of_several_headers_with_one_name_the_first_counts_and_trailers_are_none() -> None:
    async with connected(saying(OK + b"X-A: 1\r\nx-a: 2\r\n" + IN_CHUNKS.removeprefix(OK))) as wire:
        assert await whole(wire) == b"hello"
        assert wire.headers == {"x-a": "1", "transfer-encoding": "chunked"}


async def test_a_service_that_wants_to_hang_up_is_left_alone() -> None:
    async with connected(saying(OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello")) as wire:
        assert await whole(wire) == b"hello"
        assert wire.should_close


@pytest.mark.parametrize("more", [b"garbage", BY_LENGTH])
async def test_bytes_after_a_complete_answer_do_not_spoil_it_but_its_connection(more: bytes) -> None:
    async with connected(saying(BY_LENGTH + more)) as wire:
        assert await whole(wire) == b"hello"
        assert wire.should_close


async def test_a_connection_on_which_something_came_unasked_takes_no_request() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(BY_LENGTH, keeps=False)(reader, writer)
        await asyncio.sleep(0.01)
        writer.write(BY_LENGTH)
        await reader.read()

    async with connected(serve) as wire:
        assert await whole(wire) == b"hello"
        await settled(lambda: not wire.is_connected())
        with pytest.raises(ConnectionResetError):
            await whole(wire)
        assert not wire.sent


async def test_an_end_that_the_loop_has_not_seen_yet_is_seen_before_the_next_request() -> None:
    async with connected(saying(BY_LENGTH, keeps=False)) as wire:
        assert await whole(wire) == b"hello"
        await settled(lambda: not wire._poll or bool(wire._poll.poll(0)))
        with pytest.raises(ConnectionResetError):
            await whole(wire)
        assert wire.reused
        assert not wire.sent


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"x: " + b"y" * 100 * 1024,
        OK + b"x: y\r\n" * 3000 + b"\r\n",
        b"HTTP/1.1 200 " + b"y" * 300 * 1024,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10 + b"HTTP/1.1 100 " + b"y" * 300 * 1024,
    ],
)
async def test_a_head_without_measure_is_not_read(answer: bytes) -> None:
    async with connected(saying(answer)) as wire:
        with pytest.raises(NotHTTPError, match="too large"):
            await whole(wire)
        assert not wire.is_connected()


@pytest.mark.parametrize(
    "end",
    [
        b"0\r\nx: " + b"y" * 1024 * 1024,
        b"0\r\n" + b"x: y\r\n" * 3000 + b"\r\n",
        b"1;" + b"y" * 1024 * 1024,
    ],
)
async def test_what_is_no_body_in_a_chunked_answer_has_a_measure(end: bytes) -> None:
    async with connected(saying(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n" + end)) as wire:
        await wire.ask(HEAD % 2, b"{}")
        assert await wire.read(100) == b"hello"
        with pytest.raises(NotHTTPError, match="too large"):
            await wire.read(100)


async def test_many_small_chunks_are_no_frame_without_measure() -> None:
    count = MAX_HEAD_BYTES
    async with connected(
        saying(OK + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n")
    ) as wire:
        assert await whole(wire) == b"x" * count


async def test_what_is_no_http_is_named_without_its_text() -> None:
    async with connected(saying(b"220 mail.example ready\r\n")) as wire:
        with pytest.raises(NotHTTPError) as failed:
            await whole(wire)
        assert "mail" not in str(failed.value)


async def test_what_came_before_the_connection_broke_is_read_first() -> None:
    async with connected(saying(OK + b"content-length: 9\r\n\r\nhello", keeps=False)) as wire:
        await wire.ask(HEAD % 2, b"{}")
        await settled(lambda: not wire.is_connected())
        assert await wire.read(100) == b"hello"
        with pytest.raises(ConnectionResetError):
            await wire.read(100)


async def test_a_large_request_arrives_as_it_is() -> None:
    arrived = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while len(arrived) < len(LARGE):
            arrived.extend(await reader.read(2**20))
        writer.write(BY_LENGTH)
        await reader.read()

    async with connected(serve) as wire:
        assert await whole(wire, LARGE) == b"hello"
        assert arrived == LARGE
        assert not wire.should_close


async def test_of_a_large_request_that_is_refused_early_the_rest_is_not_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await wire_is_done.wait()

    wire_is_done = asyncio.Event()
    async with connected(serve) as wire:
        assert await whole(wire, LARGE) == b"no"
        assert (wire.status, wire.sent, wire.should_close) == (413, False, True)
        wire_is_done.set()


async def test_of_a_large_request_that_is_accepted_early_all_is_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
        await writer.drain()
        await reader.readexactly(len(LARGE))
        writer.write(b"5\r\nhello\r\n0\r\n\r\n")
        await reader.read()

    async with connected(serve) as wire:
        assert await whole(wire, LARGE) == b"hello"
        assert wire.sent


async def test_a_large_request_whose_connection_breaks_was_not_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with connected(serve) as wire:
        with pytest.raises(ConnectionResetError):
            await whole(wire, LARGE)
        assert not wire.sent


async def test_an_answer_that_is_not_read_is_not_taken_in() -> None:
    async with connected(saying(OK + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE)) as wire:
        await wire.ask(HEAD % 2, b"{}")
        await settled(lambda: wire._paused)
        for _ in range(20):
            await asyncio.sleep(0)
        assert wire._held <= 3 * HIGH_WATER_BYTES
        read = 0
        while piece := await wire.read(PIECE_BYTES):
            read += len(piece)
            assert wire._held <= 3 * HIGH_WATER_BYTES
        assert read == len(LARGE)


async def test_who_hangs_up_in_the_middle_of_a_request_waits_for_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    gone = asyncio.Event()
    async with connected(serve) as wire:
        asking = asyncio.create_task(whole(wire, LARGE))
        await settled(lambda: wire._full)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        ended = wire.closed
        wire.close()
        assert ended is not None
        await ended  # though nobody reads
        assert wire.closed is None or wire.closed.done()
        assert not wire.sent
        gone.set()


@pytest.mark.parametrize(
    "headers",
    [
        b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
    ],
)
async def test_an_answer_in_an_encoding_that_is_not_chunks_alone_is_refused_not_cut_off(
    headers: bytes,
) -> None:
    async with connected(saying(OK + headers + b"\r\n10\r\nabc", keeps=False)) as wire:
        with pytest.raises(NotHTTPError):
            await whole(wire)


async def test_interim_answers_without_end_are_refused() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 8)
    async with connected(saying(interim + BY_LENGTH)) as wire:
        with pytest.raises(NotHTTPError):
            await whole(wire)
