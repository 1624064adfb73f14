"""The order of the candidates by their score, or by their pace where a person waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.models.affinity import where_it_stays
from attune.models.pool import roomy_first
from attune.models.request import UNDERESTIMATED
from attune.models.tasks import REALTIME_REQUIRED_TASKS
from attune.models.tier_movement import RANKS, chosen_tier, may_stay, positions, put_proven_first

if TYPE_CHECKING:
    from attune.models.cells import Level
    from attune.models.option import Scored
    from attune.models.payment import Paying
    from attune.models.prompt_cache import CacheView
    from attune.models.registry import ModelTier
    from attune.models.route_request import RouteRequest

__all__ = ["Situation", "ranked_by_score"]


class Situation(NamedTuple):
    """What one decision is made from, beside the candidates: the request with its tier and normalized task,
    the ``level`` of telemetry at its key from the bucket ``first`` on, its ``size`` (tokens in and out, and
    the time), who may pay, and what the caches have of its prompt.
    """

    request: RouteRequest
    base: ModelTier
    task: str
    level: Level
    first: int
    size: tuple[float, float, float]
    paying: Paying
    caches: CacheView | None

    @property
    def largest(self) -> float:
        """The tokens that the call takes at most, as far as its estimate errs; 0 if its size is not known."""
        return self.size[0] * UNDERESTIMATED + self.size[1] if self.request.input_tokens else 0.0


def ranked_by_score(
    at: Situation, scored: list[Scored], smallest_window: float
) -> tuple[ModelTier, str, list[Scored], bool]:
    """The tier, why, the candidates in their order, and whether a conversation stays elsewhere than at the
    best of them.
    """
    request, base, task, level, first, _, paying, caches = at
    realtime, moved = task in REALTIME_REQUIRED_TASKS, False
    tier, why = chosen_tier(request, base, task, realtime, scored, level, first)
    position = positions(RANKS[tier], downwards=request.max_cost is not None and not realtime)
    cheaper = tier is not base and RANKS[tier] < RANKS[base]
    if realtime:
        scored.sort(key=lambda s: (position[s[1].rank], paying.later(s[1]), s[2][1] / max(s[2][0], 1e-6)))
    else:
        scored.sort(key=lambda s: s[0] - position[s[1].rank], reverse=True)
        if paying.order:
            scored.sort(key=lambda s: (position[s[1].rank], paying.later(s[1])))
        if cheaper and any(each[1].rank == base.rank for each in scored):
            put_proven_first(scored, level, request.min_success_rate)
    if request.session_id or request.bound_to:
        leaders = may_stay(scored, level, request.min_success_rate, cheaper=cheaper)
        leaders = [each for each in leaders if not paying.later(each[1])] or leaders
        stays = where_it_stays(leaders, request.session_id, request.bound_to, caches, realtime=realtime)
        moved = stays is not scored[0]
        if moved:
            scored.remove(stays)
            scored.insert(0, stays)
            why += ", where the conversation stays"
    if request.input_tokens and at.largest > smallest_window:
        scored = roomy_first(scored, at.largest)
    return tier, why, scored, moved
