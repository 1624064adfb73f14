"""Embeddings: asked for by the official client, relayed as they are, and never by a model of another name."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from attune.errors import ErrorClass
from attune.models.telemetry import CostStatus, TokenUsage
from support.gateway import gateway
from support.stalls import anew_after_a_stall
from support.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.gateway import Gate
    from support.upstream import Received

openai = pytest.importorskip("openai")

VECTORS = "/v1/embeddings"
HI = [{"role": "user", "content": "hi"}]
MODEL = """
[[models]]
id = "{id}"
provider = "{provider}"
abilities = ["embeddings"]
context_window = 8192
"""
PRICED = MODEL + "input_price = 0.02\n"
EXTRA = "".join(
    (
        PRICED.format(id="small", provider="second"),
        PRICED.format(id="small", provider="third"),
        PRICED.format(id="large", provider="third"),
        MODEL.format(id="unpriced", provider="second"),
        PRICED.format(id="elsewhere", provider="first"),
        '[gateway.aliases]\n"text-embedding-ada-002" = "small"\n"vectors" = "attune/cheap"\n',
        "[call]\nretries = 0\n",
    )
)


def vectors(tokens: int | None = 8, size: int = 2) -> Callable[[Received], Answer]:
    """What a provider answers: a vector for each input, in the encoding that was asked for."""

    def answer(seen: Received) -> Answer:
        given = seen.body["input"]
        count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
        floats = [[place + 0.5] * size for place in range(count)]
        encoded: list[Any] = [base64.b64encode(struct.pack(f"<{size}f", *each)).decode() for each in floats]
        told = encoded if seen.body.get("encoding_format") == "base64" else floats
        data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(told)]
        body = {"object": "list", "data": data, "model": f"{seen.body['model']}-of-today"}
        if tokens is not None:
            body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return Answer(body=json.dumps(body, indent=1).encode())

    return answer


def asks(model: str = "small", **fields: Any) -> dict[str, Any]:
    return {"model": model, "input": "a text of about eight tokens, more", **fields}


def refusal(answer: Any) -> str:
    """The message of a 400 in OpenAI's shape."""
    assert answer.status == 400, answer.body
    assert answer.headers["x-should-retry"] == "false"
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    return str(answer.json["error"]["message"])


# -- what is answered ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    ["a text", ["one", "and another"], [1, 2, 3], [[1, 2], [3]]],
    ids=["text", "texts", "ids", "lists"],
)
async def test_the_official_client_gets_its_vectors_in_the_encoding_that_it_asks_for(
    tmp_path: Path, given: Any
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate, gate.openai() as client:
        gate.second.default = vectors()
        expected = [[0.5, 0.5], [1.5, 1.5]][: 1 if given in ("a text", [1, 2, 3]) else 2]
        for options in ({}, {"encoding_format": "float"}, {"dimensions": 2, "user": "someone"}):
            answer = await client.embeddings.create(model="small", input=given, **options)
            assert [each.embedding for each in answer.data] == expected
            assert answer.usage.prompt_tokens == 8
        assert {each.path for each in gate.second.received} == {VECTORS}
        assert gate.second.received[0].body["encoding_format"] == "base64"
        assert gate.second.received[0].headers["authorization"] == "Bearer canary-of-second-not-a-secret"


async def test_a_request_is_passed_on_byte_for_byte_but_for_the_model_and_its_answer_as_it_came(
    tmp_path: Path,
) -> None:
    body = (
        b'{"input": ["a \\u00e9",  "b"], "dimensions":2.50e2, "model": "text-embedding-ada-002",'
        b' "encoding_format":"float","user":"u", "task":{"kind" : [1,  2]}, "stream":  null}'
    )
    answered = (
        b'{ "object":"list",\n "data": [{"embedding":[1.0e-3, 2]}],  "usage": {"prompt_tokens": 8},"x":1}'
    )
    headers = {"content-type": "application/json", "openai-beta": "one", "cookie": "none"}
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default = Answer(body=answered)
        answer = await gate.post(VECTORS, body, headers)
        assert (answer.status, answer.body) == (200, answered)
        assert answer.headers["content-type"] == "application/json"
        sent, seen = msgspec.json.decode(body, type=dict[str, msgspec.Raw]), gate.second.received[0]
        got = msgspec.json.decode(seen.raw, type=dict[str, msgspec.Raw])
        assert bytes(got.pop("model")) == b'"small"'
        del sent["model"]
        assert [(name, bytes(each)) for name, each in got.items()] == [
            (name, bytes(each)) for name, each in sent.items()
        ]
        assert seen.headers["openai-beta"] == "one"
        assert "cookie" not in seen.headers


async def test_an_answer_says_who_made_it_and_what_it_cost_and_so_does_the_ledger(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default = vectors(1000)
        answer = await gate.post(VECTORS, asks(), {"x-attune-workflow": "index", "x-attune-stage": "docs"})
        assert answer.headers["x-attune-model"] == "second/small"
        assert answer.headers["x-attune-cost-usd"] == "0.000020000"
        assert answer.headers["x-attune-decision"].startswith("second/small")
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert (record.workflow, record.stage, record.tier) == ("index", "docs", "embeddings")
        assert record.usage == TokenUsage(1000)
        assert (record.cost_nanos, record.cost_status) == (20_000, CostStatus.EXACT)
        decision = await gate.get(f"/v1/attune/decisions/{record.call_id}")
        assert [each["model_id"] for each in decision.json["decision"]["ranked"]] == ["small", "small"]
        stats = gate.runtime.router.get_routing_stats("index")
        assert (stats.calls, stats.cost_usd, stats.savings_usd) == (1, pytest.approx(0.00002), None)


async def test_many_inputs_may_be_longer_together_than_the_window_of_each(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default = vectors(500_000)
        answer = await gate.post(VECTORS, asks(input=["word " * 80] * 2048))
        assert answer.status == 200, answer.body
        assert len(answer.json["data"]) == 2048
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert (record.usage, record.cost_status) == (TokenUsage(500_000), CostStatus.EXACT)


@pytest.mark.parametrize("tokens", [None, 0, -5])
async def test_a_missing_usage_is_estimated_and_never_counted_as_nothing(
    tmp_path: Path, tokens: int | None
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default = vectors(tokens)
        answer = await gate.post(VECTORS, asks(input="x" * 398))
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert record.usage == TokenUsage(100)
        assert (record.cost_nanos, record.cost_status) == (2000, CostStatus.ESTIMATED)


@pytest.mark.parametrize("tokens", [None, 8])
async def test_without_a_price_the_cost_is_unknown(tmp_path: Path, tokens: int | None) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default = vectors(tokens)
        answer = await gate.post(VECTORS, asks("unpriced"))
        assert "x-attune-cost-usd" not in answer.headers
        (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
        assert (record.cost_nanos, record.cost_status) == (None, CostStatus.UNKNOWN)


# -- which model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "attune/auto", "attune/cheap", "attune/summarize", "vectors"])
async def test_a_name_that_leaves_the_model_open_is_refused_with_the_models_there_are(
    tmp_path: Path, name: str
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        message = refusal(await gate.post(VECTORS, asks(name)))
        assert message == (
            f"{name!r} leaves the model open, and embeddings of different models cannot be compared; choose "
            "one of small, large, unpriced, elsewhere"
        )
        assert gate.asked == []


async def test_a_model_that_makes_no_embeddings_is_refused_with_those_that_do_the_same_provider_first(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        message = refusal(await gate.post(VECTORS, asks("gamma")))
        assert message == "'gamma' makes no embeddings; choose one of small, large, unpriced, elsewhere"
        message = refusal(await gate.post(VECTORS, asks("first/alpha")))
        assert message == "'first/alpha' makes no embeddings; choose one of elsewhere, small, large, unpriced"
        assert gate.asked == []


async def test_where_no_model_makes_embeddings_it_says_so(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        message = refusal(await gate.post(VECTORS, asks("beta")))
        assert message == "'beta' makes no embeddings; no enrolled provider has a model that makes them"


async def test_an_unknown_model_is_404_with_the_nearest_name(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate, gate.openai() as client:
        with pytest.raises(openai.NotFoundError, match="did you mean 'small'"):
            await client.embeddings.create(model="smal", input="x")


@pytest.mark.parametrize("name", ["small", "text-embedding-ada-002", "third/large"])
async def test_a_conversation_with_a_model_that_makes_embeddings_is_refused_at_every_door(
    tmp_path: Path, name: str
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        for path, body in (
            ("/v1/chat/completions", {"messages": HI}),
            ("/v1/messages", {"messages": HI, "max_tokens": 5}),
            ("/v1/responses", {"input": "hi"}),
        ):
            answer = await gate.post(path, {"model": name, **body})
            assert answer.status == 400
            message = answer.json["error"]["message"]
            assert message.startswith(
                f"{name!r} makes embeddings only, at /v1/embeddings; choose one of auto, "
            )
            assert ("type" in answer.json) is (path == "/v1/messages")
        assert gate.asked == []


async def test_a_model_that_makes_embeddings_never_answers_for_a_tier(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(status=500)
        for name in ("auto", "attune/cheap"):
            assert (await gate.chat(name)).status == 503
        assert set(gate.asked) <= {"alpha", "beta", "gamma"}


async def test_a_model_of_a_provider_of_messages_cannot_be_asked(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        message = refusal(await gate.post(VECTORS, asks("elsewhere")))
        assert message.startswith("a model that speaks Messages cannot be asked for embeddings")
        assert gate.asked == []


async def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        for body, what in (
            ({"model": "small"}, "input is missing"),
            ({"input": "x"}, "model is missing"),
            ({"model": "", "input": "x"}, "model must be a name of 1 to 200 characters"),
            ({"model": 7, "input": "x"}, "model: expected str, not int"),
            (b"no json", "the body is not JSON"),
        ):
            assert refusal(await gate.post(VECTORS, body)).startswith(what)


async def test_models_that_make_embeddings_are_listed(tmp_path: Path) -> None:
    keys = {"mine": {"models": frozenset({"small"})}}
    async with gateway(tmp_path, extra=EXTRA, keys=keys) as gate, gate.openai(gate.secrets["mine"]) as client:
        names = {each.id async for each in await client.models.list()}
        assert {"second/small", "third/small"} <= names
        assert "attune/cheap" not in names


# -- failures ------------------------------------------------------------------------------------------


async def served_by(gate: Gate, answer: Any) -> list[tuple[str, str, str]]:
    """The attempts of a call: provider, model and class of error."""
    records = await gate.attempts(answer.headers["x-attune-call-id"])
    return [(each.provider, each.model_id, each.error_class) for each in records]


@pytest.mark.parametrize(
    ("failure", "error_class"),
    [
        (Answer(status=429, headers={"retry-after": "60"}), ErrorClass.THROTTLED),
        (Answer(status=500), ErrorClass.TRANSIENT),
        (Answer(status=401), ErrorClass.CREDENTIAL),
        (Answer(reset_head=True), ErrorClass.CONNECTION),
        (Answer(body=b'{"data": [{"embedding": [1', cut_after=20), ErrorClass.MID_STREAM),
        (Answer(body=b'{"data": [{"embedding": [1'), ErrorClass.MID_STREAM),
        (Answer(body=b'{"object": "list", "data": []}'), ErrorClass.MID_STREAM),
        (Answer(body=b'{"error": {"message": "overloaded", "code": 503}}'), ErrorClass.MID_STREAM),
        (Answer(body=b"data: {}\n\n", content_type="text/event-stream"), ErrorClass.MID_STREAM),
        (Answer(body=b"<html>no</html>", content_type="text/html"), ErrorClass.MID_STREAM),
    ],
    ids=["429", "500", "401", "reset", "cut", "half", "empty", "error", "stream", "html"],
)
async def test_after_a_failure_another_provider_of_the_same_model_answers(
    tmp_path: Path, failure: Answer, error_class: ErrorClass
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default, gate.third.default = failure, vectors()
        answer = await gate.post(VECTORS, asks())
        assert answer.status == 200, answer.body
        assert answer.headers["x-attune-model"] == "third/small"
        assert await served_by(gate, answer) == [
            ("second", "small", error_class.value),
            ("third", "small", ""),
        ]


async def test_a_provider_that_is_down_is_left_for_another_one(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate, gate.openai() as client:
        gate.third.default = vectors()
        await gate.second.down()
        raw = await client.embeddings.with_raw_response.create(model="small", input="x")
        assert raw.headers["x-attune-model"] == "third/small"
        assert raw.parse().data[0].embedding == [0.5, 0.5]


@pytest.mark.parametrize("name", ["second/small", "unpriced"])
async def test_another_model_or_a_provider_that_was_not_named_never_takes_over(
    tmp_path: Path, name: str
) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default, gate.third.default = Answer(status=500), vectors()
        answer = await gate.post(VECTORS, asks(name))
        assert answer.status == 503
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        assert gate.third.received == []


async def test_a_callers_fault_comes_back_unmodified_and_nobody_else_is_asked(tmp_path: Path) -> None:
    body = b'{"error":  {"message": "\'$.input\' is invalid", "type": "invalid_request_error", "x": 1}}'
    long = b'{"error":{"message":"This model\'s maximum context length is 8192 tokens","code":null}}'
    async with gateway(tmp_path, extra=EXTRA) as gate, gate.openai() as client:
        gate.second.then(Answer(status=400, body=body), Answer(status=400, body=long))
        for told in (body, long):
            answer = await gate.post(VECTORS, asks(input=[]))
            assert (answer.status, answer.body) == (400, told)
            assert len(answer.headers["x-attune-call-id"]) > 20
        gate.second.then(Answer(status=422, body=body))
        with pytest.raises(openai.UnprocessableEntityError, match="is invalid"):
            await client.embeddings.create(model="small", input="x")
        assert gate.third.received == []


async def test_a_wait_that_every_provider_asks_for_is_passed_on(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=EXTRA + "deadline_seconds = 60\n") as gate:
        gate.second.default = gate.third.default = Answer(status=429, headers={"retry-after": "900"})
        answer = await gate.post(VECTORS, asks())
        assert answer.status == 429
        assert 600 <= int(answer.headers["retry-after"]) <= 901


@pytest.mark.parametrize("answer", [Answer(stall_head=True), Answer(body=b"{" * 900, stall_after=400)])
@anew_after_a_stall
async def test_a_client_that_goes_away_closes_the_upstream_at_once(tmp_path: Path, answer: Answer) -> None:
    async with gateway(tmp_path, extra=EXTRA) as gate:
        gate.second.default = answer
        asking = asyncio.create_task(gate.post(VECTORS, asks()))
        seen = await gate.second.arrived()
        asking.cancel()
        gone = time.monotonic()
        async with asyncio.timeout(60):
            await seen.disconnected.wait()
        assert seen.disconnected_at is not None
        assert seen.disconnected_at - gone < 2
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.second.default = vectors()
        assert (await gate.post(VECTORS, asks())).headers["x-attune-model"] == "second/small"
        assert gate.third.received == []


# -- keys ----------------------------------------------------------------------------------------------


async def test_a_key_is_held_to_its_paths_models_rate_and_dollars(tmp_path: Path) -> None:
    keys: dict[str, dict[str, Any]] = {
        "vectors": {"routes": frozenset({VECTORS})},
        "chat": {"routes": frozenset({"/v1/chat/completions"})},
        "large": {"models": frozenset({"large"})},
        "third": {"providers": frozenset({"third"})},
        "capable": {"tiers": frozenset({"capable"})},
        "poor": {"limits": (None, None, 0.000000001)},
    }
    async with gateway(tmp_path, extra=EXTRA, keys=keys) as gate:
        gate.second.default = gate.third.default = vectors()
        for name, status in (
            ("vectors", 200),
            ("chat", 403),
            ("large", 403),
            ("capable", 403),
            ("poor", 402),
        ):
            headers = {"authorization": f"Bearer {gate.secrets[name]}"}
            assert (await gate.post(VECTORS, asks(), headers)).status == status, name
        headers = {"authorization": f"Bearer {gate.secrets['vectors']}"}
        assert (await gate.chat(headers=headers)).status == 403
        headers = {"authorization": f"Bearer {gate.secrets['third']}"}
        assert (await gate.post(VECTORS, asks(), headers)).headers["x-attune-model"] == "third/small"
        assert gate.asked == ["small", "small"]


async def test_the_tokens_of_the_input_count_for_the_rate_of_a_key(tmp_path: Path) -> None:
    keys = {"mine": {"limits": (None, 100)}}
    async with gateway(tmp_path, extra=EXTRA, keys=keys) as gate:
        gate.second.default = vectors(40)
        headers = {"authorization": f"Bearer {gate.secrets['mine']}"}
        for given, status in (("x" * 4000, 429), ([7] * 101, 429), ("x" * 200, 200), ([7] * 40, 200)):
            answer = await gate.post(VECTORS, asks(input=given), headers)
            assert answer.status == status, answer.body
        assert (await gate.post(VECTORS, asks(input=[7] * 40), headers)).status == 429
