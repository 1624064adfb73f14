"""What Codex and opencode sent to a gateway, sent again: the answers, and what the providers were told.

``recorded/*.json`` are their own requests, with every longer text cut short and ids and paths replaced:
Codex 0.169.0 as it comes, with the two settings that its page names, and after a tool has answered; opencode
1.18.33 through Chat Completions, after a tool, and through Messages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.gateway import gateway
from support.upstream import Answer

if TYPE_CHECKING:
    from support.gateway import Answered, Gate

RECORDED = Path(__file__).parent / "recorded"
MODELS = ("alpha", "beta", "gamma")
ENDS = {
    "/v1/responses": b"response.completed",
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/messages": b'data: {"type":"message_stop"}\n\n',
}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())


async def send(gate: Gate, request: Any, model: str) -> Answered:
    return await gate.post(request["path"], {**request["body"], "model": model}, request["headers"])


def tools_of(body: Any) -> set[str]:
    """The names of the functions that a request of any protocol offers."""
    return {each.get("function", each)["name"] for each in body["tools"]}


@pytest.mark.parametrize(
    "name",
    [
        "codex_functions_only",
        "codex_after_a_tool",
        "opencode",
        "opencode_after_a_tool",
        "opencode_messages",
    ],
)
async def test_a_coding_agent_is_answered_by_every_protocol(tmp_path: Path, name: str) -> None:
    request = recorded(name)
    async with gateway(tmp_path) as gate:
        for upstream, model in zip(gate.upstreams, MODELS, strict=True):
            answer = await send(gate, request, model)
            assert answer.status == 200, answer.body
            assert b"Hello the" in answer.body
            assert ENDS[request["path"]] in answer.body.replace(b'": "', b'":"')
            (told,) = upstream.received
            assert tools_of(told.body) == tools_of(request["body"])
            assert (b"the word is plover" in told.raw) == ("after_a_tool" in name)


@pytest.mark.parametrize("name", ["codex_functions_only", "opencode", "opencode_messages"])
async def test_a_coding_agent_is_given_the_tool_calls_of_every_protocol(tmp_path: Path, name: str) -> None:
    request = recorded(name)
    tool = sorted(tools_of(request["body"]))[0]
    async with gateway(tmp_path) as gate:
        for upstream, model in zip(gate.upstreams, MODELS, strict=True):
            upstream.then(Answer(text="", tool_calls=(("call_0123456789ab", tool, '{"a": 1}'),)))
            answer = await send(gate, request, model)
            assert answer.status == 200, answer.body
            assert tool.encode() in answer.body
            assert b"call_0123456789ab" in answer.body


async def test_codex_as_it_comes_is_answered_by_responses_alone(tmp_path: Path) -> None:
    request = recorded("codex")
    async with gateway(tmp_path) as gate:
        for name in ("auto", "attune/cheap"):
            answer = await send(gate, request, name)
            assert answer.status == 200, answer.body
            assert answer.headers["x-attune-model"] == "third/gamma"
            assert "premium is next" in answer.headers["x-attune-decision"]
        assert gate.third.received[0].body["tools"] == request["body"]["tools"]
        for model in ("alpha", "beta"):
            refused = await send(gate, request, model)
            assert refused.status == 400
            assert "tools of type 'namespace'" in refused.json["error"]["message"]
            assert "tools of type 'web_search'" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    ("name", "header"), [("codex_functions_only", "session-id"), ("opencode", "x-session-id")]
)
async def test_a_coding_agent_names_its_session(tmp_path: Path, name: str, header: str) -> None:
    request = recorded(name)
    async with gateway(tmp_path) as gate:
        answer = await send(gate, request, "auto")
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert record.session_id == request["headers"][header]
        request["headers"]["x-attune-session"] = "mine"
        answer = await send(gate, request, "auto")
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert record.session_id == "mine"


@pytest.mark.parametrize("name", ["codex_functions_only", "opencode", "opencode_messages"])
async def test_a_model_that_no_enrolled_provider_has_is_not_found(tmp_path: Path, name: str) -> None:
    async with gateway(tmp_path) as gate:
        for model in ("claude-opus-5-5", "openai/gpt-6-luna"):
            answer = await send(gate, recorded(name), model)
            assert answer.status == 404
            assert answer.headers["x-should-retry"] == "false"
            assert answer.json["error"].get("code", "model_not_found") == "model_not_found"
            message = answer.json["error"]["message"]
            assert f"no enrolled provider has the model {model!r}" in message
            assert "[gateway.aliases]" in message
        assert gate.asked == []
