"""``attune up`` as a program of its own: how it starts, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from shutil import which
from typing import TYPE_CHECKING

import aiohttp
import pytest

from attune.gateway.server import GRACE_SECONDS
from attune.stores.sqlite import SqliteStore
from support.gateway import SECRETS, configuration
from support.program import Program
from support.up import up
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BODY = {"model": "alpha", "max_tokens": 9, "messages": [{"role": "user", "content": "a-secret-prompt"}]}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, upstream: FakeUpstream) -> Program:
    program = Program(tmp_path)
    program.environ |= SECRETS
    program.configure(configuration(upstream.url, upstream.url, upstream.url))
    return program


async def test_a_stream_under_way_is_finished_before_the_end_and_is_in_the_ledger(
    program: Program, upstream: FakeUpstream
) -> None:
    upstream.default = Answer(text="one two three four", between_s=0.1)
    async with up(program) as gate, aiohttp.ClientSession() as http:
        async with http.post(f"{gate.url}/v1/messages", json={**BODY, "stream": True}) as answer:
            assert answer.status == 200
            await answer.content.readany()
            gate.process.send_signal(signal.SIGTERM)
            rest = await answer.content.read()
            call_id = answer.headers["x-attune-call-id"]
        assert b"message_stop" in rest
        async with asyncio.timeout(60):
            _, err = await gate.process.communicate()
        assert gate.process.returncode == 0
        assert b"Traceback" not in err
    store = SqliteStore.open_readonly(program.home / "attune" / "data" / "ledger.db")
    record = store.attempts(call_id)[0]
    assert record.success
    assert record.usage is not None
    assert record.usage.output_tokens == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_at_once_when_nothing_is_under_way(program: Program, number: signal.Signals) -> None:
    async with up(program) as gate, aiohttp.ClientSession() as http:
        async with http.get(f"{gate.url}/health") as answer:  # its connection stays open
            assert answer.status == 200
        began = time.monotonic()
        code, _ = await gate.end(number)
        assert code == 0
        assert time.monotonic() - began < GRACE_SECONDS  # nobody was waited for


async def test_no_secret_and_no_prompt_is_in_any_log_metric_error_or_file(
    program: Program, upstream: FakeUpstream
) -> None:
    key = program("keys", "create", "canary").out.strip()
    headers = {"authorization": f"Bearer {key}"}
    upstream.then(
        Answer(),
        Answer(status=401, error_message="bad key canary-of-first-not-a-secret"),
        Answer(status=400, error_message="what is canary-of-first-not-a-secret?"),
    )
    seen: list[str] = []
    async with up(program, "--host", "127.0.0.1") as gate, aiohttp.ClientSession(headers=headers) as http:
        for path, body in (
            ("/v1/messages", BODY),
            ("/v1/messages", BODY),
            ("/v1/messages", BODY),
            (f"/v1/{key}?key={key}", BODY),
            ("/v1/chat/completions", {**BODY, "model": key}),
        ):
            async with http.post(gate.url + path, json=body) as answer:
                seen += [await answer.text(), str(answer.headers)]
        async with http.get(gate.url + "/metrics") as answer:
            seen.append(await answer.text())
        async with http.get(
            gate.url + "/v1/models", headers={"authorization": "Bearer " + key + "x"}
        ) as answer:
            assert answer.status == 401
            seen.append(await answer.text())
        code, err = await gate.end()
        assert code == 0
    seen.append(err)
    files = [each.read_bytes() for each in (program.home / "attune").rglob("*") if each.is_file()]
    for secret in (*SECRETS.values(), key, "a-secret-prompt"):
        assert not any(secret in text for text in seen), secret
        assert not any(secret.encode() in content for content in files), secret
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level"} <= set(lines[0])
    assert sum("call" in line for line in lines) == 7


def test_a_check_says_what_would_be_and_ends(program: Program) -> None:
    ended = program("up", "--check")
    assert ended.code == 0
    assert "attune gateway: http://127.0.0.1:4141" in ended.out
    assert "OPENAI_BASE_URL=http://127.0.0.1:4141/v1" in ended.out
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:4141 " in ended.out
    assert "attune keys create NAME" in ended.out
    assert program("keys", "create", "one").code == 0
    ended = program("up", "--check", "--json", "--port", "5000")
    assert json.loads(ended.out) == {
        "url": "http://127.0.0.1:5000",
        "providers": ["first", "second", "third"],
        "keys": True,
    }


def test_a_check_finds_a_mistake_in_the_configuration(program: Program) -> None:
    program.config_file.write_text(program.config_file.read_text() + "[gateway]\nprot = 1\n")
    ended = program("up", "--check")
    assert ended.code == 3
    assert "'port'" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--workers", "2"), "one process serves all"),
        (("--port", "0"), "between 1 and 65535"),
        (("--port", "70000"), "between 1 and 65535"),
        (("--host", "0.0.0.0"), "attune keys create"),
        (("--host", "no.such.host.invalid"), "attune keys create"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    program: Program, args: tuple[str, ...], says: str
) -> None:
    ended = program("up", *args)
    assert ended.code == 2
    assert says in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_port_that_is_taken_is_named(program: Program) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = program("up", "--port", str(port))
    assert ended.code == 2
    assert f"127.0.0.1:{port}" in ended.err
    assert "choose another --port" in ended.err


async def test_without_any_configuration_it_starts(tmp_path: Path) -> None:
    program = Program(tmp_path)
    async with up(program) as gate, aiohttp.ClientSession() as http:
        async with http.get(gate.url + "/health") as answer:
            assert answer.status == 200
        async with http.get(gate.url + "/ready") as answer:
            assert answer.status == (200 if gate.said["providers"] else 503)
        assert (await gate.end())[0] == 0


def test_an_alias_that_stands_for_nothing_is_found_at_the_start(program: Program) -> None:
    text = program.config_file.read_text()
    program.config_file.write_text(text + '[gateway.aliases]\n"mine" = "attune/cheep"\n')
    ended = program("up", "--check")
    assert ended.code == 3
    assert "[gateway.aliases] 'mine'" in ended.err
    assert "'attune/cheap'" in ended.err


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
async def test_curl_asks_and_streams_as_the_page_says(program: Program, upstream: FakeUpstream) -> None:
    key = program("keys", "create", "curl").out.strip()
    body = '{"model": "auto", "messages": [{"role": "user", "content": "hi"}]%s}'
    async with up(program) as gate:

        async def curl(*args: str) -> str:
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", "--max-time", "60", *args, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode()

        headers = ("-H", f"authorization: Bearer {key}", "-H", "content-type: application/json")
        url = f"{gate.url}/v1/chat/completions"
        whole = await curl(url, *headers, "-d", body % "")
        assert "choices" in whole, whole
        assert json.loads(whole)["choices"][0]["message"]["content"] == "Hello there, friend"
        streamed = await curl(url, "-N", *headers, "-d", body % ', "stream": true')
        assert streamed.rstrip().endswith("data: [DONE]")
        assert (await gate.end())[0] == 0
