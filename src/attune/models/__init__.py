"""Deciding and surviving: the public names.

Each name is imported from its module when it is first used, so that importing the package costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attune.models.adaptive_routing import AdaptiveModelRouter
    from attune.models.answer_length import AnswerLength
    from attune.models.attempt_runner import AttemptRunner
    from attune.models.auth_strategy import (
        AuthFacts,
        AuthMode,
        AuthStrategy,
        CostEstimate,
        Overflow,
        SubscriptionTier,
        get_module_size_category,
    )
    from attune.models.budget import CallBudget, CallLimits
    from attune.models.candidate import Candidate
    from attune.models.circuit_breaker import CircuitBreaker, CircuitState, Permit
    from attune.models.credits import Grant
    from attune.models.empathy_executor import EmpathyLLMExecutor
    from attune.models.executor import LLMExecutor, LLMResponse, Provider, ProviderStream, StreamEvent
    from attune.models.failure_domains import FailureDomains
    from attune.models.fallback import FallbackPolicy, FallbackStrategy
    from attune.models.performance import ModelPerformance
    from attune.models.registry import ModelInfo, ModelRegistry, ModelTier, get_model
    from attune.models.request import (
        ExecutionContext,
        ImagePart,
        LLMRequest,
        Message,
        OutputFormat,
        TextPart,
        ThinkingPart,
        Tool,
        ToolCallPart,
        ToolResultPart,
    )
    from attune.models.resilient_executor import ResilientExecutor
    from attune.models.retry import RetryPolicy
    from attune.models.route_decision import RouteDecision, TierUpgrade
    from attune.models.route_request import RouteRequest
    from attune.models.routing_stats import RoutingStats
    from attune.models.tasks import (
        CAPABLE_TASKS,
        CHEAP_TASKS,
        PREMIUM_TASKS,
        REALTIME_REQUIRED_TASKS,
        TASK_TIER_MAP,
        TaskType,
        get_tier_for_task,
    )
    from attune.models.telemetry import CostStatus, DecisionRecord, LLMCallRecord, Outcome, TokenUsage
    from attune.models.validation import Validator, Verdict

_HOMES = {
    "adaptive_routing": ["AdaptiveModelRouter"],
    "answer_length": ["AnswerLength"],
    "attempt_runner": ["AttemptRunner"],
    "auth_strategy": [
        "AuthFacts",
        "AuthMode",
        "AuthStrategy",
        "CostEstimate",
        "Overflow",
        "SubscriptionTier",
        "get_module_size_category",
    ],
    "budget": ["CallBudget", "CallLimits"],
    "candidate": ["Candidate"],
    "circuit_breaker": ["CircuitBreaker", "CircuitState", "Permit"],
    "credits": ["Grant"],
    "empathy_executor": ["EmpathyLLMExecutor"],
    "executor": ["LLMExecutor", "LLMResponse", "Provider", "ProviderStream", "StreamEvent"],
    "failure_domains": ["FailureDomains"],
    "fallback": ["FallbackPolicy", "FallbackStrategy"],
    "performance": ["ModelPerformance"],
    "registry": ["ModelInfo", "ModelRegistry", "ModelTier", "get_model"],
    "request": [
        "ExecutionContext",
        "ImagePart",
        "LLMRequest",
        "Message",
        "OutputFormat",
        "TextPart",
        "ThinkingPart",
        "Tool",
        "ToolCallPart",
        "ToolResultPart",
    ],
    "resilient_executor": ["ResilientExecutor"],
    "retry": ["RetryPolicy"],
    "route_decision": ["RouteDecision", "TierUpgrade"],
    "route_request": ["RouteRequest"],
    "routing_stats": ["RoutingStats"],
    "tasks": [
        "CAPABLE_TASKS",
        "CHEAP_TASKS",
        "PREMIUM_TASKS",
        "REALTIME_REQUIRED_TASKS",
        "TASK_TIER_MAP",
        "TaskType",
        "get_tier_for_task",
    ],
    "telemetry": ["CostStatus", "DecisionRecord", "LLMCallRecord", "Outcome", "TokenUsage"],
    "validation": ["Validator", "Verdict"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptiveModelRouter",
    "AnswerLength",
    "AttemptRunner",
    "AuthFacts",
    "AuthMode",
    "AuthStrategy",
    "CAPABLE_TASKS",
    "CHEAP_TASKS",
    "CallBudget",
    "CallLimits",
    "Candidate",
    "CircuitBreaker",
    "CircuitState",
    "CostEstimate",
    "CostStatus",
    "DecisionRecord",
    "EmpathyLLMExecutor",
    "ExecutionContext",
    "FailureDomains",
    "FallbackPolicy",
    "FallbackStrategy",
    "Grant",
    "ImagePart",
    "LLMCallRecord",
    "LLMExecutor",
    "LLMRequest",
    "LLMResponse",
    "Message",
    "ModelInfo",
    "ModelPerformance",
    "ModelRegistry",
    "ModelTier",
    "Outcome",
    "OutputFormat",
    "Overflow",
    "PREMIUM_TASKS",
    "Permit",
    "Provider",
    "ProviderStream",
    "REALTIME_REQUIRED_TASKS",
    "ResilientExecutor",
    "RetryPolicy",
    "RouteDecision",
    "RouteRequest",
    "RoutingStats",
    "StreamEvent",
    "SubscriptionTier",
    "TASK_TIER_MAP",
    "TaskType",
    "TextPart",
    "ThinkingPart",
    "TierUpgrade",
    "TokenUsage",
    "Tool",
    "ToolCallPart",
    "ToolResultPart",
    "Validator",
    "Verdict",
    "get_model",
    "get_module_size_category",
    "get_tier_for_task",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
