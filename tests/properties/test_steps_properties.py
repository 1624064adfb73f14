"""JSON in steps gives what it gives in one go."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attune.errors import InvalidRequestError
from attune.wire import chat, messages, responses, steps
from attune.wire.chat_door import ChatDoor
from attune.wire.errors import ErrorMapper
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses_door import ResponsesDoor
from support.upstream import Answer, chat_body, messages_body
from support.upstream_responses import responses_body

TEXTS = st.lists(
    st.sampled_from(
        ["a", "plain words ", '"', "\\", "\\\\u1234", "\n", "\x00", "é", "中", "😀", "/", "\ue000", "x" * 7]
    ),
    max_size=60,
).map("".join)
"""Texts with everything that a cut could go through."""

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=6,
)


@pytest.fixture(params=[70, 200], autouse=True)
def _small_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEP", request.param)
    monkeypatch.setattr(steps, "_MANY", 3)


def bodies(kind: type, conversation: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Bodies as clients write them: with or without escapes, and with what does not belong."""
    field = {"chat": "messages", "messages": "messages", "responses": "input"}[kind.protocol]  # type: ignore[attr-defined]
    return st.tuples(conversation, st.booleans(), st.dictionaries(st.sampled_from(["seed", "x"]), JSONS)).map(
        lambda given: json.dumps(
            {"model": "m", "max_tokens": 5, **given[2], field: given[0]}, ensure_ascii=given[1]
        ).encode("utf-8", "replace")
    )


IMAGES = {
    "chat": TEXTS.map(lambda text: {"type": "image_url", "image_url": {"url": "data:" + text}}),
    "messages": TEXTS.map(
        lambda text: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": text}}
    ),
    "responses": TEXTS.map(lambda text: {"type": "input_image", "image_url": "data:" + text}),
}
BLOCKS = {
    "chat": TEXTS.map(lambda text: {"type": "text", "text": text}),
    "messages": TEXTS.map(lambda text: {"type": "text", "text": text})
    | st.tuples(TEXTS, TEXTS).map(
        lambda said: {"type": "tool_result", "tool_use_id": said[0], "content": said[1]}
    )
    | JSONS.map(lambda value: {"type": "tool_use", "id": "1", "name": "f", "input": value}),
    "responses": TEXTS.map(lambda text: {"type": "input_text", "text": text}),
}


def turns(protocol: str) -> st.SearchStrategy[Any]:
    """Conversations, some of which make no sense."""
    content = TEXTS | st.lists(IMAGES[protocol] | BLOCKS[protocol] | JSONS, max_size=4)
    role = st.sampled_from(["user", "assistant", "system", "tool", "other"])
    turn = st.fixed_dictionaries({"role": role, "content": content | JSONS})
    return st.lists(turn | JSONS, max_size=4) | JSONS


DOORS = [ChatDoor(), MessagesDoor(), ResponsesDoor()]


def outcome(door: Any, body: bytes) -> Any:
    try:
        asked = door.read(body)
    except InvalidRequestError as error:
        return str(error)
    request = asked.request
    source = request.source._replace(fields={name: bytes(raw) for name, raw in request.source.fields.items()})
    read = [(tool.name, str(tool.parameters)) for tool in request.tools]
    return asked.model, request.messages, request.system, request.max_output_tokens, source, read


@pytest.mark.parametrize("door", DOORS, ids=lambda door: str(door.protocol))
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_body_read_in_steps_is_the_same_request_or_the_same_refusal(door: Any, data: Any) -> None:
    body = data.draw(bodies(type(door), turns(door.protocol)))
    in_steps, small = outcome(door, body), steps.STEP
    steps.STEP = 1 << 30
    try:
        whole = outcome(door, body)
    finally:
        steps.STEP = small
    assert in_steps == whole


@given(value=TEXTS, ascii_only=st.booleans(), lone=st.sampled_from(["", "\ud83d", "\ude00"]))
def test_a_text_is_cut_between_its_characters(value: str, ascii_only: bool, lone: str) -> None:
    text = json.dumps(value * 8 + (lone if ascii_only else ""), ensure_ascii=ascii_only).encode()
    try:
        whole: Any = msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        with pytest.raises(msgspec.DecodeError):
            steps.decode(text, str)
    else:
        assert steps.decode(text, str) == whole


@given(value=JSONS)
def test_what_is_written_in_steps_is_the_same_bytes(value: Any) -> None:
    assert steps.encode(value) == msgspec.json.encode(value)


@given(pieces=st.lists(TEXTS, max_size=9))
def test_a_text_in_pieces_is_written_as_the_text_that_they_make(pieces: list[str]) -> None:
    whole = msgspec.json.encode({"a": ["".join(pieces)]})
    assert steps.encode({"a": [steps.Pieces(pieces)]}) == whole


@pytest.mark.parametrize(
    ("decode", "write"),
    [
        (chat.decode_body, chat_body),
        (messages.decode_body, messages_body),
        (responses.decode_body, responses_body),
    ],
)
@given(text=TEXTS.filter(bool), thinking=TEXTS, arguments=JSONS)
@settings(max_examples=60, deadline=None)
def test_an_answer_read_in_steps_is_the_same_events(
    decode: Any, write: Any, text: str, thinking: str, arguments: Any
) -> None:
    calls = (("call_0123456789a", "look", json.dumps({"at": arguments})),)
    body = write(Answer(text=text, thinking=thinking, tool_calls=calls), "m")
    in_steps, small = decode(body, ErrorMapper("mine", "m")), steps.STEP
    steps.STEP = 1 << 30
    try:
        assert in_steps == decode(body, ErrorMapper("mine", "m"))
    finally:
        steps.STEP = small


@given(value=st.dictionaries(TEXTS, TEXTS.map(lambda text: text * 9), max_size=4))
def test_a_field_already_written_stays_as_it_is(value: dict[str, str]) -> None:
    given = {name: msgspec.Raw(msgspec.json.encode(each)) for name, each in value.items()}
    assert steps.encode({"a": given, "b": [given] * 5}) == msgspec.json.encode({"a": given, "b": [given] * 5})


def test_what_json_cannot_say_is_refused_as_ever() -> None:
    for value in ({"a": ["x" * 300, object()]}, {"a": "x" * 300 + "\ud800"}):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            steps.encode(value)
