"""What the window knows of a candidate at a key, where a key with few calls borrows from its siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from attune.models.cells import unpack
from attune.models.performance import DENSE, PRIOR_LATENCY_MS, PRIOR_SUCCESS_RATE, PRIOR_WEIGHT, RECENT

if TYPE_CHECKING:
    from attune.models.cells import LevelRow, Path

__all__ = ["NOTHING_KNOWN", "NOT_MEASURED", "Row", "estimate"]

Row: TypeAlias = tuple[float, float, float, float, float, float, float, float, float]
"""What telemetry says of a candidate at a key, sparse cells having borrowed from their parents: success rate
(0..1), latency in ms, how much of both is known (0..1, the rest is the prior's), the key's own calls and
successes, recent failures; then plain means, of the key or else of its parent: the measured success rate, the
calls that it is of, and the measured latency in ms. Where neither has ``PRIOR_WEIGHT`` calls (successful ones
for the latency) the mean is ``NOT_MEASURED``. A plain tuple, because every decision makes ten.
"""

NOT_MEASURED = -1.0
_FADING = PRIOR_WEIGHT / DENSE

NOTHING_KNOWN: Row = (PRIOR_SUCCESS_RATE, PRIOR_LATENCY_MS, 0, 0, 0, 0, NOT_MEASURED, 0, NOT_MEASURED)
_NO_CALLS: LevelRow = (0.0, 0.0, 0.0, 0.0, 0.0)


def estimate(levels: Path, label: str, first: int) -> Row:
    """What the window knows of a candidate at a key.

    The success rate p of a level with n calls is drawn to that of its siblings, which are its
    parent's other calls, by a weight w that fades out, w = 10 (1 - n / 30) and 0 from ``DENSE``
    calls on::

        p = (successes + w p_siblings) / (n + w)

    Theirs is drawn to that of the grandparent's other calls and so on; above all stands the prior.
    No call counts twice. The mean latency likewise, by successful calls; what time-outs and cancelled calls
    took is in its sum alone (``attune.models.performance.timed_out``). To the level's own recent
    failures come those of its siblings, in proportion to what it lacks to ``RECENT`` calls.
    ``levels`` are those of a key, the most specific first; buckets before ``first`` are left out.
    """
    packed = levels[0].rows.get(label)
    if packed is not None:
        calls, successes, latency_sum, lately, oldest = unpack(packed)
        if oldest >= first:
            if successes >= DENSE:
                rate, latency = successes / calls, latency_sum / successes
                return rate, latency, 1.0, calls, successes, lately, rate, calls, latency
            of_stage = len(levels) == 3
            if 0 < calls < RECENT and (of_stage or levels[1].same_as_inner):
                wide = unpack(levels[-2].rows[label])
                if wide[4] >= first and wide[1] - successes >= DENSE:
                    outer = wide if of_stage else _NO_CALLS
                    return _drawn_once(calls, successes, latency_sum, lately, wide, outer)
    return _borrowed(levels, label, first)


def _drawn_once(
    calls: float, won: float, latency_sum: float, failed: float, wide: LevelRow, outer: LevelRow
) -> Row:
    """``_borrowed`` of the usual case, in a third of its time: few calls of a stage, or of the only task of
    one, in a workflow that has many. ``outer`` is what may be measured instead of the key itself.
    """
    others, others_won = wide[0] - calls, wide[1] - won
    weight = PRIOR_WEIGHT - calls * _FADING
    latency_weight = PRIOR_WEIGHT - won * _FADING
    if calls >= PRIOR_WEIGHT:
        measured, measured_calls = won / calls, calls
    elif outer[0]:
        measured, measured_calls = outer[1] / outer[0], outer[0]
    else:
        measured, measured_calls = NOT_MEASURED, 0.0
    if won >= PRIOR_WEIGHT:
        measured_latency = latency_sum / won
    else:
        measured_latency = outer[2] / outer[1] if outer[1] else NOT_MEASURED
    return (
        (won + weight * others_won / others) / (calls + weight),
        (latency_sum + latency_weight * (wide[2] - latency_sum) / others_won) / (won + latency_weight),
        1.0,
        calls,
        won,
        failed + (wide[3] if wide[3] < others - others_won else others - others_won) * (1 - calls / RECENT),
        measured,
        measured_calls,
        measured_latency,
    )


def _borrowed(levels: Path, label: str, first: int) -> Row:
    """``estimate`` of a key with few calls of its own, or none. A hot path: the way out to the first
    siblings with many calls, where it mostly ends at once, and the way back in.
    """
    inner: list[LevelRow] = []
    own = total = _NO_CALLS
    own_place = place = -1
    rate, latency, known, lately = PRIOR_SUCCESS_RATE, PRIOR_LATENCY_MS, 0.0, 0.0
    outer = _NO_CALLS
    for level in levels:
        place += 1
        packed = level.rows.get(label)
        if packed is None:
            continue
        row = unpack(packed)
        if row[4] < first:
            level.expire(label, first)
            row = unpack(level.rows[label])
        calls = row[0]
        if not calls and not row[2]:
            continue
        if own_place < 0:
            own, own_place = row, place
        if place < 2:
            outer = row
        others = calls - total[0]
        if others or row[2] > total[2]:
            won = row[1] - total[1]
            if won >= DENSE:
                rate, latency, known = won / others, (row[2] - total[2]) / won, 1.0
                lately = min(row[3], others - won)
                break
            inner.append((others, won, row[2] - total[2], min(row[3], others - won), 0.0))
        total = row
    if own_place < 0:
        return NOTHING_KNOWN
    for calls, won, latency_sum, failed, _ in reversed(inner):
        weight = PRIOR_WEIGHT - calls * _FADING if calls < DENSE else 0.0
        rate = (won + weight * rate) / (calls + weight)
        known = (calls + weight * known) / (calls + weight)
        weight = PRIOR_WEIGHT - won * _FADING
        latency = (latency_sum + weight * latency) / (won + weight)
        lately = failed + lately * (1 - calls / RECENT) if calls < RECENT else failed
    own_calls, own_successes = own[:2] if own_place == 0 else (0.0, 0.0)
    measured = measured_latency = NOT_MEASURED
    measured_calls = 0.0
    if own_place < 2:
        rated = own if own[0] >= PRIOR_WEIGHT else outer
        if rated[0] >= PRIOR_WEIGHT:
            measured, measured_calls = rated[1] / rated[0], rated[0]
        timed = own if own[1] >= PRIOR_WEIGHT else outer
        if timed[1] >= PRIOR_WEIGHT:
            measured_latency = timed[2] / timed[1]
    return (
        rate,
        latency,
        known,
        own_calls,
        own_successes,
        lately,
        measured,
        measured_calls,
        measured_latency,
    )
