"""What one call may take in all: time, attempts and dollars, over retries and fallbacks together."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import BudgetExhaustedError, InvalidRequestError
from attune.models.executor import AttemptBudget
from attune.models.prices import cost_nanos
from attune.models.telemetry import NANOS_PER_USD, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.models.prices import PriceSchedule

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


class Hold(NamedTuple):
    """What is set aside of a budget for one attempt, and the longest answer that it pays for, in tokens;
    ``None`` for any.
    """

    nanos: int
    longest: int | None


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
        self._held_nanos = 0
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
        return self.spent_nanos + self._held_nanos + predicted_usd * NANOS_PER_USD <= self._max_nanos

    def hold(self, prices: PriceSchedule | None, input_tokens: int, longest: int, at: float) -> Hold:
        """Set aside what an attempt can cost at most, and find out how long its answer may be for that.

        ``longest`` is the answer's limit without a budget, in tokens; ``at`` is UTC epoch seconds. Raises
        ``BudgetExhaustedError`` when not one token of an answer can be paid for.
        """
        if self._max_nanos is None:
            return Hold(0, None)
        if prices is None:
            raise BudgetExhaustedError(
                "cost", "its price is unknown, so it cannot be held to the call's budget"
            )
        left = self._max_nanos - self.spent_nanos - self._held_nanos
        prompt = cost_nanos(TokenUsage(input_tokens), prices, at)
        whole = cost_nanos(TokenUsage(input_tokens, longest), prices, at)
        if whole > left:
            longest = max(0, left - prompt) * longest // (whole - prompt)
        if longest < 1 or prompt > left:
            dollars = self._max_nanos / NANOS_PER_USD
            raise BudgetExhaustedError("cost", f"it would pass the call's budget of ${dollars:g}")
        nanos = cost_nanos(TokenUsage(input_tokens, longest), prices, at)
        self._held_nanos += nanos
        return Hold(nanos, longest)

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

    def spend(self, nanos: int | None, held_nanos: int = 0) -> None:
        """Count what an attempt cost, in place of what was held for it. One of unknown cost counts as all of
        that: it may have been billed.
        """
        self._held_nanos -= held_nanos
        self.spent_nanos += held_nanos if nanos is None else nanos


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
