"""Worker of ``call.py``: aiohttp alone, the floor for whatever is built on it. Argument: the address."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import _call_rounds
import aiohttp
import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BODY = {
    "model": "model-0",
    "messages": [{"role": "user", "content": _call_rounds.QUESTION}],
    "max_tokens": 100,
}
HEADERS = {"authorization": f"Bearer {_call_rounds.API_KEY}", "content-type": "application/json"}


def whole(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[None]]:
    """One call, answered in one body, which is decoded and nothing else."""

    async def call() -> None:
        body = msgspec.json.encode({**BODY, "stream": False})
        async with session.post(url, data=body, headers=HEADERS) as answer:
            decoded = msgspec.json.decode(await answer.read())
            _call_rounds.checked(decoded["choices"][0]["message"]["content"])

    return call


def streamed(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[None]]:
    """One call, read to the end of its stream, which is decoded and nothing else."""

    async def call() -> None:
        body = msgspec.json.encode({**BODY, "stream": True})
        async with session.post(url, data=body, headers=HEADERS) as answer:
            lines = [line async for line in answer.content if line.startswith(b"data: {")]
            choices = [choice for line in lines for choice in msgspec.json.decode(line[6:])["choices"]]
            _call_rounds.checked("".join([choice["delta"].get("content", "") for choice in choices]))

    return call


async def main(address: str) -> None:
    """Hold the cases ready."""
    async with aiohttp.ClientSession() as session:
        await _call_rounds.serve(
            {
                "post": whole(session, f"{address}/whole/v1/chat/completions"),
                "post, streamed": streamed(session, f"{address}/streamed/v1/chat/completions"),
            }
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
