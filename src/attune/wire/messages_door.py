"""Messages as clients speak it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.models.request import (
    LLMRequest,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from attune.models.telemetry import TokenUsage
from attune.wire import messages_request, steps
from attune.wire.blocks import BlockWriter
from attune.wire.doors import (
    AnswerHead,
    Asked,
    Door,
    StreamWriter,
    call_id_of,
    sse,
    tool_input,
)
from attune.wire.messages import REDACTED
from attune.wire.seal import seal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.executor import LLMResponse
    from attune.models.request import Part
    from attune.wire.blocks import Block
    from attune.wire.door_errors import Fault

__all__ = ["MessagesDoor"]

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "context_window": "model_context_window_exceeded",
}
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesDoor(Door):
    """``POST /messages``."""

    protocol = "messages"
    PING = sse({"type": "ping"}, "ping")
    FORWARDED = ("anthropic-version", "anthropic-beta")

    def _read(self, body: bytes) -> Asked:
        return messages_request.read(body)

    def stream(self, request: LLMRequest, head: AnswerHead, *, relays: bool) -> StreamWriter:
        """See ``Door``."""
        del request
        return _MessagesWriter(head, relays=relays)

    def body(self, response: LLMResponse, request: LLMRequest, head: AnswerHead, *, relays: bool) -> bytes:
        """See ``Door``."""
        del request  # nothing of it is repeated
        # The one reason of Messages itself that is none of ours is a pause.
        other = "pause_turn" if relays else "end_turn"
        answer = _message(head, head.model) | {
            "content": list(_blocks(response.content, head, relays=relays)),
            "stop_reason": STOP_REASONS.get(response.stop_reason, other),
            "usage": _whole_usage(response.usage or TokenUsage()),
        }
        return steps.encode(answer)

    def shape(self, fault: Fault, call_id: str) -> dict[str, Any]:
        """See ``Door``."""
        default = "invalid_request_error" if fault.status < 500 else "api_error"
        error = {"type": _ERROR_TYPES.get(fault.status, default), "message": fault.message}
        return {"type": "error", "error": error, "request_id": call_id or None}


def _message(head: AnswerHead, model: str) -> dict[str, Any]:
    message = {"id": f"msg_{head.call_id}", "type": "message", "role": "assistant", "model": model}
    return message | {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
    }


def _usage(usage: TokenUsage) -> dict[str, int]:
    """Cached tokens are not part of ``input_tokens`` here."""
    return {
        "input_tokens": usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }


def _whole_usage(usage: TokenUsage) -> dict[str, Any]:
    """Usage with what the protocol requires of a message, ``None`` for what is not known."""
    kept_an_hour = usage.cache_write_1h_tokens
    return _usage(usage) | {
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - kept_an_hour,
            "ephemeral_1h_input_tokens": kept_an_hour,
        },
        "inference_geo": None,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": None,
    }


def _call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    call = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
    return call | {"caller": {"type": "direct"}}


def _blocks(content: Sequence[Part], head: AnswerHead, *, relays: bool) -> Iterator[dict[str, Any]]:
    calls = 0
    for part in content:
        match part:
            case TextPart(text):
                yield {"type": "text", "text": text, "citations": None}
            case ThinkingPart(_, signature) if relays and signature.startswith(REDACTED):
                yield {"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)}
            case ThinkingPart(text, signature):
                signed = signature if relays else seal(head.provider, signature)
                yield {"type": "thinking", "thinking": text, "signature": signed}
            case ToolCallPart(call_id, name, arguments):
                given = call_id if relays and call_id else call_id_of(call_id, head.call_id, calls)
                calls += 1
                yield _call(given, name, tool_input(arguments))
            case _:  # the answers of tools and images come from clients only
                pass


class _MessagesWriter(BlockWriter):
    """Named events from ``message_start`` to ``message_stop``."""

    PING = MessagesDoor.PING

    def _begin(self) -> Iterator[bytes]:
        message = _message(self._head, self._model) | {"usage": _whole_usage(TokenUsage())}
        yield sse({"type": "message_start", "message": message}, "message_start")

    def _opened(self, block: Block) -> Iterator[bytes]:
        match block.kind:
            case "text":
                content: dict[str, Any] = {"type": "text", "text": "", "citations": None}
            case "thinking":
                content = {"type": "thinking", "thinking": "", "signature": ""}
            case _:
                content = _call(block.id, block.name, {})
        event = {"type": "content_block_start", "index": block.place, "content_block": content}
        yield sse(event, "content_block_start")

    def _filled(self, block: Block, text: str) -> Iterator[bytes]:
        match block.kind:
            case "text":
                yield self._delta(block, "text_delta", "text", text)
            case "thinking":
                yield self._delta(block, "thinking_delta", "thinking", text)
            case _:
                yield self._delta(block, "input_json_delta", "partial_json", text)

    def _closed(self, block: Block, sealed: str) -> Iterator[bytes]:
        if sealed:
            yield self._delta(block, "signature_delta", "signature", sealed)
        yield sse({"type": "content_block_stop", "index": block.place}, "content_block_stop")

    def _delta(self, block: Block, kind: str, field: str, text: str) -> bytes:
        delta = {"type": kind, field: text}
        return sse(
            {"type": "content_block_delta", "index": block.place, "delta": delta}, "content_block_delta"
        )

    def _end(self, stop_reason: str) -> Iterator[bytes]:
        delta = {"stop_reason": STOP_REASONS.get(stop_reason, "end_turn"), "stop_sequence": None}
        usage = _usage(self._usage or TokenUsage())
        yield sse({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        yield sse({"type": "message_stop"}, "message_stop")
