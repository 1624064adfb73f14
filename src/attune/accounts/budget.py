"""The dollars of a key over the UTC day and month: reserved before an attempt, settled after it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

from attune.accounts.errors import BudgetSpentError
from attune.errors import BudgetExhaustedError
from attune.models.spending import SPEND, Reservation, SpendCap
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from attune.accounts.account import Account
    from attune.clock import Clock
    from attune.models.state import LeaseStore

__all__ = ["PERIODS", "KeyBudget", "Period", "period_bounds", "resource_of"]

Period: TypeAlias = Literal["day", "month"]

PERIODS: tuple[Period, ...] = ("day", "month")


class KeyBudget:
    """What one key may spend. Reserves and settles as ``SpendCap`` does, in a store that processes share:
    a budget is passed by no more than what was under way when it was reached.
    """

    def __init__(self, account: Account, store: LeaseStore, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        limits = account.limits
        self._cap = SpendCap(_KeyLeases(store, account.id), clock, limits.usd_per_day, limits.usd_per_month)

    async def reserve(self, nanos: int, *, ttl_s: float) -> Reservation:
        """Hold the predicted cost of an attempt, in nano-dollars, for ``settle`` to replace.

        Raises ``BudgetSpentError`` when it does not fit, and ``StoreError``.
        """
        now = self._clock.time()
        try:
            return await self._cap.reserve(nanos, ttl_s=ttl_s)
        except BudgetExhaustedError as exhausted:
            period: Period = "day" if exhausted.limit == "usd_per_day" else "month"
            raise self._refused(period, nanos, now) from None

    def _refused(self, period: Period, nanos: int, now: float) -> BudgetSpentError:
        limits = self._account.limits
        limit = (limits.usd_per_day if period == "day" else limits.usd_per_month) or 0.0
        _, end = period_bounds(period, now)
        budget = f"the budget of ${_decimal(limit)} a {period} of the key {self._account.name!r}"
        asked = f"up to ${nanos / NANOS_PER_USD:.6f}"
        never_fits = nanos > round(limit * NANOS_PER_USD)
        message = (
            f"this call may cost {asked}, more than all of {budget}; lower its limit of output tokens"
            if never_fits
            else f"{budget} has no room left for {asked} for this call; "
            f"it resets at {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"
        )
        retry_after = None if never_fits else end - now
        return BudgetSpentError(f"key_usd_per_{period}", message, resets_at=end, retry_after=retry_after)


def _decimal(usd: float) -> str:
    """Dollars as people write them, never as 6e-05."""
    return f"{usd:,.9f}".rstrip("0").rstrip(".")


class _KeyLeases:
    """A ``LeaseStore`` in which every resource is one key's own."""

    def __init__(self, store: LeaseStore, key_id: str) -> None:
        self._store = store
        self._key_id = key_id

    async def reserve(
        self, resource: str, amount: int, *, limit: int, window_start: float, ttl_s: float, now: float
    ) -> str | None:
        return await self._store.reserve(
            f"key/{self._key_id}/{resource}",
            amount,
            limit=limit,
            window_start=window_start,
            ttl_s=ttl_s,
            now=now,
        )

    def settle(self, lease_id: str, amount: int) -> None:
        self._store.settle(lease_id, amount)

    def used(self, resource: str, window_start: float) -> int:
        return self._store.used(f"key/{self._key_id}/{resource}", window_start)


def resource_of(key_id: str, period: Period) -> str:
    """What the leases of a key's budget are kept under: for whoever shows what is spent of it."""
    return f"key/{key_id}/{SPEND.stored(period)}"


def period_bounds(period: Period, now: float) -> tuple[float, float]:
    """When the UTC day or month of a time begins and ends; all UTC epoch seconds."""
    start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return start.timestamp(), (start + timedelta(days=1)).timestamp()
    start = start.replace(day=1)
    return start.timestamp(), (start + timedelta(days=31)).replace(day=1).timestamp()
