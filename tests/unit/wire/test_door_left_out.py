"""All that a model is not told is named: what its protocol cannot say, and what it is known to reject."""

import json
from typing import Any

import pytest

from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.wire.carrying import left_out, rejected
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import Door
from attune.wire.errors import ErrorMapper
from attune.wire.messages_door import MessagesDoor
from attune.wire.pass_through import chat_body, messages_body, responses_body
from attune.wire.responses_door import ResponsesDoor

ERRORS = ErrorMapper("mine", "m")
DOORS: dict[str, Door] = {"chat": ChatDoor(), "messages": MessagesDoor(), "responses": ResponsesDoor()}
HI = [{"role": "user", "content": "hi"}]
LEAST: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": HI},
    "messages": {"model": "m", "max_tokens": 4000, "messages": HI},
    "responses": {"model": "m", "input": "hi"},
}
FIELDS: dict[str, dict[str, Any]] = {
    "chat": {"temperature": 0.5, "top_p": 0.5, "stop": "x", "frequency_penalty": 1, "seed": 7},
    "messages": {"temperature": 0.5, "top_p": 0.5, "top_k": 3, "stop_sequences": ["x"]},
    "responses": {"temperature": 0.5, "top_p": 0.5, "user": "u"},
}
MODELS = ("some-model", "gpt-5.2", "gpt-6-luna", "claude-opus-4-1", "claude-opus-5-5")
SAYS = {"stop": ("stop", "stop_sequences"), "stop_sequences": ("stop", "stop_sequences")}


def a_model(model_id: str) -> ModelInfo:
    return ModelInfo(model_id, "mine", ModelTier.CAPABLE, 100_000, 4096)


def read(protocol: str, **fields: Any) -> LLMRequest:
    return DOORS[protocol].read(json.dumps(LEAST[protocol] | fields).encode()).request


def sent(request: LLMRequest, model: ModelInfo, protocol: str) -> dict[str, Any]:
    match protocol:
        case "chat":
            body = chat_body(request, model, errors=ERRORS, limit_field="max_tokens")
        case "messages":
            body = messages_body(request, model, provider="mine", errors=ERRORS)
        case _:
            body = responses_body(request, model, errors=ERRORS)
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("to", DOORS)
@pytest.mark.parametrize("protocol", DOORS)
@pytest.mark.parametrize("model_id", MODELS)
def test_a_field_is_named_exactly_when_the_model_is_not_told_it(
    model_id: str, protocol: str, to: str
) -> None:
    request, model = read(protocol, **FIELDS[protocol]), a_model(model_id)
    body = sent(request, model, to)
    missing = {name for name in FIELDS[protocol] if body.keys().isdisjoint(SAYS.get(name, (name,)))}
    assert set(left_out(request, model, to)) == missing


@pytest.mark.parametrize(
    ("protocol", "fields", "name"),
    [
        ("chat", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ("responses", {"reasoning": {"effort": "high"}}, "reasoning"),
    ],
)
def test_thinking_that_is_turned_off_for_the_tools_is_named(
    protocol: str, fields: dict[str, Any], name: str
) -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    tools: dict[str, Any] = {
        "chat": {"type": "function", "function": function},
        "messages": {"name": "f", "input_schema": {"type": "object"}},
        "responses": {"type": "function", **function},
    }
    request = read(protocol, tools=[tools[protocol]], **fields)
    for model_id, expected in (("gpt-6-luna", (name,)), ("gpt-5.2", ()), ("some-model", ())):
        assert left_out(request, a_model(model_id), "chat") == expected
        assert (sent(request, a_model(model_id), "chat").get("reasoning_effort") == "none") is bool(expected)
    assert left_out(read(protocol, **fields), a_model("gpt-6-luna"), "chat") == ()


def test_thinking_that_an_older_claude_has_no_budget_for_is_named() -> None:
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}, "max_tokens": 50}
    for model_id, expected in (
        ("claude-opus-4-1", ("thinking",)),
        ("claude-opus-5-5", ()),
        ("some-model", ()),
    ):
        request = read("messages", **fields)
        assert left_out(request, a_model(model_id), "messages") == expected
        assert ("thinking" not in sent(request, a_model(model_id), "messages")) is bool(expected)
    assert (
        left_out(read("messages", **{**fields, "max_tokens": 4000}), a_model("claude-opus-4-1"), "messages")
        == ()
    )


def test_thinking_that_an_older_claude_cannot_go_on_with_is_named() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        *HI,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
    ]
    for said, expected in (
        (turns, ("reasoning_effort",)),
        ([*HI, {"role": "assistant", "content": "a"}, *HI], ()),
    ):
        request = read("chat", messages=said, reasoning_effort="high")
        assert left_out(request, a_model("claude-opus-4-1"), "messages") == expected
        assert ("thinking" not in sent(request, a_model("claude-opus-4-1"), "messages")) is bool(expected)
        assert left_out(request, a_model("claude-opus-5-5"), "messages") == ()


@pytest.mark.parametrize(
    ("signature", "to", "named"),
    [
        ("sig", "messages", False),
        ("attune:mine:rs_1:abc", "messages", True),
        ("attune:mine:rs_1:abc", "responses", False),
        ("attune:other:rs_1:abc", "responses", True),
        ("sig", "responses", True),
        ("attune:mine:abc", "chat", True),
    ],
)
def test_reasoning_that_does_not_go_back_is_named(signature: str, to: str, named: bool) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": signature}
    said = {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}]}
    request = read("messages", messages=[*HI, said, *HI])
    names = left_out(request, a_model("some-model"), to)
    assert names == (("reasoning of earlier turns",) if named else ())
    assert ("hm" not in json.dumps(sent(request, a_model("some-model"), to))) is named


def test_gemini_gets_its_own_signatures_back_by_chat() -> None:
    thought = {"type": "thinking", "thinking": "", "signature": "attune:mine:abc"}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    said = {"role": "assistant", "content": [thought, call]}
    request = read("messages", messages=[*HI, said, *HI])
    assert left_out(request, a_model("gemini-3.8-flash"), "chat") == ()
    assert "abc" in json.dumps(sent(request, a_model("gemini-3.8-flash"), "chat"))


def test_what_is_null_is_not_named_and_no_request_of_a_program_is() -> None:
    assert left_out(read("chat", temperature=None), a_model("gpt-6-luna"), "chat") == ()
    assert left_out(LLMRequest.from_prompt("hi", temperature=1.0), a_model("gpt-6-luna"), "chat") == ()
    assert rejected("embeddings", "gpt-6-luna") == ()
