"""Streams of each protocol, cut at every byte: never an incomplete one taken for complete, nothing twice."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from attune.config import load
from attune.errors import ProviderError, StreamBrokenError
from attune.models.executor import (
    AttemptBudget,
    EventKind,
    StreamEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest, TextPart, ThinkingPart, ToolCallPart
from attune.providers import build_provider
from attune.providers.local import MODEL_ID, LocalModel
from attune.providers.local_server import missing_packages
from attune.runtime import build
from attune.wire.chat import ChatDecoder
from attune.wire.chat import decode_body as chat_body_events
from attune.wire.errors import ErrorMapper
from attune.wire.messages import MessagesDecoder
from attune.wire.messages import decode_body as messages_body_events
from attune.wire.responses import ResponsesDecoder
from attune.wire.responses import decode_body as responses_body_events
from support.cut_server import WAYS, CutServer
from support.installation import PROTOCOLS
from support.scale import scaled
from support.upstream import Answer, chat_body, chat_stream, messages_body, messages_stream
from support.upstream_responses import responses_body, responses_stream

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from pathlib import Path

    from attune.models.executor import LLMResponse
    from attune.models.telemetry import LLMCallRecord
    from attune.runtime import Runtime

ERRORS = ErrorMapper("mine", "m")
DECODERS = {"chat": ChatDecoder, "messages": MessagesDecoder, "responses": ResponsesDecoder}
STREAMS = {"chat": chat_stream, "messages": messages_stream, "responses": responses_stream}
BODIES = {
    "chat": (chat_body, chat_body_events),
    "messages": (messages_body, messages_body_events),
    "responses": (responses_body, responses_body_events),
}
RICH = Answer(
    thinking="Erst 思考 denken",
    text="Grüße, 世界 \N{PARTY POPPER} and a friend",
    tool_calls=(("call_1", "look", '{"city": "Zürich \N{PARTY POPPER}"}'), ("call_2", "see", "{}")),
)
PLAIN = Answer(text="Grüße \N{PARTY POPPER} friend")
OTHER = Answer(text="quite another answer")
BYE = b": bye\n\n"
"""A comment after the end, as proxies send to keep a connection alive."""


class Recording(NamedTuple):
    """A stream as it was sent. From ``meaningful`` bytes on nothing of the answer is missing; at ``done``
    bytes its last event has ended as well. ``said`` is all that it says.
    """

    protocol: str
    data: bytes
    meaningful: int
    done: int
    said: str
    stop_reason: str


def recording(protocol: str, answer: Answer, *, line_end: bytes = b"\n") -> Recording:
    blocks = [block.replace(b"\n", line_end) for block in STREAMS[protocol](answer)]
    data = b"".join(blocks)
    said = answer.thinking + answer.text + "".join(arguments for _, _, arguments in answer.tool_calls)
    stop_reason = "tool_calls" if answer.tool_calls else "stop"
    return Recording(protocol, data + BYE, len(data.rstrip()), len(data), said, stop_reason)


def said(events: Iterable[StreamEvent]) -> str:
    """Everything that a reader is told, in the order of arrival."""
    pieces = []
    for event in events:
        match event.parsed:
            case TextDelta(text) | ThinkingDelta(text):
                pieces.append(text)
            case ToolCallDelta(arguments=arguments):
                pieces.append(arguments)
    return "".join(pieces)


def decoded(protocol: str, *chunks: bytes) -> list[StreamEvent]:
    decoder = DECODERS[protocol](ERRORS)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return [*events, *decoder.finish()]


# -- the decoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_at_every_byte_a_cut_stream_is_complete_only_when_nothing_is_missing(
    protocol: str, line_end: bytes
) -> None:
    whole = recording(protocol, RICH, line_end=line_end)
    assert said(decoded(protocol, whole.data)) == whole.said
    check_every_cut(whole)


def check_every_cut(whole: Recording) -> None:
    """Complete if and only if nothing of the answer is missing; and what came is a part of it."""
    for cut in range(len(whole.data) + 1):
        events = decoded(whole.protocol, whole.data[:cut])
        complete = any(event.kind is EventKind.TERMINAL for event in events)
        assert not complete or cut >= whole.meaningful
        assert complete or cut < whole.done
        assert whole.said.startswith(said(events))
        assert not complete or said(events) == whole.said


@pytest.mark.local_model
@pytest.mark.skipif(bool(missing_packages()), reason="the embedded model's packages are not installed")
async def test_at_every_byte_a_cut_stream_of_a_real_server_is_complete_only_when_nothing_is_missing() -> None:
    server = LocalModel()
    try:
        await server.start()
        recorded = [await recorded_from(server, protocol) for protocol in PROTOCOLS]
    finally:
        await server.stop()
    for each in recorded:
        assert each.said
        check_every_cut(each)


async def recorded_from(server: LocalModel, protocol: str) -> Recording:
    """A stream of the embedded model's server, which speaks all three."""
    kind = "anthropic" if protocol == "messages" else "openai"
    options = {} if protocol == "messages" else {"protocol": protocol}
    provider = build_provider("local", kind, base_url=server.base_url, key=None, **options)
    model = ModelInfo(MODEL_ID, "local", ModelTier.CHEAP, 4096, 512)
    request = LLMRequest.from_prompt("Say hello.", max_output_tokens=8, stream=True)
    async with aclosing(await provider.open(request, model, AttemptBudget())) as stream:
        events = [event async for event in stream]
    await provider.aclose()
    data = b"".join(event.raw for event in events)
    return Recording(protocol, data + BYE, len(data.rstrip()), len(data), said(events), "")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_at_every_byte_a_stream_in_two_pieces_is_the_same_as_in_one(protocol: str, line_end: bytes) -> None:
    whole = recording(protocol, RICH, line_end=line_end).data
    expected = [(event.kind, event.parsed) for event in decoded(protocol, whole)]
    for cut in range(len(whole) + 1):
        events = decoded(protocol, whole[:cut], whole[cut:])
        assert [(event.kind, event.parsed) for event in events] == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_byte_by_byte_a_stream_is_the_same_as_at_once(protocol: str) -> None:
    whole = recording(protocol, RICH).data
    pieces = (whole[place : place + 1] for place in range(len(whole)))
    assert [each.parsed for each in decoded(protocol, *pieces)] == [
        each.parsed for each in decoded(protocol, whole)
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_at_every_byte_a_cut_body_is_broken(protocol: str) -> None:
    encode, decode = BODIES[protocol]
    body = encode(RICH, "m")
    assert said(decode(body, ERRORS)) == said(decoded(protocol, recording(protocol, RICH).data))
    for cut in range(len(body)):
        with pytest.raises(StreamBrokenError):
            decode(body[:cut], ERRORS)


# -- the whole library, over sockets -----------------------------------------------------------------

CONFIGURATION = """
[providers.cut]
kind = "{kind}"
base_url = "{cut}"
{protocol}
[providers.sound]
kind = "{kind}"
base_url = "{sound}"
{protocol}
[[models]]
id = "m"
provider = "cut"
tier = "capable"
context_window = 100000
input_price = 1.0
output_price = 5.0

[[models]]
id = "n"
provider = "sound"
tier = "capable"
context_window = 100000
input_price = 1.0
output_price = 5.0

[tiers]
capable = ["cut/m", "sound/n"]
[routing]
allow_providers = ["cut", "sound"]
[call]
retries = 0
"""


class Ended(NamedTuple):
    """What a reader had got when it was over, from whom, and why it ended early."""

    said: str
    call_id: str
    response: LLMResponse | None = None
    error: ProviderError | None = None


async def streamed(ai: Runtime, prompt: str) -> Ended:
    async with ai.stream(prompt) as events:
        seen: list[StreamEvent] = []
        try:
            async for event in events:
                seen.append(event)  # noqa: PERF401  (what came before a failure counts)
        except ProviderError as error:
            return Ended(said(seen), events.call_id, error=error)
        return Ended(said(seen), events.call_id, events.response)


async def whole(ai: Runtime, prompt: str) -> Ended:
    response = await ai.run(prompt)
    pieces = []
    for part in response.content:
        match part:
            case TextPart(text) | ThinkingPart(text):
                pieces.append(text)
            case ToolCallPart(arguments=arguments):
                pieces.append(arguments)
    return Ended("".join(pieces), response.call_id, response)


def places(recorded: Recording, *, at_most: int) -> list[int]:
    """Where to cut: every byte, or a selection with every end of an event and both its neighbours."""
    everywhere = range(len(recorded.data) + 1)
    ends = {0, recorded.meaningful, recorded.done, len(recorded.data)}
    ends |= {place + 2 for place in everywhere if recorded.data[place : place + 2] == b"\n\n"}
    chosen = {end + step for end in ends for step in (-1, 0, 1)}
    step = max(1, len(everywhere) // max(1, at_most - len(chosen)))
    return sorted(chosen.intersection(everywhere) | set(everywhere[::step]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_cut_answer_is_given_whole_by_another_or_ends_as_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, way: str
) -> None:
    rich = scaled(test=False, faults=True, soak=True)
    recorded = recording(protocol, RICH if rich else PLAIN)
    other = recording(protocol, OTHER)
    async with (
        CutServer({protocol: recorded.data}) as cut,
        CutServer({protocol: other.data}, obeys=False) as sound,
    ):
        async with _runtime(tmp_path, protocol, cut, sound) as ai:
            # What is learned would soon send every call to the sound one.
            monkeypatch.setattr(ai.router, "observe", lambda record: None)
            for ask in (streamed, whole):
                limit = scaled(test=100, faults=10**6, soak=10**6)
                cuts = places(recorded, at_most=limit)
                ended = await _all(ask(ai, f"cut {place} {way} please") for place in cuts)
                for place, each in zip(cuts, ended, strict=True):
                    check(recorded, place, each, streams=ask is streamed)
            await ai.store.flush()
            records = ai.store.recent_attempts(100_000)
        assert len(records) == cut.asked + sound.asked
        check_the_ledger(recorded, [each for each in records if each.provider == "cut"])


async def _all(calls: Iterable[Coroutine[Any, Any, Ended]]) -> list[Ended]:
    some_at_a_time = asyncio.Semaphore(16)

    async def one(call: Coroutine[Any, Any, Ended]) -> Ended:
        async with some_at_a_time:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


def _runtime(home: Path, protocol: str, cut: CutServer, sound: CutServer) -> Runtime:
    kind = "anthropic" if protocol == "messages" else "openai"
    spoken = "" if protocol == "messages" else f'protocol = "{protocol}"'
    addresses = {"cut": cut.base_url(protocol), "sound": sound.base_url(protocol)}
    (home / "config.toml").write_text(CONFIGURATION.format(kind=kind, protocol=spoken, **addresses))
    config = load(environ={"ATTUNE_HOME": str(home)})
    never = config.breaker._replace(failure_threshold=10**9)
    return build(config._replace(breaker=never), environ={})


def check(recorded: Recording, place: int, ended: Ended, *, streams: bool) -> None:
    """Whole from one of the two, or an error after a beginning that somebody has already seen."""
    if ended.error is not None:
        assert streams
        assert isinstance(ended.error, StreamBrokenError)
        assert ended.said, "before the first content another one answers"
        assert recorded.said.startswith(ended.said)
        assert place < recorded.done
        return
    assert ended.response is not None
    if ended.response.provider == "cut":
        assert ended.said == recorded.said
        assert place >= recorded.meaningful
    else:
        assert ended.said == OTHER.text
        assert place < recorded.done
        assert [each.error_class for each in ended.response.attempts] == ["mid_stream", ""]


def check_the_ledger(recorded: Recording, attempts: list[LLMCallRecord]) -> None:
    for each in attempts:
        if each.success:
            assert (each.error_class, each.stop_reason) == ("", recorded.stop_reason)
            assert str(each.cost_status) == "exact"
        else:
            assert each.error_class == "mid_stream"
            assert each.stop_reason in {"", "truncated"}
            assert str(each.cost_status) == ("estimated" if each.usage is not None else "unknown")
            assert each.cost_nanos != 0
