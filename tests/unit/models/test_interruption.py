"""Breaking off what another task awaits, and limits of time that share one timer."""

import asyncio

import pytest

from attune.models.interruption import Interruptible, TimeLimit


class GoneError(Exception):
    """Why it is broken off."""


async def test_another_task_ends_a_wait_with_an_error_of_its_own() -> None:
    work = Interruptible()

    async def wait() -> str:
        try:
            with work:
                await asyncio.sleep(60)
        except GoneError:
            await asyncio.sleep(0)  # what comes after it is not cancelled
            return "gone"
        return "done"

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert work.running
    work.interrupt(GoneError())
    await work.left()
    assert not work.running
    assert await task == "gone"


async def test_a_cancellation_by_somebody_else_stays_one() -> None:
    work = Interruptible()

    async def wait() -> None:
        with work:
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    work.interrupt(GoneError())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_in_its_own_task_the_error_comes_at_once_and_nothing_later_is_cancelled() -> None:
    work = Interruptible()
    with pytest.raises(GoneError), work:
        work.interrupt(GoneError())
    await asyncio.sleep(0)


async def test_who_is_not_in_there_is_not_interrupted() -> None:
    work = Interruptible()
    work.interrupt(GoneError())
    with work:
        await asyncio.sleep(0)


async def test_a_limit_holds_for_each_entry_anew() -> None:
    limit = TimeLimit()
    for _ in range(3):
        with limit.within(60):
            await asyncio.sleep(0)
    with pytest.raises(TimeoutError), limit.within(0.01):
        await asyncio.sleep(60)
    with limit.within(60):
        await asyncio.sleep(0.02)  # the timer of before has come, and has nothing to end
    with pytest.raises(TimeoutError), limit.within(0):
        await asyncio.sleep(60)
    limit.stop()


async def test_a_limit_around_an_interruptible_wait_ends_the_inner_one() -> None:
    outer, inner = Interruptible(), TimeLimit()

    async def wait() -> str:
        with outer:
            try:
                with inner.within(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                await asyncio.sleep(0)
                return "late"
        return "done"

    assert await asyncio.create_task(wait()) == "late"
