"""Requests and tokens a minute: token buckets, one of each for a key."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from attune.clock import Clock
    from attune.models.state import KeyLimits

__all__ = ["Bucket", "RateEngine", "TokenBuckets", "Wait"]

WINDOW_S = 60.0
_LOST_S = 1e-6
"""What the sums of floating seconds may lose; far below a token at any rate that matters."""


class Wait(NamedTuple):
    """Why a call must wait: ``what`` is "requests" or "tokens", ``limit`` how many a minute are allowed,
    ``seconds`` how long until the same call fits; infinite if it never does.
    """

    what: str
    limit: int
    seconds: float


class RateEngine(Protocol):
    """Where rates are counted: in this process (``TokenBuckets``), or shared by several."""

    async def take(self, key_id: str, limits: KeyLimits, tokens: int) -> Wait | None:
        """Take one request and ``tokens``, both or neither; ``None`` when they were taken. What takes no
        tokens does not wait for any.
        """

    def settle(self, key_id: str, limits: KeyLimits, more: int) -> None:
        """Count ``more`` tokens than were taken for a call; fewer, if negative. Never waits or fails."""


class Bucket:
    """Allows ``per_minute`` at once and refills evenly, so fast; times are monotonic seconds.

    Kept as the time at which it is full again, and so exact without being looked at in between (the
    "generic cell rate algorithm" of ATM traffic management). Counting more than it holds leaves a debt.
    """

    __slots__ = ("_full_at", "per_minute")

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._full_at = -inf

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until ``amount`` fits: 0 if it does now, infinite if it never does."""
        if amount > self.per_minute:
            return inf
        wait = max(self._full_at, now) + self._refill_s(amount) - now - WINDOW_S
        return wait if wait > _LOST_S else 0.0

    def count(self, amount: int, now: float) -> None:
        """Take ``amount`` out, whether it fits or not; put it back, if negative."""
        self._full_at = max(self._full_at, now) + self._refill_s(amount)

    def _refill_s(self, amount: int) -> float:
        return amount * WINDOW_S / self.per_minute


class TokenBuckets:
    """The rates of this process, as a ``RateEngine``. Not for several threads.

    Holds two buckets for each key that it has met; a restart begins with full ones.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    async def take(self, key_id: str, limits: KeyLimits, tokens: int) -> Wait | None:
        """As in ``RateEngine``; the longer of two waits is named."""
        now = self._clock.monotonic()
        asked = [
            (what, self._bucket(key_id, what, limit), amount)
            for what, limit, amount in (
                ("requests", limits.requests_per_minute, 1),
                ("tokens", limits.tokens_per_minute, tokens),
            )
            if limit is not None and amount
        ]
        waits = [Wait(what, bucket.per_minute, bucket.wait_s(amount, now)) for what, bucket, amount in asked]
        longest = max(waits, key=lambda wait: wait.seconds, default=None)
        if longest is not None and longest.seconds > 0:
            return longest
        for _, bucket, amount in asked:
            bucket.count(amount, now)
        return None

    def settle(self, key_id: str, limits: KeyLimits, more: int) -> None:
        """As in ``RateEngine``."""
        if limits.tokens_per_minute is not None:
            bucket = self._bucket(key_id, "tokens", limits.tokens_per_minute)
            bucket.count(more, self._clock.monotonic())

    def _bucket(self, key_id: str, what: str, limit: int) -> Bucket:
        found = self._buckets.get((key_id, what))
        if found is None:
            found = self._buckets[key_id, what] = Bucket(limit)
        return found
