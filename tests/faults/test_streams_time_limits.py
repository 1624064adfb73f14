"""The three time limits of an attempt, each set by tier, and the deadline of a call, over real sockets."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from attune.errors import AllProvidersFailedError, StreamBrokenError, TransientError
from attune.models.executor import TextDelta
from attune.models.request import ExecutionContext
from support.installation import PROTOCOLS, Spec, installation
from support.stalls import anew_after_a_stall
from support.upstream import Answer, chat_stream, messages_stream
from support.upstream_responses import responses_stream

if TYPE_CHECKING:
    from pathlib import Path

    from attune.runtime import Runtime

STREAMS = {"chat": chat_stream, "messages": messages_stream, "responses": responses_stream}
TEXT = "the first half of it, and the second"
HALF = TEXT[: len(TEXT) // 2]
LIMIT_S = 0.15
SLOW_MACHINE_S = 2.0

ALONE = "\n[call]\nretries = 0\n"
FIRST_CONTENT = f"{ALONE}first_content_seconds = {LIMIT_S}\n"
IDLE = f"{ALONE}idle_seconds = {LIMIT_S}\n"
TOTAL = f"{ALONE}attempt_seconds = {LIMIT_S}\n"


def stalling(protocol: str, *, after_content: bool, model: str = "m") -> Answer:
    """A stream that stops just before or just after its first content, and stays open."""
    blocks = STREAMS[protocol](Answer(text=TEXT), model)
    place = next(place for place, block in enumerate(blocks) if HALF.encode() in block)
    return Answer(text=TEXT, stall_after=len(b"".join(blocks[: place + after_content])))


async def read(ai: Runtime, **fields) -> tuple[str, Exception | None, float]:
    """What a reader got, why it ended early, and after how many seconds."""
    text, began = "", time.monotonic()
    try:
        async with ai.stream("hello", **fields) as events:
            async for event in events:
                if isinstance(event.parsed, TextDelta):
                    text += event.parsed.text
    except (StreamBrokenError, AllProvidersFailedError) as error:
        return text, error, time.monotonic() - began
    return text, None, time.monotonic() - began


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("phase", ["head", "content"])
@anew_after_a_stall
async def test_without_content_in_time_another_answers(tmp_path: Path, protocol: str, phase: str) -> None:
    async with installation(tmp_path, protocol) as home:
        answer = Answer(stall_head=True) if phase == "head" else stalling(protocol, after_content=False)
        home["a"].default = answer
        async with home.runtime(FIRST_CONTENT) as ai:
            text, error, seconds = await read(ai)
            assert ai.domains.snapshot()[1].consecutive_failures == 1
        assert (text, error) == ("Hello there, friend", None)
        assert LIMIT_S <= seconds < LIMIT_S + SLOW_MACHINE_S
        late, answered = home.records()
        assert (late.error_class, late.ttft_ms, answered.success) == ("transient", None, True)
        assert late.latency_ms >= LIMIT_S * 1000
        assert str(late.cost_status) != "exact"
        assert home["a"].received[0].disconnected.is_set()


PINGS = {
    "chat": b": ping\n\n",
    "messages": b'event: ping\ndata: {"type": "ping"}\n\n',
    "responses": b": ping\n\n",
}


async def ping_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    protocol = next(each for each in ("messages", "responses", "chat") if f"/{each}".encode() in head)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    try:
        while not writer.is_closing():
            writer.write(PINGS[protocol])
            await writer.drain()
            await asyncio.sleep(LIMIT_S / 10)
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@anew_after_a_stall
async def test_pings_are_no_content_and_put_no_limit_off(tmp_path: Path, protocol: str) -> None:
    async with installation(tmp_path, protocol) as home:
        await home["a"].down()
        pinging = await asyncio.start_server(ping_for_ever, "127.0.0.1", home["a"].port)
        async with pinging, home.runtime(FIRST_CONTENT) as ai:
            text, error, seconds = await read(ai)
        assert (text, error) == ("Hello there, friend", None)
        assert LIMIT_S <= seconds < LIMIT_S + SLOW_MACHINE_S
        assert [each.error_class for each in home.records()] == ["transient", ""]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@anew_after_a_stall
async def test_a_stream_that_falls_silent_is_truncated_and_a_whole_answer_comes_from_another(
    tmp_path: Path, protocol: str
) -> None:
    async with installation(tmp_path, protocol) as home:
        home["a"].default = stalling(protocol, after_content=True)
        async with home.runtime(IDLE) as ai:
            text, error, seconds = await read(ai)
            assert (text, type(error)) == (HALF, StreamBrokenError)
            assert f"timed out after {LIMIT_S:.1f} s waiting for the next event" in str(error)
            assert LIMIT_S <= seconds < LIMIT_S + SLOW_MACHINE_S
            response = await ai.run("hello", workflow="another")
        assert response.text == "Hello there, friend"
        first = home.records()[0]
        assert (first.error_class, first.stop_reason) == ("mid_stream", "truncated")
        assert (str(first.cost_status), first.usage.output_tokens >= len(HALF) // 4) == ("estimated", True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@anew_after_a_stall
async def test_an_attempt_that_drips_for_ever_ends_at_its_total_limit(tmp_path: Path, protocol: str) -> None:
    async with installation(tmp_path, protocol, "a/m") as home:
        home["a"].default = Answer(text=TEXT, between_s=LIMIT_S / 4)
        async with home.runtime(TOTAL) as ai:
            _, error, seconds = await read(ai)
        assert isinstance(error, StreamBrokenError | AllProvidersFailedError)
        assert LIMIT_S <= seconds < LIMIT_S + SLOW_MACHINE_S
        (record,) = home.records()
        assert (record.success, record.error_class in {"mid_stream", "transient"}) == (False, True)


@anew_after_a_stall
async def test_every_tier_has_its_own_limits(tmp_path: Path) -> None:
    limits = f"""
[call]
retries = 0
first_content_seconds = 5
[call.tiers.cheap]
first_content_seconds = {LIMIT_S}
[call.tiers.premium]
idle_seconds = {LIMIT_S}
"""
    models = (Spec("a/small", tier="cheap"), Spec("b/mid"), Spec("c/big", tier="premium"))
    async with installation(tmp_path, "chat", *models) as home:
        for provider in "abc":
            home[provider].default = Answer(text=TEXT, head_s=2 * LIMIT_S)
        async with home.runtime(limits) as ai:
            for tier, model in (("cheap", "a/small"), ("capable", "b/mid"), ("premium", "c/big")):
                context = ExecutionContext(tier=tier, model=model, workflow=tier)
                if tier == "cheap":
                    with pytest.raises(AllProvidersFailedError, match="waiting for its first content"):
                        await ai.run("hello", context)
                else:
                    assert (await ai.run("hello", context)).text == TEXT
            home["c"].default = stalling("chat", after_content=True, model="big")
            with pytest.raises(AllProvidersFailedError, match="waiting for the next event"):
                await ai.run("hello", model="c/big", workflow="again")


@anew_after_a_stall
async def test_the_deadline_of_a_call_spans_its_attempts(tmp_path: Path) -> None:
    async with installation(tmp_path, "chat", "a/m", "b/m", "c/m") as home:
        for provider in "abc":
            home[provider].default = Answer(stall_head=True)
        async with home.runtime(f"{FIRST_CONTENT}deadline_seconds = {2.5 * LIMIT_S}\n") as ai:
            _, error, seconds = await read(ai)
        assert isinstance(error, AllProvidersFailedError)
        assert all(isinstance(each, TransientError) for each in error.attempts)
        assert 2.5 * LIMIT_S <= seconds < 2.5 * LIMIT_S + SLOW_MACHINE_S
        waits = [each.latency_ms for each in home.records()]
        assert len(waits) <= 3
        assert sum(waits) <= seconds * 1000


@anew_after_a_stall
async def test_a_long_answer_that_keeps_coming_is_not_late(tmp_path: Path) -> None:
    async with installation(tmp_path, "messages", "a/m") as home:
        home["a"].default = Answer(text=TEXT, between_s=LIMIT_S / 3)
        limits = f"{ALONE}first_content_seconds = {LIMIT_S * 10}\nidle_seconds = {LIMIT_S * 10}\n"
        async with home.runtime(limits) as ai:
            text, error, seconds = await read(ai)
        assert (text, error) == (TEXT, None)
        assert seconds > LIMIT_S
