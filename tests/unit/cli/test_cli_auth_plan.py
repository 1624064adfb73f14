"""``attune auth`` where a Claude plan is enrolled: what it says of the plan is what happens."""

from __future__ import annotations

import time

import pytest

from attune.models.quota import QuotaWindow, fact_of
from attune.models.quota_price import Demand
from attune.models.state import Fact, FactKind

PLAN = '[providers.claude]\nkind = "claude_subscription"\n'
HOUR = 3600.0


@pytest.fixture
def planned(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-not-a-secret")
    attune.configure(PLAN)
    return attune


def window(name: str, used: float, resets_in: float) -> Fact:
    now = time.time()
    return fact_of(QuotaWindow(name, used, now + resets_in, now), "claude", "subscription")


def pays(attune, *options) -> list[tuple[str, str, str]]:
    rows = attune.json("auth", "status", *options)["pays"]
    return [(row["recommended"], row["credential"], row["summary"]) for row in rows]


def first_asked(attune) -> str:
    """The credential of the first candidate for capable work."""
    return attune.json("route", "--tier", "capable", "?")["ranked"][0]["credential"]


def test_in_the_mode_subscription_the_plan_comes_first_and_else_the_key(planned):
    for mode, credential in (("subscription", "subscription"), ("auto", "api_key"), ("api", "api_key")):
        planned.configure(f'{PLAN}[auth]\ndefault_mode = "{mode}"\n')
        assert first_asked(planned) == credential
        assert {each[1] for each in pays(planned)} == {credential}
    listed = '[tiers]\ncapable = ["anthropic/claude-sonnet-5-5", "claude/claude-sonnet-5-5"]\n'
    planned.configure(f'{PLAN}[auth]\ndefault_mode = "subscription"\n{listed}')
    assert first_asked(planned) == "subscription", "who pays is the strategy's, not the order's"


def test_status_says_what_pays_for_each_size_of_work(planned):
    small, medium, large = pays(planned, "--plan", "max")
    assert small[:2] == ("api", "api_key")
    assert small[2] == "anthropic api_key for claude-sonnet-5-5 would pay (small work goes to the API)"
    for size, (recommended, credential, summary) in (("medium", medium), ("large", large)):
        assert (recommended, credential) == ("subscription", "subscription")
        assert summary == (
            f"claude subscription for claude-sonnet-5-5 would pay ({size} work goes to the max plan)"
        )


@pytest.mark.parametrize("overflow", ["api", "fail"])
def test_status_says_why_not_the_plan_that_is_recommended(planned, overflow):
    now = time.time()
    spent = "its quota window is used up"
    planned.keep(Fact(FactKind.CREDENTIAL_OFF, "claude#subscription", now + 999, now, spent))
    planned.configure(f'{PLAN}[auth]\ndefault_mode = "subscription"\noverflow = "{overflow}"\n')
    (recommended, credential, summary) = pays(planned)[0]
    assert (recommended, credential) == ("subscription", "api_key" if overflow == "api" else None)
    if overflow == "api":
        assert "but claude#subscription is off until " in summary
        assert spent in summary
    else:
        assert "nothing can pay" in summary
        assert "overflow" in summary


def test_status_shows_what_quota_is_worth_beside_what_a_key_costs(planned):
    now = time.time()
    told = QuotaWindow("seven_day", 0.2, now + 6 * 24 * HOUR, now, capacity_usd=100.0)
    demand = Demand(now - 24 * HOUR)
    for hour in range(24):
        demand.observe(now - hour * HOUR, 1.0, 1.0, ["seven_day"])
    planned.keep(
        fact_of(told, "claude", "subscription"),
        demand.fact("claude", "subscription", now),
    )
    recommended, credential, summary = pays(planned, "--plan", "max")[0]
    assert (recommended, credential) == ("subscription", "subscription")
    assert "the quota for it is worth $0." in summary
    assert "at API prices; anthropic api_key costs $0.0" in summary
    assert pays(planned, "--plan", "max", "--no-cost-optimization")[0][0] == "api"


def test_status_says_why_not_the_key_that_is_recommended(planned, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert (
        "but no API key is there; claude subscription for claude-sonnet-5-5 would pay" in pays(planned)[0][2]
    )
    file = planned.home / "a.py"
    file.write_text("x = 1\n")
    assert planned.json("auth", "recommend", str(file))["obstacle"] == "no API key is there"


def test_quota_that_would_expire_unused_is_for_small_work_too(planned):
    planned.keep(window("five_hour", 0.01, 60.0))
    assert {each[0] for each in pays(planned, "--plan", "max")} == {"subscription"}
    assert "quota would expire unused" in pays(planned, "--plan", "max")[0][2]
    assert pays(planned, "--plan", "max", "--no-cost-optimization")[0][0] == "api"


def test_status_shows_the_windows(planned):
    assert "quota" not in planned("auth", "status")[1]
    planned.keep(window("seven_day", 0.61, 30 * HOUR))
    out = planned("auth", "status")[1]
    assert "claude seven_day: 61% used, resets in 1 d 6 h; " in out
    assert planned.json("auth", "status")["quota"][0]["window"] == "seven_day"


def test_recommend_says_that_the_plan_would_pay(planned):
    planned.configure(f'{PLAN}[auth]\ndefault_mode = "subscription"\n')
    file = planned.home / "a.py"
    file.write_text("x = 1\n")
    found = planned.json("auth", "recommend", str(file))
    assert (found["mode"], found["obstacle"]) == ("subscription", "")
    assert found["payer"] == "claude subscription for claude-sonnet-5-5"
    assert found["api"]["cost_usd"] > 0 == found["subscription"]["cost_usd"]
    assert found["api"]["model"] == "anthropic/claude-sonnet-5-5"


# -- enrolling -------------------------------------------------------------------------------------


def test_setup_enrols_the_plan_when_it_is_asked_to_and_leaves_the_rest_of_the_file_as_it_is(attune):
    file = attune.home / "config.toml"
    attune.configure("# mine\n[call]\nretries = 2")
    file.chmod(0o640)
    assert attune("auth", "setup", "--plan", "max")[0] == 0
    assert file.read_text() == "# mine\n[call]\nretries = 2", "not asked, not done"
    code, _ = attune("auth", "setup", "--plan", "max", "--enrol-plan")
    assert (code, f"enrolled the plan as claude in {file}" in attune.err) == (0, True)
    assert file.read_text().startswith("# mine\n[call]\nretries = 2\n\n[providers.claude]\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert "claude subscription" in attune("auth", "status")[1]
    before = file.read_text()
    assert attune.json("auth", "setup", "--enrol-plan")["strategy"]["subscription_tier"] == "max"
    assert "the plan is enrolled already, as claude" in attune.err
    assert file.read_text() == before
    assert [each.name for each in attune.home.glob(".config*")] == []


def test_setup_makes_the_configuration_that_is_not_there_private(attune):
    assert attune("auth", "setup", "--yes", "--enrol-plan")[0] == 0
    file = attune.home / "config.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert attune.json("models")["providers"][0]["name"] == "claude"


def test_a_link_to_the_configuration_stays_a_link(attune):
    real = attune.home / "dotfiles.toml"
    real.write_text("")
    (attune.home / "config.toml").symlink_to(real)
    assert attune("auth", "setup", "--yes", "--enrol-plan")[0] == 0
    assert (attune.home / "config.toml").is_symlink()
    assert "claude_subscription" in real.read_text()


@pytest.mark.parametrize(
    "text", ['[providers.claude]\nkind = "anthropic"\n', 'providers = { mine = { kind = "local" } }\n']
)
def test_a_file_that_takes_no_such_provider_is_left_as_it_is(attune, text):
    attune.configure(text)
    code, _ = attune("auth", "setup", "--yes", "--enrol-plan")
    assert code == 3
    assert (attune.home / "config.toml").read_text() == text
    assert "Traceback" not in attune.err


def test_a_configuration_that_cannot_be_written_is_one_clear_line(attune, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("attune.config.auth_file._write", refuse)
    code, _ = attune("auth", "setup", "--yes", "--enrol-plan")
    assert code == 3
    assert "cannot write" in attune.err
