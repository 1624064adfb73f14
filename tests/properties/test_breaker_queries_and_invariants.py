"""Whatever happens to a breaker, in whatever order: what it promises holds, and asking changes nothing."""

from __future__ import annotations

import copy
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from attune.errors import CircuitOpenError
from attune.models.circuit_breaker import JITTER, CircuitBreaker, CircuitState
from attune.testing import FakeClock

RECOVERY, LONGEST, LEASE = 10.0, 40.0, 15.0


def ask_everything(breaker: CircuitBreaker) -> None:
    for last_resort in (False, True):
        breaker.would_permit(last_resort=last_resort)
        breaker.retry_at(last_resort=last_resort)
    breaker.snapshot()
    _ = breaker.state


def observed(breaker: CircuitBreaker) -> object:
    return (
        breaker.snapshot(),
        breaker.would_permit(),
        breaker.would_permit(last_resort=True),
        max(0.0, breaker.retry_at(last_resort=True) - breaker._clock.monotonic()),
    )


class Breaker(RuleBasedStateMachine):
    """Two breakers live the same life, but only one is asked questions; a model counts beside them."""

    @initialize(threshold=st.integers(1, 3), calls=st.integers(1, 3))
    def make(self, threshold, calls):
        self.clock = FakeClock()
        self.calls = calls
        self.asked, self.silent = (
            CircuitBreaker(threshold, RECOVERY, calls, LONGEST, clock=self.clock, rng=Random(1))
            for _ in range(2)
        )
        self.permits = []
        self.last_early = float("-inf")

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 10.0, 15.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(last_resort=st.booleans())
    def take(self, last_resort):
        state = self.asked.state
        promised = self.asked.would_permit(last_resort=last_resort)
        try:
            pair = self.asked.acquire(LEASE, last_resort=last_resort)
        except CircuitOpenError:
            assert not promised
            assert state is not CircuitState.CLOSED, "closed never refuses"
            assert self.asked.snapshot().retry_after <= LONGEST * (1 + JITTER)
            with pytest.raises(CircuitOpenError):
                self.silent.acquire(LEASE, last_resort=last_resort)
            return
        assert promised
        if state is CircuitState.OPEN:
            assert last_resort, "open refuses all but a last resort"
            assert self.clock.monotonic() - self.last_early >= RECOVERY, "once in a recovery timeout"
            self.last_early = self.clock.monotonic()
        self.permits.append((pair, self.silent.acquire(LEASE, last_resort=last_resort)))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), result=st.sampled_from(["success", "failure", "release"]))
    def settle(self, data, result):
        pair = data.draw(st.sampled_from(self.permits))  # settled ones and late ones are drawn too
        generation = self.asked._generation
        late = pair[0].settled or pair[0].generation != generation
        before = observed(self.asked)
        for permit in pair:
            getattr(permit, result)()
        if late:
            assert observed(self.asked) == before, "a late or second result changes nothing"

    @rule(seconds=st.sampled_from([-1.0, 2.0, 9.0]))
    def another_process_opens_it(self, seconds):
        until = self.clock.monotonic() + seconds
        before = self.asked.retry_at() if self.asked.state is CircuitState.OPEN else float("-inf")
        self.asked.hold_open(until)
        self.silent.hold_open(until)
        if seconds > 0:
            assert self.asked.retry_at() >= max(before, until)

    @rule()
    def another_process_closes_it(self):
        self.asked.close()
        self.silent.close()
        assert self.asked.state is CircuitState.CLOSED

    @invariant()
    def asking_changes_nothing(self):
        ask_everything(self.asked)
        assert observed(self.asked) == observed(copy.deepcopy(self.silent))

    @invariant()
    def never_more_probes_than_allowed(self):
        assert self.asked.snapshot().probes <= self.calls

    @invariant()
    def it_is_never_stuck(self):
        twin = copy.deepcopy(self.asked)
        twin._clock.advance(LONGEST * (1 + JITTER) + LEASE)
        for _ in range(self.calls):
            twin.acquire(LEASE).success()
        assert twin.state is CircuitState.CLOSED


Breaker.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_a_breaker_keeps_its_promises_in_any_order_of_events = Breaker.TestCase
