"""What a provider of the client's own protocol gets: every field as it was sent, but for those named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from support.gateway import gateway
from support.upstream import Answer

if TYPE_CHECKING:
    from pathlib import Path

ODD = b'{"big": 12345678901234567890, "float": 1.0e2, "nul": null, "uni": "\\u00e9 \xc3\xa9", "z": [ ]}'

CHAT = (
    b'{"messages":[{"role":"user","content":[{"type":"text","text":"hi","unknown_part": 1.50}]}],'
    b'"model":"beta","user":"u-1","seed":7,"logit_bias":{"50256":-100},"metadata":{"a":"b"},"n":1,'
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}}],'
    b'"tool_choice":"auto","response_format":{"type":"json_object"},"temperature":0.10,"unheard_of": %b}'
)
MESSAGES = (
    b'{"model":"alpha","max_tokens":50,"system":[{"type":"text","text":"be brief",'
    b'"cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":[{"type":"text","text":"hi",'
    b'"cache_control":{"type":"ephemeral","ttl":"1h"}}]}],"metadata":{"user_id":"u-1"},"top_k":3,'
    b'"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"f","input_schema":{"type":"object"},'
    b'"cache_control":{"type":"ephemeral"}}],"stop_sequences":["x"],"unheard_of": %b}'
)
RESPONSES = (
    b'{"model":"gamma","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}],'
    b'"store":false,"previous_response_id":"resp_1","include":["reasoning.encrypted_content"],'
    b'"text":{"verbosity":"low"},"prompt_cache_key":"k","unheard_of": %b}'
)
CASES = (
    ("/v1/chat/completions", CHAT % ODD, "second", {"model", "stream"}),
    ("/v1/messages", MESSAGES % ODD, "first", {"model", "stream"}),
    ("/v1/messages?beta=true", MESSAGES % ODD, "first", {"model", "stream"}),
    ("/v1/responses", RESPONSES % ODD, "third", {"model", "stream"}),
)


def fields(body: bytes) -> dict[str, bytes]:
    return {k: bytes(v) for k, v in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


@pytest.mark.parametrize(("path", "body", "provider", "may_change"), CASES, ids=[each[0] for each in CASES])
async def test_a_body_reaches_a_provider_of_its_protocol_byte_for_byte(
    tmp_path: Path, path: str, body: bytes, provider: str, may_change: set[str]
) -> None:
    async with gateway(tmp_path) as gate:
        response = await gate.post(path, body, {"content-type": "application/json"})
        assert response.status == 200, response.body
        upstream = getattr(gate, provider)
        sent, got = fields(body), fields(upstream.received[0].raw)
        changed = {name for name in {*sent, *got} if sent.get(name) != got.get(name)}
        assert changed <= {*may_change, "stream_options"}
        assert got["model"] == sent["model"]


THINKER = """
[[models]]
id = "gpt-5.4"
provider = "third"
tier = "cheap"
context_window = 100000
abilities = ["tools", "thinking"]
"""
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"model": "gamma", "seed": 7, "n": 1}, "/v1/chat/completions"),
        ({"model": "gamma", "tools": [TOOL], "reasoning_effort": "high"}, "/v1/chat/completions"),
        ({"model": "gpt-5.4", "reasoning_effort": "high"}, "/v1/chat/completions"),
        ({"model": "gpt-5.4", "tools": [TOOL]}, "/v1/chat/completions"),
        ({"model": "gpt-5.4", "tools": [TOOL], "reasoning_effort": "high"}, "/v1/responses"),
        ({"model": "gpt-5.4", "tools": [TOOL], "reasoning_effort": "high", "n": 2}, "/v1/chat/completions"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_a_provider_of_both_protocols_is_asked_in_the_clients_where_that_can_say_it(
    tmp_path: Path, fields: dict[str, Any], path: str, streams: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": streams, **fields}
    async with gateway(tmp_path, extra=THINKER, third_speaks="both") as gate:
        answer = await gate.post("/v1/chat/completions", body, {"content-type": "application/json"})
        assert answer.status == 200, answer.body
        assert [each.path for each in gate.third.received] == [path]
        assert (gate.third.received[0].body.get("seed") == 7) is ("seed" in fields)
        assert b"chat.completion" in answer.body
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert record.usage is not None


async def test_usage_is_asked_for_in_a_chat_stream_and_taken_out_again(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat(stream=True)
        assert gate.second.received[0].body["stream_options"] == {"include_usage": True}
        assert b'"usage"' not in answer.body
        record = (await gate.attempts(answer.headers["x-attune-call-id"]))[0]
        assert record.usage is not None
        assert record.usage.output_tokens == 7


async def test_a_stream_of_the_same_protocol_is_relayed_byte_for_byte(tmp_path: Path) -> None:
    body = {
        "model": "alpha",
        "max_tokens": 9,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
    }
    async with gateway(tmp_path) as gate:
        through = (await gate.post("/v1/messages", body)).body
        async with gate.http.post(gate.first.url + "/v1/messages", json=body) as direct:
            assert through == await direct.read()


async def test_only_named_headers_of_a_client_reach_a_provider(tmp_path: Path) -> None:
    headers = {
        "authorization": "Bearer mine-and-nobody-elses",  # not-a-secret
        "x-api-key": "mine-too",
        "cookie": "session=mine",
        "x-forwarded-for": "10.0.0.1",
        "connection": "keep-alive, x-hop",
        "x-hop": "hop",
        "te": "trailers",
        "x-attune-workflow": "w",
        "openai-organization": "org-1",
    }
    async with gateway(tmp_path) as gate:
        assert (await gate.chat(headers=headers)).status == 200
        seen = gate.second.received[0].headers
        assert seen["authorization"] == "Bearer canary-of-second-not-a-secret"
        unwanted = {name.lower() for name in headers} - {"authorization", "connection"}
        assert not unwanted & {name.lower() for name in seen}
        assert not any("mine" in value for value in seen.values())


async def test_what_only_its_own_protocol_can_say_comes_back_whole(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat(n=2, logprobs=True)
        assert answer.status == 200, answer.body
        body = answer.json
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"]["content"] == "Hello there, friend"
        assert answer.headers["x-attune-model"] == "second/beta"
        assert answer.headers["x-attune-cost-usd"] == "0.000047000"
        assert gate.second.received[0].body["n"] == 2


async def test_what_only_its_own_protocol_can_say_is_refused_by_name_for_a_model_of_another(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("alpha", n=2)
        assert answer.status == 400
        message = answer.json["error"]["message"]
        assert "asked for n;" in message
        assert "Messages" in message
        assert gate.asked == []


async def test_a_provider_that_can_say_it_is_chosen_when_the_router_may(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto", n=2)
        assert answer.status == 200, answer.body
        assert gate.asked == ["beta"]


async def test_what_only_tunes_is_left_out_for_another_protocol_and_named_in_a_header(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        across = await gate.chat("alpha", seed=7, user="u-1")
        assert {"seed", "user"} <= set(across.headers["x-attune-dropped"].split(", "))
        assert "x-attune-dropped" not in (await gate.chat("beta", seed=7, user="u-1")).headers
        streamed = await gate.chat("alpha", seed=7, stream=True)
        assert "seed" in streamed.headers["x-attune-dropped"]


async def test_a_failure_of_what_is_relayed_whole_is_an_error_of_the_client(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        gate.second.then(Answer(status=400, error_message="n is too large", error_code="bad_n"))
        answer = await gate.chat(n=200)
        assert answer.status == 400
        assert answer.json["error"]["code"] == "bad_n"


async def test_a_whole_answer_of_the_same_protocol_keeps_what_only_the_protocol_says(tmp_path: Path) -> None:
    body = {"model": "alpha", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    async with gateway(tmp_path) as gate:
        gate.first.then(Answer(text="so", stop_reason="stop_sequence"))
        answer = await gate.post("/v1/messages", body)
        assert answer.status == 200
        assert answer.json["stop_reason"] == "stop_sequence"
        assert answer.json["content"] == [{"type": "text", "text": "so"}]


async def test_a_call_that_failed_names_its_id_in_one_body_too(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[call]\nretries = 0\n") as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(status=500)
        answer = await gate.chat()
        assert answer.status >= 500
        call_id = answer.headers["x-attune-call-id"]
        assert await gate.attempts(call_id)


async def test_after_a_fallback_the_decision_says_who_answered(tmp_path: Path) -> None:
    extra = "[call]\nretries = 0\n"
    async with gateway(tmp_path, extra=extra) as gate:
        gate.second.default = Answer(status=500)
        answer = await gate.chat(model="attune/cheap")
        assert answer.status == 200
        assert answer.headers["x-attune-model"] != "second/beta"
        assert "second/beta" in answer.headers["x-attune-decision"]
        assert "answered after 1 failed" in answer.headers["x-attune-decision"]
