"""An attempt up to its first content, alone or with a second one beside it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from attune.errors import ErrorClass, ProviderError
from attune.models.executor import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from attune.models.attempt import Attempt
    from attune.models.executor import StreamEvent

__all__ = ["Beginning", "first_events", "race"]

Beginning: TypeAlias = "list[StreamEvent] | ProviderError"
"""The events up to the first content or the end of a complete answer, each ping once; or why it failed."""

_HOPELESS = frozenset({ErrorClass.CALLER, ErrorClass.REFUSAL})
"""What another attempt at the same request would come to as well."""


_ALIVE = (b":", b"event: ping")
"""How an event begins that says nothing but that the answer is still being made."""


async def first_events(attempt: Attempt) -> Beginning:
    """Read an attempt up to its first content."""
    events: list[StreamEvent] = []
    try:
        async for event in attempt:
            if event.kind is EventKind.PING and event.raw.startswith(_ALIVE) and events[-1:] == [event]:
                continue  # there may be any number of them; any other may hold what a client must see
            events.append(event)
            if event.kind is EventKind.CONTENT or event.kind is EventKind.TERMINAL:
                break
    except ProviderError as error:
        return error
    return events


async def race(
    first: Attempt,
    *,
    timer: Callable[[], Coroutine[Any, Any, None]],
    second: Callable[[], Coroutine[Any, Any, Attempt | None]],
    lost: Callable[[Attempt, ProviderError | None], None],
) -> tuple[Attempt, Beginning]:
    """The attempt that begins to answer first, and its beginning; or the last one's failure.

    When ``timer`` is over before ``first`` has begun, ``second`` may start another attempt; ``first`` does
    not wait for that. One that does not win is ended and told to ``lost``, with its error if it failed while
    the other still ran. However this ends, no attempt but the returned one goes on. A request that ``first``
    finds fault with is at fault; what the other refuses may be of its own making.
    """
    running: dict[asyncio.Task[Beginning], Attempt] = {asyncio.create_task(first_events(first)): first}
    starting: asyncio.Task[Attempt | None] | None = asyncio.create_task(_after(timer, second))
    try:
        while True:
            waited_for: set[asyncio.Task[Any]] = {*running} if starting is None else {starting, *running}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if starting is not None and starting.done():
                another, starting = starting.result(), None
                if another is not None:
                    running[asyncio.create_task(first_events(another))] = another
            ended = _ended(running)
            if ended is None:
                continue
            attempt, beginning = running[ended], ended.result()
            if len(running) == 1 or _is_final(beginning, of_first=attempt is first):
                await _stop(starting)
                starting = None
                others = {task: each for task, each in running.items() if task is not ended}
                await _end(others)
                for loser in others.values():
                    lost(loser, None)
                running.clear()
                return attempt, beginning
            del running[ended]
            if isinstance(beginning, ProviderError):  # as it is: else it had won
                lost(attempt, beginning)
    finally:
        await _stop(starting)
        await _end(running)


async def _after(
    timer: Callable[[], Coroutine[Any, Any, None]],
    second: Callable[[], Coroutine[Any, Any, Attempt | None]],
) -> Attempt | None:
    await timer()
    return await second()


def _is_final(beginning: Beginning, *, of_first: bool) -> bool:
    if not isinstance(beginning, ProviderError):
        return True
    return of_first and beginning.error_class in _HOPELESS


def _ended(running: dict[asyncio.Task[Beginning], Attempt]) -> asyncio.Task[Beginning] | None:
    """One that has begun to answer, else one that has failed, if any."""
    done = [each for each in running if each.done()]
    return next((each for each in done if not _failed(each)), done[0] if done else None)


async def _stop(starting: asyncio.Task[Attempt | None] | None) -> None:
    """End the start of an attempt."""
    if starting is None:
        return
    starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled():
        starting.exception()  # nobody waits for it any more


def _failed(ended: asyncio.Task[Beginning]) -> bool:
    return ended.exception() is not None or isinstance(ended.result(), ProviderError)


async def _end(running: dict[asyncio.Task[Beginning], Attempt]) -> None:
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for attempt in running.values():
        await attempt.aclose()
