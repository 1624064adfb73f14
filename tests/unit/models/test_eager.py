import asyncio
import weakref

import pytest

from attune.errors import TransientError
from attune.models.attempt import AttemptSpec
from attune.models.attempt_runner import AttemptRunner
from attune.models.eager import Eager
from attune.models.executor import AttemptBudget
from attune.models.request import ExecutionContext
from support.pipeline import STREAM, a_model, the_candidate


class Work:
    """Waits for ``waits`` passes of the event loop, and notes how it ends."""

    def __init__(self, waits: int) -> None:
        self.waits = waits
        self.ended_by: list[str] = []

    async def run(self) -> str:
        try:
            for _ in range(self.waits):
                await asyncio.sleep(0)
        except BaseException as reason:
            self.ended_by.append(type(reason).__name__)
            raise
        return "the result"


async def test_what_never_waits_is_done_at_once() -> None:
    step = Eager(Work(0).run())
    assert step.done
    assert step.result == "the result"


@pytest.mark.parametrize("waits", [1, 2, 5])
async def test_what_waits_gives_its_result_when_it_is_awaited(waits: int) -> None:
    step = Eager(Work(waits).run())
    assert not step.done
    assert await step == "the result"


async def test_the_values_of_what_it_waits_for_arrive() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    async def both() -> tuple[int, int]:
        return await first, await second

    step = Eager(both())
    loop.call_soon(first.set_result, 1)
    loop.call_later(0.001, second.set_result, 2)
    assert await step == (1, 2)


async def test_what_it_raises_before_it_waits_is_raised_at_once() -> None:
    async def fails() -> None:
        raise OSError("at once")

    with pytest.raises(OSError, match="at once"):
        Eager(fails())


async def test_what_it_raises_after_it_waited_is_raised_to_whoever_awaits_it() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise OSError("later")

    step = Eager(fails())
    with pytest.raises(OSError, match="later"):
        await step


async def test_a_time_out_around_it_ends_it_where_it_waits() -> None:
    never = asyncio.get_running_loop().create_future()
    ended = []

    async def waits() -> None:
        try:
            await never
        finally:
            ended.append(True)

    step = Eager(waits())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await step
    assert ended == [True]
    assert never.cancelled()


async def test_it_can_catch_a_cancellation_and_go_on() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "gone on"

    async def call() -> str:
        return await Eager(stubborn())

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "gone on"


async def test_closing_whoever_awaits_it_closes_it() -> None:
    work = Work(1)

    async def call() -> str:
        return await Eager(work.run())

    coroutine = call()
    coroutine.send(None)
    coroutine.close()
    assert work.ended_by == ["GeneratorExit"]


async def test_it_leaves_nothing_to_the_garbage_collector() -> None:
    step = Eager(Work(3).run())
    gone = weakref.ref(step._coroutine)
    await step
    del step
    assert gone() is None


async def test_dropped_without_being_awaited_it_is_closed() -> None:
    work = Work(1)
    Eager(work.run())
    assert work.ended_by == ["GeneratorExit"]


class Impatient:
    """A provider that gives up before it has waited for anything."""

    name = "p"
    credential = "api_key"

    async def open(self, *_):
        raise TimeoutError

    async def aclose(self):
        pass


async def test_a_provider_that_gives_up_before_it_waits_has_not_answered_in_time() -> None:
    runner = AttemptRunner([Impatient()])
    spec = AttemptSpec("call", "call", 0, ExecutionContext())
    attempt = runner.start(the_candidate("p/m"), a_model("p/m"), STREAM, AttemptBudget(), spec)
    with pytest.raises(TransientError, match="waiting for its first content"):
        await anext(attempt)
    assert attempt.record is not None
    assert attempt.record.error_class == "transient"
