"""One call's time, attempts and dollars, and the bucket that limits repeats."""

from __future__ import annotations

import pytest

from attune.errors import BudgetExhaustedError, InvalidRequestError
from attune.models.budget import CallBudget, CallLimits, RetryBucket, TimeLimits


def test_the_defaults_are_those_that_are_documented():
    limits = CallLimits()
    assert (limits.max_attempts, limits.deadline_s, limits.connect_s) == (4, 600.0, 10.0)
    assert limits.for_tier("cheap") == (60.0, 60.0, 300.0)
    assert limits.for_tier("capable") == (60.0, 60.0, 600.0)
    assert limits.for_tier("premium") == (120.0, 60.0, 600.0)


def test_a_tier_has_its_own_time_limits_and_a_general_one_holds_for_all():
    tiers = {"cheap": TimeLimits(1, 2, 3), "premium": TimeLimits(4, 5, 6)}
    assert CallLimits(tiers=tiers).for_tier("cheap") == (1, 2, 3)
    assert CallLimits(tiers=tiers).for_tier("premium") == (4, 5, 6)
    assert CallLimits(tiers=tiers).for_tier("capable") == (60, 60, 600)
    assert CallLimits(tiers=tiers, idle_s=9).for_tier("cheap") == (1, 9, 3)
    assert CallLimits(tiers=tiers, first_content_s=7, total_s=8).for_tier("premium") == (7, 5, 8)
    budget = CallBudget(CallLimits(tiers=tiers), now=0.0)
    assert budget.start_attempt(0.0, "cheap") == (10.0, 1, 2, 3)
    assert budget.start_attempt(0.0, "premium") == (10.0, 4, 5, 6)


def test_an_attempt_gets_the_limits_of_the_call_while_there_is_time():
    budget = CallBudget(CallLimits(), now=100.0)
    assert budget.start_attempt(100.0, "capable") == (10.0, 60.0, 60.0, 600.0)
    assert budget.start_attempt(150.0, "capable").total_s == 550.0


def test_every_limit_of_an_attempt_is_cut_to_what_the_call_has_left():
    budget = CallBudget(CallLimits(connect_s=10, first_content_s=30, idle_s=20), now=0.0, deadline_s=40.0)
    assert budget.start_attempt(15.0, "capable") == (10, 25, 20, 25)
    assert budget.start_attempt(36.0, "capable") == (4, 4, 4, 4)


def test_an_attempt_may_start_in_the_last_moment_and_a_call_of_one_attempt_is_a_call():
    budget = CallBudget(CallLimits(max_attempts=1), now=0.0, deadline_s=5.0)
    assert budget.start_attempt(4.5, "capable").total_s == 0.5


def test_a_calls_own_deadline_replaces_the_usual_one_be_it_longer():
    assert CallBudget(CallLimits(deadline_s=5), now=0.0).deadline == 5
    assert CallBudget(CallLimits(deadline_s=5), now=0.0, deadline_s=50.0).deadline == 50


def test_no_attempt_starts_after_the_deadline():
    budget = CallBudget(CallLimits(deadline_s=5), now=0.0)
    assert budget.remaining_s(7.0) == 0.0
    with pytest.raises(BudgetExhaustedError, match=r"^the call's deadline has passed$") as caught:
        budget.start_attempt(5.0, "capable")
    assert caught.value.limit == "deadline"
    assert budget.attempts == 0


def test_attempts_are_counted_over_everything():
    budget = CallBudget(CallLimits(max_attempts=2), now=0.0)
    for left in (1, 0):
        budget.start_attempt(0.0, "capable")
        assert budget.attempts_left == left
    with pytest.raises(BudgetExhaustedError, match="all 2 attempts are used") as caught:
        budget.start_attempt(0.0, "capable")
    assert caught.value.limit == "attempts"
    assert budget.attempts == 2


def test_a_call_without_attempts_makes_no_sense():
    with pytest.raises(InvalidRequestError, match="max_attempts must be at least 1, not 0"):
        CallBudget(CallLimits(max_attempts=0), now=0.0)


def test_dollars_are_shared_by_all_attempts():
    budget = CallBudget(CallLimits(), now=0.0, budget_usd=0.01)
    assert budget.affords(0.01)
    assert not budget.affords(0.010001)
    budget.spend(4_000_000)
    assert budget.affords(0.006)
    assert not budget.affords(0.0061)


def test_an_attempt_of_unknown_cost_counts_as_held_and_all_of_them_add_up():
    budget = CallBudget(CallLimits(), now=0.0, budget_usd=0.01)
    budget.spend(None)
    assert budget.spent_nanos == 0
    for cost, held in ((None, 4_000_000), (1_000_000, 9_000_000), (None, 2_000_000)):
        budget._held_nanos += held
        budget.spend(cost, held)
    assert budget.spent_nanos == 7_000_000
    assert not budget.affords(0.0031)


def test_an_unknown_price_does_not_fit_a_limit_and_fits_where_there_is_none():
    assert CallBudget(CallLimits(), now=0.0).affords(None)
    assert not CallBudget(CallLimits(), now=0.0, budget_usd=100.0).affords(None)


def test_a_budget_of_nothing_lets_only_what_is_free_through():
    budget = CallBudget(CallLimits(), now=0.0, budget_usd=0.0)
    assert budget.affords(0.0)
    assert not budget.affords(1e-9)


def test_a_full_bucket_allows_ten_repeats_and_twelve_calls_earn_one_more():
    bucket = RetryBucket()
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(11):
        bucket.credit()
    assert not bucket.take()
    bucket.credit()
    assert bucket.take()
    assert not bucket.take()


def test_a_bucket_takes_many_small_parts_for_what_they_add_up_to_and_nothing_less():
    bucket = RetryBucket(capacity=1, per_call=1 - 1e-7)
    assert bucket.take()
    bucket.credit()
    assert bucket.take(), "ten millionths are the noise of adding up"
    short = RetryBucket(capacity=1, per_call=1 - 1e-5)
    assert short.take()
    short.credit()
    assert not short.take()


def test_a_bucket_never_holds_more_than_its_capacity():
    bucket = RetryBucket(capacity=2, per_call=0.5)
    for _ in range(100):
        bucket.credit()
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_in_an_outage_repeats_are_less_than_a_tenth_of_the_calls():
    bucket = RetryBucket()
    repeats = 0
    for _ in range(1000):
        bucket.credit()
        repeats += bucket.take()
    assert repeats == pytest.approx(10 + 1000 * 0.09, abs=1)
    assert repeats <= 1000 / 10
