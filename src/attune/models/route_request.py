"""``RouteRequest``: the part of a request and its context that a decision looks at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from attune.models.call_checks import check_call

if TYPE_CHECKING:
    from attune.models.request import ExecutionContext, LLMRequest

__all__ = ["DEFAULT_MIN_SUCCESS_RATE", "RouteRequest"]

DEFAULT_MIN_SUCCESS_RATE = 0.8

DEFAULT_INPUT_TOKENS = 1000
DEFAULT_OUTPUT_TOKENS = 500
"""The size of a call of which nothing is known."""


@dataclass(frozen=True)
class RouteRequest:
    """What ``AdaptiveModelRouter.decide`` looks at; limits as in ``ExecutionContext``.

    ``input_tokens`` and ``max_output_tokens`` are the sizes of the call where they are known;
    the cost of a candidate is predicted from them, else from the telemetry's means. ``bound_to`` is the
    provider whose signed blocks the conversation holds: it is preferred within the tier, since elsewhere
    they are left out. ``prompt`` is the text of the last turn, which policies may look at.
    """

    workflow: str = "default"
    stage: str = "default"
    task_type: str | None = None
    tier: str | None = None
    model: str | None = None
    max_cost: float | None = None
    max_latency_ms: float | None = None
    min_success_rate: float = DEFAULT_MIN_SUCCESS_RATE
    needs: frozenset[str] = frozenset()
    input_tokens: int | None = None
    max_output_tokens: int | None = None
    allow_providers: frozenset[str] | None = None
    local_only: bool = False
    session_id: str = ""
    bound_to: str = ""
    allow_models: frozenset[str] | None = None
    account: str = ""
    policy: str | None = None
    explore: bool | None = None
    prompt: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        check_call(self)

    @classmethod
    def of(
        cls,
        request: LLMRequest,
        context: ExecutionContext,
        min_success_rate: float = DEFAULT_MIN_SUCCESS_RATE,
    ) -> RouteRequest:
        """The decision's view of one call; ``min_success_rate`` where the context sets none."""
        return cls(
            workflow=context.workflow,
            stage=context.stage,
            task_type=context.task_type,
            tier=context.tier,
            model=context.model,
            max_cost=context.max_cost,
            max_latency_ms=context.max_latency_ms,
            min_success_rate=(
                min_success_rate if context.min_success_rate is None else context.min_success_rate
            ),
            needs=request.needs,
            input_tokens=request.estimated_input_tokens(),
            max_output_tokens=request.max_output_tokens,
            allow_providers=context.allow_providers,
            local_only=context.local_only,
            session_id=context.session_id,
            bound_to=request.bound_to,
            allow_models=context.allow_models,
            account=context.account,
            policy=context.policy,
            explore=context.explore,
            prompt=request.last_text,
        )

    def size(self, mean: tuple[float, float] | None) -> tuple[float, float]:
        """The tokens, in and out, that the call will probably take: what is known of it, else the mean."""
        mean_in, mean_out = mean or (DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
        tokens_in = mean_in if self.input_tokens is None else self.input_tokens
        limit = self.max_output_tokens
        return tokens_in, mean_out if limit is None else min(mean_out, limit)

    def of_unknown_size(self) -> RouteRequest:
        """The same request without a known prompt."""
        return replace(self, input_tokens=None)

    def without_success_floor(self) -> RouteRequest:
        """The same request with no minimum success rate."""
        return replace(self, min_success_rate=0.0)
