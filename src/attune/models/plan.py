"""The candidates that are left for one call, and their order, which failures change."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from attune.errors import (
    ErrorClass,
    NoCandidateError,
    ProviderError,
    ThrottledError,
    WindowSpentError,
)
from attune.models.attempt_runner import refused
from attune.models.call_errors import out_of_dollars, unpaid
from attune.models.candidate import SUBSCRIPTION, Candidate
from attune.models.overflow import CANNOT_PAY, Overflow, costs_money
from attune.models.route_request import RouteRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.errors import AllProvidersFailedError, AttuneError, BudgetExhaustedError
    from attune.models.candidate import Refusal
    from attune.models.overflow import OverflowRule
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
        self._own: tuple[Candidate, ...] = ()
        self._resting: set[Key] = set()
        self._blamed: set[tuple[str, ...]] = set()
        self._too_small = 0
        self._above: ModelTier | None = None
        self._no_room: ModelTier | None = None
        self._left_out_added = False
        self._request = request
        self._context = context
        self.route: RouteRequest
        self.decision: RouteDecision | None = None
        self.last_resort = False

    def decide(self) -> RouteDecision:
        """Decide, and plan what was decided. Raises ``NoCandidateError``."""
        self.route = RouteRequest.of(self._request, self._context, self._executor.min_success_rate)
        try:
            decision = self._executor.decide(self.route, required_success=self._required)
        except NoCandidateError as nothing:
            decision = self._last_resort_decision(nothing)
        self._take(decision)
        self._left = deque(self._executor.fallback.order(decision.ranked))
        if kept_out := self._kept_out(decision.ranked):  # whose turn may come after a reset
            decision.leave_out(kept_out, self.overflow_rule.reason)
        if self.last_resort:
            decision.notes += self._last_resort_notes()
        return decision

    def _last_resort_notes(self) -> tuple[str, ...]:
        """What there is to say when nothing is available: only what rests behind a breaker may be tried."""
        if self.head is None:  # the plan cannot pay, as the call's error says
            return (self.overflow_rule.said,)
        refusals = [self._domains.refusal(candidate_of(scored)) for scored in self._left]
        breakers = any(each is not None and each.error_class is None for each in refusals)
        return ("nothing is available; a last resort before its time",) if breakers else ()

    def _take(self, decision: RouteDecision) -> None:
        self.decision = decision
        self._own = decision.prepaid
        self._models = {model.label: model for model in decision.models}

    # -- what is left ----------------------------------------------------------------------------

    @property
    def head(self) -> ScoredCandidate | None:
        """What comes next; ``None`` at the end."""
        askable = self._askable()
        return askable[0] if askable else None

    @property
    def after_head(self) -> Sequence[ScoredCandidate]:
        """What comes after it."""
        return tuple(self._askable())[1:]

    def beside(self, slow: Candidate) -> Sequence[ScoredCandidate]:
        """What may come beside the first one, which is slow: what shares least with it comes first."""
        return sorted(self.after_head, key=lambda s: (s.provider == slow.provider) + (s[:2] == slow[:2]))

    def model_of(self, scored: ScoredCandidate) -> ModelInfo:
        """The model of a candidate."""
        return self._models[candidate_of(scored).label]

    def has_larger(self, window: int) -> bool:
        """Whether a model with a larger window than that is left."""
        return any(self.model_of(scored).context_window > window for scored in self._askable())

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

    # -- a plan that cannot pay ------------------------------------------------------------------

    @property
    def overflow_rule(self) -> OverflowRule:
        """What happens where it overflows."""
        return self._executor.router.overflow_rule

    @property
    def overflows(self) -> bool:
        """Whether a plan should have paid for the call, and cannot."""
        if not self._own or self.decision is None:
            return False
        if self.decision.overflows and self.overflow_rule.then is Overflow.API:
            return True  # to the end, so that all that it is billed counts
        return self.cannot_pay() is not None

    def cannot_pay(self) -> Refusal | None:
        """Why the plans that should have paid cannot now, by the one that is back first; ``None`` unless all
        of them cannot.
        """
        refusals = [self._domains.refusal(candidate) for candidate in self._own]
        found = [each for each in refusals if each is not None and each.error_class in CANNOT_PAY]
        return min(found, key=lambda each: each.retry_at) if found and len(found) == len(refusals) else None

    def unpaid_error(self, errors: Sequence[AttuneError]) -> AllProvidersFailedError | None:
        """The error of a call that overflows and has nowhere to go; ``None`` where that is not the reason."""
        why, rule = self.cannot_pay(), self.overflow_rule
        others = self._beside_the_plan(errors)
        if why is None or (rule.then is Overflow.API and others):
            return None
        known = errors or [refused(why, self._own[0], self._clock)]
        back_at = self._clock.time() + why.retry_at - self._clock.monotonic()
        keeps_out = bool(self._kept_out(self._all_that_fit(allowed=True)))
        return unpaid(why, self._spent_windows(), rule, known, others, back_at, keeps_out=keeps_out)

    def out_of_dollars(self, errors: Sequence[AttuneError], made: int) -> BudgetExhaustedError | None:
        """The error of a call whose dollars were enough for no candidate, after ``made`` attempts; ``None``
        if something else stood in its way.
        """
        return out_of_dollars(self._beside_the_plan(errors), made, self.cannot_pay())

    def _beside_the_plan(self, errors: Sequence[AttuneError]) -> Sequence[AttuneError]:
        """The errors that are not of a plan that cannot pay."""
        return [each for each in errors if not self._is_unpaid(each)]

    def overflow_label(self, error: AttuneError) -> str:
        """What the call does from now on because of the error, for people; empty unless it overflows."""
        return f"; {self.overflow_rule.said}" if self._is_unpaid(error) and self.overflows else ""

    def _is_unpaid(self, error: AttuneError) -> bool:
        """Whether the error says that a plan cannot pay; a key may be refused as well."""
        if not isinstance(error, ProviderError) or error.error_class not in CANNOT_PAY:
            return False
        plans = {candidate.provider for candidate in self._own}
        return error.error_class is ErrorClass.WINDOW_SPENT or error.provider in plans

    def _spent_windows(self) -> Sequence[str]:
        """The names of the plans' windows that are known to be used up."""
        prepaid, now = self._executor.router.prepaid, self._clock.time()
        found = [window for candidate in self._own for window in prepaid.windows(candidate)]
        return list(dict.fromkeys(window.name for window in found if window.at(now).spent))

    def _kept_out(self, found: Sequence[ScoredCandidate]) -> set[Key]:
        rule = self.overflow_rule
        if rule.then is Overflow.API or not self.overflows:
            return set()
        return {each[:3] for each in found if rule.keeps_out(self.model_of(each), each.credential)}

    def _askable(self) -> Sequence[ScoredCandidate]:
        """What is left; where the call overflows, without who is kept out and the plans that cannot pay."""
        if not self.overflows:
            return self._left
        kept_out = self._kept_out(self._left)
        return [each for each in self._left if each[:3] not in kept_out and not self._is_refused_plan(each)]

    def is_used_up(self, scored: ScoredCandidate) -> bool:
        """Whether nothing is left of the quota that pays for it."""
        refusal = self._domains.refusal(candidate_of(scored))
        return refusal is not None and refusal.error_class is ErrorClass.WINDOW_SPENT

    def _is_refused_plan(self, scored: ScoredCandidate) -> bool:
        refusal = self._domains.refusal(candidate_of(scored)) if scored.credential == SUBSCRIPTION else None
        return refusal is not None and refusal.error_class in CANNOT_PAY

    # -- what changes it -------------------------------------------------------------------------

    def drop(self, candidate: Candidate, error: AttuneError | None = None) -> None:
        """Take a candidate out. One that has to rest, by the ``error``, may be waited for in the end."""
        waits = self.overflow_rule.then is Overflow.WAIT
        if isinstance(error, (ThrottledError, WindowSpentError) if waits else ThrottledError):
            self._resting.add(candidate)
        else:
            self._resting.discard(candidate)
        self._left = deque(scored for scored in self._left if scored[:3] != candidate)

    def drop_for_dollars(self, scored: ScoredCandidate, exhausted: BudgetExhaustedError) -> None:
        """Take out a candidate that there are no dollars for. Where a cap has no room for it, what costs
        money of lower tiers goes with it: that a cap is reached must not make answers worse. One above the
        decision's tier is only taken out.
        """
        self.drop(candidate_of(scored))
        tier = self.model_of(scored).tier
        if exhausted.limit in {"cost", "price"}:  # the call's own budget, or no price to hold to a cap
            return
        if self.decision is not None and tier.rank <= self.decision.tier.rank:
            self._no_room = tier
            self._left = deque(each for each in self._left if self._may_do(each))

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
        return self.head is not None

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
        return self.head is not None

    def soonest_resting(self, tried: set[Key]) -> tuple[float, ScoredCandidate] | None:
        """The candidate whose rest ends first, and when (on the monotonic clock); one whose rest has ended
        meanwhile may be tried now. Those rest that are throttled, and those that are used up where a call
        that overflows is to wait for them.
        """
        waits = self.overflow_rule.then is Overflow.WAIT and self.overflows
        rests = {ErrorClass.THROTTLED, ErrorClass.WINDOW_SPENT} if waits else {ErrorClass.THROTTLED}
        now = self._clock.monotonic()
        resting: list[tuple[float, ScoredCandidate]] = []
        for scored in self._everyone():
            if scored[:3] in tried - self._resting or not self._may_do(scored):
                continue
            refusal = self._domains.refusal(candidate_of(scored))
            if refusal is None and scored[:3] in self._resting:
                resting.append((now, scored))
            elif refusal is not None and refusal.error_class in rests:
                resting.append((refusal.retry_at, scored))
        return min(resting, key=lambda each: each[0], default=None)

    def add(self, scored: ScoredCandidate, at: float) -> float:
        """Plan a candidate to be tried first, at a monotonic time; returns the seconds until then."""
        self._left = deque([scored, *(each for each in self._left if each[:3] != scored[:3])])
        return at - self._clock.monotonic()

    # -- the parts -------------------------------------------------------------------------------

    def _may_do(self, scored: ScoredCandidate) -> bool:
        """Whether the model's window is larger than any that was too small, its tier above any whose answer
        did not do, and not below one that a cap has no room for, unless it costs nothing.
        """
        model = self.model_of(scored)
        weaker = self._no_room is not None and model.tier.rank < self._no_room.rank
        if weaker and costs_money(model, scored.credential):
            return False
        return self._is_enough(model)

    def _plan_anew(self, tried: set[Key]) -> None:
        """Plan what is left, and then all others that were not tried, as far as they may do."""
        known = tried | {scored[:3] for scored in self._left}
        others = [scored for scored in self._everyone(allowed=False) if scored[:3] not in known]
        self._left = deque(scored for scored in (*self._left, *others) if self._may_do(scored))
        if self.decision is not None:  # the plan's models of the tiers that are in question now
            self._own = self.decision.prepaid_among(self._is_enough) or self._own

    def _is_enough(self, model: ModelInfo) -> bool:
        """Whether its window is larger than any that was too small, its tier above any whose answer did not
        do.
        """
        if self._above is not None and model.tier.rank <= self._above.rank:
            return False
        return model.context_window > self._too_small

    def _last_resort_decision(self, nothing: NoCandidateError) -> RouteDecision:
        """A plan when everything that fits is refused now: each may be tried before its time, once.

        Raises ``nothing`` when it is not breakers that stand in the way, nor a plan that is used up.
        """
        try:
            decision = self._decide_of_everyone()
        except NoCandidateError:
            raise nothing from None
        if all(self._domains.refusal(candidate) is None for candidate in decision.candidates):
            raise nothing
        self._take(decision)
        if len(self._kept_out(decision.ranked)) == len(decision.ranked):
            self.decision, self._own = None, ()
            raise nothing
        self.last_resort = True
        return decision

    def _decide_of_everyone(self) -> RouteDecision:
        """The decision if all were available, and without a minimum success rate that nobody asked for."""
        route = self.route if self._required else self.route.without_success_floor()
        return self._executor.router.decide(route, heed_availability=False)

    def _everyone(self, *, allowed: bool = True) -> Sequence[ScoredCandidate]:
        """Every candidate that fits and that the call is not kept out of, also those that were not available
        when it was decided; only those that the fallback allows, unless ``allowed`` is false.
        """
        found = self._all_that_fit(allowed=allowed)
        kept_out = self._kept_out(found)
        return [each for each in found if each[:3] not in kept_out] if kept_out else found

    def _all_that_fit(self, *, allowed: bool) -> Sequence[ScoredCandidate]:
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
