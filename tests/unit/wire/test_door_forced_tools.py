"""A tool that a client forces is told to every provider by its name, also where that names a mode."""

import json
from typing import Any

import pytest

from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import ForcedTool, LLMRequest
from attune.wire import chat, messages, responses
from attune.wire.chat_door import ChatDoor
from attune.wire.errors import ErrorMapper
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses_door import ResponsesDoor

MODEL = ModelInfo("m", "mine", ModelTier.CAPABLE, 100_000, 4096)
ERRORS = ErrorMapper("mine", "m")
HI = [{"role": "user", "content": "hi"}]
EITHER = pytest.mark.parametrize("name", ["auto", "none", "required", "any", "look"])


def asked_in(protocol: str, name: str) -> LLMRequest:
    function = {"name": name, "parameters": {"type": "object"}}
    match protocol:
        case "chat":
            choice: Any = {"type": "function", "function": {"name": name}}
            tools: list[Any] = [{"type": "function", "function": function}]
            body = {"model": "m", "messages": HI, "tools": tools, "tool_choice": choice}
            return ChatDoor().read(json.dumps(body).encode()).request
        case "messages":
            tools = [{"name": name, "input_schema": {"type": "object"}}]
            choice = {"type": "tool", "name": name}
            body = {"model": "m", "max_tokens": 9, "messages": HI, "tools": tools, "tool_choice": choice}
            return MessagesDoor().read(json.dumps(body).encode()).request
        case _:
            tools = [{"type": "function", **function}]
            choice = {"type": "function", "name": name}
            body = {"model": "m", "input": "hi", "tools": tools, "tool_choice": choice}
            return ResponsesDoor().read(json.dumps(body).encode()).request


@EITHER
@pytest.mark.parametrize("door", ["chat", "messages", "responses"])
def test_a_forced_tool_keeps_its_name_from_every_protocol_to_every_other(door: str, name: str) -> None:
    request = asked_in(door, name)
    assert request.tool_choice == ForcedTool(name)
    sent = json.loads(chat.encode(request, MODEL, errors=ERRORS))
    assert sent["tool_choice"] == {"type": "function", "function": {"name": name}}
    sent = json.loads(responses.encode(request, MODEL, errors=ERRORS))
    assert sent["tool_choice"] == {"type": "function", "name": name}
    sent = json.loads(messages.encode(request, MODEL, provider="mine", errors=ERRORS))
    assert sent["tool_choice"] == {"type": "tool", "name": name}


@EITHER
def test_a_model_that_rejects_forced_tools_is_asked_for_the_tool_by_its_name(name: str) -> None:
    newer = ModelInfo("claude-opus-5-5", "mine", ModelTier.PREMIUM, 100_000, 4096)
    body = json.loads(messages.encode(asked_in("chat", name), newer, provider="mine", errors=ERRORS))
    assert body["tool_choice"] == {"type": "auto"}
    assert body["system"] == f"Answer by calling the tool {name}."
