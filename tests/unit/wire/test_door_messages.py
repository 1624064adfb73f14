"""Messages at the door: a client's request read, an answer written."""

import json
from typing import Any

import pytest

from attune.errors import InvalidRequestError, StreamBrokenError
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
    ToolChoice,
    ToolResultPart,
)
from attune.models.telemetry import TokenUsage
from attune.wire.doors import AnswerHead
from attune.wire.messages_door import MessagesDoor

DOOR = MessagesDoor()
HEAD = AnswerHead("c1", "m", "mine", 7)
HI = [{"role": "user", "content": "hi"}]


def read(**fields: Any) -> LLMRequest:
    return DOOR.read(json.dumps({"model": "auto", "max_tokens": 5, "messages": HI} | fields).encode()).request


def parts(*content: Any, role: str = "user") -> tuple[Part, ...]:
    return read(messages=[{"role": role, "content": list(content)}]).messages[0].content


def event(parsed: Any, raw: bytes = b"") -> StreamEvent:
    kinds = {Meta: EventKind.META, TokenUsage: EventKind.USAGE, Terminal: EventKind.TERMINAL}
    kind = EventKind.PING if parsed is None else kinds.get(type(parsed), EventKind.CONTENT)
    return StreamEvent(kind, raw, parsed)


def written(*payloads: Any) -> list[dict[str, Any]]:
    writer = DOOR.stream(read(), HEAD, relays=False)
    blocks = b"".join(writer.feed(event(payload)) for payload in payloads).split(b"\n\n")[:-1]
    got = [json.loads(block.split(b"data: ")[1]) for block in blocks]
    assert [block.split(b"\n")[0] for block in blocks] == [f"event: {e['type']}".encode() for e in got]
    return got


def body(*content: Part, stop_reason: str = "stop", relays: bool = False) -> dict[str, Any]:
    response = LLMResponse(
        call_id="c1",
        content=content,
        stop_reason=stop_reason,
        provider="mine",
        model_id="m",
        tier="cheap",
        credential="none",
        usage=TokenUsage(10, 5, 4, 3, 1),
        cost_nanos=None,
        cost_status=CostStatus.UNKNOWN,
        latency_ms=1.0,
        ttft_ms=None,
    )
    return json.loads(DOOR.body(response, read(), HEAD, relays=relays))


class TestReading:
    def test_the_name_in_model_is_given_back_beside_the_request(self) -> None:
        asked = DOOR.read(json.dumps({"model": "claude-x", "max_tokens": 1, "messages": HI}).encode())
        assert asked.model == "claude-x"
        assert asked.request.messages == (Message.user("hi"),)

    def test_options_are_read(self) -> None:
        schema = {"type": "object"}
        request = read(
            system=[
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "b"},
            ],
            temperature=0.5,
            stop_sequences=["END"],
            stream=True,
            output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"},
        )
        assert (request.system, request.max_output_tokens, request.temperature) == ("a\n\nb", 5, 0.5)
        assert request.stop == ("END",)
        assert request.stream is True
        assert request.output_format is not None
        assert dict(request.output_format.schema or {}) == schema
        assert request.source is not None
        assert request.source.hints == ("cache_control", "output_config.effort")
        assert read(system="plain").system == "plain"

    @pytest.mark.parametrize(
        ("fields", "tokens"),
        [
            ({}, None),
            ({"thinking": {"type": "disabled"}}, None),
            ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, 2000),
            ({"thinking": {"type": "adaptive"}}, 8192),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, 1024),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, 65_536),
        ],
    )
    def test_thinking_is_read(self, fields: dict[str, Any], tokens: int | None) -> None:
        assert read(**fields).thinking_tokens == tokens

    @pytest.mark.parametrize(
        ("choice", "read_as"),
        [
            ({"type": "auto"}, "auto"),
            ({"type": "none"}, "none"),
            ({"type": "any"}, "required"),
            ({"type": "tool", "name": "look"}, ForcedTool("look")),
            ({"type": "some"}, None),
        ],
    )
    def test_the_choice_among_tools_is_read(self, choice: dict[str, Any], read_as: ToolChoice | None) -> None:
        tool = {"name": "look", "description": "looks", "input_schema": {"type": "object"}, "strict": True}
        request = read(tools=[tool], tool_choice=choice)
        assert request.tool_choice == read_as
        assert request.tools[0].name == "look"
        assert dict(request.tools[0].parameters) == {"type": "object"}
        assert request.source is not None
        assert request.source.hints == ("strict",)

    def test_a_conversation_with_tools_is_read(self) -> None:
        call = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "sky"}}
        assert parts(call, role="assistant") == (ToolCallPart("t1", "look", '{"at": "sky"}'),)
        assert parts({"type": "tool_result", "tool_use_id": "t1", "content": "blue", "is_error": True}) == (
            ToolResultPart("t1", "blue", is_error=True),
        )
        assert parts({"type": "tool_result", "tool_use_id": "t1"}) == (ToolResultPart("t1", ""),)

    def test_images_are_read_also_those_in_a_tool_s_answer(self) -> None:
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
        assert parts(image) == (ImagePart(url="data:image/png;base64,QUJD"),)
        linked = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
        assert parts(linked) == (ImagePart(url="https://x/y.png"),)
        content = [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}]
        assert parts({"type": "tool_result", "tool_use_id": "t1", "content": content}) == (
            ToolResultPart("t1", "a\nb"),
            ImagePart(url="data:image/png;base64,QUJD"),
        )

    def test_reasoning_is_read_and_its_seal_says_whose_it_is(self) -> None:
        own = {"type": "thinking", "thinking": "hm", "signature": "sig"}
        foreign = {"type": "thinking", "thinking": "ha", "signature": "attune:openai:rs_1:abc"}
        hidden = {"type": "redacted_thinking", "data": "xyz"}
        assert parts(own, foreign, hidden, role="assistant") == (
            ThinkingPart("hm", "sig"),
            ThinkingPart("ha", "rs_1:abc", "openai"),
            ThinkingPart("", "redacted:xyz"),
        )
        assert read(messages=[{"role": "assistant", "content": [foreign]}]).bound_to == "openai"

    def test_a_system_message_between_others_becomes_a_part_of_the_system_prompt(self) -> None:
        request = read(system="a", messages=[*HI, {"role": "system", "content": "b"}])
        assert request.system == "a\n\nb"
        assert len(request.messages) == 1

    @pytest.mark.parametrize(
        ("fields", "unread"),
        [
            ({"max_tokens": 0}, "max_tokens of 0, which answers nothing"),
            (
                {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
                "tools of type 'web_search_20250305'",
            ),
            ({"tool_choice": {"type": "some"}}, "tool_choice of type 'some'"),
            ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format of type 'yaml'"),
            (
                {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
                "content of type 'document'",
            ),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages of role 'tool'"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
                "an image whose source is 'file'",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
                "an image whose source is 'none'",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": {"a": 1}}]}]},
                "the content of a tool_result",
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
            (b'{"model":"m","messages":[]}', "max_tokens is missing"),
            (b'{"model":"m","max_tokens":5,"messages":[]}', "messages is empty; give at least one message"),
            (b'{"model":"m","max_tokens":5,"messages":[{"role":"user"}]}', "messages[0].content is missing"),
            (b'{"model":"m","max_tokens":"5","messages":[]}', "max_tokens: expected int, not str"),
            (
                b'{"model":"m","max_tokens":5,"messages":[{"role":"u","content":"x"}],"tools":[{"name":"f","input_schema":1}]}',
                "input_schema of tool 'f' must be a JSON object",
            ),
        ],
    )
    def test_a_body_that_makes_no_sense_is_refused_in_one_sentence(self, body: bytes, sentence: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            DOOR.read(body)
        assert str(caught.value) == sentence


class TestWritingAStream:
    def test_blocks_open_and_close_between_start_and_stop(self) -> None:
        got = written(
            Meta("x", "real-model"),
            ThinkingDelta("hm"),
            ThinkingDelta("", "sig"),
            TextDelta("a"),
            TextDelta("b"),
            ToolCallDelta(0, "call_0123456789", "look", '{"at":'),
            ToolCallDelta(0, arguments='"sky"}'),
            TokenUsage(10, 5, 4, 3),
            Terminal("tool_calls"),
        )
        assert [(e["type"], e.get("index")) for e in got] == [
            ("message_start", None),
            ("content_block_start", 0),
            ("content_block_delta", 0),
            ("content_block_delta", 0),
            ("content_block_stop", 0),
            ("content_block_start", 1),
            ("content_block_delta", 1),
            ("content_block_delta", 1),
            ("content_block_stop", 1),
            ("content_block_start", 2),
            ("content_block_delta", 2),
            ("content_block_delta", 2),
            ("content_block_stop", 2),
            ("message_delta", None),
            ("message_stop", None),
        ]
        assert got[0]["message"]["model"] == "real-model"
        assert got[0]["message"]["id"] == "msg_c1"
        assert got[3]["delta"] == {"type": "signature_delta", "signature": "attune:mine:sig"}
        assert got[9]["content_block"]["id"] == "call_0123456789"
        assert got[13]["delta"]["stop_reason"] == "tool_use"

    def test_cached_tokens_are_no_part_of_the_input(self) -> None:
        got = written(TextDelta("a"), TokenUsage(10, 5, 4, 3), Terminal("stop"))
        assert got[-2]["usage"] == {
            "input_tokens": 3,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        }

    def test_reasoning_without_a_signature_is_sealed_too(self) -> None:
        got = written(ThinkingDelta("hm"), ThinkingDelta(""), TextDelta("a"), Terminal("stop"))
        assert got[3]["delta"]["signature"] == "attune:mine:"

    def test_an_answer_of_nothing_is_complete(self) -> None:
        assert [e["type"] for e in written(Terminal("length"))] == [
            "message_start",
            "message_delta",
            "message_stop",
        ]

    def test_pieces_of_calls_that_are_mixed_become_blocks_one_after_the_other(self) -> None:
        got = written(
            ToolCallDelta(0, "call_0123456789a", "f", '{"a":'),
            ToolCallDelta(1, "call_0123456789b", "g", '{"b'),
            ToolCallDelta(0, arguments='"}\\"'),
            ToolCallDelta(1, arguments='":2}'),
            ToolCallDelta(0, arguments='"}'),
            TextDelta("done"),
            Terminal("tool_calls"),
        )
        assert got[2]["delta"]["partial_json"] == '{"a":'  # what comes first is not held up
        kept = [e for e in got if e["type"] != "ping"]
        assert len(got) - len(kept) == 2  # nor is the client left in doubt
        assert [e["index"] for e in kept if "index" in e] == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        deltas = [e["delta"]["partial_json"] for e in kept if "delta" in e and e.get("index") == 0]
        assert "".join(deltas) == '{"a":"}\\""}'

    def test_a_call_without_arguments_is_awaited_until_the_answer_ends(self) -> None:
        got = written(ToolCallDelta(0, "call_0123456789a", "f"), TextDelta("so"), Terminal("tool_calls"))
        assert [e["content_block"]["type"] for e in got if "content_block" in e] == ["tool_use", "text"]

    def test_more_of_a_call_that_was_complete_ends_the_stream_unless_it_is_blank(self) -> None:
        calls = ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g", "{}")
        assert len(written(*calls, ToolCallDelta(0, arguments="\n"), Terminal("tool_calls"))) == 9
        with pytest.raises(StreamBrokenError, match="goes on with a tool call"):
            written(*calls, ToolCallDelta(0, arguments="{}"))

    def test_no_more_is_held_back_than_a_body_may_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attune.wire.blocks.MAX_BODY_BYTES", 10)
        with pytest.raises(StreamBrokenError, match="above 10 bytes wait"):
            written(ToolCallDelta(0, "a", "f"), TextDelta("12345"), TextDelta("67890é"))

    def test_a_sign_of_life_is_a_ping_event(self) -> None:
        assert written(None) == [{"type": "ping"}]

    def test_bytes_of_the_same_protocol_pass_unchanged(self) -> None:
        raw = b'event: content_block_delta\ndata: {"strange":1}\n\n'
        assert DOOR.stream(read(), HEAD, relays=True).feed(event(TextDelta("x"), raw)) == raw


class TestWritingABody:
    def test_content_is_in_the_order_in_which_it_came(self) -> None:
        got = body(
            ThinkingPart("hm", "sig", "mine"),
            TextPart("a"),
            ToolCallPart("1", "look", '{"at": "sky"}'),
            ToolCallPart("2", "broken", "{not json"),
            stop_reason="tool_calls",
        )
        assert [block["type"] for block in got["content"]] == ["thinking", "text", "tool_use", "tool_use"]
        assert got["content"][0]["signature"] == "attune:mine:sig"
        assert got["content"][2]["input"] == {"at": "sky"}
        assert got["content"][3]["input"] == {"arguments": "{not json"}
        assert (got["id"], got["role"], got["model"], got["stop_reason"]) == (
            "msg_c1",
            "assistant",
            "m",
            "tool_use",
        )
        assert got["usage"]["cache_creation"] == {
            "ephemeral_5m_input_tokens": 2,
            "ephemeral_1h_input_tokens": 1,
        }

    def test_what_the_same_protocol_signed_keeps_its_signature(self) -> None:
        got = body(
            ThinkingPart("hm", "sig"), ThinkingPart("", "redacted:x"), ToolCallPart("1", "f", ""), relays=True
        )
        assert got["content"][0]["signature"] == "sig"
        assert got["content"][1] == {"type": "redacted_thinking", "data": "x"}
        assert got["content"][2]["id"] == "1"

    def test_a_pause_is_one_only_of_the_same_protocol(self) -> None:
        assert body(TextPart("a"), stop_reason="other", relays=True)["stop_reason"] == "pause_turn"
        assert body(TextPart("a"), stop_reason="other")["stop_reason"] == "end_turn"


class TestHeaders:
    BODY = json.dumps({"model": "m", "max_tokens": 1, "messages": HI}).encode()

    def test_those_of_the_protocol_belong_to_the_request_and_no_others(self) -> None:
        given = {"anthropic-beta": "a,b", "x-api-key": "secret", "authorization": "Bearer x", "cookie": "c"}
        source = DOOR.read(self.BODY, given).request.source
        assert source is not None
        assert source.headers == {"anthropic-beta": "a,b"}
        assert DOOR.read(self.BODY, {}).request.source == read(model="m", max_tokens=1).source

    @pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "ä", "a" * 4001])
    def test_one_that_no_service_would_take_is_refused(self, value: str) -> None:
        with pytest.raises(InvalidRequestError, match="the header anthropic-beta must be at most 4000"):
            DOOR.read(self.BODY, {"anthropic-beta": value})
