"""Where a conversation stays: one candidate while it is healthy, without any memory of the conversation."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from random import Random

import pytest

from attune.errors import AllProvidersFailedError, TransientError
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelTier
from attune.models.request import (
    ExecutionContext,
    LLMRequest,
    Message,
    TextPart,
    ThinkingPart,
)
from attune.models.route_request import RouteRequest
from attune.testing import Reply
from support.pipeline import ASK, Fleet, a_model

TURNS, SESSIONS = 30, 40


def varied(seed: int, *, seconds: float, success: float):
    """Answers of a model that takes about so long and succeeds so often."""
    rng = Random(seed)

    def answer(request, model):
        if rng.random() > success:
            return TransientError("overloaded", status=503)
        return Reply(("one ", "two"), first_content_s=rng.lognormvariate(0, 0.5) * seconds)

    return answer


async def warm(seconds=(1.0, 1.1, 1.2), success=(0.99, 0.985, 0.98), prices=((1, 5),) * 3, seed=1) -> Fleet:
    """Three models of one tier, each called 150 times."""
    models = [a_model(f"{n}/m", prices=PriceSchedule.flat(*p)) for n, p in zip("abc", prices, strict=True)]
    fleet = Fleet(*models)
    for number, name in enumerate("abc"):
        fleet[name].default = varied(seed + number, seconds=seconds[number], success=success[number])
        for _ in range(150):
            await answer(fleet, model=f"{name}/m")
    return fleet


async def answer(fleet: Fleet, **context) -> None:
    with suppress(AllProvidersFailedError):  # both its attempts failed: that happens here
        await fleet.executor.run(ASK, ExecutionContext(**context))


def chosen(fleet: Fleet, session: str, **context) -> str:
    return fleet.router.decide(
        RouteRequest.of(ASK, ExecutionContext(session_id=session, **context))
    ).candidate.provider


@pytest.mark.parametrize("task", [None, "chat"])
@pytest.mark.parametrize("success", [(0.99, 0.99, 0.99), (0.99, 0.985, 0.98)])
async def test_99_of_100_turns_of_a_healthy_session_are_on_one_candidate(task, success):
    fleet = await warm(success=success)
    turns = {f"s{number}": Counter() for number in range(SESSIONS)}
    for _ in range(TURNS):
        for session, used in turns.items():
            used[chosen(fleet, session, task_type=task)] += 1
            await answer(fleet, session_id=session, task_type=task)
    on_one = sum(max(used.values()) for used in turns.values())
    assert on_one >= 0.99 * TURNS * SESSIONS
    assert len({used.most_common(1)[0][0] for used in turns.values()}) >= 2, "alike candidates share them"


async def test_without_a_session_nothing_is_drawn():
    fleet = await warm()
    assert len({chosen(fleet, "") for _ in range(20)}) == 1


async def test_another_process_draws_the_same():
    one, other = await warm(seed=1), await warm(seed=9)
    sessions = [f"s{number}" for number in range(200)]
    same = sum(chosen(one, each) == chosen(other, each) for each in sessions)
    assert same >= 180, "the draw is of the session and the candidate; only what was measured differs"


async def test_when_a_candidate_is_away_only_its_own_sessions_move_and_they_come_back():
    fleet = await warm()
    sessions = [f"s{number}" for number in range(100)]
    before = {each: chosen(fleet, each) for each in sessions}
    fleet.trip("b")
    during = {each: chosen(fleet, each) for each in sessions}
    assert {each for each in sessions if before[each] != during[each]} == {
        each for each in sessions if before[each] == "b"
    }
    fleet.clock.advance(600)
    assert {each: chosen(fleet, each) for each in sessions} == before


async def test_what_is_much_dearer_or_worse_gets_hardly_any_session():
    fleet = await warm(prices=((1, 5), (2, 10), (1, 5)), success=(0.99, 0.99, 0.7))
    share = Counter(chosen(fleet, f"s{number}") for number in range(1000))
    assert share["a"] >= 980


async def test_a_slow_candidate_gets_hardly_any_realtime_session():
    fleet = await warm(seconds=(1.0, 3.0, 1.05))
    share = Counter(chosen(fleet, f"s{number}", task_type="chat") for number in range(1000))
    assert share["b"] <= 20
    assert min(share["a"], share["c"]) >= 250


async def test_the_decision_says_that_the_conversation_stays():
    fleet = await warm()
    best = fleet.router.decide(RouteRequest()).candidate
    session = next(f"s{n}" for n in range(100) if chosen(fleet, f"s{n}") != best.provider)
    decision = fleet.router.decide(RouteRequest(session_id=session))
    assert "where the conversation stays" in decision.reason
    [passed_over] = [each for each in decision.ranked if each.provider == best.provider]
    assert "the conversation stays with the chosen one" in passed_over.note


def bound(provider: str) -> LLMRequest:
    thought = ThinkingPart("hm", signature="signed", provider=provider)
    return LLMRequest(
        (Message.user("hi"), Message("assistant", (thought, TextPart("ok"))), Message.user("and?"))
    )


def test_a_conversation_with_signed_reasoning_prefers_the_provider_that_signed_it():
    fleet = Fleet("a/m", "b/m", a_model("c/big", ModelTier.PREMIUM))
    assert fleet.router.decide(RouteRequest.of(bound("b"), ExecutionContext())).candidate.provider == "b"
    for session in ("s1", "s2", "s3", "s4"):
        context = ExecutionContext(session_id=session)
        assert fleet.router.decide(RouteRequest.of(bound("b"), context)).candidate.provider == "b"
    of_another_tier = fleet.router.decide(RouteRequest.of(bound("c"), ExecutionContext()))
    assert of_another_tier.candidate.provider == "a", "the tier leads: what is bound is left out there"
    fleet.trip("b")
    assert fleet.router.decide(RouteRequest.of(bound("b"), ExecutionContext())).candidate.provider == "a"


def test_unsigned_reasoning_binds_to_nobody():
    unsigned = LLMRequest((Message("assistant", (ThinkingPart("hm", provider="b"),)), Message.user("hi")))
    assert unsigned.bound_to == ""
    assert bound("b").bound_to == "b"


def test_a_prompt_that_may_not_fit_goes_first_where_it_surely_does():
    fleet = Fleet(a_model("a/m", window=10_000), a_model("b/m", window=30_000))
    small, large = LLMRequest.from_prompt("x" * 4 * 2_000), LLMRequest.from_prompt("x" * 4 * 8_000)
    order = [
        [c.provider for c in fleet.router.decide(RouteRequest.of(each, ExecutionContext())).candidates]
        for each in (small, large)
    ]
    assert order == [["a", "b"], ["b", "a"]], "8,000 tokens by estimate may be 12,000"
