"""``attune auth``: the strategy, its sources, and what would pay."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from attune.cli.auth import cmd_auth_recommend, cmd_auth_reset, cmd_auth_setup, cmd_auth_status
from attune.config import load_auth, save_auth
from attune.models.auth_strategy import AuthStrategy, SubscriptionTier
from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore

CANARY = "canary-value-of-a-key-not-a-secret"


def claude_says(attune, script: str) -> None:
    """Install a ``claude`` that prints this (and its ANTHROPIC_ variables, if it has any)."""
    folder = attune.home / "bin"
    folder.mkdir()
    (folder / "claude").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "claude").chmod(0o755)


def logged_in(plan: str) -> str:
    report = json.dumps({"loggedIn": True, "authMethod": "claude.ai", "subscriptionType": plan})
    return f'test -n "$ANTHROPIC_API_KEY" && exit 3\ntest "$1 $2" = "auth status" && echo \'{report}\''


def saved(attune) -> AuthStrategy | None:
    return load_auth(attune.home / "auth.json")[0]


# -- status -------------------------------------------------------------------------------------------


def test_status_shows_every_field_and_where_it_is_from(attune):
    attune.configure('[auth]\nsubscription_tier = "pro"')
    save_auth(attune.home / "auth.json", AuthStrategy(prefer_subscription=False))
    strategy = attune.json("auth", "status", "--mode", "api")["strategy"]
    assert set(strategy) == set(AuthStrategy().to_dict())
    assert strategy["default_mode"] == {"value": "api", "source": "flag"}
    assert strategy["subscription_tier"]["source"] == f"{attune.home / 'config.toml'} line 2"
    assert strategy["prefer_subscription"] == {"value": False, "source": "auth.json"}
    _, out = attune("auth", "status")
    assert all(name in out for name in strategy)
    assert next(line for line in out.splitlines() if "prefer" in line).split() == [
        *("prefer_subscription", "no", "auth.json")
    ]


def test_status_names_credentials_and_never_their_values(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    _, out = attune("auth", "status")
    assert "openai api_key (environment OPENAI_API_KEY)" in out
    assert "openai api_key for gpt-6.1-terra would pay (the strategy names no plan)" in out
    (credential,) = attune.json("auth", "status")["credentials"]
    assert credential["reference"] == "env:OPENAI_API_KEY"
    assert CANARY not in out + str(credential)


def test_status_says_which_work_goes_where_and_what_pays_until_the_plan_is_enrolled(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    pays = attune.json("auth", "status", "--plan", "max")["pays"]
    assert [(each["work"], each["recommended"]) for each in pays] == [
        ("small", "api"),
        ("medium", "subscription"),
        ("large", "subscription"),
    ]
    assert {each["credential"] for each in pays} == {"api_key"}
    assert 'but no plan is enrolled: add [providers.claude] with kind = "claude_sub' in pays[1]["summary"]
    assert "anthropic api_key for claude-sonnet-5-5 would pay" in pays[1]["summary"]


def test_status_looks_past_a_credential_that_another_process_found_to_be_bad(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    now = time.time()
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    store.put_fact(Fact(FactKind.CREDENTIAL_OFF, "anthropic#api_key", now + 300, now, "it was refused"))
    store.close()
    _, out = attune("auth", "status")
    assert "anthropic api_key (environment ANTHROPIC_API_KEY); off until 2" in out
    assert "it was refused" in out
    assert "openai api_key for gpt-6.1-terra would pay" in out


def test_status_goes_on_without_a_ledger_that_cannot_be_read(attune):
    (attune.home / "data").mkdir()
    (attune.home / "data" / "ledger.db").write_text("no database, whatever its name says")
    code, out = attune("auth", "status")
    assert (code, "default_mode" in out) == (0, True)
    assert "ledger.db" in attune.err


def test_status_says_that_a_local_provider_needs_no_key(attune, monkeypatch):
    monkeypatch.setattr("attune.providers.local_server.missing_packages", tuple)
    _, out = attune("auth", "status")
    assert "local (no key needed) for smollm2-135m-instruct would pay" in out
    assert "  local (no key needed) (installed packages)" in out
    assert "found local (no key needed)" in attune("auth", "setup", "--yes")[1]


@pytest.mark.parametrize(
    "routing", ['allow_providers = ["gemini"]', "local_only = true"], ids=["not allowed", "not local"]
)
def test_a_credential_that_may_not_be_used_does_not_pay(attune, monkeypatch, routing):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    attune.configure(f"[routing]\n{routing}")
    _, out = attune("auth", "status")
    assert out.count("nothing can pay") == 3


def test_status_without_any_credential_says_what_to_set(attune):
    code, out = attune("auth", "status")
    assert code == 0
    assert "none: set ANTHROPIC_API_KEY" in out
    assert "run `attune auth setup`" in out


def test_a_threshold_of_zero_leaves_no_small_work(attune):
    pays = attune.json("auth", "status", "--small-module-threshold", "0")["pays"]
    assert [each["work"] for each in pays] == ["medium", "large"]


# -- setup --------------------------------------------------------------------------------------------


def test_setup_by_options_asks_nothing_and_saves_everything(attune):
    code, out = attune(
        *("auth", "setup", "--plan", "max", "--mode", "auto", "--no-prefer-subscription"),
        *("--small-module-threshold", "10", "--large-module-threshold", "20"),
        *("--loc-to-tokens-multiplier", "9.5", "--no-cost-optimization"),
        *("--overflow", "api", "--overflow-usd-per-day", "2.5"),
    )
    assert code == 0
    assert f"saved to {attune.home / 'auth.json'}" in out
    assert saved(attune).to_dict() == {
        "default_mode": "auto",
        "subscription_tier": "max",
        "prefer_subscription": False,
        "small_module_threshold": 10,
        "large_module_threshold": 20,
        "loc_to_tokens_multiplier": 9.5,
        "cost_optimization": False,
        "overflow": "api",
        "overflow_usd_per_day": 2.5,
        "setup_completed": True,
    }


def test_setup_keeps_what_was_saved_where_no_option_says_otherwise(attune):
    attune("auth", "setup", "--plan", "team")
    attune("auth", "setup", "--mode", "api")
    assert (saved(attune).subscription_tier, saved(attune).default_mode) == ("team", "api")


def test_setup_takes_the_plan_of_a_claude_login_without_showing_it_an_api_key(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    claude_says(attune, logged_in("max"))
    code, out = attune("auth", "setup", "--yes")
    assert code == 0
    assert "the claude program has a max subscription logged in" in out
    assert "found anthropic api_key (environment ANTHROPIC_API_KEY)" in out
    assert saved(attune).subscription_tier is SubscriptionTier.MAX
    assert CANARY not in out + (attune.home / "auth.json").read_text()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (logged_in("galactic"), "of a plan attune does not know"),
        ('echo \'{"authMethod": "api_key"}\'', "has no subscription logged in"),
        ("echo '[]'", "has no subscription logged in"),
        ("echo hello", "did not say whether it is logged in"),
        ("exit 1", "did not say whether it is logged in"),
        ("kill -9 $$", "did not say whether it is logged in"),
    ],
)
def test_setup_copes_with_whatever_the_claude_program_says(attune, script, says):
    claude_says(attune, script)
    code, out = attune("auth", "setup", "--yes")
    assert (code, saved(attune).subscription_tier) == (0, "none")
    assert says in out


def test_setup_does_not_wait_long_for_the_claude_program(attune, monkeypatch):
    monkeypatch.setattr("attune.cli._claude.TIMEOUT_SECONDS", 0.2)
    claude_says(attune, "exec /bin/sleep 60")
    _, out = attune("auth", "setup", "--yes")
    assert "did not answer within 0.2 s" in out


def test_setup_says_what_the_configuration_overrides(attune):
    attune.configure('[auth]\nsubscription_tier = "pro"')
    _, out = attune("auth", "setup", "--plan", "max")
    assert f"but {attune.home / 'config.toml'} line 2 sets subscription_tier = pro, which wins" in out
    shown = attune.json("auth", "setup", "--plan", "max")
    assert shown["shadowed"] == {"subscription_tier": f"{attune.home / 'config.toml'} line 2"}


def test_setup_compares_the_costs_for_a_file_of_the_users_own(attune):
    file = attune.home / "a.py"
    file.write_text("x = 1\n" * 600)
    _, out = attune("auth", "setup", "--plan", "pro", "--file", str(file))
    assert "600 lines, 3,000 tokens" in out
    assert "medium work" in out
    shown = attune.json("auth", "setup", "--plan", "pro", "--file", str(file))
    assert shown["recommendation"]["mode"] == "subscription"


@pytest.mark.parametrize("args", [("auth", "setup"), ("auth", "setup", "--json")])
def test_setup_without_a_terminal_names_the_options(attune, args):
    code, out = attune(*args)
    assert code == 2
    assert ("error" in out) is ("--json" in args)
    assert "--plan, --mode" in attune.err
    assert saved(attune) is None


def test_setup_saves_nothing_when_the_file_is_no_use_or_the_thresholds_contradict(attune):
    assert attune("auth", "setup", "--yes", "--file", "gone.py")[0] == 2
    assert attune("auth", "setup", "--small-module-threshold", "5000")[0] == 2
    assert saved(attune) is None
    assert attune("auth", "status", "--small-module-threshold", "5000")[0] == 2
    assert attune.err == (
        "attune: small_module_threshold is 5000 (flag) and large_module_threshold is 2000 (default); small "
        "must not be above large\n"
    )


# -- reset --------------------------------------------------------------------------------------------


def test_reset_removes_the_saved_strategy_when_told_to(attune):
    attune("auth", "setup", "--plan", "max")
    assert attune("auth", "reset") == (2, "")
    assert "give --yes" in attune.err
    assert saved(attune) is not None
    assert attune.json("auth", "reset", "--yes")["removed"] is True
    assert saved(attune) is None
    assert "there is nothing saved" in attune("auth", "reset")[1]


def test_reset_mends_what_stops_every_other_command(attune):
    (attune.home / "auth.json").write_text('{"surprise": 1}')
    attune.configure("[[[")
    assert attune("auth", "status") == (3, "")
    assert attune("auth", "reset", "--yes")[0] == 0
    attune.configure("")
    (attune.home / "auth.json").write_text("{")
    for _ in range(2):
        assert attune("auth", "status")[0] == 0
        assert "the defaults hold until you run `attune auth setup`" in attune.err
    assert attune("auth", "reset", "--yes")[0] == 0
    attune("auth", "status")
    assert attune.err == ""


# -- recommend ----------------------------------------------------------------------------------------


def test_recommend_counts_real_tokens_and_prices_both_ways(attune):
    file = attune.home / "big.py"
    file.write_text("def f(a, b):\n    return a + b\n" * 1500)
    found = attune.json("auth", "recommend", str(file), "--plan", "max")
    assert (found["lines"], found["size"], found["mode"]) == (3000, "large", "subscription")
    assert found["tokens"] != 12_000  # what the multiplier of 4 would say
    assert found["tokens_per_line"] == found["tokens"] / 3000
    assert found["api"]["cost_usd"] > 0 == found["subscription"]["cost_usd"]
    assert found["api"]["input_tokens"] == found["tokens"]
    _, out = attune("auth", "recommend", str(file), "--plan", "max")
    assert "nothing can pay: no plan is enrolled: add [providers.claude]" in out
    assert "; subscription by the strategy (large work goes to the max plan)\n" in out


@pytest.mark.parametrize(
    ("options", "mode", "why"),
    [
        ((), "api", "the strategy names no plan"),
        (("--plan", "max", "--no-prefer-subscription"), "api", "the subscription is not preferred"),
        (("--plan", "max"), "api", "small work goes to the API"),
        (("--mode", "subscription"), "subscription", "the mode is set to subscription"),
    ],
)
def test_recommend_gives_its_reason(attune, options, mode, why):
    file = attune.home / "small.py"
    file.write_text("x = 1\n")
    found = attune.json("auth", "recommend", str(file), *options)
    assert (found["mode"], found["reason"]) == (mode, why)


def test_recommend_sends_to_the_api_what_the_subscriptions_context_cannot_hold(attune):
    attune.configure('[[models]]\nid = "claude-sonnet-5-5"\nprovider = "anthropic"\ncontext_window = 600')
    file = attune.home / "a.py"
    file.write_text("word " * 2500 + "\n" * 700)
    found = attune.json("auth", "recommend", str(file), "--plan", "max")
    assert (found["mode"], found["subscription"]["fits_context"]) == ("api", False)
    assert "does not fit the context window" in found["reason"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x7fELF\0\0", "is binary"),
        (b"caf\xe9", "is binary, not UTF-8 text"),
        (b"x" * (10 * 1024 * 1024 + 1), "is above 10 MiB"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_no_use_is_one_clear_line(attune, content, says):
    file = attune.home / "f"
    if content is not None:
        file.write_bytes(content)
    assert attune("auth", "recommend", str(file)) == (2, "")
    assert says in attune.err
    assert attune.err.count("\n") == 1


def test_a_folder_a_device_and_an_impossible_name_are_one_clear_line(attune):
    for name, says in (("/dev/zero", "not a regular file"), ("a\0b", "")):
        assert attune("auth", "recommend", name)[0] == 2
        assert says in attune.err


# -- from Python --------------------------------------------------------------------------------------


def test_the_commands_are_functions_that_take_any_object_with_the_options(attune, capsys):
    file = attune.home / "a.py"
    file.write_text("x = 1\n")
    assert cmd_auth_setup(SimpleNamespace(subscription_tier="pro")) == 0
    assert cmd_auth_status() == 0
    assert cmd_auth_recommend(SimpleNamespace(file=str(file))) == 0
    assert cmd_auth_recommend(SimpleNamespace(file="gone")) == 2
    assert cmd_auth_reset(SimpleNamespace(yes=True)) == 0
    assert saved(attune) is None
    assert "pro" in capsys.readouterr().out


def test_recommend_for_a_folder_is_a_table_of_its_modules_with_a_total(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    folder = attune.home / "src"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "small.py").write_text("x = 1\n")
    (folder / "deep" / "big.py").write_text("x = 1\n" * 3000)
    (folder / "empty.py").write_text("")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / ".git" / "config").write_text("hidden\n")
    (folder / "again").symlink_to(folder)
    found = attune.json("auth", "recommend", str(folder), "--plan", "max")
    rows = {each["file"]: each for each in found["files"]}
    assert list(rows) == [str(folder / "deep" / "big.py"), str(folder / "small.py")]
    assert [each["mode"] for each in rows.values()] == ["subscription", "api"]
    total = found["total"]
    assert (total["files"], total["lines"], total["left_out"]) == (2, 3001, 2)
    assert total["tokens"] == sum(each["tokens"] for each in rows.values())
    assert total["api_usd"] == pytest.approx(sum(each["api"]["cost_usd"] for each in rows.values()))
    assert total["recommended_usd"] == total["api_usd"], "the key pays for all while no plan is enrolled"
    _, out = attune("auth", "recommend", str(folder), "--plan", "max")
    assert "2 files, 3,001 lines" in out
    assert "2 left out: no text" in out
    assert "no plan is enrolled" in out


def test_a_folder_without_a_text_or_with_too_many_files_is_one_clear_line(attune, monkeypatch):
    folder = attune.home / "src"
    folder.mkdir()
    assert attune("auth", "recommend", str(folder))[0] == 2
    assert "has no text files" in attune.err
    monkeypatch.setattr("attune.cli._auth_recommend_folder.MAX_FILES", 2)
    for name in "abc":
        (folder / name).write_text("x\n")
    assert attune("auth", "recommend", str(folder))[0] == 2
    assert "has more than 2 files; name a folder within it" in attune.err
