"""What outcomes say of each model at each key: hierarchical, decaying, mergeable sums and their posterior.

A key is a path from the whole to the part (all, workflow, stage, task). At the root a model has an
ability, the mean of its labelled calls. Below, a key has a difficulty that all its models share, added on
the logit scale (Rasch 1960), and each model what is its own there. How much each counts is learned from
how much the keys differ (empirical Bayes by moments; DerSimonian and Laird 1986).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attune.models.log_odds import logit, sigmoid, spread_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Belief", "Evidence", "Path", "Sums"]

HALF_LIFE_S = 7 * 86_400.0
"""Evidence counts half after a week: it decays with time, not with calls."""
MAX_NODES = 10_000

PRIOR_MEAN, PRIOR_SD = 0.7, 0.2
"""A model of which nothing is known: weak, about as much as one or two calls."""
PRIOR_CALLS = 2.0
"""How many calls the mean of others weighs against ``PRIOR_MEAN``, and a size known from the parent."""
PRIOR_DISPERSION = 0.3
PRIOR_SPREAD_SD = 0.05
PRIOR_DIFFICULTY_SD = 0.5
PRIOR_KEYS = 3.0
"""The three above count as much as so many keys."""
BORROWED_CALLS = 10.0
"""No sibling counts as more calls than these in a prior."""
REFRESH_GROWTH = 1.2
MAX_REFRESHED_KEYS = 256
MAX_RELATIVE_SIZE = 20.0

Path: TypeAlias = tuple[str, ...]


class Belief(NamedTuple):
    """What is believed of a model at a key: the mean reward (0..1), the standard deviation of that mean,
    its own labelled calls there, USD a call (``None`` when no cost was ever seen), and the standard deviation
    of the model's mean over all keys.
    """

    mean: float
    sd: float
    calls: float
    cost: float | None
    ability_sd: float


class Sums:
    """Labelled calls of a model at a key with their rewards and squares, and priced calls with their costs
    and sizes relative to the model's mean; all as of ``time``.
    """

    __slots__ = ("calls", "cost", "priced", "reward", "size", "squares", "time")

    def __init__(self, time: float) -> None:
        self.calls = self.reward = self.squares = 0.0
        self.priced = self.cost = self.size = 0.0
        self.time = time

    def decay(self, now: float, half_life_s: float) -> None:
        """Bring the sums to ``now``; an earlier time changes nothing."""
        if now > self.time:
            keep = 0.5 ** ((now - self.time) / half_life_s)
            self.forget(keep)
            self.priced *= keep
            self.cost *= keep
            self.size *= keep
            self.time = now

    def forget(self, keep: float) -> None:
        """Keep a share of what the rewards say; the costs stay."""
        self.calls *= keep
        self.reward *= keep
        self.squares *= keep

    def merge(self, other: Sums, half_life_s: float) -> None:
        """Add other sums, as of the later time of both."""
        late = Sums(other.time)
        for name in ("calls", "reward", "squares", "priced", "cost", "size"):
            setattr(late, name, getattr(other, name))
        late.decay(self.time, half_life_s)
        self.decay(other.time, half_life_s)
        for name in ("calls", "reward", "squares", "priced", "cost", "size"):
            setattr(self, name, getattr(self, name) + getattr(late, name))


_Ability: TypeAlias = tuple[float, float]
"""Mean and variance."""


class _Node:
    """One key: its models' sums, its difficulty, what was learned of how its children differ, and at a root
    the abilities as of the last call.
    """

    __slots__ = (
        "abilities",
        "children",
        "difficulty",
        "difficulty_var",
        "dispersion",
        "models",
        "refresh_at",
        "seen",
        "spread",
    )

    def __init__(self) -> None:
        self.models: dict[str, Sums] = {}
        self.abilities: dict[str, _Ability] = {}
        self.children: dict[Path, None] = {}
        self.seen = 0
        self.refresh_at = 8.0
        self.difficulty = 0.0
        self.difficulty_var = PRIOR_DIFFICULTY_SD**2
        self.spread = PRIOR_SPREAD_SD**2
        self.dispersion: dict[str, float] = {}


class Evidence:
    """Rewards and costs by key and model.

    ``ranks`` names the tier (any number) of the models whose tier is known: the prior of a new model is the
    mean of its tier's others. Memory is bounded by ``max_nodes`` keys, the least recently observed leave.
    ``half_life_s`` is in seconds. Nothing here raises on unknown keys or models.
    """

    def __init__(
        self,
        ranks: Mapping[str, int] | None = None,
        *,
        half_life_s: float = HALF_LIFE_S,
        max_nodes: int = MAX_NODES,
    ) -> None:
        self._ranks = dict(ranks or {})
        self._half_life_s = half_life_s
        self._max_nodes = max_nodes
        self._nodes: OrderedDict[Path, _Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    # -- learning --------------------------------------------------------------------------------

    def observe(self, path: Path, model: str, reward: float | None, cost: float | None, now: float) -> None:
        """Learn from one call: its reward (0..1; ``None`` when nobody judged it) and its USD."""
        size = self._relative_size(path[:1], model, cost)
        for depth in range(1, len(path) + 1):
            node = self._enter(path[:depth])
            sums = node.models.get(model)
            if sums is None:
                sums = node.models[model] = Sums(now)
            sums.decay(now, self._half_life_s)
            if reward is not None:
                sums.calls += 1
                sums.reward += reward
                sums.squares += reward * reward
            if cost is not None:
                sums.priced += 1
                sums.cost += cost
                sums.size += size
            node.seen += 1
            if node.seen >= node.refresh_at:
                node.refresh_at = node.seen * REFRESH_GROWTH
                self._refresh(node)
        self._place(path)
        while len(self._nodes) > self._max_nodes:
            self._evict()

    def forget(self, model: str, calls: float) -> None:
        """Keep only as much of a model's rewards as ``calls`` calls would say: it has changed."""
        for path, node in self._nodes.items():
            sums = node.models.get(model)
            if len(path) == 1 and sums is not None and sums.calls > calls:
                keep = calls / sums.calls
                for each in self._nodes.values():
                    if model in each.models:
                        each.models[model].forget(keep)
                node.abilities = {}
                return

    def merge(self, other: Evidence) -> None:
        """Add what another process learned."""
        for path, theirs in other._nodes.items():
            node = self._enter(path)
            for model, sums in theirs.models.items():
                node.models.setdefault(model, Sums(sums.time)).merge(sums, self._half_life_s)
            self._refresh(node)
        for path in other._nodes:
            self._place(path)

    def _relative_size(self, root: Path, model: str, cost: float | None) -> float:
        known = self._nodes.get(root)
        sums = known.models.get(model) if known else None
        if not cost or sums is None or sums.cost <= 0:
            return 1.0
        return min(cost * sums.priced / sums.cost, MAX_RELATIVE_SIZE)

    def _enter(self, path: Path) -> _Node:
        node = self._nodes.get(path)
        if node is None:
            node = self._nodes[path] = _Node()
            if len(path) > 1:
                self._enter(path[:-1]).children[path] = None
        else:
            self._nodes.move_to_end(path)
        return node

    def _evict(self) -> None:
        path = next(p for p, node in self._nodes.items() if not node.children)
        del self._nodes[path]
        if parent := self._nodes.get(path[:-1]):
            parent.children.pop(path, None)

    # -- empirical Bayes -------------------------------------------------------------------------

    def _refresh(self, node: _Node) -> None:
        """Learn anew how noisy each model is and how much the keys below differ."""
        kids = [self._nodes[p] for p in islice(reversed(node.children), MAX_REFRESHED_KEYS)]
        node.dispersion = _dispersions(kids or [node])
        if not kids:
            return
        abilities = {m: self._ability(node, m) for m in node.models}
        difficulty, difficulty_keys = PRIOR_DIFFICULTY_SD**2 * PRIOR_KEYS, PRIOR_KEYS
        spread, spread_cells = PRIOR_SPREAD_SD**2 * PRIOR_KEYS, PRIOR_KEYS
        for kid in kids:
            raw, raw_var = _raw_difficulty(node, kid, abilities)
            weight = 1 / (1 + raw_var / PRIOR_DIFFICULTY_SD**2)
            difficulty += weight * (min(raw * raw, 9.0) - raw_var) if weight > 1e-3 else 0.0
            difficulty_keys += weight
            kid.difficulty = _difficulty(node, kid, abilities)
            for model, sums in kid.models.items():
                if sums.calls > 0:
                    mean = _shifted(abilities[model][0], kid.difficulty)
                    noise = _noise(node, model, mean) / sums.calls
                    weight = 1 / (1 + noise / PRIOR_SPREAD_SD**2)
                    spread += weight * ((sums.reward / sums.calls - mean) ** 2 - noise)
                    spread_cells += weight
        node.difficulty_var = max(difficulty / difficulty_keys, 0.05**2)
        node.spread = max(spread / spread_cells, 0.01**2)

    def _place(self, path: Path) -> None:
        """Find the difficulties along a path, from the root down."""
        node = self._nodes[path[:1]]
        abilities: dict[str, _Ability] = {m: self._ability(node, m) for m in node.models}
        node.abilities = abilities
        for depth in range(2, len(path) + 1):
            kid = self._nodes[path[:depth]]
            kid.difficulty = _difficulty(node, kid, abilities)
            abilities = {m: _below(node, kid, m, a) for m, a in abilities.items()}
            node = kid

    def _ability(self, root: _Node, model: str) -> _Ability:
        sums = root.models.get(model)
        calls, reward = (sums.calls, sums.reward) if sums else (0.0, 0.0)
        prior = self._prior(root, model)
        noise = _noise(root, model, (reward + PRIOR_CALLS * prior) / (calls + PRIOR_CALLS))
        weight = noise / PRIOR_SD**2
        return (reward + weight * prior) / (calls + weight), noise / (calls + weight)

    def _prior(self, root: _Node, model: str) -> float:
        """The mean of the tier's other models, else of all others, drawn to ``PRIOR_MEAN``."""
        others = [(m, s) for m, s in root.models.items() if m != model and s.calls > 0]
        rank = self._ranks.get(model)
        same = [(m, s) for m, s in others if rank is not None and self._ranks.get(m) == rank]
        calls, reward = PRIOR_CALLS, PRIOR_CALLS * PRIOR_MEAN
        for _, sums in same or others:
            weight = min(sums.calls, BORROWED_CALLS)
            calls += weight
            reward += weight * sums.reward / sums.calls
        return reward / calls

    # -- asking ----------------------------------------------------------------------------------

    def beliefs(self, path: Path, models: Sequence[str]) -> list[Belief]:
        """What is believed of each model at a key, which may be one never seen."""
        root = self._nodes.get(path[:1])
        node = root = _Node() if root is None else root
        found = abilities = [root.abilities.get(m) or self._ability(root, m) for m in models]
        for depth in range(2, len(path) + 1):
            kid = self._nodes.get(path[:depth])
            if kid is None:
                found = [(mean, var + node.spread) for mean, var in found]
                break
            found = [_below(node, kid, m, a) for m, a in zip(models, found, strict=True)]
            node = kid
        last = self._nodes.get(path, _NOTHING)
        costs = _costs(root, last if last is not root else _NOTHING, models)
        return [
            Belief(
                mean,
                math.sqrt(var),
                own.calls if (own := last.models.get(m)) else 0.0,
                cost,
                math.sqrt(whole),
            )
            for m, (mean, var), cost, (_, whole) in zip(models, found, costs, abilities, strict=True)
        ]

    def noise(self, path: Path, model: str, mean: float) -> float:
        """The variance of one reward of a model whose mean is ``mean``."""
        return _noise(self._nodes.get(path[:1], _NOTHING), model, mean)


_NOTHING = _Node()


def _noise(node: _Node, model: str, mean: float) -> float:
    known = node.dispersion
    return (known.get(model) or known.get("", PRIOR_DISPERSION)) * spread_of(mean)


def _dispersions(kids: Iterable[_Node]) -> dict[str, float]:
    """Variance within the cells over that of binary outcomes, each model's drawn to that of all (``""``)."""
    within: dict[str, tuple[float, float]] = {}
    for kid in kids:
        for model, sums in kid.models.items():
            if sums.calls > 1:
                squares, most = within.get(model, (0.0, 0.0))
                mean = (sums.reward + PRIOR_CALLS * PRIOR_MEAN) / (sums.calls + PRIOR_CALLS)
                squares += sums.squares - sums.reward**2 / sums.calls
                within[model] = squares, most + (sums.calls - 1) * spread_of(mean)
    total = sum(squares for squares, _ in within.values())
    most = sum(m for _, m in within.values())
    pooled = (total + 0.4 * PRIOR_DISPERSION) / (most + 0.4)
    found = {model: (squares + 0.6 * pooled) / (m + 0.6) for model, (squares, m) in within.items()}
    return {**found, "": pooled}


def _shifted(mean: float, difficulty: float) -> float:
    return mean if difficulty == 0.0 else sigmoid(logit(mean) + difficulty)


def _raw_difficulty(node: _Node, kid: _Node, abilities: Mapping[str, _Ability]) -> tuple[float, float]:
    """One Newton step from 0 without a prior, and its variance."""
    score = slope = var = 0.0
    for model, sums in kid.models.items():
        mean = abilities[model][0]
        score += sums.reward - sums.calls * mean
        slope += sums.calls * spread_of(mean)
        var += sums.calls * _noise(node, model, mean)
    return (score / slope, var / slope**2) if slope > 1e-6 else (0.0, math.inf)


def _difficulty(node: _Node, kid: _Node, abilities: Mapping[str, _Ability]) -> float:
    """The mode of the posterior of a key's difficulty (above 0: easier), two Newton steps from 0."""
    found = 0.0
    for _ in range(2):
        score, information = -found / node.difficulty_var, 1 / node.difficulty_var
        for model, sums in kid.models.items():
            mean = _shifted(abilities[model][0], found)
            dispersion = node.dispersion.get(model) or node.dispersion.get("", PRIOR_DISPERSION)
            score += (sums.reward - sums.calls * mean) / dispersion
            information += sums.calls * spread_of(mean) / dispersion
        found = min(max(found + score / information, -4.0), 4.0)
    return found


def _below(node: _Node, kid: _Node, model: str, ability: _Ability) -> _Ability:
    """A model's ability at a key from that at the parent, the key's difficulty and its own calls there."""
    mean, var = ability
    if kid.difficulty:
        mean = _shifted(mean, kid.difficulty)
    var += node.spread
    sums = kid.models.get(model)
    if sums is None or sums.calls <= 0:
        return mean, var
    calls, reward = sums.calls, sums.reward
    noise = _noise(node, model, (reward + PRIOR_CALLS * mean) / (calls + PRIOR_CALLS))
    weight = var / (var + noise / calls)
    return mean + weight * (reward / calls - mean), var * (1 - weight)


def _costs(root: _Node, kid: _Node, models: Sequence[str]) -> list[float | None]:
    """The model's mean cost times the key's relative size, which all models share, drawn to the key's own."""
    priced = sum(s.priced for s in kid.models.values())
    size = (PRIOR_CALLS + sum(s.size for s in kid.models.values())) / (PRIOR_CALLS + priced)
    found: list[float | None] = []
    for model in models:
        sums = root.models.get(model)
        if sums is None or sums.priced <= 0:
            found.append(None)
            continue
        mean = sums.cost / sums.priced * size
        own = kid.models.get(model)
        found.append((PRIOR_CALLS * mean + own.cost) / (PRIOR_CALLS + own.priced) if own else mean)
    return found
