"""A subscription, paid through the real ``claude`` program, with Anthropic's servers played on loopback.

The login is made up, and no account is there: see ``support.claude_login``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    CredentialError,
    InvalidRequestError,
    ModelUnavailableError,
    ProviderError,
    StreamBrokenError,
    ThrottledError,
    WindowSpentError,
)
from attune.models.executor import AttemptBudget, BilledBeside, EventKind, TextDelta
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import ImagePart, LLMRequest, Message, OutputFormat, Source, TextPart, Tool
from attune.models.telemetry import TokenUsage
from attune.providers import _claude_stream, build_provider
from attune.providers._claude_process import find_program
from attune.providers.claude_subscription import ClaudeSubscriptionProvider
from support.claude_login import HAS_PROGRAM, TOKEN, logged_in
from support.upstream import Answer, FakeUpstream, messages_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from attune.models.executor import StreamEvent
    from attune.providers._claude_process import ClaudePool
    from support.claude_login import Desk
    from support.upstream import Received

MODEL = ModelInfo("claude-sonnet-5-5", "claude", ModelTier.CAPABLE, 200_000, 4096)
BUDGET = AttemptBudget(connect_s=60.0)
STREAM = LLMRequest.from_prompt("hi", stream=True)
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PART = len(b"".join(messages_stream(Answer(), MODEL.id))) * 7 // 10
"""So many bytes of a stream hold some of its content, and not its end."""

needs_program = pytest.mark.skipif(not HAS_PROGRAM, reason="the claude program is not installed")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program still says after an answer is waited for, also on a machine that has other work."""
    monkeypatch.setattr(_claude_stream, "LAST_WORDS_S", 60.0)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
async def desk(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[Desk]:
    async with logged_in(tmp_path, upstream.url) as found:
        yield found


async def ask(
    provider: ClaudeSubscriptionProvider,
    request: LLMRequest = STREAM,
    model: ModelInfo = MODEL,
    budget: AttemptBudget = BUDGET,
) -> list[StreamEvent]:
    stream = await provider.open(request, model, budget)
    async with aclosing(stream):
        return [event async for event in stream]


async def to_the_end(stream: AsyncIterator[StreamEvent]) -> None:
    async for _ in stream:
        pass


def text(events: list[StreamEvent]) -> str:
    return "".join(event.parsed.text for event in events if isinstance(event.parsed, TextDelta))


def stop_reason(events: list[StreamEvent]) -> str:
    return events[-1].parsed.stop_reason


def pool_of(provider: ClaudeSubscriptionProvider) -> ClaudePool:
    (pool,) = provider._pools.values()
    assert pool is not None
    return pool


def running(pid: int) -> bool:
    """Whether there is such a process, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def soon() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


async def python(code: str, given: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, with what is ``given`` as JSON in its first argument."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, json.dumps(given)],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def until_gone(*pids: int) -> None:
    async with soon():
        while any(map(running, pids)):
            await asyncio.sleep(0.01)


async def ready(provider: ClaudeSubscriptionProvider) -> int:
    """The process that waits for the next request."""
    async with soon():
        while (process := pool_of(provider)._warm) is None:
            await asyncio.sleep(0.01)
    return process.pid


def unified(status: str, **more: Any) -> Mapping[str, str]:
    """The headers in which the servers speak of a plan; ``__`` stands for ``-``."""
    names = {name.replace("__", "-"): str(value) for name, value in more.items()}
    return {
        f"anthropic-ratelimit-unified-{name}": value for name, value in {"status": status, **names}.items()
    }


def refused(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status=status, error_type=kind, error_message=message, headers=headers or {})


# -- answers ---------------------------------------------------------------------------------------


@needs_program
async def test_an_answer_is_its_events_and_the_request_is_no_more_than_what_was_asked(
    desk: Desk, upstream: FakeUpstream
) -> None:
    (desk.config / "CLAUDE.md").write_text("Always answer in rhyme.")
    touched = desk.config / "touched"
    hook = {"hooks": [{"type": "command", "command": f"touch {touched}"}]}
    settings = {"env": {"ANTHROPIC_API_KEY": "sk-ant-not-a-secret"}, "hooks": {"UserPromptSubmit": [hook]}}
    (desk.config / "settings.json").write_text(json.dumps(settings))
    provider = desk.provider()
    request = LLMRequest.from_prompt("hi", system="Be terse.", max_output_tokens=77, stream=True)
    events = await ask(provider, request)
    assert [event.kind for event in events if event.kind is not EventKind.PING] == [
        EventKind.META,
        EventKind.USAGE,
        EventKind.CONTENT,
        EventKind.CONTENT,
        EventKind.USAGE,
        EventKind.TERMINAL,
    ]
    assert (text(events), stop_reason(events)) == ("Hello there, friend", "stop")
    usage = [event.parsed for event in events if event.kind is EventKind.USAGE]
    assert usage[-1] == TokenUsage(12, 7)
    (seen,) = upstream.received
    assert seen.headers["authorization"] == f"Bearer {TOKEN}", "the program itself knows the login"
    assert "x-api-key" not in seen.headers
    assert (seen.body["model"], seen.body["max_tokens"], seen.body["tools"]) == (MODEL.id, 77, [])
    assert seen.body["system"][-1]["text"] == "Be terse."
    assert "thinking" not in seen.body
    assert b"rhyme" not in seen.raw
    assert not touched.exists()
    assert desk.asked_of <= {"api.anthropic.com:443"}
    assert list(pool_of(provider).folder.iterdir()) == []
    assert not (desk.config / "projects").exists(), "no conversation is kept"
    assert (provider.name, provider.credential) == ("claude", "subscription")


@needs_program
async def test_a_conversation_arrives_as_it_is_and_nothing_in_it_is_a_command_or_a_file(
    desk: Desk, upstream: FakeUpstream
) -> None:
    last = "/help me with @/etc/hostname"
    picture = ImagePart(data=PICTURE, media_type="image/png")
    turns = (
        Message.user("one"),
        Message.assistant("uno"),
        Message("user", (TextPart("two?"), picture)),
        Message.assistant("dos"),
        Message.user(last),
    )
    provider = desk.provider()
    await ask(provider, LLMRequest(turns, stream=True, thinking_tokens=1000))
    (seen,) = upstream.received
    told = [(each["role"], each["content"]) for each in seen.body["messages"] if each["role"] != "system"]
    assert [role for role, _ in told] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["type"] for block in told[2][1]] == ["text", "image"]
    assert told[2][1][1]["source"]["data"] == PICTURE
    said = [content if isinstance(content, str) else content[0]["text"] for _, content in told]
    assert said == ["one", "uno", "two?", "dos", last]
    assert Path("/etc/hostname").read_text().strip() not in str(said)
    assert seen.body["output_config"] == {"effort": "low"}
    assert seen.body["thinking"]["type"] == "adaptive"
    whole = await ask(provider, LLMRequest.from_prompt("another talk"))
    assert (text(whole), stop_reason(whole)) == ("Hello there, friend", "stop"), "not asked to stream"
    _, other = upstream.received
    assert b"another talk" in other.raw
    assert b"uno" not in other.raw, "no conversation sees another"


@needs_program
async def test_an_answer_that_is_cut_off_by_its_limit_is_not_gone_on_with(
    desk: Desk, upstream: FakeUpstream
) -> None:
    def answered(seen: Received) -> Answer:
        if b'"I can"' in seen.raw:  # the program goes on by itself, if it is quick, before it is interrupted
            return Answer(text="not", stop_reason="refusal")
        if b"another talk" in seen.raw:
            return Answer(text="no", stop_reason="refusal")
        return Answer(text="I can", stop_reason="max_tokens")

    upstream.default = answered
    provider = desk.provider()
    cut_off = await ask(provider)
    assert (text(cut_off), stop_reason(cut_off)) == ("I can", "length")
    declined = await ask(provider, LLMRequest.from_prompt("another talk", stream=True))
    assert (text(declined), stop_reason(declined)) == ("no", "refusal")
    assert sum(b"another talk" in each.raw for each in upstream.received) == 1


@needs_program
async def test_a_thing_that_the_program_cannot_be_told_is_the_callers_fault(desk: Desk) -> None:
    provider = desk.provider()
    prefilled = LLMRequest((Message.user("hi"), Message.assistant("I think")))
    cases = {
        "tools": LLMRequest.from_prompt("hi", tools=(Tool("look"),)),
        "stop_sequences": LLMRequest.from_prompt("hi", stop=("x",)),
        "top_k": LLMRequest.from_prompt("hi", extra={"top_k": 3, "output_config": "x"}),
        "output_config": LLMRequest.from_prompt("hi", output_format=OutputFormat({"type": "object"})),
        "last message": prefilled,
        "passed on for a client": LLMRequest.from_prompt("hi", source=Source("messages", {})),
    }
    for what, request in cases.items():
        with pytest.raises(CallerError, match=what):
            await provider.open(request, MODEL, BUDGET)
    with pytest.raises(ModelUnavailableError, match="credits"):
        await provider.open(STREAM, MODEL._replace(id="claude-fable-5-2"), BUDGET)
    assert not provider._pools, "no process was started for it"


# -- who pays --------------------------------------------------------------------------------------


@needs_program
async def test_a_key_in_the_environment_is_not_used(desk: Desk, upstream: FakeUpstream) -> None:
    keys = {
        "ANTHROPIC_API_KEY": "sk-ant-api03-not-a-secret",
        "ANTHROPIC_AUTH_TOKEN": "not-a-secret-either",
        "CLAUDE_CODE_OAUTH_TOKEN": "nor-is-this-a-secret",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    }
    await ask(desk.provider(environ=desk.environ | keys))
    (seen,) = upstream.received
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    assert not any(key in str(seen.headers) for key in keys.values() if key != "1")


@needs_program
async def test_nothing_is_asked_when_a_key_would_pay(
    desk: Desk, upstream: FakeUpstream, tmp_path: Path
) -> None:
    key = {"ANTHROPIC_API_KEY": "sk-ant-api03-not-a-secret"}
    with pytest.raises(CredentialError, match="not the subscription would pay but api_key"):
        await ask(desk.provider(additions=desk.additions | key))
    later = tmp_path / "claude"  # a key that comes only after the login was looked at
    later.write_text(
        f'#!/bin/sh\n[ "$2" = auth ] || export ANTHROPIC_API_KEY=x\nexec {find_program({})} "$@"\n'
    )
    later.chmod(0o755)
    with pytest.raises(CredentialError, match="would pay but ANTHROPIC_API_KEY"):
        await ask(desk.provider(program=str(later)))
    assert upstream.received == []


@needs_program
async def test_without_a_login_it_says_what_to_do_and_with_one_again_it_answers(desk: Desk) -> None:
    desk.log_out()
    provider = desk.provider()
    with pytest.raises(CredentialError, match="run `claude auth login`"):
        await ask(provider)
    desk.log_in()
    assert text(await ask(provider)) == "Hello there, friend"


WATCHED = """
import asyncio, json, sys
opened, started = [], []
def watch(event, details):
    if event == "open":
        opened.append(str(details[0]))
    elif event == "subprocess.Popen":
        started.append(str(details))
sys.addaudithook(watch)
from attune.config import load
from attune.providers.claude_subscription import ClaudeSubscriptionProvider
from attune.runtime import Runtime
from attune.stores.sqlite import SqliteStore
home, environ, additions = json.loads(sys.argv[1])
async def main():
    config = load(environ={"ATTUNE_HOME": home})
    store = SqliteStore.open(config.paths.ledger_file)
    provider = ClaudeSubscriptionProvider(environ=environ, additions=additions, idle_s=0)
    async with Runtime(config, [provider], store) as ai:
        answer = await ai.run("hi", model="claude/claude-sonnet-5-5")
        await store.flush()
        (record,) = store.recent_attempts(9)
    return {"answer": repr(answer), "record": record._asdict()}
print(json.dumps(asyncio.run(main()) | {"opened": opened, "started": started}))
"""


@needs_program
async def test_the_record_says_that_the_subscription_paid_and_the_token_is_nowhere_of_ours(
    desk: Desk, tmp_path: Path
) -> None:
    home = tmp_path / "attune"
    home.mkdir()
    (home / "config.toml").write_text(
        '[providers.claude]\nkind = "claude_subscription"\n[call]\nconnect_seconds = 60\n'
    )
    done = await python(WATCHED, [str(home), desk.environ, desk.additions], tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    record = found["record"]
    assert (record["provider"], record["credential"], record["cost_nanos"]) == ("claude", "subscription", 0)
    assert (record["cost_status"], record["usage"][:2]) == ("exact", [12, 7])
    assert found["started"], "it did watch"
    assert not [each for each in found["opened"] if each.startswith(str(desk.config))]
    kept = [each.read_bytes().decode("latin-1") for each in home.rglob("*") if each.is_file()]
    assert kept
    assert not [each for each in (done.stdout, done.stderr, *kept) if TOKEN in each]


# -- failures --------------------------------------------------------------------------------------


@needs_program
async def test_failures_are_what_the_same_answers_are_without_the_program_between(
    desk: Desk, upstream: FakeUpstream
) -> None:
    reset = int(time.time()) + 3600
    opus = unified("rejected", reset=reset, representative__claim="seven_day_opus")
    cases: tuple[tuple[Answer, type[ProviderError], str], ...] = (
        (refused(429, "rate_limit_error", "too many", opus), WindowSpentError, "Opus limit"),
        (refused(429, "rate_limit_error", "too many", {"retry-after": "7"}), ThrottledError, "too many"),
        (refused(404, "not_found_error", f"model: {MODEL.id}"), ModelUnavailableError, MODEL.id),
        (Answer(reset_head=True), ConnectionFailedError, "onnect"),
    )
    provider = desk.provider()
    for answer, kind, message in cases:
        upstream.default = answer
        with pytest.raises(ProviderError, match=message) as raised:
            await ask(provider)
        assert type(raised.value) is kind
        if kind is WindowSpentError:
            assert raised.value.retry_after == pytest.approx(reset - time.time(), abs=60)
    assert [(each.name, each.utilization, each.resets_at) for each in desk.windows] == [
        ("seven_day_opus", 1.0, reset)
    ]


@needs_program
async def test_an_expired_login_is_a_credential_that_is_looked_at_again(
    desk: Desk, upstream: FakeUpstream
) -> None:
    expired = refused(401, "authentication_error", "OAuth token has expired.")
    upstream.default = expired
    provider = desk.provider()
    with pytest.raises(CredentialError, match="OAuth token has expired") as raised:
        await ask(provider)
    assert raised.value.status == 401
    assert str(raised.value).endswith("run `claude auth login`")
    desk.log_out()
    with pytest.raises(CredentialError, match="run `claude auth login`"):
        await ask(provider)


@needs_program
async def test_every_window_that_the_plan_tells_of_is_reported(desk: Desk, upstream: FakeUpstream) -> None:
    soon, later = int(time.time()) + 3600, int(time.time()) + 86_400
    both = {"5h-utilization": 0.42, "5h-reset": soon, "7d-utilization": 0.61, "7d-reset": later}
    upstream.then(Answer(headers=unified("allowed", **both)), Answer())
    provider = desk.provider()
    await ask(provider)
    assert [each[:3] for each in desk.windows] == [("five_hour", 0.42, soon), ("seven_day", 0.61, later)]
    assert all(abs(each.learned_at - time.time()) < 60 and not each.spent for each in desk.windows)
    desk.windows.clear()
    await ask(provider)
    assert desk.windows == [], "what is not told is not 0"


@needs_program
async def test_an_answer_that_credits_pay_beside_the_plan_says_so_and_when_the_window_resets(
    desk: Desk, upstream: FakeUpstream
) -> None:
    reset = int(time.time()) + 3600
    spent = {"reset": reset, "representative-claim": "five_hour", "overage-status": "allowed"}
    spent |= {"overage-in-use": "true", "5h-utilization": 1.0, "5h-reset": reset}
    upstream.then(Answer(headers=unified("rejected", **spent)))
    events = await ask(desk.provider())
    (told,) = [each.parsed for each in events if isinstance(each.parsed, BilledBeside)]
    assert told.window == "five_hour"
    assert told.resets_in_s == pytest.approx(3600, abs=60)
    assert events[-1].kind is EventKind.TERMINAL


@needs_program
async def test_an_answer_that_breaks_is_broken_and_asked_once(desk: Desk, upstream: FakeUpstream) -> None:
    shown = asyncio.Event()  # the program drops what it has not read yet when the connection ends
    upstream.then(Answer(stall_after=PART, stall_until=shown, cut_after=PART))
    stream = await desk.provider().open(STREAM, MODEL, BUDGET)
    while (await anext(stream)).kind is not EventKind.CONTENT:
        pass
    shown.set()
    with pytest.raises(StreamBrokenError, match=r"Connection|no stop reason"):
        await to_the_end(stream)
    await until_gone(stream._process.pid)
    assert len(upstream.received) == 1


# -- processes -------------------------------------------------------------------------------------


@needs_program
async def test_pieces_come_as_they_are_sent_and_closing_ends_the_call_and_its_process(
    desk: Desk, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(stall_after=PART))
    provider = desk.provider()
    stream = await provider.open(STREAM, MODEL, BUDGET)
    pid = stream._process.pid
    while (await anext(stream)).kind is not EventKind.CONTENT:
        pass
    assert not upstream.received[0].completed
    await stream.aclose()
    await stream.aclose()
    async with soon():
        await upstream.received[0].disconnected.wait()
    await until_gone(pid)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@needs_program
async def test_a_call_that_is_cancelled_leaves_no_process_and_the_next_one_is_answered(
    desk: Desk, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(stall_head=True))
    provider = desk.provider(at_once=1)
    task = asyncio.create_task(provider.open(STREAM, MODEL, BUDGET))
    await upstream.arrived()
    (pid,) = (each.pid for each in pool_of(provider)._at_work)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as stopped:
        await task
    assert getattr(stopped.value, "sent", True), "it had been asked"
    await until_gone(pid)
    async with soon():
        await upstream.received[0].disconnected.wait()
    task = asyncio.create_task(provider.open(STREAM, MODEL, BUDGET))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as stopped:
        await task
    assert stopped.value.sent is False
    assert text(await ask(provider)) == "Hello there, friend"


@needs_program
async def test_a_program_that_is_killed_breaks_its_answer_and_no_other(
    desk: Desk, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(stall_head=True), Answer(stall_after=PART))
    provider = desk.provider()
    opening = asyncio.create_task(provider.open(STREAM, MODEL, BUDGET))
    await upstream.arrived()
    (process,) = pool_of(provider)._at_work
    os.killpg(process.pid, signal.SIGKILL)
    with pytest.raises(ConnectionFailedError, match="ended by signal 9"):
        await opening
    stream = await provider.open(STREAM, MODEL, BUDGET)
    os.killpg(stream._process.pid, signal.SIGKILL)
    with pytest.raises(StreamBrokenError, match="ended by signal 9"):
        await to_the_end(stream)
    provider = desk.provider(idle_s=60)
    await ask(provider)
    os.killpg(await ready(provider), signal.SIGKILL)
    async with soon():
        while pool_of(provider).pids:  # until it is known here too
            await asyncio.sleep(0.01)
    assert text(await ask(provider)) == "Hello there, friend"


@needs_program
async def test_the_next_process_is_started_before_it_is_needed_and_not_kept_for_long(desk: Desk) -> None:
    provider = desk.provider(idle_s=0.05)
    await ask(provider)
    pool = pool_of(provider)
    async with soon():
        while pool._keeping is not None or pool.pids:
            await asyncio.sleep(0.01)
    kept = desk.provider(idle_s=60)
    await ask(kept)
    waiting = await ready(kept)
    stream = await kept.open(STREAM, MODEL, BUDGET)
    assert stream._process.pid == waiting
    await stream.aclose()


@needs_program
async def test_closing_ends_every_process_and_removes_the_folder(desk: Desk, upstream: FakeUpstream) -> None:
    upstream.then(Answer(stall_after=PART))
    provider = desk.provider(at_once=1)
    stream = await provider.open(STREAM, MODEL, BUDGET)
    with pytest.raises(ThrottledError, match="all 1 claude processes are at work") as busy:
        await provider.open(STREAM, MODEL, AttemptBudget(connect_s=0.01))
    assert busy.value.retry_after == 0
    pool = pool_of(provider)
    pids = pool.pids
    await provider.aclose()
    await provider.aclose()
    await until_gone(*pids)
    assert not pool.folder.exists()
    with pytest.raises(StreamBrokenError):
        await to_the_end(stream)
    with pytest.raises(InvalidRequestError, match="build it again"):
        await provider.open(STREAM, MODEL, BUDGET)


@needs_program
async def test_a_stream_that_is_dropped_gives_its_process_back(desk: Desk, upstream: FakeUpstream) -> None:
    upstream.then(Answer(stall_after=PART))
    provider = desk.provider(at_once=1)
    stream = await provider.open(STREAM, MODEL, BUDGET)
    pid = stream._process.pid
    del stream
    await until_gone(pid)
    assert text(await ask(provider)) == "Hello there, friend"


@needs_program
async def test_nothing_is_left_once_our_own_process_was_killed_and_the_answer_has_come(
    desk: Desk, tmp_path: Path
) -> None:
    code = (
        "import asyncio, json, os, signal, sys\n"
        "from attune.models.executor import AttemptBudget\n"
        "from attune.models.registry import ModelInfo, ModelTier\n"
        "from attune.models.request import LLMRequest\n"
        "from attune.providers.claude_subscription import ClaudeSubscriptionProvider\n"
        "environ, additions = json.loads(sys.argv[1])\n"
        "async def main():\n"
        "    provider = ClaudeSubscriptionProvider(environ=environ, additions=additions)\n"
        "    model = ModelInfo('claude-sonnet-5-5', 'claude', ModelTier.CAPABLE, 1000, 100)\n"
        "    await provider.open(LLMRequest.from_prompt('hi'), model, AttemptBudget(connect_s=60))\n"
        "    (pool,) = provider._pools.values()\n"
        "    while pool._warm is None:\n"
        "        await asyncio.sleep(0.01)\n"
        "    print(*pool.pids, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = await python(code, [desk.environ, desk.additions], tmp_path)
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids, done.stderr
    await until_gone(*pids)


# -- programs that are not what they should be -----------------------------------------------------


def stand_in(folder: Path, told: str, method: str = "claude.ai") -> str:
    """A program that says who is logged in, and then does what the shell is ``told``."""
    program = folder / "claude"
    program.write_text(
        f'#!/bin/sh\n[ "$2" = auth ] && echo \'{{"authMethod": "{method}"}}\' && exit\nread line\n{told}\n'
    )
    program.chmod(0o755)
    return str(program)


def started(**fields: Any) -> str:
    answer = {"claude_code_version": "9.9.9", "account": {}} | fields
    response = {"subtype": "success", "request_id": "1", "response": answer}
    return f"echo '{json.dumps({'type': 'control_response', 'response': response})}'"


INIT = {"type": "system", "subtype": "init", "apiKeySource": "somewhere"}
RESULT = {"type": "result", "is_error": True, "api_error_status": 429}
SETTINGS_TAKEN = '{"type": "control_response", "response": {"subtype": "success", "request_id": "2"}}'
ANSWERED = f"{started()}; read line; echo '{SETTINGS_TAKEN}'; read line"


@pytest.mark.parametrize(
    ("told", "kind", "message"),
    [
        (started(claude_code_version="2.1.100"), CredentialError, "is 2.1.100, at least 2.1.248 is needed"),
        (started(claude_code_version=""), CredentialError, "of an unknown version"),
        (started(account={"apiProvider": "bedrock"}), CredentialError, "would pay but bedrock"),
        (started(account={"tokenSource": "apiKeyHelper"}), CredentialError, "would pay but apiKeyHelper"),
        (started().replace("success", "error"), CredentialError, "refused what it was asked"),
        (started().replace("{", "[", 1), StreamBrokenError, "not understood"),
        (started(account=3), StreamBrokenError, "not understood"),
        ("echo nonsense", StreamBrokenError, "not understood"),
        ("head -c 9000000 /dev/zero | tr '\\0' a", StreamBrokenError, "not understood"),
        ("echo 'unknown option' >&2; exit 3", ConnectionFailedError, "ended with code 3: unknown option"),
        (f"{ANSWERED}; echo '{json.dumps(INIT)}'", CredentialError, "would pay but somewhere"),
        (f"{ANSWERED}; echo '{json.dumps(INIT | {'apiKeySource': None})}'", CredentialError, "unknown"),
        (f'{ANSWERED}; echo \'{{"type": "result"}}\'', StreamBrokenError, "before its terminal event"),
        (f'{ANSWERED}; echo \'{{"type": "result", "result": 3}}\'', StreamBrokenError, "not understood"),
        (
            f"{ANSWERED}; echo '{json.dumps(RESULT | {'result': 'You have hit your weekly limit'})}'",
            ThrottledError,
            "weekly limit",
        ),
    ],
)
async def test_a_program_that_does_not_do_what_it_should_is_an_error(
    tmp_path: Path, told: str, kind: type[ProviderError], message: str
) -> None:
    provider = ClaudeSubscriptionProvider(environ=os.environ, program=stand_in(tmp_path, told))
    with pytest.raises(ProviderError, match=message) as raised:
        await ask(provider)
    assert type(raised.value) is kind
    await provider.aclose()


async def test_a_limit_that_is_told_in_words_alone_is_a_window_too(tmp_path: Path) -> None:
    said = RESULT | {
        "result": "You\u2019ve hit your weekly limit \u00b7 resets 4am (UTC)",
        "api_error_status": None,
    }
    windows: list[Any] = []
    program = stand_in(tmp_path, f"{ANSWERED}; cat <<'END'\n{json.dumps(said)}\nEND")
    provider = ClaudeSubscriptionProvider(on_windows=windows.extend, program=program)
    with pytest.raises(WindowSpentError) as raised:
        await ask(provider)
    await provider.aclose()
    (window,) = windows
    assert (window.name, window.spent) == ("seven_day", True)
    assert raised.value.retry_after == pytest.approx(window.resets_at - time.time(), abs=60)
    assert 0 < raised.value.retry_after <= 86_400


async def test_a_program_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    program = stand_in(tmp_path, "[ -e asked ] && exec sleep 600\ntouch asked; echo nonsense")
    provider = ClaudeSubscriptionProvider(program=program)
    with pytest.raises(StreamBrokenError):
        await ask(provider)  # who is logged in is known from now on: that alone could take so long
    with pytest.raises(ConnectionFailedError, match=r"not ready within 0\.5 s"):
        await ask(provider, budget=AttemptBudget(connect_s=0.5))
    await provider.aclose()


@pytest.mark.parametrize(
    ("method", "message"),
    [('x" nonsense', "did not say who is logged in"), ("oauth_token", "but oauth_token")],
)
async def test_a_login_that_is_not_a_subscription_is_refused(
    tmp_path: Path, method: str, message: str
) -> None:
    provider = ClaudeSubscriptionProvider(program=stand_in(tmp_path, "", method))
    with pytest.raises(CredentialError, match=message):
        await ask(provider)
    await provider.aclose()


async def test_a_program_that_is_not_there_or_cannot_be_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CredentialError, match="cannot be started: No such file"):
        await ask(ClaudeSubscriptionProvider(program=str(tmp_path / "nowhere")))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "claude_agent_sdk", raising=False)
    with pytest.raises(CredentialError, match=r"not installed; .*attune-models\[subscription\]"):
        await ask(ClaudeSubscriptionProvider(environ={"PATH": ""}))


def test_the_users_own_program_comes_first(tmp_path: Path) -> None:
    own = stand_in(tmp_path, "")
    assert find_program({"PATH": str(tmp_path)}) == own


def test_the_kind_is_known_by_name() -> None:
    provider = build_provider("mine", "claude_subscription")
    assert (provider.name, provider.credential) == ("mine", "subscription")
