"""One call under way: its plan, its budget, and the choice of its next step.

The next step is the same candidate again, the next one, a second one beside it, or to wait for the first
that may be tried.
"""

from __future__ import annotations

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
)
from attune.models.budget import CallBudget
from attune.models.call_errors import all_failed, billed_beside, named, too_dear
from attune.models.empathy_executor import response_of
from attune.models.hedging import parse_hedge
from attune.models.judge import Judge
from attune.models.plan import Plan, candidate_of
from attune.models.race import first_events, race
from attune.models.route_decision import unmade_decision
from attune.models.starting import AttemptStarter
from attune.models.tasks import normalize_task
from attune.models.telemetry import CostStatus, Decided

if TYPE_CHECKING:
    from attune.models.attempt import Attempt
    from attune.models.candidate import Candidate
    from attune.models.executor import AttemptSummary, LLMResponse, StreamEvent
    from attune.models.request import ExecutionContext, LLMRequest
    from attune.models.resilient_executor import ResilientExecutor
    from attune.models.route_decision import RouteDecision
    from attune.models.spending import Cap
    from attune.models.telemetry import DecisionRecord, ScoredCandidate
    from attune.models.validation import Validate

__all__ = ["Call"]

_TELL_THE_USER = frozenset({ErrorClass.CALLER, ErrorClass.REFUSAL})
_COST_STATUSES = tuple(CostStatus)


class Call:
    """One call under way: its plan, its budget, and what has happened so far."""

    def __init__(
        self,
        executor: ResilientExecutor,
        request: LLMRequest,
        context: ExecutionContext,
        cap: Cap | None = None,
        validate: Validate | None = None,
    ) -> None:
        self._executor = executor
        self._runner = executor.runner
        self._clock = executor.runner.clock
        self._request = request
        self._context = context
        self._id = executor.runner.new_id()
        self._plan = Plan(executor, request, context)
        self._budget = CallBudget(
            executor.limits,
            now=self._clock.monotonic(),
            deadline_s=context.deadline_s,
            budget_usd=context.budget_usd,
        )
        self._starter = AttemptStarter(self._runner, self._budget, request, context, cap, self._id)
        self._errors: list[AttuneError] = []
        self._made: dict[int, AttemptSummary] = {}
        self._open: list[Attempt] = []
        self._repeats: dict[Candidate, int] = {}
        self._pause = 0.0
        self._cost_status = CostStatus.EXACT
        self._started = self._clock.monotonic()
        self._hedge = executor.hedge if context.hedge is None else parse_hedge(context.hedge)
        self._judge = Judge(validate, executor.record_outcome, self._clock)

    @property
    def decision(self) -> RouteDecision | None:
        """What was decided, once it was."""
        return self._plan.decision

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
                    timer=partial(self._clock.sleep, after_s),
                    second=partial(self._start_second, attempt, after_s),
                    lost=self._lost,
                )
                self._plan.put_first(attempt.candidate)
            if not isinstance(beginning, ProviderError):
                return attempt, beginning
            self.failed(attempt, beginning)

    async def aclose(self) -> None:
        """End what is under way now."""
        for attempt in tuple(self._open):
            await attempt.aclose()
        self._executor.router.over(self._id)

    # -- choosing the next step ------------------------------------------------------------------

    async def next_attempt(self) -> Attempt:
        """The next attempt, after the pause that comes before it. Raises when nothing is left."""
        if self._plan.decision is None:
            self._decide()
        while True:
            pause, self._pause = self._pause, 0.0
            if pause > 0:
                await self._clock.sleep(pause)
            scored = self._plan.head
            if scored is None:
                self._plan_the_soonest()
                continue
            candidate = candidate_of(scored)
            if not self._budget.affords(scored.predicted_cost_usd):
                self._plan.drop(candidate)
                self._errors.append(too_dear(candidate, scored, self._context.budget_usd))
                continue
            if not self._may_be_next(scored):
                self._plan.drop(candidate)
                continue
            try:
                return await self._start(scored)
            except (CircuitOpenError, ProviderError) as refusal:
                self._plan.drop(candidate, refusal)
                if str(refusal) not in map(str, self._errors):  # such as of a credential of several models
                    self._say(f"{named(candidate, refusal)}{self._plan.overflow_label(refusal)}")
                self._errors.append(refusal)
            except BudgetExhaustedError as exhausted:
                if exhausted.limit in {"deadline", "attempts"}:
                    if not self._errors:
                        raise
                    raise self._all_failed(str(exhausted)) from exhausted
                self._plan.drop_for_dollars(scored, exhausted)
                self._errors.append(exhausted)
                self._say(named(candidate, exhausted))

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
            self._plan.keep_larger(attempt.model.context_window, self._tried())
            self._say(f"{named(candidate, error)}; next a model with a larger window")
            return
        done = self._repeats.get(candidate, 0)
        pause = executor.retry.pause(error, done, executor.rng)
        if self._may_repeat(candidate, error, done, pause):
            self._repeats[candidate] = done + 1
            self._pause = pause
            self._say(f"{named(candidate, error)}; again in {self._pause:.2f} s")
        else:
            self._plan.drop(candidate, error)
            self._plan.put_last(candidate, error)
            following = self._plan.head if self._budget.attempts_left else None
            following_label = "" if following is None else f"; next {candidate_of(following).label}"
            self._say(f"{named(candidate, error)}{self._plan.overflow_label(error)}{following_label}")

    def answered(self, attempt: Attempt) -> bool:
        """Whether a complete answer is the call's: not when it ran into its model's window and a
        larger one is left.
        """
        error = attempt.error
        if (
            error is not None
            and error.error_class is ErrorClass.CONTEXT
            and self._budget.attempts_left
            and self._plan.has_larger(attempt.model.context_window)
        ):
            self.failed(attempt, error)
            return False
        self.finished(attempt)
        return True

    def finished(self, attempt: Attempt) -> None:
        """Count what a settled attempt took; once."""
        self._open.remove(attempt)
        self._made[attempt.spec.position] = attempt.summary()
        if attempt.billed_beside is not None:
            self._say(billed_beside(attempt.candidate, self._runner.domains.refusal(attempt.candidate)))
        record = attempt.record
        if record is not None:
            self._budget.spend(record.cost_nanos, attempt.spec.held_nanos)
            self._cost_status = max(self._cost_status, record.cost_status, key=_COST_STATUSES.index)
            if record.ttft_ms is not None:
                self._executor.first_content_times.learn_attempt(record, record.ttft_ms)

    # -- what the answers are worth ---------------------------------------------------------------

    async def judge(self, attempt: Attempt) -> None:
        """Let the call's validator, if there is one, judge the answer of a finished attempt."""
        decided = Decided() if self.decision is None else self.decision.decided
        within_s = self._budget.remaining_s(self._clock.monotonic())
        error = await self._judge.hear(attempt, within_s, decided)
        if error:
            self._say(f"{attempt.candidate.label}: {error}; its answer has no verdict")

    def climb(self, attempt: Attempt) -> bool:
        """After an answer that failed its validation, plan the tiers above; whether there is a next step."""
        verdict = self._judge.verdict_of(attempt)
        if verdict is None or verdict.success:
            return False
        failed = f"{attempt.candidate.label}: its answer failed the validation"
        failed += f" ({verdict.reason})" if verdict.reason else ""
        if not self._budget.attempts_left:
            self._say(f"{failed}; all {self._budget.attempts} attempts are used")
        elif not self._plan.climb(attempt.model.tier, self._tried()):
            self._say(f"{failed}; there is no candidate of a higher tier")
        else:
            self._say(f"{failed}; next a higher tier")
            return True
        return False

    def climbed_in_vain(self, error: AttuneError) -> None:
        """Say why no higher tier answered: the call has an answer, and does not fail for it."""
        self._say(f"no higher tier answered: {error}")

    def is_better(self, later: Attempt, earlier: Attempt) -> bool:
        """Whether the answer to give is the later one."""
        return self._judge.worth(later) >= self._judge.worth(earlier)

    # -- a second attempt beside a slow one ------------------------------------------------------

    def _hedge_after_s(self, attempt: Attempt) -> float | None:
        """How long the attempt may take until its first content before a second one is started."""
        quantile = self._hedge
        if quantile is None or self._plan.last_resort:
            return None
        task = normalize_task(self._context.task_type or "")
        return self._executor.first_content_times.quantile_s(task, attempt.candidate.label, quantile)

    async def _start_second(self, first: Attempt, after_s: float) -> Attempt | None:
        """Start the next candidate beside one that is slow; ``None`` when none may be."""
        for scored in self._plan.beside(first.candidate):
            candidate = candidate_of(scored)
            if not self._budget.affords(scored.predicted_cost_usd):
                continue
            if self._budget.attempts_left < 1 or self._runner.domains.refusal(candidate) is not None:
                continue
            if not self._executor.bucket(first.candidate.provider).take():  # whose slowness causes the load
                return None
            try:
                second = await self._start(scored)
            except AttuneError:
                return None  # the first one goes on, whatever stands in the way of the second
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
                self._executor.first_content_times.learn_attempt(record, record.latency_ms)
            return
        self._errors.append(error)
        self._plan.drop(attempt.candidate, error)
        if error.error_class is ErrorClass.CONTEXT:
            self._plan.keep_larger(attempt.model.context_window, self._tried())
        else:
            self._plan.put_last(attempt.candidate, error)
        self._say(f"{named(attempt.candidate, error)}{self._plan.overflow_label(error)}")

    # -- the parts -------------------------------------------------------------------------------

    def _decide(self) -> RouteDecision:
        try:
            decision = self._plan.decide()
        except NoCandidateError as nothing:
            self._record(unmade_decision(self._plan.route, nothing, self._id, self._clock.time()))
            raise
        self._executor.bucket(decision.candidate.provider).credit()
        self._record(decision.record(decision_id=self._id, call_id=self._id, at=self._clock.time()))
        self._executor.router.begun(decision, self._id, self._clock.time())
        return decision

    def _record(self, decision: DecisionRecord) -> None:
        if self._executor.record_decision is not None:
            self._executor.record_decision(decision)

    def _may_be_next(self, scored: ScoredCandidate) -> bool:
        """Whether the retry bucket allows it: another key or model behind the same failure repeats it."""
        return not self._plan.repeats_failure(scored) or self._executor.bucket(scored.provider).take()

    def _may_repeat(self, candidate: Candidate, error: ProviderError, done: int, pause: float) -> bool:
        executor = self._executor
        if not executor.retry.repeats(error, done) or self._budget.attempts_left < 1:
            return False
        refusal, now = self._runner.domains.refusal(candidate), self._clock.monotonic()
        if (refusal is not None and refusal.retry_at > now + pause) or pause >= self._budget.remaining_s(now):
            return False
        if (error.retry_after or 0.0) > executor.retry.cap_s and self._plan.after_head:
            return False
        return executor.bucket(candidate.provider).take()

    def _plan_the_soonest(self) -> None:
        """With the plan at its end: go on with what the decision had left out for its success rate, else
        wait for the first candidate that rests, if its rest ends in time (or has ended meanwhile), or raise
        ``AllProvidersFailedError``.
        """
        if self._budget.attempts_left < 1:
            raise self._all_failed(f"all {self._budget.attempts} attempts are used")
        if self._plan.climbing:  # there is an answer already: none is waited for
            raise self._all_failed("no candidate of a higher tier is left")
        if exhausted := self._plan.out_of_dollars(self._errors, len(self._made)):
            raise exhausted
        if self._plan.add_left_out():
            return
        soonest = self._plan.soonest_resting(self._tried())
        if soonest is None or soonest[0] >= self._budget.deadline:
            if unpaid := self._plan.unpaid_error(self._errors):
                raise unpaid
            late = "every candidate is throttled beyond the call's deadline"
            raise self._all_failed("no candidate is left" if soonest is None else late)
        retry_at, scored = soonest
        self._count_repeat(candidate_of(scored))
        self._pause = self._plan.add(scored, retry_at)
        what = "used up" if self._plan.is_used_up(scored) else "throttled"
        self._say(f"{candidate_of(scored).label} is {what}; waiting {self._pause:.1f} s")

    def _count_repeat(self, candidate: Candidate) -> None:
        """Take a retry token for a candidate that this very call has tried. Raises without one."""
        if candidate not in self._tried():
            return
        if not self._executor.bucket(candidate.provider).take():
            raise self._all_failed(f"{candidate.provider} has been asked again too often lately")

    def _tried(self) -> set[tuple[str, str, str]]:
        return {made[:3] for made in self._made.values()}

    async def _start(self, scored: ScoredCandidate) -> Attempt:
        decided = None if self.decision is None else self.decision.candidate
        attempt = await self._starter.start(
            scored,
            self._plan.model_of(scored),
            decided,
            last_resort=self._plan.last_resort,
            overflows=self._plan.overflows,
        )
        self._open.append(attempt)
        return attempt

    def _all_failed(self, why: str) -> AllProvidersFailedError:
        wait_s = self._plan.soonest_s()
        return all_failed(why, self._errors, len(self._made), now=self._clock.time(), wait_s=wait_s)

    def _say(self, line: str) -> None:
        if self._executor.on_step is not None:
            self._executor.on_step(line)

    async def response(self, attempt: Attempt) -> LLMResponse:
        """The response of the whole call: the answer of one attempt, the cost of all."""
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
            decision=self.decision,
            verdict=self._judge.verdict_of(attempt),
            validator_error=self._judge.error_of(attempt),
        )
