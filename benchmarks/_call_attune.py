"""Worker of ``call.py``: attune's ``ResilientExecutor``. Argument: the upstream's address.

Everything that a real program has is on: configuration, ten candidates of two providers, breakers, a budget
of dollars for the call, roll-ups, and the ledger in a SQLite file.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import _call_rounds

import attune
from attune.models import ExecutionContext, LLMRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from attune.runtime import Runtime


def configured(address: str, folder: Path) -> str:
    """A configuration file whose two providers are the upstream."""
    lines = []
    for name in ("one", "two"):
        lines += [f"[providers.{name}]", 'kind = "openai"', f'base_url = "{address}"', 'api_key = "env:KEY"']
    for number in range(10):
        provider, tier = ("one", "two")[number % 2], ("cheap", "capable")[number // 5]
        lines += ["[[models]]", f'id = "model-{number}"', f'provider = "{provider}"', f'tier = "{tier}"']
        lines += ["context_window = 128000", f"input_price = {number + 1}", f"output_price = {number + 5}"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.toml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def through(runtime: Runtime) -> Callable[[], Awaitable[None]]:
    """One call with everything on."""
    context = ExecutionContext(workflow="bench", stage="call", task_type="explain_code", budget_usd=1.0)

    async def call() -> None:
        request = LLMRequest.from_prompt(_call_rounds.QUESTION, max_output_tokens=100)
        _call_rounds.checked((await runtime.executor.run(request, context)).text)

    return call


async def main(address: str) -> None:
    """Hold the cases ready."""
    home = Path(os.environ["ATTUNE_HOME"])
    os.environ["KEY"] = _call_rounds.API_KEY
    streamed, whole = f"{address}/streamed/v1", f"{address}/whole/v1"
    async with attune.open(configured(streamed, home / "streamed")) as of_stream:
        os.environ["ATTUNE_HOME"] = str(home / "second")
        async with attune.open(configured(whole, home / "whole")) as of_whole:
            await _call_rounds.serve({"run": through(of_whole), "run, streamed": through(of_stream)})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
