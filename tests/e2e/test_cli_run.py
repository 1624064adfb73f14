"""``attune run`` and ``attune route`` as processes of their own, against a real HTTP upstream."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.program import ATTUNE, CANARY, MINE, Ended, Program
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECOND = """
[providers.spare]
kind = "openai"
base_url = "{url}"
api_key = "env:MINE_KEY"

[[models]]
id = "s"
provider = "spare"
tier = "capable"
context_window = 100000
input_price = 2.0
output_price = 10.0
"""


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, upstream: FakeUpstream) -> Program:
    made = Program(tmp_path)
    made.configure(MINE.format(url=upstream.chat_url))
    return made


async def run(program: Program, *args: str, stdin: bytes = b"", **environ: str) -> Ended:
    """The program, while the upstream answers it from this loop."""
    return await asyncio.to_thread(program, *args, stdin=stdin, **environ)


async def test_the_answer_is_on_stdout_and_the_decision_on_stderr(program: Program) -> None:
    code, out, err = await run(program, "run", "hello")
    assert (code, out) == (0, "Hello there, friend\n")
    decided, ended = err.splitlines()
    assert decided.startswith("attune: mine/m: capable is the default tier")
    assert "mine/m (api_key) in " in ended
    assert "$0.000047" in ended  # 12 tokens at $1 and 7 at $5 a million


async def test_the_key_arrives_where_it_should_and_nowhere_else(
    program: Program, upstream: FakeUpstream
) -> None:
    await run(program, "run", "hello")
    assert upstream.received[0].headers["authorization"] == f"Bearer {CANARY}"
    files = [file for file in program.home.rglob("*") if file.is_file()]
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


async def test_a_streamed_answer_is_the_same_text(program: Program, upstream: FakeUpstream) -> None:
    code, out, _ = await run(program, "run", "--stream", "hello")
    assert (code, out) == (0, "Hello there, friend\n")
    assert upstream.received[0].body["stream"] is True


async def test_a_streamed_answer_is_shown_as_it_comes(program: Program, upstream: FakeUpstream) -> None:
    upstream.then(Answer(text="first half|", stall_after=600))
    process = await asyncio.create_subprocess_exec(
        ATTUNE, "run", "--stream", "hi", env=program.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.read(5) == b"first"  # while the upstream still holds the rest back
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == b"attune: interrupted"
    assert b"Traceback" not in err


async def test_the_prompt_can_come_from_standard_input(program: Program, upstream: FakeUpstream) -> None:
    code, _, _ = await run(program, "run", "-", stdin="Grüße\n".encode())
    assert code == 0
    assert "Grüße" in json.dumps(upstream.received[0].body, ensure_ascii=False)


async def test_json_has_everything_about_the_call_and_an_outcome_can_be_told(program: Program) -> None:
    shown = json.loads((await run(program, "run", "--json", "--task", "fix-bug", "hello")).out)
    assert (shown["text"], shown["provider"], shown["model"]) == ("Hello there, friend", "mine", "m")
    assert (shown["cost_usd"], shown["cost_status"]) == (pytest.approx(47e-6), "exact")
    assert shown["usage"]["input_tokens"] == 12
    assert [attempt["error_class"] for attempt in shown["attempts"]] == [""]
    told = await run(program, "outcome", shown["call_id"], "--failure")
    assert told.code == 0
    stats = json.loads((await run(program, "stats", "default", "--json")).out)
    assert stats["workflows"][0]["success_rate"] == 0.0


async def test_an_unknown_task_is_pointed_out(program: Program) -> None:
    _, _, err = await run(program, "run", "--task", "fixbug", "hello")
    assert "attune: unknown task 'fixbug': treated as capable; did you mean 'fix_bug'?" in err.splitlines()


async def test_a_failure_is_carried_to_the_next_candidate_and_said(program: Program, tmp_path: Path) -> None:
    async with FakeUpstream(default=Answer(status=401, error_message=f"bad key {CANARY}")) as broke:
        text = program.config_file.read_text().replace('["mine"]', '["mine", "spare"]')
        text += SECOND.format(url=broke.chat_url)
        program.configure(text + '[tiers]\ncapable = ["spare/s", "mine/m"]')
        code, out, err = await run(program, "run", "hello")
        assert (code, out) == (0, "Hello there, friend\n")
        assert "spare/s" in err
        assert "bad key [redacted]; next mine/m" in err
        assert "mine/m (api_key) in" in err
        # Another process knows now, and says so.
        routed = json.loads((await run(program, "route", "--json")).out)
        assert routed["chosen"] == "mine/m#api_key"
        assert "spare#api_key is off" in str(routed["dropped"])
        breakers = json.loads((await run(program, "breakers", "--json")).out)
        assert [row["domain"] for row in breakers["domains"]] == ["spare#api_key"]
        assert len(broke.received) == 1


async def test_route_calls_nobody_and_explains_every_candidate(
    program: Program, upstream: FakeUpstream
) -> None:
    program.configure(
        program.config_file.read_text()
        + SECOND.format(url=upstream.chat_url)
        + '[[models]]\nid = "old"\nprovider = "mine"\ntier = "cheap"\ncontext_window = 9000\n'
    )
    code, out, _ = await run(program, "route", "--max-cost", "0.5", "how are you?")
    assert code == 0
    assert out.startswith("mine/m: capable is the default tier")
    assert "mine/m#api_key" in out
    assert "the provider spare is not allowed here" in out
    assert "mine/old#api_key" in out
    assert out == "".join(f"{line.rstrip()}\n" for line in out.splitlines())
    assert "price is unknown" in out
    shown = json.loads((await run(program, "route", "--json")).out)
    assert shown["ranked"][0]["propensity"] == 1.0
    assert upstream.received == []


async def test_an_answer_that_breaks_off_ends_with_an_error_after_what_came(
    program: Program, upstream: FakeUpstream
) -> None:
    upstream.default = Answer(text="x" * 400, cut_after=700)
    code, out, err = await run(program, "run", "--stream", "hello")
    assert code == 4
    assert set(out) == {"x", "\n"}
    assert err.splitlines()[-1].startswith("attune: ")
    assert re.search(r" \(call [0-9a-f]{29}\)$", err)


async def shell(program: Program, line: str) -> tuple[bytes, bytes]:
    """What a shell line prints on standard output and error."""
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", line], env=program.environ, capture_output=True, check=False
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("command", ["tasks", "tasks --json", "run hello"])
async def test_a_reader_that_goes_away_is_no_error_to_report(program: Program, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # it is gone before the first line is written
    with os.fdopen(writing, "wb") as output:
        asked = [ATTUNE, *command.split()]
        ended = await asyncio.to_thread(
            subprocess.run, asked, env=program.environ, stdout=output, stderr=subprocess.PIPE, check=False
        )
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    assert ended.returncode == 141


async def test_a_full_disk_behind_the_output_is_one_line(program: Program) -> None:
    out, err = await shell(program, f"{ATTUNE} models > /dev/full; echo $?")
    assert (out, err) == (b"1\n", b"attune: cannot write the output: No space left on device\n")


async def test_streams_that_are_closed_from_the_start_do_no_harm(program: Program) -> None:
    out, err = await shell(program, f"{ATTUNE} models >&-; {ATTUNE} run - <&-; echo $?")
    assert out == b"2\n"
    assert b"the prompt is empty" in err
    assert err.count(b"\n") == 1


async def test_a_terminal_gets_no_control_sequences_out_of_an_answer(
    program: Program, upstream: FakeUpstream
) -> None:
    import pexpect

    upstream.default = Answer(text="a\x1b]0;owned\x07b\n")
    child = pexpect.spawn(ATTUNE, ["run", "hello"], env=program.environ, timeout=120)
    await asyncio.to_thread(child.expect, pexpect.EOF)
    child.wait()
    child.close()
    assert b"a]0;ownedb" in child.before
    assert b"\x1b]" not in child.before
    assert os.fspath(program.home).encode() not in child.before


async def test_a_call_can_be_looked_back_at_by_the_beginning_of_the_id_that_it_printed(
    program: Program, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(status=503), Answer(text="hello"))
    call_id = json.loads((await run(program, "run", "--json", "--workflow", "docs", "hello")).out)["call_id"]
    code, out, err = program("calls", call_id[:-4])
    assert (code, err) == (0, "")
    assert out.startswith(f"call {call_id}, ")
    assert ": docs/default\nmine/m: capable is the default tier" in out
    first, second = (line for line in out.splitlines() if line[:3] in {"1  ", "2  "} and " p " not in line)
    assert "transient" in first
    assert second.endswith("answered (stop); not chosen by the policy")
    (shown,) = json.loads(program("calls", "--workflow", "docs", "--json").out)["calls"]
    assert (shown["call_id"], shown["attempts"], shown["answered"]) == (call_id, 2, True)
