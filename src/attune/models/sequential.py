"""Tests that may be looked at after every call: of a tier that fails too often, and of a success rate.

Both are e-processes (Shafer 2021; Ramdas, Grünwald, Vovk and Shafer 2023): a capital that, while nothing is
wrong, no betting increases on average. Ville's inequality then bounds the probability that it ever reaches
20 by 1/20, however often one looks, and however the rate moves below the limit.
"""

from __future__ import annotations

import math

__all__ = ["ENOUGH_FAILURES_OF", "TOLERATED_FAILURE_RATE", "FailureWatch", "highest_proven_rate"]

TOLERATED_FAILURE_RATE = 0.1
"""A tier is left upwards when its failure rate is above this beyond chance."""
ENOUGH_FAILURES_OF = 10
"""Calls before a tier's failure rate is judged at all: two failures of two are a bad moment."""
BEYOND_CHANCE = 20.0
"""The capital that is enough: 1 / 20 is the probability of being wrong."""

_FAILING = ((0.2, 0.4), (0.3, 0.4), (0.5, 0.2))
"""Failure rates above the tolerated that are bet on, and the share of the capital of each."""
_FINE_AGAIN = ((0.01, 0.5), (0.04, 0.5))
"""Failure rates below it, that are bet on once a tier was found failing."""

_AT_ONCE = 0.1
"""The share of the capital that is on the first call: most of what fails did so from the start."""
_PATIENCE = 200.0
"""The calls by which a third of the rest is spent; a change is noticed soonest within about so many."""
_SPENT_EVENLY_FROM = 10_000
RECOVERED_EVERY = 500.0
"""Calls between two false recoveries, on average at least."""


class FailureWatch:
    """Whether one tier fails too often at one key: tolerable until shown otherwise, then failing until over.

    While tolerable it bets that the failure rate has come to be above ``TOLERATED_FAILURE_RATE``. A change
    may come at any call, and a good past must not delay its notice; so the bets begin anew at every call
    (the e-detector of Shin, Ramdas and Rinaldo 2023, a Shiryaev-Roberts sum), each with its share of one
    capital: a tenth at the first, and ``0.00225 (1 + n / 200)^-1.5`` at the n-th. The shares of the first
    10,000 calls sum to less than 1, so by Ville's inequality a tier that fails in 10 % or less is called
    failing with a probability of less than 5 % within 10,000 looks. Later shares are that of the 10,000th
    call: at most 0.4 % more in every further 10,000. All this holds anew after a recovery.

    Once failing it bets that the rate is below the limit, with the same share at each call: while the rate
    is 10 % or more, a recovery is found once in ``RECOVERED_EVERY`` calls at most on average. Either
    finding needs evidence against the last, so that a tier at the border does not go back and forth.

    A few numbers, and a few multiplications a call, however long the history.
    """

    __slots__ = ("_calls", "_levels", "_run_sum", "failing", "last", "run_calls", "run_failures")

    def __init__(self) -> None:
        self.failing = False
        self.last = 0
        """The bucket of the last result, for whoever keeps a window."""
        self.run_calls = self.run_failures = 0
        """Calls and failures since the most likely time of the change (that of a CUSUM; Page 1954)."""
        self._run_sum = 0.0
        self._begin()

    def _begin(self) -> None:
        self._calls = 0
        self._levels = [0.0] * len(_FINE_AGAIN if self.failing else _FAILING)

    @property
    def evidence(self) -> float:
        """The capital won against the last finding; ``BEYOND_CHANCE`` overturns it."""
        return sum(self._levels)

    def observe(self, *, failed: bool) -> None:
        """Take in the result of one call."""
        self._calls += 1
        share = _share(self._calls, self.failing)
        levels = self._levels
        evidence = 0.0
        for i, bet in enumerate(_BETS[self.failing]):
            levels[i] = level = (levels[i] + share * bet[2]) * bet[failed]
            evidence += level
        self._count(1, failed, _CUSUM[failed])
        if evidence >= BEYOND_CHANCE:
            self._judge()

    def observe_many(self, calls: int, failures: int) -> None:
        """Take in results of which the order is not known, as if they had been evenly spread.

        The bound holds: a bet that begins before the last k of n results wins the k/n-th power of what all n
        multiply to, which is 1 at most on average because that is (Jensen).
        """
        if calls <= 0:
            return
        many = _spent(self._calls + calls, self.failing) - _spent(self._calls, self.failing)
        for i, (on_success, on_failure, part) in enumerate(_BETS[self.failing]):
            won = (calls - failures) * math.log(on_success) + failures * math.log(on_failure)
            each = min(won / calls, _MOST / calls)
            begun = calls if abs(each) < _LEAST else math.expm1(each * calls) / -math.expm1(-each)
            self._levels[i] = self._levels[i] * math.exp(each * calls) + many / calls * part * begun
        self._calls += calls
        drift = (calls - failures) * _CUSUM[False] + failures * _CUSUM[True]
        self._count(calls, failures, drift)
        self._judge()

    def correct(self, *, failed: bool) -> None:
        """Take in that an earlier result was a failure after all (or was none).

        As if the result had come now instead: with outcomes that are as late as each other, what is
        bet is that of the same calls some time ago.
        """
        for i, (on_success, on_failure, _) in enumerate(_BETS[self.failing]):
            self._levels[i] *= on_failure / on_success if failed else on_success / on_failure
        sign = 1 if failed else -1
        self._count(0, sign, sign * (_CUSUM[True] - _CUSUM[False]))
        self.run_failures = max(self.run_failures, 0)
        self.run_calls = max(self.run_calls, self.run_failures)
        self._judge()

    def _count(self, calls: int, failures: int, drift: float) -> None:
        self._run_sum += drift
        if self._run_sum > 0 or self.failing:
            self.run_calls += calls
            self.run_failures += failures
        else:
            self._run_sum = 0.0
            self.run_calls = self.run_failures = 0

    def _judge(self) -> None:
        if self.evidence < BEYOND_CHANCE or (self._calls < ENOUGH_FAILURES_OF and not self.failing):
            return
        if self.failing:
            self._run_sum = 0.0
            self.run_calls = self.run_failures = 0
        self.failing = not self.failing
        self._begin()


def _bets(rates: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float, float], ...]:
    """What each bet multiplies its capital by at a success and at a failure, and its share of new capital."""
    limit = TOLERATED_FAILURE_RATE
    return tuple(((1 - rate) / (1 - limit), rate / limit, part) for rate, part in rates)


_BETS = (_bets(_FAILING), _bets(_FINE_AGAIN))
_CUSUM = (math.log((1 - 0.2) / (1 - TOLERATED_FAILURE_RATE)), math.log(0.2 / TOLERATED_FAILURE_RATE))
_LEAST = 1e-9
_MOST = 60.0


def _share(call: int, failing: bool) -> float:
    """The capital that is put on the n-th call since the last finding."""
    if failing:
        return BEYOND_CHANCE / RECOVERED_EVERY
    if call > _SPENT_EVENLY_FROM:
        return _LATE_SHARE
    share = (1 - _AT_ONCE) / 2 / _PATIENCE / math.pow(1 + call / _PATIENCE, 1.5)
    return share + _AT_ONCE if call == 1 else share


_LATE_SHARE = _share(_SPENT_EVENLY_FROM, False)


def _spent(calls: int, failing: bool) -> float:
    """The capital that was put on the first calls: the integral of ``_share``, not less than its sum."""
    if failing or not calls:
        return calls * BEYOND_CHANCE / RECOVERED_EVERY
    early = min(calls, _SPENT_EVENLY_FROM)
    spent = _AT_ONCE + (1 - _AT_ONCE) * (1 - 1 / math.sqrt(1 + early / _PATIENCE))
    return spent + (calls - early) * _LATE_SHARE


_BETTER = ((0.25, 0.1), (0.5, 0.45), (0.75, 0.45))
"""How much of the way from a success rate to 1 is bet on, and the share of the capital of each."""
_GIVEN_UP = 1.0
"""A rate that was proven stays so until the capital against it is less than it began with."""


def highest_proven_rate(successes: float, failures: float, before: int = 0) -> int:
    """The highest success rate, in whole percent, that is proven: 0 when none is.

    A rate m is proven once the capital that bets on more, the mean over t of
    ``(1 + (1 - m) t / m)^successes (1 - t)^failures`` with t = 1/4, 1/2, 3/4, reaches 20: for calls whose
    true rate is m or less that ever happens with a probability of at most 5 % (Ville's inequality). One
    of ``before`` percent that was proven earlier stays until the capital is below 1. ``before`` makes
    this the state of a test that is looked at after each call.
    """
    proven = before
    while proven and _capital(proven, successes, failures) < _GIVEN_UP:
        proven -= 1
    while proven < 99 and _capital(proven + 1, successes, failures) >= BEYOND_CHANCE:
        proven += 1
    return proven


def _capital(percent: int, successes: float, failures: float) -> float:
    capital = 0.0
    for on_success, on_failure, part in _RAISES[percent]:
        capital += part * math.exp(min(successes * on_success + failures * on_failure, _MOST))
    return capital


def _raises(rate: float) -> tuple[tuple[float, float, float], ...]:
    """What the logarithm of each bet against a rate gains at a success and at a failure, and its share."""
    return tuple(
        (math.log1p((1 - rate) * way / rate) if rate else math.inf, math.log1p(-way), part)
        for way, part in _BETTER
    )


_RAISES = tuple(_raises(percent / 100) for percent in range(100))
