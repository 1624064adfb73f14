"""What a unit of quota is worth now: the price at which a prepaid credential competes with an API key.

Quota costs nothing when it is used and nothing when it expires, but what is used for one call cannot save
the API price of another. So its price is what the last unit of it is expected to save still.
"""

from __future__ import annotations

import json
import math
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from attune.models.quota import CREDITS, HOUR_S, KEPT_S, REFRESH_S, Rate, data_of, is_amount
from attune.models.state import Fact, FactKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.quota import Forecast, QuotaWindow

__all__ = ["Demand", "fits", "marginal_cost", "shadow_price"]

NEARLY_USED_UP = 0.9
STEPS = 100
"""Into how many classes calls are sorted by what the quota saves on them."""
ROUNDING = 1e-9
KEY = "*demand"
"""What stands for a window's name where a demand is stored; no window has it."""
REPRICE_S = 10.0
"""How long a price stands while nothing is reported: to find it takes longer than to decide on a call."""
MAX_PRICES = 16
"""Sets of windows with a price that is remembered; each report makes a new set."""


class Demand:
    """The calls that a prepaid credential could pay for: how much comes, and how much of it is worth what.

    A call's use of quota is its cost at the API prices of the credential's own model; its *worth* is what it
    would cost otherwise, on the cheapest other candidate that may serve it, as a part (0..1) of that use.
    Every call counts, whichever credential paid. ``since`` is when the watch began (UTC epoch seconds).
    """

    def __init__(self, since: float) -> None:
        self._rate = Rate(since)
        self._classes: dict[str, list[float]] = {}
        self._shares: dict[str, list[tuple[float, float]]] = {}
        self._refresh_at = -math.inf
        self._prices: dict[tuple[QuotaWindow, ...], tuple[float | None, float]] = {}

    def observe(self, at: float, cost_usd: float, otherwise_usd: float, windows: Sequence[str]) -> None:
        """Learn of a call that would cost so much with the credential's model and so much otherwise, and
        would use the ``windows`` of these names.
        """
        if cost_usd <= 0:
            return
        self._rate.observe(at, cost_usd)
        step = min(STEPS, int(STEPS * max(0.0, otherwise_usd / cost_usd) + ROUNDING))
        for name in windows:
            self._classes.setdefault(name, [0.0] * (STEPS + 1))[step] += self._rate.weight(at) * cost_usd

    def fact(self, provider: str, credential: str, now: float) -> Fact:
        """What is stored of it, so that a restart knows it."""
        classes = {name: [float(f"{each:.6g}") for each in found] for name, found in self._classes.items()}
        data = json.dumps([self._rate.numbers(), classes], separators=(",", ":"))
        return Fact(FactKind.QUOTA, f"{provider}#{credential}#{KEY}", now + KEPT_S, now, "demand", data)

    @classmethod
    def of(cls, fact: Fact) -> Demand | None:
        """The demand that a fact tells of; ``None`` if it is cleared or was not written by ``fact``."""
        values = data_of(fact)
        if not isinstance(values, list) or len(values) != 2 or not isinstance(values[1], dict):
            return None
        rate, classes = Rate.of(values[0]), values[1]
        if rate is None or not all(map(_is_classes, classes.values())):
            return None
        demand = cls(0.0)
        demand._rate, demand._classes = rate, classes
        return demand

    def forecast(self, now: float, until: float) -> Forecast:
        """The use of quota, in USD at API prices, if it paid for all calls from ``now`` to ``until``."""
        return self._rate.forecast(now, until)

    def mean(self, begin: float, end: float) -> float:
        """The mean of what comes between two times, by what was known at the last forecast."""
        return self._rate.mean(begin, end)

    def shares(self, window: str, now: float) -> Sequence[tuple[float, float]]:
        """Of all that comes, the parts that would use a window and are worth more than x, for x from 0 to 1,
        each with the width of the range of x in which it holds.
        """
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            self._shares = {name: self._above(classes) for name, classes in self._classes.items()}
        return self._shares.get(window, ())

    def _above(self, classes: list[float]) -> list[tuple[float, float]]:
        total = self._rate.total
        above = accumulate(reversed(classes[1:]))
        return [(len(list(equal)) / STEPS, amount / total) for amount, equal in groupby(above)]

    def price(self, windows: tuple[QuotaWindow, ...], now: float) -> float | None:
        """The greatest shadow price of the windows; the same ones have the same for ``REPRICE_S``."""
        price, until = self._prices.get(windows, (None, -math.inf))
        if now >= until:
            price = _dearest(windows, self, now)
            if len(self._prices) >= MAX_PRICES:
                self._prices.clear()
            self._prices[windows] = price, now + REPRICE_S
        return price


def _is_classes(value: object) -> bool:
    return isinstance(value, list) and len(value) == STEPS + 1 and all(map(is_amount, value))


def _dearest(windows: tuple[QuotaWindow, ...], demand: Demand, now: float) -> float | None:
    shortest = min(windows, key=lambda each: each.usual_seconds, default=None)
    prices = []
    for each in windows:
        inner = shortest if shortest and shortest.usual_seconds < each.usual_seconds else None
        if (price := shadow_price(each, demand, now, inner)) is not None:
            prices.append(price)
    return max(prices, default=None)


def shadow_price(
    window: QuotaWindow, demand: Demand, now: float, inner: QuotaWindow | None = None
) -> float | None:
    """What a dollar's worth of a window's quota is expected to save still, 0..1; ``None``: not known.

    With a known demand the best use of what is left is for the calls that are worth most, and its last unit
    saves what the last of them is worth: the dual price of that linear program. Demand is not known, so the
    price is the mean of that dual price over what may come, as in Talluri and van Ryzin, "A Randomized Linear
    Programming Method for Computing Network Bid Prices", Transportation Science 33 (1999). For one resource
    that mean is the integral over x from 0 to 1 of P(what comes that is worth more than x > what is left)
    (Littlewood's rule for each pair of worths). It falls with what is left and rises with what is to come; it
    is 0 when the rest would expire unused, and never above the worth of the most valuable calls. What the
    owner uses elsewhere is taken from what is left first. Through the windows of the kind of ``inner`` that
    follow each other until the reset no more comes than each of them holds.
    """
    left = window.left_usd(now)
    if left is None:
        return None
    until = window.ends(now)
    left -= window.elsewhere_usd * (until - now) / HOUR_S
    coming = demand.forecast(now, until)
    parts = [(coming.mean, math.inf)] if inner is None else _parts(inner, demand, now, until)
    price = sum(
        width * coming.times(_passing(share, parts, coming.mean)).above(left)
        for width, share in demand.shares(window.name, now)
    )
    return min(1.0, price)


def _parts(inner: QuotaWindow, demand: Demand, now: float, until: float) -> list[tuple[float, float]]:
    """What comes within each inner window until then, and what it can take."""
    parts, begin, limit = [], now, inner.left_usd(now)
    span, capacity = inner.usual_seconds, inner.capacity_usd
    if limit is None or capacity is None:
        return [(demand.mean(now, until), math.inf)]
    end = inner.ends(now)
    while begin < until:
        end = min(end, until)
        parts.append((demand.mean(begin, end), limit))
        begin, end, limit = end, end + span, capacity
    return parts


def _passing(share: float, parts: Sequence[tuple[float, float]], mean: float) -> float:
    """The part of all that comes that this share of it can use within the limits of the parts."""
    if mean <= 0:
        return 0.0
    return sum(min(share * amount, limit) for amount, limit in parts) / mean


def fits(cost_usd: float, windows: Sequence[QuotaWindow], now: float, under_way_usd: float = 0.0) -> bool:
    """Whether every window has room for a call beside the calls under way, all at API prices: the rest would
    be refused, or billed beside the plan. What a window is worth is an estimate, so of one that is not nearly
    used up it is enough that it is not spent; a grant of credits is known.
    """
    for each in windows:
        at = each.at(now)
        left, nearly = each.left_usd(now), at.name == CREDITS or (at.utilization or 0.0) >= NEARLY_USED_UP
        if at.spent or (nearly and left is not None and left < cost_usd + under_way_usd):
            return False
    return True


def marginal_cost(
    cost_usd: float, windows: Sequence[QuotaWindow], demand: Demand, now: float
) -> float | None:
    """What it costs in USD to let a credential pay for a call with quota; ``None``: not known, the size
    decides.

    ``cost_usd`` is what the call would cost at the API prices of the same model, and the limit. ``windows``
    are those that the call would use: the dearest of them decides. Windows lie within each other, so that a
    call which gives up the unit of one gives up that of the others, and never two savings. A window of which
    too little is known is left out. A spent window has a price as well: ask ``fits`` before.
    """
    price = demand.price(tuple(windows), now)
    return None if price is None else cost_usd * price
