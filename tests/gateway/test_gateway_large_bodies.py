"""Bodies of megabytes: what is passed on and answered is what it is for small ones, and memory is bounded."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from attune.gateway.bodies import Bodies, keep_freed_memory
from attune.gateway.http import PIECE_BYTES, HTTPError, Request, send_body
from support.gateway import Gate, gateway
from support.upstream import Answer, chat_body

CHAT = "/v1/chat/completions"
WIDE = '[[models]]\nid = "{id}"\nprovider = "{provider}"\ntier = "premium"\ncontext_window = 100000000\n'
WIDE += 'max_output_tokens = 100000\nabilities = ["vision"]\n'
ROOM = "".join(WIDE.format(id=f"wide-{name}", provider=name) for name in ("first", "second"))
PROSE = 'He said "no".\nThen: жизнь, 中文, 😀, \\ and \t. ' * 40_000


async def post(gate: Gate, body: bytes) -> tuple[int, Any, Any]:
    """Status, headers and JSON of an answer; aiohttp wants large bodies as files."""
    async with gate.http.post(gate.url + CHAT, data=io.BytesIO(body)) as answer:
        return answer.status, answer.headers, await answer.json()


def conversations() -> dict[str, list[dict[str, Any]]]:
    image = "data:image/png;base64," + base64.b64encode(os.urandom(900_000)).decode()
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": image}}]
    turns = [{"role": ("user", "assistant")[place % 2], "content": PROSE[:900]} for place in range(1501)]
    return {
        "a text": [{"role": "user", "content": PROSE}],
        "an image": [{"role": "user", "content": parts}],
        "turns": turns,
    }


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("kind", ["a text", "an image", "turns"])
async def test_a_large_conversation_arrives_as_it_was_sent(
    tmp_path: Path, kind: str, ascii_only: bool
) -> None:
    conversation = conversations()[kind]
    async with gateway(tmp_path, extra=ROOM) as gate:
        body = {"model": "wide-second", "messages": conversation, "seed": 7}
        status, _, answer = await post(gate, json.dumps(body, ensure_ascii=ascii_only).encode())
        assert status == 200, answer
        received = gate.second.received[0].body
        assert received["messages"] == conversation
        assert received["seed"] == 7


async def test_a_large_conversation_arrives_translated(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=ROOM) as gate:
        for conversation in conversations().values():
            body = json.dumps({"model": "wide-first", "messages": conversation}).encode()
            assert (await post(gate, body))[0] == 200
        text, image, turns = (each.body["messages"] for each in gate.first.received)
        assert text == [{"role": "user", "content": [{"type": "text", "text": PROSE}]}]
        sent = conversations()["turns"]
        assert image[0]["content"][1]["source"]["type"] == "base64"
        assert [each["content"][0]["text"] for each in turns] == [each["content"] for each in sent]


async def test_a_large_answer_comes_whole(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for stream in (False, True):
            gate.second.then(Answer(text=PROSE))
            async with gate.openai() as client:
                asked = {"model": "beta", "messages": [{"role": "user", "content": "hi"}]}
                if stream:
                    chunks = await client.chat.completions.create(stream=True, **asked)
                    got = "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
                else:
                    got = (await client.chat.completions.create(**asked)).choices[0].message.content
            assert got == PROSE


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_answer_of_a_provider_that_does_not_stream_comes_whole(
    tmp_path: Path, stream: bool
) -> None:
    async with gateway(tmp_path) as gate:
        body = chat_body(Answer(text=PROSE), "beta")
        gate.second.then(Answer(content_type="application/json", body=body))
        asked = {"model": "beta", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        async with gate.http.post(gate.url + CHAT, json=asked) as answer:
            came = await answer.read()
    if not stream:
        assert came == body
        return
    lines = [each.removeprefix(b"data: ") for each in came.splitlines() if each.startswith(b"data: {")]
    deltas = [choice["delta"] for each in lines for choice in json.loads(each)["choices"]]
    assert "".join(each.get("content") or "" for each in deltas) == PROSE


async def test_others_have_their_turn_between_the_pieces_of_a_large_answer() -> None:
    rounds, written_at = 0, []

    async def go_round() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    async def send(message: Any) -> None:  # a client that takes whatever comes
        written_at.append(rounds)

    others = asyncio.create_task(go_round())
    await asyncio.sleep(0)
    await send_body(send, b"x" * PIECE_BYTES * 20)
    others.cancel()
    assert len(written_at) == len(set(written_at)) == 21


async def test_what_makes_no_sense_in_a_large_body_is_named_with_its_place(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        said = [{"role": "user", "content": "x" * 400_000}, {"role": 7, "content": "hi"}]
        answer = await gate.chat(messages=said)
        assert answer.status == 400
        assert answer.json["error"]["message"] == "messages[1].role: expected str, not int"


async def test_bodies_beyond_what_may_be_held_are_refused_and_small_ones_are_not(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=ROOM + "[gateway]\nmax_body_mib = 1\nmax_bodies_mib = 1\n") as gate:
        large = json.dumps(
            {"model": "wide-second", "messages": [{"role": "user", "content": "x" * 700_000}]}
        ).encode()
        started, go_on = asyncio.Event(), asyncio.Event()

        async def pieces() -> Any:
            yield large[:600_000]
            started.set()
            await go_on.wait()
            yield large[600_000:]

        async def slowly() -> int:
            headers = {"content-length": str(len(large))}
            async with gate.http.post(gate.url + CHAT, data=pieces(), headers=headers) as answer:
                return answer.status

        first = asyncio.create_task(slowly())
        await started.wait()
        async with asyncio.timeout(60):
            while (refused := await post(gate, large))[0] != 503:
                await asyncio.sleep(0.02)
        assert refused[1]["retry-after"] == "1"
        assert "max_bodies_mib" in refused[2]["error"]["message"]
        assert (await gate.chat()).status == 200
        go_on.set()
        assert await first == 200
        assert (await post(gate, large))[0] == 200  # there is room again


async def test_a_body_whose_length_is_not_said_counts_as_it_comes() -> None:
    bodies = Bodies(300_000)
    messages = [{"type": "http.request", "body": b"x" * 100_000, "more_body": True}] * 4

    async def receive() -> Any:
        return messages.pop()

    request = Request({"method": "POST", "path": "/", "headers": []}, receive, bodies)
    with pytest.raises(HTTPError, match="as many large bodies as it may") as refused:
        await request.body(10**6)
    assert refused.value.status == 503
    with pytest.raises(HTTPError):
        bodies.check(100_001)
    request.release()
    request.release()
    bodies.check(300_000)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from Linux's files")
async def test_the_memory_of_large_bodies_is_given_back(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    keep_freed_memory()
    body = json.dumps({"model": "wide-second", "messages": [{"role": "user", "content": "x" * 9_000_000}]})
    async with gateway(tmp_path, extra=ROOM) as gate:
        before = resident()
        for _ in range(3):
            assert (await post(gate, body.encode()))[0] == 200
        gate.second.received.clear()
        async with asyncio.timeout(60):
            while resident() > before + 20_000_000:
                await asyncio.sleep(0.05)
