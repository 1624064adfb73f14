"""What other gateways are known to have got wrong between processes, and at the end of one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from attune.stores.sqlite import SqliteStore
from support.gateway import SECRETS, configuration
from support.program import Program
from support.up import up
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BODY = {"model": "beta", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 90}
USAGE = {"prompt_tokens": 12, "completion_tokens": 90, "total_tokens": 102}
CALL_NANOS = 12 * 1000 + 90 * 5000


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(default=Answer(usage=USAGE)) as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, upstream: FakeUpstream) -> Program:
    program = Program(tmp_path)
    program.environ |= SECRETS
    program.configure(configuration(upstream.url, upstream.url, upstream.url))
    return program


async def ask(http: aiohttp.ClientSession, url: str, key: str, *, stream: bool = False) -> int:
    headers = {"authorization": f"Bearer {key}"}
    body = {**BODY, "stream": stream}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        await answer.read()
        return answer.status


async def test_a_budget_is_not_multiplied_by_the_number_of_gateways(program: Program) -> None:
    """Two processes of one ledger, both asked at once, spend what one may."""
    calls = 5
    limit = calls * CALL_NANOS * 1.1 / 1e9
    key = program("keys", "create", "poor", "--usd-per-day", f"{limit:.9f}").out.strip()
    async with up(program) as one, up(program) as two, aiohttp.ClientSession() as http:
        asked = (ask(http, url, key, stream=n % 3 == 0) for n in range(30) for url in (one.url, two.url))
        statuses = await asyncio.gather(*asked)
        for _ in range(2 * calls):  # what was held for calls at once and not spent is free again
            statuses += [await ask(http, url, key) for url in (one.url, two.url)]
        assert [(await each.end())[0] for each in (one, two)] == [0, 0]
    assert set(statuses) == {200, 402}
    store = SqliteStore.open_readonly(program.home / "attune" / "data" / "ledger.db")
    totals = store.totals()
    assert totals.attempts == statuses.count(200) <= calls
    assert 0 < totals.cost_nanos <= limit * 1e9


async def test_a_key_that_one_gateway_makes_or_revokes_counts_at_every_other(program: Program) -> None:
    async with up(program) as one, up(program) as two, aiohttp.ClientSession() as http:
        urls = (one.url, two.url)
        assert [await ask(http, url, "none") for url in urls] == [200, 200]
        key = program("keys", "create", "first").out.strip()
        for url in urls:
            async with asyncio.timeout(60):
                while await ask(http, url, "none") != 401:
                    await asyncio.sleep(0.05)
            assert await ask(http, url, key) == 200
        assert program("keys", "revoke", "first", "--yes").code == 0
        for url in urls:
            async with asyncio.timeout(60):
                while await ask(http, url, key) != 401:
                    await asyncio.sleep(0.05)


async def test_what_was_spent_just_before_the_end_is_in_the_books(
    program: Program, upstream: FakeUpstream
) -> None:
    """The end is asked for as soon as the last answer is there: also of those that were still under way."""
    upstream.default = Answer(usage=USAGE, head_s=0.05)
    key = program("keys", "create", "mine").out.strip()
    async with up(program) as gate, aiohttp.ClientSession() as http:
        asked = [asyncio.create_task(ask(http, gate.url, key, stream=n % 2 == 0)) for n in range(40)]
        await upstream.arrived(40)
        assert (await gate.end())[0] == 0
        assert await asyncio.gather(*asked) == [200] * 40
    store = SqliteStore.open_readonly(program.home / "attune" / "data" / "ledger.db")
    totals = store.totals()
    assert (totals.attempts, totals.cost_nanos) == (40, 40 * CALL_NANOS)
