"""The doubles of ``attune.testing`` keep the contracts that they stand in for."""

import asyncio
import subprocess
import sys

import pytest

from attune.errors import CredentialError, StreamBrokenError, TransientError
from attune.models.executor import (
    AttemptBudget,
    EventKind,
    Meta,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest, ToolCallPart
from attune.models.telemetry import TokenUsage
from attune.testing import FakeClock, FakeProvider, Reply

MODEL = ModelInfo("m", "fake", ModelTier.CHEAP, 1000, 100)
ASK = LLMRequest.from_prompt("hi")
STREAM = LLMRequest.from_prompt("hi", stream=True)
BUDGET = AttemptBudget()


async def ask(provider: FakeProvider, request: LLMRequest = ASK) -> list[object]:
    return [event.parsed async for event in await provider.open(request, MODEL, BUDGET)]


async def test_a_text_is_answered_with_the_events_of_a_real_provider() -> None:
    provider = FakeProvider("openai", ["hello world"])
    assert await ask(provider) == [
        Meta("fake-1", "m"),
        TextDelta("hello world"),
        TokenUsage(10, 5),
        Terminal("stop", "stop"),
    ]
    assert (provider.name, provider.credential) == ("openai", "api_key")


async def test_a_stream_has_one_event_a_word_or_what_the_script_says() -> None:
    provider = FakeProvider(script=["hello big  world ", Reply(("a", "b"))])
    assert (await ask(provider, STREAM))[1:4] == [
        TextDelta("hello"),
        TextDelta(" big"),
        TextDelta("  world "),
    ]
    assert (await ask(provider, STREAM))[1:3] == [TextDelta("a"), TextDelta("b")]


async def test_a_reply_can_hold_everything_an_answer_can() -> None:
    reply = Reply("", "hm", (ToolCallPart("c", "f", "{}"),), usage=None, stop_reason="tool_calls")
    assert await ask(FakeProvider(script=[reply])) == [
        Meta("fake-1", "m"),
        ThinkingDelta("hm"),
        ToolCallDelta(0, "c", "f", "{}"),
        Terminal("tool_calls", "tool_calls"),
    ]


async def test_the_script_is_used_up_and_then_the_default_answers() -> None:
    provider = FakeProvider(script=["one"], default=TransientError("down")).then(
        lambda request, model: f"{model.id} heard {len(request.messages)}"
    )
    assert TextDelta("one") in await ask(provider)
    assert TextDelta("m heard 1") in await ask(provider)
    for _ in range(2):
        with pytest.raises(TransientError, match="down"):
            await ask(provider)
    assert [seen.request for seen in provider.received] == [ASK] * 4


async def test_an_error_names_provider_and_model_and_is_a_new_one_each_time() -> None:
    error = CredentialError("no", status=401)
    provider = FakeProvider("p", default=error)
    caught = []
    for _ in range(2):
        with pytest.raises(CredentialError) as info:
            await ask(provider)
        caught.append(info.value)
    assert caught[0] is not caught[1]
    assert (caught[0].provider, caught[0].model, caught[0].status) == ("p", "m", 401)
    assert error.provider == ""


async def test_an_error_can_come_in_the_middle_of_a_stream() -> None:
    provider = FakeProvider(script=[Reply("a b c", error=StreamBrokenError("cut"), error_after=2)])
    stream = await provider.open(STREAM, MODEL, BUDGET)
    kinds = [(await anext(stream)).kind for _ in range(3)]
    with pytest.raises(StreamBrokenError):
        await anext(stream)
    assert kinds == [EventKind.META, EventKind.CONTENT, EventKind.CONTENT]
    assert provider.in_flight == provider.abandoned == 0


async def test_what_is_given_up_before_its_end_is_counted_once() -> None:
    provider = FakeProvider()
    stream = await provider.open(ASK, MODEL, BUDGET)
    second = await provider.open(ASK, MODEL, BUDGET)
    assert (provider.in_flight, provider.max_in_flight) == (2, 2)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert [event async for event in second][-1].kind is EventKind.TERMINAL
    await second.aclose()
    assert (provider.in_flight, provider.abandoned) == (0, 1)


async def test_a_request_cancelled_before_its_head_is_abandoned() -> None:
    provider = FakeProvider(default=Reply(head_s=float("inf")), sleep=FakeClock().sleep)
    task = asyncio.create_task(ask(provider))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (provider.in_flight, provider.abandoned) == (0, 1)


async def test_delays_pass_on_the_clock_that_is_given() -> None:
    clock = FakeClock()
    reply = Reply("a b c", head_s=1, first_content_s=10, between_s=100, error=None)
    start = clock.monotonic()
    await ask(FakeProvider(default=reply, sleep=clock.sleep), STREAM)
    assert clock.monotonic() - start == 211


async def test_a_provider_knows_that_it_was_closed() -> None:
    provider = FakeProvider()
    await provider.aclose()
    assert provider.closed


async def test_sleepers_wake_in_the_order_of_their_times_and_take_none() -> None:
    clock = FakeClock(start=0.0, epoch=1000.0)
    woken: list[tuple[float, float]] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    await asyncio.gather(*map(sleeper, (3600, 5, 0, 7, 5)))
    assert woken == [(0, 0), (5, 5), (5, 5), (7, 7), (3600, 3600)]
    assert clock.time() == 4600.0


async def test_a_cancelled_sleep_does_not_move_the_clock() -> None:
    clock = FakeClock()
    start = clock.monotonic()
    task = asyncio.create_task(clock.sleep(100))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await clock.sleep(1)
    assert clock.monotonic() == start + 1


async def test_without_autojump_only_advance_moves_the_clock() -> None:
    clock = FakeClock(autojump=False)
    task = asyncio.create_task(clock.sleep(10))
    for _ in range(100):
        await asyncio.sleep(0)
    clock.advance(9.5)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(0.5)
    await task


def test_one_clock_serves_one_event_loop_after_another() -> None:
    clock = FakeClock(start=0.0)

    async def abandoned() -> None:
        asyncio.create_task(clock.sleep(50))  # noqa: RUF006 - asyncio.run cancels it
        await asyncio.sleep(0)

    asyncio.run(abandoned())
    asyncio.run(clock.sleep(5))
    assert clock.monotonic() == 5


def test_the_doubles_need_no_http_client() -> None:
    program = "import sys, attune.testing; print('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
