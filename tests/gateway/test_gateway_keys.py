"""Keys: who may come in, for what, how fast and for how much; and nobody sees another's calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from attune.accounts import Gatekeeper
from support.gateway import gateway
from support.upstream import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

HI = [{"role": "user", "content": "hi"}]
MESSAGES = "/v1/messages"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def known(gate: Gate, key: str, status: int) -> None:
    """Wait until the gateway has heard of what was done to a key."""
    async with asyncio.timeout(60):
        while (await gate.get("/v1/models", bearer(key))).status != status:
            await asyncio.sleep(0.05)


async def test_once_there_is_a_key_every_caller_needs_one(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        for headers in ({}, bearer("sk-some-other"), bearer("attune-" + "x" * 43), {"x-api-key": "nothing"}):
            for path in ("/v1/chat/completions", MESSAGES):
                answer = await gate.post(path, {"model": "beta", "messages": HI}, headers)
                assert answer.status == 401
                assert "attune keys create" in answer.json["error"]["message"]
        assert (await gate.get("/v1/models")).status == 401
        assert gate.asked == []
        async with gate.openai(gate.secrets["mine"]) as client:
            await client.chat.completions.create(model="beta", messages=HI)
        async with gate.anthropic(gate.secrets["mine"]) as client:
            await client.messages.create(model="alpha", max_tokens=5, messages=HI)
        async with gate.openai("wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


async def test_with_a_key_a_web_page_or_another_host_name_may_ask(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        headers = {**bearer(gate.secrets["mine"]), "origin": "https://a.example", "host": "gate.example"}
        assert (await gate.chat(headers=headers)).status == 200
        assert (await gate.get("/metrics", {"host": "gate.example"})).status == 403
        assert (await gate.get("/metrics")).status == 200


async def test_an_expired_and_a_revoked_key_are_told_so(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"old": {"expires": 2.0}, "taken": {}}) as gate:
        answer = await gate.chat(headers=bearer(gate.secrets["old"]))
        assert answer.status == 401
        assert "'old' has expired" in answer.json["error"]["message"]
        taken = next(each for each in gate.runtime.store.all_keys() if each.name == "taken")
        gate.runtime.store.revoke_key(taken.id, 3.0)
        await known(gate, gate.secrets["taken"], 401)
        answer = await gate.chat(headers=bearer(gate.secrets["taken"]))
        assert "'taken' was revoked" in answer.json["error"]["message"]


async def test_the_first_key_closes_an_open_gateway(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        assert (await gate.chat()).status == 200
        key = gate.key("first")
        await known(gate, "none", 401)
        assert (await gate.chat()).status == 401
        assert (await gate.chat(headers=bearer(key))).status == 200


async def test_a_key_may_use_only_what_it_is_made_for(tmp_path: Path) -> None:
    keys = {
        "tier": {"tiers": frozenset({"cheap"})},
        "model": {"models": frozenset({"first/alpha"})},
        "provider": {"providers": frozenset({"second"})},
        "route": {"routes": frozenset({"/v1/messages"})},
        "metrics": {"routes": frozenset({"/metrics", "/v1"})},
    }
    async with gateway(tmp_path, keys=keys) as gate:
        cases = (
            ("tier", "beta", 200),
            ("tier", "alpha", 403),
            ("tier", "attune/premium", 403),
            ("tier", "auto", 200),
            ("model", "alpha", 200),
            ("model", "beta", 403),
            ("model", "auto", 200),
            ("provider", "beta", 200),
            ("provider", "gamma", 403),
            ("provider", "auto", 200),
            ("route", "beta", 403),
            ("metrics", "beta", 200),
        )
        for name, model, status in cases:
            answer = await gate.chat(model, bearer(gate.secrets[name]))
            assert answer.status == status, (name, model, answer.body)
            if status == 403:
                assert f"the key {name!r} may not use" in answer.json["error"]["message"]
        assert set(gate.asked) == {"alpha", "beta"}
        asked_by_tier = (await gate.get("/v1/models", bearer(gate.secrets["tier"]))).json["data"]
        listed = {each["id"] for each in asked_by_tier}
        assert listed == {"auto", "attune/cheap", "second/beta"}
        body = {"model": "alpha", "max_tokens": 5, "messages": HI}
        assert (await gate.post(MESSAGES, body, bearer(gate.secrets["route"]))).status == 200
        assert (await gate.get("/v1/models", bearer(gate.secrets["route"]))).status == 403


async def test_a_fallback_stays_within_what_the_key_allows(tmp_path: Path) -> None:
    keys = {"narrow": {"models": frozenset({"first/alpha"})}}
    async with gateway(tmp_path, keys=keys, extra="[call]\nretries = 0\n") as gate:
        gate.first.default = Answer(status=529)
        answer = await gate.chat("auto", bearer(gate.secrets["narrow"]))
        assert answer.status == 503
        assert set(gate.asked) == {"alpha"}


async def test_a_realtime_task_needs_a_key_that_may_ask_for_it(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"plain": {}, "live": {"realtime": True}}) as gate:
        headers = {"x-attune-task": "Live Coding"}
        refused = await gate.chat("auto", {**headers, **bearer(gate.secrets["plain"])})
        assert refused.status == 403
        assert "realtime" in refused.json["error"]["message"]
        assert (await gate.chat("auto", {**headers, **bearer(gate.secrets["live"])})).status == 200


async def test_requests_and_tokens_of_a_minute_are_limited(tmp_path: Path) -> None:
    keys = {"calls": {"limits": (2,)}, "tokens": {"limits": (None, 2000)}}
    async with gateway(tmp_path, keys=keys) as gate:
        statuses = [(await gate.chat(headers=bearer(gate.secrets["calls"]))).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = await gate.chat(headers=bearer(gate.secrets["calls"]))
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        never = await gate.chat(headers=bearer(gate.secrets["tokens"]), max_tokens=3000)
        assert never.status == 429
        assert "make it smaller" in never.json["error"]["message"]
        assert never.headers["x-should-retry"] == "false"


async def test_tokens_are_counted_as_they_were_used(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"one": {"limits": (None, 2000)}}) as gate:
        gate.first.default = gate.second.default = Answer(status=400)
        headers = bearer(gate.secrets["one"])
        for _ in range(4):  # refused by the provider: each counts nothing in the end
            assert (await gate.chat(headers=headers, max_tokens=900)).status == 400
        gate.second.default = Answer()
        for stream in (True, False, True, False):  # 19 tokens each
            assert (await gate.chat(headers=headers, max_tokens=900, stream=stream)).status == 200
        usage = {"prompt_tokens": 1900, "completion_tokens": 90, "total_tokens": 1990}
        gate.second.then(Answer(usage=usage))
        assert (await gate.chat(headers=headers, max_tokens=900)).status == 200
        assert (await gate.chat(headers=headers, max_tokens=900)).status == 429


async def test_a_spent_budget_is_402_in_the_shape_of_the_client(tmp_path: Path) -> None:
    keys = {"poor": {"limits": (None, None, 0.00006)}}
    async with gateway(tmp_path, keys=keys) as gate:
        headers = bearer(gate.secrets["poor"])
        answers = [await gate.chat(headers=headers, max_tokens=5) for _ in range(3)]
        assert answers[0].status == 200
        assert answers[-1].status == 402
        assert "usd" in str(answers[-1].json).lower() or "$" in answers[-1].json["error"]["message"]
        body = {"model": "beta", "max_tokens": 5, "messages": HI, "stream": True}
        refused = await gate.post(MESSAGES, body, headers)
        assert (refused.status, refused.json["type"]) == (402, "error")


async def test_a_decision_and_an_outcome_are_only_for_the_key_that_made_the_call(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"one": {}, "two": {}}) as gate:
        one, two = bearer(gate.secrets["one"]), bearer(gate.secrets["two"])
        call_id = (await gate.chat(headers=one)).headers["x-attune-call-id"]
        assert (await gate.get(f"/v1/attune/decisions/{call_id}", one)).status == 200
        other = await gate.get(f"/v1/attune/decisions/{call_id}", two)
        nobody = await gate.get("/v1/attune/decisions/" + "0" * len(call_id), two)
        assert other.status == nobody.status == 404
        assert other.body.replace(call_id.encode(), b"") == nobody.body.replace(b"0" * len(call_id), b"")
        outcome = {"call_id": call_id, "success": True}
        assert (await gate.post("/v1/attune/outcomes", outcome, two)).status == 404
        assert (await gate.post("/v1/attune/outcomes", outcome, one)).status == 200
        text = (await gate.get(f"/v1/attune/decisions/{call_id}", one)).body
        assert b"canary" not in text


async def test_keys_that_cannot_be_read_are_503_and_not_401(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attune.errors import StoreError

    def fail(_: Gatekeeper) -> None:
        raise StoreError("disk gone")

    async with gateway(tmp_path, keys={"one": {}}) as gate:
        monkeypatch.setattr(Gatekeeper, "_read", fail)
        async with asyncio.timeout(60):
            while (await gate.get("/ready")).status == 200:
                await asyncio.sleep(0.05)
        assert (await gate.chat(headers=bearer("attune-" + "x" * 43))).status == 503
        assert (await gate.chat(headers=bearer(gate.secrets["one"]))).status == 200


ALIASES = """\
[gateway.aliases]
"fixed-any" = "auto"
"fixed-cheap" = "attune/cheap"
"fixed-premium" = "attune/premium"
"fixed-alpha" = "alpha"
"fixed-beta" = "second/beta"
"fixed-chat" = "attune/chat"
"fixed-summary" = "attune/summarize"
"""


async def test_only_those_aliases_are_listed_that_the_key_may_ask_for(tmp_path: Path) -> None:
    keys = {
        "tier": {"tiers": frozenset({"cheap"})},
        "model": {"models": frozenset({"first/alpha"})},
        "live": {"realtime": True, "providers": frozenset({"second"})},
    }
    listed = {
        "tier": {"fixed-any", "fixed-cheap", "fixed-beta", "fixed-summary"},
        "model": {"fixed-any", "fixed-alpha", "fixed-summary"},
        "live": {"fixed-any", "fixed-cheap", "fixed-beta", "fixed-chat", "fixed-summary"},
    }
    async with gateway(tmp_path, extra=ALIASES, keys=keys) as gate:
        for name, expected in listed.items():
            headers = bearer(gate.secrets[name])
            entries = (await gate.get("/v1/models", headers)).json["data"]
            assert {each["id"] for each in entries if each["id"].startswith("fixed-")} == expected, name
            for alias in ("fixed-alpha", "fixed-beta"):
                wanted = 200 if alias in expected else 404
                assert (await gate.get(f"/v1/models/{alias}", headers)).status == wanted


async def test_a_count_of_tokens_is_a_request_that_takes_no_tokens(tmp_path: Path) -> None:
    keys = {"calls": {"limits": (2,)}, "tokens": {"limits": (None, 2000)}}
    body = {"model": "alpha", "messages": HI}
    async with gateway(tmp_path, keys=keys) as gate:
        for status in (200, 200, 429):
            answer = await gate.post(f"{MESSAGES}/count_tokens", body, bearer(gate.secrets["calls"]))
            assert answer.status == status
        assert answer.json["type"] == "error"
        assert (await gate.chat(headers=bearer(gate.secrets["calls"]))).status == 429
        gate.second.default = Answer(
            usage={"prompt_tokens": 90_000, "completion_tokens": 9, "total_tokens": 1}
        )
        headers = bearer(gate.secrets["tokens"])
        assert [(await gate.chat(headers=headers)).status for _ in range(2)] == [200, 429]  # all are used
        assert (await gate.post(f"{MESSAGES}/count_tokens", body, headers)).status == 200
