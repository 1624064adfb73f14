"""The commands that only look: models, tasks, stats, breakers; and outcomes told later."""

from __future__ import annotations

import re
import time

import pytest

from attune.models.state import Fact, FactKind
from attune.models.tasks import TASK_TIER_MAP
from attune.models.telemetry import CostStatus, LLMCallRecord, Outcome, TokenUsage
from attune.stores.sqlite import SqliteStore


@pytest.fixture
def ledger(attune):
    """The ledger as a running process writes it."""
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    yield store
    store.close()


def attempt(number: int, **fields: object) -> LLMCallRecord:
    base = LLMCallRecord(
        call_id=f"call-{number}",
        attempt_id=f"attempt-{number}",
        decision_id="d",
        at=time.time(),
        workflow="review",
        stage="read",
        task_type="fix_bug",
        provider="openai",
        model_id="gpt-6.1-terra",
        tier="capable",
        credential="api_key",
        success=True,
        latency_ms=100.0,
        usage=TokenUsage(1000, 500),
        cost_nanos=3_500_000,
        cost_status=CostStatus.EXACT,
    )
    return base._replace(**fields)


# -- models and tasks ---------------------------------------------------------------------------------


def test_models_shows_tiers_prices_and_who_is_enrolled(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-not-a-secret")
    shown = attune.json("models")
    terra = next(row for row in shown["models"] if row["id"] == "gpt-6.1-terra")
    assert (terra["tier"], terra["input_price"], terra["output_price"]) == ("capable", 1.0, 5.0)
    assert terra["credentials"] == ["api_key"]
    assert {row["enrolled"] for row in shown["models"] if row["provider"] != "openai"} == {False}
    assert [provider["source"] for provider in shown["providers"]] == ["environment OPENAI_API_KEY"]
    _, out = attune("models")
    assert "openai: enrolled by environment OPENAI_API_KEY" in out
    assert "canary" not in out


def test_models_marks_what_a_tier_leaves_out_and_prices_that_are_unknown(attune):
    attune.configure(
        '[tiers]\ncapable = ["openai/gpt-6.1-terra"]\n'
        '[[models]]\nid = "m"\nprovider = "ollama"\ntier = "cheap"\ncontext_window = 10'
    )
    _, out = attune("models")
    assert "capable (not listed)" in out
    assert "unknown" in next(line for line in out.splitlines() if "ollama/m" in line)
    assert "no provider is enrolled: set ANTHROPIC_API_KEY" in out


def test_tasks_lists_every_known_task_and_marks_the_realtime_ones(attune):
    rows = attune.json("tasks")["tasks"]
    assert {row["task"]: row["tier"] for row in rows} == {t: tier.value for t, tier in TASK_TIER_MAP.items()}
    assert {row["task"] for row in rows if row["realtime"]} >= {"chat", "emergency_response"}
    assert "latency leads" in attune("tasks")[1]


# -- stats --------------------------------------------------------------------------------------------


def test_stats_sums_a_workflow_by_model(attune, ledger):
    for number in range(4):
        ledger.append_attempt(attempt(number, success=number > 0, error_class="" if number else "transient"))
    ledger.append_attempt(attempt(9, cost_nanos=None, cost_status=CostStatus.UNKNOWN))
    ledger.append_attempt(attempt(10, workflow="other"))
    ledger.flush_sync()
    (stats,) = attune.json("stats", "review")["workflows"]
    assert (stats["attempts"], stats["success_rate"], stats["unknown_cost_attempts"]) == (5, 0.8, 1)
    assert stats["models"][0]["p95_latency_ms"] == pytest.approx(100, rel=0.02)
    _, out = attune("stats")
    assert "review: 5 attempts within 7 days, 80.0% succeeded, $0.014000 and 1 attempt of unknown cost" in out
    assert "other: 1 attempt within" in out


@pytest.mark.parametrize(("calls", "shown"), [(19, "max 100"), (20, "100")])
def test_the_95th_percentile_of_a_few_attempts_is_called_the_longest_that_it_is(attune, ledger, calls, shown):
    for number in range(calls):
        ledger.append_attempt(attempt(number))
    ledger.flush_sync()
    row = next(line for line in attune("stats")[1].splitlines() if "gpt-6.1-terra" in line)
    assert re.search(rf"  {shown}  +0$", row)


def test_savings_are_told_only_where_a_premium_model_is_enrolled_to_compare_with(attune, ledger, monkeypatch):
    ledger.append_attempt(attempt(1))
    ledger.flush_sync()
    assert "; no premium model is enrolled to compare with" in attune("stats")[1]
    assert "always-premium" not in attune("stats")[1]
    monkeypatch.setenv("OPENAI_API_KEY", "canary-not-a-secret")
    assert "saved against always-premium: $0.0" in attune("stats")[1]


def test_stats_narrows_to_a_stage_and_a_number_of_days(attune, ledger):
    ledger.append_attempt(attempt(1))
    ledger.append_attempt(attempt(2, stage="write", at=time.time() - 20 * 86_400))
    ledger.flush_sync()
    assert [w["attempts"] for w in attune.json("stats", "review", "--days", "30")["workflows"]] == [2]
    narrowed = attune.json("stats", "review", "--stage", "read", "--days", "30")
    assert [w["attempts"] for w in narrowed["workflows"]] == [1]
    assert [w["attempts"] for w in attune.json("stats")["workflows"]] == [1]
    assert "review/read: 1 attempt within" in attune("stats", "review", "--stage", "read")[1]


def test_stats_ends_with_the_totals_of_the_ledger_cancelled_attempts_included(attune, ledger):
    ledger.append_attempt(attempt(1))
    ledger.append_attempt(
        attempt(
            2, success=False, error_class="cancelled", cost_nanos=1_000_000, cost_status=CostStatus.ESTIMATED
        )
    )
    ledger.append_attempt(
        attempt(2, attempt_id="again", position=1, cost_nanos=None, cost_status=CostStatus.UNKNOWN)
    )
    ledger.flush_sync()
    _, out = attune("stats", "review")
    assert out.splitlines()[-1] == (
        "the ledger, all workflows within 7 days: 2 calls, 3 attempts (1 failed), $0.004500 and 1 attempt of "
        "unknown cost; estimated costs, if any, are included"
    )
    assert "; 1 attempt says nothing of its model and is not counted above; " in attune("stats")[1]
    totals = attune.json("stats")["totals"]
    assert (totals["calls"], totals["attempts"], totals["failed_attempts"]) == (2, 3, 1)
    assert (totals["cost_usd"], totals["unknown_cost_attempts"]) == (pytest.approx(0.0045), 1)
    assert "within 1 day," in attune("stats", "--days", "1")[1]


def test_stats_with_nothing_but_a_cancelled_attempt_shows_what_it_cost(attune, ledger):
    ledger.append_attempt(attempt(1, success=False, error_class="cancelled"))
    ledger.flush_sync()
    assert "1 attempt (1 failed), $0.003500;" in attune("stats")[1]


def test_stats_tells_success_from_quality_and_doubts_a_validator_that_always_says_yes(attune, ledger):
    for number in range(40):
        ledger.append_attempt(attempt(number, attempt_id=f"{number}.0"))
        if number < 30:
            verdict = Outcome(f"call-{number}", time.time(), True, 0.75, f"{number}.0", "validator")
            ledger.append_outcome(verdict)
    ledger.flush_sync()
    (shown,) = attune.json("stats", "review")["workflows"]
    assert (shown["labelled"], shown["labelled_share"], shown["quality"]) == (30, 0.75, 0.75)
    assert [model["quality"] for model in shown["models"]] == [0.75]
    _, out = attune("stats", "review")
    assert "75.0% have an outcome (quality 0.750)" in " ".join(out.split())
    assert "doubtful: read: its validator let all 30 answers pass" in " ".join(out.split())


def test_stats_without_outcomes_knows_no_quality(attune, ledger):
    ledger.append_attempt(attempt(1))
    ledger.flush_sync()
    assert attune.json("stats")["workflows"][0]["quality"] is None
    _, out = attune("stats")
    assert "0.0% have an outcome" in " ".join(out.split())
    assert "quality 0" not in out


def test_a_name_that_is_very_long_is_cut(attune, ledger):
    ledger.append_attempt(attempt(1, workflow="w" * 500))
    ledger.flush_sync()
    assert attune("stats")[1].startswith("w" * 100 + "...: 1 attempt")


def test_stats_knows_no_cost_where_none_is_known(attune, ledger, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-not-a-secret")
    ledger.append_attempt(attempt(1, cost_nanos=None, cost_status=CostStatus.UNKNOWN))
    ledger.flush_sync()
    _, out = attune("stats")
    assert "saved against always-premium: unknown" in out


def test_a_name_out_of_the_ledger_cannot_control_the_terminal(attune, ledger):
    ledger.append_attempt(attempt(1, workflow="evil\x1b[2J"))
    ledger.flush_sync()
    assert "\x1b" not in attune("stats")[1]


def test_stats_names_the_nearest_workflow_and_stage(attune, ledger):
    ledger.append_attempt(attempt(1))
    ledger.flush_sync()
    assert attune("stats", "reveiw")[0] == 2
    assert "did you mean 'review'?" in attune.err
    assert attune("stats", "review", "--stage", "raed")[0] == 2
    assert "did you mean 'read'?" in attune.err


@pytest.mark.parametrize(
    ("args", "says"),
    [(["--days", "0"], "--days must be from 1"), (["--stage", "x"], "name the workflow too")],
)
def test_stats_refuses_what_makes_no_sense(attune, args, says):
    assert attune("stats", *args) == (2, "")
    assert says in attune.err


def test_stats_before_the_first_call_says_so_and_makes_nothing(attune):
    assert attune("stats") == (0, "no calls within the last 7 days\n")
    shown = attune.json("stats")
    assert (shown["workflows"], shown["totals"]["attempts"]) == ([], 0)
    assert not (attune.home / "data").exists()


# -- breakers -----------------------------------------------------------------------------------------


def test_breakers_shows_what_a_running_process_found_out(attune, ledger):
    now = time.time()
    ledger.put_fact(Fact(FactKind.BREAKER, "openai", now + 60, now, "5 failures in a row"))
    ledger.put_fact(Fact(FactKind.COOLDOWN, "openai/m#k", now + 50, now, "it is throttled"))
    ledger.put_fact(Fact(FactKind.BREAKER, "gemini", 0, now, "closed"))
    ledger.flush_sync()
    rows = {row["domain"]: row for row in attune.json("breakers")["domains"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "openai": "open",
        "openai/m#k": "cooling down",
        "gemini": "closed",
    }
    assert rows["openai"]["until"] == now + 60
    assert rows["gemini"]["until"] is None
    _, out = attune("breakers")
    assert "5 failures in a row" in out


def test_breakers_before_anything_happened_says_so(attune):
    assert attune("breakers") == (0, "everything is closed: nothing is tripped, off or cooling down\n")


def test_a_ledger_that_is_none_is_a_clear_line_and_stays(attune, monkeypatch):
    (attune.home / "data").mkdir()
    (attune.home / "data" / "ledger.db").write_text("this is no database, whatever its name says")
    monkeypatch.setenv("OPENAI_API_KEY", "canary-not-a-secret")
    for command in ("breakers", "stats", "route"):
        assert attune(command)[0] == 3
        assert "ledger.db" in attune.err
        assert "move the file aside" in attune.err
        assert attune.err.count("\n") == 1
    assert [file.name for file in (attune.home / "data").iterdir()] == ["ledger.db"]


# -- outcomes -----------------------------------------------------------------------------------------


def test_an_outcome_changes_the_statistics(attune, ledger):
    ledger.append_attempt(attempt(1))
    ledger.flush_sync()
    code, out = attune("outcome", "call-1", "--failure", "--score", "0.25")
    assert (code, out) == (0, "recorded failure of call-1: openai/gpt-6.1-terra\n")
    assert attune.json("stats", "review")["workflows"][0]["success_rate"] == 0.0
    again = attune.json("outcome", "call-1", "--success")
    assert (again["previous"], again["success"], again["score"]) == (False, True, None)
    assert attune.json("stats", "review")["workflows"][0]["success_rate"] == 1.0


@pytest.mark.parametrize("command", [("outcome", "call-2", "--success"), ("doctor",)], ids=" ".join)
def test_a_command_that_writes_keeps_records_as_long_as_configured(attune, command):
    attune.configure("[ledger]\nretention_days = 365")
    store = SqliteStore.open(attune.home / "data" / "ledger.db", retention_days=365)
    store.append_attempt(attempt(1, at=time.time() - 200 * 86_400))
    store.append_attempt(attempt(2))
    store.close()
    attune(*command)
    assert len(SqliteStore.open_readonly(attune.home / "data" / "ledger.db").attempts("call-1")) == 1


def test_an_outcome_of_a_call_that_is_not_there_is_refused(attune, ledger):
    assert attune("outcome", "call-1", "--success")[0] == 2
    ledger.append_attempt(attempt(1))
    ledger.flush_sync()
    assert attune("outcome", "call-2", "--success")[0] == 2
    assert "unknown call 'call-2' in the ledger; did you mean 'call-1'?" in attune.err
    assert attune("outcome", "nope", "--success")[0] == 2
    assert "unknown call 'nope' in the ledger; `attune calls` lists them" in attune.err
    assert "call-1" not in attune.err


def test_an_outcome_keeps_a_corrupt_ledger_aside_and_says_so(attune):
    file = attune.home / "data" / "ledger.db"
    file.parent.mkdir()
    file.write_bytes(b"no database " * 100)
    assert attune("outcome", "call-1", "--success")[0] == 2
    assert "it was kept as" in attune.err
    assert [kept.read_bytes()[:11] for kept in file.parent.glob("ledger.db.corrupt-*")] == [b"no database"]


def test_an_outcome_without_a_ledger_makes_none(attune):
    assert attune("outcome", "call-1", "--success")[0] == 2
    assert not (attune.home / "data").exists()


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan"])
def test_a_score_beyond_0_to_1_is_refused(attune, score):
    assert attune("outcome", "call-1", "--success", f"--score={score}") == (2, "")
    assert "--score must be from 0 to 1" in attune.err
