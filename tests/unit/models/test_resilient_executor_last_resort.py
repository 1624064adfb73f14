"""When everything is refused, or has failed too often: what is tried all the same, and what is not."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import (
    AllProvidersFailedError,
    CircuitOpenError,
    CredentialError,
    NoCandidateError,
    TransientError,
    UnknownNameError,
)
from attune.models.budget import CallLimits
from attune.models.candidate import Refusal
from attune.models.circuit_breaker import CircuitState
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import ASK, Fleet, the_candidate

DOWN = TransientError("overloaded", status=503)
NO_REPEAT = RetryPolicy(max_repeats=0)


# -- the last resort ---------------------------------------------------------------------------------


async def test_when_everything_is_open_one_call_tries_before_the_time_and_its_success_closes():
    fleet = Fleet("a/m", "b/m")
    fleet.trip("a/m")
    fleet.trip("b/m")
    response = await fleet.executor.run(ASK)
    assert response.text == "ok"
    assert "nothing is available; a last resort before its time" in fleet.decisions[0].notes
    assert fleet.state("a/m") is CircuitState.CLOSED
    assert fleet.state("b/m") is CircuitState.OPEN


async def test_of_two_calls_when_everything_is_open_the_second_fails_at_once_with_the_time():
    fleet = Fleet("a/m", scripts={"a": [Reply(head_s=20)]})
    fleet.trip("a/m")
    first = asyncio.create_task(fleet.executor.run(ASK))
    await asyncio.sleep(0)
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert fleet.clock.monotonic() == before
    [refusal] = caught.value.attempts
    assert isinstance(refusal, CircuitOpenError)
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 60)
    assert "0 attempts" in str(caught.value)
    assert (await first).text == "ok"
    assert len(fleet.decisions) == 2


async def test_a_last_resort_that_fails_is_not_repeated_and_the_next_one_waits_its_turn():
    fleet = Fleet("a/m", "b/m")
    fleet["a"].default = fleet["b"].default = DOWN
    fleet.trip("a/m")
    fleet.trip("b/m")
    for attempts in (2, 0, 0):
        with pytest.raises(AllProvidersFailedError, match=f"{attempts} attempts"):
            await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]
    fleet.clock.advance(60)
    assert fleet.state("a/m") is CircuitState.HALF_OPEN, "the failure did not prolong it"


async def test_in_a_last_resort_the_policy_chose_only_what_it_chose():
    fleet = Fleet("a/m", "b/m")
    fleet.trip("a/m")
    fleet.trip("b/m")
    fleet.domains.acquire(the_candidate("a/m"), 100, last_resort=True).release()
    await fleet.executor.run(ASK)
    assert fleet.seen == ["b/m"]
    assert not fleet.records[0].chosen_by_policy


async def test_a_refused_permit_is_not_an_attempt():
    fleet = Fleet("a/m", "b/m", limits=CallLimits(max_attempts=1))
    fleet.trip("a/m")
    fleet.trip("b/m")
    fleet.domains.acquire(the_candidate("a/m"), 100, last_resort=True).release()
    assert (await fleet.executor.run(ASK)).provider == "b"


async def test_a_circuit_that_opens_during_the_call_has_no_last_resort():
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)

    def fail_while_the_other_is_tripped(_request, _model):
        fleet.trip("b/m")
        return DOWN

    fleet["a"].then(fail_while_the_other_is_tripped)
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m"]
    assert [type(each) for each in caught.value.attempts] == [TransientError, CircuitOpenError]
    assert caught.value.retry_at is None, "a has only failed: it may be asked again at once"


async def test_there_is_no_last_resort_while_something_is_available():
    fleet = Fleet("a/m", "b/m", scripts={"b": [DOWN] * 9})
    fleet.trip("a/m")
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["b/m", "b/m"]


async def test_credentials_that_are_off_have_no_last_resort():
    fleet = Fleet("a/m", scripts={"a": [CredentialError("401", status=401)]})
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    with pytest.raises(
        AllProvidersFailedError, match=r"0 attempts.*the credential a#api_key is off"
    ) as caught:
        await fleet.executor.run(ASK)
    assert fleet.asked == 1
    assert caught.value.retry_at == pytest.approx(fleet.clock.time() + 300)


async def test_a_refusal_that_is_not_of_the_breakers_is_not_overruled():
    class ClosedOnSundays:
        quiet = False

        def refusal(self, candidate):
            return Refusal(candidate.key, "it is Sunday", 0.0, None)

    fleet = Fleet("a/m")
    fleet.router._availability = ClosedOnSundays()
    with pytest.raises(NoCandidateError, match="it is Sunday"):
        await fleet.executor.run(ASK)
    assert fleet.asked == 0


# -- the minimum success rate ------------------------------------------------------------------------


async def fail_often(fleet, times=30):
    for _ in range(times):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
        fleet.clock.advance(120)


async def test_a_provider_that_failed_for_an_hour_yesterday_is_tried_when_nothing_else_is_there():
    fleet = Fleet("a/m")
    fleet["a"].default = DOWN
    await fail_often(fleet)
    fleet.clock.advance(86_400)
    fleet["a"].default = "back again"
    with pytest.raises(NoCandidateError):
        fleet.router.get_best_model("default", "default")
    response = await fleet.executor.run(ASK)
    assert response.text == "back again"
    assert "no candidate reaches a success rate of 80%" in fleet.decisions[-1].notes


async def test_during_the_outage_it_is_still_tried_once_in_a_recovery_timeout():
    fleet = Fleet("a/m", retry=NO_REPEAT)
    fleet["a"].default = DOWN
    await fail_often(fleet)
    fleet.clock.advance(660)  # the longest that it may be open by now
    assert fleet.state("a/m") is CircuitState.HALF_OPEN
    fleet.trip("a/m")
    fleet["a"].default = "back again"
    assert (await fleet.executor.run(ASK)).text == "back again"


async def test_a_success_rate_that_the_caller_asked_for_is_required():
    fleet = Fleet("a/m")
    fleet["a"].default = DOWN
    await fail_often(fleet)
    asked = fleet.asked
    fleet["a"].default = "back again"
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.5))
    fleet.trip("a/m")
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.5))
    assert fleet.asked == asked
    assert (await fleet.executor.run(ASK, ExecutionContext(min_success_rate=0.0))).text == "back again"


async def test_what_fits_nothing_at_all_is_told_with_the_nearest():
    fleet = Fleet("a/m")
    with pytest.raises(NoCandidateError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(allow_providers=frozenset({"b"})))
    assert caught.value.nearest == "a/m"
    with pytest.raises(UnknownNameError):
        await fleet.executor.run(ASK, ExecutionContext(model="nobody"))
    assert fleet.decisions[0].ranked == ()
