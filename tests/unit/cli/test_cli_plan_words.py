"""What the command line says around a Claude plan: what is missing, what it assumes, what can pay."""

from __future__ import annotations

import json
import time

import pytest

from attune.cli._auth_setup import _plan_title
from attune.models.auth_strategy import SubscriptionTier
from attune.models.quota import USED_UP, QuotaWindow, fact_of
from attune.models.state import Fact, FactKind
from attune.models.telemetry import TokenUsage
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import attempt

PLAN = '[providers.claude]\nkind = "claude_subscription"\n'
SUBSCRIPTION = f'{PLAN}[auth]\ndefault_mode = "subscription"\n'
ENROL = "`attune auth setup --enrol-plan`"


@pytest.fixture
def keyed(attune, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-not-a-secret")
    return attune


def called(attune, **fields: object) -> None:
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    for number in range(3):
        store.append_attempt(attempt(f"c{number}", at=time.time(), **fields))
    store.close()


def spent() -> Fact:
    now = time.time()
    return Fact(FactKind.CREDENTIAL_OFF, "claude#subscription", now + 999, now, USED_UP)


def program(attune, folder: str, script: str) -> str:
    """A ``claude`` in a folder of the home."""
    (attune.home / folder).mkdir()
    file = attune.home / folder / "claude"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def login(plan: str) -> str:
    return f'echo \'{{"authMethod": "claude.ai", "subscriptionType": "{plan}"}}\''


def checks(attune, *options: str) -> tuple[int, list[tuple[str, str, str]]]:
    code, out = attune("doctor", "--json", *options)
    return code, [(each["check"], each["state"], each["detail"]) for each in json.loads(out)["checks"]]


# -- a plan that is not enrolled -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--plan", "max"), ("--mode", "subscription")])
def test_a_strategy_that_counts_on_a_plan_which_is_not_enrolled_is_saved_with_what_is_missing(keyed, options):
    assert keyed("auth", "setup", *options)[0] == 0
    missing = f"no plan is enrolled, so none pays; {ENROL} lets yours answer"
    assert missing in keyed.err
    notes = [detail for check, state, detail in checks(keyed)[1] if (check, state) == ("claude", "note")]
    assert notes == [f"the strategy counts on a plan, but {missing}"]
    keyed("auth", "setup", "--enrol-plan")
    assert missing not in keyed.err
    assert not [detail for check, _, detail in checks(keyed)[1] if "the strategy counts" in detail]


def test_who_counts_on_no_plan_is_told_of_none(keyed):
    keyed("auth", "setup", "--plan", "max", "--mode", "api")
    assert "enrol" not in keyed.err
    assert [check for check in checks(keyed)[1] if check[0] == "claude" and check[1] == "note"] == []


def test_a_plan_that_is_enrolled_without_a_program_or_a_login_says_what_comes_next(attune):
    assert attune("auth", "setup", "--enrol-plan")[0] == 0
    assert (
        "it cannot pay until there is a login: the claude program is not installed; install it" in attune.err
    )
    assert "pip install 'attune-models[subscription]'" in attune.err
    program(attune, "bin", 'echo \'{"authMethod": "none"}\'')
    attune("auth", "setup", "--enrol-plan")
    assert "the claude program has no subscription logged in; run `claude auth login`" in attune.err
    (attune.home / "bin" / "claude").write_text(f"#!/bin/sh\n{login('max')}\n")
    attune("auth", "setup", "--enrol-plan")
    assert "cannot pay" not in attune.err


def test_the_program_that_comes_with_the_package_is_found_before_the_plan_is_enrolled(attune, monkeypatch):
    bundled = program(attune, "bundled files", login("team"))
    monkeypatch.setattr("attune.providers._claude_process.find_program", lambda _: bundled)
    found = f"the claude program has a team subscription logged in ({bundled})"
    assert found in attune("auth", "setup", "--yes")[1]
    assert ("claude", "ok", found) in checks(attune)[1]
    (attune.home / "bundled files" / "claude").write_text('#!/bin/sh\necho \'{"authMethod": "none"}\'\n')
    attune.configure(PLAN)
    details = [detail for check, _, detail in checks(attune)[1] if check == "claude"]
    assert f"run `'{bundled}' auth login`" in details[0], "its path, since the shell does not find it"


def test_what_is_compared_while_the_plan_is_being_enrolled_takes_it_for_enrolled(keyed):
    _, big = modules(keyed)
    out = keyed("auth", "setup", "--plan", "max", "--enrol-plan", "--file", big)[1]
    assert "\nrecommended: subscription (large work goes to the max plan)\n" in out


def test_a_plan_that_is_not_the_one_logged_in_is_saved_with_a_word(attune):
    program(attune, "bin", login("max"))
    attune("auth", "setup", "--plan", "pro")
    assert (
        "the login is of a max plan, but pro is saved; `attune auth setup --plan max` changes that"
        in attune.err
    )
    attune("auth", "setup", "--plan", "max")
    assert "the login is" not in attune.err
    attune("auth", "setup", "--plan", "none")
    assert "the login is" not in attune.err


def test_the_wizard_says_what_each_plan_was_called():
    assert _plan_title(SubscriptionTier.MAX) == "max ($100 a month)"
    assert _plan_title(SubscriptionTier.ULTRA) == "ultra ($200 a month, once called Max 20x)"


def test_who_has_said_which_plan_they_have_is_not_asked_to_say_it(attune):
    hint = "run `attune auth setup` to say which plan you have"
    assert hint in attune("auth", "status")[1]
    attune.configure('[auth]\nsubscription_tier = "max"\n')
    assert hint not in attune("auth", "status")[1]


# -- sizes ---------------------------------------------------------------------------------------------


def test_status_says_the_sizes_in_tokens_with_the_lines_that_they_are_taken_for(keyed):
    out = keyed("auth", "status", "--plan", "max")[1]
    assert "by the size of the work (lines by the strategy's 4 tokens a line)\n" in out
    assert "\n  small, below 2,000 tokens (about 500 lines): anthropic api_key for" in out
    assert "\n  medium, 2,000 to 8,000 tokens (about 500 to 2,000 lines): subscription by the st" in out
    assert "\n  large, above 8,000 tokens (about 2,000 lines): " in out
    pays = keyed.json("auth", "status", "--loc-to-tokens-multiplier", "2.5")["pays"]
    assert [each["tokens"] for each in pays] == ["below 1,250", "1,250 to 5,000", "above 5,000"]
    assert [each["lines"] for each in pays] == ["below 500", "500 to 2,000", "above 2,000"]


def test_recommend_says_what_makes_a_size(keyed):
    file = keyed.home / "wide.py"
    file.write_text(f"x = {'1 + ' * 50}1\n" * 100)
    out = keyed("auth", "recommend", str(file), "--plan", "max")[1]
    assert "the strategy assumes 4): large work, which is above 8,000 tokens (about 2,000 lines)" in out
    folder = keyed("auth", "recommend", str(keyed.home), "--plan", "max")[1]
    assert "\nsmall: below 2,000 tokens (about 500 lines); medium: " in folder
    assert "(about 2,000 lines); lines by the strategy's 4 tokens a line\n" in folder


def test_doctor_says_who_pays_for_which_size_whatever_the_last_calls_were(keyed):
    def payment() -> str:
        return next(detail for check, _, detail in checks(keyed)[1] if check == "payment")

    assert payment() == "anthropic api_key for claude-sonnet-5-5 would pay for capable work of any size"
    keyed.configure(f'{PLAN}[auth]\nsubscription_tier = "max"\n')
    by_size = (
        "small capable work (below 2,000 tokens): anthropic api_key for claude-sonnet-5-5 would pay; medium "
        "and large capable work (2,000 to 8,000 and above 8,000 tokens): claude subscription for "
        "claude-sonnet-5-5 would pay"
    )
    assert payment() == by_size
    called(keyed, provider="anthropic", model_id="claude-sonnet-5-5", usage=TokenUsage(90_000, 500))
    assert payment() == by_size


@pytest.mark.parametrize("auth", ['subscription_tier = "max"', 'default_mode = "subscription"'])
def test_doctor_fails_where_nothing_can_pay_for_what_is_meant_for_the_plan(keyed, auth):
    keyed.configure(f"{PLAN}[auth]\n{auth}\n")
    keyed.keep(spent())
    code, found = checks(keyed)
    ((state, detail),) = [each[1:] for each in found if each[0] == "payment"]
    assert (code, state) == (5, "fail")
    assert ("nothing can pay: " if "max" in auth else "no credential can pay: ") in detail
    assert ("small capable work (below 2,000 tokens): anthropic api_key" in detail) is ("max" in auth)


def test_work_that_is_too_large_for_a_local_model_is_a_note(attune, monkeypatch):
    monkeypatch.setattr("attune.providers.local_server.missing_packages", tuple)
    code, found = checks(attune)
    ((state, detail),) = [each[1:] for each in found if each[0] == "payment"]
    assert (code, state) == (0, "note")
    assert "small and medium capable work (below 2,000 and 2,000 to 8,000 tokens): local" in detail
    assert "large capable work (above 8,000 tokens): nothing can pay: " in detail


def test_a_decision_without_a_prompt_says_which_size_it_takes_it_to_have(keyed):
    asked = ("route", "--workflow", "w")
    assert keyed.json(*asked)["notes"] == ["no prompt is given: 1,000 tokens in and 500 out are assumed"]
    called(keyed, workflow="w", usage=TokenUsage(90_000, 500))
    (said,) = keyed.json(*asked)["notes"]
    assert said.startswith("no prompt is given: 90,000 tokens in and ")
    assert said.endswith(" out are assumed, the mean of the calls so far")
    assert keyed.json(*asked, "hi")["notes"] == []


# -- asked online --------------------------------------------------------------------------------------


def test_online_says_that_a_plan_is_not_asked_and_how_to_try_it(attune):
    attune.configure(PLAN)
    found = [each[1:] for each in checks(attune, "--online")[1] if each[0] == "claude subscription online"]
    tries = "`attune run --model claude/claude-haiku-5-5 hi`"
    assert found == [("note", f"not asked, since each answer uses quota; to try it: {tries}")]
    assert [each for each in checks(attune)[1] if "online" in each[0]] == []


# -- what cannot pay -----------------------------------------------------------------------------------


def modules(attune) -> tuple[str, str]:
    """The names of a folder with a large and a small module, and of the large one."""
    folder = attune.home / "src"
    folder.mkdir()
    (folder / "big.py").write_text("x = 1\n" * 3000)
    (folder / "small.py").write_text("x = 1\n")
    return str(folder), str(folder / "big.py")


def test_what_nothing_can_pay_for_is_not_recommended(keyed):
    keyed.configure(f'{PLAN}[auth]\nsubscription_tier = "max"\n')
    keyed.keep(spent())
    folder, big = modules(keyed)
    code, out = keyed("auth", "recommend", big)
    assert (code, "recommended" in out) == (5, False)
    assert "\nnothing can pay: " in out
    assert "; subscription by the strategy (large work goes to the max plan)\n" in out
    code, out = keyed("auth", "recommend", big, "--json")
    assert (code, json.loads(out)["payer"]) == (5, None)
    code, out = keyed("auth", "recommend", folder, "--json")
    total = json.loads(out)["total"]
    assert (code, total["by_subscription"], total["unpaid"]) == (5, 0, 1)
    small = next(each for each in json.loads(out)["files"] if "small" in each["file"])
    assert total["recommended_usd"] == small["api"]["cost_usd"]
    code, out = keyed("auth", "recommend", folder)
    assert code == 5
    assert "with 0 by the subscription; nothing can pay for 1 file" in out
    assert "\n1 file: nothing can pay: " in out
    assert [line.split()[4] for line in out.splitlines() if ".py " in line] == ["nothing", "api_key"]


def test_a_key_that_is_not_there_is_not_recommended(attune):
    attune.configure(f'{PLAN}[auth]\nsubscription_tier = "max"\n')
    folder, big = modules(attune)
    small = big.replace("big", "small")
    code, out = attune("auth", "recommend", small)
    assert code == 0
    assert (
        "\napi by the strategy (small work goes to the API), but no API key is there; "
        "claude subscription for claude-sonnet-5-5 would pay\n"
    ) in out
    assert "recommended" not in out
    total = attune.json("auth", "recommend", folder)["total"]
    assert (total["by_subscription"], total["recommended_usd"], total["unpaid"]) == (2, 0.0, 0)


def test_before_anything_is_enrolled_the_costs_can_be_compared(attune):
    folder, big = modules(attune)
    code, out = attune("auth", "recommend", big, "--plan", "max")
    assert code == 0
    assert "\nnothing can pay: no plan is enrolled" in out
    assert attune("auth", "recommend", folder)[0] == 0


# -- quota ---------------------------------------------------------------------------------------------


def test_a_plan_whose_answers_told_of_no_windows_is_not_to_be_asked_for_them_again(attune):
    attune.configure(PLAN)
    assert "attune run --model" in attune("quota")[1]
    called(attune, provider="claude", credential="subscription", cost_nanos=0)
    out = attune("quota")[1]
    assert "claude: nothing is known yet; its answers so far told of no windows\n" in out
    assert "attune run --model" not in out


def test_a_window_that_lasts_at_worst_says_what_happens_then(attune):
    attune.configure(PLAN)
    now = time.time()
    attune.keep(fact_of(QuotaWindow("five_hour", 0.5, now + 8000, now), "claude", "subscription"))
    out = attune("quota")[1]
    assert "lasts until its reset; at worst used up in " in out


def test_a_cap_below_a_cent_is_not_shown_as_nothing(attune):
    attune.configure(f'{SUBSCRIPTION}overflow = "api"\noverflow_usd_per_day = 0.001\n')
    assert "; $0.00 of $0.001000 are used today (UTC)" in attune("quota")[1]


def test_quota_of_unknown_worth_says_what_is_missing(keyed):
    keyed.configure(f'{PLAN}[auth]\nsubscription_tier = "max"\n')
    out = keyed("route", "--tier", "capable")[1]
    assert "quota of unknown worth until the plan has reported a rise in its use ($0.0" in out


# -- models that a plan leaves out ---------------------------------------------------------------------


@pytest.mark.parametrize("command", [("route",), ("run", "hi")])
def test_a_model_that_the_plan_leaves_out_says_so(keyed, command):
    keyed.configure(PLAN)
    code, _ = keyed(*command, "--model", "claude/claude-fable-5-2")
    assert (code, "did you mean" in keyed.err) == (2, False)
    assert (
        "claude/claude-fable-5-2: a plan leaves this model out, since it may bill credits without asking; "
        "anthropic/claude-fable-5-2 is billed to an API key"
    ) in keyed.err
    assert keyed(*command, "--model", "claude/claude-sonet-5-5")[0] == 2
    assert "did you mean 'claude/claude-sonnet-5-5'?" in keyed.err
