"""The executor for one candidate: one attempt a call, always behind the breaker."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import CallerError, CircuitOpenError, InvalidRequestError, TransientError
from attune.models.attempt import AttemptSpec
from attune.models.attempt_runner import AttemptRunner
from attune.models.budget import CallLimits
from attune.models.candidate import Candidate
from attune.models.circuit_breaker import CircuitState
from attune.models.empathy_executor import EmpathyLLMExecutor, response_of
from attune.models.executor import AttemptBudget, LLMExecutor
from attune.models.failure_domains import BreakerLimits, FailureDomains
from attune.models.request import ExecutionContext, LLMRequest, TextPart
from attune.models.telemetry import CostStatus, TokenUsage
from attune.testing import FakeClock, FakeProvider, Reply
from support.pipeline import ASK, COST, a_model

MODEL = a_model("p/m")


def rig(*script, **options):
    """An executor, its provider, its runner, and the records it makes."""
    clock = FakeClock()
    provider = FakeProvider("p", script, sleep=clock.sleep)
    records = []
    runner = AttemptRunner(
        [provider],
        clock=clock,
        record=records.append,
        domains=FailureDomains(BreakerLimits(failure_threshold=2), clock=clock),
    )
    return EmpathyLLMExecutor(provider, MODEL, runner=runner, **options), provider, runner, records


async def test_the_response_holds_the_answer_and_what_it_took():
    executor, _, _, records = rig(Reply("the answer", head_s=2))
    response = await executor.run(ASK, ExecutionContext("review", session_id="s"))
    assert response.content == (TextPart("the answer"),)
    assert (response.text, response.stop_reason) == ("the answer", "stop")
    assert (response.provider, response.model_id, response.tier) == ("p", "m", "capable")
    assert (response.credential, response.usage) == ("api_key", TokenUsage(10, 5))
    assert (response.cost_nanos, response.cost_status) == (COST, CostStatus.EXACT)
    assert response.cost_usd == COST / 1e9
    assert response.latency_ms == response.ttft_ms == pytest.approx(2000)
    assert [attempt[:4] for attempt in response.attempts] == [("p", "m", "api_key", "")]
    assert not response.fallback_used
    assert response.decision is None
    assert (records[0].call_id, records[0].decision_id) == (response.call_id, "")
    assert (records[0].workflow, records[0].session_id) == ("review", "s")


async def test_it_is_an_executor_with_a_runner_of_its_own_by_default():
    executor: LLMExecutor = EmpathyLLMExecutor(FakeProvider("p"), MODEL)
    assert (await executor.run(LLMRequest.from_prompt("hi"))).text == "ok"


async def test_each_call_is_one_attempt_and_has_its_own_id():
    executor, provider, _, records = rig(TransientError("503"), "two", "three")
    with pytest.raises(TransientError, match="503"):
        await executor.run(ASK)
    assert len(provider.received) == 1
    await executor.run(ASK)
    await executor.run(ASK)
    assert len({record.call_id for record in records}) == 3


async def test_the_breaker_stands_in_front_of_the_provider_and_never_in_front_of_a_direct_call():
    executor, provider, runner, _ = rig(*[TransientError("503")] * 2)
    for _ in range(2):
        with pytest.raises(TransientError):
            await executor.run(ASK)
    with pytest.raises(CircuitOpenError) as caught:
        await executor.run(ASK)
    assert len(provider.received) == 2
    assert caught.value.retry_at == pytest.approx(runner.clock.time() + 60)
    stream = await provider.open(ASK, MODEL, None)
    assert len([event async for event in stream]) == 4
    runner.clock.advance(60)
    await executor.run(ASK)
    assert {snapshot.state for snapshot in runner.domains.snapshot()} == {CircuitState.CLOSED}


async def test_the_callers_fault_is_given_back_and_opens_nothing():
    executor, _, runner, _ = rig(*[CallerError("bad tool", status=422, body=b"{}")] * 9)
    for _ in range(9):
        with pytest.raises(CallerError) as caught:
            await executor.run(ASK)
    assert (caught.value.status, caught.value.body) == (422, b"{}")
    assert runner.domains.quiet


async def test_the_attempts_time_is_the_calls():
    executor, provider, _, _ = rig(limits=CallLimits(deadline_s=100, connect_s=3))
    await executor.run(ASK)
    await executor.run(ASK, ExecutionContext(deadline_s=7))
    assert [seen.budget.total_s for seen in provider.received] == [100, 7]
    assert provider.received[0].budget.connect_s == 3


async def test_cancelling_the_call_ends_the_request():
    executor, provider, runner, records = rig(Reply(head_s=float("inf")))
    task = asyncio.create_task(executor.run(ASK))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (provider.in_flight, provider.abandoned) == (0, 1)
    assert records[0].error_class == "cancelled"
    assert runner.domains.quiet


async def test_an_attempt_has_no_response_before_its_end():
    _, _, runner, _ = rig()
    spec = AttemptSpec("c", "", 0, ExecutionContext())
    attempt = runner.start(Candidate("p", "m", "api_key"), MODEL, ASK, AttemptBudget(), spec)
    with pytest.raises(RuntimeError, match="before it has ended"):
        response_of(attempt)
    await attempt.aclose()


async def test_a_provider_that_the_runner_does_not_know_is_named():
    executor = EmpathyLLMExecutor(FakeProvider("q"), MODEL, runner=AttemptRunner([FakeProvider("p")]))
    with pytest.raises(InvalidRequestError, match="no provider is set up for q/m#api_key"):
        await executor.run(ASK)
