"""Prepaid credits of an API key: who pays while there are some, and what is left of them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import NoCandidateError, WindowSpentError
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.auth_strategy import AuthMode, AuthStrategy, SubscriptionTier
from attune.models.candidate import Candidate
from attune.models.credits import Credits, Grant, granted, seen_of
from attune.models.explanation import flips
from attune.models.failure_domains import FailureDomains
from attune.models.policies import Allowance
from attune.models.prepaid import Prepaid
from attune.models.prices import FREE, PriceSchedule
from attune.models.quota import QuotaWindow
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.route_request import RouteRequest
from attune.testing import FakeClock
from support.pipeline import a_model
from unit.stores.ledger_records import attempt

DAY = 86_400.0
TEAM = a_model("team/sonnet")._replace(prices=PriceSchedule.flat(3, 15))
OTHER = a_model("other/mid")._replace(prices=PriceSchedule.flat(1.5, 7.5))
PLAN = a_model("plan/sonnet")._replace(prices=FREE, list_prices=PriceSchedule.flat(3, 15))
ONLY_TEAM = frozenset({"team"})
KEY = ("team", "api_key")


class Desk:
    """A router with a key that has credits, one that has none, and a plan if asked for."""

    def __init__(self, usd=500.0, days=30.0, *, policy="static", models=(OTHER, TEAM), strategy=None, **more):
        self.clock = FakeClock()
        self.grant = Grant(usd, self.clock.time() + days * DAY)
        self.domains = FailureDomains(clock=self.clock, rng=Random(0))
        self.router = AdaptiveModelRouter(
            ModelRegistry(list(models)),
            credentials={"team": ("api_key",), "other": ("api_key",), "plan": ("subscription",)},
            availability=self.domains,
            clock=self.clock,
            policy=policy,
            rng=Random(0),
            strategy=strategy,
            grants={KEY: self.grant},
            **more,
        )
        self.calls = 0

    def decide(self, tokens=1000, **fields):
        return self.router.decide(RouteRequest(input_tokens=tokens, max_output_tokens=500, **fields))

    def pays(self, tokens=1000, **fields):
        return self.decide(tokens, **fields).candidate.provider

    def call(self, tokens=90_000, **fields):
        """A call that is decided and answered; its provider."""
        decision = self.decide(tokens, **fields)
        self.calls += 1
        now, first = self.clock.time(), decision.ranked[0]
        self.router.begun(decision, f"c{self.calls}", now)
        self.router.observe(
            attempt(f"c{self.calls}", provider=first.provider, model_id=first.model_id, at=now,
                    credential=first.credential, cost_nanos=round(first.predicted_cost_usd * 1e9))
        )  # fmt: skip
        return first.provider

    def a_busy_day(self, calls=240, *, only=ONLY_TEAM):
        """Every second call has no other way than what is prepaid."""
        for n in range(calls):
            self.clock.advance(DAY / calls)
            self.call(allow_providers=only if n % 2 else None)

    @property
    def left(self):
        (window,) = self.router.prepaid.windows(Candidate("team", "sonnet", "api_key"))
        return window.left_usd(self.clock.time())

    def team(self, **fields):
        """The team's candidate in the next decision."""
        return next(each for each in self.decide(**fields).ranked if each.provider == "team")


# -- who pays --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["static", "guarded", "best"])
def test_credits_that_would_expire_pay_before_a_cheaper_model_that_costs_money(policy):
    desk = Desk(usd=100_000.0, policy=policy)
    desk.call()
    desk.a_busy_day(48)
    team = desk.team()
    assert (desk.pays(), team.quota_usd) == ("team", pytest.approx(0, abs=1e-9))
    assert team.predicted_cost_usd == team.list_usd > 0


@pytest.mark.parametrize("policy", ["static", "guarded", "best"])
def test_scarce_credits_are_kept_for_what_has_no_cheaper_way(policy):
    desk = Desk(usd=60.0, policy=policy)
    desk.a_busy_day()
    decision = desk.decide()
    team = next(each for each in decision.ranked if each.provider == "team")
    assert decision.candidate.provider == "other", decision.reason
    assert team.list_usd / 2 < team.quota_usd <= team.list_usd
    assert desk.pays(allow_providers=ONLY_TEAM) == "team", "never dearer than the key itself"


def test_a_policy_that_weighs_costs_takes_the_worth_of_credits_for_one():
    desk = Desk(usd=100_000.0, policy="thompson")
    desk.a_busy_day(48)
    decision = desk.decide()
    costs = {each.model: each.cost for each in decision.drawn.prospects}
    team = next(each for each in decision.ranked if each.provider == "team")
    assert costs["team/sonnet"] == team.weighed_usd == team.quota_usd < costs["other/mid"]


def test_after_the_end_of_the_grant_the_key_is_an_ordinary_one():
    desk = Desk(usd=100_000.0, days=2)
    desk.call()
    assert desk.pays() == "team"
    desk.clock.advance(2 * DAY - 1)
    assert desk.pays() == "team"
    desk.clock.advance(1)
    found = desk.decide()
    assert found.candidate.provider == "other"
    assert [each.list_usd for each in found.ranked] == [None, None]
    assert (desk.left, found.paying.uses) == (0, {})


def test_a_grant_that_is_used_up_pays_no_more_and_room_is_kept_for_the_calls_under_way():
    desk = Desk(usd=0.6)
    first = desk.decide(90_000)
    assert first.candidate.provider == "team"
    desk.router.begun(first, "under way", desk.clock.time())
    second = desk.decide(90_000)
    assert second.candidate.provider == "team", "0.28 and 0.28 of 0.60"
    desk.router.begun(second, "under way too", desk.clock.time())
    assert desk.pays(90_000) == "other"
    for call_id in ("under way", "under way too"):
        desk.router.observe(attempt(call_id, provider="team", model_id="sonnet", credential="api_key",
                                    cost_nanos=299_000_000))  # fmt: skip
    assert desk.left == pytest.approx(0.002)
    assert desk.pays(90_000) == "other"
    assert desk.team().list_usd is None


def test_every_limit_of_dollars_holds_for_credits_too():
    desk = Desk(usd=100_000.0)
    assert desk.team().predicted_cost_usd == pytest.approx(0.0105)
    assert desk.pays(max_cost=0.0106) == "team"
    assert desk.pays(max_cost=0.0104) == "other", "credits are dollars"


def test_a_model_whose_price_is_not_known_is_not_paid_by_credits():
    desk = Desk(models=(OTHER, TEAM._replace(prices=None)))
    decision = desk.decide()
    assert ([each.list_usd for each in decision.ranked], decision.notes) == ([None, None], ())


def test_a_budget_is_charged_what_the_credits_are_worth_and_after_their_end_what_is_paid():
    desk = Desk(usd=100_000.0, days=1.5, policy="budget", budget=Allowance(0.4))
    allowance = desk.router.steering._policies["budget"]._allowance
    desk.call(allow_providers=ONLY_TEAM)
    assert allowance.balance == pytest.approx(0.4)
    desk.clock.advance(2 * DAY)
    desk.call(allow_providers=ONLY_TEAM)
    assert allowance.balance == pytest.approx(0.8 - (90_000 * 3 + 200 * 15) / 1e6)


@settings(max_examples=60, deadline=None)
@given(
    usd=st.floats(0.01, 1e6),
    days=st.floats(0.01, 900),
    calls=st.lists(st.tuples(st.floats(0, 90_000), st.floats(1e-6, 50), st.floats(0, 2)), max_size=40),
)
def test_credits_are_never_weighed_above_the_price_of_their_key_and_pay_no_more_than_they_are(
    usd, days, calls
):
    prepaid, now, candidate = (
        Prepaid(0.0, {KEY: Grant(usd, days * DAY)}),
        0.0,
        Candidate("team", "m", "api_key"),
    )
    spent = 0.0
    for number, (pause, cost, otherwise) in enumerate(calls):
        now += pause
        use = prepaid.use(candidate, cost, now)
        assert 0 <= use.worth_usd <= cost
        prepaid.wanted(candidate, cost, otherwise * cost, now)
        if prepaid.has_room(candidate, cost, now):
            assert now < days * DAY
            spent += cost
            prepaid.begun(str(number), candidate, cost, now)
            prepaid.ended(attempt(str(number), provider="team", model_id="m", credential="api_key", at=now,
                                  cost_nanos=round(cost * 1e9)))  # fmt: skip
    assert spent <= usd * (1 + 1e-6)


# -- their end -------------------------------------------------------------------------------------------

EXPIRED = "the credits of team#api_key have expired: its calls cost money now"
USED_UP = "the credits of team#api_key are used up: its calls cost money now"


def test_the_first_call_after_their_expiry_says_so_and_the_next_ones_do_not():
    desk = Desk(days=2)
    desk.call()
    assert desk.decide().notes == ()
    desk.clock.advance(2 * DAY)
    assert desk.decide().notes == desk.decide(allow_providers=ONLY_TEAM).notes == (EXPIRED,)
    desk.call()
    assert desk.decide().notes == ()


def test_calls_that_what_is_left_cannot_pay_say_so_and_the_first_after_it_is_used_up():
    desk = Desk(usd=0.5)
    desk.call(allow_providers=ONLY_TEAM)
    (too_few,) = desk.decide(90_000, allow_providers=ONLY_TEAM).notes
    assert too_few == (
        "the credits of team#api_key ($0.222500 of $0.5 left) are too few for this call: it costs money there"
    )
    assert desk.decide(1000).notes == (), "they pay for it"
    desk.call(allow_providers=ONLY_TEAM)
    assert desk.decide(1000).notes == (USED_UP,)
    desk.call()
    assert desk.decide(1000).notes == ()


def test_a_dearer_model_that_they_cannot_pay_is_no_news_while_they_pay_the_tier_of_the_call():
    premium = a_model("team/opus", ModelTier.PREMIUM)._replace(prices=PriceSchedule.flat(300, 1500))
    desk = Desk(usd=1.0, models=(OTHER, TEAM, premium))
    assert desk.decide().notes == ()
    assert "too few" in desk.decide(tier="premium").notes[0]


def test_what_was_said_of_their_end_is_known_to_the_next_process_but_not_of_another_grant():
    desk = Desk(days=2)
    desk.clock.advance(2 * DAY)
    desk.call()
    facts = desk.router.prepaid.untold(desk.clock.time())
    assert desk.router.prepaid.untold(desk.clock.time()) == []
    again, other = Desk(days=2), Desk(days=2.5)
    for each in (again, other):
        each.clock.advance(3 * DAY)
        each.router.prepaid.learn(facts, each.clock.time())
    assert (again.decide().notes, other.decide().notes) == ((), (EXPIRED,))


# -- beside a plan ---------------------------------------------------------------------------------------


def test_the_strategy_is_about_plans_and_credits_compete_by_their_price_in_any_mode():
    for mode, payer in ((AuthMode.API, "team"), (AuthMode.SUBSCRIPTION, "plan")):
        for policy in ("static", "guarded", "best"):
            strategy = AuthStrategy(default_mode=mode)
            desk = Desk(100_000.0, models=(OTHER, PLAN, TEAM), strategy=strategy, policy=policy)
            desk.call(allow_providers=ONLY_TEAM)
            assert desk.pays() == payer


@pytest.mark.parametrize("policy", ["static", "guarded", "best"])
def test_until_the_quota_of_a_plan_has_a_price_credits_that_would_expire_pay_for_small_work_alone(policy):
    for prefers, payer in ((True, "plan"), (False, "team")):
        strategy = AuthStrategy(subscription_tier=SubscriptionTier.MAX, prefer_subscription=prefers)
        desk = Desk(100_000.0, models=(OTHER, TEAM, PLAN), strategy=strategy, policy=policy)
        desk.call(allow_providers=ONLY_TEAM)
        assert (desk.pays(1000), desk.pays(4000), desk.pays(12_000)) == ("team", payer, payer)


def test_the_cheapest_of_a_plan_credits_and_a_key_pays():
    strategy = AuthStrategy(subscription_tier=SubscriptionTier.MAX)
    desk = Desk(60.0, models=(OTHER, TEAM, PLAN), strategy=strategy)

    def plan_tells(used, capacity, resets_in):
        now = desk.clock.time()
        window = QuotaWindow("seven_day", used, now + resets_in, now, capacity)
        desk.router.prepaid.report("plan", "subscription", [window])

    plan_tells(0.0, 100_000.0, DAY)
    desk.a_busy_day(only=frozenset({"team", "plan"}))
    decision = desk.decide()
    assert decision.candidate.provider == "plan", "its quota would expire"
    record = decision.record(decision_id="d", call_id="d", at=0.0)
    assert ("rivals", "plan/sonnet team/sonnet other/mid") in record.features
    plan_tells(0.98, 100.0, 6 * DAY)
    desk.a_busy_day()
    assert desk.pays() == "other", "quota and credits are scarce"


def test_a_call_that_overflows_is_billed_to_no_key_without_consent_whether_it_has_credits_or_not():
    strategy = AuthStrategy(default_mode=AuthMode.SUBSCRIPTION)
    desk = Desk(models=(OTHER, TEAM, PLAN), strategy=strategy)
    spent = WindowSpentError("5-hour limit reached")
    spent.retry_after = 3600.0
    desk.domains.acquire(Candidate("plan", "sonnet", "subscription"), 60).failure(spent)
    with pytest.raises(NoCandidateError, match="overflow"):
        desk.decide()


# -- why -------------------------------------------------------------------------------------------------


def test_a_decision_says_that_credits_pay_and_what_would_have_changed_it():
    desk = Desk(usd=60.0, policy="guarded")
    desk.a_busy_day()
    decision = desk.decide(allow_providers=ONLY_TEAM)
    assert "credits of $0.006000, which are worth $0.00" in decision.reason
    record = desk.decide().record(decision_id="d", call_id="d", at=0.0)
    found = {(each.candidate, each.quantity): each for each in flips(record)}
    cheaper = found["team/sonnet", "cost"]
    team = next(each for each in record.ranked if each.provider == "team")
    other = next(each for each in record.ranked if each.provider == "other")
    assert cheaper.instead == "team/sonnet"
    assert cheaper.threshold * team.quota_usd / team.list_usd == pytest.approx(other.predicted_cost_usd)


# -- what is left ----------------------------------------------------------------------------------------


def test_a_grant_is_used_by_what_its_key_paid_since_it_was_first_seen():
    account = Credits(Grant(10.0, 1e9))
    fact = account.reconcile(3_000_000_000, granted(*KEY), 5.0)
    assert account.window(6.0) == QuotaWindow("credits", 0.0, 1e9, 6.0, 10.0)
    account.paid(1_000_000_000)
    assert account.window(6.0).left_usd(6.0) == pytest.approx(9.0)
    assert account.reconcile(3_500_000_000, granted(*KEY), 7.0) is None, "the ledger is a moment behind"
    assert account.window(7.0).left_usd(7.0) == pytest.approx(9.0)
    account.reconcile(6_000_000_000, granted(*KEY), 8.0)
    assert account.window(8.0).left_usd(8.0) == pytest.approx(7.0), "another process has paid"

    again = Credits(Grant(10.0, 1e9))
    again.learn(fact)
    assert again.reconcile(6_000_000_000, granted(*KEY), 9.0) is None
    assert again.window(9.0).left_usd(9.0) == pytest.approx(7.0), "a restart knows it"

    larger = Credits(Grant(20.0, 1e9))
    larger.learn(fact)
    assert larger.reconcile(6_000_000_000, granted(*KEY), 9.0) is not None, "another grant begins anew"
    assert larger.window(9.0).left_usd(9.0) == 20


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", "[10.0,1e9]", "[10.0,1e9,-1]", "[10.0,1e9,true]", "[1,2,3]"]
)
def test_a_fact_that_says_nothing_of_the_grant_is_none(data):
    account = Credits(Grant(10.0, 1e9))
    fact = account.reconcile(0, granted(*KEY), 5.0)
    assert seen_of(fact, account.grant) == (5.0, 0)
    assert seen_of(fact._replace(data=data), account.grant) is None


def test_facts_of_credits_that_are_not_configured_are_passed_over():
    fact = Credits(Grant(10.0, 1e9)).reconcile(0, granted(*KEY), 5.0)
    prepaid = Prepaid(0.0)
    prepaid.learn([fact], 5.0)
    assert (prepaid.counts_credits, prepaid.windows(Candidate(*KEY[:1], "m", KEY[1]))) == (False, ())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(("paid", "flush", "read", "restart"))), max_size=40
    )
)
def test_however_processes_take_turns_what_is_left_is_never_less_than_the_truth_and_exact_when_read(steps):
    """Each process knows its own payments at once, and those of others when it has read the ledger."""
    grant, now, stored, ledger = Grant(100.0, 1e9), 1.0, [], 0
    processes = {name: Credits(grant) for name in "ab"}
    unwritten = dict.fromkeys("ab", 0)

    def read(name):
        for fact in stored:
            processes[name].learn(fact)
        if (fact := processes[name].reconcile(ledger, granted(*KEY), now)) is not None:
            stored.append(fact)

    read("a")
    read("b")
    for name, step in steps:
        if step == "paid":
            processes[name].paid(1_000_000_000)
            unwritten[name] += 1_000_000_000
        elif step == "restart":
            ledger, unwritten[name] = ledger + unwritten[name], 0
            processes[name] = Credits(grant)
            read(name)
        elif step == "flush":
            ledger, unwritten[name] = ledger + unwritten[name], 0
        else:
            read(name)
        truth = 100 - (ledger + sum(unwritten.values())) / 1e9
        assert processes[name].window(now).left_usd(now) >= max(0.0, truth) - 1e-6
    for name in "ab":
        ledger, unwritten[name] = ledger + unwritten[name], 0
    for name in "ab":
        read(name)
        assert processes[name].window(now).left_usd(now) == pytest.approx(max(0.0, 100 - ledger / 1e9))
