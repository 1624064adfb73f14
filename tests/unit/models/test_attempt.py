"""One attempt: however it ends, everything it took is settled exactly once."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from attune.clock import SYSTEM_CLOCK
from attune.errors import (
    BudgetExhaustedError,
    CallerError,
    CircuitOpenError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ErrorClass,
    InvalidRequestError,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StoreError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.attempt import AttemptSpec
from attune.models.attempt_runner import LEASE_MARGIN_S, RESERVED_OUTPUT_TOKENS, AttemptRunner
from attune.models.circuit_breaker import CircuitState
from attune.models.executor import AttemptBudget, EventKind, StreamEvent, Terminal, TextDelta, Working
from attune.models.failure_domains import BreakerLimits, FailureDomains
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.spending import Reservation
from attune.models.telemetry import CostStatus, TokenUsage
from attune.testing import FakeClock, FakeProvider, Reply
from support.pipeline import ASK, COST, STREAM, a_model, the_candidate

MODEL = a_model("p/m")
CANDIDATE = the_candidate("p/m")
BUDGET = AttemptBudget(total_s=100.0)
FOREVER = 3600.0


class Cap:
    """A spend cap that remembers what was reserved and how often it was settled with what."""

    def __init__(self, *, refuse=False, broken=False):
        self.reserved = []
        self.settled = []
        self.refuse = refuse
        self.broken = broken

    async def reserve(self, nanos, *, ttl_s):
        if self.refuse:
            raise BudgetExhaustedError("usd_per_day", "no room")
        self.reserved.append((nanos, ttl_s))
        return Reservation(self, ("lease",))

    def settle(self, _lease, nanos):
        if self.broken:
            raise StoreError("disk full")
        self.settled.append(nanos)


def at_once(coroutine):
    """What a coroutine that waits for nothing returns."""
    with pytest.raises(StopIteration) as over:
        coroutine.send(None)
    return over.value.value


class Rig:
    """A runner for one scripted provider whose circuits are half-open, so that every permit shows."""

    def __init__(self, *script, clock=None, cap=None, model=MODEL, half_open=True):
        self.clock = FakeClock() if clock is None else clock
        sleep = self.clock.sleep
        self.provider = FakeProvider("p", script, sleep=sleep)
        self.domains = FailureDomains(BreakerLimits(recovery_timeout_seconds=0.001), clock=self.clock)
        self.records = []
        self.cap = Cap() if cap is None else cap
        self.model = model
        self.runner = AttemptRunner(
            [self.provider],
            domains=self.domains,
            clock=self.clock,
            record=self.records.append,
            spend_cap=self.cap,
            rng=Random(1),
        )
        if half_open:
            for domain in ("p", "p/m"):
                self.domains._breaker(domain)._open(self.clock.monotonic())

    def start(self, request=ASK, budget=BUDGET, context=None, position=0, chosen=True):
        spec = AttemptSpec("call", "decision", position, context or ExecutionContext(), chosen)
        held = at_once(self.runner.reserve(self.model, request, budget))
        return self.runner.start(CANDIDATE, self.model, request, budget, spec, reservation=held)

    @property
    def probes(self):
        return [snapshot.probes for snapshot in self.domains.snapshot()]

    @property
    def states(self):
        return {s.name: s.state for s in self.domains.snapshot()}

    @property
    def record(self):
        """The one record, after a check that everything was given back and settled once."""
        assert len(self.records) == 1
        record = self.records[0]
        assert self.probes == [0, 0]
        assert self.cap.settled == ([] if record.cost_nanos is None else [record.cost_nanos])
        assert self.provider.in_flight == 0
        return record


async def drain(attempt):
    return [event async for event in attempt]


# -- success -----------------------------------------------------------------------------------------


async def test_an_answer_is_the_providers_events_and_settles_everything_once():
    rig = Rig("hello")
    attempt = rig.start()
    assert rig.probes == [1, 1]
    events = await drain(attempt)
    assert [event.kind.value for event in events] == ["meta", "content", "usage", "terminal"]
    for _ in range(3):
        await attempt.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(attempt)
    assert rig.record is attempt.record
    assert set(rig.states.values()) == {CircuitState.CLOSED}
    assert (rig.provider.abandoned, attempt.error) == (0, None)


async def test_the_record_of_an_answer_says_everything():
    clock = FakeClock()
    reply = Reply("hello", usage=TokenUsage(100, 50, 20), head_s=2, first_content_s=1)
    rig = Rig(reply, clock=clock)
    at = clock.time()
    context = ExecutionContext("review", "draft", "Write Tests", session_id="s1")
    await drain(rig.start(context=context))
    record = rig.record
    assert record._asdict() == {
        "call_id": "call",
        "attempt_id": "call.0",
        "decision_id": "decision",
        "at": at,
        "workflow": "review",
        "stage": "draft",
        "task_type": "write_tests",
        "provider": "p",
        "model_id": "m",
        "tier": "capable",
        "credential": "api_key",
        "success": True,
        "latency_ms": pytest.approx(3000),
        "ttft_ms": pytest.approx(3000),
        "usage": TokenUsage(100, 50, 20),
        "cost_nanos": 350_000,
        "cost_status": CostStatus.EXACT,
        "price_version": "user",
        "error_class": "",
        "error_code": "",
        "stop_reason": "stop",
        "position": 0,
        "chosen_by_policy": True,
        "session_id": "s1",
        "list_cost_nanos": None,
    }


async def test_the_time_to_the_first_content_is_not_that_of_the_last():
    rig = Rig(Reply(("a", "b", "c"), first_content_s=1, between_s=10))
    await drain(rig.start(STREAM))
    assert rig.record.ttft_ms == pytest.approx(1000)
    assert rig.record.latency_ms == pytest.approx(21_000)


async def test_a_later_attempt_has_its_place_in_the_call_and_can_be_no_choice_of_the_policy():
    rig = Rig("x")
    await drain(rig.start(position=2, chosen=False))
    assert (rig.record.attempt_id, rig.record.position) == ("call.2", 2)
    assert not rig.record.chosen_by_policy


async def test_the_reservation_is_for_the_whole_prompt_and_the_whole_answer_and_lives_as_long():
    rig = Rig("x", "y", "z")
    await drain(rig.start(LLMRequest.from_prompt("x" * 4000, max_output_tokens=200)))
    await drain(rig.start(LLMRequest.from_prompt("x" * 4000)))
    rig.model = MODEL._replace(max_output_tokens=8000)
    await drain(rig.start(LLMRequest.from_prompt("x" * 4000)))
    prompt, ttl = 1000 * 1000, BUDGET.total_s + LEASE_MARGIN_S
    assert rig.cap.reserved == [
        (prompt + 200 * 5000, ttl),
        (prompt + 4000 * 5000, ttl),
        (prompt + RESERVED_OUTPUT_TOKENS * 5000, ttl),
    ]


async def test_a_summary_is_there_before_and_after_the_end():
    rig = Rig(TransientError("overloaded"), "x")
    attempt = rig.start()
    assert attempt.summary() == ("p", "m", "api_key", "", "", 0.0)
    with pytest.raises(TransientError):
        await drain(attempt)
    assert attempt.summary()[3:5] == ("transient", "overloaded")


# -- cost --------------------------------------------------------------------------------------------


async def test_without_reported_usage_the_cost_is_estimated_from_what_came():
    rig = Rig(Reply("x" * 40, usage=None))
    await drain(rig.start(LLMRequest.from_prompt("y" * 400)))
    assert rig.record.usage == TokenUsage(100, 10)
    assert (rig.record.cost_nanos, rig.record.cost_status) == (150_000, CostStatus.ESTIMATED)


async def test_without_prices_the_cost_is_unknown_and_the_usage_is_kept():
    rig = Rig("x", model=a_model("p/m", prices=None))
    rig.runner._spend_cap = None
    await drain(rig.start())
    assert (rig.record.cost_nanos, rig.record.cost_status) == (None, CostStatus.UNKNOWN)
    assert (rig.record.usage, rig.record.price_version) == (TokenUsage(10, 5), "")
    assert rig.cap.reserved == []


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (TransientError("503", status=503), (0, CostStatus.EXACT)),
        (CallerError("400", status=400), (0, CostStatus.EXACT)),
        (ConnectionFailedError("refused"), (0, CostStatus.EXACT)),
        (TransientError("no answer in time"), (None, CostStatus.UNKNOWN)),
    ],
)
async def test_a_request_that_was_turned_away_costs_nothing_and_one_without_an_answer_is_unknown(error, cost):
    rig = Rig(error)
    with pytest.raises(ProviderError):
        await drain(rig.start())
    assert (rig.record.cost_nanos, rig.record.cost_status) == cost
    assert rig.record.usage is None


class Connecting(FakeProvider):
    """One that never answers, and says whether the request had left when it was stopped."""

    sent: bool | None = None

    async def open(self, request, model, budget):
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError as stopped:
            if self.sent is not None:
                stopped.sent = self.sent
            raise


@pytest.mark.parametrize("end", ["cancelled", "transient"])
@pytest.mark.parametrize(
    ("sent", "cost"),
    [(False, (0, CostStatus.EXACT)), (True, (None, CostStatus.UNKNOWN)), (None, (None, CostStatus.UNKNOWN))],
)
async def test_what_was_stopped_before_it_left_costs_nothing_and_gives_its_dollars_back(end, sent, cost):
    rig = Rig(clock=SYSTEM_CLOCK)
    rig.provider = Connecting("p")
    rig.provider.sent = sent
    rig.runner._providers = {("p", "api_key"): rig.provider}
    attempt = rig.start(STREAM, AttemptBudget(first_content_s=0.02 if end == "transient" else 60.0))
    task = asyncio.create_task(drain(attempt))
    await asyncio.sleep(0)
    if end == "cancelled":
        task.cancel()
    with pytest.raises((asyncio.CancelledError, TransientError)):
        await task
    assert (rig.record.error_class, rig.record.cost_nanos, rig.record.cost_status) == (end, *cost)


@pytest.mark.parametrize(
    ("reply", "usage", "cost"),
    [
        (Reply("", usage=None), None, (None, CostStatus.UNKNOWN)),
        (Reply(("x" * 40,), usage=None), TokenUsage(1, 10), (51_000, CostStatus.ESTIMATED)),
    ],
)
async def test_what_was_cut_off_is_estimated_from_its_content_and_unknown_without_any(reply, usage, cost):
    cut = StreamBrokenError("cut", status=529)
    after = len(reply.text)
    rig = Rig(reply._replace(error=cut, error_after=after))
    with pytest.raises(StreamBrokenError):
        await drain(rig.start())
    assert rig.record.usage == usage
    assert (rig.record.cost_nanos, rig.record.cost_status) == cost


class Scripted:
    """A provider that answers with one given stream."""

    name, credential = "p", "api_key"

    def __init__(self, *steps):
        self.steps = list(steps)
        self.closed = 0
        self.in_flight = 0

    async def open(self, request, model, budget):
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.steps:
            raise StopAsyncIteration
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    async def aclose(self):
        self.closed += 1


def scripted(*steps, **options):
    rig = Rig(**options)
    rig.provider = Scripted(*steps)
    rig.runner._providers = {("p", "api_key"): rig.provider}
    return rig


TEXT = StreamEvent(EventKind.CONTENT, b"", TextDelta("x" * 40))
USAGE = StreamEvent(EventKind.USAGE, b"", TokenUsage(100, 1))


async def test_usage_reported_at_the_start_is_completed_with_what_came_before_the_cut():
    rig = scripted(USAGE, TEXT, StreamBrokenError("cut"))
    with pytest.raises(StreamBrokenError):
        await drain(rig.start())
    assert rig.record.usage == TokenUsage(100, 10)
    assert (rig.record.cost_nanos, rig.record.cost_status) == (150_000, CostStatus.ESTIMATED)


# -- failure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        TransientError("overloaded", status=529, code="overloaded_error"),
        ThrottledError("429", status=429),
        CredentialError("401"),
        ContextTooLongError("long", code="context_length_exceeded"),
    ],
)
async def test_a_failure_before_the_head_is_recorded_with_its_class_and_code(error):
    rig = Rig(error)
    attempt = rig.start()
    with pytest.raises(type(error), match=str(error)) as caught:
        await drain(attempt)
    assert attempt.error is caught.value
    record = rig.record
    assert (record.success, record.error_class) == (False, error.error_class)
    assert record.error_code == (error.code or str(error.status or ""))
    assert (record.stop_reason, record.ttft_ms) == ("", None)


async def test_a_failure_in_the_stream_is_recorded_as_truncated_and_counts():
    rig = Rig(Reply("a b c", error=StreamBrokenError("cut"), error_after=2))
    attempt = rig.start(STREAM)
    seen = [(await anext(attempt)).parsed for _ in range(3)]
    with pytest.raises(StreamBrokenError, match="cut"):
        await anext(attempt)
    assert seen[1:] == [TextDelta("a"), TextDelta(" b")]
    assert (rig.record.error_class, rig.record.stop_reason) == ("mid_stream", "truncated")
    assert rig.record.ttft_ms is not None
    assert (rig.states["p"], rig.states["p/m"]) == (CircuitState.HALF_OPEN, CircuitState.OPEN)


@pytest.mark.parametrize(
    "error",
    [
        ThrottledError("slow down", status=429, code="rate_limit_error", retry_after=7.0),
        CredentialError("the key has expired", status=401, body=b"{}"),
        MoneyGoneError("no money"),
        ModelUnavailableError("gone"),
        TransientError("overloaded"),
    ],
)
async def test_whatever_the_reason_a_failure_after_content_is_a_broken_answer(error):
    rig = Rig(Reply("a b c", error=error, error_after=2))
    attempt = rig.start(STREAM)
    with pytest.raises(StreamBrokenError, match=str(error)) as caught:
        await drain(attempt)
    broken = caught.value
    assert broken is attempt.error
    assert isinstance(broken.__cause__, type(error))
    assert (broken.status, broken.code, broken.retry_after) == (error.status, error.code, error.retry_after)
    assert (broken.body, broken.provider, broken.model) == (error.body, "p", "m")
    record = rig.record
    assert (record.error_class, record.stop_reason) == ("mid_stream", "truncated")
    assert record.error_code == (error.code or str(error.status or ""))
    assert rig.states["p/m"] is CircuitState.OPEN
    assert rig.domains.refusal(the_candidate("p/other")) is None, "the credential is not blamed"


@pytest.mark.parametrize("error", [RefusalError("no"), ContextTooLongError("full"), CallerError("bad")])
async def test_a_failure_after_content_that_nobody_is_blamed_for_stays_what_it_is(error):
    rig = Rig(Reply("a b c", error=error, error_after=2))
    with pytest.raises(type(error), match=str(error)):
        await drain(rig.start(STREAM))
    assert (rig.record.error_class, rig.record.stop_reason) == (error.error_class, "truncated")
    assert set(rig.states.values()) == {CircuitState.HALF_OPEN}


async def test_an_answer_that_ends_without_its_terminal_event_is_broken():
    rig = scripted(TEXT)
    with pytest.raises(StreamBrokenError, match="before its terminal event") as caught:
        await drain(rig.start())
    assert (caught.value.provider, caught.value.model) == ("p", "m")
    assert (rig.record.error_class, rig.record.stop_reason) == ("mid_stream", "truncated")
    assert rig.provider.closed == 1


@pytest.mark.parametrize(
    ("stop_reason", "error_class"),
    [("refusal", RefusalError), ("context_window", ContextTooLongError)],
)
async def test_an_answer_that_reports_its_own_failure_is_whole_but_no_success(stop_reason, error_class):
    rig = Rig(Reply("sorry", stop_reason=stop_reason))
    attempt = rig.start()
    assert len(await drain(attempt)) == 4
    assert isinstance(attempt.error, error_class)
    record = rig.record
    assert (record.success, record.error_class) == (False, error_class.error_class)
    assert (record.stop_reason, record.cost_nanos) == (stop_reason, COST)
    assert set(rig.states.values()) == {CircuitState.CLOSED}, "the provider did its part"


async def test_a_defect_of_a_provider_is_recorded_as_ours_and_blamed_on_nobody():
    rig = scripted(TEXT, ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        await drain(rig.start())
    assert (rig.record.error_class, rig.record.stop_reason) == (ErrorClass.INTERNAL, "truncated")
    assert set(rig.states.values()) == {CircuitState.HALF_OPEN}
    assert rig.provider.closed == 1


class BadAtClosing(Scripted):
    async def aclose(self):
        self.closed += 1
        raise ConnectionFailedError("reset while closing")


async def test_a_failure_to_close_the_stream_does_not_spoil_the_answer():
    rig = Rig()
    rig.provider = BadAtClosing(TEXT)
    rig.runner._providers = {("p", "api_key"): rig.provider}
    attempt = rig.start()
    await anext(attempt)
    await attempt.aclose()
    assert rig.provider.closed == 1
    assert rig.record.error_class == "cancelled"


async def test_a_store_that_fails_to_settle_loses_neither_the_record_nor_the_connection():
    rig = scripted(TEXT, StreamBrokenError("cut"), cap=Cap(broken=True))
    with pytest.raises(StoreError, match="disk full"):
        await drain(rig.start())
    assert rig.probes == [0, 0]
    assert [record.error_class for record in rig.records] == ["mid_stream"]
    assert rig.provider.closed == 1


# -- time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "budget", "error_class", "waiting_for"),
    [
        (Reply(head_s=FOREVER), AttemptBudget(first_content_s=0.05), TransientError, "its first content"),
        (
            Reply(first_content_s=FOREVER),
            AttemptBudget(first_content_s=0.05),
            TransientError,
            "its first content",
        ),
        (Reply("a b", between_s=FOREVER), AttemptBudget(idle_s=0.05), StreamBrokenError, "the next event"),
        (Reply("a b", between_s=FOREVER), AttemptBudget(total_s=0.05), StreamBrokenError, "its end"),
        (Reply(head_s=FOREVER), AttemptBudget(total_s=0.05), TransientError, "its end"),
    ],
    ids=["head", "first-content", "idle", "total-after-content", "total-before-content"],
)
async def test_what_takes_too_long_is_given_up_and_says_what_was_waited_for(
    reply, budget, error_class, waiting_for
):
    rig = Rig(reply, clock=SYSTEM_CLOCK)
    attempt = rig.start(STREAM, budget)
    async with asyncio.timeout(60):
        with pytest.raises(error_class, match=f"p/m#api_key timed out after .* waiting for {waiting_for}"):
            await drain(attempt)
    assert rig.record.error_class == error_class.error_class
    assert rig.record.error_code == "timeout"
    assert rig.record.stop_reason == ("truncated" if error_class is StreamBrokenError else "")
    assert rig.record.latency_ms >= 50
    assert rig.provider.abandoned == 1


async def test_a_cancelled_attempt_has_taken_the_time_that_its_provider_was_waited_for():
    clock = FakeClock()
    rig = Rig(Reply("a b", first_content_s=3, between_s=2), clock=clock)
    attempt = rig.start(STREAM)
    while not attempt.fold.began:
        await anext(attempt)
    clock.advance(3600)  # whoever reads has something else to do, and then gives up
    await attempt.aclose()
    assert (rig.record.error_class, rig.record.error_code) == ("cancelled", "")
    assert rig.record.latency_ms == pytest.approx(3000)


async def test_an_answer_that_comes_all_at_once_may_take_as_long_as_its_call():
    clock = FakeClock()
    rig = Rig(Reply(head_s=300.0), clock=clock)
    await drain(rig.start(budget=AttemptBudget(first_content_s=0.05, total_s=600.0)))
    assert rig.record.success
    late = Rig(Reply(head_s=FOREVER), clock=SYSTEM_CLOCK)
    with pytest.raises(TransientError, match="waiting for its answer"):
        await drain(late.start(budget=AttemptBudget(total_s=0.05)))


@pytest.mark.parametrize(
    ("budget", "waiting_for"),
    [
        (AttemptBudget(first_content_s=50.04), "its first content"),
        (AttemptBudget(first_content_s=60, total_s=50.04), "its end"),
    ],
)
async def test_a_slow_head_takes_its_time_from_what_comes_after_it(budget, waiting_for):
    """Both together have the limit, so that a head just in time does not double it."""
    clock = FakeClock(autojump=False)
    rig = Rig(Reply(head_s=50, first_content_s=FOREVER), clock=clock)
    attempt = rig.start(STREAM, budget)
    head = asyncio.create_task(anext(attempt))
    await asyncio.sleep(0)
    clock.advance(50)
    await head
    async with asyncio.timeout(60):
        with pytest.raises(TransientError, match=rf"timed out after 50\.0 s waiting for {waiting_for}"):
            await anext(attempt)


async def test_a_provider_that_is_at_work_on_something_else_has_its_time_to_the_first_content_anew():
    clock = FakeClock(autojump=False)
    rig = Rig(clock=clock)

    class Searching:
        def __init__(self):
            self.events = [StreamEvent(EventKind.PING, b"s", Working())] * 2 + SAID

        async def open(self, *_):
            return self

        async def __anext__(self):
            clock.advance(40)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return self.events.pop(0)

        async def aclose(self):
            pass

    rig.runner._providers[("p", "api_key")] = Searching()
    events = await drain(rig.start(STREAM, AttemptBudget(first_content_s=50, total_s=600)))
    assert rig.record.success
    assert rig.record.ttft_ms == 120_000
    assert len(events) == 4
    silent = Searching()
    silent.events = [StreamEvent(EventKind.PING, b"s", None)] * 2 + SAID
    rig.runner._providers[("p", "api_key")] = silent
    with pytest.raises(TransientError, match="waiting for its first content"):
        await drain(rig.start(STREAM, AttemptBudget(first_content_s=50, total_s=600)))


SAID = [
    StreamEvent(EventKind.CONTENT, b"", TextDelta("found")),
    StreamEvent(EventKind.TERMINAL, b"", Terminal("stop")),
]


async def test_a_slow_reader_of_a_punctual_provider_gets_its_whole_answer_and_blames_nobody():
    rig = Rig(Reply(("a", "b", "c"), head_s=1, first_content_s=1, between_s=1), half_open=False)
    seen = []
    async for event in rig.start(STREAM, AttemptBudget(first_content_s=2.5, idle_s=5, total_s=5)):
        seen.append(event.kind.value)
        rig.clock.advance(60)
    assert seen == ["meta", "content", "content", "content", "usage", "terminal"]
    assert rig.record.success
    assert [snapshot.consecutive_failures for snapshot in rig.domains.snapshot()] == [0, 0]


async def test_what_comes_without_a_wait_is_taken_however_late_its_reader_is():
    rig = scripted(TEXT, TEXT, half_open=False, clock=FakeClock(autojump=False))
    attempt = rig.start(STREAM, AttemptBudget(idle_s=5, total_s=5))
    await anext(attempt)
    rig.clock.advance(60)
    assert await anext(attempt) is TEXT
    await attempt.aclose()


async def test_pauses_between_events_below_the_limit_are_fine_however_many():
    rig = Rig(Reply(tuple("abcdefgh"), between_s=0.02), clock=SYSTEM_CLOCK)
    await drain(rig.start(STREAM, AttemptBudget(first_content_s=5, idle_s=2, total_s=10)))
    assert rig.record.success


# -- cancellation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "stop_reason", "cost_status"),
    [
        (Reply(head_s=FOREVER), "", CostStatus.UNKNOWN),
        (Reply(first_content_s=FOREVER), "", CostStatus.UNKNOWN),
        (Reply("a b", between_s=FOREVER), "truncated", CostStatus.ESTIMATED),
    ],
    ids=["before-the-head", "before-the-first-content", "in-the-stream"],
)
async def test_a_cancelled_attempt_gives_everything_back_and_is_recorded(reply, stop_reason, cost_status):
    rig = Rig(reply, clock=SYSTEM_CLOCK)
    attempt = rig.start(STREAM)
    task = asyncio.create_task(drain(attempt))
    for _ in range(5):
        await asyncio.sleep(0)
    assert rig.provider.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = rig.record
    assert (record.success, record.error_class, record.stop_reason) == (False, "cancelled", stop_reason)
    assert record.cost_status is cost_status
    assert attempt.error is None
    assert rig.provider.abandoned == 1
    assert set(rig.states.values()) == {CircuitState.HALF_OPEN}, "a cancelled probe closes and opens nothing"


async def test_an_attempt_that_is_left_early_closes_its_connection():
    rig = Rig("a b c")
    attempt = rig.start(STREAM)
    async for event in attempt:
        if event.kind is EventKind.CONTENT:
            break
    await attempt.aclose()
    assert (rig.record.error_class, rig.record.stop_reason) == ("cancelled", "truncated")
    assert rig.provider.abandoned == 1


async def test_an_attempt_that_was_never_begun_sends_nothing_and_gives_everything_back():
    rig = Rig()
    await rig.start().aclose()
    assert rig.record.error_class == "cancelled"
    assert (rig.record.cost_nanos, rig.record.cost_status) == (0, CostStatus.EXACT)
    assert rig.provider.received == []


async def test_a_forgotten_attempt_blocks_as_long_as_it_may_take_and_no_longer_than_its_lease():
    rig = Rig()
    forgotten = rig.start()
    for seconds in (0, BUDGET.total_s, LEASE_MARGIN_S - 1):
        rig.clock.advance(seconds)
        with pytest.raises(CircuitOpenError):
            rig.start()
    rig.clock.advance(1)
    await drain(rig.start())
    assert rig.states["p/m"] is CircuitState.CLOSED
    assert forgotten.record is None


async def test_an_attempt_that_nobody_holds_any_more_is_given_back_and_recorded():
    rig = Rig()
    dropped = rig.start()
    with pytest.raises(CircuitOpenError):
        rig.start()
    del dropped
    await drain(rig.start())
    assert [record.error_class for record in rig.records] == ["cancelled", ""]


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "seconds"),
    [
        (ThrottledError("429", retry_after=20), ThrottledError, 20),
        (ModelUnavailableError("404"), ModelUnavailableError, 600),
        (CredentialError("401"), CredentialError, 300),
        (MoneyGoneError("402"), MoneyGoneError, 300),
        (WindowSpentError("limit", retry_after=7200), WindowSpentError, 7200),
    ],
)
async def test_a_refusal_is_the_error_behind_it_and_nothing_is_sent(error, kind, seconds):
    rig = Rig(error, half_open=False)
    with pytest.raises(kind):
        await drain(rig.start())
    rig.clock.advance(5)
    with pytest.raises(kind) as caught:
        rig.start()
    assert caught.value.retry_after == pytest.approx(seconds - 5)
    assert (caught.value.provider, caught.value.model) == ("p", "m")
    assert caught.value is not error
    assert len(rig.provider.received) == len(rig.records) == 1
    assert rig.cap.settled[-1] == 0  # what was reserved for the refused one is given back


async def test_an_open_circuit_refuses_with_the_time_to_try_again():
    rig = Rig(half_open=False)
    rig.domains._breaker("p/m").hold_open(rig.clock.monotonic() + 40)
    with pytest.raises(CircuitOpenError) as caught:
        rig.start()
    assert (caught.value.domain, caught.value.retry_after) == ("p/m", pytest.approx(40))
    assert caught.value.retry_at == pytest.approx(rig.clock.time() + 40)
    assert rig.records == []


async def test_a_refused_reservation_gives_the_permits_back():
    rig = Rig(cap=Cap(refuse=True))
    with pytest.raises(BudgetExhaustedError):
        rig.start()
    assert rig.probes == [0, 0]
    assert rig.records == []


def test_a_candidate_without_a_provider_is_named():
    rig = Rig()
    spec = AttemptSpec("c", "d", 0, ExecutionContext())
    with pytest.raises(InvalidRequestError, match="no provider is set up for p/m#plan"):
        rig.runner.start(the_candidate("p/m", "plan"), MODEL, ASK, BUDGET, spec)


# -- the runner --------------------------------------------------------------------------------------


def test_ids_are_unique_and_sort_by_time():
    rig = Rig()
    ids = []
    for _ in range(200):
        ids.append(rig.runner.new_id())
        rig.clock.advance(0.001)
    assert len(set(ids)) == 200
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {29}
    assert len({AttemptRunner([]).new_id() for _ in range(50)}) == 50


async def test_a_runner_of_its_own_needs_nothing_but_a_provider_and_releases_it():
    provider = FakeProvider("p")
    runner = AttemptRunner([provider])
    attempt = runner.start(CANDIDATE, MODEL, ASK, BUDGET, AttemptSpec("c", "", 0, ExecutionContext()))
    await drain(attempt)
    assert attempt.record.success
    await runner.aclose()
    assert provider.closed


# -- usage that cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "usage", [TokenUsage(10, 2_000_000_000), TokenUsage(10**20, 5), TokenUsage(-5, 5), TokenUsage(10, -1)]
)
async def test_a_usage_that_cannot_be_is_not_believed(usage):
    rig = Rig(Reply("four score", usage=usage))
    await drain(rig.start())
    assert rig.record.cost_status == CostStatus.ESTIMATED
    assert rig.record.usage is not None
    assert 0 < rig.record.usage.output_tokens < 10
