"""Telemetry over a moving window: expiry, borrowing, restoring, corrections, eviction."""

import pytest

from attune.errors import ErrorClass, InvalidRequestError
from attune.models.borrowing import NOTHING_KNOWN
from attune.models.performance import BUCKET_SECONDS
from attune.models.state import RollupRow
from attune.models.telemetry import TokenUsage
from attune.models.windows import PerformanceStats
from support.routing import DAY, Estimate, an_attempt, rollup_rows, said

NOON = 20_000 * DAY + DAY / 2
LABEL = "a/mid"


def fed(*records, **options) -> PerformanceStats:
    stats = PerformanceStats(**options)
    for record in records:
        stats.observe(record)
    return stats


def estimate(stats, *, now=NOON, workflow="review", stage="check", task="", label=LABEL) -> Estimate:
    return Estimate.of(stats.estimate(stats.levels(workflow, stage, task), label, stats.first_bucket(now)))


def window(stats, *, now=NOON, workflow="review", stage="check", task="", label=LABEL):
    (level,) = [level for key, level in stats.keys(workflow, stage) if key[2] == task]
    return dict(stats.windows(level, stats.first_bucket(now))).get(label)


# -- the window --------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [0, 1, 7])
def test_within_seven_days_everything_is_remembered(later):
    stats = fed(*[an_attempt(at=NOON, success=n > 0) for n in range(40)])
    found = estimate(stats, now=NOON + later * DAY)
    assert (found.own_calls, found.own_successes, found.recent_failures) == (40, 39, 0)


def test_eight_days_later_nothing_is_left():
    stats = fed(*[an_attempt(at=NOON, success=n > 0) for n in range(40)])
    found = estimate(stats, now=NOON + 8 * DAY)
    assert found == Estimate.of(NOTHING_KNOWN)
    assert window(stats, now=NOON + 8 * DAY) is None
    assert stats.mean_tokens(stats.levels("review", "check", ""), stats.first_bucket(NOON + 8 * DAY)) is None
    assert stats.tiers(stats.levels("review", "check", "")[0], stats.first_bucket(NOON + 8 * DAY)) == {}


def test_days_leave_the_window_one_by_one():
    stats = fed(*[an_attempt(at=NOON + day * DAY, success=day % 2 == 0) for day in range(8)])
    left = [estimate(stats, now=NOON + day * DAY).own_calls for day in range(7, 16)]
    assert left == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_the_window_can_be_shorter_but_not_nothing():
    stats = fed(an_attempt(at=NOON), window_days=1)
    assert estimate(stats, now=NOON + DAY).own_calls == 1
    assert estimate(stats, now=NOON + 2 * DAY).own_calls == 0
    with pytest.raises(InvalidRequestError, match="window_days must be at least 1, not 0"):
        PerformanceStats(window_days=0)


def test_the_days_of_a_month_that_nobody_asked_about_are_out_of_the_window_too():
    stats = fed(*[an_attempt(at=NOON + day * DAY) for day in range(30)])
    assert estimate(stats, now=NOON + 29 * DAY).own_calls == 8
    assert window(stats, now=NOON + 29 * DAY).calls == 8


def test_recent_failures_end_with_the_window_even_when_calls_went_on():
    stats = fed(
        *[an_attempt(at=NOON, success=False) for _ in range(5)],
        *[an_attempt(at=NOON + 9 * DAY) for _ in range(3)],
    )
    now = NOON + 9 * DAY
    assert estimate(stats, now=now).recent_failures == 0
    assert window(stats, now=now).recent_failures == 0


def test_recent_failures_of_a_shorter_look_back_are_those_of_its_days():
    stats = fed(an_attempt(at=NOON, success=False), an_attempt(at=NOON + 2 * DAY))
    (_, level), *_ = stats.keys("review")
    now = NOON + 2 * DAY
    assert dict(stats.windows(level, int(now // BUCKET_SECONDS) - 1))[LABEL].recent_failures == 0
    assert dict(stats.windows(level, int(now // BUCKET_SECONDS) - 2))[LABEL].recent_failures == 1


def test_asking_in_between_changes_nothing_that_is_answered_later():
    records = [
        *[an_attempt(at=NOON, success=False, latency=9000) for _ in range(15)],
        *[an_attempt(at=NOON, workflow="docs", success=n % 2 == 0) for n in range(15)],
        *[an_attempt(at=NOON + 9 * DAY) for _ in range(5)],
    ]
    silent, asked = PerformanceStats(), PerformanceStats()
    for n, record in enumerate(records):
        silent.observe(record)
        asked.observe(record)
        for hours in (0, 5, 24 * 8 if n == 29 else 0):
            estimate(asked, now=record.at + hours * 3600)
            estimate(asked, now=record.at + hours * 3600, workflow="docs")
    for workflow in ("review", "docs", "never seen"):
        now = NOON + 9 * DAY
        assert estimate(silent, now=now, workflow=workflow) == estimate(asked, now=now, workflow=workflow)


# -- what is counted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error_class", [ErrorClass.CALLER, ErrorClass.CREDENTIAL, ErrorClass.INTERNAL, ErrorClass.THROTTLED]
)
def test_a_failure_that_is_not_the_models_changes_nothing(error_class):
    stats = fed(an_attempt(at=NOON, success=False, error_class=error_class.value))
    assert estimate(stats) == Estimate.of(NOTHING_KNOWN)
    assert len(stats) == 0


def test_a_window_sums_latency_of_successes_and_cost_where_it_is_known():
    stats = fed(
        an_attempt(at=NOON, latency=100.0, cost=5),
        an_attempt(at=NOON, latency=300.0, cost=None, usage=None),
        an_attempt(at=NOON, success=False, latency=60_000.0, cost=7, usage=TokenUsage(10, 0)),
    )
    found = window(stats)
    assert (found.calls, found.successes, found.latency_ms) == (3, 2, 400.0)
    assert (found.cost_nanos, found.cost_count) == (12, 2)
    assert (found.input_tokens, found.output_tokens, found.usage_count) == (1010, 500, 2)
    assert found.sketch.count == 2
    performance = found.performance(LABEL)
    assert performance == ("mid", "capable", pytest.approx(2 / 3), 200.0, 6e-9, 3, 1)


def test_the_time_until_a_time_limit_or_a_cancellation_adds_to_the_latency_and_not_to_its_count():
    stats = fed(
        *[an_attempt(at=NOON, latency=1000.0)] * 3,
        an_attempt(at=NOON, success=False, latency=60_000.0, error_code="timeout"),
        an_attempt(at=NOON, success=False, latency=3000.0, error_class="cancelled"),
        an_attempt(at=NOON, success=False, latency=500.0),
    )
    found = window(stats)
    assert (found.calls, found.successes, found.latency_ms) == (5, 3, 66_000.0)
    assert found.performance(LABEL).avg_latency_ms == 22_000.0
    assert found.recent_failures == 2
    assert found.sketch.count == 4
    assert found.sketch.quantile(1) == pytest.approx(60_000, rel=0.01)


def test_a_model_that_often_times_out_is_slower_than_one_that_never_does():
    stats = PerformanceStats()
    for number in range(100):
        stats.observe(an_attempt("a/mid", at=NOON, latency=1000.0))
        late = {"success": False, "latency": 60_000.0, "error_code": "timeout"}
        stats.observe(an_attempt("b/mid", at=NOON, **({"latency": 800.0} if number % 5 else late)))
    steady, often_late = (estimate(stats, label=label).latency_ms for label in ("a/mid", "b/mid"))
    assert steady == 1000
    assert often_late == pytest.approx((80 * 800 + 20 * 60_000) / 80)


def test_cancelled_calls_alone_say_that_a_key_is_slow_and_nothing_of_its_success():
    stats = fed(*[an_attempt(at=NOON, success=False, latency=50_000.0, error_class="cancelled")] * 4)
    found = estimate(stats)
    assert found == Estimate(0.9, (4 * 50_000 + 10 * 2000) / 10, 0, 0, 0, 0, None, 0, None)
    assert not list(stats.windows(stats.levels("review", "check", "")[0], stats.first_bucket(NOON)))


def test_cancelled_calls_of_a_sibling_count_where_it_has_no_others():
    stats = fed(
        *[an_attempt(at=NOON, task="fix_bug", latency=1000.0)] * 5,
        an_attempt(at=NOON, task="refactor", success=False, latency=50_000.0, error_class="cancelled"),
    )
    siblings = (50_000 + 10 * 2000) / 10
    weight = 10 - 5 / 3
    expected = (5000 + weight * siblings) / (5 + weight)
    assert estimate(stats, task="fix_bug").latency_ms == pytest.approx(expected)


def test_a_day_of_nothing_but_cancelled_calls_leaves_the_last_results_what_they_were():
    failed = [an_attempt(at=NOON, success=n < 14, tier="capable") for n in range(20)]
    cancelled = an_attempt(at=NOON + DAY, success=False, error_class="cancelled")
    with_it, without = PerformanceStats(), PerformanceStats()
    with_it.restore(rollup_rows([*failed, cancelled]))
    without.restore(rollup_rows(failed))
    seen = [
        stats.levels("review", "check", "")[0].watch("capable", stats.first_bucket(NOON))
        for stats in (with_it, without)
    ]
    assert len({(watch.evidence, watch.last, watch.run_calls, watch.run_failures) for watch in seen}) == 1


def test_means_of_a_cell_without_success_or_cost_are_0():
    performance = window(fed(an_attempt(at=NOON, success=False, cost=None))).performance(LABEL)
    assert (performance.success_rate, performance.avg_latency_ms, performance.avg_cost) == (0, 0, 0)


def test_a_task_is_the_same_in_any_spelling():
    stats = fed(an_attempt(at=NOON, task="Fix-Bug"), an_attempt(at=NOON, task="fix_bug", success=False))
    assert estimate(stats, task="fix_bug").own_calls == 2
    stats.correct(an_attempt(at=NOON, task="Fix-Bug"), previous=None, outcome=said(False))
    assert estimate(stats, task="fix_bug").own_successes == 0
    assert len(stats) == 1


# -- borrowing ---------------------------------------------------------------------------------------


def test_without_telemetry_the_estimate_is_the_prior():
    assert estimate(PerformanceStats()) == Estimate(0.9, 2000.0, 0, 0, 0, 0, None, 0, None)


def test_a_key_that_never_saw_a_candidate_takes_what_others_know_of_it():
    stats = fed(*[an_attempt(at=NOON, stage="other", success=n < 60, latency=500) for n in range(100)])
    found = estimate(stats, stage="new")
    assert (found.success_rate, found.latency_ms, found.known) == (0.6, 500, 1)
    assert (found.own_calls, found.own_successes) == (0, 0)


def test_the_nearest_level_that_knows_a_candidate_lends():
    stats = fed(
        *[an_attempt(at=NOON, workflow="far", success=False) for _ in range(100)],
        *[an_attempt(at=NOON, stage="near") for _ in range(100)],
        *[an_attempt(at=NOON, task="refactor", latency=10.0) for _ in range(100)],
    )
    assert estimate(stats, task="fix_bug").latency_ms == 10.0
    assert estimate(stats, stage="new").success_rate == 1.0
    assert estimate(stats, workflow="new").success_rate == pytest.approx(2 / 3)


def test_a_sparse_cell_is_drawn_to_its_siblings_and_a_dense_one_is_not():
    def rate_with(own_failures):
        others = [an_attempt(at=NOON, stage="other") for _ in range(100)]
        own = [an_attempt(at=NOON, success=False) for _ in range(own_failures)]
        return estimate(fed(*others, *own)).success_rate

    assert rate_with(0) == 1.0
    weight = 10 * (1 - 6 / 30)
    assert rate_with(6) == pytest.approx(weight / (6 + weight))
    assert rate_with(30) == 0.0


def test_no_call_counts_twice_however_many_levels_see_it():
    two_of_two = fed(*[an_attempt(at=NOON, success=False, task="fix_bug") for _ in range(2)])
    weight = 10 * (1 - 2 / 30)
    expected = weight * 0.9 / (2 + weight)
    for key in ({"task": "fix_bug"}, {}, {"stage": "new"}, {"workflow": "new"}):
        found = estimate(two_of_two, **key)
        assert found.success_rate == pytest.approx(expected)
        assert found.known == pytest.approx(2 / (2 + weight))


def test_a_failure_never_raises_an_estimate_that_was_borrowed_in_an_outage():
    stats = fed(*[an_attempt(at=NOON, stage="other", success=n % 2 == 0) for n in range(40)])
    before = estimate(stats)
    stats.observe(an_attempt(at=NOON, success=False))
    after = estimate(stats)
    assert after.success_rate < before.success_rate
    assert after.recent_failures >= 9
    assert before.recent_failures == 10


def test_what_is_known_does_not_collapse_with_the_first_call_of_a_new_stage():
    stats = fed(*[an_attempt(at=NOON, stage="other") for _ in range(1000)])
    stats.observe(an_attempt(at=NOON))
    assert estimate(stats).known > 0.99


@pytest.mark.parametrize(("calls", "measured"), [(9, None), (10, 0.0)])
def test_a_rate_is_measured_from_ten_calls_on(calls, measured):
    stats = fed(*[an_attempt(at=NOON, success=False) for _ in range(calls)])
    assert estimate(stats).measured_rate == measured
    assert estimate(stats).measured_latency_ms is None


def test_latency_is_measured_from_ten_successes_on():
    stats = fed(*[an_attempt(at=NOON, latency=300, success=n >= 5) for n in range(15)])
    assert estimate(stats).measured_latency_ms == 300
    assert estimate(fed(*[an_attempt(at=NOON) for _ in range(9)])).measured_latency_ms is None


def test_a_measured_rate_may_be_that_of_the_stage_but_not_of_another_workflow():
    stats = fed(*[an_attempt(at=NOON, task="refactor", success=n % 2 == 0) for n in range(20)])
    assert estimate(stats, task="fix_bug").measured_rate == 0.5
    assert estimate(stats, task="fix_bug").measured_latency_ms == 1000
    stats.observe(an_attempt(at=NOON, task="fix_bug"))
    assert estimate(stats, task="fix_bug").measured_rate == pytest.approx(11 / 21)
    assert estimate(stats, workflow="other", task="fix_bug").measured_rate is None


def test_mean_tokens_are_those_of_the_most_specific_level_that_has_any():
    stats = fed(
        an_attempt(at=NOON, workflow="far", usage=TokenUsage(9000, 900)),
        an_attempt(at=NOON, task="refactor", usage=TokenUsage(100, 10)),
        an_attempt("b/mid", at=NOON, task="refactor", usage=TokenUsage(300, 30)),
        an_attempt(at=NOON, task="chat", usage=None),
    )
    first = stats.first_bucket(NOON)
    assert stats.mean_tokens(stats.levels("review", "check", "refactor"), first) == (200, 20)
    assert stats.mean_tokens(stats.levels("review", "check", "chat"), first) == (200, 20)
    assert stats.mean_tokens(stats.levels("new", "new", "new"), first) == (9400 / 3, 940 / 3)
    assert PerformanceStats().mean_tokens(stats.levels("x", "y", "z")[:1], first) is None


def test_tiers_sum_the_candidates_of_a_level():
    stats = fed(
        *[an_attempt("a/mid", at=NOON, success=n > 2) for n in range(25)],
        *[an_attempt("b/mid", at=NOON) for _ in range(4)],
        an_attempt("a/big", at=NOON),
    )
    results = stats.tiers(stats.levels("review", "check", "")[0], stats.first_bucket(NOON))
    assert results == {"capable": (29, 3), "premium": (1, 0)}


# -- restoring ---------------------------------------------------------------------------------------


def test_restored_roll_ups_say_what_the_observed_attempts_said():
    records = [
        an_attempt(
            f"{'ab'[n % 2]}/mid",
            at=NOON + n * DAY / 9,
            stage=("check", "fix")[n % 3 == 0],
            success=n % 4 > 0,
            latency=100.0 * (n % 7 + 1),
            cost=n if n % 5 else None,
        )
        for n in range(60)
    ]
    observed, restored = fed(*records), PerformanceStats()
    restored.restore(rollup_rows(records))
    now = records[-1].at
    for label in ("a/mid", "b/mid"):
        for stage in ("check", "fix", "new"):
            was, found = (estimate(each, now=now, stage=stage, label=label) for each in (observed, restored))
            assert tuple(found[:5]) == pytest.approx(tuple(was[:5]))
            assert found.measured_rate == pytest.approx(was.measured_rate)
            assert found.measured_latency_ms == pytest.approx(was.measured_latency_ms)
        for stage in ("check", "fix"):
            was, found = (window(each, now=now, stage=stage, label=label) for each in (observed, restored))
            assert tuple(found[1:-2]) == pytest.approx(tuple(was[1:-2]))
            assert found.sketch.bins == was.sketch.bins
    assert len(restored) == len(observed)


def test_observing_goes_on_after_a_restore_on_the_same_day():
    records = [an_attempt(at=NOON, latency=100.0, success=n != 2) for n in range(4)]
    stats = PerformanceStats()
    stats.restore(rollup_rows(records[:3]))
    stats.observe(records[3])
    assert window(stats)[:-2] == window(fed(*records))[:-2]
    assert window(stats).sketch.bins == window(fed(*records)).sketch.bins


def test_restoring_after_something_was_observed_is_refused():
    with pytest.raises(InvalidRequestError, match="restored before anything is observed"):
        fed(an_attempt(at=NOON)).restore([])


def test_recent_failures_of_siblings_are_borrowed_in_proportion_and_never_counted_twice():
    failures = [an_attempt(at=NOON, success=False) for _ in range(2)]
    assert estimate(fed(*failures)).recent_failures == 2
    assert estimate(fed(*failures, an_attempt(at=NOON, stage="other"))).recent_failures == 2
    elsewhere = [an_attempt(at=NOON, stage="other", success=False) for _ in range(4)]
    assert estimate(fed(*failures, *elsewhere)).recent_failures == pytest.approx(2 + 4 * 18 / 20)
    own = [an_attempt(at=NOON) for _ in range(20)]
    assert estimate(fed(*elsewhere, *own)).recent_failures == 0


def test_two_rows_of_one_bucket_are_added():
    halves = [an_attempt(at=NOON, latency=100.0)], [an_attempt(at=NOON, latency=200.0)]
    stats = PerformanceStats()
    stats.restore([*rollup_rows(halves[0]), *rollup_rows(halves[1])])
    assert window(stats).calls == 2
    assert window(stats).sketch.count == 2


def test_rows_older_than_the_window_say_nothing():
    stats = PerformanceStats()
    stats.restore(rollup_rows([an_attempt(at=NOON - 30 * DAY, success=False)]))
    assert estimate(stats) == Estimate.of(NOTHING_KNOWN)


def test_a_row_without_latencies_restores():
    (row,) = rollup_rows([an_attempt(at=NOON, success=False)])
    assert isinstance(row, RollupRow)
    assert row.latency_bins == b""
    stats = PerformanceStats()
    stats.restore([row])
    assert window(stats).sketch.quantile(0.5) is None


# -- corrections -------------------------------------------------------------------------------------


def test_a_bad_answer_becomes_a_failure_and_its_latency_leaves_the_mean():
    good, bad = an_attempt(at=NOON, latency=100.0), an_attempt(at=NOON, latency=300.0)
    stats = fed(good, bad)
    stats.correct(bad, previous=None, outcome=said(False))
    found = window(stats)
    assert (found.calls, found.successes, found.latency_ms, found.recent_failures) == (2, 1, 100.0, 1)
    assert found.performance(LABEL).avg_latency_ms == 100.0
    assert estimate(stats, stage="new").recent_failures == 1


def test_the_same_outcome_twice_counts_once():
    record = an_attempt(at=NOON)
    stats = fed(record, an_attempt(at=NOON))
    stats.correct(record, previous=None, outcome=said(False))
    once = estimate(stats)
    stats.correct(record, previous=said(False), outcome=said(False))
    assert estimate(stats) == once


def test_an_outcome_taken_back_leaves_no_trace():
    record = an_attempt(at=NOON, latency=123.4)
    stats = fed(record, an_attempt(at=NOON, success=False))
    before = estimate(stats)
    stats.correct(record, previous=None, outcome=said(False))
    assert estimate(stats).own_successes == 0
    stats.correct(record, previous=said(False), outcome=said(True))
    assert estimate(stats) == pytest.approx(before)


def test_a_good_outcome_of_a_success_changes_nothing():
    record = an_attempt(at=NOON)
    stats = fed(record)
    before = estimate(stats)
    stats.correct(record, previous=None, outcome=said(True))
    assert estimate(stats) == before


@pytest.mark.parametrize("previous", [None, said(True), said(False)])
def test_a_transport_failure_stays_a_failure(previous):
    record = an_attempt(at=NOON, success=False)
    stats = fed(record)
    before = estimate(stats)
    stats.correct(record, previous=previous, outcome=said(True))
    assert estimate(stats) == before


def test_an_outcome_reaches_every_level():
    record = an_attempt(at=NOON, task="fix_bug")
    stats = fed(record, an_attempt("b/mid", at=NOON))
    stats.correct(record, previous=None, outcome=said(False))
    for level in stats.levels("review", "check", "fix_bug"):
        assert level.row(LABEL, 0)[:4] == (1, 0, 0.0, 1)


def test_an_outcome_of_a_key_that_is_gone_is_ignored():
    record = an_attempt(at=NOON)
    stats = fed(record, an_attempt(at=NOON, stage="next"), max_cells=1)
    stats.correct(record, previous=None, outcome=said(False))
    assert estimate(stats, stage="next").recent_failures == 0
    stats.correct(an_attempt(at=NOON, workflow="never seen"), previous=None, outcome=said(False))


def test_an_outcome_of_an_evicted_attempt_never_makes_less_than_no_success():
    record = an_attempt(at=NOON)
    stats = fed(record, an_attempt(at=NOON, stage="next"), an_attempt(at=NOON, success=False), max_cells=1)
    stats.correct(record, previous=None, outcome=said(False))
    found = estimate(stats)
    assert (found.own_calls, found.own_successes) == (1, 0)


def test_of_the_last_results_the_newest_that_differs_is_the_one_that_changes():
    records = [an_attempt(at=NOON, success=n != 1) for n in range(3)]
    stats = fed(*records)
    stats.correct(records[0], previous=None, outcome=said(False))
    stats.correct(records[2], previous=None, outcome=said(False))
    assert window(stats).recent_failures == 3
    stats.correct(records[0], previous=said(False), outcome=said(True))
    assert window(stats).recent_failures == 2


def test_an_outcome_of_an_attempt_older_than_the_last_20_still_counts():
    old = an_attempt(at=NOON)
    stats = fed(old, *[an_attempt(at=NOON, success=False) for _ in range(20)])
    stats.correct(old, previous=None, outcome=said(False))
    assert (window(stats).successes, window(stats).recent_failures) == (0, 20)


# -- labels ------------------------------------------------------------------------------------------


def test_a_label_counts_in_the_bucket_of_its_attempt_and_leaves_with_it():
    old, new = an_attempt(at=NOON), an_attempt(at=NOON + DAY)
    stats = fed(old, new)
    stats.correct(old, previous=None, outcome=said(True, 0.75))
    stats.correct(new, previous=None, outcome=said(False, 0.25))
    (level,) = [level for _, level in stats.keys("review")]
    windows = {first: dict(stats.windows(level, first))[LABEL].labels for first in (0, NOON // DAY + 1)}
    assert list(windows.values()) == [(2, 1.0, 0, 0), (1, 0.25, 0, 0)]
    level.expire(LABEL, int(NOON // DAY) + 1)
    assert dict(stats.windows(level, 0))[LABEL].labels == (1, 0.25, 0, 0)


def test_a_later_word_replaces_the_label_and_counts_no_second_answer():
    record = an_attempt(at=NOON)
    stats = fed(record)
    verdict = said(False, 0.2, "validator")
    stats.correct(record, previous=None, outcome=verdict)
    assert window(stats).labels == (1, 0.2, 1, 0)
    stats.correct(record, previous=verdict, outcome=said(True))
    assert window(stats).labels == (1, 1.0, 1, 0)
    assert window(stats).successes == 1


def test_an_answer_that_never_came_has_no_label():
    record = an_attempt(at=NOON, success=False)
    stats = fed(record)
    stats.correct(record, previous=None, outcome=said(True))
    assert window(stats).labels == (0, 0, 0, 0)


def test_labels_outlive_a_restore_and_may_be_added_to():
    records = [an_attempt(at=NOON) for _ in range(2)]
    (row,) = rollup_rows(records)
    stats = PerformanceStats()
    stats.restore([row._replace(labelled=1, label_sum=0.5, judged=1, passed=1)])
    stats.correct(records[1], previous=None, outcome=said(True, 0.25, "validator"))
    assert window(stats).labels == (2, 0.75, 2, 2)


def test_the_share_of_labelled_answers_is_that_of_the_key():
    record, other = an_attempt(at=NOON), an_attempt("b/mid", at=NOON)
    stats = fed(record, other, an_attempt(at=NOON, stage="next"))
    assert stats.labelled_share("review", "check", "", 0) == 0.0
    stats.correct(record, previous=None, outcome=said(True))
    assert stats.labelled_share("review", "check", "", 0) == 0.5
    assert stats.labelled_share("review", "new", "", 0) is None
    assert stats.labelled_share("review", "check", "", int(NOON // DAY) + 1) is None


# -- eviction ----------------------------------------------------------------------------------------


def test_at_most_max_cells_are_kept_and_the_least_recently_observed_go_first():
    stats = PerformanceStats(max_cells=10)
    for n in range(100):
        stats.observe(an_attempt(at=NOON, workflow=f"w{n}", stage=f"s{n % 7}"))
        stats.observe(an_attempt(at=NOON, workflow="w0", stage="s0"))
    assert len(stats) == 10
    assert [key[0] for key, _ in stats.keys("w0")] == ["w0"]
    assert [n for n in range(100) if list(stats.keys(f"w{n}"))] == [0, *range(91, 100)]


def test_a_query_does_not_keep_a_key_alive():
    stats = PerformanceStats(max_cells=2)
    for stage in ("one", "two", "three"):
        stats.observe(an_attempt(at=NOON, stage=stage))
        estimate(stats, stage="one")
    assert [key[1] for key, _ in stats.keys("review")] == ["two", "three"]


def test_no_parent_outlives_its_last_key():
    stats = PerformanceStats(max_cells=5)
    for n in range(1000):
        stats.observe(an_attempt(at=NOON, workflow=f"w{n}", stage=f"s{n}", task=f"t{n}"))
    assert len(stats._workflows) == len(stats._stages) == len(stats._paths) == 5


def test_a_parent_with_a_key_left_keeps_what_it_knew_of_the_others():
    stats = PerformanceStats(max_cells=1)
    stats.observe(an_attempt(at=NOON, stage="one", success=False))
    stats.observe(an_attempt(at=NOON, stage="two"))
    assert estimate(stats, stage="new").recent_failures == 1


def test_one_key_may_hold_more_candidates_than_max_cells():
    stats = PerformanceStats(max_cells=1)
    for label in ("a/mid", "b/mid", "a/big"):
        stats.observe(an_attempt(label, at=NOON))
    assert len(stats) == 3


def test_restoring_more_than_max_cells_keeps_the_latest():
    records = [an_attempt(at=NOON + n * DAY / 20, stage=f"s{n}") for n in range(50)]
    stats = PerformanceStats(max_cells=5)
    stats.restore(rollup_rows(records))
    assert [key[1] for key, _ in stats.keys("review")] == [f"s{n}" for n in range(45, 50)]


def test_unseen_keys_have_empty_levels_and_stay_unseen():
    stats = fed(an_attempt(at=NOON))
    for key in [("new", "new", "new"), ("review", "new", ""), ("review", "check", "new")]:
        levels = stats.levels(*key)
        assert not levels[0].cells
    assert not stats.levels("review", "check", "new")[0].rows
    assert len(stats.levels("review", "check", "")) == 3
    assert len(stats) == 1
