"""Who pays for a call: a plan, credits or an API key, by the user's strategy and by what each costs now."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from attune.models.auth_strategy import AuthFacts, AuthMode, SubscriptionTier
from attune.models.option import weighed_usd
from attune.models.overflow import CANNOT_PAY, Overflow, OverflowRule
from attune.models.performance import quality
from attune.models.pool import fails_more

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from attune.models.auth_strategy import AuthStrategy
    from attune.models.candidate import Availability
    from attune.models.option import Drop, Option, Scored
    from attune.models.prepaid import Prepaid, QuotaUse
    from attune.models.prompt_cache import CacheView
    from attune.models.registry import ModelInfo, ModelTier
    from attune.models.route_decision import RouteDecision

__all__ = ["NOTHING_PREPAID", "Paying", "Payment", "by_strategy"]

Order: TypeAlias = Literal["", "first", "last", "priced"]


class Paying(NamedTuple):
    """How prepaid candidates take part in one decision.

    ``order`` says whether those of plans alone come into question where their tier has some ("first"), only
    where there is nothing else ("last"), or as what their quota is worth says ("priced"); empty where there
    are none. ``why`` says why. Credits always compete by what they are worth. ``uses`` is what the call would
    use of each plan, also of those that are refused now, and of each key's credits that are enough for it.
    With ``overflows`` a plan should have paid, and cannot. ``notes`` are remarks for people. With ``outbid``
    the quota of the call's tier is worth more than what another candidate there costs. Of a model that both
    a plan and a key have, ``twins`` has the cheaper and the dearer one.
    """

    order: Order = ""
    why: str = ""
    uses: Mapping[Option, QuotaUse] = {}
    overflows: bool = False
    notes: tuple[str, ...] = ()
    outbid: bool = False
    twins: tuple[tuple[Scored, Scored], ...] = ()

    def own(self, base: ModelTier, is_enough: Callable[[ModelInfo], bool] | None = None) -> Sequence[Option]:
        """The plans' that should pay for a call of a tier: the tier's, or all where it has none. Where a call
        has found out that only some are enough, those of the next tier that has any.
        """
        if self.order in {"", "last"} or self.outbid:
            return ()
        plans = _of_plans(self.uses)
        if is_enough is not None:
            plans = [option for option in plans if is_enough(option.model)]
            base = min((option.model.tier for option in plans), key=lambda t: t.rank, default=base)
        return [option for option in plans if option.rank == base.rank] or plans

    def later(self, option: Option) -> bool:
        """Whether the candidate comes after the others of its tier, whatever its score."""
        if self.order == "priced":
            return any(option is dearer[1] for _, dearer in self.twins)
        return self.order in {"first", "last"} and option.of_plan is (self.order == "last")

    def decides(self, table: Sequence[Scored]) -> bool:
        """Whether it is settled if a plan pays in a table's first tier, which has some of both kinds."""
        if self.order == "priced":
            return bool(self.twins)
        kinds = {each[1].of_plan for each in _first_tier(table)}
        return self.order in {"first", "last"} and len(kinds) > 1

    def rivals(self, table: Sequence[Scored]) -> list[Scored]:
        """The first of each kind of payer in a table's first tier that competes by its price: plans, credits,
        and what costs money; none where there is only one kind.
        """
        tier = sorted(_first_tier(table), key=self._kind)
        firsts = [next(found) for _, found in groupby(tier, self._kind)]
        rivals = [each for each in firsts if self.order == "priced" or not each[1].of_plan]
        return rivals if len(rivals) > 1 else []

    def priced_table(self, table: list[Scored]) -> list[Scored]:
        """A table in whose first tier the kinds of payers that compete by their price stand in its order, by
        the first candidate of each; what is prepaid stands before what costs as much.
        """
        rivals = sorted(self.rivals(table), key=lambda each: price_rank(weighed_usd(each)))
        if not rivals:
            return table
        places = {self._kind(each): place for place, each in enumerate(rivals)}
        tier = sorted(_first_tier(table), key=lambda each: places.get(self._kind(each), len(places)))
        return [*tier, *(each for each in table if each[1].rank != table[0][1].rank)]

    def _kind(self, each: Scored) -> int:
        return 0 if each[1].of_plan else 1 if each[1] in self.uses else 2

    def features(self, table: Sequence[Scored]) -> tuple[tuple[str, str], ...]:
        """What a record keeps of it, so that the choice can be made again."""
        if not self.uses:
            return ()
        found = [("prepaid", self.order), ("prepaid_why", self.why)] if self.order else []
        if rivals := self.rivals(table):
            found.append(("rivals", " ".join(each[1].label for each in rivals)))
        if self.twins:
            pairs = (f"{cheaper[1].label} {dearer[1].label}" for cheaper, dearer in self.twins)
            found.append(("twins", ";".join(pairs)))
        return (*found, ("overflows", "yes")) if self.overflows else tuple(found)


NOTHING_PREPAID = Paying()


class Payment:
    """Decides who pays, by a ``strategy`` for plans and by what ``prepaid`` knows of quota and credits.

    An explicit mode is obeyed. In ``AUTO`` a plan that the strategy names and prefers competes with the API
    keys by the price of its quota; by the size of the work while that price is not known, and always with
    ``cost_optimization=False``. Without a ``strategy`` the price alone decides.
    """

    def __init__(
        self, prepaid: Prepaid, strategy: AuthStrategy | None, availability: Availability | None
    ) -> None:
        self._prepaid = prepaid
        self._strategy = strategy
        self._overflow_rule = OverflowRule(Overflow.API) if strategy is None else strategy.overflow_rule
        self._availability = availability

    @property
    def overflow_rule(self) -> OverflowRule:
        """What happens to calls that overflow."""
        return self._overflow_rule

    def weigh(
        self,
        fitting: Sequence[Option],
        scored: list[Scored],
        dropped: list[Drop],
        base: ModelTier,
        size: tuple[float, float, float],
        caches: CacheView | None,
        *,
        longest: int,
        heed_availability: bool,
    ) -> Paying:
        """Put what quota is worth into the scores, and take out what may not pay.

        ``base`` is the tier of the call, ``size`` its tokens in and out, and the time; ``caches`` say what of
        its prompt they have, ``longest`` is how many tokens its answer may have.
        """
        tokens_in, tokens_out, now = size
        uses: dict[Option, QuotaUse] = {}
        for option in fitting:
            if option.listed is None or option.longest < longest:
                continue
            if tokens_in + min(tokens_out, option.longest) <= option.window:
                cached = None if caches is None else caches.at(option.key, option.model.provider)
                answer = min(tokens_out, option.longest)
                list_usd = option.listed.cost(tokens_in, answer, now, cached) or 0.0
                uses[option] = self._prepaid.use(option.candidate, list_usd, now)
        plans = bool(uses)
        uses.update(self._credits(scored, now))
        notes = self._lacking(scored, uses, base, now) if self._prepaid.counts_credits else ()
        if not uses:
            return Paying(notes=notes) if notes else NOTHING_PREPAID
        for place, each in enumerate(scored):
            if each[1] in uses:
                scored[place] = _reweighed(each, uses[each[1]])
        if not plans:
            return Paying(uses=uses, notes=notes)
        order, why = self._order(tokens_in, uses, now)
        paying = Paying(order, why, uses, notes=notes)
        if order == "priced":
            paying = paying._replace(outbid=_is_outbid(uses, scored, base), twins=tuple(_twins(scored)))
        heeded = order != "last" and heed_availability and not paying.outbid
        if not heeded or (said := self._overflow(scored, dropped, paying, base, now)) is None:
            return paying
        return paying._replace(overflows=True, notes=(*notes, *said))

    def begun(self, decision: RouteDecision, call_id: str, now: float) -> None:
        """Take in that a call was decided: each prepaid credential could have served it, with its model of
        the call's tier, in place of the first other candidate.
        """
        uses = {} if decision.paying is None else decision.paying.uses
        scored = decision.scored
        if self._prepaid.counts_credits:
            own = _of_tier(scored, decision.base_tier)
            self._prepaid.say_end([option.candidate for option in own], now)
        if not uses:
            return
        rank = decision.tier.rank
        for option in _one_each(sorted(uses, key=lambda option: option.rank != rank)):
            others = [each for each in scored if each[1] not in uses]
            other = next((each for each in others if each[1].rank == option.rank), (*others, None)[0])
            list_usd = uses[option].list_usd
            otherwise = list_usd if other is None or other[3] is None else other[3]
            self._prepaid.wanted(option.candidate, list_usd, otherwise, now)
        chosen = scored[0][1]
        if chosen in uses:
            self._prepaid.begun(call_id, chosen.candidate, uses[chosen].list_usd, now)

    def _credits(self, scored: Iterable[Scored], now: float) -> Iterable[tuple[Option, QuotaUse]]:
        """The candidates whose key has credits enough for the call, and what it would use of them."""
        for _, option, _, cost, _ in scored:
            if option.of_plan or cost is None or not self._prepaid.has_credits(option.candidate):
                continue
            if self._prepaid.has_room(option.candidate, cost, now):
                yield option, self._prepaid.use(option.candidate, cost, now)

    def _lacking(
        self, scored: Sequence[Scored], uses: Iterable[Option], base: ModelTier, now: float
    ) -> tuple[str, ...]:
        """What there is to say of the credits of keys in the call's tier that they do not pay for there."""
        covered = {_payer(option) for option in uses if option.rank == base.rank}
        priced = [each for each in scored if each[3] is not None]
        others = [option for option in _of_tier(priced, base) if _payer(option) not in covered]
        said = dict.fromkeys(self._prepaid.lacking(option.candidate, now) for option in others)
        return tuple(filter(None, said))

    def _order(self, tokens_in: float, uses: Mapping[Option, QuotaUse], now: float) -> tuple[Order, str]:
        strategy = self._strategy
        known = all(use.worth_usd is not None for use in uses.values())
        if strategy is None or (known and strategy.competes):
            return "priced", "what its quota is worth decides"
        lasts = [self._prepaid.lasts(option.candidate, now) for option in _of_plans(uses)]
        facts = AuthFacts(quota_would_expire=all(lasts), quota_would_run_out=False in lasts)
        mode, why = by_strategy(strategy, strategy.estimate_lines(tokens_in), facts)
        return "first" if mode is AuthMode.SUBSCRIPTION else "last", why

    def _overflow(
        self,
        scored: list[Scored],
        dropped: list[Drop],
        paying: Paying,
        base: ModelTier,
        now: float,
    ) -> tuple[str, ...] | None:
        """What there is to say where the plans' candidates of the call's tier (of all tiers, where it has
        none) cannot pay for it; then those that the strategy does not let take their place are taken out.
        ``None`` if one of them can.
        """
        own, uses = paying.own(base), paying.uses
        spent = {option: why for option in own if (why := self._spent(option))}
        rule = self._overflow_rule
        of_plans = [each for each in scored if each[1].of_plan]
        if len(of_plans) < len(scored) and rule.then is Overflow.API:
            for each in [s for s in of_plans if not self._has_room(s[1], uses[s[1]], now)]:
                scored.remove(each)
                dropped.append((each[1], "what is left of its quota is too little for this call", 4))
                spent[each[1]] = f"{each[1].candidate}: what is left of its quota is too little for this call"
        if not set(own) <= set(spent):
            return None
        kept_out = [s for s in scored if rule.keeps_out(s[1].model, s[1].candidate.credential)]
        for each in kept_out:
            scored.remove(each)
            dropped.append((each[1], rule.reason, 3))
        told = scored or kept_out  # else the plans' own drops say it all
        return (rule.note(spent[own[0]], keeps_out=bool(kept_out)),) if told else ()

    def _spent(self, option: Option) -> str:
        """Why a plan cannot pay now; empty if it can, as far as is known."""
        refusal = None if self._availability is None else self._availability.refusal(option.candidate)
        return "" if refusal is None or refusal.error_class not in CANNOT_PAY else refusal.told

    def _has_room(self, option: Option, use: QuotaUse, now: float) -> bool:
        return self._prepaid.has_room(option.candidate, use.list_usd, now)


def by_strategy(strategy: AuthStrategy, lines: int, facts: AuthFacts | None = None) -> tuple[AuthMode, str]:
    """What should pay for so many lines where no price is known, and why."""
    mode = strategy.get_recommended_mode(lines, facts)
    size = strategy.get_module_size_category(lines)
    if strategy.default_mode is not AuthMode.AUTO:
        why = f"the mode is set to {strategy.default_mode}"
    elif strategy.subscription_tier is SubscriptionTier.NONE:
        why = "the strategy names no plan"
    elif not strategy.prefer_subscription:
        why = "the subscription is not preferred"
    elif mode is AuthMode.SUBSCRIPTION and size == "small":
        why = "quota would expire unused"
    elif mode is AuthMode.SUBSCRIPTION:
        why = f"{size} work goes to the {strategy.subscription_tier} plan"
    elif size == "medium":
        why = "quota would run out, and is kept for large work"
    else:
        why = f"{size} work goes to the API"
    return mode, why


def _is_outbid(uses: Mapping[Option, QuotaUse], scored: Sequence[Scored], base: ModelTier) -> bool:
    """Whether the first other candidate of a tier costs less than what any plan's quota for it is worth."""
    worths = [use.worth_usd or 0.0 for option, use in uses.items() if _is_of(option, base, of_plan=True)]
    other = next((each for each in scored if _is_of(each[1], base, of_plan=False)), None)
    return bool(worths) and other is not None and price_rank(weighed_usd(other)) < min(worths)


def _is_of(option: Option, tier: ModelTier, *, of_plan: bool) -> bool:
    return option.rank == tier.rank and option.of_plan is of_plan


def _twins(scored: Sequence[Scored]) -> Iterable[tuple[Scored, Scored]]:
    """Of each model that both a plan and others have, who is cheaper there (quota where it costs as much) and
    who is dearer, but for a cheaper one that fails more often, beyond chance.
    """
    others = {each[1].model.id: each for each in reversed(scored) if not each[1].of_plan}
    for plan in scored:
        if not plan[1].of_plan or (other := others.get(plan[1].model.id)) is None:
            continue
        by_plan = price_rank(weighed_usd(plan)) <= price_rank(weighed_usd(other))
        cheaper, dearer = (plan, other) if by_plan else (other, plan)
        if not fails_more(cheaper[2], [dearer]):
            yield cheaper, dearer


def _one_each(options: Iterable[Option]) -> Iterable[Option]:
    """The first option of each credential."""
    return {_payer(option): option for option in reversed(list(options))}.values()


def _payer(option: Option) -> tuple[str, str]:
    return option.candidate.provider, option.candidate.credential


def _of_tier(scored: Sequence[Scored], tier: ModelTier) -> list[Option]:
    return [each[1] for each in scored if each[1].rank == tier.rank]


def _of_plans(options: Iterable[Option]) -> list[Option]:
    return [option for option in options if option.of_plan]


def _first_tier(table: Sequence[Scored]) -> list[Scored]:
    return [each for each in table if each[1].rank == table[0][1].rank]


def price_rank(usd: float | None) -> float:
    """Where a price stands among others: one that is not known may be any, and stands last."""
    return math.inf if usd is None else usd


def _reweighed(each: Scored, use: QuotaUse) -> Scored:
    """A scored option with what it would use of what is prepaid, and the score that this makes."""
    _, option, row, cost, _ = each
    rate, latency, known, _, _, lately = row[:6]
    score = quality(rate, latency, use.weighed(cost or 0.0), lately, known)
    return score, option, row, cost, use
