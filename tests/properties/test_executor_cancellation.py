"""Wherever a call is cancelled, nothing stays taken and every request that was sent is in the books."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import (
    AttuneError,
    ConnectionFailedError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
)
from attune.models.circuit_breaker import CircuitState
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import ASK, COST, STREAM, Fleet, a_model

STEPS = st.lists(
    st.sampled_from(
        [
            TransientError("overloaded", status=503),
            ConnectionFailedError("refused"),
            ThrottledError("slow down", retry_after=3.0),
            Reply(error=TransientError("late failure"), head_s=1.0),
            Reply("a b", error=StreamBrokenError("cut"), error_after=0, head_s=1.0),
            Reply("a b", error=StreamBrokenError("cut"), error_after=1, between_s=1.0),
            Reply("a b c", head_s=1.0, first_content_s=1.0, between_s=1.0),
            Reply("a b", stop_reason="context_window"),
            "at once",
        ]
    ),
    max_size=4,
)


def a_fleet(one, two) -> Fleet:
    """Two candidates whose circuits are half-open, so that a permit that stays taken shows."""
    fleet = Fleet(
        "a/m",
        a_model("b/big", window=200_000),
        scripts={"a": one, "b": two},
        retry=RetryPolicy(max_repeats=1),
    )
    for domain in ("a", "a/m", "b", "b/big"):
        fleet.trip(domain)
    fleet.clock.advance(60)
    return fleet


async def run(fleet):
    await fleet.executor.run(ASK)


async def stream(fleet):
    async with fleet.executor.stream(STREAM) as events:
        async for _ in events:
            pass


async def stream_without_leaving(fleet):
    async for _ in fleet.executor.stream(STREAM):
        pass


async def cancelled_after(turns, call, fleet):
    task = asyncio.create_task(call(fleet))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError, AttuneError):
        await task
    return task.cancelled()


@settings(max_examples=400, deadline=None)
@given(
    turns=st.integers(0, 160),
    call=st.sampled_from([run, stream, stream_without_leaving]),
    one=STEPS,
    two=STEPS,
)
def test_wherever_a_call_is_cancelled_nothing_stays_taken(turns, call, one, two):
    fleet = a_fleet(one, two)
    was_cancelled = asyncio.run(cancelled_after(turns, call, fleet))
    assert fleet.nothing_is_taken()
    assert len(fleet.records) == fleet.asked
    cancelled = [record for record in fleet.records if record.error_class == "cancelled"]
    assert len(cancelled) <= was_cancelled
    assert sum(each.abandoned for each in fleet.providers.values()) == len(cancelled)
    assert all(record.cost_nanos != 0 for record in cancelled), "what was cut off may have been billed"
    for domain in ("a/m", "b/big"):
        counted = [record for record in fleet.records if f"{record.provider}/{record.model_id}" == domain]
        if counted and all(record.error_class == "cancelled" for record in counted):
            assert fleet.state(domain) is CircuitState.HALF_OPEN, "a cancelled probe closes nothing"


@pytest.mark.parametrize("call", [run, stream, stream_without_leaving])
async def test_every_single_turn_of_one_long_call_is_a_safe_place_to_cancel(call):
    """Throttled, elsewhere a failure, a wait, a slow answer: one cancellation for each turn of the loop."""
    one = [
        ThrottledError("slow down", retry_after=3.0),
        Reply("a b c", head_s=1.0, first_content_s=1.0, between_s=1.0),
    ]
    two = [Reply(error=TransientError("late failure"), head_s=1.0)]
    ends = set()
    for turns in range(400):
        fleet = a_fleet(one, two)
        finished = not await cancelled_after(turns, call, fleet)
        assert fleet.nothing_is_taken()
        assert len(fleet.records) == fleet.asked
        ends.add(tuple(record.error_class for record in fleet.records))
        if finished:
            break
    assert finished, "the last one got through"
    assert (fleet.records[-1].success, fleet.records[-1].cost_nanos) == (True, COST)
    assert ends == {
        (),
        ("throttled", "cancelled"),
        ("throttled", "transient"),
        ("throttled", "transient", "cancelled"),
        ("throttled", "transient", ""),
    }
