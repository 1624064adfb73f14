"""The one place that wires: from a configuration to something that answers.

::

    import attune

    with attune.open() as ai:
        print(ai.ask("Why is the sky blue?").text)
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attune.background import BackgroundLoop, in_a_loop, wait_for
from attune.calls_under_way import CallsUnderWay, TrackedStream
from attune.clock import SYSTEM_CLOCK
from attune.errors import InvalidRequestError, StoreError, UnknownNameError
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.attempt_runner import AttemptRunner
from attune.models.call import Call
from attune.models.failure_domains import BreakerLimits, FailureDomains
from attune.models.fallback import FallbackPolicy
from attune.models.policies import Allowance
from attune.models.policies.budget import RECENT_CALLS
from attune.models.policy_names import VERSIONS
from attune.models.quota import fact_of
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.resilient_executor import ResilientExecutor
from attune.models.retry import RetryPolicy
from attune.models.route_request import RouteRequest
from attune.models.spending import SpendCap
from attune.models.telemetry import Outcome
from attune.providers.catalogue import build_provider
from attune.providers.secret import resolve_secret
from attune.shutdown import close_on_signals
from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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

SYNC_SECONDS = 1.0
"""How often a running process reads what others found out about breakers and credentials."""

HEARD_EVERY = 30
"""Rounds after which a process that has nothing to tell reads what policies learned elsewhere."""

SETTLE_SECONDS = 5.0
"""How long closing waits for what is under way in another thread, which may be stuck."""

LEARNED_ATTEMPTS = 5000
"""How many of the newest attempts in the ledger are looked at for when to hedge."""

T = TypeVar("T")


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
        allowed = dict(config.routing.workflows)
        if config.routing.allow_providers is not None:
            allowed["*"] = config.routing.allow_providers
        self.router = AdaptiveModelRouter(
            config.registry,
            credentials=config.enrolled,
            availability=self.domains,
            clock=clock,
            window_days=config.routing.window_days,
            allow_providers=allowed,
            local_only=config.routing.local_only,
            policy=config.routing.policy,
            explore=config.routing.explore,
            margin=config.routing.margin,
            budget=_allowance(config),
            rng=rng,
        )
        stats = self.router.stats
        with collection_paused():
            self.router.restore(store.rollups(stats.first_bucket(clock.time()), max_cells=stats.max_cells))
        self.router.steering.hear(store.policy_sums(VERSIONS["guarded"]))
        if config.routing.budget_usd is not None:
            self.router.steering.recall(store.recent_decisions(RECENT_CALLS))
        self.domains.learn(store.facts())
        runner = AttemptRunner(
            providers, domains=self.domains, clock=clock, record=self._recorded, spend_cap=self._spend_cap()
        )
        self.executor = ResilientExecutor(
            self.router,
            runner,
            fallback=FallbackPolicy() if fallback is None else fallback,
            retry=RetryPolicy(max_repeats=config.call.retries),
            limits=config.call.limits,
            hedge=config.call.hedge,
            record_decision=self._decided,
            record_outcome=self._judged,
            durable=store.flush if config.ledger.durability == "call" else None,
            on_step=on_step,
        )
        if self.executor.hedge is not None:
            self.executor.first_content_times.learn_records(reversed(store.recent_attempts(LEARNED_ATTEMPTS)))
        self.on_attempt: Callable[[LLMCallRecord], None] | None = None
        self.on_decision: Callable[[DecisionRecord], None] | None = None
        self._sync: asyncio.Task[None] | None = None
        self._sharing = asyncio.Lock()
        self._heard_at = clock.monotonic()
        self._calls = CallsUnderWay()
        self._entered: asyncio.AbstractEventLoop | None = None
        self._background: BackgroundLoop | None = None
        self._starting = threading.Lock()
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
        request, context = _request(prompt), _context(context, fields)
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
        call = Call(self.executor, _request(prompt).streaming(), _context(context, fields), cap, validate)
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
        _refuse_in_a_loop()
        self._calls.check()
        fields |= {"validate": validate, "escalate": escalate}
        return wait_for(self._ask(prompt, context, fields), self._owner() or self._start_background())

    async def _ask(
        self, prompt: str | LLMRequest, context: ExecutionContext | None, fields: Mapping[str, Any]
    ) -> LLMResponse:
        self._learn(await asyncio.to_thread(self.store.facts))
        if self._entered is None and not self._sharing.locked():  # else it is done beside the calls
            due = self._clock.monotonic() - self._heard_at >= HEARD_EVERY
            self._heard_at = self._clock.monotonic() if due else self._heard_at
            with suppress(StoreError):
                await self._share_what_was_learned(ask=due)
        return await self.run(prompt, context, **fields)

    def decide(
        self, prompt: str | LLMRequest | None, context: ExecutionContext | None = None, **fields: Any
    ) -> RouteDecision:
        """What ``run`` would choose now, and why; nothing is called or recorded."""
        context = _context(context, fields)
        request = LLMRequest.from_prompt("?") if prompt is None else _request(prompt)
        route = RouteRequest.of(request, context)
        if prompt is None:
            route = route.of_unknown_size()
        required = context.min_success_rate is not None
        return self._owned(lambda: self.executor.decide(route, required_success=required))

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
        self._owned(lambda: self.router.correct(record, previous=previous, outcome=outcome, decided=decided))
        return record

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Runtime:
        self._entered = asyncio.get_running_loop()
        self._calls.enter(self._entered)
        self._sync = asyncio.create_task(self._follow_the_others())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Runtime:
        _refuse_in_a_loop()
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
        _refuse_in_a_loop()
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
        if self._sync is not None and self._sync.get_loop() is asyncio.get_running_loop():
            async with self._sharing:  # what is being told must not be told again
                self._sync.cancel()
            with suppress(asyncio.CancelledError):
                await self._sync
        await self._calls.end()
        await self.executor.runner.aclose()

    def _finish(self) -> None:
        try:
            if self._background is not None:
                self._background.stop()
            if changes := self.router.steering.tell():
                with suppress(StoreError):  # which closing the store reports
                    self.store.add_policy_sums(VERSIONS["guarded"], changes)
            self.store.close()
        finally:
            self._closed.set()

    # -- the loop that owns the router -----------------------------------------------------------

    def _owner(self) -> asyncio.AbstractEventLoop | None:
        """The running loop that calls from other threads join: one alone may use the router."""
        if self._entered is not None and self._entered.is_running():
            return self._entered
        return None if self._background is None else self._background.loop

    def _start_background(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._background is None:
                background = BackgroundLoop()
                try:
                    self._calls.enter(background.loop)
                except InvalidRequestError:
                    background.stop()
                    raise
                self._background = background
            return self._background.loop

    def _owned(self, work: Callable[[], T]) -> T:
        """Do something with the router: in the loop that owns it, unless this thread runs one."""

        async def run() -> T:
            return work()

        owner = self._owner()
        if owner is None or not owner.is_running() or in_a_loop():
            return work()
        return wait_for(run(), owner)

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

    def _learn(self, facts: Iterable[Any]) -> None:
        self.domains.learn(facts)

    async def _follow_the_others(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            rounds += 1
            with suppress(StoreError):  # the writer reports what is wrong with the file
                self._learn(await asyncio.to_thread(self.store.facts))
                await self._share_what_was_learned(ask=not rounds % HEARD_EVERY)

    async def _share_what_was_learned(self, *, ask: bool) -> None:
        """Tell the others what was learned here, and hear what all know: if told to ``ask``, in any case."""
        steering, policy = self.router.steering, VERSIONS["guarded"]
        async with self._sharing:
            if changes := steering.tell():
                steering.hear(await asyncio.to_thread(self.store.add_policy_sums, policy, changes))
            elif ask:
                steering.hear(await asyncio.to_thread(self.store.policy_sums, policy))


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage is collected meanwhile: restoring makes 100,000 objects and no garbage, and looking for
    some would take a third of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
        for window in windows:
            store.put_fact(fact_of(window, name, credential))

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
    return Runtime(
        config,
        providers,
        store,
        clock=clock,
        fingerprints={f"{name}#{credential}": key.fingerprint for (name, credential), key in keys.items()},
        fallback=fallback,
        on_step=on_step,
        rng=rng,
    )


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


def _refuse_in_a_loop() -> None:
    if in_a_loop():
        raise InvalidRequestError(
            "inside an event loop use `async with` and `await ai.run(...)`, not `with` and `ai.ask(...)`"
        )


def _allowance(config: Config) -> Allowance | None:
    usd = config.routing.budget_usd
    return None if usd is None else Allowance(usd, config.routing.budget_per)


def _request(prompt: str | LLMRequest) -> LLMRequest:
    if isinstance(prompt, str):
        return LLMRequest.from_prompt(prompt)
    if not isinstance(prompt, LLMRequest):
        raise InvalidRequestError(f"a prompt is a text or an LLMRequest, not {type(prompt).__name__}")
    return prompt


def _context(context: ExecutionContext | None, fields: Mapping[str, Any]) -> ExecutionContext:
    if context is None:
        return ExecutionContext.of(fields)
    if fields:
        raise InvalidRequestError("give either a context or its fields, not both")
    return context
