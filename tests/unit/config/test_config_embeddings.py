"""A user's own model that makes embeddings."""

from __future__ import annotations

import pytest

from attune.models.registry import ModelTier

MINE = """\
[providers.mine]
kind = "openai"
base_url = "http://127.0.0.1:9601/v1"
[[models]]
id = "vectors"
provider = "mine"
context_window = 2048
abilities = ["embeddings"]
"""


def test_it_needs_neither_a_tier_nor_a_price_of_its_output(configured):
    (model,) = configured(MINE + "input_price = 0.02\n").registry.find("mine/vectors")
    assert (model.embeds, model.context_window, model.max_output_tokens) == (True, 2048, 1)
    assert (model.input_price(), model.output_price()) == (0.02, 0.0)
    assert (model.tier, model.recorded_tier) == (ModelTier.CHEAP, "embeddings")
    assert configured(MINE).registry.find("vectors")[0].prices is None


def test_its_tier_may_be_given_for_keys_and_time_limits(configured):
    config = configured(MINE + 'tier = "premium"\n')
    assert config.registry.find("vectors")[0].tier is ModelTier.PREMIUM
    assert "mine/vectors" not in [model.label for model in config.registry.in_tier("premium")]


def test_a_model_of_the_catalog_stays_what_it_is_when_its_price_is_overridden(configured):
    text = '[[models]]\nid = "text-embedding-3-small"\nprovider = "openai"\ninput_price = 0.01\n'
    (model,) = configured(text).registry.find("text-embedding-3-small")
    assert (model.embeds, model.input_price(), model.context_window) == (True, 0.01, 8192)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINE.replace('"embeddings"', '"embeddings", "tools"'), "'embeddings' stands alone"),
        (MINE.replace('"embeddings"', '"embedding"'), "did you mean 'embeddings'?"),
        (MINE + '[tiers]\ncheap = ["mine/vectors"]\n', "makes embeddings and belongs to no tier"),
        (MINE + "output_price = 1.0\n", "prices need both input_price and output_price"),
        (MINE.replace('abilities = ["embeddings"]', ""), "tier is missing"),
    ],
)
def test_a_mistake_is_named(mistake, text, told):
    assert told in mistake(text)


def test_providers_of_openais_kind_can_be_asked_for_them(configured):
    text = MINE + '[providers.claude]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:9602"\n'
    speaks = {each.name: each.speaks for each in configured(text).providers}
    assert speaks == {"mine": ("chat", "embeddings"), "claude": ("messages",)}
