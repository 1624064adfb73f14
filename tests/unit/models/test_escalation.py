"""An answer that failed its validation climbs a tier: what the upstreams saw, in one budget."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import (
    CallerError,
    ContextTooLongError,
    RefusalError,
    StoreError,
    ThrottledError,
    TransientError,
)
from attune.models import Verdict
from attune.models.budget import CallLimits
from attune.models.failure_domains import BreakerLimits
from attune.models.fallback import FallbackPolicy
from attune.models.registry import ModelTier
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import ASK, COST, Fleet, a_model

CHEAP, CAPABLE, PREMIUM = ModelTier
CLASSIFY = ExecutionContext(task_type="classify")
ONCE = {"retry": RetryPolicy(max_repeats=0)}
DOWN = TransientError("overloaded", status=503)

OF_EACH_TIER = (
    a_model("a/small", CHEAP),
    a_model("b/small", CHEAP),
    a_model("a/mid", CAPABLE),
    a_model("b/big", PREMIUM),
)


def a_fleet(**scripts) -> Fleet:
    """Models of three tiers; provider ``a`` answers "no" and ``b`` "yes", unless a script says otherwise."""
    fleet = Fleet(*OF_EACH_TIER, scripts=scripts, **ONCE)
    fleet["a"].default, fleet["b"].default = "no", "yes"
    return fleet


async def climbs(fleet, context=CLASSIFY, *, validate="yes", request=ASK):
    return await fleet.executor.run(request, context, validate=validate, escalate=True)


async def test_the_next_tier_is_asked_and_not_another_model_of_the_same():
    fleet = a_fleet()
    answer = await climbs(fleet)
    assert fleet.seen == ["a/small", "a/mid", "b/big"]
    assert (answer.text, answer.verdict, answer.fallback_used) == ("yes", Verdict(True, 1.0), True)
    assert [record.chosen_by_policy for record in fleet.records] == [True, False, False]
    assert answer.cost_nanos == 3 * COST
    assert fleet.nothing_is_taken()


async def test_an_answer_that_passes_climbs_nowhere():
    fleet = a_fleet(a=["yes"])
    assert (await climbs(fleet)).model_id == "small"
    assert fleet.seen == ["a/small"]


async def test_a_fixed_tier_is_where_the_climb_begins():
    fleet = a_fleet()
    await climbs(fleet, ExecutionContext(tier="capable"))
    assert fleet.seen == ["a/mid", "b/big"]


async def test_from_the_highest_tier_there_is_nowhere_to_climb():
    fleet = a_fleet()
    answer = await climbs(fleet, ExecutionContext(tier="premium"), validate="no")
    assert (answer.text, answer.verdict is not None) == ("yes", True)
    assert fleet.seen == ["b/big"]
    assert fleet.steps[-1].endswith("there is no candidate of a higher tier")


async def test_what_the_call_allows_holds_above_too():
    fleet = a_fleet()
    allowed = ExecutionContext(task_type="classify", allow_providers=frozenset({"a"}))
    answer = await climbs(fleet, allowed)
    assert fleet.seen == ["a/small", "a/mid"]
    assert answer.model_id == "mid"


async def test_a_fallback_that_stays_where_it_is_does_not_forbid_the_climb():
    fleet = Fleet(*OF_EACH_TIER, fallback=FallbackPolicy(strategies=()), **ONCE)
    fleet["a"].default = "no"
    fleet["b"].default = "yes"
    assert (await climbs(fleet)).model_id == "big"


async def test_a_tier_that_fails_is_passed_over_and_the_lower_ones_are_not_asked_instead():
    fleet = a_fleet(a=["no", DOWN])
    assert (await climbs(fleet)).model_id == "big"
    assert fleet.seen == ["a/small", "a/mid", "b/big"]


@pytest.mark.parametrize(
    "failure",
    [
        DOWN,
        ThrottledError("slow down", status=429, retry_after=5.0),
        CallerError("no such field", status=400),
        RefusalError("no"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_when_the_tiers_above_fail_the_answer_at_hand_is_given_at_once(failure):
    fleet = a_fleet(a=["no", failure], b=[failure])
    began = fleet.clock.monotonic()
    answer = await climbs(fleet)
    assert (answer.text, answer.provider, answer.model_id) == ("no", "a", "small")
    assert answer.verdict is not None
    assert fleet.steps[-1].startswith("no higher tier answered: ")
    assert fleet.clock.monotonic() == began
    assert fleet.nothing_is_taken()


async def test_a_circuit_that_is_open_above_is_no_attempt():
    fleet = a_fleet()
    fleet.trip("b/big")
    fleet.trip("a/mid")
    answer = await climbs(fleet)
    assert fleet.seen == ["a/small"]
    assert len(answer.attempts) == 1


async def test_a_prompt_too_long_for_a_model_above_goes_to_a_larger_one_of_no_lower_tier():
    models = (
        a_model("a/small", CHEAP, window=500_000),
        a_model("c/huge", CHEAP, window=900_000),
        a_model("b/big", PREMIUM),
        a_model("d/bigger", PREMIUM, window=200_000),
    )
    fleet = Fleet(*models, scripts={"b": [ContextTooLongError("too long")], "a": ["no"]}, **ONCE)
    fleet["d"].default = "yes"
    assert (await climbs(fleet)).provider == "d"
    assert fleet.seen == ["a/small", "b/big", "d/bigger"]


async def test_a_tier_is_repeated_like_any_other_attempt():
    fleet = Fleet(*OF_EACH_TIER, scripts={"a": ["no", DOWN, "yes"]}, retry=RetryPolicy(max_repeats=1))
    assert (await climbs(fleet)).model_id == "mid"
    assert fleet.seen == ["a/small", "a/mid", "a/mid"]


async def test_a_refusal_that_fails_its_validation_climbs_too_and_a_whole_answer_is_better_than_it():
    fleet = a_fleet(
        a=[Reply("I cannot", stop_reason="refusal"), "maybe"], b=[Reply("nor I", stop_reason="refusal")]
    )
    answer = await climbs(fleet)
    assert fleet.seen == ["a/small", "a/mid", "b/big"]
    assert answer.text == "maybe"


async def test_the_calls_deadline_ends_the_climb():
    fleet = Fleet(*OF_EACH_TIER, limits=CallLimits(deadline_s=30.0), **ONCE)
    fleet["a"].then(Reply("no", head_s=30.0))
    answer = await climbs(fleet)
    assert (answer.text, answer.model_id) == ("no", "small")
    assert fleet.asked == 1
    assert fleet.steps[-1] == "no higher tier answered: the call's deadline has passed"


async def test_a_validator_has_no_more_time_than_the_call_has_left():
    async def endless(answer):
        return await asyncio.Event().wait()

    fleet = Fleet(*OF_EACH_TIER, limits=CallLimits(deadline_s=30.0), **ONCE)
    fleet["a"].then(Reply("no", head_s=30.0))
    answer = await climbs(fleet, validate=endless)
    assert (answer.text, answer.verdict) == ("no", None)
    assert answer.validator_error == "the validator took longer than 0.0 s"
    assert fleet.asked == 1


async def test_a_verdict_that_cannot_be_recorded_fails_the_call_and_nothing_stays_taken():
    def full(record, outcome, decided):
        raise StoreError("the disk is full")

    fleet = a_fleet()
    fleet.executor.record_outcome = full
    with pytest.raises(StoreError):
        await climbs(fleet)
    assert fleet.nothing_is_taken()


async def test_a_call_that_is_cancelled_while_it_is_judged_gives_everything_back():
    began = asyncio.Event()

    async def slow(answer):
        began.set()
        await asyncio.Event().wait()

    fleet = a_fleet()
    call = asyncio.create_task(climbs(fleet, validate=slow))
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [record.success for record in fleet.records] == [True]
    assert fleet.nothing_is_taken()


async def test_each_verdict_is_recorded_as_the_outcome_of_its_own_attempt():
    heard = []
    fleet = a_fleet()
    fleet.executor.record_outcome = lambda *told: heard.append(told)
    await climbs(fleet, validate=lambda answer: 0.9 if answer.text == "yes" else 0.2)
    assert [record.attempt_id for record, _, _ in heard] == [
        f"{fleet.records[0].call_id}.{n}" for n in range(3)
    ]
    assert [(each.attempt_id, each.success, each.score) for _, each, _ in heard] == [
        (fleet.records[0].attempt_id, False, 0.2),
        (fleet.records[1].attempt_id, False, 0.2),
        (fleet.records[2].attempt_id, True, 0.9),
    ]
    assert {decided.policy for _, _, decided in heard} == {fleet.decisions[0].policy}


async def test_without_a_hook_the_response_has_the_verdict_all_the_same():
    assert (await climbs(a_fleet())).verdict == Verdict(True, 1.0)


async def test_a_probe_that_climbs_through_an_opening_circuit_is_given_back():
    fleet = Fleet(*OF_EACH_TIER, breaker=BreakerLimits(failure_threshold=1), **ONCE)
    fleet["a"].then("no", DOWN)
    fleet["b"].default = "yes"
    assert (await climbs(fleet)).model_id == "big"
    assert fleet.nothing_is_taken()
