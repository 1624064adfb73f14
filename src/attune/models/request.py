"""What a caller asks for: a conversation, what it needs, and where it happens.

``LLMRequest`` is the conversation itself, independent of any provider's wire format.
``ExecutionContext`` says what the call is for and what it may cost.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.call_checks import check_call, check_name, check_number

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ExecutionContext",
    "ForcedTool",
    "ImagePart",
    "LLMRequest",
    "Message",
    "OutputFormat",
    "Part",
    "Source",
    "TextPart",
    "ThinkingPart",
    "Tool",
    "ToolCallPart",
    "ToolResultPart",
]

Role: TypeAlias = Literal["user", "assistant"]

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")

BYTES_PER_TOKEN = 4
"""Rough bytes in a token, for a size estimate where no tokenizer is at hand."""

UNDERESTIMATED = 1.5
"""By how much that may be too low, for code and for languages whose characters take several bytes: where it
would matter, a prompt is taken to be so much longer.
"""

IMAGE_TOKENS = 1600
"""Tokens assumed for one image (Anthropic's documented maximum for a 1.15-megapixel image)."""


@dataclass(frozen=True)
class TextPart:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image: either ``url``, or base64 ``data`` with its ``media_type`` ("image/png").

    Raises ``InvalidRequestError`` for anything else; ``of_bytes`` encodes.
    """

    url: str = ""
    data: str = ""
    media_type: str = ""

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.data):
            raise InvalidRequestError("an image has either a url or data")
        if self.data and not self.media_type.startswith("image/"):
            raise InvalidRequestError('an image with data needs its media_type, such as "image/png"')
        if self.data and not (isinstance(self.data, str) and _BASE64.fullmatch(self.data)):
            raise InvalidRequestError("an image's data is base64 text; ImagePart.of_bytes encodes bytes")

    @classmethod
    def of_bytes(cls, content: bytes, media_type: str) -> ImagePart:
        """An image from its bytes."""
        return cls(data=b64encode(content).decode(), media_type=media_type)


@dataclass(frozen=True)
class ThinkingPart:
    """A model's reasoning; ``signature`` binds it to the ``provider`` that made it."""

    text: str
    signature: str = ""
    provider: str = ""


@dataclass(frozen=True)
class ToolCallPart:
    """The model asks for a tool; ``arguments`` is the JSON text exactly as it was produced."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolResultPart:
    """The answer of a tool to the call ``tool_call_id``."""

    tool_call_id: str
    text: str
    is_error: bool = False


Part: TypeAlias = TextPart | ImagePart | ThinkingPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True)
class Message:
    """One turn of the conversation. The system prompt is not a message: see ``LLMRequest``."""

    role: Role
    content: tuple[Part, ...]

    @classmethod
    def user(cls, text: str) -> Message:
        return cls("user", (TextPart(text),))

    @classmethod
    def assistant(cls, text: str) -> Message:
        return cls("assistant", (TextPart(text),))


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


class ForcedTool(NamedTuple):
    """The tool that must be called, whatever its name: a text alone may be a mode, such as "none"."""

    name: str


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str | ForcedTool


@dataclass(frozen=True)
class OutputFormat:
    """JSON output: any JSON object, or one that follows ``schema``."""

    schema: Mapping[str, Any] | None = None
    name: str = "answer"


class Source(NamedTuple):
    """A request as a client sent it.

    ``protocol`` is "chat", "messages", "responses" or "embeddings". ``fields`` are the client's own top-level
    fields in its order; each is JSON text as it arrived, whose bytes ``bytes(field)`` gives. ``unread`` names
    what the request says that an ``LLMRequest`` cannot and that changes its meaning, ``hints`` what tunes.
    ``headers`` are those of the client that belong to the request, such as the beta features that it uses.
    ``unread_tokens`` is an estimate of what no ``LLMRequest`` has a word for, such as documents.
    """

    protocol: str
    fields: Mapping[str, Any]
    unread: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    unread_tokens: int = 0


@dataclass(frozen=True)
class LLMRequest:
    """A conversation and how to answer it; no model, no provider, no credential.

    ``max_output_tokens`` of ``None`` leaves it to the provider; where its protocol demands a number it is
    the model's own maximum. ``tool_choice`` is a mode, or the tool that must be called; a text that is no
    mode is the name of one. ``extra`` holds
    provider-specific fields that are passed on as they are. ``source`` is what a client sent of which this
    was read: a provider that speaks its protocol sends that, and judges itself whether it is empty.
    """

    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    output_format: OutputFormat | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    thinking_tokens: int | None = None
    stream: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.source is None and not any(_has_content(message) for message in self.messages):
            raise InvalidRequestError("the prompt is empty; give at least one message with content")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise InvalidRequestError("max_output_tokens must be at least 1")

    @classmethod
    def from_prompt(cls, prompt: str, *, system: str = "", **options: Any) -> LLMRequest:
        """A request with a single user message."""
        return cls((Message.user(prompt),), system=system, **options)

    @classmethod
    def of(cls, prompt: str | LLMRequest) -> LLMRequest:
        """The request that a prompt or a whole request stands for. Raises ``InvalidRequestError``."""
        if isinstance(prompt, str):
            return cls.from_prompt(prompt)
        if not isinstance(prompt, LLMRequest):
            raise InvalidRequestError(f"a prompt is a text or an LLMRequest, not {type(prompt).__name__}")
        return prompt

    def streaming(self) -> LLMRequest:
        """The same request with ``stream`` on."""
        if self.stream:
            return self
        return self._with(stream=True)

    def at_most(self, tokens: int) -> LLMRequest:
        """The same request, whose answer has at most so many tokens: 1 or more."""
        return self._with(max_output_tokens=tokens)

    def _with(self, **fields: Any) -> LLMRequest:
        request = object.__new__(type(self))  # what was checked, and found out, stays true
        vars(request).update(vars(self), **fields)
        return request

    @property
    def needs(self) -> frozenset[str]:
        """Abilities a model must have: ``tools``, ``vision``, ``json_schema``, ``thinking``."""
        known: frozenset[str] | None = vars(self).get("_needs")
        if known is None:
            known = vars(self)["_needs"] = self._find_needs()
        return known

    def _find_needs(self) -> frozenset[str]:
        needs = set()
        if self.tools:
            needs.add("tools")
        if self.output_format is not None and self.output_format.schema is not None:
            needs.add("json_schema")
        if self.thinking_tokens is not None:
            needs.add("thinking")
        if any(isinstance(p, ImagePart) for m in self.messages for p in m.content):
            needs.add("vision")
        return frozenset(needs)

    @property
    def bound_to(self) -> str:
        """The provider that signed the newest reasoning in the conversation; empty without any."""
        known: str | None = vars(self).get("_bound_to")
        if known is None:
            known = vars(self)["_bound_to"] = self._find_bound_to()
        return known

    def _find_bound_to(self) -> str:
        for message in reversed(self.messages):
            for part in reversed(message.content):
                if isinstance(part, ThinkingPart) and part.signature:
                    return part.provider
        return ""

    @property
    def last_text(self) -> str:
        """The last piece of text of the last turn that has one."""
        for message in reversed(self.messages):
            for part in reversed(message.content):
                if isinstance(part, TextPart):
                    return part.text
        return ""

    @property
    def answers(self) -> int:
        """How many answers are asked for: one, but for a client of Chat Completions that says ``n``."""
        given = b"1" if self.source is None else bytes(self.source.fields.get("n", b"1"))
        return int(given) if given.isdigit() and len(given) < 4 else 1

    def estimated_input_tokens(self) -> int:
        """A rough size of the prompt in tokens: bytes of UTF-8 / 4, a flat one an image, and the unread."""
        known: int | None = vars(self).get("_estimated")  # it is asked for several times a call
        if known is None:
            known = vars(self)["_estimated"] = self._estimate_input_tokens()
        return known

    def _estimate_input_tokens(self) -> int:
        size = _bytes(self.system) + sum(len(str(t.parameters)) + _bytes(t.description) for t in self.tools)
        images = 0
        unread = 0 if self.source is None else self.source.unread_tokens
        for message in self.messages:
            for part in message.content:
                match part:
                    case TextPart(text) | ThinkingPart(text):
                        size += _bytes(text)
                    case ToolResultPart(_, text):
                        size += _bytes(text)
                    case ToolCallPart(_, name, arguments):
                        size += len(name) + _bytes(arguments)
                    case ImagePart():
                        images += 1
        return -(-size // BYTES_PER_TOKEN) + images * IMAGE_TOKENS + unread


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _has_content(message: Message) -> bool:
    return any(not isinstance(p, TextPart) or p.text.strip() for p in message.content)


@dataclass(frozen=True)
class ExecutionContext:
    """What a call is for and what it may cost.

    ``workflow``, ``stage`` and ``task_type`` are the caller's own names; telemetry is kept by
    them. ``tier`` or ``model`` ("model" or "provider/model") fix what would else be decided.
    ``max_cost`` is USD for one call, predicted: it selects
    the candidate. ``budget_usd`` is the most that all attempts of the call may cost together: an
    answer is asked to be no longer than it pays for.
    ``max_latency_ms`` is a limit on the usual latency of a candidate, ``deadline_s`` the time after
    which the call is given up. ``min_success_rate`` of ``None`` prefers the executor's own (0.8) but does
    not refuse to try; a number is required of every candidate. ``session_id`` groups the calls of a
    conversation, which then stay with one candidate while it is healthy. ``hedge`` as in
    ``ResilientExecutor``, ``None`` for its own. ``allow_providers`` and ``allow_models``
    ("provider/model") are the only ones that may answer, ``None`` for all. ``account`` is whose call it
    is, for the record. ``policy`` names the routing policy of this call, ``explore`` false keeps it from
    trying anything but what it believes to be best.
    """

    workflow: str = "default"
    stage: str = "default"
    task_type: str | None = None
    tier: str | None = None
    model: str | None = None
    max_cost: float | None = None
    max_latency_ms: float | None = None
    min_success_rate: float | None = None
    allow_providers: frozenset[str] | None = None
    local_only: bool = False
    budget_usd: float | None = None
    deadline_s: float | None = None
    session_id: str = ""
    hedge: str | None = None
    allow_models: frozenset[str] | None = None
    account: str = ""
    policy: str | None = None
    explore: bool | None = None

    def __post_init__(self) -> None:
        for name in ("allow_providers", "allow_models"):
            if isinstance(names := getattr(self, name), list | tuple | set):
                object.__setattr__(self, name, frozenset(names))
        check_call(self)
        for name in ("deadline_s", "budget_usd"):
            check_number(name, getattr(self, name), above_zero=name == "deadline_s")
        for name in ("session_id", "account"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, "")
            check_name(name, getattr(self, name) or "none")

    @classmethod
    def of(cls, values: Mapping[str, Any], whole: ExecutionContext | None = None) -> ExecutionContext:
        """A context from named fields, or the ``whole`` one. Raises ``UnknownNameError`` for a field that
        does not exist, and ``InvalidRequestError`` for both.
        """
        if whole is not None:
            if values:
                raise InvalidRequestError("give either a context or its fields, not both")
            return whole
        for name in values:
            if name not in cls.__dataclass_fields__:
                raise UnknownNameError("field of the call", name, [each.name for each in fields(cls)])
        return cls(**values)
