"""What a key allows, and the one sentence that says what it does not."""

from __future__ import annotations

import pytest

from attune.accounts import ScopeError
from attune.models.registry import ModelInfo, ModelTier
from unit.accounts.gateway_accounts import an_account

HAIKU = ModelInfo("claude-haiku-5-5", "anthropic", ModelTier.CHEAP, 200_000, 64_000)
ASTRA = ModelInfo("gpt-6-astra", "openai", ModelTier.PREMIUM, 400_000, 64_000)


def test_a_key_without_scopes_allows_every_model_and_every_route_of_callers():
    account = an_account()
    account.check(route="/v1/messages", provider="openai", tier="premium", model=ASTRA)
    assert account.allowed_providers is None


def test_a_key_without_scopes_allows_no_realtime_task_and_nothing_outside_of_v1():
    account = an_account()
    assert not account.allows_route("/metrics")
    assert not account.allows_route("/v1evil")
    with pytest.raises(ScopeError, match=r"'ci' may not ask for a realtime task; it may ask for every other"):
        account.check(realtime=True)


@pytest.mark.parametrize("named", ["claude-haiku-5-5", "anthropic/claude-haiku-5-5"])
def test_a_model_is_named_by_its_id_or_with_its_provider(named):
    account = an_account(models=[named])
    assert account.allows_model(HAIKU)
    assert not account.allows_model(ASTRA)
    assert account.allows_model(HAIKU._replace(provider="other")) == ("/" not in named)


def test_a_model_is_allowed_only_with_its_tier_and_its_provider():
    assert not an_account(tiers=["cheap"]).allows_model(ASTRA)
    assert not an_account(providers=["anthropic"]).allows_model(ASTRA)
    assert an_account(tiers=["cheap"], providers=["anthropic"]).allows_model(HAIKU)
    assert not an_account(models=["gpt-6-astra"], tiers=["cheap"]).allows_model(ASTRA)


def test_a_route_includes_what_lies_below_it_and_nothing_beside_it():
    account = an_account(routes=["/v1/messages", "/metrics"])
    assert account.allows_route("/v1/messages")
    assert account.allows_route("/v1/messages/count_tokens")
    assert account.allows_route("/metrics")
    assert not account.allows_route("/v1/messagesque")
    assert not account.allows_route("/v1/chat/completions")


def test_a_key_for_realtime_tasks_may_ask_for_them():
    an_account(realtime=True).check(realtime=True)


def test_an_empty_scope_allows_nothing():
    assert not an_account(tiers=[]).allows_tier("cheap")


@pytest.mark.parametrize(
    ("scopes", "asked", "says"),
    [
        (
            {"models": ["claude-haiku-5-5"]},
            {"model": ASTRA},
            "model 'openai/gpt-6-astra'; it may use claude-h",
        ),
        ({"tiers": ["cheap", "capable"]}, {"tier": "premium"}, "tier 'premium'; it may use capable, cheap"),
        ({"tiers": ["cheap"]}, {"model": ASTRA}, "tier 'premium'; it may use cheap"),
        ({"providers": ["local"]}, {"provider": "openai"}, "provider 'openai'; it may use local"),
        ({"providers": ["local"]}, {"model": ASTRA}, "provider 'openai'; it may use local"),
        (
            {"routes": ["/v1/models"]},
            {"route": "/v1/messages"},
            "route '/v1/messages'; it may use /v1/models",
        ),
    ],
)
def test_a_refusal_is_a_403_that_names_what_is_allowed(scopes, asked, says):
    with pytest.raises(ScopeError, match=f"^the key 'ci' may not use the {says}") as caught:
        an_account(**scopes).check(**asked)
    assert caught.value.status == 403
    assert caught.value.retry_after is None


def test_a_refusal_shows_no_more_than_a_dozen_names_and_no_control_characters():
    account = an_account(providers=[f"p{number:02}" for number in range(20)])
    with pytest.raises(ScopeError, match=r"p00, .*, p11, \.\.\.$") as caught:
        account.check(provider="x\x1b[31m\n" * 1000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
