"""What judges an answer: functions, regular expressions, JSON schemas."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

from attune.errors import InvalidRequestError
from attune.models import LLMResponse, TextPart, Validator, Verdict
from attune.models.telemetry import CostStatus

PASSED, FAILED = Verdict(True, 1.0), Verdict(False, 0.0)


def an_answer(text: str) -> LLMResponse:
    return LLMResponse(
        "call", (TextPart(text),), "stop", "p", "m", "cheap", "k", None, None, CostStatus.EXACT, 1.0, None
    )


async def judged(validate, text: str = "an answer", within_s: float = 60.0):
    return await Validator(validate).judge(an_answer(text), within_s)


# -- functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (True, PASSED),
        (False, FAILED),
        (1, PASSED),
        (0.5, Verdict(True, 0.5)),
        (0.49, Verdict(False, 0.49)),
        (Verdict(False, 0.9, "too\nlong"), Verdict(False, 0.9, "too long")),
    ],
)
async def test_a_function_says_yes_or_no_or_how_good_or_all_of_it(said, verdict):
    assert await judged(lambda answer: said) == verdict


@pytest.mark.parametrize("said", [None, "yes", 1.5, -0.1, float("nan"), Verdict(True, 2.0), [True]])
async def test_what_is_no_verdict_is_told_and_not_guessed(said):
    found = await judged(lambda answer: said)
    assert found.startswith("the validator failed: InvalidRequestError: it returned ")


async def test_a_function_sees_the_answer_and_the_callers_context():
    whose = ContextVar("whose")
    whose.set("mine")
    assert await judged(lambda answer: answer.text == "an answer" and whose.get() == "mine") == PASSED


async def test_a_plain_function_that_waits_holds_up_nothing():
    go_on = threading.Event()
    asyncio.get_running_loop().call_soon(go_on.set)  # never, were the loop held up
    assert await judged(lambda answer: go_on.wait(60)) == PASSED


async def test_a_coroutine_function_runs_in_the_loop_and_so_does_what_a_plain_one_returns():
    async def judge(answer, loop):
        return asyncio.get_running_loop() is loop

    loop = asyncio.get_running_loop()
    assert await judged(functools.partial(judge, loop=loop)) == PASSED
    assert await judged(lambda answer: judge(answer, loop)) == PASSED


class Refusal(BaseException):
    """Something that is not even an ``Exception``."""


@pytest.mark.parametrize("error", [ValueError("no\nnumber"), Refusal("no number")])
async def test_whatever_a_function_raises_is_told_in_one_line(error):
    def plain(answer):
        raise error

    async def other(answer):
        raise error

    line = f"the validator failed: {type(error).__name__}: no number"
    assert await judged(plain) == line
    assert await judged(other) == line


async def test_a_long_error_is_cut():
    def wordy(answer):
        raise ValueError("x" * 10_000)

    assert len(await judged(wordy)) == 200


async def test_a_validator_that_was_cancelled_gives_no_verdict():
    async def gives_up(answer):
        raise asyncio.CancelledError

    assert await judged(gives_up) == "the validator was cancelled"


async def test_a_validator_that_takes_too_long_is_cancelled():
    ended = asyncio.Event()

    async def slow(answer):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    assert await judged(slow, within_s=0.01) == "the validator took longer than 0.0 s"
    await ended.wait()


async def test_a_plain_function_that_is_late_is_not_heard_any_more():
    go_on, over = threading.Event(), threading.Event()

    def late(answer):
        go_on.wait(60)
        over.set()
        return True

    assert (await judged(late, within_s=0.01)).startswith("the validator took longer")
    go_on.set()
    assert await asyncio.to_thread(over.wait, 60)


HANGS = """
import asyncio, threading
from attune.models import Validator
from unit.models.test_validation import an_answer
print(asyncio.run(Validator(lambda _: threading.Event().wait()).judge(an_answer("?"), 0.01)))
"""


def test_a_function_that_hangs_does_not_keep_the_program_from_ending():
    tests = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", HANGS],
        check=False,
        env={**os.environ, "PYTHONPATH": tests},
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout[:36], ended.stderr) == (
        0,
        b"the validator took longer than 0.0 s",
        b"",
    )


async def test_who_gives_up_the_wait_cancels_the_validator():
    began, ended = asyncio.Event(), asyncio.Event()

    async def slow(answer):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(judged(slow))
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ended.wait()


async def test_a_validator_may_be_made_of_a_validator():
    assert await judged(Validator(Validator(lambda answer: True))) == PASSED


@pytest.mark.parametrize("wrong", [None, 7, ["a"], b"bytes"])
def test_what_cannot_judge_is_refused(wrong):
    with pytest.raises(InvalidRequestError, match="a function, a JSON schema"):
        Validator(wrong)


# -- regular expressions ---------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["b+", re.compile("B+", re.IGNORECASE)])
async def test_an_expression_matches_anywhere_in_the_text(expression):
    assert await judged(expression, "aabbaa") == PASSED
    found = await judged(expression, "aa")
    assert (found.success, found.score) == (False, 0.0)
    assert found.reason.startswith("nothing in it matches ")


async def test_anchors_make_it_match_the_whole():
    assert (await judged(r"\A\d+\Z", "12 or so")).success is False
    assert await judged(r"\A\d+\Z", "12") == PASSED


def test_an_expression_that_is_none_is_refused_with_the_reason():
    with pytest.raises(InvalidRequestError, match="'\\(' is wrong: missing \\)"):
        Validator("(")


def test_an_expression_of_bytes_is_refused():
    with pytest.raises(InvalidRequestError, match="one of text, not of bytes"):
        Validator(re.compile(b"a"))


# -- JSON schemas ----------------------------------------------------------------------------------

POINT = {
    "type": "object",
    "properties": {"x": {"$ref": "#/$defs/n"}},
    "required": ["x"],
    "$defs": {"n": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('  {"x": 1}\n', ""),
        ('{"x": 1.5}', "at $.x: 1.5 is not of type 'integer'"),
        ("{}", "at $: 'x' is a required property"),
        ("[]", "at $: [] is not of type 'object'"),
        ('Sure! {"x": 1}', "it is not JSON"),
        ('```json\n{"x": 1}\n```', "it is not JSON"),
        ("", "it is not JSON"),
        ('{"x": NaN}', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
    ],
)
async def test_the_whole_text_is_json_that_follows_the_schema(text, reason):
    found = await judged(POINT, text)
    assert (found.success, found.score, found.reason) == (not reason, float(not reason), reason)


async def test_an_older_draft_is_followed_as_its_own_name_says():
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}
    assert (await judged(old, "3")).success is False
    assert (await judged(old, "2")).success is True


@pytest.mark.parametrize("schema", [{"type": "nothing"}, {"required": "x"}, {"minimum": "1"}])
def test_a_schema_that_is_none_is_refused_with_the_place(schema):
    with pytest.raises(InvalidRequestError, match=r"the JSON schema is wrong at \$"):
        Validator(schema)


async def test_nothing_is_fetched_for_a_reference():
    asked = []

    async def serve(reader, writer):
        asked.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await judged({"$ref": f"http://127.0.0.1:{port}/schema.json"}, "1")
    assert found.startswith("the validator failed: ")
    assert asked == []


async def test_the_reason_of_a_large_answer_is_cut():
    found = await judged({"type": "integer"}, json.dumps("x" * 10_000))
    assert len(found.reason) == 200
