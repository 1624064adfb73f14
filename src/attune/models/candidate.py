"""What a decision chooses among, and why one may not be tried right now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from attune.errors import ErrorClass

__all__ = ["NO_CREDENTIAL", "SUBSCRIPTION", "Availability", "Candidate", "Refusal"]

NO_CREDENTIAL = "none"
"""The name of the credential of a provider that needs no key."""

SUBSCRIPTION = "subscription"
"""The name of the credential that a login of the ``claude`` program is: paid in advance, up to its quota."""


class Candidate(NamedTuple):
    """One way to answer: a provider's model, paid by a credential."""

    provider: str
    model_id: str
    credential: str

    @property
    def label(self) -> str:
        """``provider/model``: telemetry is kept by it, whichever credential paid."""
        return f"{self.provider}/{self.model_id}"

    @property
    def key(self) -> str:
        """``provider/model#credential``: unique."""
        return f"{self.provider}/{self.model_id}#{self.credential}"

    def __str__(self) -> str:
        return self.key


class Refusal(NamedTuple):
    """Why no permit would be granted now.

    ``domain`` is what refuses (a failure domain, a credential ...), ``reason`` a short sentence,
    ``retry_at`` the monotonic time from which it may be granted, ``error_class`` the failure behind
    it, ``None`` for a breaker.
    """

    domain: str
    reason: str
    retry_at: float
    error_class: ErrorClass | None

    @property
    def told(self) -> str:
        """The reason with what refuses, unless it names that itself."""
        return self.reason if self.domain in self.reason else f"{self.domain}: {self.reason}"


class Availability(Protocol):
    """What the router asks before it ranks a candidate; a query, it changes nothing."""

    @property
    def quiet(self) -> bool:
        """True when nothing at all is tripped, off or cooling down."""

    def refusal(self, candidate: Candidate) -> Refusal | None:
        """Why the candidate could not be tried now, or ``None`` when it could."""
