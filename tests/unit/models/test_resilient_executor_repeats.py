"""What counts as a repeat, and what an overload that says how long to wait means for everybody else."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import (
    AllProvidersFailedError,
    ConnectionFailedError,
    NoCandidateError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
)
from attune.models.circuit_breaker import CircuitState
from attune.models.failure_domains import BreakerLimits
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from support.pipeline import ASK, STREAM, Fleet, the_candidate

DOWN = TransientError("overloaded", status=503)
UNREACHABLE = ConnectionFailedError("connection refused")
WAIT = TransientError("overloaded", status=503, retry_after=30.0)
NO_REPEAT = RetryPolicy(max_repeats=0)
NO_BREAKER = BreakerLimits(failure_threshold=1_000_000)


def credentials_seen(fleet):
    return [f"{r.provider}/{r.model_id}#{r.credential}" for r in fleet.records]


def empty_bucket(fleet, provider="a"):
    bucket = fleet.executor.bucket(provider)
    while bucket.take():
        pass
    return bucket


# -- repeats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "again"), [(DOWN, "a/m#plan"), (UNREACHABLE, "a/n#key")], ids=["overloaded", "unreachable"]
)
async def test_another_candidate_behind_the_same_failure_takes_one_from_the_bucket(error, again):
    models = ["a/m"] if error is DOWN else ["a/m", "a/n"]
    keys = ("key", "plan") if error is DOWN else ("key",)
    fleet = Fleet(*models, credentials={"a": keys}, scripts={"a#key": [error]}, retry=NO_REPEAT)
    response = await fleet.executor.run(ASK)
    assert response.text == "ok"
    assert credentials_seen(fleet) == ["a/m#key", again]
    assert sum(fleet.executor.bucket("a").take() for _ in range(20)) == 9


@pytest.mark.parametrize("error", [DOWN, UNREACHABLE], ids=["overloaded", "unreachable"])
async def test_with_an_empty_bucket_only_what_does_not_share_the_failure_is_tried(error):
    fleet = Fleet("a/m", "a/n", "b/m", credentials={"a": ("key", "plan")}, breaker=NO_BREAKER)
    for each in fleet.providers.values():
        each.default = error
    empty_bucket(fleet)
    empty_bucket(fleet, "b")
    with pytest.raises(AllProvidersFailedError, match="no candidate is left"):
        await fleet.executor.run(ASK)
    tried = ["a/m", "b/m", "a/n"] if error is DOWN else ["a/m", "b/m"]
    assert fleet.seen == tried


# -- an overload that says how long to wait ----------------------------------------------------------


@pytest.mark.parametrize("error", [WAIT, StreamBrokenError("busy", retry_after=30.0)], ids=["head", "event"])
async def test_an_overloaded_model_rests_as_long_as_it_asked_with_every_credential(error):
    fleet = Fleet("a/m", "a/n", "b/m", credentials={"a": ("key", "plan")}, scripts={"a#key": [error]})
    await fleet.executor.run(ASK)
    asked_at = fleet.clock.monotonic()
    for credential in ("key", "plan"):
        refusal = fleet.domains.refusal(the_candidate("a/m", credential))
        assert (refusal.domain, refusal.reason) == ("a/m", "it asked to wait")
        assert refusal.retry_at == pytest.approx(asked_at + 30)
        assert fleet.domains.refusal(the_candidate("a/n", credential)) is None
    assert [(fact.kind, fact.key) for fact in fleet.facts] == [("cooldown", "a/m")]
    assert fleet.domains.snapshot()[1].consecutive_failures == 1, "and it counts for the breaker all the same"
    fleet.clock.advance(30)
    assert fleet.domains.refusal(the_candidate("a/m", "key")) is None


async def test_the_call_itself_repeats_it_when_the_wait_is_over_and_others_wait_as_long():
    fleet = Fleet("a/m", scripts={"a": [WAIT]}, breaker=NO_BREAKER)
    start = fleet.clock.monotonic()
    first = asyncio.create_task(fleet.executor.run(ASK))
    while not fleet.records:
        await asyncio.sleep(0)
    second = asyncio.create_task(fleet.executor.run(ASK))
    assert [(await each).text for each in (first, second)] == ["ok", "ok"]
    assert fleet.clock.monotonic() - start == pytest.approx(30)
    assert fleet.seen == ["a/m"] * 3
    assert len((await first).attempts) == 2
    assert len((await second).attempts) == 1


async def test_another_call_that_cannot_wait_so_long_asks_nobody_and_says_when():
    fleet = Fleet("a/m", scripts={"a": [WAIT]}, retry=NO_REPEAT)
    for _ in range(2):
        with pytest.raises(AllProvidersFailedError) as caught:
            await fleet.executor.run(ASK, ExecutionContext(deadline_s=10))
        assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 30)
    assert fleet.seen == ["a/m"]


async def test_a_wait_that_ends_before_the_circuit_closes_again_is_no_reason_for_a_repeat():
    fleet = Fleet("a/m", scripts={"a": [WAIT]}, breaker=BreakerLimits(failure_threshold=1))
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=50))
    assert fleet.seen == ["a/m"]
    assert fleet.state("a/m") is CircuitState.OPEN


# -- a stream that another task closes ---------------------------------------------------------------


async def test_a_time_out_of_something_else_is_not_taken_for_closing():
    async def durable():
        raise TimeoutError("the disk")

    fleet = Fleet("a/m", durable=durable)
    async with fleet.executor.stream(STREAM) as events:
        with pytest.raises(TimeoutError, match="the disk"):
            async for _ in events:
                pass


async def test_closing_a_stream_ends_its_reader_and_returns_when_it_has_left():
    fleet = Fleet("a/m", scripts={"a": [WAIT]})
    fleet.clock._autojump = False
    events = fleet.executor.stream(STREAM)
    reader = asyncio.create_task(anext(events))
    while not fleet.clock._sleepers:
        await asyncio.sleep(0)
    await asyncio.gather(events.aclose(), events.aclose())
    with pytest.raises(StreamBrokenError, match="closed while it was being read"):
        await reader
    assert reader.cancelling() == 0
    with pytest.raises(StreamBrokenError, match="another task closed the stream"):
        await anext(events)
    assert fleet.asked == 1


@pytest.mark.parametrize("models", [1, 2, 3])
async def test_a_provider_of_which_every_model_fails_is_asked_hardly_more_often_than_there_are_calls(models):
    fleet = Fleet(*(f"a/m{number}" for number in range(models)), breaker=NO_BREAKER)
    fleet["a"].default = TransientError("overloaded", status=503)
    for _ in range(1500):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
    assert fleet.asked <= 1.1 * 1500


async def test_while_one_model_of_a_provider_fails_every_call_is_answered_by_another_of_it():
    fleet = Fleet("a/down", "a/well", breaker=NO_BREAKER, retry=NO_REPEAT)

    def answer(_request, model):
        return TransientError("overloaded", status=503) if model.id == "down" else "ok"

    fleet["a"].default = answer
    for _ in range(300):
        assert (await fleet.executor.run(ASK)).text == "ok"


async def test_a_provider_that_throttles_everything_is_waited_for_no_more_often_than_the_bucket_allows():
    fleet = Fleet("a/m")
    fleet["a"].default = ThrottledError("too fast", retry_after=1.0)
    for _ in range(1000):
        with pytest.raises((AllProvidersFailedError, NoCandidateError)):
            await fleet.executor.run(ASK)
        fleet.clock.advance(2.0)
    assert fleet.asked <= 1.1 * 1000
