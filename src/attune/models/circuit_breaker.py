"""The circuit breaker of one failure domain: a state machine behind permits.

::

    closed ── failure_threshold failures in a row ──► open
    open ── recovery_timeout_seconds, doubled each time it opens again ──► half-open
    half-open ── half_open_calls successes ──► closed
    half-open ── one failure ──► open

The first opening lasts exactly ``recovery_timeout_seconds``. One that follows it without a close in
between lasts twice as long as the one before, up to ``max_recovery_timeout_seconds``, and then up to a
tenth more at random, so that processes that failed together do not probe together. Closing forgets it.

A permit is the right to make one attempt. Half-open hands out at most ``half_open_calls`` of them at
a time, each as a lease: one that is not settled in time is given back and never closes the circuit.
Every change of state begins a new generation; results of permits of an earlier one are ignored.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from attune.clock import SYSTEM_CLOCK
from attune.errors import CircuitOpenError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from attune.clock import Clock

__all__ = ["BreakerSnapshot", "CircuitBreaker", "CircuitState", "Permit"]

DEFAULT_LEASE_SECONDS = 900.0

JITTER = 0.1
"""The most, as a share, that is added at random to an opening."""

_MOST_DOUBLINGS = 60  # beyond any limit in seconds, and still a float


class CircuitState(StrEnum):
    """Whether attempts pass: all, none, or a few probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerSnapshot(NamedTuple):
    """A breaker's state at one moment; ``retry_after`` is seconds until a probe is allowed."""

    name: str
    state: CircuitState
    consecutive_failures: int
    retry_after: float
    probes: int


class Permit:
    """The right to make one attempt. Settle it exactly once; anything after the first is ignored.

    As a context manager it is given back unused unless it was settled inside.
    """

    __slots__ = ("_breaker", "early", "generation", "lease_until", "settled")

    def __init__(
        self, breaker: CircuitBreaker, generation: int, lease_until: float, *, early: bool = False
    ) -> None:
        self._breaker = breaker
        self.generation = generation
        self.lease_until = lease_until
        self.early = early
        self.settled = False

    def success(self) -> None:
        """The attempt reached its terminal event."""
        self._settle(self._breaker._succeeded)

    def failure(self) -> None:
        """The attempt failed, and this domain is to blame."""
        self._settle(self._breaker._failed)

    def release(self) -> None:
        """Give it back: the attempt was not made, or says nothing of this domain."""
        self._settle(self._breaker._returned)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _settle(self, report: Callable[[Permit], None]) -> None:
        if not self.settled:
            self.settled = True
            report(self)


class CircuitBreaker:
    """Refuses attempts at what has just failed several times in a row.

    Defaults: open after 5 failures, for 60 s, then 1 probe; for up to 600 s when it opens again and
    again. A ``max_recovery_timeout_seconds`` below ``recovery_timeout_seconds`` is taken for as much.
    Seconds are of the ``clock``'s monotonic time. ``on_change`` is called after every change of state.
    ``name`` is the failure domain, for messages; ``rng`` draws the jitter. Raises
    ``InvalidRequestError`` for limits that make no sense.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_timeout_seconds: float = 60.0,
        half_open_calls: int = 1,
        max_recovery_timeout_seconds: float = 600.0,
        *,
        name: str = "provider",
        clock: Clock = SYSTEM_CLOCK,
        on_change: Callable[[CircuitBreaker], None] | None = None,
        rng: Random | None = None,
    ) -> None:
        if failure_threshold < 1 or half_open_calls < 1 or not recovery_timeout_seconds > 0:
            raise InvalidRequestError(
                "failure_threshold and half_open_calls must be at least 1, recovery_timeout_seconds above 0"
            )
        self.failure_threshold = failure_threshold
        self.recovery_timeout_seconds = recovery_timeout_seconds
        self.half_open_calls = half_open_calls
        self.max_recovery_timeout_seconds = max(recovery_timeout_seconds, max_recovery_timeout_seconds)
        self.name = name
        self._clock = clock
        self._on_change = on_change
        self._rng = Random() if rng is None else rng  # noqa: S311  (jitter, not secrets)
        self._generation = 0
        self._failures = 0
        self._trips = 0
        self._open_until: float | None = None
        self._probes: set[Permit] = set()
        self._probe_successes = 0
        self._next_early = float("-inf")

    # -- asking: changes nothing -----------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The state now."""
        if self._open_until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self._clock.monotonic() < self._open_until else CircuitState.HALF_OPEN

    def retry_at(self, *, last_resort: bool = False) -> float:
        """The monotonic time from which a permit may be granted; in the past when it may be now. While
        every probe is under way it is the end of the first lease, but no later than a recovery timeout
        from now: probes usually end long before their lease.
        """
        now = self._clock.monotonic()
        if self._open_until is None:
            return now
        leases = [p.lease_until for p in self._probes if p.lease_until > now]
        if len(leases) >= self.half_open_calls:
            return max(self._open_until, min(*leases, now + self.recovery_timeout_seconds))
        if last_resort and not leases:
            return min(self._open_until, self._next_early)
        return self._open_until

    def would_permit(self, *, last_resort: bool = False) -> bool:
        """Whether ``acquire`` would grant a permit now."""
        return self.retry_at(last_resort=last_resort) <= self._clock.monotonic()

    def snapshot(self) -> BreakerSnapshot:
        """The state, for people."""
        now = self._clock.monotonic()
        return BreakerSnapshot(
            name=self.name,
            state=self.state,
            consecutive_failures=self._failures,
            retry_after=max(0.0, self.retry_at() - now),
            probes=sum(p.lease_until > now for p in self._probes),
        )

    # -- taking ----------------------------------------------------------------------------------

    def acquire(self, lease_seconds: float = DEFAULT_LEASE_SECONDS, *, last_resort: bool = False) -> Permit:
        """Take a permit. Raises ``CircuitOpenError`` when none is granted.

        ``lease_seconds`` must be longer than the attempt can take. ``last_resort`` takes one probe
        before its time, at most once per ``recovery_timeout_seconds``: for a call that has nowhere
        else to go. Its failure does not keep the circuit open any longer.
        """
        now = self._clock.monotonic()
        if self._open_until is None:
            return Permit(self, self._generation, now + lease_seconds)
        self._probes = {p for p in self._probes if p.lease_until > now}
        retry_at = self.retry_at(last_resort=last_resort)
        if retry_at > now:
            wall = self._clock.time()
            raise CircuitOpenError(self.name, retry_after=retry_at - now, retry_at=wall + retry_at - now)
        permit = Permit(self, self._generation, now + lease_seconds, early=now < self._open_until)
        if permit.early:
            self._next_early = now + self.recovery_timeout_seconds
        self._probes.add(permit)
        return permit

    def hold_open(self, until: float) -> None:
        """Open, or stay open, until a monotonic time: what another process found out. A later
        deadline always wins; one that has passed changes nothing. While it is open already this is news
        of the same failure, which does not make the next opening longer.
        """
        if until <= self._clock.monotonic():
            return
        if self._open_until is None or self.state is CircuitState.HALF_OPEN:
            self._open(until)
        else:
            self._open_until = max(until, self._open_until)

    def close(self) -> None:
        """Close: the configuration changed, or another process's probe succeeded."""
        if self._open_until is not None:
            self._close()

    # -- settling --------------------------------------------------------------------------------

    def _succeeded(self, permit: Permit) -> None:
        if not self._current(permit):
            return
        if self._open_until is None:
            self._failures = 0
            return
        self._probe_successes += 1
        if self._probe_successes >= self.half_open_calls:
            self._close()

    def _failed(self, permit: Permit) -> None:
        if not self._current(permit) or permit.early:
            return
        self._failures += 1
        if self._open_until is not None or self._failures >= self.failure_threshold:
            self._open(self._clock.monotonic() + self._opening_seconds())

    def _returned(self, permit: Permit) -> None:
        self._probes.discard(permit)

    def _current(self, permit: Permit) -> bool:
        """Give a probe's slot back; whether its result still counts."""
        if permit.generation != self._generation:
            return False
        if self._open_until is None:
            return True
        held = permit in self._probes and permit.lease_until > self._clock.monotonic()
        self._probes.discard(permit)
        return held

    def _opening_seconds(self) -> float:
        """How long an opening that begins now lasts."""
        if self._trips == 0:
            return self.recovery_timeout_seconds
        doubled = self.recovery_timeout_seconds * 2.0 ** min(self._trips, _MOST_DOUBLINGS)
        return min(doubled, self.max_recovery_timeout_seconds) * (1 + self._rng.uniform(0, JITTER))

    def _open(self, until: float) -> None:
        self._trips += 1
        self._open_until = until
        self._begin()

    def _close(self) -> None:
        self._open_until = None
        self._failures = 0
        self._trips = 0
        self._begin()

    def _begin(self) -> None:
        self._generation += 1
        self._probes.clear()
        self._probe_successes = 0
        if self._on_change is not None:
            self._on_change(self)
