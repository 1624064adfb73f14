"""Work beside an event loop has one step in a round of it, and is never left waiting for a loop."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from attune.wire import steps, turns
from attune.wire.chat_door import ChatDoor
from attune.wire.turns import in_turns, turn

WAIT_S = 60.0


@pytest.fixture
def _a_turn_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)


@pytest.fixture
def _a_loop_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: a machine may stall."""
    monkeypatch.setattr(turns, "LATEST_S", 2 * WAIT_S)


async def rounds_during(work: Any, *args: Any) -> tuple[Any, int]:
    """What ``work`` gives in turns, and how often the loop has gone round until then."""
    task, rounds = asyncio.create_task(in_turns(work, *args)), 0
    while not task.done():
        await asyncio.sleep(0)
        rounds += 1
    return task.result(), rounds


@pytest.mark.usefixtures("_a_turn_for_each_step", "_a_loop_that_is_waited_for")
async def test_the_loop_goes_round_between_any_two_steps() -> None:
    at: list[int] = []
    rounds = 0

    def work() -> None:
        for _ in range(20):
            turn()
            at.append(rounds)

    task = asyncio.create_task(in_turns(work))
    while not task.done():
        await asyncio.sleep(0)
        rounds += 1
    assert at[-1] - at[0] >= len(at) - 2


@pytest.mark.usefixtures("_a_turn_for_each_step", "_a_loop_that_is_waited_for")
async def test_reading_and_writing_a_large_body_leaves_the_loop_its_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "STEP", 1000)
    said = {"role": "user", "content": "é words \n" * 10_000}
    body = json.dumps({"model": "m", "messages": [said]}).encode()
    asked, rounds = await rounds_during(ChatDoor().read, body)
    assert asked.request.messages[0].content[0].text == said["content"]
    assert rounds > len(body) // steps.STEP
    written, rounds = await rounds_during(steps.encode, said)
    assert json.loads(written) == said
    assert rounds > len(said["content"]) // steps.STEP


@pytest.mark.usefixtures("_a_loop_that_is_waited_for")
async def test_a_step_soon_after_the_last_turn_goes_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE_S", WAIT_S)
    done = threading.Event()

    def work() -> None:
        turn()
        done.set()

    task = asyncio.create_task(in_turns(work))
    await asyncio.sleep(0)
    assert done.wait(WAIT_S), "though the loop does not come round"
    await task


@pytest.mark.usefixtures("_a_turn_for_each_step")
async def test_a_loop_that_does_not_come_round_is_not_waited_for_long() -> None:
    done = threading.Event()

    def work() -> None:
        turn()
        done.set()

    task = asyncio.create_task(in_turns(work))
    await asyncio.sleep(0)
    assert done.wait(WAIT_S)  # the loop does nothing else meanwhile
    await task


@pytest.mark.usefixtures("_a_turn_for_each_step")
def test_work_that_its_loop_has_left_comes_to_its_end() -> None:
    began, closed, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        closed.wait(WAIT_S)
        turn()
        done.set()

    async def leave() -> None:
        task = asyncio.create_task(in_turns(work))
        await asyncio.sleep(0)
        assert began.wait(WAIT_S)
        task.cancel()

    asyncio.run(leave())
    closed.set()
    assert done.wait(WAIT_S)


@pytest.mark.usefixtures("_a_turn_for_each_step")
async def test_what_work_raises_is_raised_and_the_next_work_has_its_turns() -> None:
    def work() -> None:
        turn()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_turns(work)
    assert (await rounds_during(turn))[0] is None


def test_a_step_anywhere_else_waits_for_nothing() -> None:
    turn()
