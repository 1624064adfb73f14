"""Prepaid credits of an API key: dollars that are there anyway until they expire, as a window of quota."""

from __future__ import annotations

import json
from typing import NamedTuple

from attune.models.quota import CREDITS, DAY_S, QuotaWindow, data_of, is_amount
from attune.models.state import Fact, FactKind
from attune.models.telemetry import NANOS_PER_USD

__all__ = ["END_TOLD", "Credits", "Grant", "Seen", "end_told", "granted", "seen_of"]

END_TOLD = "credits_end"
"""The name of the fact that people were told of a grant that nothing is left of it."""

SEEN_FOR_S = 3650 * DAY_S
"""How long it is kept when a grant was seen first: longer than one lasts, and the same for all, so that the
one seen last always has the last word.
"""


class Grant(NamedTuple):
    """Credits as they were granted: so many USD, which expire at a time (UTC epoch seconds)."""

    usd: float
    expires_at: float


class Seen(NamedTuple):
    """When a grant was seen first (UTC epoch seconds), and what its key had paid in all by then."""

    at: float
    paid_nanos: int

    def window(self, grant: Grant, paid_nanos: int, now: float) -> QuotaWindow:
        """What is left of the grant, by what its key has paid in all by now."""
        used = max(0, paid_nanos - self.paid_nanos) / NANOS_PER_USD / grant.usd
        return QuotaWindow(CREDITS, used, grant.expires_at, now, grant.usd)


class Credits:
    """What one key has used of its grant.

    The provider does not tell what is left, so all that the key paid since the grant was first seen is taken
    from it. ``paid_nanos`` are the key's costs ever: those that the ledger knows, of all processes, and those
    that came here since. ``said_end`` is whether people were told that nothing is left.
    """

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self._seen: Seen | None = None
        self._paid_nanos = 0
        self.said_end = False

    def window(self, now: float) -> QuotaWindow:
        """What is left, as a window that ends with the grant."""
        return (self._seen or Seen(now, 0)).window(self.grant, self._paid_nanos, now)

    def end(self, now: float) -> str:
        """How they ended, for people; empty while there are some."""
        if now >= self.grant.expires_at:
            return "have expired"
        return "are used up" if self.window(now).spent else ""

    def say_end(self, key: str, now: float) -> Fact:
        """Take in that people are told; returns what is to be stored of it."""
        self.said_end = True
        data = json.dumps([*self.grant], separators=(",", ":"))
        return Fact(FactKind.QUOTA, key, now + SEEN_FOR_S, now, "its end was told", data)

    def paid(self, nanos: int) -> None:
        """An attempt that the key paid for has ended."""
        self._paid_nanos += nanos

    def learn(self, fact: Fact) -> None:
        """Take over when it was first seen, or that its end was told, from a fact about this same grant."""
        self.said_end = self.said_end or data_of(fact) == [*self.grant]
        self._seen = seen_of(fact, self.grant) or self._seen

    def reconcile(self, paid_nanos: int, key: str, now: float) -> Fact | None:
        """Take in what the ledger says that the key has paid ever, which is a moment behind. Returns what is
        to be stored of a grant that is seen for the first time.
        """
        self._paid_nanos = max(self._paid_nanos, paid_nanos)
        if self._seen is not None:
            return None
        self._seen = Seen(now, paid_nanos)
        data = json.dumps([*self.grant, paid_nanos], separators=(",", ":"))
        return Fact(FactKind.QUOTA, key, now + SEEN_FOR_S, now, f"${self.grant.usd:g} granted", data)


def granted(provider: str, credential: str) -> str:
    """The key of the fact about a credential's grant."""
    return f"{provider}#{credential}#{CREDITS}"


def end_told(provider: str, credential: str) -> str:
    """The key of the fact that the end of a credential's grant was told."""
    return f"{provider}#{credential}#{END_TOLD}"


def seen_of(fact: Fact, grant: Grant) -> Seen | None:
    """When a grant was first seen; ``None`` if the fact is about another one, or about something else."""
    values = data_of(fact)
    if not isinstance(values, list) or len(values) != 3 or values[:2] != [*grant]:
        return None
    return Seen(fact.at, values[2]) if is_amount(values[2]) else None
