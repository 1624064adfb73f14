"""What an error of attune is to a client: a status, when to try again, and whose words it is told in."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    BudgetExhaustedError,
    CallerError,
    CircuitOpenError,
    ConfigError,
    ContextTooLongError,
    InvalidRequestError,
    ModelUnavailableError,
    NoCandidateError,
    ProviderError,
    RefusalError,
    StoreError,
    ThrottledError,
    UnknownNameError,
    WindowSpentError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["ErrorAnswer", "Fault", "fault_of", "headers_of", "relayed_body"]

_CALLERS = (CallerError, ContextTooLongError, RefusalError, ModelUnavailableError)
"""What only the caller can mend: it is told in the provider's own words."""

_STATUSES: tuple[tuple[type[AttuneError], int], ...] = (
    (InvalidRequestError, 400),
    (NoCandidateError, 400),
    (CircuitOpenError, 503),
    (AllProvidersFailedError, 503),
    (StoreError, 503),
    (ConfigError, 500),
    (ThrottledError, 429),
    (WindowSpentError, 429),
    (ModelUnavailableError, 404),
    (CallerError, 400),
    (ContextTooLongError, 400),
    (RefusalError, 400),
    (ProviderError, 502),
)
_BUDGET_STATUSES = {"deadline": 504, "attempts": 503}
"""All other limits of a budget are dollars: 402."""


class ErrorAnswer(NamedTuple):
    """An error as it is sent: status, headers of its own, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fault(NamedTuple):
    """An error as a client is told of it.

    ``code`` is a typed code where there is one; ``retry_after`` is in seconds, ``None`` where no wait is
    known to help.
    """

    status: int
    message: str
    code: str | None = None
    retry_after: float | None = None


def fault_of(error: AttuneError, *, now: float, status: int | None = None) -> Fault:
    """What a client is told of ``error``; ``now`` is UTC epoch seconds, ``status`` replaces the usual one."""
    told = _told(error)
    return Fault(
        _status(told) if status is None else status, str(error), _code(told), _retry_after(error, told, now)
    )


def headers_of(fault: Fault) -> dict[str, str]:
    """``retry-after`` where a wait helps; elsewhere word that the official clients need not try again."""
    if fault.retry_after is None:
        return {"x-should-retry": "false"}
    return {"retry-after": str(max(1, ceil(fault.retry_after)))}


def relayed_body(
    error: AttuneError, protocol: str, speaks: Mapping[str, Collection[str]]
) -> ErrorAnswer | None:
    """The provider's own answer, where the caller is at fault and the provider speaks ``protocol``."""
    told = _told(error)
    if not isinstance(told, _CALLERS) or protocol not in speaks.get(told.provider, ()):
        return None
    if told.status is None or told.status < 400 or not told.body.lstrip().startswith(b"{"):
        return None
    return ErrorAnswer(told.status, {}, told.body)


def _told(error: AttuneError) -> AttuneError:
    """The error itself, or the one that every candidate gave, if it says more."""
    if not isinstance(error, AllProvidersFailedError) or not error.attempts:
        return error
    last = error.attempts[-1]
    same = all(type(each) is type(last) for each in error.attempts)
    return last if same and isinstance(last, (*_CALLERS, ThrottledError, WindowSpentError)) else error


def _status(error: AttuneError) -> int:
    if isinstance(error, BudgetExhaustedError):
        return _BUDGET_STATUSES.get(error.limit, 402)
    if isinstance(error, UnknownNameError) and error.kind == "model":
        return 404
    if isinstance(error, CallerError) and error.status is not None and 400 <= error.status < 500:
        return error.status
    if isinstance(error, NoCandidateError) and error.nearest is None:
        return 503  # nothing is enrolled
    return next((status for cls, status in _STATUSES if isinstance(error, cls)), 500)


def _code(error: AttuneError) -> str | None:
    if isinstance(error, UnknownNameError) and error.kind == "model":
        return "model_not_found"
    if isinstance(error, ContextTooLongError):
        return "context_length_exceeded"
    return error.code if isinstance(error, ProviderError) else None


def _retry_after(error: AttuneError, told: AttuneError, now: float) -> float | None:
    if isinstance(error, AllProvidersFailedError) and error.retry_at is not None:
        return max(0.0, error.retry_at - now)
    return told.retry_after if isinstance(told, (CircuitOpenError, ProviderError)) else None
