"""OpenAI's Responses, also as spoken by vLLM, llama.cpp and others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.executor import Meta, Payload, StreamEvent, Terminal, Working
from attune.models.request import ForcedTool, ImagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from attune.models.telemetry import TokenUsage
from attune.wire import steps
from attune.wire.conversation import portable
from attune.wire.decoder import StreamDecoder, events_of
from attune.wire.encoder import JSON_INSTRUCTION, effort, is_strict, openai_version, to_json
from attune.wire.errors import MALFORMED
from attune.wire.responses_output import Output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest, Message, Part
    from attune.wire.errors import ErrorMapper
    from attune.wire.sse import SSEEvent

__all__ = ["ResponsesDecoder", "decode_body", "encode"]

_CALL_IDS = re.compile("[A-Za-z0-9_-]{1,64}")
_LEAST_OUTPUT_TOKENS = 16  # a smaller limit is rejected
_STOP_REASONS = {"max_output_tokens": "length", "content_filter": "refusal"}


def encode(request: LLMRequest, model: ModelInfo, *, errors: ErrorMapper) -> bytes:
    """The body of ``POST /responses``; the provider is asked to keep nothing of it.

    Reasoning of earlier turns is sent back only to the provider that encrypted it. ``extra`` is added
    but replaces nothing of ours. What the protocol or the model cannot say is left out: stop sequences,
    and the temperature for OpenAI's reasoning models, which reject it. Raises ``CallerError`` for
    what JSON cannot say.
    """
    body: dict[str, Any] = {**request.extra, "model": model.id, "input": _input(request, model)}
    if request.system:
        body["instructions"] = request.system
    if request.max_output_tokens is not None:
        limit = min(request.max_output_tokens, model.max_output_tokens)
        body["max_output_tokens"] = max(limit, _LEAST_OUTPUT_TOKENS)
    reasons = openai_version(model.id) is not None
    if request.temperature is not None and not reasons:
        body["temperature"] = request.temperature
    if request.thinking_tokens is not None:
        body["reasoning"] = _merged(request, "reasoning", {"effort": effort(request.thinking_tokens)})
    if request.tools:
        body |= _tools(request)
    if request.output_format is not None:
        body["text"] = _merged(request, "text", {"format": _format(request)})
    if reasons or "thinking" in model.abilities:
        included = request.extra.get("include")
        more = included if isinstance(included, list) else []
        body["include"] = [*more, "reasoning.encrypted_content"]
    return to_json(body | {"store": False, "stream": request.stream}, errors)


def _merged(request: LLMRequest, field: str, ours: dict[str, Any]) -> dict[str, Any]:
    given = request.extra.get(field)
    return given | ours if isinstance(given, dict) else ours


def _input(request: LLMRequest, model: ModelInfo) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if request.output_format is not None and request.output_format.schema is None:
        items.append({"role": "developer", "content": JSON_INSTRUCTION})
    for message in portable(request.messages, provider=model.provider, call_ids=_CALL_IDS):
        items += _items(message)
    for number, item in enumerate(items):
        if item.get("type") == "message":  # OpenAI takes it without an id or as a plain text, not all do
            item["id"] = f"msg_{number}"
    return items


def _items(message: Message) -> Iterator[dict[str, Any]]:
    # Everything but what a user says is an item of its own; results must follow their calls directly.
    said: list[dict[str, Any]] = []
    for part in message.content:
        if message.role == "user" and isinstance(part, (TextPart, ImagePart)):
            said.append(_content(part))
        elif item := _item(part):
            yield item
    if len(said) == 1 and said[0]["type"] == "input_text":
        yield {"role": "user", "content": said[0]["text"]}
    elif said:
        yield {"role": "user", "content": said}


def _content(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "input_image", "detail": "auto", "image_url": url}


def _item(part: Part) -> dict[str, Any] | None:
    match part:
        case TextPart(text) if text:
            said = {"type": "output_text", "text": text, "annotations": []}
            return {"type": "message", "role": "assistant", "status": "completed", "content": [said]}
        case ThinkingPart(text, signature):
            return _reasoning(text, signature)
        case ToolCallPart(call_id, name, arguments):
            return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        case ToolResultPart(call_id, text, is_error):
            output = f"Error: {text}" if is_error else text
            return {"type": "function_call_output", "call_id": call_id, "output": output}
        case _:
            return None  # an image that a model made


def _reasoning(text: str, signature: str) -> dict[str, Any] | None:
    item_id, _, encrypted = signature.partition(":")
    if not encrypted:
        return None
    item = {"type": "reasoning"} | ({"id": item_id} if item_id else {})
    summary = [{"type": "summary_text", "text": text}] if text else []
    return item | {"summary": summary, "encrypted_content": encrypted}


def _tools(request: LLMRequest) -> dict[str, Any]:
    tools = []
    for tool in request.tools:
        encoded: dict[str, Any] = {"type": "function", "name": tool.name}
        if tool.description:
            encoded["description"] = tool.description
        encoded["parameters"] = tool.parameters or {"type": "object", "properties": {}}
        tools.append(encoded | {"strict": False})  # which is not its default
    match request.tool_choice:
        case None:
            return {"tools": tools}
        case "auto" | "none" | "required":
            return {"tools": tools, "tool_choice": request.tool_choice}
        case ForcedTool(name) | name:
            return {"tools": tools, "tool_choice": {"type": "function", "name": name}}


def _format(request: LLMRequest) -> dict[str, Any]:
    wanted = request.output_format
    if wanted is None or wanted.schema is None:
        return {"type": "json_object"}
    named = {"type": "json_schema", "name": wanted.name, "schema": wanted.schema}
    return named | {"strict": is_strict(wanted.schema)}


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct):
    """``output_tokens`` has the reasoning in it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_NO_RESPONSE = msgspec.Raw(b"{}")


class _Event(msgspec.Struct):
    """What is raw is read only in the events that are known."""

    type: str = ""
    output_index: int = 0
    summary_index: int = 0
    delta: Any = None
    item: msgspec.Raw = msgspec.Raw(b"{}")
    response: msgspec.Raw = _NO_RESPONSE


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode


def _token_usage(usage: _Usage) -> TokenUsage:
    total = usage.input_tokens or 0
    details = usage.input_tokens_details or _InputDetails()
    return TokenUsage(
        input_tokens=total,
        output_tokens=usage.output_tokens or 0,
        cache_read_tokens=min(details.cached_tokens or 0, total),
        cache_write_tokens=min(details.cache_write_tokens or 0, total),
    )


def _meta(response: _Response) -> Meta:
    return Meta(response.id or "", response.model or "")


def _ending(response: _Response, output: Output) -> Iterator[Payload]:
    yield from filter(None, output.rest(response.output or ()))
    if response.usage is not None:
        yield _token_usage(response.usage)
    yield _terminal(response, output)


def _terminal(response: _Response, output: Output) -> Terminal:
    if response.status == "incomplete":
        reason = (response.incomplete_details or _Incomplete()).reason or "incomplete"
        return Terminal(_STOP_REASONS.get(reason, "other"), reason)
    return Terminal(output.stop_reason, "completed")


def _failure(response: _Response) -> bytes:
    """The error of a response alone: around it may stand a prompt of megabytes."""
    return b'{"error":' + bytes(response.error) + b"}"


class ResponsesDecoder(StreamDecoder):
    """A stream of events, complete with ``response.completed`` or ``.incomplete`` and never without."""

    protocol = "a Responses event"

    def __init__(self, errors: ErrorMapper) -> None:
        super().__init__(errors)
        self._output = Output()

    def _read(self, block: SSEEvent) -> Iterable[Payload]:
        event = _decode_event(block.data)
        output, index = self._output, event.output_index
        match event.type:
            case "response.output_text.delta":
                return (output.text(index, event.delta),)
            case "response.refusal.delta":
                return (output.text(index, event.delta, refusal=True),)
            case "response.function_call_arguments.delta":
                return (output.arguments(index, event.delta),)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return (output.thinking(index, event.delta),)
            case "response.reasoning_summary_part.added" if event.summary_index:
                return (output.thinking(index, "\n\n"),)
            case "response.output_item.added":
                return (output.added(index, event.item),)
            case "response.output_item.done":
                return tuple(output.done(index, event.item))
            case "response.created":
                response = _decode_response(event.response)
                return (_meta(response),)
            case "response.completed" | "response.incomplete":
                return self._ended(event)
            case "response.failed":
                return self._failed(_decode_response(event.response))
            case "error":
                raise self._errors.from_event(block.data)
            case kind if "_call" in kind and "function_call" not in kind:  # a tool of the service's own
                return (Working(),)
            case _:
                return ()

    def _ended(self, event: _Event) -> Sequence[Payload]:
        if event.response is _NO_RESPONSE:
            raise self._errors.broken("the end of the answer has no response")
        response = _decode_response(event.response)
        response.status = event.type.removeprefix("response.")
        return tuple(_ending(response, self._output))

    def _failed(self, response: _Response) -> Iterator[Payload]:
        if response.usage is not None:
            yield _token_usage(response.usage)
        raise self._errors.from_event(_failure(response))


def decode_body(body: bytes, errors: ErrorMapper) -> list[StreamEvent]:
    """The events of a whole response. Raises ``ProviderError`` for an error or an incomplete body."""
    try:
        response: _Response = steps.decode(body, _Response)
        if bytes(response.error) != b"null":
            raise errors.from_event(_failure(response))
        if response.status not in {"completed", "incomplete"} or response.output is None:
            raise errors.broken(f"the answer has no output or is not complete: {response.status}")
        payloads = [_meta(response), *_ending(response, Output())]
    except MALFORMED as error:
        raise errors.broken(f"the answer is not Responses JSON: {error}") from error
    return list(events_of(payloads, body))
