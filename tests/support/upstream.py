"""A provider on loopback for tests: a real HTTP server for Chat Completions, Responses and Messages.

    async with FakeUpstream() as upstream:
        upstream.then(Answer(status=429, headers={"retry-after": "2"}), Answer(text="hello"))
        provider = build_provider("mine", "openai", base_url=upstream.chat_url)

It answers from a script, then with ``default``, and logs what it received.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from support.upstream_responses import responses_body, responses_stream

Protocol = Literal["chat", "responses", "messages"]


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    ``status`` other than 200 sends ``body``, or an error of the protocol made of ``error_type``,
    ``error_code`` and ``error_message``. ``content_type`` and ``body`` replace what would be sent.
    ``usage`` holds the fields of the protocol; ``None`` uses a default, ``{}`` sends none.
    ``stop_reason`` is the protocol's word; of Responses it is why the answer is incomplete.
    ``head_s`` passes before the head, ``between_s`` before each block of a stream; the head waits for
    ``held`` to be set, too.
    ``stall_head`` never sends a head and ``stall_after`` nothing after that many bytes of body,
    until the client goes away or ``stall_until`` is set. ``cut_after`` ends the body after that many
    bytes: ``"clean"`` as if it were complete, ``"close"`` by closing, ``"reset"`` by aborting the
    connection. ``reset_head`` aborts it instead of sending a head.
    """

    text: str = "Hello there, friend"
    thinking: str = ""
    tool_calls: tuple[tuple[str, str, str], ...] = ()  # (id, name, arguments)
    usage: Mapping[str, Any] | None = None
    stop_reason: str | None = "default"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str | None = None
    error_type: str = "api_error"
    error_code: str | None = None
    error_message: str = "something went wrong"
    head_s: float = 0.0
    held: asyncio.Event | None = None
    between_s: float = 0.0
    stall_head: bool = False
    stall_after: int | None = None
    stall_until: asyncio.Event | None = None
    cut_after: int | None = None
    cut_by: Literal["clean", "close", "reset"] = "close"
    reset_head: bool = False


@dataclass
class Received:
    """A request as it arrived; ``disconnected`` is set when its client goes before the end, ``stalled`` when
    nothing more will be sent until then.

    ``connection`` is the client's port: equal for requests on one connection. ``raw`` is the body's text.
    """

    protocol: Protocol
    path: str
    headers: Mapping[str, str]
    body: Any
    at: float
    connection: int
    raw: bytes = b""
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected_at: float | None = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    completed: bool = False


Script = Answer | Callable[[Received], Answer]


class FakeUpstream:
    """The server; ``chat_url``, ``responses_url`` and ``messages_url`` are the protocols' base URLs."""

    def __init__(self, *, default: Script | None = None, port: int = 0) -> None:
        self.default: Script = default or Answer()
        self.received: list[Received] = []
        self.port = port
        self._script: deque[Script] = deque()
        self._runner: web.ServerRunner | None = None
        self._kept: socket.socket | None = None
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> FakeUpstream:
        await self.up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stop()
        if self._kept is not None:
            self._kept.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def chat_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def responses_url(self) -> str:
        return self.chat_url

    @property
    def messages_url(self) -> str:
        return self.url

    def then(self, *answers: Script) -> FakeUpstream:
        """Add answers to the script."""
        self._script.extend(answers)
        return self

    async def up(self) -> None:
        """Listen, on the same port as before if there was one."""
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Stop listening: connections are refused from now on, open ones are closed."""
        if await self._stop():
            self._kept = socket.socket()  # else another process may get the port, and answer
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # somebody was faster
                self._kept.bind(("127.0.0.1", self.port))

    async def _stop(self) -> bool:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        return runner is not None

    async def arrived(self, number: int = 1) -> Received:
        """Wait until ``number`` requests have arrived in all; returns the last of them."""
        async with asyncio.timeout(60), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= number)
        return self.received[number - 1]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        text = await request.content.read()  # request.read() has a limit of 1 MiB
        last = request.path.rpartition("/")[2]
        protocol: Protocol = last if last in {"messages", "responses"} else "chat"
        seen = Received(
            protocol=protocol,
            path=request.path_qs,
            headers=dict(request.headers.items()) | {k.lower(): v for k, v in request.headers.items()},
            body=json.loads(text) if text else None,
            at=time.monotonic(),
            connection=request.transport.get_extra_info("peername")[1],
            raw=text,
        )
        async with self._arrived:
            self.received.append(seen)
            self._arrived.notify_all()
        item = self._script.popleft() if self._script else self.default
        answer = item(seen) if callable(item) else item
        try:
            response = await _answer(request, seen, answer)
        except (asyncio.CancelledError, ConnectionResetError):
            seen.disconnected_at = time.monotonic()
            seen.disconnected.set()
            raise
        seen.completed = True
        return response


async def _answer(request: web.BaseRequest, seen: Received, answer: Answer) -> web.StreamResponse:
    if answer.head_s:
        await asyncio.sleep(answer.head_s)
    if answer.held is not None:
        await answer.held.wait()
    if answer.stall_head:
        await _stall(seen, answer)
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    if answer.reset_head:
        _abort(request)
        return response
    streams = bool((seen.body or {}).get("stream")) and answer.status == 200 and answer.body is None
    default_type = "text/event-stream" if streams else "application/json"
    response.content_type = answer.content_type or default_type
    await response.prepare(request)
    sent = 0
    for block in _blocks(seen, answer, streams=streams):
        if answer.between_s:
            await asyncio.sleep(answer.between_s)
        limit = min(n for n in (answer.stall_after, answer.cut_after, sent + len(block)) if n is not None)
        await response.write(block[: limit - sent])
        sent = limit
        if sent == answer.stall_after:
            await _stall(seen, answer)
        if sent == answer.cut_after and answer.cut_by != "clean":
            _abort(request) if answer.cut_by == "reset" else _close(request)
            return response
        if sent == answer.cut_after:
            break
    await response.write_eof()
    return response


async def _stall(seen: Received, answer: Answer) -> None:
    seen.stalled.set()
    await (answer.stall_until or asyncio.Event()).wait()


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _close(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()


def _blocks(seen: Received, answer: Answer, *, streams: bool) -> list[bytes]:
    if answer.body is not None:
        return [answer.body]
    if answer.status != 200:
        return [error_body(seen.protocol, answer)]
    if seen.body is None:  # a GET: the list of models
        return [b'{"object": "list", "data": []}']
    model = seen.body["model"]
    if seen.protocol == "chat":
        wants_usage = (seen.body.get("stream_options") or {}).get("include_usage", False)
        return chat_stream(answer, model, usage=wants_usage) if streams else [chat_body(answer, model)]
    if seen.protocol == "responses":
        return responses_stream(answer, model) if streams else [responses_body(answer, model)]
    return messages_stream(answer, model) if streams else [messages_body(answer, model)]


def error_body(protocol: Protocol, answer: Answer) -> bytes:
    """An error in the protocol's own shape."""
    error: dict[str, Any] = {"type": answer.error_type, "message": answer.error_message}
    if protocol == "messages":
        return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
    return json.dumps({"error": {**error, "code": answer.error_code, "param": None}}).encode()


def sse(data: Mapping[str, Any], event: str = "") -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


CHAT_USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
MESSAGES_USAGE = {"input_tokens": 12, "output_tokens": 7}


def _reason(answer: Answer, tool_calls: str, stop: str) -> str | None:
    if answer.stop_reason != "default":
        return answer.stop_reason
    return tool_calls if answer.tool_calls else stop


def _halves(text: str) -> tuple[str, ...]:
    return tuple(part for part in (text[: len(text) // 2], text[len(text) // 2 :]) if part)


def chat_body(answer: Answer, model: str) -> bytes:
    """A whole Chat Completions answer."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": n, "arguments": a}}
            for i, n, a in answer.tool_calls
        ]
    usage = CHAT_USAGE if answer.usage is None else answer.usage
    choice = {"index": 0, "message": message, "finish_reason": _reason(answer, "tool_calls", "stop")}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": model, "choices": [choice]}
    return json.dumps(body | ({"usage": usage} if usage else {}), ensure_ascii=False).encode()


def chat_stream(answer: Answer, model: str = "m", *, usage: bool = True) -> list[bytes]:
    """A Chat Completions stream, one block an event."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model}

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        return sse({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    blocks = [chunk({"role": "assistant", "content": ""})]
    blocks += [chunk({"reasoning_content": part}) for part in _halves(answer.thinking)]
    blocks += [chunk({"content": part}) for part in _halves(answer.text)]
    for index, (call_id, name, arguments) in enumerate(answer.tool_calls):
        first = {"index": index, "id": call_id, "type": "function"}
        blocks.append(chunk({"tool_calls": [first | {"function": {"name": name, "arguments": ""}}]}))
        for part in _halves(arguments):
            blocks.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]}))
    blocks.append(chunk({}, _reason(answer, "tool_calls", "stop")))
    figures = CHAT_USAGE if answer.usage is None else answer.usage
    if usage and figures:
        blocks.append(sse({**base, "choices": [], "usage": figures}))
    return [*blocks, b"data: [DONE]\n\n"]


def messages_body(answer: Answer, model: str) -> bytes:
    """A whole Messages answer."""
    content: list[dict[str, Any]] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": "sig-1"})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content += [
        {"type": "tool_use", "id": i, "name": n, "input": json.loads(a)} for i, n, a in answer.tool_calls
    ]
    usage = MESSAGES_USAGE if answer.usage is None else answer.usage
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content}
    body["stop_reason"] = _reason(answer, "tool_use", "end_turn")
    return json.dumps(body | ({"usage": usage} if usage else {}), ensure_ascii=False).encode()


def messages_stream(answer: Answer, model: str = "m") -> list[bytes]:
    """A Messages stream, one block an event."""

    def event(name: str, **fields: Any) -> bytes:
        return sse({"type": name, **fields}, name)

    usage = dict(MESSAGES_USAGE if answer.usage is None else answer.usage)
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
    if usage:
        message["usage"] = usage | {"output_tokens": 1}
    blocks = [event("message_start", message=message | {"content": []}), event("ping")]
    parts: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.thinking:
        deltas = [{"type": "thinking_delta", "thinking": t} for t in _halves(answer.thinking)]
        signature = {"type": "signature_delta", "signature": "sig-1"}
        parts.append(({"type": "thinking", "thinking": ""}, [*deltas, signature]))
    if answer.text:
        deltas = [{"type": "text_delta", "text": t} for t in _halves(answer.text)]
        parts.append(({"type": "text", "text": ""}, deltas))
    for call_id, name, arguments in answer.tool_calls:
        deltas = [{"type": "input_json_delta", "partial_json": t} for t in _halves(arguments)]
        parts.append(({"type": "tool_use", "id": call_id, "name": name, "input": {}}, deltas))
    for index, (start, deltas) in enumerate(parts):
        blocks.append(event("content_block_start", index=index, content_block=start))
        blocks += [event("content_block_delta", index=index, delta=delta) for delta in deltas]
        blocks.append(event("content_block_stop", index=index))
    end: dict[str, Any] = {"delta": {"stop_reason": _reason(answer, "tool_use", "end_turn")}}
    if usage:
        end["usage"] = {"output_tokens": usage["output_tokens"]}
    return [*blocks, event("message_delta", **end), event("message_stop")]
