import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from attune.errors import (
    ConnectionFailedError,
    InvalidRequestError,
    MoneyGoneError,
    ProviderError,
    StreamBrokenError,
    ThrottledError,
)
from attune.models.executor import AttemptBudget, EventKind, StreamEvent
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.providers._http import HTTPTransport
from attune.providers.openai import OpenAIProvider
from attune.providers.secret import Secret
from attune.wire import chat
from attune.wire.decoder import BodyDecoder
from attune.wire.errors import ErrorMapper
from support.upstream import Answer, FakeUpstream, chat_body

MODEL = ModelInfo("m", "mine", ModelTier.CHEAP, 1000, 100)
ASK = LLMRequest.from_prompt("hi")
BUDGET = AttemptBudget()


async def ask(provider: OpenAIProvider, request: LLMRequest = ASK) -> list[EventKind]:
    async with aclosing(await provider.open(request, MODEL, BUDGET)) as stream:
        return [event.kind async for event in stream]


@asynccontextmanager
async def server_that_hangs_up(
    *, answer: bytes = b"", body_bytes: int | None = None
) -> AsyncIterator[tuple[str, list[int]]]:
    """Promises to keep each connection and ends it after its first request, or ``body_bytes`` of it."""
    served: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line
        )
        await reader.readexactly(length if body_bytes is None else body_bytes)
        served.append(length)
        writer.write(answer)
        writer.close() if body_bytes is None else writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", served


def http_answer() -> bytes:
    body = chat_body(Answer(), "m")
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )


async def test_a_kept_connection_that_the_server_closed_costs_no_attempt() -> None:
    async with server_that_hangs_up(answer=http_answer()) as (url, served):
        provider = OpenAIProvider("mine", base_url=url, key=None)
        for _ in range(40):
            assert EventKind.TERMINAL in await ask(provider)
        await provider.aclose()
    assert len(served) == 40


async def test_a_request_that_was_sent_whole_is_never_sent_again_and_may_have_been_billed() -> None:
    async with server_that_hangs_up() as (url, served):
        provider = OpenAIProvider("mine", base_url=url, key=None)
        with pytest.raises(ConnectionFailedError) as failed:
            await ask(provider)
        await provider.aclose()
    assert len(served) == 1
    assert failed.value.sent


async def test_a_new_connection_that_breaks_during_the_request_is_one_attempt_that_was_not_sent() -> None:
    async with server_that_hangs_up(body_bytes=1000) as (url, served):
        for _ in range(5):
            provider = OpenAIProvider("mine", base_url=url, key=None)
            with pytest.raises(ConnectionFailedError) as failed:
                await ask(provider, LLMRequest.from_prompt("x " * 10_000_000))
            await provider.aclose()
            assert not failed.value.sent
    assert len(served) == 5


async def test_a_refused_connection_sent_nothing() -> None:
    provider = OpenAIProvider("mine", base_url="http://127.0.0.1:1/v1", key=None)
    with pytest.raises(ConnectionFailedError) as failed:
        await ask(provider)
    await provider.aclose()
    assert not failed.value.sent


@asynccontextmanager
async def server_that_says(answer: bytes, then: bytes = b"") -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Answers with these bytes, later with more when there are, and keeps the connection; the event is set
    when the first bytes of a client have come.
    """
    asked, writers = asyncio.Event(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(100_000)
        asked.set()
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.05 if then else 0)  # so that the two arrive one after the other
        writer.write(then)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", asked
        for writer in writers:
            writer.close()


@pytest.mark.parametrize(("scheme", "sent"), [("https", False), ("http", True)])
async def test_who_is_stopped_before_the_head_says_whether_the_request_had_left(
    scheme: str, sent: bool
) -> None:
    async with server_that_says(b"") as (address, asked):  # with https it waits for the handshake
        provider = OpenAIProvider("mine", base_url=f"{scheme}://{address}", key=None)
        asking = asyncio.create_task(ask(provider))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError) as stopped:
            await asking
        await provider.aclose()
    assert vars(stopped.value) == {"sent": sent}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"message": "no mon', ThrottledError),
        (b'{"error": {"message": "no money", "code": "insufficient_quota"}}', MoneyGoneError),
    ],
)
async def test_an_error_whose_body_does_not_end_is_what_its_status_and_the_body_so_far_say(
    body: bytes, kind: type[ProviderError]
) -> None:
    head = b"HTTP/1.1 429 Too Many\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
    async with server_that_says(head + body) as (address, _), asyncio.timeout(60):
        provider = OpenAIProvider("mine", base_url=f"http://{address}", key=None)
        with pytest.raises(kind) as failed:
            await ask(provider)
        await provider.aclose()
    assert (failed.value.status, failed.value.body) == (429, body)


@pytest.mark.parametrize(
    "framing", [b"zz\r\n", b"f" * 20 + b"\r\n", b"-5\r\nabc\r\n", b"0\r\nbad trailer\r\n\r\n"]
)
async def test_an_answer_that_stops_being_http_is_broken_at_once_and_what_came_before_it_counts(
    framing: bytes,
) -> None:
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = head + b"%x\r\n%s\r\n" % (len(event), event)
    async with server_that_says(answer, framing) as (address, _), asyncio.timeout(60):
        provider = OpenAIProvider("mine", base_url=f"http://{address}", key=None)
        stream = await provider.open(LLMRequest.from_prompt("hi", stream=True), MODEL, BUDGET)
        seen = [(await anext(stream)).kind for _ in range(2)]
        assert seen == [EventKind.META, EventKind.CONTENT]
        with pytest.raises(StreamBrokenError, match="the connection broke during the answer"):
            await anext(stream)
        await provider.aclose()


@pytest.mark.parametrize("value", ["a\r\nx-forged: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_be_more_than_one_line_is_refused_before_anything_is_sent(
    value: str,
) -> None:
    async with FakeUpstream() as upstream:
        provider = OpenAIProvider("mine", base_url=upstream.chat_url, key=Secret(value, "env:KEY"))
        with pytest.raises(InvalidRequestError, match="line break") as refused:
            await ask(provider)
        await provider.aclose()
        assert upstream.received == []
    assert value not in str(refused.value)


async def test_no_error_leads_to_the_key_through_what_caused_it() -> None:
    key = "canary-of-a-key-in-a-header"
    broken_body = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"
    for answer in (b"garbage garbage\r\n\r\n", b"", broken_body):
        async with server_that_hangs_up(answer=answer) as (url, _):
            provider = OpenAIProvider("mine", base_url=url, key=Secret(key, "env:KEY"))
            with pytest.raises(ProviderError) as failed:
                await ask(provider)
            await provider.aclose()
        error: BaseException | None = failed.value
        while error is not None:
            assert key not in f"{error!r} {vars(error)!r}"
            error = error.__cause__ or error.__context__


async def test_an_end_that_never_comes_after_a_complete_answer_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("attune.providers._http.RECYCLE_S", 1000.0)  # nobody waits for it to pass
    async with FakeUpstream() as upstream:
        provider = OpenAIProvider("mine", base_url=upstream.chat_url, key=None)
        stream = LLMRequest.from_prompt("hi", stream=True)
        body = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n: more'
        upstream.then(Answer(body=body, content_type="text/event-stream", stall_after=len(body)))
        assert EventKind.TERMINAL in await asyncio.wait_for(ask(provider, stream), 60)
        await provider.aclose()
        await asyncio.wait_for(upstream.received[0].disconnected.wait(), 60)


async def test_a_connection_that_breaks_after_a_complete_answer_is_no_error() -> None:
    async with FakeUpstream() as upstream:
        provider = OpenAIProvider("mine", base_url=upstream.chat_url, key=None)
        stream = LLMRequest.from_prompt("hi", stream=True)
        body = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n'
        upstream.then(Answer(body=body + b":", content_type="text/event-stream", cut_after=len(body)))
        assert await ask(provider, stream) == [EventKind.META, EventKind.CONTENT, EventKind.TERMINAL]
        assert EventKind.TERMINAL in await ask(provider, stream)
        await provider.aclose()


@pytest.mark.parametrize(
    ("base_url", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "max_tokens"),
        ("http://127.0.0.1:11434/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_the_host_understands(base_url: str, field: str) -> None:
    assert vars(OpenAIProvider("mine", base_url=base_url, key=None))["_limit_field"] == field


async def test_messages_are_found_below_the_base_url_with_or_without_its_version() -> None:
    from attune.providers.anthropic import AnthropicProvider

    async with FakeUpstream() as upstream:
        for base_url in (upstream.url, f"{upstream.url}/", f"{upstream.url}/v1", f"{upstream.url}/team/v1/"):
            provider = AnthropicProvider("mine", base_url=base_url, key=None)
            await ask(provider)  # type: ignore[arg-type]
            await provider.aclose()
        assert [seen.path for seen in upstream.received] == ["/v1/messages"] * 3 + ["/team/v1/messages"]


async def test_the_request_is_json_of_the_length_announced() -> None:
    async with FakeUpstream() as upstream:
        provider = OpenAIProvider("mine", base_url=upstream.chat_url, key=None)
        await ask(provider)
        await provider.aclose()
    (seen,) = upstream.received
    assert int(seen.headers["content-length"]) == len(json.dumps(seen.body, separators=(",", ":")))


@pytest.mark.parametrize(("words", "beside"), [(10, False), (100_000, True)])
async def test_a_large_answer_in_one_body_is_read_beside_the_loop(words: int, beside: bool) -> None:
    readers: list[threading.Thread] = []

    def decode(body: bytes, errors: ErrorMapper) -> list[StreamEvent]:
        readers.append(threading.current_thread())
        return chat.decode_body(body, errors)

    body = chat_body(Answer(text="word " * words), "m")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with server_that_says(head + body) as (address, _), asyncio.timeout(60):
        transport, errors = HTTPTransport(), ErrorMapper("mine", "m")
        reader = BodyDecoder(decode, errors)
        given = {"errors": errors, "streams": False, "of_stream": reader, "of_body": reader}
        stream = await transport.post(f"http://{address}", {}, b"{}", connect_s=10, **given)  # type: ignore[arg-type]
        events = [event async for event in stream]
        await transport.aclose()
    assert events == chat.decode_body(body, errors)
    assert [each is not threading.main_thread() for each in readers] == [beside]
