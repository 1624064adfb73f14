"""A body put together from a stream of the same protocol has everything that was in the stream."""

import json
from typing import Any

import pytest

from attune.wire.carrying import only_here
from attune.wire.chat import ChatDecoder
from attune.wire.chat import decode_body as decode_chat_body
from attune.wire.chat_door import ChatDoor
from attune.wire.decoder import StreamDecoder
from attune.wire.errors import ErrorMapper
from attune.wire.messages import MessagesDecoder
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses import ResponsesDecoder
from attune.wire.whole_body import WholeBody
from support.upstream import Answer, chat_body, chat_stream, messages_body, messages_stream, sse
from support.upstream_responses import responses_body, responses_stream

ERRORS = ErrorMapper("mine", "m")
DECODERS: dict[str, type[StreamDecoder]] = {
    "chat": ChatDecoder,
    "messages": MessagesDecoder,
    "responses": ResponsesDecoder,
}
CALLS = (("call_0123456789a", "look", '{"at": "sky"}'), ("call_0123456789b", "listen", "{}"))
TALK = Answer(text="Hello there", thinking="Let me think", tool_calls=CALLS)


def whole(protocol: str, stream: list[bytes]) -> dict[str, Any]:
    body, decoder = WholeBody(protocol), DECODERS[protocol](ERRORS)
    for event in decoder.feed(b"".join(stream)):
        body.feed(event)
    return json.loads(body.finish())


def message_events(*events: dict[str, Any]) -> list[bytes]:
    start = {"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": {"input_tokens": 3}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
    return [sse(e, e["type"]) for e in (start, *events, end, {"type": "message_stop"})]


def test_it_is_the_body_that_chat_would_have_sent() -> None:
    assert whole("chat", chat_stream(TALK)) == {**json.loads(chat_body(TALK, "m"))} | {
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello there",
                    "reasoning_content": "Let me think",
                    "tool_calls": [
                        {"id": i, "type": "function", "function": {"name": n, "arguments": a}}
                        for i, n, a in CALLS
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ]
    }


def test_it_is_the_body_that_messages_would_have_sent() -> None:
    assert whole("messages", messages_stream(TALK)) == json.loads(messages_body(TALK, "m"))


def test_it_is_the_body_that_responses_would_have_sent() -> None:
    assert whole("responses", responses_stream(TALK)) == json.loads(responses_body(TALK, "m"))


def test_every_choice_of_chat_is_there_with_its_probabilities() -> None:
    def chunk(index: int, text: str) -> bytes:
        probable = {"content": [{"token": text, "logprob": -0.1}], "refusal": None}
        return sse(
            {"id": "c", "choices": [{"index": index, "delta": {"content": text}, "logprobs": probable}]}
        )

    def end(index: int) -> bytes:
        return sse({"choices": [{"index": index, "delta": {}, "logprobs": None, "finish_reason": "stop"}]})

    chunks = [chunk(0, "a"), chunk(1, "x"), chunk(0, "b"), chunk(1, "y"), end(1), end(0), b"data: [DONE]\n\n"]
    choices = whole("chat", chunks)["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["ab", "xy"]
    assert [each["token"] for each in choices[0]["logprobs"]["content"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "stop"]


def test_spoken_answers_of_chat_are_there() -> None:
    pieces = [
        {"id": "audio_1", "data": "QU"},
        {"data": "JD", "transcript": "h"},
        {"transcript": "i", "expires_at": 9},
    ]
    chunks = [sse({"choices": [{"index": 0, "delta": {"audio": piece}}]}) for piece in pieces]
    end = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    audio = whole("chat", [*chunks, end, b"data: [DONE]\n\n"])["choices"][0]["message"]["audio"]
    assert audio == {"id": "audio_1", "data": "QUJD", "transcript": "hi", "expires_at": 9}


def test_blocks_of_messages_that_are_none_of_ours_are_there() -> None:
    found = {
        "type": "web_search_tool_result",
        "tool_use_id": "s1",
        "content": [{"type": "web_search_result", "title": "t"}],
    }
    citation = {"type": "web_search_result_location", "cited_text": "x"}

    def delta(place: int, **fields: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": place, "delta": fields}

    def start(place: int, block: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_start", "index": place, "content_block": block}

    got = whole(
        "messages",
        message_events(
            start(0, {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}),
            delta(0, type="input_json_delta", partial_json='{"query": '),
            delta(0, type="input_json_delta", partial_json='"x"}'),
            start(1, found),
            start(2, {"type": "text", "text": "", "citations": None}),
            delta(2, type="text_delta", text="so "),
            delta(2, type="citations_delta", citation=citation),
            delta(2, type="text_delta", text="it is"),
        ),
    )
    assert got == {
        "id": "msg_1",
        "content": [
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
            found,
            {"type": "text", "text": "so it is", "citations": [citation]},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "stop_reason": "end_turn",
    }


def test_calls_are_told_apart_as_the_decoder_does_also_without_an_index_of_their_own() -> None:
    def chunk(*calls: dict[str, Any]) -> bytes:
        return sse({"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]})

    def call(call_id: str, arguments: str, **index: int) -> dict[str, Any]:
        return {**index, "id": call_id, "function": {"name": "f", "arguments": arguments}}

    end = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    for chunks in (
        [
            chunk(call("a", '{"x":1}', index=0)),
            chunk(call("b", "{", index=0)),
            chunk({"function": {"arguments": "}"}}),
        ],
        [chunk(call("a", '{"x":1}'), call("b", "{}"))],
    ):
        choice = whole("chat", [*chunks, end, b"data: [DONE]\n\n"])["choices"][0]
        told = [(each["id"], each["function"]["arguments"]) for each in choice["message"]["tool_calls"]]
        assert told == [("a", '{"x":1}'), ("b", "{}")]


def test_a_tool_s_input_that_is_no_json_is_kept_as_text() -> None:
    call = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "name": "f", "input": {}},
    }
    piece = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "input_json_delta", "partial_json": "{x"},
    }
    stop = {"type": "content_block_stop", "index": 0}
    assert whole("messages", message_events(call, piece, stop))["content"][0]["input"] == {"arguments": "{x"}


@pytest.mark.parametrize("protocol", ["chat"])
def test_the_body_of_a_provider_that_does_not_stream_is_given_on_as_it_is(protocol: str) -> None:
    raw = chat_body(TALK, "m")
    body = WholeBody(protocol)
    for event in decode_chat_body(raw, ERRORS):
        body.feed(event)
    assert body.finish() == raw


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, False),
        ({"n": 1}, False),
        ({"user": "me"}, False),
        ({"n": 2}, True),
        ({"tools": [{"type": "custom"}]}, True),
    ],
)
def test_it_is_needed_where_only_the_protocol_itself_can_say_what_is_asked(
    fields: dict[str, Any], needed: bool
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    source = ChatDoor().read(json.dumps(body).encode()).request.source
    assert source is not None
    assert only_here(source) is needed


def test_it_is_needed_for_the_tools_of_a_server() -> None:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    body["tools"] = [{"type": "web_search_20250305", "name": "web_search"}]
    source = MessagesDoor().read(json.dumps(body).encode()).request.source
    assert source is not None
    assert only_here(source)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n", b"\n\n"])
def test_a_body_is_passed_on_as_it_came_however_it_ends(end: bytes) -> None:
    came = json.dumps(json.loads(chat_body(TALK, "m")), indent=1).encode() + end
    body = WholeBody("chat")
    for event in decode_chat_body(came, ERRORS):
        body.feed(event)
    assert body.finish() == came


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_an_event_that_begins_like_a_body_is_an_event(line_end: bytes) -> None:
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    lines = (b"{: no field", b"data: " + json.dumps(chunk).encode(), b"", b"data: [DONE]", b"", b"")
    assert whole("chat", [line_end.join(lines)])["choices"][0]["message"] == {"content": "hi"}


def test_a_long_text_is_all_the_pieces_that_came() -> None:
    pieces = [f'{place}: жизнь, "quoted"\n' * 500 for place in range(100)]
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": {"content": each}}]} for each in pieces]
    ending = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    stream = [*(sse(each) for each in (*chunks, ending)), b"data: [DONE]\n\n"]
    assert whole("chat", stream)["choices"][0]["message"]["content"] == "".join(pieces)
