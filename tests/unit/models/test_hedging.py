"""A second attempt beside a slow one: when it starts, who wins, what it costs, what is recorded."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from attune.errors import (
    AllProvidersFailedError,
    CallerError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    UnknownNameError,
)
from attune.models.budget import CallLimits
from attune.models.executor import EventKind
from attune.models.hedging import FirstContentTimes, parse_hedge
from attune.models.request import ExecutionContext
from attune.models.telemetry import TokenUsage
from attune.testing import Reply
from support.pipeline import ASK, Fleet

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


@pytest.mark.parametrize("text", ["p100", "p0", "95", "on", "", "p9x"])
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
    from attune.models.request import RouteRequest

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
