"""A client's Messages request, read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.request import (
    ForcedTool,
    ImagePart,
    LLMRequest,
    Message,
    OutputFormat,
    TextPart,
    ThinkingPart,
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
from attune.wire.errors import MALFORMED
from attune.wire.messages import REDACTED
from attune.wire.seal import unseal
from attune.wire.steps import decode
from attune.wire.turns import turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.request import Part, ToolChoice

__all__ = ["read"]

_OPTIONAL = msgspec.UNSET
_Raw = msgspec.Raw
_Maybe = _Raw | msgspec.UnsetType


class _ImageSource(msgspec.Struct):
    type: str
    url: str = ""
    data: str = ""
    media_type: str = ""


class _Block(msgspec.Struct):
    """A block of any type; what a type has not is left at its default."""

    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    tool_use_id: str = ""
    is_error: bool | None = None
    input: _Raw = _Raw(b"{}")
    content: _Raw = _Raw(b"null")
    source: _Raw = _Raw(b"{}")
    cache_control: _Maybe = _OPTIONAL
    citations: _Maybe = _OPTIONAL


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: _Raw = _Raw(b"{}")
    strict: _Maybe = _OPTIONAL
    cache_control: _Maybe = _OPTIONAL
    defer_loading: _Maybe = _OPTIONAL
    input_examples: _Maybe = _OPTIONAL


class _ToolChoice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: _Maybe = _OPTIONAL


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    type: str
    schema: _Raw = _Raw(b"{}")


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[_Message]
    max_tokens: int
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    temperature: float | None = None
    stop_sequences: list[str] | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    stream: bool | None = None


_decode = partial(decode, kind=_Request)
_CONTENT: Any = str | list[_Block] | None


def read(body: bytes) -> Asked:
    """See ``Door.read``. Reasoning that another provider signed is known again by its seal."""
    asked, fields = decoded(body, _decode)
    checked(asked.model, asked.messages, "messages")
    notes = Notes()
    system, messages = _conversation(asked, notes)
    if asked.max_tokens < 1:
        notes.unread("max_tokens of 0, which answers nothing")
    request = LLMRequest(
        messages,
        system=system,
        tools=tuple(_tools(asked.tools or (), notes)),
        tool_choice=_tool_choice(asked.tool_choice, notes),
        output_format=_output_format(asked.output_config, notes),
        max_output_tokens=asked.max_tokens if asked.max_tokens > 0 else None,
        temperature=asked.temperature,
        stop=tuple(asked.stop_sequences or ()),
        thinking_tokens=_thinking_tokens(asked, notes),
        stream=asked.stream is True,
        source=notes.source("messages", fields),
    )
    return Asked(asked.model, request)


def _conversation(asked: _Request, notes: Notes) -> tuple[str, tuple[Message, ...]]:
    system = [_system_text(asked.system or "", notes)]
    messages: list[Message] = []
    for message in asked.messages:
        turn()
        match message.role:
            case "user" | "assistant":
                parts = tuple(_parts(message.content, notes))
                messages.append(Message("user" if message.role == "user" else "assistant", parts))
            case "system":
                notes.hint("the place of a later system message")
                system.append(_system_text(message.content, notes))
            case role:
                notes.unread("messages of role", role)
    return "\n\n".join(filter(None, system)), tuple(messages)


def _system_text(content: str | list[_Block], notes: Notes) -> str:
    parts = _parts(content, notes)
    return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))


def _parts(content: str | list[_Block], notes: Notes) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for block in content:
        if block.cache_control is not _OPTIONAL:
            notes.hint("cache_control")
        match block.type:
            case "text":
                notes.hints_in(block, "citations")
                yield TextPart(block.text)
            case "image":
                yield from _image(block, notes)
            case "thinking":
                yield ThinkingPart(block.thinking, *unseal(block.signature))
            case "redacted_thinking":
                yield ThinkingPart("", REDACTED + block.data)
            case "tool_use":
                yield ToolCallPart(block.id, block.name, bytes(block.input).decode("utf-8", "replace"))
            case "tool_result":
                yield from _result(block, notes)
            case kind:
                notes.unread("content of type", kind)


def _image(block: _Block, notes: Notes) -> Iterator[ImagePart]:
    try:
        source = decode(block.source, _ImageSource)
    except MALFORMED:
        source = _ImageSource("none")
    if source.type == "url" and source.url:
        yield ImagePart(url=source.url)
    elif source.type == "base64" and source.data:
        # Not as data, which is checked to its last character: that is the provider's to do.
        yield ImagePart(url=f"data:{source.media_type};base64,{source.data}")
    else:
        notes.unread("an image whose source is", source.type)


def _result(block: _Block, notes: Notes) -> Iterator[Part]:
    """A tool's answer; images in it follow it, which all protocols can say."""
    try:
        content = decode(block.content, _CONTENT) or ""
    except MALFORMED:
        notes.unread("the content of a tool_result")
        content = ""
    parts = list(_parts(content, notes))
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    yield ToolResultPart(block.tool_use_id, text, block.is_error is True)
    yield from (part for part in parts if isinstance(part, ImagePart))


def _tools(given: Sequence[_Tool], notes: Notes) -> Iterator[Tool]:
    for tool in given:
        if tool.type not in {None, "custom"}:
            notes.unread("tools of type", tool.type or "")
            continue
        notes.hints_in(tool, "strict", "cache_control", "defer_loading", "input_examples")
        schema = JSONObject(tool.input_schema, f"input_schema of tool {tool.name[:60]!r}")
        yield Tool(tool.name, tool.description or "", schema)


def _tool_choice(given: _ToolChoice | None, notes: Notes) -> ToolChoice | None:
    if given is None:
        return None
    notes.hints_in(given, "disable_parallel_tool_use")
    match given.type:
        case "auto" | "none":
            return given.type
        case "any":
            return "required"
        case "tool":
            return ForcedTool(given.name)
        case kind:
            notes.unread("tool_choice of type", kind)
            return None


def _output_format(given: _OutputConfig | None, notes: Notes) -> OutputFormat | None:
    if given is None or given.format is None:
        return None
    if given.format.type != "json_schema":
        notes.unread("output_config.format of type", given.format.type)
        return None
    return OutputFormat(JSONObject(given.format.schema, "output_config.format.schema"))


def _thinking_tokens(asked: _Request, notes: Notes) -> int | None:
    """The budget; of a model that is to decide itself, that of its effort, by default a medium one."""
    effort = None if asked.output_config is None else asked.output_config.effort
    match asked.thinking:
        case _Thinking("enabled", budget) if budget is not None:
            return budget
        case _Thinking("adaptive"):
            return THINKING_TOKENS.get(effort or "medium", THINKING_TOKENS["medium"])
        case _:
            if effort is not None:
                notes.hint("output_config.effort")
            return None
