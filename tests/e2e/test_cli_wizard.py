"""``attune auth setup`` and ``reset`` on a real terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pexpect
import pytest

from support.program import ATTUNE, CANARY, Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTER, DOWN, INTERRUPT = "\r", "\x1b[B", "\x03"
QUESTIONS = ["Which subscription", "What should pay", "A file of yours", "Save this"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")

Start: TypeAlias = Callable[..., pexpect.spawn]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def start(program: Program) -> Iterator[Start]:
    """Start the program on a terminal of its own."""
    started: list[pexpect.spawn] = []

    def on_a_terminal(*args: str) -> pexpect.spawn:
        environ = {**program.environ, "TERM": "xterm", "ANTHROPIC_API_KEY": CANARY}
        environ["PROMPT_TOOLKIT_NO_CPR"] = "1"  # this terminal does not answer where its cursor is
        child = pexpect.spawn(
            ATTUNE, list(args), env=environ, timeout=120, encoding="utf-8", dimensions=(40, 160)
        )
        started.append(child)
        return child

    yield on_a_terminal
    for child in started:
        child.close(force=True)


def ended(child: pexpect.spawn) -> str:
    """What the program printed up to its end, without what moves the cursor."""
    child.expect(pexpect.EOF)
    child.wait()
    child.close()
    return CONTROL.sub("", child.before)


def saved(program: Program) -> dict[str, object] | None:
    file = program.home / "attune" / "auth.json"
    return json.loads(file.read_text()) if file.exists() else None


def test_the_wizard_finds_asks_compares_and_saves(program: Program, start: Start) -> None:
    module = program.home / "module.py"
    module.write_text("x = 1\n" * 3000)
    child = start("auth", "setup")
    child.expect(r"found anthropic api_key \(environment ANTHROPIC_API_KEY\)")
    child.expect("Which subscription do you have")
    child.send(DOWN + DOWN + ENTER)  # none, pro, max
    child.expect("What should pay")
    child.send(ENTER)
    child.expect("Prefer the subscription")
    child.send("y")
    child.expect("Once the plan is used up")
    child.send(DOWN + DOWN + ENTER)  # fail, wait, api
    child.expect("At most how many dollars")
    child.send("0,5" + ENTER)
    child.expect("is no number")
    child.send("\x08" * len("100,5") + "2.5" + ENTER)
    child.expect("A file of yours")
    child.send(str(module) + ENTER)
    child.expect("subscription by the strategy")
    child.expect("Save this")
    child.send("y")
    out = ended(child)
    assert child.exitstatus == 0
    assert "saved to" in out
    assert "no plan is enrolled, so none pays; `attune auth setup --enrol-plan`" in out
    assert CANARY not in out
    now = saved(program)
    assert now is not None
    assert (now["subscription_tier"], now["default_mode"], now["setup_completed"]) == ("max", "auto", True)
    assert (now["overflow"], now["overflow_usd_per_day"]) == ("api", 2.5)


def test_a_file_that_is_no_use_is_asked_for_again(program: Program, start: Start) -> None:
    child = start("auth", "setup")
    child.expect("Which subscription")
    child.send(ENTER)
    child.expect("What should pay")
    child.send(ENTER)
    child.expect("A file of yours")
    child.send("gone.py" + ENTER)
    child.expect("does not exist")
    child.send("\x08" * len("gone.py") + ENTER)
    child.expect("Save this")
    child.send("y")
    ended(child)
    assert child.exitstatus == 0
    assert saved(program) is not None


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_plan_that_is_logged_in_is_enrolled_only_by_who_wants_that(
    program: Program, start: Start, answer: str
) -> None:
    program.install("claude", """echo '{"authMethod": "claude.ai", "subscriptionType": "max"}'""")
    child = start("auth", "setup")
    child.expect("the claude program has a max subscription logged in")
    child.expect("Let the plan answer attune's own calls")
    child.send(answer)
    of_plans = ["Prefer the", "Once the plan"] if answer == "y" else []
    for question in (*QUESTIONS[:2], *of_plans, *QUESTIONS[2:]):
        child.expect(question)
        child.send(ENTER)
    out = ended(child)
    assert child.exitstatus == 0
    assert program.config_file.exists() is ("enrolled the plan as claude" in out) is (answer == "y")
    now = saved(program)
    assert now is not None
    assert now["subscription_tier"] == ("max" if answer == "y" else "none")
    assert "no plan is enrolled" not in out


@pytest.mark.parametrize(
    "question", ["Which subscription", "What should pay", "A file of yours", "Save this"]
)
def test_leaving_at_any_question_saves_nothing(program: Program, start: Start, question: str) -> None:
    child = start("auth", "setup")
    for each in QUESTIONS:
        child.expect(each)
        if each == question:
            child.send(INTERRUPT)
            break
        child.send(ENTER)
    out = ended(child)
    assert "nothing was saved" in out
    assert "Traceback" not in out
    assert (child.exitstatus, saved(program)) == (130, None)


def test_declining_to_save_saves_nothing(program: Program, start: Start) -> None:
    module = program.home / "module.py"
    module.write_text("x = 1\n")
    child = start("auth", "setup", "--file", str(module))
    child.expect("Which subscription")
    child.send(ENTER)
    child.expect("What should pay")
    child.send(ENTER)
    child.expect("Save this")
    child.send("n")
    assert "nothing was saved" in ended(child)
    assert saved(program) is None


@pytest.mark.parametrize(("answer", "remains"), [("y", False), ("n", True), (INTERRUPT, True)])
def test_reset_asks_first(program: Program, start: Start, answer: str, remains: bool) -> None:
    program("auth", "setup", "--plan", "max")
    child = start("auth", "reset")
    child.expect("Remove .*auth.json")
    child.send(answer)
    ended(child)
    assert (saved(program) is not None) is remains
    assert child.exitstatus == (130 if remains else 0)
