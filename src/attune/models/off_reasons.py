"""Why a credential, or a model of it, is off, in words.

Other processes know the words only, as the detail of a fact: they tell them what failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.errors import ErrorClass
from attune.models.candidate import SUBSCRIPTION
from attune.models.moments import moment
from attune.models.overflow import CANNOT_PAY
from attune.models.quota import USED_UP

if TYPE_CHECKING:
    from attune.errors import ProviderError
    from attune.models.candidate import Candidate

__all__ = ["class_of", "how_long", "why_off"]

NOT_LOGGED_IN = "nobody is logged in who could pay"
LOG_IN = "`claude auth login` (or see `attune doctor`), then `attune breakers --reset`"
"""What to do about a plan that refuses."""

_REASONS = {
    ErrorClass.CREDENTIAL: "it was refused (401 or 403)",
    ErrorClass.MONEY: "its account has no money left",
    ErrorClass.WINDOW_SPENT: USED_UP,
}
_CLASSES = {reason: error_class for error_class, reason in _REASONS.items()}


def why_off(candidate: Candidate, error: ProviderError) -> str:
    """Why an error turns a credential off; what a plan's program says without asking is no refusal."""
    told = error.error_class is ErrorClass.CREDENTIAL and error.status is None
    return NOT_LOGGED_IN if told and candidate.credential == SUBSCRIPTION else _REASONS[error.error_class]


def class_of(reason: str, otherwise: ErrorClass) -> ErrorClass:
    """The failure behind a reason; ``otherwise`` if it names none."""
    return _CLASSES.get(reason, otherwise)


def how_long(candidate: Candidate, error_class: ErrorClass, until: float, now: float) -> str:
    """Until when a plan cannot pay, and what to do, as it stands behind the reason; empty for all else.

    Times are UTC epoch seconds.
    """
    if candidate.credential != SUBSCRIPTION or error_class not in CANNOT_PAY:
        return ""
    if error_class is ErrorClass.WINDOW_SPENT:
        return f" until {moment(until, now)}"
    mend = f"; {LOG_IN}" if error_class is ErrorClass.CREDENTIAL else ""
    return f"{mend}; next try {moment(until, now)}"
