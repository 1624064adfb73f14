"""The one place that wires: from a configuration to something that answers.

::

    import attune

    with attune.open() as ai:
        print(ai.ask("Why is the sky blue?").text)
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from attune.background import OwnerLoop, refuse_in_a_loop, wait_for
from attune.calls_under_way import CallsUnderWay, TrackedStream
from attune.clock import SYSTEM_CLOCK
from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.attempt_runner import AttemptRunner
from attune.models.call import Call
from attune.models.failure_domains import BreakerLimits, FailureDomains
from attune.models.fallback import FallbackPolicy
from attune.models.policies.budget import RECENT_CALLS
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.resilient_executor import ResilientExecutor
from attune.models.retry import RetryPolicy
from attune.models.route_request import RouteRequest
from attune.models.spending import OVERFLOW, SpendCap
from attune.models.telemetry import Outcome
from attune.providers.catalogue import build_provider
from attune.providers.secret import resolve_secret
from attune.routing import restore, router_of
from attune.sharing import Sharing
from attune.shutdown import close_on_signals
from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random
    from types import TracebackType

    from attune.clock import Clock
    from attune.config import Config
    from attune.models.executor import LLMResponse, Provider, StreamEvent
    from attune.models.quota import QuotaWindow
    from attune.models.route_decision import RouteDecision
    from attune.models.spending import Cap
    from attune.models.telemetry import Decided, DecisionRecord, LLMCallRecord
    from attune.models.validation import Validate

__all__ = ["Runtime", "build", "open"]

_log = logging.getLogger("attune.runtime")

SETTLE_SECONDS = 5.0
"""How long closing waits for what is under way in another thread, which may be stuck."""

LEARNED_ATTEMPTS = 5000
"""How many of the newest attempts in the ledger are looked at for when to hedge."""


class Runtime:
    """A configuration brought to life: router, executors, ledger.

    Async at the core: ``async with attune.open() as ai: await ai.run(...)``. For scripts,
    ``with attune.open() as ai: ai.ask(...)``, from any number of threads. ``notices`` are lines that
    a surface should show. ``on_step`` may be set to a function that gets a line for people whenever
    an attempt fails, ``on_attempt`` to one that gets the record of every attempt, ``on_decision`` to one that
    gets that of every decision.
    """

    def __init__(
        self,
        config: Config,
        providers: Iterable[Provider],
        store: SqliteStore,
        *,
        clock: Clock = SYSTEM_CLOCK,
        fingerprints: Mapping[str, str] | None = None,
        fallback: FallbackPolicy | None = None,
        on_step: Callable[[str], None] | None = None,
        rng: Random | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.notices = (*config.notices, *store.notices)
        self._clock = clock
        self.domains = FailureDomains(
            BreakerLimits(*config.breaker), clock=clock, publish=store.put_fact, fingerprints=fingerprints
        )
        self.router = router_of(config, self.domains, clock, rng)
        self.sharing = Sharing(self.router, self.domains, store, clock)  # knows what divides roll-ups
        restore(self.router, store, clock)
        if config.routing.budget_usd is not None:
            self.router.steering.recall(store.recent_decisions(RECENT_CALLS))
        runner = AttemptRunner(
            providers,
            domains=self.domains,
            clock=clock,
            record=self._recorded,
            spend_cap=self._spend_cap(),
            overflow_cap=SpendCap(store, clock, config.auth.overflow_usd_per_day, name=OVERFLOW),
        )
        self.executor = ResilientExecutor(
            self.router,
            runner,
            fallback=FallbackPolicy() if fallback is None else fallback,
            retry=RetryPolicy(max_repeats=config.call.retries),
            limits=config.call.limits,
            hedge=config.call.hedge,
            min_success_rate=config.routing.min_success_rate,
            record_decision=self._decided,
            record_outcome=self._judged,
            durable=store.flush if config.ledger.durability == "call" else None,
            on_step=on_step,
        )
        if self.executor.hedge is not None:
            self.executor.first_content_times.learn_records(reversed(store.recent_attempts(LEARNED_ATTEMPTS)))
        self.on_attempt: Callable[[LLMCallRecord], None] | None = None
        self.on_decision: Callable[[DecisionRecord], None] | None = None
        self._calls = CallsUnderWay()
        self._owner = OwnerLoop(self._calls.enter)
        self._closed = threading.Event()

    # -- answering -------------------------------------------------------------------------------

    async def run(
        self,
        prompt: str | LLMRequest,
        context: ExecutionContext | None = None,
        *,
        cap: Cap | None = None,
        events: list[StreamEvent] | None = None,
        validate: Validate | None = None,
        escalate: bool = False,
        **fields: Any,
    ) -> LLMResponse:
        """Answer a prompt or a whole request.

        What the call is for and may cost is given as an ``ExecutionContext``, or by its fields:
        ``await ai.run("...", task_type="summarize", max_cost=0.01)``. ``cap``, ``events``, ``validate``,
        ``escalate`` and what is raised are those of ``ResilientExecutor.run``.
        """
        request, context = LLMRequest.of(prompt), ExecutionContext.of(fields, context)
        with self._calls.step():
            return await self.executor.run(
                request, context, cap=cap, events=events, validate=validate, escalate=escalate
            )

    def stream(
        self,
        prompt: str | LLMRequest,
        context: ExecutionContext | None = None,
        *,
        ping_s: float | None = None,
        cap: Cap | None = None,
        validate: Validate | None = None,
        **fields: Any,
    ) -> TrackedStream:
        """Answer as events: ``async with ai.stream("...") as events: async for event in events``.

        ``ping_s`` and ``validate`` as in ``ResilientExecutor.stream``, ``cap`` as in its ``run``.
        """
        request, context = LLMRequest.of(prompt), ExecutionContext.of(fields, context)
        call = Call(self.executor, request.streaming(), context, cap, validate)
        return TrackedStream(call, self._calls, ping_s=ping_s)

    def ask(
        self,
        prompt: str | LLMRequest,
        context: ExecutionContext | None = None,
        *,
        validate: Validate | None = None,
        escalate: bool = False,
        **fields: Any,
    ) -> LLMResponse:
        """``run`` for scripts: waits for the answer. Threads may ask at the same time.

        Not to be called from inside an event loop.
        """
        refuse_in_a_loop()
        self._calls.check()
        fields |= {"validate": validate, "escalate": escalate}
        return wait_for(self._ask(prompt, context, fields), self._owner.started())

    async def _ask(
        self, prompt: str | LLMRequest, context: ExecutionContext | None, fields: Mapping[str, Any]
    ) -> LLMResponse:
        await self.sharing.catch_up()
        return await self.run(prompt, context, **fields)

    def decide(
        self, prompt: str | LLMRequest | None, context: ExecutionContext | None = None, **fields: Any
    ) -> RouteDecision:
        """What ``run`` would choose now, and why; nothing is called or recorded."""
        context = ExecutionContext.of(fields, context)
        request = LLMRequest.from_prompt("?") if prompt is None else LLMRequest.of(prompt)
        route = RouteRequest.of(request, context, self.executor.min_success_rate)
        if prompt is None:
            route = route.of_unknown_size()
        required = context.min_success_rate is not None
        return self._owner.run(lambda: self.executor.decide(route, required_success=required))

    def record_outcome(self, call_id: str, *, success: bool, score: float | None = None) -> LLMCallRecord:
        """Say later whether the answer of a call was good; the last word counts, also over a validator's.

        ``score`` is within 0..1. Returns the record of the attempt that answered. Raises
        ``UnknownNameError`` for a call that the ledger does not know.
        """
        if score is not None and not 0.0 <= score <= 1.0:
            raise InvalidRequestError(f"a score lies between 0 and 1, not {score!r}")
        outcome = Outcome(call_id, self._clock.time(), success, score)
        target = self.store.record_outcome(outcome)
        if target is None:
            remedy = "every response has its call_id"
            raise UnknownNameError("call", call_id, (), otherwise=remedy)
        record, previous, decided = target
        self._owner.run(
            lambda: self.router.correct(record, previous=previous, outcome=outcome, decided=decided)
        )
        return record

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Runtime:
        self._owner.enter()
        self.sharing.follow()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Runtime:
        refuse_in_a_loop()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Cancel the calls under way, release connections and processes, and write what is queued.

        A call that was under way is recorded as cancelled and raises ``InvalidRequestError``, as does
        everything asked later. Returns when all is done, also when another task or thread is doing it.
        """
        if not self._calls.refuse():
            await asyncio.to_thread(self._closed.wait)
            return
        try:
            await self._end_everywhere()
        finally:
            await asyncio.to_thread(self._finish)

    def close(self) -> None:
        """``aclose`` for scripts. Starts no thread: it is also called when the program is ending."""
        refuse_in_a_loop()
        if not self._calls.refuse():
            self._closed.wait()
            return
        try:
            asyncio.run(self._end_everywhere())
        finally:
            self._finish()

    async def _end_everywhere(self) -> None:
        for loop in self._calls.loops:
            if loop is not asyncio.get_running_loop() and loop.is_running():
                await self._end_in(loop)
        await self._end()

    async def _end_in(self, loop: asyncio.AbstractEventLoop) -> None:
        ended = asyncio.run_coroutine_threadsafe(self._end(), loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(ended), SETTLE_SECONDS)
        except TimeoutError:
            _log.warning("calls under way in another thread did not end in time; they are not recorded")

    async def _end(self) -> None:
        """End what belongs to the running loop."""
        await self.sharing.end()
        await self._calls.end()
        await self.executor.runner.aclose()

    def _finish(self) -> None:
        try:
            self._owner.stop()
            self.sharing.tell_the_rest()
            self.store.close()
        finally:
            self._closed.set()

    # -- wiring ----------------------------------------------------------------------------------

    def _decided(self, record: DecisionRecord) -> None:
        self.store.append_decision(record)
        if self.on_decision is not None:
            self.on_decision(record)

    def _recorded(self, record: LLMCallRecord) -> None:
        self.router.observe(record)
        self.store.append_attempt(record)
        if self.on_attempt is not None:
            self.on_attempt(record)

    def _judged(self, record: LLMCallRecord, outcome: Outcome, decided: Decided) -> None:
        self.router.correct(record, previous=None, outcome=outcome, decided=decided)
        self.store.append_outcome(outcome)

    def _spend_cap(self) -> SpendCap | None:
        day, month = self.config.routing.max_usd_per_day, self.config.routing.max_usd_per_month
        return None if day is None and month is None else SpendCap(self.store, self._clock, day, month)


def build(
    config: Config,
    *,
    clock: Clock = SYSTEM_CLOCK,
    environ: Mapping[str, str] | None = None,
    fallback: FallbackPolicy | None = None,
    on_step: Callable[[str], None] | None = None,
    rng: Random | None = None,
) -> Runtime:
    """Wire a configuration; ``rng`` is what policies draw by.

    Raises ``ConfigError`` for a key that is not where it should be, and ``StoreError`` when the ledger cannot
    be opened.
    """
    environ = os.environ if environ is None else environ
    keys = {
        (each.name, credential): resolve_secret(reference, environ, where=each.name)
        for each in config.providers
        for credential, reference in each.keys.items()
    }

    def keep(name: str, credential: str, windows: Iterable[QuotaWindow]) -> None:
        for fact in runtime.router.prepaid.report(name, credential, windows):
            store.put_fact(fact)

    providers = [
        build_provider(
            each.name,
            each.kind,
            base_url=each.base_url or None,
            key=keys.get((each.name, credential)),
            credential=credential,
            protocol=each.protocol or None,
            on_windows=partial(keep, each.name, credential),
        )
        for each in config.providers
        for credential in each.credentials
    ]
    store = SqliteStore.open(
        config.paths.ledger_file,
        durability=config.ledger.durability,
        retention_days=config.ledger.retention_days,
        clock=clock.time,
    )
    runtime = Runtime(
        config,
        providers,
        store,
        clock=clock,
        fingerprints={f"{name}#{credential}": key.fingerprint for (name, credential), key in keys.items()},
        fallback=fallback,
        on_step=on_step,
        rng=rng,
    )
    return runtime


def open(  # noqa: A001
    path: str | None = None,
    *,
    fallback: FallbackPolicy | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Runtime:
    """A runtime from the user's configuration (``path`` names another file), ready to answer.

    ``fallback`` says which candidates come after one that failed, ``on_step`` gets a line for people
    whenever an attempt fails.

    In a program that does not handle SIGTERM or SIGHUP itself, and opens attune in its main thread,
    they now first close what was opened, so that no call is lost to the ledger; then they end the
    program as before. A second signal ends it at once.
    """
    from attune.config import load

    runtime = build(load(path), fallback=fallback, on_step=on_step)
    close_on_signals(runtime)
    return runtime
