"""Which candidate a conversation stays with: stateless, by weighted rendezvous hashing.

Each candidate draws a number from a hash of the session and itself; the highest draw plus the logarithm of
its weight wins (Gumbel's trick, which makes the weights the odds). The same session draws the same numbers
every time and in every process, so its turns stay with one candidate while the weights hardly move; and
when a candidate is away, only the sessions that were its own go elsewhere. (Thaler and Ravishankar 1998;
with weights: Schindelhauer and Schomaker 2005.)
"""

from __future__ import annotations

from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING

from attune.models.option import weighed_usd
from attune.models.performance import PRIOR_COST_USD, quality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.option import Scored
    from attune.models.prompt_cache import CacheView

__all__ = ["where_it_stays"]

ALIKE_SCORE, ALIKE_COST, ALIKE_PACE = 0.02, 1.1, 1.3
"""Candidates are alike for a session within so much of the best score, of the lowest predicted cost and, for
realtime tasks, of the lowest latency: those share the sessions, whatever moves within these limits. Beyond
them a candidate's share falls steeply, but without a step at which many sessions would move at once.
"""


def where_it_stays(
    leaders: Sequence[Scored],
    session_id: str,
    bound_to: str,
    caches: CacheView | None,
    *,
    realtime: bool,
) -> Scored:
    """Of the candidates that are best or nearly so, the one for this conversation: of the provider that it is
    bound to, if there is one, and for a session the one that it draws. Where ``caches`` have its prompt,
    nothing is drawn: that is worth what it saves, and among those alike it stays where most of it is.
    """
    among = [each for each in leaders if each[1].model.provider == bound_to] or leaders
    if not session_id:
        return among[0]
    weights = _weights(among, realtime=realtime)
    drawn = [_draw(session_id, each[1].candidate.key) for each in among]
    kept = [0.0 if caches is None else caches.kept.get(each[1].key, 0.0) for each in among]
    if any(kept):
        return among[max(range(len(among)), key=lambda place: (weights[place], kept[place], drawn[place]))]
    return among[max(range(len(among)), key=lambda place: weights[place] + drawn[place])]


def _weights(leaders: Sequence[Scored], *, realtime: bool) -> list[float]:
    """The logarithm of each candidate's share of the sessions, 0 for those alike the best. The last few
    results do not count here: they would move sessions about.
    """
    if realtime:
        paces = [max(each[2][1], 1.0) / max(each[2][0], 1e-6) for each in leaders]
        return [-8 * max(0.0, log(pace / (ALIKE_PACE * min(paces)))) for pace in paces]
    known = map(weighed_usd, leaders)
    costs = [PRIOR_COST_USD if cost is None else cost for cost in known]
    scores = [
        quality(row[0], row[1], cost, 0, row[2])
        for row, cost in zip((each[2] for each in leaders), costs, strict=True)
    ]
    limit, enough = ALIKE_COST * max(min(costs), 1e-9), max(scores) - ALIKE_SCORE
    return [
        -100 * max(0.0, enough - score) - 8 * max(0.0, log(max(cost, limit) / limit))
        for score, cost in zip(scores, costs, strict=True)
    ]


def _draw(session_id: str, key: str) -> float:
    """A standard Gumbel variate that depends on the session and the candidate's key alone."""
    digest = blake2b(f"{session_id}\0{key}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -log(-log(uniform))
