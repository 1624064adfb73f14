"""Minutes of 50 calls a second in which nothing answers: what the upstreams then have to bear."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import AllProvidersFailedError, AttuneError, ConnectionFailedError, TransientError
from attune.models.circuit_breaker import CircuitState
from attune.models.failure_domains import BreakerLimits
from support.pipeline import ASK, Fleet
from support.scale import scaled

CALLS_A_SECOND = 50
SECONDS = scaled(test=40, faults=600, soak=600)
DOWN = TransientError("overloaded", status=503)
UNREACHABLE = ConnectionFailedError("connection refused")
NO_BREAKER = BreakerLimits(failure_threshold=10**9)


async def load(fleet: Fleet, seconds: int = SECONDS) -> list[BaseException | None]:
    """Calls at their rate, whatever becomes of the earlier ones; why each of them failed, or ``None``."""

    async def call() -> BaseException | None:
        try:
            await fleet.executor.run(ASK)
        except AttuneError as error:
            return error
        return None

    fleet.executor.record_decision = fleet.executor.on_step = None  # which nobody reads here
    calls = []
    for _ in range(seconds * CALLS_A_SECOND):
        calls.append(asyncio.create_task(call()))
        await fleet.clock.sleep(1 / CALLS_A_SECOND)
    return await asyncio.gather(*calls)


def per_call(fleet: Fleet, provider: str, calls: int) -> float:
    """Requests that a provider saw for each call that was made."""
    received = sum(
        len(fleet[f"{name}#{credential}"].received)
        for name, credential in fleet.providers
        if name == provider
    )
    return received / calls


@pytest.mark.parametrize("error", [DOWN, UNREACHABLE], ids=["overloaded", "unreachable"])
async def test_alone_and_without_a_breaker_a_provider_sees_at_most_one_tenth_more_than_the_calls(error):
    fleet = Fleet("a/m", breaker=NO_BREAKER)
    fleet["a"].default = error
    failures = await load(fleet)
    assert all(isinstance(each, AllProvidersFailedError) for each in failures)
    assert 1.0 < per_call(fleet, "a", len(failures)) <= 1.1
    assert len(fleet.records) == fleet.asked


@pytest.mark.parametrize("error", [DOWN, UNREACHABLE], ids=["overloaded", "unreachable"])
async def test_another_credential_or_model_behind_the_same_failure_is_a_repeat_too(error):
    """An overloaded model is the same with every key, and a dead host is with every model."""
    models = ["a/m"] if error is DOWN else ["a/m", "a/n", "a/o"]
    fleet = Fleet(*models, credentials={"a": ("key", "plan", "more")}, breaker=NO_BREAKER)
    for each in fleet.providers.values():
        each.default = error
    failures = await load(fleet)
    assert 1.0 < per_call(fleet, "a", len(failures)) <= 1.1


async def test_of_three_providers_behind_breakers_none_sees_more_than_a_tenth_more_than_the_calls():
    fleet = Fleet("a/m", "b/m", "c/m")
    for each in fleet.providers.values():
        each.default = DOWN
    failures = await load(fleet)
    for provider in "abc":
        assert 0.0 < per_call(fleet, provider, len(failures)) <= 1.1
        assert fleet.state(f"{provider}/m") is not CircuitState.CLOSED


async def test_of_three_providers_without_breakers_none_sees_more_than_a_tenth_more_than_the_calls():
    fleet = Fleet("a/m", "b/m", "c/m", breaker=NO_BREAKER)
    for each in fleet.providers.values():
        each.default = DOWN
    failures = await load(fleet)
    for provider in "abc":
        assert 1.0 <= per_call(fleet, provider, len(failures)) <= 1.1


async def test_no_failover_is_refused_for_want_of_repeats():
    """While one provider is down and its bucket is empty, every call is answered by the other."""
    fleet = Fleet("a/m", "b/m", breaker=NO_BREAKER)
    fleet["a"].default = DOWN
    fleet.runner._record = fleet.records.append  # nothing is learned, so that a/m is always chosen
    failures = await load(fleet)
    assert failures == [None] * len(failures)
    assert per_call(fleet, "a", len(failures)) <= 1.1
    assert per_call(fleet, "b", len(failures)) == 1.0
    assert not fleet.executor.bucket("a").take(), "the bucket was empty all the time"


async def test_a_call_after_a_long_outage_may_be_repeated_again():
    fleet = Fleet("a/m", breaker=NO_BREAKER)
    fleet["a"].default = DOWN
    await load(fleet, seconds=5)
    fleet["a"].default = "ok"
    await load(fleet, seconds=5)
    fleet["a"].then(DOWN)
    before = fleet.asked
    assert (await fleet.executor.run(ASK)).text == "ok"
    assert fleet.asked == before + 2
