"""The breaker's promises hold in every state it can reach; the same search finds every seeded bug.

The promises are ``support.breaker_search.Promise``; the bugs are those that breakers are known for,
each put into the real class, and the table says which promise the search must find broken.
"""

from __future__ import annotations

import time
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import pytest

from attune.errors import CircuitOpenError
from attune.models.circuit_breaker import CircuitBreaker, CircuitState
from support.breaker_search import RECOVERY, Promise, Search, ViolationError

if TYPE_CHECKING:
    from attune.models.circuit_breaker import Permit

SIZES = list(product((1, 2, 3), (1, 2)))
"""Failures that open it, and probes at a time."""


@pytest.mark.parametrize(("threshold", "calls"), SIZES)
def test_every_promise_holds_in_every_state_that_can_be_reached(threshold, calls, capsys):
    began = time.process_time()
    search = Search(CircuitBreaker, threshold, calls)
    states = search.run()
    seconds = time.process_time() - began
    with capsys.disabled():
        size = f"threshold {threshold}, {calls} probe{'' if calls == 1 else 's'}"
        print(f"\n{size}: {states:,} states, {search.steps:,} steps, to closure in {seconds:.1f} s", end="")
    assert states > 1000


# -- seeded bugs ---------------------------------------------------------------------------------------


class CancelledProbeKeepsItsPlace(CircuitBreaker):
    def _returned(self, permit: Permit) -> None:
        pass


class CancelledProbeCloses(CircuitBreaker):
    def _returned(self, permit: Permit) -> None:
        self._succeeded(permit)


class CancelledProbeReopens(CircuitBreaker):
    def _returned(self, permit: Permit) -> None:
        self._failed(permit)


class LateSuccessCloses(CircuitBreaker):
    def _succeeded(self, permit: Permit) -> None:
        if self._open_until is not None and permit.generation != self._generation:
            self._close()
        super()._succeeded(permit)


class LateFailureReopens(CircuitBreaker):
    def _failed(self, permit: Permit) -> None:
        if permit.generation != self._generation:
            self._open(self._clock.monotonic() + RECOVERY)
        super()._failed(permit)


class GenerationStaysTheSame(CircuitBreaker):
    def _begin(self) -> None:
        super()._begin()
        self._generation -= 1


class LeaseNeverEnds(CircuitBreaker):
    def acquire(self, lease_seconds: float = 0, *, last_resort: bool = False) -> Permit:
        return super().acquire(float("inf"), last_resort=last_resort)


class ProbeCountsAfterItsLease(CircuitBreaker):
    def _current(self, permit: Permit) -> bool:
        held = permit.generation == self._generation
        self._probes.discard(permit)
        return held


class OneProbeTooMany(CircuitBreaker):
    def retry_at(self, *, last_resort: bool = False) -> float:
        self.half_open_calls += 1
        try:
            return super().retry_at(last_resort=last_resort)
        finally:
            self.half_open_calls -= 1


class OneSuccessCloses(CircuitBreaker):
    def _succeeded(self, permit: Permit) -> None:
        if self._current(permit) and self._open_until is not None:
            self._close()


class ProbesFailureIgnored(CircuitBreaker):
    def _failed(self, permit: Permit) -> None:
        if self._open_until is None:
            super()._failed(permit)
        else:
            self._returned(permit)


class SuccessDoesNotEndTheRow(CircuitBreaker):
    def _succeeded(self, permit: Permit) -> None:
        failures, closed = self._failures, self._open_until is None
        super()._succeeded(permit)
        if closed:
            self._failures = failures


class OneFailureTooMany(CircuitBreaker):
    def _failed(self, permit: Permit) -> None:
        self.failure_threshold += 1
        super()._failed(permit)
        self.failure_threshold -= 1


class OneOfOneIsAHundredPercent(CircuitBreaker):
    """A failure rate without a minimum of calls."""

    def _failed(self, permit: Permit) -> None:
        if self._open_until is None and permit.generation == self._generation:
            self._failures = self.failure_threshold - 1
        super()._failed(permit)


class ClosedRefusesAfterAFailure(CircuitBreaker):
    def acquire(self, lease_seconds: float = 0, *, last_resort: bool = False) -> Permit:
        if self._open_until is None and self._failures:
            raise CircuitOpenError(self.name, retry_after=1, retry_at=1)
        return super().acquire(lease_seconds, last_resort=last_resort)


class EveryCallIsALastResort(CircuitBreaker):
    def retry_at(self, *, last_resort: bool = False) -> float:
        return super().retry_at(last_resort=True)


class EveryRefusalProlongs(CircuitBreaker):
    def acquire(self, lease_seconds: float = 0, *, last_resort: bool = False) -> Permit:
        if self.state is CircuitState.OPEN and not last_resort:
            self._open_until = self._clock.monotonic() + self.recovery_timeout_seconds
        return super().acquire(lease_seconds, last_resort=last_resort)


class AskingPromisesTooMuch(CircuitBreaker):
    def would_permit(self, *, last_resort: bool = False) -> bool:
        return self.state is not CircuitState.OPEN


class SecondDeadlineShortensTheFirst(CircuitBreaker):
    def hold_open(self, until: float) -> None:
        super().hold_open(until)
        if self._open_until is not None and until > self._clock.monotonic():
            self._open_until = until


class DateDecides(CircuitBreaker):
    @property
    def state(self):
        clock, until = self._clock, self._open_until
        self._clock = type("Dated", (), {"monotonic": clock.time})
        try:
            return super().state
        finally:
            self._clock, self._open_until = clock, until


class LastResortWithoutLimit(CircuitBreaker):
    def acquire(self, lease_seconds: float = 0, *, last_resort: bool = False) -> Permit:
        self._next_early = float("-inf")
        return super().acquire(lease_seconds, last_resort=last_resort)


class FailedLastResortProlongs(CircuitBreaker):
    def _failed(self, permit: Permit) -> None:
        permit.early = False
        super()._failed(permit)


class OpeningNeverGrows(CircuitBreaker):
    def _opening_seconds(self) -> float:
        return self.recovery_timeout_seconds


class OpeningGrowsWithoutEnd(CircuitBreaker):
    def _opening_seconds(self) -> float:
        self.max_recovery_timeout_seconds = 1e9
        return super()._opening_seconds()


class CloseForgetsNothing(CircuitBreaker):
    def _close(self) -> None:
        trips = self._trips
        super()._close()
        self._trips = trips


class NewsCountsAsATrip(CircuitBreaker):
    def hold_open(self, until: float) -> None:
        if self._open_until is not None and until > self._clock.monotonic():
            self._trips += 1
        super().hold_open(until)


class ToldTwice(CircuitBreaker):
    def _begin(self) -> None:
        super()._begin()
        self._on_change(self)


class Bug(NamedTuple):
    """A seeded bug and the promise that it breaks."""

    kind: type[CircuitBreaker]
    wrong: str
    breaks: Promise


BUGS = [
    Bug(CancelledProbeKeepsItsPlace, "a cancelled probe leaves it stuck half-open", Promise.GIVEN_BACK),
    Bug(CancelledProbeCloses, "a cancelled probe closes it", Promise.GIVEN_BACK),
    Bug(CancelledProbeReopens, "a cancelled probe counts as a failure", Promise.GIVEN_BACK),
    Bug(LateSuccessCloses, "a late success of before the trip closes it", Promise.LATE),
    Bug(LateFailureReopens, "a late failure of before the trip opens it anew", Promise.LATE),
    Bug(GenerationStaysTheSame, "a result of before the trip counts after it has closed", Promise.LATE),
    Bug(LeaseNeverEnds, "a probe lost in a crash keeps its place for good", Promise.NEVER_STUCK),
    Bug(ProbeCountsAfterItsLease, "a probe that overstayed its lease closes it", Promise.LATE),
    Bug(OneProbeTooMany, "half-open admits one probe more than allowed", Promise.PROBES),
    Bug(OneSuccessCloses, "one success closes it although two are asked for", Promise.CLOSES),
    Bug(ProbesFailureIgnored, "a failed probe leaves it half-open", Promise.REOPENS),
    Bug(SuccessDoesNotEndTheRow, "failures add up over successes between them", Promise.ROW),
    Bug(OneFailureTooMany, "it opens one failure too late", Promise.ROW),
    Bug(OneOfOneIsAHundredPercent, "one failure of one call opens it", Promise.ROW),
    Bug(ClosedRefusesAfterAFailure, "one failure of many refuses what is closed", Promise.CLOSED_GRANTS),
    Bug(EveryCallIsALastResort, "an open circuit lets calls through before its time", Promise.OPEN_REFUSES),
    Bug(EveryRefusalProlongs, "each call that is refused begins the opening anew", Promise.OPENING),
    Bug(AskingPromisesTooMuch, "asking does not count the probes under way", Promise.ASKING),
    Bug(SecondDeadlineShortensTheFirst, "an earlier deadline shortens a later one", Promise.OTHERS),
    Bug(DateDecides, "the opening ends by the wall clock", Promise.CLOCK),
    Bug(LastResortWithoutLimit, "a last resort is granted again and again", Promise.LAST_RESORT),
    Bug(FailedLastResortProlongs, "the failure of a last resort opens it anew", Promise.LAST_RESORT),
    Bug(OpeningNeverGrows, "each opening is as short as the first", Promise.REOPENS),
    Bug(OpeningGrowsWithoutEnd, "openings double beyond the longest", Promise.REOPENS),
    Bug(CloseForgetsNothing, "the first opening after a close is as long as the last before it", Promise.ROW),
    Bug(NewsCountsAsATrip, "news of another process counts as a trip of its own", Promise.REOPENS),
    Bug(ToldTwice, "a change is told twice", Promise.TOLD),
]


def test_every_promise_is_broken_by_a_seeded_bug():
    assert {bug.breaks for bug in BUGS} == set(Promise)


def search_all(kind: type[CircuitBreaker]) -> None:
    for threshold, calls in SIZES:
        Search(kind, threshold, calls).run()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.kind.__name__)
def test_the_same_search_finds_a_seeded_bug_and_names_the_promise_it_breaks(bug):
    with pytest.raises(ViolationError) as found:
        search_all(bug.kind)
    assert found.value.promise is bug.breaks, found.value
