"""Who pays, as the plan's reports come in: the real ``claude`` program and an API key beside it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from e2e.test_plan_overflow import Desk, desk
from support.claude_login import HAS_PROGRAM
from support.upstream import Answer

if TYPE_CHECKING:
    from attune.models.executor import LLMResponse

pytestmark = pytest.mark.skipif(not HAS_PROGRAM, reason="the claude program is not installed")
__all__ = ["desk"]

DAY = 86_400
OVERFLOWS = 'overflow = "api"\n'
LARGE = "word " * 20_000


def reports(used: float, resets_in: float) -> Answer:
    """An answer of the plan that tells of a week's window."""
    told = {"status": "allowed", "7d-utilization": f"{used:.2f}", "7d-reset": int(time.time() + resets_in)}
    headers = {f"anthropic-ratelimit-unified-{name}": str(value) for name, value in told.items()}
    usage = {"input_tokens": 25_000, "output_tokens": 500}
    return Answer(headers=headers, usage=usage)


async def test_the_size_decides_until_quota_has_a_price_and_a_restart_knows_it(desk: Desk) -> None:
    async def asked(prompt: str, answer: Answer | None = None) -> LLMResponse:
        if answer is not None:
            desk.plan.then(answer)
        response = await desk.ask(prompt)
        desk.clock.advance(600)
        return response

    desk.mode = 'subscription_tier = "max"\n'
    async with desk.running(OVERFLOWS):
        assert (await asked("hi")).credential == "api_key", "small work, and nothing is known of the quota"
        for used in (0.10, 0.20, 0.30):
            assert (await asked(LARGE, reports(used, DAY))).credential == "subscription"
        decision = desk.ai.decide("hi", tier="capable")
        plan = next(each for each in decision.ranked if each.credential == "subscription")
        assert plan.list_usd > 0
        assert plan.quota_usd is not None
    async with desk.running(OVERFLOWS):
        again = next(
            each for each in desk.ai.decide("hi", tier="capable").ranked if each.credential == "subscription"
        )
        assert again.quota_usd == pytest.approx(plan.quota_usd, rel=0.05, abs=1e-7)
        cheaper = decision.candidate.credential
        answer = await asked("hi", reports(0.30, DAY) if cheaper == "subscription" else None)
        assert answer.credential == cheaper, "what was decided is what is done"
        desk.ai.store.flush_sync(60)
        (record,) = desk.ai.store.attempts(answer.call_id)
        assert (record.cost_nanos == 0) is (cheaper == "subscription")
