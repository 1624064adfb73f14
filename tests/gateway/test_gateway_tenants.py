"""Many tenants at once, some of whom hang up: nobody is ever answered with what is another's."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import TYPE_CHECKING

from support.gateway import gateway
from support.scale import scaled
from support.upstream import Answer, Received

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate

REQUESTS = scaled(test=1500, faults=5000, soak=100_000)
AT_A_TIME = 64
CANCELLED = 0.2
LOOKED_UP = 0.1
"""Of how many calls their tenant asks for the decision, which waits for the disk."""

_TEXT = re.compile(r'"(?:content|text)":\s*("[^"]*")')
DOORS = {
    "/v1/chat/completions": {},
    "/v1/messages": {"max_tokens": 50},
}


def echo(seen: Received) -> Answer:
    """The last message, and the tenant, in pieces that come one by one."""
    content = seen.body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return Answer(text=text, between_s=0.0005 if len(text) % 3 else 0.0)


async def ask(gate: Gate, number: int, rng: random.Random) -> str:
    """One request of a random kind: "" when it was answered with its own, else what went wrong."""
    tenant = rng.choice(list(gate.secrets))
    nonce = f"nonce-{tenant}-{number}-{rng.getrandbits(64):x}"
    path = rng.choice(list(DOORS))
    body = {
        "model": rng.choice(["alpha", "beta"]),
        "messages": [{"role": "user", "content": nonce}],
        "stream": rng.random() < 0.5,
        **DOORS[path],
    }
    headers = {"authorization": f"Bearer {gate.secrets[tenant]}"}
    asking = asyncio.create_task(gate.post(path, body, headers))
    if rng.random() < CANCELLED:
        await asyncio.wait({asking}, timeout=rng.random() * 0.02)
        asking.cancel()
        await asyncio.wait({asking})
        if asking.cancelled():
            return ""
    answer = await asking
    text = whole_text(answer.body)
    if answer.status != 200 or nonce not in text or text.count("nonce-") != 1:
        return f"{nonce}: {answer.status} {answer.body[:600]!r}"
    if rng.random() >= LOOKED_UP:
        return ""
    decision = await gate.get(f"/v1/attune/decisions/{answer.headers['x-attune-call-id']}", headers)
    return "" if decision.status == 200 else f"{nonce}: its decision is {decision.status}"


def whole_text(body: bytes) -> str:
    """The texts of a body or of a stream's events, joined."""
    return "".join(json.loads(each) for each in _TEXT.findall(body.decode()))


async def test_every_tenant_is_answered_with_its_own(tmp_path: Path) -> None:
    keys = {name: {} for name in ("ada", "ben", "cleo")}
    rng = random.Random(20_261_122)
    async with gateway(tmp_path, keys=keys) as gate:
        gate.first.default = gate.second.default = echo
        slots = asyncio.Semaphore(AT_A_TIME)

        async def one(number: int) -> str:
            async with slots:
                return await ask(gate, number, rng)

        wrong = [each for each in await asyncio.gather(*(one(n) for n in range(REQUESTS))) if each]
        assert not wrong, wrong[:3]
        await gate.runtime.store.flush()
        accounts = {
            dict(decision.features)["account"]
            for decision in map(
                gate.runtime.store.decision, {r.call_id for r in gate.runtime.store.recent_attempts(REQUESTS)}
            )
            if decision is not None
        }
        assert len(accounts) == 3
