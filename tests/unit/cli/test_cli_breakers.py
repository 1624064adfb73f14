"""``attune breakers``: what it calls a circuit whose time has come, and what it clears."""

from __future__ import annotations

import time

import pytest

from attune.errors import ErrorClass
from attune.models.candidate import Candidate
from attune.models.failure_domains import FailureDomains
from attune.models.quota import USED_UP
from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore


@pytest.fixture
def ledger(attune):
    """The ledger as a running process writes it."""
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    yield store
    store.close()


def test_a_circuit_that_waits_for_its_probe_is_half_open_and_not_closed(attune, ledger):
    now = time.time()
    ledger.put_fact(Fact(FactKind.BREAKER, "openai", now - 30, now - 90, "5 failures in a row"))
    ledger.put_fact(Fact(FactKind.COOLDOWN, "openai/m#k", now - 30, now - 90, "it is throttled"))
    ledger.flush_sync()
    (row,) = attune.json("breakers")["domains"]
    assert (row["domain"], row["state"]) == ("openai", "half-open (a probe is allowed)")
    assert (row["until"], row["seconds_left"]) == (None, 0.0)
    out = attune("breakers")[1]
    assert "half-open (a probe is allowed)" in out
    assert "everything is closed" not in out
    ledger.put_fact(Fact(FactKind.BREAKER, "openai", 0, now, "closed"))
    ledger.flush_sync()
    assert [row["state"] for row in attune.json("breakers")["domains"]] == ["closed"]


# -- reset --------------------------------------------------------------------------------------------

LOGIN = "nobody is logged in who could pay"
NO_MODEL = "this credential does not have the model"


@pytest.fixture
def tripped(ledger):
    """An open circuit, a half-open one, a cooldown, credentials and models that are off, and quota."""
    now = time.time()
    for fact in (
        Fact(FactKind.BREAKER, "openai", now + 60, now, "5 failures in a row"),
        Fact(FactKind.BREAKER, "gemini", now - 5, now - 60, "5 failures in a row"),
        Fact(FactKind.COOLDOWN, "openai/m#api_key", now + 500, now, "it is throttled"),
        Fact(FactKind.MODEL_OFF, "openai/m#api_key", now + 600, now, NO_MODEL),
        Fact(FactKind.CREDENTIAL_OFF, "claude#subscription", now + 300, now, LOGIN),
        Fact(FactKind.CREDENTIAL_OFF, "plan#subscription", now + 9000, now, USED_UP),
        Fact(FactKind.MODEL_OFF, "claude#subscription#opus", now + 9000, now, USED_UP),
        Fact(FactKind.QUOTA, "claude#subscription#five_hour", now + 9000, now, "10% used", "[]"),
    ):
        ledger.put_fact(fact)
    ledger.flush_sync()
    return ledger


def holding(store) -> set[str]:
    return {fact.key for fact in store.facts() if fact.until and fact.kind is not FactKind.QUOTA}


def test_a_reset_of_one_name_clears_that_alone_for_every_process(attune, tripped):
    domains = FailureDomains()
    domains.learn(tripped.facts())
    claude = Candidate("claude", "claude-haiku-5-5", "subscription")
    assert domains.refusal(claude).domain == "claude#subscription"
    before = holding(tripped)
    code, out = attune("breakers", "--reset", "claude#subscription")
    assert (code, out) == (0, f"cleared: claude#subscription (credential off: {LOGIN})\n")
    assert before - holding(tripped) == {"claude#subscription"}
    domains.learn(tripped.facts())
    assert domains.refusal(claude) is None
    assert "everything" not in attune("breakers")[1]


def test_a_reset_of_all_leaves_what_is_used_up_until_its_reset_and_says_so(attune, tripped):
    code, out = attune("breakers", "--reset")
    assert code == 0
    assert out.splitlines() == [
        "cleared: gemini (half-open (a probe is allowed): 5 failures in a row)",
        "cleared: openai (open: 5 failures in a row)",
        "cleared: openai/m#api_key (cooling down: it is throttled)",
        f"cleared: claude#subscription (credential off: {LOGIN})",
        f"cleared: openai/m#api_key (model off: {NO_MODEL})",
        f"left: plan#subscription (credential off: {USED_UP}): give its name to have it asked all the same",
        f"left: claude#subscription#opus (model off: {USED_UP}): give its name to have it asked all the same",
    ]
    assert holding(tripped) == {"plan#subscription", "claude#subscription#opus"}
    domains, opus = FailureDomains(), Candidate("claude", "claude-opus-5-5", "subscription")
    domains.learn(tripped.facts())
    assert domains.refusal(opus).error_class is ErrorClass.WINDOW_SPENT
    assert attune.json("breakers", "--reset", "claude#subscription#opus") == {
        "cleared": [{"domain": "claude#subscription#opus", "kind": "model_off", "detail": USED_UP}],
        "left": [],
    }
    domains.learn(tripped.facts())
    assert domains.refusal(opus) is None


def test_a_reset_of_an_unknown_name_names_the_nearest_and_one_of_nothing_says_so(attune, tripped):
    assert attune("breakers", "--reset", "claude#subscripton")[0] == 2
    assert "unknown domain 'claude#subscripton'" in attune.err
    assert "did you mean 'claude#subscription'?" in attune.err
    for name in sorted(holding(tripped)):
        assert attune("breakers", "--reset", name)[0] == 0
    assert attune("breakers", "--reset") == (0, "nothing is tripped, off or cooling down: nothing to clear\n")


def test_a_reset_before_the_first_call_makes_no_ledger(attune):
    assert attune("breakers", "--reset") == (0, "nothing is tripped, off or cooling down: nothing to clear\n")
    assert not (attune.home / "data").exists()
