"""An attempt up to its first content, alone or with a second one beside it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from attune.errors import ErrorClass, ProviderError
from attune.models.executor import EventKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from attune.models.attempt import Attempt
    from attune.models.executor import StreamEvent

__all__ = ["Beginning", "first_events", "race"]

Beginning: TypeAlias = "list[StreamEvent] | ProviderError"
"""The events up to the first content or the end of a complete answer, or why it failed before."""

_HOPELESS = frozenset({ErrorClass.CALLER, ErrorClass.REFUSAL})
"""What another attempt at the same request would come to as well."""


async def first_events(attempt: Attempt) -> Beginning:
    """Read an attempt up to its first content."""
    events: list[StreamEvent] = []
    try:
        async for event in attempt:
            events.append(event)
            if event.kind is EventKind.CONTENT or event.kind is EventKind.TERMINAL:
                break
    except ProviderError as error:
        return error
    return events


async def race(
    first: Attempt,
    *,
    timer: Coroutine[Any, Any, None],
    second: Callable[[], Awaitable[Attempt | None]],
    lost: Callable[[Attempt, ProviderError | None], None],
) -> tuple[Attempt, Beginning]:
    """The attempt that begins to answer first, and its beginning; or the last one's failure.

    When ``timer`` is over before ``first`` has begun, ``second`` may start another attempt. One that does
    not win is ended and told to ``lost``, with its error if it failed while the other still ran. However
    this ends, no attempt but the returned one goes on.
    """
    over = asyncio.create_task(timer)
    running: dict[asyncio.Task[Beginning], Attempt] = {asyncio.create_task(first_events(first)): first}
    try:
        waited_for: set[asyncio.Task[Any]] = {over, *running}
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if not any(each.done() for each in running) and (another := await second()) is not None:
            running[asyncio.create_task(first_events(another))] = another
        while True:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            done = [each for each in running if each.done()]
            ended = next((each for each in done if not _failed(each)), done[0])
            attempt, beginning = running.pop(ended), ended.result()
            if not running or not isinstance(beginning, ProviderError) or beginning.error_class in _HOPELESS:
                await _end(running)
                for loser in running.values():
                    lost(loser, None)
                return attempt, beginning
            lost(attempt, beginning)
    finally:
        over.cancel()
        await _end(running)


def _failed(ended: asyncio.Task[Beginning]) -> bool:
    return ended.exception() is not None or isinstance(ended.result(), ProviderError)


async def _end(running: dict[asyncio.Task[Beginning], Attempt]) -> None:
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for attempt in running.values():
        await attempt.aclose()
