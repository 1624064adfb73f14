"""What one could have done who knew a table: single models, fixed mixtures, and the best mixture per key."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.simulation import Row

__all__ = ["Mix", "Offer", "clairvoyant", "offer", "single_models", "static_hull", "within_latency"]

Singles: TypeAlias = "Mapping[str, tuple[float, float]]"
"""Each model's mean reward and mean cost."""


class Mix(NamedTuple):
    """Models in shares of the calls (they sum to 1): the mean reward, and USD a call."""

    reward: float
    cost: float
    shares: Mapping[str, float]


class Offer(NamedTuple):
    """What rows had to offer.

    ``singles`` are all models; ``fitting`` those of them within the latency limit, ``best`` the one of these
    with the highest mean reward, the cheapest of equals; ``oracle`` the mean of each row's best reward.
    """

    rows: Sequence[Row]
    singles: Singles
    fitting: Singles
    best: str
    oracle: float


def offer(rows: Sequence[Row], max_latency_ms: float = math.inf) -> Offer:
    """What the rows had to offer; models too slow at a key are left out there, as in ``replay``."""
    singles = single_models(rows)
    slow = _slow(rows, max_latency_ms)
    fitting = {model: point for model, point in singles.items() if model not in slow} or singles
    best = max(fitting, key=lambda model: (fitting[model][0], -fitting[model][1]))
    fast = within_latency(rows, max_latency_ms)
    oracle = math.fsum(max(arm.reward for arm in row.arms.values()) for row in fast) / len(rows)
    return Offer(fast, singles, fitting, best, oracle)


def single_models(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Each model's mean reward and cost over the rows that have it."""
    sums: dict[str, tuple[float, float, int]] = {}
    for row in rows:
        for model, arm in row.arms.items():
            reward, cost, count = sums.get(model, (0.0, 0.0, 0))
            sums[model] = reward + arm.reward, cost + arm.cost, count + 1
    return {m: (reward / n, cost / n) for m, (reward, cost, n) in sums.items()}


def within_latency(rows: Sequence[Row], max_latency_ms: float) -> Sequence[Row]:
    """The rows without the models whose mean latency at the row's key is above the limit, unless all are."""
    if max_latency_ms == math.inf:
        return rows
    slow = {key: _slow(members, max_latency_ms) for key, members in _by_key(rows).items()}
    fast = []
    for row in rows:
        arms = {model: arm for model, arm in row.arms.items() if model not in slow[row.key]}
        fast.append(row._replace(arms=arms or row.arms))
    return fast


def _slow(rows: Sequence[Row], limit_ms: float) -> set[str]:
    if limit_ms == math.inf:
        return set()
    latencies: dict[str, list[float]] = {}
    for row in rows:
        for model, arm in row.arms.items():
            if arm.latency_ms is not None:
                latencies.setdefault(model, []).append(arm.latency_ms)
    return {model for model, each in latencies.items() if math.fsum(each) > limit_ms * len(each)}


def _by_key(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    return groups


# -- mixtures ------------------------------------------------------------------------------------------


def static_hull(singles: Singles, cost: float) -> Mix:
    """The best fixed mixture of models at a mean cost of at most ``cost``: a point of their upper hull.

    Below the cheapest model's cost it is that model.
    """
    corners = _upper_hull(singles)
    for low, high in pairwise(corners):
        if low.cost <= cost < high.cost:
            part = (cost - low.cost) / (high.cost - low.cost)
            reward = low.reward + part * (high.reward - low.reward)
            return Mix(reward, cost, {low.model: 1 - part, high.model: part})
    end = corners[0] if cost < corners[0].cost else corners[-1]
    return Mix(end.reward, end.cost, {end.model: 1.0})


def clairvoyant(rows: Sequence[Row], ceiling: float | None = None) -> Mix:
    """What who knows each key's means would do within a mean cost of ``ceiling`` USD a call.

    Keys' upper hulls are climbed by reward a dollar, the last step in part: the knapsack's relaxation.
    Where even the cheapest models cost more than the ceiling, it is those.
    """
    climbed: dict[str, float] = {}
    steps = []
    reward = cost = 0.0
    for members in _by_key(rows).values():
        share = len(members) / len(rows)
        corners = _upper_hull(single_models(members))
        if ceiling is None:
            corners = corners[-1:]
        reward += share * corners[0].reward
        cost += share * corners[0].cost
        climbed[corners[0].model] = climbed.get(corners[0].model, 0.0) + share
        steps += [(_slope(a, b), share, a, b) for a, b in pairwise(corners)]
    for _, share, a, b in sorted(steps, key=lambda step: step[0], reverse=True):
        part = share * min(1.0, max((ceiling or 0.0) - cost, 0.0) / (share * (b.cost - a.cost)))
        reward += part * (b.reward - a.reward)
        cost += part * (b.cost - a.cost)
        climbed[a.model] -= part
        climbed[b.model] = climbed.get(b.model, 0.0) + part
    return Mix(reward, cost, climbed)


class _Corner(NamedTuple):
    cost: float
    reward: float
    model: str


def _upper_hull(singles: Singles) -> list[_Corner]:
    """The corners from the cheapest model, the better of equals, up to the one of the highest reward."""
    hull: list[_Corner] = []
    for cost, lost, model in sorted((c, -r, m) for m, (r, c) in singles.items()):
        corner = _Corner(cost, -lost, model)
        if hull and corner.reward <= hull[-1].reward:
            continue
        while len(hull) > 1 and _slope(hull[-1], corner) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(corner)
    return hull


def _slope(a: _Corner, b: _Corner) -> float:
    """Reward a dollar; ``b`` costs more than ``a``."""
    return (b.reward - a.reward) / (b.cost - a.cost)
