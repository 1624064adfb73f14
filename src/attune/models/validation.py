"""Whether an answer is good, by the caller's function, JSON schema or regular expression."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from attune.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.models.executor import LLMResponse

__all__ = ["PASSING_SCORE", "Validate", "Validator", "Verdict"]

PASSING_SCORE = 0.5
"""The lowest score that passes, where a validator gives nothing but a score."""

VALIDATOR_SECONDS = 60.0
"""The longest that a validator may take, within what is left of its call's time."""

_MAX_REASON_CHARS = 200


class Verdict(NamedTuple):
    """What a validator says of one answer: whether it will do, how good it is (0..1), and why not."""

    success: bool
    score: float
    reason: str = ""


Check: TypeAlias = "Callable[[LLMResponse], object]"
Validate: TypeAlias = "Validator | Check | Mapping[str, Any] | re.Pattern[str] | str"
"""What ``validate`` takes; see ``Validator``."""


class Validator:
    """Judges answers by ``validate``; made once, it may judge the answers of any number of calls.

    A function gets the ``LLMResponse`` of the attempt and returns true or false, a score from 0 to 1
    (``PASSING_SCORE`` passes) or a ``Verdict``. It may be a coroutine function; a plain one is called in a
    thread of its own, so that a slow one holds up nothing, and one that hangs does not keep the program from
    ending. A regular expression (compiled, or its text) has to match somewhere in the answer's text: begin it
    with ``\\A`` and end it with ``\\Z`` to match the whole. A JSON schema (a mapping) has to be followed by
    the text as a whole, read as JSON; nothing is fetched for a ``$ref``. Both are applied at once, in the
    event loop: an expression that backtracks without end holds it up, as it would in a thread.

    Raises ``InvalidRequestError`` for an expression or a schema that is none.
    """

    def __init__(self, validate: Validate) -> None:
        self._slow = False
        self._check: Check
        match validate:
            case Validator():
                self._slow, self._check = validate._slow, validate._check
            case str() | re.Pattern():
                self._check = _matches(validate)
            case Mapping():
                self._check = _follows(validate)
            case _ if callable(validate):
                self._slow, self._check = not inspect.iscoroutinefunction(validate), validate
            case _:
                raise InvalidRequestError(
                    "validate is a function, a JSON schema (a dict) or a regular expression, "
                    f"not {type(validate).__name__}"
                )

    async def judge(self, answer: LLMResponse, within_s: float) -> Verdict | str:
        """The verdict, or why there is none: the validator failed, or took longer than ``within_s`` (or
        ``VALIDATOR_SECONDS``). It is then cancelled; a plain function goes on to its end, unheard.
        """
        within_s = min(within_s, VALIDATOR_SECONDS)
        task = asyncio.ensure_future(self._ask(answer))
        try:
            await asyncio.wait({task}, timeout=within_s)
        finally:
            stopped = task.cancel()
        if stopped:
            return f"the validator took longer than {within_s:.1f} s"
        if task.cancelled():
            return "the validator was cancelled"
        error = task.exception()
        if error is not None:
            return _line(f"the validator failed: {type(error).__name__}: {error}")
        return task.result()

    async def _ask(self, answer: LLMResponse) -> Verdict:
        said = await _in_a_thread(self._check, answer) if self._slow else self._check(answer)
        return _verdict(await said if inspect.isawaitable(said) else said)


def _verdict(said: object) -> Verdict:
    verdict = said
    if isinstance(said, int | float):  # a bool is an int
        verdict = Verdict(said >= PASSING_SCORE, float(said))
    if not isinstance(verdict, Verdict) or not 0.0 <= verdict.score <= 1.0:
        raise InvalidRequestError(
            f"it returned {said!r}, and not true or false, a score from 0 to 1, or a Verdict"
        )
    return Verdict(bool(verdict.success), float(verdict.score), _line(verdict.reason))


def _line(text: str) -> str:
    return " ".join(str(text)[: 2 * _MAX_REASON_CHARS].split())[:_MAX_REASON_CHARS]


async def _in_a_thread(check: Check, answer: LLMResponse) -> object:
    """What a function returns or raises. Not one of a pool's threads: those are waited for at the end."""
    future: Future[object] = Future()
    future.set_running_or_notify_cancel()
    context = copy_context()

    def call() -> None:
        try:
            future.set_result(context.run(check, answer))
        except BaseException as error:  # noqa: BLE001  (the caller's own function: whatever it is, is told)
            future.set_exception(error)

    threading.Thread(target=call, name="attune-validator", daemon=True).start()
    return await asyncio.wrap_future(future)


def _matches(expression: re.Pattern[str] | str) -> Check:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InvalidRequestError(f"the regular expression {expression!r} is wrong: {error}") from None
    if not isinstance(pattern.pattern, str):
        raise InvalidRequestError("a regular expression for an answer is one of text, not of bytes")

    def check(answer: LLMResponse) -> Verdict:
        if pattern.search(answer.text):
            return Verdict(True, 1.0)
        return Verdict(False, 0.0, f"nothing in it matches {pattern.pattern}")

    return check


def _follows(schema: Mapping[str, Any]) -> Check:
    import json

    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(dict(schema), default=Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except SchemaError as error:
        raise InvalidRequestError(
            _line(f"the JSON schema is wrong at {error.json_path}: {error.message}")
        ) from None
    follows = kind(dict(schema), registry=Registry())  # the default one would fetch what a $ref names

    def check(answer: LLMResponse) -> Verdict:
        try:
            value = json.loads(answer.text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return Verdict(False, 0.0, "it is not JSON")
        for error in follows.iter_errors(value):
            return Verdict(False, 0.0, f"at {error.json_path}: {error.message}")
        return Verdict(True, 1.0)

    return check


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
