"""The official clients read every answer that the doors write, whatever the provider behind them speaks."""

from __future__ import annotations

import json
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attune.errors import AttuneError
from attune.models.executor import AttemptBudget, CostStatus, LLMResponse
from attune.models.folding import Fold
from attune.models.registry import ModelInfo, ModelTier
from attune.providers import build_provider
from attune.wire.carrying import only_here
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import AnswerHead
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses_door import ResponsesDoor
from attune.wire.whole_body import WholeBody
from support.upstream import Answer, FakeUpstream, chat_body, sse
from support.upstream_responses import ENCRYPTED

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from attune.models.request import LLMRequest
    from attune.wire.doors import Door

MODEL = ModelInfo("some-model", "mine", ModelTier.CAPABLE, 100_000, 4096)
NOW = 1_800_000_000
DOORS: dict[str, Door] = {
    "/v1/chat/completions": ChatDoor(),
    "/v1/messages": MessagesDoor(),
    "/v1/responses": ResponsesDoor(),
}
UPSTREAMS = ("chat", "messages", "responses")


class DoorServer:
    """The doors in front of one real provider: what a gateway does with them, and nothing else."""

    def __init__(self, upstream: FakeUpstream, speaks: str) -> None:
        kind = "anthropic" if speaks == "messages" else "openai"
        protocol = None if kind == "anthropic" else speaks
        self.provider = build_provider("mine", kind, base_url=upstream.chat_url, protocol=protocol)
        self.speaks = speaks
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        door = DOORS[request.path]
        head = AnswerHead("call1", MODEL.id, "mine", NOW)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            asked = door.read(await request.content.read(), headers)
            return await self._asked(request, door, asked.request, head)
        except AttuneError as error:
            told = door.error(error, now=NOW, call_id="call1", speaks={"mine": (self.speaks,)})
            return web.Response(
                status=told.status,
                headers=dict(told.headers),
                body=told.body,
                content_type="application/json",
            )

    async def _asked(
        self, request: web.BaseRequest, door: Door, asked: LLMRequest, head: AnswerHead
    ) -> web.StreamResponse:
        relays = door.protocol == self.speaks
        stream = await self.provider.open(asked.streaming(), MODEL, AttemptBudget(connect_s=60.0))
        async with aclosing(stream):
            assert asked.source is not None
            if not asked.stream and relays and only_here(asked.source):
                body = WholeBody(door.protocol)
                async for event in stream:
                    body.feed(event)
                return web.Response(body=body.finish(), content_type="application/json")
            if not asked.stream:
                fold = Fold("mine")
                async for event in stream:
                    fold.add(event)
                return web.Response(
                    body=door.body(response_of(fold), asked, head, relays=relays),
                    content_type="application/json",
                )
            writer = door.stream(asked, head, relays=relays)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            await response.write(writer.PING)
            try:
                async for event in stream:
                    await response.write(writer.feed(event))
            except AttuneError as error:
                await response.write(door.error_event(error, now=NOW, call_id="call1"))
            await response.write_eof()
            return response


def response_of(fold: Fold) -> LLMResponse:
    assert fold.terminal is not None
    return LLMResponse(
        call_id="call1",
        content=fold.content,
        stop_reason=fold.terminal.stop_reason,
        provider="mine",
        model_id=MODEL.id,
        tier="capable",
        credential="none",
        usage=fold.usage,
        cost_nanos=None,
        cost_status=CostStatus.UNKNOWN,
        latency_ms=1.0,
        ttft_ms=1.0,
    )


@asynccontextmanager
async def serving(speaks: str, *answers: Answer) -> AsyncIterator[tuple[str, FakeUpstream]]:
    async with FakeUpstream() as upstream:
        upstream.then(*answers)
        server = DoorServer(upstream, speaks)
        runner = web.ServerRunner(web.Server(server.answer), handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", upstream
        finally:
            await runner.cleanup()
            await server.provider.aclose()


@asynccontextmanager
async def openai_at(url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60) as client:
        yield client


@asynccontextmanager
async def anthropic_at(url: str) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0, timeout=60) as client:
        yield client


CALLS = (("call_0123456789a", "look", '{"at": "sky"}'), ("call_0123456789b", "listen", '{"to": "sea"}'))
TALK = Answer(text="Hello there", thinking="Let me think", tool_calls=CALLS)
PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
behind_each = pytest.mark.parametrize("speaks", UPSTREAMS)
streamed_or_not = pytest.mark.parametrize("streams", [True, False], ids=["stream", "body"])


@behind_each
@streamed_or_not
async def test_the_openai_client_reads_chat_with_tools(speaks: str, streams: bool) -> None:
    async with serving(speaks, TALK) as (url, upstream), openai_at(url) as client:
        question = {
            "model": "auto",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "look", "description": "", "parameters": PARAMETERS},
                }
            ],
        }
        if streams:
            async with client.chat.completions.stream(
                **question, stream_options={"include_usage": True}
            ) as stream:
                answer = await stream.get_final_completion()
        else:
            answer = await client.chat.completions.create(**question)
    choice = answer.choices[0]
    assert choice.message.content == "Hello there"
    assert choice.finish_reason == "tool_calls"
    assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls] == [
        (call_id, name, json.loads(arguments)) for call_id, name, arguments in CALLS
    ]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        12,
        7,
        19,
    )
    assert answer.model == "some-model"
    assert answer.object == "chat.completion"
    assert choice.message.reasoning_content == "Let me think"
    sent = upstream.received[0].body
    assert sent["model"] == "some-model"
    assert sent["stream"] is True


@behind_each
@streamed_or_not
async def test_the_anthropic_client_reads_messages_with_tools(speaks: str, streams: bool) -> None:
    async with serving(speaks, TALK) as (url, _), anthropic_at(url) as client:
        question = {
            "model": "auto",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"name": "look", "input_schema": PARAMETERS}],
        }
        if streams:
            async with client.messages.stream(**question) as stream:
                answer = await stream.get_final_message()
        else:
            answer = await client.messages.create(**question)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert answer.content[0].thinking == "Let me think"
    assert answer.content[1].text == "Hello there"
    assert [(block.id, block.name, block.input) for block in answer.content[2:]] == [
        (call_id, name, json.loads(arguments)) for call_id, name, arguments in CALLS
    ]
    assert answer.stop_reason == "tool_use"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 7)
    assert answer.model == "some-model"


@behind_each
@streamed_or_not
async def test_the_openai_client_reads_responses_with_tools(speaks: str, streams: bool) -> None:
    async with serving(speaks, TALK) as (url, _), openai_at(url) as client:
        question = {"model": "auto", "input": "hi"}
        if streams:
            async with client.responses.stream(**question) as stream:
                seen = [event.type async for event in stream]
                answer = await stream.get_final_response()
            assert seen[0] == "response.created"
            assert seen[-1] == "response.completed"
            assert "response.reasoning_summary_text.delta" in seen
        else:
            answer = await client.responses.create(**question)
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    assert answer.output[0].summary[0].text == "Let me think"
    assert answer.output_text == "Hello there"
    assert [(item.call_id, item.name, json.loads(item.arguments)) for item in answer.output[2:]] == [
        (call_id, name, json.loads(arguments)) for call_id, name, arguments in CALLS
    ]
    assert answer.status == "completed"
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (12, 7, 19)


@behind_each
@streamed_or_not
@pytest.mark.parametrize("door", ["chat", "messages", "responses"])
async def test_an_answer_that_reached_its_limit_says_so(speaks: str, streams: bool, door: str) -> None:
    word = {"chat": "length", "messages": "max_tokens", "responses": "max_output_tokens"}[speaks]
    async with serving(speaks, Answer(text="Hel", stop_reason=word)) as (url, _):
        if door == "messages":
            async with anthropic_at(url) as client:
                question = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
                if streams:
                    async with client.messages.stream(**question) as stream:
                        answer = await stream.get_final_message()
                else:
                    answer = await client.messages.create(**question)
                assert answer.stop_reason == "max_tokens"
        elif door == "chat":
            async with openai_at(url) as client:
                question = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                if streams:
                    stream = await client.chat.completions.create(**question, stream=True)
                    reasons = [c.choices[0].finish_reason async for c in stream]
                    assert reasons[-1] == "length"
                else:
                    answer = await client.chat.completions.create(**question)
                    assert answer.choices[0].finish_reason == "length"
        else:
            async with openai_at(url) as client:
                if streams:
                    async with client.responses.stream(model="m", input="hi") as stream:
                        events = [event async for event in stream]
                    answer = events[-1].response
                else:
                    answer = await client.responses.create(model="m", input="hi")
                assert answer.status == "incomplete"
                assert answer.incomplete_details.reason == "max_output_tokens"


@behind_each
async def test_the_usage_chunk_is_kept_from_a_chat_client_that_did_not_ask(speaks: str) -> None:
    async with serving(speaks) as (url, _), openai_at(url) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there, friend"


@pytest.mark.parametrize("speaks", ["messages"])
async def test_a_stream_of_the_same_protocol_arrives_byte_for_byte(speaks: str) -> None:
    from support.upstream import messages_stream

    async with serving(speaks, TALK) as (url, _):
        body = {
            "model": "auto",
            "max_tokens": 9,
            "stream": True,
            "messages": [{"role": "user", "content": "x"}],
        }
        status, got = await posted(f"{url}/v1/messages", json.dumps(body).encode())
    assert status == 200
    assert got == MessagesDoor.PING + b"".join(messages_stream(TALK, "some-model"))


async def posted(url: str, body: bytes) -> tuple[int, bytes]:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return response.status, await response.read()


@pytest.mark.parametrize(
    ("status", "error_type", "raised"),
    [
        (400, "invalid_request_error", "BadRequestError"),
        (404, "not_found_error", "NotFoundError"),
        (413, "request_too_large", "APIStatusError"),
        (429, "rate_limit_error", "RateLimitError"),
        (529, "overloaded_error", "InternalServerError"),
    ],
)
@behind_each
async def test_an_error_is_raised_by_each_client_as_its_own(
    speaks: str, status: int, error_type: str, raised: str
) -> None:
    failing = Answer(status=status, error_type=error_type, error_message="some-model: no")
    async with serving(speaks, failing, failing) as (url, _), openai_at(url) as client:
        with pytest.raises(getattr(openai, raised), match="no"):
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        async with anthropic_at(url) as other:
            with pytest.raises(getattr(anthropic, raised), match="no"):
                await other.messages.create(
                    model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
                )


async def test_a_caller_s_error_of_the_same_protocol_comes_with_the_provider_s_own_body() -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}'
    async with serving("messages", Answer(status=400, body=body), Answer(status=400, body=body)) as (url, _):
        asked = json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]})
        assert await posted(f"{url}/v1/messages", asked.encode()) == (400, body)
        asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]})
        status, other = await posted(f"{url}/v1/chat/completions", asked.encode())
    assert status == 400
    assert json.loads(other)["error"]["code"] == "context_length_exceeded"


@behind_each
async def test_a_stream_that_breaks_raises_in_each_client(speaks: str) -> None:
    cut = Answer(text="Hello there", cut_after=600, cut_by="close")
    async with serving(speaks, cut, cut, cut) as (url, _), openai_at(url) as client:
        with pytest.raises(openai.APIError, match="mine"):
            async for _ in await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            ):
                pass
        with pytest.raises(openai.APIError, match="mine"):
            async for _ in await client.responses.create(model="m", input="hi", stream=True):
                pass
        async with anthropic_at(url) as other:
            with pytest.raises(anthropic.APIStatusError, match="mine"):
                async with other.messages.stream(
                    model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
                ) as stream:
                    await stream.get_final_message()


async def test_beta_features_of_the_client_reach_a_provider_of_its_protocol_and_its_key_does_not() -> None:
    async with serving("messages") as (url, upstream), anthropic_at(url) as client:
        await client.beta.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], betas=["some-beta"]
        )
    sent = upstream.received[0].headers
    assert sent["anthropic-beta"] == "some-beta"
    assert sent["anthropic-version"] == client.default_headers["anthropic-version"]
    assert "x-api-key" not in sent
    async with serving("chat") as (url, upstream), anthropic_at(url) as client:
        await client.beta.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], betas=["some-beta"]
        )
    assert "anthropic-beta" not in upstream.received[0].headers


async def test_tools_of_the_server_work_without_a_stream_where_the_protocol_is_the_same() -> None:
    question = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    }
    async with serving("messages", TALK) as (url, _), anthropic_at(url) as client:
        answer = await client.messages.create(**question)
        assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert answer.content[0].signature == "sig-1"
    async with serving("chat", TALK) as (url, upstream), anthropic_at(url) as client:
        with pytest.raises(
            anthropic.BadRequestError, match="cannot be asked for tools of type 'web_search_2025"
        ):
            await client.messages.create(**question)
        assert upstream.received == []


async def test_a_provider_that_does_not_stream_is_translated_for_a_client_that_does() -> None:
    plain = Answer(body=chat_body(TALK, "some-model"), content_type="application/json")
    async with (
        serving("chat", plain) as (url, _),
        openai_at(url) as client,
        client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "hi"}]) as stream,
    ):
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "Hello there"
    assert len(answer.choices[0].message.tool_calls) == 2


INPUTS = st.dictionaries(st.text(max_size=4), st.text() | st.lists(st.integers(), max_size=2), max_size=3)


@st.composite
def mixed_calls(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The inputs of some calls side by side, and the pieces of their JSON in the order in which they come."""
    inputs = draw(st.lists(INPUTS, min_size=1, max_size=4))
    rest = {place: json.dumps(each, ensure_ascii=draw(st.booleans())) for place, each in enumerate(inputs)}
    pieces = [(place, "") for place in rest]  # the calls begin in order, with their ids and names
    while rest:
        place = draw(st.sampled_from(sorted(rest)))
        size = draw(st.integers(1, 12))
        pieces.append((place, rest[place][:size]))
        rest[place] = rest[place][size:]
        if not rest[place]:
            del rest[place]
    return inputs, pieces


def chat_of(pieces: list[tuple[int, str]]) -> Answer:
    """A stream of Chat Completions that gives the pieces of its calls in this order."""
    began: set[int] = set()
    chunks = []
    for place, text in pieces:
        call: dict[str, Any] = {"index": place, "function": {"arguments": text}}
        if place not in began:
            began.add(place)
            named = {"name": f"tool_{place}", "arguments": text}
            call = {"index": place, "id": f"call_0123456789{place}", "type": "function", "function": named}
        chunks.append(sse({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}))
    end = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    body = b"".join([*chunks, end, b"data: [DONE]\n\n"])
    return Answer(body=body, content_type="text/event-stream")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mixed_calls())
@example(([{"a": 1}, {"b": 2}], [(0, '{"a"'), (1, '{"b"'), (0, ": 1}"), (1, ": 2}")]))
async def test_calls_whose_pieces_a_provider_mixes_arrive_whole_in_their_order(
    mixed: tuple[list[dict[str, Any]], list[tuple[int, str]]],
) -> None:
    inputs, pieces = mixed
    answer = chat_of(pieces)
    async with serving("chat", answer, answer) as (url, _):
        async with (
            anthropic_at(url) as client,
            client.messages.stream(
                model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
            ) as stream,
        ):
            message = await stream.get_final_message()
        assert [(block.name, block.input) for block in message.content] == [
            (f"tool_{place}", each) for place, each in enumerate(inputs)
        ]
        async with (
            openai_at(url) as client,
            client.responses.stream(model="m", input="hi") as stream,
        ):
            response = await stream.get_final_response()
        assert [json.loads(item.arguments) for item in response.output] == inputs


@pytest.mark.parametrize("streams", [True, False], ids=["stream", "body"])
async def test_reasoning_that_a_client_of_another_protocol_kept_goes_back_to_its_maker(streams: bool) -> None:
    asked = {"role": "user", "content": "hi"}
    async with serving("responses", TALK) as (url, upstream), anthropic_at(url) as client:
        question = {"model": "m", "max_tokens": 99}
        if streams:
            async with client.messages.stream(**question, messages=[asked]) as stream:
                answer = await stream.get_final_message()
        else:
            answer = await client.messages.create(**question, messages=[asked])
        assert answer.content[0].signature.startswith("attune:mine:")
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "blue"}
            for block in answer.content[2:]
        ]
        kept = [block.model_dump(exclude_none=True) for block in answer.content]
        turns = [asked, {"role": "assistant", "content": kept}, {"role": "user", "content": results}]
        await client.messages.create(**question, messages=turns)
    sent = upstream.received[1].body["input"]
    assert [item.get("type", item.get("role")) for item in sent] == [
        "user",
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
    ]
    assert sent[1]["encrypted_content"] == ENCRYPTED
    async with serving("messages") as (url, upstream), anthropic_at(url) as client:
        await client.messages.create(**question, messages=turns)
    assert [block["type"] for block in upstream.received[0].body["messages"][1]["content"]] == [
        "text",
        "tool_use",
        "tool_use",
    ]
