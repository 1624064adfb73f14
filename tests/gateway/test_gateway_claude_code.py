"""Claude Code, the real program, behind ``attune up`` with a key: what it asks, prints and survives."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from attune.stores.sqlite import SqliteStore
from support.claude_code import claude_code
from support.gateway import SECRETS, configuration
from support.program import Program
from support.up import up
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from attune.models.telemetry import LLMCallRecord
    from support.claude_code import Claude
    from support.up import Up
    from support.upstream import Received

ALIASES = """\
[gateway.aliases]
"claude-opus-5-5" = "attune/premium"
"claude-sonnet-5-5" = "attune/capable"
"claude-haiku-5-5" = "attune/cheap"
[[gateway.rules]]
user_agent = "claude-cli"
workflow = "claude-code"
"""
DELTA = """\
[[models]]
id = "delta"
provider = "first"
tier = "capable"
context_window = 100000
max_output_tokens = 4000
abilities = ["tools", "json_schema", "vision", "thinking"]
input_price = 1.0
output_price = 5.0
"""
SONNET = ("--model", "claude-sonnet-5-5")
STREAMED = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")


class Desk(NamedTuple):
    """The gateway and who sits before and behind it."""

    gate: Up
    claude: Claude
    upstream: FakeUpstream
    home: Path
    key: str

    async def ledger(self) -> Sequence[LLMCallRecord]:
        """End the gateway; every attempt, in the order in which they were made."""
        assert (await self.gate.end())[0] == 0
        assert self.claude.strays == 0
        store = SqliteStore.open_readonly(self.home / "attune" / "data" / "ledger.db")
        return store.recent_attempts(100)[::-1]


@asynccontextmanager
async def desk(home: Path, models: str = "") -> AsyncIterator[Desk]:
    """Claude Code at work; ``models`` are candidates for its sonnet beside alpha."""
    async with FakeUpstream() as upstream:
        program = Program(home)
        program.environ |= SECRETS
        text = configuration(upstream.url, upstream.url, upstream.url)
        if models:
            text = text.replace('["first/alpha"]', '["first/alpha", "first/delta"]')
            text = text.replace("[routing]", '[routing]\npolicy = "best"')
        program.configure(text + models + ALIASES)
        key = program("keys", "create", "claude").out.strip()
        async with up(program) as gate, claude_code(home, gate.url, key) as claude:
            yield Desk(gate, claude, upstream, home, key)


def text_of(message: Any) -> str:
    return json.dumps(message, ensure_ascii=False)


async def test_claude_code_prints_the_answer_of_the_tier_that_its_model_stands_for(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        ended = await at.claude("-p", "what is up?", *SONNET)
        assert (ended.code, ended.out) == (0, "Hello there, friend\n")
        records = await at.ledger()
    (asked,) = at.upstream.received
    assert (asked.protocol, asked.body["model"], asked.body["stream"]) == ("messages", "alpha", True)
    assert "what is up?" in text_of(asked.body["messages"])
    assert asked.body["max_tokens"] == 4000, "it asks for more than the model has"
    assert asked.headers["x-api-key"] == SECRETS["KEY_first"]
    assert at.key not in text_of([asked.headers, asked.body])
    (record,) = records
    assert (record.provider, record.model_id, record.tier) == ("first", "alpha", "capable")
    assert (record.workflow, record.success, record.cost_nanos) == ("claude-code", True, 47_000)


@pytest.mark.parametrize(
    ("asks_for", "gets", "protocol"),
    [
        ("claude-opus-5-5", "gamma", "responses"),
        ("claude-haiku-5-5", "beta", "chat"),
        ("beta", "beta", "chat"),
        ("attune/premium", "gamma", "responses"),
        ("auto", "alpha", "messages"),
    ],
)
async def test_claude_code_is_answered_by_every_protocol_under_every_kind_of_name(
    tmp_path: Path, asks_for: str, gets: str, protocol: str
) -> None:
    async with desk(tmp_path) as at:
        ended = await at.claude("-p", "hi", "--model", asks_for)
        assert (ended.code, ended.out) == (0, "Hello there, friend\n")
        (record,) = await at.ledger()
    (asked,) = at.upstream.received
    assert (asked.body["model"], asked.protocol) == (gets, protocol)
    assert record.model_id == gets


async def test_claude_code_shows_the_pieces_of_a_stream_as_they_come(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        ended = await at.claude("-p", "hi", *SONNET, *STREAMED)
        assert ended.code == 0
        (record,) = await at.ledger()
    events = [each["event"] for each in ended.events if each["type"] == "stream_event"]
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    assert [each["text"] for each in deltas] == ["Hello the", "re, friend"]
    assert events[-1]["type"] == "message_stop"
    result = ended.events[-1]
    assert (result["type"], result["is_error"], result["result"]) == ("result", False, "Hello there, friend")
    assert record.session_id == result["session_id"]


@pytest.mark.parametrize("model", ["alpha", "beta", "gamma"])
async def test_claude_code_reads_a_file_for_a_model_of_every_protocol(tmp_path: Path, model: str) -> None:
    async with desk(tmp_path) as at:
        note = at.claude.folder / "note.txt"
        note.write_text("the word is plover")
        call = ("call_0123456789ab", "Read", json.dumps({"file_path": str(note)}))
        at.upstream.then(Answer(text="", tool_calls=(call,)), Answer(text="It is plover."))
        ended = await at.claude("-p", "which word is in note.txt?", "--model", model)
        assert (ended.code, ended.out) == (0, "It is plover.\n")
        records = await at.ledger()
    first, second = at.upstream.received
    assert b"plover" not in first.raw
    assert b"the word is plover" in second.raw, "the program has read the file, and told the model"
    assert [each.success for each in records] == [True, True]
    assert len({each.session_id for each in records}) == 1
    assert len({each.call_id for each in records}) == 2


async def test_claude_code_does_not_notice_an_overloaded_provider(tmp_path: Path) -> None:
    def overloaded(seen: Received) -> Answer:
        if seen.protocol == "messages":
            return Answer(status=529, error_type="overloaded_error", error_message="Overloaded")
        return Answer(text="Here I am")

    async with desk(tmp_path) as at:
        at.upstream.default = overloaded
        ended = await at.claude("-p", "hi", *SONNET)
        assert (ended.code, ended.out) == (0, "Here I am\n")
        records = await at.ledger()
    assert len({each.call_id for each in records}) == 1, "attune tried again, and not the program"
    assert [each.error_class for each in records[:-1]] == ["transient"] * (len(records) - 1)
    assert len(records) > 1
    assert records[-1].success
    assert records[-1].model_id != "alpha"


async def test_claude_code_does_not_notice_a_providers_key_that_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        refused = Answer(status=401, error_type="authentication_error", error_message="invalid x-api-key")
        at.upstream.then(refused)
        ended = await at.claude("-p", "hi", *SONNET)
        assert (ended.code, ended.out) == (0, "Hello there, friend\n")
        records = await at.ledger()
    assert [each.error_class for each in records] == ["credential", ""]
    assert records[0].model_id == "alpha"
    assert records[1].provider != "first"


async def test_claude_code_with_a_wrong_key_says_so_and_reaches_no_provider(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.claude.environ["ANTHROPIC_AUTH_TOKEN"] = "attune-of-somebody-else"
        ended = await at.claude("-p", "hi", *SONNET)
        assert ended.code == 1
        assert "401" in ended.out
        assert at.key not in ended.out + ended.err
        assert await at.ledger() == []
    assert at.upstream.received == []


async def test_claude_code_gives_up_a_model_that_nobody_here_has(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        ended = await at.claude("-p", "hi", "--model", "claude-fable-5-2")
        assert ended.code == 1
        assert "claude-fable-5-2" in ended.out
        code, log = await at.gate.end()
        assert code == 0
    asked = [json.loads(line) for line in log.splitlines()]
    statuses = [each["status"] for each in asked if each.get("path") == "/v1/messages"]
    assert statuses in ([404], [404, 404]), "at most once with a stream and once without"


@pytest.mark.parametrize(("number", "drawn"), [(1, "alpha"), (3, "delta")])
async def test_a_session_of_claude_code_stays_with_the_candidate_that_its_id_draws(
    tmp_path: Path, number: int, drawn: str
) -> None:
    session = f"00000000-0000-4000-8000-{number:012}"
    async with desk(tmp_path, DELTA) as at:
        assert (await at.claude("-p", "hi", *SONNET, "--session-id", session)).code == 0
        assert (await at.claude("-p", "and?", *SONNET, "--resume", session)).code == 0
        records = await at.ledger()
    assert [(each.model_id, each.session_id) for each in records] == [(drawn, session)] * 2
    assert '"hi"' in text_of(at.upstream.received[1].body["messages"]), "the conversation goes on"
