"""The calls that a runtime has under way, and how they are ended when it closes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from attune.errors import InvalidRequestError
from attune.models.call_stream import CallStream

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
            step.interrupt()
        for step in steps:
            await step.left.wait()
        with self._lock:
            streams = [stream for stream in self._streams if stream.loop is loop]
        for stream in streams:  # between two events, with nobody waiting
            await stream.aclose()


class _Step:
    """One step: the task that takes it, and whether it was interrupted."""

    def __init__(self, calls: CallsUnderWay) -> None:
        self._calls = calls
        self._interrupted = False
        self.loop = asyncio.get_running_loop()
        self.left = asyncio.Event()

    def interrupt(self) -> None:
        self._interrupted = True
        self._task.cancel()

    def __enter__(self) -> None:
        self._calls.enter(self.loop)
        task = asyncio.current_task()
        assert task is not None  # whatever is awaited has one
        self._task = task
        self._cancelled_before = task.cancelling()
        self._calls._steps.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls._steps.discard(self)
        self.left.set()
        # As asyncio.timeout does: what we cancelled is no cancellation for the caller, unless
        # somebody else has cancelled the task too.
        ours = self._interrupted and self._task.uncancel() <= self._cancelled_before
        if ours and isinstance(error, asyncio.CancelledError):
            raise InvalidRequestError("attune was closed while this call was under way") from None


class TrackedStream(CallStream):
    """A ``CallStream`` that ends with its runtime: closed early, it raises instead of just ending."""

    def __init__(self, call: Call, calls: CallsUnderWay, *, ping_s: float | None = None) -> None:
        super().__init__(call, ping_s=ping_s)
        self._calls = calls
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __anext__(self) -> StreamEvent:
        if self.response is not None:
            return await super().__anext__()
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self._calls.track(self)
        with self._calls.step():
            return await super().__anext__()
