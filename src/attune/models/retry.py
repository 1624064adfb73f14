"""When the same candidate is tried again, and after how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attune.errors import ErrorClass, InvalidRequestError

if TYPE_CHECKING:
    from random import Random

    from attune.errors import ProviderError

__all__ = ["RetryPolicy"]

_REPEATABLE = frozenset({ErrorClass.CONNECTION, ErrorClass.TRANSIENT, ErrorClass.MID_STREAM})


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats on one candidate after a passing failure.

    At most ``max_repeats`` a candidate and call (1 by default), after a random pause up to
    ``base_s * 2**n`` seconds for the n-th repeat (from 0), never above ``cap_s``: full jitter, as in the
    AWS Architecture Blog, "Exponential Backoff And Jitter". A ``Retry-After`` of the provider is a
    lower bound. Throttled candidates are not repeated at once: see ``ResilientExecutor``.
    """

    max_repeats: int = 1
    base_s: float = 0.5
    cap_s: float = 8.0

    def __post_init__(self) -> None:
        if self.max_repeats < 0 or self.base_s < 0 or self.cap_s < 0:
            raise InvalidRequestError("max_repeats, base_s and cap_s must not be negative")

    def repeats(self, error: ProviderError, done: int) -> bool:
        """Whether the same candidate may be tried again after ``done`` repeats of it."""
        return done < self.max_repeats and error.error_class in _REPEATABLE

    def pause(self, error: ProviderError, done: int, rng: Random) -> float:
        """Seconds to wait before the repeat."""
        return max(rng.uniform(0, min(self.cap_s, self.base_s * 2**done)), error.retry_after or 0.0)
