"""The candidates among which a policy may draw, and why others are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.models.performance import wilson_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attune.models.borrowing import Row
    from attune.models.option import Scored

__all__ = ["Pool", "bound", "fails_more", "roomy_first"]

LESS_RELIABLE_Z = 2.576
"""How sure it must be that a candidate fails more often than another (99 %, two-sided) to be passed over."""


class Pool(NamedTuple):
    """The candidates among which may be drawn, the table's choice first, and why other models are not."""

    candidates: list[Scored]
    passed_over: dict[str, str]

    def without(self, left_out: Callable[[Scored], bool], reason: str) -> Pool:
        """Those of which it cannot be said; the whole pool where that is none."""
        kept, others = [], dict(self.passed_over)
        for each in self.candidates:
            if left_out(each):
                others[each[1].label] = reason
            else:
                kept.append(each)
        return Pool(kept, others) if kept and len(kept) < len(self.candidates) else self

    def reliable(self) -> Pool:
        """Without those at the top of the table that fail more often, beyond chance, than another one of
        their tier: the table's choice is the first of which that cannot be said.
        """
        if not self.candidates[0][2][7]:  # of the first one little is known
            return self
        rank = self.candidates[0][1].rank
        tier = [each for each in self.candidates if each[1].rank == rank]
        head = next(place for place, each in enumerate(self.candidates) if not fails_more(each[2], tier))
        if not head:
            return self
        left_out = {id(each) for each in self.candidates[:head]}
        reason = "fails more often than another one of its tier, beyond chance"
        return self.without(lambda each: id(each) in left_out, reason)


def fails_more(row: Row, others: Sequence[Scored]) -> bool:
    """Whether a candidate fails more often than one of the others, at the key or else its parent."""
    rate, calls = row[6:8]
    if not calls or rate == 1:
        return False
    most = wilson_bounds(rate * calls, calls, LESS_RELIABLE_Z)[1]
    better = [other[2][6:8] for other in others if other[2][6] > most]
    return any(wilson_bounds(r * n, n, LESS_RELIABLE_Z)[0] > most for r, n in better)


def roomy_first(scored: list[Scored], size: float) -> list[Scored]:
    """Those whose window holds so many tokens before the others."""
    return sorted(scored, key=lambda each: size > each[1].window)


def bound(vector: Sequence[float], among: Sequence[tuple[str, int]], provider: str) -> list[float]:
    """The probabilities when a conversation holds blocks that only ``provider`` reads: what falls to a
    candidate of another one goes to its own in the same tier, where there is one. ``among`` are the providers
    and tiers of the candidates.
    """
    own = {rank: place for place, (name, rank) in reversed(list(enumerate(among))) if name == provider}
    moved = [0.0] * len(vector)
    for place, (p, (name, rank)) in enumerate(zip(vector, among, strict=True)):
        moved[place if name == provider else own.get(rank, place)] += p
    return moved
