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
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._signature = ""
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._characters = 0
        self.usage: TokenUsage | None = None
        self.terminal: Terminal | None = None

    def add(self, event: StreamEvent) -> None:
        """Take in one event."""
        parsed = event.parsed
        match parsed:
            case TextDelta(text):
                self._texts.append(text)
                self._characters += len(text)
            case ThinkingDelta(text, signature):
                self._thoughts.append(text)
                self._signature = signature or self._signature
                self._characters += len(text)
            case ToolCallDelta():
                self._add_call(parsed)
            case Terminal():
                self.terminal = parsed
            case TokenUsage() if event.kind is EventKind.USAGE:
                self.usage = parsed
            case _:
                pass

    def _add_call(self, delta: ToolCallDelta) -> None:
        call_id, name, pieces = self._calls.get(delta.position, ("", "", []))
        pieces.append(delta.arguments)
        self._calls[delta.position] = (call_id or delta.id, name or delta.name, pieces)
        self._characters += len(delta.arguments) + len(delta.name)

    @property
    def began(self) -> bool:
        """Whether any content came."""
        return bool(self._texts or self._thoughts or self._calls)

    @property
    def content(self) -> tuple[Part, ...]:
        """The parts of the answer: reasoning, then text, then tool calls in their order."""
        parts: list[Part] = []
        if self._thoughts or self._signature:
            parts.append(ThinkingPart("".join(self._thoughts), self._signature, self._provider))
        if self._texts:
            parts.append(TextPart("".join(self._texts)))
        for _, (call_id, name, pieces) in sorted(self._calls.items()):
            parts.append(ToolCallPart(call_id, name, "".join(pieces)))
        return tuple(parts)

    def estimated_output_tokens(self) -> int:
        """A rough size of the answer so far: characters / 4."""
        return -(-self._characters // BYTES_PER_TOKEN)
