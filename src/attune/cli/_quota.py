"""What is known of the quota of the enrolled plans, and of prepaid credits, as every surface shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._ledger import open_ledger
from attune.cli._terminal import dollars
from attune.models.credits import Seen, granted, seen_of
from attune.models.moments import span
from attune.models.quota import CREDITS, DAY_S, HOUR_S, Rate, burn_of, run_out, window_of
from attune.models.state import FactKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.config import Config
    from attune.models.quota import QuotaWindow, RunOut
    from attune.models.state import Fact
    from attune.models.telemetry import LLMCallRecord
    from attune.stores.sqlite import SqliteReader

__all__ = ["KnownWindow", "known_windows", "prospect", "quota_as_json"]

LOOKED_AT = 5000
"""How many of the newest attempts tell at what times of its span a window was used."""

SOONEST_S = 60.0
"""A window that began later than this before its report says nothing of how fast it is used."""


class KnownWindow(NamedTuple):
    """A window of a plan, or the credits of a key, as it is known now.

    ``learned_at`` is when the plan told of it (UTC epoch seconds). ``burn_per_hour`` is the mean part of the
    whole that is used an hour, as its reports of the last weeks show it, or else since it began;
    ``runs_out`` is when it is used up if that goes on; ``None`` if that cannot be known.
    """

    provider: str
    credential: str
    window: QuotaWindow
    learned_at: float
    burn_per_hour: float | None = None
    runs_out: RunOut | None = None

    @property
    def end(self) -> str:
        """What its end is called."""
        return "expiry" if self.window.name == CREDITS else "reset"

    def expired(self, now: float) -> bool:
        """Whether it is credits, and their time has passed."""
        return self.window.name == CREDITS and (self.window.resets_at or 0.0) <= now


def known_windows(config: Config, now: float) -> list[KnownWindow]:
    """The windows that the enrolled plans have told of, the shortest first, and then the credits of keys.
    Raises ``StoreError``.
    """
    ledger = open_ledger(config)
    facts = ledger.facts() if ledger is not None else []
    enrolled = {(each.name, name) for each in config.plans for name in each.credentials}
    found, burns = [], {}
    for fact in facts:
        told = window_of(fact) if fact.kind is FactKind.QUOTA else None
        provider, credential, *_ = (*fact.key.split("#"), "")
        if told is not None and (provider, credential) in enrolled:
            found.append(KnownWindow(provider, credential, told.at(now), fact.at))
            burns[provider, credential, told.name] = burn_of(fact)
    attempts = ledger.recent_attempts(LOOKED_AT) if ledger is not None and (found or config.grants) else ()
    found.sort(key=lambda each: (each[:2], each.window.usual_seconds, each.window.name))
    of_plans = [_of_plan(each, burns[(*each[:2], each.window.name)], attempts, now) for each in found]
    return [*of_plans, *_credits(config, ledger, facts, attempts, now)]


def _credits(
    config: Config,
    ledger: SqliteReader | None,
    facts: Sequence[Fact],
    attempts: Sequence[LLMCallRecord],
    now: float,
) -> Iterator[KnownWindow]:
    """What is left of each key's credits, by what the ledger says that it paid since they were first seen."""
    grants = config.grants
    paid = ledger.paid() if ledger is not None and grants else {}
    stored = {fact.key: fact for fact in facts if fact.kind is FactKind.QUOTA}
    for payer, grant in grants.items():
        fact, nanos = stored.get(granted(*payer)), paid.get(payer, 0)
        seen = (None if fact is None else seen_of(fact, grant)) or Seen(now, nanos)
        known = KnownWindow(*payer, seen.window(grant, nanos, now).at(now), now)
        costs = [(e.at, e.cost_nanos) for e in attempts if (e.provider, e.credential) == payer]
        yield _with_burn(known, seen.at, costs, now)


def _of_plan(
    known: KnownWindow, burn: Rate | None, attempts: Sequence[LLMCallRecord], now: float
) -> KnownWindow:
    """The window with how fast it is used: as was learned from its reports, where there were several."""
    if known.window.resets_at is None:
        return known
    if burn is not None and burn.total and not known.window.spent:
        a_day = burn.forecast(now, now + DAY_S).mean
        return known._replace(burn_per_hour=a_day / 24, runs_out=run_out(known.window, burn, now))
    payer = known.provider, known.credential
    worths = [(e.at, e.list_cost_nanos) for e in attempts if (e.provider, e.credential) == payer]
    return _with_burn(known, known.window.resets_at - known.window.usual_seconds, worths, now)


def _with_burn(
    known: KnownWindow, began: float, worths: Sequence[tuple[float, int | None]], now: float
) -> KnownWindow:
    """The window with how fast it is used: as much as is known, spread as the calls here were made, whose
    ``worths`` are their times and what they used, the newest first.
    """
    window = known.window
    hours = (window.learned_at - began) / HOUR_S
    if not window.utilization or hours * HOUR_S < SOONEST_S:
        return known
    burn = Rate(began)
    paid = [(at, worth) for at, worth in worths if began <= at <= window.learned_at and worth]
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
        return _end_of_credits(known, now) if known.window.name == CREDITS else "used up"
    if known.runs_out is None:
        return ""
    earliest, expected, latest = known.runs_out
    if earliest is None:
        return f"lasts until its {known.end}"
    soonest = span(earliest - now)
    if expected is None:
        return f"lasts until its {known.end}; at worst used up in {soonest}"
    last = f"its {known.end}" if latest is None else span(latest - now)
    return f"used up in {span(expected - now)} ({soonest} to {last})"


def _end_of_credits(known: KnownWindow, now: float) -> str:
    if known.expired(now):
        return "expired"
    beyond = ((known.window.utilization or 0.0) - 1) * (known.window.capacity_usd or 0.0)
    return f"used up; {dollars(beyond)} billed beyond them" if beyond > 0 else "used up"


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
        "capacity_usd": window.capacity_usd,
        "learned_at": known.learned_at,
        "burn_per_hour": known.burn_per_hour,
        "runs_out": None if known.runs_out is None else known.runs_out._asdict(),
    }
