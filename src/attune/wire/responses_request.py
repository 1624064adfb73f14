"""A client's Responses request, read."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec

from attune.errors import InvalidRequestError
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
    sentence,
)
from attune.wire.seal import unseal
from attune.wire.steps import decode
from attune.wire.turns import turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.request import Part, Role, ToolChoice

__all__ = ["read"]

_OPTIONAL = msgspec.UNSET
_Raw = msgspec.Raw
_Maybe = _Raw | msgspec.UnsetType
_Limit = Annotated[int, msgspec.Meta(ge=1)]


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: _Maybe = _OPTIONAL


class _Item(msgspec.Struct):
    """An input item of any type; a message may leave its type out."""

    type: str = "message"
    role: str = ""
    id: str | None = None
    content: str | list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | list[_Part] | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: _Raw = _Raw(b"null")
    strict: _Maybe = _OPTIONAL


class _ToolChoice(msgspec.Struct):
    type: str = ""
    name: str = ""


class _Format(msgspec.Struct):
    type: str
    name: str = "answer"
    schema: _Raw = _Raw(b"{}")


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: _Maybe = _OPTIONAL


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: _Maybe = _OPTIONAL


class _Request(msgspec.Struct):
    model: str
    input: str | list[_Item]
    instructions: str | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    text: _Text | None = None
    max_output_tokens: _Limit | None = None
    temperature: float | None = None
    reasoning: _Reasoning | None = None
    stream: bool | None = None


class _LooseRequest(_Request):
    input: str | list[_Raw]  # type: ignore[assignment]


class _Kind(msgspec.Struct):
    type: str = "message"


_decode_kind = msgspec.json.Decoder(_Kind).decode
_READ = {"message", "reasoning", "function_call", "function_call_output"}


def read(body: bytes) -> Asked:
    """See ``Door.read``. Developer messages become the system prompt, wherever they stand."""
    asked, fields = decoded(body, _decode_request)
    checked(asked.model, asked.input, "input")
    notes = Notes()
    system, messages = _conversation(asked, notes)
    request = LLMRequest(
        messages,
        system=system,
        tools=tuple(_tools(asked.tools or (), notes)),
        tool_choice=_tool_choice(asked.tool_choice, notes),
        output_format=_output_format(asked.text, notes),
        max_output_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        thinking_tokens=_thinking_tokens(asked.reasoning, notes),
        stream=asked.stream is True,
        source=notes.source("responses", fields),
    )
    return Asked(asked.model, request)


def _decode_request(body: bytes) -> _Request:
    try:
        return cast("_Request", decode(body, _Request))
    except msgspec.ValidationError:
        # An item of a type that is not read may hold anything: only the others must fit.
        asked: _Request = decode(body, _LooseRequest)
        raws: list[Any] = list(asked.input)
        asked.input = [_read_item(raw, f"input[{place}]") for place, raw in enumerate(raws)]
        return asked


def _read_item(raw: _Raw, where: str) -> _Item:
    try:
        kind = _decode_kind(raw).type
        return cast("_Item", decode(raw, _Item)) if kind in _READ else _Item(kind)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{where}: {sentence(error)}") from None


def _conversation(asked: _Request, notes: Notes) -> tuple[str, tuple[Message, ...]]:
    if isinstance(asked.input, str):
        return asked.instructions or "", (Message.user(asked.input),)
    system = [asked.instructions or ""]
    said = list(_said(asked.input, system, notes))
    turns = groupby(said, key=lambda each: each[0])
    messages = tuple(Message(role, tuple(part for _, part in each)) for role, each in turns)
    return "\n\n".join(filter(None, system)), messages


def _said(items: Sequence[_Item], system: list[str], notes: Notes) -> Iterator[tuple[Role, Part]]:
    """Who says each part; what developers say is added to ``system``."""
    for place, item in enumerate(items):
        turn()
        match item.type, item.role:
            case "message", "user":
                yield from (("user", part) for part in _parts(item.content, notes))
            case "message", "assistant":
                yield from (("assistant", part) for part in _parts(item.content, notes))
            case "message", ("system" | "developer"):
                if place:
                    notes.hint("the place of a later system message")
                system.append(_text(item.content, notes))
            case "function_call", _:
                yield "assistant", ToolCallPart(item.call_id, item.name, item.arguments)
            case "function_call_output", _:
                parts = list(_parts(item.output, notes))
                text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
                yield "user", ToolResultPart(item.call_id, text)
                yield from (("user", part) for part in parts if isinstance(part, ImagePart))
            case "reasoning", _:
                yield "assistant", _thinking(item)
            case "message", role:
                notes.unread("messages of role", role)
            case kind, _:
                notes.unread("input items of type", kind)


def _thinking(item: _Item) -> ThinkingPart:
    text = "\n\n".join(part.text for part in item.summary or ())
    signature, provider = unseal(item.encrypted_content or "")
    if not provider and signature:
        signature = f"{item.id or ''}:{signature}"
    return ThinkingPart(text, signature, provider)


def _text(content: str | list[_Part] | None, notes: Notes) -> str:
    return "\n".join(part.text for part in _parts(content, notes) if isinstance(part, TextPart))


def _parts(content: str | list[_Part] | None, notes: Notes) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for part in content or ():
        match part.type:
            case "input_text" | "output_text" | "text" | "refusal":
                yield TextPart(part.text or part.refusal)
            case "input_image" if part.image_url:
                notes.hints_in(part, "detail")
                yield ImagePart(url=part.image_url)
            case kind:
                notes.unread("content of type", kind)


def _tools(given: Sequence[_Tool], notes: Notes) -> Iterator[Tool]:
    for tool in given:
        if tool.type != "function":
            notes.unread("tools of type", tool.type)
            continue
        notes.hints_in(tool, "strict")
        schema = _Raw(b"{}") if bytes(tool.parameters) == b"null" else tool.parameters
        yield Tool(
            tool.name,
            tool.description or "",
            JSONObject(schema, f"parameters of tool {tool.name[:60]!r}"),
        )


def _tool_choice(given: str | _ToolChoice | None, notes: Notes) -> ToolChoice | None:
    if given is None or isinstance(given, str):
        return given
    if given.type == "function" and given.name:
        return ForcedTool(given.name)
    notes.unread("tool_choice of type", given.type)
    return None


def _output_format(given: _Text | None, notes: Notes) -> OutputFormat | None:
    if given is None:
        return None
    notes.hints_in(given, "verbosity")
    wanted = given.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputFormat()
    if wanted.type == "json_schema":
        return OutputFormat(JSONObject(wanted.schema, "text.format.schema"), wanted.name)
    notes.unread("text.format of type", wanted.type)
    return None


def _thinking_tokens(given: _Reasoning | None, notes: Notes) -> int | None:
    if given is None:
        return None
    notes.hints_in(given, "summary")
    return THINKING_TOKENS.get(given.effort or "")
