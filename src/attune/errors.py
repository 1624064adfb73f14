"""Every exception that attune raises on purpose.

::

    AttuneError
    ├── InvalidRequestError          an argument of a call makes no sense (also a ValueError)
    │   └── UnknownNameError         a model, tier, provider ... that does not exist; names the nearest
    ├── ConfigError                  a configuration file or variable; names the key and the line
    ├── StoreError                   the ledger or the shared state cannot be read or written
    │   └── CorruptFileError         a file was unreadable and has been kept aside
    ├── NoCandidateError             the router found nothing that fits; names the nearest candidate
    ├── CircuitOpenError             a breaker refused the attempt; carries when to try again
    ├── BudgetExhaustedError         a call ran out of time, attempts or dollars
    ├── AllProvidersFailedError      every candidate was tried or refused; carries every attempt
    └── ProviderError                one attempt failed; its ``error_class`` says how
        ├── TransientError           overload, time-out, 5xx: worth another try
        │   ├── ConnectionFailedError   the host itself could not be reached
        │   └── StreamBrokenError    the stream ended before its terminal event
        ├── ThrottledError           429: too fast for this credential
        ├── WindowSpentError         a subscription's quota window is used up
        ├── MoneyGoneError           the account behind a credential has no money left
        ├── CredentialError          401 or 403: the key is wrong or not allowed
        ├── ModelUnavailableError    this credential does not have or may not use this model
        ├── ContextTooLongError      the prompt does not fit the model's window
        ├── RefusalError             the provider declined to answer this content
        └── CallerError              the request itself is at fault; retrying cannot help

What the gateway refuses a caller with is in ``attune.accounts.errors``.

Foreign errors are mapped in one place per library: HTTP statuses and bodies in
``attune.wire``, transport errors in ``attune.providers._http``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "AllProvidersFailedError",
    "AttuneError",
    "BudgetExhaustedError",
    "CallerError",
    "CircuitOpenError",
    "ConfigError",
    "ConnectionFailedError",
    "ContextTooLongError",
    "CorruptFileError",
    "CredentialError",
    "ErrorClass",
    "InvalidRequestError",
    "ModelUnavailableError",
    "MoneyGoneError",
    "NoCandidateError",
    "ProviderError",
    "RefusalError",
    "StoreError",
    "StreamBrokenError",
    "ThrottledError",
    "TransientError",
    "UnknownNameError",
    "WindowSpentError",
]


class ErrorClass(StrEnum):
    """How one attempt failed. The value is what the ledger stores.

    ``CANCELLED`` is the caller's own doing, ``INTERNAL`` a defect of attune itself.
    """

    CONNECTION = "connection"
    TRANSIENT = "transient"
    MID_STREAM = "mid_stream"
    THROTTLED = "throttled"
    WINDOW_SPENT = "window_spent"
    MONEY = "money"
    CREDENTIAL = "credential"
    MODEL = "model"
    CONTEXT = "context"
    REFUSAL = "refusal"
    CALLER = "caller"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class AttuneError(Exception):
    """Base of every exception that attune raises on purpose.

    ``call_id`` is that of the call which it ended, by which the ledger knows it; empty before there is one.
    """

    call_id = ""


class InvalidRequestError(AttuneError, ValueError):
    """An argument of a call makes no sense; the message says which one and what to do."""


class UnknownNameError(InvalidRequestError):
    """A name that does not exist, with the nearest one that does.

    ``kind`` is what was looked for ("model", "tier" ...), ``name`` what was given,
    ``nearest`` the closest existing name, or one that begins with it or holds it, or ``None``.
    ``otherwise`` is the advice when there is none; without it, the names that exist are listed.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, where: str = "", otherwise: str = ""
    ) -> None:
        names = sorted({str(each) for each in known})
        self.kind = kind
        self.name = name
        self.nearest: str | None = _nearest(name.lower(), names)
        if self.nearest is not None:
            hint = f"did you mean {self.nearest!r}?"
        elif otherwise:
            hint = otherwise
        elif names:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            hint = f"choose one of {shown}"
        else:
            hint = "there are none"
        place = f" in {where}" if where else ""
        shown_name = name if len(name) <= 100 else name[:100] + "..."
        super().__init__(f"unknown {kind} {shown_name!r}{place}; {hint}")


def _nearest(name: str, names: Sequence[str]) -> str | None:
    import difflib

    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close or not name:
        return close[0] if close else None
    begins = (each for each in names if each.lower().startswith(name))
    holds = (each for each in names if len(name) > 2 and name in each.lower())
    return next(begins, None) or next(holds, None)


class ConfigError(AttuneError):
    """The configuration is wrong. The message names the file, the line, the key and the remedy."""


class StoreError(AttuneError):
    """The ledger or the shared state could not be read or written."""


class CorruptFileError(StoreError):
    """A file was unreadable; it has been kept aside under ``kept_as`` and nothing was lost."""

    def __init__(self, path: str, kept_as: str, reason: str) -> None:
        self.path = path
        self.kept_as = kept_as
        super().__init__(f"{path} is unreadable ({reason}); it was kept as {kept_as}")


class NoCandidateError(AttuneError):
    """Nothing fits the request.

    ``nearest`` is the label ("provider/model") of the candidate that came closest, ``lacks`` why
    it was dropped, ``drops`` every dropped candidate as (candidate, reason) pairs. ``unpaid`` says that all
    that is refused now is so for its credential, which cannot pay.
    """

    def __init__(
        self,
        message: str,
        *,
        nearest: str | None = None,
        lacks: str | None = None,
        drops: Sequence[tuple[str, str]] = (),
        unpaid: bool = False,
    ) -> None:
        self.nearest = nearest
        self.lacks = lacks
        self.drops = tuple(drops)
        self.unpaid = unpaid
        super().__init__(message)


class CircuitOpenError(AttuneError):
    """A breaker refused the attempt; nothing was sent.

    ``domain`` is the failure domain, ``retry_after`` the seconds from the raise until a probe is
    allowed, ``retry_at`` the same as a UTC epoch time in seconds.
    """

    def __init__(self, domain: str, *, retry_after: float, retry_at: float) -> None:
        self.domain = domain
        self.retry_after = retry_after
        self.retry_at = retry_at
        super().__init__(f"circuit of {domain} is open; try again in {retry_after:.1f} s")


class BudgetExhaustedError(AttuneError):
    """A call ran out of time, attempts or dollars; ``limit`` names which."""

    def __init__(self, limit: str, message: str) -> None:
        self.limit = limit
        super().__init__(message)


class ProviderError(AttuneError):
    """One attempt failed.

    ``status`` is the HTTP status if there was one, ``code`` the provider's own typed code,
    ``retry_after`` the seconds that the provider asked to wait, ``body`` the unmodified response
    body (capped), ``provider`` and ``model`` what was called. ``body`` and headers never enter
    the message unredacted.
    """

    error_class: ClassVar[ErrorClass] = ErrorClass.TRANSIENT

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        body: bytes = b"",
        provider: str = "",
        model: str = "",
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.body = body
        self.provider = provider
        self.model = model
        super().__init__(message)


class TransientError(ProviderError):
    """Overload, a time-out or a 5xx: another try may succeed."""


class ConnectionFailedError(TransientError):
    """The host could not be reached (DNS, refused, TLS, connect time-out, reset before headers).

    ``sent`` says that the whole request had left before that: it may have been served, and billed.
    """

    error_class = ErrorClass.CONNECTION
    sent = False


class StreamBrokenError(TransientError):
    """The answer ended, or failed, before its terminal event."""

    error_class = ErrorClass.MID_STREAM


class ThrottledError(ProviderError):
    """429: too many requests for this credential; ``retry_after`` says how long to wait."""

    error_class = ErrorClass.THROTTLED


class WindowSpentError(ProviderError):
    """A subscription's quota window is used up until its reset (``retry_after`` seconds)."""

    error_class = ErrorClass.WINDOW_SPENT


class MoneyGoneError(ProviderError):
    """The account behind the credential has no money left, or a spend limit was reached."""

    error_class = ErrorClass.MONEY


class CredentialError(ProviderError):
    """401 or 403: the credential is wrong, expired or not allowed."""

    error_class = ErrorClass.CREDENTIAL


class ModelUnavailableError(ProviderError):
    """The provider does not have this model, or this credential may not use it."""

    error_class = ErrorClass.MODEL


class ContextTooLongError(ProviderError):
    """The prompt does not fit the model's context window."""

    error_class = ErrorClass.CONTEXT


class RefusalError(ProviderError):
    """The provider declined to answer this content."""

    error_class = ErrorClass.REFUSAL


class CallerError(ProviderError):
    """The request itself is at fault (400, 404, 413, 422): it is given back unchanged."""

    error_class = ErrorClass.CALLER


class AllProvidersFailedError(AttuneError):
    """Every candidate failed or was refused.

    ``attempts`` are the errors in the order in which they happened (``ProviderError`` for
    attempts that were made, ``CircuitOpenError`` for those refused); ``retry_at`` is the soonest
    time at which a candidate may be tried, UTC epoch seconds; ``None`` if one may be at once, or none ever.
    ``retry_after`` are the seconds until then from the raise: given, the message tells them behind
    ``sentence``, which is without a time.
    """

    def __init__(
        self,
        message: str,
        *,
        attempts: Sequence[AttuneError] = (),
        retry_at: float | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.attempts = tuple(attempts)
        self.retry_at = retry_at
        self.retry_after = retry_after
        self.sentence = message
        super().__init__(message if retry_after is None else f"{message}; try again in {retry_after:.1f} s")
