"""What of a client's request a provider of another protocol can be told.

Every top-level field of a protocol is *carried* (an ``LLMRequest`` says it), *dropped* (it only tunes) or
*refused* (leaving it out would change what is asked). A field that is not known is dropped. Nothing of it is
silent: what is refused or dropped is named. So is what is left out since the model is known to reject it,
also where its provider speaks the client's protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from attune.errors import InvalidRequestError
from attune.models.request import ThinkingPart, ToolCallPart
from attune.wire.chat import SIGNS_ITS_CALLS
from attune.wire.encoder import openai_version
from attune.wire.errors import MALFORMED
from attune.wire.messages import ADAPTIVE_FROM, NO_SAMPLING_FROM, claude_version
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest, Source

__all__ = [
    "FATES",
    "Carried",
    "Fates",
    "adaptive_budget",
    "carried",
    "left_out",
    "only_here",
    "protocol_for",
    "rejected",
]

TOOLS_WITHOUT_THOUGHT_FROM = (5, 4)
"""From this version on OpenAI's models in Chat Completions do not think beside tools."""

_REJECTED_BY_OPENAI = {
    "chat": (
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop"),
        *("logprobs", "top_logprobs", "logit_bias"),
    ),
    "responses": ("temperature", "top_p"),
}
_SAMPLING = ("temperature", "top_p", "top_k")
_LEAST_BUDGET = 1024
"""The least number of thinking tokens that Claude takes."""

_SAME = {"stop_sequences": "stop"}
_THINKING = {"chat": "reasoning_effort", "messages": "thinking", "responses": "reasoning"}
_REASONING = "reasoning of earlier turns"

_MAX_NAMED = 20
_MAX_NAME_CHARS = 60
_MAX_SMALL = 1000
_NAMES = {
    "chat": "Chat Completions",
    "messages": "Messages",
    "responses": "Responses",
    "embeddings": "Embeddings",
}


class Fates(NamedTuple):
    """The three sets of a protocol's fields."""

    carried: frozenset[str]
    dropped: frozenset[str]
    refused: frozenset[str]


class Carried(NamedTuple):
    """The names of what is left out across protocols: printable ASCII."""

    dropped: tuple[str, ...] = ()


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


FATES: dict[str, Fates] = {
    "chat": Fates(
        carried=_names(
            "model messages tools tool_choice response_format max_tokens max_completion_tokens temperature "
            "stop reasoning_effort stream stream_options"
        ),
        dropped=_names(
            "top_p top_k seed frequency_penalty presence_penalty parallel_tool_calls prediction verbosity "
            "store metadata user safety_identifier service_tier prompt_cache_key prompt_cache_options "
            "prompt_cache_retention"
        ),
        refused=_names(
            "n logprobs top_logprobs logit_bias audio modalities functions function_call moderation "
            "web_search_options"
        ),
    ),
    "messages": Fates(
        carried=_names(
            "model messages max_tokens system tools tool_choice temperature stop_sequences thinking "
            "output_config stream"
        ),
        dropped=_names(
            "top_p top_k metadata service_tier cache_control speed diagnostics user_profile_id workspace_id "
            "context_management compaction betas fallbacks fallback_credit_token billing_policy"
        ),
        refused=_names("container mcp_servers inference_geo thread"),
    ),
    "responses": Fates(
        carried=_names(
            "model input instructions tools tool_choice text max_output_tokens temperature reasoning stream"
        ),
        dropped=_names(
            "top_p parallel_tool_calls max_tool_calls store metadata user safety_identifier service_tier "
            "prompt_cache_key prompt_cache_options prompt_cache_retention truncation context_management "
            "access_programs stream_options"
        ),
        refused=_names(
            "previous_response_id conversation prompt background background_options include image moderation "
            "top_logprobs"
        ),
    ),
}

_UNTRANSLATED = Fates(frozenset(), frozenset(), frozenset())
"""Of a protocol that no other can say: its ``Source`` is unread as a whole."""

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "mcp_servers": ([],),
    "background": (False,),
    "include": ([], ["reasoning.encrypted_content"]),
    "store": (False,),
    "parallel_tool_calls": (True,),
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
    "metadata": ({},),
}
"""Values that ask for what any provider does."""


def carried(source: Source, to_protocol: str) -> Carried:
    """What is left out when ``source`` goes to a provider that speaks ``to_protocol``; nothing for its own.

    Raises ``InvalidRequestError`` that names what cannot be left out.
    """
    if source.protocol == to_protocol:
        return Carried()
    fates = FATES.get(source.protocol, _UNTRANSLATED)
    given = [name for name, raw in source.fields.items() if _says_something(name, raw)]
    if refused := _refused(source):
        named = ", ".join(_named(list(dict.fromkeys(refused))))
        raise InvalidRequestError(
            f"a model that speaks {_NAMES[to_protocol]} cannot be asked for {named}; leave it out, or "
            f"choose a model that speaks {_NAMES[source.protocol]}"
        )
    dropped = [_fit_for_a_header(name) for name in given if name not in fates.carried]
    if to_protocol == "responses":  # which knows no stop sequences
        dropped += [name for name in given if name in {"stop", "stop_sequences"}]
    return Carried((*dropped, *source.hints))


def left_out(request: LLMRequest, model: ModelInfo, to_protocol: str) -> tuple[str, ...]:
    """The names of all that ``model`` is not told by ``to_protocol``, few enough for a header.

    Raises ``InvalidRequestError`` as ``carried`` does.
    """
    source = request.source
    if source is None:
        return ()
    names = [*carried(source, to_protocol).dropped]
    rejects = rejected(to_protocol, model.id)
    names += [
        name
        for name, raw in source.fields.items()
        if _SAME.get(name, name) in rejects and name not in names and _says_something(name, raw)
    ]
    if request.thinking_tokens is not None and _thinks_no_more(request, model, to_protocol):
        names.append(_THINKING[source.protocol])
    if any(_is_left_out(part, model, source.protocol, to_protocol) for part in _thoughts(request)):
        names.append(_REASONING)
    return tuple(_named(names))


def rejected(protocol: str, model_id: str) -> tuple[str, ...]:
    """The parameters of a protocol that a model is known to reject, by its version."""
    if protocol == "messages":
        return _SAMPLING if claude_version(model_id) >= NO_SAMPLING_FROM else ()
    return () if openai_version(model_id) is None else _REJECTED_BY_OPENAI.get(protocol, ())


def adaptive_budget(request: LLMRequest) -> int:
    """The budget that thinking by effort is for a model that takes budgets alone; 0 if it is too small."""
    budget = min(request.thinking_tokens or 0, (request.max_output_tokens or 0) - 1)
    return budget if budget >= _LEAST_BUDGET else 0


def _thinks_no_more(request: LLMRequest, model: ModelInfo, to_protocol: str) -> bool:
    """Whether a model that could think is not asked to, for what else the request has."""
    if to_protocol == "chat":
        version = openai_version(model.id)
        return bool(request.tools) and version is not None and version >= TOOLS_WITHOUT_THOUGHT_FROM
    version = claude_version(model.id)
    if to_protocol != "messages" or version >= ADAPTIVE_FROM:
        return False
    source = request.source
    if source is not None and source.protocol == "messages":
        by_effort = b'"adaptive"' in bytes(source.fields.get("thinking", b""))
        return version != (0, 0) and by_effort and not adaptive_budget(request)
    return _waits_for_a_tool(request, model)


def _waits_for_a_tool(request: LLMRequest, model: ModelInfo) -> bool:
    """Whether the model last called a tool, and its thinking before that cannot be given back."""
    said = next((each.content for each in reversed(request.messages) if each.role == "assistant"), ())
    if not any(isinstance(part, ToolCallPart) for part in said):
        return False
    first = said[0]
    return not (isinstance(first, ThinkingPart) and first.signature and first.provider == model.provider)


def _thoughts(request: LLMRequest) -> Iterator[ThinkingPart]:
    parts = (part for message in request.messages for part in message.content)
    return (part for part in parts if isinstance(part, ThinkingPart))


def _is_left_out(thought: ThinkingPart, model: ModelInfo, protocol: str, to_protocol: str) -> bool:
    if protocol == to_protocol:
        return bool(thought.provider)  # it was sealed, so its maker speaks another protocol
    own = bool(thought.signature) and thought.provider == model.provider
    return not own or (to_protocol == "chat" and not SIGNS_ITS_CALLS.match(model.id))


def protocol_for(request: LLMRequest, model: ModelInfo, protocols: Sequence[str]) -> str:
    """Which of a provider's ``protocols`` a request goes by: the client's own, else the first.

    OpenAI's models that take tools, or think beside them, in Responses alone are asked so, unless Chat
    alone can say the rest.
    """
    source = request.source
    if source is None or source.protocol not in protocols:
        return protocols[0]
    if source.protocol == "chat" and "responses" in protocols and request.tools and not only_here(source):
        thinks_beside = (openai_version(model.id) or (0, 0)) >= TOOLS_WITHOUT_THOUGHT_FROM
        if "tools" in model.responses_only or (thinks_beside and request.thinking_tokens):
            return "responses"
    return source.protocol


def only_here(source: Source) -> bool:
    """Whether only its own protocol can say what ``source`` asks; then its answer may hold more than an
    ``LLMResponse`` does.
    """
    return bool(_refused(source))


def _refused(source: Source) -> list[str]:
    refused = FATES.get(source.protocol, _UNTRANSLATED).refused
    given = (name for name, raw in source.fields.items() if name in refused and _says_something(name, raw))
    return [*given, *source.unread]


def _fit_for_a_header(name: str) -> str:
    return one_line(name).encode("ascii", "backslashreplace").decode()[:_MAX_NAME_CHARS]


def _named(names: list[str]) -> list[str]:
    """The names, or as many as a header holds and how many more there are."""
    more = len(names) - _MAX_NAMED
    return names if more <= 0 else [*names[:_MAX_NAMED], f"{more} more"]


def _says_something(name: str, raw: Any) -> bool:
    text = bytes(raw) if len(raw) <= _MAX_SMALL else b""
    if not text:
        return True
    if text == b"null":
        return False
    if name not in _HARMLESS:
        return True
    try:
        return msgspec.json.decode(text) not in _HARMLESS[name]
    except MALFORMED:
        return True
