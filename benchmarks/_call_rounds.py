"""Timing of whole calls, for the workers of ``call.py``. Standard library only: peers run it too.

A worker holds some cases ready and times a round of one whenever it is told to, so that the rounds of all
products take turns. It reads a line for each round, ``{"case": ..., "at_once": ...}``, and prints a line of
figures. A case is a coroutine function that makes one call and checks its answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

ANSWER = "Rayleigh scattering: short waves of light are scattered more than long ones."
QUESTION = "Why is the sky blue?"
API_KEY = "sk-of-the-benchmark"
ROUND_SECONDS = 0.5
"""A round begins no call after this long."""

WARM_UP = 30


def checked(text: str) -> None:
    """Raise ``RuntimeError`` for an answer that is not the upstream's: a wrong one may be a fast one."""
    if text != ANSWER:
        raise RuntimeError(f"the answer is {text!r}")


async def serve(cases: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
    """Warm every case up, say so, then time rounds until there are no more lines."""
    for call in cases.values():
        for _ in range(WARM_UP):
            await call()
    print(json.dumps(list(cases)), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await one_round(cases[order["case"]], order["at_once"])), flush=True)


async def one_round(call: Callable[[], Awaitable[None]], at_once: int) -> dict[str, float]:
    """Calls of so many callers, each one call after the other: microseconds a call, and calls a second."""
    taken: list[int] = []
    clock = time.perf_counter_ns
    began = clock()
    end = began + int(ROUND_SECONDS * 1e9)

    async def caller() -> None:
        while (start := clock()) < end:
            await call()
            taken.append(clock() - start)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    seconds = (clock() - began) / 1e9
    taken.sort()
    p50, p95 = (taken[min(len(taken) - 1, int(q * len(taken)))] / 1e3 for q in (0.50, 0.95))
    return {"p50_us": p50, "p95_us": p95, "per_second": len(taken) / seconds}
