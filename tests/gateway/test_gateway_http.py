"""HTTP as such: who is answered, what is too large, and the paths beside the doors."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sqlite3
from typing import TYPE_CHECKING

import pytest

from attune.errors import StoreError
from attune.gateway.http import Request, is_loopback
from attune.gateway.log import JSONLines
from support.gateway import gateway
from support.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


def request_of(path: str, host: str, body: bytes = b"", more: bytes = b"", method: bytes = b"POST") -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bconnection: close\r\n\r\n%b" % (
        method,
        path.encode(),
        host.encode(),
        length,
        more,
        body,
    )


def answered(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "169.254.1.1", "localhost.evil:4141", "", "[::2]:80"]
)
async def test_without_keys_no_other_name_for_this_machine_is_answered(tmp_path: Path, host: str) -> None:
    async with gateway(tmp_path) as gate:
        for path in (CHAT, "/v1/models", "/metrics"):
            method = b"POST" if path == CHAT else b"GET"
            status, _, body = answered(await gate.raw(request_of(path, host, b"{}", method=method)))
            assert status == 403
            assert "only this machine" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:4141", "127.0.0.1", "127.0.0.2:80", "[::1]:4141"])
async def test_every_name_of_this_machine_is_answered(tmp_path: Path, host: str) -> None:
    async with gateway(tmp_path) as gate:
        assert answered(await gate.raw(request_of("/v1/models", host, method=b"GET")))[0] == 200


async def test_without_keys_no_web_page_is_answered(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:8000"):
            answer = await gate.chat(headers={"origin": origin})
            assert answer.status == 403
            assert "web pages" in answer.json["error"]["message"]
        assert gate.asked == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"", "the body is empty"),
        (b"[]", "object"),
        (b'"\xff"', ""),
        (b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}', "model"),
        (b'{"model": "alpha", "max_tokens": 5}', "messages"),
        (b'{"model": "alpha", "max_tokens": 5, "messages": []}', "messages"),
        (b'{"model": "alpha", "max_tokens": 5, "messages": "hi"}', "messages"),
        (b'{"model": 7, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}', "model"),
        (
            b'{"model": "alpha", "max_tokens": "x", "messages": [{"role": "user", "content": "hi"}]}',
            "max_tokens",
        ),
        (b"[" * 5000, ""),
    ],
)
async def test_a_body_that_makes_no_sense_is_400_in_one_sentence(
    tmp_path: Path, body: bytes, says: str
) -> None:
    async with gateway(tmp_path) as gate:
        chat, messages = await gate.post(CHAT, body), await gate.post(MESSAGES, body)
        assert chat.status == messages.status == 400
        assert messages.json["error"]["type"] == chat.json["error"]["type"] == "invalid_request_error"
        for answer in (chat, messages):
            assert says in answer.json["error"]["message"]
            assert "\n" not in answer.json["error"]["message"]
        assert gate.asked == []


async def test_a_body_above_the_cap_is_413_whether_its_length_is_said_or_not(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[gateway]\nmax_body_mib = 1\n") as gate:
        body = json.dumps({"model": "beta", "messages": [{"role": "user", "content": "x" * 2**20}]}).encode()

        async def pieces() -> AsyncIterator[bytes]:
            yield body[: 2**19]
            yield body[2**19 :]

        for data in (io.BytesIO(body), pieces()):
            async with gate.http.post(gate.url + CHAT, data=data) as answer:
                assert answer.status == 413
                assert "above 1 MiB" in (await answer.json())["error"]["message"]
        assert gate.asked == []


async def test_a_large_body_within_the_cap_arrives_whole(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        text = "x" * 300_000
        answer = await gate.chat(messages=[{"role": "user", "content": text}])
        assert answer.status == 200
        assert gate.second.received[0].body["messages"][0]["content"] == text


async def test_a_compressed_body_is_refused(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.post(CHAT, b"\x1f\x8b", {"content-encoding": "gzip"})
        assert answer.status == 415
        assert "plain" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"x" * 400_000,
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /" + b"x" * 400_000,
        b"POST /health HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n" + b"x" * 400_000,
    ],
    ids=["a long header", "many headers", "a long path", "an endless path", "a header without a name"],
)
async def test_a_head_above_the_cap_is_431_or_400_and_the_connection_is_closed(
    tmp_path: Path, head: bytes
) -> None:
    async with gateway(tmp_path) as gate:
        raw = await gate.raw(head)
        if raw:  # else the client was hung up on while it was still writing
            status, headers, body = answered(raw)
            assert status == 431
            assert int(headers["content-length"]) == len(body)
            assert "above 64 KiB" in json.loads(body)["error"]["message"]
        assert (await gate.get("/health")).status == 200


async def test_endless_trailers_end_the_connection(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        head = request_of(CHAT, "localhost").replace(b"content-length: 0", b"transfer-encoding: chunked")
        raw = await gate.raw(head + b"2\r\n{}\r\n0\r\nx-trailer: " + b"x" * 1_000_000)
        assert raw == b"" or answered(raw)[0] in {400, 431}


async def test_what_is_no_http_is_400_in_json(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        status, headers, body = answered(await gate.raw(b"hello there\r\n\r\n"))
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["error"]["message"]


async def test_requests_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    body = json.dumps({"model": "beta", "messages": [{"role": "user", "content": "x" * 60_000}]}).encode()
    async with gateway(tmp_path) as gate:
        one = request_of(CHAT, "localhost", body).replace(b"connection: close\r\n", b"")
        last = request_of("/v1/models", "localhost", method=b"GET")
        raw = await gate.raw(one * 3 + last)
        assert raw.count(b"HTTP/1.1 200 OK") == 4
        assert gate.asked == ["beta"] * 3


async def test_an_unknown_path_is_404_with_the_nearest(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for path, nearest in (
            ("/v1/chat/completion", CHAT),
            ("/v1/message", MESSAGES),
            ("/metric", "/metrics"),
        ):
            answer = await gate.post(path, b"{}")
            assert answer.status == 404
            assert nearest in answer.json["error"]["message"]
        assert (await gate.get("/")).status == 404
        shaped = await gate.get("/v1/model", {"anthropic-version": "2023-06-01"})
        assert shaped.json["type"] == "error"


async def test_a_wrong_method_is_405_and_says_which_is_right(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for path in (CHAT, MESSAGES, "/v1/responses", "/v1/messages/count_tokens", "/v1/attune/outcomes"):
            answer = await gate.get(path)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
            assert "takes POST, not GET" in json.dumps(answer.json)
        for path in ("/v1/models", "/metrics", "/health", "/ready", "/v1/attune/decisions/x"):
            answer = await gate.post(path, b"")
            assert (answer.status, answer.headers["allow"]) == (405, "GET")


async def test_a_header_of_ours_that_is_too_long_is_431(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        assert (await gate.chat(headers={"x-attune-workflow": "w" * 2000})).status == 431
        answer = await gate.get("/v1/models", {"anthropic-version": "2" * 2000})
        assert (answer.status, answer.json["type"]) == (431, "error")


async def test_health_and_readiness_need_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"one": {}}) as gate:
        assert (await gate.get("/health")).json == {"status": "ok"}
        assert (await gate.get("/ready")).json == {"status": "ok"}
        assert (await gate.raw(request_of("/health", "evil.example", method=b"HEAD"))).startswith(
            b"HTTP/1.1 200"
        )


async def test_a_gateway_that_nobody_can_be_asked_through_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        store = gate.runtime.store
        await asyncio.wrap_future(store._writer.submit(lambda to: to.execute("PRAGMA busy_timeout = 0")))
        other = sqlite3.connect(gate.runtime.config.paths.ledger_file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            await gate.chat()  # its record is kept, and the writer goes on trying
            with pytest.raises(StoreError, match="another process"):
                await store.flush()
            answer = await gate.get("/ready")
            assert (answer.status, answer.json["why"]) == (503, ["the ledger cannot be written"])
            assert (await gate.get("/health")).status == 200
        finally:
            other.execute("ROLLBACK")
            other.close()
        async with asyncio.timeout(60):
            while (await gate.get("/ready")).status != 200:
                await asyncio.sleep(0.05)


async def test_metrics_count_requests_attempts_tokens_and_dollars_by_names_that_no_client_chose(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as gate:
        gate.second.then(Answer(), Answer(status=400))
        await gate.chat()
        await gate.chat()
        await gate.chat("a-name-that-a-client-chose", {"x-attune-workflow": "a-workflow"})
        await gate.get("/a/path/that-a-client-chose")
        text = (await gate.get("/metrics")).body.decode()
        lines = set(text.splitlines())
        assert f'attune_requests_total{{outcome="complete",path="{CHAT}",status="200"}} 1.0' in lines
        assert f'attune_requests_total{{outcome="complete",path="{CHAT}",status="404"}} 1.0' in lines
        assert 'attune_requests_total{outcome="complete",path="other",status="404"} 1.0' in lines
        assert 'attune_attempts_total{model="beta",outcome="success",provider="second"} 1.0' in lines
        assert 'attune_attempts_total{model="beta",outcome="caller",provider="second"} 1.0' in lines
        assert 'attune_tokens_total{kind="output",model="beta",provider="second"} 7.0' in lines
        assert 'attune_cost_usd_total{model="beta",provider="second"} 4.7e-05' in lines
        assert "client-chose" not in text
        assert "a-workflow" not in text


async def test_a_request_is_logged_as_one_line_of_json_without_its_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway(tmp_path) as gate:
        answer = await gate.chat(messages=[{"role": "user", "content": "a-prompt\nof two lines"}])
        await gate.get("/other?secret=in-the-query")
    lines = [JSONLines().format(record) for record in caplog.records if record.name == "attune.gateway"]
    first = json.loads(lines[0])
    assert first["call"] == answer.headers["x-attune-call-id"]
    assert (first["path"], first["status"], first["model"]) == (CHAT, 200, "second/beta")
    assert (json.loads(lines[1])["path"], json.loads(lines[1])["status"]) == ("other", 404)
    assert not any("\n" in line or "a-prompt" in line or "in-the-query" in line for line in lines)


async def test_a_defect_is_told_as_such_and_logged_without_a_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Request, name: str) -> str:
        raise ZeroDivisionError("with sk-proj-0123456789abcdef in its text")  # not-a-secret

    async with gateway(tmp_path) as gate:
        with monkeypatch.context() as patch:
            patch.setattr(Request, "header", fail)
            answer = await gate.chat()
        assert answer.status == 500
        assert "ZeroDivision" not in answer.body.decode()
        assert (await gate.chat()).status == 200
    line = JSONLines().format(next(each for each in caplog.records if each.exc_info))
    assert "ZeroDivisionError" in json.loads(line)["trace"]
    assert "0123456789abcdef" not in line


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost.", True),
        ("0.0.0.0", False),
        ("x", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def test_a_body_beside_an_upgrade_is_refused_and_never_taken_for_a_request(tmp_path: Path) -> None:
    inner = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: h2c\r\n"
        b"content-length: %d\r\n\r\n" % len(inner)
    )
    async with gateway(tmp_path) as gate:
        answer = await gate.raw(head + inner)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"upgrade" in answer
        assert answer.count(b"HTTP/1.1 ") == 1
        plain = await gate.raw(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, close\r\nupgrade: h2c\r\n\r\n"
        )
        assert plain.startswith(b"HTTP/1.1 200")
