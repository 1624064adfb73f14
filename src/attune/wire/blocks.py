"""Translating events for protocols whose answer is a row of blocks, each opened, filled and closed."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import StreamBrokenError
from attune.models.executor import EventKind, Meta, Terminal, TextDelta, ThinkingDelta, ToolCallDelta
from attune.models.telemetry import TokenUsage
from attune.wire.doors import StreamWriter, call_id_of
from attune.wire.seal import seal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attune.models.executor import StreamEvent
    from attune.wire.doors import AnswerHead

__all__ = ["Block", "BlockWriter"]


class Block(NamedTuple):
    """A block of the answer: its place among all, what it is ("text", "thinking", "tool"), and of a tool call
    its position among the calls, id and name.
    """

    place: int
    kind: str
    position: int = -1
    id: str = ""
    name: str = ""


class BlockWriter(StreamWriter):
    """Opens, fills and closes blocks, one at a time; a subclass says how."""

    def __init__(self, head: AnswerHead, *, relays: bool) -> None:
        super().__init__(head, relays=relays)
        self._began = False
        self._model = head.model
        self._block: Block | None = None
        self._blocks = 0
        self._calls: set[int] = set()
        self._signature = ""
        self._usage: TokenUsage | None = None

    def _translated(self, event: StreamEvent) -> Iterator[bytes]:
        parsed = event.parsed
        if event.kind is EventKind.PING:
            yield self.PING
            return
        if isinstance(parsed, Meta):
            self._model = parsed.model or self._model
        if not self._began:
            self._began = True
            yield from self._begin()
        match parsed:
            case TextDelta(text):
                yield from self._fill("text", text)
            case ThinkingDelta():
                yield from self._think(parsed)
            case ToolCallDelta():
                yield from self._call(parsed)
            case Terminal():
                yield from self._leave()
                yield from self._end(parsed.stop_reason)
            case TokenUsage() if event.kind is EventKind.USAGE:
                self._usage = parsed
            case _:
                pass

    def _fill(self, kind: str, text: str) -> Iterator[bytes]:
        if self._block is None or self._block.kind != kind:
            yield from self._enter(Block(self._blocks, kind))
        if text and self._block is not None:
            yield from self._filled(self._block, text)

    def _think(self, delta: ThinkingDelta) -> Iterator[bytes]:
        if not delta.text and not delta.signature:
            return
        yield from self._fill("thinking", delta.text)
        if delta.signature:
            self._signature = delta.signature
            yield from self._leave()

    def _call(self, delta: ToolCallDelta) -> Iterator[bytes]:
        if self._block is None or self._block.position != delta.position:
            if delta.position in self._calls:
                raise StreamBrokenError(
                    "the provider mixes the pieces of its tool calls, which cannot be passed on"
                )
            self._calls.add(delta.position)
            call_id = call_id_of(delta.id, self._head.call_id, delta.position)
            yield from self._enter(Block(self._blocks, "tool", delta.position, call_id, delta.name))
        if delta.arguments and self._block is not None:
            yield from self._filled(self._block, delta.arguments)

    def _enter(self, block: Block) -> Iterator[bytes]:
        yield from self._leave()
        self._block = block
        self._blocks += 1
        yield from self._opened(block)

    def _leave(self) -> Iterator[bytes]:
        block, self._block = self._block, None
        if block is None:
            return
        # Reasoning without a signature is sealed too: its own provider takes only what it has signed.
        sealed = seal(self._head.provider, self._signature) if block.kind == "thinking" else ""
        self._signature = ""
        yield from self._closed(block, sealed)

    @abstractmethod
    def _begin(self) -> Iterator[bytes]:
        """The beginning of the answer."""

    @abstractmethod
    def _opened(self, block: Block) -> Iterator[bytes]:
        """The beginning of a block."""

    @abstractmethod
    def _filled(self, block: Block, text: str) -> Iterator[bytes]:
        """More of a block: text, reasoning, or a tool call's arguments."""

    @abstractmethod
    def _closed(self, block: Block, sealed: str) -> Iterator[bytes]:
        """The end of a block; ``sealed`` is the signature of reasoning."""

    @abstractmethod
    def _end(self, stop_reason: str) -> Iterator[bytes]:
        """The end of the answer."""
