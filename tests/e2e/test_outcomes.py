"""Validation, escalation and later outcomes over real sockets: three tiers, one real ledger."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models import LLMRequest, Outcome, Verdict, validation
from attune.models.executor import EventKind, TextDelta
from attune.stores._schema import _VERSION_1, _VERSION_2
from attune.stores.sqlite import SqliteStore
from support.three_tiers import NANOS, World, three_upstreams
from support.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from attune.models.routing_stats import ModelStats
    from attune.models.telemetry import Decided, LLMCallRecord
    from attune.runtime import Runtime


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with three_upstreams(tmp_path) as found:
        yield found


TASK = {"workflow": "w", "stage": "s", "task_type": "classify"}
"""A cheap task."""


def models(ai: Runtime) -> dict[str, ModelStats]:
    return {each.model_id: each for each in ai.router.get_routing_stats("w", "s").models}


# -- validation ------------------------------------------------------------------------------------


async def test_an_answer_that_passes_is_given_with_its_verdict_and_labels_its_model(world: World) -> None:
    world.says(cheap="yes")
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate=lambda answer: answer.text == "yes")
        assert (answer.text, answer.verdict) == ("yes", Verdict(True, 1.0))
        cheap = models(ai)["cheap"]
        assert (cheap.success_rate, cheap.labelled, cheap.quality) == (1.0, 1, 1.0)
        await ai.store.flush()
        (kept,) = ai.store.outcomes(answer.call_id)
        assert (kept.source, kept.attempt_id, kept.success) == ("validator", f"{answer.call_id}.0", True)


async def test_an_answer_that_fails_is_given_all_the_same_and_nobody_else_is_asked(world: World) -> None:
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate="^yes$")
        assert (answer.text, answer.verdict) == ("no", Verdict(False, 0.0, "nothing in it matches ^yes$"))
        assert models(ai)["cheap"].success_rate == 0.0
        stats = ai.router.get_routing_stats("w")
        assert (stats.labelled, stats.labelled_share, stats.quality) == (1, 1.0, 0.0)
    assert world.asked == {"cheap": 1, "capable": 0, "premium": 0}


async def test_without_outcomes_an_answer_that_came_says_nothing_of_quality(world: World) -> None:
    async with world.runtime() as ai:
        assert (await ai.run("?", **TASK)).verdict is None
        stats = ai.router.get_routing_stats("w")
        assert (stats.success_rate, stats.labelled_share, stats.quality) == (1.0, 0.0, None)


async def test_a_validator_that_fails_is_told_of_and_the_answer_is_kept_without_a_verdict(
    world: World,
) -> None:
    def broken(answer: object) -> bool:
        raise LookupError("no such field")

    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate=broken, escalate=True)
        assert (answer.text, answer.verdict) == ("no", None)
        assert answer.validator_error == "the validator failed: LookupError: no such field"
        assert ai.router.get_routing_stats("w").labelled == 0
    assert any("LookupError: no such field" in step for step in world.steps)
    assert world.asked["capable"] == 0


async def test_a_validator_that_hangs_has_its_time_limit_and_the_answer_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "VALIDATOR_SECONDS", 0.05)
    hangs = threading.Event()
    async with world.runtime() as ai:
        try:
            answer = await ai.run("?", **TASK, validate=lambda _: hangs.wait(60))
        finally:
            hangs.set()
    assert answer.text == "no"
    assert answer.validator_error.startswith("the validator took longer than")


async def test_closing_ends_a_call_that_is_being_judged_and_its_answer_stays_in_the_ledger(
    world: World,
) -> None:
    began = asyncio.Event()

    async def stuck(answer: object) -> bool:
        began.set()
        return await asyncio.Event().wait()

    async with world.runtime() as ai:
        call = asyncio.create_task(ai.run("?", **TASK, validate=stuck))
        await began.wait()
        file = ai.store.path
        await ai.aclose()
        with pytest.raises(InvalidRequestError, match="attune was closed"):
            await call
    (attempt,) = SqliteStore.open_readonly(file).recent_attempts(9)
    assert attempt.success


async def test_a_thread_may_ask_with_a_validator_too(world: World) -> None:
    async with world.runtime() as ai:
        ask = asyncio.to_thread(ai.ask, "?", **TASK, validate="^yes$", escalate=True)
        assert (await ask).model_id == "premium"


# -- escalation ------------------------------------------------------------------------------------


async def test_a_failed_validation_climbs_to_the_next_tier_and_credits_nobody_else_with_it(
    world: World,
) -> None:
    world.says(capable="yes")
    events: list[object] = []
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate="^yes$", escalate=True, events=events)
        assert (answer.text, answer.model_id, answer.verdict) == ("yes", "capable", Verdict(True, 1.0))
        assert world.asked == {"cheap": 1, "capable": 1, "premium": 0}
        assert answer.cost_nanos == NANOS["cheap"] + NANOS["capable"]
        found = models(ai)
        assert (found["cheap"].success_rate, found["cheap"].quality) == (0.0, 0.0)
        assert (found["capable"].success_rate, found["capable"].quality) == (1.0, 1.0)
        await ai.store.flush()
        rows = ai.store.attempts(answer.call_id)
        assert [(row.model_id, row.success, row.chosen_by_policy) for row in rows] == [
            ("cheap", True, True),
            ("capable", True, False),
        ]
        assert sum(row.cost_nanos or 0 for row in rows) == answer.cost_nanos
        assert [each.success for each in ai.store.outcomes(answer.call_id)] == [False, True]
    texts = [each.parsed.text for each in events if isinstance(each.parsed, TextDelta)]
    assert "".join(texts) == "yes"  # nothing of the answer that failed
    assert any("failed the validation" in step and "next a higher tier" in step for step in world.steps)


async def test_the_tiers_are_climbed_one_by_one_and_the_best_answer_is_given_when_none_passes(
    world: World,
) -> None:
    scores = {"cheap": 0.2, "capable": 0.4, "premium": 0.3}
    async with world.runtime() as ai:
        answer = await ai.run(
            "?", **TASK, validate=lambda answer: scores[answer.model_id], escalate=True, max_cost=None
        )
        assert (answer.model_id, answer.verdict) == ("capable", Verdict(False, 0.4))
        assert answer.cost_nanos == sum(NANOS.values())
        record = ai.record_outcome(answer.call_id, success=True)
        assert record.model_id == "capable"  # the outcome is of the answer that was given
        assert models(ai)["capable"].success_rate == 1.0
        assert models(ai)["premium"].success_rate == 0.0
    assert world.asked == {"cheap": 1, "capable": 1, "premium": 1}


async def test_the_dollars_of_the_call_stop_the_climb_and_the_answer_is_given(world: World) -> None:
    async with world.runtime() as ai:
        short = LLMRequest.from_prompt("?", max_output_tokens=50)
        answer = await ai.run(short, **TASK, validate="^yes$", escalate=True, budget_usd=0.0003)
        assert (answer.model_id, answer.cost_nanos) == ("cheap", NANOS["cheap"])
        assert answer.verdict is not None
        assert not answer.verdict.success
    assert world.asked == {"cheap": 1, "capable": 0, "premium": 0}
    assert any("no higher tier answered" in step for step in world.steps)


async def test_the_attempts_of_the_call_stop_the_climb(world: World) -> None:
    async with world.runtime("\n[call]\nmax_attempts = 2\n") as ai:
        answer = await ai.run("?", **TASK, validate="^yes$", escalate=True)
        assert answer.model_id == "capable"
    assert world.asked == {"cheap": 1, "capable": 1, "premium": 0}
    assert any("all 2 attempts are used" in step for step in world.steps)


async def test_a_tier_that_is_down_is_passed_over_and_a_lower_one_never_asked_again(world: World) -> None:
    world.upstreams["capable"].default = Answer(status=503)
    world.says(premium="yes")
    async with world.runtime("\n[call]\nretries = 0\n") as ai:
        answer = await ai.run("?", **TASK, validate="^yes$", escalate=True)
        assert answer.model_id == "premium"
    assert world.asked["cheap"] == 1


async def test_when_no_higher_tier_can_answer_the_answer_at_hand_is_given(world: World) -> None:
    for tier in ("capable", "premium"):
        world.upstreams[tier].default = Answer(status=429, headers={"retry-after": "30"})
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate="^yes$", escalate=True)
        assert (answer.text, answer.model_id) == ("no", "cheap")
        assert [each.error_class for each in answer.attempts] == ["", "throttled", "throttled"]
    assert world.asked == {"cheap": 1, "capable": 1, "premium": 1}


async def test_a_model_that_the_caller_fixed_is_not_left(world: World) -> None:
    async with world.runtime() as ai:
        answer = await ai.run("?", model="cheap/cheap", validate="^yes$", escalate=True)
        assert answer.model_id == "cheap"
    assert any("there is no candidate of a higher tier" in step for step in world.steps)


async def test_what_cannot_judge_is_refused_before_anybody_is_asked(world: World) -> None:
    async with world.runtime() as ai:
        for wrong in (
            {"escalate": True},
            {"validate": "("},
            {"validate": 7},
            {"validate": {"type": "nothing"}},
        ):
            with pytest.raises(InvalidRequestError):
                await ai.run("?", **TASK, **wrong)
        with pytest.raises(UnknownNameError, match="escalate"):
            ai.stream("?", **TASK, validate="x", escalate=True)
    assert sum(world.asked.values()) == 0


# -- streams ---------------------------------------------------------------------------------------


async def test_a_stream_is_judged_at_its_end_and_never_asked_again(world: World) -> None:
    async with world.runtime() as ai:
        async with ai.stream("?", **TASK, validate="^yes$") as events:
            kinds = [event.kind async for event in events]
            assert kinds[-1] is EventKind.TERMINAL
            assert events.response is not None
            assert events.response.verdict == Verdict(False, 0.0, "nothing in it matches ^yes$")
        assert models(ai)["cheap"].success_rate == 0.0
    assert world.asked == {"cheap": 1, "capable": 0, "premium": 0}


async def test_an_empty_stream_is_judged_too(world: World) -> None:
    world.says(cheap="")
    async with world.runtime() as ai, ai.stream("?", **TASK, validate="yes") as events:
        async for _ in events:
            pass
        assert events.response is not None
        assert events.response.verdict is not None


# -- later outcomes --------------------------------------------------------------------------------


async def test_the_callers_word_counts_once_and_instead_of_the_validators(world: World) -> None:
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate="^yes$")
        for _ in range(2):
            ai.record_outcome(answer.call_id, success=True, score=0.8)
        cheap = models(ai)["cheap"]
        assert (cheap.calls, cheap.success_rate) == (1, 1.0)
        assert (cheap.labelled, cheap.quality) == (1, 0.8)
        sources = [each.source for each in ai.store.outcomes(answer.call_id)]
        assert sources == ["validator", "caller"]


async def test_an_outcome_comes_to_the_router_with_the_policy_that_decided(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, Outcome | None, Outcome, Decided]] = []
    async with world.runtime() as ai:

        def correct(
            record: LLMCallRecord, *, previous: Outcome | None, outcome: Outcome, decided: Decided
        ) -> None:
            heard.append((record.attempt_id, previous, outcome, decided))

        monkeypatch.setattr(ai.router, "correct", correct)
        answer = await ai.run("?", **TASK, validate="^yes$")
        ai.record_outcome(answer.call_id, success=True, score=0.8)
        decision = ai.store.decision(answer.call_id)
    (first, none, verdict, decided), (second, previous, told, later) = heard
    assert first == second == f"{answer.call_id}.0"
    assert none is None
    assert previous == verdict
    assert (verdict.label, told.label) == (0.0, 0.8)
    assert decision is not None
    assert decided == later
    assert decided.policy == decision.policy


async def test_everything_known_of_answers_outlives_a_restart(world: World) -> None:
    async with world.runtime() as ai:
        await ai.run("?", **TASK, validate="^yes$", escalate=True)
        await ai.run("?", **TASK)
        before = ai.router.get_routing_stats("w", "s")
    async with world.runtime() as again:
        after = again.router.get_routing_stats("w", "s")
        (chain,) = list(again.store.chains(0, 4e9))[:1]
        assert [each.success for each in chain.outcomes] == [False] * 3
        assert chain.outcome is False
    assert (after.labelled, after.quality, after.success_rate) == (3, 0.0, 0.25)
    assert after == before


async def test_a_validator_that_always_says_yes_is_doubted(world: World) -> None:
    async with world.runtime() as ai:
        for _ in range(29):
            await ai.run("?", **TASK, validate=lambda _: True)
        assert ai.router.get_routing_stats("w").doubts == ()
        await ai.run("?", **TASK, validate=lambda _: True)
        (doubt,) = ai.router.get_routing_stats("w").doubts
        assert doubt.startswith("s: its validator let all 30 answers pass")
        await ai.run("?", **TASK, validate=lambda _: False)
        assert ai.router.get_routing_stats("w").doubts == ()


async def test_a_caller_who_is_always_content_is_not_doubted(world: World) -> None:
    async with world.runtime() as ai:
        for _ in range(30):
            ai.record_outcome((await ai.run("?", **TASK)).call_id, success=True)
        stats = ai.router.get_routing_stats("w")
        assert (stats.labelled, stats.doubts) == (30, ())


async def test_outcomes_of_a_ledger_of_before_are_taken_over(world: World) -> None:
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK)
        ai.record_outcome(answer.call_id, success=False, score=0.25)
        file = ai.store.path
    as_it_was_before(file)
    before = SqliteStore.open_readonly(file)  # as a command that only looks does, with nothing yet taken over
    assert [row.labelled for row in before.rollups(0)] == [0]
    assert [each.label for each in before.outcomes(answer.call_id)] == [0.25]
    assert [chain.outcome for chain in before.chains(0, 4e9)] == [False]
    async with world.runtime() as again:
        cheap = models(again)["cheap"]
        assert (cheap.success_rate, cheap.labelled, cheap.quality) == (0.0, 1, 0.25)
        (kept,) = again.store.outcomes(answer.call_id)
        assert (kept.attempt_id, kept.source) == (f"{answer.call_id}.0", "caller")


def as_it_was_before(file: Path) -> None:
    """Replace a ledger by one of the version that knew nothing of who said what of which attempt."""
    old = file.with_name("old.db")
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for statement in (*_VERSION_1, *_VERSION_2, "PRAGMA user_version = 2"):
            connection.execute(statement)
        connection.execute("ATTACH ? AS new", (str(file),))
        for table in ("cells", "attempts", "decisions", "outcomes", "rollups", "totals"):
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM new.{table}")
    old.replace(file)


# -- JSON schemas ----------------------------------------------------------------------------------


async def test_a_json_schema_judges_the_whole_text(world: World) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    world.says(cheap='{"n": "one"}', capable="Sure: {}", premium=json.dumps({"n": 1}))
    async with world.runtime() as ai:
        answer = await ai.run("?", **TASK, validate=schema, escalate=True)
        assert (answer.model_id, answer.verdict) == ("premium", Verdict(True, 1.0))
    assert any("at $.n: 'one' is not of type 'integer'" in step for step in world.steps)
    assert any("it is not JSON" in step for step in world.steps)
