"""The body that a provider is sent: the client's own fields where it speaks the client's protocol.

Those pass byte for byte. What changes, and nothing else:

========== ====================== ==================================================================
protocol   field                  is
========== ====================== ==================================================================
all        model                  that of the candidate
all        stream                 as ``LLMRequest.stream`` says
all        the output limit       at most what the model can give
chat       stream_options         with ``include_usage`` in a stream, left out without one
chat       max_tokens, max_c...   under the name that the service knows
chat       temperature, ...       left out for OpenAI's reasoning models (``rejected``)
chat       reasoning_effort       "none" beside tools, for OpenAI's models from 5.4 on
chat       messages               with Google's stand-in where its model demands a call's signature
messages   temperature, ...       left out for Claude from 4.7 on (``rejected``)
messages   tool_choice, system    from Claude 5.1 on a forced tool is asked for in the system prompt
messages   thinking,              by effort for Claude from 4.7 on, by budget before 4.6
           output_config
messages   messages               without the reasoning of another provider
responses  temperature, top_p     left out for OpenAI's reasoning models
responses  input                  without the reasoning of another provider
========== ====================== ==================================================================
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from attune.errors import CallerError, InvalidRequestError
from attune.models.request import ThinkingPart
from attune.wire import chat, messages, responses
from attune.wire.carrying import TOOLS_WITHOUT_THOUGHT_FROM, adaptive_budget, carried, rejected
from attune.wire.encoder import effort, openai_version, to_json
from attune.wire.errors import MALFORMED
from attune.wire.seal import unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.wire.errors import ErrorMapper

__all__ = ["chat_body", "messages_body", "own_headers", "responses_body"]

Fields = dict[str, Any]
_Write = TypeVar("_Write", bound="Callable[..., bytes]")


def _readable(write: _Write) -> _Write:
    """``write`` with what cannot be read told as the caller's fault.

    Parts of a request are read only here, where they are needed: a number may be too large for any type.
    """

    @wraps(write)
    def written(*args: Any, errors: ErrorMapper, **options: Any) -> bytes:
        try:
            return write(*args, errors=errors, **options)
        except MALFORMED as error:
            raise errors.raised(CallerError, f"a part of the request cannot be read: {error}") from None

    return cast("_Write", written)


@_readable
def chat_body(
    request: LLMRequest, model: ModelInfo, *, errors: ErrorMapper, limit_field: chat.LimitField
) -> bytes:
    """The body of ``POST /chat/completions``; ``limit_field`` and errors as in ``chat.encode``."""
    fields = _own_fields(request, "chat", model, errors)
    if fields is None:
        return chat.encode(request, model, errors=errors, limit_field=limit_field)
    _rename_limit(fields, limit_field)
    _cap(fields, limit_field, model)
    version = openai_version(model.id)
    _leave_out(fields, *rejected("chat", model.id))
    if request.tools and version is not None and version >= TOOLS_WITHOUT_THOUGHT_FROM:
        fields["reasoning_effort"] = "none"
    if chat.SIGNS_ITS_CALLS.match(model.id):
        fields["messages"] = _with_signatures(fields["messages"])
    options = msgspec.json.decode(fields.pop("stream_options", b"null")) or {}
    if request.stream:
        fields["stream_options"] = {**options, "include_usage": True}
    return to_json(fields, errors)


@_readable
def messages_body(request: LLMRequest, model: ModelInfo, *, provider: str, errors: ErrorMapper) -> bytes:
    """The body of ``POST /v1/messages``; ``provider`` and errors as in ``messages.encode``."""
    fields = _own_fields(request, "messages", model, errors)
    if fields is None:
        return messages.encode(request, model, provider=provider, errors=errors)
    _cap(fields, "max_tokens", model)
    version = messages.claude_version(model.id)
    _leave_out(fields, *rejected("messages", model.id))
    if version >= messages.NO_FORCED_TOOLS_FROM:
        _unforce_tools(fields, request, version)
    if version != (0, 0):
        _fit_thinking(fields, request, version)
    if _has_foreign_reasoning(request):
        fields["messages"] = _without_foreign_blocks(fields["messages"])
    return to_json(fields, errors)


@_readable
def responses_body(request: LLMRequest, model: ModelInfo, *, errors: ErrorMapper) -> bytes:
    """The body of ``POST /responses``; errors as in ``responses.encode``."""
    fields = _own_fields(request, "responses", model, errors)
    if fields is None:
        return responses.encode(request, model, errors=errors)
    _cap(fields, "max_output_tokens", model)
    _leave_out(fields, *rejected("responses", model.id))
    if _has_foreign_reasoning(request):
        items = msgspec.json.decode(fields["input"], type=list[msgspec.Raw])
        fields["input"] = [item for item in items if not _is_foreign(item)]
    return to_json(fields, errors)


def own_headers(request: LLMRequest, protocol: str) -> Mapping[str, str]:
    """The client's headers for a provider of its own ``protocol``; none for any other."""
    source = request.source
    return {} if source is None or source.protocol != protocol else source.headers


def _own_fields(request: LLMRequest, protocol: str, model: ModelInfo, errors: ErrorMapper) -> Fields | None:
    """The client's fields with model and stream replaced; ``None`` for a request that is to be encoded.

    Raises ``CallerError`` for one that its protocol alone can say.
    """
    if request.source is None:
        return None
    try:
        carried(request.source, protocol)
    except InvalidRequestError as error:
        raise errors.raised(CallerError, str(error)) from None
    if request.source.protocol != protocol:
        return None
    return {**request.source.fields, "model": model.id, "stream": request.stream}


def _leave_out(fields: Fields, *names: str) -> None:
    for name in names:
        fields.pop(name, None)


def _has_foreign_reasoning(request: LLMRequest) -> bool:
    """Whether any reasoning was sealed: only that says whose it is."""
    parts = (part for message in request.messages for part in message.content)
    return any(isinstance(part, ThinkingPart) and part.provider for part in parts)


def _rename_limit(fields: Fields, limit_field: chat.LimitField) -> None:
    for name in ("max_tokens", "max_completion_tokens"):  # of both the newer one counts
        if name in fields and name != limit_field:
            value = fields.pop(name)
            if name == "max_completion_tokens" or limit_field not in fields:
                fields[limit_field] = value


def _cap(fields: Fields, name: str, model: ModelInfo) -> None:
    limit = model.max_output_tokens
    if name in fields and limit and (msgspec.json.decode(fields[name]) or 0) > limit:
        fields[name] = limit


def _with_signatures(raw: msgspec.Raw) -> msgspec.Raw | list[Any]:
    """The messages with a stand-in for each signature that is missing: one for a turn's first call."""
    turns: list[Any] = msgspec.json.decode(raw)
    unsigned = [
        call for turn in turns for call in (turn.get("tool_calls") or ())[:1] if "extra_content" not in call
    ]
    for call in unsigned:
        call["extra_content"] = {"google": {"thought_signature": chat.UNSIGNED}}
    return turns if unsigned else raw


def _unforce_tools(fields: Fields, request: LLMRequest, version: tuple[int, int]) -> None:
    asked = list(messages.instructions(request, version))
    if not asked:
        return
    choice = msgspec.json.decode(fields["tool_choice"])
    fields["tool_choice"] = {name: value for name, value in choice.items() if name != "name"} | {
        "type": "auto"
    }
    system = msgspec.json.decode(fields.get("system", b'""'), type=str | list[msgspec.Raw] | None) or ""
    if isinstance(system, str):
        fields["system"] = "\n\n".join(filter(None, (system, *asked)))
    else:
        fields["system"] = [*system, *({"type": "text", "text": each} for each in asked)]


def _fit_thinking(fields: Fields, request: LLMRequest, version: tuple[int, int]) -> None:
    """Thinking as the version takes it: by effort or by budget."""
    if request.thinking_tokens is None:
        return
    kind = msgspec.json.decode(fields["thinking"])["type"]
    config = msgspec.json.decode(fields.get("output_config", b"null")) or {}
    if kind == "enabled" and version >= messages.NO_SAMPLING_FROM:
        fields["thinking"] = {"type": "adaptive"}
        fields["output_config"] = {"effort": effort(request.thinking_tokens), **config}
    elif kind == "adaptive" and version < messages.ADAPTIVE_FROM:
        config.pop("effort", None)
        _leave_out(fields, "output_config", "thinking")
        if config:
            fields["output_config"] = config
        if budget := adaptive_budget(request):
            fields["thinking"] = {"type": "enabled", "budget_tokens": budget}


class _Signed(msgspec.Struct):
    type: str = ""
    signature: str = ""
    encrypted_content: str | None = None


_decode_signed = msgspec.json.Decoder(_Signed).decode


def _is_foreign(raw: msgspec.Raw) -> bool:
    if b'"attune:' not in bytes(raw):  # cheaper than reading it
        return False
    part = _decode_signed(raw)
    return any(unseal(text)[1] for text in (part.signature, part.encrypted_content or ""))


def _without_foreign_blocks(raw: msgspec.Raw) -> list[Any]:
    turns: list[Any] = []
    for turn in msgspec.json.decode(raw, type=list[dict[str, msgspec.Raw]]):
        content = msgspec.json.decode(turn["content"], type=str | list[msgspec.Raw])
        if isinstance(content, list):
            kept = [block for block in content if not _is_foreign(block)]
            if not kept:
                continue
            if len(kept) < len(content):
                turns.append({**turn, "content": kept})
                continue
        turns.append(turn)
    return turns
