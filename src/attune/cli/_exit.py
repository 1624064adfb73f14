"""Exit codes, and the one place that says which error ends with which."""

from __future__ import annotations

import functools
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, ParamSpec

from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    BudgetExhaustedError,
    CircuitOpenError,
    ConfigError,
    CredentialError,
    InvalidRequestError,
    MoneyGoneError,
    NoCandidateError,
    ProviderError,
    StoreError,
    WindowSpentError,
)
from attune.wire.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INTERRUPTED", "OUTPUT_CLOSED", "ExitCode", "exit_code", "guarded", "note", "plain"]

INTERRUPTED = 130
OUTPUT_CLOSED = 141
"""What a shell reports of a program ended by SIGINT and by SIGPIPE."""

MAX_LINE_CHARS = 1000

P = ParamSpec("P")


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    NO_ANSWER = 4
    CREDENTIALS = 5


MEANINGS = {
    ExitCode.OK: "it worked",
    ExitCode.UNEXPECTED: "something unexpected: a bug in attune",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.CONFIGURATION: "the configuration, the ledger or another of attune's files is wrong",
    ExitCode.NO_ANSWER: "no candidate could answer",
    ExitCode.CREDENTIALS: "no credential could pay: none is there, or it was refused or is out of money",
}

_CODES: dict[type[AttuneError], ExitCode] = {
    InvalidRequestError: ExitCode.USAGE,
    ConfigError: ExitCode.CONFIGURATION,
    StoreError: ExitCode.CONFIGURATION,
    CredentialError: ExitCode.CREDENTIALS,
    MoneyGoneError: ExitCode.CREDENTIALS,
    WindowSpentError: ExitCode.CREDENTIALS,
    ProviderError: ExitCode.NO_ANSWER,
    NoCandidateError: ExitCode.NO_ANSWER,
    CircuitOpenError: ExitCode.NO_ANSWER,
    BudgetExhaustedError: ExitCode.NO_ANSWER,
}


def exit_code(error: AttuneError) -> ExitCode:
    """The exit code of an error; when all attempts of a call failed, what they have in common."""
    if isinstance(error, AllProvidersFailedError):
        codes = {exit_code(attempt) for attempt in error.attempts}
        return codes.pop() if codes == {ExitCode.CREDENTIALS} else ExitCode.NO_ANSWER
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), ExitCode.UNEXPECTED)


def guarded(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose own errors become one line on standard error and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except AttuneError as error:
            note(str(error))
            return exit_code(error)

    return run


def note(text: str) -> None:
    """One line for people on standard error."""
    print(f"attune: {plain(text)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """``text`` on one line, without control characters or anything like a key, and not without end."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * MAX_LINE_CHARS]).split())
    return redact(line)[:MAX_LINE_CHARS]
