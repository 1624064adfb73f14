"""Who pays for a call: a plan or an API key, by the strategy, by the price of quota, and by what is left."""

from __future__ import annotations

from random import Random

import pytest

from attune.errors import NoCandidateError, WindowSpentError
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.auth_strategy import AuthMode, AuthStrategy, SubscriptionTier
from attune.models.candidate import Candidate
from attune.models.explanation import flips
from attune.models.failure_domains import FailureDomains
from attune.models.overflow import Overflow
from attune.models.prices import FREE, PriceSchedule
from attune.models.quota import QuotaWindow, fact_of
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.route_request import RouteRequest
from attune.testing import FakeClock
from support.pipeline import a_model
from unit.stores.ledger_records import attempt

DAY = 86_400.0
LIST = PriceSchedule.flat(3, 15)
HALF = PriceSchedule.flat(1.5, 7.5)
API = a_model("api/sonnet")._replace(prices=LIST)
OTHER = a_model("other/mid")._replace(prices=HALF)
PLAN = a_model("plan/sonnet")._replace(prices=FREE, list_prices=LIST)
CREDENTIALS = {"api": ("api_key",), "other": ("api_key",), "plan": ("subscription",)}
MAX = AuthStrategy(subscription_tier=SubscriptionTier.MAX)
FIVE, WEEK = "five_hour", "seven_day"
POLICIES = ("best", "static", "guarded", "thompson")


class Desk:
    """A router with a plan beside two API keys, and what the plan says of its quota."""

    def __init__(self, strategy=MAX, policy="static", models=(API, OTHER, PLAN)):
        self.clock = FakeClock()
        self.domains = FailureDomains(clock=self.clock, rng=Random(0))
        self.router = AdaptiveModelRouter(
            ModelRegistry(list(models)),
            credentials=CREDENTIALS,
            availability=self.domains,
            clock=self.clock,
            policy=policy,
            strategy=strategy,
            rng=Random(0),
        )
        self.calls = 0

    def decide(self, tokens=1000, **fields):
        return self.router.decide(RouteRequest(input_tokens=tokens, max_output_tokens=500, **fields))

    def pays(self, tokens=1000, **fields):
        return self.decide(tokens, **fields).candidate.provider

    def tells(self, utilization, *, name=WEEK, capacity=100.0, resets_in=DAY):
        now = self.clock.time()
        window = QuotaWindow(name, utilization, now + resets_in, now, capacity)
        return self.router.prepaid.report("plan", "subscription", [window])

    def call(self, tokens=90_000, **fields):
        """A call that is decided and answered; its provider."""
        decision = self.decide(tokens, **fields)
        self.calls += 1
        now = self.clock.time()
        self.router.begun(decision, f"c{self.calls}", now)
        candidate = decision.candidate
        nanos = round(decision.ranked[0].list_usd * 1e9) if candidate.provider == "plan" else None
        self.router.observe(
            attempt(f"c{self.calls}", provider=candidate.provider, model_id=candidate.model_id,
                    credential=candidate.credential, list_cost_nanos=nanos, at=now)
        )  # fmt: skip
        return candidate.provider

    def a_busy_day(self, calls=240):
        """Every second call has no cheaper way than the plan's own company."""
        for n in range(calls):
            self.clock.advance(DAY / calls)
            self.call(allow_providers=frozenset({"api", "plan"}) if n % 2 else None)

    def spend_the_window(self, resets_in=3600.0):
        spent = WindowSpentError("5-hour limit reached")
        spent.retry_after = resets_in
        permit = self.domains.acquire(Candidate("plan", "sonnet", "subscription"), 60)
        permit.failure(spent)


# -- the strategy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_an_explicit_mode_is_obeyed_by_every_policy(policy):
    subscription = Desk(AuthStrategy(default_mode=AuthMode.SUBSCRIPTION), policy)
    assert subscription.pays(100) == "plan"
    decision = Desk(AuthStrategy(default_mode=AuthMode.API), policy).decide(50_000)
    assert decision.candidate.provider == "api" if policy in {"static", "guarded"} else "other"
    assert decision.ranked[-1].provider == "plan", "which is there when nothing else is"
    assert "the mode is set to api" in decision.ranked[-1].note


def test_a_conversation_stays_among_those_that_may_pay():
    desk = Desk(AuthStrategy(default_mode=AuthMode.SUBSCRIPTION), "best")
    assert {desk.pays(session_id=f"s{n}") for n in range(20)} == {"plan"}


@pytest.mark.parametrize("policy", POLICIES)
def test_while_no_capacity_is_known_the_size_of_the_work_decides(policy):
    desk = Desk(policy=policy)
    assert desk.pays(4 * 499) != "plan"
    assert desk.pays(4 * 500) == "plan"
    assert "medium work goes to the max plan" in str(desk.decide(4 * 500).ranked[-1].note)


def test_every_threshold_and_preference_of_the_strategy_changes_who_pays():
    assert Desk(MAX).pays(40_000) == "plan"
    assert Desk(AuthStrategy()).pays(40_000) == "api", "no plan is named"
    not_preferred = AuthStrategy(subscription_tier=SubscriptionTier.MAX, prefer_subscription=False)
    assert Desk(not_preferred).pays(40_000) == "api"
    larger = AuthStrategy(
        subscription_tier=SubscriptionTier.MAX, small_module_threshold=10_001, large_module_threshold=20_000
    )
    assert Desk(larger).pays(40_000) == "api", "below the threshold of small work"
    denser = AuthStrategy(subscription_tier=SubscriptionTier.MAX, loc_to_tokens_multiplier=100.0)
    assert Desk(denser).pays(40_000) == "api", "400 lines"


def test_quota_that_would_run_out_is_kept_for_large_work_while_it_has_no_price():
    for large, payer in ((2000, "api"), (1000, "plan")):
        strategy = AuthStrategy(subscription_tier=SubscriptionTier.MAX, large_module_threshold=large)
        desk = Desk(strategy)
        for used in (0.1, 0.3, 0.5, 0.7):
            desk.tells(used, capacity=None, resets_in=5 * DAY)
            desk.clock.advance(3600)
        decision = desk.decide(4 * 1500)
        assert decision.candidate.provider == payer, decision.reason


def test_medium_work_overflows_too_once_the_plan_is_used_up():
    desk = Desk(MAX)
    for used in (0.3, 0.9, 1.0):
        desk.tells(used, capacity=None, resets_in=5 * DAY)
        desk.clock.advance(3600)
    desk.spend_the_window(4 * DAY)
    with pytest.raises(NoCandidateError, match="overflow"):
        desk.decide(4 * 1500)


def test_without_cost_optimization_the_price_of_quota_changes_nothing():
    by_size = Desk(AuthStrategy(subscription_tier=SubscriptionTier.MAX, cost_optimization=False))
    for desk, payer in ((Desk(MAX), "plan"), (by_size, "api")):
        desk.tells(0.0)
        desk.call()
        assert desk.pays(100) == payer, "small work, and quota that would expire"


# -- the price ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["static", "guarded"])
def test_quota_that_would_expire_pays_and_scarce_quota_is_kept_for_what_has_no_cheaper_way(policy):
    desk = Desk(policy=policy, models=(OTHER, API, PLAN))
    desk.tells(0.0, capacity=100_000.0)
    desk.call()
    assert desk.pays() == "plan", "nothing else could use it"
    desk.a_busy_day()
    desk.tells(0.98, capacity=100.0, resets_in=6 * DAY)
    decision = desk.decide()
    assert decision.candidate.provider != "plan", decision.reason
    assert desk.pays(allow_providers=frozenset({"api", "plan"})) == "plan", (
        "it is never dearer than its own key"
    )
    plan = next(each for each in decision.ranked if each.provider == "plan")
    assert plan.predicted_cost_usd == 0
    assert plan.list_usd / 2 < plan.quota_usd <= plan.list_usd


def test_the_score_counts_what_quota_is_worth_like_a_cost():
    desk = Desk(policy="best")
    desk.tells(0.0)
    desk.a_busy_day()
    scores, worths = [], []
    for used in (0.0, 0.98):
        desk.tells(used, resets_in=DAY if not used else 6 * DAY, capacity=10_000.0 if not used else 100.0)
        plan = next(each for each in desk.decide(9000).ranked if each.provider == "plan")
        scores.append(plan.score)
        worths.append(plan.quota_usd)
    assert worths[0] < 0.001 < worths[1]
    assert scores[0] > scores[1]


def test_a_limit_of_dollars_is_held_against_what_is_paid_and_not_against_what_quota_is_worth():
    desk = Desk(policy="best")
    desk.tells(0.98)
    desk.a_busy_day()
    assert desk.pays(max_cost=1e-6) == "plan"


def test_what_is_explained_from_the_record_is_what_the_router_would_do():
    desk = Desk(policy="guarded", models=(OTHER, API, PLAN))
    desk.tells(0.0, capacity=100_000.0)
    desk.call()
    decision = desk.decide()
    assert decision.candidate.provider == "plan"
    found = flips(decision.record(decision_id="d", call_id="d", at=0.0))
    dearer = next(each for each in found if (each.candidate, each.quantity) == ("plan/sonnet", "cost"))
    other = next(each for each in decision.ranked if each.provider == "other")
    assert (dearer.value, dearer.instead) == (0, "other/mid")
    assert dearer.threshold == pytest.approx(other.predicted_cost_usd), "no dearer than its rival"


def test_a_policy_that_weighs_costs_takes_the_worth_of_quota_for_one():
    desk = Desk(policy="thompson", models=(OTHER, API, PLAN))
    desk.tells(0.0)
    desk.a_busy_day()
    desk.tells(0.98, resets_in=6 * DAY)
    decision = desk.decide()
    costs = {each.model: each.cost for each in decision.drawn.prospects}
    plan = next(each for each in decision.ranked if each.provider == "plan")
    assert costs["plan/sonnet"] == plan.weighed_usd == plan.quota_usd > costs["other/mid"] > 0


# -- what is left ----------------------------------------------------------------------------------------


def test_a_call_that_overflows_goes_to_a_key_only_with_consent():
    for overflow, payer in ((Overflow.API, "api"), (Overflow.FAIL, None), (Overflow.WAIT, None)):
        desk = Desk(AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, overflow=overflow))
        assert not desk.decide().overflows
        desk.spend_the_window()
        if payer is None:
            said = rf'used up until .* UTC \(in 1 h\); \[auth\] overflow is "{overflow}": `attune auth'
            with pytest.raises(NoCandidateError, match=said) as caught:
                desk.decide()
            assert caught.value.unpaid
            local = desk.router.registry  # what costs nothing may still answer
            assert local is not None
        else:
            decision = desk.decide()
            assert (decision.candidate.provider, decision.overflows) == (payer, True)
        desk.clock.advance(3700)
        assert desk.pays() == "plan", "back after the reset"


def test_what_costs_nothing_may_answer_a_call_that_overflows():
    local = a_model("other/mid")._replace(prices=FREE)
    desk = Desk(AuthStrategy(default_mode=AuthMode.SUBSCRIPTION), models=(API, local, PLAN))
    desk.spend_the_window()
    assert desk.pays() == "other"


def test_a_call_for_an_api_key_does_not_overflow():
    desk = Desk(AuthStrategy(default_mode=AuthMode.API))
    desk.spend_the_window()
    assert not desk.decide().overflows
    assert desk.pays(model="other/mid") == "other"


def test_room_is_kept_for_the_calls_under_way():
    desk = Desk(AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, overflow=Overflow.API))
    desk.tells(0.95, capacity=10.0)
    first = desk.decide(90_000)
    assert first.candidate.provider == "plan"
    desk.router.begun(first, "one", desk.clock.time())
    second = desk.decide(90_000)
    assert (second.candidate.provider, second.overflows) == ("api", True), "0.28 of 0.50 is under way"
    desk.router.observe(attempt("one", provider="plan", model_id="sonnet", credential="subscription"))
    assert desk.pays(90_000) == "plan"


def test_a_window_of_other_models_does_not_concern_a_call():
    opus = PLAN._replace(id="claude-opus", tier=ModelTier.PREMIUM)
    strategy = AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, overflow=Overflow.API)
    api_opus = API._replace(id="claude-opus", tier=ModelTier.PREMIUM)
    desk = Desk(strategy, models=(API, PLAN, opus, api_opus))
    desk.tells(0.1)
    desk.tells(1.0, name="seven_day_opus")
    prepaid = desk.router.prepaid
    assert [w.name for w in prepaid.windows(Candidate("plan", "sonnet", "subscription"))] == [WEEK]
    assert len(prepaid.windows(Candidate("plan", "claude-opus", "subscription"))) == 2
    assert desk.pays() == "plan"
    premium = desk.decide(tier="premium")
    assert (premium.candidate.provider, premium.overflows) == ("api", True)


# -- what is stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["best", "static"])
def test_another_process_that_reads_what_is_stored_decides_alike(policy):
    desk, other = (
        Desk(policy=policy, models=(OTHER, API, PLAN)),
        Desk(policy=policy, models=(OTHER, API, PLAN)),
    )
    facts = {fact.key: fact for fact in desk.tells(0.0)}
    desk.a_busy_day()
    for used in (0.9, 0.98):
        facts |= {fact.key: fact for fact in desk.tells(used, resets_in=6 * DAY)}
    now = desk.clock.time()
    facts |= {fact.key: fact for fact in desk.router.prepaid.untold(now)}
    other.clock.advance(now - other.clock.time())
    assert len(facts) == 2
    other.router.prepaid.learn(facts.values(), now)
    mine, theirs = (
        next(s.quota_usd / s.list_usd for s in d.decide().ranked if s.provider == "plan")
        for d in (desk, other)
    )
    assert theirs == pytest.approx(mine, rel=1e-4)
    assert mine > 0.5, "half of the calls of the day are worth all of it"
    assert desk.router.prepaid.untold(now) == [], "nothing new"


def asks_once(desk, used, capacity):
    """A call of one dollar by a process of its own; the facts that it leaves, and what the plan has used."""
    now = desk.clock.time()
    window = QuotaWindow(WEEK, round(used, 2), now + 6 * DAY, now)
    prepaid = desk.router.prepaid
    facts = {fact.key: fact for fact in prepaid.report("plan", "subscription", [window])}
    paid = attempt("c", provider="plan", model_id="sonnet", credential="subscription", at=now)
    prepaid.ended(paid._replace(list_cost_nanos=1_000_000_000))
    facts |= {fact.key: fact for fact in prepaid.untold(now)}
    return facts, used + 1 / capacity


def test_what_a_window_is_worth_is_learned_by_programs_that_live_for_one_call():
    used, facts, start = 0.1, {}, FakeClock().time()
    for n in range(40):
        desk = Desk()
        desk.clock.advance(600 * n)
        desk.router.prepaid.learn(facts.values(), desk.clock.time())
        found, used = asks_once(desk, used, capacity=50.0)
        facts |= found
    (window,) = desk.router.prepaid.windows(Candidate("plan", "sonnet", "subscription"))
    assert window.learned_at == pytest.approx(start + 600 * 39)
    assert window.capacity_usd == pytest.approx(50.0, rel=0.1)


def test_a_fact_from_the_future_is_left_alone():
    desk, now = Desk(), FakeClock().time()
    told = QuotaWindow(WEEK, 0.5, now + 800 * DAY, now + 730 * DAY, 100.0)
    desk.router.prepaid.learn([fact_of(told, "plan", "subscription")], now)
    assert desk.router.prepaid.windows(Candidate("plan", "sonnet", "subscription")) == ()
    desk.tells(0.2)
    (window,) = desk.router.prepaid.windows(Candidate("plan", "sonnet", "subscription"))
    assert window.utilization == 0.2


def test_however_many_windows_are_told_the_last_ones_are_remembered():
    desk = Desk()
    for n in range(200):
        desk.tells(0.1, name=f"window_{n}")
    names = [w.name for w in desk.router.prepaid.windows(Candidate("plan", "sonnet", "subscription"))]
    assert names == [f"window_{n}" for n in range(168, 200)]


def test_a_call_that_is_over_without_an_attempt_holds_no_quota():
    desk = Desk(AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, overflow=Overflow.API))
    desk.tells(0.95, capacity=10.0)
    decision = desk.decide(90_000)
    desk.router.begun(decision, "one", desk.clock.time())
    assert desk.pays(90_000) == "api"
    desk.router.over("one")
    assert desk.pays(90_000) == "plan"


# -- one model, two payers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("used", "payer"), [(0.0, "plan"), (0.98, "api")])
def test_of_one_model_the_cheaper_payer_is_chosen_by_every_policy_whatever_is_known_of_them(
    policy, used, payer
):
    cheaper_key = API._replace(prices=PriceSchedule.flat(2.4, 12))  # not what the plan's use is counted at
    desk = Desk(policy=policy, models=(cheaper_key, PLAN))
    desk.tells(0.0, capacity=100_000.0)
    known = "api" if payer == "plan" else "plan"
    for n in range(40):  # the other one is well known, and does well
        desk.router.observe(
            attempt(f"k{n}", provider=known, model_id="sonnet", credential="x", at=desk.clock.time())
        )
    for _ in range(100):
        desk.clock.advance(DAY / 100)
        decision = desk.decide(90_000)
        desk.router.prepaid.wanted(Candidate("plan", "sonnet", "subscription"), 1.0, 1.0, desk.clock.time())
        del decision
    desk.tells(used, capacity=100.0 if used else 100_000.0, resets_in=DAY if not used else 6 * DAY)
    decisions = [desk.decide() for _ in range(30)]
    assert {each.candidate.provider for each in decisions} == {payer}
    for flip in flips(decisions[0].record(decision_id="d", call_id="d", at=0.0)):
        if flip.quantity == "cost" and flip.threshold is not None:
            assert flip.instead == ("api/sonnet" if payer == "plan" else "plan/sonnet")


@pytest.mark.parametrize("policy", ["best", "guarded"])
def test_a_cheaper_payer_who_fails_more_often_beyond_chance_is_not_taken_for_the_same(policy):
    desk = Desk(policy=policy, models=(API, PLAN))
    desk.tells(0.0, capacity=100_000.0)
    for n in range(60):
        for provider, error in (("plan", "transient"), ("api", "")):
            record = attempt(f"{provider}{n}", provider=provider, model_id="sonnet", at=desk.clock.time())
            record = record._replace(workflow="default", stage="default", task_type="")
            desk.router.observe(record._replace(success=not error, error_class=error))
    desk.call()
    decision = desk.decide()
    assert decision.paying.order == "priced"
    assert (decision.candidate.provider, decision.paying.twins) == ("api", ())


def test_a_call_that_a_cheaper_candidate_would_have_had_anyhow_does_not_overflow():
    desk = Desk(MAX, models=(OTHER, API, PLAN))
    desk.tells(0.0)
    desk.a_busy_day()
    desk.tells(1.0, resets_in=6 * DAY)
    desk.spend_the_window(6 * DAY)
    decision = desk.decide()
    assert (decision.candidate.provider, decision.overflows) == ("other", False)
    with pytest.raises(NoCandidateError, match="overflow"):
        desk.decide(allow_providers=frozenset({"api", "plan"}))
