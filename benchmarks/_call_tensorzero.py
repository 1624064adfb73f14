"""Worker of ``call.py``, run by TensorZero's own interpreter. Argument: the upstream's address."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import _call_rounds
from tensorzero import AsyncTensorZeroGateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

INPUT = {"messages": [{"role": "user", "content": _call_rounds.QUESTION}]}
PARAMS = {"chat_completion": {"max_tokens": 100}}

_CONFIG = """
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.whole]
routing = ["one", "two"]
[models.whole.providers.one]
type = "openai"
model_name = "model-0"
api_base = "{address}/whole/v1"
[models.whole.providers.two]
type = "openai"
model_name = "model-1"
api_base = "{address}/whole/v1"

[models.streamed]
routing = ["one", "two"]
[models.streamed.providers.one]
type = "openai"
model_name = "model-0"
api_base = "{address}/streamed/v1"
[models.streamed.providers.two]
type = "openai"
model_name = "model-1"
api_base = "{address}/streamed/v1"
"""


def whole(gateway: AsyncTensorZeroGateway) -> Callable[[], Awaitable[None]]:
    """One call, answered in one body."""

    async def call() -> None:
        answer = await gateway.inference(model_name="whole", input=INPUT, params=PARAMS)
        _call_rounds.checked(answer.content[0].text)

    return call


def streamed(gateway: AsyncTensorZeroGateway) -> Callable[[], Awaitable[None]]:
    """One call, read to the end of its stream."""

    async def call() -> None:
        chunks = await gateway.inference(model_name="streamed", input=INPUT, params=PARAMS, stream=True)
        _call_rounds.checked("".join([part.text async for chunk in chunks for part in chunk.content]))

    return call


async def main(address: str) -> None:
    """Hold the cases ready."""
    os.environ["OPENAI_API_KEY"] = _call_rounds.API_KEY
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tensorzero.toml"
        file.write_text(_CONFIG.format(address=address))
        gateway = await AsyncTensorZeroGateway.build_embedded(config_file=str(file))
        async with gateway:
            await _call_rounds.serve({"inference": whole(gateway), "inference, streamed": streamed(gateway)})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
