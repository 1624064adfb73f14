"""Bytes that are nearly HTTP: refused or hung up on, and no second request is smuggled in."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.gateway import gateway
from support.hostile_json import spoilt
from support.raw_upstream import defects
from support.scale import scaled

if TYPE_CHECKING:
    from pathlib import Path

CHAT = json.dumps({"model": "beta", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = b"host: localhost\r\ncontent-type: application/json\r\n"
MODELS = b"GET /v1/models/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def post(headers: bytes, body: bytes = CHAT, line: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return line + b"\r\n" + HEAD + headers + b"\r\n" + body


def length(size: int) -> bytes:
    return b"content-length: %d\r\n" % size


CHUNKED = b"transfer-encoding: chunked\r\n"
EMPTY = b"0\r\n\r\n"


def statuses(raw: bytes) -> list[int]:
    """The status of each answer in what came. Raises ``ValueError`` for what is no row of answers."""
    found = []
    while raw:
        head, end, raw = raw.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        size = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        if not end or not status:
            raise ValueError(f"no answer: {head[:80]!r}")
        found.append(int(status[1]))
        if size:
            raw = raw[int(size[1]) :]
        elif b"chunked" in head:
            raw = raw.partition(b"0\r\n\r\n")[2]
    return found


AMBIGUOUS = {
    "a length and chunks": post(length(len(EMPTY + MODELS)) + CHUNKED, EMPTY + MODELS),
    "chunks and a length": post(CHUNKED + length(3), EMPTY + MODELS),
    "two lengths": post(length(0) + length(len(MODELS)), MODELS),
    "two lengths in one": post(b"content-length: 0, %d\r\n" % len(MODELS), MODELS),
    "a signed length": post(b"content-length: +0\r\n", MODELS),
    "a negative length": post(b"content-length: -1\r\n", MODELS),
    "a length in hexadecimal": post(b"content-length: 0x0\r\n", MODELS),
    "a length that is no number": post(b"content-length: \xb2\r\n", MODELS),
    "a length beyond all": post(b"content-length: 99999999999999999999\r\n", MODELS),
    "an empty length": post(b"content-length:\r\n", MODELS),
    "a space before the colon": post(b"content-length : 0\r\n", MODELS),
    "a folded header": post(b"content-length:\r\n 0\r\n", MODELS),
    "chunked by another name": post(b"transfer-encoding: xchunked\r\n", EMPTY + MODELS),
    "chunked and then more": post(b"transfer-encoding: chunked, identity\r\n", EMPTY + MODELS),
    "chunked twice": post(CHUNKED + CHUNKED + length(3), EMPTY + MODELS),
    "an odd separator": post(b"transfer-encoding:\x0bchunked\r\n" + length(3), EMPTY + MODELS),
    "a chunk size below zero": post(CHUNKED, b"-1\r\n\r\n" + MODELS),
    "a chunk size in no base": post(CHUNKED, b"0x0\r\n\r\n" + MODELS),
    "a chunk size beyond all": post(CHUNKED, b"fffffffffffffffff\r\n" + MODELS),
    "a chunk that is longer than it says": post(CHUNKED, b"2\r\n{}" + MODELS),
    "a line feed for a chunk's end": post(CHUNKED, b"0\n\n" + MODELS),
    "a line feed for a line's end": post(b"content-length: 0\nx: y\r\n", MODELS),
    "a carriage return in a value": post(b"x: a\rcontent-length: 0\r\n", MODELS),
    "a zero byte in a value": post(b"x: a\x00b\r\n" + length(0), MODELS),
    "no name": post(b": x\r\n" + length(0), MODELS),
    "no version": b"GET /v1/models/smuggled\r\n\r\n",
    "an unknown version": b"GET /v1/models/smuggled HTTP/3.0\r\nhost: localhost\r\n\r\n",
    "an unknown method": b"SMUGGLE /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a space in the path": b"GET /v1/models /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("shape", AMBIGUOUS)
async def test_what_two_readers_could_read_in_two_ways_is_refused_whole(shape: str, tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        raw = await gate.raw(AMBIGUOUS[shape] + LAST)
        assert all(400 <= status < 500 for status in statuses(raw)), raw
        assert len(statuses(raw)) <= 1
        assert b"smuggled" not in raw
        assert gate.asked == []


REFUSED = {
    "at no path": (post(length(len(MODELS)), MODELS, b"POST /nowhere HTTP/1.1"), 404),
    "at no path in chunks": (
        post(CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(MODELS), MODELS), b"POST /nowhere HTTP/1.1"),
        404,
    ),
    "by another method": (post(length(len(MODELS)), MODELS, b"GET /v1/chat/completions HTTP/1.1"), 405),
    "compressed": (post(length(len(MODELS)) + b"content-encoding: gzip\r\n", MODELS), 415),
    "too large": (post(length(len(MODELS) * 30_000), MODELS * 30_000), 413),
    "no JSON": (post(length(len(MODELS)), MODELS), 400),
    "from a web page": (post(length(len(MODELS)) + b"origin: https://evil.example\r\n", MODELS), 403),
    "under a second host": (post(length(len(MODELS)) + b"host: evil.example\r\n", MODELS), 403),
    "of which more is announced": (post(length(len(MODELS)) + b"expect: 100-continue\r\n", MODELS), 400),
    "of a GET": (post(length(len(MODELS)), MODELS, b"GET /v1/nothing HTTP/1.1"), 404),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_the_body_of_a_refused_request_is_never_read_as_the_next_one(how: str, tmp_path: Path) -> None:
    refused, status = REFUSED[how]
    async with gateway(tmp_path, extra="[gateway]\nmax_body_mib = 1\n") as gate:
        found = statuses((await gate.raw(refused + LAST)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
        assert found[0] == status
        assert found[1:] in ([], [200])  # hung up on, or the health that was asked for
        assert gate.asked == []


@pytest.mark.parametrize("first", [b"host: evil.example\r\n", b"origin: https://evil.example\r\n"])
async def test_a_second_host_or_origin_hides_no_first(first: bytes, tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        second = b"host: localhost\r\norigin:\r\nconnection: close\r\n\r\n"
        assert statuses(await gate.raw(b"GET /v1/models HTTP/1.1\r\n" + first + second)) == [403]


GOOD = post(length(len(CHAT)))
LINES = (
    *(b"content-length: 7", b"content-length: -7", b"transfer-encoding: chunked", b"Transfer-Encoding: gzip"),
    *(b"connection: upgrade", b"upgrade: websocket", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ"),
    *(
        b"expect: 100-continue",
        b"expect: x",
        b"host: x",
        b"host:",
        b": x",
        b"x",
        b" x: y",
        b"x: \x00",
        b"\xff: y",
    ),
    *(b"x-attune-max-cost: 1e400", b"x-attune-max-cost: nan", b"x-attune-max-latency-ms: 0", b"te: trailers"),
    *(
        b"x-attune-task: \xff\xfe",
        b"x-attune-session: " + b"s" * 900,
        b"authorization: Bearer",
        b"x-api-key: ",
    ),
    *(b"anthropic-version: \xe9", b"openai-beta: \xe9", b"x: " + b"y" * 70_000, b"trailer: x", b""),
    *(
        b"GET / HTTP/1.1",
        b"GET /v1/models/%ff%00/../x?%zz HTTP/1.1",
        b"CONNECT x:80 HTTP/1.1",
        b"GET * HTTP/1.1",
    ),
    *(b"OPTIONS * HTTP/1.1", b"GET http://evil.example/v1/models HTTP/1.1", b"GET // HTTP/1.1", b"7", b"0"),
)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Requests one after the other, with lines added, left out, doubled, and bytes spoilt."""
    lines = b"".join(draw(st.lists(st.sampled_from((GOOD, LAST, MODELS)), min_size=1, max_size=3))).split(
        b"\r\n"
    )
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(("add", "add", "replace", "drop", "double"))):
            case "add":
                lines.insert(place, draw(st.sampled_from(LINES)))
            case "replace":
                lines[place] = draw(st.sampled_from(LINES))
            case "drop" if len(lines) > 1:
                del lines[place]
            case _:
                lines.insert(place, lines[place])
    return draw(spoilt(draw(st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))).join(lines)))


def converse(url: str, content: bytes) -> bytes:
    """What comes back for bytes after which nothing more is said."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        came = bytearray()
        with suppress(ConnectionError):
            client.sendall(content)
            with suppress(OSError):  # it was hung up on
                client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                came += piece
        return bytes(came)


async def test_bytes_that_are_nearly_http_are_answered_refused_or_hung_up_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(tmp_path) as gate:

        @settings(
            max_examples=scaled(test=300, faults=5_000, soak=50_000),
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(conversations())
        def fuzz(content: bytes) -> None:
            caplog.clear()
            came = converse(gate.url, content)
            if came:
                assert all(100 <= status < 500 for status in statuses(came)), came
            assert not defects(caplog.records)

        await asyncio.to_thread(fuzz)
        assert (await gate.chat()).status == 200
        assert set(gate.asked) <= {"beta"}
