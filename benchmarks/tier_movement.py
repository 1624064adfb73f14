"""What moving between tiers gets right and wrong, by simulation: false alarms, delays, changes of mind.

The test is attune's ``FailureWatch`` at a tolerated failure rate of 10 %; beside it stands the best test for
one known rise, a CUSUM that alarms falsely in one run of 20. Seeded: the same figures at every run.

Usage: ``python benchmarks/tier_movement.py [--runs 1000]``.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
from statistics import mean, median, quantiles

from attune.models.sequential import FailureWatch

LOOKS = 10_000
RATES = (0.3, 0.2, 1.0)
PASTS = (0, 100, 500, 5000)
STEADY = (0.08, 0.1, 0.12, 0.15, 0.2, 0.3)


class Cusum:
    """Page's test of 10 % against one rise; ``bound`` is the sum that alarms."""

    def __init__(self, rise: float, bound: float = math.inf) -> None:
        self.steps = (math.log((1 - rise) / 0.9), math.log(rise / 0.1))
        self.bound, self.sum, self.most = bound, 0.0, 0.0

    def observe(self, *, failed: bool) -> None:
        self.sum = max(0.0, self.sum) + self.steps[failed]
        self.most = max(self.most, self.sum)

    @property
    def failing(self) -> bool:
        return self.most >= self.bound


def fed(test: FailureWatch | Cusum, rate: float, calls: int, rng: random.Random) -> int:
    """Let a test see calls until it alarms; how many that were."""
    for call in range(1, calls + 1):
        test.observe(failed=rng.random() < rate)
        if test.failing:
            return call
    return calls


def delays(make: type[FailureWatch] | functools.partial[Cusum], past: int, rate: float, runs: int) -> float:
    """The median of the calls from a rise until it is found, where nothing was found before."""
    rng = random.Random(2)
    found = []
    for _ in range(runs):
        test = make()
        fed(test, 0.1, past, rng)
        if not test.failing:
            found.append(fed(test, rate, LOOKS, rng))
    return median(found)


def changes(rate: float, rng: random.Random) -> int:
    """How often a watch changes its mind in 5,000 calls."""
    watch, flips, before = FailureWatch(), 0, False
    for _ in range(5000):
        watch.observe(failed=rng.random() < rate)
        flips += watch.failing is not before
        before = watch.failing
    return flips


def bound_of(rise: float, runs: int) -> float:
    """The bound at which a CUSUM alarms falsely in one run of 20."""
    rng, most = random.Random(3), []
    for _ in range(runs):
        test = Cusum(rise)
        fed(test, 0.1, LOOKS, rng)
        most.append(test.most)
    return quantiles(most, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    rng, alarms = random.Random(1), 0
    for _ in range(runs):
        watch = FailureWatch()
        fed(watch, 0.1, LOOKS, rng)
        alarms += watch.failing
    print(f"false alarms within {LOOKS:,} calls at 10 %: {alarms / runs:.1%} of {runs} runs")
    for rate in RATES:
        row = " / ".join(f"{delays(FailureWatch, past, rate, runs):.0f}" for past in PASTS)
        print(f"calls to notice 10 -> {rate:.0%} after {PASTS} calls at 10 %, median: {row}")
    for rate in RATES[:2]:
        best = functools.partial(Cusum, rate, bound_of(rate, runs))
        print(f"the same by a CUSUM for {rate:.0%} alone, after 500: {delays(best, 500, rate, runs):.0f}")
    for rate in STEADY:
        print(
            f"changes of mind in 5,000 calls at {rate:.0%}: {mean(changes(rate, rng) for _ in range(50)):.1f}"
        )


if __name__ == "__main__":
    main()
