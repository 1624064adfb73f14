"""The spend cap, on the real store: reserved before, settled after, shared by every process."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime

import pytest

from attune.errors import AllProvidersFailedError, BudgetExhaustedError, StoreError, TransientError
from attune.models.prices import FREE
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.models.spending import SpendCap
from attune.stores.sqlite import SqliteStore
from attune.testing import FakeClock, Reply
from support.pipeline import ASK, COST, Fleet, a_model

USD = 1_000_000_000
PREDICTED = 501_000
"""The prompt's 1 token in and its limit of 100 out, at the fakes' prices."""


def clock_at(*date) -> FakeClock:
    return FakeClock(epoch=datetime(*date, tzinfo=UTC).timestamp())


@pytest.fixture
def clock():
    return clock_at(2026, 11, 22, 12)


@pytest.fixture
def store(tmp_path, clock):
    store = SqliteStore.open(tmp_path / "attune.db", clock=clock.time)
    yield store
    store.close()


def used(store, period, clock):
    day = datetime.fromtimestamp(clock.time(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = day if period == "day" else day.replace(day=1)
    store.flush_sync(60)  # what was settled is taken in the background
    return store.used(f"spend/{period}", start.timestamp())


async def test_what_is_reserved_counts_until_it_is_settled_with_the_real_cost(store, clock):
    cap = SpendCap(store, clock, usd_per_day=1.0, usd_per_month=5.0)
    reservation = await cap.reserve(USD // 2, ttl_s=60)
    assert used(store, "day", clock) == used(store, "month", clock) == USD // 2
    reservation.settle(3)
    assert used(store, "day", clock) == used(store, "month", clock) == 3
    reservation.settle(USD)
    assert used(store, "day", clock) == 3


async def test_a_cost_that_is_not_known_keeps_the_whole_reservation(store, clock):
    (await SpendCap(store, clock, usd_per_day=1.0).reserve(USD // 2, ttl_s=60)).settle(None)
    clock.advance(3600)
    assert used(store, "day", clock) == USD // 2


async def test_beyond_a_limit_it_says_which_and_what_to_do(store, clock):
    cap = SpendCap(store, clock, usd_per_day=1.0)
    await cap.reserve(USD, ttl_s=60)
    with pytest.raises(
        BudgetExhaustedError, match=r"\$1 a day .* \$0\.5000 more; raise .*max_usd_per_day"
    ) as e:
        await cap.reserve(USD // 2, ttl_s=60)
    assert e.value.limit == "usd_per_day"


async def test_a_full_month_holds_nothing_of_the_day(store, clock):
    cap = SpendCap(store, clock, usd_per_day=1.0, usd_per_month=0.5)
    with pytest.raises(BudgetExhaustedError) as caught:
        await cap.reserve(USD * 3 // 4, ttl_s=60)
    assert caught.value.limit == "usd_per_month"
    assert used(store, "day", clock) == used(store, "month", clock) == 0


async def test_a_day_and_a_month_end_at_midnight_utc(tmp_path):
    clock = clock_at(2026, 11, 30, 23, 59)
    store = SqliteStore.open(tmp_path / "attune.db", clock=clock.time)
    cap = SpendCap(store, clock, usd_per_day=1.0, usd_per_month=1.0)
    (await cap.reserve(USD, ttl_s=60)).settle(USD)
    with pytest.raises(BudgetExhaustedError):
        await cap.reserve(1, ttl_s=60)
    clock.advance(60)
    await cap.reserve(USD, ttl_s=60)
    clock.advance(24 * 3600)
    with pytest.raises(BudgetExhaustedError) as caught:
        await cap.reserve(1, ttl_s=60)
    assert caught.value.limit == "usd_per_month"
    store.close()


async def test_two_processes_share_one_cap(tmp_path, store, clock):
    other = SqliteStore.open(tmp_path / "attune.db", clock=clock.time)
    await SpendCap(other, clock, usd_per_day=1.0).reserve(USD, ttl_s=60)
    with pytest.raises(BudgetExhaustedError):
        await SpendCap(store, clock, usd_per_day=1.0).reserve(1, ttl_s=60)
    other.close()


@contextlib.contextmanager
def locked(path):
    """The file as another process holds it while it writes."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_while_another_process_holds_the_file_nothing_else_waits(store, clock):
    cap = SpendCap(store, clock, usd_per_day=1.0, usd_per_month=1.0)
    before = await cap.reserve(USD // 2, ttl_s=60)
    with locked(store.path):
        before.settle(3)
        reserving = asyncio.create_task(cap.reserve(USD // 2, ttl_s=60))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reserving.done()
    (await reserving).settle(4)
    assert used(store, "day", clock) == used(store, "month", clock) == 7


async def test_whoever_is_cancelled_while_reserving_holds_nothing(store, clock):
    cap = SpendCap(store, clock, usd_per_day=1.0, usd_per_month=1.0)
    for turns in range(6):  # before it is under way, in the day's, and in the month's reservation
        reserving = asyncio.create_task(cap.reserve(USD, ttl_s=60))
        for _ in range(turns):
            await asyncio.sleep(0.001 if turns > 3 else 0)
        reserving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await reserving).settle(0)
        assert used(store, "day", clock) == used(store, "month", clock) == 0


async def test_a_reservation_under_way_when_its_owner_is_cancelled_is_given_back(store, clock):
    with locked(store.path):
        reserving = asyncio.create_task(SpendCap(store, clock, usd_per_day=1.0).reserve(USD, ttl_s=60))
        await asyncio.sleep(0.05)  # the writer waits for the lock
        reserving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reserving
    assert used(store, "day", clock) == 0


async def test_without_limits_nothing_is_reserved(store, clock):
    (await SpendCap(store, clock).reserve(USD, ttl_s=60)).settle(USD)
    assert used(store, "day", clock) == 0


# -- around attempts ---------------------------------------------------------------------------------


def capped(store, clock, dollars, *models, **options) -> Fleet:
    return Fleet(
        *(models or ("a/m",)),
        clock=clock,
        spend_cap=SpendCap(store, clock, usd_per_day=dollars),
        retry=RetryPolicy(max_repeats=0),
        **options,
    )


async def test_a_call_settles_what_it_really_cost(store, clock):
    fleet = capped(store, clock, 1.0)
    await fleet.executor.run(ASK)
    assert used(store, "day", clock) == COST
    assert fleet.records[0].cost_nanos == COST


async def test_while_an_attempt_is_under_way_its_prediction_is_held(store, clock):
    held = []
    fleet = capped(
        store, clock, 1.0, scripts={"a": [lambda r, m: held.append(used(store, "day", clock)) or "x"]}
    )
    await fleet.executor.run(ASK)
    assert held == [PREDICTED]


async def test_a_failure_that_is_not_billed_gives_everything_back(store, clock):
    fleet = capped(store, clock, 1.0, scripts={"a": [TransientError("503", status=503)]})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert used(store, "day", clock) == 0


async def test_an_attempt_of_unknown_cost_keeps_its_reservation(store, clock):
    fleet = capped(store, clock, 1.0, scripts={"a": [TransientError("timed out")]})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.records[0].cost_nanos is None
    assert used(store, "day", clock) == PREDICTED


async def test_at_the_cap_nothing_is_sent_and_no_permit_is_taken(store, clock):
    fleet = capped(store, clock, 0.0005)
    fleet.trip("a/m")
    clock.advance(60)
    with pytest.raises(BudgetExhaustedError) as caught:
        await fleet.executor.run(ASK)
    assert caught.value.limit == "usd_per_day"
    assert fleet.asked == 0
    assert fleet.nothing_is_taken()


async def test_at_the_cap_a_call_that_had_attempts_still_carries_them(store, clock):
    failing = Reply("a word ", error=TransientError("cut"), error_after=0)
    fleet = capped(store, clock, 0.0006, "a/m", "b/m", scripts={"a": [failing]})
    with pytest.raises(AllProvidersFailedError, match="spend cap") as caught:
        await fleet.executor.run(ASK)
    assert isinstance(caught.value.__cause__, BudgetExhaustedError)
    assert [type(each) for each in caught.value.attempts] == [TransientError, BudgetExhaustedError]
    assert fleet.asked == 1


async def test_a_model_without_prices_cannot_be_held_to_a_cap(store, clock):
    fleet = capped(store, clock, 100.0, a_model("a/m", prices=None))
    with pytest.raises(BudgetExhaustedError, match=r"price of a/m is unknown.*give it prices"):
        await fleet.executor.run(ASK)
    assert fleet.asked == 0


async def test_a_store_that_fails_takes_no_permit(store, clock):
    fleet = capped(store, clock, 1.0)
    fleet.trip("a/m")
    clock.advance(60)
    store.close()
    with pytest.raises(StoreError):
        await fleet.executor.run(ASK)
    assert fleet.nothing_is_taken()


async def test_at_the_cap_a_free_candidate_still_answers(store, clock):
    fleet = capped(store, clock, 0.0, "a/m", a_model("free/m", prices=FREE))
    fleet.providers["free", "api_key"].default = "for nothing"
    assert (await fleet.executor.run(ASK)).text == "for nothing"
    assert fleet.asked == 1


async def test_a_call_whose_time_runs_out_while_the_file_is_held_is_told_so(tmp_path):
    store = SqliteStore.open(tmp_path / "attune.db")
    fleet = capped(store, FakeClock(), 1.0)
    with locked(store.path), pytest.raises(BudgetExhaustedError, match="did not answer") as caught:
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=0.05))
    assert caught.value.limit == "deadline"
    assert fleet.asked == 0
    assert fleet.nothing_is_taken()
    store.close()
