"""Caps of dollars a day or month, reserved before an attempt and settled after it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from attune.errors import BudgetExhaustedError
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.clock import Clock
    from attune.models.state import LeaseStore

__all__ = ["OVERFLOW", "SPEND", "Cap", "CapName", "Held", "Reservation", "SpendCap", "reserve_in_all"]


class CapName(NamedTuple):
    """What a cap is called: in the store; with "day" or "month" behind it in errors, and by its users."""

    resource: str
    limit: str
    setting: str

    def stored(self, period: str) -> str:
        """The name of its dollars in the store."""
        return f"{self.resource}/{period}"


SPEND = CapName("spend", "usd_per_", "[routing] max_usd_per_")
OVERFLOW = CapName("overflow", "overflow_usd_per_", "[auth] overflow_usd_per_")


class Reservation:
    """Dollars held for one attempt, by its ``leases``; a cost that is not known keeps the whole of it."""

    def __init__(self, store: LeaseStore, leases: Sequence[str]) -> None:
        self._store = store
        self._leases = leases

    def settle(self, cost_nanos: int | None) -> None:
        """Replace what was held with what it cost, without waiting for the store."""
        if cost_nanos is not None:
            for lease in self._leases:
                self._store.settle(lease, cost_nanos)


class JointReservation(NamedTuple):
    """What is held for one attempt in several caps."""

    parts: tuple[Held, ...]

    def settle(self, cost_nanos: int | None) -> None:
        """Settle all of them."""
        for part in self.parts:
            part.settle(cost_nanos)


class Held(Protocol):
    """Dollars held for one attempt."""

    def settle(self, cost_nanos: int | None) -> None:
        """Replace what was held with what it cost; ``None``, not known, keeps it."""


class Cap(Protocol):
    """A limit of dollars."""

    async def reserve(self, nanos: int, *, ttl_s: float) -> Held:
        """Hold the predicted cost of an attempt. Raises ``BudgetExhaustedError`` beyond the limit."""


async def reserve_in_all(caps: Sequence[Cap], nanos: int, *, ttl_s: float) -> Held:
    """Hold the predicted cost of an attempt in every one of the caps, or in none."""
    if len(caps) == 1:
        return await caps[0].reserve(nanos, ttl_s=ttl_s)
    held: list[Held] = []
    try:
        for cap in caps:
            held.append(await cap.reserve(nanos, ttl_s=ttl_s))  # noqa: PERF401  (given back if one refuses)
    except BaseException:
        for each in held:
            each.settle(0)
        raise
    return JointReservation(tuple(held))


class SpendCap(NamedTuple):
    """Limits in USD over the UTC day and the UTC month, kept under ``name`` in a store that processes share.

    An attempt reserves what it is predicted to cost and settles what it did cost, so that a cap is
    passed by no more than what was under way when it was reached.
    """

    store: LeaseStore
    clock: Clock
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    name: CapName = SPEND

    async def reserve(self, nanos: int, *, ttl_s: float) -> Reservation:
        """Hold the predicted cost of an attempt. Raises ``BudgetExhaustedError`` beyond a limit."""
        now = self.clock.time()
        leases: list[str] = []
        held = Reservation(self.store, leases)
        try:
            for period, limit, start in self._limits(now):
                leases.append(await self._lease(nanos, period, limit, start, now, ttl_s))
        except BaseException:  # also a cancellation: nothing is sent
            held.settle(0)
            raise
        return held

    async def _lease(
        self, nanos: int, period: str, limit: float, start: float, now: float, ttl_s: float
    ) -> str:
        lease = await self.store.reserve(
            self.name.stored(period),
            nanos,
            limit=round(limit * NANOS_PER_USD),
            window_start=start,
            ttl_s=ttl_s,
            now=now,
        )
        if lease is None:
            raise BudgetExhaustedError(
                f"{self.name.limit}{period}",
                f"the {self.name.resource} cap of ${limit:g} a {period} leaves no room for up to "
                f"${nanos / NANOS_PER_USD:.4f} more; raise {self.name.setting}{period} or wait",
            )
        return lease

    def _limits(self, now: float) -> list[tuple[str, float, float]]:
        day = day_of(now)
        limits = [("day", self.usd_per_day, day), ("month", self.usd_per_month, day.replace(day=1))]
        return [(period, limit, start.timestamp()) for period, limit, start in limits if limit is not None]


def day_of(now: float) -> datetime:
    """The beginning of the UTC day of ``now`` (epoch seconds)."""
    return datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
