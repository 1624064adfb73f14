"""OpenAI's Chat Completions, also as spoken by Gemini, Ollama, llama.cpp, vLLM and others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from attune.models.executor import (
    Meta,
    Payload,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.request import ForcedTool, ImagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from attune.models.telemetry import TokenUsage
from attune.wire import steps
from attune.wire.conversation import portable
from attune.wire.decoder import StreamDecoder, events_of
from attune.wire.encoder import JSON_INSTRUCTION, effort, is_strict, openai_version, to_json
from attune.wire.errors import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest, Message
    from attune.wire.errors import ErrorMapper
    from attune.wire.sse import SSEEvent

__all__ = ["SIGNS_ITS_CALLS", "UNSIGNED", "ChatDecoder", "LimitField", "decode_body", "encode"]

LimitField = Literal["max_tokens", "max_completion_tokens"]

_STOP_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refusal",
}
_CALL_IDS = re.compile("[!-~]{1,40}")
SIGNS_ITS_CALLS = re.compile(r"(?:\w+/)*gemini-(?:[3-9]|\d\d)")
UNSIGNED = "skip_thought_signature_validator"
"""What Google documents in place of the signature of a tool call that another model made."""


def encode(
    request: LLMRequest, model: ModelInfo, *, errors: ErrorMapper, limit_field: LimitField = "max_tokens"
) -> bytes:
    """The body of ``POST /chat/completions``.

    ``limit_field`` names the output limit: OpenAI's own reasoning models accept only
    ``max_completion_tokens``, most compatible servers only ``max_tokens``. ``extra`` is added but
    replaces nothing of ours. What the protocol or the model cannot say is left out: the text of
    earlier thinking, and the temperature and stop sequences that OpenAI's reasoning models reject.
    Gemini signs its tool calls and demands that back. Raises ``CallerError`` for what JSON cannot say.
    """
    body: dict[str, Any] = {**request.extra, "model": model.id, "messages": _messages(request, model)}
    if request.max_output_tokens is not None:
        body[limit_field] = min(request.max_output_tokens, model.max_output_tokens)
    version = openai_version(model.id)
    if request.temperature is not None and version is None:
        body["temperature"] = request.temperature
    if request.stop and version is None:
        body["stop"] = list(request.stop)
    if request.thinking_tokens is not None:
        body["reasoning_effort"] = effort(request.thinking_tokens)
    if request.tools:
        body |= _tools(request)
        if version is not None and version >= (5, 4):
            body["reasoning_effort"] = "none"  # with any other they take tools through Responses only
    if request.output_format is not None:
        body["response_format"] = _response_format(request.output_format.schema, request.output_format.name)
    body["stream"] = request.stream
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    return to_json(body, errors)


def _messages(request: LLMRequest, model: ModelInfo) -> list[dict[str, Any]]:
    as_json = request.output_format is not None and request.output_format.schema is None
    system = "\n\n".join(filter(None, (request.system, JSON_INSTRUCTION if as_json else "")))
    encoded: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    signed = SIGNS_ITS_CALLS.match(model.id) is not None
    for message in portable(request.messages, provider=model.provider, call_ids=_CALL_IDS):
        encoded += _message(message, signed=signed)
    return encoded


def _message(message: Message, *, signed: bool) -> Iterator[dict[str, Any]]:
    # Tool results are messages of their own here, and must follow the call directly.
    for part in message.content:
        if isinstance(part, ToolResultPart):
            text = f"Error: {part.text}" if part.is_error else part.text
            yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": text}
    content = [_content(p) for p in message.content if isinstance(p, (TextPart, ImagePart))]
    calls = list(_calls(message, signed=signed))
    if content or calls:
        encoded: dict[str, Any] = {"role": message.role, "content": _simplest(content)}
        yield encoded | ({"tool_calls": calls} if calls else {})


def _content(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _simplest(content: list[dict[str, Any]]) -> str | list[dict[str, Any]] | None:
    """A single text as a plain string, which every server understands; ``None`` for nothing."""
    if len(content) == 1 and content[0]["type"] == "text":
        return str(content[0]["text"])
    return content or None


def _calls(message: Message, *, signed: bool) -> Iterator[dict[str, Any]]:
    """The tool calls of a message; ``signed`` ones have the signature of the thinking before them.

    Of calls side by side the model signs the first, so it misses no other's.
    """
    signature = UNSIGNED
    for part in message.content:
        if isinstance(part, ThinkingPart):
            signature = part.signature
        elif isinstance(part, ToolCallPart):
            function = {"name": part.name, "arguments": part.arguments}
            call: dict[str, Any] = {"id": part.id, "type": "function", "function": function}
            if signed and signature:
                call["extra_content"] = {"google": {"thought_signature": signature}}
            signature = ""
            yield call


def _tools(request: LLMRequest) -> dict[str, Any]:
    tools = []
    for tool in request.tools:
        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
        tools.append({"type": "function", "function": function})
    match request.tool_choice:
        case None:
            return {"tools": tools}
        case "auto" | "none" | "required":
            return {"tools": tools, "tool_choice": request.tool_choice}
        case ForcedTool(name) | name:
            return {"tools": tools, "tool_choice": {"type": "function", "function": {"name": name}}}


def _response_format(schema: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    if schema is None:
        return {"type": "json_object"}
    # Strict decoding is a guarantee, but a schema outside its subset is rejected with it.
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": is_strict(schema)},
    }


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Google(msgspec.Struct, gc=False):
    thought_signature: str | None = None


class _ExtraContent(msgspec.Struct, gc=False):
    google: _Google | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: _ExtraContent | None = None


class _Delta(msgspec.Struct):
    """``reasoning_content`` is DeepSeek's and llama.cpp's word, ``reasoning`` Ollama's and OpenRouter's."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(msgspec.Struct):
    """A whole answer, or one chunk of it: they differ in ``message`` and ``delta``.

    Some services put an error in its place, not always under ``error``: vLLM an object that calls
    itself one, proxies a bare ``message`` or ``detail``.
    """

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None
    detail: Any = None
    code: Any = None

    @property
    def is_error(self) -> bool:
        """Whether it reports a failure; one with choices does so only under ``error``."""
        told = self.object == "error" or self.message or self.detail or self.code
        return self.error is not None or bool(told and not self.choices)


_decode = msgspec.json.Decoder(_Answer).decode


def _token_usage(usage: _Usage) -> TokenUsage:
    prompt = usage.prompt_tokens or 0
    details = usage.prompt_tokens_details or _PromptDetails()
    # Gemini and xAI leave reasoning out of completion_tokens, but bill it and count it in the total.
    output = max(usage.completion_tokens or 0, (usage.total_tokens or 0) - prompt)
    return TokenUsage(
        input_tokens=prompt,
        output_tokens=output,
        cache_read_tokens=min(details.cached_tokens or 0, prompt),
        cache_write_tokens=min(details.cache_write_tokens or 0, prompt),
    )


class _Reader:
    """What the parts of one answer mean, remembering what the terminal event needs."""

    def __init__(self, errors: ErrorMapper) -> None:
        self._errors = errors
        self._began = False
        self._is_empty = True
        self._refused = False
        self._finish_reason = ""
        self._call_ids: list[str] = []
        self._place_of: dict[int, int] = {}

    def payloads(self, answer: _Answer) -> Iterator[Payload]:
        if not self._began:
            self._began = True
            yield Meta(answer.id or "", answer.model or "")
        for choice in answer.choices or ():
            if choice.index == 0:  # attune asks for one choice; others may only come through `extra`
                for payload in self._content(choice.delta or choice.message or _Delta()):
                    self._is_empty = False
                    yield payload
                self._finish_reason = choice.finish_reason or self._finish_reason
        if answer.usage is not None:
            yield _token_usage(answer.usage)

    def terminal(self) -> Terminal:
        """The end, as the answer explains it. Raises ``StreamBrokenError`` if it was none."""
        raw = self._finish_reason
        if raw == "error":
            raise self._errors.broken("the provider ended the answer with an error")
        if self._is_empty and not raw:
            raise self._errors.broken("the answer is empty")
        reason = _STOP_REASONS.get(raw or "stop", "other")
        if self._refused:
            reason = "refusal"
        elif reason == "stop" and self._call_ids:  # Gemini, Ollama and forced calls say "stop"
            reason = "tool_calls"
        return Terminal(reason, raw)

    def _content(self, delta: _Delta) -> Iterator[Payload]:
        if thought := delta.reasoning_content or delta.reasoning:
            yield ThinkingDelta(thought)
        if delta.content:
            yield TextDelta(delta.content)
        if delta.refusal:
            self._refused = True
            yield TextDelta(delta.refusal)
        for position, call in enumerate(delta.tool_calls or ()):
            google = (call.extra_content or _ExtraContent()).google
            if google is not None and google.thought_signature:
                yield ThinkingDelta("", google.thought_signature)
            yield self._tool_call(call, position if call.index is None else call.index)

    def _tool_call(self, call: _ToolCall, index: int) -> ToolCallDelta:
        place = self._place_of.get(index)
        # A new id begins a new call, whatever the index: some servers give all calls index 0.
        if place is None or (call.id and call.id != self._call_ids[place]):
            place = self._place_of[index] = len(self._call_ids)
            self._call_ids.append(call.id or "")
        function = call.function or _Function()
        return ToolCallDelta(place, call.id or "", function.name or "", function.arguments or "")


class ChatDecoder(StreamDecoder):
    """A stream of chunks, complete with ``[DONE]`` and never without it.

    A ``finish_reason`` alone does not end the answer, and its absence does not break it: usage
    follows it, and Ollama sends none. ``[DONE]`` after nothing at all ends no answer.
    """

    protocol = "a Chat Completions chunk"

    def __init__(self, errors: ErrorMapper) -> None:
        super().__init__(errors)
        self._reader = _Reader(errors)

    def _read(self, block: SSEEvent) -> Sequence[Payload]:
        if block.data.strip() == b"[DONE]":
            return (self._reader.terminal(),)
        answer = _decode(block.data)
        if answer.is_error:
            raise self._errors.from_event(block.data)
        return list(self._reader.payloads(answer))


def decode_body(body: bytes, errors: ErrorMapper) -> list[StreamEvent]:
    """The events of a whole answer. Raises ``ProviderError`` for an error or an incomplete body."""
    try:
        answer: _Answer = steps.decode(body, _Answer)
    except MALFORMED as error:
        raise errors.broken(f"the answer is not Chat Completions JSON: {error}") from error
    if answer.is_error:
        raise errors.from_event(body)
    if not answer.choices or answer.choices[0].message is None:
        raise errors.broken("the answer has no message")
    reader = _Reader(errors)
    payloads = [*reader.payloads(answer), reader.terminal()]
    return list(events_of(payloads, body))
