"""What the gateway refuses a caller with.

::

    AttuneError
    └── AccountError                 ``status`` is the HTTP status of the answer
        ├── AuthenticationError      401
        │   ├── MissingKeyError      no key was sent
        │   ├── UnknownKeyError      what was sent is no key of this gateway
        │   ├── ExpiredKeyError      the key's time is over
        │   └── RevokedKeyError      the key was taken back
        ├── ScopeError               403: the key does not allow it; names what it does allow
        ├── RateLimitedError         429: too much within a minute
        ├── BudgetSpentError         402: a dollar budget (also a ``BudgetExhaustedError``)
        └── KeysUnavailableError     503: the store of the keys cannot be read

No message holds a key.
"""

from __future__ import annotations

from typing import ClassVar

from attune.errors import AttuneError, BudgetExhaustedError

__all__ = [
    "AccountError",
    "AuthenticationError",
    "BudgetSpentError",
    "ExpiredKeyError",
    "KeysUnavailableError",
    "MissingKeyError",
    "RateLimitedError",
    "RevokedKeyError",
    "ScopeError",
    "UnknownKeyError",
]


class AccountError(AttuneError):
    """The gateway refuses a caller.

    ``status`` is the HTTP status; ``retry_after`` the seconds until the same request may succeed,
    ``None`` where waiting cannot help.
    """

    status: ClassVar[int] = 403
    retry_after: float | None = None


class AuthenticationError(AccountError):
    """There is no valid key with the request."""

    status = 401


class MissingKeyError(AuthenticationError):
    """No key was sent."""


class UnknownKeyError(AuthenticationError):
    """What was sent is no key of this gateway."""


class ExpiredKeyError(AuthenticationError):
    """The key's time is over."""


class RevokedKeyError(AuthenticationError):
    """The key was taken back."""


class ScopeError(AccountError):
    """The key does not allow what was asked for."""


class RateLimitedError(AccountError):
    """A key's requests or tokens of a minute are used; without ``retry_after`` the call never fits."""

    status = 429

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class BudgetSpentError(AccountError, BudgetExhaustedError):
    """A key's dollars of a day or month leave no room.

    ``limit`` is ``key_usd_per_day`` or ``key_usd_per_month``, ``resets_at`` the UTC epoch seconds at
    which the budget begins anew.
    """

    status = 402

    def __init__(self, limit: str, message: str, *, resets_at: float, retry_after: float | None) -> None:
        BudgetExhaustedError.__init__(self, limit, message)
        self.resets_at = resets_at
        self.retry_after = retry_after


class KeysUnavailableError(AccountError):
    """Whether the key is valid cannot be known now: the store cannot be read."""

    status = 503
    retry_after = 1.0
