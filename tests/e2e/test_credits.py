"""Prepaid credits through the whole of attune: configuration, router, ledger, and upstreams on loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from attune.config import load
from attune.errors import BudgetExhaustedError
from attune.models.candidate import Candidate
from attune.models.request import ExecutionContext, LLMRequest
from attune.runtime import build
from attune.stores.sqlite import SqliteStore
from attune.testing import FakeClock
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from attune.models.executor import LLMResponse
    from attune.runtime import Runtime

NOW = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86_400.0
USD = 0.1
"""What an answer of the team's key costs; the other's half as much."""
USAGE = {"prompt_tokens": 0, "completion_tokens": 1000, "total_tokens": 1000}
CONFIG = """\
[tiers]
capable = ["other/mid", "team/large"]
[providers.team]
kind = "openai"
base_url = "{team}"
api_key = "env:TEAM_KEY"
{credits}
[providers.other]
kind = "openai"
base_url = "{other}"
api_key = "env:OTHER_KEY"
[[models]]
id = "large"
provider = "team"
tier = "capable"
context_window = 100000
input_price = 0.001
output_price = 100
[[models]]
id = "mid"
provider = "other"
tier = "capable"
context_window = 100000
input_price = 0.001
output_price = 50
[routing]
allow_providers = ["team", "other"]
{routing}
"""
TEAM_ONLY = frozenset({"team"})


class Desk:
    """A team with credits and another key; every runtime is of the same home folder, on the same clock."""

    def __init__(self, home: Path, team: FakeUpstream, other: FakeUpstream) -> None:
        self.home = home
        self.urls = {"team": team.chat_url, "other": other.chat_url}
        self.clock = FakeClock(epoch=NOW, autojump=False)

    @asynccontextmanager
    async def running(
        self, usd: float, expires: str = "2026-12-31", routing: str = ""
    ) -> AsyncIterator[Runtime]:
        credits_ = f"credits_usd = {usd}\ncredits_expire = {expires}"
        text = CONFIG.format(**self.urls, credits=credits_, routing=routing)
        (self.home / "config.toml").write_text(text)
        environ = {"ATTUNE_HOME": str(self.home), "TEAM_KEY": "t", "OTHER_KEY": "o"}
        async with build(load(environ=environ), environ=environ, clock=self.clock, rng=Random(0)) as ai:
            yield ai

    def left(self, ai: Runtime) -> float | None:
        (window,) = ai.router.prepaid.windows(Candidate("team", "large", "api_key"))
        return window.left_usd(self.clock.time())


async def ask(ai: Runtime, **fields: Any) -> LLMResponse:
    return await ai.run("hi", ExecutionContext(tier="capable", **fields))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    answer = Answer(usage=USAGE)
    async with FakeUpstream(default=answer) as team, FakeUpstream(default=answer) as other:
        yield Desk(tmp_path, team, other)


async def test_credits_that_would_expire_pay_first_and_the_ledger_has_what_they_paid(desk: Desk) -> None:
    async with desk.running(1000.0) as ai:
        for _ in range(5):
            desk.clock.advance(HOUR)
            answer = await ask(ai)
            assert (answer.provider, answer.cost_usd) == ("team", pytest.approx(USD))
        assert desk.left(ai) == pytest.approx(1000 - 5 * USD)
        await ai.store.flush()
        assert ai.store.totals().cost_nanos == round(5 * USD * 1e9)
        assert ai.store.totals().list_cost_nanos == 0, "no plan paid"


async def test_scarce_credits_are_kept_for_what_has_no_cheaper_way(desk: Desk) -> None:
    async with desk.running(5.5, "2026-12-03") as ai:
        for number in range(48):  # a day, of which half the calls could go elsewhere
            desk.clock.advance(DAY / 48)
            await ask(ai, allow_providers=TEAM_ONLY if number % 2 else None)
        assert (await ask(ai)).provider == "other"
        assert (await ask(ai, allow_providers=TEAM_ONLY)).provider == "team"
        assert 1.5 < (desk.left(ai) or 0) < 5.5 - 24 * USD, "enough for most of such calls of the next day"


async def test_when_they_are_used_up_or_expired_the_key_is_an_ordinary_one(desk: Desk) -> None:
    async with desk.running(2.5 * USD) as ai:
        assert [(await ask(ai)).provider for _ in range(4)] == ["team", "team", "other", "other"]
        answer = await ask(ai, allow_providers=TEAM_ONLY)
        assert (answer.provider, answer.cost_usd) == ("team", pytest.approx(USD)), "billed"
        assert desk.left(ai) == 0
    async with desk.running(100.0, "2026-12-02T00:00:00") as ai:
        assert (await ask(ai)).provider == "team"
        desk.clock.advance(DAY)
        assert (await ask(ai)).provider == "other"


async def test_calls_that_are_billed_as_credits_end_say_so_until_it_was_said_that_they_are_over(
    desk: Desk,
) -> None:
    notes = []
    for _ in range(5):
        async with desk.running(2.5 * USD) as ai:
            answer = await ask(ai, allow_providers=TEAM_ONLY)
            assert answer.decision is not None
            notes.append(answer.decision.notes)
    name = "the credits of team#api_key"
    few = f"{name} ($0.050000 of $0.25 left) are too few for this call: it costs money there"
    over = f"{name} are used up: its calls cost money now"
    assert notes == [(), (), (few,), (over,), ()], "each in a process of its own"


async def test_a_restart_knows_what_is_left_and_what_other_processes_have_used(desk: Desk) -> None:
    async with desk.running(1000.0) as ai, desk.running(1000.0) as beside:
        await ask(ai)
        await ask(beside)
        await ask(beside)
        await ai.store.flush()
        await beside.store.flush()
        await ai.sharing.catch_up()
        assert desk.left(ai) == pytest.approx(1000 - 3 * USD)
    desk.clock.advance(40 * HOUR)
    async with desk.running(1000.0) as ai:
        assert desk.left(ai) == pytest.approx(1000 - 3 * USD)
        ai.store.prune(desk.clock.time())
    async with desk.running(1000.0) as ai:
        assert desk.left(ai) == pytest.approx(1000 - 3 * USD), "whatever became of the single records"
    async with desk.running(2000.0) as ai:
        assert desk.left(ai) == 2000, "another grant: what was used before is not taken from it"


async def test_what_the_key_paid_before_its_grant_was_seen_is_not_taken_from_it(desk: Desk) -> None:
    async with desk.running(1000.0) as ai:
        await ask(ai)
    async with desk.running(500.0, "2027-01-31") as ai:
        assert desk.left(ai) == 500
        await ask(ai)
    async with desk.running(500.0, "2027-01-31") as ai:
        assert desk.left(ai) == pytest.approx(500 - USD)
    assert SqliteStore.open_readonly(desk.home / "data" / "ledger.db").paid() == {
        ("team", "api_key"): round(2 * USD * 1e9)
    }


async def test_a_spend_cap_holds_for_what_credits_pay_too(desk: Desk) -> None:
    async with desk.running(1000.0, routing=f"max_usd_per_day = {1.5 * USD}") as ai:
        asked = LLMRequest.from_prompt("hi", max_output_tokens=1000)
        assert (await ai.run(asked, tier="capable")).provider == "team"
        with pytest.raises(BudgetExhaustedError, match="spend cap"):
            await ai.run(asked, tier="capable", allow_providers=TEAM_ONLY)
