"""The types that users see. mypy checks this file; it is never run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, assert_type

from attune.errors import AttuneError, NoCandidateError, ProviderError, UnknownNameError
from attune.models.adaptive_routing import AdaptiveModelRouter, RouteDecision, TierUpgrade
from attune.models.auth_strategy import AuthMode, AuthStrategy, CostEstimate, Overflow, SubscriptionTier
from attune.models.executor import LLMExecutor, LLMResponse
from attune.models.registry import ModelInfo, ModelRegistry, ModelTier, get_model
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.route_request import RouteRequest
from attune.models.telemetry import DecisionRecord, LLMCallRecord
from attune.models.validation import Validator, Verdict

if TYPE_CHECKING:
    from attune.runtime import Runtime

# The catalog: a tier may be given by name.
assert_type(get_model("anthropic", "cheap"), ModelInfo)
assert_type(ModelRegistry.default().in_tier(ModelTier.PREMIUM), tuple[ModelInfo, ...])
assert_type(ModelTier.CHEAP.up, ModelTier | None)

# Authentication: a strategy is a frozen value.
strategy = AuthStrategy(subscription_tier=SubscriptionTier.MAX)
assert_type(strategy.get_recommended_mode(600), AuthMode)
assert_type(strategy.estimate_tokens(600), int)
assert_type(strategy.overflow, Overflow)
assert_type(strategy.estimate_cost(600), CostEstimate)
strategy.prefer_subscription = False  # type: ignore[misc]

# Routing: the short form and the full one.
router = AdaptiveModelRouter()
assert_type(router.get_best_model("code-review", "analysis", max_cost=0.01), str)
decision = router.decide(RouteRequest(workflow="code-review", stage="analysis"))
assert_type(decision, RouteDecision)
assert_type(decision.model, ModelInfo)
assert_type(decision.record(decision_id="d", call_id="c", at=0.0), DecisionRecord)
should_upgrade, reason = router.recommend_tier_upgrade("code-review", "analysis")
assert_type(should_upgrade, bool)
assert_type(reason, str)
assert_type(router.recommend_tier_upgrade("code-review", "analysis"), TierUpgrade)


def learn(record: LLMCallRecord) -> None:
    assert_type(record.cost_nanos, int | None)
    router.observe(record)


async def call(executor: LLMExecutor) -> str:
    request = LLMRequest.from_prompt("hello", system="be brief")
    response = await executor.run(request, ExecutionContext(workflow="chat", max_cost=0.01))
    assert_type(response, LLMResponse)
    assert_type(response.cost_usd, float | None)
    return response.text


async def judged(ai: Runtime) -> float | None:
    await ai.run("hello", validate=r"\d+", escalate=True)
    await ai.run("hello", validate={"type": "object"})
    await ai.run("hello", validate=Validator(re.compile("x")))
    await ai.run("hello", validate=lambda answer: len(answer.text) > 3)
    response = await ai.run("hello", validate=_slowly)
    assert_type(response.verdict, Verdict | None)
    return None if response.verdict is None else response.verdict.score


async def _slowly(answer: LLMResponse) -> Verdict:
    return Verdict(True, 0.75, answer.text)


def explain(error: AttuneError) -> str | None:
    if isinstance(error, UnknownNameError | NoCandidateError):
        return assert_type(error.nearest, str | None)
    if isinstance(error, ProviderError):
        return error.error_class
    return None
