"""Work beside an event loop that lets the loop go round between its steps.

Whoever computes in C keeps the interpreter lock until that is done, and a loop gives the lock away many times
in one round: with each system call, and whenever a thread has waited for it for the switch interval. Work
that took the lock each time would hold up every round by several of its steps. So it asks for its turn before
a step, and there is one in a round of the loop.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from time import thread_time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from attune.aside import aside

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_turns", "turn"]

P = ParamSpec("P")
T = TypeVar("T")

SLICE_S = 0.001
"""Processor time that work may take before it asks for the next turn: as much as a few small steps."""

LATEST_S = 0.05
"""Longer than this no turn is waited for: the loop may be busy, or at its end."""


class _Beside(threading.local):
    """Beside which loop this thread works, and its processor time at its last turn."""

    loop: asyncio.AbstractEventLoop | None = None
    since = 0.0


_beside = _Beside()


async def in_turns(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``aside(work, ...)``, where ``turn`` waits for the loop that this runs in."""
    return await aside(_beside_loop, asyncio.get_running_loop(), partial(work, *args, **kwargs))


def turn() -> None:
    """To be called before a step: in work of ``in_turns`` that had its last turn ``SLICE_S`` ago, wait until
    the loop has come round. Does nothing anywhere else.
    """
    loop = _beside.loop
    if loop is None or thread_time() - _beside.since < SLICE_S:
        return
    came_round = threading.Event()
    try:
        loop.call_soon_threadsafe(came_round.set)
    except RuntimeError:  # it was closed, and nobody is held up
        return
    came_round.wait(LATEST_S)
    _beside.since = thread_time()


def _beside_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> T:
    _beside.loop, _beside.since = loop, 0.0
    try:
        return work()
    finally:
        _beside.loop = None
