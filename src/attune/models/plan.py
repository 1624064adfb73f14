"""The candidates that are left for one call, and their order, which failures change."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from attune.errors import ErrorClass, NoCandidateError
from attune.models.candidate import Candidate
from attune.models.route_request import RouteRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.errors import ProviderError
    from attune.models.registry import ModelInfo, ModelTier
    from attune.models.request import ExecutionContext, LLMRequest
    from attune.models.resilient_executor import ResilientExecutor
    from attune.models.route_decision import RouteDecision
    from attune.models.telemetry import ScoredCandidate

__all__ = ["Plan", "candidate_of"]

Key: TypeAlias = "tuple[str, str, str]"


class Plan:
    """What a call may still try, in order. Its head is what is under way, or comes next."""

    def __init__(self, executor: ResilientExecutor, request: LLMRequest, context: ExecutionContext) -> None:
        self._executor = executor
        self._domains = executor.runner.domains
        self._clock = executor.runner.clock
        self._required = context.min_success_rate is not None
        self._left: deque[ScoredCandidate] = deque()
        self._models: dict[str, ModelInfo] = {}
        self._throttled: set[Key] = set()
        self._blamed: set[tuple[str, ...]] = set()
        self._too_small = 0
        self._above: ModelTier | None = None
        self._left_out_added = False
        self._request = request
        self._context = context
        self.route: RouteRequest
        self.decision: RouteDecision | None = None
        self.last_resort = False

    def decide(self) -> RouteDecision:
        """Decide, and plan what was decided. Raises ``NoCandidateError``."""
        self.route = RouteRequest.of(self._request, self._context)
        try:
            decision = self._executor.decide(self.route, required_success=self._required)
        except NoCandidateError as nothing:
            decision = self._last_resort_decision(nothing)
        self.decision = decision
        self._models = {model.label: model for model in decision.models}
        self._left = deque(self._executor.fallback.order(decision.ranked))
        return decision

    # -- what is left ----------------------------------------------------------------------------

    @property
    def head(self) -> ScoredCandidate | None:
        """What comes next; ``None`` at the end."""
        return self._left[0] if self._left else None

    @property
    def after_head(self) -> Sequence[ScoredCandidate]:
        """What comes after it."""
        return tuple(self._left)[1:]

    def beside(self, slow: Candidate) -> Sequence[ScoredCandidate]:
        """What may come beside the first one, which is slow: what shares least with it comes first."""
        return sorted(self.after_head, key=lambda s: (s.provider == slow.provider) + (s[:2] == slow[:2]))

    def model_of(self, scored: ScoredCandidate) -> ModelInfo:
        """The model of a candidate."""
        return self._models[candidate_of(scored).label]

    def has_larger(self, window: int) -> bool:
        """Whether a model with a larger window than that is left."""
        return any(self.model_of(scored).context_window > window for scored in self._left)

    def repeats_failure(self, scored: ScoredCandidate) -> bool:
        """Whether it shares with one that failed what the failure is blamed on: the same host or model, or a
        provider of which other models have been failing too.
        """
        if scored[:1] in self._blamed or scored[:2] in self._blamed:
            return True
        failed_here = any(blamed[0] == scored.provider for blamed in self._blamed)
        return failed_here and self._domains.suspects(scored.provider)

    def soonest_s(self) -> float | None:
        """The seconds until the first candidate may be tried; ``None`` when one may be now, or none ever."""
        now = self._clock.monotonic()
        refusals = [self._domains.refusal(candidate_of(scored)) for scored in self._everyone()]
        waits = [refusal.retry_at - now for refusal in refusals if refusal is not None]
        return max(0.0, min(waits)) if waits and len(waits) == len(refusals) else None

    # -- what changes it -------------------------------------------------------------------------

    def drop(self, candidate: Candidate, *, throttled: bool = False) -> None:
        """Take a candidate out; one that throttled the call may be waited for in the end."""
        if throttled:
            self._throttled.add(candidate)
        self._left = deque(scored for scored in self._left if scored[:3] != candidate)

    def put_first(self, candidate: Candidate) -> None:
        """Put the candidate that goes on at the head."""
        self._left = deque(sorted(self._left, key=lambda scored: scored[:3] != candidate))

    def put_last(self, failed: Candidate, error: ProviderError) -> None:
        """Move the candidates that share what the failure is blamed on behind those that do not."""
        match error.error_class:
            case ErrorClass.CONNECTION:
                blamed: tuple[str, ...] = (failed.provider,)
            case ErrorClass.TRANSIENT | ErrorClass.MID_STREAM:
                blamed = (failed.provider, failed.model_id)
            case _:
                return
        self._blamed.add(blamed)
        self._left = deque(sorted(self._left, key=lambda scored: scored[: len(blamed)] == blamed))

    def keep_larger(self, window: int, tried: set[Key]) -> None:
        """Plan, of all that fit, the models with a window larger than the one that was too small."""
        self._too_small = window
        self._plan_anew(tried)

    @property
    def climbing(self) -> bool:
        """Whether only tiers above that of an answer which did not do are planned."""
        return self._above is not None

    def climb(self, tier: ModelTier, tried: set[Key]) -> bool:
        """Plan, of all that fit, the models of the tiers above one whose answer did not do, the next tier
        first; whether there are any.
        """
        self._above = tier
        self._plan_anew(tried)
        self._left = deque(sorted(self._left, key=lambda scored: self.model_of(scored).tier.rank))
        return bool(self._left)

    def add_left_out(self) -> bool:
        """Plan, once, the available candidates that were below a success rate that nobody asked for."""
        if self._left_out_added or self.decision is None:
            return False
        self._left_out_added = True
        known = {scored[:3] for scored in self.decision.ranked}
        for scored in self._everyone():
            if scored[:3] in known or not self._may_do(scored):
                continue
            if self._domains.refusal(candidate_of(scored)) is None:
                self._left.append(scored)
        return bool(self._left)

    def soonest_throttled(self, tried: set[Key]) -> tuple[float, ScoredCandidate] | None:
        """The throttled candidate whose cooldown ends first, and when (on the monotonic clock); one whose
        cooldown has ended meanwhile may be tried now.
        """
        now = self._clock.monotonic()
        resting: list[tuple[float, ScoredCandidate]] = []
        for scored in self._everyone():
            if scored[:3] in tried - self._throttled or not self._may_do(scored):
                continue
            refusal = self._domains.refusal(candidate_of(scored))
            if refusal is None and scored[:3] in self._throttled:
                resting.append((now, scored))
            elif refusal is not None and refusal.error_class is ErrorClass.THROTTLED:
                resting.append((refusal.retry_at, scored))
        return min(resting, key=lambda each: each[0], default=None)

    def add(self, scored: ScoredCandidate, at: float) -> float:
        """Plan a candidate to be tried at a monotonic time; returns the seconds until then."""
        self._throttled.discard(scored[:3])
        self._left.append(scored)
        return at - self._clock.monotonic()

    # -- the parts -------------------------------------------------------------------------------

    def _may_do(self, scored: ScoredCandidate) -> bool:
        """Whether the model's window is larger than any that was too small, and its tier above any whose
        answer did not do.
        """
        model = self.model_of(scored)
        if self._above is not None and model.tier.rank <= self._above.rank:
            return False
        return model.context_window > self._too_small

    def _plan_anew(self, tried: set[Key]) -> None:
        """Plan what is left, and then all others that were not tried, as far as they may do."""
        known = tried | {scored[:3] for scored in self._left}
        others = [scored for scored in self._everyone(allowed=False) if scored[:3] not in known]
        self._left = deque(scored for scored in (*self._left, *others) if self._may_do(scored))

    def _last_resort_decision(self, nothing: NoCandidateError) -> RouteDecision:
        """A plan when everything that fits is refused now: each may be tried before its time, once.

        Raises ``nothing`` when it is not breakers that stand in the way.
        """
        try:
            decision = self._decide_of_everyone()
        except NoCandidateError:
            raise nothing from None
        if all(self._domains.refusal(candidate) is None for candidate in decision.candidates):
            raise nothing
        self.last_resort = True
        decision.notes += ("nothing is available; a last resort before its time",)
        return decision

    def _decide_of_everyone(self) -> RouteDecision:
        """The decision if all were available, and without a minimum success rate that nobody asked for."""
        route = self.route if self._required else self.route.without_success_floor()
        return self._executor.router.decide(route, heed_availability=False)

    def _everyone(self, *, allowed: bool = True) -> tuple[ScoredCandidate, ...]:
        """Every candidate that fits, also those that were not available when the call was decided; only those
        that the fallback allows, unless ``allowed`` is false.
        """
        try:
            decision = self._decide_of_everyone()
        except NoCandidateError:
            return ()
        self._models.update((model.label, model) for model in decision.models)
        if self.decision is None or not allowed:
            return decision.ranked
        first = self.decision.ranked[0]
        others = (scored for scored in decision.ranked if scored[:3] != first[:3])
        return self._executor.fallback.order((first, *others))


def candidate_of(scored: ScoredCandidate) -> Candidate:
    """The candidate itself."""
    return Candidate(scored.provider, scored.model_id, scored.credential)
