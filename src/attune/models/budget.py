"""What one call may take in all: time, attempts and dollars, over retries and fallbacks together."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import BudgetExhaustedError, InvalidRequestError
from attune.models.executor import AttemptBudget
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_TIME_LIMITS", "CallBudget", "CallLimits", "RetryBucket", "TimeLimits"]


class TimeLimits(NamedTuple):
    """Seconds that an attempt may take until its first content, between two events after that, and in all."""

    first_content_s: float
    idle_s: float
    total_s: float


DEFAULT_TIME_LIMITS: Mapping[str, TimeLimits] = MappingProxyType(
    {
        "cheap": TimeLimits(60.0, 60.0, 300.0),
        "capable": TimeLimits(60.0, 60.0, 600.0),
        "premium": TimeLimits(120.0, 60.0, 600.0),
    }
)
"""By tier: the models of a higher one think for longer before they say anything."""


class CallLimits(NamedTuple):
    """The limits of every call, where its own context gives none.

    ``max_attempts`` over all candidates, ``deadline_s`` for the whole call, ``connect_s`` until a connection
    stands. ``tiers`` limit an attempt by the tier of its model; ``first_content_s``, ``idle_s`` and
    ``total_s`` hold for every tier where they are given.
    """

    max_attempts: int = 4
    deadline_s: float = 600.0
    first_content_s: float | None = None
    idle_s: float | None = None
    connect_s: float = 10.0
    total_s: float | None = None
    tiers: Mapping[str, TimeLimits] = DEFAULT_TIME_LIMITS

    def for_tier(self, tier: str) -> TimeLimits:
        """What an attempt at a model of a tier may take."""
        own = self.tiers.get(tier) or DEFAULT_TIME_LIMITS[tier]
        return TimeLimits(
            own.first_content_s if self.first_content_s is None else self.first_content_s,
            own.idle_s if self.idle_s is None else self.idle_s,
            own.total_s if self.total_s is None else self.total_s,
        )


class CallBudget:
    """One call's time, attempts and dollars. Times are monotonic seconds, given by the caller.

    ``budget_usd`` is the most that all attempts may cost together; ``None`` is no limit.
    """

    def __init__(
        self,
        limits: CallLimits,
        *,
        now: float,
        deadline_s: float | None = None,
        budget_usd: float | None = None,
    ) -> None:
        if limits.max_attempts < 1:
            raise InvalidRequestError(f"max_attempts must be at least 1, not {limits.max_attempts!r}")
        self._limits = limits
        self.deadline = now + (limits.deadline_s if deadline_s is None else deadline_s)
        self.attempts = 0
        self.spent_nanos = 0
        self._max_nanos = None if budget_usd is None else round(budget_usd * NANOS_PER_USD)

    def remaining_s(self, now: float) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.deadline - now)

    @property
    def attempts_left(self) -> int:
        """How many attempts may still be made."""
        return self._limits.max_attempts - self.attempts

    def affords(self, predicted_usd: float | None) -> bool:
        """Whether an attempt of a predicted cost fits; one of unknown cost fits only without a limit."""
        if self._max_nanos is None:
            return True
        if predicted_usd is None:
            return False
        return self.spent_nanos + predicted_usd * NANOS_PER_USD <= self._max_nanos

    def start_attempt(self, now: float, tier: str) -> AttemptBudget:
        """Count an attempt at a model of a tier; returns its time limits. Raises ``BudgetExhaustedError``."""
        remaining = self.remaining_s(now)
        if remaining <= 0:
            raise BudgetExhaustedError("deadline", "the call's deadline has passed")
        if self.attempts_left < 1:
            raise BudgetExhaustedError("attempts", f"all {self._limits.max_attempts} attempts are used")
        self.attempts += 1
        times = self._limits.for_tier(tier)
        return AttemptBudget(
            connect_s=min(self._limits.connect_s, remaining),
            first_content_s=min(times.first_content_s, remaining),
            idle_s=min(times.idle_s, remaining),
            total_s=min(times.total_s, remaining),
        )

    def spend(self, cost_nanos: int | None, predicted_usd: float | None = None) -> None:
        """Count what an attempt cost. One of unknown cost counts as predicted: it may have been billed."""
        predicted = round((predicted_usd or 0.0) * NANOS_PER_USD)
        self.spent_nanos += predicted if cost_nanos is None else cost_nanos


class RetryBucket:
    """Allows repeats in proportion to calls, so that an outage is not answered with more load.

    Each call puts ``per_call`` tokens in, up to ``capacity``; a repeat on the same failure domain takes
    one out. Going to another provider is free. (The retry budget of Google's SRE book, chapter 21, whose
    limit is 1.1 attempts a call: from 1,000 calls on that holds with what the full bucket added.)
    """

    def __init__(self, capacity: float = 10.0, per_call: float = 0.09) -> None:
        self._capacity = capacity
        self._per_call = per_call
        self._tokens = capacity

    def credit(self) -> None:
        """A call came."""
        self._tokens = min(self._capacity, self._tokens + self._per_call)

    def take(self) -> bool:
        """Take the right to one repeat; ``False`` when there is none."""
        if round(self._tokens, 6) < 1:  # the sum of many parts
            return False
        self._tokens -= 1
        return True
