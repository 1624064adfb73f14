"""A client's Chat Completions request, read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from attune.models.request import (
    ForcedTool,
    ImagePart,
    LLMRequest,
    Message,
    OutputFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from attune.wire.doors import (
    THINKING_TOKENS,
    Asked,
    JSONObject,
    Notes,
    checked,
    decoded,
)
from attune.wire.steps import decode
from attune.wire.turns import turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.request import Part, ToolChoice

__all__ = ["read", "wants_usage"]

_OPTIONAL = msgspec.UNSET
_Raw = msgspec.Raw
_Maybe = _Raw | msgspec.UnsetType
_Limit = Annotated[int, msgspec.Meta(ge=1)]


class _Image(msgspec.Struct):
    url: str
    detail: _Maybe = _OPTIONAL


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Image | None = None
    cache_control: _Maybe = _OPTIONAL


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Google(msgspec.Struct):
    thought_signature: str | None = None


class _Extra(msgspec.Struct):
    google: _Google | None = None


class _Call(msgspec.Struct):
    id: str = ""
    type: str = "function"
    function: _Function | None = None
    extra_content: _Extra | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: _Maybe = _OPTIONAL
    reasoning_content: _Maybe = _OPTIONAL
    audio: Any = None
    function_call: Any = None


class _FunctionTool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: _Raw = _Raw(b"{}")
    strict: _Maybe = _OPTIONAL


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _FunctionTool | None = None
    cache_control: _Maybe = _OPTIONAL


class _Named(msgspec.Struct):
    name: str = ""


class _ToolChoice(msgspec.Struct):
    type: str = ""
    function: _Named | None = None


class _Schema(msgspec.Struct):
    name: str = "answer"
    schema: _Raw = _Raw(b"{}")


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[_Message]
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    response_format: _Format | None = None
    max_completion_tokens: _Limit | None = None
    max_tokens: _Limit | None = None
    temperature: float | None = None
    stop: str | list[str] | None = None
    reasoning_effort: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


_decode = partial(decode, kind=_Request)
_decode_options = msgspec.json.Decoder(_StreamOptions | None).decode


def wants_usage(request: LLMRequest) -> bool:
    """Whether the client asked for usage in its stream."""
    options = None if request.source is None else request.source.fields.get("stream_options")
    wanted = None if options is None else _decode_options(options)
    return wanted is not None and wanted.include_usage is True


def read(body: bytes) -> Asked:
    """See ``Door.read``. System messages become the system prompt, wherever they stand."""
    asked, fields = decoded(body, _decode)
    checked(asked.model, asked.messages, "messages")
    notes = Notes()
    system, messages = _conversation(asked.messages, notes)
    request = LLMRequest(
        messages,
        system=system,
        tools=tuple(_tools(asked.tools or (), notes)),
        tool_choice=_tool_choice(asked.tool_choice, notes),
        output_format=_output_format(asked.response_format, notes),
        max_output_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        thinking_tokens=THINKING_TOKENS.get(asked.reasoning_effort or ""),
        stream=asked.stream is True,
        source=notes.source("chat", fields),
    )
    return Asked(asked.model, request)


def _conversation(given: Sequence[_Message], notes: Notes) -> tuple[str, tuple[Message, ...]]:
    system: list[str] = []
    messages: list[Message] = []
    results: list[Part] = []
    for message in given:
        turn()
        notes.hints_in(message, "name", "reasoning_content")
        if message.role == "tool":
            text = _text(message.content, notes)
            results.append(ToolResultPart(message.tool_call_id or "", text))
            continue
        if results:
            messages.append(Message("user", tuple(results)))
            results = []
        match message.role:
            case "system" | "developer":
                if messages:
                    notes.hint("the place of a later system message")
                system.append(_text(message.content, notes))
            case "user":
                messages.append(Message("user", tuple(_parts(message.content, notes))))
            case "assistant":
                messages.append(Message("assistant", tuple(_assistant(message, notes))))
            case role:
                notes.unread("messages of role", role)
    if results:
        messages.append(Message("user", tuple(results)))
    return "\n\n".join(filter(None, system)), tuple(messages)


def _text(content: str | list[_Part] | None, notes: Notes) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in _parts(content, notes) if isinstance(part, TextPart))


def _parts(content: str | list[_Part] | None, notes: Notes) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for part in content or ():
        notes.hints_in(part, "cache_control")
        if part.type == "image_url" and part.image_url is not None:
            notes.hints_in(part.image_url, "detail")
            yield ImagePart(url=part.image_url.url)
        elif part.type in {"text", "refusal"}:
            yield TextPart(part.text or part.refusal or "")
        else:
            notes.unread("content of type", part.type)


def _assistant(message: _Message, notes: Notes) -> Iterator[Part]:
    yield from _parts(message.content, notes)
    if message.refusal:
        yield TextPart(message.refusal)
    for name in ("audio", "function_call"):
        if getattr(message, name) is not None:
            notes.unread(f"an assistant's {name}")
    for call in message.tool_calls or ():
        if call.function is None:
            notes.unread("tool calls of type", call.type)
        else:
            yield ToolCallPart(call.id, call.function.name, call.function.arguments)


def _tools(given: Sequence[_Tool], notes: Notes) -> Iterator[Tool]:
    for tool in given:
        function = tool.function
        if function is None:
            notes.unread("tools of type", tool.type)
            continue
        notes.hints_in(tool, "cache_control")
        notes.hints_in(function, "strict")
        parameters = JSONObject(function.parameters, f"parameters of tool {function.name[:60]!r}")
        yield Tool(function.name, function.description or "", parameters)


def _tool_choice(given: str | _ToolChoice | None, notes: Notes) -> ToolChoice | None:
    if given is None or isinstance(given, str):
        return given
    if given.function is not None and given.function.name:
        return ForcedTool(given.function.name)
    notes.unread("tool_choice of type", given.type)
    return None


def _output_format(given: _Format | None, notes: Notes) -> OutputFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return OutputFormat()
    if given.type == "json_schema" and given.json_schema is not None:
        schema = JSONObject(given.json_schema.schema, "response_format.json_schema.schema")
        return OutputFormat(schema, given.json_schema.name)
    notes.unread("response_format of type", given.type)
    return None
