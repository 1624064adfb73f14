"""What is left of a credential's quota: its windows, how fast they are used, and when they run out.

Prepaid credits are a window too: their grant is its capacity, their expiry its reset.
"""

from __future__ import annotations

import json
import math
import operator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.models.state import Fact, FactKind

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CREDITS",
    "Forecast",
    "USED_UP",
    "QuotaWindow",
    "Rate",
    "RunOut",
    "burn_of",
    "fact_of",
    "meter_of",
    "run_out",
    "window_of",
]

HOUR_S = 3600.0
SLOTS = 168
DAY_S = 24 * HOUR_S
WEEK_S = SLOTS * HOUR_S
CREDITS = "credits"
"""The name of the window that is a grant of credits: its reset is its end, nothing comes after it."""
USUAL_SECONDS = {"five_hour": 5 * HOUR_S}
"""How long a window lasts whose reset is not known; a week for any other name."""

HALF_LIFE_S = 14 * DAY_S
"""How fast the past is forgotten."""
MOST_HALF_LIVES = 500.0
"""As many are told apart: 19 years, which only a clock that was set wrong will pass."""
FORGOTTEN_S = 8 * WEEK_S
"""A pause longer than this is not looked at as time without use: the program may not have run."""
PRIOR_EVENTS = 3.0
"""So many events draw an hour of the day, and a day of the week, toward the mean."""
REFRESH_S = 300.0
"""A profile is computed anew after so long: it changes slowly, and costs more than a forecast does."""

Z_90 = 1.6448536
USED_UP = "its quota window is used up"
"""Why a credential, or some models of it, are off until a reset: what is said, and stored, of it."""
KEPT_S = 35 * DAY_S
"""How long a report is kept: the same for all, so that the later learned always has the later deadline."""
MAX_DATA_CHARS = 20_000
FARTHEST_S = 400 * DAY_S
"""A reset is not looked at beyond this: what was told may be anything, and a forecast takes time by its
length.
"""
LONGEST_S = 40 * DAY_S
"""A reset that a plan tells of is not believed beyond this."""
LEAST_USED = 1e-6
MOST_USED = 100.0


class QuotaWindow(NamedTuple):
    """One window of a credential's quota.

    ``name`` is the provider's: ``five_hour``, ``seven_day``, ``seven_day_opus``, ``credits`` ...
    ``utilization`` is the part that is used, 0..1, above it where the plan is overdrawn; ``None`` if it was
    not told, which is not 0. ``resets_at`` and ``learned_at`` are UTC epoch seconds, the former ``None`` if
    it was not told. ``capacity_usd`` is what the whole of it would cost at API prices, ``None`` while not
    known; ``elsewhere_usd`` what its owner uses of it elsewhere, in the same USD an hour.
    """

    name: str
    utilization: float | None
    resets_at: float | None
    learned_at: float
    capacity_usd: float | None = None
    elsewhere_usd: float = 0.0

    @property
    def spent(self) -> bool:
        """Whether nothing was left of it when it was learned."""
        return self.utilization is not None and self.utilization >= 1

    def at(self, now: float) -> QuotaWindow:
        """The window as it is known at ``now``: unused, with an unknown reset, once its reset has passed;
        credits are used up then. Of one that was spent with no reset told, nothing is known after an hour.
        """
        if self.resets_at is None and self.spent and now >= self.learned_at + HOUR_S:
            return self._replace(utilization=None)
        if self.resets_at is None or now < self.resets_at:
            return self
        if self.name == CREDITS:
            return self._replace(utilization=1.0)
        return self._replace(utilization=0.0, resets_at=None, learned_at=self.resets_at)

    def left_usd(self, now: float) -> float | None:
        """What is left at ``now`` in USD at API prices, at least 0; ``None`` if it is not known."""
        used = self.at(now).utilization
        if used is None or self.capacity_usd is None:
            return None
        return min(1.0, max(0.0, 1 - used)) * self.capacity_usd

    def ends(self, now: float) -> float:
        """When what is left at ``now`` is lost; as if the window began now where the reset is not known."""
        known = self.at(now).resets_at
        return now + self.usual_seconds if known is None else min(known, now + FARTHEST_S)

    def plausible(self) -> QuotaWindow:
        """The window of a plan without what cannot be: a use below a millionth is none, one above
        ``MOST_USED`` is that, and a reset that lies too far from when it was learned is not known.
        """
        used, resets_at = self.utilization, self.resets_at
        if used is not None:
            used = min(MOST_USED, used) if used >= LEAST_USED else 0.0
        if resets_at is not None and abs(resets_at - self.learned_at) > LONGEST_S:
            resets_at = None
        return self._replace(utilization=used, resets_at=resets_at)

    @property
    def usual_seconds(self) -> float:
        """How long a window of this name lasts: a week unless it is known to be shorter."""
        return USUAL_SECONDS.get(self.name, WEEK_S)


def fact_of(
    window: QuotaWindow,
    provider: str,
    credential: str,
    burn: Rate | None = None,
    meter: Sequence[float] = (),
) -> Fact:
    """What is stored of a window, its burn rate and the state of its meter, so that a restart and other
    processes know them. Of several the one learned last is kept.
    """
    data = json.dumps([*window[1:], burn and burn.numbers(), [*meter]], separators=(",", ":"))
    used = "unknown" if window.utilization is None else f"{window.utilization:.0%} used"
    key = f"{provider}#{credential}#{window.name}"
    return Fact(FactKind.QUOTA, key, window.learned_at + KEPT_S, window.learned_at, used, data)


def window_of(fact: Fact) -> QuotaWindow | None:
    """The window that a fact tells of; ``None`` if it is cleared or was not written by ``fact_of``."""
    values = data_of(fact)
    if not isinstance(values, list) or len(values) != len(QuotaWindow._fields) + 1:
        return None
    used, resets_at, learned_at, capacity, elsewhere = values[:-2]
    if not is_amount(learned_at) or not is_amount(elsewhere):
        return None
    if not all(each is None or is_amount(each) for each in (used, resets_at, capacity)):
        return None
    return QuotaWindow(fact.key.rsplit("#", 1)[-1], *values[:-2]).plausible()


def burn_of(fact: Fact) -> Rate | None:
    """The burn rate that was stored with a window, in parts of the whole; ``None`` if there is none."""
    return None if window_of(fact) is None else Rate.of(data_of(fact)[-2])


def meter_of(fact: Fact) -> list[float]:
    """The state of the meter that was stored with a window; empty if there is none."""
    values = None if window_of(fact) is None else data_of(fact)[-1]
    return values if isinstance(values, list) and all(map(is_amount, values)) else []


def data_of(fact: Fact) -> Any:
    """What was stored in a fact about quota; ``None`` if it is cleared, too long, or no JSON."""
    if fact.kind is not FactKind.QUOTA or not fact.until or len(fact.data) > MAX_DATA_CHARS:
        return None
    try:
        return json.loads(fact.data)
    except (ValueError, RecursionError):
        return None


def is_amount(value: object) -> bool:
    """A finite number, 0 or more; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


class Forecast(NamedTuple):
    """A sum that is to come, by its mean and variance; taken for normal."""

    mean: float
    variance: float

    def above(self, amount: float) -> float:
        """The probability that it will be more than ``amount``."""
        if self.variance <= 0:
            return float(self.mean > amount)
        return math.erfc((amount - self.mean) / math.sqrt(2 * self.variance)) / 2

    def times(self, share: float) -> Forecast:
        """The part of the events that is ``share`` of the sum, of the same sizes."""
        return Forecast(share * self.mean, share * self.variance)

    def quantile(self, z: float) -> float:
        """The amount that lies ``z`` standard deviations above the mean."""
        return self.mean + z * math.sqrt(self.variance)


class Rate:
    """How much comes an hour, learned from events: a compound Poisson process with the rhythm of a week.

    The rate in an hour of the week is the mean rate times a factor of the hour of the day and one of the day,
    each drawn toward 1 as if ``PRIOR_EVENTS`` events had come at the mean rate (a gamma prior). The past
    counts half after ``HALF_LIFE_S``. ``since`` and all times are UTC epoch seconds, the unit of amounts is
    the caller's.
    """

    def __init__(self, since: float) -> None:
        self._origin = self._seen_until = since
        self._amounts = [0.0] * SLOTS
        self._exposures = [0.0] * SLOTS
        self._events = self._squares = 0.0
        self._profile = [0.0] * SLOTS
        self._before = [0.0] * (SLOTS + 1)
        self._refresh_at = -math.inf

    def numbers(self) -> list[float]:
        """All that was learned, as ``of`` takes it."""
        learned = (self._events, self._squares, *self._amounts, *self._exposures)
        return [self._origin, self._seen_until, *(float(f"{each:.6g}") for each in learned)]

    @classmethod
    def of(cls, numbers: object) -> Rate | None:
        """The rate whose ``numbers`` these are; ``None`` if they are none."""
        if not isinstance(numbers, list) or len(numbers) != 4 + 2 * SLOTS or not all(map(is_amount, numbers)):
            return None
        rate = cls(numbers[0])
        rate._seen_until, rate._events, rate._squares = numbers[1:4]
        rate._amounts, rate._exposures = numbers[4 : 4 + SLOTS], numbers[4 + SLOTS :]
        return rate

    def weight(self, at: float) -> float:
        """What an event counts, against one when the learning began."""
        return math.exp2(min(MOST_HALF_LIVES, (at - self._origin) / HALF_LIFE_S))

    @property
    def total(self) -> float:
        """All that came, each event at its ``weight``."""
        return sum(self._amounts)

    def observe(self, at: float, amount: float) -> None:
        """Learn that ``amount`` came."""
        weight = self.weight(at)
        self._amounts[_slot(at)] += weight * amount
        self._events += weight
        self._squares += weight * amount * amount

    def forecast(self, now: float, until: float) -> Forecast:
        """What comes from ``now`` to ``until``.

        The variance is that of a compound Poisson sum, mean x E[amount squared] / E[amount], and that of the
        rate, which is mean squared x (sum of squares) / (square of the sum) of the events that tell of these
        days and hours: for less than a week only a part of all.
        """
        self._learn_profile(now)
        total, squares = self.total, self._squares
        if total * total <= 0 or until <= now:
            return Forecast(0.0, 0.0)
        mean, seconds = self.mean(now, until), until - now
        parts = min(7.0, max(1.0, WEEK_S / seconds)) + min(24.0, max(1.0, DAY_S / seconds)) - 1
        rate = parts * squares * self.weight(now) / total**2
        return Forecast(mean, mean * squares / total + mean * mean * rate)

    def mean(self, begin: float, end: float) -> float:
        """What is expected between two times, by what was known at the last forecast."""
        return self._cumulative(end) - self._cumulative(begin)

    def _cumulative(self, at: float) -> float:
        weeks, slot = at // WEEK_S, _slot(at)
        return weeks * self._before[SLOTS] + self._before[slot] + at % HOUR_S * self._profile[slot]

    def _learn_profile(self, now: float) -> None:
        if now < self._refresh_at:
            return
        self._refresh_at = now + REFRESH_S
        self._watch(now)
        amounts, exposures = self._amounts, self._exposures
        total, watched = self.total, sum(exposures)
        if total <= 0 or watched <= 0:
            return
        mean = total / watched
        prior = PRIOR_EVENTS * total / self._events
        hours = [
            (sum(amounts[hour::24]) + prior) / (mean * sum(exposures[hour::24]) + prior) for hour in range(24)
        ]
        self._profile = []
        for first in range(0, SLOTS, 24):
            watched_hours = exposures[first : first + 24]
            expected = mean * sum(map(operator.mul, watched_hours, hours))
            factor = (sum(amounts[first : first + 24]) + prior) / (expected + prior)
            self._profile += [mean * factor * hour for hour in hours]
        self._before = [0.0, *accumulate(rate * HOUR_S for rate in self._profile)]

    def _watch(self, now: float) -> None:
        """Count the time since the last look as time in which nothing but what was observed came."""
        at = max(self._seen_until, now - FORGOTTEN_S)
        while at < now:
            end = min(now, (at // HOUR_S + 1) * HOUR_S)
            self._exposures[_slot(at)] += self.weight(end) * (end - at)
            at = end
        self._seen_until = max(self._seen_until, now)


def _slot(at: float) -> int:
    return int(at // HOUR_S) % SLOTS


class RunOut(NamedTuple):
    """When a window runs out (UTC epoch seconds), and between which times with 90 %; ``None``: not before
    its reset.
    """

    earliest: float | None
    expected: float | None
    latest: float | None


def run_out(window: QuotaWindow, burn: Rate, now: float) -> RunOut | None:
    """When a window runs out if it goes on being used as ``burn`` has learned, in parts of the whole;
    ``None`` if its utilisation is not known.
    """
    used = window.at(now).utilization
    if used is None:
        return None
    ends = window.ends(now)
    return RunOut(*(_reaches(burn, 1 - used, z, now, ends) for z in (Z_90, 0.0, -Z_90)))


def _reaches(burn: Rate, left: float, z: float, now: float, ends: float) -> float | None:
    """The first time at which the quantile ``z`` of what is used from ``now`` on is ``left``."""
    if left <= 0:
        return now
    if burn.forecast(now, ends).quantile(z) < left:
        return None
    early, late = now, ends
    while late - early > 1:
        middle = (early + late) / 2
        if burn.forecast(now, middle).quantile(z) < left:
            early = middle
        else:
            late = middle
    return late
