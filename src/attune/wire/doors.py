"""What the doors share: a client's body in, a client's answer out.

A door speaks one protocol with clients. ``read`` makes an ``LLMRequest`` of a body; what the request says
beyond that is kept beside it, for a provider that speaks the same protocol. The answer goes out
as it came when its provider speaks the door's protocol (it is *relayed*), and translated otherwise.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from codecs import getincrementaldecoder
from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import msgspec

from attune.errors import InvalidRequestError
from attune.models.call_checks import MAX_NAME_CHARS
from attune.models.executor import EventKind
from attune.models.request import Source
from attune.wire.conversation import json_object
from attune.wire.door_errors import ErrorAnswer, fault_of, headers_of, relayed_body
from attune.wire.errors import MALFORMED
from attune.wire.redaction import one_line
from attune.wire.steps import STEP
from attune.wire.turns import turn
from attune.wire.weights import unread_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attune.errors import AttuneError
    from attune.models.executor import LLMResponse, StreamEvent
    from attune.models.request import LLMRequest
    from attune.wire.door_errors import Fault

__all__ = [
    "THINKING_TOKENS",
    "AnswerHead",
    "Asked",
    "Door",
    "JSONObject",
    "Notes",
    "StreamWriter",
    "call_id_of",
    "checked",
    "checked_model",
    "decoded",
    "sentence",
    "sse",
    "tool_input",
]

THINKING_TOKENS = {
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 65_536,
}
"""Thinking tokens for an effort; ``encoder.effort`` gives the nearest effort back."""

MAX_HEADER_CHARS = 4000

_T = TypeVar("_T")
_UNIQUE_CALL_ID = re.compile("[A-Za-z0-9_-]{12,40}")
_NULL = msgspec.Raw(b"null")
_AT_PATH = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Asked(NamedTuple):
    """What a client asks: the name in ``model`` as it was given, and the request."""

    model: str
    request: LLMRequest


class AnswerHead(NamedTuple):
    """What stands at the head of an answer: the call's id, the model that answers and its provider, and
    the UTC epoch second of the call.
    """

    call_id: str
    model: str
    provider: str
    created: int


class Notes:
    """What reading finds that an ``LLMRequest`` has no word for; each thing is named once."""

    def __init__(self) -> None:
        self._unread: dict[str, None] = {}
        self._hints: dict[str, None] = {}

    def unread(self, what: str, name: str = "") -> None:
        """Note something that changes the request's meaning; ``name`` is the client's own word."""
        self._unread[f"{what} {one_line(name)[:60]!r}" if name else what] = None

    def hint(self, what: str) -> None:
        """Note something that only tunes."""
        self._hints[what] = None

    def hints_in(self, struct: msgspec.Struct, *names: str) -> None:
        """Note each of the fields ``names`` that the client gave."""
        for name in names:
            if getattr(struct, name) is not msgspec.UNSET:
                self.hint(name)

    def source(self, protocol: str, fields: Mapping[str, Any]) -> Source:
        """The request as it came, with what was noted of it and what the unread may cost."""
        tokens = unread_tokens(fields) if self._unread else 0
        return Source(protocol, fields, tuple(self._unread), tuple(self._hints), unread_tokens=tokens)


class JSONObject(Mapping[str, Any]):
    """A JSON object that is read only when it is asked for; its ``str`` is the text as it came.

    Raises ``InvalidRequestError`` at once for any other JSON.
    """

    def __init__(self, raw: msgspec.Raw, field: str) -> None:
        self._raw = raw
        self._values: dict[str, Any] | None = None
        if bytes(memoryview(raw)[:1]) != b"{":
            raise InvalidRequestError(f"{field} must be a JSON object")

    def __str__(self) -> str:
        return bytes(self._raw).decode("utf-8", "replace")

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        if self._values is None:
            self._values = msgspec.json.decode(self._raw, type=dict[str, Any])
        return self._values


def decoded(body: bytes, decode: Callable[[bytes], _T]) -> tuple[_T, dict[str, Any]]:
    """A client's body read by ``decode``, and its own top-level fields.

    Raises ``InvalidRequestError`` with one sentence that names the field at fault.
    """
    if not body:
        raise InvalidRequestError("the body is empty; send a JSON object")
    try:
        _check_utf8(body)
        asked = decode(body)
        turn()
        return asked, _fields(body)
    except MALFORMED as error:
        raise InvalidRequestError(sentence(error)) from None


def _check_utf8(body: bytes) -> None:
    """Raise ``UnicodeDecodeError`` for a body that is no text; nothing else checks what is not read."""
    if not body.isascii():
        decode = getincrementaldecoder("utf-8")().decode
        for start in range(0, len(body), STEP):  # not at once: see ``STEP``
            turn()
            decode(body[start : start + STEP])
        decode(b"", final=True)


def checked(model: str, conversation: object, field: str) -> None:
    """Raise ``InvalidRequestError`` without a model's name, or a conversation in ``field``."""
    checked_model(model)
    if not conversation:
        raise InvalidRequestError(f"{field} is empty; give at least one message")


def checked_model(model: str) -> None:
    """Raise ``InvalidRequestError`` without a model's name."""
    if not 0 < len(model) <= MAX_NAME_CHARS:
        raise InvalidRequestError(f"model must be a name of 1 to {MAX_NAME_CHARS} characters")


def sentence(error: Exception) -> str:
    """What is wrong with a client's JSON, beginning with the field at fault."""
    if not isinstance(error, msgspec.ValidationError):
        return f"the body is not JSON: {one_line(str(error))}"
    found = _AT_PATH.fullmatch(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    if missing := _MISSING.fullmatch(what):
        return f"{path}.{missing['name']} is missing".removeprefix(".")
    expected = what.replace("`", "").replace("Expected ", "expected ").replace("got ", "not ")
    return f"{one_line(path) or 'the body'}: {one_line(expected)}"


def call_id_of(given: str, call_id: str, position: int) -> str:
    """The id of a tool call as clients of every protocol can give it back: ``given`` if it will do.

    Some servers give none, or number the calls of each answer anew; those get one that is unique.
    """
    if _UNIQUE_CALL_ID.fullmatch(given):
        return given
    return f"call_{sha256(f'{call_id}/{position}/{given}'.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def tool_input(arguments: str) -> msgspec.Raw:
    """The arguments of a call where a JSON object must stand: see ``json_object``."""
    return msgspec.Raw(json_object(arguments).encode())


def sse(data: object, event: str = "") -> bytes:
    """One server-sent event with ``data`` as JSON."""
    name = f"event: {event}\n".encode() if event else b""
    return b"%bdata: %b\n\n" % (name, msgspec.json.encode(data))


def _sound(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if len(value) > MAX_HEADER_CHARS or not (value.isascii() and value.isprintable()):
            raise InvalidRequestError(
                f"the header {name} must be at most {MAX_HEADER_CHARS} printable ASCII characters"
            )
    return headers


class StreamWriter(ABC):
    """The events of one answer as a client reads them.

    ``head`` is that of the answer. With ``relays`` the bytes of the events pass through; else they are
    translated. One writer serves one answer, from its first event.
    """

    PING: ClassVar[bytes]

    def __init__(self, head: AnswerHead, *, relays: bool) -> None:
        self._head = head
        self._relays = relays

    def feed(self, event: StreamEvent) -> bytes:
        """What the client is sent for ``event``; may be empty. Raises ``StreamBrokenError``."""
        if event.kind is EventKind.PING and not event.raw:
            return self.PING
        if event.kind is EventKind.META and event.raw.lstrip().startswith(b"{"):
            self._relays = False  # a provider that does not stream answers with a body
        return self._relayed(event) if self._relays else b"".join(self._translated(event))

    def _relayed(self, event: StreamEvent) -> bytes:
        return event.raw

    @abstractmethod
    def _translated(self, event: StreamEvent) -> Iterator[bytes]:
        """The events of the client's protocol for one of ours."""


class Door(ABC):
    """One protocol as clients speak it."""

    protocol: ClassVar[str]
    PING: ClassVar[bytes] = b": ping\n\n"
    """Says that the answer is still being made; may be sent at any time before its end."""

    FORWARDED: ClassVar[tuple[str, ...]] = ("openai-beta",)
    """The client's headers that a provider of the same protocol is sent; no other is."""

    EXPECTED_OUTPUT: ClassVar[int] = 1000
    """Tokens that an answer is counted with for a key's rate where the request sets no limit of its own."""

    def read(self, body: bytes, headers: Mapping[str, str] | None = None) -> Asked:
        """The request in a client's body; ``headers`` are the client's, by their names in lower case.

        Raises ``InvalidRequestError`` with one sentence that names the field at fault. The caller caps
        the body.
        """
        asked = self._read(body)
        forwarded = {name: value for name in self.FORWARDED if (value := (headers or {}).get(name))}
        source = asked.request.source
        if not forwarded or source is None:
            return asked
        return Asked(asked.model, replace(asked.request, source=source._replace(headers=_sound(forwarded))))

    @abstractmethod
    def _read(self, body: bytes) -> Asked:
        """``read`` without the headers."""

    @abstractmethod
    def stream(self, request: LLMRequest, head: AnswerHead, *, relays: bool) -> StreamWriter:
        """The writer of one streamed answer."""

    @abstractmethod
    def body(self, response: LLMResponse, request: LLMRequest, head: AnswerHead, *, relays: bool) -> bytes:
        """A whole answer in one JSON body; ``relays`` as in ``StreamWriter``."""

    @abstractmethod
    def shape(self, fault: Fault, call_id: str) -> dict[str, Any]:
        """An error body of the protocol."""

    def error(
        self,
        error: AttuneError,
        *,
        now: float,
        status: int | None = None,
        call_id: str = "",
        speaks: Mapping[str, Collection[str]] | None = None,
    ) -> ErrorAnswer:
        """The answer that ``error`` amounts to, in the client's own shape.

        ``now`` is UTC epoch seconds, ``status`` replaces the error's own. ``speaks`` are the protocols of
        the providers: where the caller is at fault and the provider speaks this door's, its status and
        body are given back as they came.
        """
        fault = fault_of(error, now=now, status=status)
        upstream = relayed_body(error, self.protocol, speaks or {})
        if upstream is not None:
            return ErrorAnswer(upstream.status, headers_of(fault), upstream.body)
        return ErrorAnswer(fault.status, headers_of(fault), msgspec.json.encode(self.shape(fault, call_id)))

    def error_event(self, error: AttuneError, *, now: float, call_id: str = "") -> bytes:
        """The event that ends a stream which has begun and cannot be completed."""
        return sse(self.shape(fault_of(error, now=now), call_id), "error")
