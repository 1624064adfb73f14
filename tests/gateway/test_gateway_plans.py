"""A Claude plan beside the gateway: its user's own programs may use it, no client of the gateway does."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from attune.accounts import NewKey
from attune.models.state import KeyLimits, KeyScopes
from attune.stores.sqlite import SqliteStore
from support.program import Program
from support.up import up
from support.upstream import FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PLAN = '[providers.claude]\nkind = "claude_subscription"\n'
WITH_A_KEY = PLAN + (
    '[providers.anthropic]\nkind = "anthropic"\nbase_url = "{url}"\napi_key = "env:MY_KEY"\n'
    '[tiers]\ncapable = ["claude/claude-sonnet-5-5", "anthropic/claude-sonnet-5-5"]\n'
    'cheap = ["claude/claude-haiku-5-5"]\n'
)
NAMES = (
    *("claude-sonnet-5-5", "claude/claude-sonnet-5-5", "claude/claude-haiku-5-5"),
    *("auto", "attune/capable", "attune/cheap", "attune/premium", "attune/summarize"),
)
STARTED = "started"
PASSED_ON = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9", "via": "1.1 proxy"}
REMOTE = {"x-real-ip": "203.0.113.9", "user-agent": "claude-cli/2.1", "x-attune-provider": "claude"}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A user whose ``claude`` program notes that it was started."""
    program = Program(tmp_path)
    program.install("claude", f'echo "$@" >> {tmp_path / STARTED}')
    program.environ["MY_KEY"] = "canary-not-a-secret"
    return program


def add_key(program: Program, name: str) -> str:
    store = SqliteStore.open(program.home / "attune" / "data" / "ledger.db")
    made = NewKey.make(name, now=1.0, expires=None, scopes=KeyScopes(), limits=KeyLimits())
    assert store.add_key(made.record)
    store.close()
    return made.reveal()


async def asked(http: aiohttp.ClientSession, url: str, model: str, headers: dict[str, str]) -> int:
    talk = [{"role": "user", "content": "hi"}]
    body = {"model": model, "max_tokens": 9, "messages": talk}
    async with http.post(url, json=body, headers=headers) as answer:
        return answer.status


async def test_no_client_is_ever_answered_by_a_plan_whoever_it_is_and_whatever_it_names(
    program: Program, upstream: FakeUpstream
) -> None:
    program.configure(WITH_A_KEY.format(url=upstream.url))
    statuses: set[int] = set()
    callers: list[dict[str, str]] = [{}, PASSED_ON, REMOTE]
    for keys in ((), ("one",), ("two", "three")):
        secrets = [add_key(program, name) for name in keys]
        if secrets:
            callers = [{**PASSED_ON, "authorization": f"Bearer {secret}"} for secret in secrets]
        async with up(program) as gate, aiohttp.ClientSession() as http:
            assert gate.said["providers"] == ["anthropic"]
            for path in ("/v1/messages", "/v1/chat/completions"):
                for headers in callers:
                    answers = [asked(http, gate.url + path, name, headers) for name in NAMES]
                    statuses |= set(await asyncio.gather(*answers))
            code, log = await gate.end()
        assert code == 0
        assert log.count("the gateway leaves claude out") == 1
    assert statuses >= {200, 404}
    assert {each.headers["x-api-key"] for each in upstream.received} == {"canary-not-a-secret"}
    assert not (program.home / STARTED).exists()


def test_a_plan_alone_serves_nobody_and_it_says_what_to_add(program: Program) -> None:
    program.configure(PLAN)
    done = program("up", "--check", "--json")
    assert (done.code, json.loads(done.out)["providers"]) == (5, [])
    assert "the gateway leaves claude out" in done.err
    assert "set the key of another provider" in done.err
    assert not (program.home / STARTED).exists()
