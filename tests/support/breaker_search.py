"""Every life of a small circuit breaker, to closure: all states that its real code can reach, not a sample.

The search puts the real object into a state, lets one thing happen to it, checks the promises below, and
writes the state down again with all times relative to now. States of the same future are one state, so
the search ends: then everything that can ever happen has happened.

What can happen: a permit or a last resort is asked for, one of up to four permits ends in success, in
failure (with the least and the most jitter), is cancelled, or is lost in a crash and never settled;
time passes by one tick or jumps far ahead; someone sets the date; another process opens the circuit for a
while, or closes it. Results of permits that are late are settled as any other.

Beside the breaker the search keeps its own ``Past``, made from nothing but what happened. The promises
compare the two.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from attune.errors import CircuitOpenError
from attune.models.circuit_breaker import JITTER, CircuitBreaker, CircuitState, Permit

RECOVERY, LONGEST = 2, 6  # in ticks of the clock: it is open for 2, 4, 6, 6 ...
LEASES = (1, 4)
LEASE = max(LEASES)
MOST_OPENINGS = 3  # that differ
FAR_AHEAD = 1000
PLACES = 4


class Promise(StrEnum):
    """What holds in every state and after every step."""

    CLOSED_GRANTS = "a closed circuit grants every permit"
    OPEN_REFUSES = "an open circuit grants nothing but a last resort"
    PROBES = "half-open grants half_open_calls probes at a time, never more, and always so many"
    LAST_RESORT = "a last resort comes alone, and once in a recovery timeout; its failure prolongs nothing"
    ROW = "failure_threshold failures in a row open it, no fewer and no more; a success ends the row"
    OPENING = (
        "it is open for the recovery timeout, twice as long each time it opens again, up to the longest"
        " and a tenth more; nothing but time or a close ends it sooner"
    )
    REOPENS = "one failed probe opens it again"
    CLOSES = "as many successes of probes as half_open_calls close it, and no fewer"
    LATE = "what is late, of before a change or after its lease, changes nothing"
    GIVEN_BACK = "a permit that is cancelled or lost frees its place, at the latest with its lease"
    OTHERS = "a later deadline of another process wins, and is no second trip"
    CLOCK = "the date may be set to anything"
    ASKING = "what is said to be granted is what is granted"
    TOLD = "every change of state is told once"
    NEVER_STUCK = "when the world is well again, the circuit closes"


class ViolationError(AssertionError):
    """A promise was broken, on the way ``path``."""

    def __init__(self, promise: Promise, path: list[object]) -> None:
        super().__init__(f"{promise.value}: {path}")
        self.promise = promise


LATE = -1.0


class Held(NamedTuple):
    """A permit: what the breaker has of it, and then what the search knows itself."""

    of_now: bool  # of this generation
    lease: float
    early: bool
    left: float  # of its lease, or LATE
    before_time: bool
    lost: bool  # nobody will ever settle it


class Past(NamedTuple):
    """What happened, as far as it matters; times are in ticks from now."""

    open_left: float | None = None  # None: closed; 0: half-open
    openings: int = 0
    row: int = 0
    passed: int = 0
    early_left: float = 0.0

    @property
    def state(self) -> CircuitState:
        if self.open_left is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self.open_left > 0 else CircuitState.HALF_OPEN


class State(NamedTuple):
    """The breaker's attributes, the past, and the permits."""

    open_left: float | None
    failures: int
    trips: int
    passed: int
    early_left: float
    past: Past
    permits: tuple[Held, ...]


START = State(None, 0, 0, 0, 0.0, Past(), ())


class SetClock:
    """A clock of which both hands are set by hand."""

    now = date = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.date


class SetDraw:
    """Draws the least or the most."""

    most = False

    def uniform(self, low: float, high: float) -> float:
        return high if self.most else low


class Search:
    """The search over a breaker of one kind and one set of limits."""

    def __init__(self, kind: type[CircuitBreaker], threshold: int, calls: int) -> None:
        self.clock, self.draw, self.told = SetClock(), SetDraw(), 0
        self.threshold, self.calls = threshold, calls
        limits = (threshold, RECOVERY, calls, LONGEST)
        self.breaker = kind(*limits, clock=self.clock, on_change=self._tell, rng=self.draw)
        self.came_from: dict[State, tuple[State, object] | None] = {START: None}
        self.steps = 0

    def run(self) -> int:
        """Search to closure; how many states there are. Raises ``ViolationError``."""
        edge = deque([START])
        while edge:
            self.state = edge.popleft()
            self.action: object = "look"
            self._look()
            for action in self._actions():
                self.steps += 1
                self.action = action
                reached = self._after(action)
                if reached not in self.came_from:
                    self.came_from[reached] = (self.state, action)
                    edge.append(reached)
        return len(self.came_from)

    # -- the real object: put into a state, and read from it ----------------------------------------

    def _restore(self) -> None:
        state, breaker = self.state, self.breaker
        self.clock.now = self.clock.date = 0.0
        self.told, self.past = 0, state.past
        breaker._generation = 1
        breaker._open_until = state.open_left
        breaker._failures, breaker._trips = state.failures, state.trips
        breaker._probe_successes, breaker._next_early = state.passed, state.early_left
        self.permits = [(Permit(breaker, int(h.of_now), h.lease, early=h.early), h) for h in state.permits]
        breaker._probes.clear()
        if state.open_left is not None:
            breaker._probes.update(permit for permit, held in self.permits if held.of_now)

    def _read(self) -> State:
        breaker, now = self.breaker, self.clock.now
        until = breaker._open_until
        return State(
            None if until is None else round(max(0.0, until - now), 6),
            breaker._failures if until is None else self.threshold,
            min(breaker._trips, MOST_OPENINGS),
            breaker._probe_successes,
            max(0.0, breaker._next_early - now),
            self.past,
            tuple(sorted(held for pair in self.permits if (held := self._held(*pair)) is not None)),
        )

    def _held(self, permit: Permit, held: Held) -> Held | None:
        """What matters of a permit: how a late one came to be late does not."""
        breaker, past = self.breaker, self.past
        is_open = breaker._open_until is not None
        of_now = permit.generation == breaker._generation
        lease, early, left, before = LEASE, False, held.left, held.before_time
        if of_now and is_open:
            in_hand = permit in breaker._probes
            lease = max(0.0, permit.lease_until - self.clock.now) if in_hand else 0.0
            early = permit.early and lease > 0
        if left == LATE or (past.open_left is not None and left <= 0):
            left, before = LATE, False
        elif past.open_left is None:
            left, before = LEASE, False
        holds_a_place = (is_open and of_now and lease) or (past.open_left is not None and left != LATE)
        if held.lost and not holds_a_place:
            return None
        return Held(of_now, lease, early, left, before, held.lost)

    def _tell(self, _: CircuitBreaker) -> None:
        self.told += 1

    # -- what can happen -----------------------------------------------------------------------------

    def _actions(self) -> list[tuple[object, ...]]:
        state = self.state
        actions: list[tuple[object, ...]] = [("wait", 1), ("wait", FAR_AHEAD), ("close",)]
        actions += [("hold open", ticks) for ticks in (0, 1, 3)]
        if len(state.permits) < PLACES:
            actions += [("take", last, lease) for last in (False, True) for lease in LEASES]
        for place, held in enumerate(state.permits):
            if held.lost or held in state.permits[:place]:
                continue
            actions += [(end, place) for end in ("success", "failure", "cancel", "crash")]
            if state.past.openings:
                actions.append(("failure", place, "late jitter"))
        return actions

    def _after(self, action: tuple[object, ...]) -> State:
        self._restore()
        match action:
            case ("wait", ticks):
                self._wait(ticks)
            case ("close",):
                self.breaker.close()
                changes = self.past.open_left is not None
                if changes:
                    self._closes()
                self._agree(Promise.CLOSES, changes=changes)
            case ("hold open", ticks):
                self._hold_open(ticks)
            case ("take", last_resort, lease):
                self._take(lease, last_resort=last_resort)
            case ("crash", place):
                permit, held = self.permits[place]
                self.permits[place] = permit, held._replace(lost=True)
            case (end, place, *jitter):
                self.draw.most = bool(jitter)
                self._settle(end, *self.permits.pop(place))
        return self._read()

    def _wait(self, ticks: float) -> None:
        self.clock.now += ticks
        past, was_open = self.past, self.past.open_left
        open_left = None if was_open is None else round(max(0.0, was_open - ticks), 6)
        self.past = past._replace(open_left=open_left, early_left=max(0.0, past.early_left - ticks))
        if was_open is not None:
            self.permits = [
                (permit, held if held.left == LATE else held._replace(left=max(0.0, held.left - ticks)))
                for permit, held in self.permits
            ]
        self._agree(Promise.OPENING, places=Promise.GIVEN_BACK)

    def _hold_open(self, ticks: float) -> None:
        self.breaker.hold_open(self.clock.now + ticks)
        state = self.past.state
        if ticks and state is CircuitState.OPEN:
            self.past = self.past._replace(open_left=max(self.past.open_left or 0.0, ticks))
        elif ticks:
            self._opens(ticks)
        self._agree(Promise.OTHERS, changes=bool(ticks) and state is not CircuitState.OPEN)

    def _take(self, lease: float, *, last_resort: bool) -> None:
        in_time = self.past.state is not CircuitState.OPEN
        promised = self.breaker.would_permit(last_resort=last_resort)
        permit = None
        with suppress(CircuitOpenError):
            permit = self.breaker.acquire(lease, last_resort=last_resort)
        if (permit is not None) != self._grants(last_resort=last_resort):
            raise self._violation(self._about_taking(last_resort=last_resort))
        if (permit is not None) != promised:
            raise self._violation(Promise.ASKING)
        if permit is not None:
            self.permits.append((permit, Held(True, lease, False, lease, not in_time, False)))
            if not in_time:
                self.past = self.past._replace(early_left=RECOVERY)
        self._agree(Promise.OPENING, places=Promise.PROBES)

    def _settle(self, end: object, permit: Permit, held: Held) -> None:
        state, past = self.past.state, self.past
        closed = state is CircuitState.CLOSED
        if end == "cancel":
            permit.__exit__(None, None, None)
        else:
            getattr(permit, str(end))()
        if held.left == LATE:
            self._agree(Promise.LATE)
        elif end == "cancel":
            self._agree(Promise.GIVEN_BACK)
        elif end == "success" and closed:
            self.past = past._replace(row=0)
            self._agree(Promise.ROW)
        elif end == "success":
            self.past = past._replace(passed=past.passed + 1)
            if self.past.passed >= self.calls:
                self._closes()
            self._agree(Promise.CLOSES, changes=self.past.open_left is None)
        elif held.before_time:
            self._agree(Promise.LAST_RESORT)
        else:
            self.past = past._replace(row=past.row + 1)
            opens = not closed or self.past.row >= self.threshold
            if opens:
                self._opens(self._opening())
            self._agree(Promise.ROW if closed else Promise.REOPENS, changes=opens)

    # -- what should have happened -------------------------------------------------------------------

    def _live(self) -> int | None:
        """Probes under way; ``None`` while the circuit is closed."""
        if self.past.open_left is None:
            return None
        return sum(held.left > 0 for _, held in self.permits)

    def _grants(self, *, last_resort: bool) -> bool:
        past, live = self.past, self._live()
        if live is None:
            return True
        if past.state is CircuitState.HALF_OPEN:
            return live < self.calls
        return last_resort and not live and not past.early_left

    def _about_taking(self, *, last_resort: bool) -> Promise:
        match self.past.state:
            case CircuitState.CLOSED:
                return Promise.CLOSED_GRANTS
            case CircuitState.HALF_OPEN:
                return Promise.PROBES
            case CircuitState.OPEN:
                return Promise.LAST_RESORT if last_resort else Promise.OPEN_REFUSES

    def _opening(self) -> float:
        if not self.past.openings:
            return RECOVERY
        return min(LONGEST, RECOVERY * 2**self.past.openings) * (1 + (JITTER if self.draw.most else 0))

    def _opens(self, ticks: float) -> None:
        self.past = self.past._replace(
            open_left=ticks, openings=min(MOST_OPENINGS, self.past.openings + 1), row=0, passed=0
        )
        self._all_late()

    def _closes(self) -> None:
        self.past = Past(early_left=self.past.early_left)
        self._all_late()

    def _all_late(self) -> None:
        self.permits = [(permit, held._replace(left=LATE)) for permit, held in self.permits]

    def _agree(self, promise: Promise, *, changes: bool = False, places: Promise | None = None) -> None:
        """The breaker is as it should be after what happened; if not, it is this promise that it broke,
        or ``places`` when the probes under way are too few or too many.
        """
        past, breaker = self.past, self.breaker
        seen = breaker.snapshot()
        if past.state is CircuitState.CLOSED:
            as_it_should = seen.state is past.state and seen.consecutive_failures == past.row
        else:
            left = max(0.0, (breaker._open_until or 0.0) - self.clock.now)
            as_it_should = seen.state is past.state and abs(left - (past.open_left or 0.0)) < 1e-6
        if not as_it_should:
            raise self._violation(promise)
        if seen.probes != (self._live() or 0):
            raise self._violation(places or promise)
        if self.told != changes:
            raise self._violation(Promise.TOLD)

    def _look(self) -> None:
        """What holds in every state, whatever led to it."""
        self._restore()
        breaker = self.breaker
        seen = breaker.snapshot()
        for self.clock.date in (-1e6, 1e6):
            if breaker.snapshot() != seen:
                raise self._violation(Promise.CLOCK)
        self.clock.now = LONGEST * (1 + JITTER) + LEASE
        with suppress(CircuitOpenError):
            for _ in range(self.calls):
                breaker.acquire(LEASE).success()
        if breaker.state is not CircuitState.CLOSED:
            raise self._violation(Promise.NEVER_STUCK)

    def _violation(self, promise: Promise) -> ViolationError:
        path, state = [self.action], self.state
        while (before := self.came_from[state]) is not None:
            state, action = before
            path.append(action)
        return ViolationError(promise, path[::-1])
