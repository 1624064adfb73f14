"""Ways not to reach a provider that take more than an address: a forged certificate, and no name at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from attune.errors import ConnectionFailedError
from attune.models.executor import AttemptBudget
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import LLMRequest
from attune.providers import Secret, build_provider
from support.certificates import for_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL = ModelInfo("some-model", "mine", ModelTier.CAPABLE, 100_000, 4096)
KINDS = ["openai", "anthropic"]


class Impostor:
    """A TLS server whose certificate nobody vouches for; ``heard`` is what it was told."""

    def __init__(self, server: asyncio.Server, heard: bytearray) -> None:
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self.heard = heard


@pytest.fixture
async def impostor(tmp_path: Path) -> AsyncIterator[Impostor]:
    context, _ = for_loopback(tmp_path)
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context) as server:
        yield Impostor(server, heard)


async def failure(kind: str, url: str) -> ConnectionFailedError:
    provider = build_provider("mine", kind, base_url=url, key=Secret("canary-of-a-key", "env:X"))
    try:
        with pytest.raises(ConnectionFailedError) as caught:
            await provider.open(LLMRequest.from_prompt("hi", stream=True), MODEL, AttemptBudget(connect_s=60))
    finally:
        await provider.aclose()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_with_a_certificate_of_its_own_making_is_told_nothing(
    kind: str, impostor: Impostor
) -> None:
    error = await failure(kind, impostor.url)
    assert "certificate verify failed: self-signed certificate" in str(error)
    assert not str(error).endswith(")")
    assert not error.sent
    assert impostor.heard == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["two..dots", "x" * 64 + ".invalid"])
async def test_a_host_that_cannot_be_a_name_is_one_that_cannot_be_reached(kind: str, host: str) -> None:
    error = await failure(kind, f"https://{host}/v1")
    assert str(error).startswith("mine/some-model: the connection failed: ")
    assert "\n" not in str(error)
    assert not error.sent
