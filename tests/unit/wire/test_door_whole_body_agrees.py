"""What a decoder takes for a complete answer, a body can be made of: never a success that cannot be told."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attune.errors import ProviderError
from attune.models.executor import EventKind
from attune.wire.chat import ChatDecoder
from attune.wire.decoder import StreamDecoder
from attune.wire.errors import ErrorMapper
from attune.wire.messages import MessagesDecoder
from attune.wire.responses import ResponsesDecoder
from attune.wire.whole_body import WholeBody

ERRORS = ErrorMapper("mine", "m")
DECODERS: dict[str, type[StreamDecoder]] = {
    "chat": ChatDecoder,
    "messages": MessagesDecoder,
    "responses": ResponsesDecoder,
}
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "text", "{"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["index", "partial_json", "tool_calls", "text", "a"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)


def fields(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the ``known`` fields, and others of any kind."""
    some = st.fixed_dictionaries({}, optional=known)
    return st.tuples(
        st.dictionaries(st.sampled_from(["new", "audio", "citations"]), ODD, max_size=2), some
    ).map(lambda two: {**two[0], **two[1]})


def typed(kind: str, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return fields(**known).map(lambda given: {**given, "type": kind})


PLACE = st.integers(0, 2)
TEXT = st.sampled_from(["", "a", '{"b":', "1}"])
BLOCK = st.sampled_from(["text", "thinking", "tool_use", "server_tool_use", "new"]).flatmap(
    lambda kind: typed(kind, text=TEXT, thinking=TEXT, id=TEXT, name=TEXT, input=ODD, partial_json=ODD)
)
DELTA = st.sampled_from(
    ["text_delta", "thinking_delta", "input_json_delta", "citations_delta", "new"]
).flatmap(lambda kind: typed(kind, text=TEXT, thinking=TEXT, partial_json=TEXT, citation=ODD))
MESSAGES = st.lists(
    typed("message_start", message=fields(id=TEXT, content=st.just([]), usage=st.just({"input_tokens": 1})))
    | typed("content_block_start", index=PLACE, content_block=BLOCK)
    | typed("content_block_delta", index=PLACE, delta=DELTA)
    | typed("content_block_stop", index=PLACE)
    | typed(
        "message_delta", delta=fields(stop_reason=st.just("end_turn")), usage=st.just({"output_tokens": 1})
    )
    | typed("new"),
    max_size=8,
).map(
    lambda events: [
        *events,
        *({"type": "content_block_stop", "index": place} for place in range(3)),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
)
CALL = fields(index=PLACE, id=TEXT, function=fields(name=TEXT, arguments=TEXT))
CHOICE = fields(
    index=PLACE,
    delta=fields(content=TEXT, refusal=TEXT, tool_calls=st.lists(CALL, max_size=2)),
    finish_reason=st.sampled_from(["stop", None]),
    logprobs=ODD,
)
CHAT = st.lists(fields(choices=st.lists(CHOICE, max_size=2) | st.none(), id=TEXT), max_size=6).map(
    lambda chunks: [*chunks, {"choices": [{"index": 0, "delta": {"content": "a"}}]}]
)
RESPONSES = st.lists(typed("response.output_text.delta", delta=TEXT) | typed("new"), max_size=3).flatmap(
    lambda events: typed("response.completed", response=fields(id=TEXT, output=st.just([]))).map(
        lambda last: [*events, last]
    )
)
STREAMS = st.one_of(
    st.tuples(st.just(name), events)
    for name, events in {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}.items()
)
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}


def stream_of(protocol: str, events: list[dict[str, Any]]) -> bytes:
    end = b"data: [DONE]\n\n" if protocol == "chat" else b""
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + end


@settings(max_examples=150, deadline=None)
@given(STREAMS)
@example(
    (
        "messages",
        [
            {"type": "content_block_delta", "index": 1, "delta": {"type": "new"}},
            STOP,
            {"type": "message_stop"},
        ],
    )
)
def test_a_stream_that_is_complete_makes_a_body(stream: tuple[str, list[dict[str, Any]]]) -> None:
    protocol, events = stream
    decoder = DECODERS[protocol](ERRORS)
    try:
        came = list(decoder.feed(stream_of(protocol, events)))
    except ProviderError:
        return  # the attempt failed, and another one is made
    if not came or came[-1].kind is not EventKind.TERMINAL:
        return
    body = WholeBody(protocol)
    for event in came:
        body.feed(event)
    assert isinstance(json.loads(body.finish()), dict)


@pytest.mark.parametrize("numbered", [True, False])
def test_a_block_that_never_began_is_in_the_body_with_what_came_of_it(*, numbered: bool) -> None:
    def delta(**fields: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", **({"index": 0} if numbered else {}), "delta": fields}

    text = [delta(type="text_delta", text="so "), delta(type="text_delta", text="it is")]
    stream = stream_of("messages", [*text, STOP, {"type": "message_stop"}])
    body = WholeBody("messages")
    for event in MessagesDecoder(ERRORS).feed(stream):
        body.feed(event)
    assert json.loads(body.finish())["content"] == [{"type": "text", "text": "so it is"}]
