"""The embedded model itself: its process, its answers, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attune.errors import ConnectionFailedError, ContextTooLongError
from attune.models.executor import AttemptBudget, EventKind, StreamEvent
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.providers.local import MODEL_ID, LocalModel, LocalProvider
from attune.providers.local_server import CONTEXT_TOKENS, missing_packages
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.skipif(bool(missing_packages()), reason="the embedded model's packages are not installed"),
]

MODEL = ModelInfo(MODEL_ID, "local", ModelTier.CHEAP, CONTEXT_TOKENS, 1024)
STREAM = LLMRequest.from_prompt("Say hello.", max_output_tokens=8, stream=True)


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    started = LocalModel()
    yield started
    await started.stop()


@pytest.fixture
async def provider(model: LocalModel) -> AsyncIterator[LocalProvider]:
    made = LocalProvider(model=model)
    yield made
    await made.aclose()


async def ask(provider: LocalProvider, request: LLMRequest = STREAM) -> list[StreamEvent]:
    async with aclosing(await provider.open(request, MODEL, AttemptBudget())) as stream:
        return [event async for event in stream]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while is_alive(pid):
            await asyncio.sleep(0.01)


async def test_it_answers_streamed_and_whole(provider: LocalProvider) -> None:
    for request in (STREAM, LLMRequest.from_prompt("Say hello.", max_output_tokens=8)):
        events = await ask(provider, request)
        kinds = [event.kind for event in events]
        assert kinds[0] is EventKind.META
        assert EventKind.CONTENT in kinds
        assert events[-1].parsed.stop_reason in {"stop", "length"}
        usage = next(event.parsed for event in events if event.kind is EventKind.USAGE)
        assert 0 < usage.output_tokens <= 8
        assert usage.input_tokens > 0
    assert provider.credential == "none"


async def test_a_prompt_above_its_window_is_too_long(provider: LocalProvider) -> None:
    with pytest.raises(ContextTooLongError):
        await ask(provider, LLMRequest.from_prompt("word " * CONTEXT_TOKENS))


async def test_a_crash_fails_at_most_one_call_and_the_next_starts_it_again(
    model: LocalModel, provider: LocalProvider
) -> None:
    await ask(provider)
    first = model.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until_gone(first)
    try:
        events = await ask(provider)
    except ConnectionFailedError:
        events = await ask(provider)
    assert events[-1].kind is EventKind.TERMINAL
    assert model.pid != first


async def test_starting_twice_is_starting_once_and_closing_ends_the_process(
    model: LocalModel, provider: LocalProvider
) -> None:
    await asyncio.gather(model.start(), model.start())
    pid = model.pid
    assert pid is not None
    await model.start()
    assert model.pid == pid
    await provider.aclose()
    await provider.aclose()
    await until_gone(pid)


async def test_a_start_that_is_cancelled_leaves_no_process(model: LocalModel) -> None:
    task = asyncio.create_task(model.start())
    async with asyncio.timeout(60):
        while model.pid is None:
            await asyncio.sleep(0)
    pid = model.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_gone(pid)


async def test_it_can_listen_on_a_port_that_was_down_before() -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConnectionFailedError, match=f"is port {port} taken"),
    ):
        await LocalModel(port=port).start()
    model = LocalModel(port=port)
    await model.start()
    assert model.base_url == f"http://127.0.0.1:{port}/v1"
    await model.stop()


async def test_it_ends_when_its_parent_is_killed() -> None:
    program = (
        "import asyncio, os, signal\n"
        "from attune.providers.local import LocalModel\n"
        "async def main():\n"
        "    model = LocalModel()\n"
        "    await model.start()\n"
        "    print(model.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    await until_gone(int(done.stdout))


async def test_it_ends_on_sigterm(model: LocalModel) -> None:
    await model.start()
    pid = model.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    await until_gone(pid)
