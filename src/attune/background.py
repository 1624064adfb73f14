"""An event loop for programs that have none."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from attune.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["BackgroundLoop", "OwnerLoop", "in_a_loop", "refuse_in_a_loop", "wait_for"]

T = TypeVar("T")

SETTLE_SECONDS = 5.0
"""How long an interrupted wait leaves its coroutine to give back what it took."""


class BackgroundLoop:
    """A running event loop in a thread of its own, which does not keep the program alive."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="attune-calls", daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """End the loop, cancelling what is left in it, and the thread."""
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self.loop = runner.get_loop()
            self._over = asyncio.Event()
            ready.set()
            runner.run(self._until_over())

    async def _until_over(self) -> None:
        await self._over.wait()


class OwnerLoop:
    """The event loop that owns what one alone may use, such as a router: the one that was entered, else one
    in the background. ``use`` is called with it before it is used, and may refuse by raising.
    """

    def __init__(self, use: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        self._use = use
        self._entered: asyncio.AbstractEventLoop | None = None
        self._background: BackgroundLoop | None = None
        self._starting = threading.Lock()

    def enter(self) -> None:
        """Make the running loop the owner."""
        self._entered = asyncio.get_running_loop()
        self._use(self._entered)

    def started(self) -> asyncio.AbstractEventLoop:
        """The owner, for calls from other threads; it is started if there is none."""
        known = self._known()
        if known is not None:
            return known
        with self._starting:
            if self._background is None:
                background = BackgroundLoop()
                try:
                    self._use(background.loop)
                except BaseException:
                    background.stop()
                    raise
                self._background = background
            return self._background.loop

    def run(self, work: Callable[[], T]) -> T:
        """Do something in the owner, if one is running, unless this thread runs a loop."""

        async def done() -> T:
            return work()

        owner = self._known()
        if owner is None or not owner.is_running() or in_a_loop():
            return work()
        return wait_for(done(), owner)

    def stop(self) -> None:
        """End the loop in the background, if there is one."""
        if self._background is not None:
            self._background.stop()

    def _known(self) -> asyncio.AbstractEventLoop | None:
        if self._entered is not None and self._entered.is_running():
            return self._entered
        return None if self._background is None else self._background.loop


def in_a_loop() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_in_a_loop() -> None:
    """Raise ``InvalidRequestError`` where waiting would hold up a running event loop."""
    if in_a_loop():
        raise InvalidRequestError(
            "inside an event loop use `async with` and `await ai.run(...)`, not `with` and `ai.ask(...)`"
        )


def wait_for(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Run a coroutine in the loop of another thread and wait for what it returns.

    When the wait is interrupted (Ctrl-C), the coroutine is cancelled and first settles.
    """
    settled = threading.Event()

    async def run() -> T:
        try:
            return await coroutine
        finally:
            settled.set()

    future = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        return future.result()
    except BaseException:
        if future.cancel():
            settled.wait(SETTLE_SECONDS)
        raise
