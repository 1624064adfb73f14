"""The program and a provider that is reached over TLS."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from support.certificates import for_loopback
from support.program import CANARY, MINE, Program
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from pathlib import Path


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize("trusted", [True, False])
async def test_it_speaks_tls_with_those_whom_the_machine_trusts_alone(tmp_path: Path, trusted: bool) -> None:
    context, certificate = for_loopback(tmp_path)
    program = Program(tmp_path)
    if trusted:
        program.environ["SSL_CERT_FILE"] = str(certificate)
    async with FakeUpstream(default=Answer(text="over TLS")) as upstream:

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", upstream.port)
            await asyncio.gather(pump(reader, back), pump(there, writer))

        async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as server:
            program.configure(MINE.format(url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"))
            ended = await asyncio.to_thread(program, "run", "hi")
        if trusted:
            assert (ended.code, ended.out) == (0, "over TLS\n")
            assert upstream.received[0].headers["authorization"] == f"Bearer {CANARY}"
        else:
            assert ended.code != 0
            assert "certificate verify failed" in ended.err
            assert upstream.received == []
