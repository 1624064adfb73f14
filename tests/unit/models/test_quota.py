"""Windows of quota: what is left, what is kept of them, how fast they are used and when they run out."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.quota import QuotaWindow, Rate, burn_of, fact_of, run_out, window_of
from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore

HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0
MONDAY = 1_767_571_200.0
"""2026-01-05 00:00 UTC."""

numbers = st.floats(0, 1e12)
windows = st.builds(
    QuotaWindow,
    st.from_regex(r"[a-z][a-z_]{0,30}", fullmatch=True),
    st.none() | numbers,
    st.none() | numbers,
    numbers,
    st.none() | numbers,
    numbers,
)


def poisson(rate: Rate, calls_an_hour: float, begin: float, end: float, rng: random.Random) -> list[float]:
    """Events of an amount around 1 at a constant rate; what comes is returned, and observed."""
    amounts, at = [], begin
    while (at := at + rng.expovariate(calls_an_hour) * HOUR) < end:
        amounts.append(rng.lognormvariate(0, 0.5))
        rate.observe(at, amounts[-1])
    return amounts


# -- windows and facts ---------------------------------------------------------------------------


def test_an_unknown_utilisation_or_capacity_leaves_nothing_known():
    assert QuotaWindow("seven_day", None, None, 0.0, 10.0).left_usd(5.0) is None
    assert QuotaWindow("seven_day", 0.5, None, 0.0).left_usd(5.0) is None
    assert not QuotaWindow("seven_day", None, None, 0.0).spent


def test_what_is_left_is_never_below_nothing_nor_above_the_whole():
    assert QuotaWindow("five_hour", 1.3, 100.0, 0.0, 10.0).left_usd(5.0) == 0.0
    assert QuotaWindow("five_hour", 0.25, 100.0, 0.0, 10.0).left_usd(5.0) == 7.5
    assert QuotaWindow("five_hour", -3.0, 100.0, 0.0, 10.0).left_usd(5.0) == 10.0


def test_a_window_whose_reset_has_passed_is_unused_and_begins_anew():
    window = QuotaWindow("five_hour", 1.0, 1000.0, 0.0, 10.0)
    assert window.spent
    assert window.at(999.0) is window
    assert not window.at(1000.0).spent
    assert window.left_usd(1000.0) == 10.0
    assert window.ends(999.0) == 1000.0
    assert window.ends(2000.0) == 2000.0 + 5 * HOUR
    assert QuotaWindow("seven_day_opus", 0.0, None, 0.0).ends(7.0) == 7.0 + WEEK


def test_a_reset_beyond_all_reason_is_cut_to_a_year_and_a_bit():
    assert QuotaWindow("credits", 0.0, 1e300, 0.0).ends(0.0) == 400 * DAY


@given(windows)
def test_a_window_comes_back_from_its_fact_as_it_was(window: QuotaWindow):
    fact = fact_of(window, "claude", "subscription")
    assert fact.kind is FactKind.QUOTA
    assert fact.key == f"claude#subscription#{window.name}"
    assert window_of(fact) == window.plausible()
    assert burn_of(fact) is None


@given(windows)
def test_what_is_plausible_is_so_and_changes_nothing_more(window: QuotaWindow):
    found = window.plausible()
    assert found.utilization is None or found.utilization == 0 or 1e-6 <= found.utilization <= 100
    assert found.resets_at is None or abs(found.resets_at - found.learned_at) <= 40 * DAY
    assert found.plausible() == found
    assert found.spent == window.spent


@pytest.mark.parametrize("used", [1e-320, 1e-170, 1e308])
def test_a_use_beyond_all_reason_does_not_break_a_forecast(used: float):
    window = QuotaWindow("five_hour", used, 10 * HOUR, 0.0).plausible()
    burn = Rate(0.0)
    burn.observe(1.0, window.utilization or 0.0)
    run_out(window, burn, HOUR)
    burn.forecast(HOUR, 2 * HOUR)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{}",
        "null",
        "[1,2]",
        "[0.5,null,true,null,0,null]",
        '["0.5",null,1,null,0,null]',
        "[0.5,null,1,null,null,null]",
        "[0.5,null,NaN,null,0,null]",
        "[-1,null,1,null,0,null]",
        "[" * 2000,
        json.dumps([0.5, None, 1.0, None, 0.0, None]) + " " * 20_000,
    ],
)
def test_what_no_window_wrote_is_not_read_as_one(data: str):
    fact = Fact(FactKind.QUOTA, "a#b#c", 10.0, 1.0, "", data)
    assert window_of(fact) is None
    assert burn_of(fact) is None


def test_a_cleared_fact_and_one_of_another_kind_are_no_windows():
    fact = fact_of(QuotaWindow("five_hour", 0.5, None, 1.0), "claude", "subscription")
    assert window_of(fact._replace(until=0.0)) is None
    assert window_of(fact._replace(kind=FactKind.COOLDOWN)) is None


async def test_a_restart_knows_the_window_that_was_learned_last(tmp_path):
    older = QuotaWindow("five_hour", 0.9, MONDAY + 5 * HOUR, MONDAY, 16.0)
    newer = QuotaWindow("five_hour", 0.1, MONDAY + 4 * HOUR, MONDAY + HOUR, 16.5)  # a reset that came early
    store = SqliteStore.open(tmp_path / "ledger.db", clock=lambda: MONDAY + 2 * HOUR)
    for window in (newer, older):
        store.put_fact(fact_of(window, "claude", "subscription"))
    await store.flush()
    store.close()
    store = SqliteStore.open(tmp_path / "ledger.db", clock=lambda: MONDAY + 2 * HOUR)
    assert [window_of(fact) for fact in store.facts()] == [newer]
    store.close()


# -- rates and forecasts -------------------------------------------------------------------------


def test_nothing_observed_forecasts_nothing():
    rate = Rate(MONDAY)
    assert rate.forecast(MONDAY, MONDAY + DAY) == (0.0, 0.0)
    rate.observe(MONDAY + 60, 5.0)
    assert rate.forecast(MONDAY + DAY, MONDAY + DAY) == (0.0, 0.0)
    assert Rate(MONDAY).forecast(MONDAY, MONDAY).above(0.0) == 0.0


def test_forecasts_of_poisson_demand_hold_as_often_as_they_say():
    rng, inside, below = random.Random(5), 0, 0
    runs = 200
    for _ in range(runs):
        rate, now = Rate(MONDAY), MONDAY + 2 * WEEK
        poisson(rate, 2.0, MONDAY, now, rng)
        forecast = rate.forecast(now, now + DAY)
        came = sum(poisson(Rate(now), 2.0, now, now + DAY, rng))
        inside += forecast.quantile(-1.645) <= came <= forecast.quantile(1.645)
        below += came <= forecast.mean
    assert 0.80 <= inside / runs <= 0.97
    assert 0.40 <= below / runs <= 0.65


def test_the_rhythm_of_day_and_week_is_learned():
    rate, rng = Rate(MONDAY), random.Random(3)
    for day in range(14):
        if day % 7 < 5:
            begin = MONDAY + day * DAY
            poisson(rate, 20.0, begin + 9 * HOUR, begin + 17 * HOUR, rng)
    now = MONDAY + 14 * DAY
    rate.forecast(now, now)
    night = rate.mean(now, now + 8 * HOUR)
    morning = rate.mean(now + 9 * HOUR, now + 13 * HOUR)
    sunday = rate.mean(now + 6 * DAY, now + 7 * DAY)
    assert morning == pytest.approx(4 * 20 * 1.133, rel=0.25)
    assert night < 0.05 * morning
    assert sunday < 0.15 * morning


def test_an_old_pace_is_forgotten():
    rate, rng = Rate(MONDAY), random.Random(4)
    poisson(rate, 20.0, MONDAY, MONDAY + 2 * WEEK, rng)
    poisson(rate, 2.0, MONDAY + 2 * WEEK, MONDAY + 12 * WEEK, rng)
    now = MONDAY + 12 * WEEK
    assert rate.forecast(now, now + WEEK).mean == pytest.approx(168 * 2 * 1.133, rel=0.3)


def test_a_rate_comes_back_from_the_fact_of_its_window():
    rate, now = Rate(MONDAY), MONDAY + WEEK
    poisson(rate, 5.0, MONDAY, now, random.Random(8))
    before = rate.forecast(now, now + DAY)
    stored = burn_of(fact_of(QuotaWindow("five_hour", 0.5, None, now), "claude", "subscription", rate))
    assert stored.forecast(now, now + DAY) == pytest.approx(before, rel=1e-4)
    assert Rate.of(rate.numbers()[:-1]) is None
    assert Rate.of([-1.0] * 340) is None
    assert Rate.of("340") is None


def test_a_clock_that_was_set_wrong_breaks_nothing():
    rate = Rate(0.0)
    rate.observe(1e11, 1.0)
    assert rate.forecast(1e11 + 60, 1e11 + DAY).mean >= 0.0


def test_a_long_pause_costs_no_more_to_look_at_than_eight_weeks():
    rate, now = Rate(MONDAY), MONDAY + 52 * WEEK
    rate.observe(MONDAY + 10, 1.0)
    assert rate.forecast(now, now + DAY).mean < 1e-3
    assert sum(rate._exposures) < 8 * WEEK * rate.weight(now)


# -- running out ---------------------------------------------------------------------------------


def test_a_window_runs_out_when_its_burn_says_so():
    rng = random.Random(6)
    burn, now = Rate(MONDAY), MONDAY + WEEK
    poisson(burn, 4.0, MONDAY, now, rng)  # 4.53 an hour
    window = QuotaWindow("seven_day", 0.0, now + WEEK, now)
    whole = 4.53 * 72
    scaled = Rate(MONDAY)
    scaled.__dict__.update(burn.__dict__)
    scaled._amounts = [amount / whole for amount in burn._amounts]
    scaled._squares = burn._squares / whole**2
    found = run_out(window, scaled, now)
    assert found is not None
    assert None not in found
    assert found.earliest < found.expected < found.latest
    assert found.expected - now == pytest.approx(72 * HOUR, rel=0.2)


def test_run_outs_of_poisson_use_fall_within_their_range_as_often_as_they_say():
    rng, inside, runs = random.Random(7), 0, 100
    for _ in range(runs):
        burn, now, at, used = Rate(MONDAY), MONDAY + WEEK, MONDAY, 0.0
        while (at := at + rng.expovariate(2.0) * HOUR) < now:
            burn.observe(at, rng.lognormvariate(-5, 0.5))
        found = run_out(QuotaWindow("seven_day", 0.5, now + WEEK, now), burn, now)
        at = now
        while used < 0.5:
            at += rng.expovariate(2.0) * HOUR
            used += rng.lognormvariate(-5, 0.5)
        assert found is not None
        inside += (found.earliest or now + WEEK) <= at <= (found.latest or 1e12)
    assert 0.80 <= inside / runs <= 0.99


def test_a_window_that_will_not_run_out_says_so():
    burn = Rate(MONDAY)
    burn.observe(MONDAY + HOUR, 0.001)
    now = MONDAY + DAY
    assert run_out(QuotaWindow("five_hour", 0.2, now + HOUR, now), burn, now) == (None, None, None)
    assert run_out(QuotaWindow("five_hour", 1.0, now + HOUR, now), burn, now) == (now, now, now)
    assert run_out(QuotaWindow("five_hour", None, now + HOUR, now), burn, now) is None
