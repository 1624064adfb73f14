"""Whatever JSON a client sends: it is read or refused in one sentence, and so it is sent on or refused."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import CallerError, InvalidRequestError
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.wire.carrying import FATES
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import AnswerHead, Door
from attune.wire.errors import ErrorMapper
from attune.wire.messages_door import MessagesDoor
from attune.wire.pass_through import chat_body, messages_body, responses_body
from attune.wire.responses_door import ResponsesDoor

DOORS: list[Door] = [ChatDoor(), MessagesDoor(), ResponsesDoor()]
ERRORS = ErrorMapper("mine", "m")
HEAD = AnswerHead("c1", "m", "mine", 7)
MODELS = (
    "some-model",
    "gpt-5.4",
    "gemini-3.5-flash",
    "claude-haiku-5-5",
    "claude-opus-4-1",
    "claude-opus-4-7",
)
WORDS = """
    type role content text name id input output arguments function tool_calls tool_call_id user assistant
    system tool developer tool_use tool_result thinking signature redacted_thinking data image image_url
    source base64 url media_type input_text output_text message reasoning function_call call_id summary
    function_call_output encrypted_content attune:openai:x enabled adaptive budget_tokens effort low format
    json_schema schema include_usage parameters input_schema extra_content google auto any required
"""
words = st.sampled_from(WORDS.split())
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10_000)
    | st.floats(allow_nan=False)
    | words
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)
parts = st.fixed_dictionaries({"type": words, "text": st.text(max_size=5)}) | st.dictionaries(
    words, values, max_size=5
)
turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("user", "assistant", "system", "tool")),
        "content": st.text(max_size=5) | st.lists(parts, max_size=3),
    }
)
conversations = st.lists(turns | values, min_size=1, max_size=4)


@st.composite
def bodies(draw: st.DrawFn, protocol: str) -> dict[str, Any]:
    names = sorted(name for each in FATES[protocol] for name in each)
    body = draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
    talk = "input" if protocol == "responses" else "messages"
    least = {"model": "m", "max_tokens": 9, talk: draw(conversations)}
    return {**body, **least} if draw(st.booleans()) else {**least, **body}


def sent_on(request: LLMRequest) -> None:
    for model_id in MODELS:
        model = ModelInfo(model_id, "mine", ModelTier.CAPABLE, 100_000, 4096)
        for stream in (request, request.streaming()):
            for send in (
                lambda asked, to: chat_body(asked, to, errors=ERRORS, limit_field="max_tokens"),
                lambda asked, to: messages_body(asked, to, provider="mine", errors=ERRORS),
                lambda asked, to: responses_body(asked, to, errors=ERRORS),
            ):
                with suppress(CallerError):
                    assert json.loads(send(stream, model))["model"] == model_id


def sentence(error: InvalidRequestError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 700


def read_and_sent_on(door: Door, body: bytes) -> None:
    try:
        asked = door.read(body)
    except InvalidRequestError as error:
        sentence(error)
        return
    request = asked.request
    assert request.estimated_input_tokens() >= 0
    assert isinstance(request.needs, frozenset)
    door.stream(request, HEAD, relays=False)
    sent_on(request)


@settings(max_examples=150, deadline=None)
@given(bodies("chat"))
def test_chat(body: dict[str, Any]) -> None:
    read_and_sent_on(DOORS[0], json.dumps(body).encode())


@settings(max_examples=150, deadline=None)
@given(bodies("messages"))
def test_messages(body: dict[str, Any]) -> None:
    read_and_sent_on(DOORS[1], json.dumps(body).encode())


@settings(max_examples=150, deadline=None)
@given(bodies("responses"))
def test_responses(body: dict[str, Any]) -> None:
    read_and_sent_on(DOORS[2], json.dumps(body).encode())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DOORS), values, st.binary(max_size=20))
def test_what_is_no_request_at_all(door: Door, value: Any, noise: bytes) -> None:
    read_and_sent_on(door, json.dumps(value).encode())
    read_and_sent_on(door, noise)
    read_and_sent_on(door, json.dumps(value).encode()[:-1] + noise)
