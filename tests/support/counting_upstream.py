"""A provider on loopback that fails at random and counts for itself, in a process of its own.

    with CountingUpstream(seed=7) as upstream:
        ... f"{upstream.url}/alpha/v1" and so on are base URLs of as many providers as wanted ...
        tally = upstream.tally()

A prompt holds ``call-N``: what came for it is counted under that mark, in the order of arrival. The
server ends with the process that started it.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import subprocess
import sys
import urllib.request
from random import Random
from typing import NamedTuple

from support.upstream import Answer, chat_stream, error_body, messages_stream, sse
from support.upstream_responses import responses_failure, responses_stream

SLOW_SECONDS = 8.0
"""How long the slow answers keep their head back."""

FAULTS = {
    "429": 3,
    "429-ms": 3,
    "500": 3,
    "503": 3,
    "529": 3,
    "reset-head": 3,
    "cut-clean": 3,
    "cut-close": 3,
    "cut-reset": 3,
    "error-event": 3,
    "no-usage": 3,
    "malformed": 3,
    "empty": 3,
    "slow-head": 0.5,
}
"""Each kind of fault with its weight; all together they are ``fault_share`` of the answers."""


class Bill(NamedTuple):
    """Tokens that the upstream bills for one answer; the prompt includes what was cached."""

    prompt: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int


class Arrival(NamedTuple):
    """One request as it arrived whole: ``bill`` is ``None`` where nothing is billed, ``usage_sent`` says
    that the bill's figures went out before anything was broken off.
    """

    call: str
    provider: str
    kind: str
    bill: Bill | None
    usage_sent: bool


class Tally(NamedTuple):
    """What the server has counted: every arrival, connections open, requests being answered."""

    arrived: list[Arrival]
    connections: int
    busy: int


class CountingUpstream:
    """Starts the server and ends it."""

    def __init__(self, *, seed: int, fault_share: float = 0.35) -> None:
        code = (
            f"import sys; sys.path[:0] = {sys.path!r}; from support.counting_upstream import serve; serve()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(seed), str(fault_share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> CountingUpstream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate(timeout=120)  # its standard input ends

    def tally(self) -> Tally:
        """What was counted so far, without this question's own connection."""
        with urllib.request.urlopen(f"{self.url}/tally", timeout=60) as answer:
            counted = json.load(answer)
        arrived = [
            Arrival(call, provider, kind, Bill(*bill) if bill else None, sent)
            for call, provider, kind, bill, sent in counted["arrived"]
        ]
        return Tally(arrived, counted["connections"], counted["busy"])


# -- the server's own process ------------------------------------------------------------------------


class _Plan(NamedTuple):
    """How one request is answered: the bytes in the pieces they are sent in, and how it ends."""

    head: bytes
    blocks: list[bytes]
    end: str = "keep"
    head_s: float = 0.0
    between_s: float = 0.0


class _Server:
    def __init__(self, seed: int, fault_share: float) -> None:
        self.arrived: list[Arrival] = []
        self.connections: set[_Connection] = set()
        self.busy = 0
        self._seed = seed
        self._fault_share = fault_share
        self._seen: dict[str, int] = {}

    def plan(self, provider: str, protocol: str, text: bytes) -> _Plan:
        """Count a request and choose its answer, by the seed, its call and its place in the call."""
        mark = re.search(rb"call-\d+", text)
        assert mark is not None, text[:200]
        call = mark[0].decode()
        place = self._seen[call] = self._seen.get(call, 0) + 1
        rng = Random(f"{self._seed} {call} {place}")
        kind = rng.choices([*FAULTS], [*FAULTS.values()])[0] if rng.random() < self._fault_share else "fine"
        bill = None if kind[:1].isdigit() or kind == "reset-head" else _bill(rng, protocol)
        plan, usage_sent = _planned(kind, protocol, bill, rng)
        self.arrived.append(Arrival(call, provider, kind, bill, usage_sent))
        return plan

    def tally(self, asker: _Connection) -> bytes:
        others = len(self.connections - {asker})
        return json.dumps({"arrived": self.arrived, "connections": others, "busy": self.busy - 1}).encode()


_STREAMS = {"chat": chat_stream, "responses": responses_stream, "messages": messages_stream}


def _bill(rng: Random, protocol: str) -> Bill:
    prompt = rng.randrange(1, 9000)
    read = rng.choice((0, rng.randrange(prompt)))
    write = rng.choice((0, rng.randrange(prompt - read))) if protocol == "messages" else 0
    return Bill(prompt, rng.randrange(1, 60), read, write, rng.choice((0, rng.randint(0, write))))


def _usage_fields(bill: Bill, protocol: str) -> dict[str, object]:
    if protocol == "chat":
        cached = {"prompt_tokens_details": {"cached_tokens": bill.cache_read}}
        return {"prompt_tokens": bill.prompt, "completion_tokens": bill.output, **cached}
    if protocol == "responses":
        cached = {"input_tokens_details": {"cached_tokens": bill.cache_read}}
        return {"input_tokens": bill.prompt, "output_tokens": bill.output, **cached}
    return {
        "input_tokens": bill.prompt - bill.cache_read - bill.cache_write,
        "output_tokens": bill.output,
        "cache_read_input_tokens": bill.cache_read,
        "cache_creation_input_tokens": bill.cache_write,
        "cache_creation": {"ephemeral_1h_input_tokens": bill.cache_write_1h},
    }


def _planned(kind: str, protocol: str, bill: Bill | None, rng: Random) -> tuple[_Plan, bool]:
    """The answer of a kind, and whether the bill's figures are sent before it is broken off."""
    if kind[:1].isdigit():
        return _status(kind, protocol), False
    if kind == "reset-head":
        return _Plan(b"", [], "reset"), False
    if kind == "empty":
        return _Plan(_head(200, "text/event-stream", "content-length: 0"), []), False
    usage = {} if kind == "no-usage" or bill is None else _usage_fields(bill, protocol)
    answer = Answer(text="word " * rng.randrange(2, 60), usage=usage)
    blocks = _STREAMS[protocol](answer)
    usage_sent = kind in {"fine", "slow-head"}
    pace = rng.choice((0.0, 0.0, 0.0, 0.002))
    if kind == "malformed":
        blocks[rng.randrange(len(blocks) - 1)] = b'data: {"choices": [{"delta"\n\n'
    elif kind == "error-event":
        blocks = [*blocks[: rng.randrange(len(blocks))], _error_event(protocol)]
    elif kind.startswith("cut"):
        blocks, usage_sent = _cut(blocks, rng)
        usage_sent &= protocol != "responses"  # there the figures are in the event that ends the answer
    end = kind.removeprefix("cut-") if kind.startswith("cut") else "keep"
    head_s = SLOW_SECONDS if kind == "slow-head" else 0.0
    head = _head(200, "text/event-stream", "transfer-encoding: chunked")
    return _Plan(head, blocks, end, head_s, pace), usage_sent


def _error_event(protocol: str) -> bytes:
    if protocol == "responses":
        return responses_failure("server_is_overloaded", "busy")[-1]
    error = {"error": {"type": "overloaded_error", "code": "server_is_overloaded", "message": "busy"}}
    return sse({"type": "error", **error}, "error" if protocol == "messages" else "")


def _cut(blocks: list[bytes], rng: Random) -> tuple[list[bytes], bool]:
    """The blocks up to a random byte before the end, and whether the last figures are among them."""
    left = rng.choice((rng.randrange(sum(map(len, blocks)) - 1), sum(map(len, blocks[:-1]))))
    usage_sent = left >= sum(map(len, blocks[:-1]))
    kept = []
    for block in blocks:
        kept.append(block[:left])
        left -= len(kept[-1])
    return [block for block in kept if block], usage_sent


def _status(kind: str, protocol: str) -> _Plan:
    status, _, how = kind.partition("-")
    kinds = {"429": "rate_limit_error", "529": "overloaded_error", "503": "server_is_overloaded"}
    body = error_body(protocol, Answer(error_type=kinds.get(status, "api_error")))  # type: ignore[arg-type]
    headers = [f"content-length: {len(body)}"]
    if status == "429":
        headers.append("retry-after-ms: 3" if how else "retry-after: 0.003")
    return _Plan(_head(int(status), "application/json", *headers), [body])


def _head(status: int, media_type: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status} x", f"content-type: {media_type}", *headers, "", "")).encode()


class _Connection(asyncio.Protocol):
    """One connection: one request after the other, each answered by its plan."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if not found or len(rest) < size:
            return
        self._buffer = rest[size:]
        self._server.busy += 1
        path = head.split(b" ", 2)[1].decode()
        self._task = asyncio.get_running_loop().create_task(self._answer(path, rest[:size]))
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._server.busy -= 1
        if not task.cancelled():
            task.result()

    async def _answer(self, path: str, body: bytes) -> None:
        if path == "/tally":
            counted = self._server.tally(self)
            self._transport.write(_head(200, "application/json", f"content-length: {len(counted)}") + counted)
            return
        _, provider, _, *rest = path.split("/")
        plan = self._server.plan(provider, rest[0], body)
        if plan.head_s:
            await asyncio.sleep(plan.head_s)
        chunked = b"chunked" in plan.head
        framed = [b"%x\r\n%s\r\n" % (len(block), block) if chunked else block for block in plan.blocks]
        if chunked and plan.end in {"keep", "clean"}:
            framed.append(b"0\r\n\r\n")
        if plan.between_s:
            for piece in (plan.head, *framed):
                self._transport.write(piece)
                await asyncio.sleep(plan.between_s)
        else:
            self._transport.write(plan.head + b"".join(framed))
        if plan.end == "reset":
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        elif plan.end == "close":
            self._transport.close()


async def _serve(server: _Server) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    listener.close()


def serve() -> None:
    """What the server's process runs: until its standard input ends."""
    asyncio.run(_serve(_Server(int(sys.argv[1]), float(sys.argv[2]))))
