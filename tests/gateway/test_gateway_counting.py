"""Tokens are counted in a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from attune.errors import InvalidRequestError
from attune.gateway import counting
from attune.gateway.counting import TokenCounter, answer
from attune.gateway.http import HTTPError
from support.gateway import gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HI = json.dumps({"model": "alpha", "messages": [{"role": "user", "content": "hello there"}]}).encode()
LONG = json.dumps({"model": "alpha", "messages": [{"role": "user", "content": "hello " * 50_000}]}).encode()
COUNT = "/v1/messages/count_tokens"


@pytest.fixture
async def counter() -> AsyncIterator[TokenCounter]:
    made = TokenCounter()
    yield made
    await made.aclose()


async def test_counts_come_one_after_the_other_from_one_process(counter: TokenCounter) -> None:
    first, *more = await asyncio.gather(*(counter.count(HI) for _ in range(3)))
    process = counter._process
    assert await counter.count(LONG) > 50_000
    assert more == [first, first]
    assert counter._process is process


async def test_what_makes_no_sense_is_said_as_at_the_door(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for body, says in ((b"{", "not JSON"), (b'{"model": "alpha", "messages": 7}', "messages: expected")):
            refused = await gate.post(COUNT, body)
            assert refused.status == 400
            assert says in refused.json["error"]["message"]
        assert (await gate.post(COUNT, HI)).json["input_tokens"] > 0


async def test_the_gateways_process_loads_no_vocabulary(tmp_path: Path) -> None:
    before = {name for name in sys.modules if name.startswith("quicktok")}
    async with gateway(tmp_path) as gate:
        assert (await gate.post(COUNT, HI)).status == 200
    assert {name for name in sys.modules if name.startswith("quicktok")} == before


async def test_a_process_that_dies_is_told_of_and_replaced(counter: TokenCounter) -> None:
    expected = await counter.count(HI)
    process = counter._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)  # or it might answer before it dies
    counting_now = asyncio.create_task(counter.count(LONG))
    await asyncio.sleep(0)
    process.kill()
    with pytest.raises(HTTPError, match="try again") as failed:
        await counting_now
    assert failed.value.status == 503
    assert failed.value.headers == {"retry-after": "1"}
    assert await counter.count(HI) == expected


async def test_a_count_that_nobody_waits_for_does_not_become_the_next_ones_answer(
    counter: TokenCounter,
) -> None:
    expected = await counter.count(HI)
    asking = asyncio.create_task(counter.count(LONG))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await counter.count(HI) == expected


async def test_a_count_that_takes_too_long_is_given_up(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "LONGEST_SECONDS", 0.0)
    with pytest.raises(HTTPError, match="cannot be counted now"):
        await counter.count(HI)


async def test_the_process_ends_when_nothing_is_asked_and_comes_back(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "IDLE_SECONDS", 0.01)
    expected = await counter.count(HI)
    process = counter._process
    assert process is not None
    async with asyncio.timeout(60):
        await process.wait()
    assert await counter.count(HI) == expected


async def test_closing_ends_the_process_also_twice(counter: TokenCounter) -> None:
    await counter.count(HI)
    process = counter._process
    await counter.aclose()
    await counter.aclose()
    assert process is not None
    assert process.returncode is not None


async def test_an_error_of_the_door_comes_back_as_it_is(counter: TokenCounter) -> None:
    with pytest.raises(InvalidRequestError, match="model is missing"):
        await counter.count(b"{}")


def test_the_process_answers_a_line_for_each_body_until_there_are_no_more() -> None:
    bodies = b"".join(len(body).to_bytes(8, "big") + body for body in (HI, b"{", HI))
    answers = io.BytesIO()
    answer(io.BytesIO(bodies), answers)
    first, bad, second = map(json.loads, answers.getvalue().splitlines())
    assert first == second
    assert first["tokens"] > 0
    assert "not JSON" in bad["error"]
