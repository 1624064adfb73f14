"""What is known of the quota of the enrolled plans, as every surface shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._ledger import open_ledger
from attune.models.quota import HOUR_S, Rate, run_out, window_of
from attune.models.state import FactKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.config import Config
    from attune.models.quota import QuotaWindow, RunOut
    from attune.models.telemetry import LLMCallRecord

__all__ = ["KnownWindow", "known_windows", "prospect", "quota_as_json", "span"]

LOOKED_AT = 5000
"""How many of the newest attempts tell at what times of its span a window was used."""

SOONEST_S = 60.0
"""A window that began later than this before its report says nothing of how fast it is used."""


class KnownWindow(NamedTuple):
    """A window of a plan as it is known now.

    ``learned_at`` is when the plan told of it (UTC epoch seconds). ``burn_per_hour`` is the mean part of the
    whole that was used an hour since it began, ``runs_out`` when it is used up if that goes on; ``None`` if
    that cannot be known.
    """

    provider: str
    credential: str
    window: QuotaWindow
    learned_at: float
    burn_per_hour: float | None = None
    runs_out: RunOut | None = None

    @property
    def would_expire(self) -> bool:
        """Whether some of it is left at its reset with 95 %."""
        return self.runs_out is not None and self.runs_out.earliest is None


def known_windows(config: Config, now: float) -> list[KnownWindow]:
    """The windows that the enrolled plans have told of, the shortest first. Raises ``StoreError``."""
    ledger = open_ledger(config)
    enrolled = {(each.name, name) for each in config.plans for name in each.credentials}
    if ledger is None or not enrolled:
        return []
    found = []
    for fact in ledger.facts():
        told = window_of(fact) if fact.kind is FactKind.QUOTA else None
        provider, credential, *_ = (*fact.key.split("#"), "")
        if told is not None and (provider, credential) in enrolled:
            found.append(KnownWindow(provider, credential, told.at(now), fact.at))
    attempts = ledger.recent_attempts(LOOKED_AT) if found else ()
    found.sort(key=lambda each: (each[:2], each.window.usual_seconds, each.window.name))
    return [_with_burn(each, attempts, now) for each in found]


def _with_burn(known: KnownWindow, attempts: Sequence[LLMCallRecord], now: float) -> KnownWindow:
    """The window with how fast it is used: as much as the plan said, spread as the calls here were made."""
    window = known.window
    if window.resets_at is None or not window.utilization:
        return known
    began = window.resets_at - window.usual_seconds
    hours = (window.learned_at - began) / HOUR_S
    if hours * HOUR_S < SOONEST_S:
        return known
    burn, payer = Rate(began), (known.provider, known.credential)
    paid = [
        (each.at, each.list_cost_nanos)
        for each in attempts
        if began <= each.at <= window.learned_at
        and each.list_cost_nanos
        and (each.provider, each.credential) == payer
    ]
    total = sum(worth for _, worth in paid)
    for at, worth in reversed(paid):
        burn.observe(at, window.utilization * worth / total)
    if not paid:
        burn.observe(window.learned_at, window.utilization)
    return known._replace(
        burn_per_hour=window.utilization / hours,
        runs_out=None if window.spent else run_out(window, burn, now),
    )


def prospect(known: KnownWindow, now: float) -> str:
    """When it is used up, for people; empty if that is not known."""
    if known.window.spent:
        return "used up"
    if known.runs_out is None:
        return ""
    earliest, expected, latest = known.runs_out
    if earliest is None:
        return "lasts until its reset"
    soonest = span(earliest - now)
    if expected is None:
        return f"lasts until its reset, at worst {soonest}"
    last = "its reset" if latest is None else span(latest - now)
    return f"used up in {span(expected - now)} ({soonest} to {last})"


def quota_as_json(known: KnownWindow) -> dict[str, Any]:
    """The window for programs."""
    window = known.window
    return {
        "provider": known.provider,
        "credential": known.credential,
        "window": window.name,
        "utilization": window.utilization,
        "spent": window.spent,
        "resets_at": window.resets_at,
        "learned_at": known.learned_at,
        "burn_per_hour": known.burn_per_hour,
        "runs_out": None if known.runs_out is None else known.runs_out._asdict(),
    }


def span(seconds: float) -> str:
    """A time as people say it, in its two largest units."""
    minutes = max(0, round(seconds / 60))
    if minutes < 1:
        return "less than a minute"
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{rest} min" if rest else ""]
    return " ".join([part for part in parts if part][:2])
