"""What would have changed a decision: one quantity of one candidate at a time, all else as it was."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from attune.models.payment import price_rank
from attune.models.performance import DENSE, PRIOR_COST_USD, quality
from attune.models.policies import Setting, draw, rule_of
from attune.models.pool import bound
from attune.models.registry import ModelTier
from attune.models.steering import prospect_of
from attune.models.tasks import is_realtime
from attune.models.tier_movement import positions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attune.models.policies import Prospect
    from attune.models.telemetry import DecisionRecord, ScoredCandidate

__all__ = ["Flip", "flips"]

_DECADES = [10 ** (k / 4) for k in range(17)]
_SHARES = [k / 32 for k in range(33)]


class Flip(NamedTuple):
    """How far one quantity of a candidate ("provider/model") could have moved.

    ``quantity`` is "success" (0..1: what its answers are believed to be worth, for a policy that goes by the
    score its success rate), "cost" (USD) or "latency" (ms); ``value`` what it was. Beyond ``threshold``
    ``instead`` would have been chosen; ``None`` and empty where no value does that.
    """

    candidate: str
    quantity: str
    value: float
    threshold: float | None
    instead: str


class _Part(NamedTuple):
    """A candidate as far as the choice depends on it."""

    label: str
    rank: int
    success: float
    cost: float | None
    latency: float
    scored: ScoredCandidate

    @property
    def weighed(self) -> float | None:
        """The cost and what prepaid quota is worth; credits are worth the same part of another cost."""
        worth, paid = self.scored.quota_usd or 0.0, self.scored.predicted_cost_usd
        if self.cost is None or not self.scored.by_credits:
            return None if self.cost is None else self.cost + worth
        return self.cost * worth / paid if paid else 0.0

    def having(self, quantity: str, value: float) -> _Part:
        if quantity == "success":
            return self._replace(success=value)
        return self._replace(cost=value) if quantity == "cost" else self._replace(latency=value)

    def score(self) -> float:
        cost = PRIOR_COST_USD if self.weighed is None else self.weighed
        return quality(self.success, self.latency, cost, self.scored.recent_failures, self.scored.known)


def flips(decision: DecisionRecord) -> tuple[Flip, ...]:
    """The thresholds of each candidate and quantity, the chosen one's first; the nearest where there are
    several. Exact for the rule and the numbers that were recorded, with the tier as it was chosen; empty
    where something else chose: the place of the conversation, what a tier has proven, a small window.
    """
    parts = _parts(decision)
    if not parts or ("stays", "yes") in decision.features:
        return ()
    choose = _chooser(decision)
    if choose(parts) != parts[0].label:
        return ()
    return tuple(
        _flip(parts, place, quantity, choose)
        for place, part in enumerate(parts)
        for quantity in ("success", "cost", "latency")
        if getattr(part, quantity) is not None
    )


def _flip(
    parts: Sequence[_Part], place: int, quantity: str, choose: Callable[[Sequence[_Part]], str]
) -> Flip:
    part = parts[place]
    value: float = getattr(part, quantity)

    def chosen(other: float) -> str:
        return choose([*parts[:place], part.having(quantity, other), *parts[place + 1 :]])

    ladders = _ladders(value, share=quantity == "success")
    found = [each for ladder in ladders if (each := _first_change(value, ladder, chosen)) is not None]
    if not found:
        return Flip(part.label, quantity, value, None, "")
    threshold = min(found, key=lambda each: abs(each - value))
    return Flip(part.label, quantity, value, threshold, chosen(threshold))


def _ladders(value: float, *, share: bool) -> tuple[list[float], list[float]]:
    """Values to look at, away from ``value`` on both sides."""
    if share:
        return [s for s in reversed(_SHARES) if s < value], [s for s in _SHARES if s > value]
    start = value or 1e-4  # USD: a cost that is 0 now
    return [*(start / d for d in _DECADES[1:]), 0.0] if value else [], [start * d for d in _DECADES[1:]]


def _first_change(value: float, ladder: Sequence[float], chosen: Callable[[float], str]) -> float | None:
    """The value nearest to ``value`` on a ladder from which another one is chosen, to the last digits."""
    winner, inside = chosen(value), value
    for rung in ladder:
        if chosen(rung) == winner:
            inside = rung
            continue
        outside = rung
        while (middle := (inside + outside) / 2) not in {inside, outside}:
            if chosen(middle) == winner:
                inside = middle
            else:
                outside = middle
        return outside
    return None


# -- the choice ----------------------------------------------------------------------------------------


def _parts(decision: DecisionRecord) -> list[_Part]:
    """The candidates, of each model the first credential."""
    found: dict[str, _Part] = {}
    for scored in decision.ranked:
        label = f"{scored.provider}/{scored.model_id}"
        if label not in found:
            success = scored.success_rate
            if decision.policy.partition("/")[0] != "best" and scored.belief is not None:
                success = scored.belief[0]
            rank = ModelTier.parse(scored.tier).rank
            cost, latency = scored.predicted_cost_usd, scored.avg_latency_ms
            found[label] = _Part(label, rank, success, cost, latency, scored)
    return list(found.values())


def _chooser(decision: DecisionRecord) -> Callable[[Sequence[_Part]], str]:
    """What chooses one of the parts, as the decision did, within its limits; empty when none is left."""
    features = dict(decision.features)
    realtime = is_realtime(decision.task_type)
    max_cost = math.inf if realtime else float(features.get("max_cost", "inf"))
    max_latency = float(features.get("max_latency_ms", "inf"))
    by_score = decision.policy.partition("/")[0] == "best"
    floor = float(features.get("min_success_rate", "0")) if by_score else 0.0
    order = _by_latency if realtime else _by_score
    prepaid = {"first": True, "last": False}.get(features.get("prepaid", ""))
    position = positions(ModelTier.parse(decision.tier).rank, downwards=max_cost < math.inf)

    def fits(part: _Part) -> bool:
        if max_cost < math.inf and (part.cost is None or part.cost > max_cost):
            return False
        measured = part.scored.sample_size >= DENSE  # else the limits are held against what is not recorded
        return not measured or (part.latency <= max_latency and part.success >= floor)

    def choose(parts: Sequence[_Part]) -> str:
        left = [part for part in parts if fits(part)]
        if not left:
            return ""
        dearer = _dearer(left, features.get("twins", ""))
        if not by_score:
            drawn = _drawn(left, features)
            return dearer.get(drawn, drawn)
        return min(
            left,
            key=lambda part: (
                position[part.rank],
                part.label in dearer or _is_later(part, prepaid),
                order(part),
            ),
        ).label

    return choose


def _is_later(part: _Part, prepaid_first: bool | None) -> bool:
    """Whether who pays puts it behind the others of its tier; ``None`` does nothing."""
    return prepaid_first is not None and _is_of_plan(part) is not prepaid_first


def _is_of_plan(part: _Part) -> bool:
    return part.scored.list_usd is not None and not part.scored.by_credits


def _dearer(parts: Sequence[_Part], twins: str) -> Mapping[str, str]:
    """Of each pair of ``twins``, a model that both a plan and a key have, the one that costs more, and the
    other in its place.
    """
    found, known = {}, {part.label: part for part in parts}
    for pair in filter(None, twins.split(";")):
        left = [known[label] for label in pair.split(" ") if label in known]
        if len(left) > 1:
            cheaper, dearer = sorted(left, key=lambda part: (price_rank(part.weighed), not _is_of_plan(part)))
            found[dearer.label] = cheaper.label
    return found


def _by_score(part: _Part) -> float:
    return -part.score()


def _by_latency(part: _Part) -> float:
    return part.latency / max(part.success, 1e-6)


def _drawn(parts: Sequence[_Part], features: Mapping[str, str]) -> str:
    """Draw again: the table's choice stands first, the others by name."""
    first = [part for part in parts if part.label == _table_choice(parts, features)] or parts[:1]
    if "draw" not in features:
        return first[0].label
    among = [part for part in parts if part.scored.belief is not None]
    table = sorted(among, key=lambda part: (part is not first[0], part.label))
    prospects = [each for part in table if (each := _prospect(part)) is not None]
    rule = rule_of(json.loads(features["rule"]))
    vector = rule.probabilities(prospects, Setting((), 0.0, explores="explores" not in features))
    if provider := features.get("bound_to"):
        vector = bound(vector, [(part.scored.provider, part.rank) for part in table], provider)
    return table[draw(vector, float(features["draw"]))].label


def _table_choice(parts: Sequence[_Part], features: Mapping[str, str]) -> str:
    """The table's first: of a prepaid model and its rivals the prepaid one, unless it costs more."""
    table, rivals = features["table"], features.get("rivals", "").split(" ")
    if table not in rivals:
        return table
    found = {part.label: part for part in parts if part.label in rivals}
    if len(found) < len(rivals):
        return next(iter(found), table)
    return min(rivals, key=lambda label: price_rank(found[label].weighed))


def _prospect(part: _Part) -> Prospect | None:
    believed = prospect_of(part.scored)
    return None if believed is None else believed._replace(mean=part.success, cost=part.weighed)
