"""One attempt at one candidate: permits, time limits, and the settling of everything it took.

An ``Attempt`` is the stream of its provider's events. However it ends (terminal event, failure,
time-out, cancellation, ``aclose``), it settles exactly once and without awaiting anything: the
permits of its failure domains, its reservation of the spend cap, and its record.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import (
    ConnectionFailedError,
    ContextTooLongError,
    ErrorClass,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    TransientError,
    WindowSpentError,
)
from attune.models.eager import Eager
from attune.models.executor import AttemptSummary, BilledBeside, EventKind, Working
from attune.models.folding import Fold
from attune.models.interruption import TimeLimit
from attune.models.prices import cost_nanos
from attune.models.tasks import normalize_task
from attune.models.telemetry import TIMED_OUT, CostStatus, LLMCallRecord, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.clock import Clock
    from attune.models.candidate import Candidate
    from attune.models.executor import AttemptBudget, Provider, ProviderStream, StreamEvent
    from attune.models.failure_domains import AttemptPermit
    from attune.models.registry import ModelInfo
    from attune.models.request import ExecutionContext, LLMRequest
    from attune.models.spending import Held

__all__ = ["Attempt", "AttemptSpec"]

INCREDIBLE = 10
"""A usage of more than so many context windows, or estimates of its prompt, is a defect and not believed."""


class AttemptSpec(NamedTuple):
    """What an attempt is part of: the ids, the place in the call, what the call is for, whether it is at what
    the decision chose, and the nano-dollars of the call's budget that are held for it.
    """

    call_id: str
    decision_id: str
    position: int
    context: ExecutionContext
    chosen_by_policy: bool = True
    held_nanos: int = 0


class _Limit(NamedTuple):
    """What is waited for, the seconds that it may take in all, and those that are left of them."""

    waited_for: str
    seconds: float
    left_s: float


class Attempt:
    """The events of one attempt; settles itself when it ends, however it ends.

    ``error`` is why it failed, ``record`` what was recorded, once it has ended; ``fold`` what came;
    ``started`` when it began, on the monotonic clock; ``billed_beside`` that credits paid beside its plan.
    """

    def __init__(
        self,
        clock: Clock,
        settled: Callable[[LLMCallRecord], None],
        provider: Provider,
        candidate: Candidate,
        model: ModelInfo,
        request: LLMRequest,
        budget: AttemptBudget,
        spec: AttemptSpec,
        permit: AttemptPermit,
        reservation: Held | None,
    ) -> None:
        self._clock = clock
        self._settled = settled
        self._provider = provider
        self._request = request
        self._budget = budget
        self.spec = spec
        self._permit = permit
        self._reservation = reservation
        self._stream: ProviderStream | None = None
        self.started = clock.monotonic()
        self._started_at = clock.time()
        self._waited_s = 0.0
        self._at_work_s = 0.0
        self._waiting = TimeLimit()
        self._sent = False
        self._answered = False
        self._first_content_ms: float | None = None
        self.candidate = candidate
        self.model = model
        self.fold = Fold(candidate.provider)
        self.billed_beside: BilledBeside | None = None
        self.error: ProviderError | None = None
        self.record: LLMCallRecord | None = None

    def __aiter__(self) -> Attempt:
        return self

    async def __anext__(self) -> StreamEvent:
        if self.record is not None:
            raise StopAsyncIteration
        try:
            event = await self._next()
        except ProviderError as error:
            failure = self._after_content(error)
            await self._end(failure)
            if failure is error:
                raise
            raise failure from error
        except BaseException as reason:
            await self._end(None, reason)
            raise
        self.fold.add(event)
        if event.kind is EventKind.CONTENT and self._first_content_ms is None:
            self._first_content_ms = self._elapsed_ms()
        elif event.kind is EventKind.TERMINAL:
            await self._end(self._terminal_error())
        elif isinstance(event.parsed, Working):
            self._at_work_s = self._waited_s
        elif isinstance(event.parsed, BilledBeside):
            self._turn_off(event.parsed)
        return event

    def take(self) -> StreamEvent | None:
        """The next event if it has come already, and is neither the first content nor the end."""
        event = None if self._first_content_ms is None else self._come_already()
        if event is not None:
            self.fold.add(event)
        return event

    async def aclose(self) -> None:
        """End it now: closes the upstream connection, settles as cancelled unless it has ended."""
        await self._end(None)

    def __del__(self) -> None:
        if self.record is None:  # dropped between two events, without ``aclose``
            self._settle(None, None)

    def summary(self) -> AttemptSummary:
        """This attempt for a response; only after it has ended."""
        record = self.record
        return AttemptSummary(
            *self.candidate,
            error_class="" if record is None else record.error_class,
            message="" if self.error is None else str(self.error),
            latency_ms=0.0 if record is None else record.latency_ms,
        )

    # -- the stream ------------------------------------------------------------------------------

    def _turn_off(self, billed: BilledBeside) -> None:
        """Let nobody ask the plan again before its reset: each answer would be billed."""
        self.billed_beside = billed
        message = "credits were billed beside the plan"
        self._permit.blame(
            WindowSpentError(message, code=billed.window or None, retry_after=billed.resets_in_s)
        )

    def _come_already(self) -> StreamEvent | None:
        """The next event if it came together with the last one; neither the end nor an error."""
        take: Callable[[], StreamEvent | None] | None = getattr(self._stream, "take", None)
        return None if take is None else take()

    async def _next(self) -> StreamEvent:
        if (event := self._come_already()) is not None:  # nothing to wait for
            return event
        began = self._clock.monotonic()
        try:
            step = Eager(self._step())
            if step.done:  # such as the end that came together with the event before it
                return step.result
            with self._waiting.within(self._limit().left_s):
                return await step
        except TimeoutError:
            raise self._late(self._limit()) from None
        except StopAsyncIteration:
            raise self._failure(StreamBrokenError, "the answer ended before its terminal event") from None
        finally:
            self._waited_s += self._clock.monotonic() - began

    async def _step(self) -> StreamEvent:
        if self._stream is None:
            self._sent = True
            try:
                self._stream = await self._provider.open(self._request, self.model, self._budget)
            except asyncio.CancelledError as stopped:  # by the caller, or by a time limit
                self._sent = getattr(stopped, "sent", True)
                raise
            self._answered = True
        return await self._stream.__anext__()

    def _limit(self) -> _Limit:
        """The limit that ends next. Only waiting counts: a reader may take its time between two events."""
        budget = self._budget
        total_left = budget.total_s - self._waited_s
        if not self._request.stream:
            return _Limit("its answer", budget.total_s, total_left)  # which comes all at once
        if self._first_content_ms is None:
            left = budget.first_content_s - (self._waited_s - self._at_work_s)
            limit = _Limit("its first content", budget.first_content_s, left)
        else:
            limit = _Limit("the next event", budget.idle_s, budget.idle_s)
        return limit if limit.left_s <= total_left else _Limit("its end", budget.total_s, total_left)

    def _late(self, limit: _Limit) -> ProviderError:
        kind = StreamBrokenError if self.fold.began else TransientError
        message = f"{self.candidate} timed out after {limit.seconds:.1f} s waiting for {limit.waited_for}"
        return self._failure(kind, message, TIMED_OUT)

    def _after_content(self, error: ProviderError) -> ProviderError:
        """The error, or what it is once content has come: whatever the provider's reason, a broken answer."""
        if not self.fold.began or error.error_class in _SAME_AFTER_CONTENT:
            return error
        return StreamBrokenError(
            str(error),
            status=error.status,
            code=error.code,
            retry_after=error.retry_after,
            body=error.body,
            provider=error.provider,
            model=error.model,
        )

    def _failure(self, kind: type[ProviderError], message: str, code: str | None = None) -> ProviderError:
        return kind(message, code=code, provider=self.candidate.provider, model=self.candidate.model_id)

    def _terminal_error(self) -> ProviderError | None:
        """The failure that a complete answer reports of itself."""
        terminal = self.fold.terminal
        if terminal is not None and terminal.stop_reason == "refusal":
            return self._failure(RefusalError, "the provider declined to answer")
        if terminal is not None and terminal.stop_reason == "context_window":
            return self._failure(ContextTooLongError, "the answer ran into the model's context window")
        return None

    def _elapsed_ms(self) -> float:
        return (self._clock.monotonic() - self.started) * 1000

    # -- settling --------------------------------------------------------------------------------

    async def _end(self, error: ProviderError | None, reason: BaseException | None = None) -> None:
        try:
            self._settle(error, reason)
        finally:
            stream, self._stream = self._stream, None
            if stream is not None:
                with suppress(ProviderError):
                    await stream.aclose()

    def _settle(self, error: ProviderError | None, reason: BaseException | None) -> None:
        """Give back the permits and write the record: once, and without awaiting anything."""
        if self.record is not None:
            return
        self._waiting.stop()
        complete = self.fold.terminal is not None
        self.error = error
        if complete:
            error_class = "" if error is None else error.error_class.value
            self._permit.success()
        elif error is not None:
            error_class = error.error_class.value
            self._permit.failure(error)
        else:
            bug = isinstance(reason, Exception)
            error_class = (ErrorClass.INTERNAL if bug else ErrorClass.CANCELLED).value
            self._permit.release()
        self.record = self._make_record(error, error_class, complete=complete)
        self._settled(self.record)
        if self._reservation is not None:  # last: should the store fail, the dollars stay reserved
            self._reservation.settle(self.record.cost_nanos)

    def _make_record(self, error: ProviderError | None, error_class: str, *, complete: bool) -> LLMCallRecord:
        spec, context, model = self.spec, self.spec.context, self.model
        usage, cost, status = self._cost(error, complete=complete)
        prices = model.list_prices or model.prices
        terminal = self.fold.terminal
        unfinished = "truncated" if self.fold.began else ""
        return LLMCallRecord(
            call_id=spec.call_id,
            attempt_id=f"{spec.call_id}.{spec.position}",
            decision_id=spec.decision_id,
            at=self._started_at,
            workflow=context.workflow,
            stage=context.stage,
            task_type=normalize_task(context.task_type or ""),
            provider=model.provider,
            model_id=model.id,
            tier=model.recorded_tier,
            credential=self.candidate.credential,
            success=complete and error is None,
            latency_ms=self._waited_s * 1000 if error_class == ErrorClass.CANCELLED else self._elapsed_ms(),
            ttft_ms=self._first_content_ms,
            usage=usage,
            cost_nanos=cost,
            cost_status=status,
            price_version="" if prices is None else prices.version,
            error_class=error_class,
            error_code=("" if error is None else error.code or str(error.status or "")),
            stop_reason=unfinished if terminal is None else terminal.stop_reason,
            position=spec.position,
            chosen_by_policy=spec.chosen_by_policy,
            session_id=context.session_id,
            list_cost_nanos=self._list_cost(usage),
        )

    def _list_cost(self, usage: TokenUsage | None) -> int | None:
        prices = self.model.list_prices
        return None if usage is None or prices is None else cost_nanos(usage, prices, self._started_at)

    def _cost(
        self, error: ProviderError | None, *, complete: bool
    ) -> tuple[TokenUsage | None, int | None, CostStatus]:
        """Tokens and cost: reported, estimated from what came, nothing, or unknown.

        A request that was answered with an error status, or never left as a whole, is not billed.
        One that was cut off without a word of its usage is unknown: it may have been.
        """
        usage, prices = self.fold.usage, self.model.prices
        if usage is not None and not _credible(usage, self.model, self._request):
            usage = None
        reported = usage is not None
        if not self._answered and (not self._sent or (error is not None and _not_billed(error))):
            return None, 0, CostStatus.EXACT
        if not complete and reported and usage is not None:
            if self.fold.usage_is_behind:
                output = max(usage.output_tokens, self.fold.estimated_output_tokens())
                usage = usage._replace(output_tokens=output)
            reported = False
        elif usage is None and (complete or self.fold.began):
            usage = TokenUsage(self._request.estimated_input_tokens(), self.fold.estimated_output_tokens())
        if self.billed_beside is not None:
            return usage, None, CostStatus.UNKNOWN
        if prices is not None and prices.free:
            return usage, 0, CostStatus.EXACT
        if usage is None or prices is None:
            return usage, None, CostStatus.UNKNOWN
        cost = cost_nanos(usage, prices, self._started_at)
        return usage, cost, CostStatus.EXACT if reported else CostStatus.ESTIMATED


def _credible(usage: TokenUsage, model: ModelInfo, request: LLMRequest) -> bool:
    """Whether a reported usage can be: with room for a catalog that is behind, and for many inputs in one."""
    most, longest = -(-max(usage) // INCREDIBLE), max(model.context_window, model.max_output_tokens)
    return min(usage) >= 0 and (most <= longest or most <= request.estimated_input_tokens())


_SAME_AFTER_CONTENT = frozenset(
    {ErrorClass.MID_STREAM, ErrorClass.CONTEXT, ErrorClass.REFUSAL, ErrorClass.CALLER}
)
"""The classes that an error keeps after content: the broken answer, and those that nobody is blamed for."""


def _not_billed(error: ProviderError) -> bool:
    if isinstance(error, ConnectionFailedError):
        return not error.sent
    return error.status is not None
