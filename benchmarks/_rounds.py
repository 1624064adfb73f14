"""Timing of single calls, for the workers of ``decision.py``. Standard library only: peers run it too.

A round times many calls one by one with ``perf_counter_ns`` and takes p50 and p99 of them; rounds of
all cases take turns, and the median over the rounds is reported. What a call costs therefore includes
one reading of the clock, about 0.05 us. Decisions alone come first, over a history that does not grow;
a pair of decision and observation adds a record each time.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

STAGES = 1000
MODELS = 10
ROUNDS = 5
CALLS = 2000
CAP_SECONDS = 60.0
"""No round but the first is begun after this long."""


class Case(Protocol):
    """A router with a history. ``decide`` is timed alone, and together with ``observe``."""

    history: int
    what: str

    def prepare(self, call: int) -> None:
        """What is not timed: move the clock, make the record."""

    def decide(self, call: int) -> object:
        """One decision for the stage ``call % STAGES``."""

    def observe(self, call: int) -> object:
        """Take in the outcome of one call."""


class Percentiles(NamedTuple):
    """Of one round, in microseconds."""

    p50: float
    p99: float


def one_round(case: Case, first: int, calls: int, *, pair: bool) -> Percentiles:
    """Time ``calls`` decisions, each with its observation if ``pair``."""
    taken: list[int] = []
    clock = time.perf_counter_ns
    for call in range(first, first + calls):
        case.prepare(call)
        start = clock()
        case.decide(call)
        if pair:
            case.observe(call)
        taken.append(clock() - start)
    return Percentiles(percentile(taken, 0.50) / 1e3, percentile(taken, 0.99) / 1e3)


def percentile(values: list[int], q: float) -> int:
    """The value that a share ``q`` of the values does not exceed (nearest rank)."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def in_turns(cases: Sequence[Case], calls: int, *, pair: bool) -> list[dict[str, float]]:
    """The medians over the rounds of each case, and how many rounds there were."""
    began = time.perf_counter()
    taken: list[list[Percentiles]] = [[] for _ in cases]
    for number in range(ROUNDS):
        if number and time.perf_counter() - began > CAP_SECONDS:
            break
        for case, rounds in zip(cases, taken, strict=True):
            rounds.append(one_round(case, number * calls, calls, pair=pair))
    return [
        {
            "p50_us": round(statistics.median(one.p50 for one in rounds), 2),
            "p99_us": round(statistics.median(one.p99 for one in rounds), 2),
            "rounds": len(rounds),
        }
        for rounds in taken
    ]


def run(cases: Sequence[Case]) -> None:
    """Measure the cases and print the result as JSON."""
    alone = in_turns(cases, CALLS, pair=False)
    pairs = in_turns(cases, CALLS, pair=True)
    print(
        json.dumps(
            [
                {"what": case.what, "history": case.history, "decide": decide, "pair": pair}
                for case, decide, pair in zip(cases, alone, pairs, strict=True)
            ]
        )
    )
