"""An independent fake of the services, with its own idea of the protocols, as the upstream."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from attune.errors import CredentialError, ProviderError, StreamBrokenError, ThrottledError, TransientError
from attune.models.executor import AttemptBudget, EventKind, Provider, StreamEvent, TextDelta, ToolCallDelta
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest, Tool
from attune.providers import Secret, build_provider
from support.llmock_server import control, llmock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytest.importorskip("llmock")

MODEL = ModelInfo("some-model", "mine", ModelTier.CAPABLE, 100_000, 4096)
both = pytest.mark.parametrize("streams", [False, True], ids=["body", "stream"])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with llmock() as url:
        yield url


@pytest.fixture(params=["chat", "responses", "messages"])
async def provider(request: pytest.FixtureRequest, server: str) -> AsyncIterator[Provider]:
    control(server, "reset", {})
    key = Secret("sk-llmock-0123456789", "env:X")
    if request.param == "messages":
        made = build_provider("mine", "anthropic", base_url=f"{server}/anthropic", key=key)
    else:
        made = build_provider("mine", "openai", base_url=f"{server}/v1", key=key, protocol=request.param)
    yield made
    await made.aclose()


async def ask(provider: Provider, *, streams: bool, **options: Any) -> list[StreamEvent]:
    request = LLMRequest.from_prompt("What is a permit?", stream=streams, **options)
    async with aclosing(await provider.open(request, MODEL, AttemptBudget())) as stream:
        return [event async for event in stream]


@both
async def test_a_question_is_answered_with_text_usage_and_an_end(provider: Provider, streams: bool) -> None:
    events = await ask(provider, streams=streams)
    text = "".join(e.parsed.text for e in events if isinstance(e.parsed, TextDelta))
    assert len(text.split()) > 3
    usage = [e.parsed for e in events if e.kind is EventKind.USAGE][-1]
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert events[-1].parsed.stop_reason == "stop"


@both
async def test_a_tool_that_is_offered_is_called(provider: Provider, streams: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    events = await ask(provider, streams=streams, tools=(Tool("get_weather", "the weather", schema),))
    calls = [e.parsed for e in events if isinstance(e.parsed, ToolCallDelta)]
    assert calls[0].name == "get_weather"
    assert "city" in json.loads("".join(call.arguments for call in calls))
    assert events[-1].parsed.stop_reason == "tool_calls"


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, CredentialError), (429, ThrottledError), (500, TransientError), (503, TransientError)],
)
async def test_its_errors_have_their_classes(
    provider: Provider, server: str, status: int, expected: type[ProviderError]
) -> None:
    control(server, "scenario", {"behaviors": [{"type": "fail", "status": status, "retry_after": 3}]})
    with pytest.raises(ProviderError) as caught:
        await ask(provider, streams=True)
    assert type(caught.value) is expected
    if status == 429:
        assert caught.value.retry_after == 3


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "malformed"])
async def test_its_broken_streams_are_never_taken_for_complete(
    provider: Provider, server: str, fault: str
) -> None:
    control(server, "scenario", {"behaviors": [{"type": "stream_fault", "kind": fault, "after_chunks": 4}]})
    with pytest.raises(StreamBrokenError):
        await ask(provider, streams=True)


async def test_its_verdict_finds_no_fault_with_the_client(provider: Provider, server: str) -> None:
    for streams in (False, True):
        await ask(provider, streams=streams)
    verdict = await asyncio.to_thread(control, server, "verdict")
    assert verdict["findings"] == []
