import subprocess
import sys

import pytest

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.prices import PriceSchedule
from attune.models.registry import ABILITIES, ModelInfo, ModelRegistry, ModelTier, get_model

CHEAP, CAPABLE, PREMIUM = ModelTier


def model(provider: str, name: str, tier: ModelTier = CAPABLE, **fields) -> ModelInfo:
    return ModelInfo(name, provider, tier, **{"context_window": 1000, "max_output_tokens": 100, **fields})


def labels(models) -> list[str]:
    return [m.label for m in models]


@pytest.mark.parametrize(
    ("provider", "tier", "expected"),
    [
        ("anthropic", "cheap", "claude-haiku-5-5"),
        ("anthropic", "capable", "claude-sonnet-5-5"),
        ("anthropic", "premium", "claude-opus-5-5"),
        ("openai", "cheap", "gpt-6-luna"),
        ("openai", "capable", "gpt-6.1-terra"),
        ("openai", "premium", "gpt-6.1-sol"),
        ("gemini", "cheap", "gemini-3.5-flash-lite"),
        ("gemini", "capable", "gemini-3.8-flash"),
        ("gemini", "premium", "gemini-4-argon"),
        ("local", "cheap", "smollm2-135m-instruct"),
    ],
)
def test_get_model_gives_the_first_model_of_a_provider_and_tier(provider, tier, expected):
    assert get_model(provider, tier).id == expected
    assert get_model(provider, ModelTier(tier)) is get_model(provider, tier)


def test_an_unknown_provider_names_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown provider 'antropic'; did you mean 'anthropic'"):
        get_model("antropic", "cheap")


def test_an_unknown_tier_names_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown tier 'premum'; did you mean 'premium'"):
        get_model("anthropic", "premum")


def test_a_tier_that_a_provider_does_not_have_says_what_it_has():
    with pytest.raises(InvalidRequestError, match="provider 'local' has no premium model; it has: cheap"):
        get_model("local", "premium")


def test_tiers_are_ordered_by_rank_and_neighbours():
    assert [tier.rank for tier in ModelTier] == [0, 1, 2]
    assert [tier.up for tier in ModelTier] == [CAPABLE, PREMIUM, None]
    assert [tier.down for tier in ModelTier] == [None, CHEAP, CAPABLE]


def test_a_tier_is_parsed_whatever_its_case():
    assert ModelTier.parse(" Premium ") is PREMIUM


def test_the_catalog_is_read_once():
    assert ModelRegistry.default() is ModelRegistry.default()


def test_every_model_of_the_catalog_has_a_known_price_and_the_local_one_is_free():
    for each in ModelRegistry.default().models:
        assert each.input_price() is not None, each.label
        assert (each.input_price() == 0) == each.local
        assert (each.output_price() == 0) == (each.local or each.embeds)


def test_openais_newest_models_take_tools_but_not_where_chat_is_spoken():
    only = [m for m in ModelRegistry.default().models if m.responses_only]
    assert labels(only) == ["openai/gpt-6.1-sol", "openai/gpt-6-astra"]
    for each in only:
        assert each.responses_only <= each.abilities
        over_chat = each.without_responses()
        assert over_chat.abilities == each.abilities - {"tools"}
        assert over_chat.without_responses() == over_chat


def test_the_catalog_prefers_one_model_of_each_provider_and_the_dear_ones_later():
    registry = ModelRegistry.default()
    assert labels(registry.in_tier("premium")) == [
        "anthropic/claude-opus-5-5",
        "openai/gpt-6.1-sol",
        "gemini/gemini-4-argon",
        "anthropic/claude-fable-5-2",
        "openai/gpt-6-astra",
    ]
    assert labels(registry.in_tier(CHEAP))[-1] == "local/smollm2-135m-instruct"
    assert registry.providers == ("anthropic", "openai", "gemini", "local")


def test_prices_of_a_model_follow_the_date():
    flash = get_model("gemini", "capable")
    assert (flash.input_price(), flash.output_price()) == (0.75, 3.75)
    assert flash.input_price(at=1_798_761_599) == 0.75  # 2026-12-31 23:59:59 UTC
    assert (flash.input_price(at=1_798_761_600), flash.output_price(at=1_798_761_600)) == (1.5, 7.5)


def test_a_model_without_prices_costs_an_unknown_amount():
    mine = model("mine", "m")
    assert mine.input_price() is None
    assert mine.output_price() is None


def test_find_takes_a_label_or_an_id_of_every_provider_that_has_it():
    registry = ModelRegistry([model("a", "x"), model("b", "x"), model("b", "y")])
    assert labels(registry.find("b/x")) == ["b/x"]
    assert labels(registry.find("x")) == ["a/x", "b/x"]


def test_a_model_id_may_contain_slashes():
    registry = ModelRegistry([model("openrouter", "openai/gpt-x"), model("openai", "gpt-x")])
    assert labels(registry.find("openrouter/openai/gpt-x")) == ["openrouter/openai/gpt-x"]
    assert labels(registry.find("openai/gpt-x")) == ["openai/gpt-x"]
    assert labels(registry.find("gpt-x")) == ["openai/gpt-x"]


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown model 'claude-sonet-5-5'.*'claude-sonnet-5-5'"):
        ModelRegistry.default().find("claude-sonet-5-5")


def test_a_users_model_is_added_last_and_one_of_the_same_name_replaces():
    dearer = get_model("anthropic", "capable")._replace(prices=PriceSchedule.flat(9, 9))
    registry = ModelRegistry.default().with_models([model("mine", "m"), dearer])
    assert labels(registry.in_tier(CAPABLE)) == [
        "anthropic/claude-sonnet-5-5",
        "openai/gpt-6.1-terra",
        "gemini/gemini-3.8-flash",
        "mine/m",
    ]
    assert registry.get_model("anthropic", "capable").input_price() == 9
    assert registry.get_model("mine", "capable").id == "m"
    assert get_model("anthropic", "capable").input_price() == 2  # the built-in registry is untouched


def test_a_listed_tier_has_exactly_the_listed_models_in_their_order():
    registry = ModelRegistry.default().with_tiers(
        {CAPABLE: ["gemini-3.8-flash", "anthropic/claude-haiku-5-5"]}
    )
    assert labels(registry.in_tier(CAPABLE)) == ["gemini/gemini-3.8-flash", "anthropic/claude-haiku-5-5"]
    assert labels(registry.in_tier(PREMIUM)) == labels(ModelRegistry.default().in_tier(PREMIUM))


def test_a_listed_model_belongs_to_the_tier_in_which_it_is_listed():
    registry = ModelRegistry.default().with_tiers({CAPABLE: ["anthropic/claude-haiku-5-5"]})
    assert registry.find("claude-haiku-5-5")[0].tier is CAPABLE
    assert "anthropic/claude-haiku-5-5" not in labels(registry.in_tier(CHEAP))


def test_listing_a_tier_again_forgets_the_earlier_list():
    registry = ModelRegistry.default().with_tiers({CAPABLE: ["anthropic/claude-haiku-5-5"]})
    again = registry.with_tiers({CAPABLE: ["openai/gpt-6.1-terra"]})
    assert again.find("claude-haiku-5-5")[0].tier is CHEAP
    assert again.with_models([model("mine", "m")]).in_tier(CAPABLE) == again.in_tier(CAPABLE)


def test_get_model_finds_a_model_that_the_list_of_its_tier_leaves_out():
    registry = ModelRegistry.default().with_tiers({CAPABLE: ["openai/gpt-6.1-terra"]})
    assert registry.get_model("anthropic", CAPABLE).id == "claude-sonnet-5-5"


def test_a_provider_whose_models_are_in_no_tier_is_told_so():
    registry = ModelRegistry([model("a", "x")]).with_tiers({CAPABLE: []})
    with pytest.raises(InvalidRequestError, match="has no premium model; it has: no model in any tier"):
        registry.get_model("a", PREMIUM)


def test_a_model_in_two_tiers_is_refused():
    with pytest.raises(
        InvalidRequestError, match="'a/x' is listed in the tiers cheap and premium; keep it in one"
    ):
        ModelRegistry([model("a", "x")], {CHEAP: ["x"], PREMIUM: ["a/x"]})


def test_a_listed_model_must_exist():
    with pytest.raises(UnknownNameError, match="unknown model 'a/z'"):
        ModelRegistry([model("a", "x")], {CHEAP: ["a/z"]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (model("", "x"), "both need a name"),
        (model("a", ""), "both need a name"),
        (model("a/b", "x"), "without '/'"),
        (model("a", "x", context_window=0), "context_window of a/x must be at least 1 token"),
        (model("a", "x", max_output_tokens=-1), "max_output_tokens of a/x must be at least 1 token"),
        (model("a", "x", abilities=frozenset({"visoin"})), "unknown ability 'visoin' in model a/x.*'vision'"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(InvalidRequestError, match=message):
        ModelRegistry([wrong])


def test_the_abilities_are_those_that_requests_need():
    assert {"tools", "vision", "json_schema", "thinking", "embeddings"} == ABILITIES


def test_importing_the_registry_reads_no_file_and_pricing_needs_no_price_package():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import attune.models.registry as registry\n"
        "assert not {'tomllib', 'genai_prices'} & (set(sys.modules) - before)\n"
        "assert registry.get_model('openai', 'cheap').input_price() == 0.1\n"
        "assert 'genai_prices' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
