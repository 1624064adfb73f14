"""``attune quota``: the windows of a plan, as bars."""

from __future__ import annotations

import sys
import time

import pytest

from attune.models.quota import QuotaWindow, fact_of
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import attempt

PLAN = '[providers.claude]\nkind = "claude_subscription"\n'
HOUR = 3600.0


@pytest.fixture
def planned(attune):
    attune.configure(PLAN)
    return attune


def told(attune, *windows, calls=()) -> None:
    """What the plan told of, and calls that it paid for, by their times."""
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    for window in windows:
        store.put_fact(fact_of(window, "claude", "subscription"))
    for number, at in enumerate(calls):
        paid = {"provider": "claude", "credential": "subscription", "cost_nanos": 0, "list_cost_nanos": 5}
        store.append_attempt(attempt(f"c{number}", at=at, **paid))
    store.close()


def test_each_window_is_a_bar_with_its_reset_its_burn_and_how_old_the_news_is(planned):
    now = time.time()
    calls = [now - 7200 + 60 * minute for minute in range(100)]
    told(
        planned,
        QuotaWindow("seven_day", 0.2, now + 96 * HOUR, now - 300),
        QuotaWindow("five_hour", 0.6, now + 3 * HOUR, now - 300),
        QuotaWindow("seven_day_opus", None, None, now - 300),
        calls=calls,
    )
    code, out = planned("quota")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "claude subscription"
    assert [line.split()[0] for line in lines[1:7:2]] == ["five_hour", "seven_day", "seven_day_opus"]
    assert lines[1].endswith("60% used")
    assert sum(lines[1].count(full) for full in "\u2588#") == 12
    assert "resets in 3 h" in lines[2]
    assert "% an hour; used up in " in lines[2]
    assert lines[2].endswith("learned 5 min ago")
    assert lines[5].endswith("unknown")
    assert "reset not known; learned" in lines[6]


def test_a_terminal_of_80_columns_has_room_for_all_of_it(planned, monkeypatch):
    now = time.time()
    calls = [now - 7200 + 60 * minute for minute in range(100)]
    names = ("five_hour", "seven_day", "seven_day_" + "x" * 40, "odd\x1b[31m name")
    told(planned, *(QuotaWindow(name, 0.6, now + 3 * HOUR, now) for name in names), calls=calls)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    lines = planned("quota")[1].splitlines()
    assert len(lines) > 9
    assert [line for line in lines if len(line) > 80 or "\x1b" in line] == []


def test_a_program_reads_the_same(planned):
    now = time.time()
    told(planned, QuotaWindow("five_hour", 0.5, now + 2.5 * HOUR, now), calls=[now - 9000, now - 10])
    found = planned.json("quota")
    assert found["plans"] == ["claude"]
    (window,) = found["windows"]
    assert (window["provider"], window["credential"]) == ("claude", "subscription")
    assert (window["window"], window["utilization"], window["spent"]) == ("five_hour", 0.5, False)
    assert window["burn_per_hour"] == pytest.approx(0.2, rel=0.01)
    times = [window["runs_out"][name] or window["resets_at"] for name in ("earliest", "expected", "latest")]
    assert times == sorted(times)
    assert now < times[0]
    assert times[2] <= window["resets_at"]


def test_a_window_that_is_used_up_says_so_and_after_its_reset_it_is_unused(planned):
    now = time.time()
    told(
        planned,
        QuotaWindow("five_hour", 1.0, now - 60, now - 600),
        QuotaWindow("seven_day", 1.02, now + 9 * HOUR, now - 600),
    )
    five, week = planned.json("quota")["windows"]
    assert (five["utilization"], five["resets_at"], five["spent"]) == (0.0, None, False)
    assert (week["spent"], week["runs_out"]) == (True, None)
    out = planned("quota")[1]
    assert "used up; learned 10 min ago" in out
    assert "102% used" in out


def test_what_is_not_known_says_how_it_gets_known(planned):
    assert "claude: nothing is known yet" in planned("quota")[1]
    told(planned)
    code, out = planned("quota")
    assert code == 0
    assert "attune run --model claude/claude-haiku-5-5 hi" in out
    planned.configure("")
    assert 'kind = "claude_subscription"' in planned("quota")[1]
    told(planned, QuotaWindow("five_hour", 0.5, None, time.time()))
    nothing = {"plans": [], "windows": [], "overflow": None}
    assert planned.json("quota") == nothing, "the plan is not enrolled any more"


def test_colours_and_blocks_are_only_for_terminals_that_have_them(planned, monkeypatch):
    from attune.cli.quota import _bar

    assert "\x1b" not in _bar(0.95)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert [_bar(used)[:5] for used in (0.95, 0.75, 0.1)] == ["\x1b[31m", "\x1b[33m", "\x1b[32m"]
    assert "\x1b" not in _bar(None)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in _bar(0.95)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in _bar(0.95)


def test_windows_are_no_breakers(planned):
    now = time.time()
    told(planned, QuotaWindow("five_hour", 0.5, now + 60, now))
    assert planned.json("breakers") == {"domains": []}
    assert "five_hour" not in planned("doctor")[1]
