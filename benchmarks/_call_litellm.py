"""Worker of ``call.py``, run by LiteLLM's own interpreter. Argument: the upstream's address."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import _call_rounds
import litellm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MESSAGES = [{"role": "user", "content": _call_rounds.QUESTION}]


def router(base_url: str) -> litellm.Router:
    """A router over two deployments, with its defaults."""
    return litellm.Router(
        model_list=[
            {
                "model_name": "capable",
                "litellm_params": {
                    "model": f"openai/model-{number}",
                    "api_base": base_url,
                    "api_key": _call_rounds.API_KEY,
                },
            }
            for number in range(2)
        ]
    )


def whole(through: litellm.Router) -> Callable[[], Awaitable[None]]:
    """One call, answered in one body."""

    async def call() -> None:
        answer = await through.acompletion("capable", messages=MESSAGES, max_tokens=100)
        _call_rounds.checked(answer.choices[0].message.content)

    return call


def streamed(through: litellm.Router) -> Callable[[], Awaitable[None]]:
    """One call, read to the end of its stream."""

    async def call() -> None:
        chunks = await through.acompletion("capable", messages=MESSAGES, max_tokens=100, stream=True)
        _call_rounds.checked("".join([chunk.choices[0].delta.content or "" async for chunk in chunks]))

    return call


async def main(address: str) -> None:
    """Hold the cases ready."""
    litellm.suppress_debug_info = True
    await _call_rounds.serve(
        {
            "acompletion": whole(router(f"{address}/whole/v1")),
            "acompletion, streamed": streamed(router(f"{address}/streamed/v1")),
        }
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
