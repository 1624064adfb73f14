"""What comes after each failure of a call: the effect, as the upstreams saw it."""

from __future__ import annotations

import pytest

from attune.errors import (
    AllProvidersFailedError,
    CallerError,
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
    WindowSpentError,
)
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.attempt_runner import AttemptRunner
from attune.models.budget import CallLimits
from attune.models.executor import TextDelta
from attune.models.failure_domains import BreakerLimits
from attune.models.fallback import FallbackPolicy
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.request import ExecutionContext
from attune.models.resilient_executor import ResilientExecutor
from attune.models.retry import RetryPolicy
from attune.testing import FakeProvider, Reply
from support.pipeline import ASK, COST, STREAM, Fleet, a_model, the_candidate
from support.routing import an_attempt

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
    assert repeats == 13, "ten at first, and 0.09 for each call after the first"
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
    with pytest.raises(AllProvidersFailedError, match=r"all 4 attempts are used") as caught:
        await fleet.executor.run(ASK)
    assert len(fleet.seen) == len(caught.value.attempts) == 4


async def test_what_was_waited_for_and_then_fails_otherwise_is_not_tried_again():
    fleet = Fleet("a/m", scripts={"a": [throttled(5), DOWN, "too late"]}, retry=NO_REPEAT)
    with pytest.raises(AllProvidersFailedError, match="no candidate is left"):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/m"]


async def test_no_wait_for_a_window_that_is_too_small():
    fleet = Fleet(
        "a/m", "b/m", scripts={"a": [throttled(10)], "b": [ContextTooLongError("prompt is too long")]}
    )
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]
    assert fleet.clock.monotonic() == before


async def test_a_candidate_below_a_floor_that_nobody_asked_for_is_tried_when_the_others_fail():
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)
    seen = {"at": fleet.clock.time(), "workflow": "default", "stage": "default"}
    for number in range(40):
        fleet.router.observe(an_attempt("b/m", number % 10 < 7, **seen))
        fleet.router.observe(an_attempt("a/m", **seen))
    fleet["a"].default = TransientError("overloaded")
    fleet["b"].default = "b answers"
    assert (await fleet.executor.run(ASK)).text == "b answers"
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.8))


async def test_a_prompt_too_long_goes_to_any_model_with_a_larger_window():
    fleet = Fleet(
        a_model("a/small", ModelTier.CHEAP, window=10_000),
        a_model("a/big", ModelTier.PREMIUM, window=90_000),
        scripts={"a": [ContextTooLongError("too long"), "it fits"]},
    )
    assert (await fleet.executor.run(ASK, ExecutionContext(tier="cheap"))).text == "it fits"
    assert fleet.seen == ["a/small", "a/big"]


async def test_a_call_for_which_nothing_fits_leaves_its_decision_and_why():
    fleet = Fleet("a/m")
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(workflow="w", max_latency_ms=1, max_cost=0))
    (decision,) = fleet.decisions
    assert (decision.workflow, decision.ranked) == ("w", ())
    assert [(each.provider, each.model_id) for each in decision.dropped] == [("a", "m")]
    assert "above $0" in decision.dropped[0].reason
    assert "no candidate fits" in decision.reason


async def test_a_prompt_too_long_tries_no_larger_model_twice():
    fleet = Fleet(
        a_model("c/m", window=10_000),
        a_model("a/m", window=10_000),
        a_model("b/big", window=90_000),
        scripts={"c": [TransientError("overloaded")], "a": [ContextTooLongError("too long")]},
        retry=NO_REPEAT,
    )
    fleet["b"].default = TransientError("overloaded")
    for _ in range(3):  # so that its failure changes what is said of the others
        fleet.router.observe(
            an_attempt("c/m", at=fleet.clock.time(), workflow="default", stage="default", latency=100)
        )
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["c/m", "a/m", "b/big"]
