"""Responses at the door: a client's request read, an answer written."""

import json
from typing import Any

import pytest

from attune.errors import InvalidRequestError
from attune.models.executor import (
    CostStatus,
    EventKind,
    LLMResponse,
    Meta,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.request import (
    ForcedTool,
    ImagePart,
    LLMRequest,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)
from attune.models.telemetry import TokenUsage
from attune.wire.doors import AnswerHead
from attune.wire.responses_door import ResponsesDoor

DOOR = ResponsesDoor()
HEAD = AnswerHead("c1", "m", "mine", 7)


def read(**fields: Any) -> LLMRequest:
    return DOOR.read(json.dumps({"model": "auto", "input": "hi"} | fields).encode()).request


def event(parsed: Any) -> StreamEvent:
    kinds = {Meta: EventKind.META, TokenUsage: EventKind.USAGE, Terminal: EventKind.TERMINAL}
    kind = EventKind.PING if parsed is None else kinds.get(type(parsed), EventKind.CONTENT)
    return StreamEvent(kind, b"", parsed)


def written(*payloads: Any, **fields: Any) -> list[dict[str, Any]]:
    writer = DOOR.stream(read(**fields), HEAD, relays=False)
    blocks = b"".join(writer.feed(event(payload)) for payload in payloads).split(b"\n\n")[:-1]
    return [json.loads(block.split(b"data: ")[1]) for block in blocks]


def body(*content: Part, stop_reason: str = "stop", relays: bool = False, **fields: Any) -> dict[str, Any]:
    response = LLMResponse(
        call_id="c1",
        content=content,
        stop_reason=stop_reason,
        provider="mine",
        model_id="m",
        tier="cheap",
        credential="none",
        usage=None,
        cost_nanos=None,
        cost_status=CostStatus.UNKNOWN,
        latency_ms=1.0,
        ttft_ms=None,
    )
    return json.loads(DOOR.body(response, read(**fields), HEAD, relays=relays))


class TestReading:
    def test_a_plain_question(self) -> None:
        request = read(instructions="be brief")
        assert request.messages == (Message.user("hi"),)
        assert request.system == "be brief"

    def test_options_are_read(self) -> None:
        request = read(
            max_output_tokens=9,
            temperature=0.5,
            reasoning={"effort": "high", "summary": "auto"},
            stream=True,
            text={
                "format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}},
                "verbosity": "low",
            },
        )
        assert (request.max_output_tokens, request.temperature, request.stream) == (9, 0.5, True)
        assert request.thinking_tokens == 16_384
        assert request.output_format is not None
        assert request.output_format.name == "x"
        assert request.source is not None
        assert request.source.hints == ("verbosity", "summary")
        assert read(text={"format": {"type": "text"}}).output_format is None
        assert read(text={}).output_format is None
        assert read(text={"format": {"type": "json_object"}}).output_format is not None

    def test_items_become_turns(self) -> None:
        url = "https://x/y.png"
        request = read(
            instructions="a",
            input=[
                {"role": "developer", "content": "b"},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "see"},
                        {"type": "input_image", "image_url": url},
                    ],
                },
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [{"type": "summary_text", "text": "hm"}],
                    "encrypted_content": "E",
                },
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "let me look"}],
                },
                {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
                {
                    "type": "function_call_output",
                    "call_id": "a",
                    "output": [{"type": "input_text", "text": "blue"}],
                },
                {"role": "user", "content": "and?"},
                {"role": "system", "content": "c"},
            ],
        )
        assert request.system == "a\n\nb\n\nc"
        assert request.messages == (
            Message("user", (TextPart("see"), ImagePart(url=url))),
            Message(
                "assistant",
                (ThinkingPart("hm", "rs_1:E"), TextPart("let me look"), ToolCallPart("a", "look", "{}")),
            ),
            Message("user", (ToolResultPart("a", "blue"), TextPart("and?"))),
        )

    def test_reasoning_of_another_provider_is_known_by_its_seal(self) -> None:
        item = {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "attune:anthropic:sig"}
        assert read(input=[item]).bound_to == "anthropic"

    def test_tools_and_the_choice_among_them_are_read(self) -> None:
        tools = [
            {"type": "function", "name": "look", "parameters": None},
            {"type": "function", "name": "see"},
        ]
        request = read(tools=tools, tool_choice={"type": "function", "name": "see"})
        assert [(tool.name, dict(tool.parameters)) for tool in request.tools] == [("look", {}), ("see", {})]
        assert request.tool_choice == ForcedTool("see")
        assert read(tool_choice="auto").tool_choice == "auto"

    @pytest.mark.parametrize(
        ("fields", "unread"),
        [
            ({"tools": [{"type": "web_search"}]}, "tools of type 'web_search'"),
            ({"tool_choice": {"type": "mcp"}}, "tool_choice of type 'mcp'"),
            ({"text": {"format": {"type": "grammar"}}}, "text.format of type 'grammar'"),
            ({"input": [{"type": "item_reference", "id": "x"}]}, "input items of type 'item_reference'"),
            (
                {"input": [{"type": "shell_call_output", "output": {"a": 1}}]},
                "input items of type 'shell_call_output'",
            ),
            ({"input": [{"role": "critic", "content": "x"}]}, "messages of role 'critic'"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
                "content of type 'input_file'",
            ),
        ],
    )
    def test_what_only_this_protocol_can_say_is_read_over_and_noted(
        self, fields: dict[str, Any], unread: str
    ) -> None:
        source = read(**fields).source
        assert source is not None
        assert source.unread == (unread,)

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (b'{"model":"m"}', "input is missing"),
            (b'{"model":"m","input":""}', "input is empty; give at least one message"),
            (b'{"model":"m","input":3}', "input: expected str | array, not int"),
            (
                b'{"model":"m","input":[{"role":"user","content":3}]}',
                "input[0]: content: expected str | array | null, not int",
            ),
        ],
    )
    def test_a_body_that_makes_no_sense_is_refused_in_one_sentence(self, body: bytes, sentence: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            DOOR.read(body)
        assert str(caught.value) == sentence


class TestWritingAStream:
    def test_items_are_announced_filled_and_done_under_rising_numbers(self) -> None:
        got = written(
            Meta("x", "real-model"),
            ThinkingDelta("hm", "sig"),
            TextDelta("a"),
            TextDelta("b"),
            ToolCallDelta(0, "call_0123456789", "look"),
            TokenUsage(10, 5, 4),
            Terminal("tool_calls"),
        )
        assert [e["type"].removeprefix("response.") for e in got] == [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        assert [e["sequence_number"] for e in got] == list(range(len(got)))
        assert got[7]["item"]["encrypted_content"] == "attune:mine:sig"
        assert got[12]["text"] == "ab"
        final = got[-1]["response"]
        assert (final["model"], final["status"], final["id"]) == ("real-model", "completed", "resp_c1")
        assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call"]
        assert final["output"][2]["arguments"] == "{}"
        assert final["usage"]["input_tokens_details"]["cached_tokens"] == 4

    @pytest.mark.parametrize(
        ("reason", "status", "why"),
        [
            ("stop", "completed", None),
            ("length", "incomplete", "max_output_tokens"),
            ("refusal", "incomplete", "content_filter"),
        ],
    )
    def test_the_end_says_why(self, reason: str, status: str, why: str | None) -> None:
        final = written(TextDelta("a"), Terminal(reason))[-1]
        assert final["type"] == f"response.{status}"
        assert (final["response"]["incomplete_details"] or {}).get("reason") == why


class TestWritingABody:
    def test_the_request_is_repeated_with_the_protocol_s_defaults(self) -> None:
        tools = [{"type": "function", "name": "look", "parameters": {}}]
        got = body(TextPart("a"), tools=tools, metadata={"a": "b"}, temperature=0.5)
        assert got["tools"] == [{"description": None, "strict": None, **tools[0]}]
        assert (got["metadata"], got["temperature"], got["store"]) == ({"a": "b"}, 0.5, False)
        assert got["usage"] is None

    def test_items_are_in_the_order_in_which_they_came(self) -> None:
        got = body(ThinkingPart("hm", "rs_1:E"), TextPart("a"), ToolCallPart("1", "f", ""), relays=True)
        assert got["output"][0]["id"] == "rs_1"
        assert got["output"][0]["encrypted_content"] == "E"
        assert got["output"][2]["call_id"] == "1"
        sealed = body(ThinkingPart("hm", "sig"), stop_reason="length")
        assert sealed["output"][0]["encrypted_content"] == "attune:mine:sig"
        assert sealed["status"] == "incomplete"
