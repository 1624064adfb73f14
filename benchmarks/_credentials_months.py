"""Months of three kinds of user: their calls, and what is prepaid.

All is invented, in the likeness of what coding agents send; prices are those of the catalog's models. A
call's worth differs for two reasons: some may be served by another company's cheaper model as well, and what
the plan adds to each prompt weighs on small calls.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import NamedTuple

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
MONTH = 30 * DAY
START = 1_767_571_200.0
"""A Monday, 2026-01-05 00:00 UTC."""

USD_IN, USD_OUT = 2e-6, 10e-6
"""The plan's capable model, a token."""
OVERHEAD_TOKENS = 260
"""What the plan's program adds to each prompt; credits pay for what a key sends."""
ELSEWHERE = (1.0, 0.5, 0.375)
"""The price of the cheapest model that will do, against the plan's: its own, or one of two other
companies."""


class Call(NamedTuple):
    """``quota_usd`` is its use of quota at API prices, ``api_usd`` what it costs on a key; ``guess`` is how
    far a prediction of both is off.
    """

    at: float
    lines: int
    quota_usd: float
    api_usd: float
    guess: float


class Work(NamedTuple):
    """A stream of calls: its hours, calls an hour on a working day and on the weekend, turns a call, and the
    weights of what else will do.
    """

    hours: tuple[int, int]
    calls: float
    weekend: float
    turns: int
    weights: tuple[float, float, float]


class Kind(NamedTuple):
    """A kind of user: the streams, and the prepaid windows by name with their capacity in USD."""

    name: str
    work: tuple[Work, ...]
    capacity: dict[str, float]


KINDS = (
    Kind(
        "light, on Pro",
        (Work((9, 18), 1.5, 0.2, 4, (0.6, 0.3, 0.1)),),
        {"five_hour": 5.0, "seven_day": 40.0},
    ),
    Kind(
        "heavy, on Max",
        (
            Work((8, 19), 35.0, 0.15, 8, (0.4, 0.4, 0.2)),
            Work((1, 4), 40.0, 1.0, 6, (0.1, 0.4, 0.5)),
        ),
        {"five_hour": 16.0, "seven_day": 190.0},
    ),
    Kind(
        "team, key and credits",
        (
            Work((7, 20), 40.0, 0.1, 6, (0.35, 0.4, 0.25)),
            Work((2, 5), 30.0, 0.5, 6, (0.1, 0.3, 0.6)),
        ),
        {"credits": 500.0},
    ),
)


def month(kind: Kind, seed: int) -> list[Call]:
    """The calls of a month, in order. Days differ from each other, by a quarter of their usual load.

    It ends with a window, after 28 to 35 days with a plan and 30 with credits: so nothing that is kept for
    later is taken for lost.
    """
    rng = random.Random(f"{kind.name} {seed}")
    calls: list[Call] = []
    last = min(each[-1] for each in resets(kind, seed).values())
    for day in range(35):
        for work in kind.work:
            busy = rng.gammavariate(16, 1 / 16) * (work.weekend if day % 7 >= 5 else 1.0)
            begin, end = (START + day * DAY + hour * HOUR for hour in work.hours)
            at = begin
            while busy > 0 and (at := at + rng.expovariate(work.calls * busy) * HOUR) < end:
                calls.append(_call(at, work, 0 if "credits" in kind.capacity else OVERHEAD_TOKENS, rng))
    return sorted(call for call in calls if call.at < last)


def _call(at: float, work: Work, added: int, rng: random.Random) -> Call:
    lines = max(10, round(rng.lognormvariate(6.0, 1.1)))
    tokens_in, tokens_out = 2000 + 4 * lines, max(500, lines)
    if rng.random() < 0.5:  # half of the calls reuse what they or others sent before, at the price of a read
        tokens_in //= 4
    (other,) = rng.choices(ELSEWHERE, work.weights)
    usd = work.turns * (tokens_in * USD_IN + tokens_out * USD_OUT)
    return Call(at, lines, usd + work.turns * added * USD_IN, other * usd, rng.lognormvariate(0, 0.3))


def resets(kind: Kind, seed: int) -> dict[str, list[float]]:
    """When each window begins anew, from before the month to after it.

    A week begins on a day and hour of its own; windows of five hours follow each other from there, so that
    the last one of a week is cut to three.
    """
    offset = random.Random(f"resets {seed}").randrange(168) * HOUR
    weeks = [START + offset + number * WEEK for number in range(-1, 5)]
    ends = {"seven_day": weeks, "credits": [START, START + MONTH]}
    ends["five_hour"] = [
        first + part * 5 * HOUR for first, _ in pairwise(weeks) for part in range(34)
    ] + weeks[-1:]
    return {name: ends[name] for name in kind.capacity}
