import json
from typing import Any

import pytest

from attune.errors import (
    CallerError,
    ContextTooLongError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
)
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
from attune.models.folding import Fold
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
from attune.wire.responses import ResponsesDecoder, decode_body, encode
from support.upstream import Answer, sse
from support.upstream_responses import (
    ENCRYPTED,
    response_event,
    responses_body,
    responses_failure,
    responses_stream,
)

ERRORS = ErrorMapper("mine", "m")
MODEL = ModelInfo("m", "mine", ModelTier.CAPABLE, 100_000, 4096)
SIGNATURE = f"rs_1:{ENCRYPTED}"
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}


def encoded(request: LLMRequest, model: ModelInfo = MODEL) -> dict[str, Any]:
    return json.loads(encode(request, model, errors=ERRORS))


def decoded(stream: bytes) -> list[StreamEvent]:
    decoder = ResponsesDecoder(ERRORS)
    return [*decoder.feed(stream), *decoder.finish()]


def payloads(stream: bytes) -> list[Any]:
    return [event.parsed for event in decoded(stream) if event.parsed is not None]


def event(name: str, **fields: Any) -> bytes:
    return response_event(name, 0, **fields)


def said(text: str, place: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "role": "assistant", "status": "completed", "id": f"msg_{place}"}
    return message | {"content": content}


def completed(**fields: Any) -> bytes:
    return event("response.completed", response={"id": "r", "model": "m", "status": "completed", **fields})


class TestEncoding:
    def test_a_plain_question_is_a_plain_body_that_nobody_keeps(self) -> None:
        assert encoded(LLMRequest.from_prompt("hi", system="be brief")) == {
            "model": "m",
            "input": [{"role": "user", "content": "hi"}],
            "instructions": "be brief",
            "store": False,
            "stream": False,
        }

    def test_options_have_the_names_of_the_protocol_and_replace_nothing_of_ours(self) -> None:
        body = encoded(
            LLMRequest.from_prompt(
                "hi",
                max_output_tokens=50,
                temperature=0.5,
                stop=("END",),
                thinking_tokens=5000,
                stream=True,
                extra={"store": True, "model": "other", "reasoning": {"effort": "x", "summary": "auto"}},
            )
        )
        del body["input"]
        assert body == {
            "model": "m",
            "max_output_tokens": 50,
            "temperature": 0.5,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "store": False,
            "stream": True,
        }

    @pytest.mark.parametrize(("asked", "sent"), [(1_000_000, 4096), (100, 100), (1, 16)])
    def test_the_output_limit_is_one_that_the_service_and_the_model_accept(
        self, asked: int, sent: int
    ) -> None:
        assert encoded(LLMRequest.from_prompt("hi", max_output_tokens=asked))["max_output_tokens"] == sent

    def test_reasoning_models_give_their_reasoning_encrypted_and_take_no_temperature(self) -> None:
        request = LLMRequest.from_prompt("hi", temperature=0.0)
        for model in (MODEL._replace(id="gpt-6-luna"), MODEL._replace(abilities=frozenset({"thinking"}))):
            assert encoded(request, model)["include"] == ["reasoning.encrypted_content"]
        assert "temperature" not in encoded(request, MODEL._replace(id="gpt-6-luna"))
        more = LLMRequest.from_prompt("hi", extra={"include": ["message.output_text.logprobs"]})
        assert encoded(more, MODEL._replace(id="o3"))["include"] == [
            "message.output_text.logprobs",
            "reasoning.encrypted_content",
        ]
        assert "include" not in encoded(request, MODEL._replace(id="gpt-4o"))

    def test_images_are_parts_by_address_or_as_data(self) -> None:
        parts = (
            TextPart("look"),
            ImagePart(url="https://x.example/a.png"),
            ImagePart(data="QUJD", media_type="image/png"),
        )
        picture = {"type": "input_image", "detail": "auto"}
        assert encoded(LLMRequest((Message("user", parts),)))["input"] == [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look"},
                    picture | {"image_url": "https://x.example/a.png"},
                    picture | {"image_url": "data:image/png;base64,QUJD"},
                ],
            }
        ]

    def test_a_tool_conversation_is_items_in_their_order(self) -> None:
        conversation = (
            Message.user("weather?"),
            Message(
                "assistant",
                (
                    ThinkingPart("hm", SIGNATURE, "mine"),
                    TextPart("one moment"),
                    TextPart(""),
                    ImagePart(url="https://x.example/made-by-a-model"),
                    ThinkingPart("", ":enc-2", "mine"),
                    ToolCallPart("c1", "get", '{"a": 1}'),
                    ToolCallPart("c" * 65, "put", ""),
                ),
            ),
            Message(
                "user",
                (
                    TextPart("and?"),
                    ToolResultPart("c1", "sunny"),
                    ToolResultPart("c" * 65, "no", is_error=True),
                ),
            ),
        )
        items = encoded(LLMRequest(conversation))["input"]
        digest = items[5]["call_id"]
        assert len(digest) == 37
        summary = [{"type": "summary_text", "text": "hm"}]
        assert items[1:] == [
            {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": ENCRYPTED},
            said("one moment", 2),
            {"type": "reasoning", "summary": [], "encrypted_content": "enc-2"},
            {"type": "function_call", "call_id": "c1", "name": "get", "arguments": '{"a": 1}'},
            {"type": "function_call", "call_id": digest, "name": "put", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "function_call_output", "call_id": digest, "output": "Error: no"},
            {"role": "user", "content": "and?"},
        ]

    def test_arguments_that_are_no_object_are_one_with_their_text(self) -> None:
        turn = Message("assistant", (ToolCallPart("c", "get", '{"city": "Rom'),))
        _, call = encoded(LLMRequest((Message.user("x"), turn)))["input"]
        assert json.loads(call["arguments"]) == {"arguments": '{"city": "Rom'}

    @pytest.mark.parametrize(
        "thought",
        [ThinkingPart("hm", SIGNATURE, "other"), ThinkingPart("hm", "sig-of-another-protocol", "mine")],
    )
    def test_reasoning_that_was_not_encrypted_here_is_left_out(self, thought: ThinkingPart) -> None:
        conversation = (Message.user("x"), Message("assistant", (thought, TextPart("so"))), Message.user("y"))
        assert [item["role"] for item in encoded(LLMRequest(conversation))["input"]] == [
            "user",
            "assistant",
            "user",
        ]

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            (None, None),
            ("auto", "auto"),
            ("none", "none"),
            ("required", "required"),
            ("get", {"type": "function", "name": "get"}),
        ],
    )
    def test_tools_and_their_choice(self, choice: str | None, expected: Any) -> None:
        tools = (Tool("get", "gets", {"type": "object"}), Tool("bare"))
        body = encoded(LLMRequest.from_prompt("hi", tools=tools, tool_choice=choice))
        assert body["tools"] == [
            {
                "type": "function",
                "name": "get",
                "description": "gets",
                "parameters": {"type": "object"},
                "strict": False,
            },
            {
                "type": "function",
                "name": "bare",
                "parameters": {"type": "object", "properties": {}},
                "strict": False,
            },
        ]
        assert body.get("tool_choice") == expected

    def test_json_without_a_schema_is_also_asked_for_in_words_without_which_it_is_refused(self) -> None:
        body = encoded(
            LLMRequest.from_prompt("hi", output_format=OutputFormat(), extra={"text": {"verbosity": "low"}})
        )
        assert body["text"] == {"verbosity": "low", "format": {"type": "json_object"}}
        assert body["input"][0]["role"] == "developer"
        assert "JSON" in body["input"][0]["content"]

    def test_json_with_a_schema_is_a_format(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        body = encoded(LLMRequest.from_prompt("hi", output_format=OutputFormat(schema, "thing")))
        assert body["text"]["format"] == {
            "type": "json_schema",
            "name": "thing",
            "schema": schema,
            "strict": False,
        }
        assert len(body["input"]) == 1

    def test_what_json_cannot_say_is_the_callers_error(self) -> None:
        with pytest.raises(CallerError, match="mine/m: the request cannot be written as JSON"):
            encoded(LLMRequest.from_prompt("hi", extra={"x": object()}))


class TestStream:
    def test_a_whole_stream_is_its_events_and_all_its_bytes(self) -> None:
        answer = Answer(
            text="Hello", thinking="hmmm", tool_calls=(("c1", "get", '{"a":1}'), ("c2", "put", "{}"))
        )
        stream = b"".join(responses_stream(answer, "m"))
        events = decoded(stream)
        assert [e.parsed for e in events if e.parsed is not None] == [
            Meta("resp_1", "m"),
            Working(),
            ThinkingDelta("hm"),
            ThinkingDelta("mm"),
            ThinkingDelta("", SIGNATURE),
            TextDelta("He"),
            TextDelta("llo"),
            ToolCallDelta(0, "c1", "get", ""),
            ToolCallDelta(0, arguments='{"a'),
            ToolCallDelta(0, arguments='":1}'),
            ToolCallDelta(1, "c2", "put", ""),
            ToolCallDelta(1, arguments="{"),
            ToolCallDelta(1, arguments="}"),
            TokenUsage(12, 7),
            Terminal("tool_calls", "completed"),
        ]
        assert b"".join(e.raw for e in events) == stream

    def test_a_start_and_an_announced_item_are_not_content(self) -> None:
        kinds = [e.kind for e in decoded(b"".join(responses_stream(Answer(thinking="hm"), "m")[:3]))]
        assert kinds == [EventKind.META, EventKind.PING, EventKind.PING]

    @pytest.mark.parametrize(
        "block",
        [
            b": keep-alive\n\n",
            event("response.queued", response={"id": "r"}),
            event("response.a_thing_of_tomorrow", delta={"no": "text"}, item=7, response="r"),
            event("response.output_text.delta", delta=""),
            event("response.reasoning_text.delta", delta=""),
            event("response.function_call_arguments.delta", output_index=9, delta="{"),
        ],
    )
    def test_what_is_no_part_of_the_answer_is_a_ping(self, block: bytes) -> None:
        assert decoded(block) == [(EventKind.PING, block, None)]

    def test_an_end_without_the_response_is_none(self) -> None:
        with pytest.raises(StreamBrokenError, match="the end of the answer has no response"):
            decoded(event("response.completed"))

    @pytest.mark.parametrize(
        "block",
        [
            event("response.output_item.added", item={"type": "web_search_call", "arguments": {"q": 1}}),
            event("response.output_item.added", item={"type": "reasoning", "summary": []}),
            event("response.output_item.done", item={"type": "mcp_call", "content": "x", "summary": 1}),
            event("response.web_search_call.searching", item_id="w", output_index=0),
            event("response.code_interpreter_call_code.delta", delta="x = 1"),
        ],
    )
    def test_what_the_service_does_by_itself_is_a_sign_of_life(self, block: bytes) -> None:
        assert decoded(block) == [(EventKind.PING, block, Working())]

    def test_parts_of_a_summary_are_paragraphs(self) -> None:
        def part(number: int, text: str) -> bytes:
            at = {"output_index": 0, "summary_index": number}
            return event("response.reasoning_summary_part.added", **at) + event(
                "response.reasoning_summary_text.delta", **at, delta=text
            )

        fold = Fold("mine")
        for each in decoded(part(0, "one") + part(1, "two")):
            fold.add(each)
        assert fold.content == (ThinkingPart("one\n\ntwo", "", "mine"),)

    def test_what_did_not_come_in_pieces_comes_with_its_item(self) -> None:
        summary = [{"type": "summary_text", "text": "hm"}, {"type": "summary_text", "text": "so"}]
        items = [
            {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": ENCRYPTED},
            {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]},
            {"type": "function_call", "call_id": "c1", "name": "get", "arguments": ""},
        ]
        stream = b"".join(
            event("response.output_item.done", output_index=i, item=item) for i, item in enumerate(items)
        )
        assert payloads(stream) == [
            ThinkingDelta("hm\n\nso", SIGNATURE),
            TextDelta("Hello"),
            ToolCallDelta(0, "c1", "get"),
            ToolCallDelta(0, arguments="{}"),
        ]

    def test_what_came_neither_in_pieces_nor_as_an_item_comes_with_the_end(self) -> None:
        output = [
            {"type": "reasoning", "id": "rs_1", "summary": [{"text": "hm"}], "encrypted_content": ENCRYPTED},
            {"type": "web_search_call", "action": {"query": "x"}},
            MESSAGE,
            {"type": "function_call", "call_id": "c1", "name": "get", "arguments": '{"a":1}'},
        ]
        block = completed(output=output, usage={"input_tokens": 5, "output_tokens": 3})
        events = decoded(block)
        assert [e.parsed for e in events] == [
            ThinkingDelta("hm", SIGNATURE),
            TextDelta("Hello"),
            ToolCallDelta(0, "c1", "get"),
            ToolCallDelta(0, arguments='{"a":1}'),
            TokenUsage(5, 3),
            Terminal("tool_calls", "completed"),
        ]
        assert b"".join(e.raw for e in events) == block

    def test_a_refusal_that_comes_with_the_end_ends_as_one(self) -> None:
        refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I cannot"}]}
        assert payloads(completed(output=[refusal])) == [
            TextDelta("I cannot"),
            Terminal("refusal", "completed"),
        ]

    def test_an_incomplete_answer_is_given_as_far_as_it_came(self) -> None:
        details = {"reason": "max_output_tokens"}
        cut = event("response.incomplete", response={"output": [MESSAGE], "incomplete_details": details})
        assert payloads(cut) == [TextDelta("Hello"), Terminal("length", "max_output_tokens")]

    @pytest.mark.parametrize("place", [{"output_index": 1}, {}], ids=["with its place", "without a place"])
    def test_what_came_before_does_not_come_again_with_the_end(self, place: dict[str, int]) -> None:
        calls = [
            {"type": "function_call", "call_id": f"c{n}", "name": "get", "arguments": "{}"} for n in range(2)
        ]
        stream = event("response.reasoning_text.delta", delta="hm")
        stream += event("response.output_text.delta", **place, delta="Hello")
        for number, call in enumerate(calls):
            at = {name: index + 1 + number for name, index in place.items()}
            stream += event("response.output_item.added", **at, item=call)
            stream += event("response.function_call_arguments.delta", **at, delta="{}")
        ahead = payloads(stream)
        reasoning = {"type": "reasoning", "id": "rs", "content": [{"text": "hm"}]}
        whole = stream + completed(output=[reasoning, MESSAGE, *calls])
        assert payloads(whole) == [*ahead, Terminal("tool_calls", "completed")]

    def test_of_two_messages_only_the_one_that_did_not_come_comes_with_the_end(self) -> None:
        other = {"type": "message", "content": [{"type": "output_text", "text": "And more."}]}
        stream = event("response.output_text.delta", delta="Hello") + completed(output=[MESSAGE, other])
        assert payloads(stream)[:2] == [TextDelta("Hello"), TextDelta("And more.")]

    def test_a_call_that_was_only_announced_gets_its_arguments_with_the_end(self) -> None:
        call = {"type": "function_call", "call_id": "c1", "name": "get", "arguments": '{"a":1}'}
        announced = event("response.output_item.added", item=call | {"arguments": ""})
        assert payloads(announced + completed(output=[call])) == [
            ToolCallDelta(0, "c1", "get"),
            ToolCallDelta(0, arguments='{"a":1}'),
            Terminal("tool_calls", "completed"),
        ]

    def test_an_empty_piece_is_no_piece(self) -> None:
        stream = event("response.output_text.delta", delta="")
        stream += event("response.output_item.done", item=MESSAGE)
        assert payloads(stream + completed(output=[MESSAGE]))[:-1] == [TextDelta("Hello")]

    def test_calls_without_a_place_are_told_apart(self) -> None:
        stream = b""
        for number in range(3):
            call = {"type": "function_call", "call_id": f"c{number}", "name": "get"}
            stream += event("response.output_item.added", item=call)
            stream += event("response.output_item.done", item=call | {"arguments": f"[{number}]"})
        assert [(call.position, call.id, call.arguments) for call in payloads(stream)] == [
            (0, "c0", ""),
            (0, "", "[0]"),
            (1, "c1", ""),
            (1, "", "[1]"),
            (2, "c2", ""),
            (2, "", "[2]"),
        ]

    def test_reasoning_of_open_models_is_text_without_a_signature(self) -> None:
        item = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"text": "hm"}]}
        assert payloads(event("response.reasoning_text.delta", delta="hm")) == [ThinkingDelta("hm")]
        assert payloads(event("response.output_item.done", item=item)) == [ThinkingDelta("hm")]

    def test_two_reasonings_keep_their_own_signatures(self) -> None:
        fold = Fold("mine")
        for index in range(2):
            item = {"type": "reasoning", "id": f"rs_{index}", "encrypted_content": f"enc-{index}"}
            for each in decoded(event("response.output_item.done", output_index=index, item=item)):
                fold.add(each)
        assert [p.signature for p in fold.content if isinstance(p, ThinkingPart)] == [
            "rs_0:enc-0",
            "rs_1:enc-1",
        ]

    def test_a_refusal_is_text_and_ends_as_one(self) -> None:
        stream = event("response.refusal.delta", delta="I cannot") + completed()
        assert payloads(stream) == [TextDelta("I cannot"), Terminal("refusal", "completed")]

    @pytest.mark.parametrize(
        ("reason", "stop_reason"),
        [("max_output_tokens", "length"), ("content_filter", "refusal"), ("steered", "other")],
    )
    def test_an_incomplete_answer_says_why(self, reason: str, stop_reason: str) -> None:
        stream = b"".join(responses_stream(Answer(stop_reason=reason)))
        assert payloads(stream)[-2:] == [TokenUsage(12, 7), Terminal(stop_reason, reason)]

    def test_an_incomplete_answer_without_a_reason_is_still_not_a_complete_one(self) -> None:
        assert payloads(event("response.incomplete", response={})) == [Terminal("other", "incomplete")]

    def test_nothing_follows_the_terminal(self) -> None:
        late = event("response.output_text.delta", delta="late") + b"data: [DONE]\n\n"
        assert [type(p) for p in payloads(completed() + late)] == [Terminal]

    def test_done_without_the_terminal_event_is_no_end(self) -> None:
        with pytest.raises(StreamBrokenError):
            decoded(event("response.output_text.delta", delta="x") + b"data: [DONE]\n\n")

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ({"input_tokens": 5, "output_tokens": 3}, TokenUsage(5, 3)),
            (
                {
                    "input_tokens": 9,
                    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
                    "output_tokens": 8,
                    "output_tokens_details": {"reasoning_tokens": 6},
                    "total_tokens": 17,
                },
                TokenUsage(9, 8, cache_read_tokens=4, cache_write_tokens=3),
            ),
            ({"input_tokens": 2, "input_tokens_details": {"cached_tokens": 9}}, TokenUsage(2, 0, 2)),
        ],
    )
    def test_usage_counts_cached_and_reasoning_tokens_once(self, usage: Any, expected: TokenUsage) -> None:
        assert payloads(completed(usage=usage))[0] == expected

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("rate_limit_exceeded", ThrottledError),
            ("server_error", StreamBrokenError),
            ("server_is_overloaded", StreamBrokenError),
            ("vector_store_timeout", StreamBrokenError),
            ("context_length_exceeded", ContextTooLongError),
            ("insufficient_quota", MoneyGoneError),
            ("invalid_prompt", RefusalError),
            ("bio_policy", RefusalError),
            ("invalid_image_url", CallerError),
        ],
    )
    def test_a_failure_has_its_class_in_each_of_its_three_forms(
        self, code: str, expected: type[ProviderError]
    ) -> None:
        told = {"code": code, "message": "Something happened."}
        whole = b"".join(responses_failure(code, "Something happened."))
        for stream in (whole, event("error", **told, param=None), sse({"type": "error", "error": told})):
            with pytest.raises(ProviderError, match="Something happened") as caught:
                decoded(stream)
            assert type(caught.value) is expected
            assert caught.value.code == code

    def test_a_failure_is_read_also_when_a_large_prompt_is_repeated_with_it(self) -> None:
        failed = {"instructions": "x" * 200_000, "error": {"code": "rate_limit_exceeded", "message": "slow"}}
        with pytest.raises(ThrottledError):
            decoded(event("response.failed", response=failed))

    def test_what_a_failure_used_is_counted(self) -> None:
        error = {"code": "server_error", "message": "sorry"}
        usage = {"input_tokens": 5, "output_tokens": 3}
        events = ResponsesDecoder(ERRORS).feed(
            event("response.failed", response={"error": error, "usage": usage})
        )
        assert next(events).parsed == TokenUsage(5, 3)
        with pytest.raises(StreamBrokenError, match="sorry"):
            next(events)

    def test_a_failure_that_says_nothing_is_a_broken_stream(self) -> None:
        with pytest.raises(StreamBrokenError, match=r"mine/m failed in its answer$"):
            decoded(event("response.failed", response={"status": "failed", "error": None}))

    @pytest.mark.parametrize("data", [b"{", b'{"type": 7}', b"[" * 5000, b'{"type": "\xff"}', b"hello"])
    def test_an_event_that_is_not_of_the_protocol_breaks_the_stream(self, data: bytes) -> None:
        with pytest.raises(StreamBrokenError, match="mine/m: an event is not a Responses event"):
            decoded(b"data: " + data + b"\n\n")


class TestBody:
    def test_a_whole_answer_is_the_same_events(self) -> None:
        answer = Answer(text="Hello", thinking="hm", tool_calls=(("c1", "get", '{"a":1}'),))
        body = responses_body(answer, "m")
        events = decode_body(body, ERRORS)
        assert [e.parsed for e in events] == [
            Meta("resp_1", "m"),
            ThinkingDelta("hm", SIGNATURE),
            TextDelta("Hello"),
            ToolCallDelta(0, "c1", "get"),
            ToolCallDelta(0, arguments='{"a":1}'),
            TokenUsage(12, 7),
            Terminal("tool_calls", "completed"),
        ]
        assert b"".join(e.raw for e in events) == body

    def test_a_refusal_ends_as_one(self) -> None:
        message = {"type": "message", "content": [{"type": "refusal", "refusal": "I cannot"}]}
        body = json.dumps({"status": "completed", "output": [message, {"type": "other"}]}).encode()
        assert [e.parsed for e in decode_body(body, ERRORS)] == [
            Meta(),
            TextDelta("I cannot"),
            Terminal("refusal", "completed"),
        ]

    def test_an_incomplete_one_says_why(self) -> None:
        body = responses_body(Answer(stop_reason="max_output_tokens"), "m")
        assert decode_body(body, ERRORS)[-1].parsed == Terminal("length", "max_output_tokens")

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"<html>", "not Responses JSON"),
            (b"", "not Responses JSON"),
            (b'{"status": "completed", "output": [7]}', "not Responses JSON"),
            (b'{"status": "completed"}', "has no output"),
            (b'{"status": "in_progress", "output": []}', "is not complete: in_progress"),
            (b'{"status": "failed", "output": [], "error": null}', "is not complete: failed"),
            (b'{"error": {"message": "upstream died", "code": "server_error"}}', "upstream died"),
        ],
    )
    def test_a_body_that_is_no_answer_is_a_broken_one(self, body: bytes, message: str) -> None:
        with pytest.raises(StreamBrokenError, match=message):
            decode_body(body, ERRORS)

    def test_an_error_with_status_200_has_its_class(self) -> None:
        with pytest.raises(ContextTooLongError):
            decode_body(b'{"error": {"code": "context_length_exceeded", "message": "x"}}', ERRORS)

    def test_a_body_cut_anywhere_is_never_an_answer(self) -> None:
        body = responses_body(Answer(), "m")
        for length in range(len(body)):
            with pytest.raises(StreamBrokenError):
                decode_body(body[:length], ERRORS)


def test_an_answer_that_is_given_back_is_the_items_that_were_made() -> None:
    answer = Answer(text="one moment", thinking="hm", tool_calls=(("c1", "get", '{"a":1}'),))
    fold = Fold("mine")
    for each in decoded(b"".join(responses_stream(answer, "m"))):
        fold.add(each)
    made = json.loads(responses_body(answer, "m"))["output"]
    conversation = (Message.user("?"), Message("assistant", fold.content))
    given_back = encoded(LLMRequest(conversation))["input"][1:]
    assert given_back[0] == made[0]
    assert given_back[1] == said("one moment", 2)
    assert given_back[2].items() <= made[2].items()
