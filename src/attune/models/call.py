"""One call under way: its plan, its budget, and the choice of its next step.

The next step is the same candidate again, the next one, a second one beside it, or to wait for the first
that may be tried.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import partial
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
from attune.models.hedging import parse_hedge
from attune.models.race import first_events, race
from attune.models.request import RouteRequest
from attune.models.route_decision import unmade_decision
from attune.models.tasks import normalize_task
from attune.models.telemetry import CostStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.attempt import Attempt
    from attune.models.executor import AttemptSummary, LLMResponse, StreamEvent
    from attune.models.registry import ModelInfo
    from attune.models.request import ExecutionContext, LLMRequest
    from attune.models.resilient_executor import ResilientExecutor
    from attune.models.route_decision import RouteDecision
    from attune.models.telemetry import DecisionRecord, LLMCallRecord, ScoredCandidate

__all__ = ["Call"]

_TELL_THE_USER = frozenset({ErrorClass.CALLER, ErrorClass.REFUSAL})
_COST_STATUSES = tuple(CostStatus)


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
        self._made: dict[int, AttemptSummary] = {}
        self._open: list[Attempt] = []
        self._repeats: dict[Candidate, int] = {}
        self._throttled: set[Candidate] = set()
        self._blamed: set[tuple[object, ...]] = set()
        self._too_small = 0
        self._left_out_planned = False
        self._pause = 0.0
        self._last_resort = False
        self._cost_status = CostStatus.EXACT
        self._started = self._clock.monotonic()
        self._hedge = executor.hedge if context.hedge is None else parse_hedge(context.hedge)

    @property
    def id(self) -> str:
        """The call's id, by which the ledger knows it."""
        return self._id

    async def begin(self) -> tuple[Attempt, list[StreamEvent]]:
        """The attempt that answers, and its events up to the first content (or the end of an answer without
        any). Attempts that fail before it are replaced; raises when nothing is left.
        """
        while True:
            attempt = await self.next_attempt()
            after_s = self._hedge_after_s(attempt)
            if after_s is None:
                beginning = await first_events(attempt)
            else:
                attempt, beginning = await race(
                    attempt,
                    timer=self._clock.sleep(after_s),
                    second=partial(self._start_second, attempt, after_s),
                    lost=self._lost,
                )
                self._plan_first(attempt.candidate)
            if not isinstance(beginning, ProviderError):
                return attempt, beginning
            self.failed(attempt, beginning)

    async def aclose(self) -> None:
        """End what is under way now."""
        for attempt in tuple(self._open):
            await attempt.aclose()

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
            if not self._may_be_next(scored):
                self._plan.popleft()
                continue
            try:
                return await self._start(scored)
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
            tried = {made[:3] for made in self._made.values()}
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
        """Count what a settled attempt took; once."""
        self._open.remove(attempt)
        self._made[attempt.spec.position] = attempt.summary()
        record = attempt.record
        if record is not None:
            self._budget.spend(record.cost_nanos, attempt.spec.predicted_usd)
            self._cost_status = max(self._cost_status, record.cost_status, key=_COST_STATUSES.index)
            if record.ttft_ms is not None:
                self._learn_first_content(record, record.ttft_ms)

    # -- a second attempt beside a slow one ------------------------------------------------------

    def _hedge_after_s(self, attempt: Attempt) -> float | None:
        """How long the attempt may take until its first content before a second one is started."""
        quantile = self._hedge
        if quantile is None or self._last_resort:
            return None
        task = normalize_task(self._context.task_type or "")
        return self._executor.first_content_times.quantile_s(task, attempt.candidate.label, quantile)

    async def _start_second(self, first: Attempt, after_s: float) -> Attempt | None:
        """Start the next candidate beside one that is slow; ``None`` when none may be."""
        in_flight = first.spec.predicted_usd or 0.0
        slow = first.candidate
        others = sorted(
            tuple(self._plan)[1:], key=lambda s: (s.provider == slow.provider) + (s[:2] == slow[:2])
        )
        for scored in others:  # what shares least with the slow one comes first
            candidate, cost = _candidate(scored), scored.predicted_cost_usd
            if not self._budget.affords(None if cost is None else cost + in_flight):
                continue
            if self._budget.attempts_left < 1 or self._runner.domains.refusal(candidate) is not None:
                continue
            if not self._executor.bucket(first.candidate.provider).take():  # whose slowness causes the load
                return None
            try:
                second = await self._start(scored)
            except (CircuitOpenError, ProviderError, BudgetExhaustedError):
                return None
            self._say(f"{first.candidate.label}: nothing after {after_s:.2f} s; {candidate.label} beside it")
            return second
        return None

    def _lost(self, attempt: Attempt, error: ProviderError | None) -> None:
        """Count an attempt that another one beside it made needless, or that failed beside another."""
        self.finished(attempt)
        if error is None:
            usual_s = self._hedge_after_s(attempt)
            record = attempt.record
            if record is not None and usual_s is not None and record.latency_ms >= usual_s * 1000:
                self._learn_first_content(record, record.latency_ms)
            return
        self._errors.append(error)
        if error.error_class is ErrorClass.THROTTLED:
            self._throttled.add(attempt.candidate)
        self._plan = deque(scored for scored in self._plan if _candidate(scored) != attempt.candidate)
        self._say(_named(attempt.candidate, error))

    def _learn_first_content(self, record: LLMCallRecord, ms: float) -> None:
        label = f"{record.provider}/{record.model_id}"
        self._executor.first_content_times.learn(record.task_type, label, ms)

    def _plan_first(self, candidate: Candidate) -> None:
        """Put the candidate that goes on at the head of the plan, where what is under way stands."""
        self._plan = deque(sorted(self._plan, key=lambda scored: _candidate(scored) != candidate))

    # -- the parts -------------------------------------------------------------------------------

    def _decide(self) -> None:
        executor, required = self._executor, self._context.min_success_rate is not None
        route = self._route = RouteRequest.of(self._request, self._context)
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
            decision = self._decide_of_everyone()
        except NoCandidateError:
            raise nothing from None
        refusals = [self._runner.domains.refusal(candidate) for candidate in decision.candidates]
        if all(refusal is None for refusal in refusals):
            raise nothing
        self._last_resort = True
        decision.notes += ("nothing is available; a last resort before its time",)
        return decision

    async def _start(self, scored: ScoredCandidate) -> Attempt:
        candidate, position = _candidate(scored), self._budget.attempts
        limits = self._budget.start_attempt(self._clock.monotonic(), scored.tier)
        chosen = not position and self._decision is not None and candidate == self._decision.candidate
        spec = AttemptSpec(
            self._id, self._id, position, self._context, chosen, predicted_usd=scored.predicted_cost_usd
        )
        model = self._models[candidate.label]
        try:
            attempt = self._runner.start(
                candidate,
                model,
                self._request,
                limits,
                spec,
                reservation=await self._runner.reserve(model, self._request, limits),
                last_resort=self._last_resort,
            )
        except AttuneError:
            self._budget.attempts -= 1  # a refused permit is not an attempt
            raise
        self._open.append(attempt)
        return attempt

    def _put_last(self, failed: Candidate, error: ProviderError) -> None:
        """Move the candidates that share what the failure is blamed on behind those that do not."""
        match error.error_class:
            case ErrorClass.CONNECTION:
                blamed: tuple[object, ...] = (failed.provider,)
            case ErrorClass.TRANSIENT | ErrorClass.MID_STREAM:
                blamed = (failed.provider, failed.model_id)
            case _:
                return
        self._blamed.add(blamed)
        self._plan = deque(sorted(self._plan, key=lambda scored: scored[: len(blamed)] == blamed))

    def _may_be_next(self, scored: ScoredCandidate) -> bool:
        """Whether the retry bucket allows it: another key or model behind the same failure repeats it."""
        again = scored[:1] in self._blamed or scored[:2] in self._blamed
        return not again or self._executor.bucket(scored.provider).take()

    async def _wait(self) -> None:
        pause, self._pause = self._pause, 0.0
        if pause > 0:
            await self._clock.sleep(pause)

    def _may_repeat(self, candidate: Candidate, error: ProviderError, done: int, pause: float) -> bool:
        executor = self._executor
        if not executor.retry.repeats(error, done) or self._budget.attempts_left < 1:
            return False
        refusal = self._runner.domains.refusal(candidate)
        if refusal is not None and refusal.retry_at > self._clock.monotonic() + pause:
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
        tried = {made[:3] for made in self._made.values()} - self._throttled
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

    def _decide_of_everyone(self) -> RouteDecision:
        """The decision if all were available, and without a minimum success rate that nobody asked for."""
        asked = self._context.min_success_rate is not None
        route = self._route if asked else self._route.without_success_floor()
        return self._executor.router.decide(route, heed_availability=False)

    def _everyone(self) -> tuple[ScoredCandidate, ...]:
        """Every candidate that fits, also those that were not available when the call was decided."""
        try:
            decision = self._decide_of_everyone()
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
        response = response_of(attempt)
        waited_ms = (attempt.started - self._started) * 1000
        return replace(
            response,
            cost_nanos=None if self._cost_status is CostStatus.UNKNOWN else self._budget.spent_nanos,
            cost_status=self._cost_status,
            latency_ms=(self._clock.monotonic() - self._started) * 1000,
            ttft_ms=None if response.ttft_ms is None else waited_ms + response.ttft_ms,
            attempts=tuple(self._made[position] for position in sorted(self._made)),
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
