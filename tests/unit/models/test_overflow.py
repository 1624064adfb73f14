"""A plan that is used up: who may be billed in its place, up to how much, and when it is back."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from attune.errors import (
    AllProvidersFailedError,
    BudgetExhaustedError,
    ConnectionFailedError,
    CredentialError,
    MoneyGoneError,
    NoCandidateError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.auth_strategy import AuthMode, AuthStrategy, Overflow, SubscriptionTier
from attune.models.executor import BilledBeside, EventKind, StreamEvent
from attune.models.fallback import FallbackPolicy, FallbackStrategy
from attune.models.overflow import OverflowRule, costs_money
from attune.models.prices import FREE, PriceSchedule
from attune.models.quota import USED_UP
from attune.models.registry import ModelTier
from attune.models.request import ExecutionContext, Message
from attune.models.retry import RetryPolicy
from attune.models.route_request import RouteRequest
from attune.models.spending import OVERFLOW, SpendCap, day_of
from attune.models.state import Fact, FactKind
from attune.models.telemetry import CostStatus
from attune.stores.sqlite import SqliteStore
from attune.testing import FakeClock, FakeProvider, Reply
from support.pipeline import ASK, COST, PRICES, Fleet, a_model, the_candidate

NO_REPEAT = RetryPolicy(max_repeats=0)
RESET_S = 300.0
PREDICTED_USD = 501_000 / 1e9
"""What ``ASK`` reserves: the prompt's 1 token in and its limit of 100 out, at the fakes' prices."""

OFF = f"the credential claude#subscription is off: {USED_UP} until 2027-01-15 08:05:00 UTC (in 5 min)"
BILLS = "bills your API key instead, up to $10 a day"
REMEDY = f"`attune auth setup --overflow api` {BILLS}"
PATIENT = ExecutionContext(deadline_s=3600)


def spent(seconds: float | None = RESET_S, window: str = "five_hour") -> WindowSpentError:
    return WindowSpentError("You've hit your limit", status=429, code=window, retry_after=seconds)


def nobody() -> CredentialError:
    return CredentialError("nobody is logged in", provider="claude")


def of_the_plan(label: str, tier: ModelTier = ModelTier.CAPABLE):
    return a_model(label, tier)._replace(prices=FREE, list_prices=PRICES)


def fleet_of(*models, overflow: str = "fail", plan=(), others=None, **options) -> Fleet:
    """A plan, asked with ``plan``'s script, in the mode "subscription", and other models."""
    strategy = AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, overflow=Overflow(overflow))
    return Fleet(
        *(models or (of_the_plan("claude/m"), "anthropic/m")),
        credentials={"claude": ("subscription",), "local": ("none",)},
        scripts={"claude": plan, **(others or {})},
        **{"strategy": strategy, "retry": NO_REPEAT, **options},
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path, clock):
    store = SqliteStore.open(tmp_path / "attune.db", clock=clock.time)
    yield store
    store.close()


def used(store, clock) -> int:
    store.flush_sync(60)
    return store.used(OVERFLOW.stored("day"), day_of(clock.time()).timestamp())


def capped(store, clock, usd: float, *models, **options) -> Fleet:
    """With consent, and the cap of it."""
    cap = SpendCap(store, clock, usd_per_day=usd, name=OVERFLOW)
    strategy = AuthStrategy(
        default_mode=AuthMode.SUBSCRIPTION, overflow=Overflow.API, overflow_usd_per_day=usd
    )
    return fleet_of(*models, overflow_cap=cap, strategy=strategy, clock=clock, **options)


# -- the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "credential", "costs"),
    [
        (a_model("a/m"), "api_key", True),
        (a_model("a/m", prices=None), "api_key", True),
        (a_model("a/m", prices=None), "none", False),
        (a_model("a/m"), "none", True),
        (a_model("a/m", prices=FREE), "api_key", False),
        (a_model("a/m")._replace(local=True), "none", False),
        (a_model("claude/m", prices=None), "subscription", False),
    ],
)
def test_only_what_adds_to_a_bill_is_kept_out_and_nothing_where_that_is_allowed(model, credential, costs):
    assert costs_money(model, credential) is costs
    assert OverflowRule().keeps_out(model, credential) is costs
    assert OverflowRule(Overflow.WAIT).keeps_out(model, credential) is costs
    assert not OverflowRule(Overflow.API).keeps_out(model, credential)


@pytest.mark.parametrize(
    ("strategy", "counts"),
    [
        (AuthStrategy(), False),
        (AuthStrategy(subscription_tier=SubscriptionTier.MAX), True),
        (AuthStrategy(subscription_tier=SubscriptionTier.MAX, prefer_subscription=False), False),
        (AuthStrategy(subscription_tier=SubscriptionTier.MAX, default_mode=AuthMode.API), False),
        (AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, prefer_subscription=False), True),
    ],
)
def test_calls_count_on_the_plan_where_the_strategy_lets_it_pay(strategy, counts):
    assert strategy.counts_on_plan is counts


# -- api -------------------------------------------------------------------------------------------


async def test_with_consent_the_key_answers_until_the_reset_and_the_plan_from_then_on():
    fleet = fleet_of(overflow="api", plan=[spent()])
    for _ in range(3):
        assert (await fleet.executor.run(ASK)).credential == "api_key"
    assert fleet.seen == ["claude/m", *["anthropic/m"] * 3], "the plan is not asked before its reset"
    fleet.clock.advance(RESET_S - 1)
    assert (await fleet.executor.run(ASK)).credential == "api_key"
    fleet.clock.advance(1)
    assert (await fleet.executor.run(ASK)).credential == "subscription"
    assert f'; [auth] overflow = "api" {BILLS}; next anthropic/m' in fleet.steps[0]


async def test_after_the_reset_all_calls_are_the_plans_at_once():
    fleet = fleet_of(overflow="api", plan=[spent()])
    await fleet.executor.run(ASK)
    fleet.clock.advance(RESET_S)
    fleet["claude#subscription"].default = Reply(first_content_s=5.0)
    answers = await asyncio.gather(*(fleet.executor.run(ASK) for _ in range(3)))
    assert {each.credential for each in answers} == {"subscription"}


async def test_what_a_call_that_overflows_is_billed_counts_in_a_cap_of_its_own(store, clock):
    fleet = capped(store, clock, 1.0, plan=[spent()])
    await fleet.executor.run(ASK)
    assert used(store, clock) == COST
    await fleet.executor.run(ASK)
    assert used(store, clock) == 2 * COST


async def test_what_is_billed_for_another_reason_does_not_count_in_it(store, clock):
    fleet = capped(store, clock, 1.0, plan=[TransientError("overloaded"), ThrottledError("busy")])
    for _ in range(2):
        assert (await fleet.executor.run(ASK)).credential == "api_key"
    assert used(store, clock) == 0


async def test_beyond_the_cap_one_line_says_which_setting_and_when_the_plan_is_back(store, clock):
    models = (of_the_plan("claude/m"), "anthropic/m", a_model("openai/m", prices=PriceSchedule.flat(2, 9)))
    fleet = capped(store, clock, PREDICTED_USD * 0.9, *models, plan=[spent()])
    for _ in range(2):  # the first one finds out in its course, the second one knows
        with pytest.raises(BudgetExhaustedError) as caught:
            await fleet.executor.run(ASK)
        assert caught.value.limit == "overflow_usd_per_day"
        said = str(caught.value)
        assert said.count("the overflow cap of $") == 1
        assert "[auth] overflow_usd_per_day" in said
        assert OFF in said
    assert fleet.seen == ["claude/m"]
    assert used(store, clock) == 0


async def test_what_does_not_fit_in_the_cap_any_more_leaves_room_for_what_is_free_or_cheaper(store, clock):
    cheaper = a_model("openai/m", prices=PriceSchedule.flat(0.1, 0.5))
    fleet = capped(
        store, clock, PREDICTED_USD / 2, of_the_plan("claude/m"), "anthropic/m", cheaper, plan=[spent()]
    )
    assert (await fleet.executor.run(ASK)).provider == "openai"
    free = a_model("local/m", prices=FREE)
    fleet = capped(store, clock, 0.0, of_the_plan("claude/m"), "anthropic/m", free, plan=[spent()])
    assert (await fleet.executor.run(ASK)).provider == "local"
    assert used(store, clock) == COST // 10


async def test_processes_share_the_cap_through_the_store(store, clock):
    fleets = [capped(store, clock, PREDICTED_USD, plan=[spent()]) for _ in range(2)]
    fleets[0]["anthropic"].default = Reply(first_content_s=5.0)
    first = asyncio.create_task(fleets[0].executor.run(ASK))
    while not fleets[0].asked > 1:
        await asyncio.sleep(0)
    with pytest.raises(BudgetExhaustedError, match="overflow_usd_per_day"):
        await fleets[1].executor.run(ASK)
    assert (await first).provider == "anthropic"


async def test_the_spend_cap_holds_beside_it(store, clock):
    spend = SpendCap(store, clock, usd_per_day=PREDICTED_USD / 2)
    fleet = capped(store, clock, 1.0, plan=[spent()], spend_cap=spend)
    with pytest.raises(
        BudgetExhaustedError, match=r"the spend cap of .*; the credential .* is used up"
    ) as caught:
        await fleet.executor.run(ASK)
    assert caught.value.limit == "usd_per_day"
    assert used(store, clock) == 0


async def test_a_price_that_is_not_known_cannot_be_held_to_the_cap(store, clock):
    fleet = capped(
        store, clock, 1.0, of_the_plan("claude/m"), a_model("anthropic/m", prices=None), plan=[spent()]
    )
    with pytest.raises(BudgetExhaustedError, match="price of anthropic/m is unknown"):
        await fleet.executor.run(ASK)


async def test_a_cap_that_has_no_room_for_the_tier_does_not_end_in_a_weaker_model_that_costs_money(
    store, clock
):
    weaker = a_model("openai/small", ModelTier.CHEAP, prices=PriceSchedule.flat(0.01, 0.05))
    models = (of_the_plan("claude/m"), "anthropic/m", weaker)
    fleet = capped(store, clock, PREDICTED_USD / 2, *models, plan=[spent()])
    for _ in range(2):
        with pytest.raises(BudgetExhaustedError, match="overflow_usd_per_day"):
            await fleet.executor.run(ASK)
    free = a_model("local/small", ModelTier.CHEAP, prices=FREE)
    fleet = capped(store, clock, PREDICTED_USD / 2, *models, free, plan=[spent()])
    assert (await fleet.executor.run(ASK)).provider == "local"
    spend = SpendCap(store, clock, usd_per_day=PREDICTED_USD / 2)
    with pytest.raises(BudgetExhaustedError, match="the spend cap of"):
        await Fleet("anthropic/m", weaker, spend_cap=spend, clock=clock).executor.run(ASK)


async def test_a_tier_above_that_a_cap_has_no_room_for_leaves_the_tiers_below_it_to_answer(store, clock):
    dear = a_model("openai/large", ModelTier.PREMIUM, prices=PriceSchedule.flat(100, 500))
    weaker = a_model("other/small", ModelTier.CHEAP)
    chain = FallbackPolicy((FallbackStrategy.CUSTOM,), chain=("openai/large", "other/small"))
    fleet = Fleet(
        *("anthropic/m", dear, weaker),
        scripts={"anthropic": [TransientError("overloaded", status=529)]},
        spend_cap=SpendCap(store, clock, usd_per_day=PREDICTED_USD * 2),
        clock=clock,
        fallback=chain,
        retry=NO_REPEAT,
    )
    assert (await fleet.executor.run(ASK)).provider == "other"
    assert fleet.seen == ["anthropic/m", "other/small"]


# -- a plan that refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["fail", "wait"])
@pytest.mark.parametrize("error", [nobody(), MoneyGoneError("no money", provider="claude")])
async def test_a_plan_that_refuses_bills_nobody_without_consent_and_the_error_says_what_to_do(
    overflow, error
):
    fleet = fleet_of(overflow=overflow, plan=[error])
    for _ in range(2):  # the first one finds out in its course, the second one knows
        with pytest.raises(AllProvidersFailedError) as caught:
            await fleet.executor.run(ASK, PATIENT)
        said = str(caught.value)
        assert said.startswith("the credential claude#subscription is off: ")
        assert ("; `claude auth login` (or see `attune doctor`), then" in said) is isinstance(
            error, CredentialError
        )
        assert "; next try 2027-01-15 08:05:00 UTC (in 5 min); " in said
        assert said.endswith(f'; [auth] overflow is "{overflow}": {REMEDY}')
        assert caught.value.retry_at == fleet.clock.time() + 300
    assert fleet.seen == ["claude/m"], "and nobody waited for a login"


async def test_with_consent_a_key_pays_for_a_plan_that_refuses_under_the_cap_and_every_decision_says_so(
    store, clock
):
    fleet = capped(store, clock, 10.0, plan=[nobody()])
    for calls in (1, 2, 3):
        assert (await fleet.executor.run(ASK)).credential == "api_key"
        assert used(store, clock) == calls * COST
    said = f'; [auth] overflow = "api" {BILLS}'
    assert f"nobody is logged in{said}; next anthropic/m" in fleet.steps[0]
    for each in fleet.decisions[1:]:
        (note,) = each.notes
        assert "`claude auth login`" in note
        assert note.endswith(said)
    cap = capped(store, clock, PREDICTED_USD, plan=[nobody()])
    for _ in range(2):
        with pytest.raises(BudgetExhaustedError, match=r"overflow cap of .*; the credential .* is off"):
            await cap.executor.run(ASK)


async def test_a_plan_alone_that_refuses_says_so_with_consent_too():
    fleet = fleet_of(of_the_plan("claude/m"), overflow="api", plan=[nobody()])
    for _ in range(2):
        with pytest.raises(AllProvidersFailedError, match="`claude auth login`") as caught:
            await fleet.executor.run(ASK)
        assert "overflow" not in str(caught.value), "nobody could be billed"


@pytest.mark.parametrize(
    "error", [ConnectionFailedError("refused"), TransientError("overloaded"), ThrottledError("busy")]
)
async def test_what_passes_by_itself_goes_on_to_a_key_as_after_any_failure(error):
    assert (await fleet_of(plan=[error]).executor.run(ASK)).credential == "api_key"


async def test_a_key_that_is_refused_is_told_as_what_it_is():
    others = {"anthropic": [CredentialError("invalid x-api-key", provider="anthropic")]}
    fleet = fleet_of(overflow="api", plan=[spent()], others=others)
    for why in ("invalid x-api-key", "anthropic#api_key is off: it was refused"):
        with pytest.raises(AllProvidersFailedError, match=why):
            await fleet.executor.run(ASK)


# -- a plan that bills beside it -------------------------------------------------------------------


class BillsBeside(FakeProvider):
    """A plan that says with each answer that credits pay for it."""

    async def open(self, request, model, budget):
        stream = await super().open(request, model, budget)

        async def told():
            yield StreamEvent(EventKind.PING, b"", BilledBeside("five_hour", RESET_S))
            async for event in stream:
                yield event

        return told()


def fleet_that_bills_beside() -> Fleet:
    fleet = fleet_of()
    plan = BillsBeside("claude", (), credential="subscription", sleep=fleet.clock.sleep)
    fleet.runner._providers["claude", "subscription"] = plan
    return fleet


async def test_an_answer_that_credits_paid_has_no_known_cost_and_is_the_last_before_the_reset():
    fleet = fleet_that_bills_beside()
    billed = await fleet.executor.run(ASK)
    assert (billed.cost_nanos, billed.cost_status) == (None, CostStatus.UNKNOWN)
    (fact,) = fleet.facts
    assert fact[:3] == (FactKind.CREDENTIAL_OFF, "claude#subscription", fleet.clock.time() + RESET_S)
    assert fact.detail == USED_UP
    (said,) = fleet.steps
    assert said.startswith(
        "claude/m#subscription: credits were billed beside the plan, so what the call cost"
    )
    assert f"; {OFF}; " in said
    with pytest.raises(AllProvidersFailedError, match="is used up until"):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["claude/m"]


async def test_an_answer_that_is_left_when_it_says_so_is_no_different():
    fleet = fleet_that_bills_beside()
    async with fleet.executor.stream(ASK) as events:
        async for event in events:
            if isinstance(event.parsed, BilledBeside):
                assert [fact.detail for fact in fleet.facts] == [USED_UP], "at once, not at the end"
            if event.kind is EventKind.CONTENT:
                break
    (record,) = fleet.records
    assert (record.error_class, record.cost_nanos, record.cost_status) == ("cancelled", None, "unknown")
    assert fleet.nothing_is_taken()


# -- no strategy that counts on it -----------------------------------------------------------------


async def test_a_plan_alone_that_is_used_up_says_until_when_and_says_it_once():
    models = [of_the_plan(f"claude/{each}") for each in "abc"]
    pays = {"claude": ("subscription",)}
    fleet = Fleet(*models, credentials=pays, strategy=AuthStrategy(), retry=NO_REPEAT)
    for scripted in ([spent()], []):
        fleet["claude#subscription"].then(*scripted)
        fleet.steps.clear()
        with pytest.raises(AllProvidersFailedError, match=r"2027-01-15 08:05:00 UTC \(in 5 min\)"):
            await fleet.executor.run(ASK)
        assert sum(OFF in step for step in fleet.steps) == 1
    assert fleet.decisions[-1].notes == (), "it is not tried before its time"
    with pytest.raises(NoCandidateError) as caught:
        fleet.router.decide(RouteRequest.of(ASK, ExecutionContext(), 0.0))
    assert caught.value.unpaid


# -- fail ------------------------------------------------------------------------------------------


async def test_without_consent_nothing_is_billed_and_one_line_says_what_would_help():
    fleet = fleet_of(plan=[spent()])
    for number in range(2):  # the first one finds out in its course, the second one knows
        with pytest.raises(AllProvidersFailedError) as caught:
            await fleet.executor.run(ASK)
        said = str(caught.value)
        assert said == (f'{OFF}; [auth] overflow is "fail": {REMEDY}')
        assert caught.value.retry_at == fleet.clock.time() + RESET_S
        assert [type(each) for each in caught.value.attempts] == [WindowSpentError], number
    assert fleet.seen == ["claude/m"]
    said = "claude/m#subscription: You've hit your limit; what costs money is left out: "
    assert fleet.steps == [said + '[auth] overflow is "fail"']
    assert not fleet["anthropic"].received


async def test_the_record_of_a_call_that_fails_for_it_says_who_was_kept_out_and_why():
    fleet = fleet_of(plan=[spent()])
    for _ in range(2):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
    record = fleet.decisions[1]
    assert [each.label for each in map(the_label, record.ranked)] == ["claude/m"]
    (kept_out,) = (each for each in record.dropped if each.provider == "anthropic")
    assert kept_out.reason == 'it costs money, and the plan cannot pay now (overflow is "fail")'
    assert record.notes == ('what costs money is left out: [auth] overflow is "fail"',)


def the_label(scored):
    return the_candidate(f"{scored.provider}/{scored.model_id}", scored.credential)


@pytest.mark.parametrize("overflow", ["fail", "wait"])
async def test_what_is_free_answers_in_place_of_the_plan_without_any_consent(overflow):
    models = (of_the_plan("claude/m"), "anthropic/m", a_model("local/m", prices=FREE))
    fleet = fleet_of(*models, overflow=overflow, plan=[spent()])
    before = fleet.clock.monotonic()
    assert [(await fleet.executor.run(ASK)).provider for _ in range(2)] == ["local", "local"]
    assert fleet.seen == ["claude/m", "local/m", "local/m"]
    assert fleet.clock.monotonic() == before, "nobody waited"


async def test_nobody_is_named_who_could_answer_where_there_is_nobody():
    fleet = fleet_of(of_the_plan("claude/m"), plan=[spent()])
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert "attune auth setup" not in str(caught.value)
    assert "is used up until 2027-01-15 08:05:00 UTC" in str(caught.value)


def test_what_is_said_where_nobody_could_be_billed_names_no_key():
    for others, notes in ((), None), ((a_model("local/m", prices=FREE),), (OFF,)):
        fleet = fleet_of(of_the_plan("claude/m"), *others)
        fleet.domains.acquire(the_candidate("claude/m", "subscription"), 60).failure(spent())
        if notes is None:
            with pytest.raises(NoCandidateError, match=f"{re.escape(OFF)}$"):
                fleet.router.decide(RouteRequest.of(ASK, ExecutionContext(), 0.0))
        else:
            assert fleet.router.decide(RouteRequest.of(ASK, ExecutionContext(), 0.0)).notes == notes


async def test_the_failure_of_what_is_free_is_told_beside_it():
    models = (of_the_plan("claude/m"), "anthropic/m", a_model("local/m", prices=FREE))
    fleet = fleet_of(*models, plan=[spent()], others={"local": [TransientError("it crashed", status=500)]})
    with pytest.raises(AllProvidersFailedError, match="a day; it crashed") as caught:
        await fleet.executor.run(ASK)
    assert [type(each) for each in caught.value.attempts] == [WindowSpentError, TransientError]


async def test_what_another_process_found_out_holds_here_too():
    fleet = fleet_of()
    now = fleet.clock.time()
    fleet.domains.learn([Fact(FactKind.CREDENTIAL_OFF, "claude#subscription", now + 60, now, USED_UP)])
    with pytest.raises(AllProvidersFailedError, match="is used up until"):
        await fleet.executor.run(ASK)
    assert fleet.asked == 0
    fleet.clock.advance(60)
    assert (await fleet.executor.run(ASK)).credential == "subscription"


async def test_what_is_found_out_while_a_call_is_under_way_holds_for_it():
    """The plan fails of something else first; before it is asked again another call finds it used up."""
    fleet = fleet_of(plan=[TransientError("overloaded", status=529)], retry=RetryPolicy())
    now = fleet.clock.time()
    fact = Fact(FactKind.CREDENTIAL_OFF, "claude#subscription", now + RESET_S, now, USED_UP)

    def tell(_: str) -> None:
        fleet.domains.learn([fact])

    fleet.executor.on_step = tell
    with pytest.raises(AllProvidersFailedError, match="is used up until"):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["claude/m"]


async def test_the_window_of_some_models_is_not_that_of_the_others():
    models = (
        of_the_plan("claude/opus-5", ModelTier.PREMIUM),
        a_model("anthropic/opus-5", ModelTier.PREMIUM),
        of_the_plan("claude/sonnet-5"),
        "anthropic/sonnet-5",
    )
    fleet = fleet_of(*models, plan=[spent(window="seven_day_opus")])
    premium = ExecutionContext(tier="premium", model=None)
    response = await fleet.executor.run(ASK, premium)
    assert fleet.seen == ["claude/opus-5", "claude/sonnet-5"], "the plan's other models have quota"
    assert response.credential == "subscription"
    with pytest.raises(
        AllProvidersFailedError, match=r"claude#subscription#opus: its quota window is used up until"
    ):
        await fleet.executor.run(ASK, ExecutionContext(model="opus-5"))


async def test_where_keys_come_first_and_the_plan_stands_in_nothing_overflows(store, clock):
    chain = FallbackPolicy((FallbackStrategy.CUSTOM,), chain=("claude/m", "openai/m"))
    fleet = fleet_of(
        *("anthropic/m", of_the_plan("claude/m"), "openai/m"),
        strategy=AuthStrategy(default_mode=AuthMode.API),
        overflow_cap=SpendCap(store, clock, usd_per_day=0.0, name=OVERFLOW),
        clock=clock,
        fallback=chain,
        plan=[spent()],
        others={"anthropic": [TransientError("overloaded", status=529)]},
    )
    assert (await fleet.executor.run(ASK)).provider == "openai"
    assert fleet.seen == ["anthropic/m", "claude/m", "openai/m"]


async def test_in_the_mode_auto_only_what_is_the_plans_work_overflows():
    plan = {"subscription_tier": SubscriptionTier.MAX, "small_module_threshold": 10}
    fleet = fleet_of(strategy=AuthStrategy(**plan), plan=[spent()])
    large = replace(ASK, messages=(Message.user("word " * 40),))
    with pytest.raises(AllProvidersFailedError, match="is used up until"):
        await fleet.executor.run(large)
    assert fleet.seen == ["claude/m"]
    assert (await fleet.executor.run(ASK)).credential == "api_key", "small work is the key's in any case"


async def test_a_call_that_the_plan_could_not_have_served_does_not_overflow():
    """Its answers are too short for it, whatever is left of its quota."""
    longer = a_model("anthropic/m")._replace(max_output_tokens=9000)
    fleet = fleet_of(of_the_plan("claude/m"), longer, plan=[spent()])
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert (await fleet.executor.run(replace(ASK, max_output_tokens=5000))).credential == "api_key"
    fleet.trip("anthropic/m")
    assert (await fleet.executor.run(replace(ASK, max_output_tokens=5000))).credential == "api_key"


async def test_where_a_plan_that_is_used_up_was_too_slow_anyway_one_error_says_who_is_kept_out():
    fleet = fleet_of(plan=[*[Reply(first_content_s=9.0)] * 30, spent()])
    for _ in range(30):
        await fleet.executor.run(ASK)
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    fleet.trip("anthropic/m")
    with pytest.raises(NoCandidateError, match="no candidate fits") as caught:
        await fleet.executor.run(ASK, ExecutionContext(max_latency_ms=2000))
    plan, key = sorted(reason for _, reason in caught.value.drops)[::-1]
    assert plan.startswith("the credential claude#subscription is off: its quota window is used up until ")
    assert key == "the circuit of anthropic/m is open"
    assert fleet.decisions[-1].ranked == ()


async def test_a_decision_says_that_the_call_overflows_and_what_becomes_of_it():
    fleet = fleet_of(overflow="api", plan=[spent()])
    for _ in range(2):
        await fleet.executor.run(ASK)
    first, second = fleet.decisions
    assert first.notes == ()
    (note,) = second.notes
    assert note == OverflowRule(Overflow.API, 10.0).note(OFF, keeps_out=False)
    assert dict(second.features)["overflows"] == "yes"


async def test_of_two_plans_the_one_that_has_quota_left_answers():
    models = (of_the_plan("claude/m"), of_the_plan("other/m"), "anthropic/m")
    fleet = Fleet(
        *models,
        credentials={"claude": ("subscription",), "other": ("subscription",)},
        strategy=AuthStrategy(default_mode=AuthMode.SUBSCRIPTION),
        scripts={"claude": [spent()], "other": ["ok", spent()]},
        retry=NO_REPEAT,
    )
    assert (await fleet.executor.run(ASK)).provider == "other"
    with pytest.raises(AllProvidersFailedError, match="is used up until"):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["claude/m", "other/m", "other/m"]


# -- wait ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 3])
async def test_a_reset_within_the_calls_time_is_waited_for_and_that_is_said(calls):
    fleet = fleet_of(overflow="wait", plan=[spent()])
    before = fleet.clock.monotonic()
    answers = await asyncio.gather(*(fleet.executor.run(ASK, PATIENT) for _ in range(calls)))
    assert {each.credential for each in answers} == {"subscription"}
    assert fleet.clock.monotonic() == before + RESET_S
    assert not fleet["anthropic"].received
    assert "claude/m is used up; waiting 300.0 s" in fleet.steps


async def test_a_call_that_knows_it_from_the_start_waits_as_well():
    fleet = fleet_of(overflow="wait", plan=[spent()])
    short = ExecutionContext(deadline_s=RESET_S)
    for _ in range(2):
        with pytest.raises(AllProvidersFailedError) as caught:
            await fleet.executor.run(ASK, short)
        assert str(caught.value) == (
            f"{OFF}; beyond the call's deadline (`[call] deadline_seconds`, `deadline_s=`); "
            f'[auth] overflow is "wait": {REMEDY}'
        )
    assert (await fleet.executor.run(ASK, PATIENT)).credential == "subscription"
    assert fleet.seen == ["claude/m", "claude/m"]
    assert fleet.records[-1].success


async def test_a_reset_that_is_put_off_while_it_is_waited_for_is_waited_for_again():
    fleet = fleet_of(overflow="wait", plan=[spent(), spent(60.0)])
    response = await fleet.executor.run(ASK, PATIENT)
    assert [each.error_class for each in response.attempts] == ["window_spent", "window_spent", ""]
    assert fleet.steps.count("claude/m is used up; waiting 60.0 s") == 1
    waiting = asyncio.create_task(fleet.executor.run(ASK, PATIENT))
    await waiting
    assert waiting.result().credential == "subscription"


async def test_after_the_wait_the_plan_is_asked_before_anybody_else_and_may_fail_like_any_other():
    down = TransientError("overloaded", status=529)
    fleet = fleet_of(overflow="wait", plan=[spent(), down, spent(), down])
    response = await fleet.executor.run(ASK, PATIENT)  # it finds out in its course
    assert fleet.seen == ["claude/m", "claude/m", "anthropic/m"]
    assert response.credential == "api_key"
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=60))
    assert (await fleet.executor.run(ASK, PATIENT)).credential == "api_key"  # it knows from the start
    assert fleet.seen[3:] == ["claude/m", "claude/m", "anthropic/m"]


async def test_a_call_that_is_cancelled_while_it_waits_ends_at_once_and_holds_nothing():
    fleet = fleet_of(overflow="wait", plan=[spent()], clock=FakeClock(autojump=False))
    waiting = asyncio.create_task(fleet.executor.run(ASK, PATIENT))
    while not any("waiting" in step for step in fleet.steps):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert fleet.nothing_is_taken()
