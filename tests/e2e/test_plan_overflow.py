"""A plan that is used up, and back: the real ``claude`` program and an API key beside it, played on loopback.

The clock is the test's: it moves past a reset that is hours away.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from attune.config import load
from attune.errors import AllProvidersFailedError
from attune.models.request import ExecutionContext
from attune.models.spending import OVERFLOW
from attune.providers import _claude_stream
from attune.providers._claude_process import find_program
from attune.runtime import build
from attune.testing import FakeClock
from support.claude_login import HAS_PROGRAM, logged_in
from support.program import CANARY
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from attune.models.executor import LLMResponse
    from attune.runtime import Runtime

pytestmark = pytest.mark.skipif(not HAS_PROGRAM, reason="the claude program is not installed")

LIMIT_SECONDS = 120
RESET_S = 7200
LATER_S = 300
"""The clock stands still while the plan is asked, which knows the real time: so much is past the reset."""
CONFIG = """\
[providers.claude]
kind = "claude_subscription"
[providers.anthropic]
base_url = "{}"
api_key = "env:MINE_KEY"
[tiers]
capable = ["claude/claude-sonnet-5-5", "anthropic/claude-sonnet-5-5"]
[routing]
allow_providers = ["claude", "anthropic"]
[call]
connect_seconds = 60
[auth]
"""


class Desk:
    """A user with a plan and a key; ``plan`` and ``key`` are who answers for each."""

    def __init__(self, home: Path, plan: FakeUpstream, key: FakeUpstream) -> None:
        self.home = home
        self.plan = plan
        self.key = key
        self.clock = FakeClock(epoch=time.time(), autojump=False)
        self.steps: list[str] = []
        self.mode = 'default_mode = "subscription"\n'
        self.log_out: Callable[[], None]
        self.ai: Runtime

    @asynccontextmanager
    async def running(self, overflow: str) -> AsyncIterator[Desk]:
        (self.home / "config.toml").write_text(CONFIG.format(self.key.url) + self.mode + overflow)
        environ = {"ATTUNE_HOME": str(self.home), "MINE_KEY": CANARY}
        config = load(environ=environ)
        async with build(config, environ=environ, clock=self.clock, on_step=self.steps.append) as self.ai:
            yield self

    def spend_the_plan(self) -> None:
        """The plan says from now on that its window is used up until a time that is hours away."""
        told = {
            "status": "rejected",
            "reset": int(time.time()) + RESET_S,
            "representative-claim": "five_hour",
        }
        headers = {f"anthropic-ratelimit-unified-{name}": str(value) for name, value in told.items()}
        self.plan.default = Answer(
            status=429, error_type="rate_limit_error", error_message="5h", headers=headers
        )

    def reset_the_plan(self) -> None:
        """The time has come."""
        self.plan.default = Answer()
        self.clock.advance(RESET_S + LATER_S)

    async def ask(self, prompt: str = "hi", **fields: Any) -> LLMResponse:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.ai.run(prompt, ExecutionContext(tier="capable", **fields))

    def used_usd(self) -> float:
        """What was ever used of the overflow cap; the clock may pass midnight."""
        self.ai.store.flush_sync(60)
        return self.ai.store.used(OVERFLOW.stored("day"), 0.0) / 1e9


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    async with FakeUpstream() as plan, FakeUpstream() as key, logged_in(tmp_path, plan.url) as login:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "claude"
        program.write_text(f'#!/bin/sh\nANTHROPIC_BASE_URL={plan.url} exec {find_program({})} "$@"\n')
        program.chmod(0o755)
        for name, value in login.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(_claude_stream, "LAST_WORDS_S", 60.0)  # the machine may have other work
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        desk = Desk(tmp_path, plan, key)
        desk.log_out = login.log_out
        yield desk


async def test_with_consent_the_key_pays_until_the_reset_and_from_then_on_the_plan_again(desk: Desk) -> None:
    async with desk.running('overflow = "api"\n'):
        answers = [await desk.ask()]
        desk.spend_the_plan()
        answers.append(await desk.ask())
        asked = len(desk.plan.received)
        answers.append(await desk.ask())
        desk.clock.advance(RESET_S / 2)
        answers.append(await desk.ask())
        assert len(desk.plan.received) == asked, "once it has said so it is not asked before its reset"
        assert len(desk.key.received) == 3
        desk.reset_the_plan()
        answers.append(await desk.ask())
        assert len(desk.plan.received) > asked
        assert len(desk.key.received) == 3
        paid = [each.credential for each in answers]
        assert paid == ["subscription", "api_key", "api_key", "api_key", "subscription"]
        dollars = [each.cost_usd for each in answers]
        assert dollars[0] == dollars[4] == 0.0
        assert dollars[1] == dollars[2] == dollars[3]
        assert desk.used_usd() == pytest.approx(sum(dollars))
        assert answers[2].decision is not None
        assert (
            answers[2]
            .decision.notes[0]
            .startswith("the credential claude#subscription is off: its quota window is used up until ")
        )
        assert answers[4].decision is not None
        assert answers[4].decision.notes == ()
        assert any("; next anthropic/claude-sonnet-5-5" in step for step in desk.steps)
    records = [record for each in answers for record in desk.ai.store.attempts(each.call_id)]
    kept = [(each.credential, each.error_class, each.cost_nanos or 0) for each in records]
    billed = round((dollars[1] or 0) * 1e9)
    assert kept == [
        ("subscription", "", 0),
        ("subscription", "window_spent", 0),
        *[("api_key", "", billed)] * 3,
        ("subscription", "", 0),
    ]


async def test_once_credits_pay_beside_the_plan_no_process_asks_it_before_its_reset(desk: Desk) -> None:
    told = {"status": "rejected", "reset": int(time.time()) + RESET_S, "representative-claim": "five_hour"}
    told |= {"overage-status": "allowed", "overage-in-use": "true"}
    headers = {f"anthropic-ratelimit-unified-{name}": str(value) for name, value in told.items()}
    desk.plan.default = Answer(headers=headers)
    async with desk.running(""):
        billed = await desk.ask()
        assert (billed.credential, billed.cost_usd, billed.cost_status) == ("subscription", None, "unknown")
        desk.ai.store.flush_sync(60)
        (record,) = desk.ai.store.attempts(billed.call_id)
        assert (record.cost_nanos, record.cost_status, record.success) == (None, "unknown", True)
        (said,) = (step for step in desk.steps if "credits" in step)
        assert said.startswith("claude/claude-sonnet-5-5#subscription: credits were billed beside the plan")
        with pytest.raises(AllProvidersFailedError, match="its quota window is used up until"):
            await desk.ask()
    async with desk.running(""):  # another process
        with pytest.raises(AllProvidersFailedError, match="its quota window is used up until"):
            await desk.ask()
        assert len(desk.plan.received) == 1
        desk.reset_the_plan()
        assert (await desk.ask()).cost_usd == 0.0
    assert len(desk.key.received) == 0


async def test_where_nobody_is_logged_in_the_key_is_billed_only_with_consent(desk: Desk) -> None:
    desk.log_out()
    async with desk.running(""):
        for _ in range(2):  # the first call finds out in its course, the second one knows
            with pytest.raises(AllProvidersFailedError, match=r"`claude auth login`.*--overflow api` bills"):
                await desk.ask()
        assert desk.key.received == []
    async with desk.running('overflow = "api"\n'):
        answer = await desk.ask()
        assert answer.credential == "api_key"
        assert answer.decision is not None
        assert "`claude auth login`" in answer.decision.notes[0]
        assert desk.used_usd() == pytest.approx(answer.cost_usd)
    assert desk.plan.received == []


async def test_who_waits_gets_the_answer_of_the_plan_after_its_reset(desk: Desk) -> None:
    async with desk.running('overflow = "wait"\n'):
        desk.spend_the_plan()
        waiting = []
        for number in (1, 2):  # the first one finds out in its course, the second one knows
            waiting.append(asyncio.create_task(desk.ask(deadline_s=2 * RESET_S)))
            async with asyncio.timeout(60):
                while sum("is used up; waiting" in step for step in desk.steps) < number:
                    await asyncio.sleep(0.01)
        with pytest.raises(AllProvidersFailedError, match="beyond the call's deadline"):
            await desk.ask(deadline_s=60)
        desk.reset_the_plan()
        answers = await asyncio.gather(*waiting)
        assert [each.credential for each in answers] == ["subscription", "subscription"]
        assert len(desk.key.received) == 0
