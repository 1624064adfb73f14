"""The executor that carries a call through failures: routed, repeated, and passed on.

One loop under one ``CallBudget`` chooses the next step: the same candidate again, the next one, a second
one beside it, or to wait for the first that may be tried again. Repeats, fallbacks and hedges are its
choices, never nested.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from attune.errors import AttuneError, InvalidRequestError, NoCandidateError, ProviderError
from attune.models.budget import CallLimits, RetryBucket
from attune.models.call import Call
from attune.models.call_stream import CallStream
from attune.models.fallback import FallbackPolicy
from attune.models.hedging import FirstContentTimes, parse_hedge
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.models.route_request import DEFAULT_MIN_SUCCESS_RATE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from attune.models.adaptive_routing import AdaptiveModelRouter
    from attune.models.attempt import Attempt
    from attune.models.attempt_runner import AttemptRunner
    from attune.models.executor import LLMResponse, StreamEvent
    from attune.models.request import LLMRequest
    from attune.models.route_decision import RouteDecision
    from attune.models.route_request import RouteRequest
    from attune.models.spending import Cap
    from attune.models.telemetry import Decided, DecisionRecord, LLMCallRecord, Outcome
    from attune.models.validation import Validate

__all__ = ["ResilientExecutor"]


class ResilientExecutor:
    """Routes a call, makes attempts until one answers, and records the decision.

    ``router`` decides, ``runner`` makes the attempts. ``fallback`` orders the candidates after the
    chosen one, ``retry`` says when one is repeated, ``limits`` and ``min_success_rate`` (0..1) hold where a
    call's context sets none.
    ``record_decision`` is called with every decision's record, ``record_outcome`` with every verdict of a
    validator (the attempt's record, the outcome, what decided the call); ``durable`` is awaited before
    the end of an answer is released, when it must not be released before its record is safe; ``on_step``
    is called with a line for people whenever an attempt fails or the executor waits. ``rng`` draws the
    pauses. ``hedge`` of "p95" starts a second candidate beside an attempt that has given no content within
    the time in which 95 % of the attempts at that model and task do; "off" by default.
    """

    def __init__(
        self,
        router: AdaptiveModelRouter,
        runner: AttemptRunner,
        *,
        fallback: FallbackPolicy = FallbackPolicy(),  # noqa: B008  (an immutable value)
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  (an immutable value)
        limits: CallLimits = CallLimits(),  # noqa: B008  (an immutable value)
        record_decision: Callable[[DecisionRecord], None] | None = None,
        record_outcome: Callable[[LLMCallRecord, Outcome, Decided], None] | None = None,
        durable: Callable[[], Awaitable[None]] | None = None,
        on_step: Callable[[str], None] | None = None,
        rng: Random | None = None,
        hedge: str = "off",
        min_success_rate: float = DEFAULT_MIN_SUCCESS_RATE,
    ) -> None:
        self.router = router
        self.runner = runner
        self.fallback = fallback
        self.retry = retry
        self.limits = limits
        self.record_decision = record_decision
        self.record_outcome = record_outcome
        self.durable = durable
        self.on_step = on_step
        self.rng = Random() if rng is None else rng  # noqa: S311  (pauses, not secrets)
        self.hedge = parse_hedge(hedge)
        self.min_success_rate = min_success_rate
        self.first_content_times = FirstContentTimes()
        self._buckets: dict[str, RetryBucket] = {}

    async def run(
        self,
        request: LLMRequest,
        context: ExecutionContext | None = None,
        *,
        cap: Cap | None = None,
        events: list[StreamEvent] | None = None,
        validate: Validate | None = None,
        escalate: bool = False,
    ) -> LLMResponse:
        """Answer the request; nothing of a failed attempt is ever part of the answer.

        ``validate`` judges the answer (see ``Validator``); the response has its verdict, and the router
        learns from it. With ``escalate`` an answer that failed is asked for again in the tiers above, the
        next one first, with what is left of the call's time, attempts and dollars. When none of them passes,
        or none can answer, the best answer is given all the same: that of the highest score, of equals the
        last.

        ``cap`` holds the dollars of this call, beside the runner's spend cap. ``events`` is given the events
        of the answer, as the provider sent them.

        The answer is streamed from the provider all the same, so that one that hangs is told from one that
        is long.

        Raises ``NoCandidateError`` when nothing fits, ``CallerError`` unchanged when the request is at
        fault, and ``AllProvidersFailedError`` with every attempt when no candidate could answer.
        """
        if escalate and validate is None:
            raise InvalidRequestError("escalate needs a validate, which says when an answer will not do")
        context = ExecutionContext() if context is None else context
        call = Call(self, request.streaming(), context, cap, validate)
        keeps = events is not None
        try:
            attempt, came = await _answer(call, keeps=keeps)
            if escalate:
                attempt, came = await _climb(call, attempt, came, keeps=keeps)
            if events is not None:
                events += came
            return await call.response(attempt)
        except AttuneError as error:
            error.call_id = call.id
            raise
        finally:
            await call.aclose()

    def stream(
        self,
        request: LLMRequest,
        context: ExecutionContext | None = None,
        *,
        ping_s: float | None = None,
        cap: Cap | None = None,
        validate: Validate | None = None,
    ) -> CallStream:
        """Answer the request as events; use it as ``async with ... as events: async for event in events``.

        Until the first content an attempt that fails is replaced; after it, its failure is raised. With
        ``ping_s`` an empty ``ping`` event comes whenever so many seconds have passed before it, so that
        whoever passes the stream on can say that it lives. ``validate`` judges the answer when it is
        complete, before the terminal event is given; what was given cannot be taken back, so nothing is asked
        again.
        """
        context = ExecutionContext() if context is None else context
        return CallStream(Call(self, request.streaming(), context, cap, validate), ping_s=ping_s)

    def decide(self, route: RouteRequest, *, required_success: bool) -> RouteDecision:
        """The router's decision. A minimum success rate that the caller did not ask for is a
        preference: when nothing reaches it, the best of the rest is chosen and the decision says so. A
        policy that weighs what answers are worth by itself has no use for it.
        """
        if not required_success and self.router.steering.weighs(route):
            route = route.without_success_floor()
        try:
            return self.router.decide(route)
        except NoCandidateError:
            if required_success or not route.min_success_rate:
                raise
            decision = self.router.decide(route.without_success_floor())
            decision.notes += (f"no candidate reaches a success rate of {route.min_success_rate:.0%}",)
            return decision

    def bucket(self, provider: str) -> RetryBucket:
        """The retry bucket of a provider."""
        return self._buckets.setdefault(provider, RetryBucket())


async def _answer(call: Call, *, keeps: bool) -> tuple[Attempt, list[StreamEvent]]:
    """The attempt of the next complete answer, judged, and its events, as far as they are to be kept.

    Attempts that fail before it are replaced; raises when nothing is left.
    """
    while True:
        attempt, came = await call.begin()
        try:
            async for event in attempt:
                if keeps:
                    came.append(event)
        except ProviderError as error:
            call.failed(attempt, error)
        else:
            if call.answered(attempt):
                await call.judge(attempt)
                return attempt, came


async def _climb(
    call: Call, best: Attempt, best_came: list[StreamEvent], *, keeps: bool
) -> tuple[Attempt, list[StreamEvent]]:
    """The best answer of the tiers from that of ``best`` up to the first one that passes."""
    latest = best
    while call.climb(latest):
        try:
            latest, came = await _answer(call, keeps=keeps)
        except AttuneError as error:
            call.climbed_in_vain(error)
            break
        if call.is_better(latest, best):
            best, best_came = latest, came
    return best, best_came
