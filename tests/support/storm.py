"""Thousands of calls through a real ``Runtime`` against providers that fail at random.

Three providers answer, in Chat Completions, Responses and Messages, and a fourth refuses every
connection. Calls are run and streamed, some are hedged, some are cancelled at a random moment, some
streams are left early. The pauses of retries, cooldowns and breakers are small, so that it goes at full
speed.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from attune.config import load
from attune.errors import AttuneError
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.retry import RetryPolicy
from attune.runtime import Runtime, build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from attune.models.executor import LLMResponse

KINDS = {
    "alpha": 'kind = "openai"',
    "beta": 'kind = "openai"\nprotocol = "responses"',
    "gamma": 'kind = "anthropic"',
    "gone": 'kind = "openai"',
}
"""Each provider with what its configuration says it speaks."""

*ANSWERING, REFUSING = KINDS
CONCURRENCY = 32
FIRST_CONTENT_SECONDS = 4.0
HEDGES = ("off", "off", "p70")
MAX_ATTEMPTS = 4

PRICES = {
    "input_price": "1.10",
    "output_price": "5.53",
    "cache_read_price": "0.117",
    "cache_write_price": "1.379",
    "cache_write_1h_price": "2.201",
}
"""USD per million tokens, with digits that make every rounding matter."""

_PROVIDER = """
[providers.{name}]
{kind}
base_url = "{url}"
api_key = "env:STORM_KEY"

[[models]]
id = "m"
provider = "{name}"
tier = "capable"
context_window = 100000
{prices}
"""

_REST = """
[breaker]
failure_threshold = 5
recovery_timeout_seconds = 0.02

[call]
first_content_seconds = {seconds}
idle_seconds = {seconds}
deadline_seconds = 30.0

[routing]
allow_providers = ["alpha", "beta", "gamma", "gone"]
"""


class Ended(NamedTuple):
    """What the caller of one call saw: an answer, an error, or neither where it went away itself."""

    response: LLMResponse | None = None
    error: AttuneError | None = None


@asynccontextmanager
async def storm_runtime(home: Path, url: str, *, routing: str = "") -> AsyncIterator[Runtime]:
    """A runtime with the four providers behind ``url``; ``routing`` is added to its configuration."""
    prices = "\n".join(f"{name} = {price}" for name, price in PRICES.items())
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        urls = {name: f"{url}/{name}/v1" for name in ANSWERING}
        urls[REFUSING] = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        text = "".join(
            _PROVIDER.format(name=name, kind=KINDS[name], url=at, prices=prices) for name, at in urls.items()
        )
        (home / "config.toml").write_text(text + _REST.format(seconds=FIRST_CONTENT_SECONDS) + routing)
        environ = {"ATTUNE_HOME": str(home), "STORM_KEY": "canary-of-a-key"}
        async with build(load(environ=environ), environ=environ) as ai:
            ai.executor.retry = RetryPolicy(base_s=0.002, cap_s=0.01)
            for name in KINDS:
                ai.executor.bucket(name)._per_call = 1.0  # else it soon leaves nothing for hedges
            yield ai


async def storm(
    ai: Runtime, calls: Iterator[int], *, seed: int, ended: Callable[[str, Ended], None] | None = None
) -> None:
    """Make the calls, so many at a time; ``ended`` is told how each ended, by its mark."""

    async def work() -> None:
        for number in calls:
            how = await _one(ai, number, Random(f"{seed} {number}"))
            if ended is not None:
                ended(f"call-{number}", how)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(work())


async def _one(ai: Runtime, number: int, rng: Random) -> Ended:
    request = LLMRequest.from_prompt(f"call-{number} " + "x" * rng.randrange(400), max_output_tokens=100)
    # Without a choice of its own a call would find the best provider and stay there.
    allowed = frozenset(rng.sample((*ANSWERING, REFUSING), rng.choice((2, 3))))
    context = ExecutionContext(session_id=f"call-{number}", allow_providers=allowed, hedge=rng.choice(HEDGES))
    try:
        match rng.choices(("run", "stream", "leave", "cancel"), (45, 40, 5, 10))[0]:
            case "run":
                return Ended(await ai.run(request, context))
            case "stream":
                return Ended(await _streamed(ai, request, context))
            case "leave":
                return Ended(await _streamed(ai, request, context, events=rng.randrange(8)))
            case _:
                with suppress(TimeoutError):
                    async with asyncio.timeout(rng.uniform(0, 0.05)):
                        return Ended(await ai.run(request, context))
                return Ended()
    except AttuneError as error:
        await asyncio.sleep(0.01)  # as a caller would: with every circuit open the next fails at once too
        return Ended(error=error)


async def _streamed(
    ai: Runtime, request: LLMRequest, context: ExecutionContext, *, events: int | None = None
) -> LLMResponse | None:
    """Read a stream, or so many events of it."""
    async with ai.stream(request, context) as stream:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == events:
                break
    return stream.response
