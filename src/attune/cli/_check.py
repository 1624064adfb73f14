"""What `attune doctor` finds."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from attune.cli._exit import ExitCode

__all__ = ["Check", "State"]


class State(StrEnum):
    """How a check went: ``note`` is worth knowing, ``fail`` stands in the way."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


class Check(NamedTuple):
    """One thing that was looked at; ``code`` is how the program ends when this one failed."""

    name: str
    state: State
    detail: str
    code: ExitCode = ExitCode.CONFIGURATION
