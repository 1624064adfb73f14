"""What a client is told that asks for something that cannot be: at each door the right status, in the shape
of its protocol, in one sentence that says what is wrong and what to do; and no provider is asked.
"""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from support.gateway import Answered, gateway

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"model": "beta", "max_tokens": 50, "messages": HI},
    MESSAGES: {"model": "alpha", "max_tokens": 50, "messages": HI},
    RESPONSES: {"model": "gamma", "max_output_tokens": 50, "input": "hi"},
}
DOORS = tuple(ASKED)
CONVERSATION = {CHAT: "messages", MESSAGES: "messages", RESPONSES: "input"}
LIMIT = {CHAT: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}
ONLY_HERE = {CHAT: {"n": 2}, MESSAGES: {"container": "c"}, RESPONSES: {"previous_response_id": "r"}}
"""What a door's protocol alone can say."""

OTHER = {CHAT: "alpha", MESSAGES: "beta", RESPONSES: "alpha"}
"""A model whose provider speaks another protocol."""

KEYS: dict[str, dict[str, Any]] = {
    "mine": {},
    "old": {"expires": 2.0},
    "taken": {},
    "cheap": {"tiers": frozenset({"cheap"})},
    "lists": {"routes": frozenset({"/v1/models"})},
    "poor": {"limits": (None, None, 0.00006)},
    "spent": {"limits": (None, None, 0.0003)},
    "slow": {"limits": (1,)},
    "small": {"limits": (None, 40)},
}
TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    402: ("insufficient_quota", "billing_error"),
    403: ("permission_error", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
}
"""The ``type`` of an error by its status: for OpenAI's clients, and for Anthropic's."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def sentence(path: str, answer: Answered, status: int) -> str:
    """What the client is told, once status and shape are as they should be."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    body, error = answer.json, answer.json["error"]
    if path == MESSAGES:
        assert (set(body), body["type"]) == ({"type", "error", "request_id"}, "error")
        assert set(error) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == TYPES[status][path == MESSAGES]
    waits = "retry-after" in answer.headers
    assert waits is not (answer.headers.get("x-should-retry") == "false")
    message: str = error["message"]
    assert 10 < len(message) < 400
    assert message.isprintable()
    assert not message.endswith(".") or message.endswith(", ...")
    assert not [
        word for word in ("Traceback", "msgspec", "NoneType", "attune.", "object at") if word in message
    ]
    return message


# -- the body ----------------------------------------------------------------------------------------


class Body(NamedTuple):
    """A body that makes no sense: made for a door, and what the sentence about it says."""

    make: Any
    says: Any


def without(path: str, field: str) -> dict[str, Any]:
    return {name: value for name, value in ASKED[path].items() if name != field}


BODIES = {
    "empty": Body(lambda path: b"", "the body is empty"),
    "cut off": Body(lambda path: json.dumps(ASKED[path]).encode()[:-9], "the body is not JSON"),
    "no JSON": Body(lambda path: b"model=beta&prompt=hi", "the body is not JSON"),
    "no object": Body(lambda path: b"[1]", "the body: expected object"),
    "not UTF-8": Body(lambda path: json.dumps(ASKED[path]).encode() + b"\xff", "the body is not JSON"),
    "no model": Body(lambda path: without(path, "model"), "model is missing"),
    "an empty model": Body(lambda path: ASKED[path] | {"model": ""}, "model must be a name"),
    "a model that is a number": Body(lambda path: ASKED[path] | {"model": 7}, "model: expected"),
    "a model's name without an end": Body(lambda path: ASKED[path] | {"model": "m" * 9999}, "model must be"),
    "no conversation": Body(
        lambda path: without(path, CONVERSATION[path]), lambda path: f"{CONVERSATION[path]} is missing"
    ),
    "an empty conversation": Body(
        lambda path: ASKED[path] | {CONVERSATION[path]: []}, lambda path: f"{CONVERSATION[path]} is empty"
    ),
    "a conversation that is a number": Body(
        lambda path: ASKED[path] | {CONVERSATION[path]: 7}, lambda path: f"{CONVERSATION[path]}: expected"
    ),
    "a limit that is a text": Body(
        lambda path: ASKED[path] | {LIMIT[path]: "many"}, lambda path: f"{LIMIT[path]}: expected"
    ),
    "a temperature that is a text": Body(
        lambda path: ASKED[path] | {"temperature": "hot"}, "temperature: expected"
    ),
    "stream that is a text": Body(lambda path: ASKED[path] | {"stream": "yes"}, "stream: expected"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_body_that_makes_no_sense_is_told_what_is_wrong_with_it(tmp_path: Path, body: Body) -> None:
    async with gateway(tmp_path) as gate:
        for path in DOORS:
            says = body.says(path) if callable(body.says) else body.says
            assert sentence(path, await gate.post(path, body.make(path)), 400).startswith(says)
        assert gate.asked == []


async def test_a_body_that_is_too_large_is_told_how_large_it_may_be(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra="[gateway]\nmax_body_mib = 1\n") as gate:
        for path in DOORS:
            body = io.BytesIO(json.dumps(ASKED[path] | {"more": "x" * 2**20}).encode())
            async with gate.http.post(gate.url + path, data=body) as response:
                answer = Answered(response.status, response.headers.copy(), await response.read())
            assert "above 1 MiB" in sentence(path, answer, 413)
        assert gate.asked == []


async def test_a_compressed_body_is_told_to_come_plain(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for path in DOORS:
            answer = await gate.post(path, b"\x1f\x8b", {"content-encoding": "gzip"})
            assert "'gzip' is not read; send it plain" in sentence(path, answer, 415)


# -- names and fields --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("alpa", "did you mean 'alpha'?"),
        ("second/betta", "did you mean 'second/beta'?"),
        ("attune/chep", "did you mean 'attune/cheap'?"),
        ("attune/sumarise", "did you mean 'attune/summarize'?"),
        ("auto ", "did you mean 'auto'?"),
        ("zzzzzz", "choose one of"),
    ],
)
async def test_an_unknown_model_is_told_the_nearest_name(
    tmp_path: Path, name: str, says: str, stream: bool
) -> None:
    async with gateway(tmp_path) as gate:
        for path in DOORS:
            answer = await gate.post(path, ASKED[path] | {"model": name, "stream": stream})
            told = sentence(path, answer, 404)
            assert told.startswith(f"unknown model {name.strip()!r}")
            assert says in told
            if path != MESSAGES:
                assert answer.json["error"]["code"] == "model_not_found"
        assert gate.asked == []


async def test_a_model_of_a_provider_that_is_not_enrolled_is_told_so(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for path in DOORS:
            answer = await gate.post(path, ASKED[path] | {"model": "claude-sonnet-5-5"})
            told = sentence(path, answer, 404)
            assert "'claude-sonnet-5-5'" in told
            assert "no enrolled provider" in told


@pytest.mark.parametrize("stream", [True, False])
async def test_a_field_that_another_protocol_cannot_say_is_named(tmp_path: Path, stream: bool) -> None:
    async with gateway(tmp_path) as gate:
        for path in DOORS:
            body = ASKED[path] | ONLY_HERE[path] | {"stream": stream}
            told = sentence(path, await gate.post(path, body | {"model": OTHER[path]}), 400)
            (field,) = ONLY_HERE[path]
            assert f"cannot be asked for {field};" in told
            assert "leave it out, or choose a model that speaks" in told
            assert gate.asked == []
            assert (await gate.post(path, body)).status == 200
            for upstream in gate.upstreams:
                upstream.received.clear()


# -- keys --------------------------------------------------------------------------------------------


async def refused(gate: Gate, headers: dict[str, str], status: int, **fields: Any) -> set[str]:
    """What each door tells a request."""
    return {
        sentence(path, await gate.post(path, ASKED[path] | fields, headers), status).strip() for path in DOORS
    }


async def test_a_key_that_is_missing_unknown_expired_or_revoked_is_told_which(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys=KEYS) as gate:
        taken = next(each for each in gate.runtime.store.all_keys() if each.name == "taken")
        gate.runtime.store.revoke_key(taken.id, 3.0)
        async with asyncio.timeout(60):
            while (await gate.get("/v1/models", bearer(gate.secrets["taken"]))).status != 401:
                await asyncio.sleep(0.05)
        two = {**bearer(gate.secrets["mine"]), "x-api-key": gate.secrets["slow"]}
        for headers, says in (
            ({}, "this gateway needs a key: send it as `Authorization: Bearer KEY`"),
            (bearer("sk-of-a-provider"), "what was sent is no key of this gateway; its keys begin with"),
            ({"authorization": "Basic eDp5"}, "what was sent is no key of this gateway"),
            (bearer("attune-" + "x" * 43), "this key is unknown"),
            (bearer(gate.secrets["old"]), "the key 'old' has expired; ask for a new one"),
            (bearer(gate.secrets["taken"]), "the key 'taken' was revoked; ask for a new one"),
            (two, "two different keys came with this request; send one"),
        ):
            for stream in (True, False):
                (told,) = await refused(gate, headers, 401, stream=stream)
                assert told.startswith(says)
        assert gate.asked == []


async def test_what_a_key_may_not_do_is_told_with_what_it_may(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys=KEYS) as gate:
        (told,) = await refused(gate, bearer(gate.secrets["cheap"]), 403, model="alpha")
        assert told == "the key 'cheap' may not use the tier 'capable'; it may use cheap"
        for told in await refused(gate, bearer(gate.secrets["lists"]), 403):
            assert told.startswith("the key 'lists' may not use the route '/v1/")
            assert told.endswith("; it may use /v1/models")
        assert gate.asked == []


async def test_a_budget_that_is_spent_is_told_how_much_it_was_and_when_it_resets(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys=KEYS) as gate:
        for told in await refused(gate, bearer(gate.secrets["poor"]), 402):
            assert told.startswith("this call may cost up to $0.00")
            assert "more than all of the budget of $0.00006 a day of the key 'poor'" in told
        assert gate.asked == []
        headers = bearer(gate.secrets["spent"])
        async with asyncio.timeout(60):
            while (await gate.post(CHAT, ASKED[CHAT], headers)).status == 200:
                pass
        asked = len(gate.asked)
        for path in DOORS:
            for stream in (True, False):
                answer = await gate.post(path, ASKED[path] | {"stream": stream}, headers)
                told = sentence(path, answer, 402)
                assert told.startswith("the budget of $0.0003 a day of the key 'spent' has no room left")
                assert told.endswith("00:00 UTC")
                assert 1 <= int(answer.headers["retry-after"]) <= 86_400
        assert len(gate.asked) == asked


async def test_a_rate_that_is_exceeded_is_told_when_to_try_again(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys=KEYS) as gate:
        headers = bearer(gate.secrets["slow"])
        assert (await gate.post(CHAT, ASKED[CHAT], headers)).status == 200
        for path in DOORS:
            for stream in (True, False):
                answer = await gate.post(path, ASKED[path] | {"stream": stream}, headers)
                told = sentence(path, answer, 429)
                wait_s = int(answer.headers["retry-after"])
                assert 1 <= wait_s <= 60
                assert told == f"the 1 request a minute of the key 'slow' is used; try again in {wait_s} s"
        assert gate.asked == ["beta"]
        for told in await refused(gate, bearer(gate.secrets["small"]), 429):
            assert "more than the 40 tokens a minute of the key 'small'; make it smaller" in told


async def test_the_official_clients_raise_what_their_users_catch(tmp_path: Path) -> None:
    cases = (
        ("mine", {"model": "alpa"}, "NotFoundError"),
        ("mine", {"model": "alpha", "extra_body": {"temperature": "hot"}}, "BadRequestError"),
        ("cheap", {"model": "alpha"}, "PermissionDeniedError"),
        ("old", {"model": "alpha"}, "AuthenticationError"),
        ("small", {"model": "alpha"}, "RateLimitError"),
        ("poor", {"model": "alpha"}, "APIStatusError"),
    )
    async with gateway(tmp_path, keys=KEYS) as gate:
        for name, fields, error in cases:
            for stream in (True, False):
                async with gate.openai(gate.secrets[name]) as client:
                    with pytest.raises(getattr(openai, error)) as by_chat:
                        await client.chat.completions.create(messages=HI, stream=stream, **fields)
                    with pytest.raises(getattr(openai, error)):
                        await client.responses.create(input="hi", stream=stream, **fields)
                async with gate.anthropic(gate.secrets[name]) as client:
                    with pytest.raises(getattr(anthropic, error)) as by_messages:
                        await client.messages.create(messages=HI, max_tokens=50, stream=stream, **fields)
                assert by_chat.value.body["message"] in str(by_chat.value)
                assert by_messages.value.body["error"]["message"] in str(by_messages.value)
        assert gate.asked == []
