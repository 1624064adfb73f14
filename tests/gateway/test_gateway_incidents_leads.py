"""Where a request may lead: to the providers of the configuration, with their keys, and nowhere else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.gateway import gateway
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
ASKED = {
    "/v1/chat/completions": {"model": "beta", "messages": HI},
    "/v1/messages": {"model": "alpha", "max_tokens": 5, "messages": HI},
    "/v1/responses": {"model": "gamma", "input": "hi"},
}
"""A request at each door, for the provider that speaks its protocol."""


@pytest.fixture
async def trap() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server
        assert server.received == [], "it was asked, at an address that a caller chose"


async def test_no_address_that_a_caller_names_is_asked(tmp_path: Path, trap: FakeUpstream) -> None:
    url = f"{trap.url}/v1"
    names = (
        "base-url",
        "x-base-url",
        "x-attune-base-url",
        "openai-base-url",
        "helicone-target-url",
        "api-base",
    )
    more = ("x-forwarded-host", "x-portkey-custom-host", "x-llm-base-url", "proxy", "http-proxy", "referer")
    headers = dict.fromkeys((*names, *more), url)
    fields = {
        **dict.fromkeys(("base_url", "api_base", "api_url", "endpoint", "proxy", "custom_llm_provider"), url),
        **{name: {"base_url": url} for name in ("extra_body", "user_config", "provider_options")},
        "extra_headers": {"authorization": "Bearer chosen"},
        "api_key": "chosen",
    }
    async with gateway(tmp_path) as gate:
        for path, body in ASKED.items():
            assert (await gate.post(path, {**body, **fields}, headers)).status == 200
            for model in (
                url,
                f"openai/{url}",
                f"{url}#beta",
                "second@127.0.0.1/beta",
                f"beta?base_url={url}",
            ):
                refused = await gate.post(path, {**body, "model": model}, headers)
                assert refused.status == 404, model
        for upstream in gate.upstreams:
            (seen,) = upstream.received
            assert trap.url not in str(seen.headers)
            assert "chosen" not in str(seen.headers)


async def test_the_gateway_is_no_proxy(tmp_path: Path, trap: FakeUpstream) -> None:
    body = json.dumps(ASKED["/v1/chat/completions"]).encode()
    here = trap.url.removeprefix("http://")
    async with gateway(tmp_path) as gate:
        for line, host, expected in (
            (f"POST {trap.url}/v1/chat/completions", here, {b"200", b"400", b"404"}),
            (f"GET {trap.url}/", "localhost", {b"400", b"404"}),
            (f"CONNECT {here}", here, {b"400", b"404", b"405"}),
        ):
            head = (
                f"{line} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            raw = await gate.raw(head.encode() + body)
            assert raw[9:12] in expected, raw


async def test_no_address_in_a_message_is_fetched_by_the_gateway(tmp_path: Path, trap: FakeUpstream) -> None:
    """A picture by its URL is for the provider to fetch: the gateway may reach what its callers may not."""
    url = f"{trap.url}/picture.png"
    chat = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"type": "image", "source": {"type": "url", "url": url}}, {"type": "text", "text": "?"}]
    responses = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    async with gateway(tmp_path) as gate:
        for model in ("alpha", "beta", "gamma"):
            for path, content in (
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": chat}]}),
                ("/v1/messages", {"messages": [{"role": "user", "content": messages}]}),
                ("/v1/responses", {"input": responses}),
            ):
                answer = await gate.post(path, {**ASKED[path], **content, "model": model})
                assert answer.status == 200, answer.body
        assert all(url.encode() in each.raw for upstream in gate.upstreams for each in upstream.received)


async def test_no_redirect_of_a_provider_is_followed_with_its_key(tmp_path: Path, trap: FakeUpstream) -> None:
    async with gateway(tmp_path, extra="[call]\nretries = 0\n") as gate:
        for status in (301, 302, 307, 308):
            moved = Answer(status=status, headers={"location": f"{trap.url}/v1/chat/completions"}, body=b"{}")
            gate.second.then(moved)
            answer = await gate.chat()
            assert answer.status >= 400
            assert "location" not in answer.headers


async def test_of_a_callers_credentials_nothing_reaches_a_provider(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        key = gate.secrets["mine"]
        other = "sk-callers-own-000000"  # not-a-secret
        for ours, theirs in (("authorization", "x-api-key"), ("x-api-key", "authorization")):
            scheme = {"authorization": "Bearer ", "x-api-key": ""}
            headers = {ours: scheme[ours] + key, theirs: scheme[theirs] + other}
            more = {"cookie": f"key={other}", "proxy-authorization": f"Basic {other}", "api-key": other}
            for path, body in ASKED.items():
                assert (await gate.post(f"{path}?key={other}", body, {**headers, **more})).status == 200
        for name, upstream in zip(("first", "second", "third"), gate.upstreams, strict=True):
            for seen in upstream.received:
                text = f"{seen.headers} {seen.path} {seen.raw.decode()}"
                assert key not in text
                assert other not in text
                assert f"canary-of-{name}-not-a-secret" in text
