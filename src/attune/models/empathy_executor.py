"""The executor for one candidate: always behind the breaker, nothing else added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.attempt import AttemptSpec
from attune.models.attempt_runner import AttemptRunner
from attune.models.budget import CallBudget, CallLimits
from attune.models.candidate import Candidate
from attune.models.executor import LLMResponse
from attune.models.request import ExecutionContext

if TYPE_CHECKING:
    from attune.models.attempt import Attempt
    from attune.models.executor import Provider
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest

__all__ = ["EmpathyLLMExecutor"]


class EmpathyLLMExecutor:
    """Answers with one model of one provider, through the circuit breaker: one attempt a call.

    ``runner`` shares breakers and the ledger with other executors; by default it has its own. For
    retries, fallback and routing use ``ResilientExecutor``; to leave the breaker out, call the
    provider itself.
    """

    def __init__(
        self,
        provider: Provider,
        model: ModelInfo,
        *,
        runner: AttemptRunner | None = None,
        limits: CallLimits = CallLimits(),  # noqa: B008  (an immutable value)
    ) -> None:
        self._runner = AttemptRunner([provider]) if runner is None else runner
        self._candidate = Candidate(provider.name, model.id, provider.credential)
        self._model = model
        self._limits = limits

    async def run(self, request: LLMRequest, context: ExecutionContext | None = None) -> LLMResponse:
        """Answer the request.

        Raises ``CircuitOpenError`` when the breaker refuses, and the ``ProviderError`` of the attempt
        when it fails.
        """
        runner = self._runner
        context = ExecutionContext() if context is None else context
        budget = CallBudget(self._limits, now=runner.clock.monotonic(), deadline_s=context.deadline_s)
        spec = AttemptSpec(runner.new_id(), "", 0, context)
        limits = budget.start_attempt(runner.clock.monotonic(), self._model.tier.value)
        held = await runner.reserve(self._model, request, limits)
        attempt = runner.start(self._candidate, self._model, request, limits, spec, reservation=held)
        try:
            async for _ in attempt:
                pass
        finally:
            await attempt.aclose()
        return response_of(attempt)


def response_of(attempt: Attempt) -> LLMResponse:
    """The response that a finished attempt amounts to, as if it had been the only one."""
    record = attempt.record
    if record is None:
        raise RuntimeError("an attempt has no response before it has ended")
    return LLMResponse(
        call_id=record.call_id,
        content=attempt.fold.content,
        stop_reason=record.stop_reason,
        provider=record.provider,
        model_id=record.model_id,
        tier=record.tier,
        credential=record.credential,
        usage=record.usage,
        cost_nanos=record.cost_nanos,
        cost_status=record.cost_status,
        latency_ms=record.latency_ms,
        ttft_ms=record.ttft_ms,
        attempts=(attempt.summary(),),
        list_cost_nanos=record.list_cost_nanos,
    )
