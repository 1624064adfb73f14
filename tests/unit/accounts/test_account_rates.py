"""Requests and tokens a minute."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attune.accounts import Gatekeeper, RateLimitedError, TokenBuckets
from attune.accounts.rates import Bucket
from attune.stores.sqlite import SqliteStore
from attune.testing import FakeClock
from unit.accounts.gateway_accounts import an_account

amounts = st.integers(1, 500)
pauses = st.integers(0, 90_000).map(lambda milliseconds: milliseconds / 1000)


@given(
    per_minute=st.integers(1, 300),
    asked=st.lists(st.tuples(pauses, amounts), max_size=60),
    start=st.floats(0, 1e6),
)
def test_no_stretch_of_time_ever_gets_more_than_a_full_bucket_and_what_is_refilled(per_minute, asked, start):
    bucket, now, taken = Bucket(per_minute), start, []
    for pause, amount in asked:
        now += pause
        if bucket.wait_s(amount, now) == 0:
            bucket.count(amount, now)
            taken.append((now, amount))
    for first, (begin, _) in enumerate(taken):
        total = 0
        for at, amount in taken[first:]:
            total += amount
            assert total <= per_minute * (1 + (at - begin) / 60) + 1e-3


@given(
    per_minute=st.integers(1, 10**6),
    asked=st.lists(st.tuples(pauses, amounts), max_size=40),
    start=st.one_of(st.floats(0, 200), st.floats(0, 1e7)),
)
@example(per_minute=118, asked=[(0.1, 100), (0.1, 64)], start=2.6964)  # where floats round up
def test_the_wait_of_a_refusal_is_exact(per_minute, asked, start):
    bucket, now = Bucket(per_minute), start
    for pause, amount in asked:
        now += pause
        wait = bucket.wait_s(amount, now)
        if amount > per_minute:
            assert wait == float("inf")
            continue
        assert bucket.wait_s(amount, now + wait) == 0
        assert wait == 0 or bucket.wait_s(amount, now + wait * 0.99 - 1e-5) > 0
        if wait == 0:
            bucket.count(amount, now)


@given(
    estimates=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 200)), min_size=1, max_size=20),
    pause=st.floats(0, 30),
)
def test_once_settled_it_is_as_if_the_real_amounts_had_been_taken(estimates, pause):
    settled, real = Bucket(100), Bucket(100)
    now = 1e5
    settled.count(500, now)  # both are in debt, so that neither is ever full
    real.count(500, now)
    for estimate, used in estimates:
        settled.count(estimate, now)
        settled.count(used - estimate, now + pause)
        real.count(used, now)
    later = now + pause
    assert settled.wait_s(1, later) == pytest.approx(real.wait_s(1, later), abs=1e-6)


def test_what_is_put_back_never_overfills():
    bucket = Bucket(60)
    bucket.count(10, 0.0)
    bucket.count(-10, 100.0)
    bucket.count(60, 100.0)
    assert bucket.wait_s(1, 100.0) == pytest.approx(1.0)


def test_more_than_was_estimated_is_a_debt_also_after_the_bucket_was_full_again():
    bucket = Bucket(60)
    bucket.count(1, 0.0)
    bucket.count(89, 100.0)
    assert bucket.wait_s(1, 100.0) == pytest.approx(30.0)


@pytest.fixture
def clock():
    return FakeClock(autojump=False)


@pytest.fixture
def gatekeeper(tmp_path, clock):
    store = SqliteStore.open(tmp_path / "ledger.db", clock=clock.time)
    yield Gatekeeper(store, clock=clock)
    store.close()


async def test_the_request_too_many_is_a_429_and_is_let_in_after_exactly_its_retry_after(gatekeeper, clock):
    account = an_account(requests_per_minute=3)
    for _ in range(3):
        await gatekeeper.admit(account, 0)
    clock.advance(5)
    with pytest.raises(
        RateLimitedError, match=r"^the 3 requests a minute of the key 'ci' are used"
    ) as caught:
        await gatekeeper.admit(account, 0)
    assert caught.value.status == 429
    assert caught.value.retry_after == pytest.approx(15)
    clock.advance(14.99)
    with pytest.raises(RateLimitedError):
        await gatekeeper.admit(account, 0)
    clock.advance(0.01)
    await gatekeeper.admit(account, 0)


async def test_a_refused_call_takes_neither_its_request_nor_its_tokens(gatekeeper):
    account = an_account(requests_per_minute=2, tokens_per_minute=100)
    await gatekeeper.admit(account, 90)
    for _ in range(5):
        with pytest.raises(RateLimitedError, match="100 tokens a minute"):
            await gatekeeper.admit(account, 11)
    await gatekeeper.admit(account, 10)
    with pytest.raises(RateLimitedError, match="2 requests a minute"):
        await gatekeeper.admit(account, 0)


async def test_a_call_that_took_less_than_estimated_gives_the_rest_back(gatekeeper):
    account = an_account(tokens_per_minute=100)
    admission = await gatekeeper.admit(account, 100)
    admission.settle(30)
    admission.settle(0)  # again: nothing
    await gatekeeper.admit(account, 70)
    with pytest.raises(RateLimitedError):
        await gatekeeper.admit(account, 1)


async def test_a_call_that_took_more_than_estimated_is_a_debt(gatekeeper, clock):
    account = an_account(tokens_per_minute=60)
    (await gatekeeper.admit(account, 10)).settle(90)
    with pytest.raises(RateLimitedError) as caught:
        await gatekeeper.admit(account, 1)
    assert caught.value.retry_after == pytest.approx(31)


async def test_a_call_whose_tokens_are_not_known_keeps_the_estimate(gatekeeper):
    account = an_account(tokens_per_minute=100)
    (await gatekeeper.admit(account, 100)).settle(None)
    with pytest.raises(RateLimitedError):
        await gatekeeper.admit(account, 1)


async def test_a_call_larger_than_a_minute_allows_is_told_that_waiting_does_not_help(gatekeeper):
    with pytest.raises(
        RateLimitedError, match=r"may take 1,001 tokens, more than the 1,000 tokens"
    ) as caught:
        await gatekeeper.admit(an_account(tokens_per_minute=1000), 1001)
    assert caught.value.retry_after is None


async def test_keys_have_rates_of_their_own_and_a_key_without_limits_has_none(gatekeeper):
    first, second = (an_account(name, requests_per_minute=1) for name in ("a", "b"))
    await gatekeeper.admit(first, 0)
    await gatekeeper.admit(second, 0)
    unlimited = an_account("c")
    for _ in range(1000):
        (await gatekeeper.admit(unlimited, 10**9)).settle(10**9)


@settings(max_examples=50)
@given(gaps=st.lists(pauses, min_size=1, max_size=30), per_minute=st.integers(1, 20))
async def test_whoever_waits_as_told_is_always_let_in(gaps, per_minute):
    clock = FakeClock(autojump=False)
    buckets, limits = TokenBuckets(clock), an_account(requests_per_minute=per_minute).limits
    granted = []
    for gap in gaps:
        clock.advance(gap)
        wait = await buckets.take("k", limits, 0)
        if wait is not None:
            clock.advance(wait.seconds)
            assert await buckets.take("k", limits, 0) is None
        granted.append(clock.monotonic())
    assert all(later >= earlier for earlier, later in pairwise(granted))
