import json
import re
from typing import Any

import pytest

from attune.errors import StreamBrokenError, ThrottledError
from attune.models.executor import (
    EventKind,
    Meta,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Working,
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
from attune.wire.errors import ErrorMapper
from attune.wire.messages import MessagesDecoder, decode_body, encode
from support.upstream import Answer, messages_body, messages_stream, sse

ERRORS = ErrorMapper("anthropic", "m")
MODEL = ModelInfo("m", "anthropic", ModelTier.CAPABLE, 100_000, 4096)


def encoded(request: LLMRequest, model_id: str = "m") -> dict[str, Any]:
    return json.loads(encode(request, MODEL._replace(id=model_id), provider="anthropic", errors=ERRORS))


def decoded(stream: bytes) -> list[StreamEvent]:
    decoder = MessagesDecoder(ERRORS)
    return [*decoder.feed(stream), *decoder.finish()]


def payloads(stream: bytes) -> list[Any]:
    return [event.parsed for event in decoded(stream) if event.parsed is not None]


def event(name: str, **fields: Any) -> bytes:
    return sse({"type": name, **fields}, name)


STOP = event("message_stop")


class TestEncoding:
    def test_a_plain_question_always_has_an_output_limit(self) -> None:
        assert encoded(LLMRequest.from_prompt("hi", system="be brief")) == {
            "model": "m",
            "max_tokens": 4096,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "system": "be brief",
            "stream": False,
        }

    def test_options_have_the_names_of_the_protocol(self) -> None:
        body = encoded(
            LLMRequest.from_prompt(
                "hi",
                max_output_tokens=3000,
                temperature=0.5,
                stop=("END",),
                thinking_tokens=2000,
                stream=True,
                extra={"top_k": 3, "model": "other"},
            )
        )
        del body["messages"]
        assert body == {
            "model": "m",
            "max_tokens": 3000,
            "temperature": 0.5,
            "stop_sequences": ["END"],
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "stream": True,
            "top_k": 3,
        }

    def test_limits_stay_within_the_models_and_thinking_within_the_limit(self) -> None:
        body = encoded(LLMRequest.from_prompt("hi", max_output_tokens=1_000_000, thinking_tokens=99_999))
        assert body["max_tokens"] == 4096
        assert body["thinking"]["budget_tokens"] == 4095

    @pytest.mark.parametrize(
        "model_id", ["claude-sonnet-5-5", "claude-opus-5", "claude-opus-4-7", "claude-fable-5-2"]
    )
    def test_newer_models_get_an_effort_and_no_temperature(self, model_id: str) -> None:
        request = LLMRequest.from_prompt(
            "hi", thinking_tokens=2000, temperature=0.5, extra={"output_config": {"task_budget": 1}}
        )
        body = encoded(request, model_id)
        assert body["output_config"] == {"effort": "medium", "task_budget": 1}
        assert "thinking" not in body
        assert "temperature" not in body

    def test_an_older_dated_model_keeps_its_budget(self) -> None:
        body = encoded(LLMRequest.from_prompt("hi", thinking_tokens=2000), "claude-sonnet-4-20250514")
        assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}

    def test_images_are_blocks_by_address_or_as_data(self) -> None:
        parts = (
            TextPart(""),
            ImagePart(url="https://x.example/a"),
            ImagePart(data="QUJD", media_type="image/png"),
        )
        assert encoded(LLMRequest((Message("user", parts),)))["messages"][0]["content"] == [
            {"type": "image", "source": {"type": "url", "url": "https://x.example/a"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
        ]

    def test_a_tool_conversation_has_results_first_and_arguments_as_objects(self) -> None:
        conversation = (
            Message.user("weather?"),
            Message("assistant", (ToolCallPart("c1", "get", '{"a": 1.50}'), ToolCallPart("c2", "put", ""))),
            Message(
                "user",
                (TextPart("and?"), ToolResultPart("c1", "sunny"), ToolResultPart("c2", "no", is_error=True)),
            ),
        )
        assert encoded(LLMRequest(conversation))["messages"][1:] == [
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "get", "input": {"a": 1.50}},
                    {"type": "tool_use", "id": "c2", "name": "put", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "no", "is_error": True},
                    {"type": "text", "text": "and?"},
                ],
            },
        ]

    @pytest.mark.parametrize("arguments", ["{", "[]", '"x"', "{}{}"])
    def test_arguments_that_are_no_object_are_one_with_their_text(self, arguments: str) -> None:
        turn = Message("assistant", (ToolCallPart("c", "get", arguments),))
        (block,) = encoded(LLMRequest((Message.user("x"), turn)))["messages"][1]["content"]
        assert block == {"type": "tool_use", "id": "c", "name": "get", "input": {"arguments": arguments}}

    def test_thinking_goes_back_only_to_the_provider_that_signed_it(self) -> None:
        parts = (
            ThinkingPart("mine", "sig", "anthropic"),
            ThinkingPart("theirs", "sig", "other"),
            ThinkingPart("unsigned", "", "anthropic"),
        )
        conversation = (
            Message.user("x"),
            Message("assistant", (*parts, TextPart("y"))),
            Message("assistant", parts[1:]),
        )
        assert encoded(LLMRequest(conversation))["messages"][1:] == [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "mine", "signature": "sig"},
                    {"type": "text", "text": "y"},
                ],
            }
        ]

    def test_thinking_that_was_shown_to_nobody_goes_back_as_it_came(self) -> None:
        block = {"type": "redacted_thinking", "data": "EmwK"}
        body = {"content": [block, {"type": "text", "text": "y"}], "stop_reason": "end_turn"}
        _, thought, *_ = (e.parsed for e in decode_body(json.dumps(body).encode(), ERRORS))
        assert payloads(event("content_block_start", index=0, content_block=block)) == [thought]
        part = ThinkingPart(thought.text, thought.signature, "anthropic")
        conversation = (Message.user("x"), Message("assistant", (part, TextPart("y"))))
        assert encoded(LLMRequest(conversation))["messages"][1]["content"][0] == block

    @pytest.mark.parametrize("made_by", ["anthropic", "openai"])
    @pytest.mark.parametrize("asked_by", ["thinking_tokens", "extra"])
    def test_a_model_that_cannot_think_on_from_anothers_tool_call_answers_without_thinking(
        self, made_by: str, asked_by: str
    ) -> None:
        thought = ThinkingPart("hm", "sig", made_by)
        loop = (
            Message.user("x"),
            Message("assistant", (thought, ToolCallPart("c", "get", "{}"))),
            Message("user", (ToolResultPart("c", "sunny"),)),
        )
        on = {"type": "enabled", "budget_tokens": 2000}
        asked = {"thinking_tokens": 2000} if asked_by == "thinking_tokens" else {"extra": {"thinking": on}}
        body = encoded(LLMRequest(loop, **asked), "claude-sonnet-4-5")  # type: ignore[arg-type]
        assert body.get("thinking") == (on if made_by == "anthropic" else None)
        adaptive = {"type": "adaptive"}
        newer = encoded(LLMRequest(loop, extra={"thinking": adaptive}), "claude-opus-5-5")
        assert newer["thinking"] == adaptive
        after_it = LLMRequest((*loop, Message.assistant("It is sunny."), Message.user("and?")), **asked)  # type: ignore[arg-type]
        assert encoded(after_it, "claude-sonnet-4-5")["thinking"] == on

    def test_ids_of_tool_calls_are_made_of_the_letters_it_accepts(self) -> None:
        loop = (
            Message.user("x"),
            Message("assistant", (ToolCallPart("call.1|fc", "get", "{}"), ToolCallPart("", "get", "{}"))),
            Message("user", (ToolResultPart("call.1|fc", "sunny"), ToolResultPart("", "rain"))),
        )
        _, calls, results = (message["content"] for message in encoded(LLMRequest(loop))["messages"])
        assert [each["id"] for each in calls] == [each["tool_use_id"] for each in results]
        assert all(re.fullmatch("[a-zA-Z0-9_-]+", each["id"]) for each in calls)

    @pytest.mark.parametrize(
        ("choice", "older", "newer"),
        [
            (None, None, None),
            ("auto", {"type": "auto"}, {"type": "auto"}),
            ("none", {"type": "none"}, {"type": "none"}),
            ("required", {"type": "any"}, {"type": "auto"}),
            ("get", {"type": "tool", "name": "get"}, {"type": "auto"}),
        ],
    )
    def test_tools_and_their_choice(self, choice: str | None, older: Any, newer: Any) -> None:
        tools = (Tool("get", "gets", {"type": "object"}), Tool("bare"))
        request = LLMRequest.from_prompt("hi", tools=tools, tool_choice=choice)
        assert encoded(request)["tools"] == [
            {"name": "get", "description": "gets", "input_schema": {"type": "object"}},
            {"name": "bare", "input_schema": {"type": "object", "properties": {}}},
        ]
        assert encoded(request).get("tool_choice") == older
        assert "system" not in encoded(request)
        assert encoded(request, "claude-sonnet-5-5").get("tool_choice") == newer

    @pytest.mark.parametrize(("choice", "words"), [("required", "one of the tools"), ("get", "the tool get")])
    def test_a_forced_call_is_an_instruction_where_forcing_is_rejected(self, choice: str, words: str) -> None:
        request = LLMRequest.from_prompt("hi", system="Be kind.", tools=(Tool("get"),), tool_choice=choice)
        system = encoded(request, "claude-opus-5-5")["system"]
        assert system.startswith("Be kind.\n\nAnswer by calling")
        assert words in system

    def test_json_output_with_and_without_a_schema(self) -> None:
        schema = {"type": "object"}
        body = encoded(
            LLMRequest.from_prompt("hi", output_format=OutputFormat(schema), extra={"output_config": 3})
        )
        assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
        free = encoded(LLMRequest.from_prompt("hi", output_format=OutputFormat()))
        assert "single JSON object" in free["system"]
        assert "output_config" not in free


class TestStream:
    def test_a_whole_stream_is_its_events_and_all_its_bytes(self) -> None:
        answer = Answer(
            text="Hello", thinking="hmmm", tool_calls=(("c1", "get", '{"a":1}'), ("c2", "put", ""))
        )
        stream = b"".join(messages_stream(answer, "m"))
        events = decoded(stream)
        assert [e.parsed for e in events if e.parsed is not None] == [
            Meta("msg_1", "m"),
            TokenUsage(12, 1),
            Working(),
            ThinkingDelta("hm"),
            ThinkingDelta("mm"),
            ThinkingDelta("", "sig-1"),
            TextDelta("He"),
            TextDelta("llo"),
            ToolCallDelta(0, "c1", "get", ""),
            ToolCallDelta(0, arguments='{"a'),
            ToolCallDelta(0, arguments='":1}'),
            ToolCallDelta(1, "c2", "put", ""),
            ToolCallDelta(1, arguments="{}"),
            TokenUsage(12, 7),
            Terminal("tool_calls", "tool_use"),
        ]
        assert b"".join(e.raw for e in events) == stream

    def test_a_start_and_a_ping_are_not_content(self) -> None:
        start = event("message_start", message={"id": "msg", "model": "m"})
        block = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        kinds = [e.kind for e in decoded(start + event("ping") + block)]
        assert kinds == [EventKind.META, EventKind.PING, EventKind.PING]

    def test_text_in_the_start_of_a_block_is_content(self) -> None:
        started = [
            event("content_block_start", index=0, content_block={"type": "text", "text": "Hi"}),
            event(
                "content_block_start",
                index=1,
                content_block={"type": "thinking", "thinking": "h", "signature": "s"},
            ),
            event(
                "content_block_start",
                index=2,
                content_block={"type": "tool_use", "id": "i", "name": "n", "input": {"a": 1}},
            ),
            event("content_block_stop", index=2),
        ]
        assert payloads(b"".join(started)) == [
            TextDelta("Hi"),
            ThinkingDelta("h", "s"),
            ToolCallDelta(0, "i", "n", '{"a": 1}'),
        ]

    def test_what_the_service_does_by_itself_is_no_tool_call_of_the_caller(self) -> None:
        searching = [
            event(
                "content_block_start",
                index=0,
                content_block={"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            ),
            event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{}"}),
            event("content_block_stop", index=0),
            event(
                "content_block_start",
                index=1,
                content_block={"type": "web_search_tool_result", "content": [{"type": "x"}]},
            ),
            event("content_block_delta", index=2, delta={"type": "citations_delta", "citation": {}}),
            event("something_new", index=1),
        ]
        events = decoded(b"".join(searching))
        assert {e.kind for e in events} == {EventKind.PING}
        lives = [e.parsed == Working() for e in events]
        assert lives == [True, True, False, True, False, False]  # it began, was told what, and answered

    def test_a_thought_that_is_not_shown_is_a_sign_of_life(self) -> None:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        assert payloads(event("content_block_start", index=0, content_block=block)) == [Working()]

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("max_tokens", "length"),
            ("tool_use", "tool_calls"),
            ("refusal", "refusal"),
            ("model_context_window_exceeded", "context_window"),
            ("pause_turn", "other"),
        ],
    )
    def test_stop_reasons(self, raw: str, reason: str) -> None:
        assert payloads(event("message_delta", delta={"stop_reason": raw}) + STOP) == [Terminal(reason, raw)]

    @pytest.mark.parametrize(
        "before",
        [
            b"",
            event("message_start", message={"id": "i", "model": "m"}),
            event("content_block_start", index=0, content_block={"type": "text", "text": "par"}),
            event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 1}),
        ],
    )
    def test_an_end_without_a_stop_reason_is_a_broken_answer(self, before: bytes) -> None:
        with pytest.raises(StreamBrokenError, match="anthropic/m: the answer has no stop reason"):
            decoded(before + STOP)

    def test_an_answer_that_says_it_stopped_may_be_empty(self) -> None:
        end = event("message_delta", delta={"stop_reason": "end_turn"}) + STOP
        assert payloads(event("message_start", message={"id": "i"}) + end)[-1] == Terminal("stop", "end_turn")

    @pytest.mark.parametrize("pieces", [[], ['{"city": "Rom']])
    def test_a_tool_call_that_never_stopped_breaks_the_answer(self, pieces: list[str]) -> None:
        call = {"type": "tool_use", "id": "t", "name": "get", "input": {}}
        stream = event("content_block_start", index=0, content_block=call)
        for piece in pieces:
            delta = {"type": "input_json_delta", "partial_json": piece}
            stream += event("content_block_delta", index=0, delta=delta)
        end = event("message_delta", delta={"stop_reason": "tool_use"}) + STOP
        with pytest.raises(StreamBrokenError, match="anthropic/m: a tool call of the answer is not complete"):
            decoded(stream + end)
        whole = stream + event("content_block_stop", index=0) + end
        assert payloads(whole)[-1] == Terminal("tool_calls", "tool_use")

    def test_usage_is_merged_and_cached_tokens_are_part_of_the_input_once(self) -> None:
        start = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50,
                 "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
                 "output_tokens": 1}  # fmt: skip
        stream = event("message_start", message={"id": "i", "model": "m", "usage": start})
        stream += event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 40})
        assert payloads(stream)[1:] == [TokenUsage(160, 1, 100, 50, 30), TokenUsage(160, 40, 100, 50, 30)]

    def test_a_later_total_replaces_an_earlier_one(self) -> None:
        stream = event("message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}})
        stream += event("message_delta", usage={"input_tokens": 25, "output_tokens": 9})
        assert payloads(stream)[-1] == TokenUsage(25, 9)

    def test_missing_usage_is_no_event(self) -> None:
        stream = b"".join(messages_stream(Answer(usage={})))
        assert EventKind.USAGE not in {e.kind for e in decoded(stream)}

    def test_an_error_event_has_its_class(self) -> None:
        overloaded = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        with pytest.raises(
            StreamBrokenError, match=r"anthropic/m failed in its answer \(overloaded_error\): Overloaded"
        ):
            decoded(overloaded)
        without_name = sse({"type": "error", "error": {"type": "rate_limit_error", "message": "x"}})
        with pytest.raises(ThrottledError):
            decoded(without_name)

    @pytest.mark.parametrize("data", [b"{", b'{"type": 7}', b"[" * 5000, b'{"type": "\xff"}'])
    def test_an_event_that_is_not_of_the_protocol_breaks_the_stream(self, data: bytes) -> None:
        with pytest.raises(StreamBrokenError, match="an event is not a Messages event"):
            decoded(b"data: " + data + b"\n\n")


class TestBody:
    def test_a_whole_answer_is_the_same_events(self) -> None:
        answer = Answer(
            text="Hello", thinking="hm", tool_calls=(("c1", "get", '{"a": 1}'), ("c2", "put", "{}"))
        )
        body = messages_body(answer, "m")
        events = decode_body(body, ERRORS)
        assert [e.parsed for e in events] == [
            Meta("msg_1", "m"),
            ThinkingDelta("hm", "sig-1"),
            TextDelta("Hello"),
            ToolCallDelta(0, "c1", "get", '{"a": 1}'),
            ToolCallDelta(1, "c2", "put", ""),
            ToolCallDelta(1, arguments="{}"),
            TokenUsage(12, 7),
            Terminal("tool_calls", "tool_use"),
        ]
        assert b"".join(e.raw for e in events) == body

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"<html>", "not Messages JSON"),
            (b'{"type": "message", "content": []}', "no content or no stop reason"),
            (b'{"type": "message", "stop_reason": "end_turn"}', "no content or no stop reason"),
            (b'{"type": "error", "error": {"type": "api_error", "message": "sorry"}}', "sorry"),
        ],
    )
    def test_a_body_that_is_no_answer_is_a_broken_one(self, body: bytes, message: str) -> None:
        with pytest.raises(StreamBrokenError, match=message):
            decode_body(body, ERRORS)

    def test_a_body_cut_anywhere_is_never_an_answer(self) -> None:
        body = messages_body(Answer(tool_calls=(("c", "f", "{}"),)), "m")
        for length in range(len(body)):
            with pytest.raises(StreamBrokenError):
                decode_body(body[:length], ERRORS)
