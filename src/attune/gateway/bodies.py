"""The memory that requests take, all of them together."""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import suppress

from attune.aside import aside
from attune.gateway.http import HTTPError

__all__ = ["Bodies", "keep_freed_memory", "return_freed_memory"]

QUIET_SECONDS = 1.0
"""After so long without a large body the memory that they took is given back to the system."""

RETURN_SECONDS = 10.0
"""How often the system is given back what lies free between what is in use."""

_NOT_GNU = (AttributeError, OSError, TypeError)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MIB = 1024 * 1024


class Bodies:
    """Counts the bytes of the large bodies that are held: at most ``limit``.

    What does not fit is refused and not waited for: the memory is held by calls, which may take minutes,
    and a client whose body nobody reads cannot tell that from a broken connection.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._returning: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def check(self, size: int) -> None:
        """Raise ``HTTPError`` unless ``size`` more bytes fit."""
        if self._held + size > self._limit:
            raise HTTPError(
                503,
                "the gateway holds as many large bodies as it may; try again later, or raise "
                "[gateway] max_bodies_mib",
                headers={"retry-after": "1", "connection": "close"},
            )

    def hold(self, size: int) -> None:
        """Count ``size`` more bytes. Raises ``HTTPError`` where they do not fit."""
        self.check(size)
        self._held += size

    def release(self, size: int) -> None:
        """Bytes are not held any more."""
        self._held -= size
        self.return_memory_soon()

    def return_memory_soon(self) -> None:
        """Something large was freed: unless more comes, the system has its memory back in a second."""
        if self._returning is not None:
            self._returning.cancel()
        self._returning = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._return)

    def _return(self) -> None:
        if not self._held:
            self._task = asyncio.ensure_future(aside(_return_freed_memory))


def keep_freed_memory() -> None:
    """Let the C library keep the memory of one large body for the next, until ``Bodies`` gives it back.

    It would else ask the system for each block above some size anew, and every page of it is then set up when
    it is first written to: 8 ms for 10 MB, during which the interpreter lock is mostly held. (The numbers are
    those of ``mallopt`` of the GNU C library; any other is left as it is.)
    """
    with suppress(*_NOT_GNU):
        library = ctypes.CDLL(None)
        _ = library.malloc_trim
        for parameter, value in (
            (_ARENA_MAX, 1),
            (_MMAP_THRESHOLD, 32 * _MIB),
            (_TRIM_THRESHOLD, 512 * _MIB),
        ):
            library.mallopt(parameter, value)


async def return_freed_memory() -> None:
    """Give memory back for as long as this runs: of blocks that come and go by the million, more and more
    pages are left with nothing in them, some 0.5 MB every 10,000 requests.
    """
    while True:
        await asyncio.sleep(RETURN_SECONDS)
        await aside(_return_freed_memory)


def _return_freed_memory() -> None:
    with suppress(*_NOT_GNU):
        ctypes.CDLL(None).malloc_trim(0)
