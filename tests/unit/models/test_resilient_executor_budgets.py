"""What a call may take, what it costs, and what it says when every candidate failed."""

from __future__ import annotations

import pytest

from attune.errors import (
    AllProvidersFailedError,
    BudgetExhaustedError,
    ConnectionFailedError,
    CredentialError,
    ProviderError,
    ThrottledError,
    TransientError,
)
from attune.models.budget import CallLimits
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelTier
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.models.telemetry import CostStatus, TokenUsage
from attune.testing import Reply
from support.pipeline import ASK, COST, STREAM, Fleet, a_model

CHEAP, CAPABLE, PREMIUM = ModelTier
DOWN = TransientError("overloaded", status=503)
UNREACHABLE = ConnectionFailedError("connection refused")
NO_REPEAT = RetryPolicy(max_repeats=0)


def throttled(seconds):
    return ThrottledError("slow down", status=429, retry_after=seconds)


FULL = Reply("half an ans", stop_reason="context_window")


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
    with pytest.raises(BudgetExhaustedError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(budget_usd=0.0001))
    assert fleet.asked == 0
    assert caught.value.limit == "cost"
    assert "a/m#api_key would pass the call's budget of $0.0001" in str(caught.value)
    assert "the price of b/m#api_key is unknown" in str(caught.value)


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
