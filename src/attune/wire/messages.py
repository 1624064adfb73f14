"""Anthropic's Messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.executor import (
    Meta,
    Payload,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Working,
)
from attune.models.request import ForcedTool, ImagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from attune.models.telemetry import TokenUsage
from attune.wire import steps
from attune.wire.conversation import portable
from attune.wire.decoder import StreamDecoder, events_of
from attune.wire.encoder import JSON_INSTRUCTION, effort, to_json
from attune.wire.errors import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest, Message, Part
    from attune.wire.errors import ErrorMapper
    from attune.wire.sse import SSEEvent

__all__ = ["MessagesDecoder", "claude_version", "decode_body", "encode", "instructions"]

_STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
    "model_context_window_exceeded": "context_window",
}
_CLAUDE = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2})(?!\d))?")
ADAPTIVE_FROM = (4, 6)  # thinking by effort; budgets are deprecated, then rejected
NO_SAMPLING_FROM = (4, 7)  # a temperature is rejected
NO_FORCED_TOOLS_FROM = (5, 1)  # tool_choice "any" and "tool" are rejected
_FALLBACK_MAX_TOKENS = 4096
_CALL_IDS = re.compile("[A-Za-z0-9_-]+")
_DATA_URL = re.compile("data:(?P<media_type>[^;,]*);base64,")
REDACTED = "redacted:"
"""Begins the signature of thinking that Anthropic shows to nobody; no signature has a colon in it."""


def encode(request: LLMRequest, model: ModelInfo, *, provider: str, errors: ErrorMapper) -> bytes:
    """The body of ``POST /v1/messages``, made so that ``model`` accepts it.

    Newer Claude models reject settings that older ones need: for them a thinking budget becomes
    an effort, the temperature is left out, and a forced tool call becomes an instruction. JSON
    without a schema is an instruction for every model. Thinking of earlier turns is sent back
    only to the ``provider`` that signed it; where a tool's answer is awaited without it, older models
    answer without thinking, since they refuse to think on. ``extra`` is added but replaces nothing of ours.
    Raises ``CallerError`` for what JSON cannot say.
    """
    version = claude_version(model.id)
    limit = model.max_output_tokens or _FALLBACK_MAX_TOKENS
    body: dict[str, Any] = {
        **request.extra,
        "model": model.id,
        "max_tokens": min(request.max_output_tokens or limit, limit),
        "messages": _messages(request, provider),
    }
    if system := "\n\n".join(filter(None, (request.system, *instructions(request, version)))):
        body["system"] = system
    if request.temperature is not None and version < NO_SAMPLING_FROM:
        body["temperature"] = request.temperature
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.tools:
        body |= _tools(request, version)
    if config := _output_config(request, version):
        given = request.extra.get("output_config")
        body["output_config"] = given | config if isinstance(given, dict) else config
    if request.thinking_tokens and version < ADAPTIVE_FROM:
        budget = min(request.thinking_tokens, body["max_tokens"] - 1)
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if _thinking_was_lost(body["messages"]) and _has_budget(body.get("thinking")):
        del body["thinking"]
    body["stream"] = request.stream
    return to_json(body, errors)


def claude_version(model_id: str) -> tuple[int, int]:
    """(major, minor) of a Claude model; (0, 0) for the others that speak this protocol."""
    match = _CLAUDE.search(model_id)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def instructions(request: LLMRequest, version: tuple[int, int]) -> Iterator[str]:
    """What the system prompt asks for, since the protocol or a model of this version has no field for it."""
    if request.output_format is not None and request.output_format.schema is None:
        yield JSON_INSTRUCTION
    if request.tools and version >= NO_FORCED_TOOLS_FROM:
        match request.tool_choice:
            case None | "auto" | "none":
                pass
            case "required":
                yield "Answer by calling one of the tools."
            case ForcedTool(name) | name:
                yield f"Answer by calling the tool {name}."


def _output_config(request: LLMRequest, version: tuple[int, int]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.thinking_tokens is not None and version >= ADAPTIVE_FROM:
        config["effort"] = effort(request.thinking_tokens)
    if request.output_format is not None and request.output_format.schema is not None:
        config["format"] = {"type": "json_schema", "schema": request.output_format.schema}
    return config


def _tools(request: LLMRequest, version: tuple[int, int]) -> dict[str, Any]:
    tools = []
    for tool in request.tools:
        encoded: dict[str, Any] = {"name": tool.name}
        if tool.description:
            encoded["description"] = tool.description
        encoded["input_schema"] = tool.parameters or {"type": "object", "properties": {}}
        tools.append(encoded)
    choice = request.tool_choice
    if choice is None:
        return {"tools": tools}
    if choice in {"auto", "none"} or version >= NO_FORCED_TOOLS_FROM:
        return {"tools": tools, "tool_choice": {"type": "none" if choice == "none" else "auto"}}
    if choice == "required":
        return {"tools": tools, "tool_choice": {"type": "any"}}
    name = choice.name if isinstance(choice, ForcedTool) else choice
    return {"tools": tools, "tool_choice": {"type": "tool", "name": name}}


def _messages(request: LLMRequest, provider: str) -> list[dict[str, Any]]:
    messages = portable(request.messages, provider=provider, call_ids=_CALL_IDS)
    encoded = [(m.role, _blocks(m)) for m in messages]
    return [{"role": role, "content": blocks} for role, blocks in encoded if blocks]


def _thinking_was_lost(messages: list[dict[str, Any]]) -> bool:
    """Whether the last thing the model did was to call a tool, and its thinking before that is not there."""
    last: list[Any] = next((m["content"] for m in reversed(messages) if m["role"] == "assistant"), [])
    calls = any(block["type"] == "tool_use" for block in last)
    return calls and last[0]["type"] not in {"thinking", "redacted_thinking"}


def _has_budget(thinking: object) -> bool:
    return isinstance(thinking, dict) and thinking.get("type") == "enabled"


def _blocks(message: Message) -> list[dict[str, Any]]:
    # Tool results must come before anything else in a message.
    parts = sorted(message.content, key=lambda part: not isinstance(part, ToolResultPart))
    blocks = (_block(part) for part in parts)
    return [block for block in blocks if block is not None]


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text} if text else None  # an empty block is rejected
        case ImagePart():
            return {"type": "image", "source": _image_source(part)}
        case ThinkingPart(_, signature) if signature.startswith(REDACTED):
            return {"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)}
        case ThinkingPart(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ToolCallPart(call_id, name, arguments):
            given = msgspec.Raw(arguments.encode())
            return {"type": "tool_use", "id": call_id, "name": name, "input": given}
        case ToolResultPart(call_id, text, is_error):
            block: dict[str, Any] = {"type": "tool_result", "tool_use_id": call_id, "content": text}
            return block | ({"is_error": True} if is_error else {})


def _image_source(part: ImagePart) -> dict[str, str]:
    if data := _DATA_URL.match(part.url):
        return {"type": "base64", "media_type": data["media_type"], "data": part.url[data.end() :]}
    if part.url:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": part.media_type, "data": part.data}


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    type: str = ""
    id: str = ""
    model: str = ""
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class _UsageTotal:
    """Usage merged over ``message_start`` and each ``message_delta``, whose figures are totals."""

    def __init__(self) -> None:
        self._last = _Usage()

    def merge(self, usage: _Usage) -> TokenUsage:
        for field in usage.__struct_fields__:
            value = getattr(usage, field)
            if value is not None:
                setattr(self._last, field, value)
        return self._total()

    def _total(self) -> TokenUsage:
        last = self._last
        read = last.cache_read_input_tokens or 0
        written = last.cache_creation_input_tokens or 0
        kept_an_hour = (last.cache_creation or _CacheCreation()).ephemeral_1h_input_tokens or 0
        return TokenUsage(
            input_tokens=(last.input_tokens or 0) + read + written,  # theirs leaves cached ones out
            output_tokens=last.output_tokens or 0,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(kept_an_hour, written),
        )


class _Content:
    """What content blocks mean; tool calls are counted from 0, whatever blocks lie between them."""

    def __init__(self) -> None:
        self._place_of: dict[int, int] = {}
        self._without_input: set[int] = set()
        self._open_calls: set[int] = set()

    @property
    def has_open_call(self) -> bool:
        """Whether a tool call began and did not stop."""
        return bool(self._open_calls)

    def started(self, index: int, block: _Block) -> Payload:
        match block.type:
            case "text":
                return TextDelta(block.text) if block.text else None
            case "thinking" if block.thinking or block.signature:
                return ThinkingDelta(block.thinking or "", block.signature or "")
            case "redacted_thinking" if block.data:
                return ThinkingDelta("", REDACTED + block.data)
            case "tool_use":
                place = self._place_of[index] = len(self._place_of)
                self._open_calls.add(index)
                arguments = bytes(block.input).decode()
                if arguments == "{}":  # in a stream it follows in pieces, or is empty after all
                    self._without_input.add(index)
                    arguments = ""
                return ToolCallDelta(place, block.id or "", block.name or "", arguments)
            case _:  # a tool of the service's own and what it found, or a thought that is not shown
                return Working()

    def continued(self, index: int, delta: _Delta) -> Payload:
        match delta.type:
            case "text_delta" if delta.text:
                return TextDelta(delta.text)
            case "thinking_delta" if delta.thinking:
                return ThinkingDelta(delta.thinking)
            case "signature_delta":
                return ThinkingDelta("", delta.signature)
            case "input_json_delta" if index in self._place_of and delta.partial_json:
                self._without_input.discard(index)
                return ToolCallDelta(self._place_of[index], arguments=delta.partial_json)
            case kind:
                return Working() if kind == "input_json_delta" and index not in self._place_of else None

    def stopped(self, index: int) -> Payload:
        self._open_calls.discard(index)
        if index not in self._without_input:
            return None
        return ToolCallDelta(self._place_of[index], arguments="{}")


def _terminal(stop_reason: str) -> Terminal:
    return Terminal(_STOP_REASONS.get(stop_reason, "other"), stop_reason)


class MessagesDecoder(StreamDecoder):
    """A stream of events, complete with ``message_stop`` and never without it.

    Before it the answer must have said why it stops, and every tool call must have stopped.
    """

    protocol = "a Messages event"

    def __init__(self, errors: ErrorMapper) -> None:
        super().__init__(errors)
        self._content = _Content()
        self._usage = _UsageTotal()
        self._stop_reason = ""

    def _read(self, block: SSEEvent) -> Sequence[Payload]:
        event = _decode_event(block.data)
        match event.type:
            case "message_start":
                return self._started(event.message or _Message())
            case "content_block_start" if event.content_block is not None:
                return (self._content.started(event.index, event.content_block),)
            case "content_block_delta" if event.delta is not None:
                return (self._content.continued(event.index, event.delta),)
            case "content_block_stop":
                return (self._content.stopped(event.index),)
            case "message_delta":
                return self._updated(event)
            case "message_stop":
                return (self._stopped(),)
            case "error":
                raise self._errors.from_event(block.data)
            case _:
                return ()

    def _started(self, message: _Message) -> Sequence[Payload]:
        meta = Meta(message.id, message.model)
        return (meta,) if message.usage is None else (meta, self._usage.merge(message.usage))

    def _updated(self, event: _Event) -> Sequence[Payload]:
        if event.delta is not None and event.delta.stop_reason:
            self._stop_reason = event.delta.stop_reason
        return () if event.usage is None else (self._usage.merge(event.usage),)

    def _stopped(self) -> Terminal:
        if not self._stop_reason:
            raise self._errors.broken("the answer has no stop reason")
        if self._content.has_open_call:
            raise self._errors.broken("a tool call of the answer is not complete")
        return _terminal(self._stop_reason)


def decode_body(body: bytes, errors: ErrorMapper) -> list[StreamEvent]:
    """The events of a whole message. Raises ``ProviderError`` for an error or an incomplete body."""
    payloads: list[Payload] = []
    content = _Content()
    try:
        message: _Message = steps.decode(body, _Message)
        for index, block in enumerate(message.content or ()):
            payloads += filter(None, (content.started(index, block), content.stopped(index)))
    except MALFORMED as error:
        raise errors.broken(f"the answer is not Messages JSON: {error}") from error
    if message.type == "error":
        raise errors.from_event(body)
    if message.content is None or message.stop_reason is None:
        raise errors.broken("the answer has no content or no stop reason")
    payloads.insert(0, Meta(message.id, message.model))
    if message.usage is not None:
        payloads.append(_UsageTotal().merge(message.usage))
    payloads.append(_terminal(message.stop_reason))
    return list(events_of(payloads, body))
