"""The tests that are looked at after every call: what overturns a finding, what is proven, what is said."""

import pytest

from attune.models.sequential import FailureWatch, highest_proven_rate


def watch_of(results: str) -> FailureWatch:
    """A watch that has seen successes (``.``) and failures (``x``)."""
    watch = FailureWatch()
    for result in results:
        watch.observe(failed=result == "x")
    return watch


@pytest.mark.parametrize("results", ["", "xx", "x" * 9, "xxxx......", ".........xxxx", "x........." * 200])
def test_what_chance_or_ten_percent_explains_is_no_finding(results):
    assert not watch_of(results).failing


@pytest.mark.parametrize("results", ["x" * 10, "x.xx.x.xxx", "x.x...." * 6, "." * 200 + "x" * 8, "...x" * 40])
def test_what_neither_explains_is_one(results):
    assert watch_of(results).failing


def test_a_good_past_delays_the_notice_of_an_outage_by_a_few_calls_only():
    for past in (10, 100, 1000, 10_000, 50_000):
        watch = watch_of("." * past)
        calls = 0
        while not watch.failing:
            watch.observe(failed=True)
            calls += 1
        assert calls <= 10, past


def test_the_run_is_counted_from_where_the_change_most_likely_was():
    watch = watch_of("." * 300 + "x..x." * 8)
    assert watch.failing
    assert (watch.run_calls, watch.run_failures) == (40, 16)
    assert watch_of("x" + "." * 10).run_calls == 0


def test_a_failing_tier_is_found_fine_again_by_success_and_not_by_a_lull():
    watch = watch_of("x" * 10)
    calls = 0
    while watch.failing:
        watch.observe(failed=False)
        calls += 1
    assert 30 <= calls <= 60
    assert (watch.run_calls, watch.run_failures) == (0, 0)
    assert watch_of("x" * 10 + ("." * 19 + "xxx") * 20).failing


def test_after_a_recovery_it_can_be_found_failing_again():
    assert watch_of("x" * 10 + "." * 60 + "x" * 10).failing


def test_a_success_that_turns_out_a_failure_counts_as_one():
    corrected = watch_of("." * 20)
    for _ in range(12):
        corrected.correct(failed=True)
    assert corrected.failing
    assert 0 < corrected.run_failures <= corrected.run_calls


def test_a_failure_that_is_taken_back_leaves_no_trace():
    watch, clean = watch_of("....x"), watch_of(".....")
    watch.correct(failed=False)
    assert watch.evidence == pytest.approx(clean.evidence)
    assert (watch.run_calls, watch.run_failures) == (0, 0)


def test_results_of_unknown_order_count_as_evenly_spread_ones():
    many, single = FailureWatch(), FailureWatch()
    many.observe_many(400, 0)
    for _ in range(400):
        single.observe(failed=False)
    assert many.evidence == pytest.approx(single.evidence, abs=0.01)
    many.observe_many(60, 30)
    for n in range(60):
        single.observe(failed=n % 2 == 0)
    assert (many.failing, single.failing) == (True, True)
    assert (many.run_calls, many.run_failures) == (60, 30)
    many.observe_many(300, 0)
    assert not many.failing
    many.observe_many(0, 0)
    assert not many.failing


def test_a_tenth_of_any_number_of_results_of_unknown_order_is_no_finding():
    watch = FailureWatch()
    for _ in range(50):
        watch.observe_many(10_000, 1_000)
    assert not watch.failing
    watch.observe_many(10_000_000, 10_000_000)
    assert watch.failing


# -- what success rate is proven ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "failures", "least"),
    [
        (0, 0, 0),
        (0, 10, 0),
        (5, 5, 14),
        (30, 0, 85),
        (29, 1, 80),
        (90, 10, 80),
        (285, 15, 90),
        (10**6, 0, 99),
    ],
)
def test_more_and_better_results_prove_a_higher_rate(successes, failures, least):
    assert highest_proven_rate(successes, failures) == least


def test_what_is_proven_is_below_what_was_seen():
    for calls in (10, 100, 1000):
        for failures in range(0, calls, calls // 10):
            assert highest_proven_rate(calls - failures, failures) <= 100 * (calls - failures) / calls


def test_a_proof_stays_until_the_results_speak_against_it():
    assert highest_proven_rate(90, 10) == 80
    assert highest_proven_rate(90, 12) < 80
    assert highest_proven_rate(90, 12, before=80) == 80
    assert highest_proven_rate(90, 25, before=80) < 80
