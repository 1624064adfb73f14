"""What the prepaid credentials of a process have left, and what it costs now to let one pay."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from attune.models.candidate import Candidate
from attune.models.credits import END_TOLD, Credits, end_told, granted
from attune.models.quota import CREDITS, DAY_S, Rate, burn_of, fact_of, meter_of, run_out, window_of
from attune.models.quota_meter import QuotaMeter
from attune.models.quota_price import KEY, REPRICE_S, Demand, fits, marginal_cost
from attune.models.state import FactKind
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from attune.models.credits import Grant
    from attune.models.quota import QuotaWindow, RunOut
    from attune.models.state import Fact
    from attune.models.telemetry import LLMCallRecord

__all__ = ["Prepaid", "QuotaUse"]

SMALLEST_USD = 1e-9
"""What is less is what rounding left of a sum."""
MAX_WINDOWS = 32
"""Windows of one credential that are remembered, those that were learned last."""
UNDER_WAY_S = 600.0
"""A call whose attempt never came to an end is counted as under way for so long."""


class QuotaUse(NamedTuple):
    """What a call would use of a prepaid credential's quota.

    ``list_usd`` is what it would cost at the API prices of the same model; ``worth_usd`` what the quota for
    it could still save on other calls (see ``shadow_price``), ``None`` while that is not known. With
    ``by_credits`` it is the predicted cost itself that is paid in advance.
    """

    list_usd: float
    worth_usd: float | None
    by_credits: bool = False

    @property
    def label(self) -> str:
        """What it would use, for people."""
        if self.by_credits:
            return f"credits of ${self.list_usd:.6f}, which are worth ${self.worth_usd or 0.0:.6f} now"
        worth = "" if self.worth_usd is None else f", where it is worth ${self.worth_usd:.6f}"
        return f"quota of ${self.list_usd:.6f} at API prices{worth}"

    def weighed(self, cost: float) -> float:
        """What the call is weighed at, in USD, if it is predicted to cost so much."""
        return (0.0 if self.by_credits else cost) + (self.worth_usd or 0.0)


class Prepaid:
    """The windows of every prepaid credential, the demand for each, and the calls under way.

    All times are UTC epoch seconds; ``now`` is when the watch begins. Of each credential the windows are
    those that were reported here, or elsewhere where that was later. ``grants`` are the credits of API keys,
    by provider and credential.
    """

    def __init__(self, now: float, grants: Mapping[tuple[str, str], Grant] | None = None) -> None:
        self._since = now
        self._credits = {payer: Credits(grant) for payer, grant in (grants or {}).items()}
        self._windows: dict[tuple[str, str], dict[str, QuotaWindow]] = {}
        self._meters: dict[tuple[str, str, str], QuotaMeter] = {}
        self._demands: dict[tuple[str, str], Demand] = {}
        self._used_by: dict[Candidate, tuple[QuotaWindow, ...]] = {}
        self._lasting: dict[Candidate, tuple[float, bool | None]] = {}
        self._beside: dict[tuple[str, str], float] = {}
        self._under_way: OrderedDict[str, tuple[tuple[str, str], float, float]] = OrderedDict()
        self._untold: set[tuple[str, str]] = set()
        self._unmetered: set[tuple[str, str, str]] = set()
        self._ends: list[Fact] = []
        self._families: dict[tuple[str, str], set[str]] = {}
        for payer in self._credits:
            self._count(payer, now)

    def enrol(self, candidate: Candidate) -> None:
        """Take note of a prepaid candidate: a window whose name has a word of some model's id, and none of
        another's, is used by that model alone.
        """
        self._families.setdefault(_payer(candidate), set()).update(_words(candidate))

    # -- what a call costs -----------------------------------------------------------------------

    def windows(self, candidate: Candidate) -> tuple[QuotaWindow, ...]:
        """The windows that a call of the candidate would use."""
        found = self._used_by.get(candidate)
        if found is None:
            families, words = self._families.get(_payer(candidate), set()), _words(candidate)
            found = self._used_by[candidate] = tuple(
                window
                for name, window in self._windows.get(_payer(candidate), {}).items()
                if not (of := families & {*name.split("_")}) or not of.isdisjoint(words)
            )
        return found

    def use(self, candidate: Candidate, list_usd: float, now: float) -> QuotaUse:
        """What a call that would cost so much on an API key would use of the candidate's quota."""
        windows, demand = self.windows(candidate), self._demands.get(_payer(candidate))
        by_credits = self.has_credits(candidate)
        if not windows or demand is None:
            return QuotaUse(list_usd, 0.0 if by_credits else None, by_credits)
        return QuotaUse(list_usd, marginal_cost(list_usd, windows, demand, now), by_credits)

    def has_credits(self, candidate: Candidate) -> bool:
        """Whether the candidate's key was granted credits, be some of them left or not."""
        return _payer(candidate) in self._credits

    def lacking(self, candidate: Candidate, now: float) -> str:
        """What there is to say of credits that do not pay for a call of the candidate; empty where its key
        was granted none, and where it was said that nothing is left.
        """
        account = self._credits.get(_payer(candidate))
        if account is None or account.said_end:
            return ""
        name, end = f"the credits of {candidate.provider}#{candidate.credential}", account.end(now)
        if end:
            return f"{name} {end}: its calls cost money now"
        left = f"${account.window(now).left_usd(now) or 0.0:.6f} of ${account.grant.usd:g} left"
        return f"{name} ({left}) are too few for this call: it costs money there"

    def lasts(self, candidate: Candidate, now: float) -> bool | None:
        """Whether every window of the candidate lasts until its reset as it is used now: ``True`` with 95 %,
        ``False`` where one is expected not to, else ``None``. It is known before the price, for which it
        must be known what a window is worth. One that is spent does not count: nothing is left of it to keep.
        """
        until, lasts = self._lasting.get(candidate, (0.0, None))
        if now >= until:
            left = [each for each in self.windows(candidate) if not each.at(now).spent]
            found = [self._run_out(candidate, each, now) for each in left]
            known = [each for each in found if each is not None]
            lasts = True if known and all(each.earliest is None for each in known) else None
            if any(each.expected is not None for each in known):
                lasts = False
            self._lasting[candidate] = now + REPRICE_S, lasts
        return lasts

    def _run_out(self, candidate: Candidate, window: QuotaWindow, now: float) -> RunOut | None:
        burn = self._meter((*_payer(candidate), window.name)).burn
        if not burn.total and window.utilization:  # before the watch began: for all we know at once
            burn = Rate(window.ends(window.learned_at) - window.usual_seconds)
            burn.observe(window.learned_at, window.utilization)
        return run_out(window, burn, now)

    def has_room(self, candidate: Candidate, list_usd: float, now: float) -> bool:
        """Whether the windows have room for the call beside those under way, as far as is known."""
        while self._under_way and next(iter(self._under_way.values()))[2] < now - UNDER_WAY_S:
            self.over(next(iter(self._under_way)))
        return fits(list_usd, self.windows(candidate), now, self._beside.get(_payer(candidate), 0.0))

    # -- learning --------------------------------------------------------------------------------

    def wanted(self, candidate: Candidate, list_usd: float, otherwise_usd: float, now: float) -> None:
        """Learn of a call that the candidate could serve, whoever pays for it; ``otherwise_usd`` is what it
        costs where this one does not.
        """
        demand = self._demands.setdefault(_payer(candidate), Demand(self._since))
        demand.observe(now, list_usd, otherwise_usd, [each.name for each in self.windows(candidate)])
        self._untold.add(_payer(candidate))

    def say_end(self, candidates: Iterable[Candidate], now: float) -> None:
        """Take in that people are told of the credits of these candidates, where nothing is left of them."""
        for payer in map(_payer, candidates):
            account = self._credits.get(payer)
            if account is not None and not account.said_end and account.end(now):
                self._ends.append(account.say_end(end_told(*payer), now))

    def begun(self, call_id: str, candidate: Candidate, list_usd: float, now: float) -> None:
        """Take in that a call is to be paid by the candidate."""
        payer = _payer(candidate)
        self._under_way[call_id] = payer, list_usd, now
        self._beside[payer] = self._beside.get(payer, 0.0) + list_usd

    def over(self, call_id: str) -> None:
        """Take in that a call is over, or goes on with somebody else."""
        begun = self._under_way.pop(call_id, None)
        if begun is not None:
            payer, usd, _ = begun
            left = self._beside[payer] - usd
            self._beside[payer] = left if left > SMALLEST_USD else 0.0

    def ended(self, record: LLMCallRecord) -> bool:
        """Take in what an attempt used: reports lag behind by a call, so that it is in the next one. Returns
        whether it was its call's first at who was to pay.
        """
        begun = self._under_way.get(record.call_id)
        payer = record.provider, record.credential
        first = begun is not None and begun[0] == payer
        if first:
            self.over(record.call_id)
        if payer in self._credits and record.cost_nanos:
            self._credits[payer].paid(record.cost_nanos)
            self._count(payer, record.at)
        if record.list_cost_nanos:
            for window in self.windows(Candidate(record.provider, record.model_id, record.credential)):
                self._meters[(*payer, window.name)].paid(record.list_cost_nanos / NANOS_PER_USD)
                self._unmetered.add((*payer, window.name))
        return first

    def report(self, provider: str, credential: str, windows: Iterable[QuotaWindow]) -> list[Fact]:
        """Learn what a credential reports of its windows; returns what is to be stored of it."""
        facts = []
        for told in windows:
            if told.name == CREDITS:  # a plan's own, of which no rule is known; a grant is counted here
                continue
            window = self._meter((provider, credential, told.name)).report(told.plausible())
            self._set(provider, credential, window)
            facts.append(self._fact(provider, credential, window))
        return facts

    def _fact(self, provider: str, credential: str, window: QuotaWindow) -> Fact:
        meter = self._meter((provider, credential, window.name))
        return fact_of(window, provider, credential, meter.burn, meter.state())

    # -- what is stored --------------------------------------------------------------------------

    def learn(self, facts: Iterable[Fact], now: float) -> None:
        """Take over what is stored and newer than what is known here: at start, and from other processes.
        What a clock that is wrong dated to the future is left alone.
        """
        for fact in facts:
            if fact.kind is not FactKind.QUOTA or fact.key.count("#") != 2 or fact.at > now + DAY_S:
                continue
            provider, credential, name = fact.key.split("#")
            if name == KEY:
                self._restore(provider, credential, fact)
            elif name in {CREDITS, END_TOLD}:
                if (provider, credential) in self._credits:
                    self._credits[provider, credential].learn(fact)
            elif fact.at > self._learned_at(provider, credential, name):
                self._hear(provider, credential, fact)

    @property
    def counts_credits(self) -> bool:
        """Whether there are any, so that what the ledger says has to be asked for."""
        return bool(self._credits)

    def reconcile(self, paid_nanos: Mapping[tuple[str, str], int], now: float) -> list[Fact]:
        """Take in what the ledger says that each credential has paid ever, in nano-dollars; returns what is
        to be stored of grants that are seen for the first time.
        """
        facts = []
        for payer, account in self._credits.items():
            fact = account.reconcile(paid_nanos.get(payer, 0), granted(*payer), now)
            if fact is not None:
                facts.append(fact)
            self._count(payer, now)
        return facts

    def untold(self, now: float) -> list[Fact]:
        """What was learned of demand, and said of the end of credits, since this was last asked for."""
        facts = [self._demands[payer].fact(*payer, now) for payer in sorted(self._untold)]
        for provider, credential, name in sorted(self._unmetered):
            facts.append(self._fact(provider, credential, self._windows[provider, credential][name]))
        self._unmetered.clear()
        facts += self._ends
        self._untold.clear()
        self._ends.clear()
        return facts

    def _restore(self, provider: str, credential: str, fact: Fact) -> None:
        """Demand is taken over where none is known: each process goes on with its own."""
        if (provider, credential) not in self._demands and (demand := Demand.of(fact)) is not None:
            self._demands[provider, credential] = demand

    def _hear(self, provider: str, credential: str, fact: Fact) -> None:
        window = window_of(fact)
        if window is None:
            return
        meter = self._meters.get((provider, credential, window.name))
        if meter is None:
            known = burn_of(fact), meter_of(fact)
            self._meters[provider, credential, window.name] = QuotaMeter(self._since, window, *known)
        else:
            meter.heard(window)
        self._set(provider, credential, window)

    def _learned_at(self, provider: str, credential: str, name: str) -> float:
        known = self._windows.get((provider, credential), {}).get(name)
        return float("-inf") if known is None else known.learned_at

    def _meter(self, key: tuple[str, str, str]) -> QuotaMeter:
        return self._meters.setdefault(key, QuotaMeter(self._since))

    def _count(self, payer: tuple[str, str], now: float) -> None:
        """Take in what is left of a key's credits."""
        window, known = self._credits[payer].window(now), self._windows.get(payer, {}).get(CREDITS)
        if known is None or window.utilization != known.utilization:
            self._set(*payer, window)

    def _set(self, provider: str, credential: str, window: QuotaWindow) -> None:
        known = self._windows.setdefault((provider, credential), {})
        known.pop(window.name, None)
        known[window.name] = window
        while len(known) > MAX_WINDOWS:
            name = next(iter(known))
            del known[name]
            self._meters.pop((provider, credential, name), None)
            self._unmetered.discard((provider, credential, name))
        self._used_by.clear()
        self._lasting.clear()


def _payer(candidate: Candidate) -> tuple[str, str]:
    return candidate.provider, candidate.credential


def _words(candidate: Candidate) -> Sequence[str]:
    return candidate.model_id.split("-")
