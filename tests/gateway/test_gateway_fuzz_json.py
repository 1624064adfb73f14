"""Bodies that are nearly right, at each door, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.gateway import SECRETS, gateway
from support.hostile_json import encoded, mutated, spoilt
from support.raw_upstream import RawUpstream, Told, ask, defects
from support.scale import scaled

if TYPE_CHECKING:
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
STRICT = {**SCHEMA, "additionalProperties": False}
PNG = "data:image/png;base64,iVBORw0KGgo="
CHAT = {
    "model": "beta",
    "messages": [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "name": "me",
            "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": PNG}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": STRICT}},
    "max_completion_tokens": 100,
    "temperature": 0.5,
    "stop": ["x"],
    "reasoning_effort": "low",
    "stream": True,
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "n": 1,
}
MESSAGES = {
    "model": "alpha",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "attune:second:sig"},
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "seen"}],
                }
            ],
        },
    ],
    "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": STRICT}},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "temperature": 0.5,
    "stop_sequences": ["x"],
    "stream": True,
    "metadata": {"user_id": "me"},
}
RESPONSES = {
    "model": "gamma",
    "instructions": "be brief",
    "input": [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": PNG}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "attune:second:sig",
        },
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
    ],
    "tools": [{"type": "function", "name": "look", "parameters": STRICT, "strict": True}],
    "tool_choice": {"type": "function", "name": "look"},
    "text": {"format": {"type": "json_schema", "name": "answer", "schema": STRICT}, "verbosity": "low"},
    "max_output_tokens": 100,
    "temperature": 0.5,
    "reasoning": {"effort": "low", "summary": "auto"},
    "stream": True,
    "metadata": {"a": "b"},
    "include": ["reasoning.encrypted_content"],
}
EMBEDDINGS = {"model": "vector", "input": ["a", "b"], "dimensions": 1, "encoding_format": "float"}
VECTOR = """
[[models]]
id = "vector"
provider = "second"
abilities = ["embeddings"]
context_window = 8192
"""
COUNT, VECTORS = "/v1/messages/count_tokens", "/v1/embeddings"
DOORS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    COUNT: MESSAGES,
    VECTORS: EMBEDDINGS,
}
MODELS = ("alpha", "beta", "gamma", "auto", "attune/capable", "attune/summarize", "first/alpha", "nobody")
FUZZ = settings(
    max_examples=scaled(test=150, faults=2_000, soak=20_000),
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def shortest(sound: dict[str, Any], *needed: str) -> dict[str, Any]:
    """The fields without which it is no request."""
    return {
        name: sound[name] for name in ("model", "messages", "input", "max_tokens", *needed) if name in sound
    }


@st.composite
def bodies(draw: st.DrawFn, sound: dict[str, Any]) -> bytes:
    body = draw(st.sampled_from((sound, sound, shortest(sound), shortest(sound, "tools"))))
    body = {**body, "model": draw(st.sampled_from((sound["model"], *MODELS))), "stream": draw(st.booleans())}
    if draw(st.integers(0, 19)) == 0:  # read in another way
        body["padding"] = "x" * 200_000
    return draw(spoilt(encoded(draw(mutated(body)))))


def check_refusal(told: Told, path: str) -> None:
    """An error of the door's protocol in one clear sentence."""
    body = told.json
    if path.startswith("/v1/messages"):
        assert (body["type"], set(body)) == ("error", {"type", "error", "request_id"})
    error = body["error"]
    assert error["type"]
    assert 5 < len(error["message"]) < 1500
    assert error["message"].isprintable()
    assert "Traceback" not in error["message"]


def check_answer(told: Told, path: str) -> None:
    """A whole answer, or a stream to its terminal event."""
    if told.media_type == "text/event-stream":
        last = told.body.decode().rstrip().rpartition("\n\n")[2]
        ends = {"/v1/chat/completions": "[DONE]", "/v1/messages": "message_stop"}
        assert ends.get(path, "response.completed") in last
    else:
        kind = {
            "/v1/chat/completions": "choices",
            "/v1/messages": "content",
            COUNT: "input_tokens",
            VECTORS: "data",
        }
        assert kind.get(path, "output") in told.json


@pytest.mark.parametrize("path", DOORS)
async def test_a_body_that_is_nearly_right_is_answered_or_refused_in_the_clients_shape(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("support.gateway.FakeUpstream", RawUpstream)
    async with gateway(tmp_path, extra=VECTOR) as gate:
        statuses = set()

        @FUZZ
        @given(bodies(DOORS[path]))
        def fuzz(body: bytes) -> None:
            caplog.clear()
            told = ask(gate.url, path, body)
            statuses.add(told.status)
            assert told.status == 200 or 400 <= told.status < 500, told
            (check_answer if told.status == 200 else check_refusal)(told, path)
            assert not any(secret.encode() in told.body for secret in SECRETS.values())
            assert not defects(caplog.records)
            for upstream in gate.upstreams:
                for sent in upstream.bodies:
                    sent.decode()
                upstream.bodies.clear()

        await asyncio.to_thread(fuzz)
        good = await gate.post(path, json.dumps(shortest(DOORS[path])).encode())
        assert good.status == 200
        assert (await gate.get("/ready")).status == 200
        assert {200, 400} <= statuses
