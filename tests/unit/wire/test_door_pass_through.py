"""A provider of the client's protocol is sent the client's own bytes, but for what is named."""

import json
from typing import Any, ClassVar

import msgspec
import pytest

from attune.errors import CallerError
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.wire.chat import LimitField
from attune.wire.chat_door import ChatDoor
from attune.wire.errors import ErrorMapper
from attune.wire.messages_door import MessagesDoor
from attune.wire.pass_through import chat_body, messages_body, responses_body
from attune.wire.responses_door import ResponsesDoor

ERRORS = ErrorMapper("mine", "m")
MODEL = ModelInfo("some-model", "mine", ModelTier.CAPABLE, 100_000, 4096)
fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

CHAT = rb"""{
  "model" : "auto", "strange" : { "b":1 , "a":[ 1.50, 1e3, "\u00e4" ] },
  "messages": [ {"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}},
     {"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD","detail":"low"}}]} ],
  "tools":[ {"type":"function","function":{"name":"f","parameters":{"type":"object" }}}, {"type":"custom"} ],
  "metadata":{ "k":"v" }, "n": 2, "logprobs":true, "seed":1, "user":"me", "temperature":0.70, "stop":["x" ],
  "max_tokens" : 100, "response_format":{"type":"json_object"}, "tool_choice":"required", "store": true
}"""
MESSAGES = rb"""{
  "model" : "auto", "max_tokens" : 2000, "strange" : [ 1.0 ],
  "system":[ {"type":"text","text":"s","cache_control":{"type":"ephemeral","ttl":"1h"}} ],
  "messages":[ {"role":"user","content":[{"type":"document","source":{"type":"text","data":"x"}}]},
     {"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s=="},   {"type":"text",
        "text":"ok"}]},
     {"role":"user","content":"go on"} ],
  "tools":[ {"type":"web_search_20250305","name":"web_search"},
     {"name":"f","input_schema":{"type":"object"}} ],
  "tool_choice":{"type":"any","disable_parallel_tool_use":true}, "temperature":0.70, "top_k": 5,
  "top_p":0.9,
  "thinking":{"type":"disabled"}, "metadata":{"user_id":"u"}, "container":"c", "service_tier":"auto"
}"""
RESPONSES = rb"""{
  "model" : "auto", "input":[ {"type":"item_reference","id":"msg_1"}, {"role":"user","content":"hi"} ],
  "previous_response_id":"resp_1", "store" : true, "include":[ "x" ], "tools":[{"type":"web_search" }],
  "temperature":0.70, "max_output_tokens": 50, "truncation":"auto", "strange" : 1.0
}"""


def chat(
    body: bytes, model: str = "some-model", *, limit: LimitField = "max_tokens", stream: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    request = ChatDoor().read(body).request
    sent = chat_body(
        request.streaming() if stream else request, MODEL._replace(id=model), errors=ERRORS, limit_field=limit
    )
    return fields_of(body), fields_of(sent)


def messages(body: bytes, model: str = "some-model") -> tuple[dict[str, Any], dict[str, Any]]:
    request = MessagesDoor().read(body).request.streaming()
    sent = messages_body(request, MODEL._replace(id=model), provider="mine", errors=ERRORS)
    return fields_of(body), fields_of(sent)


def responses(body: bytes, model: str = "some-model") -> tuple[dict[str, Any], dict[str, Any]]:
    request = ResponsesDoor().read(body).request.streaming()
    return fields_of(body), fields_of(responses_body(request, MODEL._replace(id=model), errors=ERRORS))


def changed(pair: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """What differs, byte for byte: the new value, or ``None`` for what was left out."""
    given, sent = ({name: bytes(raw) for name, raw in fields.items()} for fields in pair)
    names = [name for name in (*given, *sent) if given.get(name) != sent.get(name)]
    return {name: json.loads(sent[name]) if name in sent else None for name in names}


def body_with(base: bytes, **fields: Any) -> bytes:
    given = {name: value for name, value in (json.loads(base) | fields).items() if value is not None}
    return json.dumps(given).encode()


class TestChat:
    ALWAYS: ClassVar = {"model": "some-model", "stream": True, "stream_options": {"include_usage": True}}

    def test_every_other_field_passes_byte_for_byte(self) -> None:
        assert changed(chat(CHAT)) == self.ALWAYS

    def test_fields_keep_their_order(self) -> None:
        given, sent = chat(CHAT)
        assert list(sent)[: len(given)] == list(given)

    def test_the_client_s_stream_options_stay(self) -> None:
        body = body_with(CHAT, stream=True, stream_options={"include_obfuscation": False})
        assert changed(chat(body))["stream_options"] == {"include_obfuscation": False, "include_usage": True}

    def test_without_a_stream_there_are_no_stream_options(self) -> None:
        body = body_with(CHAT, stream_options={"include_usage": True})
        assert changed(chat(body, stream=False)) == {
            "model": "some-model",
            "stream": False,
            "stream_options": None,
        }

    @pytest.mark.parametrize("model", ["gpt-6-luna", "o3", "gpt-5"])
    def test_openai_s_reasoning_models_are_not_sent_what_they_reject(self, model: str) -> None:
        body = body_with(CHAT, tools=None, top_p=0.5, frequency_penalty=1, logit_bias={"1": 1})
        got = changed(chat(body, model, limit="max_completion_tokens"))
        assert got == self.ALWAYS | {
            "model": model,
            "temperature": None,
            "stop": None,
            "logprobs": None,
            "top_p": None,
            "frequency_penalty": None,
            "logit_bias": None,
            "max_tokens": None,
            "max_completion_tokens": 100,
        }

    def test_from_5_4_on_they_take_tools_without_thought_only(self) -> None:
        body = body_with(CHAT, reasoning_effort="high")
        assert changed(chat(body, "gpt-5.4"))["reasoning_effort"] == "none"
        assert "reasoning_effort" not in changed(chat(body, "gpt-5.3"))
        assert "reasoning_effort" not in changed(chat(body))

    @pytest.mark.parametrize(
        ("given", "field", "sent"),
        [
            ({"max_tokens": 5}, "max_tokens", 5),
            ({"max_tokens": 5}, "max_completion_tokens", 5),
            ({"max_tokens": None, "max_completion_tokens": 6}, "max_tokens", 6),
            ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", 6),
            ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", 6),
            ({"max_tokens": 9000}, "max_tokens", 4096),
            ({"max_completion_tokens": 9000}, "max_completion_tokens", 4096),
        ],
    )
    def test_the_limit_has_the_name_that_the_service_knows_and_is_within_the_model_s(
        self, given: dict[str, Any], field: LimitField, sent: int
    ) -> None:
        _, body = chat(body_with(CHAT, **given), limit=field)
        limits = {
            name: json.loads(bytes(body[name]))
            for name in ("max_tokens", "max_completion_tokens")
            if name in body
        }
        assert limits == {field: sent}

    def test_gemini_gets_a_stand_in_for_a_signature_that_it_has_not_given(self) -> None:
        signed = {"google": {"thought_signature": "S"}}
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [_call("a"), _call("b")]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": "1"},
            {"role": "assistant", "tool_calls": [_call("c") | {"extra_content": signed}]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ]
        sent = changed(chat(body_with(CHAT, messages=turns), "gemini-3.5-flash"))["messages"]
        assert sent[1]["tool_calls"][0]["extra_content"]["google"]["thought_signature"].startswith("skip_")
        assert "extra_content" not in sent[1]["tool_calls"][1]
        assert sent[4]["tool_calls"][0]["extra_content"] == signed
        assert "messages" not in changed(chat(body_with(CHAT, messages=turns)))


def _call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


class TestMessages:
    ALWAYS: ClassVar = {"model": "some-model", "stream": True}

    def test_every_other_field_passes_byte_for_byte(self) -> None:
        assert changed(messages(MESSAGES)) == self.ALWAYS

    def test_claude_from_4_7_on_is_sent_no_sampling(self) -> None:
        got = changed(messages(MESSAGES, "claude-opus-4-7"))
        gone = {"temperature": None, "top_k": None, "top_p": None}
        assert got == self.ALWAYS | gone | {"model": "claude-opus-4-7"}
        assert changed(messages(MESSAGES, "claude-sonnet-4-6")) == self.ALWAYS | {
            "model": "claude-sonnet-4-6"
        }

    def test_claude_from_5_1_on_is_asked_for_tools_in_the_system_prompt(self) -> None:
        got = changed(messages(MESSAGES, "claude-haiku-5-5"))
        assert got["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
        asked = {"type": "text", "text": "Answer by calling one of the tools."}
        assert got["system"] == [*json.loads(MESSAGES)["system"], asked]
        named = body_with(MESSAGES, tool_choice={"type": "tool", "name": "f"}, system="s")
        got = changed(messages(named, "claude-haiku-5-5"))
        assert got["tool_choice"] == {"type": "auto"}
        assert got["system"] == "s\n\nAnswer by calling the tool f."
        shaped = body_with(named, output_config={"format": {"type": "json_schema", "schema": {}}})
        assert changed(messages(shaped, "claude-haiku-5-5"))["tool_choice"] == {"type": "auto"}
        none = changed(messages(body_with(named, system=None), "claude-haiku-5-5"))
        assert none["system"] == "Answer by calling the tool f."
        auto = changed(messages(body_with(MESSAGES, tool_choice={"type": "auto"}), "claude-haiku-5-5"))
        assert "tool_choice" not in auto
        assert "system" not in auto

    @pytest.mark.parametrize(
        ("model", "given", "sent"),
        [
            ("claude-opus-4-6", {"thinking": {"type": "enabled", "budget_tokens": 1500}}, {}),
            ("claude-opus-4-6", {"thinking": {"type": "adaptive"}}, {}),
            (
                "claude-opus-5-5",
                {"thinking": {"type": "enabled", "budget_tokens": 1500}},
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}},
            ),
            (
                "claude-opus-5-5",
                {"thinking": {"type": "enabled", "budget_tokens": 1500}, "output_config": {"effort": "max"}},
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            ),
            (
                "claude-opus-4-1",
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
                {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": None},
            ),
            (
                "claude-opus-4-1",
                {
                    "thinking": {"type": "adaptive"},
                    "output_config": {"effort": "low", "x": 1},
                    "max_tokens": 50,
                },
                {"thinking": None, "output_config": {"x": 1}},
            ),
            ("some-model", {"thinking": {"type": "adaptive"}}, {}),
        ],
    )
    def test_thinking_is_asked_for_as_the_model_takes_it(
        self, model: str, given: dict[str, Any], sent: dict[str, Any]
    ) -> None:
        got = changed(messages(body_with(MESSAGES, tool_choice=None, **given), model))
        for name in ("thinking", "output_config"):
            assert got.get(name, "same") == sent.get(name, "same")

    def test_the_limit_is_within_the_model_s(self) -> None:
        assert changed(messages(body_with(MESSAGES, max_tokens=9000)))["max_tokens"] == 4096

    def test_reasoning_of_another_provider_is_left_out(self) -> None:
        own = {"type": "thinking", "thinking": "t", "signature": "s"}
        foreign = {"type": "thinking", "thinking": "t", "signature": "attune:openai:x"}
        said = {"type": "text", "text": 'he said "attune:openai:x"'}
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [foreign, own, said]},
            {"role": "assistant", "content": [foreign]},
            {"role": "assistant", "content": [own, said]},
        ]
        assert changed(messages(body_with(MESSAGES, messages=turns)))["messages"] == [
            turns[0],
            {"role": "assistant", "content": [own, said]},
            turns[3],
        ]


class TestResponses:
    ALWAYS: ClassVar = {"model": "some-model", "stream": True}

    def test_every_other_field_passes_byte_for_byte(self) -> None:
        assert changed(responses(RESPONSES)) == self.ALWAYS

    def test_openai_s_reasoning_models_are_sent_no_temperature(self) -> None:
        body = body_with(RESPONSES, top_p=0.5, max_output_tokens=9000)
        gone = {"temperature": None, "top_p": None, "max_output_tokens": 4096}
        assert changed(responses(body, "gpt-6-luna")) == self.ALWAYS | gone | {"model": "gpt-6-luna"}

    def test_reasoning_of_another_provider_is_left_out(self) -> None:
        foreign = {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "encrypted_content": "attune:anthropic:x",
        }
        own = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "E"}
        said = {"role": "user", "content": "hi"}
        body = body_with(RESPONSES, input=[foreign, own, said])
        assert changed(responses(body))["input"] == [own, said]


class TestAcross:
    def test_a_request_of_another_protocol_is_encoded(self) -> None:
        asked = MessagesDoor().read(
            b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}'
        )
        sent = json.loads(chat_body(asked.request, MODEL, errors=ERRORS, limit_field="max_tokens"))
        assert sent == {
            "model": "some-model",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 9,
            "stream": False,
        }
        other = ChatDoor().read(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}').request
        assert json.loads(messages_body(other, MODEL, provider="mine", errors=ERRORS))["max_tokens"] == 4096
        assert json.loads(responses_body(other, MODEL, errors=ERRORS))["store"] is False

    def test_what_cannot_be_said_there_is_the_caller_s_error(self) -> None:
        asked = ChatDoor().read(CHAT).request
        with pytest.raises(
            CallerError, match="mine/m: a model that speaks Messages cannot be asked for n, logprobs"
        ):
            messages_body(asked, MODEL, provider="mine", errors=ERRORS)

    def test_a_request_of_no_client_is_encoded_as_ever(self) -> None:
        sent = json.loads(messages_body(LLMRequest.from_prompt("hi"), MODEL, provider="mine", errors=ERRORS))
        assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]

    def test_an_image_of_any_client_reaches_messages_as_its_bytes(self) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [image]}]}).encode()
        sent = messages_body(ChatDoor().read(body).request, MODEL, provider="mine", errors=ERRORS)
        assert json.loads(sent)["messages"][0]["content"][0]["source"] == {
            "type": "base64",
            "media_type": "image/png",
            "data": "QUJD",
        }

    def test_schemas_that_were_never_read_are_written_whole(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        body = json.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            }
        ).encode()
        sent = json.loads(messages_body(ChatDoor().read(body).request, MODEL, provider="mine", errors=ERRORS))
        assert sent["tools"][0]["input_schema"] == schema
        assert sent["output_config"]["format"]["schema"] == schema
