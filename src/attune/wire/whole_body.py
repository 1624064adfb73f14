"""One JSON body from a stream of the same protocol, with everything that was in the stream.

``Door.body`` writes what an ``LLMResponse`` holds: text, reasoning, tool calls. The answer of a provider that
speaks the client's protocol may hold more, and is put together here. It is as lenient as the decoders are:
what they take for a complete answer is recorded as a success, so a body has to come of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec

from attune.errors import StreamBrokenError
from attune.models.executor import EventKind
from attune.wire.doors import tool_input
from attune.wire.errors import MALFORMED
from attune.wire.sse import SSEParser
from attune.wire.steps import STEP, Pieces, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.models.executor import StreamEvent

__all__ = ["WholeBody"]

_DATA_LINE = re.compile(rb"[\r\n]data")
_WORDS = {"id", "type", "role", "name", "finish_reason", "object", "index"}
"""Texts that come whole; every other text comes in pieces."""

_BLOCKS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}
"""The type of a block that never began, by the first delta of it that says something."""


class WholeBody:
    """Takes the events of one answer of a provider that speaks ``protocol``; ``finish`` gives the body."""

    def __init__(self, protocol: str) -> None:
        self._body: dict[str, Any] = {}
        self._take = _TAKES[protocol]
        self._plain = b""

    def feed(self, event: StreamEvent) -> None:
        """Take in one event. Raises ``StreamBrokenError`` for one that does not fit those before it."""
        if not event.raw:
            return
        if event.kind is not EventKind.PING and _is_json(event.raw):  # a provider that does not stream
            self._plain = event.raw
            return
        for block in SSEParser().feed(event.raw):
            if not block.data.lstrip().startswith(b"{"):
                continue
            try:
                self._take(self, msgspec.json.decode(block.data))
            except (*MALFORMED, LookupError, TypeError, AttributeError):
                raise StreamBrokenError("an event of the answer does not fit those before it") from None

    def finish(self) -> bytes:
        """The body, once the terminal event has come."""
        return self._plain or encode(_whole(self._body))

    def _response(self, event: dict[str, Any]) -> None:
        if event.get("type") in {"response.completed", "response.incomplete"}:
            self._body = event.get("response") or {}

    def _message(self, event: dict[str, Any]) -> None:
        content, place = self._body.setdefault("content", _Numbered()), event.get("index", 0)
        match event:
            case {"type": "message_start", "message": dict(message)}:
                self._body = {**message, "content": content}
            case {"type": "content_block_start", "content_block": dict(block)}:
                content[place] = _merged({}, block)
            case {"type": "content_block_delta", "delta": dict(delta)}:
                if place in content or delta.get("type") in _BLOCKS:
                    _add_delta(content.setdefault(place, {"type": _BLOCKS.get(delta["type"])}), delta)
            case {"type": "message_delta", "delta": dict(delta)}:
                said = {name: each for name, each in (event.get("usage") or {}).items() if each is not None}
                usage = {**(self._body.get("usage") or {}), **said}
                self._body |= {**delta, "content": content, "usage": usage}

    def _chunk(self, chunk: dict[str, Any]) -> None:
        choices = self._body.setdefault("choices", _Numbered())
        for choice in chunk.get("choices") or ():
            place = choice.get("index") or 0
            so_far = choices.setdefault(place, {"index": place, "message": {}})
            _merged(so_far["message"], choice.get("delta") or {})
            _merged(so_far, {name: each for name, each in choice.items() if name not in {"delta", "index"}})
        head = {name: each for name, each in chunk.items() if name != "choices" and each is not None}
        self._body |= {**head, "object": "chat.completion"}


# No attribute may hold a method of its own: what refers to itself stays until garbage is looked for.
_TAKES: dict[str, Callable[[WholeBody, dict[str, Any]], None]] = {
    "chat": WholeBody._chunk,
    "messages": WholeBody._message,
    "responses": WholeBody._response,
    "embeddings": WholeBody._response,  # which never come in pieces
}


def _is_json(raw: bytes) -> bool:
    """Whether it is a body, and no event: one with data has a line that no JSON can have, and a blank line
    at its end. To look for the first in 10 MB takes 80 ms.
    """
    ends = not raw[-2:].strip(b"\r\n")
    return raw.lstrip().startswith(b"{") and not (ends and _DATA_LINE.search(raw))


class _Input(list[str]):
    """The pieces of a tool's input."""


class _Numbered(dict[int, Any]):
    """A list that grows at any of its places."""


class _Calls(_Numbered):
    """The calls so far, and which of them an index means."""

    def __init__(self) -> None:
        super().__init__()
        self.place_of: dict[int, int] = {}


def _merged(so_far: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``so_far`` with ``more`` of it: texts and lists grow, all else is replaced."""
    for name, each in more.items():
        if each is not None or name not in so_far:
            so_far[name] = _grown(so_far.get(name), name, each)
    return so_far


def _grown(so_far: Any, name: str, more: Any) -> Any:
    if isinstance(more, str) and name not in _WORDS:
        pieces = so_far if isinstance(so_far, Pieces) else Pieces()
        pieces.append(more)
        return pieces
    if isinstance(more, list) and name == "tool_calls" and all(isinstance(call, dict) for call in more):
        return _with_calls(so_far if isinstance(so_far, _Calls) else _Calls(), more)
    if isinstance(more, list) and _is_list(so_far):
        so_far.extend(more)
        return so_far
    if isinstance(more, dict):
        return _merged(so_far if isinstance(so_far, dict) else {}, more)
    return more


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether it is a list as it came."""
    return isinstance(value, list) and not isinstance(value, Pieces | _Input)


def _with_calls(calls: _Calls, more: list[dict[str, Any]]) -> _Calls:
    for position, call in enumerate(more):
        index = call.get("index")
        index = index if isinstance(index, int) else position
        place = calls.place_of.get(index)
        # As for ``ChatDecoder``: a new id begins a new call, whatever the index.
        if place is None or (call.get("id") and call["id"] != calls[place].get("id")):
            place = calls.place_of[index] = len(calls)
        _merged(calls.setdefault(place, {}), {name: each for name, each in call.items() if name != "index"})
    return calls


def _add_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta:
        case {"type": "input_json_delta", "partial_json": str(text)}:
            if not isinstance(block.get("input"), _Input):
                block["input"] = _Input()
            block["input"].append(text)
        case {"type": "citations_delta", "citation": citation}:
            so_far = block.get("citations")
            block["citations"] = [*(so_far if _is_list(so_far) else ()), citation]
        case _:
            _merged(block, {name: each for name, each in delta.items() if name != "type"})


def _whole(value: Any) -> Any:
    """``value`` with everything that grew in its final form."""
    if isinstance(value, Pieces):
        return value if sum(map(len, value)) > STEP else "".join(value)
    if isinstance(value, _Numbered):
        return [_whole(value[place]) for place in sorted(value)]
    if isinstance(value, _Input):
        return tool_input("".join(value))
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return value
