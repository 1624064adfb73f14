"""What one call may take in all: time, attempts and dollars, over retries and fallbacks together."""

from __future__ import annotations

from typing import NamedTuple

from attune.errors import BudgetExhaustedError, InvalidRequestError
from attune.models.executor import AttemptBudget
from attune.models.telemetry import NANOS_PER_USD

__all__ = ["CallBudget", "CallLimits", "RetryBucket"]


class CallLimits(NamedTuple):
    """The limits of every call, where its own context gives none.

    ``max_attempts`` over all candidates; seconds for the whole call, for the first content of an
    attempt, between two events after it, and until a connection stands.
    """

    max_attempts: int = 4
    deadline_s: float = 600.0
    first_content_s: float = 60.0
    idle_s: float = 60.0
    connect_s: float = 10.0


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

    def start_attempt(self, now: float) -> AttemptBudget:
        """Count an attempt and give it its time limits. Raises ``BudgetExhaustedError``."""
        remaining = self.remaining_s(now)
        if remaining <= 0:
            raise BudgetExhaustedError("deadline", "the call's deadline has passed")
        if self.attempts_left < 1:
            raise BudgetExhaustedError("attempts", f"all {self._limits.max_attempts} attempts are used")
        self.attempts += 1
        limits = self._limits
        return AttemptBudget(
            connect_s=min(limits.connect_s, remaining),
            first_content_s=min(limits.first_content_s, remaining),
            idle_s=min(limits.idle_s, remaining),
            total_s=remaining,
        )

    def spend(self, cost_nanos: int | None, predicted_usd: float | None = None) -> None:
        """Count what an attempt cost. One of unknown cost counts as predicted: it may have been billed."""
        predicted = round((predicted_usd or 0.0) * NANOS_PER_USD)
        self.spent_nanos += predicted if cost_nanos is None else cost_nanos


class RetryBucket:
    """Allows repeats in proportion to calls, so that an outage is not answered with more load.

    Each call puts ``per_call`` tokens in, up to ``capacity``; a repeat on the same failure domain takes
    one out. Going to another provider is free. (The retry budget of Google's SRE book, chapter 21.)
    """

    def __init__(self, capacity: float = 10.0, per_call: float = 0.1) -> None:
        self._capacity = capacity
        self._per_call = per_call
        self._tokens = capacity

    def credit(self) -> None:
        """A call came."""
        self._tokens = min(self._capacity, self._tokens + self._per_call)

    def take(self) -> bool:
        """Take the right to one repeat; ``False`` when there is none."""
        if round(self._tokens, 6) < 1:  # ten tenths are one
            return False
        self._tokens -= 1
        return True
