"""What a whole window of quota is worth, and how fast it is used, learned from what a plan reports of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from attune.models.quota import HOUR_S, Z_90, QuotaWindow, Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["QuotaMeter"]

BLOCK = 0.05
"""Reports are compared over a rise of this much: they are rounded, and lag behind by a call."""
FADING = 0.98
"""What earlier blocks count at each new one: plans change."""
REMEMBERED = 0.1
"""A capacity that was stored counts like a rise of this much."""
NARROW = 0.01
"""Below this part of its greatest possible value the area that paid USD and hours span tells nothing
apart.
"""


class QuotaMeter:
    """Learns from the reports of one window how fast it is used, and what the whole of it is worth.

    Between two reports of a window the part that is used rises by (USD that was paid through here) /
    capacity, and by what its owner uses elsewhere, at a constant rate: both are found by least squares,
    neither below 0. ``burn`` is the rate of all use, in parts of the whole. ``since`` is when the watch
    began, ``known``, ``burn`` and ``state`` what was stored of the window before.
    """

    def __init__(
        self,
        since: float,
        known: QuotaWindow | None = None,
        burn: Rate | None = None,
        state: Sequence[float] = (),
    ) -> None:
        self.burn = burn or Rate(since)
        self._last = known
        self._base: QuotaWindow | None = None
        self._paid = 0.0
        self._sums = _Squares()
        if known is not None and len(state) == _STATE:
            used, at, self._paid = state[:3]
            self._base, self._sums = known._replace(utilization=used, learned_at=at), _Squares(*state[3:])
        elif known is not None and known.capacity_usd is not None:
            self._sums = self._sums.with_block(REMEMBERED * known.capacity_usd, 0.0, REMEMBERED)

    def state(self) -> list[float]:
        """The comparison that is under way and those that were, as the constructor takes it; empty before the
        first report.
        """
        if self._base is None:
            return []
        begun = (self._base.utilization or 0.0, self._base.learned_at, self._paid)
        return [float(f"{each:.12g}") for each in (*begun, *self._sums)]

    def paid(self, usd: float) -> None:
        """A call that used the window has ended, which would have cost so much at API prices."""
        self._paid += usd

    def report(self, window: QuotaWindow) -> QuotaWindow:
        """Learn from a report; returns it with what is known by now of its capacity and of its use
        elsewhere.
        """
        last, base = self._last, self._base
        known = window if last is None else last
        if window.utilization is not None:
            if last is None or base is None or _began_anew(window, last):
                self._base, self._paid = window, 0.0
            else:
                self.burn.observe(window.learned_at, window.utilization - (last.utilization or 0.0))
                known = self._compared(window, base) or known
        if window.capacity_usd is None:
            window = window._replace(capacity_usd=known.capacity_usd, elsewhere_usd=known.elsewhere_usd)
        if window.utilization is not None:
            self._last = window
        return window

    def heard(self, window: QuotaWindow) -> None:
        """Take in a report that another process got. What was paid there is not known, so that the next
        comparison begins here.
        """
        if window.utilization is None:
            return
        if self._last is not None and not _began_anew(window, self._last):
            self.burn.observe(window.learned_at, window.utilization - (self._last.utilization or 0.0))
        self._last = self._base = window
        self._paid = 0.0

    def _compared(self, window: QuotaWindow, base: QuotaWindow) -> QuotaWindow | None:
        rise = (window.utilization or 0.0) - (base.utilization or 0.0)
        hours = (window.learned_at - base.learned_at) / HOUR_S
        sums = self._sums.with_block(self._paid, hours, rise)
        if rise >= BLOCK:
            self._base, self._paid = window, 0.0
            self._sums = _Squares(*(FADING * each for each in sums))
        share, elsewhere = sums.solved()
        if share <= 0:
            return None
        return window._replace(capacity_usd=1 / share, elsewhere_usd=elsewhere / share)


_STATE = 10
"""Numbers in a meter's state: three of the comparison under way, and the sums."""


def _began_anew(window: QuotaWindow, last: QuotaWindow) -> bool:
    """Whether a reset lies between two reports."""
    if last.resets_at is not None and window.learned_at >= last.resets_at:
        return True
    return (window.utilization or 0.0) < (last.utilization or 0.0)


class _Squares(NamedTuple):
    """The sums of squares and products over blocks of (USD paid, hours, rise of the part that is used)."""

    blocks: float = 0.0
    paid_paid: float = 0.0
    paid_hours: float = 0.0
    hours_hours: float = 0.0
    paid_rise: float = 0.0
    hours_rise: float = 0.0
    rise_rise: float = 0.0

    def with_block(self, paid: float, hours: float, rise: float) -> _Squares:
        return _Squares(
            self.blocks + 1,
            self.paid_paid + paid * paid,
            self.paid_hours + paid * hours,
            self.hours_hours + hours * hours,
            self.paid_rise + paid * rise,
            self.hours_rise + hours * rise,
            self.rise_rise + rise * rise,
        )

    def solved(self) -> tuple[float, float]:
        """The rise for each USD and for each hour; the latter 0 unless it is beyond chance (``Z_90``)."""
        area = self.paid_paid * self.hours_hours - self.paid_hours**2
        if self.blocks > 2 and area > NARROW * self.paid_paid * self.hours_hours:
            share = (self.paid_rise * self.hours_hours - self.hours_rise * self.paid_hours) / area
            elsewhere = (self.hours_rise * self.paid_paid - self.paid_rise * self.paid_hours) / area
            rest = max(0.0, self.rise_rise - share * self.paid_rise - elsewhere * self.hours_rise)
            if elsewhere > Z_90 * math.sqrt(rest / (self.blocks - 2) * self.paid_paid / area):
                return share, elsewhere
        return (self.paid_rise / self.paid_paid if self.paid_paid > 0 else 0.0), 0.0
