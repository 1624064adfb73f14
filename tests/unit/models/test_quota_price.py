"""The price of quota: what a unit of it is expected to save still."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.quota import QuotaWindow, window_of
from attune.models.quota_price import Demand, fits, marginal_cost, shadow_price

HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0
MONDAY = 1_767_571_200.0
NOW = MONDAY + WEEK
BOTH = ("five_hour", "seven_day")


def demand(*worths: float, calls_an_hour: float = 10.0, windows: tuple[str, ...] = BOTH) -> Demand:
    """A week of calls of a dollar each, whose worths take turns."""
    found, rng, at, number = Demand(MONDAY), random.Random(1), MONDAY, 0
    while (at := at + rng.expovariate(calls_an_hour) * HOUR) < NOW:
        found.observe(at, 1.0, worths[number % len(worths)], windows)
        number += 1
    return found


def week(left_usd: float, ends: float = NOW + DAY) -> QuotaWindow:
    """A window of 10,000 USD with so much left."""
    return QuotaWindow("seven_day", 1 - left_usd / 10_000, ends, NOW, 10_000.0)


MIXED = demand(1.0, 0.5, 0.2)
"""Some 240 USD a day, a third of it of each worth."""


@given(st.floats(0, 10_000), st.floats(0, 10_000), st.floats(60, WEEK), st.floats(60, WEEK))
def test_the_price_rises_with_scarcity_and_lies_between_nothing_and_the_api_price(a, b, soon, late):
    low, high = sorted((a, b))
    soon, late = sorted((soon, late))
    scarce, ample = (shadow_price(week(left, NOW + late), MIXED, NOW) for left in (low, high))
    shorter = shadow_price(week(high, NOW + soon), MIXED, NOW)
    assert 0.0 <= ample <= scarce <= 1.0
    assert shorter <= ample + 1e-9


@settings(max_examples=50)
@given(st.floats(0.01, 100), st.floats(0, 10_000), st.floats(0, 16))
def test_a_call_never_costs_more_than_on_the_api(cost, left, left_now):
    five = QuotaWindow("five_hour", 1 - left_now / 16, NOW + 3 * HOUR, NOW, 16.0)
    found = marginal_cost(cost, (five, week(left)), MIXED, NOW)
    assert 0.0 <= found <= cost


def test_quota_that_would_expire_unused_is_free():
    assert shadow_price(week(2000.0), MIXED, NOW) == pytest.approx(0.0, abs=1e-6)
    assert marginal_cost(1.0, (week(2000.0),), MIXED, NOW) == pytest.approx(0.0, abs=1e-6)


def test_scarce_quota_costs_what_the_most_valuable_calls_would():
    assert shadow_price(week(5.0), MIXED, NOW) == pytest.approx(1.0, abs=0.01)
    assert shadow_price(week(5.0), demand(0.5, 0.2), NOW) == pytest.approx(0.5, abs=0.01)


def test_between_the_two_the_last_calls_that_fit_set_the_price():
    assert shadow_price(week(120.0), MIXED, NOW) == pytest.approx(0.5, abs=0.05)
    assert shadow_price(week(200.0), MIXED, NOW) == pytest.approx(0.2, abs=0.05)


def test_what_nothing_else_can_serve_cheaper_is_taken_while_there_is_any():
    """Of calls that are all worth the same none is kept back for another."""
    price = marginal_cost(1.0, (week(20.0),), demand(1.0), NOW)
    assert price <= 1.0
    assert marginal_cost(1.0, (week(20.0),), demand(0.5), NOW) <= 0.5


def test_the_dearest_window_decides_and_missing_ones_are_left_out():
    scarce = week(5.0)
    ample = QuotaWindow("five_hour", 0.0, NOW + HOUR, NOW, 10_000.0)
    unknown = QuotaWindow("seven_day_opus", None, None, NOW)
    price = marginal_cost(2.0, (scarce,), MIXED, NOW)
    assert marginal_cost(2.0, (ample, unknown, scarce), MIXED, NOW) == pytest.approx(price, abs=0.02)
    assert marginal_cost(2.0, (unknown,), MIXED, NOW) is None
    assert marginal_cost(2.0, (), MIXED, NOW) is None


def test_a_week_that_its_hours_do_not_let_through_is_not_scarce():
    """With 6 USD in five hours no more than 30 of a day's 240 can be used."""
    narrow = QuotaWindow("five_hour", 0.0, NOW + 5 * HOUR, NOW, 6.0)
    assert shadow_price(week(60.0), MIXED, NOW) > 0.9
    assert shadow_price(week(60.0), MIXED, NOW, narrow) < 0.01
    vague = narrow._replace(capacity_usd=None)
    assert shadow_price(week(60.0), MIXED, NOW, vague) == shadow_price(week(60.0), MIXED, NOW)


def test_what_the_owner_uses_elsewhere_makes_the_rest_scarcer():
    busy = week(300.0)._replace(elsewhere_usd=10.0)
    assert shadow_price(week(300.0), MIXED, NOW) < 0.1
    assert shadow_price(busy, MIXED, NOW) > 0.9


def test_calls_of_other_models_do_not_compete_for_a_models_own_window():
    found = demand(1.0)
    opus = QuotaWindow("seven_day_opus", 0.99, NOW + DAY, NOW, 100.0)
    assert shadow_price(opus, found, NOW) == 0.0


def test_credits_are_kept_for_what_only_they_can_save():
    prepaid = QuotaWindow("credits", 0.9, NOW + 20 * DAY, NOW, 1000.0)
    found = demand(1.0, 0.5, windows=("credits",))
    assert marginal_cost(1.0, (prepaid,), found, NOW) > 0.9
    soon = prepaid._replace(resets_at=NOW + 2 * HOUR)
    assert marginal_cost(1.0, (soon,), found, NOW) < 0.01


def test_before_any_call_is_known_nothing_is_to_come():
    assert marginal_cost(1.0, (week(5.0),), Demand(NOW), NOW) == 0.0


def test_a_demand_comes_back_from_its_fact():
    fact = MIXED.fact("claude", "subscription", NOW)
    assert fact.key == "claude#subscription#*demand"
    assert window_of(fact) is None
    assert len(fact.data) < 6000
    stored = Demand.of(fact)
    for left in (5.0, 120.0, 200.0):
        expected = shadow_price(week(left), MIXED, NOW)
        assert shadow_price(week(left), stored, NOW) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda rate, classes: [rate, classes, 1],
        lambda rate, classes: [rate[1:], classes],
        lambda rate, classes: [rate, [classes]],
        lambda rate, classes: [rate, {"five_hour": [0.5]}],
        lambda rate, classes: [rate, {"five_hour": ["a"] * 101}],
        lambda rate, classes: {},
    ],
)
def test_what_no_demand_wrote_is_not_read_as_one(change):
    fact = MIXED.fact("claude", "subscription", NOW)
    rate, classes = json.loads(fact.data)
    assert Demand.of(fact) is not None
    assert Demand.of(fact._replace(data=json.dumps(change(rate, classes)))) is None
    assert Demand.of(fact._replace(until=0.0)) is None


def test_a_window_that_ends_now_costs_nothing():
    noons = Demand(MONDAY)
    for day in range(7):
        for second in range(20):
            noons.observe(MONDAY + day * DAY + 12 * HOUR + second, 1.0, 1.0, BOTH)
    assert shadow_price(week(5.0, ends=math.nextafter(NOW, math.inf)), noons, NOW) == 0.0


def test_a_call_without_a_price_teaches_nothing():
    found = Demand(MONDAY)
    found.observe(NOW, 0.0, 1.0, BOTH)
    assert found.forecast(NOW, NOW + DAY) == (0.0, 0.0)


def test_a_price_stands_for_some_seconds_and_changes_at_once_with_a_report():
    found = demand(1.0, 0.5)
    first = marginal_cost(1.0, (week(120.0),), found, NOW)
    assert marginal_cost(1.0, (week(120.0),), found, NOW + 9) == first
    assert marginal_cost(1.0, (week(120.0),), found, NOW + 3000) != first
    assert marginal_cost(1.0, (week(5.0),), found, NOW) > first
    for left in range(40):
        marginal_cost(1.0, (week(left),), found, NOW)
    assert len(found._prices) <= 16


def test_a_call_fits_beside_those_under_way():
    five = QuotaWindow("five_hour", 0.95, NOW + HOUR, NOW, 100.0)
    assert fits(4.0, (five, week(100.0)), NOW)
    assert not fits(4.0, (five,), NOW, under_way_usd=2.0)
    assert not fits(6.0, (five,), NOW)
    assert fits(6.0, (five,), NOW + HOUR)


def test_what_a_window_is_worth_is_only_believed_when_it_is_nearly_used_up():
    assert fits(6.0, (QuotaWindow("five_hour", 0.89, NOW + HOUR, NOW, 10.0),), NOW)
    assert not fits(6.0, (QuotaWindow("credits", 0.5, NOW + HOUR, NOW, 10.0),), NOW), "a grant is known"


def test_a_spent_window_whose_reset_was_not_told_is_tried_again_after_an_hour():
    spent = QuotaWindow("five_hour", 1.0, None, NOW, 10.0)
    assert not fits(1.0, (spent,), NOW + HOUR - 1)
    assert fits(1.0, (spent,), NOW + HOUR)


def test_a_window_of_unknown_capacity_has_room_until_it_is_spent():
    unknown = QuotaWindow("five_hour", 0.5, NOW + HOUR, NOW)
    assert fits(1e6, (unknown,), NOW)
    assert not fits(0.01, (unknown._replace(utilization=1.0),), NOW)
    assert fits(0.01, (unknown._replace(utilization=1.0),), NOW + HOUR)
