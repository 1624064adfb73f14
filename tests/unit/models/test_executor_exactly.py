"""The executor, to the word and the instant: what an approximate look would not notice."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from attune.errors import AllProvidersFailedError, NoCandidateError, StreamBrokenError, TransientError
from attune.models.call_stream import CallStream
from attune.models.executor import EventKind, StreamEvent, TextDelta
from attune.models.failure_domains import BreakerLimits
from attune.models.request import ExecutionContext
from support.pipeline import ASK, Fleet

DOWN = TransientError("503", status=503)


async def test_the_pauses_come_from_the_generator_that_was_given():
    fleet = Fleet("a/m", scripts={"a": [DOWN]}, seed=11)
    await fleet.executor.run(ASK)
    assert fleet.steps[0].endswith(f"again in {Random(11).uniform(0, 0.5):.2f} s")


async def test_each_provider_has_a_retry_bucket_of_its_own():
    fleet = Fleet("a/m", "b/m")
    assert fleet.executor.bucket("a") is fleet.executor.bucket("a")
    while fleet.executor.bucket("a").take():
        pass
    assert fleet.executor.bucket("b").take()


async def too_often_wrong(**options: float) -> Fleet:
    """A fleet whose only model has failed in all of its calls, and works now; its circuit is closed."""
    fleet = Fleet("a/m", breaker=BreakerLimits(failure_threshold=10_000), **options)
    fleet["a"].default = DOWN
    for _ in range(30):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
    fleet["a"].default = "back again"
    assert fleet.domains.quiet
    return fleet


async def test_a_required_success_rate_is_not_given_up_although_a_candidate_is_available():
    fleet = await too_often_wrong()
    asked = fleet.asked
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.5))
    assert fleet.asked == asked


@pytest.mark.parametrize(
    ("preferred", "notes"), [(0.95, ("no candidate reaches a success rate of 95%",)), (0.0, ())]
)
async def test_the_success_rate_where_a_call_asks_for_none_can_be_set_and_stays_a_preference(
    preferred: float, notes: tuple[str, ...]
):
    fleet = await too_often_wrong(min_success_rate=preferred)
    await fleet.executor.run(ASK)
    assert fleet.decisions[-1].notes == notes
    with pytest.raises(NoCandidateError, match=r"below 50\.0%"):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.5))


async def test_what_the_router_noted_stays_beside_what_the_executor_notes():
    fleet = await too_often_wrong()
    await fleet.executor.run(ASK, ExecutionContext(task_type="knitting"))
    unknown, floor = fleet.decisions[-1].notes
    assert "unknown task 'knitting'" in unknown
    assert floor == "no candidate reaches a success rate of 80%"


class Failing:
    """A call whose beginning fails when the gate opens."""

    id = "call"

    def __init__(self, error=DOWN):
        self.gate = asyncio.Event()
        self.closed = False
        self.error = error

    async def begin(self):
        await self.gate.wait()
        raise self.error

    async def aclose(self):
        self.closed = True


async def test_closing_a_stream_that_has_failed_meanwhile_raises_nothing_and_closes_the_call():
    call = Failing()
    stream = CallStream(call, ping_s=0.001)
    assert (await anext(stream)).kind is EventKind.PING
    call.gate.set()
    for _ in range(3):
        await asyncio.sleep(0)
    await stream.aclose()
    assert call.closed
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_whoever_reads_a_stream_that_another_task_closes_is_told_at_once():
    call = Failing()
    stream = CallStream(call)
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await stream.aclose()
        with pytest.raises(StreamBrokenError, match=r"^the stream was closed while it was being read$"):
            await reader
    assert call.closed


async def test_a_time_out_of_the_call_itself_is_not_taken_for_a_close():
    call = Failing(TimeoutError("its own"))
    call.gate.set()
    with pytest.raises(TimeoutError, match="its own"):
        await anext(CallStream(call))


async def test_a_stream_that_its_reader_closes_gives_what_had_come_and_then_ends():
    events = [StreamEvent(EventKind.META, b"", None), StreamEvent(EventKind.CONTENT, b"", TextDelta("x"))]

    class Closing(Failing):
        async def begin(self):
            await stream.aclose()
            return None, events

    stream = CallStream(Closing())
    assert [event async for event in stream] == events
