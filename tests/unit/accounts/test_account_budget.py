"""The dollars of a key, on the real store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.accounts import BudgetSpentError, Gatekeeper, period_bounds, resource_of
from attune.errors import BudgetExhaustedError, StoreError
from attune.stores.sqlite import SqliteStore
from attune.testing import FakeClock
from unit.accounts.gateway_accounts import USD, a_key, an_account


def clock_at(*date: int) -> FakeClock:
    return FakeClock(epoch=datetime(*date, tzinfo=UTC).timestamp(), autojump=False)


@pytest.fixture
def clock():
    return clock_at(2026, 11, 22, 12)


@pytest.fixture
def store(tmp_path, clock):
    with contextlib.closing(SqliteStore.open(tmp_path / "ledger.db", clock=clock.time)) as opened:
        yield opened


def budget_of(store, clock, account):
    budget = Gatekeeper(store, clock=clock).budget(account)
    assert budget is not None
    return budget


def spent(store, clock, account, period):
    store.flush_sync(60)  # what was settled is taken in the background
    return store.used(resource_of(account.id, period), period_bounds(period, clock.time())[0])


async def test_what_is_reserved_counts_until_it_is_settled_with_the_real_cost(store, clock):
    account = an_account(usd_per_day=1.0, usd_per_month=5.0)
    held = await budget_of(store, clock, account).reserve(USD // 2, ttl_s=60)
    assert spent(store, clock, account, "day") == spent(store, clock, account, "month") == USD // 2
    held.settle(3)
    assert spent(store, clock, account, "day") == spent(store, clock, account, "month") == 3


async def test_a_spent_budget_is_a_402_that_names_it_and_when_it_resets(store, clock):
    budget = budget_of(store, clock, an_account(usd_per_day=1.0))
    (await budget.reserve(USD, ttl_s=60)).settle(USD)
    with pytest.raises(BudgetSpentError) as caught:
        await budget.reserve(USD // 50, ttl_s=60)
    error = caught.value
    assert str(error) == (
        "the budget of $1 a day of the key 'ci' has no room left for up to $0.020000 for this call; "
        "it resets at 2026-11-23 00:00 UTC"
    )
    assert (error.status, error.limit, error.retry_after) == (402, "key_usd_per_day", 12 * 3600)
    assert error.resets_at == datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    assert isinstance(error, BudgetExhaustedError)  # a candidate that is free may still answer


async def test_a_month_that_is_spent_says_so_and_holds_nothing_of_the_day(store, clock):
    account = an_account(usd_per_day=1.0, usd_per_month=0.5)
    with pytest.raises(BudgetSpentError, match=r"more than all of .* \$0.5 a month") as caught:
        await budget_of(store, clock, account).reserve(USD * 3 // 4, ttl_s=60)
    assert caught.value.limit == "key_usd_per_month"
    assert spent(store, clock, account, "day") == 0


async def test_a_call_dearer_than_the_whole_budget_is_told_that_waiting_does_not_help(store, clock):
    with pytest.raises(BudgetSpentError, match=r"up to \$2\.0.* more than all of .* \$1 a day") as caught:
        await budget_of(store, clock, an_account(usd_per_day=1.0)).reserve(2 * USD, ttl_s=60)
    assert caught.value.retry_after is None


async def test_a_call_as_dear_as_the_whole_budget_fits_once_it_is_reset(store, clock):
    budget = budget_of(store, clock, an_account(usd_per_day=1.0))
    await budget.reserve(USD, ttl_s=60)
    with pytest.raises(BudgetSpentError, match="no room left") as caught:
        await budget.reserve(USD, ttl_s=60)
    assert caught.value.retry_after == 12 * 3600


async def test_after_its_reset_a_budget_is_whole_again(tmp_path):
    clock = clock_at(2026, 12, 31, 23, 59)
    with contextlib.closing(SqliteStore.open(tmp_path / "ledger.db", clock=clock.time)) as store:
        budget = budget_of(store, clock, an_account(usd_per_day=1.0, usd_per_month=1.0))
        (await budget.reserve(USD, ttl_s=60)).settle(USD)
        with pytest.raises(BudgetSpentError) as caught:
            await budget.reserve(1, ttl_s=60)
        clock.advance(caught.value.retry_after)
        await budget.reserve(USD, ttl_s=60)


async def test_keys_have_budgets_of_their_own_beside_the_spend_cap(store, clock):
    first, second = (an_account(name, usd_per_day=1.0) for name in ("a", "b"))
    await budget_of(store, clock, first).reserve(USD, ttl_s=60)
    await budget_of(store, clock, second).reserve(USD, ttl_s=60)
    assert store.used("spend/day", 0.0) == 0


async def test_a_budget_of_nothing_allows_what_is_free(store, clock):
    budget = budget_of(store, clock, an_account(usd_per_day=0.0))
    (await budget.reserve(0, ttl_s=60)).settle(0)
    with pytest.raises(BudgetSpentError):
        await budget.reserve(1, ttl_s=60)


def test_a_key_without_limits_of_dollars_has_no_budget(store, clock):
    assert Gatekeeper(store, clock=clock).budget(an_account(requests_per_minute=1)) is None


async def test_a_store_that_fails_is_no_spent_budget(store, clock):
    budget = budget_of(store, clock, an_account(usd_per_day=1.0))
    store.close()
    with pytest.raises(StoreError):
        await budget.reserve(1, ttl_s=60)


@pytest.mark.parametrize("year", [2026, 2028])
def test_every_day_of_a_year_lies_in_one_day_and_one_month(year):
    for day in range(366):
        now = datetime(year, 1, 1, 5, tzinfo=UTC).timestamp() + day * 86_400
        for period in ("day", "month"):
            start, end = period_bounds(period, now)
            assert start <= now < end
            assert period_bounds(period, start) == (start, end)
            assert period_bounds(period, end)[0] == end
            assert period_bounds(period, end - 1) == (start, end)


LIMIT = 200  # nano-dollars
calls = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 120)), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None)
@given(calls=calls, at_once=st.integers(1, 8), exact=st.booleans())
def test_concurrent_calls_pass_a_budget_by_no_more_than_what_is_under_way(
    tmp_path_factory, calls, at_once, exact
):
    """``exact``: no call costs more than was predicted, and then the budget is never passed."""
    path = tmp_path_factory.mktemp("budget") / "ledger.db"
    if exact:
        calls = [(predicted, min(predicted, real)) for predicted, real in calls]
    with contextlib.closing(SqliteStore.open(path)) as store:
        account = an_account(usd_per_day=LIMIT / USD)
        total, overshoot = asyncio.run(spend(store, account, calls, at_once))
        assert total <= LIMIT + overshoot
        assert spent(store, FakeClock(autojump=False), account, "day") == total


async def spend(store, account, calls, at_once):
    """Make the calls, so many at once; what they cost in all, and the most by which those under way
    when one was let in cost more than was predicted of them.
    """
    budget = Gatekeeper(store, clock=FakeClock(autojump=False)).budget(account)
    waiting, under_way, total, overshoot = iter(enumerate(calls)), {}, 0, 0

    async def worker():
        nonlocal total, overshoot
        for number, (predicted, real) in waiting:
            under_way[number] = max(0, real - predicted)
            beside = sum(under_way.values())
            try:
                held = await budget.reserve(predicted, ttl_s=60)
            except BudgetSpentError:
                pass
            else:
                overshoot = max(overshoot, beside)
                await asyncio.sleep(0)
                held.settle(real)
                total += real
            del under_way[number]

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return total, overshoot


SPENDER = """
import asyncio, itertools, json, random, sys
from attune.accounts import Account, BudgetSpentError, Gatekeeper
from attune.stores.sqlite import SqliteStore

store = SqliteStore.open(sys.argv[1])
(record,) = store.all_keys()
budget = Gatekeeper(store).budget(Account(record))
rng, spent = random.Random(sys.argv[2]), []

def wait_for_the_other():
    print("ready", flush=True)
    sys.stdin.readline()

async def worker(calls):
    for _ in calls:
        predicted = rng.randint(1, 1000)
        try:
            held = await budget.reserve(predicted, ttl_s=60)
        except BudgetSpentError:
            return
        spent.append(rng.randint(predicted // 2, predicted))
        held.settle(spent[-1])

async def main():
    wait_for_the_other()
    await asyncio.gather(*(worker(range(2)) for _ in range(8)))
    wait_for_the_other()  # so that neither has spent it all before the other began
    await asyncio.gather(*(worker(itertools.repeat(None)) for _ in range(8)))

asyncio.run(main())
store.close()
print(json.dumps(spent))
"""


def test_two_processes_on_one_ledger_keep_one_budget(tmp_path):
    limit = 100_000
    path = tmp_path / "ledger.db"
    with contextlib.closing(SqliteStore.open(path)) as store:
        record = a_key(usd_per_day=limit / USD, usd_per_month=1.0).record
        store.add_key(record)
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{SPENDER}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in "ab"
    ]
    for _ in range(2):
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
    spent = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert all(len(costs) > 10 for costs in spent)
    total = sum(map(sum, spent))
    assert limit - 16 * 1000 <= total <= limit  # what 15 others and the one refused had reserved
    reader = SqliteStore.open_readonly(path)
    assert reader.used(resource_of(record.id, "month"), 0.0) == total
