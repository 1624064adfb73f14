import json
from types import MappingProxyType
from typing import Any

import pytest

from attune.errors import CallerError, ContextTooLongError, ProviderError, StreamBrokenError, ThrottledError
from attune.models.executor import (
    EventKind,
    Meta,
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
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from attune.models.telemetry import TokenUsage
from attune.wire.chat import ChatDecoder, decode_body, encode
from attune.wire.errors import ErrorMapper
from support.upstream import Answer, chat_body, chat_stream, sse

ERRORS = ErrorMapper("mine", "m")
MODEL = ModelInfo("m", "mine", ModelTier.CAPABLE, 100_000, 4096)


def encoded(request: LLMRequest, model: ModelInfo = MODEL, **options: Any) -> dict[str, Any]:
    return json.loads(encode(request, model, errors=ERRORS, **options))


def decoded(stream: bytes) -> list[StreamEvent]:
    decoder = ChatDecoder(ERRORS)
    return [*decoder.feed(stream), *decoder.finish()]


def payloads(stream: bytes) -> list[Any]:
    return [event.parsed for event in decoded(stream) if event.parsed is not None]


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return sse(
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    )


DONE = b"data: [DONE]\n\n"
META = Meta("c", "m")


class TestEncoding:
    def test_a_plain_question_is_a_plain_body(self) -> None:
        assert encoded(LLMRequest.from_prompt("hi", system="be brief")) == {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "stream": False,
        }

    def test_options_have_the_names_of_the_protocol(self) -> None:
        body = encoded(
            LLMRequest.from_prompt(
                "hi",
                max_output_tokens=50,
                temperature=0.5,
                stop=("END",),
                thinking_tokens=5000,
                extra={"seed": 7},
            )
        )
        del body["messages"]
        assert body == {
            "model": "m",
            "max_tokens": 50,
            "temperature": 0.5,
            "stop": ["END"],
            "reasoning_effort": "medium",
            "seed": 7,
            "stream": False,
        }

    def test_the_output_limit_has_the_name_asked_for_and_never_passes_the_models_own(self) -> None:
        request = LLMRequest.from_prompt("hi", max_output_tokens=1_000_000)
        body = encoded(request, limit_field="max_completion_tokens")
        assert body["max_completion_tokens"] == 4096
        assert "max_tokens" not in body

    def test_a_stream_asks_for_usage_whatever_extra_says(self) -> None:
        body = encoded(
            LLMRequest.from_prompt("hi", stream=True, extra={"stream_options": {}, "model": "other"})
        )
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        assert body["model"] == "m"

    def test_images_are_parts_by_address_or_as_data(self) -> None:
        parts = (
            TextPart("look"),
            ImagePart(url="https://x.example/a.png"),
            ImagePart(data="QUJD", media_type="image/png"),
        )
        assert encoded(LLMRequest((Message("user", parts),)))["messages"][0]["content"] == [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        ]

    def test_a_tool_conversation_keeps_its_order_and_its_exact_arguments(self) -> None:
        conversation = (
            Message.user("weather?"),
            Message(
                "assistant",
                (ThinkingPart("hm"), TextPart("one moment"), ToolCallPart("c1", "get", '{"a": 1}')),
            ),
            Message(
                "user",
                (TextPart("and?"), ToolResultPart("c1", "sunny"), ToolResultPart("c2", "no", is_error=True)),
            ),
        )
        assert encoded(LLMRequest(conversation))["messages"][1:] == [
            {
                "role": "assistant",
                "content": "one moment",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "c2", "content": "Error: no"},
            {"role": "user", "content": "and?"},
        ]

    @pytest.mark.parametrize("arguments", ['{"city": "Rom', "[]"])
    def test_arguments_that_are_no_object_are_one_with_their_text_since_many_servers_read_them(
        self, arguments: str
    ) -> None:
        turn = Message("assistant", (ToolCallPart("c", "get", arguments),))
        (call,) = encoded(LLMRequest((Message.user("x"), turn)))["messages"][1]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"arguments": arguments}

    def test_ids_above_its_limit_are_digests_and_results_have_those_of_their_calls(self) -> None:
        conversation = (
            Message.user("x"),
            Message("assistant", (ToolCallPart("toolu." + "x" * 60, "get", "{}"),)),
            Message("user", (ToolResultPart("toolu." + "x" * 60, "sunny"),)),
        )
        _, call, result = encoded(LLMRequest(conversation))["messages"]
        assert call["tool_calls"][0]["id"] == result["tool_call_id"]
        assert len(result["tool_call_id"]) <= 40

    def test_an_id_of_another_form_stays_because_its_model_may_need_it(self) -> None:
        conversation = (
            Message.user("x"),
            Message("assistant", (ToolCallPart("functions.get:0", "get", "{}"),)),
        )
        assert encoded(LLMRequest(conversation))["messages"][1]["tool_calls"][0]["id"] == "functions.get:0"

    @pytest.mark.parametrize("model_id", ["gemini-4-argon", "models/gemini-3.5-flash-lite"])
    def test_gemini_gets_the_signatures_of_its_calls_back_and_a_stand_in_for_those_of_others(
        self, model_id: str
    ) -> None:
        conversation = (
            Message.user("x"),
            Message(
                "assistant",
                (
                    ThinkingPart("", "sig-1", "mine"),
                    ToolCallPart("a", "get", "{}"),
                    ToolCallPart("b", "get", "{}"),
                    ThinkingPart("", "sig-3", "mine"),
                    ToolCallPart("c", "get", "{}"),
                ),
            ),
            Message("assistant", (ThinkingPart("hm", "sig", "other"), ToolCallPart("d", "get", "{}"))),
        )
        messages = encoded(LLMRequest(conversation), MODEL._replace(id=model_id))["messages"]
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        assert [call.get("extra_content") for call in calls] == [
            {"google": {"thought_signature": "sig-1"}},
            None,
            {"google": {"thought_signature": "sig-3"}},
            {"google": {"thought_signature": "skip_thought_signature_validator"}},
        ]
        others = encoded(LLMRequest(conversation))["messages"]
        assert "extra_content" not in json.dumps(others)

    def test_a_call_without_text_has_null_content_and_thinking_alone_is_no_message(self) -> None:
        conversation = (
            Message.user("x"),
            Message("assistant", (ToolCallPart("c", "f", ""),)),
            Message("assistant", (ThinkingPart("hm"),)),
        )
        messages = encoded(LLMRequest(conversation))["messages"]
        assert len(messages) == 2
        assert messages[1]["content"] is None
        assert messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            (None, None),
            ("auto", "auto"),
            ("none", "none"),
            ("required", "required"),
            ("get", {"type": "function", "function": {"name": "get"}}),
        ],
    )
    def test_tools_and_their_choice(self, choice: str | None, expected: Any) -> None:
        tools = (Tool("get", "gets", {"type": "object"}), Tool("bare"))
        body = encoded(LLMRequest.from_prompt("hi", tools=tools, tool_choice=choice))
        assert body["tools"] == [
            {
                "type": "function",
                "function": {"name": "get", "description": "gets", "parameters": {"type": "object"}},
            },
            {
                "type": "function",
                "function": {"name": "bare", "parameters": {"type": "object", "properties": {}}},
            },
        ]
        assert body.get("tool_choice") == expected

    def test_json_output_with_and_without_a_schema(self) -> None:
        assert encoded(LLMRequest.from_prompt("hi", output_format=OutputFormat()))["response_format"] == {
            "type": "json_object"
        }
        free = encoded(LLMRequest.from_prompt("hi", system="Be kind.", output_format=OutputFormat()))
        assert free["messages"][0]["content"].startswith("Be kind.\n\nAnswer with a single JSON object")
        schema = MappingProxyType({"type": "object", "properties": {"a": {"type": "string"}}})
        body = encoded(LLMRequest.from_prompt("hi", output_format=OutputFormat(schema, "thing")))
        assert body["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "thing", "schema": dict(schema), "strict": False},
        }

    @pytest.mark.parametrize(
        ("schema", "strict"),
        [
            ({"type": "object", "properties": {}, "additionalProperties": False}, True),
            (
                {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False},
                True,
            ),
            ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
            ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
            ({"anyOf": [{"type": "string"}, {"type": "object"}]}, False),
        ],
    )
    def test_a_schema_is_strict_only_where_strict_would_be_accepted(self, schema: Any, strict: bool) -> None:
        body = encoded(LLMRequest.from_prompt("hi", output_format=OutputFormat(schema)))
        assert body["response_format"]["json_schema"]["strict"] is strict

    @pytest.mark.parametrize("model_id", ["gpt-6-luna", "gpt-5.4", "gpt-5", "o3-mini"])
    def test_openais_reasoning_models_get_no_temperature_or_stop_which_they_reject(
        self, model_id: str
    ) -> None:
        request = LLMRequest.from_prompt("hi", temperature=0.0, stop=("END",))
        assert {"temperature", "stop"}.isdisjoint(encoded(request, MODEL._replace(id=model_id)))

    @pytest.mark.parametrize("model_id", ["gpt-4o", "gpt-oss-120b", "gemini-3.8-flash", "llama3", "olmo-2"])
    def test_other_models_get_the_temperature(self, model_id: str) -> None:
        body = encoded(LLMRequest.from_prompt("hi", temperature=0.0), MODEL._replace(id=model_id))
        assert body["temperature"] == 0.0

    @pytest.mark.parametrize(
        ("model_id", "expected"), [("gpt-6-luna", "none"), ("gpt-5.1", "high"), ("m", "high")]
    )
    def test_tools_turn_reasoning_off_where_this_protocol_does_not_take_both(
        self, model_id: str, expected: str
    ) -> None:
        request = LLMRequest.from_prompt("hi", tools=(Tool("f"),), thinking_tokens=20_000)
        assert encoded(request, MODEL._replace(id=model_id))["reasoning_effort"] == expected

    def test_what_json_cannot_say_is_the_callers_error(self) -> None:
        with pytest.raises(CallerError, match="mine/m: the request cannot be written as JSON: a object"):
            encoded(LLMRequest.from_prompt("hi", extra={"x": object()}))


class TestStream:
    def test_a_whole_stream_is_its_events_and_all_its_bytes(self) -> None:
        answer = Answer(
            text="Hello", thinking="hmmm", tool_calls=(("c1", "get", '{"a":1}'), ("c2", "put", "{}"))
        )
        stream = b"".join(chat_stream(answer, "m"))
        events = decoded(stream)
        assert [e.parsed for e in events if e.parsed is not None] == [
            Meta("chatcmpl-1", "m"),
            ThinkingDelta("hm"),
            ThinkingDelta("mm"),
            TextDelta("He"),
            TextDelta("llo"),
            ToolCallDelta(0, "c1", "get", ""),
            ToolCallDelta(0, arguments='{"a'),
            ToolCallDelta(0, arguments='":1}'),
            ToolCallDelta(1, "c2", "put", ""),
            ToolCallDelta(1, arguments="{"),
            ToolCallDelta(1, arguments="}"),
            TokenUsage(12, 7),
            Terminal("tool_calls", "tool_calls"),
        ]
        assert b"".join(e.raw for e in events) == stream

    def test_a_role_and_an_empty_text_are_not_content(self) -> None:
        events = decoded(chunk({"role": "assistant", "content": ""}) + chunk({"content": ""}))
        assert [e.kind for e in events] == [EventKind.META, EventKind.PING]

    def test_a_comment_is_a_ping(self) -> None:
        (event,) = decoded(b": OPENROUTER PROCESSING\n\n")
        assert event == (EventKind.PING, b": OPENROUTER PROCESSING\n\n", None)

    def test_a_block_with_several_meanings_carries_its_bytes_once(self) -> None:
        block = chunk({"content": "x"}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2})
        events = decoded(block)
        assert [e.kind for e in events] == [EventKind.META, EventKind.CONTENT, EventKind.USAGE]
        assert [e.raw for e in events] == [block, b"", b""]

    def test_done_decides_even_without_a_finish_reason(self) -> None:
        assert payloads(chunk({"content": "x"}) + DONE)[-1] == Terminal("stop", "")

    def test_a_finish_reason_alone_is_not_the_end(self) -> None:
        assert EventKind.TERMINAL not in {e.kind for e in decoded(chunk({"content": "x"}, "stop"))}

    def test_nothing_follows_the_terminal(self) -> None:
        stream = chunk({"content": "x"}) + DONE + chunk({"content": "late"})
        assert payloads(stream) == [META, TextDelta("x"), Terminal("stop", "")]

    @pytest.mark.parametrize(
        "before", [b"", sse({"object": "ping"}), chunk({"role": "assistant", "content": ""})]
    )
    def test_done_after_nothing_at_all_is_not_an_answer(self, before: bytes) -> None:
        with pytest.raises(StreamBrokenError, match="mine/m: the answer is empty"):
            decoded(before + DONE)

    def test_an_answer_that_says_it_stopped_may_be_empty(self) -> None:
        assert payloads(chunk({}, "stop") + DONE) == [META, Terminal("stop", "stop")]

    @pytest.mark.parametrize(
        "delta",
        [
            {"reasoning": "hm"},
            {"refusal": "no"},
            {"tool_calls": [{"id": "a", "function": {"name": "f"}}]},
        ],
    )
    def test_done_decides_after_any_content(self, delta: dict[str, Any]) -> None:
        assert type(payloads(chunk(delta) + DONE)[-1]) is Terminal

    def test_an_answer_that_stopped_for_an_error_is_a_broken_one_and_its_usage_counts(self) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": 3}
        stream = chunk({"content": "par"}, "error") + sse({"choices": [], "usage": usage})
        events = ChatDecoder(ERRORS).feed(stream + DONE)
        assert [next(events).parsed for _ in range(3)] == [META, TextDelta("par"), TokenUsage(5, 3)]
        with pytest.raises(StreamBrokenError, match="the provider ended the answer with an error"):
            next(events)

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("stop", "stop"),
            ("length", "length"),
            ("tool_calls", "tool_calls"),
            ("function_call", "tool_calls"),
            ("content_filter", "refusal"),
            ("weird", "other"),
        ],
    )
    def test_finish_reasons(self, raw: str, reason: str) -> None:
        assert payloads(chunk({"content": "x"}, raw) + DONE)[-1] == Terminal(reason, raw)

    def test_a_refusal_is_text_and_ends_as_one(self) -> None:
        assert payloads(chunk({"refusal": "I cannot"}) + chunk({}, "stop") + DONE) == [
            META,
            TextDelta("I cannot"),
            Terminal("refusal", "stop"),
        ]

    def test_a_tool_call_that_stops_with_stop_is_one_of_tool_calls(self) -> None:
        call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
        assert payloads(chunk({"tool_calls": [call]}, "stop") + DONE)[1:] == [
            ToolCallDelta(0, "a", "f", "{}"),
            Terminal("tool_calls", "stop"),
        ]

    def test_the_signature_of_a_call_comes_before_it(self) -> None:
        call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
        signed = call | {"extra_content": {"google": {"thought_signature": "sig"}}}
        assert payloads(chunk({"tool_calls": [signed]}))[1:] == [
            ThinkingDelta("", "sig"),
            ToolCallDelta(0, "a", "f", "{}"),
        ]
        unsigned = call | {"extra_content": {"google": {}}}
        assert payloads(chunk({"tool_calls": [unsigned]}))[1:] == [ToolCallDelta(0, "a", "f", "{}")]

    @pytest.mark.parametrize("index", [{}, {"index": 0}])
    def test_a_new_id_begins_a_new_call_even_at_the_same_index(self, index: dict[str, int]) -> None:
        first = {**index, "id": "a", "function": {"name": "f", "arguments": "{}"}}
        second = {**index, "id": "b", "function": {"name": "g", "arguments": "{}"}}
        calls = payloads(chunk({"tool_calls": [first]}) + chunk({"tool_calls": [second]}))[1:]
        assert calls == [ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g", "{}")]

    def test_other_choices_than_the_first_are_not_mixed_in(self) -> None:
        both = sse({"id": "c", "model": "m", "choices": [
            {"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "A"}}]})  # fmt: skip
        assert payloads(both) == [META, TextDelta("A")]

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, TokenUsage(5, 3)),
            ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 20}, TokenUsage(5, 15)),
            (
                {"prompt_tokens": 9, "completion_tokens": 1,
                 "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3, "audio_tokens": 0}},
                TokenUsage(9, 1, cache_read_tokens=4, cache_write_tokens=3),
            ),
            ({"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, TokenUsage(2, 0, 2)),
        ],
    )  # fmt: skip
    def test_usage_counts_cached_and_reasoning_tokens_once(self, usage: Any, expected: TokenUsage) -> None:
        assert payloads(sse({"choices": [], "usage": usage}))[1:] == [expected]

    def test_missing_usage_is_no_event(self) -> None:
        assert EventKind.USAGE not in {e.kind for e in decoded(chunk({"content": "x"}, usage=None) + DONE)}

    def test_an_error_event_is_raised_after_the_content_before_it(self) -> None:
        decoder = ChatDecoder(ERRORS)
        error = sse({"error": {"message": "The server had an error", "type": "server_error"}})
        events = decoder.feed(chunk({"content": "x"}) + error)
        assert [next(events).kind, next(events).kind] == [EventKind.META, EventKind.CONTENT]
        with pytest.raises(StreamBrokenError, match="The server had an error"):
            next(events)

    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            ({"object": "error", "message": "boom", "type": "Bad", "code": 400}, CallerError),
            ({"object": "error", "message": "boom", "code": 500}, StreamBrokenError),
            ({"object": "error"}, StreamBrokenError),
            ({"message": "boom", "code": 429}, ThrottledError),
            ({"detail": "boom"}, StreamBrokenError),
            ({"code": "context_length_exceeded"}, ContextTooLongError),
            ({"choices": [], "message": "boom"}, StreamBrokenError),
            ({"choices": None, "error": {"message": "boom"}}, StreamBrokenError),
        ],
    )
    def test_an_error_that_stands_where_a_chunk_should_is_one_and_not_the_end_of_an_answer(
        self, block: dict[str, Any], expected: type[ProviderError]
    ) -> None:
        events = ChatDecoder(ERRORS).feed(chunk({"content": "par"}) + sse(block) + DONE)
        assert [next(events).parsed, next(events).parsed] == [META, TextDelta("par")]
        with pytest.raises(ProviderError, match="mine/m failed in its answer") as caught:
            next(events)
        assert type(caught.value) is expected
        assert "message" not in block or "boom" in str(caught.value)
        with pytest.raises(expected):
            decode_body(json.dumps(block).encode(), ERRORS)

    @pytest.mark.parametrize(
        "block", [{"object": "ping"}, {"choices": [], "message": "", "code": 0, "detail": None}]
    )
    def test_a_block_without_choices_that_reports_nothing_is_ignored(self, block: dict[str, Any]) -> None:
        assert payloads(chunk({"content": "x"}) + sse(block)) == [META, TextDelta("x")]

    def test_an_event_named_error_is_an_error_whatever_its_data(self) -> None:
        with pytest.raises(StreamBrokenError, match="out of memory"):
            decoded(b"event: error\ndata: out of memory\n\n")

    @pytest.mark.parametrize("data", [b"{", b'{"choices": 7}', b"[" * 5000, b'{"model": "\xff"}', b"hello"])
    def test_an_event_that_is_not_of_the_protocol_breaks_the_stream(self, data: bytes) -> None:
        with pytest.raises(StreamBrokenError, match="mine/m: an event is not a Chat Completions chunk"):
            decoded(b"data: " + data + b"\n\n")

    def test_a_null_error_is_none(self) -> None:
        assert payloads(chunk({"content": "x"}, error=None)) == [META, TextDelta("x")]


class TestBody:
    def test_a_whole_answer_is_the_same_events(self) -> None:
        body = chat_body(Answer(text="Hello", thinking="hm", tool_calls=(("c1", "get", '{"a":1}'),)), "m")
        events = decode_body(body, ERRORS)
        assert [e.parsed for e in events] == [
            Meta("chatcmpl-1", "m"),
            ThinkingDelta("hm"),
            TextDelta("Hello"),
            ToolCallDelta(0, "c1", "get", '{"a":1}'),
            TokenUsage(12, 7),
            Terminal("tool_calls", "tool_calls"),
        ]
        assert b"".join(e.raw for e in events) == body

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"<html>", "not Chat Completions JSON"),
            (b"", "not Chat Completions JSON"),
            (b'{"choices": []}', "has no message"),
            (b'{"choices": [{"index": 0}]}', "has no message"),
            (b'{"choices": [{"message": {"content": null}, "finish_reason": null}]}', "is empty"),
            (b'{"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]}', "with an error"),
            (b'{"detail": "Internal error"}', "Internal error"),
            (b'{"error": {"message": "upstream died", "code": 502}}', "upstream died"),
        ],
    )
    def test_a_body_that_is_no_answer_is_a_broken_one(self, body: bytes, message: str) -> None:
        with pytest.raises(StreamBrokenError, match=message):
            decode_body(body, ERRORS)

    def test_an_error_with_status_200_has_its_class(self) -> None:
        with pytest.raises(ContextTooLongError):
            decode_body(b'{"error": {"code": "context_length_exceeded", "message": "x"}}', ERRORS)

    def test_a_body_without_a_finish_reason_is_an_answer_if_it_says_something(self) -> None:
        body = b'{"choices": [{"message": {"content": "x"}, "finish_reason": null}]}'
        assert [e.parsed for e in decode_body(body, ERRORS)][1:] == [TextDelta("x"), Terminal("stop", "")]

    def test_a_body_cut_anywhere_is_never_an_answer(self) -> None:
        body = chat_body(Answer(), "m")
        for length in range(len(body)):
            with pytest.raises(StreamBrokenError):
                decode_body(body[:length], ERRORS)
