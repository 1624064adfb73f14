"""What outcomes say of each model at each key: hierarchical, decaying, mergeable sums and their posterior.

A key is a path from the whole to the part (all, workflow, stage, task). At the root a model has an
ability, the mean of its labelled calls. Below, a key has a difficulty that all its models share, and each
model what is its own there. How much each counts is learned from how much the keys differ; ``shrinkage``
has the arithmetic and its sources.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from attune.models.shrinkage import (
    PRIOR_CALLS,
    PRIOR_DIFFICULTY_SD,
    PRIOR_KEYS,
    PRIOR_MEAN,
    PRIOR_SD,
    PRIOR_SPREAD_SD,
    Ability,
    Node,
    Path,
    Sums,
    below,
    costs_of,
    difficulty_of,
    dispersions,
    noise_of,
    raw_difficulty,
    shifted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Belief", "Evidence", "Path"]

HALF_LIFE_S = 7 * 86_400.0
"""Evidence counts half after a week: it decays with time, not with calls."""
MAX_NODES = 10_000

BORROWED_CALLS = 10.0
"""No sibling counts as more calls than these in a prior."""
REFRESH_GROWTH = 1.2
MAX_REFRESHED_KEYS = 256
MAX_BELIEVED = 4096
MAX_RELATIVE_SIZE = 20.0


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
        self._nodes: OrderedDict[Path, Node] = OrderedDict()
        self._roots: dict[Path, None] = {}
        self._left: dict[str, float] = {}
        self._fades = 0
        self._believed: dict[tuple[Path, tuple[str, ...]], list[Belief]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    # -- learning --------------------------------------------------------------------------------

    def observe(self, path: Path, model: str, reward: float | None, cost: float | None, now: float) -> None:
        """Learn from one call of ``now``: its reward (0..1; ``None`` when nobody judged it) and its USD."""
        self._believed.clear()
        size = self._relative_size(path[:1], model, cost)
        for depth in range(1, len(path) + 1):
            node = self._enter(path[:depth])
            sums = self._sums(node, model, now)
            if reward is not None:
                sums.add(now, self._half_life_s, reward, reward * reward, 1)
            else:
                sums.decay(now, self._half_life_s)
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

    def restore(self, path: Path, model: str, at: float, rewards: tuple[float, float, float]) -> None:
        """Take in labelled calls of ``at``: how many, the sum of their rewards and of its squares; what they
        say together is known after ``restored``.
        """
        calls, reward, squares = rewards
        for depth in range(1, len(path) + 1):
            node = self._enter(path[:depth])
            self._sums(node, model, at).add(at, self._half_life_s, reward, squares, calls)
            node.seen += int(calls)

    def restored(self) -> None:
        """Learn how much keys differ from all that was restored, from the root down."""
        while len(self._nodes) > self._max_nodes:
            self._evict()
        for node in map(self._current, self._nodes.values()):
            node.refresh_at = node.seen * REFRESH_GROWTH
            self._refresh(node)
        for path, node in list(self._nodes.items()):
            if not node.children:
                self._place(path)
        self._believed.clear()

    def correct(self, path: Path, model: str, at: float, previous: float, reward: float) -> None:
        """Replace the reward of one call of ``at``: the last word counts."""
        self._believed.clear()
        for depth in range(1, len(path) + 1):
            node = self._nodes.get(path[:depth])
            if node is not None and model in self._current(node).models:
                change = reward - previous, reward * reward - previous * previous
                node.models[model].add(at, self._half_life_s, *change, 0)
                node.models[model].keep_possible()
        if path in self._nodes:
            self._place(path)

    def calls(self, model: str) -> float:
        """Labelled calls of a model at all keys together, as far as they are not forgotten."""
        known = (self._current(self._nodes[root]).models.get(model) for root in self._roots)
        return sum(sums.calls for sums in known if sums is not None)

    def forget(self, model: str, calls: float) -> None:
        """Keep only as much of a model's rewards as ``calls`` calls would say, at all keys together."""
        known = self.calls(model)
        if known > calls:
            self.fade(model, math.log(known / calls))

    def fade(self, model: str, rate: float) -> None:
        """Keep ``exp(-rate)`` of what a model's rewards say; the costs stay. However many keys there are, it
        takes the same time: what a key has to forget is taken from it when it is next looked at.
        """
        self._believed.clear()
        self._left[model] = self._left.get(model, 0.0) - rate
        self._fades += 1

    def merge(self, other: Evidence) -> None:
        """Add what another process learned."""
        self._believed.clear()
        for path, theirs in other._nodes.items():
            node = self._enter(path)
            for model, sums in other._current(theirs).models.items():
                self._sums(node, model, sums.time).merge(sums, self._half_life_s)
            self._refresh(node)
        for path in other._nodes:
            self._place(path)

    def _relative_size(self, root: Path, model: str, cost: float | None) -> float:
        known = self._nodes.get(root)
        sums = known.models.get(model) if known else None
        if not cost or sums is None or sums.cost <= 0:
            return 1.0
        return min(cost * sums.priced / sums.cost, MAX_RELATIVE_SIZE)

    def _enter(self, path: Path) -> Node:
        node = self._nodes.get(path)
        if node is None:
            node = self._nodes[path] = Node()
            if len(path) > 1:
                self._enter(path[:-1]).children[path] = None
            else:
                self._roots[path] = None
        else:
            self._nodes.move_to_end(path)
        return self._current(node)

    def _current(self, node: Node) -> Node:
        """A key, from which is taken what was forgotten of its models since it was last looked at."""
        if node.fades != self._fades:
            node.fades = self._fades
            node.abilities = {}
            for model, sums in node.models.items():
                left = self._left.get(model, 0.0)
                if left != sums.left:
                    sums.forget(math.exp(left - sums.left))
                    sums.left = left
        return node

    def _sums(self, node: Node, model: str, time: float) -> Sums:
        """What a model's calls at a key come to; nothing yet as of ``time``."""
        sums = node.models.get(model)
        if sums is None:
            sums = node.models[model] = Sums(time, self._left.get(model, 0.0))
        return sums

    def _evict(self) -> None:
        path = next(p for p, node in self._nodes.items() if not node.children)
        del self._nodes[path]
        self._roots.pop(path, None)
        if parent := self._nodes.get(path[:-1]):
            parent.children.pop(path, None)

    # -- empirical Bayes -------------------------------------------------------------------------

    def _refresh(self, node: Node) -> None:
        """Learn anew how noisy each model is and how much the keys below differ."""
        kids = [self._current(self._nodes[p]) for p in islice(reversed(node.children), MAX_REFRESHED_KEYS)]
        node.dispersion = dispersions(kids or [node])
        if not kids:
            return
        abilities = {m: self._ability(node, m) for m in node.models}
        difficulty, difficulty_keys = PRIOR_DIFFICULTY_SD**2 * PRIOR_KEYS, PRIOR_KEYS
        spread, spread_cells = PRIOR_SPREAD_SD**2 * PRIOR_KEYS, PRIOR_KEYS
        for kid in kids:
            raw, raw_var = raw_difficulty(node, kid, abilities)
            weight = 1 / (1 + raw_var / PRIOR_DIFFICULTY_SD**2)
            difficulty += weight * (min(raw * raw, 9.0) - raw_var) if weight > 1e-3 else 0.0
            difficulty_keys += weight
            kid.difficulty = difficulty_of(node, kid, abilities)
            for model, sums in kid.models.items():
                if sums.calls > 0:
                    mean = shifted(abilities[model][0], kid.difficulty)
                    noise = noise_of(node, model, mean) / sums.calls
                    weight = 1 / (1 + noise / PRIOR_SPREAD_SD**2)
                    spread += weight * ((sums.reward / sums.calls - mean) ** 2 - noise)
                    spread_cells += weight
        node.difficulty_var = max(difficulty / difficulty_keys, 0.05**2)
        node.spread = max(spread / spread_cells, 0.01**2)

    def _place(self, path: Path) -> None:
        """Find the difficulties along a path, from the root down."""
        node = self._current(self._nodes[path[:1]])
        abilities: dict[str, Ability] = {m: self._ability(node, m) for m in node.models}
        node.abilities = abilities
        for depth in range(2, len(path) + 1):
            kid = self._current(self._nodes[path[:depth]])
            kid.difficulty = difficulty_of(node, kid, abilities)
            abilities = {m: below(node, kid, m, a) for m, a in abilities.items()}
            node = kid

    def _ability(self, root: Node, model: str) -> Ability:
        sums = root.models.get(model)
        calls, reward = (sums.calls, sums.reward) if sums else (0.0, 0.0)
        prior = self._prior(root, model)
        noise = noise_of(root, model, (reward + PRIOR_CALLS * prior) / (calls + PRIOR_CALLS))
        weight = noise / PRIOR_SD**2
        return (reward + weight * prior) / (calls + weight), noise / (calls + weight)

    def _prior(self, root: Node, model: str) -> float:
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
        """What is believed of each model at a key, which may be one never seen. The same until something is
        learned, so it is kept until then.
        """
        asked = path, tuple(models)
        known = self._believed.get(asked)
        if known is None:
            if len(self._believed) >= MAX_BELIEVED:
                self._believed.clear()
            known = self._believed[asked] = self._beliefs(path, models)
        return known

    def _beliefs(self, path: Path, models: Sequence[str]) -> list[Belief]:
        root = self._nodes.get(path[:1])
        node = root = Node() if root is None else self._current(root)
        found = abilities = [root.abilities.get(m) or self._ability(root, m) for m in models]
        for depth in range(2, len(path) + 1):
            kid = self._nodes.get(path[:depth])
            if kid is None:
                found = [(mean, var + node.spread) for mean, var in found]
                break
            found = [below(node, self._current(kid), m, a) for m, a in zip(models, found, strict=True)]
            node = kid
        last = self._nodes.get(path, _NOTHING)
        costs = costs_of(root, last if last is not root else _NOTHING, models)
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
        return noise_of(self._nodes.get(path[:1], _NOTHING), model, mean)


_NOTHING = Node()
