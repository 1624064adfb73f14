"""A call that changes its tier, and consent: who pays there is asked anew."""

from __future__ import annotations

import asyncio

import pytest

from attune.errors import AttuneError, ContextTooLongError, ThrottledError
from attune.models.candidate import Candidate
from attune.models.registry import ModelTier
from attune.models.request import ExecutionContext
from attune.testing import Reply
from support.pipeline import ASK, a_model
from unit.models.test_overflow import fleet_of, of_the_plan, spent

PREMIUM = ModelTier.PREMIUM
CAPABLE_CALL, PREMIUM_CALL = ExecutionContext(tier="capable"), ExecutionContext(tier="premium")


def fleet(plan=(), window=100_000):
    models = [
        of_the_plan("claude/sonnet")._replace(context_window=window),
        of_the_plan("claude/opus", PREMIUM),
        a_model("anthropic/sonnet")._replace(context_window=window),
        a_model("anthropic/opus", PREMIUM),
    ]
    return fleet_of(*models, plan=list(plan)) if plan else fleet_of(*models)


def spend_opus(found, seconds=300.0):
    permit = found.domains.acquire(Candidate("claude", "opus", "subscription"), 60)
    permit.failure(spent(seconds, window="seven_day_opus"))


@pytest.mark.parametrize("used_up", [True, False])
async def test_an_escalation_goes_to_the_plan_or_without_consent_nowhere(used_up):
    found = fleet()
    if used_up:
        spend_opus(found)
    response = await found.executor.run(ASK, CAPABLE_CALL, validate=lambda text: False, escalate=True)
    assert response.credential == "subscription"
    assert found.seen == ["claude/sonnet"] if used_up else ["claude/sonnet", "claude/opus"]


async def test_a_prompt_that_is_too_long_goes_to_a_larger_model_of_the_plan_or_nowhere():
    found = fleet([ContextTooLongError("prompt is too long", status=400)], window=1000)
    spend_opus(found)
    with pytest.raises(AttuneError, match="used up"):
        await found.executor.run(ASK, CAPABLE_CALL)
    assert found.seen == ["claude/sonnet"]


@pytest.mark.parametrize("window", ["seven_day_opus", "five_hour"])
async def test_a_short_rest_does_not_hide_that_a_window_is_spent(window):
    busy = ThrottledError("busy", status=429)
    busy.retry_after = 600.0
    replies = [Reply(error=busy, head_s=1.0), Reply(error=spent(3600.0, window=window), head_s=2.0)]
    found = fleet(replies)
    calls = [found.executor.run(ASK, ExecutionContext(tier="premium", deadline_s=30)) for _ in range(2)]
    await asyncio.gather(*calls, return_exceptions=True)
    before = len(found.seen)
    await asyncio.gather(found.executor.run(ASK, PREMIUM_CALL), return_exceptions=True)
    left = ["claude/sonnet"] if window == "seven_day_opus" else []
    assert found.seen[before:] == left, "what is left of the plan answers, and no key"
