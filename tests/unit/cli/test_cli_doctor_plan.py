"""``attune doctor`` where a Claude plan is enrolled: the traps around it."""

from __future__ import annotations

import json
import os
import time

import pytest

from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore

SECRET = "canary-not-a-secret"
LOGIN = '{"authMethod": "claude.ai", "subscriptionType": "max"}'


@pytest.fixture
def planned(attune, monkeypatch):
    """A plan on a machine of one user, with nothing in the way."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "CLAUDE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    attune.configure('[providers.claude]\nkind = "claude_subscription"\n')
    monkeypatch.setenv("HOME", str(attune.home))
    (attune.home / ".claude").mkdir(mode=0o700)
    (attune.home / "bin").mkdir()
    install(attune, f"echo '{LOGIN}'")
    return attune


def install(attune, script: str) -> None:
    program = attune.home / "bin" / "claude"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def claude(attune) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and what is said of the claude program."""
    code, out = attune("doctor", "--json")
    assert SECRET not in out
    return code, [(c["state"], c["detail"]) for c in json.loads(out)["checks"] if c["check"] == "claude"]


def test_a_plan_that_can_pay_is_one_line(planned):
    assert claude(planned) == (0, [("ok", "the claude program has a max subscription logged in")])


def test_a_plan_without_its_program_or_without_a_login_cannot_pay(planned, monkeypatch):
    install(planned, 'echo \'{"authMethod": "none"}\'')
    code, [(state, detail)] = claude(planned)
    assert (code, state) == (5, "fail")
    assert "run `claude auth login`" in detail
    monkeypatch.setattr("attune.providers._claude_process.find_program", lambda _: None)
    code, [(state, detail)] = claude(planned)
    assert (code, state) == (5, "fail")
    assert "is not installed, so the plan cannot pay; install it" in detail


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"])
def test_a_key_that_shadows_the_login_elsewhere_is_pointed_out_and_does_not_reach_the_program(
    planned, monkeypatch, name
):
    monkeypatch.setenv(name, SECRET)
    install(planned, f"""[ -z "${name}" ] && echo '{LOGIN}'""")
    code, [(login, _), (state, detail)] = claude(planned)
    assert (code, login, state) == (0, "ok", "note")
    assert f"{name} is set" in detail
    assert "attune never passes it on" in detail


def test_a_proxy_is_pointed_out_without_its_address(planned, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:9")
    _, [_, (state, detail)] = claude(planned)
    assert (state, "HTTPS_PROXY is set" in detail) == ("note", True)


def test_a_login_that_others_could_use_is_pointed_out(planned, monkeypatch):
    usual, shared = planned.home / ".claude", planned.home / "shared"
    usual.chmod(0o755)
    assert len(claude(planned)[1]) == 1, "as the program makes it"
    usual.chmod(0o770)
    _, [_, (state, detail)] = claude(planned)
    assert (state, f"chmod 700 {usual}" in detail) == ("note", True)
    shared.mkdir(mode=0o700)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(shared))
    assert len(claude(planned)[1]) == 1
    shared.chmod(0o750)
    assert f"chmod 700 {shared}" in claude(planned)[1][1][1]
    shared.chmod(0o700)
    monkeypatch.setattr("os.getuid", lambda: planned.home.stat().st_uid + 1)
    assert "is not yours: a plan is for one person" in claude(planned)[1][1][1]
    monkeypatch.setenv("HOME", str(planned.home / "gone"))
    assert "cannot be looked at: No such file" in claude(planned)[1][1][1]


@pytest.mark.parametrize("refused", ["it was refused (401 or 403)", "nobody is logged in who could pay"])
def test_a_login_that_was_refused_says_how_to_log_in_again(planned, refused):
    now = time.time()
    store = SqliteStore.open(planned.home / "data" / "ledger.db")
    store.put_fact(Fact(FactKind.CREDENTIAL_OFF, "claude#subscription", now + 60, now, refused))
    store.close()
    assert "log in again: `claude auth login`, then `attune breakers --reset`" in planned("doctor")[1]
