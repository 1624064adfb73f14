"""How an answer ends that is not simply complete: its client leaves, it breaks, or the gateway is ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from attune.gateway import server
from attune.stores.sqlite import SqliteStore
from support.gateway import SECRETS, configuration, gateway
from support.program import Program
from support.up import up
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
ASK = {"model": "beta", "max_tokens": 900, "messages": HI}
LONG = "Hello there, friend " * 40


def request(path: str = CHAT, body: Any = ASK, headers: str = "") -> bytes:
    """A request as it is written on a connection."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def counted(gate: Gate, outcome: str, number: int) -> None:
    """Wait until so many requests have ended like this."""
    wanted = f'attune_requests_total{{outcome="{outcome}",path="{CHAT}"'.encode()
    async with asyncio.timeout(60):
        while True:
            lines = (await gate.get("/metrics")).body.splitlines()
            if any(each.startswith(wanted) and each.endswith(b" %d.0" % number) for each in lines):
                return
            await asyncio.sleep(0.01)


async def refuses_connections(url: str) -> None:
    """Wait until the gateway has begun to end."""
    host, port = url.removeprefix("http://").split(":")
    async with asyncio.timeout(60):
        with suppress(OSError):
            while True:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                await asyncio.sleep(0.01)


def logged(caplog: pytest.LogCaptureFixture, path: str) -> list[dict[str, Any]]:
    """The lines of requests for a path."""
    lines = [each.msg for each in caplog.records if isinstance(each.msg, dict)]
    return [each for each in lines if each["path"] == path]


# -- the client leaves ------------------------------------------------------------------------------


async def test_a_stream_that_its_client_leaves_counts_the_tokens_that_the_ledger_has_of_it(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, keys={"one": {"limits": (None, 2000)}}) as gate:
        gate.second.default = Answer(text=LONG, stall_after=1200)
        headers = {"authorization": f"Bearer {gate.secrets['one']}"}
        for number in (1, 2, 3):  # each may take 900 tokens, and has given some 100 of them
            async with gate.http.post(
                gate.url + CHAT, json=ASK | {"stream": True}, headers=headers
            ) as answer:
                assert answer.status == 200
                await answer.content.readany()
                answer.close()
            await counted(gate, "left", number)
        gate.second.default = Answer()
        assert (await gate.chat(headers=headers, max_tokens=900)).status == 200


async def test_a_call_that_is_left_before_anything_has_come_counts_what_it_may_have_taken(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, keys={"one": {"limits": (None, 2000)}}) as gate:
        gate.second.default = Answer(stall_head=True)
        headers = {"authorization": f"Bearer {gate.secrets['one']}"}
        for number, stream in ((1, True), (2, False)):
            asking = asyncio.create_task(gate.chat(headers=headers, max_tokens=900, stream=stream))
            await gate.second.arrived(number)
            asking.cancel()
            await counted(gate, "left", number)
        assert (await gate.chat(headers=headers, max_tokens=900)).status == 429


@pytest.mark.parametrize("together", [True, False])
async def test_a_client_that_leaves_with_another_request_waiting_is_noticed(
    tmp_path: Path, together: bool
) -> None:
    async with gateway(tmp_path) as gate:
        gate.second.default = Answer(stall_head=True)
        host, port = gate.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request() + (request() if together else b""))
        seen = await gate.second.arrived()
        for _ in range(0 if together else 2):
            writer.write(request())
            await writer.drain()
        writer.close()
        async with asyncio.timeout(30):
            await seen.disconnected.wait()
        await counted(gate, "left", 1)
        assert gate.asked == ["beta"]


@pytest.mark.parametrize("padding", [0, 300_000])
async def test_requests_on_one_connection_are_answered_in_their_order(tmp_path: Path, padding: int) -> None:
    """Whatever comes of them while the first is being answered, and in which pieces."""
    last = request(body={**ASK, "metadata": {"padding": "x" * padding}}, headers="connection: close\r\n")
    async with gateway(tmp_path) as gate:
        held = asyncio.Event()
        gate.second.then(Answer(text="one", held=held), Answer(text="two"), Answer(text="three"))
        host, port = gate.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request())
        await gate.second.arrived()
        writer.write(request() + last[:100])
        await writer.drain()
        assert (await gate.get("/health")).status == 200  # the gateway has had time to read it
        writer.write(last[100:])
        held.set()
        async with asyncio.timeout(60):
            answers = await reader.read()
        writer.close()
        assert answers.count(b"HTTP/1.1 200") == 3
        assert answers.index(b'"one"') < answers.index(b'"two"') < answers.index(b'"three"')


# -- an answer breaks -------------------------------------------------------------------------------


async def test_a_stream_that_breaks_is_logged_and_counted_as_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "attune.gateway")
    async with gateway(tmp_path) as gate:
        gate.second.then(Answer(text=LONG, cut_after=1200), Answer())
        answers = [await gate.chat(stream=True) for _ in range(2)]
        assert [each.status for each in answers] == [200, 200]
        await counted(gate, "broken", 1)
        await counted(gate, "complete", 1)
    told = [(each["status"], each["outcome"]) for each in logged(caplog, CHAT)]
    assert told == [(200, "broken"), (200, "complete")]


# -- the gateway is ended ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "model", "error_type"),
    [(CHAT, "beta", "server_error"), (MESSAGES, "alpha", "overloaded_error"), (MESSAGES, "beta", None)],
)
@pytest.mark.parametrize("begun", [False, True])
async def test_what_takes_longer_than_the_grace_is_told_so_in_the_clients_shape_and_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    model: str,
    error_type: str | None,
    begun: bool,
) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    caplog.set_level(logging.INFO)
    async with gateway(tmp_path) as gate:
        for upstream in gate.upstreams:
            upstream.default = Answer(text=LONG, stall_after=1200) if begun else Answer(stall_head=True)
        upstream = gate.first if model == "alpha" else gate.second
        asking = asyncio.create_task(gate.post(path, {**ASK, "model": model, "stream": begun}))
        seen = await upstream.arrived()
        if begun:
            await seen.stalled.wait()
            await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            answer = await asking
            await gate.serving
    line = logged(caplog, path)[0]
    if begun and answer.status == 200:
        last = answer.body.rstrip().rpartition(b"\n\n")[2]
        assert (b"event: error" in last) == (path == MESSAGES)
        assert b"the gateway was asked to end" in last
        assert b"[DONE]" not in answer.body
        assert (line["status"], line["outcome"]) == (200, "broken")
    else:
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "the gateway was asked to end" in answer.json["error"]["message"]
        assert error_type is None or answer.json["error"]["type"] == error_type
        assert (answer.json.get("type") == "error") == (path == MESSAGES)
        assert (line["status"], line["outcome"]) == (503, "complete")
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
    store = SqliteStore.open_readonly(gate.runtime.config.paths.ledger_file)
    assert [each.error_class for each in store.recent_attempts(9)] == ["cancelled"]


async def test_a_body_that_does_not_come_is_not_waited_for_beyond_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    async with gateway(tmp_path) as gate:
        begun = [request(path)[:-5] for path in (MESSAGES, "/v1/messages/count_tokens", CHAT)]
        asking = [asyncio.create_task(gate.raw(each)) for each in begun]
        async with asyncio.timeout(60):
            while sum("run_asgi" in repr(each) for each in asyncio.all_tasks()) < len(begun):
                await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        for number, answer in enumerate(await asyncio.gather(*asking)):
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert (b'"overloaded_error"' in answer) == (number < 2)


async def test_a_second_signal_ends_a_stream_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 600)
    async with gateway(tmp_path) as gate:
        gate.first.default = Answer(text=LONG, stall_after=1200)
        body = {**ASK, "model": "alpha", "stream": True}
        async with gate.http.post(gate.url + MESSAGES, json=body) as answer:
            await answer.content.readany()
            os.kill(os.getpid(), signal.SIGTERM)
            await refuses_connections(gate.url)
            assert not gate.serving.done()
            os.kill(os.getpid(), signal.SIGINT)
            async with asyncio.timeout(60):
                assert b"event: error" in await answer.content.read()
                await gate.serving


async def test_a_client_that_does_not_read_does_not_keep_the_gateway_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(server, "LAST_SECONDS", 600)
    async with gateway(tmp_path) as gate:
        gate.second.default = Answer(text="word " * 2_000_000)
        host, port = gate.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
        writer.write(request(body=ASK | {"stream": True}))
        await reader.readline()
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await gate.serving
        writer.close()


async def test_signals_during_the_last_flush_lose_no_record(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        program = Program(tmp_path)
        program.environ |= SECRETS
        program.configure(configuration(upstream.url, upstream.url, upstream.url))
        ledger = program.home / "attune" / "data" / "ledger.db"
        async with up(program) as gate, aiohttp.ClientSession() as http:
            with closing(sqlite3.connect(ledger, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # so the flush lasts until this ends
                async with http.post(gate.url + CHAT, json=ASK) as answer:
                    assert answer.status == 200
                    call_id = answer.headers["x-attune-call-id"]
                gate.process.send_signal(signal.SIGTERM)
                await refuses_connections(gate.url)
                for number in (signal.SIGTERM, signal.SIGINT) * 10:
                    await asyncio.sleep(0.01)  # the writer waits for the lock for 10 s alone
                    if gate.process.returncode is None:
                        gate.process.send_signal(number)
                assert gate.process.returncode is None
                other.execute("ROLLBACK")
            async with asyncio.timeout(60):
                _, err = await gate.process.communicate()
            assert gate.process.returncode == 0, err
            assert b"Traceback" not in err
    assert SqliteStore.open_readonly(ledger).attempts(call_id)[0].success
