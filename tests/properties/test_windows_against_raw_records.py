"""The windowed statistics against a naive reference that recomputes everything from the raw records."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from attune.models.borrowing import _borrowed
from attune.models.performance import BUCKET_SECONDS
from attune.models.telemetry import Outcome, TokenUsage
from attune.models.windows import PerformanceStats
from support.routing import DAY, Estimate, an_attempt, rollup_rows, said

START = 20_000 * DAY
WINDOW_DAYS = 3
KEYS = [
    ("review", "check", "fix_bug"),
    ("review", "check", ""),
    ("review", "write", "fix_bug"),
    ("docs", "check", "fix_bug"),
]
LABELS = ["a/mid", "b/mid"]
ENDS = {
    "answered": {"success": True},
    "failed": {"success": False},
    "timed out": {"success": False, "error_code": "timeout"},
    "cancelled": {"success": False, "error_class": "cancelled"},
}


class Attempt:
    """A raw record and what is known of it now."""

    def __init__(self, record) -> None:
        self.record = record
        self.good = record.success
        self.outcome: Outcome | None = None


class RawRecords:
    """The reference: every attempt ever seen, and nothing else but each level's last results.

    These are kept as (bucket, failed), since an outcome changes the newest result that differs, which
    need not be that of its own attempt.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.results: dict[tuple[str, ...], list[tuple[int, bool]]] = {}

    def add(self, record) -> None:
        self.attempts.append(Attempt(record))
        if record.error_class == "cancelled":
            return
        for level in self._levels_of(record):
            self.results.setdefault(level, []).append((bucket_of(record), not record.success))

    def correct(self, attempt: Attempt, outcome: Outcome) -> None:
        after = attempt.record.success and outcome.success
        if attempt.good != after:
            attempt.good = after
            for level in self._levels_of(attempt.record):
                self._flip_newest(self.results[level], failed=not after)
        attempt.outcome = outcome

    def labels(self, key, label: str, first: int) -> list[float]:
        return [
            a.outcome.label
            for a in self.attempts
            if a.outcome is not None
            and a.record.success
            and (key, label) in {(lv[:-1], lv[-1]) for lv in self._levels_of(a.record)}
            and bucket_of(a.record) >= first
        ]

    def estimate(self, key, label: str, first: int) -> tuple[float, ...]:
        levels = self._levels(*key)
        samples = [each for each in (self._sample(lv, label, first) for lv in levels) if each[0] or each[2]]
        if not samples:
            return (0.9, 2000.0, 0.0, 0, 0, 0.0, None, 0, None)
        own = samples[0] if len(samples) == len(levels) else (0, 0, 0.0, 0)
        parts = [samples[0]]
        for inner, outer in pairwise(samples):
            calls, won, latency_sum = (o - i for o, i in zip(outer[:3], inner[:3], strict=True))
            parts.append((calls, won, latency_sum, min(outer[3], calls - won)))
        rate, latency, known, recent = 0.9, 2000.0, 0.0, 0.0
        for calls, won, latency_sum, failed in reversed(parts):
            w, v = max(0, 10 - calls / 3), max(0, 10 - won / 3)
            rate, known = (won + w * rate) / (calls + w), (calls + w * known) / (calls + w)
            latency = (latency_sum + v * latency) / (won + v)
            recent = failed + recent * max(0, 1 - calls / 20)
        nearest = samples[: max(0, 2 - (len(levels) - len(samples)))]
        rated = next((s for s in nearest if s[0] >= 10), None)
        timed = next((s for s in nearest if s[1] >= 10), None)
        return (
            *(rate, latency, known, own[0], own[1], recent),
            rated and rated[1] / rated[0],
            rated[0] if rated else 0,
            timed and timed[2] / timed[1],
        )

    def _sample(self, level, label: str, first: int) -> tuple[float, float, float, int]:
        found = [
            a
            for a in self.attempts
            if (level, label) in {(lv[:-1], lv[-1]) for lv in self._levels_of(a.record)}
            and bucket_of(a.record) >= first
        ]
        counted = [a for a in found if a.record.error_class != "cancelled"]
        won = [a for a in counted if a.good]
        until_stopped = [a for a in found if a.record.error_class == "cancelled" or a.record.error_code]
        last = [failed for at, failed in self.results.get((*level, label), []) if at >= first][-20:]
        time = sum(a.record.latency_ms for a in won + until_stopped)
        return len(counted), len(won), time, sum(last)

    @staticmethod
    def _levels(workflow: str, stage: str, task: str) -> list[tuple[str, ...]]:
        levels = [(workflow, stage, task), (workflow, stage), (workflow,), ()]
        return levels if task else levels[1:]

    def _levels_of(self, record) -> list[tuple[str, ...]]:
        key = record.workflow, record.stage, record.task_type
        return [(*key[:depth], f"{record.provider}/{record.model_id}") for depth in (3, 2, 1, 0)]

    @staticmethod
    def _flip_newest(results: list[tuple[int, bool]], *, failed: bool) -> None:
        for place in range(len(results) - 1, max(-1, len(results) - 21), -1):
            at, was = results[place]
            if was is not failed:
                results[place] = (at, failed)
                return


def bucket_of(record) -> int:
    return int(record.at // BUCKET_SECONDS)


def close(found: Estimate, expected: tuple[float, ...]) -> None:
    assert [value is None for value in found] == [value is None for value in expected]
    assert [v or 0.0 for v in found] == pytest.approx([v or 0.0 for v in expected], rel=1e-6, abs=1e-6)


class StatsMachine(RuleBasedStateMachine):
    """Observe, correct, let time pass, ask now and then: the answer is always that of the raw records."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.stats = PerformanceStats(window_days=WINDOW_DAYS)
        self.raw = RawRecords()

    @rule(
        key=st.sampled_from(KEYS),
        label=st.sampled_from(LABELS),
        ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=25),
        latency=st.floats(1, 60_000),
    )
    def observe(self, key, label, ends, latency):
        for end in ends:
            workflow, stage, task = key
            record = an_attempt(
                label, at=self.now, workflow=workflow, stage=stage, task=task, latency=latency, **ENDS[end]
            )
            self.stats.observe(record)
            self.raw.add(record)

    @rule(seconds=st.sampled_from([60.0, DAY / 3, DAY, 2.5 * DAY, 9 * DAY]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(data=st.data(), success=st.booleans(), score=st.none() | st.floats(0, 1))
    def an_outcome_arrives(self, data, success, score):
        first = self.stats.first_bucket(self.now)
        within = [a for a in self.raw.attempts if bucket_of(a.record) >= first]
        if within:
            attempt = within[data.draw(st.integers(0, len(within) - 1))]
            outcome = said(success, score)
            self.stats.correct(attempt.record, previous=attempt.outcome, outcome=outcome)
            self.raw.correct(attempt, outcome)

    @invariant()
    def labels_are_those_of_the_answers(self):
        first = self.stats.first_bucket(self.now)
        for workflow in {key[0] for key in KEYS}:
            for key, level in self.stats.keys(workflow):
                for label, window in self.stats.windows(level, first):
                    known = self.raw.labels(key, label, first)
                    assert window.labels.labelled == len(known)
                    assert window.labels.label_sum == pytest.approx(sum(known))

    @rule()
    def asking_gives_what_the_raw_records_say(self):
        first = self.stats.first_bucket(self.now)
        for key in [*KEYS, ("docs", "new", ""), ("new", "new", "fix_bug")]:
            levels = self.stats.levels(*key)
            for label in LABELS:
                found = Estimate.of(self.stats.estimate(levels, label, first))
                close(found, self.raw.estimate(key, label, first))

    @invariant()
    def packed_rows_repeat_their_cells(self):
        for path in self.stats._paths.values():
            for level in path:
                assert level.rows == {label: cell.packed() for label, cell in level.cells.items()}

    @invariant()
    def sums_are_those_of_the_buckets(self):
        for path in self.stats._paths.values():
            for cell in (*path[0].cells.values(), *path[-1].cells.values()):
                columns = zip(*cell.buckets.values(), strict=True)
                assert cell.total == pytest.approx([sum(column) for column in columns] or [0] * 8)

    @invariant()
    def the_number_of_cells_is_right(self):
        assert len(self.stats) == sum(len(path[0].cells) for path in self.stats._paths.values())

    def teardown(self):
        self.asking_gives_what_the_raw_records_say()


TestStatsMachine = StatsMachine.TestCase
TestStatsMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


attempts = st.builds(
    lambda key, label, end, age, latency, tokens, cost: an_attempt(
        label,
        at=START - age * DAY,
        workflow=key[0],
        stage=key[1],
        task=key[2],
        latency=latency,
        usage=None if tokens is None else TokenUsage(tokens, tokens // 2),
        cost=cost,
        **ENDS[end],
    ),
    st.sampled_from(KEYS),
    st.sampled_from(LABELS),
    st.sampled_from(sorted(ENDS)),
    st.integers(0, WINDOW_DAYS + 2),
    st.floats(1, 60_000),
    st.none() | st.integers(0, 10_000),
    st.none() | st.integers(0, 10**9),
)


@given(st.lists(attempts, max_size=20))
def test_restoring_roll_ups_is_observing_their_attempts(records):
    records.sort(key=lambda record: record.at)
    observed, restored = PerformanceStats(window_days=WINDOW_DAYS), PerformanceStats(window_days=WINDOW_DAYS)
    for record in records:
        observed.observe(record)
    restored.restore(rollup_rows(records))
    first = observed.first_bucket(START)
    for key in [*KEYS, ("review", "new", "new"), ("new", "new", "")]:
        was, now = observed.levels(*key), restored.levels(*key)
        for label in LABELS:
            close(
                Estimate.of(restored.estimate(now, label, first)),
                Estimate.of(observed.estimate(was, label, first)),
            )
        assert restored.mean_tokens(now, first) == observed.mean_tokens(was, first)
        assert restored.tiers(now[0], first) == observed.tiers(was[0], first)
    assert {key for key, _ in restored.keys("review")} == {key for key, _ in observed.keys("review")}


@given(st.lists(attempts, max_size=60), st.integers(1, 8))
def test_the_cells_kept_are_those_of_the_keys_observed_last(records, max_cells):
    stats = PerformanceStats(window_days=WINDOW_DAYS, max_cells=max_cells)
    for record in records:
        stats.observe(record)
    last_first = dict.fromkeys((r.workflow, r.stage, r.task_type) for r in reversed(records))
    kept = {key for workflow in ("review", "docs") for key, _ in stats.keys(workflow)}
    assert kept == set(list(last_first)[: len(kept)])
    assert len(stats) <= max(max_cells, len(LABELS))
    assert set(stats._workflows) == {key[0] for key in kept}
    assert set(stats._stages) == {key[:2] for key in kept}


@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from(sorted(ENDS)), st.integers(1, 5000)), max_size=60
    ),
    st.integers(0, 120),
)
def test_the_short_way_to_an_estimate_gives_what_the_long_way_gives(few, many):
    stats = PerformanceStats()
    for stage, end, latency in few:
        stats.observe(an_attempt(at=START, stage=stage, task="summarize", latency=latency, **ENDS[end]))
    for number in range(many):
        stats.observe(an_attempt(at=START, stage="busy", success=number % 7 != 0, latency=100 + number))
    first = stats.first_bucket(START)
    for stage in ("x", "y", "z", "busy", "unseen"):
        for task in ("summarize", ""):
            levels = stats.levels("review", stage, task)
            short, long = stats.estimate(levels, "a/mid", first), _borrowed(levels, "a/mid", first)
            assert short == pytest.approx(long, rel=1e-9)
