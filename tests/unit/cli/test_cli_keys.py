"""``attune keys``: keys are made, listed and revoked, and shown once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time

import pexpect
import pytest

from attune.accounts import resource_of
from attune.models.telemetry import CostStatus, DecisionRecord, LLMCallRecord
from attune.stores.sqlite import SqliteStore
from support.program import ATTUNE, Program

KEY = re.compile(r"attune-[\w-]{43}")
WORDS = ("create", "list", "revoke")


def kept(attune):
    with contextlib.closing(SqliteStore.open(attune.home / "data" / "ledger.db")) as store:
        return store.all_keys()


def states(attune):
    return {row["name"]: row["state"] for row in attune.json("keys", "list")["keys"]}


# -- create --------------------------------------------------------------------------------------


def test_the_key_alone_is_on_standard_output_and_what_is_said_of_it_beside(attune):
    code, out = attune("keys", "create", "ci")
    assert code == 0
    assert KEY.fullmatch(out.strip())
    (record,) = kept(attune)
    assert record.digest == hashlib.sha256(out.strip().encode()).digest()
    assert attune.err == (
        f"attune: this is the key 'ci' (id {record.id}); it is not kept and not shown again\n"
    )


def test_every_option_narrows_the_key_that_is_kept(attune):
    before = time.time()
    made = attune.json(
        *("keys", "create", "ci", "--models", "claude-haiku-5-5,openai/gpt-6-luna", "claude-sonnet-5-5"),
        *("--tiers", "cheap", "--tiers", "capable", "--routes", "/v1/messages", "--providers", "anthropic"),
        *("--realtime", "--requests-per-minute", "60", "--tokens-per-minute", "90000"),
        *("--usd-per-day", "2.5", "--usd-per-month", "30", "--expires", "30d"),
    )
    (record,) = kept(attune)
    assert KEY.fullmatch(made.pop("key"))
    assert record.scopes.models == {"claude-haiku-5-5", "openai/gpt-6-luna", "claude-sonnet-5-5"}
    assert record.scopes.tiers == {"cheap", "capable"}
    assert record.scopes.routes == {"/v1/messages"}
    assert record.scopes.providers == {"anthropic"}
    assert record.scopes.realtime
    assert tuple(record.limits) == (60, 90_000, 2.5, 30.0)
    assert 30 * 86_400 <= record.expires - before < 30 * 86_400 + 60
    listed = attune.json("keys", "list")["keys"][0]
    assert {name: listed[name] for name in made} == made


def test_a_model_of_the_users_own_may_be_named(attune):
    attune.configure(
        '[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[[models]]\nid = "m"\nprovider = "mine"\ntier = "cheap"\ncontext_window = 1000\n'
    )
    assert attune("keys", "create", "ci", "--models", "mine/m", "--providers", "mine")[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--models", "claude-haiku-55"],
            "unknown model 'claude-haiku-55'; did you mean 'claude-haiku-5-5'?",
        ),
        (["--tiers", "cheep"], "unknown tier 'cheep'; did you mean 'cheap'?"),
        (["--routes", "/v1/mesages"], "unknown route '/v1/mesages'; did you mean '/v1/messages'?"),
        (["--providers", "openia"], "unknown provider 'openia'; did you mean 'openai'?"),
        (["--tiers", ","], "an empty list would allow nothing; leave the option out"),
        (["--expires", "soon"], "--expires is a number and a unit (m, h, d or w), such as 30d, not 'soon'"),
        (["--expires", "0d"], "already expired"),
        (["--requests-per-minute", "0"], "requests_per_minute must be at least 1"),
        (["--usd-per-day", "-1"], "usd_per_day must be an amount from 0"),
        (["--usd-per-day", "nan"], "usd_per_day must be an amount from 0"),
        (["--token-per-minute", "1"], "did you mean '--tokens-per-minute'?"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_nearest_choice_and_makes_no_key(attune, options, says):
    assert attune("keys", "create", "ci", *options) == (2, "")
    assert says in attune.err
    assert attune.err.count("\n") == 1
    assert not (attune.home / "data").exists()


def test_a_name_that_is_taken_is_refused_and_free_again_after_it_is_revoked(attune):
    attune("keys", "create", "ci")
    assert attune("keys", "create", "ci") == (2, "")
    assert "there is a key named 'ci' already; revoke it first" in attune.err
    attune("keys", "revoke", "ci", "--yes")
    assert attune("keys", "create", "ci")[0] == 0
    assert [record.revoked is None for record in kept(attune)] == [False, True]


def test_a_ledger_that_cannot_be_written_ends_with_3_and_shows_no_key(attune):
    (attune.home / "data").write_text("a file where the folder should be")
    assert attune("keys", "create", "ci") == (3, "")
    assert attune.err.count("\n") == 1


def test_a_ledger_that_was_damaged_is_kept_aside_and_that_is_said(attune):
    (attune.home / "data").mkdir()
    (attune.home / "data" / "ledger.db").write_bytes(b"no database" * 1000)
    assert attune("keys", "create", "ci")[0] == 0
    assert "it was kept as" in attune.err


# -- list ----------------------------------------------------------------------------------------


def test_without_keys_the_list_says_how_to_make_one_and_writes_nothing(attune):
    assert attune("keys", "list") == (0, "there are no keys; `attune keys create NAME` makes one\n")
    assert attune.json("keys", "list") == {"keys": []}
    assert not (attune.home / "data").exists()


def test_the_list_shows_what_each_may_use_and_its_state_and_never_a_key(attune):
    keys = [
        attune("keys", "create", "wide")[1],
        attune("keys", "create", "narrow", "--tiers", "cheap", "--realtime", "--expires", "1h")[1],
        attune("keys", "create", "poor", "--usd-per-day", "5", "--requests-per-minute", "1000")[1],
        attune("keys", "create", "gone")[1],
    ]
    attune("keys", "revoke", "gone", "--yes")
    _, out = attune("keys", "list")
    wide, narrow, poor, gone = out.splitlines()[2:]
    assert re.search(r"wide .* valid  .* everything  .*none; \$0\.00 this month$", wide)
    assert re.search(
        r"narrow .* valid until 2.* UTC .* tiers cheap; realtime .*none; \$0\.00 this month$", narrow
    )
    assert re.search(
        r"poor .* 1,000 requests a minute; \$0\.00 of \$5\.00 this day; \$0\.00 this month$", poor
    )
    assert re.search(r"gone .* revoked ", gone)
    assert not any(key.strip() in out for key in keys)


def test_the_list_shows_what_is_spent_of_a_budget_and_who_has_expired(attune, monkeypatch):
    attune("keys", "create", "ci", "--usd-per-day", "5", "--usd-per-month", "9", "--expires", "1h")
    (record,) = kept(attune)
    with contextlib.closing(SqliteStore.open(attune.home / "data" / "ledger.db")) as store:
        asyncio.run(
            store.reserve(
                resource_of(record.id, "month"), 10**9, limit=10**10, window_start=0, ttl_s=9, now=time.time()
            )
        )
    (row,) = attune.json("keys", "list")["keys"]
    assert (row["state"], row["usd_this_day"], row["usd_this_month"]) == ("valid", 0.0, 1.0)
    monkeypatch.setattr(time, "time", lambda: record.expires)
    assert states(attune) == {"ci": "expired"}


def test_the_list_shows_what_is_spent_without_a_budget_too(attune, monkeypatch):
    for name in ("free", "other"):
        attune("keys", "create", name)
    free, other = kept(attune)
    noon = 1_797_076_800.0  # the 12th of a month
    with contextlib.closing(SqliteStore.open(attune.home / "data" / "ledger.db")) as store:
        for number, (record, at, cost) in enumerate(
            [(free, noon - 40 * 86_400, 5), (free, noon - 86_400, 3), (free, noon, 2), (other, noon, 7)]
        ):
            features = (("model", '["account","x"]'), ("account", record.id))
            called = (f"c{number}", f"c{number}", at, "w", "s", "")
            store.append_decision(DecisionRecord(*called, "cheap", "cheap", "p", "", (), (), features))
            made = LLMCallRecord(
                called[0], f"{called[0]}.0", *called[1:], "p", "m", "cheap", "k", success=True, latency_ms=1.0
            )
            store.append_attempt(made._replace(cost_nanos=cost * 10**9, cost_status=CostStatus.EXACT))
            store.append_attempt(made._replace(attempt_id=f"{called[0]}.1"))
        store.flush_sync()
    monkeypatch.setattr(time, "time", lambda: noon + 60)
    rows = {row["name"]: row for row in attune.json("keys", "list")["keys"]}
    assert (rows["free"]["usd_this_day"], rows["free"]["usd_this_month"]) == (2.0, 5.0)
    assert (rows["other"]["usd_this_day"], rows["other"]["usd_this_month"]) == (7.0, 7.0)
    assert "none; $5.00 this month" in attune("keys", "list")[1]


# -- revoke --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_key_is_revoked_by_its_name_or_its_id(attune, by):
    made = attune.json("keys", "create", "ci")
    attune("keys", "create", "other")
    code, out = attune("keys", "revoke", made[by], "--yes")
    assert code == 0
    assert out.startswith(f"ci (id {made['id']}) is revoked since 2")
    assert states(attune) == {"ci": "revoked", "other": "valid"}


def test_revoking_again_changes_nothing_and_asks_nothing(attune):
    attune("keys", "create", "ci")
    first = attune.json("keys", "revoke", "ci", "--yes")
    assert attune.json("keys", "revoke", "ci") == first


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_a_terminal_to_ask_on_nothing_is_revoked(attune, options):
    attune("keys", "create", "ci")
    code, _ = attune("keys", "revoke", "ci", *options)
    assert code == 2
    assert "this would revoke the key 'ci' for good; give --yes" in attune.err
    assert states(attune) == {"ci": "valid"}


def test_an_unknown_key_is_told_the_nearest_of_those_that_are_valid(attune):
    assert attune("keys", "revoke", "builder", "--yes") == (2, "")
    assert "unknown key 'builder'; `attune keys list` shows" in attune.err
    attune("keys", "create", "builders")
    attune("keys", "revoke", "builder", "--yes")
    assert "unknown key 'builder'; did you mean 'builders'?" in attune.err


def test_a_key_given_instead_of_its_name_is_refused_and_not_repeated(attune):
    key = attune("keys", "create", "ci")[1].strip()
    code, out = attune("keys", "revoke", key, "--yes", "--json")
    assert code == 2
    assert "give its name or id" in attune.err
    assert key not in attune.err + out
    assert attune("keys", "create", key)[0] == 2
    assert key not in attune.err


@pytest.mark.parametrize(("answer", "code", "state"), [("y", 0, "revoked"), ("n", 130, "valid")])
def test_on_a_terminal_it_asks_first(tmp_path, answer, code, state):
    program = Program(tmp_path)
    program("keys", "create", "ci")
    environ = {**program.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(ATTUNE, ["keys", "revoke", "ci"], env=environ, timeout=120, dimensions=(24, 120))
    child.expect("Revoke the key 'ci' .* for good")
    child.send(answer)
    child.expect(pexpect.EOF)
    child.wait()
    child.close()
    assert child.exitstatus == code
    assert json.loads(program("keys", "list", "--json").out)["keys"][0]["state"] == state


# -- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
def test_each_help_has_an_example_the_exit_codes_and_the_shared_options(attune, word):
    code, out = attune("keys", word, "--help")
    assert code == 0
    assert f"  attune keys {word}" in out
    assert "exit codes:" in out
    assert "--json" in out
    assert "--config FILE" in out


def test_a_misspelt_word_is_told_the_nearest(attune):
    assert attune("keys", "crate")[0] == 2
    assert "unknown command 'crate'; did you mean 'create'?" in attune.err


def test_looking_at_keys_loads_nothing_that_is_slow_to_import(attune):
    code = "from attune.cli import main; main(['keys', 'list']); import sys; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={"ATTUNE_HOME": str(attune.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0
    heavy = {"aiohttp", "asyncio", "msgspec", "questionary", "quicktok", "rich", "socket"}
    assert set(shown.stdout.split()) & heavy == set()
