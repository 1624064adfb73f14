"""What comes after each failure of a call: the effect, as the upstreams saw it."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import (
    AllProvidersFailedError,
    BudgetExhaustedError,
    CallerError,
    CircuitOpenError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ErrorClass,
    ModelUnavailableError,
    MoneyGoneError,
    NoCandidateError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    UnknownNameError,
    WindowSpentError,
)
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.attempt import AttemptRunner
from attune.models.budget import CallLimits
from attune.models.candidate import Refusal
from attune.models.circuit_breaker import CircuitState
from attune.models.executor import TextDelta
from attune.models.failure_domains import BreakerLimits
from attune.models.fallback import FallbackPolicy
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.request import ExecutionContext
from attune.models.resilient_executor import ResilientExecutor
from attune.models.retry import RetryPolicy
from attune.models.telemetry import CostStatus, TokenUsage
from attune.testing import FakeProvider, Reply
from support.pipeline import ASK, COST, STREAM, Fleet, a_model, the_candidate

CHEAP, CAPABLE, PREMIUM = ModelTier
DOWN = TransientError("overloaded", status=503)
UNREACHABLE = ConnectionFailedError("connection refused")
ONE_BREAKS = BreakerLimits(failure_threshold=1)
NO_REPEAT = RetryPolicy(max_repeats=0)


def credentials_seen(fleet):
    return [f"{r.provider}/{r.model_id}#{r.credential}" for r in fleet.records]


def throttled(seconds):
    return ThrottledError("slow down", status=429, retry_after=seconds)


# -- an answer at once -------------------------------------------------------------------------------


async def test_a_call_that_works_is_one_attempt_one_decision_and_one_record():
    fleet = Fleet("a/m", "b/m")
    response = await fleet.executor.run(ASK, ExecutionContext("review", "draft", "write_tests"))
    assert (response.text, response.provider, response.cost_nanos) == ("ok", "a", COST)
    assert not response.fallback_used
    assert fleet.seen == ["a/m"]
    [decision], [record] = fleet.decisions, fleet.records
    assert (
        decision.call_id == decision.decision_id == record.call_id == record.decision_id == response.call_id
    )
    assert [f"{c.provider}/{c.model_id}" for c in decision.ranked] == ["a/m", "b/m"]
    assert (decision.workflow, decision.stage, decision.task_type) == ("review", "draft", "write_tests")
    assert (record.position, record.chosen_by_policy) == (0, True)
    assert response.decision.candidate == the_candidate("a/m")
    assert fleet.steps == []
    assert fleet.nothing_is_taken()


async def test_it_runs_with_nothing_but_a_router_and_a_runner():
    provider = FakeProvider("a")
    router = AdaptiveModelRouter(ModelRegistry([a_model("a/m")]))
    executor = ResilientExecutor(router, AttemptRunner([provider]))
    assert (await executor.run(ASK)).text == "ok"
    provider.then(CredentialError("401", status=401))
    with pytest.raises(AllProvidersFailedError):
        await executor.run(ASK)


async def test_the_answer_waits_for_the_ledger_when_it_shall_be_durable():
    order = []

    async def durable():
        order.append("durable")

    fleet = Fleet("a/m", durable=durable)
    await fleet.executor.run(ASK)
    order.append("answer")
    async with fleet.executor.stream(STREAM) as events:
        async for event in events:
            order.append(event.kind.value)  # noqa: PERF401
    assert order == ["durable", "answer", "meta", "content", "usage", "durable", "terminal"]


# -- the next step for each error class --------------------------------------------------------------


def test_the_next_step_after_every_error_class_is_tested_here():
    decided = {error.error_class for error, _ in NEXT_STEP}
    assert decided == set(ErrorClass) - {ErrorClass.CANCELLED, ErrorClass.INTERNAL}


# The chosen candidate is a/m#key. "b/big" has a larger window; "a/m#plan" is the other credential.
NEXT_STEP = [
    (UNREACHABLE, ["a/m#key", "a/m#key", "b/m#key"]),
    (DOWN, ["a/m#key", "a/m#key", "b/m#key"]),
    (StreamBrokenError("cut"), ["a/m#key", "a/m#key", "b/m#key"]),
    (throttled(900), ["a/m#key", "a/m#plan"]),
    (ModelUnavailableError("model_not_found", status=404), ["a/m#key", "a/m#plan"]),
    (CredentialError("bad key", status=401), ["a/m#key", "a/m#plan"]),
    (MoneyGoneError("no credit", status=402), ["a/m#key", "a/m#plan"]),
    (WindowSpentError("5-hour limit", retry_after=9000), ["a/m#key", "a/m#plan"]),
    (ContextTooLongError("prompt is too long", status=400), ["a/m#key", "b/big#key"]),
    (CallerError("bad tool", status=400), ["a/m#key"]),
    (RefusalError("content_filter", status=400), ["a/m#key"]),
]


@pytest.mark.parametrize(("error", "expected"), NEXT_STEP, ids=[str(e.error_class) for e, _ in NEXT_STEP])
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
async def test_each_error_class_leads_to_its_next_step(error, expected, streaming):
    fleet = Fleet(
        a_model("a/m"),
        a_model("b/m"),
        a_model("b/big", PREMIUM, window=1_000_000),
        credentials={"a": ("key", "plan"), "b": ("key",)},
        scripts={"a#key": [error] * 9},
    )
    failure = None
    try:
        if streaming:
            async with fleet.executor.stream(STREAM) as events:
                text = "".join([e.parsed.text async for e in events if isinstance(e.parsed, TextDelta)])
            response = events.response
        else:
            response = await fleet.executor.run(ASK)
            text = response.text
    except ProviderError as raised:
        failure = raised
    assert credentials_seen(fleet) == expected
    assert fleet.nothing_is_taken()
    if error.error_class in {ErrorClass.CALLER, ErrorClass.REFUSAL}:
        assert type(failure) is type(error)
        assert (str(failure), failure.status) == (str(error), error.status)
    else:
        assert failure is None
        assert text == "ok"
        assert [a.error_class for a in response.attempts] == [*[error.error_class] * (len(expected) - 1), ""]
        assert response.fallback_used
        assert [record.position for record in fleet.records] == list(range(len(expected)))
        assert [record.chosen_by_policy for record in fleet.records] == [True] + [False] * (len(expected) - 1)
        assert len(fleet.decisions) == 1


async def test_the_callers_fault_is_the_very_error_of_the_provider():
    raised = []

    class Honest(FakeProvider):
        async def open(self, request, model, budget):
            raised.append(CallerError("bad", status=422, body=b'{"error": "as it came"}'))
            raise raised[0]

    router = AdaptiveModelRouter(ModelRegistry([a_model("a/m"), a_model("b/m")]))
    with pytest.raises(CallerError) as caught:
        await ResilientExecutor(router, AttemptRunner([Honest("a"), FakeProvider("b")])).run(ASK)
    assert caught.value is raised[0]
    assert len(raised) == 1


async def test_a_provider_that_cannot_be_reached_is_left_with_all_its_models():
    fleet = Fleet("a/m", "a/n", "b/m", scripts={"a": [UNREACHABLE] * 2})
    response = await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/m", "b/m"]
    assert response.provider == "b"


async def test_a_model_that_is_overloaded_is_left_with_all_its_credentials():
    fleet = Fleet(
        "a/m",
        "a/n",
        credentials={"a": ("key", "plan")},
        scripts={"a#key": [DOWN, DOWN, "other model"], "a#plan": [DOWN]},
    )
    response = await fleet.executor.run(ASK)
    assert credentials_seen(fleet) == ["a/m#key", "a/m#key", "a/n#key"]
    assert response.text == "other model"


async def test_what_was_left_is_still_the_last_thing_to_try():
    fleet = Fleet("a/m", "b/m", credentials={"a": ("key", "plan"), "b": ("key",)}, retry=NO_REPEAT)
    fleet["a#key"].default = fleet["b#key"].default = UNREACHABLE
    response = await fleet.executor.run(ASK)
    assert credentials_seen(fleet) == ["a/m#key", "b/m#key", "a/m#plan"]
    assert response.text == "ok"


async def test_a_dead_credential_is_not_tried_with_another_model():
    fleet = Fleet("a/m", "a/n", "b/m", scripts={"a": [CredentialError("401", status=401)]})
    fleet.executor.fallback = FallbackPolicy()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]


async def test_a_dead_credential_is_refused_without_an_attempt_and_named_among_the_causes():
    fleet = Fleet("a/m", "a/n", scripts={"a": [CredentialError("401", status=401)]})
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m"]
    made, refused = caught.value.attempts
    assert (str(made), made.status) == ("401", 401)
    assert "the credential a#api_key is off" in str(refused)
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 300)


async def test_a_model_that_the_caller_fixed_and_does_not_exist_is_their_own_affair():
    gone = ModelUnavailableError("model_not_found", status=404, body=b"as it came")
    fleet = Fleet("a/m", "b/m", scripts={"a": [gone]})
    with pytest.raises(ModelUnavailableError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(model="a/m"))
    assert (caught.value.status, caught.value.body) == (404, b"as it came")
    assert fleet.seen == ["a/m"]


async def test_a_fixed_model_falls_back_to_no_other():
    fleet = Fleet("a/m", "a/n", "b/m", scripts={"a": [DOWN] * 9})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(model="a/m"))
    assert fleet.seen == ["a/m", "a/m"]


# -- context -----------------------------------------------------------------------------------------

FULL = Reply("half an ans", stop_reason="context_window")


@pytest.mark.parametrize("first", [ContextTooLongError("prompt is too long"), FULL], ids=["error", "answer"])
async def test_what_does_not_fit_goes_to_a_larger_window_past_those_that_are_none(first):
    fleet = Fleet(
        a_model("a/m"),
        a_model("b/same"),
        a_model("c/small", window=50_000),
        a_model("d/big", PREMIUM, window=200_000),
        scripts={"a": [first]},
    )
    response = await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "d/big"]
    assert (response.text, response.stop_reason) == ("ok", "stop")
    assert response.cost_nanos == COST * (2 if first is FULL else 1) or first is not FULL
    assert fleet.domains.quiet


async def test_an_answer_that_filled_its_window_is_given_when_there_is_no_larger_one():
    fleet = Fleet(a_model("a/m"), a_model("b/same"), scripts={"a": [FULL]})
    response = await fleet.executor.run(ASK)
    assert (response.text, response.stop_reason) == ("half an ans", "context_window")
    assert fleet.seen == ["a/m"]
    assert [attempt.error_class for attempt in response.attempts] == ["context"]
    assert response.cost_nanos == COST


async def test_an_answer_that_filled_its_window_is_given_when_no_attempt_is_left():
    fleet = Fleet(
        a_model("a/m"),
        a_model("b/big", window=200_000),
        scripts={"a": [FULL]},
        limits=CallLimits(max_attempts=1),
    )
    assert (await fleet.executor.run(ASK)).stop_reason == "context_window"


async def test_a_prompt_that_fits_nowhere_says_so():
    fleet = Fleet("a/m", "b/m", scripts={"a": [ContextTooLongError("prompt is too long")]})
    with pytest.raises(AllProvidersFailedError, match="prompt is too long") as caught:
        await fleet.executor.run(ASK)
    assert isinstance(caught.value.__cause__, ContextTooLongError)
    assert caught.value.retry_at is None
    assert fleet.seen == ["a/m"]


async def test_a_refusal_within_an_answer_is_the_answer():
    fleet = Fleet("a/m", "b/m", scripts={"a": [Reply("I cannot", stop_reason="refusal")]})
    response = await fleet.executor.run(ASK)
    assert (response.stop_reason, fleet.seen) == ("refusal", ["a/m"])
    assert not fleet.records[0].success


# -- repeats -----------------------------------------------------------------------------------------


async def test_a_repeat_comes_after_a_short_random_pause():
    starts = []
    for seed in range(20):
        fleet = Fleet("a/m", scripts={"a": [DOWN]}, seed=seed)
        before = fleet.clock.monotonic()
        await fleet.executor.run(ASK)
        starts.append(fleet.clock.monotonic() - before)
    assert all(0 < pause <= 0.5 for pause in starts)
    assert len(set(starts)) == 20


async def test_a_repeat_waits_at_least_as_long_as_the_provider_asked():
    slow = TransientError("busy", status=503, retry_after=7.0)
    fleet = Fleet("a/m", "b/m", scripts={"a": [slow]})
    before = fleet.clock.monotonic()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/m"]
    assert fleet.clock.monotonic() - before == pytest.approx(7)


async def test_a_long_wait_is_spent_elsewhere_when_there_is_an_elsewhere():
    slow = TransientError("maintenance", status=503, retry_after=107.0)
    fleet = Fleet("a/m", "b/m", scripts={"a": [slow]})
    before = fleet.clock.monotonic()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]
    assert fleet.clock.monotonic() == before
    alone = Fleet("a/m", scripts={"a": [slow]})
    await alone.executor.run(ASK)
    assert alone.seen == ["a/m", "a/m"]
    assert alone.clock.monotonic() - before == pytest.approx(107)


async def test_no_pause_is_begun_that_the_deadline_would_cut():
    fleet = Fleet("a/m", "b/m", scripts={"a": [DOWN]}, retry=RetryPolicy(base_s=1000, cap_s=1000))
    before = fleet.clock.monotonic()
    await fleet.executor.run(ASK, ExecutionContext(deadline_s=1))
    assert fleet.seen == ["a/m", "b/m"]
    assert fleet.clock.monotonic() == before


async def test_a_candidate_whose_circuit_just_opened_is_not_repeated():
    fleet = Fleet("a/m", "b/m", scripts={"a": [DOWN]}, breaker=ONE_BREAKS)
    before = fleet.clock.monotonic()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]
    assert fleet.clock.monotonic() == before


async def test_in_an_outage_repeats_stop_when_the_bucket_is_empty():
    fleet = Fleet("a/m", "b/m", breaker=BreakerLimits(failure_threshold=10_000))
    fleet["a"].default = DOWN
    fleet.runner._record = fleet.records.append  # nothing is learned, so that a/m is always chosen
    for _ in range(40):
        await fleet.executor.run(ASK)
    repeats = fleet.seen.count("a/m") - 40
    assert repeats == 13, "ten at first, and a tenth of each call after that"
    assert fleet.seen.count("b/m") == 40


@pytest.mark.parametrize("repeats", [0, 1, 2, 3])
async def test_a_candidate_is_repeated_as_often_as_the_policy_says(repeats):
    fleet = Fleet("a/m", retry=RetryPolicy(max_repeats=repeats), limits=CallLimits(max_attempts=9))
    fleet["a"].default = DOWN
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert len(fleet.seen) == repeats + 1


# -- throttling --------------------------------------------------------------------------------------


async def test_with_nothing_else_left_it_waits_exactly_as_long_as_was_asked():
    fleet = Fleet("a/m", scripts={"a": [throttled(107)]})
    before = fleet.clock.monotonic()
    response = await fleet.executor.run(ASK)
    assert fleet.clock.monotonic() - before == pytest.approx(107)
    assert fleet.seen == ["a/m", "a/m"]
    assert [attempt.error_class for attempt in response.attempts] == ["throttled", ""]


async def test_of_several_throttled_candidates_the_soonest_is_waited_for():
    fleet = Fleet(
        "a/m", "b/m", "c/m", scripts={"a": [throttled(90)], "b": [throttled(30)], "c": [throttled(60)]}
    )
    before = fleet.clock.monotonic()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m", "c/m", "b/m"]
    assert fleet.clock.monotonic() - before == pytest.approx(30)


async def test_a_wait_beyond_the_deadline_is_not_begun_and_the_time_is_named():
    fleet = Fleet("a/m", "b/m", scripts={"a": [throttled(107)], "b": [throttled(300)]})
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError, match="throttled beyond the call's deadline") as caught:
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=60))
    assert fleet.clock.monotonic() == before
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 107)


async def test_a_candidate_whose_cooldown_ended_while_others_were_tried_is_tried_again():
    slow_failure = Reply(error=DOWN, head_s=30)
    fleet = Fleet("a/m", "b/m", scripts={"a": [throttled(10)], "b": [slow_failure]}, retry=NO_REPEAT)
    response = await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m", "a/m"]
    assert response.provider == "a"


async def test_a_cooldown_of_another_call_is_waited_for_when_everything_is_throttled():
    fleet = Fleet("a/m", scripts={"a": [throttled(20)]})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=5))
    before = fleet.clock.monotonic()
    await fleet.executor.run(ASK)
    assert fleet.clock.monotonic() - before == pytest.approx(20)


async def test_a_cooldown_is_not_waited_for_when_the_credential_is_dead_by_then():
    fleet = Fleet("a/m", "a/n", scripts={"a": [throttled(10), CredentialError("401", status=401)]})
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/n"]
    assert fleet.clock.monotonic() == before


async def test_being_throttled_again_and_again_ends_with_the_attempts():
    fleet = Fleet("a/m")
    fleet["a"].default = throttled(1)
    with pytest.raises(AllProvidersFailedError, match=r"4 attempts, the limit of a call") as caught:
        await fleet.executor.run(ASK)
    assert len(fleet.seen) == len(caught.value.attempts) == 4


async def test_no_wait_for_a_window_that_is_too_small():
    fleet = Fleet(
        "a/m", "b/m", scripts={"a": [throttled(10)], "b": [ContextTooLongError("prompt is too long")]}
    )
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]
    assert fleet.clock.monotonic() == before


# -- budgets -----------------------------------------------------------------------------------------


async def test_attempts_are_limited_over_all_candidates_and_repeats():
    fleet = Fleet("a/m", "b/m", "c/m", limits=CallLimits(max_attempts=3))
    for provider in fleet.providers.values():
        provider.default = DOWN
    with pytest.raises(AllProvidersFailedError, match="3 attempts, all 3 attempts are used") as caught:
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/m", "b/m"]
    assert len(caught.value.attempts) == 3
    assert isinstance(caught.value.__cause__, BudgetExhaustedError)


async def test_no_attempt_begins_after_the_deadline():
    fleet = Fleet("a/m", "b/m", scripts={"a": [Reply(error=DOWN, head_s=50)]})
    with pytest.raises(AllProvidersFailedError, match="deadline has passed"):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=50))
    assert fleet.seen == ["a/m"]


async def test_a_call_whose_time_is_over_before_it_began_says_so_itself():
    fleet = Fleet("a/m")
    stream = fleet.executor.stream(STREAM, ExecutionContext(deadline_s=5))
    fleet.clock.advance(5)
    with pytest.raises(BudgetExhaustedError, match="deadline"):
        await anext(stream)
    assert fleet.asked == 0


async def test_each_attempt_gets_the_time_that_the_call_has_left():
    fleet = Fleet("a/m", "b/m", scripts={"a": [Reply(error=DOWN, head_s=40)]}, retry=NO_REPEAT)
    await fleet.executor.run(ASK, ExecutionContext(deadline_s=100))
    assert [p.received[0].budget.total_s for p in fleet.providers.values()] == pytest.approx([100, 60])


async def test_a_candidate_beyond_the_dollars_is_passed_over_and_the_next_is_no_choice_of_the_policy():
    dear = a_model("a/m", prices=PriceSchedule.flat(100, 500))
    fleet = Fleet(dear, a_model("b/m", CHEAP))
    response = await fleet.executor.run(ASK, ExecutionContext(tier="capable", budget_usd=0.001))
    assert fleet.seen == ["b/m"]
    assert (response.provider, fleet.asked) == ("b", 1)
    assert (fleet.records[0].position, fleet.records[0].chosen_by_policy) == (0, False)


async def test_when_nothing_fits_the_dollars_nothing_is_sent():
    fleet = Fleet("a/m", a_model("b/m", prices=None))
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(budget_usd=0.0001))
    assert fleet.asked == 0
    assert [each.limit for each in caught.value.attempts] == ["cost", "cost"]
    dear, unknown = caught.value.attempts
    assert str(dear) == "a/m#api_key would pass the call's budget of $0.0001"
    assert "the price of b/m#api_key is unknown" in str(unknown)


async def test_what_failed_attempts_cost_counts_against_the_dollars():
    full = Reply("a full answer", stop_reason="context_window", usage=TokenUsage(10, 100))
    fleet = Fleet(
        a_model("a/m"),
        a_model("b/big", window=200_000),
        scripts={"a": [full]},
        retry=NO_REPEAT,
    )
    with pytest.raises(AllProvidersFailedError, match="would pass the call's budget"):
        await fleet.executor.run(ASK, ExecutionContext(budget_usd=0.0009))
    assert fleet.seen == ["a/m"]
    assert fleet.records[0].cost_nanos == 510_000


async def test_an_attempt_of_unknown_cost_counts_as_predicted_against_the_dollars():
    """It may have been billed: four time-outs must not cost four times the budget."""
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].default = fleet["b"].default = TransientError("no answer in time")
    with pytest.raises(AllProvidersFailedError, match="would pass the call's budget"):
        await fleet.executor.run(ASK, ExecutionContext(budget_usd=0.0009))
    assert fleet.seen == ["a/m"]
    assert fleet.records[0].cost_status is CostStatus.UNKNOWN


# -- what a call costs -------------------------------------------------------------------------------


async def test_the_cost_of_a_call_is_the_sum_of_its_attempts():
    fleet = Fleet(a_model("a/m"), a_model("b/big", window=200_000), scripts={"a": [FULL]})
    response = await fleet.executor.run(ASK)
    assert response.cost_nanos == sum(r.cost_nanos for r in fleet.records) == 2 * COST
    assert response.cost_status is CostStatus.EXACT


@pytest.mark.parametrize(
    ("first", "cost", "status"),
    [
        (DOWN, COST, CostStatus.EXACT),
        (TransientError("no answer in time"), None, CostStatus.UNKNOWN),
        (FULL._replace(usage=None), 1_000 + 3 * 5_000 + COST, CostStatus.ESTIMATED),
    ],
    ids=["turned-away", "unknown", "estimated"],
)
async def test_the_cost_of_a_call_is_worth_no_more_than_that_of_its_worst_attempt(first, cost, status):
    fleet = Fleet(a_model("a/m"), a_model("b/big", window=200_000), scripts={"a": [first]}, retry=NO_REPEAT)
    response = await fleet.executor.run(ASK)
    assert (response.cost_nanos, response.cost_status) == (cost, status)


async def test_the_latency_of_a_call_is_that_of_everything():
    fleet = Fleet(
        "a/m", "b/m", scripts={"a": [Reply(error=DOWN, head_s=3)], "b": [Reply(head_s=4)]}, retry=NO_REPEAT
    )
    response = await fleet.executor.run(ASK)
    assert response.latency_ms == pytest.approx(7000)
    assert [attempt.latency_ms for attempt in response.attempts] == pytest.approx([3000, 4000])


# -- when every candidate failed ---------------------------------------------------------------------


async def test_the_failure_of_a_call_carries_every_attempt_with_its_class_and_the_last_as_cause():
    fleet = Fleet(
        "a/m",
        "b/m",
        "c/m",
        scripts={"a": [CredentialError("bad key", status=401)], "b": [DOWN] * 2, "c": [UNREACHABLE] * 2},
    )
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    error = caught.value
    assert [(each.provider, each.error_class) for each in error.attempts] == [
        ("a", "credential"),
        ("b", "transient"),
        ("b", "transient"),
        ("c", "connection"),
    ]
    assert all(isinstance(each, ProviderError) for each in error.attempts)
    assert "4 attempts" in str(error)
    assert "bad key; overloaded; connection refused" in str(error), "each cause once"
    assert "\n" not in str(error)


async def test_with_no_candidate_left_the_last_error_is_the_cause():
    fleet = Fleet("a/m", scripts={"a": [CredentialError("bad key", status=401)]})
    with pytest.raises(
        AllProvidersFailedError, match=r"\(1 attempt, no candidate is left\): bad key"
    ) as caught:
        await fleet.executor.run(ASK)
    assert caught.value.__cause__ is caught.value.attempts[-1]


async def test_every_step_is_told_in_a_line():
    fleet = Fleet("a/m", "b/m", scripts={"a": [DOWN, DOWN], "b": [throttled(9)]})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=5))
    assert fleet.steps[0].startswith("a/m#api_key: overloaded; again in 0.")
    assert fleet.steps[1:] == ["a/m#api_key: overloaded; next b/m", "b/m#api_key: slow down"]
    waiting = Fleet("a/m", scripts={"a": [throttled(9)]})
    await waiting.executor.run(ASK)
    assert waiting.steps == ["a/m#api_key: slow down", "a/m is throttled; waiting 9.0 s"]


async def test_a_line_names_the_candidate_once():
    fleet = Fleet("a/m", "b/m", scripts={"a": [TransientError("a/m#api_key timed out")]}, retry=NO_REPEAT)
    await fleet.executor.run(ASK)
    assert fleet.steps == ["a/m#api_key timed out; next b/m"]


# -- the last resort ---------------------------------------------------------------------------------


async def test_when_everything_is_open_one_call_tries_before_the_time_and_its_success_closes():
    fleet = Fleet("a/m", "b/m")
    fleet.trip("a/m")
    fleet.trip("b/m")
    response = await fleet.executor.run(ASK)
    assert response.text == "ok"
    assert "nothing is available; a last resort before its time" in fleet.decisions[0].notes
    assert fleet.state("a/m") is CircuitState.CLOSED
    assert fleet.state("b/m") is CircuitState.OPEN


async def test_of_two_calls_when_everything_is_open_the_second_fails_at_once_with_the_time():
    fleet = Fleet("a/m", scripts={"a": [Reply(head_s=20)]})
    fleet.trip("a/m")
    first = asyncio.create_task(fleet.executor.run(ASK))
    await asyncio.sleep(0)
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert fleet.clock.monotonic() == before
    [refusal] = caught.value.attempts
    assert isinstance(refusal, CircuitOpenError)
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 60)
    assert "0 attempts" in str(caught.value)
    assert (await first).text == "ok"
    assert len(fleet.decisions) == 2


async def test_a_last_resort_that_fails_is_not_repeated_and_the_next_one_waits_its_turn():
    fleet = Fleet("a/m", "b/m")
    fleet["a"].default = fleet["b"].default = DOWN
    fleet.trip("a/m")
    fleet.trip("b/m")
    for attempts in (2, 0, 0):
        with pytest.raises(AllProvidersFailedError, match=f"{attempts} attempts"):
            await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]
    fleet.clock.advance(60)
    assert fleet.state("a/m") is CircuitState.HALF_OPEN, "the failure did not prolong it"


async def test_in_a_last_resort_the_policy_chose_only_what_it_chose():
    fleet = Fleet("a/m", "b/m")
    fleet.trip("a/m")
    fleet.trip("b/m")
    fleet.domains.acquire(the_candidate("a/m"), 100, last_resort=True).release()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["b/m"]
    assert not fleet.records[0].chosen_by_policy


async def test_a_refused_permit_is_not_an_attempt():
    fleet = Fleet("a/m", "b/m", limits=CallLimits(max_attempts=1))
    fleet.trip("a/m")
    fleet.trip("b/m")
    fleet.domains.acquire(the_candidate("a/m"), 100, last_resort=True).release()
    assert (await fleet.executor.run(ASK)).provider == "b"


async def test_a_circuit_that_opens_during_the_call_has_no_last_resort():
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)

    def fail_while_the_other_is_tripped(_request, _model):
        fleet.trip("b/m")
        return DOWN

    fleet["a"].then(fail_while_the_other_is_tripped)
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m"]
    assert [type(each) for each in caught.value.attempts] == [TransientError, CircuitOpenError]
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 60)


async def test_there_is_no_last_resort_while_something_is_available():
    fleet = Fleet("a/m", "b/m", scripts={"b": [DOWN] * 9})
    fleet.trip("a/m")
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["b/m", "b/m"]


async def test_credentials_that_are_off_have_no_last_resort():
    fleet = Fleet("a/m", scripts={"a": [CredentialError("401", status=401)]})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    with pytest.raises(
        AllProvidersFailedError, match=r"0 attempts.*the credential a#api_key is off"
    ) as caught:
        await fleet.executor.run(ASK)
    assert fleet.asked == 1
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 300)


async def test_a_refusal_that_is_not_of_the_breakers_is_not_overruled():
    class ClosedOnSundays:
        quiet = False

        def refusal(self, candidate):
            return Refusal(candidate.key, "it is Sunday", 0.0, None)

    fleet = Fleet("a/m")
    fleet.router._availability = ClosedOnSundays()
    with pytest.raises(NoCandidateError, match="it is Sunday"):
        await fleet.executor.run(ASK)
    assert fleet.asked == 0


# -- the minimum success rate ------------------------------------------------------------------------


async def fail_often(fleet, times=30):
    for _ in range(times):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
        fleet.clock.advance(120)


async def test_a_provider_that_failed_for_an_hour_yesterday_is_tried_when_nothing_else_is_there():
    fleet = Fleet("a/m")
    fleet["a"].default = DOWN
    await fail_often(fleet)
    fleet.clock.advance(86_400)
    fleet["a"].default = "back again"
    with pytest.raises(NoCandidateError):
        fleet.router.get_best_model("default", "default")
    response = await fleet.executor.run(ASK)
    assert response.text == "back again"
    assert "no candidate reaches a success rate of 80%" in fleet.decisions[-1].notes


async def test_during_the_outage_it_is_still_tried_once_in_a_recovery_timeout():
    fleet = Fleet("a/m", retry=NO_REPEAT)
    fleet["a"].default = DOWN
    await fail_often(fleet)
    assert fleet.state("a/m") is CircuitState.HALF_OPEN
    fleet.trip("a/m")
    fleet["a"].default = "back again"
    assert (await fleet.executor.run(ASK)).text == "back again"


async def test_a_success_rate_that_the_caller_asked_for_is_required():
    fleet = Fleet("a/m")
    fleet["a"].default = DOWN
    await fail_often(fleet)
    asked = fleet.asked
    fleet["a"].default = "back again"
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.5))
    fleet.trip("a/m")
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.5))
    assert fleet.asked == asked
    assert (await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.0))).text == "back again"


async def test_what_fits_nothing_at_all_is_told_with_the_nearest():
    fleet = Fleet("a/m")
    with pytest.raises(NoCandidateError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(allow_providers=frozenset({"b"})))
    assert caught.value.nearest == "a/m"
    with pytest.raises(UnknownNameError):
        await fleet.executor.run(ASK, ExecutionContext(model="nobody"))
    assert fleet.decisions == []


# -- streams -----------------------------------------------------------------------------------------


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
