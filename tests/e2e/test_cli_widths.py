"""What the tables look like on real terminals of several widths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pexpect
import pytest

from support.program import ATTUNE, CANARY, Program

if TYPE_CHECKING:
    from pathlib import Path

NAME = "anthropic/claude-sonnet-5-5"


def shown(program: Program, width: int, *args: str) -> list[str]:
    """The lines that a terminal of this width gets."""
    environ = {**program.environ, "TERM": "xterm", "ANTHROPIC_API_KEY": CANARY}
    child = pexpect.spawn(
        ATTUNE, list(args), env=environ, timeout=120, encoding="utf-8", dimensions=(40, width)
    )
    child.expect(pexpect.EOF)
    child.wait()
    child.close()
    assert child.exitstatus == 0, child.before
    return child.before.replace("\r", "").splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", ["route", "models", "auth recommend module.py --plan max", "auth status"])
def test_nothing_is_wider_than_the_terminal_and_no_name_is_cut(
    tmp_path: Path, command: str, width: int
) -> None:
    program = Program(tmp_path)
    file = tmp_path / "module.py"
    file.write_text("x = 1\n" * 600)
    lines = shown(program, width, *command.replace("module.py", str(file)).split())
    assert lines[0]
    room = max(width, len(str(file)) + 1)  # a path is a name too
    assert [line for line in lines if len(line) > room or line != line.rstrip()] == []
    assert any(NAME.rpartition("/")[2] in line for line in lines)


def test_a_wide_terminal_and_a_pipe_get_one_line_a_row(tmp_path: Path) -> None:
    program = Program(tmp_path)
    for lines in (shown(program, 140, "models"), program("models").out.splitlines()):
        row = next(line for line in lines if line.startswith(NAME))
        assert "capable" in row
        assert "1,000,000" in row
