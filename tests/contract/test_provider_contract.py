"""What every kind of provider keeps, against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    InvalidRequestError,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
)
from attune.models.executor import (
    AttemptBudget,
    EventKind,
    Provider,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import (
    ImagePart,
    LLMRequest,
    Message,
    OutputFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from attune.models.telemetry import TokenUsage
from attune.providers import Secret, build_provider
from attune.providers.local import LocalProvider
from support.upstream import Answer, FakeUpstream, chat_body, chat_stream, messages_body, messages_stream
from support.upstream_responses import responses_body, responses_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MODEL = ModelInfo("some-model", "mine", ModelTier.CAPABLE, 100_000, 4096)
KEY = "correct-horse-battery-staple"
BUDGET = AttemptBudget(connect_s=60.0)
ASK = LLMRequest.from_prompt("hi")
STREAM = LLMRequest.from_prompt("hi", stream=True)
both = pytest.mark.parametrize("request_", [ASK, STREAM], ids=["body", "stream"])


class RunningModel:
    """Stands for the process of the embedded model, which speaks Chat Completions as others do."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return


def make(kind: str, url: str) -> Provider:
    key = Secret(KEY, "env:MINE")
    if kind == "local":
        return LocalProvider("mine", model=RunningModel(f"{url}/v1"))  # type: ignore[arg-type]
    if kind == "anthropic":
        return build_provider("mine", kind, base_url=url, key=key)
    protocol = "responses" if kind == "responses" else None
    return build_provider("mine", "openai", base_url=f"{url}/v1", key=key, protocol=protocol)


@pytest.fixture(params=["openai", "responses", "anthropic", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
async def provider(kind: str, upstream: FakeUpstream) -> AsyncIterator[Provider]:
    made = make(kind, upstream.url)
    yield made
    await made.aclose()


async def ask(provider: Provider, request: LLMRequest = ASK) -> list[StreamEvent]:
    async with aclosing(await provider.open(request, MODEL, BUDGET)) as stream:
        return [event async for event in stream]


def parsed(events: list[StreamEvent], kind: EventKind) -> list[Any]:
    return [event.parsed for event in events if event.kind is kind]


def text(events: list[StreamEvent]) -> str:
    return "".join(p.text for p in parsed(events, EventKind.CONTENT) if isinstance(p, TextDelta))


def sent_bytes(kind: str, answer: Answer, *, streams: bool) -> bytes:
    if kind == "anthropic":
        parts = messages_stream(answer, MODEL.id) if streams else [messages_body(answer, MODEL.id)]
    elif kind == "responses":
        parts = responses_stream(answer, MODEL.id) if streams else [responses_body(answer, MODEL.id)]
    else:
        parts = chat_stream(answer, MODEL.id) if streams else [chat_body(answer, MODEL.id)]
    return b"".join(parts)


def test_it_has_a_name_and_a_credential(kind: str) -> None:
    made = make(kind, "http://127.0.0.1:9")
    assert (made.name, made.credential) == ("mine", "none" if kind == "local" else "api_key")


@both
async def test_an_answer_is_its_events_in_order_and_all_its_bytes(
    kind: str, provider: Provider, upstream: FakeUpstream, request_: LLMRequest
) -> None:
    answer = Answer(
        text="Gr\u00fc\u00dfe, friend", thinking="let me see", tool_calls=(("c1", "get", '{"city": "Rome"}'),)
    )
    upstream.then(answer)
    events = await ask(provider, request_)
    kinds = [event.kind for event in events if event.kind is not EventKind.PING]
    assert kinds[0] is EventKind.META
    assert kinds.count(EventKind.META) == kinds.count(EventKind.TERMINAL) == 1
    assert kinds[-1] is EventKind.TERMINAL
    content = parsed(events, EventKind.CONTENT)
    assert text(events) == answer.text
    assert "".join(p.text for p in content if isinstance(p, ThinkingDelta)) == answer.thinking
    calls = [p for p in content if isinstance(p, ToolCallDelta)]
    assert (calls[0].position, calls[0].id, calls[0].name) == (0, "c1", "get")
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Rome"}
    assert parsed(events, EventKind.USAGE)[-1] == TokenUsage(12, 7)
    assert parsed(events, EventKind.TERMINAL)[0].stop_reason == "tool_calls"
    assert b"".join(event.raw for event in events) == sent_bytes(kind, answer, streams=request_.stream)


async def test_the_events_of_a_stream_arrive_one_by_one(
    kind: str, provider: Provider, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(stall_after=len(sent_bytes(kind, Answer(), streams=True)) * 7 // 10))
    stream = await provider.open(STREAM, MODEL, BUDGET)
    seen = [await asyncio.wait_for(anext(stream), 60)]
    while seen[-1].kind is not EventKind.CONTENT:
        seen.append(await asyncio.wait_for(anext(stream), 60))
    assert not upstream.received[0].completed
    await stream.aclose()


async def test_the_request_says_who_asks_and_what_it_takes(
    kind: str, provider: Provider, upstream: FakeUpstream
) -> None:
    await ask(provider)
    (seen,) = upstream.received
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["user-agent"] == "attune"
    assert "transfer-encoding" not in seen.headers
    if kind == "anthropic":
        assert seen.path == "/v1/messages"
        assert seen.headers["x-api-key"] == KEY
        assert seen.headers["anthropic-version"] == "2023-06-01"
        assert "authorization" not in seen.headers
    else:
        assert seen.path == ("/v1/responses" if kind == "responses" else "/v1/chat/completions")
        assert seen.headers.get("authorization") == (None if kind == "local" else f"Bearer {KEY}")


async def test_tools_images_and_json_output_reach_the_provider(
    kind: str, provider: Provider, upstream: FakeUpstream
) -> None:
    picture = ImagePart(data="QUJD", media_type="image/png")
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    await ask(
        provider,
        LLMRequest(
            (Message("user", (TextPart("what is it?"), picture)),),
            tools=(Tool("look", "looks", schema),),
            tool_choice="required",
            output_format=OutputFormat(schema),
        ),
    )
    body = upstream.received[0].body
    if kind == "anthropic":
        assert body["messages"][0]["content"][1]["source"]["data"] == "QUJD"
        assert body["tools"][0]["input_schema"] == schema
        assert body["tool_choice"] == {"type": "any"}
        assert body["output_config"]["format"]["schema"] == schema
    elif kind == "responses":
        assert body["input"][0]["content"][1]["image_url"] == "data:image/png;base64,QUJD"
        assert body["tools"][0]["parameters"] == schema
        assert body["tool_choice"] == "required"
        assert body["text"]["format"]["schema"] == schema
    else:
        assert body["messages"][0]["content"][1]["image_url"]["url"] == "data:image/png;base64,QUJD"
        assert body["tools"][0]["function"]["parameters"] == schema
        assert body["tool_choice"] == "required"
        assert body["response_format"]["json_schema"]["schema"] == schema


async def test_a_call_that_a_model_made_with_broken_arguments_can_go_to_any_provider(
    kind: str, provider: Provider, upstream: FakeUpstream
) -> None:
    broken = '{"city": "Rom'
    turns = (
        Message.user("weather?"),
        Message("assistant", (ToolCallPart("c1", "get", broken),)),
        Message("user", (ToolResultPart("c1", "the arguments are no JSON", is_error=True),)),
    )
    assert parsed(await ask(provider, LLMRequest(turns)), EventKind.TERMINAL)
    body = upstream.received[0].body
    if kind == "anthropic":
        given = body["messages"][1]["content"][0]["input"]
    elif kind == "responses":
        given = json.loads(body["input"][1]["arguments"])
    else:
        given = json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert given == {"arguments": broken}


_ENDS = {
    "anthropic": b'data: {"type": "message_stop"}\n\n',
    "responses": b'data: {"type": "response.failed", "response": {"status": "failed"}}\n\n',
}


@pytest.mark.parametrize("before", [b"", b'data: {"type": "ping"}\n\n'], ids=["alone", "after a ping"])
async def test_an_end_with_no_answer_before_it_is_a_failure(
    kind: str, provider: Provider, upstream: FakeUpstream, before: bytes
) -> None:
    end = _ENDS.get(kind, b"data: [DONE]\n\n")
    upstream.then(Answer(body=before + end, content_type="text/event-stream"))
    with pytest.raises(StreamBrokenError):
        await ask(provider, STREAM)


async def test_a_body_above_a_megabyte_is_sent_whole(provider: Provider, upstream: FakeUpstream) -> None:
    picture = ImagePart(data="QUJD" * 400_000, media_type="image/png")
    events = await ask(provider, LLMRequest((Message("user", (TextPart("?"), picture)),)))
    assert parsed(events, EventKind.TERMINAL)
    assert len(json.dumps(upstream.received[0].body)) > 1_600_000


@both
async def test_missing_usage_is_no_event(
    provider: Provider, upstream: FakeUpstream, request_: LLMRequest
) -> None:
    upstream.then(Answer(usage={}))
    assert parsed(await ask(provider, request_), EventKind.USAGE) == []


async def test_a_server_that_does_not_stream_is_understood_all_the_same(
    kind: str, provider: Provider, upstream: FakeUpstream
) -> None:
    body = sent_bytes(kind, Answer(text="whole"), streams=False)
    upstream.then(Answer(body=body, content_type="application/json"))
    assert text(await ask(provider, STREAM)) == "whole"


@pytest.mark.parametrize("content_type", ["text/event-stream", "text/plain"])
async def test_a_stream_is_read_as_one_by_its_media_type_or_because_it_was_asked_for(
    kind: str, provider: Provider, upstream: FakeUpstream, content_type: str
) -> None:
    body = sent_bytes(kind, Answer(text="pieces"), streams=True)
    upstream.then(Answer(body=body, content_type=content_type))
    assert text(await ask(provider, STREAM)) == "pieces"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=400, error_type="invalid_request_error", error_message="bad field"), CallerError),
        (Answer(status=401, error_type="authentication_error"), CredentialError),
        (Answer(status=403, error_type="permission_error"), CredentialError),
        (
            Answer(status=404, error_type="not_found_error", error_message="model: some-model"),
            ModelUnavailableError,
        ),
        (Answer(status=402, error_type="billing_error"), MoneyGoneError),
        (Answer(status=429, error_type="rate_limit_error"), ThrottledError),
        (Answer(status=429, error_type="insufficient_quota"), MoneyGoneError),
        (Answer(status=400, error_message="prompt is too long: 9 tokens > 8 maximum"), ContextTooLongError),
        (Answer(status=500), TransientError),
        (Answer(status=503, error_code="server_is_overloaded"), TransientError),
        (Answer(status=529, error_type="overloaded_error"), TransientError),
    ],
    ids=lambda value: f"{value.status}-{value.error_type}" if isinstance(value, Answer) else value.__name__,
)
@both
async def test_an_error_is_raised_by_open_with_its_class(
    provider: Provider,
    upstream: FakeUpstream,
    request_: LLMRequest,
    answer: Answer,
    expected: type[ProviderError],
) -> None:
    upstream.then(answer)
    with pytest.raises(ProviderError) as caught:
        await provider.open(request_, MODEL, BUDGET)
    assert type(caught.value) is expected
    assert caught.value.status == answer.status
    assert (caught.value.provider, caught.value.model) == ("mine", "some-model")
    assert len(upstream.received) == 1


async def test_an_error_says_how_long_to_wait_and_keeps_the_body(
    provider: Provider, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(status=429, headers={"retry-after": "7"}, body=b'{"error": {"message": "slow"}}'))
    with pytest.raises(ThrottledError) as caught:
        await ask(provider)
    assert caught.value.retry_after == 7.0
    assert caught.value.body == b'{"error": {"message": "slow"}}'


async def test_an_error_body_is_read_up_to_its_cap(provider: Provider, upstream: FakeUpstream) -> None:
    upstream.then(Answer(status=502, body=b"x" * 1_000_000))
    with pytest.raises(TransientError) as caught:
        await ask(provider)
    assert len(caught.value.body) == 64 * 1024


async def test_an_error_body_that_breaks_off_still_has_its_status(
    provider: Provider, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(status=503, cut_after=10))
    with pytest.raises(TransientError, match="answered 503"):
        await ask(provider)


async def test_a_redirect_is_not_followed(provider: Provider, upstream: FakeUpstream) -> None:
    upstream.then(Answer(status=307, headers={"location": f"{upstream.url}/v1/chat/completions"}))
    with pytest.raises(TransientError, match="redirect"):
        await ask(provider)
    assert len(upstream.received) == 1


async def test_cookies_are_not_kept_and_proxies_not_used(
    provider: Provider, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    upstream.then(Answer(headers={"set-cookie": "session=1; Path=/"}))
    await ask(provider)
    await ask(provider)
    assert "cookie" not in upstream.received[1].headers


async def test_a_compressed_answer_is_refused(provider: Provider, upstream: FakeUpstream) -> None:
    upstream.then(Answer(body=b"\x1f\x8b", headers={"content-encoding": "gzip"}))
    with pytest.raises(StreamBrokenError, match="compressed"):
        await ask(provider)


async def test_a_head_that_is_too_large_is_refused(provider: Provider, upstream: FakeUpstream) -> None:
    upstream.then(Answer(headers={"x-large": "x" * 100_000}))
    with pytest.raises(ConnectionFailedError):
        await ask(provider)


@pytest.mark.parametrize("how", ["clean", "close", "reset"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
@both
async def test_a_truncated_answer_is_never_complete(
    kind: str, provider: Provider, upstream: FakeUpstream, request_: LLMRequest, how: Any, share: float
) -> None:
    whole = sent_bytes(kind, Answer(), streams=request_.stream)
    upstream.then(Answer(cut_after=int(len(whole) * share), cut_by=how))
    events = []

    async def collect() -> None:
        async for event in await provider.open(request_, MODEL, BUDGET):
            events.append(event)  # noqa: PERF401 - the loop raises

    with pytest.raises((StreamBrokenError, ConnectionFailedError)):
        await collect()
    assert parsed(events, EventKind.TERMINAL) == []
    assert whole.startswith(b"".join(event.raw for event in events))


async def test_after_a_failure_a_stream_has_nothing_more(provider: Provider, upstream: FakeUpstream) -> None:
    upstream.then(Answer(cut_after=0, cut_by="clean"))
    stream = await provider.open(STREAM, MODEL, BUDGET)
    with pytest.raises(StreamBrokenError, match="ended before its terminal event"):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_reset_before_the_head_is_a_failed_connection(
    provider: Provider, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(reset_head=True))
    with pytest.raises(ConnectionFailedError, match="mine/some-model: the connection failed"):
        await ask(provider)
    assert len(upstream.received) == 1, "a POST is never repeated by the transport"


async def test_a_refused_connection_is_a_failed_one(provider: Provider, upstream: FakeUpstream) -> None:
    await upstream.down()
    what = rf"^mine/some-model: cannot reach 127\.0\.0\.1:{upstream.port}: Connection refused$"
    with pytest.raises(ConnectionFailedError, match=what):
        await ask(provider)


async def test_a_connection_that_does_not_stand_in_time_is_a_failed_one(kind: str) -> None:
    """A server that accepts and says nothing leaves the TLS handshake open."""
    if kind == "local":
        pytest.skip("the embedded model is never reached over TLS")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = make(kind, f"https://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConnectionFailedError, match=r"no connection within 0\.2 s"):
            await made.open(ASK, MODEL, AttemptBudget(connect_s=0.2))
        await made.aclose()


async def test_a_failed_tls_handshake_is_a_failed_connection(kind: str, upstream: FakeUpstream) -> None:
    if kind == "local":
        pytest.skip("the embedded model is never reached over TLS")
    made = make(kind, upstream.url.replace("http:", "https:"))
    with pytest.raises(ConnectionFailedError):
        await ask(made)
    await made.aclose()


async def test_a_name_that_does_not_resolve_is_a_failed_connection(kind: str) -> None:
    made = make(kind, "http://no-such-host.invalid")
    with pytest.raises(ConnectionFailedError):
        await made.open(ASK, MODEL, AttemptBudget(connect_s=5.0))
    await made.aclose()


PHASES: dict[str, tuple[Answer, Callable[[Provider], Any]]] = {
    "before the head": (Answer(stall_head=True), lambda p: p.open(STREAM, MODEL, BUDGET)),
    "in an error body": (Answer(status=500, stall_after=5), lambda p: p.open(STREAM, MODEL, BUDGET)),
    "before the content": (Answer(stall_after=0), lambda p: ask(p, STREAM)),
    "in the content": (Answer(stall_after=700), lambda p: ask(p, STREAM)),
    "in a body": (Answer(stall_after=50), lambda p: ask(p, ASK)),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_cancelling_at_any_phase_closes_the_connection_upstream(
    provider: Provider, upstream: FakeUpstream, phase: str
) -> None:
    answer, run = PHASES[phase]
    upstream.then(answer)
    task = asyncio.ensure_future(run(provider))
    seen = await upstream.arrived()
    for _ in range(20):  # let the client get as far as the server lets it
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(seen.disconnected.wait(), 60)


@pytest.mark.parametrize("request_", [ASK, STREAM], ids=["body", "stream"])
async def test_closing_a_stream_closes_the_connection_upstream_at_once(
    provider: Provider, upstream: FakeUpstream, request_: LLMRequest
) -> None:
    upstream.then(Answer(stall_after=100))
    stream = await provider.open(request_, MODEL, BUDGET)
    await stream.aclose()
    await stream.aclose()
    await asyncio.wait_for(upstream.received[0].disconnected.wait(), 60)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_can_be_closed_while_its_reader_is_being_cancelled(
    provider: Provider, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(stall_after=0))
    stream = await provider.open(STREAM, MODEL, BUDGET)

    async def read() -> None:
        try:
            await anext(stream)
        finally:
            await stream.aclose()

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(upstream.received[0].disconnected.wait(), 60)


async def test_a_reader_whose_stream_is_closed_by_another_gets_a_broken_stream(
    provider: Provider, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(stall_after=0))
    stream = await provider.open(STREAM, MODEL, BUDGET)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await stream.aclose()
    with pytest.raises(StreamBrokenError):
        await asyncio.wait_for(reader, 60)


@both
async def test_the_connection_of_a_complete_answer_is_used_again(
    provider: Provider, upstream: FakeUpstream, request_: LLMRequest
) -> None:
    for number in range(1, 4):
        async for event in await provider.open(request_, MODEL, BUDGET):
            if event.kind is EventKind.TERMINAL:
                break
        await asyncio.wait_for(_completed(upstream, number), 60)
    assert len({seen.connection for seen in upstream.received}) == 1


async def _completed(upstream: FakeUpstream, number: int) -> None:
    """Wait until the server is done and the client has had turns to notice."""
    while not upstream.received[number - 1].completed:
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)


async def test_closing_a_stream_after_its_end_keeps_the_connection(
    provider: Provider, upstream: FakeUpstream
) -> None:
    for number in (1, 2):
        stream = await provider.open(STREAM, MODEL, BUDGET)
        assert [event async for event in stream][-1].parsed == Terminal(*_stop(upstream, number))
        await stream.aclose()
        await asyncio.wait_for(_completed(upstream, number), 60)
    assert len({seen.connection for seen in upstream.received}) == 1


def _stop(upstream: FakeUpstream, number: int) -> tuple[str, str]:
    raw_reasons = {"messages": "end_turn", "responses": "completed", "chat": "stop"}
    return ("stop", raw_reasons[upstream.received[number - 1].protocol])


async def test_a_server_that_came_back_is_reached_again(provider: Provider, upstream: FakeUpstream) -> None:
    await ask(provider)
    await upstream.down()
    await upstream.up()
    assert text(await ask(provider))


async def test_many_calls_at_once_do_not_wait_for_each_other(
    provider: Provider, upstream: FakeUpstream
) -> None:
    """A pool of connections with a limit would never let the last ones begin."""
    upstream.default = Answer(stall_after=0)
    streams = await asyncio.wait_for(
        asyncio.gather(*(provider.open(STREAM, MODEL, BUDGET) for _ in range(150))), 60
    )
    assert len(upstream.received) == 150
    for stream in streams:
        await stream.aclose()


async def test_a_closed_provider_opens_no_connection_any_more(
    provider: Provider, upstream: FakeUpstream
) -> None:
    await ask(provider)
    await provider.aclose()
    await provider.aclose()
    with pytest.raises(InvalidRequestError, match="connections of this provider were closed"):
        await ask(provider)
    assert len(upstream.received) == 1


def test_one_provider_serves_one_event_loop_after_another(kind: str) -> None:
    made = make(kind, "http://127.0.0.1:1")
    ports: list[int] = []

    async def run() -> None:
        with pytest.raises(ConnectionFailedError):
            await made.open(ASK, MODEL, BUDGET)
        await made.aclose()
        ports.append(1)

    asyncio.run(run())
    asyncio.run(run())
    assert len(ports) == 2


async def test_no_error_shows_the_key(provider: Provider, upstream: FakeUpstream) -> None:
    message = f"the key {KEY} and sk-proj-0123456789 are wrong"
    for answer in (
        Answer(status=401, error_message=message, error_type=KEY),
        Answer(body=json.dumps({"type": "error", "error": {"message": message}}).encode()),
    ):
        upstream.then(answer)
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
        shown = f"{caught.value} {caught.value!r} {caught.value.code} {caught.value.__cause__!r}"
        assert "sk-proj" not in shown
        assert (KEY not in shown) or provider.credential == "none"
        assert (KEY.encode() not in caught.value.body) or provider.credential == "none"
        assert b"sk-proj-0123456789" in caught.value.body  # nothing else of it is changed
    assert KEY not in repr(provider)
    assert KEY not in repr(vars(provider))
