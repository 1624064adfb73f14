"""One attempt, to the word, the nano-dollar and the instant: what an approximate look would not notice."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from attune.errors import (
    BudgetExhaustedError,
    CircuitOpenError,
    ContextTooLongError,
    ErrorClass,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
)
from attune.models.attempt import INCREDIBLE, AttemptSpec
from attune.models.attempt_runner import AttemptRunner, refused
from attune.models.candidate import Refusal
from attune.models.executor import AttemptBudget
from attune.models.prices import FREE, PricePeriod, PriceSchedule, Rate
from attune.models.request import ExecutionContext, ThinkingPart
from attune.models.telemetry import CostStatus, TokenUsage
from attune.testing import FakeClock, FakeProvider, Reply
from support.pipeline import ASK, STREAM, a_model, the_candidate

MODEL = a_model("p/m")
CANDIDATE = the_candidate("p/m")
BUDGET = AttemptBudget(total_s=100.0)
SPEC = AttemptSpec("call", "decision", 0, ExecutionContext())
FOREVER = 3600.0


def runner_of(*script, clock=None, **options):
    clock = FakeClock() if clock is None else clock
    provider = FakeProvider("p", script, sleep=clock.sleep)
    return AttemptRunner([provider], clock=clock, **options)


def start(runner, model=MODEL, request=ASK, budget=BUDGET, **options):
    return runner.start(CANDIDATE, model, request, budget, SPEC, **options)


async def ended(attempt):
    """The attempt, when it has ended, however it did."""
    try:
        async for _ in attempt:
            pass
    except (TransientError, StreamBrokenError):
        pass
    return attempt


class Cap:
    """A spend cap that says what was asked of it, after a while."""

    def __init__(self, wait=0.0):
        self.wait = wait
        self.nanos = []

    async def reserve(self, nanos, *, ttl_s):
        await asyncio.sleep(self.wait)
        self.nanos.append(nanos)


# -- ids and permits -----------------------------------------------------------------------------------


def test_an_id_begins_with_the_milliseconds_and_goes_on_with_the_generators_bits():
    clock = FakeClock()
    first, second = (AttemptRunner([], clock=clock, rng=Random(4)).new_id() for _ in range(2))
    assert first == second
    assert int(first[:11], 16) == int(clock.time() * 1000)
    assert int(first[11:], 16) == Random(4).getrandbits(72)


async def test_a_last_resort_passes_an_open_circuit_and_nothing_else_does():
    runner = runner_of()
    runner.domains._breaker("p/m").hold_open(runner.clock.monotonic() + 60)
    with pytest.raises(CircuitOpenError):
        start(runner)
    attempt = await ended(start(runner, last_resort=True))
    assert attempt.record.success


# -- the spend cap -------------------------------------------------------------------------------------


async def test_a_model_without_a_price_is_refused_under_a_cap_with_the_remedy():
    runner = runner_of(spend_cap=Cap())
    with pytest.raises(BudgetExhaustedError) as caught:
        await runner.reserve(a_model("p/m", prices=None), ASK, BUDGET)
    assert caught.value.limit == "price"
    assert str(caught.value) == (
        "the price of p/m is unknown, so it cannot be held to the spend cap; give it prices (0 if it is free)"
    )


async def test_a_ledger_that_does_not_answer_ends_the_call_at_its_deadline():
    runner = runner_of(spend_cap=Cap(wait=30.0))
    async with asyncio.timeout(60):
        with pytest.raises(BudgetExhaustedError) as caught:
            await runner.reserve(MODEL, ASK, AttemptBudget(total_s=0.02))
    assert caught.value.limit == "deadline"
    assert str(caught.value) == "the ledger did not answer for the spend cap within the call's time"


async def test_the_price_is_that_of_the_day_for_what_is_reserved_and_for_what_is_recorded():
    clock = FakeClock()
    before = PricePeriod(0.0, Rate(10**9), Rate(10**9))
    since = PricePeriod(clock.time() - 1, Rate(2 * 10**9), Rate(2 * 10**9))
    model = a_model("p/m", prices=PriceSchedule((before, since), "v", as_of=0.0))
    cap = Cap()
    runner = runner_of(Reply("x", usage=TokenUsage(10, 5)), clock=clock, spend_cap=cap)
    await runner.reserve(model, ASK, BUDGET)
    attempt = await ended(start(runner, model))
    assert cap.nanos == [2000 * (ASK.estimated_input_tokens() + 100)]
    assert attempt.record.cost_nanos == 2000 * 15


# -- what is recorded ----------------------------------------------------------------------------------


async def test_what_is_free_costs_nothing_and_that_is_exact():
    attempt = await ended(start(runner_of("x"), a_model("p/m", prices=FREE)))
    assert (attempt.record.cost_nanos, attempt.record.cost_status) == (0, CostStatus.EXACT)
    assert attempt.record.task_type == ""


async def test_the_largest_usage_that_can_be_is_believed_and_one_token_more_is_not():
    longest = INCREDIBLE * MODEL.context_window
    for tokens, status in [(longest, CostStatus.EXACT), (longest + 1, CostStatus.ESTIMATED)]:
        attempt = await ended(start(runner_of(Reply("x", usage=TokenUsage(tokens, 5)))))
        assert attempt.record.cost_status is status


async def test_the_summary_has_the_records_latency_and_no_error_before_the_end():
    attempt = start(runner_of(Reply("x", head_s=3)))
    assert attempt.error is None
    await ended(attempt)
    assert attempt.summary().latency_ms == attempt.record.latency_ms == pytest.approx(3000)


async def test_a_thought_is_bound_to_the_provider_that_had_it():
    attempt = await ended(start(runner_of(Reply("x", thinking="hm"))))
    assert attempt.fold.content[0] == ThinkingPart("hm", provider="p")


@pytest.mark.parametrize(
    ("stop_reason", "kind", "message"),
    [
        ("refusal", RefusalError, "the provider declined to answer"),
        ("context_window", ContextTooLongError, "the answer ran into the model's context window"),
    ],
)
async def test_a_complete_answer_that_is_a_failure_says_which(stop_reason, kind, message):
    attempt = await ended(start(runner_of(Reply("x", stop_reason=stop_reason))))
    assert (type(attempt.error), str(attempt.error)) == (kind, message)
    assert (attempt.error.provider, attempt.error.model) == ("p", "m")


# -- time ----------------------------------------------------------------------------------------------


async def test_time_that_is_used_up_before_the_answer_leaves_none_for_it():
    clock = FakeClock(autojump=False)
    script = Reply(head_s=70, first_content_s=FOREVER)
    attempt = start(runner_of(script, clock=clock), request=STREAM, budget=AttemptBudget(10, 600, 60, 50))
    head = asyncio.create_task(anext(attempt))
    await asyncio.sleep(0)
    clock.advance(70)
    await head
    async with asyncio.timeout(60):
        await ended(attempt)
    assert str(attempt.error) == "p/m#api_key timed out after 50.0 s waiting for its end"


async def test_time_that_passes_before_an_attempt_is_begun_is_not_waited():
    clock = FakeClock()
    attempt = start(runner_of(Reply(head_s=40), clock=clock), budget=AttemptBudget(10, 600, 60, 50))
    clock.advance(70)
    await ended(attempt)
    assert attempt.error is None


async def test_of_two_limits_that_end_together_the_nearer_one_is_named():
    clock = FakeClock(autojump=False)
    budget = AttemptBudget(10, 0.1, 60, 0.1)
    attempt = await ended(start(runner_of(Reply(head_s=FOREVER), clock=clock), request=STREAM, budget=budget))
    assert str(attempt.error) == "p/m#api_key timed out after 0.1 s waiting for its first content"


async def test_an_answer_without_its_end_says_so():
    class Cut(FakeProvider):
        def _steps(self, *given):
            return iter(list(super()._steps(*given))[:-1])

    attempt = await ended(start(AttemptRunner([Cut("p", ["x"])], clock=FakeClock())))
    assert (type(attempt.error), str(attempt.error)) == (
        StreamBrokenError,
        "the answer ended before its terminal event",
    )


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wait", "retry_after"), [(0.5, 0.5), (0.0, 0.0), (-3.0, 0.0), (40.0, 40.0)])
def test_a_refusal_says_in_both_clocks_when_to_come_again(wait, retry_after):
    clock = FakeClock(start=0, epoch=1000)
    error = refused(Refusal("p", "the circuit of p is open", wait, None), CANDIDATE, clock)
    assert isinstance(error, CircuitOpenError)
    assert (error.retry_after, error.retry_at) == (retry_after, 1000 + retry_after)


@pytest.mark.parametrize(
    ("error_class", "kind"),
    [(ErrorClass.THROTTLED, ThrottledError), (ErrorClass.INTERNAL, TransientError)],
)
def test_a_refusal_for_a_reason_is_the_error_of_that_class_and_names_the_candidate_once(error_class, kind):
    clock = FakeClock(start=0)
    for reason, message in [("it is throttled", "p/m: it is throttled"), ("p is asleep", "p is asleep")]:
        error = refused(Refusal("p", reason, 9.0, error_class), CANDIDATE, clock)
        assert (type(error), str(error), error.retry_after) == (kind, message, 9.0)
