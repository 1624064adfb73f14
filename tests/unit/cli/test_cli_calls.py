"""``attune calls``: looking back at calls from the command line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from attune.models.explanation import Flip
from attune.models.telemetry import (
    DecisionRecord,
    DroppedCandidate,
    LLMCallRecord,
    Outcome,
    ScoredCandidate,
    TokenUsage,
)
from attune.stores import _chains
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import FAILED, NOW, attempt
from unit.stores.test_sqlite_chains import decision

RANKED = ScoredCandidate(
    "mine", "m", "none", "capable", 0.8, 0.9, 900.0, 0.001, 12, 1, 1.0, "chosen: it is the best"
)
DROPPED = DroppedCandidate("mine", "n", "api_key", "capable", "its window is too small")
OF_MINE = {"provider": "mine", "model_id": "m", "credential": "none", "latency_ms": 1200.0}


@pytest.fixture
def ledger(attune):
    """A ledger of five calls: answered, rescued, failed, judged no good, and one without any candidate."""
    with contextlib.closing(SqliteStore.open(attune.home / "data" / "ledger.db", clock=lambda: NOW)) as store:
        whole = decision("aa-answered")._replace(
            ranked=(RANKED,), dropped=(DROPPED,), reason="mine/m: because", notes=("a remark",)
        )
        store.append_decision(whole)
        store.append_attempt(attempt("aa-answered", **OF_MINE))
        store.append_decision(whole._replace(call_id="ab-rescued", decision_id="d2"))
        store.append_attempt(attempt("ab-rescued", attempt_id="0", **FAILED))
        again = {"at": NOW + 2, "position": 1, "chosen_by_policy": False, "cost_status": "estimated"}
        store.append_attempt(attempt("ab-rescued", attempt_id="1", **OF_MINE, **again))
        store.append_decision(decision("ac-failed")._replace(ranked=(RANKED,), workflow="nightly"))
        store.append_attempt(attempt("ac-failed", workflow="nightly", **FAILED))
        store.append_decision(decision("ad-no-good")._replace(ranked=(RANKED,)))
        store.append_attempt(attempt("ad-no-good", **OF_MINE))
        store.record_outcome(Outcome("ad-no-good", NOW, success=False, score=0.25))
        store.append_decision(decision("ae-nobody"))
        store.flush_sync()
        yield store


def rows(attune, *args: str) -> dict[str, str]:
    """Each call's id and line."""
    code, out = attune("calls", *args)
    assert code == 0, attune.err
    return {line.split()[3]: line for line in out.splitlines()[2:] if " UTC  " in line}


def test_the_newest_calls_stand_first_each_with_who_answered_what_it_took_and_how_it_ended(attune, ledger):
    found = rows(attune)
    assert list(found) == ["ae-nobody", "ad-no-good", "ac-failed", "ab-rescued", "aa-answered"]
    assert {call: line.split("  ")[-1] for call, line in found.items()} == {
        "ae-nobody": "no candidate",
        "ad-no-good": "answered, no good",
        "ac-failed": "failed: transient",
        "ab-rescued": "answered",
        "aa-answered": "answered",
    }
    assert found["aa-answered"].startswith("2027-01-15 08:00:00 UTC")
    assert " review/security/review_security   mine/m (no key needed) " in found["aa-answered"]
    assert found["aa-answered"].split()[-5:-1] == ["1,000", "200", "$0.004000", "1200"]
    assert found["ab-rescued"].split()[-5:-1] == ["1,000", "200", "unknown", "3200"]
    assert found["ae-nobody"].split()[5:-2] == ["-", "-", "-", "$0.00", "-"]


def test_the_calls_can_be_narrowed_to_the_last_those_of_a_workflow_and_those_that_failed(attune, ledger):
    assert list(rows(attune, "--last", "2")) == ["ae-nobody", "ad-no-good"]
    assert list(rows(attune, "--failed")) == ["ae-nobody", "ad-no-good", "ac-failed"]
    assert list(rows(attune, "--workflow", "nightly")) == ["ac-failed"]
    assert "no more such calls among the newest 200,000" in attune("calls", "--failed")[1]
    assert attune("calls", "--workflow", "x") == (0, "no such call among the newest 200,000\n")


def test_for_programs_a_call_in_short_has_what_the_table_has(attune, ledger):
    calls = {each["call_id"]: each for each in attune.json("calls")["calls"]}
    assert calls["ab-rescued"] == {
        "call_id": "ab-rescued",
        "at": NOW,
        "workflow": "review",
        "stage": "security",
        "task_type": "review_security",
        "provider": "mine",
        "model": "m",
        "tier": "capable",
        "credential": "none",
        "attempts": 2,
        "input_tokens": 1000,
        "output_tokens": 200,
        "cost_usd": None,
        "list_cost_usd": None,
        "by_credits": False,
        "latency_ms": pytest.approx(3200),
        "answered": True,
        "error_class": "",
        "outcome": None,
    }
    assert calls["aa-answered"]["cost_usd"] == 0.004000001
    nobody = calls["ae-nobody"]
    assert (nobody["provider"], nobody["latency_ms"], nobody["answered"]) == (None, None, False)
    assert (calls["ac-failed"]["error_class"], calls["ad-no-good"]["outcome"]) == ("transient", False)


def test_what_a_plan_or_credits_paid_is_told_from_what_was_billed(attune, ledger):
    plan = {"provider": "claude", "credential": "subscription", "cost_nanos": 0, "list_cost_nanos": 2_046_000}
    ledger.append_decision(decision("af-plan"))
    ledger.append_attempt(attempt("af-plan", attempt_id="0", **FAILED | plan | {"list_cost_nanos": None}))
    ledger.append_attempt(attempt("af-plan", attempt_id="1", position=1, **plan))
    ledger.append_decision(decision("ag-credits")._replace(ranked=(RANKED._replace(by_credits=True),)))
    ledger.append_attempt(attempt("ag-credits", **OF_MINE))
    ledger.flush_sync()
    found = rows(attune)
    assert "  $0.00 (worth $0.002046)  " in found["af-plan"]
    assert "  $0.004000 (credits)  " in found["ag-credits"]
    calls = {each["call_id"]: each for each in attune.json("calls")["calls"]}
    assert (calls["af-plan"]["list_cost_usd"], calls["af-plan"]["by_credits"]) == (0.002046, False)
    assert (calls["ag-credits"]["list_cost_usd"], calls["ag-credits"]["by_credits"]) == (None, True)


def test_a_call_in_full_has_its_decision_as_route_shows_it_its_attempts_and_its_outcome(attune, ledger):
    code, out = attune("calls", "ab")
    lines = out.splitlines()
    assert code == 0
    assert lines[:3] == [
        "call ab-rescued, 2027-01-15 08:00:00 UTC: review/security/review_security",
        "mine/m: because",
        "note: a remark",
    ]
    assert "1  mine/m (no key needed)  capable  p 1" in lines
    assert "mine/n#api_key  its window is too small" in lines
    first, second = (line for line in lines if line.startswith(("1  anthropic", "2  mine")))
    assert first.split("  ")[-1] == "transient (overloaded_error)"
    assert "$0.004000 (estimated)" in second
    assert second.endswith("answered (stop); not chosen by the policy")
    assert lines[-1] == "answered; unknown and 3200 ms in all"
    assert attune("calls", "ad")[1].splitlines()[-1] == (
        "a caller said at 2027-01-15 08:00:00 UTC: no good, score 0.25"
    )


def test_what_a_plan_paid_for_is_shown_with_its_worth(attune, ledger):
    ledger.append_decision(decision("ag")._replace(ranked=(RANKED,)))
    ledger.append_attempt(attempt("ag", cost_nanos=0, list_cost_nanos=12_000_000))
    ledger.flush_sync()
    assert "$0.00" in rows(attune)["ag"]
    assert "answered (stop), worth $0.012000 at list price" in attune("calls", "ag")[1]


def test_what_was_never_tried_says_so(attune, ledger):
    assert attune("calls", "ae")[1].splitlines()[-1] == "nobody was asked: there was no candidate"
    ledger.append_decision(decision("af")._replace(ranked=(RANKED,)))
    ledger.flush_sync()
    assert attune("calls", "af")[1].splitlines()[-1] == "no attempt was recorded"
    assert rows(attune)["af"].endswith("not tried")


def test_a_call_in_full_tells_on_request_what_would_have_changed_the_choice(attune, ledger):
    assert "would have changed the choice" not in attune("calls", "aa")[1]
    assert "would the choice have been another" in attune("calls", "aa", "--flips")[1]


def test_for_programs_a_call_in_full_is_what_the_gateway_tells_of_it(attune, ledger):
    shown = attune.json("calls", "ad-no-good")
    assert set(shown) == {"decision", "flips", "attempts", "outcomes"}
    assert shown["decision"]["ranked"][0]["model_id"] == "m"
    assert (shown["attempts"][0]["cost_nanos"], shown["outcomes"][0]["score"]) == (4_000_001, 0.25)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["a"], "several calls begin with 'a': aa-answered, ab-rescued, ...; give more of the id"),
        (["zz"], "unknown call 'zz' in the ledger; `attune calls` lists them"),
        (["aa-answred"], "unknown call 'aa-answred' in the ledger; did you mean 'aa-answered'?"),
        ([""], "unknown call '' in the ledger; `attune calls` lists them"),
        (["\udce9"], "the id of the call is not UTF-8 text"),
        (["--workflow", "\udce9"], "--workflow is not UTF-8 text"),
        (["--last", "0"], "--last must be from 1 to 1000, not 0"),
        (["--last", "1001"], "--last must be from 1 to 1000, not 1001"),
        (["aa", "--failed"], "--last, --failed and --workflow choose among calls: leave them or ID out"),
        (["--flips"], "--flips is of one call: give its ID"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_one_line_with_what_to_do(attune, ledger, args, says):
    assert attune("calls", *args) == (2, "")
    assert attune.err == f"attune: {says}\n"


def test_before_the_first_call_there_is_none_and_nothing_is_written(attune):
    assert attune("calls") == (0, "no calls yet\n")
    assert attune.json("calls") == {"calls": []}
    assert attune("calls", "aa")[0] == 2
    assert list(attune.home.iterdir()) == []


def test_how_far_back_is_looked_is_said(attune, ledger, monkeypatch):
    monkeypatch.setattr(_chains, "LOOKED_AT", 2)
    assert attune("calls", "--workflow", "nightly")[1] == "no such call among the newest 2\n"


def test_an_outcome_takes_the_beginning_of_an_id_too(attune, ledger):
    assert attune("outcome", "aa", "--success") == (0, "recorded success of aa-answered: mine/m\n")
    assert rows(attune)["aa-answered"].endswith("answered, good")
    assert attune("outcome", "ae", "--success") == (2, "")
    assert attune.err == "attune: the call ae-nobody has no attempt that an outcome could be of\n"
    assert attune("outcome", "\udce9", "--success") == (2, "")
    assert attune("outcome", "a", "--success") == (2, "")


RECORDS = (DecisionRecord, ScoredCandidate, DroppedCandidate, Flip, LLMCallRecord, TokenUsage, Outcome)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_reference_says_what_every_field_is(record):
    page = Path(__file__).parents[3] / "docs" / "reference" / "library.md"
    section = page.read_text().partition("## A call as JSON")[2].partition("\n## ")[0]
    assert [name for name in record._fields if f"`{name}`" not in section] == []
