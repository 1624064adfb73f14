"""``attune doctor --online``: whether each key is accepted, asked for real over HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from attune.cli import _online
from attune.providers.catalogue import KNOWN_PROVIDERS
from support.upstream import Answer, FakeUpstream

KEY = "canary-not-a-secret"

MINE = """\
[providers.mine]
kind = "{kind}"
base_url = "{url}"
api_key = "env:MINE_KEY"
"""

MODEL = """
[[models]]
id = "m"
provider = "mine"
tier = "capable"
context_window = 100000
"""


@asynccontextmanager
async def asked(attune, monkeypatch, kind: str = "openai", *answers: Answer):
    """A provider that answers so, and a function that runs doctor against it."""
    monkeypatch.setenv("MINE_KEY", KEY)
    async with FakeUpstream() as upstream:
        upstream.then(*answers)
        url = upstream.chat_url if kind == "openai" else upstream.messages_url
        attune.configure(MINE.format(kind=kind, url=url) + MODEL)

        async def doctor() -> tuple[int, dict[str, str]]:
            code, out = await asyncio.to_thread(attune, "doctor", "--online", "--json")
            assert KEY not in out + attune.err
            found = {check["check"]: check for check in json.loads(out)["checks"]}
            return code, found.get("mine api_key online") or found["mine (no key needed) online"]

        yield upstream, doctor


async def test_one_request_that_costs_nothing_says_that_the_key_works(attune, monkeypatch):
    async with asked(attune, monkeypatch) as (upstream, doctor):
        code, check = await doctor()
        assert (code, check["state"]) == (0, "ok")
        assert "gives its list of models with this key" in check["detail"]
        (request,) = upstream.received
        assert (request.path, request.body) == ("/v1/models", None)
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert attune.err == "attune: asking mine api_key ...\n"


async def test_anthropic_is_asked_in_its_own_way(attune, monkeypatch):
    async with asked(attune, monkeypatch, "anthropic") as (upstream, doctor):
        assert (await doctor())[0] == 0
        (request,) = upstream.received
        assert (request.path, request.headers["x-api-key"]) == ("/v1/models", KEY)
        assert request.headers["anthropic-version"]


async def test_a_key_that_a_known_service_takes_is_accepted(attune, monkeypatch):
    async with asked(attune, monkeypatch) as (upstream, doctor):
        known = KNOWN_PROVIDERS["openai"]._replace(name="mine", base_url=upstream.chat_url)
        monkeypatch.setitem(KNOWN_PROVIDERS, "mine", known)
        assert (await doctor())[1]["detail"] == "its key is accepted"
        await upstream.down()
        assert (await doctor())[1]["detail"].endswith(": Connection refused; start it")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            Answer(status=401, error_code="invalid_api_key", error_message=f"bad key {KEY}"),
            (5, "fail", "its key is refused (401 invalid_api_key); put a valid one in env:MINE_KEY"),
        ),
        (
            Answer(status=429, error_code="insufficient_quota"),
            (5, "fail", "its account has no money left (429 insufficient_quota); add some"),
        ),
        (
            Answer(status=429, body=b""),
            (0, "note", "too many requests (429): the key was not tried; ask later"),
        ),
        (
            Answer(status=404, body=b""),
            (
                0,
                "note",
                "it has no list of models (404), so its key was not tried; or is its base_url wrong?",
            ),
        ),
        (
            Answer(status=503, error_message=f"overloaded {KEY}"),
            (0, "note", "it answered 503 (api_error): overloaded [redacted]; its key was not tried"),
        ),
        (
            Answer(body=b"<html>welcome</html>"),
            (0, "note", "it answered with something else than a list of models; its key was not tried"),
        ),
        (Answer(body=b'{"error": {}}'), (0, "note", "something else than a list of models")),
        (Answer(body=b""), (0, "note", "something else than a list of models")),
        (Answer(status=302), (0, "note", "a redirect, which is not followed; set base_url to where")),
        (Answer(reset_head=True), (4, "fail", "; start it, or mend its base_url")),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
async def test_what_is_wrong_is_said_with_what_to_do(attune, monkeypatch, answer, expected):
    async with asked(attune, monkeypatch, "openai", answer, answer) as (_, doctor):  # a reset is tried again
        ended, check = await doctor()
        code, state, says = expected
        assert (ended, check["state"]) == (code, state)
        assert says in check["detail"]


async def test_who_does_not_answer_is_not_waited_for(attune, monkeypatch):
    monkeypatch.setattr(_online, "WITHIN_S", 0.2)
    async with asked(attune, monkeypatch, "openai", Answer(stall_head=True)) as (_, doctor):
        code, check = await doctor()
        assert (code, check["state"]) == (4, "fail")
        assert check["detail"] == "no answer within 0.2 s; start it, or mend its base_url"


async def test_a_server_of_this_machine_that_is_down_is_said_so(attune, monkeypatch):
    async with asked(attune, monkeypatch) as (upstream, doctor):
        attune.configure(f'[providers.mine]\nkind = "openai"\nbase_url = "{upstream.chat_url}"' + MODEL)
        assert (await doctor())[1]["detail"] == "it answers"
        upstream.then(Answer(status=401))
        assert "it wants a key (401 api_error); give it an api_key" in (await doctor())[1]["detail"]
        await upstream.down()
        code, check = await doctor()
        assert (code, check["state"]) == (4, "fail")
        refused = (
            f"cannot reach 127.0.0.1:{upstream.port}: Connection refused; start it, or mend its base_url"
        )
        assert refused in check["detail"]


async def test_a_key_that_is_none_asks_nobody(attune, monkeypatch):
    async with asked(attune, monkeypatch) as (upstream, _):
        monkeypatch.setenv("MINE_KEY", "two words")
        code, out = await asyncio.to_thread(attune, "doctor", "--online")
        assert (code, "online" in out, upstream.received) == (5, False, [])


async def test_nobody_is_asked_unless_told_to(attune, monkeypatch):
    async with asked(attune, monkeypatch) as (upstream, _):
        assert (await asyncio.to_thread(attune, "doctor"))[0] == 0
        assert upstream.received == []
