"""``attune run --validate``, ``--schema`` and ``--escalate`` as processes, against a real upstream."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from support.program import MINE, Ended, Program
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEARER = """
[[models]]
id = "dearer"
provider = "mine"
tier = "premium"
context_window = 100000
input_price = 10.0
output_price = 50.0
"""

SCHEMA = {"type": "object", "required": ["n"]}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, upstream: FakeUpstream) -> Program:
    made = Program(tmp_path)
    made.configure(MINE.format(url=upstream.chat_url) + DEARER)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    return made


async def run(program: Program, *args: str) -> Ended:
    """The program, while the upstream answers it from this loop."""
    return await asyncio.to_thread(program, "run", *args)


@pytest.mark.parametrize("how", [(), ("--stream",)], ids=["whole", "streamed"])
async def test_an_answer_that_fails_is_printed_with_what_is_wrong_with_it_and_ends_with_8(
    program: Program, how: tuple[str, ...]
) -> None:
    code, out, err = await run(program, *how, "--validate", "^Yes", "hello")
    assert (code, out) == (8, "Hello there, friend\n")
    assert err.splitlines()[-1].endswith("; failed the validation (nothing in it matches ^Yes)")


async def test_a_failed_answer_ends_with_8_in_json_too(program: Program) -> None:
    code, out, _ = await run(program, "--json", "--validate", "^Yes", "hello")
    shown = json.loads(out)
    assert (code, shown["text"], shown["verdict"]["success"]) == (8, "Hello there, friend", False)


async def test_an_answer_that_could_not_be_judged_has_not_passed_and_ends_with_8(
    program: Program, tmp_path: Path, upstream: FakeUpstream
) -> None:
    upstream.then(Answer(text="{}"))
    (tmp_path / "elsewhere.json").write_text('{"$ref": "https://nowhere.invalid/schema"}')
    code, out, err = await run(program, "--schema", str(tmp_path / "elsewhere.json"), "hello")
    assert (code, out) == (8, "{}\n")
    assert "; not judged: the validator failed: " in err.splitlines()[-1]


async def test_a_failed_answer_climbs_and_the_verdict_is_in_the_json(
    program: Program, upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.then(Answer(text="Hello"), Answer(text='{"n": 1}'))
    code, out, err = await run(
        program, "--json", "--schema", str(tmp_path / "schema.json"), "--escalate", "hello"
    )
    shown = json.loads(out)
    assert (code, shown["text"], shown["model"]) == (0, '{"n": 1}', "dearer")
    assert shown["verdict"] == {"success": True, "score": 1.0, "reason": ""}
    assert (len(shown["attempts"]), shown["validator_error"]) == (2, "")
    assert "mine/m: its answer failed the validation (it is not JSON); next a higher tier" in err
    stats = json.loads((await asyncio.to_thread(program, "stats", "--json")).out)["workflows"][0]
    quality = {each["model_id"]: each["quality"] for each in stats["models"]}
    assert quality == {"m": 0.0, "dearer": 1.0}


async def test_a_streamed_answer_is_judged_when_it_is_complete(program: Program) -> None:
    code, out, err = await run(program, "--stream", "--validate", "friend$", "hello")
    assert (code, out) == (0, "Hello there, friend\n")
    assert err.splitlines()[-1].endswith("; passed the validation")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--escalate",), "--escalate needs --validate or --schema"),
        (("--validate", "("), "the regular expression '(' is wrong"),
        (("--validate", "x", "--schema", "y"), "not allowed with"),
        (("--validate", "x", "--escalate", "--stream"), "leave --stream or --escalate out"),
        (("--schema", "missing.json"), "missing.json does not exist"),
        (("--schema", "{home}/list.json"), "list.json is not a JSON schema"),
        (("--schema", "{home}/text.json"), "text.json is not JSON"),
        (("--schema", "{home}/wrong.json"), "the JSON schema is wrong at $.type"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_judge_is_one_line_before_anybody_is_asked(
    program: Program, upstream: FakeUpstream, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    for name, text in {"list": "[]", "text": "{", "wrong": '{"type": "nothing"}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    code, out, err = program("run", *(each.format(home=tmp_path) for each in args), "hello")
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert upstream.received == []
