"""A tool loop begun at one provider goes on at another, which refuses what is not fit for it, and back."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from attune.models.empathy_executor import EmpathyLLMExecutor
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest, Message, Tool, ToolCallPart, ToolResultPart
from attune.providers import build_provider
from support.upstream import Answer, FakeUpstream
from support.upstream_responses import ENCRYPTED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from attune.models.executor import LLMResponse
    from support.upstream import Received

PROTOCOLS = ("chat", "responses", "messages")
MODELS = {"chat": "some-model", "responses": "gpt-6-luna", "messages": "claude-sonnet-4-5"}
TOOLS = (Tool("get", "gets", {"type": "object"}),)
LONG_ID, ODD_ID = "call_" + "x" * 75, "functions.get:0|fc_1"
CALLS = tuple((call_id, "get", '{"city": "Rome"}') for call_id in (LONG_ID, ODD_ID))


def faults_of_chat(body: Any) -> Iterator[str]:
    open_ids: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                yield "a result of no call"
            continue
        open_ids = [call["id"] for call in message.get("tool_calls", ())]
        if any(len(call_id) > 40 for call_id in open_ids):
            yield "an id above 40 characters"
        if isinstance(message["content"], list) and any(p["type"] != "text" for p in message["content"]):
            yield "a part that it does not know"


def faults_of_responses(body: Any) -> Iterator[str]:
    items = [*body["input"], {"type": "end"}]
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    for item, following in pairwise(items):
        if item.get("type") == "reasoning":
            if (item["id"], item["encrypted_content"]) != ("rs_1", ENCRYPTED):
                yield "encrypted content that cannot be verified"
            if following.get("type") not in {"message", "function_call"}:
                yield "reasoning without its required following item"
        if item.get("type") == "function_call_output" and item["call_id"] not in calls:
            yield "a result of no call"
    if any(len(call_id) > 64 for call_id in calls):
        yield "an id above 64 characters"


def faults_of_messages(body: Any) -> Iterator[str]:
    said = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    calls = [block["id"] for blocks in said for block in blocks if block["type"] == "tool_use"]
    if len(set(calls)) < len(calls) or not all(re.fullmatch("[a-zA-Z0-9_-]+", each) for each in calls):
        yield "ids that are not unique or have strange letters"
    for message in body["messages"]:
        for block in message["content"]:
            if block["type"] == "tool_result" and block["tool_use_id"] not in calls:
                yield "a result of no call"
            if block["type"] == "thinking" and block["signature"] != "sig-1":
                yield "an invalid signature"
    for blocks in said:
        if blocks[-1]["type"] == "thinking":
            yield "a message that ends with thinking"
    last = said[-1] if said else [{"type": "text"}]
    if body.get("thinking") and last[-1]["type"] == "tool_use" and last[0]["type"] != "thinking":
        yield "expected thinking before a tool call"


FAULTS = {"chat": faults_of_chat, "responses": faults_of_responses, "messages": faults_of_messages}


def strict(answer: Answer) -> Any:
    """``answer``, to a request in which the service finds no fault."""

    def check(seen: Received) -> Answer:
        faults = list(FAULTS[seen.protocol](seen.body))
        return Answer(status=400, error_message="; ".join(faults)) if faults else answer

    return check


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


async def ask(upstream: FakeUpstream, protocol: str, *conversation: Message) -> LLMResponse:
    kind = "anthropic" if protocol == "messages" else "openai"
    url = upstream.messages_url if protocol == "messages" else upstream.chat_url
    spoken = None if protocol == "messages" else protocol
    provider = build_provider(protocol, kind, base_url=url, protocol=spoken)
    model = ModelInfo(MODELS[protocol], protocol, ModelTier.CAPABLE, 100_000, 8192)
    request = LLMRequest(conversation, tools=TOOLS, thinking_tokens=2000, stream=True)
    try:
        return await EmpathyLLMExecutor(provider, model).run(request)
    finally:
        await provider.aclose()


def results(response: LLMResponse) -> Message:
    calls = [part for part in response.content if isinstance(part, ToolCallPart)]
    assert len(calls) == 2
    return Message("user", tuple(ToolResultPart(call.id, "sunny") for call in calls))


@pytest.mark.parametrize("second", PROTOCOLS)
@pytest.mark.parametrize("first", PROTOCOLS)
async def test_a_tool_loop_goes_on_at_any_provider_and_comes_back(
    upstream: FakeUpstream, first: str, second: str
) -> None:
    calling = Answer(text="one moment", thinking="let me see", tool_calls=CALLS)
    upstream.then(strict(calling), strict(calling), strict(Answer(text="It is sunny.")))
    conversation = [Message.user("weather?")]
    for protocol in (first, second):
        response = await ask(upstream, protocol, *conversation)
        conversation += [Message("assistant", response.content), results(response)]
    assert (await ask(upstream, first, *conversation)).text == "It is sunny."


@pytest.mark.parametrize(("protocol", "secret"), [("responses", ENCRYPTED), ("messages", "sig-1")])
async def test_reasoning_goes_back_to_its_maker_and_to_nobody_else(
    upstream: FakeUpstream, protocol: str, secret: str
) -> None:
    upstream.default = strict(Answer(text="one moment", thinking="let me see", tool_calls=CALLS))
    response = await ask(upstream, protocol, Message.user("weather?"))
    conversation = (Message.user("weather?"), Message("assistant", response.content), results(response))
    for other in PROTOCOLS:
        await ask(upstream, other, *conversation)
        sent = str(upstream.received[-1].body)
        assert (secret in sent) == ("let me see" in sent) == (other == protocol)
