"""What ``model`` and the headers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.gateway import gateway

if TYPE_CHECKING:
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
EXTRA = """
[gateway.aliases]
"claude-sonnet-5-5" = "attune/cheap"
"fast" = "first/alpha"
[[gateway.rules]]
user_agent = "editor"
workflow = "editing"
stage = "draft"
task = "summarize"
[[gateway.rules]]
path = "/v1/messages"
workflow = "second rule"
"""


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("alpha", "first/alpha"),
        ("second/beta", "second/beta"),
        ("auto", "first/alpha"),
        ("attune/auto", "first/alpha"),
        ("attune/cheap", "second/beta"),
        ("attune/CAPABLE", "first/alpha"),
        ("attune/premium", "third/gamma"),
        ("attune/summarize", "second/beta"),
        ("attune/Complex-Reasoning", "third/gamma"),
        ("claude-sonnet-5-5", "second/beta"),
        ("fast", "first/alpha"),
    ],
)
async def test_a_model_may_be_a_model_a_tier_a_task_an_alias_or_auto(
    tmp_path: Path, name: str, answers: str
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        answer = await gate.chat(name)
        assert answer.status == 200, answer.body
        assert answer.headers["x-attune-model"] == answers


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("alphaa", "alpha"), ("attune/chaep", "attune/cheap"), ("attune/sumarize", "attune/summarize")],
)
async def test_an_unknown_model_is_404_with_the_nearest_name_in_the_shape_of_the_client(
    tmp_path: Path, name: str, nearest: str
) -> None:
    async with gateway(tmp_path) as gate:
        chat = await gate.chat(name)
        messages = await gate.post("/v1/messages", {"model": name, "max_tokens": 5, "messages": HI})
        assert chat.status == messages.status == 404
        error = chat.json["error"]
        assert error["code"] == "model_not_found"
        assert repr(nearest) in error["message"]
        body = messages.json
        assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
        assert repr(nearest) in body["error"]["message"]
        assert chat.headers["x-should-retry"] == "false"
        assert gate.asked == []


async def test_headers_say_what_a_call_is_for(tmp_path: Path) -> None:
    headers = {"x-attune-workflow": "review", "x-attune-stage": "final", "x-attune-task": "write-tests"}
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto", headers)
        record = (await gate.attempts(answer.headers["x-attune-call-id"]))[0]
        assert (record.workflow, record.stage, record.task_type) == ("review", "final", "write_tests")


async def test_rules_say_it_where_headers_do_not(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        cases = (
            ({"user-agent": "My Editor/1"}, ("editing", "draft", "summarize")),
            ({"user-agent": "editor", "x-attune-stage": "final"}, ("editing", "final", "summarize")),
            ({"user-agent": "other"}, ("default", "default", "")),
        )
        for headers, expected in cases:
            answer = await gate.chat("auto", headers)
            record = (await gate.attempts(answer.headers["x-attune-call-id"]))[0]
            assert (record.workflow, record.stage, record.task_type) == expected
        body = {"model": "alpha", "max_tokens": 5, "messages": HI}
        answer = await gate.post("/v1/messages", body, {"user-agent": "other"})
        assert (await gate.attempts(answer.headers["x-attune-call-id"]))[0].workflow == "second rule"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_is_told_of_a_task_that_is_not_known_and_of_nothing_otherwise(
    tmp_path: Path, stream: bool
) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto", {"x-attune-task": "sumarize"}, stream=stream)
        said = "unknown task 'sumarize': treated as capable; did you mean 'summarize'?"
        assert (answer.status, answer.headers["x-attune-note"]) == (200, said)
        odd = {"x-attune-task": "r\u00e9sum\u00e9 \u00a0" + "x" * 100}
        told = (await gate.chat("auto", odd, stream=stream)).headers["x-attune-note"]
        assert told.isascii()
        assert told.isprintable()
        assert len(told) <= 500
        for known in ({}, {"x-attune-task": "summarize"}):
            assert "x-attune-note" not in (await gate.chat("auto", known, stream=stream)).headers


async def test_a_cost_limit_selects_the_candidate(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto", {"x-attune-max-cost": "0.0000001"})
        assert answer.status == 400
        assert "would cost about" in answer.json["error"]["message"]
        realtime = {"x-attune-max-cost": "0.0000001", "x-attune-task": "chat"}
        assert (await gate.chat("auto", realtime)).status == 200


async def test_a_call_may_name_the_policy_that_decides_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto", {"x-attune-policy": "thompson"})
        assert "thompson: drawn with p = " in answer.headers["x-attune-decision"]
        for wrong, said in (("tompson", "did you mean 'thompson'?"), ("budget", "budget_usd in [routing]")):
            refused = await gate.chat("auto", {"x-attune-policy": wrong})
            assert refused.status == 400
            assert said in refused.json["error"]["message"]


async def test_a_latency_limit_selects_the_candidate(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        assert (await gate.chat("auto", {"x-attune-max-latency-ms": "60000"})).status == 200


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-attune-max-cost", "cheap"),
        ("x-attune-max-cost", "nan"),
        ("x-attune-max-cost", "-1"),
        ("x-attune-max-latency-ms", "inf"),
        ("x-attune-max-latency-ms", "0"),
        ("x-attune-workflow", "w" * 500),
    ],
)
async def test_a_header_that_makes_no_sense_is_400_in_one_sentence(
    tmp_path: Path, header: str, value: str
) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto", {header: value})
        assert answer.status == 400
        message = answer.json["error"]["message"]
        assert header.removeprefix("x-attune-").replace("-", "_") in message.replace("-", "_")
        assert "\n" not in message


@pytest.mark.parametrize("header", ["x-attune-session", "x-claude-code-session-id"])
async def test_a_session_is_named_by_either_header(tmp_path: Path, header: str) -> None:
    async with gateway(tmp_path) as gate:
        assert (await gate.chat("auto", {header: "conversation-1"})).status == 200
        refused = await gate.chat("auto", {header: "c" * 500})
        assert refused.status == 400
        assert "is above 200 characters" in refused.json["error"]["message"]


async def test_a_decision_can_be_read_and_an_outcome_told_afterwards(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.chat("auto")
        call_id = answer.headers["x-attune-call-id"]
        told = (await gate.get(f"/v1/attune/decisions/{call_id}")).json
        assert told["decision"]["call_id"] == call_id
        assert [each["model_id"] for each in told["attempts"]] == ["alpha"]
        outcome = {"call_id": call_id, "success": False, "score": 0.2}
        recorded = await gate.post("/v1/attune/outcomes", outcome)
        assert (recorded.status, recorded.json) == (200, {"recorded": call_id})
        assert not gate.runtime.router.get_routing_stats("default").models[0].success_rate
        assert (told["outcomes"], told["labelled_share"]) == ([], 0.0)
        told = (await gate.get(f"/v1/attune/decisions/{call_id}")).json
        assert [(each["source"], each["score"]) for each in told["outcomes"]] == [("caller", 0.2)]
        assert told["labelled_share"] == 1.0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b'{"call_id": "x"}', 400, "success"),
        (b'{"call_id": "x", "success": true, "why": 1}', 400, "why"),
        (b'{"call_id": "nobody-made-it", "success": true}', 404, "nobody-made-it"),
        (b'{"call_id": "\\ud800", "success": true}', 400, "not JSON"),
    ],
)
async def test_an_outcome_that_makes_no_sense_is_refused_in_one_sentence(
    tmp_path: Path, body: bytes, status: int, says: str
) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.post("/v1/attune/outcomes", body)
        assert answer.status == status
        assert says in answer.json["error"]["message"]


async def test_an_outcomes_score_lies_between_0_and_1(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        call_id = (await gate.chat()).headers["x-attune-call-id"]
        answer = await gate.post("/v1/attune/outcomes", {"call_id": call_id, "success": True, "score": 7})
        assert answer.status == 400
        assert "between 0 and 1" in answer.json["error"]["message"]
