"""Secrets and prompts that leave the gateway by a side door: each is a canary, and is searched for in every
place where nobody should find it, after good and bad traffic of every kind.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from attune.gateway.log import log_step
from support.canaries import files_below, forms, leaks, seen_in_proc
from support.gateway import configuration
from support.program import Program
from support.up import up
from support.upstream import Answer, FakeUpstream, Received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

KEYS = {
    "key of first": "fK7-canary-first-Zq81",
    "key of second": "sL2-canary-second-Xw64",  # in a file
    "key of third": "tM9-canary-third-Yv35",
    "callers own key": "cN5-canary-callers-Ub72",  # a provider's, sent along with ours
}
TEXTS = {
    "system": "canary system Ha41 \N{BLACK STAR}",
    "prompt": "canary prompt Jb52 \N{BLACK STAR}",
    "tool": "canary tool description Kc63",
    "arguments": "canary arguments Ld74",
    "result": "canary result Me85",
    "image": "canary image Nf96",
    "answer": "canary answer Og07 \N{BLACK STAR}",
    "thinking": "canary thinking Ph18",
    "called with": "canary called Qi29",
    "user": "canary user Rj30",
    "cookie": "canary-cookie-Sk41",
    "query": "canary-query-Tl52",
    "model": "canary-model-Um63",
    "name": "canary-workflow-Vn74",
    "session": "canary-session-Wo85",
}
KEPT = ("name", "session")
"""What a caller may ask the ledger to remember; in no log and no metric all the same."""

RULES = "[call]\nretries = 0\ndeadline_seconds = 60\n[breaker]\nfailure_threshold = 1000\n"
PICTURE = base64.b64encode(TEXTS["image"].encode()).decode()
CALL = ("call_0123456789ab", "look", json.dumps({"at": TEXTS["called with"]}))
ARGUMENTS = {"at": TEXTS["arguments"]}


def chat() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"at": {"type": "string"}}}
    tool = {"name": "look", "description": TEXTS["tool"], "parameters": parameters}
    call = {
        "id": "call_0123456789ab",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps(ARGUMENTS)},
    }
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    return {
        "user": TEXTS["user"],
        "tools": [{"type": "function", "function": tool}],
        "messages": [
            {"role": "system", "content": TEXTS["system"]},
            {"role": "user", "content": [{"type": "text", "text": TEXTS["prompt"]}, picture]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_0123456789ab", "content": TEXTS["result"]},
        ],
    }


def messages() -> dict[str, Any]:
    use = {"type": "tool_use", "id": "call_0123456789ab", "name": "look", "input": ARGUMENTS}
    result = {"type": "tool_result", "tool_use_id": "call_0123456789ab", "content": TEXTS["result"]}
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    first = [{"type": "text", "text": TEXTS["prompt"]}, {"type": "image", "source": source}]
    return {
        "max_tokens": 100,
        "metadata": {"user_id": TEXTS["user"]},
        "system": TEXTS["system"],
        "tools": [{"name": "look", "description": TEXTS["tool"], "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": first},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ],
    }


def responses() -> dict[str, Any]:
    call = {"type": "function_call", "call_id": "call_0123456789ab", "name": "look"}
    result = {"type": "function_call_output", "call_id": "call_0123456789ab", "output": TEXTS["result"]}
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"}
    first = [{"type": "input_text", "text": TEXTS["prompt"]}, picture]
    tool = {
        "type": "function",
        "name": "look",
        "description": TEXTS["tool"],
        "parameters": {"type": "object"},
    }
    return {
        "user": TEXTS["user"],
        "instructions": TEXTS["system"],
        "tools": [tool],
        "input": [{"role": "user", "content": first}, {**call, "arguments": json.dumps(ARGUMENTS)}, result],
    }


DOORS = {"/v1/chat/completions": chat(), "/v1/messages": messages(), "/v1/responses": responses()}


def echoing(status: int, **options: Any) -> Callable[[Received], Answer]:
    """A failure that repeats the key and the prompt, as services do, in its message."""

    def script(seen: Received) -> Answer:
        key = seen.headers.get("x-api-key") or seen.headers["authorization"]
        text = f"of {key}: {TEXTS['prompt']} {TEXTS['system']}"
        return Answer(status=status, error_message=text, **options)

    return script


def broken(seen: Received) -> Answer:
    """A stream or a body that is none, and repeats the same."""
    key = seen.headers.get("x-api-key") or seen.headers["authorization"]
    text = f"of {key}: {TEXTS['prompt']}"
    error = {"type": "error", "error": {"type": "overloaded_error", "message": text}}
    return Answer(
        body=f"event: error\ndata: {json.dumps(error)}\n\n".encode(), content_type="text/event-stream"
    )


GOOD = Answer(text=TEXTS["answer"], thinking=TEXTS["thinking"], tool_calls=(CALL,))
BAD: dict[str, Any] = {
    "400": echoing(400),
    "404": echoing(404),
    "413": echoing(413),
    "500": echoing(500),
    "529": echoing(529, error_type="overloaded_error"),
    "a stream that is an error": broken,
    "no JSON": Answer(body=TEXTS["answer"].encode()),
    "no event": Answer(body=b"data: " + TEXTS["answer"].encode() + b"\n\n", content_type="text/event-stream"),
    "cut off": Answer(text=TEXTS["answer"] * 9, cut_after=400, cut_by="reset"),
    "hung up on": Answer(reset_head=True),
}
LAST = {"alpha": echoing(401), "beta": echoing(402), "gamma": echoing(429, headers={"retry-after": "900"})}
"""What ends the traffic to a model: afterwards its provider is left alone for a while."""


class Client:
    """A caller with one key, sent in one of the two headers; ``told`` is all that it was answered."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str, header: str) -> None:
        self._http = http
        self._url = url
        self._key = {header: f"Bearer {key}" if header == "authorization" else key}
        self.told: list[bytes] = []
        self.calls: list[str] = []

    async def ask(self, path: str, body: Any, method: str = "POST", **headers: str) -> int:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**headers, **self._key}
        async with self._http.request(method, self._url + path, data=data, headers=sent) as answer:
            self.told += [await answer.read(), str(answer.headers).encode()]
            self.calls += filter(None, [answer.headers.get("x-attune-call-id")])
            return answer.status

    async def cancel(self, path: str, body: Any, upstream: FakeUpstream) -> None:
        """Ask, and go away once the provider is at work."""
        number = len(upstream.received) + 1
        asking = asyncio.create_task(self.ask(path, body))
        seen = await upstream.arrived(number)
        asking.cancel()
        await asyncio.wait({asking})
        async with asyncio.timeout(60):
            await seen.disconnected.wait()


def bodies(**more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, body in DOORS.items():
        for model in ("alpha", "beta", "gamma"):
            for stream in (False, True):
                yield path, {**body, "model": model, "stream": stream, **more}


async def drive(client: Client, upstream: FakeUpstream) -> dict[str, set[int]]:
    """Traffic of every kind; the statuses that each kind was answered with."""
    statuses: dict[str, set[int]] = {}
    headers = {
        "x-attune-session": TEXTS["session"],
        "x-attune-workflow": TEXTS["name"],
        "cookie": f"a={TEXTS['cookie']}",
    }
    for name, answer in {"good": GOOD, **BAD}.items():
        upstream.default = answer
        for path, body in bodies():
            status = await client.ask(f"{path}?q={TEXTS['query']}", body, **headers)
            statuses.setdefault(name, set()).add(status)
    for stall in (Answer(stall_head=True), Answer(text=TEXTS["answer"] * 40, stall_after=900)):
        upstream.default = stall
        for path, body in list(bodies())[::5]:
            await client.cancel(path, body, upstream)
    upstream.default = GOOD
    statuses["nonsense"] = {status async for status in nonsense(client)}
    for path, body in bodies():
        upstream.default = LAST[body["model"]]
        statuses.setdefault("last", set()).add(await client.ask(path, body))
    return statuses


async def nonsense(client: Client) -> AsyncIterator[int]:
    """Requests that make no sense, and say so with what is nobody else's business."""
    prompt = json.dumps(TEXTS["prompt"]).encode()
    for path, body in DOORS.items():
        for raw in (
            b'{"model": "beta", "messages": [' + prompt,
            prompt,
            b'{"model": 7, "input": ' + prompt + b"}",
        ):
            yield await client.ask(path, raw)
        yield await client.ask(path, {**body, "model": TEXTS["model"]})
        yield await client.ask(path, {**body, "model": "beta", "stream": TEXTS["prompt"]})
        yield await client.ask(path, {**body, "model": "beta"}, **{"x-attune-max-cost": TEXTS["query"]})
        yield await client.ask(f"{path}/{TEXTS['query']}", body)
    yield await client.ask("/v1/attune/outcomes", {"call_id": TEXTS["query"], "success": True})
    yield await client.ask(f"/v1/attune/decisions/{TEXTS['query']}", b"", "GET")
    yield await client.ask("/v1/messages/count_tokens", {**messages(), "model": TEXTS["model"], "system": 7})


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, upstream: FakeUpstream) -> Program:
    program = Program(tmp_path)
    (tmp_path / "second.key").write_text(KEYS["key of second"] + "\n")
    program.environ |= {"KEY_first": KEYS["key of first"], "KEY_third": KEYS["key of third"]}
    text = configuration(upstream.url, upstream.url, upstream.url)
    program.configure(text.replace("env:KEY_second", f"file:{tmp_path / 'second.key'}") + RULES)
    return program


async def test_no_key_and_no_text_is_where_nobody_should_find_it(
    program: Program, upstream: FakeUpstream
) -> None:
    """At the most that Python can be made to say, with keys in each header, from every door to every
    protocol; what is looked at while the gateway runs is looked at again after its end.
    """
    ours = {name: program("keys", "create", name).out.strip() for name in ("one", "two", "other")}
    secrets = {**KEYS, **{f"our key {name}": key for name, key in ours.items()}}
    home = program.home / "attune"
    program.environ |= {"PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "always", "PYTHONFAULTHANDLER": "1"}
    async with up(program) as gate, aiohttp.ClientSession() as http:
        one = Client(http, gate.url, ours["one"], "authorization")
        two = Client(http, gate.url, ours["two"], "x-api-key")
        other = Client(http, gate.url, ours["other"], "authorization")
        upstream.default = GOOD
        assert await one.ask("/v1/messages", {**messages(), "model": "alpha"}) == 200
        before = len(upstream.received)
        assert await two.ask("/v1/chat/completions", {**chat(), "model": "beta"}, authorization=OWN) == 200
        assert len(upstream.received) == before + 1
        statuses = await drive(one, upstream)
        for path, body in DOORS.items():
            await two.ask(path, {**body, "model": TEXTS["model"]})
            await other.ask(path, b"{")
            await other.ask(path, {"model": "alpha", "max_tokens": 5, "input": "x", "messages": PLAIN})
        for call_id in one.calls[:40]:
            assert await one.ask(f"/v1/attune/decisions/{call_id}", b"", "GET") == 200
            assert await other.ask(f"/v1/attune/decisions/{call_id}", b"", "GET") == 404
        for path in ("/metrics", "/v1/models", "/ready", "/health"):
            assert await other.ask(path, b"", "GET") == 200
        running = [*files_below(home), *seen_in_proc(gate.process.pid)]
        code, log = await gate.end()
        assert code == 0
    shown = [(f"attune {args}", said(program, *args.split())) for args in REPORTS]
    after = [*files_below(home), ("the log", log.encode()), *shown]

    wanted = ("ledger.db", "ledger.db-wal", "ledger.db-shm")
    assert set(wanted) <= {name.rpartition("/")[2] for name, _ in running}
    kept = {name: TEXTS[name] for name in KEPT}
    stored = {**secrets, **{name: text for name, text in TEXTS.items() if name not in KEPT}}
    assert not leaks([*running, *after], stored)
    assert not leaks([("the log", log.encode())], kept)
    assert not leaks((("what another is told", each) for each in other.told), {**secrets, **TEXTS})
    assert not leaks((("what the caller is told", each) for each in one.told + two.told), secrets)

    # And the search has looked at what there was to see.
    files = b"".join(content for _, content in running)
    assert all(hashlib.sha256(key.encode()).digest() in files for key in ours.values())
    assert leaks(running, kept)
    assert leaks((("", each) for each in one.told), {"answer": TEXTS["answer"]})
    received = b"".join(each.raw for each in upstream.received)
    assert all(forms(TEXTS[name]) & {*filter(received.__contains__, forms(TEXTS[name]))} for name in SENT)
    assert statuses["good"] == {200}
    assert all(statuses[name] & {400, 404, 413, 502, 503} for name in BAD), statuses
    assert max(statuses["nonsense"]) < 500
    assert min(statuses["last"]) >= 400
    assert log.count('"call"') > 300


BROKE = "a/m failed in its answer"
OWN = f"Bearer {KEYS['callers own key']}"
PLAIN = [{"role": "user", "content": "hi"}]
SENT = ("system", "prompt", "tool", "arguments", "result", "image", "user")
REPORTS = ("stats", "breakers", "keys list", "doctor", "models")


def said(program: Program, *args: str) -> bytes:
    """All that a command of the same home prints."""
    ended = program(*args)
    return (ended.out + ended.err).encode()


@pytest.mark.parametrize(
    ("line", "logged"),
    [
        ("a/m answered 400 (bad_n): why say hi; next it?", "a/m answered 400 (bad_n)"),
        ("a/m answered 503: say hi; next b/m", "a/m answered 503; next b/m"),
        (
            "a/m failed in its answer (over.loaded): hi; again in 0.25 s",
            f"{BROKE} (over.loaded); again in 0.25 s",
        ),
        ("a/m failed in its answer (odd) code: hi): hi", f"{BROKE} (odd)"),
        ("a/m: it is throttled", "a/m: it is throttled"),
    ],
)
def test_a_step_is_logged_without_the_words_of_a_provider(
    line: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log_step(line)
    assert caplog.messages == [logged]


# -- the search itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["main", "wal", "base64", "JSON", "a URL", "hexadecimal"])
def test_the_search_finds_what_is_planted(tmp_path: Path, place: str) -> None:
    text = TEXTS["prompt"]
    planted = {
        "base64": base64.b64encode(b"xy" + text.encode() + b"z"),
        "JSON": json.dumps({"a": text}).encode(),
        "a URL": b"/v1?q=canary%20prompt%20Jb52%20%E2%98%85&r=1",
        "hexadecimal": b"0x" + text.encode().hex().encode(),
    }
    assert not leaks(files_below(tmp_path), TEXTS)
    if place in planted:
        (tmp_path / "file").write_bytes(planted[place])
        assert leaks(files_below(tmp_path), TEXTS) == ["prompt in file"]
        return
    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (?)", (f"in a row: {text}",))
    if place == "main":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found = leaks(files_below(tmp_path), TEXTS)
    assert found == ["prompt in ledger.db" + ("" if place == "main" else "-wal")]
    connection.close()


async def test_the_search_finds_what_a_process_is_started_with() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], env={'A': sys.argv[1]})"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, KEYS["key of first"]), stdin=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            while True:
                found = set(leaks(seen_in_proc(process.pid), KEYS))
                if found == {"key of first in its command line", "key of first in environ of a child"}:
                    break
                await asyncio.sleep(0.01)
    finally:
        await process.communicate(b"\n")
