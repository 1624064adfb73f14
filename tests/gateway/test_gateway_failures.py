"""Failures as a client meets them."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from attune.errors import ErrorClass
from attune.gateway import answering
from support.gateway import gateway
from support.stalls import anew_after_a_stall
from support.upstream import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate
    from support.upstream import FakeUpstream

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

HI = [{"role": "user", "content": "hi"}]
ASK = {"model": "alpha", "max_tokens": 9, "messages": HI}
NO_REPEATS = "[call]\nretries = 0\n"


async def test_a_callers_fault_comes_back_unmodified_from_a_provider_of_its_protocol(tmp_path: Path) -> None:
    body = (
        b'{"type":"error",  "error":{"type":"invalid_request_error","message":"max_tokens: too odd"},"x":1}'
    )
    async with gateway(tmp_path) as gate:
        gate.first.then(Answer(status=400, body=body), Answer(status=422, body=body))
        for status in (400, 422):
            answer = await gate.post("/v1/messages", ASK)
            assert (answer.status, answer.body) == (status, body)
            assert answer.headers["x-should-retry"] == "false"
        assert gate.asked == ["alpha", "alpha"]


async def test_a_callers_fault_at_another_protocol_is_told_in_the_clients_own_shape(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.openai() as client:
        gate.first.then(Answer(status=400, error_type="invalid_request_error", error_message="too odd"))
        with pytest.raises(openai.BadRequestError, match="too odd") as caught:
            await client.chat.completions.create(model="alpha", messages=HI)
        assert set(caught.value.body) >= {"message", "type", "code", "param"}


async def test_each_client_raises_its_own_error_for_each_failure(tmp_path: Path) -> None:
    cases = (
        (
            Answer(status=429, headers={"retry-after": "7000"}),
            openai.RateLimitError,
            anthropic.RateLimitError,
        ),
        (
            Answer(status=400, error_message="prompt is too long", error_type="invalid_request_error"),
            openai.BadRequestError,
            anthropic.BadRequestError,
        ),
        (Answer(status=500), openai.InternalServerError, anthropic.InternalServerError),
    )
    for number, (failure, of_openai, of_anthropic) in enumerate(cases):
        home = tmp_path / str(number)
        home.mkdir()
        async with (
            gateway(home, extra=NO_REPEATS) as gate,
            gate.openai() as chat,
            gate.anthropic() as messages,
        ):
            gate.first.default = gate.second.default = failure
            with pytest.raises(of_openai):
                await chat.chat.completions.create(model="beta", messages=HI)
            with pytest.raises(of_anthropic):
                await messages.messages.create(model="alpha", max_tokens=5, messages=HI)


async def test_a_wait_that_the_provider_asks_for_is_passed_on(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[call]\ndeadline_seconds = 50\n") as gate:
        gate.second.default = Answer(status=429, headers={"retry-after": "70"})
        answer = await gate.chat()
        assert answer.status == 429
        assert 60 <= int(answer.headers["retry-after"]) <= 71
        assert "x-should-retry" not in answer.headers


async def test_a_refusal_names_one_time_to_try_again(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=NO_REPEATS + "[breaker]\nfailure_threshold = 1\n") as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(status=503)
        for model in ("alpha", "beta", "gamma", "auto"):
            assert (await gate.chat(model)).status == 503
        answer = await gate.chat("auto")  # every circuit is open, each until a time of its own
        assert answer.status == 503
        message = answer.json["error"]["message"]
        assert message.count("circuit of") == 3
        assert message.endswith(f"; try again in {answer.headers['retry-after']} s")
        assert message.count("try again") == 1


async def test_nothing_answers_at_all(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=NO_REPEATS) as gate:
        for upstream in gate.upstreams:
            await upstream.down()
        whole, streamed = await gate.chat("auto"), await gate.chat("auto", stream=True)
        assert whole.status == streamed.status == 503
        assert whole.json["error"]["message"]
        assert "canary" not in whole.json["error"]["message"]


async def test_another_candidate_answers_unseen_and_is_named(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=NO_REPEATS) as gate:
        gate.first.default = Answer(status=529, error_type="overloaded_error")
        whole = await gate.chat("auto")
        assert (whole.status, whole.json["choices"][0]["message"]["content"]) == (200, "Hello there, friend")
        served = whole.headers["x-attune-model"]
        assert served != "first/alpha"
        streamed = await gate.chat("auto", stream=True)
        assert streamed.headers["x-attune-model"] == served
        assert streamed.body.rstrip().endswith(b"data: [DONE]")


async def test_a_stream_that_breaks_before_content_is_taken_over(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=NO_REPEATS) as gate, gate.anthropic() as client:
        gate.first.default = Answer(cut_after=150, cut_by="reset")
        async with client.messages.stream(model="attune/capable", max_tokens=5, messages=HI) as stream:
            message = await stream.get_final_message()
        assert message.content[0].text == "Hello there, friend"
        assert gate.asked[0] == "alpha"
        assert len(gate.asked) == 2


async def test_a_stream_that_breaks_after_content_ends_in_an_error_and_is_recorded_as_cut_off(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as gate, gate.anthropic() as client, gate.openai() as chat:
        gate.first.default = Answer(text="Hello there, friend" * 10, cut_after=700)
        with pytest.raises(anthropic.APIError):
            async with client.messages.stream(model="alpha", max_tokens=5, messages=HI) as stream:
                await stream.get_final_message()
        with pytest.raises(openai.APIError):
            async for _ in await chat.chat.completions.create(model="alpha", messages=HI, stream=True):
                pass
        answer = await gate.post("/v1/messages", {**ASK, "stream": True})
        assert answer.status == 200
        assert b"event: error" in answer.body
        assert b"message_stop" not in answer.body
        assert gate.asked == ["alpha"] * 3
        record = (await gate.attempts(answer.headers["x-attune-call-id"]))[0]
        assert not record.success
        assert record.error_class == ErrorClass.MID_STREAM


async def answered_after(
    ping: bytes,
    pings: int,
    gate: Gate,
    upstream: FakeUpstream,
    path: str,
    body: dict[str, Any],
    answer: Answer = Answer(),  # noqa: B008
) -> bytes:
    """All that a client gets whose provider answers once so many pings have come."""
    held = asyncio.Event()
    upstream.then(replace(answer, held=held))
    got = b""
    async with gate.http.post(gate.url + path, json=body) as response:
        assert response.status == 200
        while got.count(ping) < pings:
            got += (piece := await response.content.readany())
            assert piece, got
        held.set()
        return got + await response.read()


async def test_a_client_is_told_that_a_slow_answer_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PING_SECONDS", 0.03)
    async with gateway(tmp_path) as gate, gate.anthropic() as messages, gate.openai() as client:
        for upstream in gate.upstreams:
            upstream.default = Answer(head_s=0.1)
        for model, upstream in (("alpha", gate.first), ("beta", gate.second)):
            body = {**ASK, "model": model, "stream": True}
            assert b"Hello" in await answered_after(b"event: ping", 3, gate, upstream, "/v1/messages", body)
            async with messages.messages.stream(model=model, max_tokens=5, messages=HI) as stream:
                assert (await stream.get_final_message()).content[0].text == "Hello there, friend"
        body = {"model": "beta", "messages": HI, "stream": True}
        raw = await answered_after(b": ping", 1, gate, gate.second, "/v1/chat/completions", body)
        assert raw.startswith(b": ping\n\n")
        chunks = [
            each
            async for each in await client.chat.completions.create(model="beta", messages=HI, stream=True)
        ]
        assert chunks[-1].choices[0].finish_reason == "stop"
        events = [
            each async for each in await client.responses.create(model="gamma", input="hi", stream=True)
        ]
        assert events[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("path", "ping"), [("/v1/chat/completions", b": ping"), ("/v1/messages", b"event: ping")]
)
async def test_what_is_known_only_after_pings_is_told_in_a_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, ping: bytes
) -> None:
    monkeypatch.setattr(answering, "PING_SECONDS", 0.03)
    hint = {"seed": 7} if path == "/v1/chat/completions" else {"metadata": {"user_id": "me"}}
    model, dropped = ("alpha", "seed") if "seed" in hint else ("beta", "metadata")
    async with gateway(tmp_path) as gate:
        upstream = gate.first if model == "alpha" else gate.second
        body = {**ASK, "model": model, "stream": True, **hint}
        got = await answered_after(ping, 2, gate, upstream, path, body)
        before, _, after = got.partition(b": x-attune-dropped: " + dropped.encode())
        assert before.startswith(ping)
        assert b"Hello" not in before
        assert after.startswith(b"\n: x-attune-model: ")
        assert b"Hello" in after
        monkeypatch.setattr(answering, "PING_SECONDS", 60.0)
        at_once = await gate.post(path, body)
        assert b": x-attune" not in at_once.body
        assert dropped in at_once.headers["x-attune-dropped"]


async def test_a_failure_after_pings_ends_the_stream_with_an_error_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PING_SECONDS", 0.03)
    async with gateway(tmp_path, extra=NO_REPEATS) as gate:
        answer = Answer(status=400, error_message="too odd")
        body = {**ASK, "stream": True}
        whole = await answered_after(b"event: ping", 1, gate, gate.first, "/v1/messages", body, answer)
        last = whole.strip().rpartition(b"\n\n")[2]
        assert last.startswith(b"event: error\ndata: ")
        assert "too odd" in json.loads(last.partition(b"data: ")[2])["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("answer", [Answer(stall_head=True), Answer(stall_after=400)], ids=["head", "body"])
@anew_after_a_stall
async def test_a_client_that_goes_away_closes_the_upstream_at_once(
    tmp_path: Path, stream: bool, answer: Answer
) -> None:
    async with gateway(tmp_path) as gate:
        gate.second.default = answer
        asking = asyncio.create_task(gate.chat(stream=stream))
        seen = await gate.second.arrived()
        await seen.stalled.wait()
        for _ in range(100):  # until what is to come has come
            await asyncio.sleep(0)
        asking.cancel()
        gone = time.monotonic()
        async with asyncio.timeout(60):
            await seen.disconnected.wait()
        assert seen.disconnected_at is not None
        assert seen.disconnected_at - gone < 0.25
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.second.default = Answer()
        assert (await gate.chat()).status == 200  # and the breaker has taken no harm


async def test_a_secret_that_a_provider_repeats_is_taken_out_of_its_error(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        gate.second.default = lambda seen: Answer(
            status=400, error_message=f"what is {seen.headers['authorization']}?"
        )
        answer = await gate.chat()
        assert answer.status == 400
        assert b"canary" not in answer.body


async def test_a_model_that_the_provider_does_not_have_is_404(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        gate.second.default = Answer(
            status=404, error_code="model_not_found", error_type="invalid_request_error"
        )
        answer = await gate.chat()
        assert answer.status == 404
        assert answer.json["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("model", ["attune/cheap", "auto"])
async def test_a_whole_answer_that_breaks_half_way_is_made_by_another_candidate(
    tmp_path: Path, model: str
) -> None:
    async with gateway(tmp_path, extra="[call]\nretries = 0\n") as gate:
        chosen = gate.second if model == "attune/cheap" else gate.first
        chosen.default = Answer(text="a few words that are never finished", cut_after=800)
        answer = await gate.chat(model=model)
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"] == "Hello there, friend"
        first, *_, last = await gate.attempts(answer.headers["x-attune-call-id"])
        assert (first.error_class, last.success) == ("mid_stream", True)
