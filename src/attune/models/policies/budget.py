"""As much reward as a budget buys: models are mixed over the recent keys so that the ceiling is met."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.policies.policy import (
    INDIFFERENCE,
    certain,
    doubt,
    exploration_floors,
    posterior_odds,
    with_floors,
)
from attune.models.policy_names import BUDGET_PERIODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting
    from attune.models.telemetry import Decided

__all__ = ["Allowance", "BudgetPolicy"]

RECENT_CALLS = 256
"""The calls that stand for those to come."""
SOLVED_EVERY = 16
CORRECTED_OVER = 100
"""Calls over which what was spent too little or too much is made up for: long beside a dear call's share."""
SURPLUS_CALLS = 40
LEARNING_SURPLUS_CALLS = 100
OVERDRAFT_CALLS = 30
RESERVE_CALLS = 10
"""What may be carried over, what may be spent ahead, and what of that a dear call has to leave, in calls'
worth of the ceiling. In the first 480 calls more is carried over: what is not spent while nothing is known
waits until it is.
"""
EXPLORED_UP_TO = 5.0
"""A candidate dearer than so many ceilings is not explored for its own sake."""
HOPELESS_FROM = 1.25
"""Ceilings that the recent calls cost at least: less is chance, and pays for itself in cheaper calls."""
TIER_STEP = 10.0
"""How much dearer a tier is than the one below, until a cost is seen; so in the catalog, roughly."""


class Allowance:
    """Dollars that come in by the call, the day or the month (30 days), and those that were spent.

    ``ceiling`` is the income a call, for periods at the recent rate of calls. ``balance`` is what is left,
    at most ``SURPLUS_CALLS`` ceilings (more at first). Raises ``InvalidRequestError`` for an amount that is
    not above 0 or an unknown period.
    """

    def __init__(self, usd: float, per: str = "call") -> None:
        if not (math.isfinite(usd) and usd > 0):
            raise InvalidRequestError(f"a budget must be above 0 dollars, not {usd!r}")
        if per not in BUDGET_PERIODS:
            raise InvalidRequestError(f"a budget is per {', '.join(BUDGET_PERIODS)}, not per {per!r}")
        self._usd = usd
        self._period_s = BUDGET_PERIODS[per]
        self._last: float | None = None
        self.ceiling = 0.0 if self._period_s else usd
        self.balance = 0.0
        self._calls = 0

    def book(self, cost: float, now: float) -> None:
        """One more call, which cost so many USD, at ``now`` (UTC epoch seconds)."""
        income = self._usd
        if self._period_s:
            elapsed = 0.0 if self._last is None else max(now - self._last, 0.0)
            income = self._usd * elapsed / self._period_s
            rate = 1.0 if self.ceiling == 0 else 2 / RECENT_CALLS
            self.ceiling += rate * (income - self.ceiling)
            self._last = now
        cap = max(LEARNING_SURPLUS_CALLS - self._calls / 8, SURPLUS_CALLS)
        self._calls += 1
        self.balance = min(self.balance + income - cost, cap * self.ceiling)

    @property
    def target(self) -> float:
        """USD the next calls should cost each, so that the balance comes back to 0."""
        return max(self.ceiling + self.balance / CORRECTED_OVER, 0.3 * self.ceiling)

    @property
    def purse(self) -> float:
        """USD that are there to be spent, with what may be spent ahead."""
        return self.balance + OVERDRAFT_CALLS * self.ceiling

    @property
    def overspent(self) -> bool:
        """Whether the debt is beyond what a surplus could ever have covered."""
        return self.balance < -LEARNING_SURPLUS_CALLS * self.ceiling


class _Step(NamedTuple):
    """One step up a call's hull: so much more reward for so many more dollars, and 1 / (sd sqrt 2)."""

    reward: float
    cost: float
    sharpness: float


class BudgetRule(NamedTuple):
    """A candidate is worth ``mean - price * cost``. ``ceiling`` and ``purse`` are those of ``Allowance``,
    ``hopeless`` that of ``_known_costs``.
    """

    price: float
    ceiling: float
    purse: float
    hopeless: bool = False

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Rule``."""
        costs = _known_costs(prospects, hopeless=self.hopeless)
        price, cheapest = self.price, min(costs)
        most = max(self._most(), cheapest)
        worth = [
            p.mean - price * c if c <= most else -math.inf for p, c in zip(prospects, costs, strict=True)
        ]
        if not setting.explores:
            return certain(max(range(len(worth)), key=worth.__getitem__), len(worth))
        vector = posterior_odds(worth, [doubt(p) for p in prospects])
        limit = min(max(EXPLORED_UP_TO * self.ceiling, cheapest), most)
        affordable = [cost <= limit for cost in costs]
        return with_floors(vector, exploration_floors(prospects, affordable))

    def why_not(self, place: int, prospects: Sequence[Prospect]) -> str:
        """As in ``Rule``."""
        cost = _known_costs(prospects, hopeless=self.hopeless)[place]
        if cost > self._most():
            return f"${cost:.6f} is more than the budget has come to for one call so far"
        return f"at ${cost:.6f} worth less than others, while a dollar is worth {self.price:.3g}"

    def numbers(self) -> dict[str, object]:
        """As in ``Rule``."""
        return {"policy": BudgetPolicy.name, **self._asdict()}

    def _most(self) -> float:
        """The most that one call may cost: a dear one has to leave a reserve for the usual ones."""
        return max(
            self.purse - RESERVE_CALLS * self.ceiling, min(self.purse / 2, RESERVE_CALLS * self.ceiling)
        )


class BudgetPolicy:
    """Bandits with knapsacks (Badanidiyuru, Kleinberg and Slivkins 2013) by Thompson sampling with a price.

    A candidate is worth ``mean - price * cost``, and each is drawn as often as it is believed to be worth
    the most. The price of a dollar is that at which the recent calls would cost the allowance's target: the
    multiple-choice knapsack's relaxation over each call's upper hull, its steps taken with the probability
    that they are worth it, which mixes two models where one price would jump from one to the other. What
    was really spent is made up for over ``CORRECTED_OVER`` calls, and a dear call
    waits until it is paid for. The cheapest candidate is always affordable.
    """

    name = "budget"

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._recent: list[tuple[float, list[_Step]]] = []
        self._next = 0
        self._price = 0.0
        self._settled = 0

    def rule(self, prospects: Sequence[Prospect]) -> BudgetRule:  # noqa: ARG002
        """As in ``LivePolicy``."""
        return BudgetRule(self._price, self._allowance.ceiling, self._allowance.purse, self._hopeless())

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Policy``."""
        return self.rule(prospects).probabilities(prospects, setting)

    def book(self, cost: float) -> None:
        """Pay for one more attempt of a call that was settled."""
        self._allowance.balance -= cost

    def judge(self, decided: Decided, model: str, reward: float, *, changed: bool) -> None:
        """Nothing: rewards are in the beliefs."""

    def settle(self, feedback: Feedback) -> None:
        """Book the income and the cost of a call, and remember what it could choose among."""
        self._allowance.book(feedback.cost or 0.0, feedback.now)
        costs = _known_costs(feedback.prospects)
        self._remember(_steps(feedback.prospects, costs))
        if self._settled % SOLVED_EVERY == 0:
            self._price = self._solve(self._allowance.target)
        self._settled += 1

    def _hopeless(self) -> bool:
        """Whether a deep debt cannot be paid back with what is believed to be the cheapest."""
        if not self._allowance.overspent:
            return False
        least = sum(cost for cost, _ in self._recent)
        return least > HOPELESS_FROM * self._allowance.ceiling * len(self._recent)

    def _remember(self, call: tuple[float, list[_Step]]) -> None:
        if len(self._recent) < RECENT_CALLS:
            self._recent.append(call)
        else:
            self._recent[self._next] = call
            self._next = (self._next + 1) % RECENT_CALLS

    def _solve(self, target: float) -> float:
        """The price of a dollar at which the recent calls would cost ``target`` each."""
        steps = [step for _, call in self._recent for step in call]
        base = sum(cost for cost, _ in self._recent)
        budget = target * len(self._recent)
        dearest = max((step.cost for step in steps), default=0.0)
        if dearest <= 0 or _spent(base, steps, 0.0) <= budget:
            return 0.0
        start = price = min(max(self._price, 1e-4 / dearest), 1e3 / dearest)
        low = high = 0.0
        for _ in range(40):
            if _spent(base, steps, price) > budget:
                low = price
            else:
                high = price
            if low and high:
                if high < 1.0003 * low:
                    break
                price = math.sqrt(low * high)
            elif low:
                price *= 1.25 if low == start else 2.5
            else:
                price /= 1.25 if high == start else 2.5
        return high or price


def _spent(base: float, steps: Sequence[_Step], price: float) -> float:
    erfc = math.erfc
    total = base
    for reward, cost, sharpness in steps:
        z = (price * cost - reward) * sharpness
        if z < 3:
            total += 0.5 * cost * erfc(z) if z > -3 else cost
    return total


def _known_costs(prospects: Sequence[Prospect], *, hopeless: bool = False) -> list[float]:
    """The predicted costs; one that is unknown by the nearest tier's, without any tier half way (on a
    logarithmic scale) between the cheapest known and the dearest.

    While no cost is known at all, only the cheapest tier is affordable. ``hopeless``: what is known is too
    dear, so that what was never called here is taken to be cheaper, whatever its tier says, and is tried.
    """
    known = [(p.rank, p.cost) for p in prospects if p.cost is not None]
    if len(known) == len(prospects):
        return [cost for _, cost in known]
    lowest = min((p.rank for p in prospects if p.rank is not None), default=None)
    if hopeless and known:
        hoped = min(cost for _, cost in known) / TIER_STEP
        return [hoped if p.cost is None and not p.calls else _cost_of(p, known, lowest) for p in prospects]
    return [_cost_of(p, known, lowest) for p in prospects]


def _cost_of(prospect: Prospect, known: Sequence[tuple[int | None, float]], lowest: int | None) -> float:
    if prospect.cost is not None:
        return prospect.cost
    rank = prospect.rank
    if not known:
        return 0.0 if rank == lowest else math.inf
    ranked = [(abs(r - rank), r, cost) for r, cost in known if r is not None] if rank is not None else []
    if rank is None or not ranked:
        costs = [cost for _, cost in known]
        return math.sqrt(min(costs) * max(costs))
    _, near, cost = min(ranked)
    return cost * TIER_STEP ** (rank - near)


def _steps(prospects: Sequence[Prospect], costs: Sequence[float]) -> tuple[float, list[_Step]]:
    """The cost of the cheapest candidate, and the steps up the upper hull of (cost, mean) from it."""
    order = sorted([(cost, -p.mean, i) for i, (p, cost) in enumerate(zip(prospects, costs, strict=True))])
    hull = [order[0]]
    for point in order[1:]:
        if point[1] >= hull[-1][1] or point[0] == math.inf:
            continue
        while len(hull) > 1 and _below_line(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    found = []
    for (cost, lost, i), (dearer, less, j) in pairwise(hull):
        var = doubt(prospects[i]) + doubt(prospects[j]) + INDIFFERENCE**2
        found.append(_Step(lost - less, dearer - cost, 1 / math.sqrt(2 * var)))
    return hull[0][0], found


_Point = tuple[float, float, int]


def _below_line(a: _Point, b: _Point, c: _Point) -> bool:
    return (a[1] - c[1]) * (b[0] - a[0]) >= (a[1] - b[1]) * (c[0] - a[0])
