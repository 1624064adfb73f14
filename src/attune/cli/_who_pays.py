"""What would pay for work now, as the router decides it from the ledger, without calling anyone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from attune.cli._exit import note
from attune.cli._ledger import open_ledger
from attune.cli._payment import ENROL_A_PLAN, Payer, is_replaced, paying
from attune.cli._terminal import dollars, utc
from attune.errors import NoCandidateError, StoreError
from attune.models.answer_length import AnswerLength
from attune.models.auth_strategy import AuthFacts, AuthMode
from attune.models.failure_domains import FailureDomains
from attune.models.payment import by_strategy
from attune.models.route_request import RouteRequest
from attune.models.state import FactKind
from attune.providers.catalogue import SUBSCRIPTION
from attune.routing import restore, router_of

if TYPE_CHECKING:
    from attune.config import Config
    from attune.models.auth_strategy import AuthStrategy
    from attune.models.payment import Paying
    from attune.models.route_decision import RouteDecision
    from attune.models.state import Fact

__all__ = ["Paid", "WhoPays", "WorkSize", "work_sizes"]

LOOKED_AT = 1000
"""How many of the newest attempts tell how long answers are."""


class Paid(NamedTuple):
    """Who would pay (``None``: nobody), what the strategy recommends, and why; ``obstacle`` says why another
    one than that would pay, or nobody.
    """

    payer: Payer | None
    mode: AuthMode
    reason: str
    obstacle: str = ""

    @property
    def summary(self) -> str:
        """All of it in one line."""
        strategy = f"{self.mode} by the strategy ({self.reason})"
        if self.payer is None:
            return f"nothing can pay: {self.obstacle}; {strategy}"
        if not self.obstacle:
            return f"{self.payer} would pay ({self.reason})"
        return f"{strategy}, but {self.obstacle}; {self.payer} would pay"

    @property
    def by_plan(self) -> bool:
        """Whether a plan would pay."""
        return self.payer is not None and self.payer.credential == SUBSCRIPTION

    @property
    def by_key(self) -> bool:
        """Whether it would be billed."""
        return self.payer is not None and not self.by_plan and not self.payer.model.local


class WorkSize(NamedTuple):
    """A size of work: its span in tokens, by which it is told, and in the lines that the strategy takes these
    for; ``within`` is a number of lines of that size.
    """

    name: str
    tokens: str
    lines: str
    within: int

    @property
    def span(self) -> str:
        """How much it is, for people."""
        lines = self.lines.removeprefix("below ").removeprefix("above ")
        return f"{self.tokens} tokens (about {lines} lines)"


def work_sizes(strategy: AuthStrategy) -> list[WorkSize]:
    """The sizes that the thresholds leave: what stands for one is near the others where it has no end."""
    small, large = strategy.small_module_threshold, strategy.large_module_threshold
    spans: list[tuple[str, str, tuple[int, ...], int]] = [
        ("small", "below ", (small,), small - 1),
        ("medium", "", (small, large), (small + large) // 2),
        ("large", "above ", (large,), large + 1),
    ]
    return [
        WorkSize(
            name,
            word + " to ".join(f"{strategy.estimate_tokens(lines):,}" for lines in ends),
            word + " to ".join(f"{lines:,}" for lines in ends),
            within,
        )
        for name, word, ends, within in spans
        if within >= 0
    ]


class WhoPays:
    """Answers for work of any size; ``off`` are the credentials that are off, as "provider#credential",
    ``facts`` what the ledger says of the length of answers.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        domains = FailureDomains()
        self._router = router_of(config, domains)
        facts: list[Fact] = []
        paid: dict[tuple[str, str], int] = {}
        self.facts = AuthFacts()
        try:
            if ledger := open_ledger(config):
                facts = [fact for fact in ledger.facts() if not is_replaced(fact, config)]
                restore(self._router, ledger)
                paid = ledger.paid()
                answers = AnswerLength.learned(ledger.recent_attempts(LOOKED_AT))
                self.facts = AuthFacts(answers=answers)
        except StoreError as error:
            note(str(error))
        domains.learn(facts)
        self._router.prepaid.learn(facts, time.time())
        self._router.prepaid.reconcile(paid, time.time())
        off = (fact for fact in facts if fact.kind is FactKind.CREDENTIAL_OFF and fact.until > time.time())
        self.off = {fact.key: fact for fact in off}

    def decide(self, tokens: int) -> RouteDecision:
        """The router's decision for a prompt of so many tokens. Raises ``NoCandidateError``."""
        return self._router.decide(RouteRequest(input_tokens=tokens, min_success_rate=0.0, explore=False))

    def pays(self, tokens: int) -> Paid:
        """Who would pay for a prompt of so many tokens."""
        lines = self._config.auth.estimate_lines(tokens)
        try:
            decision = self.decide(tokens)
        except NoCandidateError as nothing:
            mode, why = by_strategy(self._config.auth, lines)
            unenrolled = mode is AuthMode.SUBSCRIPTION and not self._config.plans
            return Paid(
                None, mode, why, f"no plan is enrolled: {ENROL_A_PLAN}" if unenrolled else str(nothing)
            )
        payer, first = Payer(decision.model, decision.candidate.credential), decision.ranked[0]
        if first.by_credits:
            worth = f"worth {dollars(first.quota_usd)} of {dollars(first.list_usd)} now"
            return Paid(payer, AuthMode.API, f"from its credits, {worth}")
        if decision.paying is None or not decision.paying.order:
            return self._without_a_plan(payer, lines)
        return self._with_a_plan(payer, decision, decision.paying)

    def _without_a_plan(self, payer: Payer, lines: int) -> Paid:
        mode, why = by_strategy(self._config.auth, lines)
        if mode is AuthMode.API:
            return Paid(payer, mode, why)
        if self._config.plans:
            return Paid(payer, AuthMode.API, "it does not fit the context window that the plan serves")
        return Paid(payer, mode, why, f"no plan is enrolled: {ENROL_A_PLAN}")

    def _with_a_plan(self, payer: Payer, decision: RouteDecision, how: Paying) -> Paid:
        by_plan = payer.credential == SUBSCRIPTION
        first = by_plan if how.order == "priced" else how.order == "first"
        mode = AuthMode.SUBSCRIPTION if first else AuthMode.API
        reason = how.why if how.order != "priced" else _prices(decision)
        if first == by_plan:
            return Paid(payer, mode, reason)
        return Paid(payer, mode, reason, self._why_not_the_plan() if first else "no API key is there")

    def _why_not_the_plan(self) -> str:
        facts = [self.off.get(f"{each.name}#{SUBSCRIPTION}") for each in self._config.plans]
        if known := [fact for fact in facts if fact is not None]:
            return f"{known[0].key} is off until {utc(known[0].until)}: {known[0].detail}"
        return "the plan has no model for it"


def _prices(decision: RouteDecision) -> str:
    """What the first prepaid candidate and the first other one cost."""
    ranked = decision.ranked
    plan = next((each for each in ranked if each.quota_usd is not None and not each.by_credits), None)
    other = next((each for each in ranked if each.list_usd is None or each.by_credits), None)
    parts = []
    if plan is not None:
        worth, listed = dollars(plan.quota_usd), dollars(plan.list_usd)
        parts.append(f"the quota for it is worth {worth} of {listed} at API prices")
    if other is not None:
        parts.append(f"{other.provider} {paying(other.credential)} costs {dollars(other.predicted_cost_usd)}")
    return "; ".join(parts)
