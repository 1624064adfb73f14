"""Tests of times that the machine decides too: how long something took, which of two was the first.

A machine with other work gives a process no time at all now and then, for seconds at worst. What was measured
meanwhile says nothing about attune, so such a test is made anew, in a folder of its own:

    @anew_after_a_stall
    async def test_a_limit_is_kept(tmp_path: Path) -> None: ...

A failure while the event loop had all its time is a failure at once.
"""

from __future__ import annotations

import asyncio
import time
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TRIES = 10
BEAT_SECONDS = 0.01
STALL_SECONDS = 0.05
"""So late, all its turns together, may the loop of a try be that counts."""


class Lateness:
    """How much later than it should an event loop has run a task of this one; ``seconds`` in all."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._due = time.monotonic() + BEAT_SECONDS

    @property
    def seconds(self) -> float:
        return self._passed + max(0.0, time.monotonic() - self._due)

    async def watch(self) -> None:
        """Look at the time for ever."""
        while True:
            self._due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._passed = self.seconds


def anew_after_a_stall(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Try a test again, so many times, when it failed and the loop did not get all its time."""

    @wraps(test)
    async def tried(**arguments: Any) -> None:
        for number in range(1, TRIES + 1):
            again = _in_a_folder_of_its_own(arguments, number)
            lateness = Lateness()
            watching = asyncio.create_task(lateness.watch())
            trying = asyncio.ensure_future(test(**again))
            await asyncio.wait({trying})
            seconds = lateness.seconds
            watching.cancel()
            if trying.exception() is None or seconds < STALL_SECONDS or number == TRIES:
                break
        trying.result()

    return tried


def _in_a_folder_of_its_own(arguments: dict[str, Any], number: int) -> dict[str, Any]:
    if "tmp_path" not in arguments:
        return arguments
    folder = arguments["tmp_path"] / f"try-{number}"
    folder.mkdir()
    return {**arguments, "tmp_path": folder}
