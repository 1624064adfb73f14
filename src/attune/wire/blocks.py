"""Translating events for protocols whose answer is a row of blocks, each opened, filled and closed."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import StreamBrokenError
from attune.models.executor import EventKind, Meta, Terminal, TextDelta, ThinkingDelta, ToolCallDelta
from attune.models.telemetry import TokenUsage
from attune.wire.decoder import MAX_BODY_BYTES
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


class _Filling:
    """A block that more may come for, and what has come for it and is not written yet."""

    def __init__(self, kind: str, position: int = -1, call_id: str = "", name: str = "") -> None:
        self.kind = kind
        self.position = position
        self.id = call_id
        self.name = name
        self.unwritten: list[str] = []
        self.signature = ""
        self.over = False
        self._arguments = _Arguments()

    def add(self, text: str) -> None:
        """More of it."""
        self.unwritten.append(text)
        if self.kind == "tool":
            self._arguments.feed(text)

    @property
    def complete(self) -> bool:
        """Whether it can end here: a text can anywhere, a tool call where its arguments are whole."""
        return self.kind != "tool" or self._arguments.whole


class _Arguments:
    """Says when a JSON object that comes in pieces is ``whole``, by its braces alone."""

    def __init__(self) -> None:
        self.whole = False
        self._depth = 0
        self._in_text = False
        self._cut = ""

    def feed(self, piece: str) -> None:
        """Take in more of it."""
        text, end = self._cut + piece, 0
        for found in _MARKS.finditer(text):
            mark, end = found[0], found.end()
            if mark == '"':
                self._in_text = not self._in_text
            elif len(mark) == 1 and not self._in_text:
                self._depth += 1 if mark in "{[" else -1
                self.whole = self.whole or self._depth == 0
        self._cut = "\\" if text.endswith("\\") and end < len(text) else ""  # of an escape


_MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


class BlockWriter(StreamWriter):
    """Opens, fills and closes blocks, one at a time; a subclass says how.

    Where a provider mixes the pieces of several, as of tool calls side by side, those that are not the first
    wait until it is complete.
    """

    def __init__(self, head: AnswerHead, *, relays: bool) -> None:
        super().__init__(head, relays=relays)
        self._began = False
        self._model = head.model
        self._filling: deque[_Filling] = deque()
        self._calls: dict[int, _Filling] = {}
        self._block: Block | None = None
        self._blocks = 0
        self._held = 0
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
                yield from self._advance(to_the_end=True)
                yield from self._end(parsed.stop_reason)
            case TokenUsage() if event.kind is EventKind.USAGE:
                self._usage = parsed
            case _:
                pass

    def _fill(self, kind: str, text: str, signature: str = "") -> Iterator[bytes]:
        last = self._filling[-1] if self._filling else None
        if last is None or last.kind != kind or last.signature:
            last = _Filling(kind)
            self._filling.append(last)
        last.signature = signature
        yield from self._add(last, text)

    def _think(self, delta: ThinkingDelta) -> Iterator[bytes]:
        if delta.text or delta.signature:
            yield from self._fill("thinking", delta.text, delta.signature)

    def _call(self, delta: ToolCallDelta) -> Iterator[bytes]:
        call = self._calls.get(delta.position)
        if call is None:
            call_id = call_id_of(delta.id, self._head.call_id, delta.position)
            call = self._calls[delta.position] = _Filling("tool", delta.position, call_id, delta.name)
            self._filling.append(call)
        elif call.over:
            if delta.arguments.strip():
                raise StreamBrokenError("the provider goes on with a tool call whose arguments were complete")
            return
        yield from self._add(call, delta.arguments)

    def _add(self, filling: _Filling, text: str) -> Iterator[bytes]:
        filling.add(text)
        yield from self._advance()
        if not filling.over and filling is not self._filling[0]:
            self._held += len(text.encode("utf-8", "replace"))
            if self._held > MAX_BODY_BYTES:
                message = "pieces of tool calls that the provider mixes: above"
                raise StreamBrokenError(f"{message} {MAX_BODY_BYTES} bytes wait for the first to be complete")
            yield self.PING  # nothing else tells the client that more comes

    def _advance(self, *, to_the_end: bool = False) -> Iterator[bytes]:
        """Write what can be: the first block, and the next as far as those before it are complete."""
        while self._filling:
            first = self._filling[0]
            yield from self._write(first)
            followed = len(self._filling) > 1 and first.complete
            if not (to_the_end or first.signature or followed):
                return
            self._filling.popleft()
            yield from self._leave(first)

    def _write(self, filling: _Filling) -> Iterator[bytes]:
        block = self._block
        if block is None:
            block = self._block = Block(
                self._blocks, filling.kind, filling.position, filling.id, filling.name
            )
            self._blocks += 1
            yield from self._opened(block)
        text, filling.unwritten = "".join(filling.unwritten), []
        if text:
            yield from self._filled(block, text)

    def _leave(self, filling: _Filling) -> Iterator[bytes]:
        block, self._block = self._block, None
        filling.over = True
        if block is not None:
            # Reasoning without a signature is sealed too: its own provider takes only what it has signed.
            sealed = seal(self._head.provider, filling.signature) if block.kind == "thinking" else ""
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
