"""Models that make embeddings: asked for by name, candidates of no tier, and no measure for conversations."""

import pytest

from attune.errors import InvalidRequestError, NoCandidateError
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.prices import PriceSchedule, cost_nanos
from attune.models.registry import EMBEDDINGS, ModelInfo, ModelRegistry, ModelTier, get_model
from attune.models.telemetry import TokenUsage
from attune.testing import FakeClock
from support.routing import MODELS, Program, Resting, an_attempt, drops, rollup_rows

NEEDS = frozenset({EMBEDDINGS})


def vectors(provider: str, name: str = "vec", price: float = 0.02) -> ModelInfo:
    prices = PriceSchedule.flat(price, 0)
    return ModelInfo(name, provider, ModelTier.CHEAP, 8192, 1, NEEDS, prices)


ALL = (*MODELS, vectors("a"), vectors("b"), vectors("b", "bigger-vec"))


def test_the_catalog_has_models_of_openai_and_gemini_with_exact_prices():
    found = [model for model in ModelRegistry.default().models if model.embeds]
    assert {model.label: model.input_price() for model in found} == {
        "openai/text-embedding-3-small": 0.02,
        "openai/text-embedding-3-large": 0.13,
        "gemini/gemini-embedding-001": 0.15,
    }
    assert [cost_nanos(TokenUsage(1_000_003), model.prices, 0.0) for model in found] == [
        20_000_060,
        130_000_390,
        150_000_450,
    ]


def test_they_are_in_no_tier_and_the_static_choice_never_takes_them():
    registry = ModelRegistry.default()
    assert not any(model.embeds for tier in ModelTier for model in registry.in_tier(tier))
    assert get_model("openai", "cheap").id == "gpt-6-luna"
    with pytest.raises(InvalidRequestError, match="has no cheap model"):
        ModelRegistry([vectors("a")]).get_model("a", "cheap")


def test_one_that_is_listed_in_a_tier_is_refused():
    with pytest.raises(InvalidRequestError, match="'a/vec' makes embeddings and belongs to no tier"):
        ModelRegistry(ALL, {ModelTier.CHEAP: ["a/vec"]})


def test_they_are_never_candidates_of_a_conversation_not_even_by_name():
    program = Program(*ALL)
    for options in ({}, {"tier": "cheap"}, {"task_type": "summarize"}, {"max_cost": 0.001}):
        decision = program.decide(**options)
        assert not any(model.embeds for model in decision.models)
        assert not any("vec" in key for key in drops(decision))
    resting = Program(*ALL, availability=Resting(*(model.label for model in MODELS)))
    with pytest.raises(NoCandidateError):
        resting.decide(tier="cheap")


def test_by_name_they_answer_no_conversation_and_other_models_make_no_embeddings():
    named = {"model": "bigger-vec"}
    with pytest.raises(NoCandidateError, match="b/bigger-vec#api_key: it makes embeddings only"):
        Program(*ALL).decide(**named)
    with pytest.raises(NoCandidateError, match="a/mid#api_key: it makes no embeddings"):
        Program(*ALL).decide(model="mid", needs=NEEDS)


def test_only_providers_of_the_same_model_are_candidates_the_one_that_does_better_first():
    program = Program(*ALL).saw("a/vec", 9, 1, tier=EMBEDDINGS).saw("b/vec", 10, tier=EMBEDDINGS)
    decision = program.decide(model="vec", needs=NEEDS)
    assert [each.label for each in decision.candidates] == ["b/vec", "a/vec"]
    assert decision.ranked[0].predicted_cost_usd is not None


def test_inputs_together_may_be_longer_than_the_window_of_each():
    decision = Program(*ALL).decide(model="vec", needs=NEEDS, input_tokens=300_000)
    assert len(decision.candidates) == 2
    assert decision.ranked[0].predicted_cost_usd == pytest.approx(0.006)


def statistics(program):
    size = program.router.stats.mean_tokens(program.router.stats.levels("review", "check", ""), 0)
    tiers = program.router.stats.tiers(program.router.stats.levels("review", "check", "")[0], 0)
    return size, tiers, program.router.recommend_tier_upgrade("review", "check")


@pytest.mark.parametrize("restored", [False, True], ids=["observed", "restored"])
@pytest.mark.parametrize("asked_before", [False, True])
def test_they_say_nothing_of_the_size_and_the_tiers_of_conversations(restored, asked_before):
    alone = Program(*ALL).saw("a/mid", 4).saw("a/big", 4, 1)
    mixed = Program(*ALL).saw("a/mid", 4)
    if asked_before:
        statistics(mixed)
    mixed.saw("a/vec", 5, 30, tier=EMBEDDINGS, usage=TokenUsage(90_000)).saw("a/big", 4, 1)
    if restored:
        again = Program(*ALL, clock=mixed.clock)
        again.router.restore(rollup_rows(mixed.records))
        mixed = again
    assert statistics(mixed) == statistics(alone)


def test_what_they_cost_is_told_but_no_tier_could_have_done_it_instead():
    program = Program(*ALL).saw("a/mid", 3, cost=7_000_000).saw("a/vec", 5, tier=EMBEDDINGS, cost=2_000)
    without = Program(*ALL).saw("a/mid", 3, cost=7_000_000).router.get_routing_stats("review")
    stats = program.router.get_routing_stats("review")
    assert {each.model_id: (each.tier, each.calls) for each in stats.models} == {
        "mid": ("capable", 3),
        "vec": ("embeddings", 5),
    }
    assert stats.cost_usd == pytest.approx(0.02101)
    assert (stats.savings_usd, stats.tier_upgrades) == (without.savings_usd, without.tier_upgrades)


def test_a_router_that_knows_nothing_else_still_decides():
    clock = FakeClock()
    router = AdaptiveModelRouter(ModelRegistry(ALL), clock=clock)
    router.observe(an_attempt("a/vec", at=clock.time(), tier=EMBEDDINGS))
    assert router.get_best_model("review", "check") == "mid"
