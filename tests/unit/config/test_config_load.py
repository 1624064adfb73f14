"""One file, the environment and the flags become one frozen value."""

from __future__ import annotations

import pytest

from attune.config import load, save_auth
from attune.config.settings import CallConfig
from attune.errors import ConfigError, InvalidRequestError
from attune.models.auth_strategy import AuthMode, AuthStrategy, SubscriptionTier
from attune.models.budget import CallLimits
from attune.models.registry import ModelTier
from attune.models.route_request import DEFAULT_MIN_SUCCESS_RATE
from attune.providers import local_server

CANARY = "canary-value-of-a-key"  # not-a-secret

MINE = """\
[providers.mine]
kind = "openai"
base_url = "http://127.0.0.1:9601/v1"
"""


# -- no file ------------------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold(tmp_path):
    config = load(environ={"ATTUNE_HOME": str(tmp_path)})
    assert config.providers == ()
    assert config.registry.models
    assert config.routing._asdict() == {
        "window_days": 7,
        "allow_providers": None,
        "workflows": {},
        "local_only": False,
        "max_usd_per_day": None,
        "max_usd_per_month": None,
        "policy": "guarded",
        "explore": True,
        "margin": 0.05,
        "budget_usd": None,
        "budget_per": "call",
        "min_success_rate": DEFAULT_MIN_SUCCESS_RATE,
    }
    assert tuple(config.breaker) == (5, 60.0, 1, 600.0)
    assert config.call.limits.for_tier("premium") == CallLimits().for_tier("premium") == (120.0, 60.0, 600.0)
    assert config.call == CallConfig()
    assert tuple(config.ledger) == ("batch", 90)
    assert config.auth == AuthStrategy()
    assert set(config.auth_sources.values()) == {"default"}
    assert config.notices == ()


@pytest.mark.parametrize(
    ("variable", "provider"),
    [
        ("ANTHROPIC_API_KEY", "anthropic"),
        ("OPENAI_API_KEY", "openai"),
        ("GEMINI_API_KEY", "gemini"),
        ("GOOGLE_API_KEY", "gemini"),
    ],
)
def test_a_provider_whose_usual_variable_is_set_is_enrolled(configured, variable, provider):
    config = configured(**{variable: CANARY})
    (found,) = config.providers
    assert (found.name, dict(found.keys)) == (provider, {"api_key": f"env:{variable}"})
    assert found.source == f"environment {variable}"
    assert config.enrolled == {provider: ("api_key",)}
    assert CANARY not in repr(config)


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("", "both"),
        ("[providers.openai]", "both"),
        ('[providers.openai]\nbase_url = "https://eu.api.openai.com/v1"', "both"),
        ('[providers.openai]\nprotocol = "responses"', "responses"),
        ('[providers.openai]\nprotocol = "chat"', "chat"),
        ('[providers.openai]\nbase_url = "https://proxy.example/v1"\napi_key = "env:OPENAI_API_KEY"', "chat"),
    ],
)
def test_openai_speaks_both_protocols_at_its_own_address_unless_told_otherwise(configured, text, protocol):
    config = configured(text, OPENAI_API_KEY=CANARY)
    (openai,) = config.providers
    assert openai.protocol == protocol
    for name in ("gpt-6.1-sol", "gpt-6-astra"):  # which take tools in Responses only
        (model,) = config.registry.find(f"openai/{name}")
        assert ("tools" in model.abilities) == (protocol != "chat")


def test_what_else_speaks_openais_protocols_speaks_chat_unless_told_otherwise(configured):
    assert configured(GEMINI_API_KEY=CANARY).providers[0].protocol == "chat"
    assert configured(MINE).providers[0].protocol == "chat"
    assert configured(MINE + 'protocol = "responses"').providers[0].protocol == "responses"
    assert configured('[providers.o]\nkind = "ollama"\nprotocol = "responses"').providers[0][1::4] == (
        "openai",
        "responses",
    )
    assert configured(ANTHROPIC_API_KEY=CANARY).providers[0].protocol == ""


def test_who_says_what_a_model_can_do_is_believed(configured):
    chat = '[providers.openai]\nprotocol = "chat"\n'
    known = '[[models]]\nid = "gpt-6-astra"\nprovider = "openai"\ntier = "capable"\n'
    for more, tools in (("", False), ('abilities = ["tools"]', True)):
        (model,) = configured(chat + known + more, OPENAI_API_KEY=CANARY).registry.find("gpt-6-astra")
        assert ("tools" in model.abilities) is tools


def test_a_blank_variable_enrols_nobody(configured):
    assert configured(OPENAI_API_KEY="  ").providers == ()


def test_the_embedded_model_is_enrolled_when_its_packages_are_there(configured, monkeypatch):
    monkeypatch.setattr(local_server, "missing_packages", tuple)
    assert configured().enrolled == {"local": ("none",)}


@pytest.mark.parametrize(
    ("text", "enrolled"),
    [
        ("", {"openai"}),
        (MINE, {"openai", "mine"}),
        ("[routing]\nlocal_only = true", {"openai"}),
        ("[providers.local]", {"openai", "local"}),
        ('[routing]\nallow_providers = ["openai", "local"]', {"openai", "local"}),
        ('[gateway.aliases]\ntiny = "local/smollm2-135m-instruct"', {"openai", "local"}),
    ],
)
def test_beside_another_provider_the_embedded_model_answers_only_if_the_file_names_it(
    configured, monkeypatch, text, enrolled
):
    monkeypatch.setattr(local_server, "missing_packages", tuple)
    assert set(configured(text, OPENAI_API_KEY=CANARY).enrolled) == enrolled


# -- where things are ---------------------------------------------------------------------------------


def test_attune_home_moves_configuration_and_data_together(tmp_path):
    paths = load(environ={"ATTUNE_HOME": str(tmp_path)}).paths
    assert paths.config_file == tmp_path / "config.toml"
    assert paths.auth_file == tmp_path / "auth.json"
    assert paths.ledger_file == tmp_path / "data" / "ledger.db"


def test_an_argument_beats_attune_config_which_beats_the_usual_place(tmp_path):
    for name, days in (("config.toml", 1), ("other.toml", 2), ("third.toml", 3)):
        (tmp_path / name).write_text(f"[routing]\nwindow_days = {days}")
    environ = {"ATTUNE_HOME": str(tmp_path)}
    other = {**environ, "ATTUNE_CONFIG": str(tmp_path / "other.toml")}
    assert load(environ=environ).routing.window_days == 1
    assert load(environ=other).routing.window_days == 2
    assert load(tmp_path / "third.toml", environ=other).routing.window_days == 3


def test_without_a_home_the_platforms_folders_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = load(environ={}).paths
    assert paths.auth_file.is_relative_to(tmp_path)
    assert paths.auth_file.parent == paths.config_file.parent
    assert paths.ledger_file.is_relative_to(tmp_path)


def test_a_file_that_was_named_has_to_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.toml: No such file"):
        load(tmp_path / "gone.toml", environ={"ATTUNE_HOME": str(tmp_path)})


def test_a_user_without_a_home_is_named(tmp_path):
    with pytest.raises(ConfigError, match="~nobody-has-this-name"):
        load("~nobody-has-this-name/c.toml", environ={"ATTUNE_HOME": str(tmp_path)})


# -- providers ----------------------------------------------------------------------------------------


def test_a_provider_of_the_file_comes_first_and_says_where_it_is_from(configured, tmp_path):
    config = configured("# a comment\n\n" + MINE + 'api_key = "env:MINE"\n', MINE=CANARY, OPENAI_API_KEY="k")
    assert [provider.name for provider in config.providers] == ["mine", "openai"]
    mine = config.providers[0]
    assert mine[:3] == ("mine", "openai", "http://127.0.0.1:9601/v1")
    assert dict(mine.keys) == {"api_key": "env:MINE"}
    assert mine.source == f"{tmp_path / 'config.toml'} line 3"


def test_several_credentials_keep_their_names_and_order(configured):
    text = MINE + 'api_keys = { team = "env:B", personal = "env:A" }'
    assert configured(text, A="a", B="b").enrolled == {"mine": ("team", "personal")}


def test_a_credential_whose_key_is_missing_is_left_out_with_a_notice(configured, tmp_path):
    there = tmp_path / "key"
    there.write_text("k")
    text = MINE + f'api_keys = {{ a = "env:UNSET", b = "file:{there}", c = "file:{there}2" }}'
    config = configured(text)
    assert config.enrolled == {"mine": ("b",)}
    assert ["env:UNSET" in notice or f"{there}2" in notice for notice in config.notices[:2]] == [True, True]


@pytest.mark.parametrize("path", ["~nobody-has-this-name/key", "\\u0000", "."])
def test_a_key_file_that_cannot_be_is_a_missing_one(configured, path):
    config = configured(MINE + f'api_key = "file:{path}"')
    assert config.providers == ()
    assert "there is nothing at" in config.notices[0]


def test_a_provider_without_any_of_its_keys_is_not_enrolled(configured):
    config = configured(MINE + 'api_key = "env:UNSET"')
    assert config.providers == ()
    assert "line 1: provider mine: there is nothing at env:UNSET" in config.notices[0]


def test_a_known_provider_needs_no_kind_address_or_key_reference(configured):
    (found,) = configured("[providers.anthropic]", ANTHROPIC_API_KEY="k").providers
    assert found[:3] == ("anthropic", "anthropic", "https://api.anthropic.com")
    assert dict(found.keys) == {"api_key": "env:ANTHROPIC_API_KEY"}


def test_the_usual_key_never_goes_to_an_address_of_the_users_own(configured):
    text = '[providers.openai]\nbase_url = "http://127.0.0.1:1/v1"'
    config = configured(text, OPENAI_API_KEY=CANARY)
    assert config.enrolled == {"openai": ("none",)}
    (notice,) = config.notices
    assert notice.endswith(
        "line 1: provider openai: OPENAI_API_KEY is not sent to another address than "
        'https://api.openai.com/v1; add api_key = "env:OPENAI_API_KEY" if it belongs there, '
        "or give the provider a name of its own"
    )
    assert configured(text).notices == ()
    assert configured(text + '\napi_key = "env:MINE"', OPENAI_API_KEY=CANARY, MINE="k").notices == ()


@pytest.mark.parametrize("text", ["[providers.ollama]", '[providers.box]\nkind = "ollama"'])
def test_ollama_is_the_openai_protocol_at_its_usual_port_without_a_key(configured, text):
    (found,) = configured(text).providers
    assert found[1:4] == ("openai", "http://127.0.0.1:11434/v1", {})
    assert found.credentials == ("none",)


def test_a_provider_without_models_is_pointed_out(configured):
    assert 'add [[models]] with provider = "mine"' in configured(MINE).notices[0]


def test_the_embedded_model_can_be_named_in_the_file(configured):
    assert configured("[providers.local]").enrolled == {"local": ("none",)}


# -- models and tiers ---------------------------------------------------------------------------------

MODEL = """
[[models]]
id = "m"
provider = "mine"
tier = "Cheap"
context_window = 4096
"""


def test_a_model_of_the_users_own_has_sensible_defaults_and_no_made_up_price(configured):
    (model,) = configured(MINE + MODEL).registry.find("mine/m")
    assert (model.tier, model.context_window, model.max_output_tokens) == (ModelTier.CHEAP, 4096, 4096)
    assert (model.abilities, model.local, model.input_price()) == (frozenset(), False, None)


def test_a_model_of_the_users_own_can_say_everything(configured):
    more = (
        'max_output_tokens = 99\nabilities = ["tools"]\nlocal = true\ninput_price = 1\noutput_price = 5.5\n'
        "cache_read_price = 0.1\ncache_write_price = 2\ncache_write_1h_price = 3"
    )
    (model,) = configured(MINE + MODEL + more).registry.find("m")
    assert (model.max_output_tokens, model.abilities, model.local) == (99, {"tools"}, True)
    assert (model.input_price(), model.output_price()) == (1.0, 5.5)
    assert model.prices.at().cache_read.usd == 0.1


def test_a_local_model_without_a_price_is_free(configured):
    (model,) = configured(MINE + MODEL + "local = true").registry.find("m")
    assert model.input_price() == 0.0


def test_a_model_of_the_catalog_is_overridden_in_part(configured):
    text = '[[models]]\nid = "claude-haiku-5-5"\nprovider = "anthropic"\nabilities = []\ntier = "capable"'
    before = load(environ={"ATTUNE_HOME": "/nonexistent"}).registry.find("anthropic/claude-haiku-5-5")[0]
    (model,) = configured(text).registry.find("anthropic/claude-haiku-5-5")
    assert model == before._replace(abilities=frozenset(), tier=ModelTier.CAPABLE)


def test_listed_tiers_hold_the_listed_models_in_that_order(configured):
    text = MINE + MODEL + '[tiers]\ncapable = [\n  "m",\n  "openai/gpt-6.1-terra",\n]'
    registry = configured(text).registry
    assert [m.label for m in registry.in_tier("capable")] == ["mine/m", "openai/gpt-6.1-terra"]
    assert "mine/m" not in [m.label for m in registry.in_tier("cheap")]


# -- the other tables ---------------------------------------------------------------------------------


def test_every_option_of_every_table_is_read(configured):
    config = configured(
        """
        [routing]
        window_days = 14
        allow_providers = ["openai", "local"]
        local_only = true
        max_usd_per_day = 5
        max_usd_per_month = 50.5
        policy = "budget"
        explore = false
        margin = 0.1
        budget_usd = 20
        budget_per = "day"
        min_success_rate = 0
        [routing.workflows.review]
        allow_providers = ["local"]
        [breaker]
        failure_threshold = 2
        recovery_timeout_seconds = 3
        half_open_calls = 4
        max_recovery_timeout_seconds = 9
        [call]
        max_attempts = 1
        deadline_seconds = 2
        first_content_seconds = 3
        idle_seconds = 4
        connect_seconds = 5
        attempt_seconds = 6
        retries = 0
        hedge = "p95"
        [call.tiers.premium]
        first_content_seconds = 90
        attempt_seconds = 7
        [ledger]
        durability = "call"
        retention_days = 30
        """
    )
    assert tuple(config.routing) == (
        *(14, {"openai", "local"}, {"review": {"local"}}),
        *(True, 5, 50.5),
        *("budget", False, 0.1, 20, "day"),
        0,
    )
    assert tuple(config.breaker) == (2, 3.0, 4, 9.0)
    limits = config.call.limits
    assert (limits.max_attempts, limits.deadline_s, limits.connect_s) == (1, 2.0, 5.0)
    assert limits.for_tier("cheap") == (3.0, 4.0, 6.0)
    assert limits.for_tier("capable") == (3.0, 4.0, 6.0)
    assert limits.for_tier("premium") == (90.0, 4.0, 7.0)
    assert config.call[1:] == (0, "p95")
    assert tuple(config.ledger) == ("call", 30)


# -- the strategy -------------------------------------------------------------------------------------


def test_flags_beat_the_auth_table_which_beats_auth_json_which_beats_the_defaults(configured, tmp_path):
    save_auth(
        tmp_path / "auth.json",
        AuthStrategy(subscription_tier=SubscriptionTier.PRO, large_module_threshold=9000),
    )
    config = configured(
        '[auth]\nsubscription_tier = "max"\nsmall_module_threshold = 4000', {"default_mode": "api"}
    )
    assert config.auth.default_mode is AuthMode.API
    assert config.auth.subscription_tier is SubscriptionTier.MAX
    assert (config.auth.small_module_threshold, config.auth.large_module_threshold) == (4000, 9000)
    file = tmp_path / "config.toml"
    assert config.auth_sources["default_mode"] == "flag"
    assert config.auth_sources["subscription_tier"] == f"{file} line 2"
    assert config.auth_sources["small_module_threshold"] == f"{file} line 3"
    assert config.auth_sources["large_module_threshold"] == "auth.json"


def test_thresholds_that_contradict_each_other_are_blamed_on_where_they_are_from(mistake, configured):
    assert "line 2) and large_module_threshold is 2000 (default)" in mistake(
        "[auth]\nsmall_module_threshold = 3000"
    )
    with pytest.raises(InvalidRequestError, match=r"small_module_threshold is 3000 \(flag\)"):
        configured(flags={"small_module_threshold": 3000})
