"""An event loop for programs that have none."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["BackgroundLoop", "in_a_loop", "wait_for"]

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


def in_a_loop() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


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
