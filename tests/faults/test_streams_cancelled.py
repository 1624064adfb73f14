"""A reader who goes away, in each phase and each way: the service knows at once, and the books say it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from attune.errors import InvalidRequestError, StreamBrokenError
from attune.models.executor import EventKind
from attune.testing import FakeClock
from support.installation import PROTOCOLS, installation
from support.stalls import anew_after_a_stall
from support.upstream import Answer, chat_stream, messages_stream
from support.upstream_responses import responses_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from attune.models.call_stream import CallStream
    from attune.runtime import Runtime

AT_ONCE_S = 0.25
STREAMS = {"chat": chat_stream, "messages": messages_stream, "responses": responses_stream}
TEXT = "the first half of it, and the second"


class Phase(NamedTuple):
    """How far the answer has come when its reader goes; ``text`` is what they have got of it."""

    answer: Answer
    text: str


def phases(protocol: str) -> dict[str, Phase]:
    """An answer that stops before its head, before its first content, and in the middle."""
    blocks = STREAMS[protocol](Answer(text=TEXT))
    half = TEXT[: len(TEXT) // 2]
    place = next(place for place, block in enumerate(blocks) if half.encode() in block)
    before = len(b"".join(blocks[:place]))
    return {
        "before the head": Phase(Answer(stall_head=True), ""),
        "before the first content": Phase(Answer(text=TEXT, stall_after=before), ""),
        "mid-stream": Phase(Answer(text=TEXT, stall_after=before + len(blocks[place])), half),
    }


class Reading:
    """A stream of a runtime that a task reads; ``waiting`` is set when it has got all that comes."""

    def __init__(self, ai: Runtime, text: str) -> None:
        self.ai = ai
        self.events: CallStream = ai.stream("hello")
        self.task = asyncio.create_task(self._read(text))
        self.waiting = asyncio.Event()

    async def _read(self, text: str) -> None:
        got = ""
        async with self.events as events:
            async for event in events:
                if event.kind is EventKind.CONTENT:
                    got += event.parsed.text
                    if got == text:
                        self.waiting.set()

    async def arrives_at(self, phase: str) -> None:
        """Wait until it has come as far as it gets."""
        if phase == "mid-stream":
            await self.waiting.wait()
        elif phase == "before the first content":
            async with asyncio.timeout(60):
                while self.events._call._open[0]._stream is None:
                    await asyncio.sleep(0)


async def by_cancelling_the_task(reading: Reading) -> None:
    reading.task.cancel()


async def by_a_time_limit(reading: Reading) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(reading.task, 0.001)


async def by_closing_the_stream_from_another_task(reading: Reading) -> None:
    await reading.events.aclose()


async def by_closing_the_runtime(reading: Reading) -> None:
    await reading.ai.aclose()


ENDS = {
    by_cancelling_the_task: asyncio.CancelledError,
    by_a_time_limit: asyncio.CancelledError,
    by_closing_the_stream_from_another_task: StreamBrokenError,
    by_closing_the_runtime: InvalidRequestError,
}
"""What the reader gets."""


@pytest.mark.parametrize("go", ENDS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("phase", phases("chat"))
@pytest.mark.parametrize("protocol", PROTOCOLS)
@anew_after_a_stall
async def test_a_reader_who_goes_closes_the_connection_at_once_and_is_recorded(
    tmp_path: Path, protocol: str, phase: str, go: Callable[[Reading], Awaitable[None]]
) -> None:
    answer, text = phases(protocol)[phase]
    async with installation(tmp_path, protocol, "a/m", "b/m") as home:
        home["a"].default = answer
        async with home.runtime() as ai:
            reading = Reading(ai, text)
            seen = await home["a"].arrived()
            await reading.arrives_at(phase)
            went_at = time.monotonic()
            await go(reading)
            await asyncio.wait_for(seen.disconnected.wait(), 60)
            with pytest.raises(ENDS[go]):
                await asyncio.wait_for(reading.task, 60)
        assert seen.disconnected_at is not None
        assert seen.disconnected_at - went_at < AT_ONCE_S
        assert home.asked == ["a#key/m"], "nobody else is asked for a reader who is gone"
        check_the_record(home.records(), text)


def check_the_record(records, text: str) -> None:
    (record,) = records
    assert (record.error_class, record.success) == ("cancelled", False)
    if not text:
        assert (record.cost_nanos, str(record.cost_status)) in [
            (None, "unknown"),
            (record.cost_nanos, "estimated"),
        ]
        assert (record.ttft_ms, record.stop_reason) == (None, "")
        return
    assert record.stop_reason == "truncated"
    assert record.ttft_ms is not None
    assert record.usage.output_tokens >= len(text) // 4
    assert record.usage.input_tokens > 0
    assert record.cost_nanos == record.usage.input_tokens * 1000 + record.usage.output_tokens * 5000
    assert str(record.cost_status) == "estimated"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@anew_after_a_stall
async def test_leaving_the_block_after_the_first_content_closes_the_connection_at_once(
    tmp_path: Path, protocol: str
) -> None:
    answer, text = phases(protocol)["mid-stream"]
    async with installation(tmp_path, protocol, "a/m") as home:
        home["a"].default = answer
        async with home.runtime() as ai:
            async with ai.stream("hello") as events:
                async for event in events:
                    if event.kind is EventKind.CONTENT:
                        break
                went_at = time.monotonic()
            await asyncio.wait_for(home["a"].received[0].disconnected.wait(), 60)
        assert home["a"].received[0].disconnected_at - went_at < AT_ONCE_S
        check_the_record(home.records(), text)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@anew_after_a_stall
async def test_a_whole_answer_that_nobody_waits_for_any_more_is_ended_upstream_too(
    tmp_path: Path, protocol: str
) -> None:
    answer, text = phases(protocol)["mid-stream"]
    async with installation(tmp_path, protocol, "a/m") as home:
        home["a"].default = answer
        async with home.runtime() as ai:
            call = asyncio.create_task(ai.run("hello"))
            seen = await home["a"].arrived()
            await seen.stalled.wait()
            for _ in range(100):  # the half of it has come to the socket, and is read in some of these turns
                await asyncio.sleep(0)
            went_at = time.monotonic()
            call.cancel()
            await asyncio.wait_for(seen.disconnected.wait(), 60)
            with pytest.raises(asyncio.CancelledError):
                await call
        assert seen.disconnected_at - went_at < AT_ONCE_S
        check_the_record(home.records(), text)


@pytest.mark.parametrize("go", ENDS, ids=lambda way: way.__name__)
async def test_a_reader_who_goes_in_a_pause_asks_nobody_again(
    tmp_path: Path, go: Callable[[Reading], Awaitable[None]]
) -> None:
    clock = FakeClock(autojump=False)
    async with installation(tmp_path, "chat", "a/m") as home:
        home["a"].default = Answer(status=503, headers={"retry-after": "5"})
        async with home.runtime(clock=clock) as ai:
            reading = Reading(ai, "")
            async with asyncio.timeout(60):
                while not clock._sleepers:
                    await asyncio.sleep(0)
            await go(reading)
            with pytest.raises(ENDS[go]):
                await asyncio.wait_for(reading.task, 60)
            clock.advance(10)
        assert home.asked == ["a#key/m"]
        assert [each.error_class for each in home.records()] == ["transient"]


@pytest.mark.parametrize("go", ENDS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("phase", ["before the head", "before the first content"])
@anew_after_a_stall
async def test_a_reader_who_goes_closes_both_connections_of_a_hedged_call(
    tmp_path: Path, phase: str, go: Callable[[Reading], Awaitable[None]]
) -> None:
    async with installation(tmp_path, "chat", "a/m", "b/m") as home:
        for upstream in home.upstreams.values():
            upstream.default = phases("chat")[phase].answer
        async with home.runtime('\n[call]\nhedge = "p95"\n') as ai:
            for _ in range(20):
                ai.executor.first_content_times.learn("", "a/m", 10.0)
            reading = Reading(ai, "")
            both = [await home["a"].arrived(), await home["b"].arrived()]
            went_at = time.monotonic()
            await go(reading)
            for seen in both:
                await asyncio.wait_for(seen.disconnected.wait(), 60)
                assert seen.disconnected_at - went_at < AT_ONCE_S
            with pytest.raises(ENDS[go]):
                await asyncio.wait_for(reading.task, 60)
        assert sorted(home.asked) == ["a#key/m", "b#key/m"]
        assert [each.error_class for each in home.records()] == ["cancelled", "cancelled"]
        assert all(each.cost_nanos is None for each in home.records())
