"""Streams and bodies of providers that are nearly right, for each of their protocols at each door."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.gateway import SECRETS, gateway
from support.hostile_json import encoded, mutated, spoilt
from support.hostile_stream import BODIES, PATHS, Event, events_of, last_event, streams
from support.raw_upstream import RawUpstream, Told, ask, defects
from support.scale import scaled
from support.upstream import Answer

if TYPE_CHECKING:
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
MODELS = {"messages": "alpha", "chat": "beta", "responses": "gamma"}
ASKED: dict[str, dict[str, Any]] = {
    "chat": {"messages": HI},
    "messages": {"messages": HI, "max_tokens": 9},
    "responses": {"input": "hi"},
}
ONLY_HERE: dict[str, dict[str, Any]] = {
    "chat": {"n": 2},
    "messages": {"container": "c"},
    "responses": {"previous_response_id": "r"},
}
"""What only the door's own protocol can say: its whole answers are put together in another way."""

ONE_TRY = "[call]\nretries = 0\n[breaker]\nfailure_threshold = 1000000\n"
FUZZ = settings(
    max_examples=scaled(test=60, faults=1_000, soak=10_000),
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def is_complete(content: bytes, protocol: str) -> bool:
    """Whether an answer can be one: it has the terminal event of its protocol, however it was cut up."""
    if protocol == "chat":
        return b"[DONE]" in content
    words = {"messages": (b"message_stop",), "responses": (b"response.completed", b"response.incomplete")}
    return any(word in content for word in words[protocol])


def is_error(event: Event) -> bool:
    return isinstance(event.data, dict) and (event.name == "error" or "error" in event.data)


def check_stream(told: Told, door: str, *, complete: bool, translated: bool) -> None:
    """It ends with the terminal event, or with an error; translated, it is well-formed from end to end."""
    last = last_event(told.body)
    if is_error(last):
        error = last.data["error"]
        assert error["message"].isprintable()
        assert error["type"]
    else:
        assert complete, last
        check_end(last, door)
    if translated:
        checks = {"chat": check_chat, "messages": check_messages, "responses": check_responses}
        checks[door](events_of(told.body))


def check_end(last: Event, door: str) -> None:
    match door:
        case "chat":
            assert last.data == "[DONE]"
        case "messages":
            assert last.data["type"] == "message_stop"
        case _:
            assert last.data["type"] in {"response.completed", "response.incomplete"}


def check_chat(events: list[Event]) -> None:
    chunks = [each.data for each in events if each.data != "[DONE]" and not is_error(each)]
    assert all(each["object"] == "chat.completion.chunk" for each in chunks)
    assert sum(bool(each["choices"] and each["choices"][0]["finish_reason"]) for each in chunks) <= 1


def check_messages(events: list[Event]) -> None:
    kinds = [each.data["type"] for each in events]
    assert [each.name for each in events] == kinds
    begun = [kind for kind in kinds if kind not in {"ping", "error"}]
    assert begun[:1] in ([], ["message_start"])
    assert begun.count("message_start") <= 1
    opened: list[int] = []
    for event in events:
        match event.data:
            case {"type": "content_block_start", "index": place}:
                assert place == len(opened)
                opened.append(place)
            case {"type": "content_block_delta" | "content_block_stop", "index": place}:
                assert place == opened[-1]
    if kinds[-1] == "message_stop":
        assert begun[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("content_block_start") == kinds.count("content_block_stop")


def check_responses(events: list[Event]) -> None:
    numbers = [each.data["sequence_number"] for each in events if not is_error(each)]
    assert numbers == list(range(len(numbers)))
    kinds = [each.data["type"] for each in events]
    if kinds[-1] != "error":
        assert kinds[0] == "response.created"
        assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")


def check_whole(told: Told, door: str, *, complete: bool) -> None:
    body = told.json
    if told.status == 200:
        assert complete, body
        assert isinstance(body[{"chat": "choices", "messages": "content", "responses": "output"}[door]], list)
    else:
        assert told.status in {400, 402, 404, 408, 413, 422, 429, 502, 503, 504}, told
        error = body["error"]
        assert error["message"].isprintable()
        assert error["type"]
        assert (body.get("type") == "error") == (door == "messages")


def check_nothing_leaked(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    assert not any(secret.encode() in told.body for secret in SECRETS.values())
    assert not defects(caplog.records)
    assert b"a defect" not in told.body


@pytest.mark.parametrize(("upstream", "door"), list(product(MODELS, PATHS)))
async def test_a_stream_that_is_nearly_right_ends_in_an_answer_or_an_error_of_the_door(
    upstream: str,
    door: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("support.gateway.FakeUpstream", RawUpstream)
    async with gateway(tmp_path, extra=ONE_TRY) as gate:
        source = dict(zip(("messages", "chat", "responses"), gate.upstreams, strict=True))[upstream]

        @FUZZ
        @given(streams(upstream), st.booleans(), st.booleans())
        def fuzz(pieces: tuple[bytes, ...], stream: bool, odd: bool) -> None:
            caplog.clear()
            source.pieces = pieces
            asked = {"model": MODELS[upstream], "stream": stream, **ASKED[door]}
            if odd and upstream == door:
                asked |= ONLY_HERE[door]
            told = ask(gate.url, PATHS[door], json.dumps(asked).encode())
            complete = is_complete(b"".join(pieces), upstream)
            if told.media_type == "text/event-stream":
                assert stream
                check_stream(told, door, complete=complete, translated=upstream != door)
            else:
                check_whole(told, door, complete=complete)
            check_nothing_leaked(told, caplog)

        await asyncio.to_thread(fuzz)
        source.pieces = ()
        good = {"model": MODELS[upstream], **ASKED[door]}
        assert (await gate.post(PATHS[door], good)).status == 200
        await gate.runtime.store.flush()
        assert (await gate.get("/ready")).status == 200


@pytest.mark.parametrize(("upstream", "door"), list(product(MODELS, PATHS)))
async def test_a_whole_body_that_is_nearly_right_ends_in_an_answer_or_an_error_of_the_door(
    upstream: str,
    door: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("support.gateway.FakeUpstream", RawUpstream)
    sound = json.loads(BODIES[upstream](Answer(thinking="hm", tool_calls=(("c", "look", '{"a": 1}'),)), "m"))
    async with gateway(tmp_path, extra=ONE_TRY) as gate:
        source = dict(zip(("messages", "chat", "responses"), gate.upstreams, strict=True))[upstream]
        source.media_type = "application/json"

        @FUZZ
        @given(st.data(), st.booleans())
        def fuzz(data: st.DataObject, stream: bool) -> None:
            caplog.clear()
            source.pieces = (data.draw(spoilt(encoded(data.draw(mutated(sound))))) or b" ",)
            asked = {"model": MODELS[upstream], "stream": stream, **ASKED[door]}
            told = ask(gate.url, PATHS[door], json.dumps(asked).encode())
            if told.media_type == "text/event-stream":
                check_stream(told, door, complete=True, translated=True)
            else:
                check_whole(told, door, complete=True)
            check_nothing_leaked(told, caplog)

        await asyncio.to_thread(fuzz)
        assert (await gate.get("/ready")).status == 200
