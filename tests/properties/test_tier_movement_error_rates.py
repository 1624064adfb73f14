"""The stated error rates of tier movement, in simulation: false alarms, delays, flips; seeded, no clock.

`ATTUNE_SCALE=soak` runs them larger.
"""

import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.sequential import FailureWatch, highest_proven_rate
from support.routing import CAPABLE, CHEAP, PREMIUM, Program
from support.scale import scaled

RUNS = scaled(test=400, faults=400, soak=4000)
DELAYS = scaled(test=201, faults=201, soak=2001)


def findings(rate: float, calls: int, rng: random.Random) -> int:
    """How often one watch changes its mind."""
    watch, flips, failing = FailureWatch(), 0, False
    for _ in range(calls):
        watch.observe(failed=rng.random() < rate)
        if watch.failing is not failing:
            failing = watch.failing
            flips += 1
    return flips


def is_ever_failing(rate: float, calls: int, rng: random.Random) -> bool:
    watch = FailureWatch()
    for _ in range(calls):
        watch.observe(failed=rng.random() < rate)
        if watch.failing:
            return True
    return False


def delay(past: int, rate: float, rng: random.Random) -> int | None:
    """Calls from a change of 10 % to ``rate`` until it is found; ``None`` if something was found before."""
    watch = FailureWatch()
    for _ in range(past):
        watch.observe(failed=rng.random() < 0.1)
        if watch.failing:
            return None
    calls = 0
    while not watch.failing:
        watch.observe(failed=rng.random() < rate)
        calls += 1
    return calls


def test_at_ten_percent_at_most_one_run_in_twenty_is_falsely_alarmed_within_10_000_looks():
    rng = random.Random(1)
    assert sum(is_ever_failing(0.1, 10_000, rng) for _ in range(RUNS)) <= 0.05 * RUNS


@pytest.mark.parametrize(
    ("rate", "past", "most"),
    [(0.3, 0, 40), (0.3, 50, 40), (0.3, 100, 40), (0.2, 0, 150), (0.2, 100, 150), (0.2, 500, 150)],
)
def test_a_rise_of_the_failure_rate_is_noticed_in_time(rate, past, most):
    rng = random.Random(2)
    found = [each for _ in range(DELAYS) if (each := delay(past, rate, rng)) is not None]
    assert len(found) > 0.9 * DELAYS
    assert median(found) <= most


@pytest.mark.parametrize(("rate", "past", "most"), [(0.3, 5000, 75), (0.2, 5000, 240)])
def test_a_long_past_costs_less_than_twice_the_calls(rate, past, most):
    rng = random.Random(3)
    found = [each for _ in range(41) if (each := delay(past, rate, rng)) is not None]
    assert median(found) <= most


@pytest.mark.parametrize(
    ("rate", "mean"), [(0.08, 0.1), (0.1, 0.2), (0.12, 2), (0.15, 4), (0.2, 2), (0.3, 1.2)]
)
def test_at_the_border_a_tier_does_not_go_back_and_forth(rate, mean):
    rng = random.Random(4)
    runs = scaled(test=20, faults=20, soak=200)
    assert sum(findings(rate, 5000, rng) for _ in range(runs)) <= mean * runs


def test_outcomes_that_come_late_alarm_no_more_than_those_that_come_at_once():
    rng = random.Random(5)
    runs = scaled(test=100, faults=100, soak=1000)
    alarmed = 0
    for _ in range(runs):
        watch = FailureWatch()
        late = [rng.random() < 0.1 for _ in range(2000)]
        for n in range(2000):
            watch.observe(failed=False)
            if n >= 30 and late[n - 30]:
                watch.correct(failed=True)
            if watch.failing:
                alarmed += 1
                break
    assert alarmed <= 0.05 * runs


def test_a_restart_every_day_alarms_no_more_than_none():
    rng = random.Random(6)
    alarmed = 0
    for _ in range(RUNS):
        watch = FailureWatch()
        for _ in range(7):
            calls = rng.randrange(1, 1500)
            watch.observe_many(calls, sum(rng.random() < 0.1 for _ in range(calls)))
        alarmed += watch.failing
    assert alarmed <= 0.05 * RUNS


def test_a_cheaper_model_below_the_floor_proves_itself_in_at_most_one_run_in_twenty():
    rng = random.Random(7)
    runs = scaled(test=200, faults=200, soak=2000)
    wrong = 0
    for _ in range(runs):
        proven = successes = 0
        for calls in range(1, 1001):
            successes += rng.random() < 0.8
            if calls >= 30:
                proven = highest_proven_rate(successes, calls - successes, proven)
            if proven >= 80:
                wrong += 1
                break
    assert wrong <= 0.05 * runs


def test_a_cheaper_model_that_is_good_enough_soon_proves_it():
    rng = random.Random(8)
    needed = []
    for _ in range(101):
        successes = calls = proven = 0
        while proven < 80:
            calls += 1
            successes += rng.random() < 0.95
            proven = highest_proven_rate(successes, calls - successes, proven)
        needed.append(max(calls, 30))
    assert median(needed) <= 50


@given(st.lists(st.booleans(), max_size=300))
@settings(deadline=None)
def test_a_failure_never_speaks_for_a_tier_and_a_success_never_against_it(results):
    after_failure, after_success = FailureWatch(), FailureWatch()
    for failed in results:
        after_failure.observe(failed=failed)
        after_success.observe(failed=failed)
    after_failure.observe(failed=True)
    after_success.observe(failed=False)
    assert after_failure.failing >= after_success.failing
    assert 0 <= after_failure.run_failures <= after_failure.run_calls


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 99))
def test_what_is_proven_rises_with_success_and_falls_with_failure(successes, failures, before):
    proven = highest_proven_rate(successes, failures, before)
    assert highest_proven_rate(successes + 1, failures, before) >= proven
    assert highest_proven_rate(successes, failures + 1, before) <= proven
    assert highest_proven_rate(successes, failures) <= proven


# -- the router itself -------------------------------------------------------------------------------


def test_the_router_notices_what_the_test_notices_and_goes_up_with_its_next_decision():
    rng = random.Random(9)
    needed = []
    for _ in range(25):
        program = Program()
        for _ in range(50):
            program.saw("a/mid", *((0, 1) if rng.random() < 0.1 else (1, 0)))
        calls = 0
        while not program.router.recommend_tier_upgrade("review", "check"):
            program.saw("a/mid", *((0, 1) if rng.random() < 0.3 else (1, 0)))
            calls += 1
        assert program.decide(min_success_rate=0.0).tier == PREMIUM
        needed.append(calls)
    assert median(needed) <= 40


@pytest.mark.parametrize("rate", [0.1, 0.15, 0.2])
def test_the_routers_tier_moves_a_few_times_at_most_in_2_000_calls(rate):
    rng = random.Random(10)
    program = Program()
    moves, tier = 0, CAPABLE
    for _ in range(2000):
        program.saw("a/mid", *((0, 1) if rng.random() < rate else (1, 0)))
        now = program.decide(min_success_rate=0.0).tier
        moves += now is not tier
        tier = now
    assert moves <= 3


@pytest.mark.parametrize("rate", [0.8, 0.85, 0.9])
def test_a_cheaper_model_near_the_floor_does_not_move_the_tier_back_and_forth(rate):
    rng = random.Random(11)
    program = Program()
    moves, tier = 0, CAPABLE
    for _ in range(2000):
        program.saw("a/small", *((1, 0) if rng.random() < rate else (0, 1)))
        now = program.decide().tier
        moves += now is not tier
        tier = now
    assert tier is (CAPABLE if rate == 0.8 else CHEAP)
    assert moves <= 3
