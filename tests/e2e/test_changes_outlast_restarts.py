"""A model that has fallen is still known to have when the program starts again, over one real ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.three_tiers import World, three_upstreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from attune.models.telemetry import Belief
    from attune.runtime import Runtime

TASK = {"workflow": "w", "stage": "s", "task_type": "fix_bug"}
POLICY = 'policy = "thompson"\n'


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with three_upstreams(tmp_path) as found:
        yield found


async def judged(runtime: Runtime, model: str, number: int, *, good: bool) -> None:
    """So many calls that thompson drew among one model, all answered well or all badly."""
    for _ in range(number):
        response = await runtime.run("hello", **TASK, model=model)
        runtime.record_outcome(response.call_id, success=good)


def believed(runtime: Runtime) -> dict[str, Belief | None]:
    return {each.model_id: each.belief for each in runtime.decide("hello", **TASK).ranked}


async def fallen(runtime: Runtime) -> None:
    """The capable model does well, then badly, until that is found; and then a little longer."""
    await judged(runtime, "cheap", 10, good=True)
    await judged(runtime, "capable", 60, good=True)
    for _ in range(60):
        await judged(runtime, "capable", 1, good=False)
        if believed(runtime)["capable"][4]:
            break
    await judged(runtime, "capable", 10, good=False)


def assert_alike(after: dict[str, Belief | None], before: dict[str, Belief | None]) -> None:
    for model, (mean, sd, calls, _, changed) in before.items():
        assert after[model][0] == pytest.approx(mean, abs=max(0.03, sd / 2)), model
        assert after[model][1] == pytest.approx(sd, abs=0.1), model
        assert after[model][2] == pytest.approx(calls, rel=0.1, abs=0.5), model
        assert after[model][4] == changed, model


async def test_a_fall_that_was_found_is_still_known_after_a_restart(world):
    async with world.runtime(POLICY) as runtime:
        await fallen(runtime)
        before = believed(runtime)
        assert before["capable"][4], "it was found"
        assert before["capable"][0] < 0.4
    async with world.runtime(POLICY) as runtime:
        assert_alike(believed(runtime), before)
    async with world.runtime(POLICY) as runtime:
        assert_alike(believed(runtime), before)


async def test_a_model_that_has_recovered_is_trusted_after_a_restart(world):
    async with world.runtime(POLICY) as runtime:
        await fallen(runtime)
    async with world.runtime(POLICY) as runtime:
        for _ in range(60):
            await judged(runtime, "capable", 1, good=True)
            if not believed(runtime)["capable"][4]:
                break
        await judged(runtime, "capable", 20, good=True)
        before = believed(runtime)
        assert before["capable"][0] > 0.8
    async with world.runtime(POLICY) as runtime:
        assert_alike(believed(runtime), before)


async def test_a_process_that_runs_hears_of_a_fall_that_another_one_found(world):
    async with world.runtime(POLICY) as one, world.runtime(POLICY) as other:
        await judged(other, "capable", 40, good=True)
        await fallen(one)
        await one.sharing._share(ask=False)
        assert not believed(other)["capable"][4]
        await other.sharing._share(ask=True)
        after = believed(other)["capable"]
        assert after[4]
        assert after[2] == pytest.approx(5.0), "its past counts little here too"
