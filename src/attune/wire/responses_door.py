"""Responses as clients speak it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.request import (
    LLMRequest,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from attune.wire import responses_request, steps
from attune.wire.blocks import BlockWriter
from attune.wire.chat_door import openai_error
from attune.wire.door_errors import fault_of
from attune.wire.doors import (
    AnswerHead,
    Asked,
    Door,
    StreamWriter,
    call_id_of,
    sse,
)
from attune.wire.errors import MALFORMED
from attune.wire.seal import seal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.errors import AttuneError
    from attune.models.executor import LLMResponse
    from attune.models.request import Part
    from attune.models.telemetry import TokenUsage
    from attune.wire.blocks import Block
    from attune.wire.door_errors import Fault

__all__ = ["ResponsesDoor"]

INCOMPLETE = {
    "length": "max_output_tokens",
    "context_window": "max_output_tokens",
    "refusal": "content_filter",
}
_ECHOED: dict[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
}
"""What an answer repeats of its request, and the protocol's defaults where it says nothing."""

_UNSAID: dict[str, dict[str, Any]] = {"function": {"description": None, "parameters": None, "strict": None}}
"""What a tool in an answer has at least, by its type."""

_decode_tools = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None).decode
_decode_text = msgspec.json.Decoder(str).decode


class ResponsesDoor(Door):
    """``POST /responses``; attune keeps no response, so one is only known where its provider kept it."""

    protocol = "responses"

    def _read(self, body: bytes) -> Asked:
        return responses_request.read(body)

    def stream(self, request: LLMRequest, head: AnswerHead, *, relays: bool) -> StreamWriter:
        """See ``Door``."""
        return _ResponsesWriter(request, head, relays=relays)

    def body(self, response: LLMResponse, request: LLMRequest, head: AnswerHead, *, relays: bool) -> bytes:
        """See ``Door``."""
        items = list(_items(response.content, head, relays=relays))
        answer = _response(_echo(request), head, head.model, items, response.usage, response.stop_reason)
        return steps.encode(answer)

    def shape(self, fault: Fault, call_id: str) -> dict[str, Any]:
        """See ``Door``."""
        del call_id
        return openai_error(fault)

    def error_event(self, error: AttuneError, *, now: float, call_id: str = "") -> bytes:
        """See ``Door``; told twice, since the official client raises only for what stands in ``error``."""
        del call_id
        shape = openai_error(fault_of(error, now=now))
        return sse({**shape["error"], "type": "error", "sequence_number": 0, **shape}, "error")


def _echo(request: LLMRequest) -> dict[str, Any]:
    """What an answer repeats of its request."""
    fields = {} if request.source is None else request.source.fields
    echo = {name: fields.get(name, default) for name, default in _ECHOED.items()}
    if raw := fields.get("tools"):
        with suppress(*MALFORMED):  # what was passed on unread is repeated unread
            tools = _decode_tools(raw) or ()
            echo["tools"] = [_UNSAID.get(_decode_text(tool["type"]), {}) | tool for tool in tools]
    return echo


def _response(
    echo: dict[str, Any],
    head: AnswerHead,
    model: str,
    items: Sequence[dict[str, Any]],
    usage: TokenUsage | None,
    stop_reason: str | None,
) -> dict[str, Any]:
    """The response object; ``stop_reason`` of ``None`` while it is being made."""
    incomplete = INCOMPLETE.get(stop_reason or "")
    over = "incomplete" if incomplete else "completed"
    return echo | {
        "id": f"resp_{head.call_id}",
        "object": "response",
        "created_at": head.created,
        "completed_at": None if stop_reason is None else head.created,
        "status": "in_progress" if stop_reason is None else over,
        "model": model,
        "output": items,
        "usage": None if usage is None else _usage(usage),
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
    }


def _usage(usage: TokenUsage) -> dict[str, Any]:
    """Cached tokens are part of the input here; how many of the output were reasoning is not known."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _message_item(item_id: str, text: str | None) -> dict[str, Any]:
    """A message; ``None`` while its text is awaited."""
    content = [] if text is None else [_text_part(text)]
    status = "in_progress" if text is None else "completed"
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning_item(item_id: str, text: str, encrypted: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": encrypted}


def _call_item(item_id: str, call_id: str, name: str, arguments: str | None) -> dict[str, Any]:
    status = "in_progress" if arguments is None else "completed"
    call = {"id": item_id, "type": "function_call", "status": status, "call_id": call_id, "name": name}
    return call | {"arguments": arguments or ""}


def _items(content: Sequence[Part], head: AnswerHead, *, relays: bool) -> Iterator[dict[str, Any]]:
    calls = 0
    for place, part in enumerate(content):
        match part:
            case TextPart(text):
                yield _message_item(f"msg_{head.call_id}_{place}", text)
            case ThinkingPart(text, signature):
                item_id, _, encrypted = signature.partition(":") if relays else ("", "", "")
                encrypted = encrypted if relays else seal(head.provider, signature)
                yield _reasoning_item(item_id or f"rs_{head.call_id}_{place}", text, encrypted)
            case ToolCallPart(call_id, name, arguments):
                given = call_id if relays and call_id else call_id_of(call_id, head.call_id, calls)
                calls += 1
                yield _call_item(f"fc_{head.call_id}_{place}", given, name, arguments or "{}")
            case _:  # the answers of tools and images come from clients only
                pass


class _ResponsesWriter(BlockWriter):
    """Numbered events from ``response.created`` to ``response.completed`` or ``.incomplete``."""

    PING = Door.PING

    def __init__(self, request: LLMRequest, head: AnswerHead, *, relays: bool) -> None:
        super().__init__(head, relays=relays)
        self._number = 0
        self._pieces: list[str] = []
        self._items: list[dict[str, Any]] = []
        self._echo = _echo(request)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": name, "sequence_number": number, **fields}, name)

    def _begin(self) -> Iterator[bytes]:
        response = _response(self._echo, self._head, self._model, (), None, None)
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def _opened(self, block: Block) -> Iterator[bytes]:
        self._pieces = []
        item_id = self._id(block)
        match block.kind:
            case "text":
                item = _message_item(item_id, None)
            case "thinking":
                item = _reasoning_item(item_id, "", "")
            case _:
                item = _call_item(item_id, block.id, block.name, None)
        yield self._event("response.output_item.added", output_index=block.place, item=item)
        if part := self._part(block, ""):
            yield self._at(block, f"{part[0]}_part.added", part=part[1])

    def _filled(self, block: Block, text: str) -> Iterator[bytes]:
        self._pieces.append(text)
        yield self._at(block, f"{_TEXT_EVENTS[block.kind]}.delta", delta=text, **_LOGPROBS[block.kind])

    def _closed(self, block: Block, sealed: str) -> Iterator[bytes]:
        text = "".join(self._pieces)
        item_id = self._id(block)
        match block.kind:
            case "text":
                item, said = _message_item(item_id, text), {"text": text}
            case "thinking":
                item, said = _reasoning_item(item_id, text, sealed), {"text": text}
            case _:
                item = _call_item(item_id, block.id, block.name, text or "{}")
                said = {"arguments": text or "{}", "name": block.name}
        yield self._at(block, f"{_TEXT_EVENTS[block.kind]}.done", **said, **_LOGPROBS[block.kind])
        if part := self._part(block, text):
            yield self._at(block, f"{part[0]}_part.done", part=part[1])
        self._items.append(item)
        yield self._event("response.output_item.done", output_index=block.place, item=item)

    def _end(self, stop_reason: str) -> Iterator[bytes]:
        response = _response(self._echo, self._head, self._model, self._items, self._usage, stop_reason)
        yield self._event(f"response.{response['status']}", response=response)

    def _id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self._head.call_id}_{block.place}"

    def _at(self, block: Block, name: str, /, **fields: Any) -> bytes:
        where = {"item_id": self._id(block), "output_index": block.place, **_PLACES[block.kind]}
        return self._event(f"response.{name}", **where, **fields)

    def _part(self, block: Block, text: str) -> tuple[str, dict[str, Any]] | None:
        """The name and form of the part that the text of a block is in; a call has none."""
        match block.kind:
            case "text":
                return "content", _text_part(text)
            case "thinking":
                return "reasoning_summary", {"type": "summary_text", "text": text}
            case _:
                return None


_PREFIXES = {"text": "msg", "thinking": "rs", "tool": "fc"}
_TEXT_EVENTS = {
    "text": "output_text",
    "thinking": "reasoning_summary_text",
    "tool": "function_call_arguments",
}
_PLACES: dict[str, dict[str, int]] = {
    "text": {"content_index": 0},
    "thinking": {"summary_index": 0},
    "tool": {},
}
_LOGPROBS: dict[str, dict[str, Any]] = {"text": {"logprobs": []}, "thinking": {}, "tool": {}}
