"""A call as a stream: replaced before its first content, never after it."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import (
    AllProvidersFailedError,
    CallerError,
    InvalidRequestError,
    ProviderError,
    StreamBrokenError,
    TransientError,
)
from attune.models.executor import EventKind, TextDelta
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import COST, STREAM, Fleet, a_model, the_candidate

DOWN = TransientError("overloaded", status=503)
NO_REPEAT = RetryPolicy(max_repeats=0)
FULL = Reply("half an ans", stop_reason="context_window")


async def read(stream):
    """The text of a stream up to its end or its failure, which is returned beside it."""
    text = ""
    try:
        async for event in stream:
            if isinstance(event.parsed, TextDelta):
                text += event.parsed.text
    except ProviderError as error:
        return text, error
    return text, None


async def test_a_stream_has_the_events_of_its_attempt_and_then_its_response():
    fleet = Fleet("a/m", scripts={"a": ["hello big world"]})
    async with fleet.executor.stream(STREAM) as events:
        assert aiter(events) is events
        kinds = []
        async for event in events:
            assert events.response is None or event.kind == "terminal"
            kinds.append(event.kind.value)
    assert kinds == ["meta", "content", "content", "content", "usage", "terminal"]
    assert events.response.text == "hello big world"
    assert (events.response.cost_nanos, events.response.provider) == (COST, "a")
    assert [attempt.error_class for attempt in events.response.attempts] == [""]
    assert events.response.decision.candidate == the_candidate("a/m")


@pytest.mark.parametrize(
    "failing",
    [
        DOWN,
        Reply("", error=StreamBrokenError("cut"), error_after=0),
        Reply("", stop_reason="context_window", usage=None),
    ],
    ids=["before-the-head", "before-the-content", "empty-and-full"],
)
async def test_before_its_first_content_a_stream_is_replaced_and_nothing_of_it_is_seen(failing):
    fleet = Fleet(
        a_model("a/m"),
        a_model("b/big", window=200_000),
        scripts={"a": [failing], "b": ["right"]},
        retry=NO_REPEAT,
    )
    async with fleet.executor.stream(STREAM) as events:
        collected = [event async for event in events]
    assert [event.parsed.model for event in collected if event.kind == "meta"] == ["big"]
    assert events.response.text == "right"
    assert events.response.fallback_used
    assert fleet.seen == ["a/m", "b/big"]


async def test_after_its_first_content_a_stream_is_never_replaced():
    cut = Reply("one two three", error=StreamBrokenError("cut"), error_after=2)
    fleet = Fleet("a/m", "b/m", scripts={"a": [cut]})
    async with fleet.executor.stream(STREAM) as events:
        text, error = await read(events)
        assert (text, str(error)) == ("one two", "cut")
        assert await read(events) == ("", None), "and then it is over"
    assert events.response is None
    assert fleet.seen == ["a/m"]
    assert (fleet.records[0].stop_reason, fleet.records[0].error_class) == ("truncated", "mid_stream")
    assert len(fleet.records) == 1
    assert fleet.nothing_is_taken()


async def test_the_whole_answer_is_replaced_when_nobody_has_seen_its_beginning():
    cut = Reply("one two three", error=StreamBrokenError("cut"), error_after=2)
    fleet = Fleet("a/m", "b/m", scripts={"a": [cut], "b": ["right"]}, retry=NO_REPEAT)
    response = await fleet.executor.run(STREAM)
    assert response.text == "right"
    assert fleet.records[0].stop_reason == "truncated"


async def test_an_empty_answer_is_an_answer():
    fleet = Fleet("a/m", scripts={"a": [Reply("")]})
    async with fleet.executor.stream(STREAM) as events:
        assert [event.kind.value async for event in events] == ["meta", "usage", "terminal"]
    assert events.response.text == ""


async def test_an_answer_that_fills_its_window_after_its_content_was_seen_is_the_answer():
    fleet = Fleet(a_model("a/m"), a_model("b/big", window=200_000), scripts={"a": [FULL]})
    async with fleet.executor.stream(STREAM) as events:
        assert (await read(events))[0] == "half an ans"
    assert events.response.stop_reason == "context_window"
    assert fleet.seen == ["a/m"]


async def test_leaving_a_stream_early_closes_the_connection():
    fleet = Fleet("a/m", scripts={"a": ["one two three"]})
    async with fleet.executor.stream(STREAM) as events:
        async for event in events:
            if event.kind == "content":
                break
    assert (fleet["a"].abandoned, fleet["a"].in_flight) == (1, 0)
    assert [record.error_class for record in fleet.records] == ["cancelled"]
    assert events.response is None


async def test_a_stream_that_was_never_read_asks_nobody():
    fleet = Fleet("a/m")
    async with fleet.executor.stream(STREAM):
        pass
    assert (fleet.asked, fleet.decisions) == (0, [])


async def test_a_stream_raises_what_a_call_raises():
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].default = fleet["b"].default = DOWN
    async with fleet.executor.stream(STREAM) as events:
        with pytest.raises(AllProvidersFailedError) as caught:
            await anext(events)
    assert len(caught.value.attempts) == 2


async def test_a_stream_that_was_cancelled_or_left_begins_no_other_attempt():
    fleet = Fleet("a/m", scripts={"a": [Reply(head_s=float("inf"))]})
    async with fleet.executor.stream(STREAM) as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    async with fleet.executor.stream(STREAM) as left:
        pass
    with pytest.raises(StopAsyncIteration):
        await anext(left)
    assert fleet.asked == 1


async def test_a_stream_is_no_attempt_more_after_its_failure_was_raised():
    fleet = Fleet("a/m", "b/m", scripts={"a": [CallerError("bad", status=400)]})
    async with fleet.executor.stream(STREAM) as events:
        with pytest.raises(CallerError):
            await anext(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert fleet.asked == 1


async def test_a_consumer_that_wants_pings_gets_them_until_the_first_content():
    fleet, pinged = Fleet("a/m"), asyncio.Event()
    fleet["a"].sleep = lambda seconds: pinged.wait()
    fleet["a"].then(Reply(("one ", "two"), first_content_s=1.0))
    async with fleet.executor.stream(STREAM, ping_s=0.02) as events:
        assert events.candidate is None
        kinds = [(await anext(events)).kind]
        pinged.set()
        kinds += [event.kind async for event in events]
        assert events.candidate.key == "a/m#api_key"
    first = kinds.index(EventKind.META)
    assert first >= 1
    assert set(kinds[:first]) == {EventKind.PING}
    assert EventKind.PING not in kinds[first:]
    assert kinds[-1] is EventKind.TERMINAL
    assert [record.call_id for record in fleet.records] == [events.call_id]


async def test_after_pings_another_candidate_may_still_take_over():
    fleet, pinged = Fleet("a/m", "b/m", retry=RetryPolicy(max_repeats=0)), asyncio.Event()
    fleet["a"].sleep = lambda seconds: pinged.wait()
    fleet["a"].then(Reply(error=TransientError("overloaded"), head_s=1.0))
    async with fleet.executor.stream(STREAM, ping_s=0.02) as events:
        assert (await anext(events)).kind is EventKind.PING
        pinged.set()
        await _to_the_end(events)
    assert events.response.provider == "b"


@pytest.mark.parametrize("how", ["close", "cancel", "fail"])
async def test_a_stream_with_pings_leaves_nothing_behind(how):
    fleet = Fleet("a/m", retry=RetryPolicy(max_repeats=0))
    held = asyncio.Event()
    fleet["a"].sleep = lambda seconds: held.wait()
    fleet["a"].then(Reply(error=TransientError("overloaded"), head_s=1.0))
    events = fleet.executor.stream(STREAM, ping_s=0.01)
    assert (await anext(events)).kind is EventKind.PING
    if how == "close":
        await events.aclose()
    elif how == "fail":
        held.set()
        with pytest.raises(AllProvidersFailedError):
            async for _ in events:
                pass
    else:
        waiting = asyncio.ensure_future(_to_the_end(events))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    assert len(asyncio.all_tasks()) == 1
    assert fleet.nothing_is_taken()
    assert [record.error_class for record in fleet.records] == ["transient" if how == "fail" else "cancelled"]


async def _to_the_end(events):
    return [event async for event in events]


@pytest.mark.parametrize("ping_s", [0, -1, "1", float("nan"), float("inf"), True])
def test_a_time_between_pings_that_makes_no_sense_is_refused(ping_s):
    with pytest.raises(InvalidRequestError, match="ping_s must be"):
        Fleet("a/m").executor.stream(STREAM, ping_s=ping_s)


async def test_a_second_reader_is_refused_and_the_first_goes_on():
    fleet = Fleet("a/m")
    held = asyncio.Event()
    fleet["a"].sleep = lambda seconds: held.wait()
    fleet["a"].then(Reply(("one ", "two"), first_content_s=1.0))
    async with fleet.executor.stream(STREAM) as events:
        first = asyncio.create_task(_to_the_end(events))
        for _ in range(20):
            await asyncio.sleep(0)
        with pytest.raises(InvalidRequestError, match="another task is reading"):
            await anext(events)
        held.set()
        assert (await first)[-1].kind is EventKind.TERMINAL


async def test_leaving_a_stream_does_not_swallow_a_cancellation():
    fleet = Fleet("a/m")
    fleet["a"].sleep = asyncio.sleep
    for turns in range(4):
        fleet["a"].then(Reply("late", head_s=60.0))

        async def leave() -> None:
            async with fleet.executor.stream(STREAM, ping_s=0.01) as events:
                await anext(events)
            await asyncio.sleep(60)

        task = asyncio.create_task(leave())
        while not fleet["a"].in_flight:
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fleet.nothing_is_taken()
