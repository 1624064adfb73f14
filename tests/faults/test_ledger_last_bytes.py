"""What arrived before a connection broke counts, however late it is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from attune.errors import StreamBrokenError
from attune.models.executor import AttemptBudget, EventKind
from attune.models.request import LLMRequest
from attune.models.telemetry import TokenUsage
from attune.providers.catalogue import build_provider
from support.pipeline import a_model
from support.upstream import Answer, FakeUpstream, chat_stream, messages_stream

if TYPE_CHECKING:
    from attune.models.executor import StreamEvent

ANSWER = Answer(text="a long answer in many words")
STREAMS = {"openai": chat_stream(ANSWER), "anthropic": messages_stream(ANSWER)}
REQUEST = LLMRequest.from_prompt("hello", stream=True, max_output_tokens=100)


async def broken_before_it_is_read(kind: str, cut_after: int) -> tuple[list[StreamEvent], str]:
    """The events of a stream that broke after so many bytes, all of it before the first was read."""
    async with FakeUpstream(default=Answer(text=ANSWER.text, cut_after=cut_after)) as upstream:
        url = upstream.chat_url if kind == "openai" else upstream.messages_url
        provider = build_provider("p", kind, base_url=url)
        stream = await provider.open(REQUEST, a_model("p/m"), AttemptBudget())
        async with asyncio.timeout(60):
            while stream._wire.is_connected():
                await asyncio.sleep(0)
        events: list[StreamEvent] = []
        error = ""
        try:
            while event := await anext(stream, None):
                events.append(event)
        except StreamBrokenError as broken:
            error = str(broken)
        await provider.aclose()
    return events, error


@pytest.mark.parametrize("kind", STREAMS)
async def test_an_answer_that_was_complete_when_the_connection_broke_is_complete(kind: str) -> None:
    events, error = await broken_before_it_is_read(kind, len(b"".join(STREAMS[kind])))
    assert error == ""
    assert events[-1].kind is EventKind.TERMINAL
    assert "".join(e.parsed.text for e in events if e.kind is EventKind.CONTENT) == ANSWER.text


@pytest.mark.parametrize("kind", STREAMS)
async def test_the_usage_that_came_before_the_connection_broke_is_there(kind: str) -> None:
    events, error = await broken_before_it_is_read(kind, len(b"".join(STREAMS[kind][:-1])))
    assert "the connection broke during the answer" in error
    assert [e.parsed for e in events if e.kind is EventKind.USAGE][-1] == TokenUsage(12, 7)
