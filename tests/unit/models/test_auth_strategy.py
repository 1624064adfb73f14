import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.auth_strategy import (
    AuthFacts,
    AuthMode,
    AuthStrategy,
    Overflow,
    SubscriptionTier,
    get_module_size_category,
)
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelInfo, ModelTier, get_model

API, SUBSCRIPTION, AUTO = AuthMode.API, AuthMode.SUBSCRIPTION, AuthMode.AUTO
PRO = AuthStrategy(subscription_tier=SubscriptionTier.PRO)


def test_the_defaults_are_the_documented_ones():
    assert AuthStrategy().to_dict() == {
        "default_mode": "auto",
        "subscription_tier": "none",
        "prefer_subscription": True,
        "small_module_threshold": 500,
        "large_module_threshold": 2000,
        "loc_to_tokens_multiplier": 4.0,
        "cost_optimization": True,
        "overflow": "fail",
        "overflow_usd_per_day": 10.0,
        "setup_completed": False,
    }
    assert list(Overflow) == ["api", "wait", "fail"]
    assert list(AuthMode) == ["auto", "subscription", "api"]
    assert list(SubscriptionTier) == ["none", "pro", "max", "ultra", "team"]


def test_a_strategy_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AuthStrategy().prefer_subscription = False


@pytest.mark.parametrize(
    ("lines", "size"),
    [(0, "small"), (499, "small"), (500, "medium"), (2000, "medium"), (2001, "large"), (10**9, "large")],
)
def test_a_module_is_small_below_500_lines_and_large_above_2000(lines, size):
    assert get_module_size_category(lines) == size
    assert AuthStrategy().get_module_size_category(lines) == size


def test_the_method_uses_the_strategys_own_thresholds():
    strategy = AuthStrategy(small_module_threshold=10, large_module_threshold=20)
    assert [strategy.get_module_size_category(n) for n in (9, 10, 20, 21)] == [
        "small",
        "medium",
        "medium",
        "large",
    ]


@pytest.mark.parametrize(
    ("lines", "mode"), [(499, API), (500, SUBSCRIPTION), (2000, SUBSCRIPTION), (9999, SUBSCRIPTION)]
)
def test_auto_sends_small_modules_to_the_api_and_others_to_the_subscription(lines, mode):
    assert PRO.get_recommended_mode(lines) is mode


@pytest.mark.parametrize(
    "strategy",
    [AuthStrategy(), dataclasses.replace(PRO, prefer_subscription=False)],
    ids=["no plan", "not preferred"],
)
@pytest.mark.parametrize("facts", [None, AuthFacts(quota_would_expire=True)])
@pytest.mark.parametrize("lines", [1, 1000, 5000])
def test_auto_never_uses_a_subscription_that_is_not_there_or_not_wanted(strategy, facts, lines):
    assert strategy.get_recommended_mode(lines, facts) is API


@pytest.mark.parametrize("mode", [API, SUBSCRIPTION])
@pytest.mark.parametrize("lines", [1, 1000, 5000])
def test_an_explicit_mode_is_obeyed_whatever_the_size_and_the_facts(mode, lines):
    strategy = dataclasses.replace(PRO, default_mode=mode)
    facts = AuthFacts(window_exhausted=True, quota_would_expire=True)
    assert strategy.get_recommended_mode(lines, facts) is mode


@pytest.mark.parametrize(
    ("facts", "small", "large"),
    [
        (AuthFacts(), API, SUBSCRIPTION),
        (AuthFacts(window_exhausted=True), API, API),
        (AuthFacts(context_fits=False), API, API),
        (AuthFacts(quota_would_expire=True), SUBSCRIPTION, SUBSCRIPTION),
        (AuthFacts(window_exhausted=True, quota_would_expire=True), API, API),
        (AuthFacts(window_exhausted=False, quota_would_expire=False, context_fits=True), API, SUBSCRIPTION),
    ],
)
def test_facts_beat_size(facts, small, large):
    assert (PRO.get_recommended_mode(100, facts), PRO.get_recommended_mode(3000, facts)) == (small, large)


def test_without_cost_optimization_only_the_size_counts():
    strategy = dataclasses.replace(PRO, cost_optimization=False)
    assert strategy.get_recommended_mode(3000, AuthFacts(window_exhausted=True)) is SUBSCRIPTION
    assert strategy.get_recommended_mode(100, AuthFacts(quota_would_expire=True)) is API


def test_tokens_are_lines_times_the_multiplier_cut_to_a_whole_number():
    assert AuthStrategy().estimate_tokens(1000) == 4000
    assert AuthStrategy(loc_to_tokens_multiplier=2.5).estimate_tokens(3) == 7
    assert AuthStrategy().estimate_tokens(0) == 0


@given(st.integers(0, 10**9), st.floats(0.01, 10_000))
def test_the_estimate_is_the_formula(lines, multiplier):
    assert AuthStrategy(loc_to_tokens_multiplier=multiplier).estimate_tokens(lines) == int(lines * multiplier)


def test_the_api_cost_prices_input_and_expected_output():
    estimate = AuthStrategy().estimate_cost(10_000)
    assert estimate.mode is API
    assert estimate.model == "anthropic/claude-sonnet-5-5"
    assert (estimate.input_tokens, estimate.output_tokens) == (40_000, 10_000)
    assert estimate.cost_usd == pytest.approx(0.04 * 2 + 0.01 * 10)
    assert estimate.amortized_usd == estimate.cost_usd
    assert estimate.quota_share is None
    assert estimate.fits_context


def test_the_expected_output_is_at_least_500_tokens_and_at_most_what_the_model_may_write():
    assert AuthStrategy().estimate_cost(10).output_tokens == 500
    assert AuthStrategy().estimate_cost(1_000_000).output_tokens == 128_000


def test_a_subscription_adds_nothing_to_the_bill_and_its_share_is_unknown_without_telemetry():
    estimate = PRO.estimate_cost(10_000)
    assert estimate.mode is SUBSCRIPTION
    assert estimate.cost_usd == 0
    assert estimate.amortized_usd is None
    assert estimate.quota_share is None


@pytest.mark.parametrize(("tier", "monthly"), [("pro", 20), ("max", 100), ("ultra", 200), ("team", 25)])
def test_the_plans_price_is_shared_out_by_tokens(tier, monthly):
    strategy = AuthStrategy(subscription_tier=SubscriptionTier(tier))
    estimate = strategy.estimate_cost(10_000, facts=AuthFacts(month_tokens=950_000, window_tokens=200_000))
    assert estimate.amortized_usd == pytest.approx(monthly * 0.05)
    assert estimate.quota_share == pytest.approx(0.25)


def test_the_amortized_cost_falls_as_the_plan_is_used_more():
    costs = [
        PRO.estimate_cost(5000, facts=AuthFacts(month_tokens=n)).amortized_usd for n in (0, 10**6, 10**8)
    ]
    assert costs[0] == 20
    assert costs == sorted(costs, reverse=True)


def test_a_subscription_without_a_plan_has_no_known_amortized_cost():
    estimate = AuthStrategy().estimate_cost(5000, SUBSCRIPTION, facts=AuthFacts(month_tokens=1))
    assert estimate.amortized_usd is None


def test_a_mode_can_be_asked_for_and_auto_means_the_recommended_one():
    assert PRO.estimate_cost(5000, API).cost_usd > 0
    assert PRO.estimate_cost(5000, AUTO).mode is SUBSCRIPTION
    assert PRO.estimate_cost(5000, facts=AuthFacts(window_exhausted=True)).mode is API


def test_a_real_token_count_takes_the_place_of_the_estimate():
    estimate = AuthStrategy().estimate_cost(100, input_tokens=8000)
    assert (estimate.input_tokens, estimate.output_tokens) == (8000, 2000)
    for impossible in (-1, 10**400):
        with pytest.raises(InvalidRequestError, match="input_tokens must be a whole number from 0"):
            AuthStrategy().estimate_cost(100, input_tokens=impossible)


def test_the_model_and_the_date_of_the_prices_can_be_given():
    argon = get_model("gemini", "premium")
    early = AuthStrategy().estimate_cost(10_000, model=argon)
    late = AuthStrategy().estimate_cost(10_000, model=argon, at=1_796_083_200)
    assert early.model == "gemini/gemini-4-argon"
    assert late.cost_usd == pytest.approx(2 * early.cost_usd)


def test_a_model_of_unknown_price_has_an_unknown_cost():
    mine = ModelInfo("m", "mine", ModelTier.CAPABLE, 1000, 100)
    estimate = AuthStrategy().estimate_cost(100, model=mine)
    assert estimate.cost_usd is None
    assert estimate.amortized_usd is None
    priced = mine._replace(prices=PriceSchedule.flat(1, 1))
    assert AuthStrategy().estimate_cost(100, model=priced).cost_usd == pytest.approx(500e-6)


def test_what_does_not_fit_the_window_is_said():
    small = ModelInfo("m", "mine", ModelTier.CAPABLE, context_window=1000, max_output_tokens=600)
    assert AuthStrategy().estimate_cost(125, model=small).fits_context
    assert not AuthStrategy().estimate_cost(126, model=small).fits_context


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"small_module_threshold": -1}, "small_module_threshold must be from 0"),
        ({"large_module_threshold": 10**12}, "large_module_threshold must be from 0"),
        (
            {"small_module_threshold": 3000},
            r"small_module_threshold \(3000\) must not be above large_module_threshold \(2000\)",
        ),
        ({"loc_to_tokens_multiplier": 0.0}, "loc_to_tokens_multiplier must be above 0"),
        ({"loc_to_tokens_multiplier": float("nan")}, "loc_to_tokens_multiplier must be above 0"),
        ({"loc_to_tokens_multiplier": float("inf")}, "loc_to_tokens_multiplier must be above 0"),
        ({"loc_to_tokens_multiplier": 10**400}, "loc_to_tokens_multiplier must be above 0"),
    ],
)
def test_an_impossible_strategy_is_refused(fields, message):
    with pytest.raises(InvalidRequestError, match=message):
        AuthStrategy(**fields)
    with pytest.raises(InvalidRequestError, match=rf"^auth\.json: {message}"):
        AuthStrategy.from_dict(fields, "auth.json")


@pytest.mark.parametrize("lines", [-1, 10**9 + 1, 10**400, 1.5, True, "12"])
def test_an_impossible_number_of_lines_is_refused(lines):
    strategy = AuthStrategy(default_mode=API)
    for ask in (
        get_module_size_category,
        strategy.get_module_size_category,
        strategy.get_recommended_mode,
        strategy.estimate_tokens,
        strategy.estimate_cost,
    ):
        with pytest.raises(InvalidRequestError, match="lines must be a whole number from 0"):
            ask(lines)


strategies = st.builds(
    AuthStrategy,
    default_mode=st.sampled_from(AuthMode),
    subscription_tier=st.sampled_from(SubscriptionTier),
    prefer_subscription=st.booleans(),
    small_module_threshold=st.integers(0, 100),
    large_module_threshold=st.integers(100, 10_000),
    loc_to_tokens_multiplier=st.floats(0.1, 100),
    cost_optimization=st.booleans(),
    setup_completed=st.booleans(),
)


@given(strategies)
def test_a_strategy_survives_being_written_and_read(strategy):
    assert AuthStrategy.from_dict(strategy.to_dict(), "auth.json") == strategy
    assert {type(value) for value in strategy.to_dict().values()} == {str, bool, int, float}


def test_what_is_not_there_has_its_default():
    assert AuthStrategy.from_dict({}, "x") == AuthStrategy()
    assert AuthStrategy.from_dict({"subscription_tier": "pro"}, "x") == PRO
    assert AuthStrategy.from_dict({"loc_to_tokens_multiplier": 3}, "x").estimate_tokens(2) == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"defualt_mode": "api"}, "unknown key 'defualt_mode' in auth.json; did you mean 'default_mode'"),
        ({"default_mode": "apo"}, "unknown default_mode 'apo' in auth.json; did you mean 'api'"),
        ({"subscription_tier": ["pro"]}, "unknown subscription_tier .* in auth.json"),
        ({"subscription_tier": 3}, "unknown subscription_tier '3' in auth.json; choose one of max, none"),
    ],
)
def test_a_name_that_does_not_exist_is_named_with_the_nearest(values, message):
    with pytest.raises(UnknownNameError, match=message):
        AuthStrategy.from_dict(values, "auth.json")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("prefer_subscription", "yes", "true or false"),
        ("setup_completed", 1, "true or false"),
        ("small_module_threshold", 1.5, "a whole number"),
        ("small_module_threshold", True, "a whole number"),
        ("loc_to_tokens_multiplier", "4", "a number"),
        ("loc_to_tokens_multiplier", False, "a number"),
        ("cost_optimization", None, "true or false"),
        ("large_module_threshold", "9" * 5000, "a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(key, value, wanted):
    with pytest.raises(InvalidRequestError, match=f"^auth.json: {key} must be {wanted}, not ") as caught:
        AuthStrategy.from_dict({key: value}, "auth.json")
    assert len(str(caught.value)) < 120
