"""The small statistics: what counts, quality, Wilson's interval, the latency sketch."""

import math
import random

import pytest
from ddsketch import DDSketch
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import ErrorClass, InvalidRequestError
from attune.models.performance import (
    DENSE,
    RECENT,
    LatencySketch,
    ModelPerformance,
    borrowed_weight,
    counts,
    join_recent,
    merge_bytes,
    newest,
    wilson_bounds,
)
from support.routing import an_attempt

PRIOR_SCORE = 0.78

rates = st.floats(0, 1)
latencies = st.floats(0, 1e6)
costs = st.floats(0, 100)
samples = st.integers(0, 10_000)
failures = st.integers(0, RECENT)


def score(
    success_rate=0.9, avg_latency_ms=2000.0, avg_cost=0.005, sample_size=100, recent_failures=0
) -> float:
    performance = ModelPerformance(
        "m", "capable", success_rate, avg_latency_ms, avg_cost, sample_size, recent_failures
    )
    return performance.quality_score


# -- what counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error_class", "says_something"),
    [
        (ErrorClass.CONNECTION, True),
        (ErrorClass.TRANSIENT, True),
        (ErrorClass.MID_STREAM, True),
        (ErrorClass.REFUSAL, True),
        (ErrorClass.THROTTLED, False),
        (ErrorClass.WINDOW_SPENT, False),
        (ErrorClass.MONEY, False),
        (ErrorClass.CREDENTIAL, False),
        (ErrorClass.MODEL, False),
        (ErrorClass.CONTEXT, False),
        (ErrorClass.CALLER, False),
        (ErrorClass.CANCELLED, False),
        (ErrorClass.INTERNAL, False),
    ],
)
def test_a_failure_counts_only_when_it_says_something_of_the_model(error_class, says_something):
    assert counts(an_attempt(success=False, error_class=error_class.value, at=0.0)) is says_something


def test_every_error_class_is_judged():
    judged = test_a_failure_counts_only_when_it_says_something_of_the_model.pytestmark[0].args[1]
    assert {case[0] for case in judged} == set(ErrorClass)


def test_a_success_counts_whatever_its_error_class_says():
    assert counts(an_attempt(at=0.0)._replace(error_class=ErrorClass.CALLER.value))


# -- the last results --------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=RECENT))
def test_two_runs_of_results_join_into_one(older, newer):
    def packed(results):
        return sum(failed << place for place, failed in enumerate(reversed(results[-RECENT:])))

    assert join_recent(packed(older), packed(newer), len(newer)) == packed(older + newer)


def test_the_newest_of_the_results_are_the_low_bits():
    assert newest(0b1011, 2) == 0b11
    assert newest(0b1011, 0) == 0
    assert newest((1 << RECENT) - 1, 1000) == (1 << RECENT) - 1


# -- quality -----------------------------------------------------------------------------------------


@given(rates, rates, latencies, costs, samples, failures)
def test_quality_never_falls_when_success_rises(low, high, latency, cost, n, f):
    low, high = sorted((low, high))
    assert score(low, latency, cost, n, f) <= score(high, latency, cost, n, f) + 1e-12


@given(rates, latencies, latencies, costs, samples, failures)
def test_quality_never_rises_with_latency(rate, fast, slow, cost, n, f):
    fast, slow = sorted((fast, slow))
    assert score(rate, fast, cost, n, f) >= score(rate, slow, cost, n, f) - 1e-12


@given(rates, latencies, costs, costs, samples, failures)
def test_quality_never_rises_with_cost(rate, latency, low, high, n, f):
    low, high = sorted((low, high))
    assert score(rate, latency, low, n, f) >= score(rate, latency, high, n, f) - 1e-12


@given(rates, latencies, costs, samples, failures, failures)
def test_quality_never_rises_with_recent_failures(rate, latency, cost, n, few, many):
    few, many = sorted((few, many))
    assert score(rate, latency, cost, n, few) >= score(rate, latency, cost, n, many) - 1e-12


def test_each_part_of_quality_really_moves_it():
    assert score(success_rate=0.95) > score(success_rate=0.85)
    assert score(avg_latency_ms=500) > score(avg_latency_ms=5000)
    assert score(avg_cost=0.001) > score(avg_cost=0.05)
    assert score(recent_failures=0) > score(recent_failures=5)


@given(rates, latencies, costs, samples, failures)
def test_quality_lies_between_0_and_1(rate, latency, cost, n, f):
    assert 0 <= score(rate, latency, cost, n, f) <= 1


@given(rates, latencies, costs, st.integers(1, 100))
def test_quality_is_drawn_to_the_prior_the_fewer_calls_there_are(rate, latency, cost, n):
    fewer, more = score(rate, latency, cost, n), score(rate, latency, cost, n + 1)
    full = score(rate, latency, cost, DENSE)
    if min(rate - 0.9, 2000 - latency, 0.005 - cost) >= 0:
        assert PRIOR_SCORE - 1e-12 <= fewer <= more + 1e-12 <= full + 2e-12
    elif max(rate - 0.9, 2000 - latency, 0.005 - cost) <= 0:
        assert PRIOR_SCORE + 1e-12 >= fewer >= more - 1e-12 >= full - 2e-12


@given(rates, latencies, costs)
def test_without_a_call_quality_is_the_prior(rate, latency, cost):
    assert score(rate, latency, cost, 0) == pytest.approx(PRIOR_SCORE)


def test_quality_is_the_formula_of_its_docstring():
    for n in (1, 7, 29, 30, 500):
        k = 1 if n >= 30 else n / (n + 10 * (1 - n / 30))
        expected = (
            0.7 * (0.9 + k * (0.6 - 0.9))
            + 0.15 / (1 + (1 + k * (1.5 - 1)))
            + 0.15 * (0.5 + k * (1 / 3 - 0.5))
        ) * (1 - 0.02 * 4)
        assert score(0.6, 3000, 0.01, n, 4) == pytest.approx(expected)


def test_success_leads_neither_latency_nor_cost_outweighs_22_points_of_it():
    assert score(0.90, avg_latency_ms=1e9) > score(0.68, avg_latency_ms=0.0)
    assert score(0.90, avg_cost=1e9) > score(0.68, avg_cost=0.0)


@given(st.integers(0, 100))
def test_what_is_borrowed_fades_out(n):
    assert borrowed_weight(n) >= borrowed_weight(n + 1) >= 0
    assert borrowed_weight(0) == 10
    assert borrowed_weight(DENSE) == 0


# -- Wilson ------------------------------------------------------------------------------------------


def wilson_by_bisection(successes: int, calls: int, z: float, *, upper: bool) -> float:
    """The interval by its definition: the rates p at which |successes/calls - p| is z standard errors."""
    observed = successes / calls
    inside, outside = observed, 1.0 if upper else 0.0
    for _ in range(200):
        p = (inside + outside) / 2
        if abs(observed - p) <= z * math.sqrt(p * (1 - p) / calls):
            inside = p
        else:
            outside = p
    return inside


@given(st.integers(1, 5000), st.data(), st.sampled_from([1.0, 1.96, 2.326]))
def test_wilson_bounds_are_where_the_score_test_stops_rejecting(calls, data, z):
    successes = data.draw(st.integers(0, calls))
    low, high = wilson_bounds(successes, calls, z)
    assert low == pytest.approx(wilson_by_bisection(successes, calls, z, upper=False), abs=1e-9)
    assert high == pytest.approx(wilson_by_bisection(successes, calls, z, upper=True), abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "calls", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_bounds_agree_with_published_values(successes, calls, low, high):
    """Newcombe 1998, table I, method 3."""
    assert wilson_bounds(successes, calls) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_nothing_is_known_of_a_rate_without_calls():
    assert wilson_bounds(0, 0) == (0.0, 1.0)


# -- the latency sketch ------------------------------------------------------------------------------

some_latencies = st.lists(st.floats(0.1, 1e7), min_size=1, max_size=200)


def sketch_of(values) -> LatencySketch:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(some_latencies, st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_1_percent_of_the_true_one(values, q):
    true = sorted(values)[math.floor(q * (len(values) - 1))]
    assert sketch_of(values).quantile(q) == pytest.approx(true, rel=0.01 + 1e-9)


@given(some_latencies, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_quantiles_agree_with_the_ddsketch_package(values, q):
    judge = DDSketch(relative_accuracy=0.01)
    for value in values:
        judge.add(value)
    assert sketch_of(values).quantile(q) == pytest.approx(judge.get_quantile_value(q), rel=0.0203)


def test_a_real_distribution_of_latencies_keeps_its_quantiles():
    chance = random.Random(5)
    values = sorted(chance.lognormvariate(7.3, 0.8) for _ in range(20_000))
    sketch = sketch_of(values)
    for q in (0.5, 0.9, 0.95, 0.99, 0.999):
        assert sketch.quantile(q) == pytest.approx(values[int(q * (len(values) - 1))], rel=0.0101)


@given(some_latencies, some_latencies)
def test_merged_sketches_are_the_sketch_of_everything(left, right):
    merged = sketch_of(left)
    merged.merge(sketch_of(right))
    assert merged.bins == sketch_of(left + right).bins
    assert merged.count == len(left) + len(right)


@given(some_latencies, some_latencies)
def test_serialised_sketches_come_back_and_merge(left, right):
    a, b = sketch_of(left).to_bytes(), sketch_of(right).to_bytes()
    assert LatencySketch.from_bytes(a).bins == sketch_of(left).bins
    assert LatencySketch.from_bytes(a + b).bins == sketch_of(left + right).bins
    assert LatencySketch.from_bytes(merge_bytes(a, b)).bins == sketch_of(left + right).bins


@given(st.lists(st.floats(-1e9, 1e12), min_size=1, max_size=50))
def test_a_sketch_has_at_most_922_bins_whatever_comes(values):
    sketch = sketch_of([*values, 0.0, 1e300])
    lowest, highest = min(sketch.bins), max(sketch.bins)
    assert highest - lowest + 1 <= 922
    assert sketch.quantile(1.0) <= 1e7 * 1.01
    assert sketch.quantile(0.0) >= 0.1 * 0.99


def test_a_count_too_large_for_its_field_is_capped_not_broken():
    sketch = sketch_of([100.0])
    (index,) = sketch.bins
    sketch.bins[index] = 2**40
    assert LatencySketch.from_bytes(sketch.to_bytes()).bins == {index: 2**32 - 1}


def test_an_empty_sketch_has_no_quantile():
    assert LatencySketch().quantile(0.5) is None
    assert LatencySketch().to_bytes() == b""


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_0_to_1_is_refused(q):
    with pytest.raises(InvalidRequestError, match="between 0 and 1"):
        sketch_of([1.0]).quantile(q)


@given(some_latencies)
def test_quantiles_never_fall_as_the_share_rises(values):
    sketch = sketch_of(values)
    found = [sketch.quantile(step / 20) for step in range(21)]
    assert found == sorted(found)
