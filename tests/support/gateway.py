"""The gateway over real sockets, in the test's loop: configuration, ledger, one upstream for each protocol.

    async with gateway(tmp_path) as gate:
        gate.first.then(Answer(text="hello"))
        async with gate.openai() as client: ...

Provider ``first`` speaks Messages and has alpha (capable), ``second`` speaks Chat Completions and has beta
(cheap), ``third`` speaks Responses and has gamma (premium). A million tokens cost a dollar in and five out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from attune.accounts import NewKey
from attune.config import load
from attune.gateway.server import listen, serve
from attune.models.state import KeyLimits, KeyScopes
from attune.runtime import build
from attune.stores.sqlite import SqliteStore
from support.ports import free_port as free_port  # noqa: PLC0414 - for those who start a gateway
from support.upstream import FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from attune.models.telemetry import LLMCallRecord
    from attune.runtime import Runtime

SECRETS = {f"KEY_{name}": f"canary-of-{name}-not-a-secret" for name in ("first", "second", "third")}

_PROVIDERS = """\
[providers.first]
kind = "anthropic"
base_url = "{first}"
api_key = "env:KEY_first"
[providers.second]
kind = "openai"
base_url = "{second}/v1"
api_key = "env:KEY_second"
[providers.third]
kind = "openai"
protocol = "responses"
base_url = "{third}/v1"
api_key = "env:KEY_third"
"""

_MODEL = """\
[[models]]
id = "{id}"
provider = "{provider}"
tier = "{tier}"
context_window = 100000
max_output_tokens = 4000
abilities = ["tools", "json_schema", "vision", "thinking"]
input_price = 1.0
output_price = 5.0
"""

_REST = """\
[tiers]
capable = ["first/alpha"]
cheap = ["second/beta"]
premium = ["third/gamma"]
[routing]
allow_providers = ["first", "second", "third"]
"""

MODELS = (("alpha", "first", "capable"), ("beta", "second", "cheap"), ("gamma", "third", "premium"))


def configuration(first: str, second: str, third: str) -> str:
    """The text of the configuration, given the addresses of the upstreams."""
    models = "".join(_MODEL.format(id=i, provider=p, tier=t) for i, p, t in MODELS)
    return _PROVIDERS.format(first=first, second=second, third=third) + models + _REST


class Answered(NamedTuple):
    """A response, read to its end; ``headers`` whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gate:
    """A gateway that answers at ``url``, and what is behind it."""

    def __init__(self, home: Path, upstreams: list[FakeUpstream]) -> None:
        self.home = home
        self.first, self.second, self.third = upstreams
        self.environ = {"ATTUNE_HOME": str(home), **SECRETS}
        self.runtime: Runtime
        self.http: aiohttp.ClientSession
        self.url = ""
        self.serving: asyncio.Task[None]
        self.secrets: dict[str, str] = {}

    @property
    def upstreams(self) -> tuple[FakeUpstream, ...]:
        return self.first, self.second, self.third

    @property
    def asked(self) -> list[str]:
        """The models that were asked, in the order of arrival."""
        received = [each for upstream in self.upstreams for each in upstream.received]
        return [each.body["model"] for each in sorted(received, key=lambda each: each.at)]

    @asynccontextmanager
    async def openai(self, key: str = "any", **options: Any) -> AsyncIterator[Any]:
        """OpenAI's own client."""
        import openai

        url = f"{self.url}/v1"
        options = {"max_retries": 0, "timeout": 60, **options}
        async with openai.AsyncOpenAI(base_url=url, api_key=key, **options) as client:
            yield client

    @asynccontextmanager
    async def anthropic(self, key: str = "any", **options: Any) -> AsyncIterator[Any]:
        """Anthropic's own client."""
        import anthropic

        options = {"max_retries": 0, "timeout": 60, **options}
        async with anthropic.AsyncAnthropic(base_url=self.url, api_key=key, **options) as client:
            yield client

    async def chat(
        self, model: str = "beta", headers: dict[str, str] | None = None, **fields: Any
    ) -> Answered:
        """A chat completion, asked without a client."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.post("/v1/chat/completions", body, headers)

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answered:
        """The response to a body: JSON, or bytes as they are."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(self.url + path, headers=headers, **sent) as response:
            return Answered(response.status, response.headers.copy(), await response.read())

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answered:
        """The response to a GET."""
        async with self.http.get(self.url + path, headers=headers) as response:
            return Answered(response.status, response.headers.copy(), await response.read())

    async def raw(self, content: bytes) -> bytes:
        """What is answered to bytes that need be no HTTP, until the gateway hangs up."""
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(content)
            async with asyncio.timeout(60):
                try:
                    await writer.drain()
                    return await reader.read()
                except ConnectionResetError:
                    return b""
        finally:
            writer.close()

    def key(self, name: str, *, expires: float | None = None, limits: Any = (), **scopes: Any) -> str:
        """Make a key; a gateway that runs knows it within a second, or when it is refreshed."""
        store = SqliteStore.open(load(environ=self.environ).paths.ledger_file)
        made = NewKey.make(
            name, now=1.0, expires=expires, scopes=KeyScopes(**scopes), limits=KeyLimits(*limits)
        )
        assert store.add_key(made.record)
        store.close()
        return made.reveal()

    async def attempts(self, call_id: str) -> list[LLMCallRecord]:
        """What the ledger has of a call."""
        await self.runtime.store.flush()
        return list(self.runtime.store.attempts(call_id))


@asynccontextmanager
async def gateway(
    home: Path,
    *,
    extra: str = "",
    keys: dict[str, dict[str, Any]] | None = None,
    third_speaks: str = "responses",
) -> AsyncIterator[Gate]:
    """A gateway with ``extra`` at the end of its configuration; ``keys`` are made before, see ``Gate.key``:
    the ``secrets`` of the result by their names. ``third_speaks`` is the protocol of the third provider.
    """
    async with AsyncExitStack() as stack:
        gate = Gate(home, [await stack.enter_async_context(FakeUpstream()) for _ in range(3)])
        text = configuration(*(upstream.url for upstream in gate.upstreams))
        text = text.replace('protocol = "responses"', f'protocol = "{third_speaks}"')
        (home / "config.toml").write_text(text + extra)
        gate.secrets = {name: gate.key(name, **options) for name, options in (keys or {}).items()}
        gate.http = await stack.enter_async_context(aiohttp.ClientSession())
        await stack.enter_async_context(_serving(gate))
        yield gate


@asynccontextmanager
async def _serving(gate: Gate) -> AsyncIterator[None]:
    gate.runtime = build(load(environ=gate.environ), environ=gate.environ)
    gate.runtime.executor.retry = replace(gate.runtime.executor.retry, base_s=0.002)
    listening = listen("127.0.0.1", 0)
    gate.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    ready = asyncio.Event()
    gate.serving = asyncio.create_task(serve(gate.runtime, listening, on_ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(60):
            await asyncio.wait({gate.serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.is_set():
            waiting.cancel()
            await gate.serving  # raises why
        yield
    finally:
        if not gate.serving.done():
            os.kill(os.getpid(), signal.SIGTERM)  # as it is ended in earnest; the server handles it
        async with asyncio.timeout(60):
            await gate.serving
        listening.close()
