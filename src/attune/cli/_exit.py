"""Exit codes, and the one place that says which error ends with which."""

from __future__ import annotations

import functools
import json
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ParamSpec

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

__all__ = ["INTERRUPTED", "OUTPUT_CLOSED", "ExitCode", "exit_code", "guarded", "note", "plain", "print_json"]

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
    BEYOND_LIMITS = 6
    UNDECIDED = 7
    NOT_PASSED = 8


MEANINGS = {
    ExitCode.OK: "it worked",
    ExitCode.UNEXPECTED: "something unexpected: a bug in attune",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.CONFIGURATION: "the configuration, the ledger or another of attune's files is wrong",
    ExitCode.NO_ANSWER: "no candidate could answer",
    ExitCode.CREDENTIALS: "no credential could pay: none is there, it was refused or is out of money",
    ExitCode.BEYOND_LIMITS: "a policy is proven to be beyond the limits that were given",
    ExitCode.UNDECIDED: "what is in the ledger does not decide the question",
    ExitCode.NOT_PASSED: "an answer came, but it did not pass its validation",
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
    """The exit code of an error; when all attempts of a call failed, what they have in common.

    That there was no candidate at all, not even one to drop, is for want of a credential, too.
    """
    if isinstance(error, AllProvidersFailedError):
        codes = {exit_code(attempt) for attempt in error.attempts}
        return codes.pop() if codes == {ExitCode.CREDENTIALS} else ExitCode.NO_ANSWER
    if isinstance(error, NoCandidateError) and (error.unpaid or not error.drops):
        return ExitCode.CREDENTIALS
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), ExitCode.UNEXPECTED)


def guarded(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose own errors become one line on standard error and an exit code.

    Where JSON is wanted (``--json`` in the arguments) the error is also printed as such.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except AttuneError as error:
            note(_said(error))
            if any(map(_wants_json, (*args, *kwargs.values()))):
                print_json({"error": _described(error)})
            return exit_code(error)

    return run


def _said(error: AttuneError) -> str:
    """The error, and by what id the ledger knows the call that it ended."""
    if not error.call_id:
        return str(error)
    which = f" (call {error.call_id})"
    return plain(str(error))[: MAX_LINE_CHARS - len(which)] + which


def print_json(value: Any) -> None:
    """A value as JSON with stable keys."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _wants_json(arguments: object) -> bool:
    """Whether parsed arguments, or a command line that could not be parsed, ask for JSON."""
    if isinstance(arguments, list | tuple):
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return "--json" in options
    return bool(getattr(arguments, "json", False))


def _described(error: AttuneError) -> dict[str, Any]:
    """An error for programs; ``retry_at`` is in UTC epoch seconds."""
    described: dict[str, Any] = {"type": type(error).__name__, "message": plain(str(error))}
    if isinstance(error, ProviderError):
        described |= {
            "error_class": error.error_class.value,
            "provider": error.provider,
            "model": error.model,
            "status": error.status,
            "retry_after": error.retry_after,
        }
    if isinstance(error, NoCandidateError):
        dropped = [{"candidate": candidate, "reason": plain(reason)} for candidate, reason in error.drops]
        described |= {"nearest": error.nearest, "lacks": error.lacks, "dropped": dropped}
    attempts = [_described(attempt) for attempt in getattr(error, "attempts", ())]
    described |= {"call_id": error.call_id} if error.call_id else {}
    return {**described, "attempts": attempts, "retry_at": getattr(error, "retry_at", None)}


def note(text: str) -> None:
    """One line for people on standard error."""
    print(f"attune: {plain(text)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """``text`` on one line, without control characters or anything like a key, and not without end."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * MAX_LINE_CHARS]).split())
    return redact(line)[:MAX_LINE_CHARS]
