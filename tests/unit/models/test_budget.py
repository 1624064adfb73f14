"""One call's time, attempts and dollars, and the bucket that limits repeats."""

from __future__ import annotations

import pytest

from attune.errors import BudgetExhaustedError, InvalidRequestError
from attune.models.budget import CallBudget, CallLimits, RetryBucket


def test_the_defaults_are_those_that_are_documented():
    assert CallLimits() == (4, 600.0, 60.0, 60.0, 10.0)
    assert CallLimits()._fields == ("max_attempts", "deadline_s", "first_content_s", "idle_s", "connect_s")


def test_an_attempt_gets_the_limits_of_the_call_while_there_is_time():
    budget = CallBudget(CallLimits(), now=100.0)
    assert budget.start_attempt(100.0) == (10.0, 60.0, 60.0, 600.0)
    assert budget.start_attempt(150.0).total_s == 550.0


def test_every_limit_of_an_attempt_is_cut_to_what_the_call_has_left():
    budget = CallBudget(CallLimits(connect_s=10, first_content_s=30, idle_s=20), now=0.0, deadline_s=40.0)
    assert budget.start_attempt(15.0) == (10, 25, 20, 25)
    assert budget.start_attempt(36.0) == (4, 4, 4, 4)


def test_a_calls_own_deadline_replaces_the_usual_one_be_it_longer():
    assert CallBudget(CallLimits(deadline_s=5), now=0.0).deadline == 5
    assert CallBudget(CallLimits(deadline_s=5), now=0.0, deadline_s=50.0).deadline == 50


def test_no_attempt_starts_after_the_deadline():
    budget = CallBudget(CallLimits(deadline_s=5), now=0.0)
    assert budget.remaining_s(7.0) == 0.0
    with pytest.raises(BudgetExhaustedError, match="deadline has passed") as caught:
        budget.start_attempt(5.0)
    assert caught.value.limit == "deadline"
    assert budget.attempts == 0


def test_attempts_are_counted_over_everything():
    budget = CallBudget(CallLimits(max_attempts=2), now=0.0)
    for left in (1, 0):
        budget.start_attempt(0.0)
        assert budget.attempts_left == left
    with pytest.raises(BudgetExhaustedError, match="all 2 attempts are used") as caught:
        budget.start_attempt(0.0)
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


def test_an_unknown_price_does_not_fit_a_limit_and_fits_where_there_is_none():
    assert CallBudget(CallLimits(), now=0.0).affords(None)
    assert not CallBudget(CallLimits(), now=0.0, budget_usd=100.0).affords(None)


def test_a_budget_of_nothing_lets_only_what_is_free_through():
    budget = CallBudget(CallLimits(), now=0.0, budget_usd=0.0)
    assert budget.affords(0.0)
    assert not budget.affords(1e-9)


def test_a_full_bucket_allows_ten_repeats_and_ten_calls_earn_one_more():
    bucket = RetryBucket()
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(9):
        bucket.credit()
    assert not bucket.take()
    bucket.credit()
    assert bucket.take()
    assert not bucket.take()


def test_a_bucket_never_holds_more_than_its_capacity():
    bucket = RetryBucket(capacity=2, per_call=0.5)
    for _ in range(100):
        bucket.credit()
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_in_an_outage_repeats_are_a_tenth_of_the_calls():
    bucket = RetryBucket()
    repeats = 0
    for _ in range(1000):
        bucket.credit()
        repeats += bucket.take()
    assert repeats == pytest.approx(10 + 1000 / 10, abs=2)
