"""What the items of a Responses output mean, whether they come in pieces, one by one or all at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.executor import Payload, TextDelta, ThinkingDelta, ToolCallDelta, Working
from attune.wire.steps import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Output"]


class _Part(msgspec.Struct, gc=False):
    """A piece of a message, or of the summary of a reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    """A message, a reasoning or a function call; nothing is read of other items."""

    type: str = ""
    id: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class _Kind(msgspec.Struct, gc=False):
    type: str = ""


_decode_kind = msgspec.json.Decoder(_Kind).decode
_READ_ITEMS = {"message", "reasoning", "function_call"}


class Output:
    """What the output items mean, remembering what the terminal event needs.

    Items are known by their place in the output, tool calls counted from 0 whatever lies between.
    Some servers number nothing: there all items have place 0.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._place_of_call: dict[int, int] = {}
        self._came: set[tuple[str, int]] = set()
        self._refused = False

    def added(self, index: int, raw: msgspec.Raw) -> Payload:
        """An item is announced; a tool call begins with that."""
        item = _read_item(raw)
        if item.type != "function_call":
            return None if item.type == "message" else Working()
        place = self._place_of_call[index] = self._calls
        self._calls += 1
        return ToolCallDelta(place, item.call_id or "", item.name or "")

    def text(self, index: int, delta: Any, *, refusal: bool = False) -> Payload:
        """A piece of a message."""
        if not isinstance(delta, str) or not delta:
            return None
        self._came.add(("message", index))
        self._refused = self._refused or refusal
        return TextDelta(delta)

    def thinking(self, index: int, delta: Any) -> Payload:
        """A piece of a reasoning."""
        if not isinstance(delta, str) or not delta:
            return None
        self._came.add(("reasoning", index))
        return ThinkingDelta(delta)

    def arguments(self, index: int, delta: Any) -> Payload:
        """A piece of the arguments of a tool call."""
        place = self._place_of_call.get(index)
        if place is None or not isinstance(delta, str) or not delta:
            return None
        self._came.add(("function_call", place))
        return ToolCallDelta(place, arguments=delta)

    def done(self, index: int, raw: msgspec.Raw) -> Iterator[Payload]:
        """What a complete item adds to its pieces: everything, if it did not come in pieces."""
        item = _read_item(raw)
        if item.type == "function_call" and index not in self._place_of_call:
            yield self.added(index, raw)
        place = self._place_of_call[index] if item.type == "function_call" else index
        whole = (item.type, place) not in self._came
        self._came.add((item.type, place))
        match item.type:
            case "function_call" if whole:
                yield ToolCallDelta(place, arguments=item.arguments or "{}")
            case "reasoning":
                yield _reasoned(item, whole=whole)
            case "message" if whole:
                for part in item.content or ():
                    yield self.text(index, part.text or part.refusal, refusal=part.type == "refusal")
            case "":
                yield Working()

    def rest(self, items: Sequence[msgspec.Raw]) -> Iterator[Payload]:
        """What of the whole output, as the end repeats it, did not come before.

        By place, and never more items of a kind than are lacking: servers that number nothing, or
        number otherwise at the end, do not give again what they gave.
        """
        kinds = [_decode_kind(raw).type for raw in items]
        lacking = Counter(kinds)
        lacking.subtract(kind for kind, _ in self._came)
        for index, (kind, raw) in enumerate(zip(kinds, items, strict=True)):
            place = self._place_of_call.get(index, -1) if kind == "function_call" else index
            if lacking[kind] > 0 and (kind, place) not in self._came:
                lacking[kind] -= 1
                yield from self.done(index, raw)

    @property
    def stop_reason(self) -> str:
        """Why an answer that is complete stopped."""
        return "refusal" if self._refused else "tool_calls" if self._calls else "stop"


def _read_item(raw: msgspec.Raw) -> _Item:
    if _decode_kind(raw).type not in _READ_ITEMS:
        return _Item()
    item: _Item = decode(raw, _Item)
    return item


def _reasoned(item: _Item, *, whole: bool) -> Payload:
    text = "\n\n".join(part.text or "" for part in item.summary or item.content or ()) if whole else ""
    # The two belong together: the service refuses the one under another id.
    signature = f"{item.id or ''}:{item.encrypted_content}" if item.encrypted_content else ""
    return ThinkingDelta(text, signature) if text or signature else None
