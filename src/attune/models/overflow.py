"""What a call does that a plan should pay for, while the plan cannot."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import ErrorClass
from attune.models.candidate import NO_CREDENTIAL, SUBSCRIPTION

if TYPE_CHECKING:
    from attune.models.registry import ModelInfo

__all__ = ["CANNOT_PAY", "Overflow", "OverflowRule", "costs_money"]

DEFAULT_USD_PER_DAY = 10.0

CANNOT_PAY = frozenset({ErrorClass.WINDOW_SPENT, ErrorClass.CREDENTIAL, ErrorClass.MONEY})
"""The failures after which a plan cannot pay, until its reset or until somebody mends it: a call that it
should have paid for overflows. All others (connection, overload, throttling ...) say nothing of who pays.
"""


class Overflow(StrEnum):
    """Where such a call goes: to what costs money, nowhere until the reset, or nowhere."""

    API = "api"
    WAIT = "wait"
    FAIL = "fail"


class OverflowRule(NamedTuple):
    """What calls do that overflow: which a plan should pay for, and cannot.

    With ``then`` of ``API`` they go to candidates that cost money, for ``usd_per_day`` (USD in a UTC day,
    ``None`` for any) in all at most; otherwise only to candidates that do not, and with ``WAIT`` back to the
    plan if its window resets within the call's deadline.
    """

    then: Overflow = Overflow.FAIL
    usd_per_day: float | None = None

    def keeps_out(self, model: ModelInfo, credential: str) -> bool:
        """Whether a call that overflows may not go to this candidate; ``reason`` says why."""
        return self.then is not Overflow.API and costs_money(model, credential)

    @property
    def reason(self) -> str:
        """Why a candidate is kept out."""
        return f'it costs money, and the plan cannot pay now (overflow is "{self.then}")'

    @property
    def setting(self) -> str:
        """The setting that decides."""
        return f'[auth] overflow is "{self.then}"'

    @property
    def remedy(self) -> str:
        """The setting that keeps candidates out, the command that changes it, and what that means."""
        return f"{self.setting}: `attune auth setup --overflow api` {self._bills}"

    @property
    def said(self) -> str:
        """What becomes of a call that overflows, for people."""
        if self.then is not Overflow.API:
            return f"what costs money is left out: {self.setting}"
        return f'[auth] overflow = "{self.then}" {self._bills}'

    def note(self, why: str, *, keeps_out: bool) -> str:
        """The remark of a decision for a call that overflows because of ``why``; ``keeps_out`` says whether
        there is somebody to keep out.
        """
        if self.then is Overflow.API:
            return f"{why}; {self.said}"
        return f"{why}; {self.remedy}" if keeps_out else why

    @property
    def _bills(self) -> str:
        capped = "" if self.usd_per_day is None else f", up to ${self.usd_per_day:g} a day"
        return f"bills your API key instead{capped}"


def costs_money(model: ModelInfo, credential: str) -> bool:
    """Whether a call of a candidate adds to a bill; a price that is not known may be any, unless there is
    nobody to bill: no credential.
    """
    if credential == SUBSCRIPTION or model.local:
        return False
    return credential != NO_CREDENTIAL if model.prices is None else not model.prices.free
