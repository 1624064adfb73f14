"""``attune doctor``: what works, what does not, and what to do."""

from __future__ import annotations

import json
import time

import pytest

from attune.models.state import Fact, FactKind
from attune.providers.secret import Secret
from attune.stores.sqlite import SqliteStore

KEY = "canary-not-a-secret"


def checks(attune) -> tuple[int, dict[str, dict[str, str]]]:
    code, out = attune("doctor", "--json")
    found = json.loads(out)
    assert found["usable"] is (code == 0)
    return code, {check["check"]: check for check in found["checks"]}


def test_a_usable_attune_ends_with_0_and_makes_no_ledger(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, found = checks(attune)
    assert code == 0
    assert {name: check["state"] for name, check in found.items()} == {
        "configuration": "ok",
        "ledger": "ok",
        "openai api_key": "ok",
        "payment": "ok",
        "embedded model": "note",
        "claude": "ok",
        "clock": "ok",
    }
    assert not (attune.home / "data").exists()
    _, out = attune("doctor")
    assert "attune can be used" in out
    assert KEY not in out


def test_without_a_credential_it_ends_with_5_and_says_what_to_set(attune):
    code, found = checks(attune)
    assert (code, found["payment"]["state"]) == (5, "fail")
    assert "first: payment: no credential can pay: set ANTHROPIC_API_KEY" in attune("doctor")[1]


def test_a_wrong_configuration_ends_with_3_and_the_rest_is_still_checked(attune):
    attune.configure("[call]\nretries = -1")
    code, found = checks(attune)
    assert code == 3
    assert "line 2: [call] retries" in found["configuration"]["detail"]
    assert {"claude", "clock", "embedded model"} <= found.keys()


def test_a_key_that_is_none_ends_with_5(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    code, found = checks(attune)
    assert code == 5
    assert "is not a key" in found["openai api_key"]["detail"]
    assert "two words" not in str(found)


def test_what_is_open_or_off_is_shown(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    now = time.time()
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    store.put_fact(Fact(FactKind.CREDENTIAL_OFF, "openai#api_key", now + 60, now, "it was refused"))
    store.close()
    code, found = checks(attune)
    assert code == 5
    assert "openai#api_key: it was refused" in found["breakers"]["detail"]


def put_off(attune, key: str) -> None:
    """The credential was refused with this key, as a running process tells it."""
    now = time.time()
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    off = Fact(FactKind.CREDENTIAL_OFF, "openai#api_key", now + 60, now, "it was refused")
    store.put_fact(off._replace(data=Secret(key, "env:OPENAI_API_KEY").fingerprint))
    store.close()


def test_a_credential_whose_key_was_replaced_since_it_went_off_can_pay(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    put_off(attune, "the-old-one")
    code, found = checks(attune)
    assert (code, found["payment"]["state"]) == (0, "ok")
    assert found["breakers"]["detail"] == (
        "openai#api_key: it was refused; its key was replaced since, so it is tried at once"
    )
    (row,) = attune.json("breakers")["domains"]
    assert (row["state"], row["until"], row["seconds_left"]) == ("closed: its key was replaced", None, 0.0)
    assert "closed: its key was replaced" in attune("breakers")[1]
    assert attune.json("auth", "status")["credentials"] is not None


@pytest.mark.parametrize("key", [KEY, "two words", None])
def test_a_credential_that_has_its_key_still_or_none_that_can_be_read_stays_off(attune, monkeypatch, key):
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    attune.configure('[providers.openai]\nkind = "openai"\napi_key = "env:OPENAI_API_KEY"')
    put_off(attune, KEY)
    assert "until" in checks(attune)[1]["breakers"]["detail"]
    assert [row["state"] for row in attune.json("breakers")["domains"]] == ["credential off"]


def test_an_alias_of_the_gateway_that_stands_for_nothing_ends_with_3_as_for_attune_up(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    attune.configure('[gateway.aliases]\n"my-model" = "attune/cheapest"')
    code, found = checks(attune)
    assert (code, found["gateway"]["state"]) == (3, "fail")
    assert "[gateway.aliases] 'my-model'" in found["gateway"]["detail"]
    assert attune("up", "--check")[0] == 3
    attune.configure('[gateway.aliases]\n"my-model" = "attune/cheap"')
    code, found = checks(attune)
    assert (code, "gateway" in found) == (0, False)


@pytest.mark.parametrize("name", ["data", "data/ledger.db"])
def test_a_ledger_that_cannot_be_written_ends_with_3(attune, monkeypatch, name):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    blocked = attune.home / name
    if name == "data":
        blocked.write_text("")  # a file where the folder should be
    else:
        blocked.mkdir(parents=True)
    code, found = checks(attune)
    assert (code, found["ledger"]["state"]) == (3, "fail")


def test_a_corrupt_ledger_ends_with_3_and_stays_where_it_is(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (attune.home / "data").mkdir()
    (attune.home / "data" / "ledger.db").write_bytes(b"no database " * 100)
    code, found = checks(attune)
    assert (code, found["ledger"]["state"]) == (3, "fail")
    assert "move the file aside" in found["ledger"]["detail"]
    assert [file.name for file in (attune.home / "data").iterdir()] == ["ledger.db"]


def test_a_home_in_which_nothing_can_be_made_ends_with_3(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ATTUNE_HOME", "/proc/nowhere")
    code, found = checks(attune)
    assert (code, found["ledger"]["state"]) == (3, "fail")
    assert "nothing can be written in /proc" in found["ledger"]["detail"]


@pytest.mark.parametrize(("path", "noted"), [("", True), ("/v1", False)])
def test_an_openai_address_without_a_path_is_noted(attune, path, noted):
    attune.configure(f'[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:1{path}"')
    _, found = checks(attune)
    assert ("mine address" in found) is noted


def test_the_notices_of_the_configuration_are_shown(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    attune.configure('[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:1"')
    code, found = checks(attune)
    assert (code, found["configuration"]["state"]) == (0, "note")


def test_a_clock_before_the_prices_were_made_is_wrong(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    code, found = checks(attune)
    assert (code, found["clock"]["state"]) == (3, "fail")


def test_an_installed_embedded_model_is_ok(attune, monkeypatch):
    monkeypatch.setattr("attune.providers.local_server.missing_packages", tuple)
    code, found = checks(attune)
    assert (code, found["embedded model"]["state"], found["local (no key needed)"]["state"]) == (
        0,
        "ok",
        "ok",
    )
