"""Chat Completions as clients speak it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.executor import EventKind, Meta, Terminal, TextDelta, ThinkingDelta, ToolCallDelta
from attune.models.request import (
    LLMRequest,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from attune.models.telemetry import TokenUsage
from attune.wire import chat_request, steps
from attune.wire.doors import (
    AnswerHead,
    Asked,
    Door,
    StreamWriter,
    call_id_of,
    sse,
)
from attune.wire.sse import SSEParser

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.executor import LLMResponse, StreamEvent
    from attune.models.request import Part
    from attune.wire.door_errors import Fault

__all__ = ["ChatDoor"]

FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "refusal": "content_filter",
    "context_window": "length",
}


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class ChatDoor(Door):
    """``POST /chat/completions``."""

    protocol = "chat"

    def _read(self, body: bytes) -> Asked:
        return chat_request.read(body)

    def stream(self, request: LLMRequest, head: AnswerHead, *, relays: bool) -> StreamWriter:
        """See ``Door``; the usage is told only to a client that asked for it."""
        return _ChatWriter(request, head, relays=relays)

    def body(self, response: LLMResponse, request: LLMRequest, head: AnswerHead, *, relays: bool) -> bytes:
        """See ``Door``. Reasoning is in ``reasoning_content``, the word of most that tell it."""
        del request  # nothing of it is repeated
        finish = FINISH_REASONS.get(response.stop_reason, "stop")
        choice = {
            "index": 0,
            "message": _message(response.content, head, relays=relays),
            "logprobs": None,
            "finish_reason": finish,
        }
        answer = _head(head, "chat.completion", head.model) | {"choices": [choice]}
        if response.usage is not None:
            answer["usage"] = _usage(response.usage)
        return steps.encode(answer)

    def shape(self, fault: Fault, call_id: str) -> dict[str, Any]:
        """See ``Door``; the official clients say the message alone."""
        del call_id
        return openai_error(fault)

    def error_event(self, error: Any, *, now: float, call_id: str = "") -> bytes:
        """See ``Door``: a chunk, since this protocol names no events."""
        return super().error_event(error, now=now, call_id=call_id).removeprefix(b"event: error\n")


def openai_error(fault: Fault) -> dict[str, Any]:
    """OpenAI's error body."""
    kinds = {
        401: "authentication_error",
        402: "insufficient_quota",
        403: "permission_error",
        429: "rate_limit_error",
    }
    kind = kinds.get(fault.status, "invalid_request_error" if fault.status < 500 else "server_error")
    return {"error": {"message": fault.message, "type": kind, "param": None, "code": fault.code}}


def _head(head: AnswerHead, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{head.call_id}", "object": kind, "created": head.created, "model": model}


def _usage(usage: TokenUsage) -> dict[str, Any]:
    """Cached tokens are part of the prompt here."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }


def _message(content: Sequence[Part], head: AnswerHead, *, relays: bool) -> dict[str, Any]:
    text = "".join(part.text for part in content if isinstance(part, TextPart))
    thought = "".join(part.text for part in content if isinstance(part, ThinkingPart))
    calls = list(_calls(content, head, relays=relays))
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    message |= {"refusal": None, "annotations": []}
    if thought:
        message["reasoning_content"] = thought
    return message | ({"tool_calls": calls} if calls else {})


def _calls(content: Sequence[Part], head: AnswerHead, *, relays: bool) -> Iterator[dict[str, Any]]:
    signature, position = "", 0
    for part in content:
        if isinstance(part, ThinkingPart):
            signature = part.signature
        elif isinstance(part, ToolCallPart):
            call_id = part.id if relays and part.id else call_id_of(part.id, head.call_id, position)
            function = {"name": part.name, "arguments": part.arguments or "{}"}
            call: dict[str, Any] = {"id": call_id, "type": "function", "function": function}
            if relays and signature:  # Gemini's, which it demands back
                call["extra_content"] = {"google": {"thought_signature": signature}}
            signature, position = "", position + 1
            yield call


class _ChatWriter(StreamWriter):
    """Chunks, ended by ``[DONE]``."""

    PING = Door.PING

    def __init__(self, request: LLMRequest, head: AnswerHead, *, relays: bool) -> None:
        super().__init__(head, relays=relays)
        self._tells_usage = chat_request.wants_usage(request)
        self._model = head.model
        self._began = False
        self._usage: TokenUsage | None = None
        self._calls: set[int] = set()

    def _relayed(self, event: StreamEvent) -> bytes:
        # Usage was asked for on attune's behalf; its chunk, and only that, has no choices.
        if event.kind is not EventKind.USAGE or self._tells_usage or not event.raw:
            return event.raw
        block = next(SSEParser().feed(event.raw))
        return event.raw if _decode_chunk(block.data).choices else b""

    def _translated(self, event: StreamEvent) -> Iterator[bytes]:
        parsed = event.parsed
        if event.kind is EventKind.PING:
            yield self.PING
            return
        if isinstance(parsed, Meta):
            self._model = parsed.model or self._model
        if not self._began:
            self._began = True
            yield self._chunk({"role": "assistant", "content": ""})
        match parsed:
            case TextDelta(text):
                yield self._chunk({"content": text})
            case ThinkingDelta(text):
                if text:
                    yield self._chunk({"reasoning_content": text})
            case ToolCallDelta():
                yield self._chunk({"tool_calls": [self._call(parsed)]})
            case TokenUsage() if event.kind is EventKind.USAGE:
                self._usage = parsed
            case Terminal(stop_reason):
                yield from self._end(stop_reason)
            case _:
                pass

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse(_head(self._head, "chat.completion.chunk", self._model) | {"choices": [choice]})

    def _call(self, delta: ToolCallDelta) -> dict[str, Any]:
        function: dict[str, str] = {"arguments": delta.arguments}
        if delta.position in self._calls:
            return {"index": delta.position, "function": function}
        self._calls.add(delta.position)
        call_id = call_id_of(delta.id, self._head.call_id, delta.position)
        function = {"name": delta.name, **function}
        return {"index": delta.position, "id": call_id, "type": "function", "function": function}

    def _end(self, stop_reason: str) -> Iterator[bytes]:
        yield self._chunk({}, FINISH_REASONS.get(stop_reason, "stop"))
        if self._tells_usage and self._usage is not None:
            head = _head(self._head, "chat.completion.chunk", self._model)
            yield sse(head | {"choices": [], "usage": _usage(self._usage)})
        yield b"data: [DONE]\n\n"
