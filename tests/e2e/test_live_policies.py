"""Policies that draw, over real sockets and one real ledger: what is asked, recorded, learned and kept."""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import TYPE_CHECKING

import pytest

from attune.cli import main
from attune.errors import ConfigError
from attune.models import LLMRequest
from attune.models.explanation import flips
from attune.runtime import build
from support.three_tiers import World, three_upstreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TASK = {"workflow": "w", "stage": "s", "task_type": "fix_bug"}
"""A capable task."""

SHORT = LLMRequest.from_prompt("a question of some ten tokens, more or less", max_output_tokens=10)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with three_upstreams(tmp_path) as found:
        yield found


async def judged_calls(runtime, number: int, *, good: bool = True, **fields) -> list[str]:
    """The models of so many calls, each judged."""
    models = []
    for _ in range(number):
        response = await runtime.run("hello", **TASK, **fields)
        runtime.record_outcome(response.call_id, success=good)
        models.append(response.model_id)
    return models


async def test_guarded_is_the_default_and_says_that_it_knows_no_outcomes(world):
    async with world.runtime() as runtime:
        response = await runtime.run("hello", **TASK)
        await runtime.store.flush()
        decision = runtime.store.decision(response.call_id)
    assert (response.model_id, decision.policy) == ("capable", "guarded/1")
    assert "no outcomes yet" in decision.reason
    assert [each.propensity for each in decision.ranked] == [1.0, 0.0, 0.0]
    assert world.asked == {"cheap": 0, "capable": 1, "premium": 0}


async def test_after_outcomes_the_ledger_has_the_probabilities_that_were_drawn_from(world):
    async with world.runtime() as runtime:
        models = await judged_calls(runtime, 120)
        await runtime.store.flush()
        calls = runtime.store.recent_decisions(1000)
    assert set(models) == {"capable", "cheap"}
    assert world.asked["cheap"] == models.count("cheap")
    for decision, _ in calls[1:]:
        vector = {each.model_id: each.propensity for each in decision.ranked}
        assert math.isclose(sum(vector.values()), 1.0)
        assert vector["premium"] == 0.0
        assert 0.0 <= vector["cheap"] <= 0.3
        assert len(flips(decision)) == 9
    explored = next(decision for decision, _ in calls if decision.ranked[0].model_id == "cheap")
    assert f"drawn with p = {explored.ranked[0].propensity:.3g}" in explored.reason


async def test_a_restart_knows_what_was_learned(world):
    async with world.runtime() as runtime:
        await judged_calls(runtime, 60)
        before = runtime.decide("hello", **TASK)
    async with world.runtime() as runtime:
        after = runtime.decide("hello", **TASK)
        assert after.drawn.rule == before.drawn.rule
        believed = {each.model_id: each.belief for each in after.ranked}
        was = {each.model_id: each.belief for each in before.ranked}
        assert believed["capable"][0] == pytest.approx(was["capable"][0], abs=0.05)
        assert believed["capable"][2] == pytest.approx(was["capable"][2], abs=1.0)


async def test_what_one_process_learns_another_hears_of(world):
    async with world.runtime() as one, world.runtime() as other:
        await judged_calls(one, 40)
        await one.sharing._share(ask=False)
        assert other.decide("hello", **TASK).drawn.rule.stages is None
        await other.sharing._share(ask=True)
        here, there = one.decide("hello", **TASK).drawn, other.decide("hello", **TASK).drawn
        assert there.rule == here.rule
        assert there.u is not None, "and it draws"


async def test_the_command_that_tells_an_outcome_teaches_the_policy_once(world, monkeypatch, capsys):
    async with world.runtime() as runtime:
        calls = [(await runtime.run("hello", **TASK)).call_id for _ in range(3)]
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    for call in (*calls, calls[0]):
        assert await asyncio.to_thread(main, ["outcome", call, "--success"]) == 0
    capsys.readouterr()
    async with world.runtime() as runtime:
        assert runtime.store.policy_sums("guarded/1")["capable/capable\t\t0"][1] == 3
        assert runtime.decide("hello", **TASK).drawn.rule.stages is not None


async def test_scripts_share_what_they_learn_while_they_run(world):
    def script() -> dict[str, list[float]]:
        with build(world.configure(), environ=world.environ, rng=Random(0)) as ai:
            for _ in range(3):
                ai.record_outcome(ai.ask("hello", **TASK, explore=False).call_id, success=True)
            ai.ask("hello", **TASK)
            return ai.store.policy_sums("guarded/1")

    told = await asyncio.to_thread(script)
    assert told["capable/capable\t\t0"][1] == 3


async def test_a_label_counts_once_over_processes_and_restarts(world):
    async with world.runtime() as runtime:
        await judged_calls(runtime, 30)
    for _ in range(3):
        async with world.runtime() as runtime:
            pass
    sums = runtime.store.policy_sums("guarded/1")
    assert sums["capable/capable\t\t0"][1] == 30


async def test_the_budget_policy_keeps_to_its_ceiling_over_processes(world):
    world.says(cheap="a", capable="b", premium="c")
    routing = 'policy = "budget"\nbudget_usd = 0.0003\n'
    spent = calls = 0
    for _ in range(10):
        async with world.runtime(routing) as runtime:
            for _ in range(20):
                response = await runtime.run(SHORT, **TASK)
                quality = {"cheap": 0.5, "capable": 0.8, "premium": 0.9}[response.model_id]
                runtime.record_outcome(response.call_id, success=True, score=quality)
                spent += response.cost_nanos
                calls += 1
    assert 0.4 < spent / calls / 300_000 < 1.3


async def test_what_is_told_of_a_decision_is_the_one_that_was_made(world):
    told = []
    async with world.runtime('policy = "thompson"\n') as runtime:
        runtime.on_decision = told.append
        models = await judged_calls(runtime, 30)
    assert [record.ranked[0].model_id for record in told] == models
    assert len(set(models)) > 1


@pytest.mark.parametrize("policy", ["thompson", "budget"])
async def test_a_success_rate_that_nobody_asked_for_drops_nothing_that_a_policy_weighs(world, policy):
    async with world.runtime("budget_usd = 0.001\n") as runtime:
        for _ in range(20):
            response = await runtime.run("hello", **TASK, model="cheap")
            runtime.record_outcome(response.call_id, success=False)
        weighed = runtime.decide("hello", **TASK, policy=policy)
        assert not weighed.dropped
        asked = runtime.decide("hello", **TASK, policy=policy, min_success_rate=0.8)
        assert [each.model_id for each in asked.dropped] == ["cheap"]


async def test_a_choice_beside_the_table_says_in_place_of_what_it_was_made(world):
    async with world.runtime('policy = "thompson"\n') as runtime:
        decisions = [runtime.decide("hello", **TASK) for _ in range(60)]
    by_model = {each.candidate.model_id: each.reason for each in decisions}
    assert (
        "capable/capable: capable is enough for 'fix_bug' (thompson: drawn with p = " in by_model["capable"]
    )
    assert "cheap/cheap: thompson: drawn with p = " in by_model["cheap"]
    assert "in place of capable/capable (capable is enough for 'fix_bug')" in by_model["cheap"]


async def test_a_call_may_name_its_policy_and_turn_exploring_off(world):
    async with world.runtime() as runtime:
        await judged_calls(runtime, 30)
        assert runtime.decide("hello", **TASK, policy="static").policy == "static/1"
        assert runtime.decide("hello", **TASK, explore=False).ranked[0].propensity == 1.0


def test_a_policy_in_the_configuration_that_is_wrong_is_told_with_its_line(world):
    with pytest.raises(ConfigError, match=r"unknown policy 'guardet'; did you mean 'guarded'\?"):
        world.configure('policy = "guardet"\n')
    with pytest.raises(ConfigError, match="needs budget_usd"):
        world.configure('policy = "budget"\n')
