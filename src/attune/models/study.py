"""A policy and what it is compared with, over many shuffled orders of a table."""

from __future__ import annotations

import math
import random
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.baselines import LiteLLMBeta, RandomPolicy
from attune.models.hindsight import Mix, clairvoyant, offer, single_models, static_hull
from attune.models.simulation import replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from attune.models.hindsight import Offer
    from attune.models.policies.policy import Policy
    from attune.models.simulation import Replay, Row

__all__ = [
    "Contender",
    "Entrant",
    "Estimate",
    "Kind",
    "Measures",
    "Trace",
    "Yardstick",
    "baselines",
    "entrant",
    "study",
]

BINS = 100
"""How finely a stream is traced, at most."""


class Estimate(NamedTuple):
    """A mean over passes, its 95 % interval (Student's t), and the least and greatest of them."""

    mean: float
    low: float
    high: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From one value a pass; of a single pass the interval is unknown and infinite."""
        n = len(values)
        mean = math.fsum(values) / n
        half = math.inf
        if n > 1:
            sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
            half = _t975(n - 1) * sd / math.sqrt(n)
        return cls(mean, mean - half, mean + half, min(values), max(values))


def _t975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by the Cornish-Fisher expansion; exact for 1 and 2."""
    if freedom <= 2:
        return (12.7062, 4.3027)[freedom - 1]
    z = 1.959964
    g1, g2 = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


class Measures(NamedTuple):
    """What one part of the stream came to, each an ``Estimate`` over the passes.

    ``reward`` and ``cost`` (USD) are means a call. The regrets are sums over the part: to the best single
    model of its rows, and to each row's best. ``above_hull`` and ``above_single`` are how much more reward a
    call it got than the best fixed mixture of models at the same cost, and than the best single model.
    """

    reward: Estimate
    cost: Estimate
    regret_single: Estimate
    regret_oracle: Estimate
    above_hull: Estimate
    above_single: Estimate
    shares: Mapping[str, Estimate]


class Trace(NamedTuple):
    """One pass in up to ``BINS`` parts: calls, rewards, costs, what the best single model (of the whole
    table) would have earned at the same rows, and the calls of each model.
    """

    calls: list[int]
    rewards: list[float]
    costs: list[float]
    single: list[float]
    models: Mapping[str, list[int]]


class Kind(StrEnum):
    """What a contender is: one that decides call by call, or one that knows the table."""

    POLICY = "policy"
    BASELINE = "baseline"
    HULL = "static_hull"
    CLAIRVOYANT = "clairvoyant"
    SINGLE = "single_model"


class Entrant(NamedTuple):
    """A policy to replay: ``make(seed)`` makes a fresh one for a pass."""

    name: str
    kind: Kind
    make: Callable[[int], Policy]


class Yardstick(NamedTuple):
    """What passes are done with and measured by: the static table's models in order, their tiers if known (0
    the cheapest), the most USD a call (``None`` without a limit), the most milliseconds.
    """

    models: Sequence[str]
    ranks: Mapping[str, int] | None = None
    ceiling: float | None = None
    max_latency_ms: float = math.inf


class Contender(NamedTuple):
    """How one did over the whole stream and over its second half; a trace a pass of who decided by call."""

    name: str
    kind: Kind
    whole: Measures
    late: Measures
    traces: Sequence[Trace]


def entrant(name: str, make: Callable[[int], Policy]) -> Entrant:
    """The policy that a study is about."""
    return Entrant(name, Kind.POLICY, make)


def baselines(rows: Sequence[Row]) -> list[Entrant]:
    """Chance, and LiteLLM's router, which knows the mean costs in advance."""
    prices = {model: cost for model, (_, cost) in single_models(rows).items()}
    return [
        Entrant("litellm-beta", Kind.BASELINE, lambda seed: LiteLLMBeta(prices, seed)),
        Entrant("random", Kind.BASELINE, lambda _: RandomPolicy()),
    ]


def study(
    rows: Sequence[Row],
    entrants: Sequence[Entrant],
    seeds: int,
    yardstick: Yardstick,
    *,
    advance: Callable[[], object] = lambda: None,
) -> list[Contender]:
    """Replay the rows in ``seeds`` shuffled orders, the same for all, with fresh policies in each.

    The entrants come first, in their order; then who knows the rows: the static hull at the first entrant's
    spend, a clairvoyant per key, each single model. ``advance`` is called after each replay. Only policies
    see prompts: baselines learn nothing from them. Raises ``InvalidRequestError`` unless every row has
    exactly the models of the yardstick.
    """
    if seeds < 1 or not rows or not entrants:
        raise InvalidRequestError("a simulation needs at least one row, one seed and one policy")
    if any(row.arms.keys() != set(yardstick.models) for row in rows):
        raise InvalidRequestError("a simulation needs the results of the same models in every row")
    whole = offer(rows, yardstick.max_latency_ms)
    found = {each.name: _Passes(each.kind) for each in entrants}
    for seed in range(seeds):
        order = list(rows)
        random.Random(seed).shuffle(order)  # noqa: S311  (a simulation)
        offers = whole, offer(order[len(order) // 2 :], yardstick.max_latency_ms)
        for each in entrants:
            run = _replayed(order, each, seed, yardstick)
            found[each.name].add([_mix(run, 0), _mix(run, len(rows) // 2)], offers, _trace(run, whole.best))
            advance()
        spent = [mixes[-1].cost for mixes in found[entrants[0].name].mixes]
        for name, kind, mixes in _in_hindsight(offers, spent, yardstick):
            found.setdefault(name, _Passes(kind)).add(mixes, offers)
    return [passes.contender(name, yardstick.models) for name, passes in found.items()]


def _replayed(order: Sequence[Row], each: Entrant, seed: int, yardstick: Yardstick) -> Replay:
    if each.kind is Kind.BASELINE:
        order = [row._replace(prompt=None) for row in order]
    return replay(
        order,
        each.make(seed),
        seed,
        models=yardstick.models,
        ranks=yardstick.ranks,
        max_latency_ms=yardstick.max_latency_ms,
    )


def _in_hindsight(
    offers: Sequence[Offer], spent: Sequence[float], yardstick: Yardstick
) -> Iterable[tuple[str, Kind, list[Mix]]]:
    """Those who know the rows, with their mixture for each part."""
    hulls = [static_hull(each.fitting, cost) for each, cost in zip(offers, spent, strict=True)]
    yield "static hull, same spend", Kind.HULL, hulls
    best = [clairvoyant(each.rows, yardstick.ceiling) for each in offers]
    yield "clairvoyant per key", Kind.CLAIRVOYANT, best
    for model in yardstick.models:
        singles = [Mix(*each.singles[model], {model: 1.0}) for each in offers]
        yield f"always {model}", Kind.SINGLE, singles


def _mix(run: Replay, start: int) -> Mix:
    """What a run did from a call on."""
    count = len(run.rows) - start
    chosen = run.models[start:]
    shares = {model: chosen.count(model) / count for model in set(chosen)}
    return Mix(math.fsum(run.rewards[start:]) / count, math.fsum(run.costs[start:]) / count, shares)


def _trace(run: Replay, single: str) -> Trace:
    count = len(run.rows)
    bins = min(BINS, count)
    edges = [count * i // bins for i in range(bins + 1)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    return Trace(
        [part.stop - part.start for part in parts],
        [math.fsum(run.rewards[part]) for part in parts],
        [math.fsum(run.costs[part]) for part in parts],
        [math.fsum(row.arms[single].reward for row in run.rows[part]) for part in parts],
        {model: [run.models[part].count(model) for part in parts] for model in sorted(set(run.models))},
    )


class _Passes:
    """What one contender did in the passes so far: a mixture a pass, of the whole and of the second half."""

    def __init__(self, kind: Kind) -> None:
        self.mixes: tuple[list[Mix], list[Mix]] = ([], [])
        self._kind = kind
        self._figures: tuple[list[list[float]], list[list[float]]] = ([], [])
        self._traces: list[Trace] = []

    def add(self, mixes: Sequence[Mix], offers: Sequence[Offer], trace: Trace | None = None) -> None:
        for place, (mix, each) in enumerate(zip(mixes, offers, strict=True)):
            self.mixes[place].append(mix)
            self._figures[place].append(_figures(mix, each))
        if trace is not None:
            self._traces.append(trace)

    def contender(self, name: str, models: Sequence[str]) -> Contender:
        whole, late = (
            _measures(mixes, figures, models)
            for mixes, figures in zip(self.mixes, self._figures, strict=True)
        )
        return Contender(name, self._kind, whole, late, self._traces)


def _figures(mix: Mix, each: Offer) -> list[float]:
    """The figures of ``Measures``, for one pass."""
    best, count = each.fitting[each.best][0], len(each.rows)
    above_hull = mix.reward - static_hull(each.fitting, mix.cost).reward
    return [
        mix.reward,
        mix.cost,
        (best - mix.reward) * count,
        (each.oracle - mix.reward) * count,
        above_hull,
        mix.reward - best,
    ]


def _measures(mixes: Sequence[Mix], figures: Sequence[Sequence[float]], models: Sequence[str]) -> Measures:
    shares = {model: Estimate.of([mix.shares.get(model, 0.0) for mix in mixes]) for model in models}
    reward, cost, single, oracle, above_hull, above_single = map(Estimate.of, zip(*figures, strict=True))
    return Measures(reward, cost, single, oracle, above_hull, above_single, shares)
