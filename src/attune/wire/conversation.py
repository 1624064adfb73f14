"""A conversation made fit for the provider it goes to, whichever ones made its parts."""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from attune.models.request import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from attune.wire.errors import MALFORMED
from attune.wire.turns import turn

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence

    from attune.models.request import Part

__all__ = ["json_object", "portable"]

_BOUND = {ThinkingPart, ToolCallPart, ToolResultPart}


def portable(messages: Sequence[Message], *, provider: str, call_ids: re.Pattern[str]) -> Iterator[Message]:
    """The messages as ``provider`` accepts them; one that nothing is left of is left out.

    Reasoning stays only where this provider signed it and its message goes on after it: without
    what it led to, every protocol refuses it. The id of a tool call stays as it is if ``call_ids``
    matches it and it is unique; else it becomes a digest of itself, the same in every request: 37
    letters, digits and ``_``. A result has the id of its call. The arguments of a call are a
    ``json_object``.
    """
    ids = _CallIds(call_ids)
    for message in messages:
        turn()
        if message.role == "assistant":
            ids.next_turn()
        if _BOUND.isdisjoint(map(type, message.content)):
            yield message
        elif content := tuple(map(ids.fitted, _without_foreign_thinking(message.content, provider))):
            yield Message(message.role, content)


def json_object(arguments: str) -> str:
    """The arguments of a tool call as the JSON object that they must be where they are read.

    An object stays byte for byte, and none at all is an empty one. What is no object, as a model
    makes when it errs or is cut off, is given as ``{"arguments": "<its text>"}``: the conversation
    can go on, and the model sees what it said.
    """
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (*MALFORMED, UnicodeEncodeError):
        if not arguments.strip():
            return "{}"
        text = arguments.encode("utf-8", "replace").decode()
        return msgspec.json.encode({"arguments": text}).decode()
    return arguments


def _without_foreign_thinking(content: Sequence[Part], provider: str) -> Iterator[Part]:
    last = max((place for place, part in enumerate(content) if _says_something(part)), default=-1)
    for place, part in enumerate(content):
        own = isinstance(part, ThinkingPart) and part.signature and part.provider == provider
        if not isinstance(part, ThinkingPart) or (own and place < last):
            yield part


def _says_something(part: Part) -> bool:
    return bool(part.text) if isinstance(part, TextPart) else not isinstance(part, ThinkingPart)


class _CallIds:
    """The ids of the tool calls of one conversation, as they stand in a request."""

    def __init__(self, accepted: re.Pattern[str]) -> None:
        self._accepted = accepted
        self._used: set[str] = set()
        self._unanswered: dict[str, deque[str]] = {}

    def next_turn(self) -> None:
        """The model speaks again: results answer the calls that it makes from here on."""
        self._unanswered.clear()

    def fitted(self, part: Part) -> Part:
        """``part`` with the id that it has in this request."""
        if isinstance(part, ToolCallPart):
            return ToolCallPart(self._of_call(part.id), part.name, json_object(part.arguments))
        if isinstance(part, ToolResultPart):
            return ToolResultPart(self._of_result(part.tool_call_id), part.text, part.is_error)
        return part

    def _of_call(self, given: str) -> str:
        fitting, number = self._fit(given), 1
        while fitting in self._used:  # some servers number their calls anew in each turn, or not at all
            number += 1
            fitting = self._fit(f"{given}#{number}")
        self._used.add(fitting)
        self._unanswered.setdefault(given, deque()).append(fitting)
        return fitting

    def _of_result(self, given: str) -> str:
        waiting = self._unanswered.get(given)
        return waiting.popleft() if waiting else self._fit(given)

    def _fit(self, given: str) -> str:
        if self._accepted.fullmatch(given):
            return given
        return f"call_{sha256(given.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
