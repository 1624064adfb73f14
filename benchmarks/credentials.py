"""What a month costs three kinds of user, by who pays for which call; and the least that it could cost.

Nobody knows the future but the optimum. What a plan itself costs is paid anyway, and left out. Seeded: the
same figures at every run. The method was made on seeds 0 to 9; the default seeds are others.

Usage: ``python benchmarks/credentials.py [--seeds 20] [--first 1000] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import _table
from _credentials_months import KINDS, START, Call, Kind, month, resets

from attune.models.auth_strategy import AuthFacts, AuthMode, AuthStrategy, SubscriptionTier
from attune.models.candidate import Candidate
from attune.models.credits import Grant
from attune.models.prepaid import Prepaid
from attune.models.quota import QuotaWindow
from attune.models.telemetry import NANOS_PER_USD, LLMCallRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TARGET = 0.05
CALL_SECONDS = 60.0
STRATEGY = AuthStrategy(subscription_tier=SubscriptionTier.MAX)


class Payer(Protocol):
    """Decides, and is told what the windows say at the end of each call that was given to them."""

    def prepaid(self, call: Call, *, spent: bool) -> bool:
        """Whether the prepaid quota is to pay; ``spent`` is what the last reports said."""

    def told(self, usd: float, reports: Sequence[QuotaWindow]) -> None:
        """A call has ended that used quota of so much at API prices; none of it when it was refused."""


class Always:
    """One answer for every call, while there is quota."""

    def __init__(self, *, prepaid: bool) -> None:
        self._prepaid = prepaid

    def prepaid(self, call: Call, *, spent: bool) -> bool:
        return self._prepaid and not spent

    def told(self, usd: float, reports: Sequence[QuotaWindow]) -> None: ...


class BySize(Always):
    """The size of the work, as ``AuthMode.AUTO`` goes by without facts."""

    def prepaid(self, call: Call, *, spent: bool) -> bool:
        mode = STRATEGY.get_recommended_mode(call.lines, AuthFacts(window_exhausted=spent))
        return mode is AuthMode.SUBSCRIPTION


PAYER = Candidate("prepaid", "model", "of the user")


class Priced(BySize):
    """By the price of what is prepaid, as soon as it is known, where there is room for the call beside those
    under way: by the same ``Prepaid`` that a running attune asks.
    """

    def __init__(self, kind: Kind, ends: Mapping[str, list[float]]) -> None:
        super().__init__(prepaid=True)
        usd = kind.capacity.get("credits")
        grants = {} if usd is None else {(PAYER.provider, PAYER.credential): Grant(usd, ends["credits"][-1])}
        self._credits = usd is not None
        self._state = Prepaid(START, grants)
        self._under_way: deque[LLMCallRecord] = deque()
        self._number = 0

    def prepaid(self, call: Call, *, spent: bool) -> bool:
        quota, api = call.quota_usd * call.guess, call.api_usd * call.guess
        worth = self._state.use(PAYER, quota, call.at).worth_usd
        self._state.wanted(PAYER, quota, api, call.at)
        if not self._state.has_room(PAYER, quota, call.at):
            return False
        chosen = super().prepaid(call, spent=False) if worth is None else worth <= api
        if chosen:
            self._number += 1
            self._state.begun(str(self._number), PAYER, quota, call.at)
            self._under_way.append(_record(str(self._number), call.at))
        return chosen

    def told(self, usd: float, reports: Sequence[QuotaWindow]) -> None:
        nanos, record = round(usd * NANOS_PER_USD), self._under_way.popleft()
        cost = {"cost_nanos": nanos} if self._credits else {"list_cost_nanos": nanos}
        self._state.ended(record._replace(**cost))
        if not self._credits:  # whose use is told by nobody
            self._state.report(PAYER.provider, PAYER.credential, reports)


def _record(call_id: str, at: float) -> LLMCallRecord:
    names = (PAYER.provider, PAYER.model_id, "capable", PAYER.credential)
    return LLMCallRecord(call_id, call_id, call_id, at, "", "", "", *names, success=True, latency_ms=0.0)


class Spent(NamedTuple):
    """What a month came to: dollars on the key, and calls that a spent window refused, so that they came to
    the key late.
    """

    usd: float
    refused: int


class Quota:
    """The prepaid windows as they are. Reports are rounded to a hundredth, those of credits are exact."""

    def __init__(self, capacity: Mapping[str, float], ends: Mapping[str, list[float]]) -> None:
        self._capacity, self._ends = capacity, ends
        self._used = dict.fromkeys(capacity, 0.0)
        self._place = dict.fromkeys(capacity, 0)

    def take(self, at: float, usd: float) -> float:
        """Use so much; returns what there was of it."""
        for name, times in self._ends.items():
            if (place := bisect_right(times, at)) != self._place[name]:
                self._place[name], self._used[name] = place, 0.0
        taken = min(usd, *(self._capacity[name] - used for name, used in self._used.items()))
        for name in self._used:
            self._used[name] += taken
        return taken

    def reports(self, at: float) -> list[QuotaWindow]:
        return [self._report(name, used / self._capacity[name], at) for name, used in self._used.items()]

    def _report(self, name: str, used: float, at: float) -> QuotaWindow:
        reset = self._ends[name][self._place[name]]
        if name == "credits":
            return QuotaWindow(name, used, reset, at, self._capacity[name])
        return QuotaWindow(name, round(used, 2), reset, at)


def live(kind: Kind, calls: Sequence[Call], ends: Mapping[str, list[float]], payer: Payer) -> Spent:
    """The month as it goes. What a window says is known when the call ends; what a call uses beyond a window
    is billed, as the same part of its price on a key.
    """
    quota, known = Quota(kind.capacity, ends), dict[str, QuotaWindow]()
    under_way: deque[tuple[float, float, list[QuotaWindow]]] = deque()
    usd, refused = 0.0, 0
    for call in calls:
        while under_way and under_way[0][0] <= call.at:
            _, used, reports = under_way.popleft()
            payer.told(used, reports)
            known.update((report.name, report) for report in reports)
        prepaid = payer.prepaid(call, spent=any(each.at(call.at).spent for each in known.values()))
        taken = quota.take(call.at, call.quota_usd) if prepaid else 0.0
        usd += (1 - taken / call.quota_usd) * call.api_usd
        if prepaid:
            seconds = CALL_SECONDS if taken else 0.0
            under_way.append((call.at + seconds, taken, quota.reports(call.at)))
            refused += not taken
    return Spent(usd, refused)


def optimum(kind: Kind, calls: Sequence[Call], ends: Mapping[str, list[float]]) -> float:
    """The least that the month could cost, by who knows all of it.

    Which parts of which calls the quota pays is a linear program; the constraints of nested windows (each
    call, its five hours, its week) form a polymatroid, on which taking the calls in the order of what a unit
    of quota saves is exact (Edmonds 1970).
    """
    inside = [[(name, bisect_right(times, call.at)) for name, times in ends.items()] for call in calls]
    left = {window: kind.capacity[window[0]] for windows in inside for window in windows}
    paid = []
    order = sorted(zip(calls, inside, strict=True), key=lambda each: each[0].quota_usd / each[0].api_usd)
    for call, windows in order:
        taken = min(call.quota_usd, *(left[window] for window in windows))
        paid.append((1 - taken / call.quota_usd) * call.api_usd)
        for window in windows:
            left[window] -= taken
    return math.fsum(paid)


def compare(kind: Kind, seed: int) -> dict[str, Spent]:
    """One month under every payer."""
    calls, ends = month(kind, seed), resets(kind, seed)
    payers: dict[str, Payer] = {
        "always the API": Always(prepaid=False),
        "by size": BySize(prepaid=True),
        "prepaid until spent": Always(prepaid=True),
        "priced": Priced(kind, ends),
    }
    found = {name: live(kind, calls, ends, payer) for name, payer in payers.items()}
    return {**found, "optimum": Spent(optimum(kind, calls, ends), 0)}


class Row(NamedTuple):
    """One payer over all seeds: mean dollars; of what could be saved, the part that was not, in the mean and
    at worst; refused calls a month.
    """

    kind: str
    payer: str
    usd: float
    lost: float
    worst: float
    refused: float


def rows(kind: Kind, seeds: Sequence[int]) -> list[Row]:
    months = [compare(kind, seed) for seed in seeds]
    return [_row(kind, payer, months) for payer in months[0]]


def _row(kind: Kind, payer: str, months: Sequence[Mapping[str, Spent]]) -> Row:
    lost = []
    for each in months:
        least, most = each["optimum"].usd, each["always the API"].usd
        lost.append((each[payer].usd - least) / (most - least))
    usd, refused = (statistics.fmean(getattr(each[payer], name) for each in months) for name in Spent._fields)
    return Row(kind.name, payer, usd, statistics.fmean(lost), max(lost), refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    found = {kind.name: rows(kind, seeds) for kind in KINDS}
    if args.json:
        print(json.dumps([row._asdict() for each in found.values() for row in each], indent=2))
        return
    for name, each in found.items():
        _table.show(
            f"{name}, a month ({args.seeds} seeds)",
            ("who pays", "USD", "lost", "worst", "refused", "target"),
            [_cells(row) for row in each],
        )


def _cells(row: Row) -> tuple[str, ...]:
    target = _table.verdict(row.lost, TARGET) if row.payer == "priced" else ""
    return (row.payer, f"{row.usd:.2f}", f"{row.lost:.1%}", f"{row.worst:.1%}", f"{row.refused:.1f}", target)


if __name__ == "__main__":
    main()
