"""The pages of the gateway's clients: what they say to run is run, what they say to write is read."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

from attune.stores.sqlite import SqliteStore
from support.claude_code import claude_code
from support.gateway import SECRETS, configuration
from support.program import Program
from support.up import up
from support.upstream import FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = sorted((HOW_TO / "clients").glob("*.md"))
ADDRESS = "http://127.0.0.1:4141"
LIMIT_SECONDS = 120


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language."""
    text = (HOW_TO / "clients" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """What the blocks of a page say to type, continued lines with it."""
    return [block.removeprefix("$ ") for block in blocks(page, "console")]


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, upstream: FakeUpstream) -> Program:
    program = Program(tmp_path)
    program.environ |= SECRETS
    program.configure(configuration(upstream.url, upstream.url, upstream.url))
    return program


async def run(program: Program, url: str, key: str, *command: str) -> str:
    """What a command prints with the page's address replaced by the gateway's."""
    process = await asyncio.create_subprocess_exec(
        *(word.replace(ADDRESS, url) for word in command),
        env={"PATH": "/usr/bin:/bin", "HOME": str(program.home), "ATTUNE_KEY": key},
        cwd=program.home,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def workflows(program: Program) -> set[str]:
    store = SqliteStore.open_readonly(program.home / "attune" / "data" / "ledger.db")
    return {each.workflow for each in store.recent_attempts(10)}


@pytest.mark.parametrize(
    ("page", "model"), [("openai-sdk.md", "second/beta"), ("anthropic-sdk.md", "first/alpha")]
)
async def test_the_python_of_an_sdks_page_prints_the_model_and_the_answer(
    program: Program, page: str, model: str
) -> None:
    key = program("keys", "create", "python").out.strip()
    (code,) = blocks(page, "python")
    async with up(program) as gate:
        out = await run(program, gate.url, key, sys.executable, "-c", code)
        assert (await gate.end())[0] == 0
    assert out == f"{model} Hello there, friend\n"
    assert workflows(program) == {"review"}


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
async def test_the_commands_of_curls_page_are_answered(program: Program) -> None:
    key = program("keys", "create", "curl").out.strip()
    whole, stream, models, decision = (["bash", "-c", each] for each in commands("curl.md"))
    async with up(program) as gate:
        answer = await run(program, gate.url, key, *whole)
        assert "x-attune-model: first/alpha" in answer
        assert "Hello there, friend" in answer
        call_id = re.search(r"x-attune-call-id: (\w+)", answer)
        assert call_id is not None
        assert "event: message_stop" in await run(program, gate.url, key, *stream)
        listed = json.loads(await run(program, gate.url, key, *models))
        assert {"auto", "attune/cheap"} <= {each["id"] for each in listed["data"]}
        asked = [each.replace("CALL_ID", call_id[1]) for each in decision]
        told = json.loads(await run(program, gate.url, key, *asked))
        assert told["decision"]["call_id"] == call_id[1]
        assert (await gate.end())[0] == 0
    assert "shell" in workflows(program)


async def test_the_command_of_claude_codes_page_is_answered(
    program: Program, upstream: FakeUpstream, tmp_path: Path
) -> None:
    key = program("keys", "create", "claude").out.strip()
    (command,) = commands("claude-code.md")
    (aliases,) = blocks("claude-code.md", "toml")
    program.configure(program.config_file.read_text() + aliases)
    settings, _, asked = command.partition(" claude ")
    arguments = re.fullmatch(r'-p "(.+)" --model (\S+)\n', asked)
    assert arguments is not None
    async with up(program) as gate, claude_code(tmp_path, gate.url, key) as claude:
        said = dict(each.split("=") for each in settings.split())
        assert said == {"ANTHROPIC_BASE_URL": ADDRESS, "ANTHROPIC_AUTH_TOKEN": "$ATTUNE_KEY"}
        assert claude.environ.keys() >= said.keys()
        ended = await claude("-p", arguments[1], "--model", arguments[2])
        assert (ended.code, ended.out) == (0, "Hello there, friend\n")
        assert (await gate.end())[0] == 0
    assert workflows(program) == {"claude-code"}


@pytest.mark.parametrize("page", [each.name for each in PAGES])
def test_what_a_page_says_of_attunes_configuration_is_accepted(program: Program, page: str) -> None:
    ours = [each for each in blocks(page, "toml") if "[gateway." in each or "[[gateway." in each]
    program.configure(program.config_file.read_text() + "\n".join(ours))
    ended = program("up", "--check")
    assert ended.code == 0, ended.err


def test_every_other_block_can_be_read_and_every_address_is_the_default_one() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        assert set(re.findall(r"http://[\w.:]+", text)) == {ADDRESS}, page
        for code in blocks(page.name, "python"):
            compile(code, str(page), "exec")
        for code in blocks(page.name, "toml"):
            tomllib.loads(code)
        for code in blocks(page.name, "json"):
            json.loads(code)


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    index = HOW_TO / "gateway.md"
    linked = set(re.findall(r"\(clients/([\w-]+\.md)\)", index.read_text("utf-8")))
    assert linked == {each.name for each in PAGES}
    for page in (index, *PAGES):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
