"""What the fuzzers and the OpenAPI document have found, each in its shortest form."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from support.gateway import gateway
from support.hostile_json import Verbatim, encoded
from support.raw_upstream import defects
from support.upstream import Answer, messages_stream
from support.upstream_responses import responses_stream

if TYPE_CHECKING:
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
MESSAGES, RESPONSES, COUNT = "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"
DEEP = Verbatim(b'{"a":' * 450 + b"1" + b"}" * 450)
HUGE = Verbatim(b"1e400")


@pytest.mark.parametrize(
    "odd", [{"required": 5}, {"required": [[]]}, {"properties": 5}, {"properties": {"a": DEEP}}]
)
async def test_a_schema_that_is_none_is_passed_on_to_any_protocol(
    odd: dict[str, Any], tmp_path: Path
) -> None:
    schema = {"type": "object", "additionalProperties": False, **odd}
    body = {
        "messages": HI,
        "max_tokens": 9,
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }
    async with gateway(tmp_path) as gate:
        for model in ("alpha", "beta", "gamma"):
            assert (await gate.post(MESSAGES, encoded({"model": model, **body}))).status == 200


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc3"])
async def test_a_body_that_is_no_utf8_is_400_wherever_that_is(text: bytes, path: str, tmp_path: Path) -> None:
    source = {"type": "base64", "media_type": Verbatim(b'"%b"' % text), "data": "x"}
    image = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    for odd in ({"messages": image}, {"messages": HI, "metadata": source}):
        async with gateway(tmp_path) as gate:
            answer = await gate.post(path, encoded({"model": "beta", "max_tokens": 9, **odd}))
            assert answer.status == 400
            assert "utf-8" in answer.json["error"]["message"]
            assert gate.asked == []


async def test_a_large_body_is_checked_to_its_end(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for text, status in (("é" * 100_000, 200), ("é" * 100_000 + "\udcff", 400)):
            content = json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogateescape")
            body = {"model": "beta", "messages": [{"role": "user", "content": Verbatim(content)}]}
            assert (await gate.post("/v1/chat/completions", encoded(body))).status == status


async def test_tokens_of_what_is_nested_too_deep_are_not_counted(tmp_path: Path) -> None:
    deep = {"model": "m", "messages": HI, "metadata": Verbatim(b"[" * 5000 + b"]" * 5000)}
    async with gateway(tmp_path) as gate:
        answer = await gate.post(COUNT, encoded(deep))
        assert (answer.status, answer.json["type"]) == (400, "error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("extra", [HUGE, DEEP], ids=["huge", "deep"])
async def test_what_of_a_tool_is_too_much_to_read_is_repeated_as_it_came(
    extra: Verbatim, stream: bool, tmp_path: Path
) -> None:
    tool = {"type": "function", "name": "look", "extra": extra}
    body = {"model": "gamma", "input": "hi", "tools": [tool], "stream": stream}
    async with gateway(tmp_path) as gate:
        for model in ("gamma", "beta"):
            answer = await gate.post(RESPONSES, encoded({**body, "model": model}))
            assert answer.status == 200
            assert not stream or b"event: response.completed" in answer.body


async def test_a_number_too_large_to_translate_is_the_callers_fault(tmp_path: Path) -> None:
    tool = {"name": "look", "input_schema": {"maximum": HUGE}}
    async with gateway(tmp_path) as gate:
        for model in ("beta", "gamma"):
            body = {"model": model, "messages": HI, "max_tokens": 9, "tools": [tool]}
            answer = await gate.post(MESSAGES, encoded(body))
            assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
            assert "cannot be read" in answer.json["error"]["message"]
        assert gate.asked == []


async def test_a_limit_below_one_is_refused_by_its_own_name(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for fields in ({"max_tokens": 0}, {"max_completion_tokens": 0, "max_tokens": 5}, {"max_tokens": -1}):
            answer = await gate.chat(**fields)
            assert answer.status == 400
            assert answer.json["error"]["message"] == f"{next(iter(fields))}: expected int >= 1"
        answer = await gate.post(RESPONSES, {"model": "gamma", "input": "hi", "max_output_tokens": 0})
        assert (answer.status, answer.json["error"]["message"]) == (
            400,
            "max_output_tokens: expected int >= 1",
        )


async def test_a_limit_is_lowered_to_what_a_model_outside_the_usual_tier_can_give(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:  # of capable models none can be asked for two choices
        answer = await gate.chat("auto", n=2, max_tokens=1_000_000)
        assert answer.status == 200
        assert gate.second.received[0].body["max_tokens"] == 4000


@pytest.mark.parametrize("name", ["x-attune-workflow", "x-attune-task", "x-claude-code-session-id"])
async def test_a_name_that_is_too_long_is_refused_though_another_header_wins(
    name: str, tmp_path: Path
) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat(headers={"x-attune-session": "s", name: "n" * 201})
        assert answer.status == 400
        assert answer.json["error"]["message"] == f"the header {name} is above 200 characters"


async def test_an_outcome_that_makes_no_sense_is_refused_in_one_sentence(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        sound = {"call_id": "c", "success": True}
        for odd in ({"call_id": 7}, {"a\nb" * 900: 1}, {"score": Verbatim(b"[" * 9000)}, {"score": HUGE}):
            answer = await gate.post("/v1/attune/outcomes", encoded({**sound, **odd}))
            message = answer.json["error"]["message"]
            assert answer.status == 400
            assert message.isprintable()
            assert len(message) < 500


def early_delta() -> bytes:
    blocks = messages_stream(Answer(), "m")
    return b"".join([blocks[0], blocks[3], *blocks[1:]])


ODD = {
    MESSAGES: ({"max_tokens": 9, "messages": HI, "model": "alpha", "container": "c"}, early_delta()),
    RESPONSES: (
        {"model": "gamma", "input": "hi", "previous_response_id": "r"},
        b'data: {"type":"response.completed"}\n\n',
    ),
    "/v1/chat/completions": (
        {"model": "beta", "messages": HI, "n": 2},
        b'data: {"choices":[{"delta":{"content":"x"},"tool_calls":[7]}]}\n\ndata: [DONE]\n\n',
    ),
}


@pytest.mark.parametrize("path", ODD)
async def test_events_that_do_not_fit_together_end_alike_for_the_client_and_the_ledger(
    path: str, tmp_path: Path
) -> None:
    body, content = ODD[path]
    async with gateway(tmp_path, extra="[call]\nretries = 0\n") as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(body=content, content_type="text/event-stream")
        answer = await gate.post(path, body)
        await gate.runtime.store.flush()
        (attempt,) = gate.runtime.store.attempts(answer.headers["x-attune-call-id"])
        assert attempt.success is (answer.status == 200)
        assert (path == RESPONSES) is (answer.status == 503)  # whose end has all, or nothing
        assert answer.json.get("error", {"message": "none"})["message"]


async def test_an_event_that_begins_as_json_does_is_not_taken_for_the_answer(tmp_path: Path) -> None:
    content = b"{}\n\n" + b"".join(responses_stream(Answer(), "m")).replace(b"event:", b'{"a":1}\nevent:', 1)
    async with gateway(tmp_path) as gate:
        gate.third.default = Answer(body=content, content_type="text/event-stream")
        answer = await gate.post(RESPONSES, ODD[RESPONSES][0])
        assert (answer.status, answer.json["status"]) == (200, "completed")


async def test_the_input_of_a_tool_that_is_no_text_breaks_the_answer(tmp_path: Path) -> None:
    content = b'{"type":"message","content":[{"type":"tool_use","id":"c","name":"n","input":{"a":"\xff"}}]'
    async with gateway(tmp_path, extra="[call]\nretries = 0\n") as gate:
        gate.first.default = Answer(body=content + b',"stop_reason":"tool_use"}')
        answer = await gate.chat("alpha")
        assert answer.status in {502, 503}
        assert "not Messages JSON" in answer.json["error"]["message"]


async def test_a_client_that_goes_away_after_sending_the_next_request_too_closes_the_upstream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"model": "beta", "messages": HI}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    next_one = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with gateway(tmp_path) as gate:
        gate.second.default = Answer(stall_head=True)
        host, port = gate.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + body + next_one * 2)
        seen = await gate.second.arrived()
        writer.close()
        async with asyncio.timeout(60):
            await seen.disconnected.wait()
    assert not defects(caplog.records)
