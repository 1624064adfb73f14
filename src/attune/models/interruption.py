"""A stretch of one task's work that another task can break off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Interruptible", "TimeLimit"]


class Interruptible:
    """``with interruptible:`` surrounds what a task awaits; ``interrupt`` ends that with an error of its own.

    It may be entered again and again, by one task at a time. As with ``asyncio.timeout``, what is cancelled
    here is no cancellation for the task, unless somebody else has cancelled it too.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self._reason: Exception | None = None
        self._left: asyncio.Event | None = None

    @property
    def running(self) -> bool:
        """Whether a task is in there now."""
        return self._task is not None

    @property
    def is_ours(self) -> bool:
        """Whether the running task is in there, and nobody else."""
        return self._task is not None and self._task is _current_task()

    def interrupt(self, reason: Exception) -> None:
        """Raise ``reason`` in there, if a task is; only once. In that very task it is raised at once."""
        if self.is_ours:
            raise reason
        if self._task is not None and self._reason is None:
            self._reason = reason
            self._task.cancel()

    async def left(self) -> None:
        """Wait until nobody is in there."""
        if self._task is not None:
            if self._left is None:
                self._left = asyncio.Event()
            await self._left.wait()

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # whatever is awaited has one
        self._task = task
        self._cancelled_before = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        left, self._left = self._left, None
        if left is not None:
            left.set()
        if self._reason is None:
            return
        reason, self._reason = self._reason, None
        assert task is not None
        ours = task.uncancel() <= self._cancelled_before
        if ours and isinstance(error, asyncio.CancelledError):
            raise reason from None


def _current_task() -> asyncio.Task[object] | None:
    """The running task; ``None`` in a callback of the loop, or without a loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


class TimeLimit(Interruptible):
    """``with limit.within(seconds):`` raises ``TimeoutError`` after so long.

    One timer serves one entry after another. It is moved when it would come too late, and when it has come
    too early: an entry that is soon left costs next to nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> TimeLimit:
        """Limit the next entry, from now on."""
        self._until = asyncio.get_running_loop().time() + seconds
        if self._timer is None or self._timer.when() > self._until:
            self.stop()
            self._start()
        return self

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        # By a weak reference: a timer must not keep alive what was dropped without being ended.
        self._timer = asyncio.get_running_loop().call_at(self._until, _come_due, ref(self))

    def _come_due(self) -> None:
        self._timer = None
        if not self.running:
            return
        if asyncio.get_running_loop().time() < self._until:
            self._start()
        else:
            self.interrupt(TimeoutError())


def _come_due(limit: ref[TimeLimit]) -> None:
    if (alive := limit()) is not None:
        alive._come_due()
