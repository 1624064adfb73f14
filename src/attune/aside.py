"""Work that would hold up an event loop, done beside it: one piece of work at a time.

One thread and not the several of ``asyncio.to_thread``: the loop shares the interpreter lock with whatever
computes, and has to wait for its turn behind each of them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["aside"]

P = ParamSpec("P")
T = TypeVar("T")

_thread = ThreadPoolExecutor(1, thread_name_prefix="attune-aside")


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns or raises; when the wait is cancelled, work that has begun goes on to its end."""
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **kwargs))
