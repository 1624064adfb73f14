"""How the attempts of one call are started: with everything that each needs set aside."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import AttuneError, BudgetExhaustedError
from attune.models.attempt import AttemptSpec
from attune.models.executor import AttemptBudget
from attune.models.overflow import costs_money
from attune.models.plan import candidate_of
from attune.models.request import UNDERESTIMATED

if TYPE_CHECKING:
    from attune.models.attempt import Attempt
    from attune.models.attempt_runner import AttemptRunner
    from attune.models.budget import CallBudget
    from attune.models.candidate import Candidate
    from attune.models.registry import ModelInfo
    from attune.models.request import ExecutionContext, LLMRequest
    from attune.models.spending import Cap
    from attune.models.telemetry import ScoredCandidate

__all__ = ["AttemptStarter"]


class AttemptStarter(NamedTuple):
    """Starts the attempts of one call under its budget and the dollars of ``cap``."""

    runner: AttemptRunner
    budget: CallBudget
    request: LLMRequest
    context: ExecutionContext
    cap: Cap | None
    call_id: str

    async def start(
        self,
        scored: ScoredCandidate,
        model: ModelInfo,
        decided: Candidate | None,
        *,
        last_resort: bool,
        overflows: bool,
    ) -> Attempt:
        """Start an attempt; ``decided`` is what the decision chose, ``overflows`` whether the call does. What
        cannot be set aside is raised, and then nothing is held and no attempt counted.
        """
        request, held = self._within_budget(model)
        clock = self.runner.clock
        try:
            left = AttemptBudget(total_s=self.budget.remaining_s(clock.monotonic()))
            billed = overflows and costs_money(model, scored.credential)
            reservation = await self.runner.reserve(model, request, left, self.cap, overflows=billed)
        except BaseException:
            self.budget.spend(0, held)
            raise
        try:
            limits = self.budget.start_attempt(clock.monotonic(), scored.tier)
        except BudgetExhaustedError:
            self.budget.spend(0, held)
            if reservation is not None:
                reservation.settle(0)
            raise
        candidate, position = candidate_of(scored), self.budget.attempts - 1
        chosen = not position and candidate == decided
        spec = AttemptSpec(self.call_id, self.call_id, position, self.context, chosen, held_nanos=held)
        try:
            return self.runner.start(
                candidate, model, request, limits, spec, reservation=reservation, last_resort=last_resort
            )
        except AttuneError:
            self.budget.attempts -= 1  # a refused permit is not an attempt
            self.budget.spend(0, held)
            raise

    def _within_budget(self, model: ModelInfo) -> tuple[LLMRequest, int]:
        """The request with an answer no longer than the call's dollars pay for, and what is held of them."""
        request = self.request
        if self.context.budget_usd is None:
            return request, 0
        tokens = ceil(request.estimated_input_tokens() * UNDERESTIMATED)
        longest = min(request.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
        try:
            hold = self.budget.hold(model.prices, tokens, longest, self.runner.clock.time())
        except BudgetExhaustedError as exhausted:
            raise BudgetExhaustedError(exhausted.limit, f"{model.label}: {exhausted}") from None
        return replace(request, max_output_tokens=hold.longest), hold.nanos
