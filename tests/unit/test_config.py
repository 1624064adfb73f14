"""One file, the environment and the flags become one frozen value; every mistake is one clear line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from attune.config import Config, load, load_auth, reset_auth, save_auth
from attune.errors import ConfigError, InvalidRequestError
from attune.models.auth_strategy import AuthMode, AuthStrategy, SubscriptionTier
from attune.models.registry import ModelTier
from attune.providers import local_server

CANARY = "canary-value-of-a-key"  # not-a-secret

MINE = """\
[providers.mine]
kind = "openai"
base_url = "http://127.0.0.1:9601/v1"
"""


@pytest.fixture(autouse=True)
def no_embedded_model(monkeypatch):
    """Whether its packages are installed differs from machine to machine."""
    monkeypatch.setattr(local_server, "missing_packages", lambda: ("pip install xllamacpp",))


@pytest.fixture
def configured(tmp_path):
    """Load this text as ``$ATTUNE_HOME/config.toml``, with these variables and flags."""

    def load_text(text: str = "", flags: dict | None = None, **environ: str) -> Config:
        (tmp_path / "config.toml").write_text(text)
        return load(environ={"ATTUNE_HOME": str(tmp_path), **environ}, flags=flags)

    return load_text


@pytest.fixture
def mistake(configured):
    """The one line that this text is refused with."""

    def refused(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            configured(text, **environ)
        line = str(caught.value)
        assert "\n" not in line
        assert CANARY not in line
        return line

    return refused


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
    }
    assert tuple(config.breaker) == (5, 60.0, 1)
    assert tuple(config.call) == (4, 600.0, 60.0, 60.0, 10.0, 1)
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


def test_a_blank_variable_enrols_nobody(configured):
    assert configured(OPENAI_API_KEY="  ").providers == ()


def test_the_embedded_model_is_enrolled_when_its_packages_are_there(configured, monkeypatch):
    monkeypatch.setattr(local_server, "missing_packages", tuple)
    assert configured().enrolled == {"local": ("none",)}


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
    assert configured(text, OPENAI_API_KEY=CANARY).enrolled == {"openai": ("none",)}


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
        [routing.workflows.review]
        allow_providers = ["local"]
        [breaker]
        failure_threshold = 2
        recovery_timeout_seconds = 3
        half_open_calls = 4
        [call]
        max_attempts = 1
        deadline_seconds = 2
        first_content_seconds = 3
        idle_seconds = 4
        connect_seconds = 5
        retries = 0
        [ledger]
        durability = "call"
        retention_days = 30
        """
    )
    assert tuple(config.routing) == (
        *(14, {"openai", "local"}, {"review": {"local"}}),
        *(True, 5, 50.5),
    )
    assert tuple(config.breaker) == (2, 3.0, 4)
    assert tuple(config.call) == (1, 2.0, 3.0, 4.0, 5.0, 0)
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
    assert "line 2, large_module_threshold: default" in mistake("[auth]\nsmall_module_threshold = 3000")
    with pytest.raises(InvalidRequestError, match="small_module_threshold: flag"):
        configured(flags={"small_module_threshold": 3000})


# -- auth.json ----------------------------------------------------------------------------------------


def test_auth_json_is_private_to_the_user_and_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "home" / "auth.json"
    strategy = AuthStrategy(subscription_tier=SubscriptionTier.TEAM, setup_completed=True)
    save_auth(path, strategy)
    assert load_auth(path) == (strategy, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["auth.json"]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "auth.json"
    save_auth(path, AuthStrategy())
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot write .*No space left"):
        save_auth(path, AuthStrategy(setup_completed=True))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["auth.json"]


def test_reset_removes_what_was_saved_once(tmp_path):
    path = tmp_path / "auth.json"
    save_auth(path, AuthStrategy())
    assert [reset_auth(path), reset_auth(path)] == [True, False]
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot remove"):
        reset_auth(path)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"default_mode": "sometimes"}',
        b'{"surprise": 1}',
        b'{"small_module_threshold": 9999}',
        b"[" * 50_000,
        b'{"default_mode": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_a_corrupt_auth_json_is_kept_aside_and_reported(configured, tmp_path, content):
    for _ in range(2):  # a second one within the second does not replace the first
        (tmp_path / "auth.json").write_bytes(content)
        config = configured()
        assert config.auth == AuthStrategy()
        (notice,) = config.notices
        assert "auth.json is unreadable" in notice
        assert "attune auth setup" in notice
        assert "\n" not in notice
        assert not (tmp_path / "auth.json").exists()
    kept = list(tmp_path.glob("auth.json.corrupt-*"))
    assert [file.read_bytes() for file in kept] == [content, content]


def test_an_auth_json_that_cannot_be_read_or_kept_aside_is_an_error(configured, tmp_path, monkeypatch):
    (tmp_path / "auth.json").write_text("{")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(ConfigError, match="cannot be kept aside: Permission denied"):
        configured()
    (tmp_path / "auth.json").unlink()
    (tmp_path / "auth.json").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*auth\.json: Is a directory"):
        configured()


# -- mistakes -----------------------------------------------------------------------------------------

P = '[providers.p]\nkind = "openai"\nbase_url = "http://127.0.0.1:1"\n'
M = '[[models]]\nid = "m"\nprovider = "openai"\ntier = "cheap"\ncontext_window = 10\n'

MISTAKES = {
    "a syntax error": ("a = 1\nb = ", "not valid TOML: Invalid value (at end of document)"),
    "a number too long for Python": (f"a = {'9' * 5000}", "not valid TOML"),
    "nesting without end": (f"a = {'[' * 5000}", "not valid TOML: it is nested too deeply"),
    "an unknown table": ("\n[gatway]\nport = 1", "line 2: unknown table 'gatway' in the file"),
    "a table that is none": ("routing = 3", "line 1: routing: must be a table"),
    "an unknown key": (
        "[call]\nmax_atempts = 3",
        "line 2: unknown key 'max_atempts' in [call]; did you mean",
    ),
    "a wrong type": ("[call]\n# why\nretries = true", "line 3: [call] retries: must be a whole number"),
    "a negative limit": ("[call]\nretries = -1", "line 2: [call] retries: must be a whole number from 0"),
    "a number that is none": ("[call]\nidle_seconds = nan", "[call] idle_seconds: must be a number from"),
    "an infinite limit": ("[routing]\nmax_usd_per_day = inf", "must be a number from 0 to 1e+09"),
    "a text for a number": ('[breaker]\nhalf_open_calls = "1"', "[breaker] half_open_calls: must be a whole"),
    "a text for a flag": ('[routing]\nlocal_only = "yes"', "local_only: must be true or false"),
    "an unknown durability": (
        '[ledger]\ndurability = "cal"',
        "unknown durability 'cal'; did you mean 'call'?",
    ),
    "an empty list": ("[routing]\nallow_providers = []", "allow_providers: must be a list of at least one"),
    "an unknown provider": (
        '[routing]\nallow_providers = [\n"opena1"]',
        "line 2: [routing] allow_providers: unknown provider 'opena1'; did you mean 'openai'?",
    ),
    "a workflow without its list": (
        "[routing.workflows.x]",
        "[routing.workflows.x]: allow_providers is missing",
    ),
    "an unknown kind": ('[providers.p]\nkind = "opnai"', "line 2: [providers.p] kind: unknown kind 'opnai'"),
    "no kind": ("[providers.p]", "line 1: [providers.p]: kind is missing"),
    "no address": ('[providers.p]\nkind = "openai"', "[providers.p]: base_url is missing"),
    "an empty address": (
        '[providers.p]\nkind = "openai"\nbase_url = " "',
        "base_url: must be a text in quotes",
    ),
    "a bad provider name": ('[providers."a/b"]\nkind = "local"', "a provider's name is letters, digits"),
    "no address at all": ('[providers.p]\nkind="openai"\nbase_url="nowhere"', "base_url: must be http(s)://"),
    "a bad port": ('[providers.p]\nkind="openai"\nbase_url="http://h:x"', "base_url: must be http(s)://"),
    "a password in the address": (
        f'[providers.p]\nkind="openai"\nbase_url="https://u:{CANARY}@h"',
        "line 3: [providers.p] base_url: must be http(s)://host",
    ),
    "a literal key": (
        P + f'api_key = "{CANARY}"',
        "line 4: [providers.p] api_key: must say where the key is",
    ),
    "a literal key as a variable": (P + f'api_key = "env:{CANARY}"', "api_key: must say where the key is"),
    "a literal key among several": (
        P + f'api_keys = {{ a = "{CANARY}" }}',
        "line 4: [providers.p.api_keys] a: must say where",
    ),
    "both kinds of keys": (P + 'api_key = "env:A"\napi_keys = {a = "env:A"}', "either api_key or api_keys"),
    "a bad credential name": (P + 'api_keys = { "a#b" = "env:A" }', "'a#b' is no name of a credential"),
    "a key in clear text": (
        '[providers.p]\nkind = "openai"\nbase_url = "http://example.com/v1"\napi_key = "env:A"',
        "line 3: [providers.p] base_url: a key would travel in clear text to example.com; use https",
    ),
    "a key for the embedded model": (
        '[providers.local]\napi_key = "env:A"',
        "the local kind has no address and no key",
    ),
    "a single model table": ('[models]\nid = "x"', "models: must be a list of tables: write [[models]]"),
    "a model without a tier": (
        '[[models]]\nid = "m"\nprovider = "openai"\ncontext_window = 9',
        "line 1: [[models]]: tier is missing",
    ),
    "a model of nobody": (M.replace('"openai"', '"opena"'), "line 3: [[models]] provider: unknown provider"),
    "a second model that is wrong": (
        M + M.replace('"m"', '"n"').replace('"cheap"', '"cheep"'),
        "line 9: [[models]] tier: unknown tier 'cheep'; did you mean 'cheap'?",
    ),
    "a model twice": (M + M, "line 7: [[models]] id: the model 'openai/m' is there twice"),
    "an unknown ability": (M + 'abilities = ["tool"]', "unknown ability 'tool'; did you mean 'tools'?"),
    "half a price": (M + "input_price = 1", "prices need both input_price and output_price"),
    "a price in the wrong unit": (M + "input_price = 1e9\noutput_price = 1", "input_price: must be a number"),
    "an answer above the window": (M + "max_output_tokens = 11", "must be a whole number from 1 to 10"),
    "a model name of two lines": (M.replace('"m"', '"m\\nn"'), "id: must be one line of printable text"),
    "an unknown tier": (
        '[tiers]\ncapabel = ["x"]',
        "unknown key 'capabel' in [tiers]; did you mean 'capable'?",
    ),
    "an unknown model in a tier": (
        '[tiers]\ncapable = ["claude-sonet-5-5"]',
        "line 2: [tiers] capable: unknown model 'claude-sonet-5-5'; did you mean 'claude-sonnet-5-5'?",
    ),
    "a model in two tiers": (
        '[tiers]\ncheap = ["gpt-6-luna"]\ncapable = ["gpt-6-luna"]',
        "is listed in the tiers",
    ),
    "an unknown field of the strategy": ("[auth]\nmode = 1", "unknown key 'mode' in "),
    "an unknown plan": ('[auth]\n\nsubscription_tier = "pr0"', "line 3; did you mean 'pro'?"),
    "a wrong type in the strategy": (
        "[auth]\ncost_optimization = 1",
        "cost_optimization must be true or false",
    ),
}


@pytest.mark.parametrize(("text", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_file_line_key_and_remedy(mistake, tmp_path, text, says):
    line = mistake(text, A="a")
    assert says in line
    assert str(tmp_path / "config.toml") in line


def test_what_looks_like_a_key_is_not_shown_wherever_it_stands(mistake):
    key = "sk-ant-" + "not-a-secret-0123456789"
    assert key not in mistake(f'[providers.p]\nkind = "{key}"')
    assert key not in mistake(f'[call]\n"{key}" = 1')
    assert "\x1b" not in mistake('[call]\n"\\u001b[31m" = 1')


def test_keys_are_found_behind_long_texts_and_lists(mistake):
    before = 'tiers = { cheap = [\n"gpt-6-luna",\n] }\n\n# [call]\n[auth]\nprefer_subscription = true\n'
    assert "line 9: [call] retries" in mistake(before + '[call]\nretries = """\n[call]\nretries = 1\n"""\n')


def test_dotted_keys_and_windows_line_ends_have_lines_too(mistake):
    assert "line 2: [call] retries" in mistake("# one\r\ncall.retries = -1\r\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = 1\nb = '\xff'", "line 2: this is not UTF-8 text"),
        (b"#" * 300_000, "too large to be a configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, says):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        load(environ={"ATTUNE_HOME": str(tmp_path)})


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[routing]\nwindow_days = 3")
    assert load(environ={"ATTUNE_HOME": str(tmp_path)}).routing.window_days == 3


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot read the configuration .*Is a directory"):
        load(environ={"ATTUNE_HOME": str(tmp_path)})


def test_what_was_saved_is_plain_json_without_any_key(tmp_path):
    save_auth(tmp_path / "auth.json", AuthStrategy())
    assert json.loads((tmp_path / "auth.json").read_text()) == AuthStrategy().to_dict()
