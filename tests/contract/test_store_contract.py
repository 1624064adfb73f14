"""What every store promises, whatever it is made of. Another kind of store joins by a factory below."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import ErrorClass, InvalidRequestError, StoreError
from attune.models.performance import BUCKET_SECONDS, RECENT, LatencySketch, counts
from attune.models.state import Fact, FactKind, LedgerTotals
from attune.models.telemetry import (
    CostStatus,
    Decided,
    DecisionRecord,
    DroppedCandidate,
    LLMCallRecord,
    Outcome,
    ScoredCandidate,
    TokenUsage,
)
from attune.models.windows import PerformanceStats
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import FAILED, NOW, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUCKET = int(NOW // BUCKET_SECONDS)


class WallClock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def open_sqlite(folder: Path, clock: Callable[[], float]) -> SqliteStore:
    return SqliteStore.open(folder / "ledger.db", clock=clock)


STORES = {"sqlite": open_sqlite}


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: WallClock) -> Iterator[Any]:
    opened = STORES[request.param](tmp_path, clock)
    yield opened
    opened.close()


# -- the ledger ----------------------------------------------------------------------------------


async def test_attempts_of_a_call_come_back_as_they_were_in_order(store: Any) -> None:
    first = attempt(**FAILED)
    second = attempt(attempt_id="c1.b", position=1, chosen_by_policy=False, provider="openai")
    store.append_attempt(second)
    store.append_attempt(first)
    store.append_attempt(attempt("c2"))
    await store.flush()
    assert store.attempts("c1") == [first, second]
    assert isinstance(store.attempts("c1")[1].usage, TokenUsage)
    assert store.attempts("c1")[0].cost_status is CostStatus.UNKNOWN
    assert store.attempts("nobody") == []


async def test_a_cost_that_is_not_known_stays_unknown_and_is_not_zero(store: Any) -> None:
    store.append_attempt(attempt("unknown", cost_nanos=None, cost_status=CostStatus.UNKNOWN))
    store.append_attempt(attempt("free", cost_nanos=0))
    await store.flush()
    assert store.attempts("unknown")[0].cost_nanos is None
    assert store.attempts("free")[0].cost_nanos == 0
    assert store.totals().unknown_cost_attempts == 1


async def test_the_newest_attempts_come_first(store: Any) -> None:
    for number in range(5):
        store.append_attempt(attempt(f"c{number}"))
    await store.flush()
    assert [each.call_id for each in store.recent_attempts(3)] == ["c4", "c3", "c2"]
    assert store.recent_attempts(0) == []
    assert store.recent_attempts(-1) == []


async def test_a_decision_comes_back_as_it_was(store: Any) -> None:
    decision = DecisionRecord(
        decision_id="d1",
        call_id="c1",
        at=NOW,
        workflow="review",
        stage="sécurité",
        task_type="review_security",
        base_tier="capable",
        tier="cheap",
        policy="default@1",
        reason="the cheaper tier is good enough",
        ranked=(
            ScoredCandidate("a", "m", "k", "cheap", 0.9, 0.97, 800.0, 0.001, 40, 0, 0.9),
            ScoredCandidate("b", "n", "k", "cheap", 0.8, 0.9, 900.0, None, 4, 2, 0.1, "its price is unknown"),
        ),
        dropped=(DroppedCandidate("c", "o", "k", "premium", "its window is too small"),),
        features=(("lines", "120"), ("tools", "yes")),
        notes=("a cheaper tier was chosen",),
    )
    store.append_decision(decision)
    store.append_decision(decision._replace(call_id="c2", ranked=(), dropped=(), features=(), notes=()))
    await store.flush()
    assert store.decision("c1") == decision
    assert store.decision("c2").ranked == ()
    assert store.decision("nobody") is None


async def test_names_are_data_and_never_sql(store: Any) -> None:
    nasty = "'; DROP TABLE attempts; --\x00\n\"`"
    store.append_attempt(attempt(nasty, workflow=nasty, stage=nasty, session_id=nasty))
    await store.flush()
    assert store.attempts(nasty)[0].workflow == nasty
    assert [row.stage for row in store.rollups(0)] == [nasty]


async def test_totals_count_calls_attempts_and_money_since_a_bucket(store: Any) -> None:
    store.append_attempt(attempt("old", at=NOW - 3 * BUCKET_SECONDS))
    store.append_attempt(attempt("c1", **FAILED))
    store.append_attempt(attempt("c1", position=1))
    store.append_attempt(attempt("c2", **FAILED | {"error_class": ErrorClass.CALLER, "cost_nanos": 7}))
    await store.flush()
    assert store.totals(NOW) == LedgerTotals(
        calls=2,
        attempts=3,
        failed_attempts=2,
        input_tokens=1000,
        output_tokens=200,
        cost_nanos=4_000_008,
        unknown_cost_attempts=1,
    )
    assert store.totals().attempts == 4
    assert store.totals(NOW + BUCKET_SECONDS) == LedgerTotals(0, 0, 0, 0, 0, 0, 0)


# -- roll-ups ------------------------------------------------------------------------------------


async def test_roll_ups_come_oldest_bucket_first_and_from_a_bucket_on(store: Any) -> None:
    for days in (0, 2, 1):
        store.append_attempt(attempt(f"c{days}", at=NOW - days * BUCKET_SECONDS))
    await store.flush()
    assert [row.bucket for row in store.rollups(0)] == [BUCKET - 2, BUCKET - 1, BUCKET]
    assert [row.bucket for row in store.rollups(BUCKET)] == [BUCKET]


async def test_roll_ups_of_the_most_recently_active_cells_only_are_whole_and_oldest_first(store: Any) -> None:
    for days, stage in ((3, "idle"), (2, "busy"), (2, "old"), (1, "old"), (0, "busy"), (1, "idle")):
        store.append_attempt(attempt(f"{stage}{days}", stage=stage, at=NOW - days * BUCKET_SECONDS))
    store.append_attempt(attempt("again", stage="idle", at=NOW - BUCKET_SECONDS))
    await store.flush()
    # Of two cells that were last active in the same bucket, the one with more calls in it.
    for most, stages in ((0, set()), (1, {"busy"}), (2, {"busy", "idle"}), (3, {"busy", "idle", "old"})):
        rows = list(store.rollups(0, max_cells=most))
        assert rows == [row for row in store.rollups(0) if row.stage in stages]
        assert [row.bucket for row in rows] == sorted(row.bucket for row in rows)
    assert {row.stage for row in store.rollups(BUCKET - 1, max_cells=2)} == {"busy", "idle"}
    assert list(store.rollups(0, max_cells=4)) == list(store.rollups(0, max_cells=None))


async def test_an_attempt_that_says_nothing_of_the_model_is_in_the_totals_only(store: Any) -> None:
    store.append_attempt(attempt("c1", **FAILED | {"error_class": ErrorClass.CALLER}))
    await store.flush()
    assert list(store.rollups(0)) == []
    assert store.totals().failed_attempts == 1


async def test_recent_holds_the_last_results_over_many_commits_newest_lowest(store: Any) -> None:
    for number in range(RECENT + 5):
        store.append_attempt(attempt(f"c{number}", **FAILED if number in {0, 22, 24} else {}))
        if number % 3 == 0:
            await store.flush()
    await store.flush()
    (row,) = store.rollups(0)
    assert row.recent == 0b101
    assert row.recent_count == RECENT


async def test_a_hot_cell_keeps_its_latencies_exact_while_its_bins_stay_few(store: Any) -> None:
    latencies = [100.0 * 1.03 ** (number % 300) for number in range(3000)]
    whole = LatencySketch()
    for number, latency in enumerate(latencies):
        whole.add(latency)
        store.append_attempt(attempt(f"c{number}", latency_ms=latency))
        if number % 100 == 0:
            await store.flush()
    await store.flush()
    (row,) = store.rollups(0)
    assert LatencySketch.from_bytes(row.latency_bins).bins == whole.bins
    assert len(row.latency_bins) <= 6 * 922 + 1200


TIMED_OUT = FAILED | {"error_code": "timeout"}
CANCELLED = FAILED | {"error_class": ErrorClass.CANCELLED, "error_code": ""}


def sums_of(records: list[LLMCallRecord], bad_calls: set[str]) -> dict[tuple[Any, ...], list[Any]]:
    """Roll-ups computed the slow way: from the records themselves."""
    sums: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0] * 8)
    for record in records:
        cancelled = record.error_class == ErrorClass.CANCELLED
        if not counts(record) and not cancelled:
            continue
        row = sums[int(record.at // BUCKET_SECONDS), *record[4:10]]
        usage = record.usage or TokenUsage()
        good = record.success and record.call_id not in bad_calls
        added = (
            1,
            good,
            record.latency_ms if good or record.error_code == "timeout" else 0,
            record.cost_nanos or 0,
            record.cost_nanos is not None,
            usage.input_tokens,
            usage.output_tokens,
            record.usage is not None,
        )
        if cancelled:
            added = (0, 0, record.latency_ms, 0, 0, 0, 0, 0)
        row[:] = [a + b for a, b in zip(row, added, strict=True)]
    return sums


records_of_a_call = st.tuples(
    st.integers(0, 2),  # bucket
    st.sampled_from(["a", "b"]),  # stage
    st.sampled_from(["", ErrorClass.TRANSIENT, "timeout", ErrorClass.CALLER, ErrorClass.CANCELLED]),
    st.sampled_from([None, 0, 5_000]),  # cost
    st.booleans(),  # usage
    st.integers(1, 10**6),  # latency
)


@settings(max_examples=25, deadline=None)
@given(calls=st.lists(records_of_a_call, max_size=30), seed=st.integers(0, 2**32))
@pytest.mark.parametrize("kind", STORES)
def test_roll_ups_equal_the_sums_of_the_raw_records_after_any_outcomes(
    kind: str, tmp_path_factory: pytest.TempPathFactory, calls: list[Any], seed: int
) -> None:
    chance = random.Random(seed)
    store = STORES[kind](tmp_path_factory.mktemp("store"), WallClock())
    bad: set[str] = set()
    records = []
    for number, (bucket, stage, error, cost, reported, latency) in enumerate(calls):
        record = attempt(
            f"c{number}",
            at=NOW + bucket * BUCKET_SECONDS,
            stage=stage,
            success=not error,
            error_class=ErrorClass.TRANSIENT if error == "timeout" else error,
            error_code="timeout" if error == "timeout" else "",
            cost_nanos=cost,
            usage=TokenUsage(10, 2) if reported else None,
            latency_ms=float(latency),
        )
        records.append(record)
        store.append_attempt(record)
        if chance.random() < 0.2:
            store.flush_sync(60)
        if chance.random() < 0.6:
            for _ in range(chance.randint(1, 3)):
                said = chance.random() < 0.5
                store.record_outcome(Outcome(record.call_id, NOW, said))
                (bad.discard if said else bad.add)(record.call_id)
    store.flush_sync(60)
    rows = list(store.rollups(0))
    assert {row[:7]: list(row[7:15]) for row in rows} == sums_of(records, bad)
    store.close()


async def test_statistics_restored_from_roll_ups_equal_those_that_saw_the_calls(store: Any) -> None:
    chance = random.Random(7)
    seen = PerformanceStats()
    for number in range(300):
        failed = chance.random() < 0.2
        ended = chance.choice([FAILED, TIMED_OUT, CANCELLED]) if failed else {}
        record = attempt(f"c{number}", at=NOW + number, stage=f"s{number % 3}", **ended)
        seen.observe(record)
        store.append_attempt(record)
        if number % 5 == 0:
            said = Outcome(f"c{number}", NOW, number % 2 == 0, number / 300, record.attempt_id, "validator")
            store.append_outcome(said)
            seen.correct(record, previous=None, outcome=said)
        if number % 7 == 0:
            target = store.record_outcome(Outcome(f"c{number}", NOW, success=False))
            seen.correct(target.record, previous=target.previous, outcome=Outcome(f"c{number}", NOW, False))
    await store.flush()
    restored = PerformanceStats()
    restored.restore(store.rollups(0))
    assert windows_of(restored) == windows_of(seen)


def windows_of(stats: PerformanceStats) -> dict[Any, Any]:
    return {
        (key, label): (window._replace(sketch=None), window.sketch.bins)
        for key, level in stats.keys("review")
        for label, window in stats.windows(level, 0)
    }


# -- outcomes ------------------------------------------------------------------------------------


def successes(store: Any) -> int:
    return sum(row.successes for row in store.rollups(0))


def test_an_outcome_finds_a_call_that_was_only_just_appended(store: Any) -> None:
    store.append_attempt(attempt("c1"))
    target = store.record_outcome(Outcome("c1", NOW, success=False, score=0.2))
    assert target.record == attempt("c1")
    assert target.previous is None
    assert successes(store) == 0


def test_an_outcome_of_an_unknown_call_is_none(store: Any) -> None:
    assert store.record_outcome(Outcome("nobody", NOW, success=False)) is None


def test_a_later_outcome_replaces_the_former_and_counts_once(store: Any) -> None:
    store.append_attempt(attempt("c1"))
    told = [False, False, True, True, False]
    previous = [store.record_outcome(Outcome("c1", NOW, success=said)).previous for said in told]
    assert [each and each.success for each in previous] == [None, *told[:-1]]
    assert successes(store) == 0
    (row,) = store.rollups(0)
    assert (row.calls, row.recent) == (1, 1)


def test_a_good_outcome_does_not_make_a_failed_transport_a_success(store: Any) -> None:
    store.append_attempt(attempt("c1", **FAILED))
    store.record_outcome(Outcome("c1", NOW, success=True))
    assert successes(store) == 0


def test_an_outcome_is_about_the_attempt_that_answered(store: Any) -> None:
    store.append_attempt(attempt("c1", **FAILED))
    answered = attempt("c1", attempt_id="c1.b", position=1, provider="openai", model_id="gpt-6-luna")
    store.append_attempt(answered)
    cancelled_hedge = FAILED | {"error_class": ErrorClass.CANCELLED, "position": 2}
    store.append_attempt(attempt("c1", attempt_id="c1.c", **cancelled_hedge))
    assert store.record_outcome(Outcome("c1", NOW, success=False)).record == answered
    assert {row.provider: row.successes for row in store.rollups(0)} == {"anthropic": 0, "openai": 0}


def verdict(call_id: str, success: bool, score: float | None = None, *, of: str = "") -> Outcome:
    return Outcome(call_id, NOW, success, score, of, "validator")


def labels(store: Any) -> list[tuple[Any, ...]]:
    """Of each model: labelled, the sum of the labels, judged, passed."""
    return [(row.model_id, *row[18:22]) for row in sorted(store.rollups(0), key=lambda row: row.model_id)]


def test_only_the_labels_of_what_the_policy_chose_are_summed_for_it(store: Any) -> None:
    store.append_attempt(attempt("c1", attempt_id="c1.0", model_id="a"))
    store.append_attempt(attempt("c1", attempt_id="c1.1", model_id="b", position=1, chosen_by_policy=False))
    store.append_outcome(verdict("c1", False, of="c1.0"))
    store.append_outcome(verdict("c1", True, of="c1.1"))
    store.record_outcome(Outcome("c1", NOW, success=True, score=0.25, attempt_id="c1.0"))
    store.flush_sync(60)
    assert {row.model_id: (row.labelled, row.drawn, row.drawn_sum) for row in store.rollups(0)} == {
        "a": (1, 1, 0.25),
        "b": (1, 0, 0.0),
    }


def test_what_processes_add_to_a_policys_sums_is_added_up_and_given_back(store: Any) -> None:
    assert store.add_policy_sums("p/1", {"x": [1.0, 2.0]}) == {"x": [1.0, 2.0]}
    assert store.add_policy_sums("p/1", {"x": [0.5, 0.0], "y": [3.0]}) == {"x": [1.5, 2.0], "y": [3.0]}
    assert store.policy_sums("p/1") == {"x": [1.5, 2.0], "y": [3.0]}
    assert store.policy_sums("p/2") == {}


def test_a_verdict_that_was_appended_behind_its_attempt_corrects_its_roll_up(store: Any) -> None:
    store.append_attempt(attempt("c1", attempt_id="c1.0", model_id="a"))
    store.append_outcome(verdict("c1", False, 0.25, of="c1.0"))
    store.append_attempt(attempt("c1", attempt_id="c1.1", model_id="b", position=1))
    store.append_outcome(verdict("c1", True, of="c1.1"))
    store.flush_sync(60)
    assert labels(store) == [("a", 1, 0.25, 1, 0), ("b", 1, 1.0, 1, 1)]
    assert {row.model_id: row.successes for row in store.rollups(0)} == {"a": 0, "b": 1}
    assert [(each.attempt_id, each.success) for each in store.outcomes("c1")] == [
        ("c1.0", False),
        ("c1.1", True),
    ]


def test_a_verdict_of_an_unknown_attempt_changes_nothing(store: Any) -> None:
    store.append_attempt(attempt("c1", attempt_id="c1.0"))
    store.append_outcome(verdict("c1", False, of="c1.9"))
    store.append_outcome(verdict("nobody", False, of="nobody.0"))
    store.flush_sync(60)
    assert (store.outcomes("c1"), store.rejected, successes(store)) == ([], 0, 1)


def test_a_verdict_counts_once_and_never_over_the_callers_word(store: Any) -> None:
    store.append_attempt(attempt("c1", attempt_id="c1.0", model_id="a"))
    for success in (True, False):
        store.append_outcome(verdict("c1", success, of="c1.0"))
    store.record_outcome(Outcome("c1", NOW, success=False, score=0.5))
    store.append_outcome(verdict("c1", True, of="c1.0"))
    store.flush_sync(60)
    assert labels(store) == [("a", 1, 0.5, 1, 1)]
    assert [(each.source, each.score) for each in store.outcomes("c1")] == [
        ("validator", None),
        ("caller", 0.5),
    ]


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        ([], "c1.2"),
        ([(False, 0.1), (False, 0.4), (False, 0.3)], "c1.1"),
        ([(False, 0.4), (False, 0.4), (False, 0.4)], "c1.2"),
        ([(False, 0.9), (False, 0.9), (True, 0.6)], "c1.2"),
        ([(False, 0.9), (False, 0.9), None], "c1.2"),
    ],
)
def test_a_later_outcome_is_of_the_answer_that_the_call_gave(store: Any, verdicts: Any, answer: str) -> None:
    for number in range(3):
        store.append_attempt(attempt("c1", attempt_id=f"c1.{number}", position=number))
    for number, said in enumerate(verdicts):
        if said is not None:
            store.append_outcome(verdict("c1", *said, of=f"c1.{number}"))
    assert store.record_outcome(Outcome("c1", NOW, success=True)).record.attempt_id == answer


def test_an_outcome_comes_back_with_what_was_said_before_and_what_decided(store: Any) -> None:
    table = (("table", "a/m"),)
    store.append_decision(DecisionRecord("d", "c1", NOW, *[""] * 5, "policy/7", "", (), (), table))
    store.append_attempt(attempt("c1", attempt_id="c1.0"))
    store.append_outcome(verdict("c1", False, 0.2, of="c1.0"))
    target = store.record_outcome(Outcome("c1", NOW, success=True))
    assert target.previous == verdict("c1", False, 0.2, of="c1.0")
    assert target.decided == Decided("policy/7", "a/m")


def test_the_label_of_a_failed_transport_is_kept_and_does_not_count(store: Any) -> None:
    store.append_attempt(attempt("c1", attempt_id="c1.0", model_id="a", **FAILED))
    store.record_outcome(Outcome("c1", NOW, success=True, score=0.9))
    assert labels(store) == [("a", 0, 0.0, 0, 0)]
    assert [each.label for each in store.outcomes("c1")] == [0.9]


# -- retention -----------------------------------------------------------------------------------


def test_pruning_deletes_old_raw_records_and_keeps_the_roll_ups(store: Any) -> None:
    for number in range(2500):
        store.append_attempt(attempt(f"old{number}", at=NOW - 100))
    store.append_attempt(attempt("new"))
    decision = DecisionRecord("d", "old0", NOW - 100, *[""] * 7, (), ())
    store.append_decision(decision)
    store.record_outcome(Outcome("old0", NOW - 100, success=True))
    store.put_fact(Fact(FactKind.COOLDOWN, "a", NOW - 50, NOW - 60))
    store.prune(NOW - 10)
    assert [each.call_id for each in store.recent_attempts(9)] == ["new"]
    assert store.decision("old0") is None
    assert store.record_outcome(Outcome("old0", NOW, success=True)) is None
    assert sum(row.calls for row in store.rollups(0)) == 2501
    assert store.totals().calls == 2501


# -- facts ---------------------------------------------------------------------------------------


def fact(until: float, at: float, detail: str = "", key: str = "anthropic/m") -> Fact:
    return Fact(FactKind.COOLDOWN, key, until, at, detail)


async def put(store: Any, *facts: Fact) -> list[Fact]:
    for each in facts:
        store.put_fact(each)
    await store.flush()
    return list(store.facts())


async def test_a_fact_holds_until_its_deadline(store: Any, clock: WallClock) -> None:
    held = Fact(FactKind.QUOTA, "anthropic#default#five_hour", NOW + 10, NOW, "spent", '{"utilization":1}')
    assert await put(store, held) == [held]
    clock.now = NOW + 10
    assert store.facts() == []


async def test_a_second_throttle_never_shortens_a_cooldown(store: Any) -> None:
    long, short = fact(NOW + 60, NOW - 2), fact(NOW + 5, NOW - 1)
    assert await put(store, long, short) == [long]


async def test_news_of_the_same_deadline_replaces_what_was_known(store: Any) -> None:
    assert await put(store, fact(NOW + 60, NOW - 2, "half"), fact(NOW + 60, NOW - 1, "all")) == [
        fact(NOW + 60, NOW - 1, "all")
    ]


async def test_a_clearing_wins_over_what_was_learned_before_and_is_shown_for_an_hour(
    store: Any, clock: WallClock
) -> None:
    cleared = fact(0, NOW)
    assert await put(store, fact(NOW + 7200, NOW - 1), cleared) == [cleared]
    assert await put(store, fact(NOW + 7200, NOW - 2)) == [cleared]  # it arrives late
    clock.now = NOW + 3601
    assert store.facts() == []


async def test_what_was_learned_after_a_clearing_holds(store: Any) -> None:
    newer = fact(NOW + 50, NOW - 1)
    assert await put(store, fact(NOW + 99, NOW - 9), newer, fact(0, NOW - 5)) == [newer]


async def test_a_trip_that_nobody_cleared_is_known_for_a_day_after_its_deadline(
    store: Any, clock: WallClock
) -> None:
    tripped = Fact(FactKind.BREAKER, "openai", NOW + 60, NOW, "5 failures in a row")
    assert await put(store, Fact(FactKind.BREAKER, "openai", 0, NOW - 1), tripped) == [tripped]
    clock.now = NOW + 60 + 86_399
    assert store.facts() == [tripped]
    clock.now += 1
    assert store.facts() == []


async def test_a_trip_that_was_cleared_is_shown_as_cleared_after_its_deadline_too(
    store: Any, clock: WallClock
) -> None:
    cleared = Fact(FactKind.BREAKER, "openai", 0, NOW + 1, "closed")
    clock.now = NOW + 120
    assert await put(store, Fact(FactKind.BREAKER, "openai", NOW + 60, NOW), cleared) == [cleared]


async def test_facts_of_different_kinds_and_keys_do_not_touch_each_other(store: Any) -> None:
    facts = [fact(NOW + 1, NOW, key="a"), fact(NOW + 2, NOW, key="b")]
    facts.append(facts[0]._replace(kind=FactKind.MODEL_OFF))
    assert await put(store, *facts) == facts


def what_holds(facts: list[Fact]) -> float | None:
    """The deadline that should hold at ``NOW``, from the rule as it is written."""
    cleared = max((each.at for each in facts if each.until == 0), default=0)
    return max((each.until for each in facts if each.at > cleared and each.until > NOW), default=None)


learned = st.builds(
    fact,
    until=st.one_of(st.just(0.0), st.integers(-5, 9).map(lambda s: NOW + s)),
    at=st.integers(-9, 0).map(lambda s: NOW + s),
)


@settings(max_examples=60, deadline=None)
@given(facts=st.lists(learned, max_size=9), seed=st.integers(0, 2**32))
@pytest.mark.parametrize("kind", STORES)
def test_a_later_deadline_always_wins_whatever_the_order(
    kind: str, tmp_path_factory: pytest.TempPathFactory, facts: list[Fact], seed: int
) -> None:
    store = STORES[kind](tmp_path_factory.mktemp("store"), WallClock())
    shuffled = random.Random(seed).sample(facts, len(facts))
    for each in shuffled:
        store.put_fact(each)
    store.flush_sync(60)
    held = [each.until for each in store.facts() if each.until]
    expected = what_holds(facts)
    assert held == ([] if expected is None else [expected])
    store.close()


# -- leases --------------------------------------------------------------------------------------

DAY = NOW - NOW % 86_400


def reserve(store: Any, amount: int, *, limit: int = 100, ttl_s: float = 60, now: float = NOW) -> str | None:
    asked = store.reserve("key:a", amount, limit=limit, window_start=DAY, ttl_s=ttl_s, now=now)
    lease: str | None = asyncio.run(asked)
    return lease


def settle(store: Any, lease: str | None, amount: int) -> None:
    store.settle(lease, amount)
    store.flush_sync(60)


def test_a_reservation_counts_until_it_is_settled_and_then_what_was_used(store: Any) -> None:
    lease = reserve(store, 60)
    assert lease is not None
    assert store.used("key:a", DAY) == 60
    assert reserve(store, 41) is None
    settle(store, lease, 10)
    assert store.used("key:a", DAY) == 10
    assert reserve(store, 90) is not None


def test_settling_twice_changes_nothing(store: Any) -> None:
    lease = reserve(store, 60)
    settle(store, lease, 10)
    settle(store, lease, 50)
    settle(store, "nobody", 50)
    assert store.used("key:a", DAY) == 10


def test_a_reservation_that_expired_unsettled_counts_in_full(store: Any, clock: WallClock) -> None:
    reserve(store, 60, ttl_s=1)
    clock.now = NOW + 3600
    assert store.used("key:a", DAY) == 60
    assert reserve(store, 41, now=NOW + 3600) is None


def test_use_beyond_the_reservation_is_counted_too(store: Any) -> None:
    settle(store, reserve(store, 60), 130)
    assert store.used("key:a", DAY) == 130
    assert reserve(store, 0) is None


@pytest.mark.parametrize("since", [-7200.5, -3600, -1800, -30, 0, 0.5, 1800, 3600])
def test_a_window_may_begin_at_any_time(store: Any, since: float) -> None:
    times = [NOW + offset for offset in (-7200, -3600, -1801, -1799, -29, 0, 1, 1800, 3599, 3600, 9999)]
    for place, at in enumerate(times):
        asyncio.run(store.reserve("r", 1 << place, limit=10**9, window_start=0, ttl_s=1, now=at))
    expected = sum(1 << place for place, at in enumerate(times) if at >= NOW + since)
    assert store.used("r", NOW + since) == expected


def test_resources_have_limits_of_their_own(store: Any) -> None:
    reserve(store, 100)
    assert store.used("key:b", DAY) == 0
    other = store.reserve("key:b", 100, limit=100, window_start=DAY, ttl_s=1, now=NOW)
    assert asyncio.run(other) is not None


@pytest.mark.parametrize("amount", [-1, 2**63])
def test_an_amount_that_makes_no_sense_is_refused_in_one_line(store: Any, amount: int) -> None:
    with pytest.raises(InvalidRequestError, match="amount"):
        reserve(store, amount, limit=2**70)
    with pytest.raises(InvalidRequestError, match="amount"):
        store.settle("a", amount)


def test_leases_are_kept_beyond_a_prune_until_they_have_expired(store: Any) -> None:
    reserve(store, 5, ttl_s=1000)
    store.prune(NOW + 999)
    assert store.used("key:a", NOW - 1) == 5


steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 60)),
        st.tuples(st.just("settle"), st.integers(0, 60)),
        st.tuples(st.just("wait"), st.integers(0, 4000)),
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(steps=steps)
@pytest.mark.parametrize("kind", STORES)
def test_reservations_never_pass_the_limit_whatever_the_interleaving(
    kind: str, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    store = STORES[kind](tmp_path_factory.mktemp("store"), WallClock())
    now, open_leases, total = DAY, {}, 0
    for what, amount in steps:
        if what == "wait":
            now += amount
        elif what == "reserve":
            lease = reserve(store, amount, limit=100, ttl_s=60, now=now)
            assert (lease is not None) == (total + amount <= 100)
            if lease is not None:
                open_leases[lease] = amount
                total += amount
        elif open_leases:
            lease, reserved = open_leases.popitem()
            used = min(amount, reserved)
            settle(store, lease, used)
            total += used - reserved
        assert store.used("key:a", DAY) == total <= 100
    store.close()


# -- life ----------------------------------------------------------------------------------------


def test_closing_writes_what_is_queued_and_may_be_repeated(tmp_path: Path, clock: WallClock) -> None:
    for kind, make in STORES.items():
        store = make(tmp_path / kind, clock)
        store.append_attempt(attempt("c1"))
        store.close()
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.append_attempt(attempt("c2"))
        again = make(tmp_path / kind, clock)
        assert again.attempts("c1") == [attempt("c1")]
        again.close()
