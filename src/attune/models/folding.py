"""Folding the events of one attempt into what they amount to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.executor import EventKind, Terminal, TextDelta, ThinkingDelta, ToolCallDelta
from attune.models.request import BYTES_PER_TOKEN, TextPart, ThinkingPart, ToolCallPart
from attune.models.telemetry import TokenUsage

if TYPE_CHECKING:
    from attune.models.executor import StreamEvent
    from attune.models.request import Part

__all__ = ["Fold"]


class Fold:
    """What the events so far amount to: the parts of the answer, the usage and how it ended."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._parts: list[_Growing] = []
        self._calls: dict[int, _Growing] = {}
        self._characters = 0
        self._characters_at_usage = 0
        self.usage: TokenUsage | None = None
        self.terminal: Terminal | None = None

    def add(self, event: StreamEvent) -> None:
        """Take in one event."""
        parsed = event.parsed
        match parsed:
            case TextDelta(text):
                self._last(TextPart).pieces.append(text)
                self._characters += len(text)
            case ThinkingDelta():
                self._add_thinking(parsed)
            case ToolCallDelta():
                self._add_call(parsed)
            case Terminal():
                self.terminal = parsed
            case TokenUsage() if event.kind is EventKind.USAGE:
                self.usage = parsed
                self._characters_at_usage = self._characters
            case _:
                pass

    def _last(self, kind: type[Part]) -> _Growing:
        """The last part if it is of ``kind`` and may grow, else a new one."""
        if not self._parts or self._parts[-1].kind is not kind or self._parts[-1].signature:
            self._parts.append(_Growing(kind))
        return self._parts[-1]

    def _add_thinking(self, delta: ThinkingDelta) -> None:
        if not delta.text and not delta.signature:
            return
        thought = self._last(ThinkingPart)
        thought.pieces.append(delta.text)
        thought.signature = delta.signature
        self._characters += len(delta.text)

    def _add_call(self, delta: ToolCallDelta) -> None:
        call = self._calls.get(delta.position)
        if call is None:
            call = self._calls[delta.position] = _Growing(ToolCallPart)
            self._parts.append(call)
        call.pieces.append(delta.arguments)
        call.id = call.id or delta.id
        call.name = call.name or delta.name
        self._characters += len(delta.arguments) + len(delta.name)

    @property
    def began(self) -> bool:
        """Whether any content came."""
        return bool(self._parts)

    @property
    def content(self) -> tuple[Part, ...]:
        """The parts of the answer in order of arrival.

        Pieces of one kind that follow each other are one part; a signature ends its reasoning.
        """
        return tuple(part.part(self._provider) for part in self._parts)

    @property
    def usage_is_behind(self) -> bool:
        """Whether content came after the last report of usage."""
        return self._characters > self._characters_at_usage

    def estimated_output_tokens(self) -> int:
        """A rough size of the answer so far: characters / 4."""
        return -(-self._characters // BYTES_PER_TOKEN)


class _Growing:
    """A part of the answer to which more may come."""

    __slots__ = ("id", "kind", "name", "pieces", "signature")

    def __init__(self, kind: type[Part]) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.signature = ""
        self.id = ""
        self.name = ""

    def part(self, provider: str) -> Part:
        text = "".join(self.pieces)
        if self.kind is ToolCallPart:
            return ToolCallPart(self.id, self.name, text)
        return ThinkingPart(text, self.signature, provider) if self.kind is ThinkingPart else TextPart(text)
