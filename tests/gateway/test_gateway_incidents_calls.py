"""Calls as other gateways are known to have got them wrong; the table is in test_gateway_incidents."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sqlite3
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from attune.accounts import resource_of
from support import gateway as support
from support.gateway import gateway
from support.stalls import anew_after_a_stall
from support.upstream import Answer, sse

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

HI = [{"role": "user", "content": "hi"}]
ONCE = "[call]\nretries = 0\ndeadline_seconds = 60\n"
ANSWER_NANOS = 12 * 1000 + 7 * 5000
"""What the usual answer costs: 12 tokens in and 7 out."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def metric(gate: Gate, line: str) -> float:
    """The value of a metric; 0 where it was never counted."""
    text = (await gate.get("/metrics")).body.decode()
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


# -- attempts ----------------------------------------------------------------------------------------


async def test_a_second_429_does_not_shorten_the_wait_of_the_first(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=ONCE) as gate:
        long, short = asyncio.Event(), asyncio.Event()
        gate.second.then(
            Answer(status=429, headers={"retry-after": "900"}, held=long),
            Answer(status=429, headers={"retry-after": "1"}, held=short),
        )
        both = {asyncio.create_task(gate.chat()) for _ in range(2)}
        await gate.second.arrived(2)
        long.set()
        (first,), (second,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        short.set()
        answers = [await first, await second, await gate.chat()]
        assert [each.status for each in answers] == [429, 429, 429]
        assert int(answers[2].headers["retry-after"]) >= 600
        assert gate.asked == ["beta", "beta"]


@anew_after_a_stall
async def test_a_wait_of_107_seconds_is_told_and_not_cut_to_what_is_left_of_the_call(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[call]\nretries = 3\ndeadline_seconds = 60\n") as gate:
        gate.second.default = Answer(status=429, headers={"retry-after": "107"})
        began = time.monotonic()
        answer = await gate.chat()
        assert time.monotonic() - began < 5
        assert (answer.status, gate.asked) == (429, ["beta"])
        assert 100 <= int(answer.headers["retry-after"]) <= 108


async def test_retries_of_the_client_and_of_the_gateway_do_not_multiply(tmp_path: Path) -> None:
    """Both official clients try thrice on their own, by status alone; the gateway has tried for them."""
    extra = "[call]\nretries = 3\nmax_attempts = 4\n[breaker]\nfailure_threshold = 1000\n"
    async with gateway(tmp_path, extra=extra) as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(status=500)
        async with gate.openai(max_retries=2) as client:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="auto", messages=HI)
        assert len(gate.asked) <= 4
        async with gate.anthropic(max_retries=2) as client:
            with pytest.raises(anthropic.InternalServerError):
                await client.messages.create(model="auto", max_tokens=5, messages=HI)
        assert len(gate.asked) <= 8


@pytest.mark.parametrize("stream", [True, False])
async def test_twenty_five_errors_in_a_row_do_not_stay_in_rotation(tmp_path: Path, stream: bool) -> None:
    async with gateway(tmp_path, extra=ONCE) as gate:
        gate.first.default = Answer(status=500)
        for number in range(25):
            answer = await gate.chat("auto", {"x-attune-workflow": str(number)}, stream=stream)
            assert answer.status == 200
            assert answer.headers["x-attune-model"] != "first/alpha"
        assert len(gate.first.received) <= 5


async def test_one_failure_of_one_call_takes_nothing_out_of_rotation(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=ONCE) as gate:
        gate.second.then(Answer(status=500))
        assert (await gate.chat()).status >= 500
        assert (await gate.chat()).status == 200


async def test_hundreds_of_calls_at_once_wait_for_no_place_and_trip_nothing(tmp_path: Path) -> None:
    """None is answered before more have arrived than the pool of a client has places, usually 100."""
    async with gateway(tmp_path, extra="[call]\nretries = 0\nconnect_seconds = 60\n") as gate:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=150)) as gate.http:
            gate.second.default = Answer(held=(all_here := asyncio.Event()))
            asking = [asyncio.create_task(gate.chat(stream=bool(n % 2))) for n in range(300)]
            await gate.second.arrived(150)
            all_here.set()
            answers = await asyncio.gather(*asking)
        assert {each.status for each in answers} == {200}
        assert len({each.headers["x-attune-call-id"] for each in answers}) == len(gate.asked) == 300
        assert gate.runtime.domains.quiet


async def test_a_probe_that_its_client_cancels_neither_closes_the_circuit_nor_holds_it_half_open(
    tmp_path: Path,
) -> None:
    extra = f"{ONCE}[breaker]\nfailure_threshold = 2\nrecovery_timeout_seconds = 1\n"
    async with gateway(tmp_path, extra=extra) as gate:
        gate.second.then(Answer(status=500), Answer(status=500))
        for _ in range(2):
            await gate.chat()
        gate.second.default = Answer(stall_head=True)
        async with asyncio.timeout(60):
            while True:  # until one is let through as a probe, or as a last resort
                probe = asyncio.create_task(gate.chat())
                arrived = asyncio.create_task(gate.second.arrived(3))
                await asyncio.wait({probe, arrived}, return_when=asyncio.FIRST_COMPLETED)
                if arrived.done():
                    break
                arrived.cancel()
        probe.cancel()
        await arrived.result().disconnected.wait()
        gate.second.default = Answer()
        async with asyncio.timeout(60):
            while (await gate.chat()).status != 200:
                await asyncio.sleep(0.05)
        await asyncio.gather(probe, return_exceptions=True)
        assert (await gate.chat()).status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_was_named_is_not_replaced_by_another(tmp_path: Path, stream: bool) -> None:
    async with gateway(tmp_path, extra=ONCE) as gate:
        gate.first.default = Answer(status=529, error_type="overloaded_error")
        named = await gate.chat("alpha", stream=stream)
        assert named.status == 503
        assert set(gate.asked) == {"alpha"}
        auto = await gate.chat("auto", stream=stream)
        served = auto.headers["x-attune-model"].partition("/")[2]
        assert served == gate.asked[-1] != "alpha"
        assert set(re.findall(rb'"model": ?"([^"]*)"', auto.body)) == {served.encode()}
        records = await gate.attempts(auto.headers["x-attune-call-id"])
        assert records[-1].model_id == served


async def test_overloads_in_the_middle_of_streams_are_counted_as_failures(tmp_path: Path) -> None:
    overload = sse({"type": "error", "error": {"type": "overloaded_error", "message": ""}}, "error")
    async with gateway(tmp_path, extra=f"{ONCE}[breaker]\nfailure_threshold = 1000\n") as gate:
        begun = Answer(text="Hello there, friend" * 10, cut_after=700, cut_by="clean")
        for broken in (Answer(body=overload, content_type="text/event-stream"), begun):
            gate.first.default = broken
            for path in ("/v1/messages", "/v1/chat/completions"):
                body = {"model": "alpha", "max_tokens": 5, "messages": HI, "stream": True}
                answer = await gate.post(path, body)
                assert answer.status >= 500 or b'"error"' in answer.body
                (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
                assert (record.success, record.error_class) == (False, "mid_stream")
        labels = 'attune_attempts_total{model="alpha",outcome="%s",provider="first"}'
        assert await metric(gate, labels % "mid_stream") == 4
        assert await metric(gate, labels % "success") == 0


# -- money -------------------------------------------------------------------------------------------

CACHED = (
    ("alpha", {"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 10}),
    (
        "beta",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_tokens_details": {"cached_tokens": 900},
        },
    ),
    (
        "gamma",
        {
            "input_tokens": 1000,
            "output_tokens": 10,
            "total_tokens": 1010,
            "input_tokens_details": {"cached_tokens": 900},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    ),
)
"""The same call as each protocol reports it: 1,000 tokens in, of which 900 were read from the cache."""


def told(usage: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens in all, those of the cache and those out, of what a client of any protocol is told."""
    if "prompt_tokens" in usage:
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return usage["prompt_tokens"], cached, usage["completion_tokens"]
    if "cache_read_input_tokens" in usage:
        cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + cached, cached, usage["output_tokens"]
    return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"], usage["output_tokens"]


async def test_cached_tokens_are_told_and_billed_once_at_every_door(tmp_path: Path) -> None:
    costs = set()
    async with gateway(tmp_path) as gate:
        for upstream, (model, usage) in zip(gate.upstreams, CACHED, strict=True):
            upstream.default = Answer(usage=usage)
            for path, body in (
                ("/v1/chat/completions", {"messages": HI}),
                ("/v1/messages", {"messages": HI, "max_tokens": 20}),
                ("/v1/responses", {"input": "hi"}),
            ):
                answer = await gate.post(path, {"model": model, **body})
                assert told(answer.json["usage"]) == (1000, 900, 10), (path, model)
                (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
                assert answer.headers["x-attune-cost-usd"] == f"{record.cost_nanos / 1e9:.9f}"
                costs.add(record.cost_nanos)
    assert len(costs) == 1
    assert costs.pop() <= 1000 * 1000 + 10 * 5000


async def test_a_stream_without_usage_is_not_free(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {"limits": (None, None, 1.0)}}) as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(usage={})
        for model in ("alpha", "beta", "gamma"):
            answer = await gate.chat(model, bearer(gate.secrets["mine"]), stream=True, max_tokens=50)
            (record,) = await gate.attempts(answer.headers["x-attune-call-id"])
            assert (record.success, str(record.cost_status)) == (True, "estimated")
            assert record.cost_nanos >= len("Hello there, friend") // 4 * 5000
        assert await metric(gate, 'attune_cost_usd_total{model="beta",provider="second"}') > 0
        assert spent(gate, "mine") == gate.runtime.store.totals().cost_nanos > 0


def spent(gate: Gate, name: str) -> int:
    """What the budget of a key has been charged with today, in nano-dollars."""
    key = next(each for each in gate.runtime.store.all_keys() if each.name == name)
    return gate.runtime.store.used(resource_of(key.id, "day"), time.time() - 86_400)


async def test_a_repeated_attempt_is_billed_once(tmp_path: Path) -> None:
    extra, keys = "[call]\nretries = 2\n", {"mine": {"limits": (None, None, 1.0)}}
    async with gateway(tmp_path, keys=keys, extra=extra) as gate:
        for stream in (False, True):
            gate.second.then(Answer(status=500), Answer(status=503), Answer())
            answer = await gate.chat(headers=bearer(gate.secrets["mine"]), stream=stream, max_tokens=50)
            assert answer.status == 200
            records = await gate.attempts(answer.headers["x-attune-call-id"])
            assert [each.success for each in records] == [False, False, True]
            assert [each.cost_nanos or 0 for each in records] == [0, 0, ANSWER_NANOS]
        await gate.runtime.store.flush()
        assert spent(gate, "mine") == gate.runtime.store.totals().cost_nanos == 2 * ANSWER_NANOS


async def test_a_budget_is_not_passed_by_many_calls_at_once(tmp_path: Path) -> None:
    limit = 0.002
    async with gateway(tmp_path, keys={"poor": {"limits": (None, None, limit)}}) as gate:
        usage = {"prompt_tokens": 12, "completion_tokens": 90, "total_tokens": 102}
        gate.second.default = Answer(usage=usage, head_s=0.05)
        poor = bearer(gate.secrets["poor"])
        answers = await asyncio.gather(*(gate.chat(headers=poor, max_tokens=90) for _ in range(40)))
        assert {each.status for each in answers} == {200, 402}
        await gate.runtime.store.flush()
        assert 0 < gate.runtime.store.totals().cost_nanos == spent(gate, "poor") <= limit * 1e9


async def test_a_client_that_hangs_up_has_not_had_its_tokens_for_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {"limits": (None, None, 1.0)}}) as gate:
        gate.second.default = Answer(text="Hello there, friend " * 40, stall_after=1200)
        headers, body = bearer(gate.secrets["mine"]), {"model": "beta", "messages": HI, "stream": True}
        async with gate.http.post(f"{gate.url}/v1/chat/completions", json=body, headers=headers) as answer:
            call_id = answer.headers["x-attune-call-id"]
            await answer.content.readany()
            answer.close()
        await gate.second.received[0].disconnected.wait()
        async with asyncio.timeout(60):
            while not (records := await gate.attempts(call_id)):
                await asyncio.sleep(0.01)
        assert records[0].error_class == "cancelled"
        assert str(records[0].cost_status) == "estimated"
        assert spent(gate, "mine") == records[0].cost_nanos > 0


# -- what hangs --------------------------------------------------------------------------------------


async def test_a_ledger_that_is_locked_is_no_bad_key_and_holds_up_no_answer(tmp_path: Path) -> None:
    """Only who has a limit that it keeps is refused, within the time of the call: never let in unseen."""
    keys = {"mine": {}, "limited": {"limits": (None, None, 1.0)}}
    async with gateway(tmp_path, keys=keys) as gate:
        headers = bearer(gate.secrets["mine"])
        await gate.chat(headers=headers)
        patient = gate.runtime.store._writer.submit(lambda to: to.execute("PRAGMA busy_timeout = 600000"))
        await asyncio.wrap_future(patient)  # else it gives up after 10 s, and says so to who waits
        other = sqlite3.connect(gate.runtime.config.paths.ledger_file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            answers, took = [], []
            for n in range(20):
                began = time.monotonic()
                answers.append(await gate.chat(headers=headers, stream=bool(n % 2)))
                took.append(time.monotonic() - began)
            assert {each.status for each in answers} == {200}
            assert median(took) < 0.5  # a machine that stands still now and then does not decide it
            assert (await gate.chat(headers=bearer("attune-" + "x" * 43))).status == 401
            gate.runtime.executor.limits = gate.runtime.executor.limits._replace(deadline_s=1.0)
            async with asyncio.timeout(60):
                assert (await gate.chat(headers=bearer(gate.secrets["limited"]))).status == 504
            assert len(gate.asked) == 21
        finally:
            other.execute("ROLLBACK")
            other.close()
        for each in answers:
            assert len(await gate.attempts(each.headers["x-attune-call-id"])) == 1


@anew_after_a_stall
@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages", "/v1/chat/completions"])
async def test_a_prompt_of_a_megabyte_holds_up_nobody_else(tmp_path: Path, path: str) -> None:
    texts = ("a" * 1_000_000, "word " * 200_000, "\N{GREEK SMALL LETTER PI}\N{PARTY POPPER}" * 170_000)
    async with gateway(tmp_path) as gate:
        await gate.post(path, {"model": "alpha", "max_tokens": 5, "messages": HI})
        longest = 0.0
        for text in texts:
            body = {"model": "alpha", "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
            sent = io.BytesIO(json.dumps(body).encode())
            large = asyncio.create_task(status_of(gate, path, sent))
            while not large.done():
                before = time.monotonic()
                assert (await gate.get("/health")).status == 200
                longest = max(longest, time.monotonic() - before)
            assert await large in {200, 400}  # too long for the model, if it is many words
    assert longest < 0.5


async def status_of(gate: Gate, path: str, body: io.BytesIO) -> int:
    async with gate.http.post(gate.url + path, data=body) as answer:
        await answer.read()
        return answer.status


async def test_a_connection_that_waits_is_not_closed_before_its_client_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a request that is sent just then fails, as a reset that no client may repeat by itself."""
    loop, waits = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def watched(delay: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
        if getattr(callback, "__name__", "") == "timeout_keep_alive_handler":
            waits.append(delay)
        return call_later(delay, callback, *args, **options)

    monkeypatch.setattr(loop, "call_later", watched)
    async with gateway(tmp_path) as gate:
        await gate.chat()
        await gate.chat(stream=True)
    assert len(waits) >= 2
    assert min(waits) > 90


async def test_the_turns_of_a_session_stay_where_its_prompt_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = tuple((model, provider, "capable") for model, provider, _ in support.MODELS)
    monkeypatch.setattr(support, "MODELS", alike)
    routing = '[routing]\npolicy = "best"\nallow_providers = ["first", "second", "third"]\n'
    monkeypatch.setattr(support, "_REST", routing)
    served: dict[int, list[str]] = {}
    async with gateway(tmp_path) as gate:
        for _ in range(10):
            for session in range(20):
                headers = {"x-claude-code-session-id": f"session-{session}"}
                answer = await gate.chat("auto", headers, stream=bool(session % 2))
                served.setdefault(session, []).append(answer.headers["x-attune-model"])
    stayed = sum(max(each.count(model) for model in set(each)) for each in served.values())
    assert stayed >= 0.97 * 200
    assert len({each[0] for each in served.values()}) > 1, "and no provider has them all"
