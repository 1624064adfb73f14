"""The circuit breaker, state by state."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from attune.errors import CircuitOpenError, InvalidRequestError
from attune.models.circuit_breaker import DEFAULT_LEASE_SECONDS, JITTER, CircuitBreaker, CircuitState
from attune.testing import FakeClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Draws:
    """Draws one share of every range."""

    def __init__(self, share):
        self.share = share

    def uniform(self, low, high):
        return low + self.share * (high - low)


NO_JITTER = Draws(0)


@pytest.fixture
def clock():
    return FakeClock()


def opened(clock, **options):
    breaker = CircuitBreaker(1, 60, clock=clock, **options)
    breaker.acquire().failure()
    assert breaker.state is OPEN
    return breaker


def half_open(clock, **options):
    breaker = opened(clock, **options)
    clock.advance(60)
    assert breaker.state is HALF_OPEN
    return breaker


# -- limits ------------------------------------------------------------------------------------------


def test_the_defaults_are_five_failures_sixty_seconds_and_one_probe(clock):
    breaker = CircuitBreaker(clock=clock)
    assert (breaker.failure_threshold, breaker.recovery_timeout_seconds) == (5, 60.0)
    assert (breaker.half_open_calls, breaker.name) == (1, "provider")
    for _ in range(4):
        breaker.acquire().failure()
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN
    clock.advance(59.999)
    assert breaker.state is OPEN
    clock.advance(0.001)
    assert breaker.state is HALF_OPEN
    breaker.acquire().success()
    assert breaker.state is CLOSED


@pytest.mark.parametrize("limits", [(0, 60, 1), (5, 60, 0), (5, 0, 1), (5, -1, 1), (5, float("nan"), 1)])
def test_limits_that_make_no_sense_are_refused_in_one_line(limits):
    with pytest.raises(InvalidRequestError) as caught:
        CircuitBreaker(*limits)
    assert str(caught.value) == (
        "failure_threshold and half_open_calls must be at least 1, recovery_timeout_seconds above 0"
    )


def test_an_opening_may_be_as_short_as_a_user_wants(clock):
    assert CircuitBreaker(1, 0.001, clock=clock).recovery_timeout_seconds == 0.001


def test_without_a_clock_it_runs_on_the_machines_own():
    breaker = CircuitBreaker(1, 3600)
    breaker.acquire().failure()
    assert 3590 < breaker.snapshot().retry_after <= 3600


# -- closed ------------------------------------------------------------------------------------------


def test_asking_promises_a_permit_wherever_one_is_granted(clock):
    assert CircuitBreaker(clock=clock).would_permit()
    breaker = opened(clock)
    assert not breaker.would_permit()
    clock.advance(60)
    assert breaker.would_permit()


def test_a_success_ends_the_row_of_failures(clock):
    breaker = CircuitBreaker(3, clock=clock)
    for result in "ffsffsff":
        permit = breaker.acquire()
        permit.failure() if result == "f" else permit.success()
        assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_closed_hands_out_any_number_of_permits_whatever_became_of_the_others(clock):
    breaker = CircuitBreaker(1, half_open_calls=1, clock=clock)
    permits = [breaker.acquire() for _ in range(100)]
    for permit in permits:
        permit.release()
    assert breaker.state is CLOSED
    assert breaker.snapshot().probes == 0


def test_a_permit_is_settled_once_and_the_rest_is_ignored(clock):
    breaker = CircuitBreaker(2, clock=clock)
    permit = breaker.acquire()
    for _ in range(5):
        permit.failure()
    assert breaker.snapshot().consecutive_failures == 1
    permit.success()
    assert breaker.snapshot().consecutive_failures == 1
    released = breaker.acquire()
    released.release()
    released.failure()
    assert breaker.state is CLOSED


def test_a_permit_says_until_when_it_is_held_and_whether_it_was_settled(clock):
    for breaker in (CircuitBreaker(clock=clock), half_open(clock)):
        permit = breaker.acquire(lease_seconds=30)
        assert (permit.lease_until, permit.settled) == (clock.monotonic() + 30, False)
        permit.release()
        assert permit.settled is True


def test_leaving_a_permit_unsettled_gives_it_back_unused(clock):
    breaker = half_open(clock)
    with pytest.raises(ZeroDivisionError), breaker.acquire():
        _ = 1 / 0
    assert breaker.snapshot().probes == 0
    assert breaker.state is HALF_OPEN
    with breaker.acquire() as permit:
        permit.success()
    assert breaker.state is CLOSED


def test_an_attempt_that_was_under_way_when_the_circuit_opened_changes_nothing(clock):
    breaker = CircuitBreaker(1, clock=clock)
    late_success, late_failure, first = breaker.acquire(), breaker.acquire(), breaker.acquire()
    first.failure()
    clock.advance(30)
    retry_at = breaker.retry_at()
    late_success.success()
    late_failure.failure()
    assert breaker.state is OPEN
    assert breaker.retry_at() == retry_at
    clock.advance(30)
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize("result", ["success", "failure", "release"])
def test_a_result_of_before_the_trip_does_not_touch_the_half_open_circuit(clock, result):
    breaker = CircuitBreaker(1, 60, clock=clock)
    late, first = breaker.acquire(), breaker.acquire()
    first.failure()
    clock.advance(60)
    probe = breaker.acquire()
    getattr(late, result)()
    assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 1)
    probe.success()
    assert breaker.state is CLOSED


@pytest.mark.parametrize("result", ["success", "failure", "release"])
def test_a_probe_of_before_a_close_says_nothing_of_what_comes_after(clock, result):
    breaker = CircuitBreaker(2, 60, clock=clock)
    for _ in range(2):
        breaker.acquire().failure()
    clock.advance(60)
    probe = breaker.acquire()
    breaker.close()
    breaker.acquire().failure()
    getattr(probe, result)()
    assert (breaker.state, breaker.snapshot().consecutive_failures) == (CLOSED, 1)


def test_a_failure_of_before_the_trip_does_not_count_after_the_recovery(clock):
    breaker = CircuitBreaker(1, 60, clock=clock)
    late, first = breaker.acquire(), breaker.acquire()
    first.failure()
    clock.advance(60)
    breaker.acquire().success()
    late.failure()
    assert breaker.state is CLOSED


# -- open --------------------------------------------------------------------------------------------


def test_a_refusal_says_who_and_when_in_both_clocks(clock):
    breaker = opened(clock, name="anthropic/claude")
    clock.advance(20)
    with pytest.raises(CircuitOpenError, match=r"circuit of anthropic/claude is open; .* 40\.0 s") as caught:
        breaker.acquire()
    assert caught.value.domain == "anthropic/claude"
    assert caught.value.retry_after == pytest.approx(40)
    assert caught.value.retry_at == pytest.approx(clock.time() + 40)


class JumpingClock(FakeClock):
    """The machine's date is set by someone else."""

    jump = 0.0

    def time(self):
        return super().time() + self.jump


@pytest.mark.parametrize("jump", [-1e9, -3600.0, 3600.0, 1e9])
def test_setting_the_wall_clock_changes_nothing(jump):
    clock = JumpingClock()
    breaker = opened(clock)
    clock.jump = jump
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    clock.advance(60)
    probe = breaker.acquire(lease_seconds=10)
    clock.jump = -jump
    assert not breaker.would_permit()
    probe.success()
    assert breaker.state is CLOSED


def test_a_last_resort_takes_one_probe_before_its_time(clock):
    breaker = opened(clock)
    assert breaker.would_permit(last_resort=True)
    assert not breaker.would_permit()
    permit = breaker.acquire(last_resort=True)
    assert (breaker.state, breaker.snapshot().probes) == (OPEN, 1)
    with pytest.raises(CircuitOpenError):
        breaker.acquire(last_resort=True)
    permit.success()
    assert breaker.state is CLOSED


def test_a_last_resort_comes_once_in_a_recovery_timeout_however_it_ended(clock):
    breaker = opened(clock)
    breaker.hold_open(clock.monotonic() + 1000)
    breaker.acquire(last_resort=True).release()
    clock.advance(59.9)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire(last_resort=True)
    assert caught.value.retry_after == pytest.approx(0.1)
    clock.advance(0.1)
    breaker.acquire(last_resort=True).failure()
    assert not breaker.would_permit(last_resort=True)


def test_a_failed_last_resort_does_not_prolong_the_opening(clock):
    breaker = opened(clock)
    retry_at = breaker.retry_at()
    clock.advance(30)
    breaker.acquire(last_resort=True).failure()
    assert breaker.retry_at() == retry_at
    clock.advance(30)
    assert breaker.state is HALF_OPEN


def test_a_last_resort_under_way_is_one_of_the_half_open_probes(clock):
    breaker = opened(clock)
    early = breaker.acquire(last_resort=True)
    clock.advance(60)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    early.failure()
    assert breaker.state is HALF_OPEN
    breaker.acquire().success()
    assert breaker.state is CLOSED


def test_only_one_last_resort_is_under_way_although_two_probes_are_allowed(clock):
    breaker = opened(clock, half_open_calls=2)
    breaker.acquire(lease_seconds=1000, last_resort=True)
    breaker.hold_open(clock.monotonic() + 500)
    clock.advance(100)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire(last_resort=True)
    assert caught.value.retry_after == pytest.approx(400)


def test_a_last_resort_is_granted_from_the_very_end_of_a_forgotten_ones_lease(clock):
    breaker = opened(clock)
    breaker.hold_open(clock.monotonic() + 1000)
    breaker.acquire(lease_seconds=60, last_resort=True)
    clock.advance(60)
    assert breaker.would_permit(last_resort=True)
    assert breaker.acquire(last_resort=True).early


def test_a_last_resort_is_an_ordinary_permit_while_the_circuit_is_closed(clock):
    breaker = CircuitBreaker(2, clock=clock)
    for _ in range(2):
        breaker.acquire(last_resort=True).failure()
    assert breaker.state is OPEN


# -- how long it is open -----------------------------------------------------------------------------


def openings(breaker, clock, count):
    """Seconds of openings in a row, each ended by a failed probe."""
    seconds = []
    for _ in range(count):
        breaker.acquire().failure()
        seconds.append(breaker.retry_at() - clock.monotonic())
        clock.advance(seconds[-1])
        assert breaker.state is HALF_OPEN
    return seconds


def test_each_opening_after_a_failed_probe_lasts_twice_as_long_up_to_ten_minutes(clock):
    breaker = CircuitBreaker(1, clock=clock, rng=NO_JITTER)
    assert breaker.max_recovery_timeout_seconds == 600
    assert openings(breaker, clock, 6) == [60, 120, 240, 480, 600, 600]


def test_a_close_makes_the_next_opening_a_first_one(clock):
    breaker = CircuitBreaker(1, 60, clock=clock, rng=Draws(1))
    openings(breaker, clock, 3)
    breaker.acquire().success()
    assert openings(breaker, clock, 2) == [60, pytest.approx(132)]
    breaker.close()
    assert openings(breaker, clock, 1) == [60]


def test_the_first_opening_is_exact_and_later_ones_are_up_to_a_tenth_longer(clock):
    rng = Random(5)
    rows = [openings(CircuitBreaker(1, 60, 1, 200, clock=clock, rng=rng), clock, 4) for _ in range(500)]
    firsts, seconds, *capped = zip(*rows, strict=True)
    assert firsts == pytest.approx([60] * 500)
    for drawn, base in [(seconds, 120), (capped[0], 200), (capped[1], 200)]:
        assert base <= min(drawn) < base * 1.001
        assert base * (1 + JITTER) * 0.999 < max(drawn) <= base * (1 + JITTER) + 1e-6
    assert JITTER == 0.1


def test_two_breakers_that_failed_together_do_not_probe_together_for_long(clock):
    first, second = (CircuitBreaker(1, 60, clock=clock) for _ in range(2))
    for breaker in (first, second):
        breaker.acquire().failure()
    clock.advance(60)
    for breaker in (first, second):
        breaker.acquire().failure()
    assert first.retry_at() != second.retry_at()


def test_a_longest_opening_below_the_first_is_taken_for_as_much(clock):
    breaker = CircuitBreaker(1, 60, 1, 5, clock=clock, rng=NO_JITTER)
    assert breaker.max_recovery_timeout_seconds == 60
    assert openings(breaker, clock, 3) == [60, 60, 60]
    jittered = CircuitBreaker(1, 60, 1, 60, clock=clock, rng=Draws(1))
    assert openings(jittered, clock, 2) == [60, pytest.approx(66)]


def test_an_outage_of_any_length_is_survived(clock):
    breaker = CircuitBreaker(1, 60, 1, 1e300, clock=clock, rng=NO_JITTER)
    breaker._trips = 10**6
    breaker.acquire().failure()
    assert breaker.retry_at() - clock.monotonic() == pytest.approx(60 * 2.0**60)


def test_news_of_an_opening_counts_once_and_only_while_it_is_not_open(clock):
    breaker = CircuitBreaker(1, 60, clock=clock, rng=NO_JITTER)
    for ahead in (20, 40, 30):
        breaker.hold_open(clock.monotonic() + ahead)
    clock.advance(40)
    assert openings(breaker, clock, 1) == [120]
    breaker.hold_open(clock.monotonic() + 5)
    clock.advance(5)
    assert openings(breaker, clock, 1) == [480]


def test_a_failed_last_resort_does_not_lengthen_the_next_opening(clock):
    breaker = opened(clock, rng=NO_JITTER)
    breaker.acquire(last_resort=True).failure()
    clock.advance(60)
    assert openings(breaker, clock, 1) == [120]


def test_in_a_long_opening_a_last_resort_still_comes_once_in_the_first_ones_time(clock):
    breaker = CircuitBreaker(1, 60, clock=clock, rng=NO_JITTER)
    openings(breaker, clock, 4)
    breaker.acquire().failure()
    for _ in range(9):
        breaker.acquire(last_resort=True).failure()
        clock.advance(60)
    assert breaker.state is OPEN


# -- half-open ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_half_open_admits_so_many_at_a_time_and_so_many_successes_close_it(clock, calls):
    breaker = half_open(clock, half_open_calls=calls)
    probes = [breaker.acquire() for _ in range(calls)]
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    for probe in probes:
        assert breaker.state is HALF_OPEN
        probe.success()
    assert breaker.state is CLOSED
    assert breaker.snapshot().consecutive_failures == 0


def test_one_failure_reopens_for_the_whole_timeout_and_forgets_the_successes(clock):
    breaker = half_open(clock, half_open_calls=2, rng=NO_JITTER)
    breaker.acquire().success()
    other, failing = breaker.acquire(), breaker.acquire()
    clock.advance(7)
    failing.failure()
    assert breaker.retry_at() == clock.monotonic() + 120
    other.success()
    clock.advance(120)
    breaker.acquire().success()
    assert breaker.state is HALF_OPEN
    breaker.acquire().success()
    assert breaker.state is CLOSED


def test_while_a_probe_is_under_way_a_refusal_names_no_time_beyond_a_recovery_timeout(clock):
    breaker = half_open(clock)
    breaker.acquire(lease_seconds=630)
    for elapsed, retry_after in [(0, 60), (500, 60), (100, 30)]:
        clock.advance(elapsed)
        with pytest.raises(CircuitOpenError) as caught:
            breaker.acquire()
        assert caught.value.retry_after == pytest.approx(retry_after)


def test_a_probe_given_back_frees_its_place_and_closes_nothing(clock):
    breaker = half_open(clock)
    for _ in range(10):
        breaker.acquire().release()
    assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)


@pytest.mark.parametrize("result", ["success", "failure", "release"])
def test_a_forgotten_probe_is_given_back_and_its_late_result_says_nothing(clock, result):
    breaker = half_open(clock)
    forgotten = breaker.acquire(lease_seconds=10)
    clock.advance(9.9)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after == pytest.approx(0.1)
    clock.advance(0.1)
    assert breaker.snapshot().probes == 0
    getattr(forgotten, result)()
    assert breaker.state is HALF_OPEN
    probe = breaker.acquire()
    assert breaker.snapshot().probes == 1
    probe.success()
    assert breaker.state is CLOSED


def test_the_lease_is_fifteen_minutes_unless_told_otherwise(clock):
    breaker = half_open(clock)
    breaker.acquire()
    clock.advance(DEFAULT_LEASE_SECONDS - 0.1)
    assert DEFAULT_LEASE_SECONDS == 900
    assert not breaker.would_permit()
    clock.advance(0.1)
    assert breaker.would_permit()


async def test_a_cancelled_probe_is_given_back(clock):
    breaker = half_open(clock)

    async def probe():
        with breaker.acquire() as permit:
            await asyncio.sleep(3600)
            permit.success()

    task = asyncio.create_task(probe())
    await asyncio.sleep(0)
    assert breaker.snapshot().probes == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)


# -- from outside ------------------------------------------------------------------------------------


def test_the_later_of_two_deadlines_wins_whatever_their_order(clock):
    breaker = CircuitBreaker(clock=clock)
    now = clock.monotonic()
    breaker.hold_open(now + 10)
    assert (breaker.state, breaker.retry_at()) == (OPEN, now + 10)
    breaker.hold_open(now + 100)
    breaker.hold_open(now + 50)
    assert breaker.retry_at() == now + 100


def test_holding_open_until_a_time_that_has_passed_does_nothing(clock):
    breaker = CircuitBreaker(2, clock=clock)
    breaker.acquire().failure()
    breaker.hold_open(clock.monotonic())
    breaker.hold_open(clock.monotonic() - 5)
    assert breaker.state is CLOSED
    breaker.acquire().failure()
    assert breaker.state is OPEN


def test_what_another_process_found_out_ends_the_probes_of_before(clock):
    changes = []
    breaker = half_open(clock, on_change=lambda b: changes.append(b.state))
    probe = breaker.acquire()
    breaker.hold_open(clock.monotonic() + 30)
    assert changes == [OPEN, OPEN]
    probe.success()
    assert breaker.state is OPEN
    assert breaker.snapshot().probes == 0


def test_closing_from_outside_starts_anew(clock):
    breaker = CircuitBreaker(2, clock=clock)
    late = breaker.acquire()
    breaker.acquire().failure()
    breaker.close()
    assert breaker.snapshot().consecutive_failures == 1
    breaker.acquire().failure()
    breaker.close()
    late.failure()
    assert (breaker.state, breaker.snapshot().consecutive_failures) == (CLOSED, 0)


def test_every_change_of_state_is_told_once(clock):
    changes = []
    breaker = CircuitBreaker(2, 60, clock=clock, on_change=lambda b: changes.append(b.state))
    breaker.acquire().failure()
    breaker.acquire().success()
    assert changes == []
    for _ in range(2):
        breaker.acquire().failure()
    clock.advance(60)
    breaker.acquire().failure()
    clock.advance(132)
    breaker.acquire().success()
    assert changes == [OPEN, OPEN, CLOSED]


def test_a_snapshot_says_everything_for_people(clock):
    breaker = opened(clock, name="openai", half_open_calls=2)
    clock.advance(15)
    assert breaker.snapshot() == ("openai", OPEN, 1, pytest.approx(45), 0)
    clock.advance(45)
    breaker.acquire()
    assert breaker.snapshot() == ("openai", HALF_OPEN, 1, 0.0, 1)
