"""The calls that a runtime has under way, and how they are ended when it closes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from attune.errors import InvalidRequestError
from attune.models.call_stream import CallStream
from attune.models.interruption import Interruptible

if TYPE_CHECKING:
    from types import TracebackType

    from attune.models.call import Call
    from attune.models.executor import StreamEvent

__all__ = ["CallsUnderWay", "TrackedStream"]


class CallsUnderWay:
    """What is under way in every event loop; thread-safe.

    ``with calls.step():`` surrounds whatever a task awaits for a call. Once ``refuse`` was called, a
    step raises ``InvalidRequestError``, as does one that ``end`` interrupts. ``loops`` are the event
    loops that were used.
    """

    def __init__(self) -> None:
        self.refusing = False
        self.loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._steps: set[_Step] = set()
        self._streams: WeakSet[TrackedStream] = WeakSet()
        self._lock = threading.Lock()

    def refuse(self) -> bool:
        """Let nothing begin any more; false if that was so before."""
        with self._lock:
            before, self.refusing = self.refusing, True
        return not before

    def check(self) -> None:
        """Raise ``InvalidRequestError`` if nothing may begin any more."""
        if self.refusing:
            raise InvalidRequestError("attune was closed; open it again")

    def step(self) -> _Step:
        """A context manager around one step of a call in the running task."""
        return _Step(self)

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remember that a loop is used."""
        with self._lock:
            self.check()
            self.loops.add(loop)

    def track(self, stream: TrackedStream) -> None:
        """Close a stream at the end, if it is still there."""
        with self._lock:
            self._streams.add(stream)

    async def end(self) -> None:
        """Cancel what is under way in the running loop; returns when all of it has settled."""
        loop = asyncio.get_running_loop()
        steps = [step for step in tuple(self._steps) if step.loop is loop]
        for step in steps:
            step.interrupt(_closed())
        for step in steps:
            await step.left()
        with self._lock:
            streams = [stream for stream in self._streams if stream.loop is loop]
        for stream in streams:
            await stream.break_off(_closed())


def _closed() -> InvalidRequestError:
    return InvalidRequestError("attune was closed while this call was under way")


class _Step(Interruptible):
    """One step, known for as long as it is taken."""

    def __init__(self, calls: CallsUnderWay) -> None:
        super().__init__()
        self._calls = calls
        self.loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._calls.enter(self.loop)
        super().__enter__()
        self._calls._steps.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls._steps.discard(self)
        super().__exit__(kind, error, trace)


class TrackedStream(CallStream):
    """A ``CallStream`` that ends with its runtime: closed early, it raises instead of just ending."""

    def __init__(self, call: Call, calls: CallsUnderWay, *, ping_s: float | None = None) -> None:
        super().__init__(call, ping_s=ping_s)
        self._calls = calls
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __anext__(self) -> StreamEvent:
        if self.loop is None:
            loop = asyncio.get_running_loop()
            self._calls.enter(loop)
            self._calls.track(self)
            self.loop = loop
        elif self.response is None:
            self._calls.check()
        return await super().__anext__()
