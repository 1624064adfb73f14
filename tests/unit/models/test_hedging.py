"""A second attempt beside a slow one: when it starts, who wins, what it costs, what is recorded."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from attune.errors import (
    AllProvidersFailedError,
    CallerError,
    ContextTooLongError,
    InvalidRequestError,
    StoreError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    UnknownNameError,
)
from attune.models.budget import CallLimits
from attune.models.executor import EventKind, StreamEvent
from attune.models.hedging import FirstContentTimes, parse_hedge
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.models.telemetry import LLMCallRecord, TokenUsage
from attune.testing import FakeProvider, Reply, Step
from support.pipeline import ASK, Fleet, a_model

QUICK = Reply(("one ", "two"), first_content_s=0.1, between_s=0.01)
SLOW = QUICK._replace(first_content_s=5.0)
USUAL_S = 0.1


async def hedged(*models: str, **options) -> Fleet:
    """A fleet that knows how long its first model usually takes: 0.1 s."""
    fleet = Fleet(*(models or ("a/m", "b/m")), hedge="p95", **options)
    for provider in fleet.providers.values():
        provider.default = QUICK
    for _ in range(25):
        await fleet.executor.run(ASK)
    assert set(fleet.seen) == {fleet.models[0].label}
    fleet.records.clear()
    for provider in fleet.providers.values():
        provider.received.clear()
    return fleet


@pytest.mark.parametrize(("text", "quantile"), [("p95", 0.95), ("P90", 0.9), ("p99.9", 0.999), ("off", None)])
def test_the_setting_names_a_quantile(text, quantile):
    assert parse_hedge(text) == (quantile if quantile is None else pytest.approx(quantile))


@pytest.mark.parametrize("text", ["p100", "p0", "p59", "95", "on", "", "p9x"])
def test_any_other_setting_is_refused_with_the_choices(text):
    with pytest.raises(UnknownNameError, match=r"hedge .*p9|hedge.*off"):
        parse_hedge(text)


async def test_it_is_off_unless_asked_for():
    fleet = Fleet("a/m", "b/m")
    for _ in range(30):
        fleet["a"].then(QUICK)
        await fleet.executor.run(ASK)
    fleet["a"].then(SLOW)
    await fleet.executor.run(ASK)
    assert not fleet["b"].received
    fleet["a"].then(SLOW)
    response = await fleet.executor.run(ASK, ExecutionContext(hedge="p95"))
    assert response.provider == "b", "a call may ask for it by itself"


async def test_nothing_is_hedged_before_enough_is_known():
    fleet = Fleet("a/m", "b/m", hedge="p95")
    fleet["a"].default = SLOW
    for _ in range(19):
        await fleet.executor.run(ASK)
    assert not fleet["b"].received


async def test_a_slow_attempt_is_overtaken_and_ended_and_both_are_in_the_ledger():
    fleet = await hedged()
    fleet["a"].then(SLOW)
    before = fleet.clock.monotonic()
    response = await fleet.executor.run(ASK)
    took = fleet.clock.monotonic() - before
    assert (response.provider, response.text) == ("b", "one two")
    assert took == pytest.approx(2 * USUAL_S + 0.01, rel=0.05), "the usual time, then the other's own"
    assert response.ttft_ms == pytest.approx(200, rel=0.05), "to the caller, not of the second attempt"
    assert [(r.provider, r.position, r.success, r.error_class) for r in fleet.records] == [
        ("a", 0, False, "cancelled"),
        ("b", 1, True, ""),
    ]
    assert [r.chosen_by_policy for r in fleet.records] == [True, False]
    assert [a.provider for a in response.attempts] == ["a", "b"]
    assert response.attempts[0].error_class == "cancelled"
    assert response.fallback_used
    assert fleet["a"].abandoned == 1
    assert fleet.nothing_is_taken()


async def test_an_attempt_that_begins_in_time_is_left_alone():
    fleet = await hedged()
    fleet["a"].then(QUICK._replace(between_s=60.0))
    response = await fleet.executor.run(ASK)
    assert response.provider == "a"
    assert not fleet["b"].received, "only the first content counts"


async def test_the_first_may_still_win():
    fleet = await hedged()
    fleet["a"].then(QUICK._replace(first_content_s=0.15))
    response = await fleet.executor.run(ASK)
    assert response.provider == "a"
    assert not response.fallback_used
    assert [(r.provider, r.error_class) for r in fleet.records] == [("b", "cancelled"), ("a", "")]
    assert fleet["b"].abandoned == 1


async def test_a_stream_is_hedged_until_its_first_content_and_delivers_one_answer():
    fleet = await hedged()
    fleet["a"].then(SLOW)
    async with fleet.executor.stream(ASK) as events:
        texts = [e.parsed.text async for e in events if e.kind is EventKind.CONTENT]
        assert events.candidate.provider == "b"
    assert texts == ["one ", "two"]
    assert events.response.attempts[0].error_class == "cancelled"


async def test_when_one_of_two_fails_the_other_goes_on():
    fleet = await hedged()
    fleet["a"].then(Reply(error=TransientError("overloaded"), head_s=0.15))
    response = await fleet.executor.run(ASK)
    assert response.provider == "b"
    assert [(r.provider, r.error_class) for r in fleet.records] == [("a", "transient"), ("b", "")]

    fleet["a"].then(SLOW)
    fleet["b"].then(ThrottledError("too fast", retry_after=30))
    response = await fleet.executor.run(ASK)
    assert (response.provider, len(response.attempts)) == ("a", 2)


async def test_the_one_that_won_and_then_broke_is_the_one_that_is_repeated():
    fleet = await hedged()
    fleet["a"].then(SLOW)
    fleet["b"].then(
        Reply(("half ", "more"), error=StreamBrokenError("cut"), error_after=1, first_content_s=0.1)
    )
    response = await fleet.executor.run(ASK)
    assert [(r.provider, r.error_class) for r in fleet.records] == [
        ("a", "cancelled"),
        ("b", "mid_stream"),
        ("b", ""),
    ]
    assert response.text == "one two", "nothing of the broken answer"


async def test_when_both_fail_the_call_goes_on_within_its_attempts():
    fleet = await hedged("a/m", "b/m", "c/m", limits=CallLimits(max_attempts=3))
    fleet["a"].then(Reply(error=TransientError("overloaded"), head_s=0.2))
    fleet["b"].then(Reply(error=TransientError("overloaded"), head_s=0.3))
    response = await fleet.executor.run(ASK)
    assert response.provider in {"b", "c"}
    assert len(response.attempts) == 3
    fleet["a"].default = fleet["b"].default = fleet["c"].default = Reply(
        error=TransientError("overloaded"), head_s=0.2
    )
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert len(caught.value.attempts) == 3


async def test_a_callers_mistake_ends_both_at_once():
    fleet = await hedged()
    fleet["a"].then(Reply(error=CallerError("no such field", status=400), head_s=0.15))
    fleet["b"].then(SLOW)
    with pytest.raises(CallerError):
        await fleet.executor.run(ASK)
    assert fleet["b"].abandoned == 1
    assert fleet.nothing_is_taken()


async def test_no_second_attempt_without_another_candidate_attempts_or_dollars():
    alone = await hedged("a/m")
    alone["a"].then(SLOW)
    assert (await alone.executor.run(ASK)).provider == "a"

    fleet = await hedged(limits=CallLimits(max_attempts=1))
    fleet["a"].then(SLOW)
    assert (await fleet.executor.run(ASK)).provider == "a"

    fleet = await hedged()
    fleet["a"].then(SLOW)
    one_attempt = fleet.executor.router.decide(_route()).ranked[0].predicted_cost_usd
    response = await fleet.executor.run(ASK, ExecutionContext(budget_usd=1.5 * one_attempt))
    assert (response.provider, len(response.attempts)) == ("a", 1)

    fleet["a"].then(SLOW)
    fleet.trip("b")
    assert (await fleet.executor.run(ASK)).provider == "a"


def _route():
    from attune.models.route_request import RouteRequest

    return RouteRequest.of(ASK, ExecutionContext())


async def test_hedges_are_a_tenth_of_the_calls_at_most_however_slow_it_gets():
    fleet = await hedged()
    fleet["a"].default = SLOW
    fleet["b"].default = SLOW
    for _ in range(200):
        await fleet.executor.run(ASK)
    assert len(fleet.records) <= 200 * 1.1 + 10


async def test_a_cancelled_call_ends_both():
    fleet = await hedged()
    fleet["a"].then(SLOW)
    fleet["b"].then(SLOW)
    call = asyncio.ensure_future(fleet.executor.run(ASK))
    while not fleet["b"].received:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [r.error_class for r in fleet.records] == ["cancelled", "cancelled"]
    assert fleet.nothing_is_taken()
    assert len(asyncio.all_tasks()) == 1


async def test_a_defect_in_one_of_two_is_raised_and_the_other_is_ended():
    fleet = await hedged()
    fleet["a"].then(SLOW)
    fleet["b"].then(lambda request, model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await fleet.executor.run(ASK)
    assert fleet.nothing_is_taken()
    assert len(asyncio.all_tasks()) == 1


def test_what_was_cancelled_counts_with_what_it_had_waited_and_old_times_are_forgotten():
    times = FirstContentTimes()
    for _ in range(19):
        times.learn("t", "a/m", 100.0)
    assert times.quantile_s("t", "a/m", 0.95) is None
    times.learn("t", "a/m", 100.0)
    assert times.quantile_s("t", "a/m", 0.95) == pytest.approx(0.1, rel=0.02)
    assert times.quantile_s("other", "a/m", 0.95) is None
    assert times.quantile_s("t", "b/m", 0.95) is None
    for _ in range(1000):
        times.learn("t", "a/m", 900.0)
    assert times.quantile_s("t", "a/m", 0.5) == pytest.approx(0.9, rel=0.02)


def attempts_of_a_call(number: int, *attempts: tuple[str, str, float, float | None]) -> list[LLMCallRecord]:
    """The records of one call: (model, error class, latency, time to first content) of each attempt."""
    call, at = f"call{number}", float(number)
    return [
        LLMCallRecord(
            *(call, f"{call}.{place}", call, at, "", "", "t", "a", model, "capable", "api_key", not error),
            latency_ms=latency_ms,
            ttft_ms=ttft_ms,
            error_class=error,
            position=place,
        )
        for place, (model, error, latency_ms, ttft_ms) in enumerate(attempts)
    ]


@pytest.mark.parametrize(
    ("attempts", "learned"),
    [
        ([("m", "cancelled", 900.0, None), ("n", "", 950.0, 50.0)], 0.9),
        ([("n", "transient", 5.0, None), ("m", "cancelled", 900.0, None), ("n", "", 950.0, 50.0)], 0.9),
        ([("m", "cancelled", 900.0, None)], None),
        ([("n", "", 950.0, 900.0), ("m", "cancelled", 5.0, None)], None),
        ([("m", "transient", 900.0, None), ("n", "", 950.0, 50.0)], None),
    ],
    ids=["overtaken", "overtaken-repeat", "by-its-caller", "slower-second", "failed"],
)
def test_of_the_ledger_what_was_overtaken_counts_with_what_it_had_waited(attempts, learned):
    times = FirstContentTimes()
    times.learn_records(record for n in range(20) for record in attempts_of_a_call(n, *attempts))
    found = times.quantile_s("t", "a/m", 0.5)
    assert found == (learned if learned is None else pytest.approx(learned, rel=0.02))


def test_only_a_thousand_keys_are_remembered_the_least_used_going_first():
    times = FirstContentTimes()
    for number in range(1001):
        for _ in range(20):
            times.learn(f"t{number}", "a/m", 100.0)
            times.learn("kept", "a/m", 100.0)
    assert times.quantile_s("t0", "a/m", 0.5) is None
    assert times.quantile_s("kept", "a/m", 0.5) is not None
    assert times.quantile_s("t1000", "a/m", 0.5) is not None


def tailed(seed: int):
    """Answers of which 5 % are ten times slower to begin."""
    rng = Random(seed)

    def answer(request, model) -> Reply:
        first = rng.lognormvariate(-1.6, 0.25) * (10 if rng.random() < 0.05 else 1)
        words = tuple(f"{n} " for n in range(10))
        return Reply(words, usage=TokenUsage(1000, 200), first_content_s=first, between_s=0.02)

    return answer


async def test_with_one_attempt_in_twenty_ten_times_slower_the_tail_shrinks_and_dollars_hardly_rise():
    calls = 1500
    found = {}
    for hedge in ("off", "p95"):
        fleet = Fleet("a/m", "b/m", hedge=hedge)
        for seed, provider in enumerate(fleet.providers.values()):
            provider.default = tailed(seed)
        waits = sorted([(await fleet.executor.run(ASK)).ttft_ms for _ in range(calls)])
        attempts = len(fleet.records)
        # One that was ended before its first word is billed for its prompt: 1,000 of 1,000 + 5 * 200.
        ended = sum(r.error_class == "cancelled" for r in fleet.records)
        dollars = (attempts - ended) * 2000 + ended * 1000
        found[hedge] = (waits[int(calls * 0.99)], dollars, attempts)
    (before, dollars_before, _), (after, dollars_after, attempts) = found["off"], found["p95"]
    assert after <= 0.6 * before
    assert dollars_after <= 1.05 * dollars_before
    assert attempts <= 1.1 * calls


async def test_a_fault_that_only_the_second_finds_does_not_end_the_first():
    fleet = await hedged()
    fleet["a"].then(QUICK._replace(first_content_s=0.5))
    fleet["b"].then(CallerError("no such parameter here", status=400))
    response = await fleet.executor.run(ASK)
    assert (response.provider, response.text) == ("a", "one two")
    assert [(r.provider, r.error_class) for r in fleet.records] == [("b", "caller"), ("a", "")]


class SlowCap:
    """A cap whose ledger takes its time from the second reservation on."""

    def __init__(self, clock, error: Exception | None = None) -> None:
        self.clock, self.error, self.asked, self.settled = clock, error, 0, []

    async def reserve(self, nanos, *, ttl_s):
        self.asked += 1
        if self.asked > 1:
            await self.clock.sleep(5.0)
            if self.error is not None:
                raise self.error
        return self

    def settle(self, cost_nanos):
        self.settled.append(cost_nanos)


@pytest.mark.parametrize("error", [None, StoreError("the disk is full")])
async def test_the_first_does_not_wait_for_the_second_to_be_allowed_nor_fail_with_it(error):
    fleet = await hedged()
    fleet["a"].then(QUICK._replace(first_content_s=0.2))
    before = fleet.clock.monotonic()
    response = await fleet.executor.run(ASK, cap=SlowCap(fleet.clock, error))
    assert response.provider == "a"
    assert fleet.clock.monotonic() - before == pytest.approx(0.21, rel=0.05)
    assert not fleet["b"].received
    assert [r.position for r in fleet.records] == [0]
    fleet["a"].then(QUICK._replace(first_content_s=20.0))
    response = await fleet.executor.run(ASK, cap=SlowCap(fleet.clock, error))
    assert response.provider == ("b" if error is None else "a")
    assert len(asyncio.all_tasks()) == 1


async def test_a_prompt_too_long_for_one_of_two_leads_to_a_larger_window_when_the_other_fails():
    models = [
        a_model("a/m", window=10_000),
        a_model("b/m", window=10_000),
        a_model("c/m", window=5_000),
        a_model("d/m", window=1_000_000),
    ]
    fleet = await hedged(*models, retry=RetryPolicy(max_repeats=0))
    fleet["a"].then(Reply(error=ContextTooLongError("too long"), head_s=0.2))
    fleet["b"].then(Reply(error=TransientError("overloaded"), head_s=0.5))
    assert (await fleet.executor.run(ASK)).provider == "d"
    assert fleet.seen == ["a/m", "b/m", "d/m"]


@pytest.mark.parametrize("turns", range(14))
async def test_a_call_that_is_cancelled_at_any_moment_leaves_neither_attempt_open(turns):
    fleet = await hedged()
    fleet["a"].then(SLOW)
    fleet["b"].then(QUICK._replace(between_s=60.0))
    call = asyncio.create_task(fleet.executor.run(ASK))
    while not fleet["b"].received:
        await asyncio.sleep(0)
    while fleet["a"].in_flight and turns < 7:  # from when the loser is being ended on, or before
        await asyncio.sleep(0)
    for _ in range(turns % 7):
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert fleet.nothing_is_taken()
    assert len(fleet.records) == 2


async def test_a_hedge_that_is_no_text_is_refused_in_one_line():
    with pytest.raises(InvalidRequestError, match='hedge is "off" or a quantile'):
        await Fleet("a/m").executor.run(ASK, ExecutionContext(hedge=True))


async def test_an_answer_that_comes_at_the_very_moment_of_a_callers_fault_is_taken():
    fleet = await hedged()
    hedge_at = fleet.executor.first_content_times.quantile_s("", "a/m", 0.95)
    fleet["a"].then(Reply(error=CallerError("no such field", status=400), head_s=hedge_at + 0.1))
    fleet["b"].then(QUICK._replace(first_content_s=0.1))
    assert (await fleet.executor.run(ASK)).provider == "b"


async def test_a_call_that_is_cancelled_while_a_second_attempt_waits_for_its_dollars_leaves_nothing():
    fleet = await hedged()
    fleet["a"].then(SLOW)
    cap = SlowCap(fleet.clock)
    call = asyncio.create_task(fleet.executor.run(ASK, cap=cap))
    while cap.asked < 2:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(asyncio.all_tasks()) == 1
    assert fleet.nothing_is_taken()
    assert cap.settled == [None], "what the first may have cost is kept"


class Pinging(FakeProvider):
    """One that says many times that it is there before it answers."""

    async def open(self, request, model, budget):
        stream = await super().open(request, model, budget)
        ping = Step(0.0, StreamEvent(EventKind.PING, b": ping\n\n", None))
        other = Step(0.0, StreamEvent(EventKind.PING, b"event: begin\n\n", None))
        stream._steps.extendleft([other, *[ping] * 50])
        return stream


async def test_of_many_pings_before_the_first_content_one_is_passed_on_and_what_else_comes_too():
    fleet = Fleet("a/m")
    fleet.runner._providers["a", "api_key"] = Pinging("a")
    async with fleet.executor.stream(ASK) as events:
        raws = [event.raw async for event in events if event.kind is EventKind.PING]
    assert raws == [b": ping\n\n", b"event: begin\n\n"]
    assert events.response.text == "ok"
