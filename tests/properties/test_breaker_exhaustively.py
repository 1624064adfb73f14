"""Every interleaving of what can happen to a small breaker, breadth first: not a sample, all of them."""

from __future__ import annotations

import copy
from collections import deque
from itertools import product
from typing import NamedTuple

import pytest

from attune.errors import CircuitOpenError
from attune.models.circuit_breaker import CircuitBreaker, CircuitState, Permit
from attune.testing import FakeClock

RECOVERY, LEASE = 2, 3  # in ticks of the clock
ACTIONS = ["take", "last resort", "tick", *product(range(3), ["success", "failure", "release"])]


class World(NamedTuple):
    """A breaker, its clock, and the places that permits are kept in: never more than three at once."""

    clock: FakeClock
    breaker: CircuitBreaker
    permits: list[Permit | None]

    def key(self) -> object:
        """Two worlds of one key have the same future."""
        now, breaker = self.clock.monotonic(), self.breaker
        permits = sorted(
            (
                permit.generation == breaker._generation,
                permit in breaker._probes,
                max(0, permit.lease_until - now),
                permit.early,
            )
            for permit in self.permits
            if permit is not None
        )
        open_for = None if breaker._open_until is None else max(0, breaker._open_until - now)
        failures = breaker._failures if breaker._open_until is None else 0
        return (
            open_for,
            failures,
            breaker._probe_successes,
            max(0, breaker._next_early - now),
            sum(probe.lease_until > now for probe in breaker._probes),
            tuple(permits),
        )


def after(world: World, action: object) -> World | None:
    """The world after an action, checked on the way; ``None`` when the action is not possible."""
    world = copy.deepcopy(world)
    breaker, permits = world.breaker, world.permits
    if action == "tick":
        world.clock.advance(1)
    elif isinstance(action, tuple):
        place, result = action
        permit = permits[place]
        if permit is None:
            return None
        settles(breaker, permit, result)
        permits[place] = None
    else:
        if None not in permits:
            return None
        permit = taken(breaker, last_resort=action == "last resort")
        if permit is not None:
            permits[permits.index(None)] = permit
    return world


def taken(breaker: CircuitBreaker, *, last_resort: bool) -> Permit | None:
    state, promised = breaker.state, breaker.would_permit(last_resort=last_resort)
    early_since = breaker._next_early - RECOVERY
    now = breaker._clock.monotonic()
    try:
        permit = breaker.acquire(LEASE, last_resort=last_resort)
    except CircuitOpenError:
        assert not promised
        assert state is not CircuitState.CLOSED
        return None
    assert promised
    if state is CircuitState.OPEN:
        assert last_resort
        assert now - early_since >= RECOVERY
    return permit


def settles(breaker: CircuitBreaker, permit: Permit, result: str) -> None:
    """Settle it; check whether it counted against whether it should have."""
    now, before = breaker._clock.monotonic(), breaker.state
    current = permit.generation == breaker._generation
    probe = before is not CircuitState.CLOSED
    counts = current and (not probe or permit.lease_until > now)
    retry_at, failures = breaker.retry_at(), breaker._failures
    successes = breaker._probe_successes
    getattr(permit, result)()
    if not counts or result == "release":
        assert (breaker.state, breaker._failures, breaker._probe_successes) == (before, failures, successes)
    elif result == "success":
        closes = probe and successes + 1 >= breaker.half_open_calls
        assert breaker.state is (CircuitState.CLOSED if closes or not probe else before)
        assert breaker._failures == 0 or not closes
    elif permit.early:
        assert breaker.state is before
        assert breaker.retry_at() <= max(retry_at, now)
    elif probe or failures + 1 >= breaker.failure_threshold:
        assert breaker.state is CircuitState.OPEN
        assert breaker.retry_at() == now + RECOVERY
    else:
        assert (breaker.state, breaker._failures) == (before, failures + 1)


def check(world: World) -> None:
    """What holds in every state."""
    now, breaker = world.clock.monotonic(), world.breaker
    live = [
        permit
        for permit in world.permits
        if permit is not None and permit in breaker._probes and permit.lease_until > now
    ]
    assert len(live) <= breaker.half_open_calls
    if breaker.state is CircuitState.CLOSED:
        assert breaker.would_permit()
        assert breaker._failures < breaker.failure_threshold
    elif breaker.state is CircuitState.OPEN:
        assert not breaker.would_permit()
    later = copy.deepcopy(world)
    later.clock.advance(RECOVERY + LEASE)
    for _ in range(breaker.half_open_calls):
        later.breaker.acquire(LEASE).success()
    assert later.breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize(("threshold", "calls"), list(product([1, 2], [1, 2, 3])))
def test_every_interleaving_keeps_the_breakers_promises(threshold, calls, capsys):
    clock = FakeClock(start=0)
    first = World(clock, CircuitBreaker(threshold, RECOVERY, calls, clock=clock), [None, None, None])
    seen, edge, states = {first.key()}, deque([first]), set()
    while edge:
        world = edge.popleft()
        check(world)
        states.add(world.breaker.state)
        for action in ACTIONS:
            reached = after(world, action)
            if reached is not None and reached.key() not in seen:
                seen.add(reached.key())
                edge.append(reached)
    with capsys.disabled():
        print(f"\n{len(seen)} states of a breaker with threshold {threshold} and {calls} probes", end="")
    assert states == set(CircuitState)
