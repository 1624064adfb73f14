"""Chat Completions at the door: a client's request read, an answer written."""

import json
from typing import Any

import pytest

from attune.errors import InvalidRequestError
from attune.models.executor import (
    EventKind,
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
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from attune.models.telemetry import TokenUsage
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import AnswerHead

DOOR = ChatDoor()
HEAD = AnswerHead("c1", "m", "mine", 7)
HI = [{"role": "user", "content": "hi"}]


def read(**fields: Any) -> LLMRequest:
    return DOOR.read(json.dumps({"model": "auto", "messages": HI} | fields).encode()).request


def refused(body: bytes) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        DOOR.read(body)
    return str(caught.value)


def event(parsed: Any, raw: bytes = b"") -> StreamEvent:
    kinds = {Meta: EventKind.META, TokenUsage: EventKind.USAGE, Terminal: EventKind.TERMINAL}
    kind = EventKind.PING if parsed is None else kinds.get(type(parsed), EventKind.CONTENT)
    return StreamEvent(kind, raw, parsed)


def written(*payloads: Any, **fields: Any) -> list[Any]:
    writer = DOOR.stream(read(**fields), HEAD, relays=False)
    blocks = b"".join(writer.feed(event(payload)) for payload in payloads).split(b"\n\n")
    return [json.loads(b[6:]) if b.startswith(b"data: {") else b for b in blocks if b]


class TestReading:
    def test_the_name_in_model_is_given_back_beside_the_request(self) -> None:
        asked = DOOR.read(json.dumps({"model": "attune/cheap", "messages": HI}).encode())
        assert asked.model == "attune/cheap"
        assert asked.request.messages == (Message.user("hi"),)
        assert asked.request.stream is False

    def test_options_are_read(self) -> None:
        request = read(
            max_completion_tokens=9,
            max_tokens=5,
            temperature=0.5,
            stop="END",
            reasoning_effort="low",
            stream=True,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}},
            },
        )
        assert (request.max_output_tokens, request.temperature, request.stop) == (9, 0.5, ("END",))
        assert request.thinking_tokens == 1024
        assert request.stream is True
        assert request.output_format is not None
        assert request.output_format.name == "x"
        assert dict(request.output_format.schema or {}) == {"type": "object"}
        assert read(stop=["a", "b"]).stop == ("a", "b")
        assert read(response_format={"type": "text"}).output_format is None
        assert read(response_format={"type": "json_object"}).needs == frozenset()

    def test_system_messages_become_the_system_prompt_wherever_they_stand(self) -> None:
        late = {"role": "developer", "content": [{"type": "text", "text": "late"}]}
        request = read(messages=[{"role": "system", "content": "early"}, *HI, late])
        assert request.system == "early\n\nlate"
        assert request.source is not None
        assert request.source.hints == ("the place of a later system message",)

    def test_tool_calls_and_their_answers_are_read_the_answers_of_one_turn_together(self) -> None:
        calls = [
            {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ]
        request = read(
            messages=[
                *HI,
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "a", "content": "1"},
                {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}]},
            ]
        )
        assert request.messages[1:] == (
            Message("assistant", (ToolCallPart("a", "look", '{"x": 1}'), ToolCallPart("b", "look", "{}"))),
            Message("user", (ToolResultPart("a", "1"), ToolResultPart("b", "2"))),
        )
        again = read(
            messages=[
                *HI,
                {"role": "assistant", "tool_calls": calls[:1]},
                {"role": "tool", "tool_call_id": "a", "content": "1"},
                *HI,
            ]
        )
        assert [m.role for m in again.messages] == ["user", "assistant", "user", "user"]

    def test_images_are_read_and_need_vision(self) -> None:
        url = "data:image/png;base64,QUJD"
        content = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
        request = read(messages=[{"role": "user", "content": content}])
        assert request.messages[0].content == (TextPart("see"), ImagePart(url=url))
        assert request.needs == {"vision"}

    def test_tools_and_the_choice_among_them_are_read(self) -> None:
        tool = {"name": "look", "description": "looks", "parameters": {"type": "object"}}
        request = read(
            tools=[{"type": "function", "function": tool}],
            tool_choice={"type": "function", "function": {"name": "look"}},
        )
        assert (request.tools[0].name, request.tools[0].description) == ("look", "looks")
        assert request.tools[0].parameters["type"] == "object"
        assert len(request.tools[0].parameters) == 1
        assert str(request.tools[0].parameters) == '{"type": "object"}'
        assert request.tool_choice == ForcedTool("look")
        assert read(tool_choice="required").tool_choice == "required"

    def test_a_refusal_of_the_model_is_its_text(self) -> None:
        request = read(messages=[*HI, {"role": "assistant", "content": None, "refusal": "no"}])
        assert request.messages[1] == Message.assistant("no")

    @pytest.mark.parametrize(
        ("fields", "unread"),
        [
            (
                {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
                "content of type 'input_audio'",
            ),
            (
                {"messages": [{"role": "function", "name": "f", "content": "x"}]},
                "messages of role 'function'",
            ),
            ({"messages": [*HI, {"role": "assistant", "audio": {"id": "a"}}]}, "an assistant's audio"),
            (
                {"messages": [*HI, {"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
                "tool calls of type",
            ),
            ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools of type 'custom'"),
            ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice of type 'allowed_tools'"),
            ({"response_format": {"type": "grammar"}}, "response_format of type 'grammar'"),
        ],
    )
    def test_what_only_this_protocol_can_say_is_read_over_and_noted(
        self, fields: dict[str, Any], unread: str
    ) -> None:
        source = read(**fields).source
        assert source is not None
        assert source.unread[0].startswith(unread)

    def test_the_client_s_own_fields_are_kept_as_they_came(self) -> None:
        body = (
            b'{ "model":"auto", "seed" : 1.50, "messages":[{"role":"user","content":"\\u00e4"}], '
            b'"new_one":{"a":[1 ]}}'
        )
        source = DOOR.read(body).request.source
        assert source is not None
        assert source.protocol == "chat"
        assert {name: bytes(raw) for name, raw in source.fields.items()} == {
            "model": b'"auto"',
            "seed": b"1.50",
            "messages": b'[{"role":"user","content":"\\u00e4"}]',
            "new_one": b'{"a":[1 ]}',
        }

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (b"", "the body is empty; send a JSON object"),
            (b"{", "the body is not JSON: Input data was truncated"),
            (b"[]", "the body: expected object, not array"),
            (b'{"messages":[]}', "model is missing"),
            (b'{"model":"m"}', "messages is missing"),
            (b'{"model":3,"messages":[]}', "model: expected str, not int"),
            (b'{"model":"","messages":[]}', "model must be a name of 1 to 200 characters"),
            (b'{"model":"m","messages":[]}', "messages is empty; give at least one message"),
            (b'{"model":"m","messages":[{"content":"x"}]}', "messages[0].role is missing"),
            (
                b'{"model":"m","messages":[{"role":"user","content":3}]}',
                "messages[0].content: expected str | array | null, not int",
            ),
            (
                b'{"model":"m","messages":[{"role":"user"}],"temperature":"hot"}',
                "temperature: expected float | null, not str",
            ),
            (
                b'{"model":"m","messages":[{"role":"user"}],"tools":[{"function":{"name":"f","parameters":[]}}]}',
                "parameters of tool 'f' must be a JSON object",
            ),
        ],
    )
    def test_a_body_that_makes_no_sense_is_refused_in_one_sentence(self, body: bytes, sentence: str) -> None:
        assert refused(body) == sentence

    def test_nesting_without_end_is_refused(self) -> None:
        assert refused(b'{"a":' + b"[" * 100_000).startswith("the body is not JSON")

    def test_bytes_that_are_no_text_are_refused(self) -> None:
        assert "utf-8" in refused(b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}')


class TestWritingAStream:
    def test_the_role_comes_first_and_done_last(self) -> None:
        got = written(Meta("x", "real-model"), TextDelta("a"), TextDelta("b"), Terminal("stop"))
        deltas = [chunk["choices"][0]["delta"] for chunk in got[:-1]]
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {}]
        assert [chunk["choices"][0]["finish_reason"] for chunk in got[:-1]] == [None, None, None, "stop"]
        assert {(c["id"], c["object"], c["created"], c["model"]) for c in got[:-1]} == {
            ("chatcmpl-c1", "chat.completion.chunk", 7, "real-model")
        }
        assert got[-1] == b"data: [DONE]"

    def test_usage_is_told_to_a_client_that_asks(self) -> None:
        usage = TokenUsage(10, 5, 4, 3)
        got = written(TextDelta("a"), usage, Terminal("stop"), stream_options={"include_usage": True})
        assert got[-2]["choices"] == []
        assert got[-2]["usage"] == {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        }
        assert all("usage" not in c for c in written(TextDelta("a"), usage, Terminal("stop"))[:-1])

    def test_tool_calls_come_in_pieces_with_an_id_that_can_be_given_back(self) -> None:
        got = written(
            ToolCallDelta(0, "1", "look"),
            ToolCallDelta(0, arguments="{}"),
            ToolCallDelta(1, "toolu_0123456789", "see", "{}"),
            Terminal("tool_calls"),
        )
        calls = [c["choices"][0]["delta"]["tool_calls"][0] for c in got[1:4]]
        assert calls[0]["id"].startswith("call_")
        assert len(calls[0]["id"]) == 37
        assert calls[0]["function"] == {"name": "look", "arguments": ""}
        assert calls[1] == {"index": 0, "function": {"arguments": "{}"}}
        assert calls[2]["id"] == "toolu_0123456789"
        assert got[4]["choices"][0]["finish_reason"] == "tool_calls"

    def test_reasoning_is_told_and_its_signature_kept_back(self) -> None:
        got = written(ThinkingDelta("hm"), ThinkingDelta("", "secret"), TextDelta("a"), Terminal("stop"))
        assert got[1]["choices"][0]["delta"] == {"reasoning_content": "hm"}
        assert b"secret" not in json.dumps(got[:-1]).encode()

    def test_a_sign_of_life_is_a_comment(self) -> None:
        assert written(None) == [b": ping"]
        relaying = DOOR.stream(read(), HEAD, relays=True)
        assert relaying.feed(event(None)) == b": ping\n\n"

    @pytest.mark.parametrize("relays", [True, False])
    def test_pings_of_the_provider_are_passed_on(self, relays: bool) -> None:
        raw = b": waiting\n\n"
        got = DOOR.stream(read(), HEAD, relays=relays).feed(event(None, raw))
        assert got == (raw if relays else b": ping\n\n")


class TestRelayingAStream:
    USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1}}\n\n'
    BOTH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{}}\n\n'

    def relayed(self, raw: bytes, parsed: Any, **fields: Any) -> bytes:
        return DOOR.stream(read(**fields), HEAD, relays=True).feed(event(parsed, raw))

    def test_bytes_pass_unchanged(self) -> None:
        raw = b'data: {"choices": [ {"delta":{"content":"x"}} ], "strange":1}\n\n'
        assert self.relayed(raw, TextDelta("x")) == raw

    def test_the_chunk_of_usage_goes_only_to_a_client_that_asks(self) -> None:
        assert self.relayed(self.USAGE, TokenUsage(1)) == b""
        assert self.relayed(self.USAGE, TokenUsage(1), stream_options={"include_usage": True}) == self.USAGE
        assert self.relayed(self.USAGE, TokenUsage(1), stream_options={"include_usage": False}) == b""

    def test_a_chunk_that_says_more_than_usage_stays(self) -> None:
        assert self.relayed(self.BOTH, TokenUsage(1)) == self.BOTH
        assert self.relayed(b"", TokenUsage(1)) == b""
