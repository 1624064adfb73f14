"""What happens to calls whose plan is used up, as every surface shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._ledger import open_ledger
from attune.cli._terminal import dollars, utc
from attune.models.candidate import SUBSCRIPTION
from attune.models.overflow import Overflow
from attune.models.quota import USED_UP
from attune.models.spending import OVERFLOW, day_of
from attune.models.state import FactKind
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.config import Config
    from attune.models.auth_strategy import AuthStrategy

__all__ = ["OverflowNow", "overflow_as_json", "overflow_line", "overflow_now"]


class OverflowNow(NamedTuple):
    """The user's strategy, the USD of its cap that are used today (reserved ones included), and until when
    (UTC epoch seconds) which parts of which plans are used up now, and which plans refuse.
    """

    strategy: AuthStrategy
    used_usd: float
    used_up: Mapping[str, float]
    refused: Mapping[str, float] = {}

    @property
    def overflows(self) -> bool:
        """Whether calls overflow now: the whole of a plan cannot pay, and there are calls for it."""
        off = (*self.used_up, *self.refused)
        return self.strategy.counts_on_plan and any(key.endswith(f"#{SUBSCRIPTION}") for key in off)


def overflow_now(config: Config, now: float) -> OverflowNow:
    """How it stands now. Raises ``StoreError``."""
    ledger = open_ledger(config)
    if ledger is None:
        return OverflowNow(config.auth, 0.0, {})
    nanos = ledger.used(OVERFLOW.stored("day"), day_of(now).timestamp())
    plans = {each.name for each in config.plans}
    off = [
        fact
        for fact in ledger.facts()
        if fact.kind in {FactKind.CREDENTIAL_OFF, FactKind.MODEL_OFF}
        and fact.key.partition("#")[0] in plans
        and fact.until > now
    ]
    used_up = {fact.key: fact.until for fact in off if fact.detail == USED_UP}
    credentials = [fact for fact in off if fact.kind is FactKind.CREDENTIAL_OFF]
    refused = {fact.key: fact.until for fact in credentials if fact.key not in used_up}
    return OverflowNow(config.auth, nanos / NANOS_PER_USD, used_up, refused)


_SAID = {
    Overflow.API: "API keys pay for what a plan should and cannot",
    Overflow.WAIT: "calls wait for the reset of a plan that is used up, and fail where it is refused",
    Overflow.FAIL: "calls fail that a plan should pay for and cannot",
}


def overflow_line(found: OverflowNow) -> str:
    """How it stands, for people."""
    overflow, limit = found.strategy.overflow, found.strategy.overflow_usd_per_day
    parts = [f"overflow is {overflow}: {_SAID[overflow]}"]
    if overflow is Overflow.API or found.used_usd:
        parts.append(f"{_amount(found.used_usd)} of {_amount(limit)} are used today (UTC)")
    parts += (f"{key} is used up until {utc(until)}" for key, until in found.used_up.items())
    parts += (f"{key} refuses, next try {utc(until)}" for key, until in found.refused.items())
    if not found.strategy.counts_on_plan:
        parts.append("by the strategy no calls count on the plan, so none overflow")
    elif found.overflows:
        parts.append("calls overflow now")
    return "; ".join(parts)


def _amount(usd: float) -> str:
    """In cents where it is some; less is not shown as none."""
    return f"${usd:.2f}" if usd == 0 or usd >= 0.01 else dollars(usd)


def overflow_as_json(found: OverflowNow) -> dict[str, Any]:
    """How it stands, for programs."""
    return {
        "overflow": found.strategy.overflow.value,
        "usd_per_day": found.strategy.overflow_usd_per_day,
        "used_usd": found.used_usd,
        "used_up": dict(found.used_up),
        "refused": dict(found.refused),
        "overflows": found.overflows,
    }
