"""Time as a parameter: what the engine asks for the time, and the machine's own clock."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """Where time comes from. ``attune.testing.FakeClock`` is one that a test moves."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for time-outs and breakers."""

    def time(self) -> float:
        """UTC epoch seconds; for records and prices."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        """Wait with ``asyncio.sleep``."""
        import asyncio

        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
