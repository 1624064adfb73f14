"""Sums that several processes add to: each keeps what it has not told yet, and takes over the rest."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Shared", "Sums"]

Sums: TypeAlias = list[float]


class Shared:
    """How much of some sums is known to all: what was ``heard`` of, and what was ``told`` since."""

    __slots__ = ("_heard", "_told")

    def __init__(self) -> None:
        self._heard: Sums = []
        self._told: Sums = []

    def tell(self, sums: Sums) -> Sums:
        """What has to be added to everyone's sums. Until that was heard of it is told again."""
        self._told = sums
        return _less(sums, self._heard)

    def hear(self, total: Sums, sums: Sums) -> Sums:
        """The sums with everyone's ``total``, in which what was told is, and with what came here since."""
        came = _less(sums, self._told or self._heard)
        self._heard, self._told = total, []
        return [t + c for t, c in zip(total, came, strict=True)]


def _less(sums: Sums, other: Sums) -> Sums:
    return [a - b for a, b in zip(sums, other, strict=True)] if other else sums
