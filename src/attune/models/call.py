"""One call under way: its plan, its budget, and the choice of its next step.

The next step is the same candidate again, the next one, or to wait for the first that may be tried.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    BudgetExhaustedError,
    CircuitOpenError,
    ErrorClass,
    NoCandidateError,
    ProviderError,
    ThrottledError,
)
from attune.models.attempt import AttemptSpec
from attune.models.budget import CallBudget
from attune.models.candidate import Candidate
from attune.models.empathy_executor import response_of
from attune.models.request import RouteRequest
from attune.models.route_decision import unmade_decision
from attune.models.telemetry import CostStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.attempt import Attempt
    from attune.models.executor import AttemptSummary, LLMResponse
    from attune.models.registry import ModelInfo
    from attune.models.request import ExecutionContext, LLMRequest
    from attune.models.resilient_executor import ResilientExecutor
    from attune.models.route_decision import RouteDecision
    from attune.models.telemetry import DecisionRecord, ScoredCandidate

__all__ = ["Call"]

_TELL_THE_USER = frozenset({ErrorClass.CALLER, ErrorClass.REFUSAL})


class Call:
    """One call under way: its plan, its budget, and what has happened so far."""

    def __init__(self, executor: ResilientExecutor, request: LLMRequest, context: ExecutionContext) -> None:
        self._executor = executor
        self._runner = executor.runner
        self._clock = executor.runner.clock
        self._request = request
        self._context = context
        self._id = executor.runner.new_id()
        self._route: RouteRequest
        self._decision: RouteDecision | None = None
        self._plan: deque[ScoredCandidate] = deque()
        self._models: dict[str, ModelInfo] = {}
        self._budget = CallBudget(
            executor.limits,
            now=self._clock.monotonic(),
            deadline_s=context.deadline_s,
            budget_usd=context.budget_usd,
        )
        self._errors: list[AttuneError] = []
        self._made: list[AttemptSummary] = []
        self._repeats: dict[Candidate, int] = {}
        self._throttled: set[Candidate] = set()
        self._too_small = 0
        self._left_out_planned = False
        self._pause = 0.0
        self._last_resort = False
        self._predicted: float | None = None
        self._cost_status = CostStatus.EXACT
        self._started = self._clock.monotonic()

    # -- choosing the next step ------------------------------------------------------------------

    async def next_attempt(self) -> Attempt:
        """The next attempt, after the pause that comes before it. Raises when nothing is left."""
        if self._decision is None:
            self._decide()
        while True:
            await self._wait()
            if not self._plan:
                self._plan_the_soonest()
                continue
            scored = self._plan[0]
            candidate = _candidate(scored)
            if not self._budget.affords(scored.predicted_cost_usd):
                self._plan.popleft()
                self._errors.append(_too_dear(candidate, scored, self._context.budget_usd))
                continue
            self._predicted = scored.predicted_cost_usd
            try:
                return self._start(candidate)
            except (CircuitOpenError, ProviderError) as refusal:
                self._plan.popleft()
                self._errors.append(refusal)
                if isinstance(refusal, ThrottledError):
                    self._throttled.add(candidate)
                self._say(_named(candidate, refusal))
            except BudgetExhaustedError as exhausted:
                if exhausted.limit in {"deadline", "attempts"}:
                    if not self._errors:
                        raise
                    raise self._all_failed(str(exhausted)) from exhausted
                self._plan.popleft()  # the spend cap: another candidate may be free
                self._errors.append(exhausted)
                self._say(_named(candidate, exhausted))

    def failed(self, attempt: Attempt, error: ProviderError) -> None:
        """Choose what comes after a failed attempt. Raises the error when nothing should."""
        self.finished(attempt)
        self._errors.append(error)
        candidate, executor = attempt.candidate, self._executor
        if error.error_class in _TELL_THE_USER or (
            error.error_class is ErrorClass.MODEL and self._context.model is not None
        ):
            raise error
        if error.error_class is ErrorClass.CONTEXT:
            self._too_small = attempt.model.context_window
            tried = {made[:3] for made in self._made}
            others = {scored[:3]: scored for scored in self._everyone() if scored[:3] not in tried}
            others = {scored[:3]: scored for scored in self._plan} | others
            self._plan = deque(scored for scored in others.values() if self._is_larger(scored))
            self._say(f"{_named(candidate, error)}; next a model with a larger window")
            return
        if error.error_class is ErrorClass.THROTTLED:
            self._throttled.add(candidate)
        done = self._repeats.get(candidate, 0)
        pause = executor.retry.pause(error, done, executor.rng)
        if self._may_repeat(candidate, error, done, pause):
            self._repeats[candidate] = done + 1
            self._pause = pause
            self._say(f"{_named(candidate, error)}; again in {self._pause:.2f} s")
        else:
            self._plan.popleft()
            self._put_last(candidate, error)
            goes_on = self._plan and self._budget.attempts_left
            following = f"; next {_label(self._plan[0])}" if goes_on else ""
            self._say(f"{_named(candidate, error)}{following}")

    def answered(self, attempt: Attempt) -> bool:
        """Whether a complete answer is the call's: not when it ran into its model's window and a
        larger one is left.
        """
        error = attempt.error
        if error is not None and error.error_class is ErrorClass.CONTEXT and self._budget.attempts_left:
            window = attempt.model.context_window
            if any(self._models[_label(scored)].context_window > window for scored in self._plan):
                self.failed(attempt, error)
                return False
        self.finished(attempt)
        return True

    def finished(self, attempt: Attempt) -> None:
        """Count what a settled attempt took."""
        self._made.append(attempt.summary())
        record = attempt.record
        if record is not None:
            self._budget.spend(record.cost_nanos, self._predicted)
            self._cost_status = max(self._cost_status, record.cost_status, key=list(CostStatus).index)

    # -- the parts -------------------------------------------------------------------------------

    def _decide(self) -> None:
        executor, required = self._executor, self._context.min_success_rate is not None
        route = RouteRequest.of(self._request, self._context)
        self._route = route if required else route.without_success_floor()
        try:
            decision = executor.decide(route, required_success=required)
        except NoCandidateError as nothing:
            try:
                decision = self._last_resort_decision(nothing)
            except NoCandidateError:
                self._record(unmade_decision(route, nothing, self._id, self._clock.time()))
                raise
        self._decision = decision
        self._models = {model.label: model for model in decision.models}
        self._plan = deque(executor.fallback.order(decision.ranked))
        executor.bucket(decision.candidate.provider).credit()
        self._record(decision.record(decision_id=self._id, call_id=self._id, at=self._clock.time()))

    def _record(self, decision: DecisionRecord) -> None:
        if self._executor.record_decision is not None:
            self._executor.record_decision(decision)

    def _last_resort_decision(self, nothing: NoCandidateError) -> RouteDecision:
        """A plan when everything that fits is refused now: each may be tried before its time, once.

        Raises ``nothing`` when it is not breakers that stand in the way.
        """
        try:
            decision = self._executor.router.decide(self._route, heed_availability=False)
        except NoCandidateError:
            raise nothing from None
        refusals = [self._runner.domains.refusal(candidate) for candidate in decision.candidates]
        if all(refusal is None for refusal in refusals):
            raise nothing
        self._last_resort = True
        decision.notes += ("nothing is available; a last resort before its time",)
        return decision

    def _start(self, candidate: Candidate) -> Attempt:
        limits = self._budget.start_attempt(self._clock.monotonic())
        chosen = not self._made and self._decision is not None and candidate == self._decision.candidate
        spec = AttemptSpec(self._id, self._id, len(self._made), self._context, chosen)
        try:
            return self._runner.start(
                candidate,
                self._models[candidate.label],
                self._request,
                limits,
                spec,
                last_resort=self._last_resort,
            )
        except AttuneError:
            self._budget.attempts -= 1  # a refused permit is not an attempt
            raise

    def _put_last(self, failed: Candidate, error: ProviderError) -> None:
        """Move the candidates that share what the failure is blamed on behind those that do not."""
        match error.error_class:
            case ErrorClass.CONNECTION:
                blamed: tuple[object, ...] = (failed.provider,)
            case ErrorClass.TRANSIENT | ErrorClass.MID_STREAM:
                blamed = (failed.provider, failed.model_id)
            case _:
                return
        self._plan = deque(sorted(self._plan, key=lambda scored: scored[: len(blamed)] == blamed))

    async def _wait(self) -> None:
        pause, self._pause = self._pause, 0.0
        if pause > 0:
            await self._clock.sleep(pause)

    def _may_repeat(self, candidate: Candidate, error: ProviderError, done: int, pause: float) -> bool:
        executor = self._executor
        if not executor.retry.repeats(error, done) or self._budget.attempts_left < 1:
            return False
        if self._runner.domains.refusal(candidate) is not None:
            return False
        if pause >= self._budget.remaining_s(self._clock.monotonic()):
            return False
        if (error.retry_after or 0.0) > executor.retry.cap_s and len(self._plan) > 1:
            return False
        return executor.bucket(candidate.provider).take()

    def _plan_the_soonest(self) -> None:
        """With the plan at its end: go on with what the decision had left out for its success rate, else
        wait for the first candidate that throttled the call, if its cooldown ends in time (or has ended
        meanwhile), or raise ``AllProvidersFailedError``.
        """
        if self._budget.attempts_left < 1:
            raise self._all_failed(f"all {self._budget.attempts} attempts are used")
        if not self._made and all(isinstance(error, BudgetExhaustedError) for error in self._errors):
            raise _joined(self._errors)
        if self._plan_the_left_out():
            return
        now = self._clock.monotonic()
        tried = {(made.provider, made.model_id, made.credential) for made in self._made} - self._throttled
        resting: list[tuple[float, ScoredCandidate]] = []
        for scored in self._everyone():
            if scored[:3] not in tried and self._is_larger(scored):
                refusal = self._runner.domains.refusal(_candidate(scored))
                over = refusal is None and scored[:3] in self._throttled
                if over or (refusal is not None and refusal.error_class is ErrorClass.THROTTLED):
                    resting.append((now if refusal is None else refusal.retry_at, scored))
        if not resting:
            raise self._all_failed("no candidate is left")
        retry_at, scored = min(resting, key=lambda each: each[0])
        if retry_at >= self._budget.deadline:
            raise self._all_failed("every candidate is throttled beyond the call's deadline")
        self._pause = retry_at - now
        self._throttled.discard(_candidate(scored))
        self._plan.append(scored)
        self._say(f"{_label(scored)} is throttled; waiting {self._pause:.1f} s")

    def _plan_the_left_out(self) -> bool:
        """Plan, once, the available candidates that were below a success rate that nobody asked for."""
        if self._left_out_planned or self._decision is None:
            return False
        self._left_out_planned = True
        known = {scored[:3] for scored in self._decision.ranked}
        everyone = [scored for scored in self._everyone() if scored[:3] not in known]
        for scored in self._executor.fallback.order((self._decision.ranked[0], *everyone))[1:]:
            if self._is_larger(scored) and self._runner.domains.refusal(_candidate(scored)) is None:
                self._plan.append(scored)
        return bool(self._plan)

    def _is_larger(self, scored: ScoredCandidate) -> bool:
        """Whether the model's window is larger than any that was too small."""
        return self._models[_label(scored)].context_window > self._too_small

    def _everyone(self) -> tuple[ScoredCandidate, ...]:
        """Every candidate that fits, also those that were not available when the call was decided."""
        try:
            decision = self._executor.router.decide(self._route, heed_availability=False)
        except NoCandidateError:
            return ()
        self._models.update((model.label, model) for model in decision.models)
        return decision.ranked

    def _all_failed(self, why: str) -> AllProvidersFailedError:
        now, wall = self._clock.monotonic(), self._clock.time()
        refusals = [self._runner.domains.refusal(_candidate(scored)) for scored in self._everyone()]
        times = [max(0.0, refusal.retry_at - now) for refusal in refusals if refusal is not None]
        retry_at = None if not times else wall + min(times)
        causes = "; ".join(dict.fromkeys(str(error) for error in self._errors))
        made = len(self._made)
        error = AllProvidersFailedError(
            f"no candidate could answer ({made} attempt{'' if made == 1 else 's'}, {why}): {causes}",
            attempts=self._errors,
            retry_at=retry_at,
        )
        error.__cause__ = self._errors[-1] if self._errors else None
        return error

    def _say(self, line: str) -> None:
        if self._executor.on_step is not None:
            self._executor.on_step(line)

    async def response(self, attempt: Attempt) -> LLMResponse:
        """The response of the whole call: the answer of the last attempt, the cost of all."""
        if self._executor.durable is not None:
            await self._executor.durable()
        return replace(
            response_of(attempt),
            cost_nanos=None if self._cost_status is CostStatus.UNKNOWN else self._budget.spent_nanos,
            cost_status=self._cost_status,
            latency_ms=(self._clock.monotonic() - self._started) * 1000,
            attempts=tuple(self._made),
            decision=self._decision,
        )


def _joined(errors: Sequence[AttuneError]) -> BudgetExhaustedError:
    """One error for dollars that were enough for no candidate."""
    limits = [error.limit for error in errors if isinstance(error, BudgetExhaustedError)]
    return BudgetExhaustedError(limits[-1], "; ".join(dict.fromkeys(str(error) for error in errors)))


def _candidate(scored: ScoredCandidate) -> Candidate:
    return Candidate(scored.provider, scored.model_id, scored.credential)


def _named(candidate: Candidate, error: AttuneError) -> str:
    """The error's message, with the candidate in front unless it names it itself."""
    message = str(error)
    return message if message.startswith(candidate.label) else f"{candidate}: {message}"


def _label(scored: ScoredCandidate) -> str:
    return f"{scored.provider}/{scored.model_id}"


def _too_dear(
    candidate: Candidate, scored: ScoredCandidate, budget_usd: float | None
) -> BudgetExhaustedError:
    if scored.predicted_cost_usd is None:
        message = f"the price of {candidate} is unknown, so it cannot be held to ${budget_usd:g}"
    else:
        message = f"{candidate} would pass the call's budget of ${budget_usd:g}"
    return BudgetExhaustedError("cost", message)
