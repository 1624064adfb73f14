"""A Claude plan as its user has it: ``attune`` and ``claude`` are real, Anthropic is played on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from attune.models.prices import cost_nanos
from attune.models.registry import ModelRegistry
from attune.models.telemetry import TokenUsage
from attune.providers._claude_process import find_program
from support.claude_login import HAS_PROGRAM, TOKEN, logged_in
from support.program import Ended, Program
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not HAS_PROGRAM, reason="the claude program is not installed")

PLAN = '[providers.claude]\nkind = "claude_subscription"\n[call]\nconnect_seconds = 60\n'


class Desk(Program):
    """A user with a plan; the ``claude`` on their PATH finds Anthropic at the test's upstream."""

    async def ask(self, *args: str) -> Ended:
        """Run ``attune`` while the upstream answers in this loop."""
        return await asyncio.to_thread(self, *args)

    async def answer(self, model: str = "claude/claude-sonnet-5-5") -> dict[str, Any]:
        ended = await self.ask("run", "--json", "--model", model, "hi")
        assert ended.code == 0, ended.err
        return json.loads(ended.out) | {"said": ended.err}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
async def desk(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[Desk]:
    async with logged_in(tmp_path, upstream.url) as login:
        desk = Desk(tmp_path)
        desk.install("claude", f'ANTHROPIC_BASE_URL={upstream.url} exec {find_program({})} "$@"')
        desk.environ |= {name: value for name, value in login.environ.items() if name != "PATH"}
        desk.configure(PLAN)
        yield desk


async def test_an_answer_that_the_plan_pays_for_costs_nothing_and_its_worth_is_said_and_kept(
    desk: Desk,
) -> None:
    found = await desk.answer()
    (model,) = (m for m in ModelRegistry.default().find("anthropic/claude-sonnet-5-5"))
    assert model.prices is not None
    worth = cost_nanos(TokenUsage(12, 7), model.prices, time.time()) / 1e9
    assert (found["credential"], found["cost_usd"], found["cost_status"]) == ("subscription", 0.0, "exact")
    assert found["list_cost_usd"] == worth
    assert f"$0.00, worth ${worth:.6f} at list price" in found["said"]
    stats = await desk.ask("stats")
    assert f"a plan paid for, worth ${worth:.6f} at list price" in stats.out
    totals = json.loads((await desk.ask("stats", "--json")).out)["totals"]
    assert (totals["cost_usd"], totals["list_cost_usd"]) == (0.0, worth)
    assert TOKEN not in str(found) + stats.out


def unified(status: str, **more: Any) -> dict[str, str]:
    """The headers in which the servers speak of a plan."""
    names = {"status": status, **{name.replace("__", "-"): str(value) for name, value in more.items()}}
    return {f"anthropic-ratelimit-unified-{name}": value for name, value in names.items()}


async def test_what_the_plan_tells_of_its_windows_is_known_to_every_process_after_it(
    desk: Desk, upstream: FakeUpstream
) -> None:
    reset = int(time.time()) + 7200
    told = {"5h-utilization": 0.42, "5h-reset": reset, "7d-utilization": 0.07, "7d-reset": reset + 9}
    upstream.default = Answer(headers=unified("allowed", **told))
    before = json.loads((await desk.ask("quota", "--json")).out)
    assert (before["plans"], before["windows"]) == (["claude"], [])
    await desk.answer()
    windows = json.loads((await desk.ask("quota", "--json")).out)["windows"]
    assert [(each["window"], each["utilization"], each["resets_at"]) for each in windows] == [
        ("five_hour", 0.42, reset),
        ("seven_day", 0.07, reset + 9),
    ]
    assert all(abs(each["learned_at"] - time.time()) < 300 for each in windows)
    assert "five_hour  " in (await desk.ask("auth", "status")).out + (await desk.ask("quota")).out


async def test_a_spent_window_of_opus_leaves_the_rest_of_the_plan_and_is_not_asked_again_before_its_reset(
    desk: Desk, upstream: FakeUpstream
) -> None:
    reset = int(time.time()) + 7200
    headers = unified("rejected", reset=reset, representative__claim="seven_day_opus")
    message = "You've reached your Opus limit"
    upstream.then(
        Answer(status=429, error_type="rate_limit_error", error_message=message, headers=headers),
    )
    opus = ("run", "--json", "--model", "claude/claude-opus-5-5", "hi")
    first = await desk.ask(*opus)
    assert first.code == 5, first.err
    assert len(upstream.received) == 1
    again = await desk.ask(*opus)
    assert again.code == 5
    assert "its quota window is used up" in again.err
    assert len(upstream.received) == 1, "known to be spent, it is not asked"
    assert (await desk.answer())["credential"] == "subscription"
    (off,) = json.loads((await desk.ask("breakers", "--json")).out)["domains"]
    assert (off["domain"], off["state"]) == ("claude#subscription#opus", "model off")
    assert off["until"] == pytest.approx(reset, abs=60)
    (spent,) = json.loads((await desk.ask("quota", "--json")).out)["windows"]
    assert (spent["window"], spent["spent"]) == ("seven_day_opus", True)


async def test_in_the_mode_subscription_the_plan_pays_and_once_it_is_spent_the_key_until_the_reset(
    desk: Desk, upstream: FakeUpstream
) -> None:
    key = f'[providers.anthropic]\nbase_url = "{upstream.url}"\napi_key = "env:MINE_KEY"\n'
    desk.configure(f'{PLAN}{key}[auth]\ndefault_mode = "subscription"\noverflow = "api"\n')
    ask = ("run", "--json", "--tier", "capable", "hi")
    paid = await desk.ask(*ask)
    assert json.loads(paid.out).get("credential") == "subscription", paid.err
    headers = unified("rejected", reset=int(time.time()) + 7200, representative__claim="five_hour")
    spent = Answer(status=429, error_type="rate_limit_error", error_message="5h", headers=headers)
    upstream.default = lambda seen: spent if TOKEN in seen.headers.get("authorization", "") else Answer()
    answers = [await desk.ask(*ask) for _ in range(2)]
    assert [each.code for each in answers] == [0, 0], [each.err for each in answers]
    first, later = (json.loads(each.out) for each in answers)
    assert [each["error_class"] for each in first["attempts"]] == ["window_spent", ""]
    assert [each["credential"] for each in later["attempts"]] == ["api_key"], "not asked before its reset"
    assert first["cost_usd"] == later["cost_usd"] > 0
    allowed = '[auth] overflow = "api" bills your API key instead, up to $10 a day'
    assert f"; {allowed}; next anthropic/claude-sonnet-5-5" in answers[0].err
    (note,) = later["notes"]
    assert note.startswith("the credential claude#subscription is off: its quota window is used up until ")
    assert note.endswith(f"; {allowed}")
    quota = await desk.ask("quota")
    overflow = json.loads((await desk.ask("quota", "--json")).out)["overflow"]
    assert overflow["used_usd"] == pytest.approx(2 * later["cost_usd"])
    assert overflow["overflows"]
    assert "; calls overflow now" in quota.out
    assert first["list_cost_usd"] is None
    status = json.loads((await desk.ask("auth", "status", "--json")).out)
    assert {each["credential"] for each in status["pays"]} == {"api_key"}
    assert "claude#subscription is off until" in status["pays"][0]["summary"]


async def test_without_consent_a_plan_that_is_used_up_ends_the_call_and_a_line_says_what_would_help(
    desk: Desk, upstream: FakeUpstream
) -> None:
    key = f'[providers.anthropic]\nbase_url = "{upstream.url}"\napi_key = "env:MINE_KEY"\n'
    desk.configure(f'{PLAN}{key}[auth]\ndefault_mode = "subscription"\n')
    spent = unified("rejected", reset=int(time.time()) + 7200, representative__claim="five_hour")
    upstream.default = Answer(status=429, error_type="rate_limit_error", error_message="5h", headers=spent)
    for _ in range(2):
        asked = len(upstream.received)
        ended = await desk.ask("run", "--tier", "capable", "hi")
        assert (ended.code, ended.out) == (5, "")
        assert "its quota window is used up until" in ended.err
        assert ' (five_hour); [auth] overflow is "fail": `attune auth setup --overflow' in ended.err
        assert (await desk.ask("route", "--tier", "capable", "hi")).code == 5
        assert "Traceback" not in ended.err
    assert len(upstream.received) == asked, "nobody is asked before the reset"
    assert "overflow is fail" in (await desk.ask("auth", "status")).out
