"""Each fallback strategy alone gives exactly its candidates, and the upstream sees the other model."""

from __future__ import annotations

import pytest

from attune.errors import AllProvidersFailedError, InvalidRequestError, TransientError, UnknownNameError
from attune.models.fallback import FallbackPolicy, FallbackStrategy
from attune.models.registry import ModelTier
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.models.telemetry import ScoredCandidate
from support.pipeline import ASK, Fleet, a_model

CHEAP, CAPABLE, PREMIUM = ModelTier


def scored(key: str, tier: ModelTier) -> ScoredCandidate:
    label, _, credential = key.partition("#")
    provider, model_id = label.split("/")
    return ScoredCandidate(provider, model_id, credential or "key", tier, 1.0, 1.0, 1.0, 0.0, 0, 0, 0.0)


CHOSEN = scored("a/mid", CAPABLE)
RANKED = (
    CHOSEN,
    scored("a/mid2", CAPABLE),
    scored("b/mid", CAPABLE),
    scored("a/mid#plan", CAPABLE),
    scored("b/top", PREMIUM),
    scored("a/top", PREMIUM),
    scored("c/small", CHEAP),
    scored("a/small", CHEAP),
)

ALONE = {
    FallbackStrategy.OTHER_CREDENTIAL: ["a/mid#plan"],
    FallbackStrategy.SAME_TIER_OTHER_PROVIDER: ["b/mid"],
    FallbackStrategy.SAME_TIER_SAME_PROVIDER: ["a/mid2", "a/mid#plan"],
    FallbackStrategy.CHEAPER_TIER_SAME_PROVIDER: ["a/small"],
    FallbackStrategy.ANY_TIER_OTHER_PROVIDER: ["b/mid", "b/top", "c/small"],
    FallbackStrategy.UPGRADE_TIER: ["b/top", "a/top"],
    FallbackStrategy.CUSTOM: ["c/small", "a/top"],
}


def keys(candidates):
    return [f"{c.provider}/{c.model_id}" + ("" if c.credential == "key" else "#plan") for c in candidates]


def policy_of(*strategies):
    chain = ("c/small", "nobody/knows", "a/top") if FallbackStrategy.CUSTOM in strategies else ()
    return FallbackPolicy(strategies, chain)


def test_every_strategy_is_listed_here():
    assert ALONE.keys() == set(FallbackStrategy)


@pytest.mark.parametrize("strategy", FallbackStrategy)
def test_a_strategy_alone_finds_exactly_its_candidates_after_the_chosen_one(strategy):
    assert keys(policy_of(strategy).order(RANKED)) == ["a/mid", *ALONE[strategy]]


def test_the_default_chain_tries_what_is_nearest_first():
    assert keys(FallbackPolicy().order(RANKED)) == [
        "a/mid",
        "a/mid#plan",
        "b/mid",
        "a/mid2",
        "b/top",
        "a/top",
        "c/small",
        "a/small",
    ]


def test_no_strategies_mean_the_chosen_one_alone():
    assert FallbackPolicy(()).order(RANKED) == (CHOSEN,)


def test_from_a_premium_model_there_is_nothing_to_upgrade_to_and_two_tiers_are_cheaper():
    ranked = (scored("a/top", PREMIUM), *RANKED[:4], *RANKED[6:])
    assert keys(policy_of(FallbackStrategy.UPGRADE_TIER).order(ranked)) == ["a/top"]
    cheaper = policy_of(FallbackStrategy.CHEAPER_TIER_SAME_PROVIDER).order(ranked)
    assert keys(cheaper) == ["a/top", "a/mid", "a/mid2", "a/mid#plan", "a/small"]


def test_an_upgrade_goes_one_tier_up_not_two():
    ranked = (scored("a/small", CHEAP), *RANKED[:2], *RANKED[4:6])
    upgraded = policy_of(FallbackStrategy.UPGRADE_TIER).order(ranked)
    assert keys(upgraded) == ["a/small", "a/mid", "a/mid2"]


def test_the_custom_chain_keeps_its_own_order_whatever_the_ranking():
    chain = ("a/small", "b/top", "a/mid", "b/mid")
    policy = FallbackPolicy((FallbackStrategy.CUSTOM,), chain)
    assert keys(policy.order(RANKED)) == ["a/mid", "a/small", "b/top", "a/mid#plan", "b/mid"]
    assert keys(policy.order((CHOSEN, *reversed(RANKED[1:]))))[1:3] == ["a/small", "b/top"]


def test_strategies_follow_each_other_and_no_candidate_comes_twice():
    policy = policy_of(FallbackStrategy.UPGRADE_TIER, FallbackStrategy.ANY_TIER_OTHER_PROVIDER)
    assert keys(policy.order(RANKED)) == ["a/mid", "b/top", "a/top", "b/mid", "c/small"]


@pytest.mark.parametrize(
    ("strategies", "chain"), [((FallbackStrategy.CUSTOM,), ()), ((FallbackStrategy.UPGRADE_TIER,), ("a/b",))]
)
def test_the_custom_strategy_and_a_chain_go_together(strategies, chain):
    message = "^the custom fallback strategy and a chain of models go together$"
    with pytest.raises(InvalidRequestError, match=message):
        FallbackPolicy(strategies, chain)


def test_a_strategy_is_found_by_its_name_and_a_wrong_one_names_the_nearest():
    assert FallbackStrategy.parse(" Upgrade_Tier ") is FallbackStrategy.UPGRADE_TIER
    with pytest.raises(UnknownNameError) as caught:
        FallbackStrategy.parse("upgrade")
    assert str(caught.value) == "unknown fallback strategy 'upgrade'; did you mean 'upgrade_tier'?"


def test_strategies_may_be_given_as_the_texts_of_a_configuration():
    (strategy,) = FallbackPolicy((" Upgrade_Tier ",)).strategies
    assert strategy is FallbackStrategy.UPGRADE_TIER


# -- the effect: what the upstreams saw --------------------------------------------------------------

SEEN = {
    FallbackStrategy.OTHER_CREDENTIAL: {"a/mid#plan"},
    FallbackStrategy.SAME_TIER_OTHER_PROVIDER: {"b/mid#key"},
    FallbackStrategy.SAME_TIER_SAME_PROVIDER: {"a/mid#plan", "a/mid2#key", "a/mid2#plan"},
    FallbackStrategy.CHEAPER_TIER_SAME_PROVIDER: {"a/small#key", "a/small#plan"},
    FallbackStrategy.ANY_TIER_OTHER_PROVIDER: {"b/mid#key", "b/top#key", "c/small#key"},
    FallbackStrategy.UPGRADE_TIER: {"b/top#key", "a/top#key", "a/top#plan"},
    FallbackStrategy.CUSTOM: {"c/small#key", "a/top#key", "a/top#plan"},
}


@pytest.mark.parametrize("strategy", FallbackStrategy)
async def test_the_model_that_the_upstream_sees_really_changes(strategy):
    """Everything fails, so that every candidate of the chain is asked: exactly those, once each."""
    fleet = Fleet(
        a_model("a/mid"),
        a_model("a/mid2"),
        a_model("b/mid"),
        a_model("b/top", PREMIUM),
        a_model("a/top", PREMIUM),
        a_model("c/small", CHEAP),
        a_model("a/small", CHEAP),
        credentials={"a": ("key", "plan"), "b": ("key",), "c": ("key",)},
        fallback=policy_of(strategy),
        retry=RetryPolicy(max_repeats=0),
    )
    for provider in fleet.providers.values():
        provider.default = TransientError("overloaded", status=503)
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(tier="capable"))
    upstream = [
        f"{provider.name}/{seen.model.id}#{provider.credential}"
        for provider in fleet.providers.values()
        for seen in provider.received
    ]
    recorded = [f"{record.provider}/{record.model_id}#{record.credential}" for record in fleet.records]
    assert sorted(upstream) == sorted(recorded)
    assert recorded[0] == "a/mid#key"
    assert len(recorded[1:]) == len(SEEN[strategy])
    assert set(recorded[1:]) == SEEN[strategy]
